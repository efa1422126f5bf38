//! What a process that was forked and never exec'ed shows as its command line.
//!
//! ```text
//!   /proc/PID/cmdline  ◄── the process's memory, arg_start .. arg_end ── "fvm run --policy /home/me/..."
//!                                                        becomes ──────► "fvm: init\0\0\0..."
//! ```
//!
//! This is the long way, for a process whose arguments do not lie where libc says ([`fvm_sys::title`]).
//!
//! Invariants: the command that forked a VM is the host's business: anyone in the VM can read its process 1's command line.

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

/// Replaces the command line of the calling process, which keeps its length. `/proc` must show it, and it must be
/// dumpable still.
///
/// # Errors
/// The kernel's; [`Errno::INVAL`] when `/proc/self/stat` is not as proc(5) says.
pub(crate) fn set(title: &str) -> Result<(), Errno> {
    let stat = open("/proc/self/stat", OFlags::RDONLY)?;
    let mut bytes = [0u8; 2048];
    let len = rustix::io::read(&stat, &mut bytes)?;
    let (start, len) = arguments(&bytes[..len]).ok_or(Errno::INVAL)?;
    let memory = open("/proc/self/mem", OFlags::WRONLY)?;
    rustix::io::pwrite(&memory, &line(title, len), start).map(drop)
}

fn open(path: &str, flags: OFlags) -> Result<rustix::fd::OwnedFd, Errno> {
    fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Where the arguments are, and how many bytes: fields 48 and 49 of proc(5)'s `stat`.
fn arguments(stat: &[u8]) -> Option<(u64, usize)> {
    // The second field, a name in parentheses, can hold anything: the fields after it are counted from its end.
    let after = stat.iter().rposition(|&b| b == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().skip(48 - 3);
    let start: u64 = fields.next()?.parse().ok()?;
    let end: u64 = fields.next()?.parse().ok()?;
    Some((start, usize::try_from(end.checked_sub(start)?).ok()?))
}

/// `title`, cut or filled with zeros; the last byte is zero, or the kernel would go on into the environment.
fn line(title: &str, len: usize) -> Vec<u8> {
    let mut line: Vec<u8> = title.bytes().take(len.saturating_sub(1)).collect();
    line.resize(len, 0);
    line
}

#[cfg(test)]
mod tests {
    use super::{arguments, line};

    #[test]
    fn fields_are_counted_behind_the_name() {
        let many = |n: u64| (3..=60).map(|i| format!(" {}", i * n)).collect::<String>();
        let stat = format!("7 (a) b c){}", many(10));
        assert_eq!(arguments(stat.as_bytes()), Some((480, 10)));
        assert_eq!(arguments(b"7 (short) R 1"), None);
        assert_eq!(arguments(b""), None);
    }

    #[test]
    fn the_line_keeps_its_length_and_ends() {
        assert_eq!(line("fvm", 5), b"fvm\0\0");
        assert_eq!(line("fvm: init", 4), b"fvm\0");
        assert_eq!(line("x", 0), b"");
    }
}
