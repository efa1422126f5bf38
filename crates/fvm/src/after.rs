//! What has to be done in the VM's layers once the host has what was committed: kept in the commit's journal, so that a
//! recovery can do it too.
//!
//! ```text
//!   {"all":true}                        nothing else is in the VM: fresh layers
//!   {"all":false,"changes":[...]}       these leave its layers
//! ```
//!
//! Invariant: doing it twice is doing it once.

use crate::FvmError;
use fvm_changes::Forget;
use fvm_model::{Change, ChangeSet, VmPath, VmRecord};
use fvm_vm::VmError;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What leaves the layers.
#[derive(Debug, Serialize, Deserialize)]
pub struct After {
    /// Everything.
    pub all: bool,
    /// Else these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Change>,
}

impl After {
    /// As the layers' own crate takes it.
    pub fn what(&self) -> Forget<'_> {
        if self.all { Forget::All } else { Forget::These(&self.changes) }
    }

    /// The changes that leave them, unless all do.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Their paths; `None`: all.
    pub fn paths(&self) -> Option<HashSet<&VmPath>> {
        (!self.all).then(|| self.changes.iter().map(|c| &c.path).collect())
    }
}

/// Whether nothing else can be in the layers: every change goes, and the scan read everything.
pub fn may_be_all(set: &ChangeSet, dropped: &HashSet<&VmPath>) -> bool {
    set.warnings.is_empty() && set.changes.iter().all(|c| dropped.contains(&c.path))
}

/// The job of dropping the changes at `dropped`, or `all` that the layers hold.
pub fn encode(record: &VmRecord, set: &ChangeSet, dropped: &HashSet<&VmPath>, all: bool) -> Result<Vec<u8>, FvmError> {
    let chosen = set.changes.iter().filter(|c| !all && dropped.contains(&c.path));
    let after = After { all, changes: chosen.cloned().collect() };
    serde_json::to_vec(&after).map_err(|e| VmError::Internal(format!("{}: {e}", record.name)).into())
}

/// Reads it back.
pub fn decode(bytes: &[u8]) -> Result<After, FvmError> {
    serde_json::from_slice(bytes).map_err(|e| VmError::Internal(format!("the journal's 'after': {e}")).into())
}
