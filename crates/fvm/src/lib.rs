//! The one public API of fvm: everything that the command line can do, for Rust programs.
//!
//! ```text
//!   Fvm::open ─► create ─► run | detach | exec ─► changes ─► decide ─► commit | discard ─► delete
//!                  vm        vm                    changes     review     commit
//! ```
//!
//! ```no_run
//! # fn main() -> Result<(), fvm::FvmError> {
//! let fvm = fvm::Fvm::open(std::path::Path::new("/var/lib/fvm"), std::path::Path::new("/run/fvm"))?;
//! let vm = fvm.find("demo")?;
//! let lock = fvm.lock(&vm)?; // it does not run meanwhile
//! let changes = fvm.changes(&vm)?; // what did the VM do?
//! let plan = fvm.decide(&vm, &changes, &fvm::Choice::default())?; // what shall reach the host?
//! fvm.commit(&lock, &vm, &changes, plan, false, &mut fvm::Unwatched)?; // all of it, or none
//! # Ok(())
//! # }
//! ```
//!
//! Invariants: only this crate composes the stages; it prints nothing and reads no environment variable; the process
//! that calls `run` or `detach` has one thread at that moment.

mod after;
mod bases;
mod error;
mod interrupts;
mod live;
mod settle;

pub use error::FvmError;
pub use fvm_changes::text::{BothTexts, FileDiff, diff_file, texts};
pub use fvm_changes::{ScanInput, filter};
pub use fvm_commit::{Keep, OpLine, Outcome, Published, Record, Recovered, Unwatched, Watch, What};
pub use fvm_host::{Kernel, Level};
pub use fvm_model as model;
pub use fvm_registry::KeyChange;
pub use fvm_review::{Choice, Conflict, Given, OnConflict, hunks, narrow};
pub use fvm_vm::attach::Ended;
pub use fvm_vm::ps::Process;
pub use fvm_vm::{Call, Found, Home, NewVm, Running, SetupOp, VmError, VmLock};
pub use interrupts::Interrupts;

use fvm_changes::LayerView;
use fvm_commit::{HostDisk, Store};
use fvm_host::HostFacts;
use fvm_model::plan::LayerDir;
use fvm_model::{ChangeKind, ChangeSet, LayerKind, Plan, Summary, VmName, VmPath, VmRecord, VmState};
use fvm_vm::lifecycle;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// A state directory, open.
#[derive(Debug)]
pub struct Fvm {
    home: Home,
}

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
    /// Opens the state directory `state`, with run-time things in `run`; creates both when they are not there.
    ///
    /// # Errors
    /// When they cannot be used, or were written by a newer fvm.
    pub fn open(state: &Path, run: &Path) -> Result<Self, FvmError> {
        Ok(Self { home: Home::open(state, run)? })
    }

    /// The directories.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Removes what killed commands left behind. Every command but the ones on the fast path begins with it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn sweep(&self) -> Result<usize, FvmError> {
        Ok(self.home.sweep()?)
    }

    /// The VM called `reference`: a name, an id, or the beginning of an id.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, reference: &str) -> Result<VmRecord, FvmError> {
        Ok(self.home.find(reference)?)
    }

    /// Every VM; unreadable ones as such.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn list(&self) -> Result<Vec<Found>, FvmError> {
        Ok(self.home.list()?)
    }

    /// What a VM does now: its stored state, or running while a keeper holds it.
    ///
    /// # Errors
    /// When its lock cannot be queried.
    pub fn state(&self, record: &VmRecord) -> Result<VmState, FvmError> {
        let running = record.state == VmState::Stopped && lifecycle::is_running(&self.home, record)?;
        Ok(if running { VmState::Running } else { record.state })
    }

    /// Makes a VM of the host as it is now.
    ///
    /// # Errors
    /// When the name is taken or the state directory cannot be written.
    pub fn create(&self, new: &NewVm) -> Result<(VmRecord, VmLock), FvmError> {
        let (record, lock) = lifecycle::create(&self.home, &facts()?, new)?;
        self.keep_bases(&record, new);
        Ok((record, lock))
    }

    /// Makes a VM and starts it for `call`, looking at the host once.
    ///
    /// # Errors
    /// As [`Fvm::create`] and [`Fvm::boot`]; a VM that did not start is not left behind.
    pub fn create_and_boot(&self, new: &NewVm, call: &Call) -> Result<Running, FvmError> {
        let facts = facts()?;
        let (mut record, lock) = lifecycle::create(&self.home, &facts, new)?;
        self.keep_bases(&record, new);
        match lifecycle::boot(&self.home, &facts, record.clone(), lock, &call.reach()) {
            Ok(running) => Ok(running),
            Err(e) => {
                if let Ok(Some(lock)) = self.home.try_lock(&record.id) {
                    lifecycle::delete(&self.home, &mut record, &lock)?;
                    self.home.empty_trash(true)?;
                }
                Err(e.into())
            }
        }
    }

    /// Keyed stores are kept as they are at the fork: programs of the host write them at any time.
    fn keep_bases(&self, record: &VmRecord, new: &NewVm) {
        if let (false, Some(user_home)) = (new.ephemeral, &new.user_home) {
            self.bases(record).keep_at_fork(&fvm_registry::base_candidates(user_home));
        }
    }

    /// Starts a stopped VM in this process, for `call`.
    ///
    /// # Errors
    /// When it is in use, or a step fails.
    pub fn boot(&self, record: VmRecord, call: &Call) -> Result<Running, FvmError> {
        let lock = self.lock(&record)?;
        Ok(lifecycle::boot(&self.home, &facts()?, record, lock, &call.reach())?)
    }

    /// Starts a stopped VM with a keeper of its own, running `call` if it has a program.
    ///
    /// # Errors
    /// When it is in use, or a step fails.
    pub fn detach(&self, record: VmRecord, call: &Call) -> Result<(), FvmError> {
        let lock = self.lock(&record)?;
        Ok(lifecycle::detach(&self.home, &facts()?, record, lock, call)?)
    }

    /// Runs a program in a running VM.
    ///
    /// # Errors
    /// When it is not running.
    pub fn exec(&self, record: &VmRecord, call: &Call) -> Result<Ended, FvmError> {
        Ok(lifecycle::exec(&self.home, record, call)?)
    }

    /// Ends a running VM, its processes having `grace_ms` to end by themselves.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop(&self, record: &VmRecord, grace_ms: u64) -> Result<(), FvmError> {
        Ok(lifecycle::stop(&self.home, record, grace_ms)?)
    }

    /// Ends a running VM at once.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&self, record: &VmRecord) -> Result<(), FvmError> {
        Ok(lifecycle::kill(&self.home, record)?)
    }

    /// Makes a running VM see what the host created, replaced or removed since it looked.
    ///
    /// # Errors
    /// When it is not running, or not all of it could be refreshed.
    pub fn refresh(&self, record: &VmRecord) -> Result<(), FvmError> {
        Ok(lifecycle::refresh(&self.home, record)?)
    }

    /// The numbers of a running VM's keeper and init.
    ///
    /// # Errors
    /// When it is not running.
    pub fn keeper_and_init(&self, record: &VmRecord) -> Result<(i32, i32), FvmError> {
        Ok(lifecycle::processes(&self.home, record)?)
    }

    /// The processes of a running VM.
    ///
    /// # Errors
    /// When it is not running.
    pub fn processes(&self, record: &VmRecord) -> Result<Vec<Process>, FvmError> {
        let (_, init) = self.keeper_and_init(record)?;
        Ok(fvm_vm::ps::processes(init))
    }

    /// Takes a stopped VM away; the slow part goes on behind.
    ///
    /// # Errors
    /// When it runs or is in use.
    pub fn delete(&self, record: VmRecord) -> Result<(), FvmError> {
        let lock = self.lock(&record)?;
        self.delete_locked(record, &lock)
    }

    /// The same for a VM whose lock the caller holds.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn delete_locked(&self, mut record: VmRecord, lock: &VmLock) -> Result<(), FvmError> {
        lifecycle::delete(&self.home, &mut record, lock)?;
        Ok(lifecycle::empty_trash_behind(&self.home)?)
    }

    /// The steps by which a VM would be started now, and what it would not have.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    pub fn explain(&self, record: &VmRecord) -> Result<(Vec<SetupOp>, Vec<String>), FvmError> {
        let blueprint = lifecycle::plan(&self.home, &facts()?, record);
        Ok((blueprint.ops, blueprint.notices))
    }

    /// The same for a VM that would be made now.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    pub fn explain_new(&self) -> Result<(Vec<SetupOp>, Vec<String>), FvmError> {
        let facts = facts()?;
        let record = lifecycle::draft(&self.home, &facts, &NewVm::default())?;
        let blueprint = lifecycle::plan(&self.home, &facts, &record);
        Ok((blueprint.ops, blueprint.notices))
    }

    /// Where the scan of a VM looks.
    #[must_use]
    pub fn scan_input(&self, record: &VmRecord) -> ScanInput {
        let layers = record
            .layers
            .iter()
            .map(|layer| LayerView { layer: layer.clone(), dir: Home::layer_dir(record, layer.n) })
            .filter(|view| view.dir.exists())
            .collect();
        ScanInput {
            layers,
            class: record.mode.xattr_class(),
            forked: record.forked,
            known: self.bases(record).known(),
            excluded: self.home.masked(record),
        }
    }

    /// Everything that a VM's layers hold against the host.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn changes(&self, record: &VmRecord) -> Result<ChangeSet, FvmError> {
        let mut set = fvm_changes::scan(&self.scan_input(record))?;
        let own = self.home.masked(record);
        for change in &mut set.changes {
            // A VM that moves or removes a directory above fvm's own state shall not take fvm with it.
            let moves = match &change.kind {
                ChangeKind::Deleted | ChangeKind::Retyped { .. } | ChangeKind::Renamed { .. } => change.base.as_ref(),
                _ => None,
            };
            if moves.is_some_and(|base| own.iter().any(|path| path.is_within(base))) {
                change.uncommittable = Some("fvm's own state lies below it".into());
            }
        }
        if !record.ephemeral {
            self.bases(record).keep_after_scan(&set.changes, record.forked);
        }
        Ok(set)
    }

    /// Decides what of `changes` shall reach the host.
    ///
    /// # Errors
    /// When a chosen path is not a change, or there are conflicts and the choice does not say what to do.
    pub fn decide(&self, record: &VmRecord, changes: &ChangeSet, choice: &Choice) -> Result<Plan, FvmError> {
        let input = self.scan_input(record);
        let settled = settle::settle(&input, changes, choice, &self.bases(record));
        let mut choice = choice.clone();
        choice.given.extend(settled.given);
        let plan = fvm_review::decide(changes, &choice, &self.layer_dirs(record)).map_err(|error| match error {
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
        Ok(plan.with_forked(record.forked))
    }

    /// The keys that `set` changes in keyed stores, such as `/etc/passwd` or dconf's database, file by file.
    #[must_use]
    pub fn keys(&self, record: &VmRecord, set: &ChangeSet) -> Vec<StoreChange> {
        let (input, bases) = (self.scan_input(record), self.bases(record));
        let of = |change: &model::Change| {
            let (store, keys) = settle::key_changes(&input, change, &bases)?;
            Some(StoreChange { path: change.path.clone(), store, keys })
        };
        set.changes.iter().filter_map(of).collect()
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
        let (input, bases) = (self.scan_input(record), self.bases(record));
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

    fn bases(&self, record: &VmRecord) -> bases::Bases {
        bases::Bases::of(&self.home.vm_dir(&record.id))
    }

    /// Carries a plan out. Unless `keep`, what was committed then leaves the VM's layers: the VM sees the host's
    /// version there, which is the same. `_lock`, the VM's, was held when the changes were read: it has not run since.
    ///
    /// # Errors
    /// When the host does not let it happen; see [`FvmError`] for what the host looks like then.
    pub fn commit(
        &self,
        _lock: &VmLock,
        record: &VmRecord,
        changes: &ChangeSet,
        plan: Plan,
        keep: bool,
        watch: &mut dyn Watch,
    ) -> Result<Committed, FvmError> {
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
        let parts = self.parts(record, changes, &plan);
        let what = fvm_commit::What::Commit { vm: record.id.to_string(), name: record.name.to_string() };
        let staying = match after::decode(&after) {
            Ok(after) if !after.all => fvm_changes::staying(&self.scan_input(record), after.changes())?,
            _ => HashSet::new(),
        };
        let options = fvm_commit::Options { what, may_move: !keep, staying, after: after.clone() };
        let prepared = fvm_commit::prepare(&HostDisk, held, &plan, &self.layer_dirs(record), &options, watch)?;
        let applied = prepared.publish()?;
        if !after.is_empty() {
            self.forget(record, &after)?;
        }
        for (path, before, after, conflict) in parts {
            self.bases(record).advance(&path, &before, &after, conflict);
        }
        let published = applied.finish()?;
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

    /// The files of which a part is committed: path, the host's version before and after, whether there is a conflict.
    fn parts(&self, record: &VmRecord, changes: &ChangeSet, plan: &Plan) -> Vec<(VmPath, Vec<u8>, Vec<u8>, bool)> {
        let whole: HashSet<&VmPath> = plan.whole.iter().collect();
        let input = self.scan_input(record);
        let part = |op: &model::PlanOp| {
            let Some(model::plan::Content::Given { bytes }) = op.content() else { return None };
            let change = changes.changes.iter().find(|c| c.path == op.path)?;
            let (before, _) = fvm_changes::text::contents(&input, change).ok()??;
            Some((op.path.clone(), before, bytes.0.as_encoded_bytes().to_vec(), change.conflict.is_some()))
        };
        plan.ops.iter().filter(|op| !whole.contains(&op.path)).filter_map(part).collect()
    }

    /// After a commit the VM's copies equal the host's: dropping them makes the VM see the host's own again. When
    /// nothing else is left, the VM is as if forked now.
    fn forget(&self, record: &VmRecord, after: &[u8]) -> Result<(), FvmError> {
        let now = lifecycle::now();
        let after = after::decode(after)?;
        fvm_changes::forget(&self.scan_input(record), after.what())?;
        self.bases(record).renew(after.paths().as_ref());
        if after.all {
            self.home.save(&VmRecord { forked: now, ..record.clone() }, true)?;
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
        let store = self.commits();
        let held = store.hold()?;
        Ok(fvm_commit::gc(&HostDisk, &store, &held, keep)?)
    }

    /// Drops changes of a stopped VM: it sees the host's version there again.
    ///
    /// # Errors
    /// When the VM runs, or a path is not a change.
    pub fn discard(&self, record: &VmRecord, changes: &ChangeSet, chosen: &[VmPath]) -> Result<usize, FvmError> {
        let _lock = self.lock(record)?;
        let dropped = fvm_changes::discard(&self.scan_input(record), changes, chosen)?;
        self.bases(record).renew(Some(&chosen.iter().collect()));
        Ok(dropped)
    }

    /// What fvm can do on this machine.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    pub fn doctor(&self) -> Result<(Kernel, model::Mode, Result<fvm_host::LayersPlace, String>), FvmError> {
        let kernel = fvm_host::probe(self.home.state_dir(), self.home.run_dir());
        let place = fvm_host::choose_layers_dir(self.home.state_dir(), self.home.run_dir()).map_err(|e| e.to_string());
        Ok((kernel, lifecycle::mode_for(&facts()?), place))
    }

    /// The file that holds what a detached program printed.
    #[must_use]
    pub fn output_log(&self, record: &VmRecord) -> PathBuf {
        self.home.output_log(&record.id)
    }

    /// Takes a VM's lock, or says who may have it.
    ///
    /// # Errors
    /// When it runs or another command holds it.
    pub fn lock(&self, record: &VmRecord) -> Result<VmLock, FvmError> {
        match self.home.try_lock(&record.id)? {
            Some(lock) => Ok(lock),
            None => match lifecycle::processes(&self.home, record) {
                Ok(_) => Err(FvmError::Running(record.name.clone())),
                Err(_) => Err(VmError::Busy(record.name.clone()).into()),
            },
        }
    }

    fn layer_dirs(&self, record: &VmRecord) -> Vec<LayerDir> {
        let of = |layer: &model::Layer| LayerDir {
            n: layer.n,
            host: layer.host.clone(),
            dir: Home::layer_dir(record, layer.n),
        };
        record.layers.iter().filter(|l| l.kind != LayerKind::File).map(of).collect()
    }
}

/// Counts the selected changes by kind.
fn count(changes: &ChangeSet, selected: &[VmPath]) -> Summary {
    let selected: HashSet<&VmPath> = selected.iter().collect();
    let chosen = changes.changes.iter().filter(|c| selected.contains(&c.path));
    ChangeSet { changes: chosen.cloned().collect(), ..ChangeSet::default() }.summary()
}

fn facts() -> Result<HostFacts, FvmError> {
    Ok(fvm_host::collect()?)
}

/// A path that a person typed, as a path in a VM: relative ones begin at `cwd`, `..` is taken away by name.
///
/// # Errors
/// When it leaves `/` or holds NUL.
pub fn vm_path(cwd: &Path, typed: &Path) -> Result<VmPath, model::path::PathError> {
    let mut clean = PathBuf::from("/");
    for part in cwd.join(typed).components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            std::path::Component::Normal(name) => clean.push(name),
            _ => {}
        }
    }
    VmPath::new(clean)
}

/// Whether a key of a keyed store matches `pattern`: `*` and `?` stand for anything, `\\` for itself, as Wine's keys have it.
///
/// # Errors
/// When the pattern cannot be read.
pub fn key_pattern(pattern: &str) -> Result<impl Fn(&str) -> bool, FvmError> {
    fvm_review::key_pattern(pattern).map_err(Into::into)
}

/// A checked VM name.
///
/// # Errors
/// When `text` is not one.
pub fn vm_name(text: &str) -> Result<VmName, model::vm::NameError> {
    text.parse()
}
