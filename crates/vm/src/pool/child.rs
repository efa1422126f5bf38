//! A program that a pool was asked to run, as who asked holds it.
//!
//! ```text
//!   spawn ── Ask::Take ──► keeper ── Taken, or Refused: lies there until somebody wants to know
//!     └─ wait ◄── session ◄── init: its end    hung up at once: what the keeper has said
//! ```
//!
//! Invariant: nobody is woken when the program begins: most want to know how it ends, and would share its processor.

use super::{Ask, Taken, Wanted, amiss, connect};
use crate::attach::{Ended, Streams};
use crate::error::VmError;
use crate::home::{Home, VmLock};
use crate::lifecycle::{self, Call, Piped};
use crate::proto::{self, MESSAGE_MAX_BYTES};
use fvm_model::{VmName, VmRecord};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;

/// A program in a VM of a pool. Dropped, its VM ends, and with it the program.
#[derive(Debug)]
pub struct PoolChild {
    home: Home,
    pool: VmName,
    program: Piped,
    /// How it ended, once that is known: it is told once.
    ended: Option<Ended>,
    vm: Vm,
}

/// What is known of it.
#[derive(Debug)]
enum Vm {
    Asked(OwnedFd),
    Known(Taken),
    /// There is none.
    Refused,
}

/// Asks for a program on streams of the caller's, and returns.
///
/// # Errors
/// [`VmError::NoPool`] when the pool has no keeper.
pub fn spawn(
    home: &Home,
    pool: &VmName,
    call: &Call,
    streams: [BorrowedFd<'_>; 3],
    name: Option<&VmName>,
    keep: bool,
) -> Result<PoolChild, VmError> {
    let program = call.undressed(&Streams { is_terminal: [false; 3], terminal: None });
    let [input, output, errors] = streams;
    let wanted = Wanted { program, name: name.cloned(), keep };
    let ask = proto::stream_message(&Ask::Take(Box::new(wanted)), MESSAGE_MAX_BYTES)
        .and_then(|ask| ask.ok_or(Errno::MSGSIZE))
        .or_else(|e| amiss(pool, e))?;
    let mut asked = None;
    let program = lifecycle::piped(|session| {
        // The keeper wakes up when somebody connects, and had better find what is asked of it.
        let keeper = connect(home, pool)?;
        fvm_sys::socket::send(&keeper, &ask, &[session, input, output, errors]).or_else(|e| amiss(pool, e))?;
        asked = Some(keeper);
        Ok(())
    })?;
    let keeper = asked.ok_or_else(|| VmError::Internal("a program that nobody asked for".into()))?;
    Ok(PoolChild { home: home.clone(), pool: pool.clone(), program, ended: None, vm: Vm::Asked(keeper) })
}

impl PoolChild {
    /// Its VM, once there is one.
    ///
    /// # Errors
    /// When the pool cannot give one, or, [`VmError::NoPool`], has no keeper any more.
    pub fn vm(&mut self) -> Result<&Taken, VmError> {
        self.vm = match std::mem::replace(&mut self.vm, Vm::Refused) {
            Vm::Asked(keeper) => Vm::Known(Taken::hear(&self.home, &self.pool, keeper)?),
            known => known,
        };
        match &self.vm {
            Vm::Known(taken) => Ok(taken),
            _ => Err(VmError::Pool { name: self.pool.clone(), why: "it has given no VM".into() }),
        }
    }

    /// Waits for the program's end. Asked again it says the same.
    ///
    /// # Errors
    /// As [`PoolChild::vm`].
    pub fn wait(&mut self) -> Result<Ended, VmError> {
        let program = &self.program;
        match *self.ended.get_or_insert_with(|| program.wait()) {
            // Perhaps it never began.
            Ended::Lost => self.vm().map(|_| Ended::Lost),
            ended => Ok(ended),
        }
    }

    /// The caller needs the VM no more. `nobody_left`: nothing but its init runs in it, so that the pool may give it out again.
    pub fn done(mut self, nobody_left: bool) {
        // That this end is closed says the rest.
        if nobody_left
            && self.vm().is_ok()
            && let Vm::Known(taken) = self.vm
        {
            taken.done(true);
        }
    }

    /// Ends the VM: nothing of it runs any more. It is the caller's from now on, to be looked at, committed or deleted.
    ///
    /// # Errors
    /// As [`PoolChild::vm`]; [`VmError::Keeper`] when the pool's keeper died meanwhile.
    pub fn finish(mut self) -> Result<(VmRecord, VmLock), VmError> {
        self.vm()?;
        match self.vm {
            Vm::Known(taken) => taken.finish(),
            _ => Err(VmError::Internal("a VM that is known and is not".into())),
        }
    }
}
