//! What the VM's side holds of the sockets to its keeper, and what it says there.
//!
//! ```text
//!   orders   init ◄── keeper
//!   report   builder, init ──► keeper: Progress, which wakes it
//!   notes    builder, init ──► an eventfd: init's number, BEGINS; read when it is wanted
//! ```
//!
//! Invariant: nothing of the VM's programs ever has one of them.

use super::Progress;
use crate::executor::StepError;
use fvm_sys::{process, socket};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::process::Pid;

/// The ends of the sockets that the VM's side uses.
pub(crate) struct Ends {
    pub orders: OwnedFd,
    pub report: OwnedFd,
    /// An eventfd. The builder writes init's number there as soon as it has it, and init [`BEGINS`]: nobody is woken by that who is needed.
    pub notes: OwnedFd,
}

/// The first program may begin from now on. No number of a process has this bit.
pub(super) const BEGINS: u64 = 1 << 32;

impl Ends {
    pub fn tell(&self, progress: &Progress) {
        tell(&self.report, progress, &[]);
    }

    /// What whoever builds the VM keeps open.
    pub fn as_raw_fds(&self) -> [RawFd; 3] {
        [&self.orders, &self.report, &self.notes].map(AsRawFd::as_raw_fd)
    }

    /// Notes who init is, for whoever asks.
    pub fn note(&self, init: Pid) {
        self.add(u64::from(init.as_raw_nonzero().get().unsigned_abs()));
    }

    /// Notes that the first program is about to begin: a signal that comes from now on is the program's.
    pub fn note_begin(&self) {
        self.add(BEGINS);
    }

    fn add(&self, note: u64) {
        // It always fits.
        let _gone = rustix::io::write(&self.notes, &note.to_ne_bytes());
    }

    pub fn give_up(&self, error: StepError) -> ! {
        self.tell(&Progress::Failed(error));
        process::exit_now(1)
    }
}

pub(crate) fn tell(report: &OwnedFd, progress: &Progress, fds: &[BorrowedFd<'_>]) {
    // The keeper is the only listener; if it is gone, this process dies with it.
    let bytes = serde_json::to_vec(progress).unwrap_or_default();
    let _gone = socket::send(report, &bytes, fds);
}
