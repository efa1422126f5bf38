//! Which programs the kernel killed for want of memory, by its own log.
//!
//! ```text
//!   6,1234,5678901,-;oom-kill:constraint=CONSTRAINT_MEMCG,...,task_memcg=/fvm/<id>,task=python3,pid=42,uid=0
//! ```
//!
//! Invariants: the log is a convenience: without it a number is told, without names; a program's name is its own word and is
//! escaped; what is read is bounded by the kernel's buffer.

use fvm_model::VmId;
use fvm_model::path::printable;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

/// More records than any kernel's log has.
const RECORDS_MAX: usize = 1 << 20;
/// As many names are told.
const NAMES_MAX: usize = 5;

/// The names of the last `count` processes of a VM's that were killed, in words: `python3, sh`. Empty where nothing is known.
#[must_use]
pub fn names(id: &VmId, count: u64) -> String {
    let Ok(log) = fs::open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) else {
        return String::new();
    };
    let mut found = Vec::new();
    // A record is never longer (CONSOLE_EXT_LOG_MAX in kernel/printk/printk.c).
    let mut record = [0u8; 8192];
    for _ in 0..RECORDS_MAX {
        match rustix::io::read(&log, &mut record[..]) {
            Ok(len @ 1..) => found.extend(victim(&record[..len], id)),
            // Overwritten meanwhile: the next is another.
            Err(Errno::PIPE | Errno::INTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    in_words(&found[found.len().saturating_sub(count)..])
}

fn in_words(names: &[String]) -> String {
    let mut once: Vec<&str> = Vec::new();
    for name in names.iter().filter(|name| !name.is_empty()) {
        if !once.contains(&name.as_str()) {
            once.push(name);
        }
    }
    let more = once.len().saturating_sub(NAMES_MAX);
    once.truncate(NAMES_MAX);
    let shown = once.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} others") }
}

/// Whom a record of the log is about, if it is a kill in the group of `id`.
fn victim(record: &[u8], id: &VmId) -> Option<String> {
    let line = record.split(|b| *b == b'\n').next()?;
    let text = &line[line.iter().position(|b| *b == b';')? + 1..];
    let text = text.strip_prefix(b"oom-kill:")?;
    let group = format!(",task_memcg=/fvm/{id},task=");
    let at = text.windows(group.len()).position(|part| part == group.as_bytes())?;
    let rest = &text[at + group.len()..];
    // The name may hold a comma, what follows it not.
    let end = rest.windows(5).rposition(|part| part == b",pid=")?;
    Some(printable(&rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_in_the_group_of_a_vm_are_found_by_name() {
        let id: VmId = "6aa791d364db".parse().unwrap();
        let record = |group: &str, task: &str| {
            format!(
                "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/fvm/6aa791d364db,\
                 task_memcg={group},task={task},pid=16534,uid=1073741824\n SUBSYSTEM=x\n"
            )
        };
        let found = |text: &str| victim(text.as_bytes(), &id);
        assert_eq!(found(&record("/fvm/6aa791d364db", "python3")).as_deref(), Some("python3"));
        assert_eq!(found(&record("/fvm/6aa791d364db", "a,pid=1\\x1b")).as_deref(), Some("a,pid=1\\\\x1b"));
        assert_eq!(found(&record("/fvm/000000000000", "python3")), None);
        assert_eq!(found(&record("/fvm/6aa791d364db", "x").replace("oom-kill:", "said: oom-kill:")), None);
        for odd in ["", ";", "oom-kill:", "6;oom-kill:,task_memcg=/fvm/6aa791d364db,task="] {
            assert_eq!(found(odd), None);
        }
    }

    #[test]
    fn each_name_is_told_once_and_not_too_many() {
        let names = |all: &[&str]| in_words(&all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(names(&["a", "b", "a", ""]), "a, b");
        assert_eq!(names(&["1", "2", "3", "4", "5", "6", "7"]), "1, 2, 3, 4, 5 and 2 others");
        assert_eq!(names(&[]), "");
    }
}
