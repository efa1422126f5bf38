//! Work that goes on when the command has answered.
//!
//! ```text
//!   behind            fork ─► work
//!   Cleaner::ahead    fork ─► waits ── begin, and the command has ended ─► work     made while there is time
//!                                └──── dropped ─► killed
//! ```
//!
//! Invariant: such a process keeps no descriptor but those that its work needs.

use crate::error::VmError;
use crate::launch::collect;
use fvm_sys::process::{self, Fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, kill_process, pidfd_open};

/// Does `work` in a process of its own, which keeps `fds` and nothing else of this one; here and now if this process has
/// several threads.
pub fn behind(fds: &[RawFd], work: impl FnOnce() -> Result<(), VmError>) -> Result<(), VmError> {
    if !process::has_one_thread() {
        return work();
    }
    fork(fds, work).map(drop)
}

/// A process that waits for its work.
#[derive(Debug)]
pub struct Cleaner {
    pid: Pid,
    word: Option<OwnedFd>,
}

impl Cleaner {
    /// Makes it. It keeps `fds` and nothing else of this process.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn ahead(fds: &[RawFd], work: impl FnOnce() -> Result<(), VmError>) -> Result<Self, VmError> {
        let (waits, word) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| VmError::Sys("make a pipe", e))?;
        let fds = [fds, &[waits.as_raw_fd()]].concat();
        let parent = getpid();
        let pid = fork(&fds, || {
            // Woken by the word, or by the end of a pipe, it would take a processor from its parent, for whose end somebody waits: that of
            // the whole process is told last.
            let ended = pidfd_open(parent, PidfdFlags::empty());
            if let Some(ended) = ended.ok().filter(|_| getppid() == Some(parent)) {
                let _ended = poll(&mut [PollFd::new(&ended, PollFlags::IN)], None);
            }
            match rustix::io::read(&waits, &mut [0u8][..]) {
                Ok(1) => work(),
                // It was killed.
                _ => Ok(()),
            }
        })?;
        Ok(Self { pid, word: Some(word) })
    }

    /// Has it do its work when this process has ended; false when it is gone.
    #[must_use]
    pub fn begin(mut self) -> bool {
        self.word.take().is_some_and(|word| rustix::io::write(word, b"!") == Ok(1))
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        // One that is to work is nobody's any more.
        if self.word.take().is_some() {
            let _already_gone = kill_process(self.pid, Signal::KILL);
            collect(self.pid);
        }
    }
}

fn fork(fds: &[RawFd], work: impl FnOnce() -> Result<(), VmError>) -> Result<Pid, VmError> {
    match process::fork().map_err(|e| VmError::Sys("start a cleaner", e))? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let _leader = rustix::process::setsid();
            // Nobody may wait for our end of their pipe.
            if let Ok(null) = fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
                for target in 0..3 {
                    let _still_open = process::install_stdio(null.as_raw_fd(), target);
                }
            }
            process::close_all_but(fds);
            process::exit_now(i32::from(work().is_err()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::time::{Duration, Instant};

    #[test]
    fn a_cleaner_works_when_its_parent_has_ended_and_only_if_it_was_told_to() {
        let done = std::env::temp_dir().join(format!("fvm-cleaner-{}", std::process::id()));
        for told in [true, false] {
            let _left = std::fs::remove_file(&done);
            let parent = process::in_child(|| {
                let work = || std::fs::write(&done, "").map_err(|e| VmError::io("write", &done, &e));
                let cleaner = Cleaner::ahead(&[], work).map_err(|_| Errno::CHILD)?;
                if told && !cleaner.begin() {
                    return Err(Errno::PIPE);
                }
                std::thread::sleep(Duration::from_millis(100));
                if done.exists() { Err(Errno::EXIST) } else { Ok(()) }
            });
            assert_eq!(parent, Ok(()), "{told}");
            let limit = Duration::from_millis(if told { 20_000 } else { 300 });
            let began = Instant::now();
            while !done.exists() && began.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(done.exists(), told);
        }
        std::fs::remove_file(&done).unwrap_or_default();
    }
}
