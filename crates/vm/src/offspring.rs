//! Copies of this process that do one thing: for whoever must not, or cannot, do it in a process of their own.
//!
//! ```text
//!   parent ── fork ──► offspring: a session of its own, these streams, these descriptors, no signal blocked
//!      │                 │ work
//!      │◄── pidfd ───────┘ exit
//!      └ dies: the offspring gets the signal that it was started with
//! ```
//!
//! Invariants: forked by a process with one thread only, so that the copy may do anything; it never returns into the parent's
//! code, not even by a panic; it has no descriptor of the parent's but those it was given.

use crate::error::VmError;
use crate::launch;
use fvm_sys::process::{self, Fork, Waited};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// What a copy of this process is given.
#[derive(Debug)]
pub struct Birth<'a> {
    /// What it shows as its command line.
    pub title: &'a str,
    /// Its three streams; `None`: nothing.
    pub streams: [Option<BorrowedFd<'a>>; 3],
    /// The other descriptors that it keeps.
    pub keep: &'a [RawFd],
    /// The signal that it gets when its parent dies.
    pub orphaned: Signal,
}

/// A child of this process. Collected when dropped, if it has ended by then.
#[derive(Debug)]
pub struct Offspring {
    pid: Pid,
    pidfd: OwnedFd,
    is_collected: bool,
}

impl Offspring {
    /// Forks one that does `body` and ends with the code that it returns.
    ///
    /// # Errors
    /// [`VmError::Threads`]; the kernel's.
    pub fn start(birth: &Birth<'_>, body: impl FnOnce() -> i32) -> Result<Self, VmError> {
        if !process::has_one_thread() {
            return Err(VmError::Threads("start another process"));
        }
        let failed = |e| VmError::Sys("start another process", e);
        let parent = rustix::process::getpid();
        match process::fork().map_err(failed)? {
            Fork::Parent(pid) => {
                // It is not collected yet, so the number is still its own.
                let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
                Ok(Self { pid, pidfd, is_collected: false })
            }
            Fork::Child => {
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _cannot_fail = rustix::process::set_parent_process_death_signal(Some(birth.orphaned));
                    // It died before that.
                    if rustix::process::getppid() != Some(parent) || begin(birth).is_err() {
                        return 1;
                    }
                    body()
                }));
                process::exit_now(done.unwrap_or(101));
            }
        }
    }

    /// Sends it a signal; nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ended = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Its exit code once it has ended, 128+n by signal n; `None` while it has not.
    pub fn collect(&mut self) -> Option<i32> {
        let pid = self.pid.as_raw_nonzero().get();
        if self.is_collected {
            return None;
        }
        let code = match process::wait_nonblocking(pid, false) {
            Ok(None) => return None,
            Ok(Some((_, Waited::Exited(code)))) => code,
            Ok(Some((_, Waited::Signaled(signal) | Waited::Stopped(signal)))) => 128 + signal,
            // Somebody else collected it: all that is known is that it is gone.
            Err(_) => 1,
        };
        self.is_collected = true;
        Some(code)
    }

    /// Waits until it has ended; its exit code.
    pub fn wait(&mut self) -> i32 {
        loop {
            if let Some(code) = self.collect() {
                return code;
            }
            if self.is_collected {
                return 1;
            }
            let _again = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None);
        }
    }
}

impl AsFd for Offspring {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Offspring {
    fn drop(&mut self) {
        let _or_later = self.collect();
    }
}

fn begin(birth: &Birth<'_>) -> Result<(), Errno> {
    let _leader = rustix::process::setsid();
    process::default_signals();
    // Who writes to whom nobody listens any more is told so, not ended.
    process::ignore_signal(Signal::PIPE.as_raw());
    launch::hide_command(birth.title);
    let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // First away from 0 to 2: one stream may be another's number.
    let above = |fd: &Option<BorrowedFd<'_>>| {
        rustix::io::fcntl_dupfd_cloexec(fd.as_ref().map_or(null.as_fd(), BorrowedFd::as_fd), 3)
    };
    let streams = birth.streams.iter().map(above).collect::<Result<Vec<_>, _>>()?;
    for (fd, target) in streams.iter().zip(0..) {
        process::install_stdio(fd.as_raw_fd(), target)?;
    }
    drop((streams, null));
    process::close_all_but(birth.keep);
    Ok(())
}
