//! What `/proc` of the tracer says of a process of the VM.
//!
//! Invariants: texts that a process chose (its name) are never taken for the kernel's; every read is bounded; a process that is
//! gone, or may not be looked at, gives less, never something else.

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

/// `/proc/<pid>/stat`, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// The name that it gives itself.
    pub comm: Vec<u8>,
    /// Its parent now.
    pub ppid: i32,
    /// Threads.
    pub threads: u32,
    /// When it began, in clock ticks since the machine did.
    pub start_ticks: u64,
    /// Where its stack and its arguments begin: others after each execution. 0 for whoever may not trace it.
    pub image: (u64, u64),
    /// It is a fork that has executed nothing.
    pub never_executed: bool,
}

/// What `/proc/<pid>/exe` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// It is this file.
    At(Vec<u8>),
    /// It may not be looked at.
    Hidden,
    /// Its path is longer than the kernel says, or there is none.
    Nameless,
}

/// `/proc/<pid>/status`, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The process that a thread belongs to.
    pub tgid: i32,
    /// Its effective user, as the tracer sees it.
    pub uid: u32,
    /// Its numbers, from the tracer's process namespace inwards.
    pub numbers: Vec<u32>,
    /// Those of the leader of its session.
    pub sessions: Vec<u32>,
}

/// `PF_FORKNOEXEC` of the kernel's `include/linux/sched.h`, in the ninth field.
const FORKED_ONLY: u64 = 0x40;

/// Reads `stat`.
#[must_use]
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    // The name can hold anything: what follows it is counted from its end.
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let comm = bytes.get(open + 1..close)?.to_vec();
    let fields: Vec<&str> = std::str::from_utf8(bytes.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
    // The third field is the first one here.
    let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    Some(Stat {
        comm,
        ppid: i32::try_from(field(4)?).ok()?,
        threads: u32::try_from(field(20)?).ok()?,
        start_ticks: field(22)?,
        image: (field(28).unwrap_or(0), field(48).unwrap_or(0)),
        never_executed: field(9).is_some_and(|flags| flags & FORKED_ONLY != 0),
    })
}

/// Reads `status`.
#[must_use]
pub fn parse_status(bytes: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    for line in bytes.split(|b| *b == b'\n') {
        let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else { continue };
        let mut numbers = value.split_ascii_whitespace().map_while(|n| n.parse::<u32>().ok());
        match key {
            "Tgid" => status.tgid = i32::try_from(numbers.next()?).ok()?,
            // Real, effective, saved, file system.
            "Uid" => status.uid = numbers.nth(1)?,
            "NStgid" => {}
            "NSpid" => status.numbers = numbers.collect(),
            "NSsid" => status.sessions = numbers.collect(),
            _ => {}
        }
    }
    (status.tgid != 0 && !status.numbers.is_empty()).then_some(status)
}

/// A file below `/proc`.
#[must_use]
pub fn read(path: &str, max: usize) -> Option<Vec<u8>> {
    let file = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = vec![0; max];
    let mut len = 0;
    while len < max {
        match rustix::io::read(&file, &mut bytes[len..]).ok()? {
            0 => break,
            more => len += more,
        }
    }
    bytes.truncate(len);
    Some(bytes)
}

/// `stat` of a process.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&read(&format!("/proc/{pid}/stat"), 2048)?)
}

/// `status` of a thread.
#[must_use]
pub fn status(tid: i32) -> Option<Status> {
    parse_status(&read(&format!("/proc/{tid}/status"), 4096)?)
}

/// Where a link below `/proc/<pid>` leads.
#[must_use]
pub fn link(pid: i32, name: &str) -> Option<Vec<u8>> {
    let target = fs::readlink(format!("/proc/{pid}/{name}"), Vec::with_capacity(256)).ok()?;
    Some(target.into_bytes())
}

/// The program of a process.
#[must_use]
pub fn program(pid: i32) -> Program {
    match fs::readlink(format!("/proc/{pid}/exe"), Vec::with_capacity(256)) {
        Ok(target) => Program::At(target.into_bytes()),
        Err(Errno::ACCESS | Errno::PERM) => Program::Hidden,
        Err(_) => Program::Nameless,
    }
}

/// The processes that a process made, if that can be known.
#[must_use]
pub fn children(pid: i32, threads: u32) -> Vec<i32> {
    /// So many are asked for their children, and so much of each answer is read.
    const THREADS_MAX: usize = 512;
    const ANSWER_MAX: usize = 16 << 10;
    let of = |tid: i32| {
        let text = read(&format!("/proc/{pid}/task/{tid}/children"), ANSWER_MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>()
    };
    if threads <= 1 {
        return of(pid);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = fs::open(format!("/proc/{pid}/task"), flags, Mode::empty()) else { return Vec::new() };
    let Ok(entries) = fs::Dir::read_from(dir) else { return Vec::new() };
    let tids = entries.filter_map(|e| e.ok()?.file_name().to_str().ok()?.parse().ok());
    tids.take(THREADS_MAX).flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_other_fields() {
        let text = b"42 (a) b) R 1) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 987 1 2 3 4 5 6000 7 8 9 10 11 12 13 14 15 16 17 0 0 0 18 19 20 21 22 7000 24 25 26 0\n";
        // Field 9 is 4194304: forked, and not only that.
        let (comm, image, never_executed) = (b"a) b) R 1".to_vec(), (6000, 7000), false);
        let want = Stat { comm, ppid: 7, threads: 3, start_ticks: 987, image, never_executed };
        assert_eq!(parse_stat(text), Some(want));
        for bad in [&b""[..], b"1 (a", b"1 (a) S", b")(", b"1 (a) S x 1 1"] {
            assert_eq!(parse_stat(bad), None);
        }
    }

    #[test]
    fn a_thread_knows_its_process_and_its_numbers() {
        let text =
            b"Name:\tx\\nTgid:\t9\nTgid:\t42\nUid:\t0\t1000\t0\t0\nNStgid:\t42\t7\nNSpid:\t43\t8\nNSsid:\t40\t5\n";
        let want = Status { tgid: 42, uid: 1000, numbers: vec![43, 8], sessions: vec![40, 5] };
        assert_eq!(parse_status(text), Some(want));
        assert_eq!(parse_status(b"Name:\tx\n"), None);
    }

    #[test]
    fn this_process_is_found() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(status(own).unwrap().tgid, own);
        assert!(stat(own).unwrap().start_ticks > 0);
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let threads = stat(own).unwrap().threads;
        assert!(children(own, threads.max(2)).contains(&i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
