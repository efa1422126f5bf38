//! What init has ready before its VM is there.
//!
//! ```text
//!   builder   mounts ...................... go ─┐ stays until the first program is on its way
//!   init      network, then this, waits ........└─► its own mounts, /proc, pivot_root, filter ─► the first program
//! ```
//!
//! Invariant: nothing here is of the VM's: no file of it is looked at.

use crate::proto::{self, Order};
use fvm_sys::exec::Stub;
use fvm_sys::process;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::Signal;

/// See the module.
#[derive(Debug)]
pub struct Early {
    /// Readable when a child has ended.
    pub signals: OwnedFd,
    /// By which programs are executed; made anew for each when it could not be made.
    pub stub: Option<Stub>,
    /// The order that lay there, with its descriptors.
    pub first: Option<(Order, Vec<OwnedFd>)>,
    /// While it is open the builder stays.
    pub builder: Option<OwnedFd>,
}

impl Early {
    /// Makes the calling process init's: no terminal of the host's, whatever the keeper's session was, and the default signal
    /// actions, which all that it starts inherits. `has_first`: an order lies in `orders`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prepare(orders: &OwnedFd, has_first: bool) -> Result<Self, Errno> {
        let _already_leader = rustix::process::setsid();
        process::default_signals();
        let signals = process::signal_fd(&[Signal::CHILD.as_raw()])?;
        let first = if has_first { proto::read_message(orders)? } else { None };
        Ok(Self { signals, stub: Stub::new().ok(), first, builder: None })
    }

    /// What must stay open.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> {
        let passed = self.first.iter().flat_map(|(_, fds)| fds).chain(&self.builder).map(AsRawFd::as_raw_fd);
        passed.chain(self.stub.as_ref().map(AsRawFd::as_raw_fd)).chain([self.signals.as_raw_fd()])
    }
}
