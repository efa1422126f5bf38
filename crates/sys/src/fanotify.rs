//! `fanotify(7)`: permission events of single files. rustix lacks it.
//!
//! ```text
//!   Group::new ─► mark(path) ─► next ─► Asked { file, tid, what }    the thread waits
//!                                        └─ answer(allow | refuse)   it goes on
//!   the group's descriptor closes, however that comes: every thread that waits goes on, allowed
//! ```
//!
//! Invariants: only files are marked, never a mount or a file system: what nobody marked costs nothing and cannot wait. A
//! process with a group starts no other: a child has the group's descriptor until it has executed something, and could wait for
//! itself.

use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `linux/fanotify.h`.
const FAN_CLOEXEC: u32 = 0x1;
const FAN_NONBLOCK: u32 = 0x2;
const FAN_CLASS_CONTENT: u32 = 0x4;
const FAN_UNLIMITED_QUEUE: u32 = 0x10;
const FAN_UNLIMITED_MARKS: u32 = 0x20;
const FAN_REPORT_TID: u32 = 0x100;
const FAN_MARK_ADD: u32 = 0x1;
const FAN_MARK_REMOVE: u32 = 0x2;
const FAN_OPEN_PERM: u64 = 0x1_0000;
const FAN_OPEN_EXEC_PERM: u64 = 0x4_0000;
const FAN_Q_OVERFLOW: u64 = 0x4000;
const FAN_ALLOW: u32 = 1;
const FAN_DENY: u32 = 2;
const VERSION: u8 = 3;

/// What is asked about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// That it is executed.
    Exec,
    /// That, and that it is opened.
    ExecAndOpen,
}

impl Kinds {
    fn mask(self) -> u64 {
        match self {
            Self::Exec => FAN_OPEN_EXEC_PERM,
            Self::ExecAndOpen => FAN_OPEN_EXEC_PERM | FAN_OPEN_PERM,
        }
    }
}

/// A thread that waits.
#[derive(Debug)]
pub struct Asked {
    /// The file, open for reading; names the event in the answer.
    pub file: OwnedFd,
    /// The thread, as the reader's `/proc` numbers it.
    pub tid: i32,
    /// It executes the file; otherwise it opens it, for whatever purpose.
    pub executes: bool,
}

/// A group of marks, and the threads that wait because of them.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl Group {
    /// A group without marks. Needs `CAP_SYS_ADMIN` in the first user namespace.
    ///
    /// # Errors
    /// The kernel's: `EPERM`, `ENOSYS` or `EINVAL` where it has no permission events.
    pub fn new() -> Result<Self, Errno> {
        let flags =
            FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_CONTENT | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_REPORT_TID;
        let of_events = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOATIME;
        // SAFETY: fanotify_init takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_fanotify_init, flags, of_events) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(crate::last_errno)?;
        // SAFETY: it is a new descriptor, which nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// From now on, threads that execute (or open) the file wait for an answer. `path` may be a magic link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mark(&self, path: &Path, kinds: Kinds) -> Result<(), Errno> {
        self.set(FAN_MARK_ADD, path, kinds.mask())
    }

    /// From now on they do not.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` when it was not marked.
    pub fn unmark(&self, path: &Path) -> Result<(), Errno> {
        self.set(FAN_MARK_REMOVE, path, Kinds::ExecAndOpen.mask())
    }

    fn set(&self, how: u32, path: &Path, mask: u64) -> Result<(), Errno> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
        let fd = self.0.as_raw_fd();
        // SAFETY: the path is NUL-terminated and lives past the call; all else are numbers.
        match unsafe { libc::fanotify_mark(fd, how, mask, libc::AT_FDCWD, path.as_ptr()) } {
            0 => Ok(()),
            _ => Err(crate::last_errno()),
        }
    }

    /// The threads that wait, a few at a time; none when nobody does. The descriptor of the group polls readable when one does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next(&self) -> Result<Vec<Asked>, Errno> {
        const LEN: usize = size_of::<libc::fanotify_event_metadata>();
        let mut buffer = [0u8; 64 * LEN];
        let len = match rustix::io::read(&self.0, &mut buffer[..]) {
            Ok(len) => len,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut asked = Vec::new();
        let mut rest = &buffer[..len];
        while rest.len() >= LEN {
            // SAFETY: there are that many bytes, any of which make one; it need not be aligned.
            let event: libc::fanotify_event_metadata = unsafe { std::ptr::read_unaligned(rest.as_ptr().cast()) };
            let event_len = usize::try_from(event.event_len).unwrap_or(0);
            if event.vers != VERSION || event_len < LEN || event_len > rest.len() {
                return Err(Errno::PROTO);
            }
            rest = &rest[event_len..];
            if event.fd >= 0 && event.mask & FAN_Q_OVERFLOW == 0 {
                // SAFETY: the kernel made that descriptor for this event, and nobody else has it.
                let file = unsafe { OwnedFd::from_raw_fd(event.fd) };
                asked.push(Asked { file, tid: event.pid, executes: event.mask & FAN_OPEN_EXEC_PERM != 0 });
            }
        }
        Ok(asked)
    }

    /// Lets the thread go on that waits for an answer about the event with this descriptor, which must still be open.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` when it does not wait any more.
    pub fn answer(&self, file: RawFd, allow: bool) -> Result<(), Errno> {
        let mut response = [0; 8];
        response[..4].copy_from_slice(&file.to_ne_bytes());
        response[4..].copy_from_slice(&(if allow { FAN_ALLOW } else { FAN_DENY }).to_ne_bytes());
        rustix::io::write(&self.0, &response).map(drop)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Child, Command, Stdio};

    /// A kernel without permission events says so here.
    fn group() -> Option<Group> {
        Group::new().inspect_err(|e| eprintln!("skipped: no fanotify permission events here: {e}")).ok()
    }

    #[test]
    fn root_an_exec_waits_for_its_answer_and_goes_on_when_the_group_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("true");
        // Another process writes it: no child of this one may have it open for writing when it is executed.
        assert!(Command::new("cp").args(["/bin/true".as_ref(), program.as_os_str()]).status().unwrap().success());
        // They are there before the group: a child has its descriptors until it has executed something.
        let waiting = || {
            let mut shell = Command::new("sh");
            shell.args(["-c", "read _; exec \"$0\""]).arg(&program).stdin(Stdio::piped()).stderr(Stdio::null());
            shell.spawn().unwrap()
        };
        let [mut refused, mut allowed, mut left] = [waiting(), waiting(), waiting()];
        let Some(group) = group() else { return };
        group.mark(&program, Kinds::Exec).unwrap();
        let start = |child: &mut Child| {
            child.stdin.take().unwrap().write_all(b"\n").unwrap();
            loop {
                if let Some(asked) = group.next().unwrap().pop() {
                    return asked;
                }
                std::thread::yield_now();
            }
        };
        let asked = start(&mut refused);
        assert!(asked.executes);
        group.answer(asked.file.as_raw_fd(), false).unwrap();
        assert!(!refused.wait().unwrap().success());
        let asked = start(&mut allowed);
        group.answer(asked.file.as_raw_fd(), true).unwrap();
        assert!(allowed.wait().unwrap().success());
        let _unanswered = start(&mut left);
        drop(group);
        assert!(left.wait().unwrap().success());
    }
}
