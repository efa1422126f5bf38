//! What a VM changed: all of it at once, or change after change.
//!
//! ```text
//!   layers ─► fvm_changes ─► what only fvm knows of a change ─┬─► changes      a ChangeSet, for a commit
//!                                                              └─► each_change  nothing is kept: for looking at
//! ```
//!
//! Invariant: both say the same of the same change.

use crate::{Fvm, FvmError, StoreChange, bases::Bases, marks, settle};
use fvm_changes::text::{FileDiff, diff_seen};
use fvm_changes::{ScanError, ScanInput, Seen, Sheet, is_one_of};
use fvm_model::{Change, ChangeKind, ChangeSet, HostPath, VmPath, VmRecord};
use std::collections::HashSet;
use std::ops::ControlFlow;

/// A change that is being looked at.
#[derive(Debug)]
pub struct Sight<'a> {
    input: &'a ScanInput,
    bases: &'a Bases,
    seen: Seen<'a>,
}

impl Sight<'_> {
    /// The change.
    #[must_use]
    pub fn change(&self) -> &Change {
        &self.seen.change
    }

    /// The change, to keep.
    #[must_use]
    pub fn into_change(self) -> Change {
        self.seen.change
    }

    /// As [`crate::diff_file`].
    ///
    /// # Errors
    /// As [`crate::diff_file`].
    pub fn diff(&self) -> Result<Option<FileDiff>, ScanError> {
        diff_seen(self.input, &self.seen)
    }

    /// The keys that it changes, if it is one of a keyed store.
    #[must_use]
    pub fn keys(&self) -> Option<StoreChange> {
        let (store, keys) = settle::key_changes(self.input, &self.seen.change, self.bases)?;
        Some(StoreChange { path: self.seen.change.path.clone(), store, keys })
    }

    /// What of it would be marks if a VM could make them, in words.
    #[must_use]
    pub fn forged(&self) -> Vec<String> {
        // What cannot be read now is seen by the commit, which takes none.
        let names = self.seen.xattr_names(self.input).unwrap_or_default();
        marks::not_taken(&self.seen.change, &names).collect()
    }
}

/// What fvm knows of changes that no layer tells.
struct Rules {
    own: Vec<HostPath>,
    unlike: HashSet<HostPath>,
}

impl Rules {
    fn apply(&self, change: &mut Change) {
        // A VM that moves or removes a directory above fvm's own state shall not take fvm with it.
        let moves = match &change.kind {
            ChangeKind::Deleted | ChangeKind::Retyped { .. } | ChangeKind::Renamed { .. } => change.base.as_ref(),
            _ => None,
        };
        if moves.is_some_and(|base| self.own.iter().any(|path| path.is_within(base))) {
            change.uncommittable = Some("fvm's own state lies below it".into());
        }
        // It stands on something else here.
        if change.conflict.is_none() && !self.unlike.is_empty() {
            let path = change.path.on_host();
            if self.unlike.contains(change.base.as_ref().unwrap_or(&path)) || self.unlike.contains(&path) {
                change.conflict = Some("this host has not what the VM was made from".into());
            }
        }
    }
}

impl Fvm {
    /// Where the scan of a VM looks.
    ///
    /// # Errors
    /// When layers that it shares with others cannot be put together.
    pub fn scan_input(&self, record: &VmRecord) -> Result<ScanInput, FvmError> {
        self.look_at(record, false)
    }

    fn look_at(&self, record: &VmRecord, anew: bool) -> Result<ScanInput, FvmError> {
        Ok(ScanInput {
            layers: self.layer_views(record, anew)?,
            class: record.mode.xattr_class(),
            forked: record.begun(),
            laid: record.given.map(|given| [record.forked, given.laid.min(given.at)]),
            based: record.based(),
            copied: record.copied,
            known: self.bases(record).known(),
            excluded: self.home.masked(record),
        })
    }

    fn rules(&self, record: &VmRecord) -> Result<Rules, FvmError> {
        Ok(Rules { own: self.home.masked(record), unlike: self.unlike(record)? })
    }

    /// Everything that a VM's layers hold against the host.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn changes(&self, record: &VmRecord) -> Result<ChangeSet, FvmError> {
        let mut set = fvm_changes::scan(&self.look_at(record, true)?)?;
        let rules = self.rules(record)?;
        set.changes.iter_mut().for_each(|change| rules.apply(change));
        let bases = self.bases(record);
        let mut keeper = bases.keeper(record);
        for change in &set.changes {
            if keeper.wants(change) {
                keeper.keep(&change.path);
            }
        }
        Ok(set)
    }

    /// Shows `look` every change at or below one of `only` (empty: every one), on several threads at once and in no
    /// order, and gives what it makes of each to `each`, in the order of their paths, with the text of the sheet on which
    /// `look` wrote, until that breaks. `reads`: it reads most of them ([`Sight::diff`]). Returns what could not be read or
    /// understood, in words.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn each_change<T: Send>(
        &self,
        record: &VmRecord,
        only: &[VmPath],
        reads: bool,
        look: impl Fn(Sight<'_>, &mut Sheet) -> Option<T> + Sync,
        mut each: impl FnMut(T, &[u8]) -> ControlFlow<()>,
    ) -> Result<Vec<String>, FvmError> {
        let (input, rules, bases) = (self.look_at(record, true)?, self.rules(record)?, self.bases(record));
        let mut keeper = bases.keeper(record);
        let wants = keeper.clone();
        let scan = fvm_changes::prepare(&input)?;
        let scan = if reads { scan.reading() } else { scan };
        let rest = scan.stream(
            |mut seen, sheet| {
                rules.apply(&mut seen.change);
                let base = wants.wants(&seen.change).then(|| seen.change.path.clone());
                let chosen = is_one_of(&seen.change, only);
                let seen = chosen.then(|| look(Sight { input: &input, bases: &bases, seen }, sheet)).flatten();
                (base.is_some() || seen.is_some()).then_some((base, seen))
            },
            |(base, seen), text| {
                base.iter().for_each(|path| keeper.keep(path));
                seen.map_or(ControlFlow::Continue(()), |seen| each(seen, text))
            },
        )?;
        Ok(rest.warnings)
    }
}
