//! A waiting thread executes another program instead of what it asked for.
//!
//! ```text
//!   it waits ─ seize ─ refuse ─► stopped behind the refused call ─ divert ─► execve(fvm run --marked ...) ─ detach
//!                  └ cannot: refused, no more        └ not in time, or it fails: it goes on with the refusal
//! ```
//!
//! Invariants: it is seized before it is refused, so it cannot be anywhere else than behind its call; nobody is changed but
//! the thread that was looked at, in the call that it waited in; nothing waits for longer than the deadline; the thread that seized ends afterwards, and the kernel lets go what it still held.

use crate::task::Task;
use fvm_sys::divert::{Held, Program, State};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// So much longer the new program may take to begin.
const LONGER: Duration = Duration::from_secs(30);

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirected {
    /// The program runs.
    Done,
    /// It was refused, no more, because of this.
    Refused(Errno),
}

/// Does it. `refuse` answers the waiting thread; `false` when somebody was quicker, which is `CANCELED`.
pub fn redirect(task: &Task, program: &Program, deadline: Instant, refuse: impl FnOnce() -> bool) -> Redirected {
    match try_to(task, program, deadline, refuse) {
        Ok(()) => Redirected::Done,
        Err(errno) => Redirected::Refused(errno),
    }
}

#[cfg(target_arch = "x86_64")]
fn try_to(task: &Task, program: &Program, deadline: Instant, refuse: impl FnOnce() -> bool) -> Result<(), Errno> {
    let mut held = match Held::seize(task.tid, task.pid) {
        Ok(held) => held,
        Err(errno) => {
            refuse();
            return Err(errno);
        }
    };
    // Traced, its number is its own: it was not always, and a stranger in its place may be anybody.
    if !task.still_waits() {
        refuse();
        return Err(Errno::SRCH);
    }
    if !refuse() {
        return Err(Errno::CANCELED);
    }
    loop {
        match wait(&mut held, deadline)? {
            State::Stopped => break,
            State::Signal(signal) => held.go_on(signal)?,
            State::AtCall => held.go_on(0)?,
            State::Executed | State::Runs => return Err(Errno::PROTO),
            State::Gone => return Err(Errno::SRCH),
        }
    }
    let before = held.divert(program)?;
    // It executes, and nobody else waits for it: a slow disk is no reason to leave it there.
    let deadline = deadline + LONGER;
    let (mut began, mut signal) = (false, 0);
    loop {
        held.go_on(signal)?;
        signal = 0;
        match wait(&mut held, deadline)? {
            State::Executed => return Ok(()),
            State::Gone => return Err(Errno::SRCH),
            State::AtCall if !began => began = true,
            // The end of the call: it failed.
            State::AtCall | State::Runs => {
                held.set_registers(&before)?;
                return Err(Errno::NOEXEC);
            }
            State::Signal(other) => signal = other,
            State::Stopped => {}
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn try_to(_: &Task, _: &Program, _: Instant, refuse: impl FnOnce() -> bool) -> Result<(), Errno> {
    refuse();
    Err(Errno::NOSYS)
}

/// Its next stop.
fn wait(held: &mut Held, deadline: Instant) -> Result<State, Errno> {
    let mut pause = Duration::from_micros(20);
    loop {
        match held.look()? {
            State::Runs if Instant::now() > deadline => return Err(Errno::TIMEDOUT),
            State::Runs => std::thread::sleep(pause),
            state => return Ok(state),
        }
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}
