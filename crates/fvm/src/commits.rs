//! What becomes of changes: decided, merged, committed, undone.
//!
//! ```text
//!   changes ─► settle (merge) ─► decide ─► prepare ─► publish ─► forget (the VM's layers) ─► finish
//!                                                        ╰─ a crash: recover does the rest, forgetting too
//! ```
//!
//! Invariant: the VM's lock is held from its scan to the end of its commit; the lock of all commits within.

use crate::{Choice, Conflict, FvmError, Keep, KeyChange, OnConflict, Published, Recovered, VmLock, Watch};
use crate::{Fvm, after, bases, live, model, settle};
use fvm_commit::{HostDisk, Store};
use fvm_model::{ChangeSet, Plan, Summary, VmPath, VmRecord};
use fvm_vm::lifecycle;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// What a VM changed in a keyed store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StoreChange {
    /// The file.
    pub path: VmPath,
    /// `accounts`, `wine`, `dconf`.
    pub store: &'static str,
    /// Its keys that differ.
    pub keys: Vec<KeyChange>,
}

/// A file of which a part is committed: path, the host's version before and after, whether there is a conflict.
type Part = (VmPath, Vec<u8>, Vec<u8>, bool);

/// How a plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct How {
    /// The changes stay in the VM as well.
    pub keep: bool,
    /// Whether the files are marked; `None`: as the VM's policy says.
    pub mark: Option<bool>,
}

/// What a commit did.
#[derive(Debug)]
pub struct Committed {
    /// Its number, for `undo`; `None` when there was nothing to do.
    pub number: Option<u64>,
    /// What was chosen, by kind.
    pub summary: Summary,
    /// How many operations the host saw.
    pub operations: usize,
    /// Anything worth telling.
    pub notes: Vec<String>,
}

impl Fvm {
    /// Decides what of `changes` shall reach the host.
    ///
    /// # Errors
    /// When a chosen path is not a change, or there are conflicts and the choice does not say what to do.
    pub fn decide(&self, record: &VmRecord, changes: &ChangeSet, choice: &Choice) -> Result<Plan, FvmError> {
        let input = self.scan_input(record)?;
        let settled = settle::settle(&input, changes, choice, &self.bases(record));
        let mut choice = choice.clone();
        choice.given.extend(settled.given);
        let plan = fvm_review::decide(changes, &choice, &self.layer_dirs(record)?).map_err(|error| match error {
            fvm_review::ReviewError::Conflicts(mut conflicts) => {
                for conflict in &mut conflicts {
                    if let Some(why) = settled.why.get(&conflict.path) {
                        conflict.what = format!("{}; {why}", conflict.what);
                    }
                }
                fvm_review::ReviewError::Conflicts(conflicts)
            }
            other => other,
        })?;
        Ok(plan.with_forked(record.based()))
    }

    /// The keys that `set` changes in keyed stores, such as `/etc/passwd` or dconf's database, file by file.
    ///
    /// # Errors
    /// As [`Fvm::scan_input`].
    pub fn keys(&self, record: &VmRecord, set: &ChangeSet) -> Result<Vec<StoreChange>, FvmError> {
        let (input, bases) = (self.scan_input(record)?, self.bases(record));
        let of = |change: &model::Change| {
            let (store, keys) = settle::key_changes(&input, change, &bases)?;
            Some(StoreChange { path: change.path.clone(), store, keys })
        };
        Ok(set.changes.iter().filter_map(of).collect())
    }

    /// A choice of single keys: for each file, the host's version with these brought over.
    ///
    /// # Errors
    /// When both sides changed one, and `on` does not say what to do.
    pub fn choose_keys(
        &self,
        record: &VmRecord,
        set: &ChangeSet,
        chosen: &BTreeMap<VmPath, BTreeSet<String>>,
        on: OnConflict,
    ) -> Result<Choice, FvmError> {
        let (input, bases) = (self.scan_input(record)?, self.bases(record));
        let mut choice = Choice { exact: Some(chosen.keys().cloned().collect()), on_conflict: on, ..Choice::default() };
        let mut conflicts = Vec::new();
        for change in set.changes.iter().filter(|c| chosen.contains_key(&c.path)) {
            match settle::choose_keys(&input, change, &chosen[&change.path], on, &bases) {
                Some(Ok(given)) => drop(choice.given.insert(change.path.clone(), given)),
                Some(Err(what)) => {
                    conflicts.push(Conflict { path: change.path.clone(), base: change.base.clone(), what });
                }
                None => {}
            }
        }
        if conflicts.is_empty() { Ok(choice) } else { Err(fvm_review::ReviewError::Conflicts(conflicts).into()) }
    }

    pub(crate) fn bases(&self, record: &VmRecord) -> bases::Bases {
        bases::Bases::of(&self.home.vm_dir(&record.id))
    }

    /// Carries a plan out. Unless `how.keep`, what was committed then leaves the VM's layers: the VM sees the host's
    /// version there, which is the same. Layers that it shares are copied first. `lock`, the VM's, was held when the changes were read: it has not run since.
    ///
    /// # Errors
    /// When the host does not let it happen; see [`FvmError`] for what the host looks like then.
    pub fn commit(
        &self,
        lock: &VmLock,
        record: &VmRecord,
        changes: &ChangeSet,
        plan: Plan,
        how: How,
        watch: &mut dyn Watch,
    ) -> Result<Committed, FvmError> {
        if let Some(path) = fvm_vm::disk::strayed() {
            return Err(fvm_vm::VmError::Strayed(path).into());
        }
        let (record, keep) = (&self.own(lock, record)?, how.keep);
        let dropped: HashSet<&VmPath> = plan.host_kept.iter().chain(&plan.whole).collect();
        let after = if keep || dropped.is_empty() {
            Vec::new()
        } else {
            // What could not be read is nowhere else: it stays in the VM.
            let all = after::may_be_all(changes, &dropped);
            after::encode(record, changes, &dropped, all)?
        };
        if plan.ops.is_empty() {
            if !after.is_empty() {
                self.forget(record, &after)?;
            }
            return Ok(Committed { number: None, summary: Summary::default(), operations: 0, notes: Vec::new() });
        }
        if let Some(op) = plan.ops.iter().find(|op| live::wineserver(&op.path.on_host())) {
            return Err(FvmError::Live { path: op.path.clone(), program: "wineserver" });
        }
        let store = self.commits();
        let held = store.hold()?;
        let parts = self.parts(record, changes, &plan)?;
        let what = fvm_commit::What::Commit { vm: record.id.to_string(), name: record.name.to_string() };
        let staying = match after::decode(&after) {
            Ok(after) if !after.all => fvm_changes::staying(&self.scan_input(record)?, after.changes())?,
            _ => HashSet::new(),
        };
        let moving = match record.policy.is_sealed() {
            _ if keep => fvm_commit::Moving::None,
            true => fvm_commit::Moving::Sealed,
            false => fvm_commit::Moving::Unwritten,
        };
        let marking = Arc::new(self.marking(record, how.mark.unwrap_or(record.policy.mark))?);
        let marks: Option<Arc<dyn fvm_commit::Marks>> = Some(marking.clone());
        let options = fvm_commit::Options { what, moving, staying, after: after.clone(), marks };
        let prepared = fvm_commit::prepare(&HostDisk, held, &plan, &self.layer_dirs(record)?, &options, watch)?;
        let applied = prepared.publish()?;
        if !after.is_empty() {
            self.forget(record, &after)?;
        }
        for (path, before, after, conflict) in parts {
            self.bases(record).advance(&path, &before, &after, conflict);
        }
        let published = applied.finish()?;
        if marking.any() {
            self.tell_guard();
        }
        // What earlier commits replaced is not kept for ever; that it is kept too long is no reason to fail.
        if let Ok(Some(held)) = store.try_hold() {
            let _kept_longer = fvm_commit::gc(&HostDisk, &store, &held, Keep::default());
        }
        Ok(Committed {
            number: Some(published.number),
            summary: count(changes, &plan.selected),
            operations: published.applied,
            notes: published.notes,
        })
    }

    /// The files of which a part is committed.
    fn parts(&self, record: &VmRecord, changes: &ChangeSet, plan: &Plan) -> Result<Vec<Part>, FvmError> {
        let whole: HashSet<&VmPath> = plan.whole.iter().collect();
        let input = self.scan_input(record)?;
        let part = |op: &model::PlanOp| {
            let Some(model::plan::Content::Given { bytes }) = op.content() else { return None };
            let change = changes.changes.iter().find(|c| c.path == op.path)?;
            let (before, _) = fvm_changes::text::contents(&input, change).ok()??;
            Some((op.path.clone(), before, bytes.0.as_encoded_bytes().to_vec(), change.conflict.is_some()))
        };
        Ok(plan.ops.iter().filter(|op| !whole.contains(&op.path)).filter_map(part).collect())
    }

    /// After a commit the VM's copies equal the host's: dropping them makes the VM see the host's own again. When
    /// nothing else is left, the VM is as if forked now.
    fn forget(&self, record: &VmRecord, after: &[u8]) -> Result<(), FvmError> {
        let now = lifecycle::settled();
        let after = after::decode(after)?;
        fvm_changes::forget(&self.scan_input(record)?, after.what())?;
        self.bases(record).renew(after.paths().as_ref());
        self.forget_unlike(record, after.paths().as_ref())?;
        if after.all {
            self.home.save(&VmRecord { forked: now, imported: None, given: None, ..record.clone() }, true)?;
        }
        Ok(())
    }

    /// Where commits are recorded.
    fn commits(&self) -> Store {
        Store::new(self.home.state_dir().join("commits"), self.home.run_dir().join("commit.lock"))
    }

    /// Brings an interrupted commit to its end, forward or back. `Ok(None)`: there is none, or another process is just
    /// carrying it out. Cheap when there is none.
    ///
    /// # Errors
    /// When that is not possible yet: nothing is lost, and it can be tried again.
    pub fn recover(&self) -> Result<Option<Recovered>, FvmError> {
        let store = self.commits();
        if !store.is_active() {
            return Ok(None);
        }
        let Some(held) = store.try_hold()? else { return Ok(None) };
        let mut after = |what: &fvm_commit::What, bytes: &[u8]| -> Result<(), String> {
            let fvm_commit::What::Commit { vm, .. } = what else { return Ok(()) };
            if bytes.is_empty() {
                return Ok(());
            }
            let id = vm.parse().map_err(|_| format!("'{vm}' is no id"))?;
            let record = self.home.load(&id).map_err(|e| e.to_string())?;
            let _lock = self.lock(&record).map_err(|e| e.to_string())?;
            self.forget(&record, bytes).map_err(|e| e.to_string())
        };
        Ok(fvm_commit::recover(&HostDisk, &store, &held, &mut after)?)
    }

    /// All commits and undos, oldest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn history(&self) -> Result<Vec<fvm_commit::Record>, FvmError> {
        Ok(fvm_commit::history(&self.commits())?)
    }

    /// One of them, with what it did.
    ///
    /// # Errors
    /// When there is no such commit.
    pub fn show(&self, number: u64) -> Result<(fvm_commit::Record, Vec<fvm_commit::OpLine>), FvmError> {
        let store = self.commits();
        Ok((fvm_commit::record(&store, number)?, store.ops(number)?))
    }

    /// Takes a commit back.
    ///
    /// # Errors
    /// When what it brought was changed since, or what it replaced is not kept any more: nothing is changed then.
    pub fn undo(&self, number: u64) -> Result<Published, FvmError> {
        let store = self.commits();
        let held = store.hold()?;
        Ok(fvm_commit::undo(&HostDisk, &store, held, number)?)
    }

    /// Removes what old commits replaced; returns which cannot be undone any more.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn gc(&self, keep: Keep) -> Result<Vec<u64>, FvmError> {
        // Routers that wait for the next VM.
        fvm_vm::router::routers(self.home.run_dir(), true);
        let store = self.commits();
        let held = store.hold()?;
        Ok(fvm_commit::gc(&HostDisk, &store, &held, keep)?)
    }
}

/// Counts the selected changes by kind.
fn count(changes: &ChangeSet, selected: &[VmPath]) -> Summary {
    let selected: HashSet<&VmPath> = selected.iter().collect();
    Summary::of(changes.changes.iter().filter(|c| selected.contains(&c.path)))
}
