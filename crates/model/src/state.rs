//! The life of a VM: one enum and one total function.
//!
//! ```text
//!            build                start             suspend
//!   building ─────► stopped ◄──────────────► running ◄────► suspended
//!                    │  ▲ ▲     stop                          │ stop
//!             commit │  │ └───────────────────────────────────┘
//!                    ▼  │ committed
//!                 committing            stopped, building ── delete ──► deleting
//! ```
//!
//! Invariants: `running` and `suspended` are never written to disk: they are true while the keeper holds the VM's
//! lock, so a killed keeper or a power cut leaves `stopped` without anyone having to repair anything. `building`,
//! `committing` and `deleting` are written, and tell the next command what to finish or undo.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Its directory is being made; not usable yet.
    Building,
    /// No processes.
    Stopped,
    /// Its init lives.
    Running,
    /// Its processes are frozen.
    Suspended,
    /// A commit reads its layers.
    Committing,
    /// It is being removed.
    Deleting,
}

/// What can happen to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmEvent {
    /// The directory is complete.
    Built,
    /// A keeper took the lock and started init.
    Start,
    /// The last process ended, for whatever reason.
    Stop,
    /// Freeze.
    Suspend,
    /// Thaw.
    Resume,
    /// A commit begins.
    Commit,
    /// The commit ended, either way.
    Committed,
    /// Remove it.
    Delete,
}

/// An event that has no place in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a VM that is {state} cannot {event}")]
pub struct IllegalEvent {
    /// The state the VM is in.
    pub state: VmState,
    /// What was asked.
    pub event: VmEvent,
}

impl VmState {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`IllegalEvent`] when the drawing above has no such arrow.
    pub fn next(self, event: VmEvent) -> Result<Self, IllegalEvent> {
        use VmEvent as E;
        use VmState as S;
        match (self, event) {
            (S::Building, E::Built) | (S::Running | S::Suspended, E::Stop) | (S::Committing, E::Committed) => {
                Ok(S::Stopped)
            }
            (S::Stopped, E::Start) | (S::Suspended, E::Resume) => Ok(S::Running),
            (S::Running, E::Suspend) => Ok(S::Suspended),
            (S::Stopped, E::Commit) => Ok(S::Committing),
            (S::Stopped | S::Building | S::Deleting, E::Delete) => Ok(S::Deleting),
            (state, event) => Err(IllegalEvent { state, event }),
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Building => "building",
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Committing => "committing",
            Self::Deleting => "deleting",
        })
    }
}

impl fmt::Display for VmEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "be finished",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Suspend => "be suspended",
            Self::Resume => "resume",
            Self::Commit => "be committed",
            Self::Committed => "end a commit",
            Self::Delete => "be deleted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_vm_can_neither_be_committed_nor_deleted_nor_started_again() {
        for event in [VmEvent::Commit, VmEvent::Delete, VmEvent::Start, VmEvent::Built] {
            assert!(VmState::Running.next(event).is_err(), "{event:?}");
        }
    }

    #[test]
    fn every_life_leads_back_to_stopped_or_to_deletion() {
        use VmEvent as E;
        let life = [E::Built, E::Start, E::Suspend, E::Resume, E::Stop, E::Commit, E::Committed, E::Delete, E::Delete];
        let end = life.into_iter().try_fold(VmState::Building, VmState::next);
        assert_eq!(end, Ok(VmState::Deleting));
    }
}
