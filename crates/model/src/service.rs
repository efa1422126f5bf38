//! Services of a VM: what is asked of them, and how they are.
//!
//! ```text
//!   inactive ─► activating ─► active | exited ─► deactivating ─► inactive | failed
//!                   ▲             │ ▲
//!                   │             ▼ │ reloading
//!                restarting ◄── ended
//! ```
//!
//! Invariant: everything in a [`ServiceAnswer`] comes from a VM: data to be shown, escaped, and nothing else.

use crate::Timestamp;
use crate::path::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What to do with services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceAction {
    /// Start them, and what they need.
    Start,
    /// Stop them, and what cannot be without them.
    Stop,
    /// Both.
    Restart,
    /// Have them read their configuration again.
    Reload,
    /// Tell how they are.
    Status,
    /// Tell of all there are.
    List,
}

/// A request on services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRequest {
    /// What to do.
    pub action: ServiceAction,
    /// Names of units; `.service` may be left out. None for `Status`: those that ran.
    pub units: Vec<String>,
    /// Directories, as the VM sees them, where units are looked for first.
    pub places: Vec<Bytes>,
    /// The VM's name, for the environment of its services.
    pub vm: String,
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// It does not run.
    #[default]
    Inactive,
    /// It is being started.
    Activating,
    /// It runs.
    Active,
    /// Its programs have ended, and that is well (`RemainAfterExit=`).
    Exited,
    /// It reads its configuration again.
    Reloading,
    /// It is being stopped.
    Deactivating,
    /// It ended, and will be started again.
    Restarting,
    /// It ended, and not well.
    Failed,
}

impl ServiceState {
    /// Whether it does what it is for.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Active | Self::Exited | Self::Reloading)
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inactive => "inactive",
            Self::Activating => "activating",
            Self::Active => "active",
            Self::Exited => "exited",
            Self::Reloading => "reloading",
            Self::Deactivating => "deactivating",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
        })
    }
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ServiceStatus {
    /// Its unit's name.
    pub unit: String,
    /// What the unit says of itself.
    pub description: String,
    /// How it is.
    pub state: ServiceState,
    /// Its main process, as the VM numbers it.
    pub main_pid: Option<i32>,
    /// When it came to be so.
    pub since: Option<Timestamp>,
    /// How often it was started again by itself.
    pub restarts: u32,
    /// What it says of itself (`STATUS=`).
    pub text: Option<String>,
    /// Why it is so, when that needs telling: how it ended.
    pub why: Option<String>,
}

/// A unit that did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFailure {
    /// Its name.
    pub unit: String,
    /// Why.
    pub why: String,
}

/// The answer to a [`ServiceRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ServiceAnswer {
    /// The services that were asked for, or touched, as they are now.
    pub services: Vec<ServiceStatus>,
    /// What was not done as asked.
    pub failures: Vec<ServiceFailure>,
    /// What the units say and fvm does not do.
    pub notices: Vec<String>,
}
