//! The time that a program gets (`--timeout`).
//!
//! ```text
//!   start ── after ──► SIGTERM, Status::TimedOut ── grace ──► SIGKILL
//! ```
//!
//! Invariant: it is kept by init, or by the program's monitor, so that it holds also when the client is gone.

use crate::proto::Timeout;
use fvm_sys::process;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// What is left of it.
#[derive(Debug)]
pub struct Limit {
    due: Option<Instant>,
    grace: Duration,
    asked: bool,
}

impl Limit {
    /// From now on.
    #[must_use]
    pub fn of(timeout: Option<Timeout>) -> Self {
        let due = timeout.and_then(|t| Instant::now().checked_add(Duration::from_millis(t.after_ms)));
        Self { due, grace: Duration::from_millis(timeout.map_or(0, |t| t.grace_ms)), asked: false }
    }

    /// When there is something to do.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Does what is due to the process group `group`; whether its time ended just now.
    pub fn act(&mut self, group: i32) -> bool {
        let Some(due) = self.due.filter(|due| Instant::now() >= *due) else { return false };
        let send = |signal: Signal| {
            // It may not have made its group yet, or have ended.
            process::kill(-group, signal.as_raw()).or_else(|_| process::kill(group, signal.as_raw()))
        };
        if self.asked {
            let _ended = send(Signal::KILL);
            self.due = None;
            return false;
        }
        let _ended = send(Signal::TERM).and_then(|()| send(Signal::CONT));
        self.asked = true;
        self.due = due.checked_add(self.grace);
        true
    }
}
