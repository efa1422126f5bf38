//! The processes of a VM, as the host sees them.
//!
//! ```text
//!   /proc/<pid>/stat: "pid (comm) state ppid ..."     every process of a VM descends from its init
//!   /proc/<pid>/status: NSpid: <host> ... <inside>
//! ```
//!
//! Invariant: names and arguments come from the VM and are only ever data.

use crate::groups::Shown;
use fvm_model::VmId;
use serde::Serialize;
use std::collections::HashMap;
use std::io::Read as _;

/// As much of a command line is shown.
const COMMAND_MAX_BYTES: u64 = 4096;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// Its number in the VM.
    pub inner_pid: i32,
    /// Its parent on the host.
    pub parent: i32,
    /// State letter, as in `ps`.
    pub state: char,
    /// Owner on the host.
    pub uid: u32,
    /// Command line; its short name in brackets when it has none.
    pub command: String,
}

/// All processes of a VM below its `init` (itself excluded), by inner number.
#[must_use]
pub fn processes(id: &VmId, init: i32) -> Vec<Process> {
    let mut found: Vec<Process> = below(&Shown::of(id), init).into_iter().filter_map(read).collect();
    found.sort_by_key(|p| p.inner_pid);
    found
}

/// Their numbers alone: nothing of theirs is read.
#[must_use]
pub fn ids(id: &VmId, init: i32) -> Vec<i32> {
    below(&Shown::of(id), init)
}

/// The numbers of all processes below `init`: what its control groups say, where it has some. Otherwise all of the host's are looked
/// at, which may be thousands.
pub(crate) fn below(groups: &Shown<'_>, init: i32) -> Vec<i32> {
    match groups.members(init) {
        Some(all) => all.into_iter().filter(|pid| *pid != init).collect(),
        None => descendants(init),
    }
}

/// The numbers of all processes below `init`. Nothing of theirs is read that they could make wait: their arguments lie in
/// their memory.
pub(crate) fn descendants(init: i32) -> Vec<i32> {
    let mut by_parent: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // A process that ended meanwhile is not one.
        let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, _, parent)) = parse_stat(&stat) else { continue };
        by_parent.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut queue = vec![init];
    while let Some(parent) = queue.pop() {
        let children = by_parent.remove(&parent).unwrap_or_default();
        queue.extend(&children);
        found.extend(children);
    }
    found
}

/// Whether a process is there and has not ended.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| parse_stat(&stat).is_some_and(|(_, state, _)| !matches!(state, 'Z' | 'X')))
}

fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (name, state, parent) = parse_stat(&stat)?;
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let (uid, inner_pid) = parse_status(&status)?;
    let mut arguments = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(COMMAND_MAX_BYTES).read_to_end(&mut arguments).ok()?;
    let command = match arguments.as_slice() {
        [] => format!("[{name}]"),
        bytes => {
            let words: Vec<_> =
                bytes.split(|b| *b == 0).filter(|w| !w.is_empty()).map(fvm_model::path::printable).collect();
            words.join(" ")
        }
    };
    Some(Process { pid, inner_pid, parent, state, uid, command })
}

/// (name, state, parent) of a `/proc/<pid>/stat`. The name may hold anything, parentheses too.
pub(crate) fn parse_stat(bytes: &[u8]) -> Option<(String, char, i32)> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let name = fvm_model::path::printable(bytes.get(open + 1..close)?);
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    Some((name, fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// (real uid, innermost pid) of a `/proc/<pid>/status`.
fn parse_status(bytes: &[u8]) -> Option<(u32, i32)> {
    let field = |key: &[u8]| {
        let line = bytes.split(|b| *b == b'\n').find(|line| line.starts_with(key))?;
        std::str::from_utf8(&line[key.len()..]).ok()
    };
    let uid = field(b"Uid:")?.split_ascii_whitespace().next()?.parse().ok()?;
    // Who has but one number is the host's: a process that builds the VM is in its control groups for a moment.
    let inner = field(b"NSpid:")?.split_ascii_whitespace().skip(1).last()?.parse().ok()?;
    Some((uid, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_made_to_confuse_is_read_whole() {
        let stat = b"7 (a) S 1 (b)) R 3 4 5";
        assert_eq!(parse_stat(stat), Some(("a) S 1 (b)".into(), 'R', 3)));
        assert_eq!(parse_status(b"Name:\tx\nUid:\t1000\t1000\nNSpid:\t70\t7\n"), Some((1000, 7)));
        for junk in [&b""[..], b"(", b")(", b"1 () ", b"1 (x) S"] {
            assert_eq!(parse_stat(junk), None);
        }
    }
}
