//! How init of a root VM and its keeper, which makes the VM's network beside the mounts, reach each other.
//!
//! ```text
//!   keeper ── asks the router (crate::router::house) ──┐
//!     ▲   init ── its network namespace ──► keeper ────┴─ makes the link ──► "!" ──► init
//!     └─ does nothing else meanwhile: the builder mounts
//! ```
//!
//! Invariants: nothing that serves the network has rights over the host's; init sends nothing that helps it: the namespace
//! that it sends is its own, or its VM has no network. No program of the VM runs yet.

use super::house::{self, Line};
use super::{Guard, Plan, step};
use crate::executor::StepError;
use fvm_sys::socket;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::path::Path;

/// Init's end of the socket to its keeper.
#[derive(Debug)]
pub(crate) struct Helper {
    init: OwnedFd,
}

/// The keeper's.
#[derive(Debug)]
pub(crate) struct Maker {
    init: OwnedFd,
}

/// Both ends.
pub(crate) fn pair() -> Result<(Helper, Maker), Errno> {
    let (ours, init) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Helper { init }, Maker { init: ours }))
}

impl Helper {
    /// Init's descriptor, which it keeps until it is ready.
    pub fn as_raw_fd(&self) -> i32 {
        self.init.as_raw_fd()
    }

    /// In init, as soon as it is in its network namespace.
    pub fn begin(&self) -> Result<(), Errno> {
        let own = house::open(house::OWN)?;
        socket::send(&self.init, b"!", &[own.as_fd()])
    }

    /// In init: waits until its network is there. `false`: it could not be made, and that has been said.
    pub fn is_done(&self) -> bool {
        rustix::io::read(&self.init, &mut [0u8][..]) == Ok(1)
    }
}

impl Maker {
    /// In the keeper, which gave its copy of the other end away: makes the network. `None`: init ended, and has said why. `made` is
    /// called before init goes on.
    ///
    /// # Errors
    /// The step that failed.
    pub fn make(
        self,
        run: &Path,
        name: &str,
        plan: &Plan,
        made: impl FnOnce(),
    ) -> Result<Option<(Guard, Vec<String>)>, StepError> {
        let mut vm = || match socket::receive(&self.init, &mut [0u8]) {
            Ok((1.., mut fds)) => Ok(fds.pop()),
            Ok(_) => Ok(None),
            Err(e) => Err(step("get the VM's network")(e)),
        };
        let line = loop {
            match Line::ask(run, name, plan)?.plug(&mut vm) {
                Ok(line) => break line,
                Err(Some(error)) => return Err(error),
                // It ended, because nobody came for long, just when we came.
                Err(None) => {}
            }
        };
        if line.is_some() {
            made();
            // If init has ended, it has said why.
            let _ended = rustix::io::write(&self.init, b"!");
        }
        Ok(line)
    }
}
