//! One VM of a pool, from its making to its end.
//!
//! ```text
//!   Making ─ init is ready ─► Ready ─ give ─► Used ─ Finish ──► its lock is the client's
//!                               ▲               ├─── Done ────► thrown away
//!                               └── used again ─┘ └ init ended by itself ─► Over, until the client says what it wants
//! ```

use super::copies::Copies;
use super::names::Seen;
use crate::home::VmLock;
use crate::keeper::Control;
use crate::kept::Kept;
use crate::launch::Launched;
use crate::lifecycle::Begun;
use crate::session;
use fvm_model::{Timestamp, VmRecord};
use rustix::fd::{BorrowedFd, OwnedFd};
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
    /// A process in it that waits for its program, or waited. Kept as long as the VM: what the last end of a socket's closing costs, while
    /// another is on its way in a message (`unix_gc`), is not to be in the way of the program.
    pub waiting: Option<Waiting>,
    /// What it was given that is not the host's; `None`: not listed yet.
    pub copies: Option<Copies>,
    /// Its layers were laid before.
    pub laid: Timestamp,
}

/// Our ends of what leads to such a process.
#[derive(Debug)]
pub(super) struct Waiting {
    /// To it.
    pub told: OwnedFd,
    /// To init, for when it has ended ([`crate::session::post`]).
    pub post: OwnedFd,
    /// It is there: init has said so.
    pub waits: bool,
    /// Until then that is asked for ahead.
    pub asked_until: Instant,
    /// As much can be told it.
    pub room_bytes: usize,
}

impl Ready {
    /// One in which nothing has run or been looked at.
    pub fn new(vm: Launched, kept: Kept, lock: VmLock, laid: Timestamp) -> Self {
        Self { vm, kept, lock, uses: 0, names: None, waiting: None, copies: None, laid }
    }

    /// Lists what it was given that is not the host's, if that is not more than `most`.
    pub fn list_copies(&mut self, most: usize) -> Option<&Copies> {
        if self.copies.is_none() {
            let names = self.vm.skeletons.iter().flat_map(|skeleton| &skeleton.names);
            self.copies = self.kept.look(|record| Copies::list(&record.layers, names, most));
        }
        self.copies.as_ref()
    }

    /// Whether a process waits in it for its program by now; `None`: init has not said yet.
    pub fn has_waiting(&mut self) -> Option<bool> {
        let Some(waiting) = &mut self.waiting else { return Some(false) };
        if !waiting.waits {
            match session::waits(&waiting.post) {
                Ok(waits) => waiting.waits = waits,
                Err(_) => self.waiting = None,
            }
        }
        self.waiting.as_ref().map_or(Some(false), |waiting| waiting.waits.then_some(true))
    }

    /// Whether what it was given that is not the host's is as the host has it; not where a program has run in it.
    pub fn is_current(&mut self) -> bool {
        let made = self.kept.look(|record| record.forked);
        self.uses == 0 && self.list_copies(usize::MAX).is_some_and(|copies| copies.are_current(made))
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
    /// What its client says is heard when it has settled.
    pub unheard: bool,
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
    /// Its init has not been told to watch the program.
    pub unwatched: bool,
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
