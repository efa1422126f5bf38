//! One VM of a pool, from its making to its end.
//!
//! ```text
//!   Making ─ init is ready ─► Ready ─ give ─► Used ─ Finish ──► its lock is the client's
//!                               ▲               ├─── Done ────► thrown away
//!                               └── used again ─┘ └ init ended by itself ─► Over, until the client says what it wants
//! ```

use super::copies::Copies;
use super::names::Seen;
use crate::error::VmError;
use crate::home::VmLock;
use crate::keeper::Control;
use crate::kept::Kept;
use crate::launch::Launched;
use crate::lifecycle::Begun;
use fvm_model::VmRecord;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// A VM of a pool.
#[derive(Debug)]
pub(super) enum Member {
    Making(Box<Begun>, VmLock),
    Ready(Box<Ready>),
    Used(Box<Used>),
    Over(Box<Over>),
}

/// One whose init waits for an order.
#[derive(Debug)]
pub(super) struct Ready {
    pub vm: Launched,
    pub kept: Kept,
    pub lock: VmLock,
    /// How many programs it had.
    pub uses: u32,
    /// What it has looked up.
    pub names: Option<Seen>,
    /// Where a process in it waits for its program.
    pub waiting: Option<OwnedFd>,
    /// What it was given that is not the host's; `None`: not listed yet.
    pub copies: Option<Copies>,
}

impl Ready {
    /// One in which nothing has run or been looked at.
    pub fn new(vm: Launched, kept: Kept, lock: VmLock) -> Self {
        Self { vm, kept, lock, uses: 0, names: None, waiting: None, copies: None }
    }

    /// Lists what it was given that is not the host's, if that is not more than `most`.
    ///
    /// # Errors
    /// When a layer's directory cannot be read.
    pub fn list_copies(&mut self, most: usize) -> Result<Option<&Copies>, VmError> {
        if self.copies.is_none() {
            let names = self.vm.skeletons.iter().flat_map(|skeleton| &skeleton.names);
            self.copies =
                self.kept.look(|record| Copies::list(record.layers_dir.as_path(), &record.layers, names, most))?;
        }
        Ok(self.copies.as_ref())
    }

    /// Whether no name that it has looked up means something else by now. Once a program has run in it, it is as that has left it.
    pub fn is_as_the_host(&self) -> bool {
        self.uses > 0 || self.names.as_ref().is_none_or(Seen::holds)
    }
}

/// One that has a program.
#[derive(Debug)]
pub(super) struct Used {
    pub ready: Ready,
    /// `None`: it is not there yet, or could not be made: nobody but the client reaches the VM.
    pub control: Option<Control>,
    pub client: OwnedFd,
    /// Its init was ended, or has been asked to end.
    pub ending: bool,
    /// The client has said what it wants, or has hung up.
    pub heard: bool,
    /// The client wants the VM when it has ended.
    pub wanted: bool,
    /// Something other than the client's program may have been started in it, or its limits changed: nobody else gets it.
    pub touched: bool,
    /// When its record says that it waits no more, and its control socket is there; `None`: since long.
    pub settles: Option<Instant>,
    /// Asked for its end, and waiting for it.
    pub enders: Vec<OwnedFd>,
    /// When what was asked to end is ended.
    pub until: Option<Instant>,
}

/// One whose init has ended before its client was done with it.
#[derive(Debug)]
pub(super) struct Over {
    pub record: VmRecord,
    pub lock: VmLock,
    pub client: OwnedFd,
}

/// Somebody who has connected and said nothing yet.
#[derive(Debug)]
pub(super) struct Visitor {
    pub client: OwnedFd,
    /// The member whose control socket it is at; that of the pool where it is `None`.
    pub member: Option<u64>,
    /// Whoever says nothing until then is dropped.
    pub until: Instant,
}

/// What of a member may become readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// What is told while it is made.
    Progress,
    /// The end of its init.
    Init,
    /// Somebody at its control socket.
    Control,
    /// Its client, or a visitor.
    Client,
}

impl What {
    const ALL: [Self; 4] = [Self::Progress, Self::Init, Self::Control, Self::Client];

    /// A number for `epoll` that says what, and of which member; 0 to 3 are of none.
    pub fn token(self, member: u64) -> u64 {
        let index = Self::ALL.iter().position(|what| *what == self).unwrap_or(0);
        (member + 1) * 4 + index as u64
    }

    /// The other way.
    pub fn of_token(token: u64) -> Option<(u64, Self)> {
        let index = usize::try_from(token % 4).ok()?;
        (token / 4).checked_sub(1).map(|member| (member, Self::ALL[index]))
    }
}

impl Used {
    pub fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(Control::listener)
    }

    pub fn client(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_and_of_whom() {
        for member in [0, 1, 9_999] {
            for what in What::ALL {
                assert_eq!(What::of_token(what.token(member)), Some((member, what)));
            }
        }
        assert!((0..4).all(|token| What::of_token(token).is_none()));
    }
}
