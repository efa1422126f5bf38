//! The behaviour log of a VM, and who made its changes.
//!
//! ```text
//!   log ─► events                                              fvm trace
//!   log ─ origins ─► of a change, its program                           fvm status --by process
//!            └ origins ─ made_by("npm install") ─► paths that are theirs alone   fvm commit --from
//! ```

use crate::{Fvm, FvmError};
use fvm_model::event::Program;
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

    /// Has the log of a running VM written down up to now: whoever reads it then misses nothing that was done before. Otherwise the
    /// last tenth of a second is missing.
    ///
    /// # Errors
    /// When it is not running, or its log is not written.
    pub fn settle_log(&self, record: &VmRecord) -> Result<(), FvmError> {
        Ok(fvm_vm::lifecycle::settle(&self.home, record)?)
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

/// What a program made, and what came from it.
#[derive(Debug, Default)]
pub struct Made {
    /// The changes that are theirs alone.
    pub paths: BTreeSet<VmPath>,
    /// Those that they wrote last, but that others had a hand in.
    pub shared: BTreeSet<VmPath>,
    /// The programs that are meant, where the text can mean more than one: several files that are called so.
    pub ambiguous: Vec<Program>,
}

/// The changes that the programs which `text` names made ([`origin::is_called`]), or what came from them.
#[must_use]
pub fn made_by(origins: &Origins, set: &ChangeSet, text: &str) -> Made {
    let is = |program: &Program| origin::is_called(text, program);
    let mut meant = origins.meant(&is);
    let is_number = text.parse::<u32>().is_ok();
    // A number that was given away again is another process; wildcards ask for whatever matches.
    meant.sort_by_key(|program| program.start_ns);
    meant.dedup_by(|a, b| {
        if is_number { a.process() == b.process() } else { origin::identity(text, a) == origin::identity(text, b) }
    });
    let is_wild = text.contains(['*', '?']);
    let mut made = Made::default();
    if meant.len() > 1 && !is_wild {
        made.ambiguous = meant;
        return made;
    }
    let by: Vec<&fvm_model::Change> = set.changes.iter().filter(|change| origins.is_by(change, &is)).collect();
    made.paths = by.iter().map(|change| change.path.clone()).collect();
    // Names of one file: who wrote to the one wrote to the other.
    let strange = set.changes.iter().filter(|change| !made.paths.contains(&change.path));
    let strange: BTreeSet<_> = strange.filter_map(|change| change.link_group.as_ref()).collect();
    let linked = by.iter().filter(|change| change.link_group.as_ref().is_some_and(|group| strange.contains(group)));
    for change in linked {
        made.paths.remove(&change.path);
    }
    let wrote = set.changes.iter().filter(|change| origins.is_last_by(change, &is));
    made.shared = wrote.map(|change| change.path.clone()).filter(|path| !made.paths.contains(path)).collect();
    made
}
