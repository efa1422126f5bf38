//! The behaviour log of a VM, and who made its changes.
//!
//! ```text
//!   log ─► events                                              fvm trace
//!   changes + log ─ with_origins ─► each change with its program        fvm status --by process
//!                                   └ made_by("npm install") ─► paths   fvm commit --from
//! ```

use crate::{Fvm, FvmError};
use fvm_model::{ChangeSet, VmPath, VmRecord};
use fvm_trace::{Integrity, Log, LogError, Origins, origin};
use std::collections::BTreeSet;

impl Fvm {
    /// The behaviour log of a VM, from its beginning.
    ///
    /// # Errors
    /// [`LogError::None`] when nothing was ever written down.
    pub fn events(&self, record: &VmRecord) -> Result<Log, FvmError> {
        Ok(Log::open(&self.home.events_dir(&record.id), record.id.as_str())?)
    }

    /// Says of each change which program made it, as far as the log knows. Returns how whole the log is; `None`: there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn with_origins(&self, record: &VmRecord, set: &mut ChangeSet) -> Result<Option<Integrity>, FvmError> {
        let Some((origins, whole)) = self.origins(record)? else { return Ok(None) };
        for change in &mut set.changes {
            change.origin = origins.of(change).map(Box::new);
        }
        Ok(Some(whole))
    }

    /// Who made what, by the VM's log, and how whole that is; `None`: there is no log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn origins(&self, record: &VmRecord) -> Result<Option<(Origins, Integrity)>, FvmError> {
        let mut log = match self.events(record) {
            Err(FvmError::Log(LogError::None)) => return Ok(None),
            log => log?,
        };
        let mut origins = Origins::default();
        let whole = log.read(&mut |event| origins.add(&event))?;
        Ok(Some((origins, whole)))
    }
}

/// The changes that a program which `text` names made, or one that came from it ([`origin::names`]). The set has its origins.
#[must_use]
pub fn made_by(set: &ChangeSet, text: &str) -> BTreeSet<VmPath> {
    let is_from = |origin: &fvm_model::Origin| origin.tree().any(|program| origin::names(text, program));
    let made = set.changes.iter().filter(|change| change.origin.as_ref().is_some_and(|origin| is_from(origin)));
    made.map(|change| change.path.clone()).collect()
}
