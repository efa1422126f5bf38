//! Ctrl-C while the host is being changed: heard, not obeyed in the middle.
//!
//! Invariant: while an [`Interrupts`] lives, the signals are held back in this thread and those it starts; before the
//! commit point they stop the commit, after it they change nothing.

use fvm_commit::Watch;
use fvm_sys::process::{ignores_signal, next_signal, signal_fd, unblock_signals};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// SIGHUP, SIGINT, SIGTERM.
const SIGNALS: [i32; 3] = [1, 2, 15];

/// Holds the signals back that would end the process.
#[derive(Debug)]
pub struct Interrupts {
    /// Those that it does not ignore: they would come here, too.
    signals: Vec<i32>,
    fd: Option<OwnedFd>,
    heard: bool,
}

impl Interrupts {
    /// From now on.
    #[must_use]
    pub fn hold() -> Self {
        let signals: Vec<i32> = SIGNALS.into_iter().filter(|signal| !ignores_signal(*signal)).collect();
        Self { fd: signal_fd(&signals).ok(), signals, heard: false }
    }

    /// Whether one came.
    pub fn heard(&mut self) -> bool {
        if let Some(fd) = &self.fd {
            while let Ok(Some(_)) = next_signal(fd) {
                self.heard = true;
            }
        }
        self.heard
    }
}

impl Interrupts {
    /// Readable when one came that was not yet [`Interrupts::heard`]; `None`: there are no more descriptors.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

impl Watch for Interrupts {
    fn go_on(&mut self, done: usize, total: usize) -> bool {
        // A look now and then is enough.
        !(done.is_multiple_of(64) || done == total) || !self.heard()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        unblock_signals(&self.signals);
    }
}
