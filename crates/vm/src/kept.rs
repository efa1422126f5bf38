//! What a keeper knows of its VM and may change while it runs: the record, and the groups that hold its limits.
//!
//! ```text
//!   Request::Configure ─► configure ─┐
//!   the program ended  ─► ended ─────┼─► record ─► vm.json        saved by the keeper alone: it holds the lock
//!   the VM ended       ─► close ─────┘
//! ```
//!
//! Invariants: what is in force is what is saved: a change that cannot be saved is taken back (an ordinary
//! user's lower limit of processes cannot be, and that is said); nothing is lost by a record
//! that was read earlier, for there is one, here.

use crate::disk;
use crate::error::VmError;
use crate::groups::{self, Groups};
use crate::home::Home;
use crate::proto::Configuration;
use crate::quota::Quota;
use crate::scope::Scope;
use fvm_model::policy::Limits;
use fvm_model::vm::Given;
use fvm_model::{Mode, VmName, VmRecord};
use fvm_trace::capture::Settler;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The record of a VM that runs, and its groups.
#[derive(Debug)]
pub struct Kept {
    home: Home,
    state: Mutex<State>,
    settler: OnceLock<Settler>,
}

#[derive(Debug)]
struct State {
    record: VmRecord,
    groups: Option<Groups>,
    scope: Option<Scope>,
}

impl Kept {
    /// Of a VM whose lock the caller holds.
    #[must_use]
    pub fn new(home: &Home, record: VmRecord, groups: Option<Groups>, scope: Option<Scope>) -> Self {
        Self { home: home.clone(), state: Mutex::new(State { record, groups, scope }), settler: OnceLock::new() }
    }

    /// Its calls are captured: what has all that was seen written down.
    pub(crate) fn is_traced(&self, settler: Settler) {
        // A VM has one tracer in a keeper's life.
        let _first = self.settler.set(settler);
    }

    /// All that its log's tracer saw is written down: whether it is, or there is no tracer.
    pub(crate) fn settle(&self) -> bool {
        self.settler.get().is_none_or(Settler::settle)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state directory.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Whether the VM is in control groups.
    #[must_use]
    pub fn has_groups(&self) -> bool {
        let state = self.state();
        state.groups.is_some() || state.scope.is_some()
    }

    /// The record as it is now.
    #[must_use]
    pub fn record(&self) -> VmRecord {
        self.state().record.clone()
    }

    /// What `look` sees in it.
    pub fn look<T>(&self, look: impl FnOnce(&VmRecord) -> T) -> T {
        look(&self.state().record)
    }

    /// Changes what can be changed while the VM runs, and saves it.
    ///
    /// # Errors
    /// When something else is to be changed, the VM is not as the client thought, or the kernel refuses; nothing is
    /// changed then.
    pub fn configure(&self, wanted: &Configuration, init: i32, quota: Option<&Quota>) -> Result<(), VmError> {
        let mut state = self.state();
        let State { record, groups, scope } = &mut *state;
        if record.policy != wanted.from {
            return Err(VmError::Changed(record.name.clone()));
        }
        let fixed = record.policy.fixed_against(&wanted.to);
        if !fixed.is_empty() {
            return Err(VmError::Fixed { name: record.name.clone(), what: fixed.join(", ") });
        }
        let (before, after) = (record.policy.limits, wanted.to.limits);
        apply(record, groups, scope.as_ref(), init, &before, &after)?;
        let mut changed = VmRecord { policy: wanted.to.clone(), ..record.clone() };
        changed.restart = wanted.restart.unwrap_or(record.restart);
        let resized = self.resize(record, quota, before.disk_bytes, after.disk_bytes);
        if let Err(error) = resized.and_then(|()| self.home.save(&changed, !changed.ephemeral)) {
            return Err(match apply(record, groups, scope.as_ref(), init, &after, &before) {
                Ok(()) => error,
                Err(also) => VmError::Limit { what: "as before".into(), why: format!("{error}; and {also}") },
            });
        }
        if let Some(quota) = quota.filter(|_| before.disk_bytes != after.disk_bytes) {
            quota.set(after.disk_bytes.unwrap_or(u64::MAX));
        }
        *record = changed;
        Ok(())
    }

    /// The limit of disk of a VM that runs. A file system that has grown stays so.
    fn resize(
        &self,
        record: &VmRecord,
        quota: Option<&Quota>,
        before: Option<u64>,
        after: Option<u64>,
    ) -> Result<(), VmError> {
        if before == after {
            return Ok(());
        }
        match (disk::has(&self.home, record), quota, after) {
            (true, _, Some(bytes)) => disk::grow(&self.home, record, bytes, true),
            (true, _, None) => Err(disk::stays()),
            // When the rest is saved.
            (false, Some(_), _) => Ok(()),
            (false, None, _) => {
                let why = "nobody watches it: the VM was started without that limit; stop it first".into();
                Err(VmError::Limit { what: "disk".into(), why })
            }
        }
    }

    /// Whether the program is to be started again, which ended with this exit status.
    #[must_use]
    pub fn restarts_after(&self, exit_status: i32) -> bool {
        let state = self.state();
        state.record.restart.applies(exit_status, state.record.restarts)
    }

    /// The program has ended.
    pub fn ended(&self, exit_status: i32) {
        self.note(|record| record.last_exit = Some(exit_status));
    }

    /// It is started again.
    pub fn restarted(&self) {
        self.note(|record| record.restarts = record.restarts.saturating_add(1));
    }

    /// The VM waits in a pool no more (`None`), or again. Of one that was given, `keep`: it stays when its program has ended; `name`:
    /// as it is called from now on; `fresh`: its layers are empty, and it has seen nothing yet of what the host has changed since it was
    /// made, so it counts as forked then.
    ///
    /// # Errors
    /// When it cannot be saved.
    pub fn move_to(
        &self,
        pool: Option<&VmName>,
        name: Option<&VmName>,
        keep: bool,
        fresh: Option<Given>,
    ) -> Result<(), VmError> {
        let mut state = self.state();
        let change = |record: &mut VmRecord| {
            record.pool = pool.cloned();
            record.ephemeral = !keep;
            record.given = fresh.or(record.given);
            if let Some(name) = name {
                record.name = name.clone();
            }
        };
        // What is thrown away and nobody knows by name may be written when its program has been started; and most of a record is the
        // policy's lists.
        if keep || name.is_some() || pool.is_some() {
            let mut changed = state.record.clone();
            change(&mut changed);
            self.home.save(&changed, keep)?;
            state.record = changed;
        } else {
            change(&mut state.record);
        }
        Ok(())
    }

    /// Writes what [`Kept::move_to`] has left.
    ///
    /// # Errors
    /// When it cannot be saved.
    pub fn save(&self) -> Result<(), VmError> {
        let state = self.state();
        self.home.save(&state.record, !state.record.ephemeral)
    }

    /// What need not survive a power cut.
    fn note(&self, change: impl FnOnce(&mut VmRecord)) {
        let mut state = self.state();
        change(&mut state.record);
        // On a full disk only `inspect` does not know; the next save tries again.
        let _unsaved = self.home.save(&state.record, false);
    }

    /// The VM has ended: removes its groups, and gives its record back, with what its limits, and `also`, did to it.
    ///
    /// # Errors
    /// When that cannot be saved.
    pub fn close(self, also: Option<String>) -> Result<VmRecord, VmError> {
        let State { mut record, groups, scope } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let limits = &record.policy.limits;
        let mut reached = groups.as_ref().map(|groups| groups.reached(limits)).unwrap_or_default();
        reached.extend(scope.iter().flat_map(|scope| scope.reached(limits)));
        // Its control groups may go now.
        drop(scope);
        reached.extend(also);
        if record.reached != reached {
            record.reached = reached;
            self.home.save(&record, false)?;
        }
        Ok(record)
    }
}

/// Limits of a running VM, in the way of its mode.
fn apply(
    record: &VmRecord,
    groups: &mut Option<Groups>,
    scope: Option<&Scope>,
    init: i32,
    from: &Limits,
    to: &Limits,
) -> Result<(), VmError> {
    let of_groups = |limits: &Limits| Limits { disk_bytes: None, ..*limits };
    let (from, to) = (&of_groups(from), &of_groups(to));
    if from == to {
        return Ok(());
    }
    match record.mode {
        Mode::Shifted | Mode::Identity => groups::change(groups, &record.id, init, from, to),
        // It counts processes from the start, or somebody else does.
        Mode::Rootless if scope.is_some_and(|scope| scope.counts_processes() || from.pids == to.pids) => {
            scope.map_or(Ok(()), |scope| scope.change(to, init))
        }
        Mode::Rootless => {
            let refused = |what: &str, why: &str| Err(VmError::Limit { what: what.into(), why: why.into() });
            let pids = |limits: &Limits| Limits { pids: None, ..*limits };
            match (from.pids, to.pids) {
                _ if pids(from) != pids(to) => refused(
                    "memory, processors",
                    "an ordinary user's VM that was started without such limits has no control groups: stop it first",
                ),
                (before, Some(most)) if before.is_none_or(|before| most < before) => {
                    groups::lower_processes(init, most).map_err(|why| VmError::Limit { what: "pids".into(), why })
                }
                _ => refused(
                    "pids",
                    "an ordinary user can lower the limit of processes that run, not raise it: stop the VM first",
                ),
            }
        }
    }
}
