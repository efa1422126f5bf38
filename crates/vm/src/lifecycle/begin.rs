//! The start of a VM up to its init, whoever is to keep it: the command itself, a keeper of its own, or a pool's.
//!
//! ```text
//!   record + facts ─ plan ─► layers, groups, scope ─ launch::begin ─► Begun ─ wait | listen ─► Up
//! ```
//!
//! A VM that is thrown away, and that nobody knows by name, is put on the disk while it is being built:
//!
//! ```text
//!   launch::begin ─┬─ here: directory, lock, record, layers ─┐ a byte for each layer
//!                  └─ builder: namespaces ───────────────────┴─► mounts
//! ```
//!
//! Invariants: the caller holds the VM's lock, or gets it; given up halfway, nothing of it is left running.

use super::{mode_for, plan};
use crate::blueprint::Blueprint;
use crate::disk;
use crate::error::VmError;
use crate::executor::Site;
use crate::groups::Groups;
use crate::home::{Home, VmLock};
use crate::keeper;
use crate::kept::Kept;
use crate::launch::{self, First, Launched, Pending};
use crate::layers;
use crate::quota::Quota;
use crate::scope::Scope;
use crate::stack;
use fvm_host::HostFacts;
use fvm_model::{Mode, Network, VmEvent, VmRecord};
use fvm_sys::heir::Heir;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use std::path::PathBuf;

/// For whom a VM is started.
#[derive(Debug, Default)]
pub(crate) struct Caller<'a> {
    /// Directories that its program will work in.
    pub reach: Vec<PathBuf>,
    /// The host's session bus, where an ordinary user's limits are asked for.
    pub host_bus: Option<&'a str>,
    /// The soft limit of open files that it had before it raised that.
    pub files: Option<u64>,
    /// It holds many VMs, by descriptors of higher numbers than those that it needs to make one.
    pub holds_many: bool,
}

/// A VM whose init is being started.
#[derive(Debug)]
pub(crate) struct Begun {
    pub pending: Pending,
    home: Home,
    record: VmRecord,
    groups: Option<Groups>,
    scope: Option<Scope>,
    notices: Vec<String>,
}

/// A VM whose init is there.
#[derive(Debug)]
pub(crate) struct Up {
    pub vm: Launched,
    pub kept: Kept,
    /// What it does not have, in words.
    pub notices: Vec<String>,
}

/// Begins to start `record`. The calling process must have one thread; see [`launch::launch`].
pub(crate) fn begin(
    home: &Home,
    facts: &HostFacts,
    record: VmRecord,
    caller: &Caller<'_>,
    first: Option<First<'_>>,
) -> Result<Begun, VmError> {
    let drawn = Drawn::new(home, facts, record)?;
    drawn.settle(home, caller, || Ok(()))?;
    drawn.begin(home, caller, first, None, || Ok(()))
}

/// The same of one that is not on the disk yet; its lock.
pub(crate) fn begin_new(
    home: &Home,
    facts: &HostFacts,
    record: VmRecord,
    caller: &Caller<'_>,
    first: Option<First<'_>>,
) -> Result<(Begun, VmLock), VmError> {
    let drawn = Drawn::new(home, facts, record)?;
    let policy = &drawn.record.policy;
    // A user's network is made by processes that do not wait; control groups without a record would be nobody's.
    let is_users_network = drawn.record.mode == Mode::Rootless && policy.network == Network::Own;
    if is_users_network || policy.limits.any() || policy.wants_groups() {
        let lock = home.create_dir(&drawn.record.id)?;
        drawn.settle(home, caller, || Ok(()))?;
        return Ok((drawn.begin(home, caller, first, None, || Ok(()))?, lock));
    }
    let (to_come, made) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| VmError::Sys("make a pipe", e))?;
    let mut lock = None;
    let begun = drawn.begin(home, caller, first, Some(to_come), || {
        // Held, so that it is nobody's to sweep, however long the rest takes.
        lock = Some(home.create_dir(&drawn.record.id)?);
        // Where nobody hears it the VM could not be begun, as is said then.
        let made = || rustix::io::write(&made, b"!").map(drop).or(Ok(()));
        if drawn.is_in_memory(home) {
            // Whoever builds waits for the layers.
            drawn.layers(caller, made)?;
            return drawn.record(home);
        }
        drawn.settle(home, caller, made)
    })?;
    let lock = lock.ok_or_else(|| VmError::Internal("a VM without a lock".into()))?;
    Ok((begun, lock))
}

/// A VM and the plan by which it starts.
struct Drawn {
    record: VmRecord,
    blueprint: Blueprint,
    /// Its record is to be written: also when it is to last.
    is_changed: bool,
    has_news: bool,
}

impl Drawn {
    fn new(home: &Home, facts: &HostFacts, mut record: VmRecord) -> Result<Self, VmError> {
        record.state.next(VmEvent::Start).map_err(|source| VmError::State { name: record.name.clone(), source })?;
        if record.mode == Mode::Rootless && mode_for(facts) != Mode::Rootless {
            return Err(VmError::UsersVm(record.name.clone()));
        }
        let blueprint = plan(home, facts, &record);
        let has_news = blueprint.layers != record.layers;
        let last_run = (std::mem::take(&mut record.restarts), record.last_exit.take());
        let is_changed = has_news || record.ephemeral || last_run != (0, None);
        if is_changed {
            record.layers.clone_from(&blueprint.layers);
        }
        Ok(Self { record, blueprint, is_changed, has_news })
    }

    /// Puts on the disk what must be there; `made` is called after each layer.
    fn settle(
        &self,
        home: &Home,
        caller: &Caller<'_>,
        made: impl FnMut() -> Result<(), VmError>,
    ) -> Result<(), VmError> {
        self.record(home)?;
        stack::complete(home, &self.record)?;
        disk::reach(home, &self.record)?;
        self.layers(caller, made)
    }

    /// Whether its layers need nothing of the disk, and lie where a sweep looks for those of a VM without a record.
    fn is_in_memory(&self, home: &Home) -> bool {
        let Self { record, .. } = self;
        let is_light = record.ephemeral && record.below.is_empty() && !disk::has(home, record);
        is_light && fvm_host::memory_layers_made().is_some_and(|place| record.layers_dir.as_path().starts_with(place))
    }

    fn record(&self, home: &Home) -> Result<(), VmError> {
        let Self { record, is_changed, has_news, .. } = self;
        if *is_changed {
            home.save(record, *has_news && !record.ephemeral && record.pool.is_none())?;
        }
        Ok(())
    }

    fn layers(&self, caller: &Caller<'_>, made: impl FnMut() -> Result<(), VmError>) -> Result<(), VmError> {
        let Self { record, blueprint, .. } = self;
        layers::prepare(record.layers_dir.as_path(), &record.below, blueprint, record.mode, &caller.reach, made)
    }

    fn begin(
        &self,
        home: &Home,
        caller: &Caller<'_>,
        first: Option<First<'_>>,
        layers_to_come: Option<OwnedFd>,
        meanwhile: impl FnOnce() -> Result<(), VmError>,
    ) -> Result<Begun, VmError> {
        let Self { record, blueprint, .. } = self;
        let groups = match record.mode {
            Mode::Rootless => None,
            Mode::Shifted | Mode::Identity => Groups::make(&record.id, &record.policy)?,
        };
        let mut site = Site::new(
            record.id.to_string(),
            home.tree_dir(),
            record.layers_dir.as_path().into(),
            record.mode,
            record.ephemeral,
        );
        site.run_dir = home.run_dir().into();
        site.below = record.below.iter().map(|dir| dir.as_path().into()).collect();
        site.doors = groups.as_ref().map_or_else(|| Ok(Vec::new()), Groups::doors)?;
        let limits = &record.policy.limits;
        let (scope, gate) = match record.mode {
            Mode::Rootless => Scope::prepare(&record.id, limits, home.run_dir().parent(), caller.host_bus)?.unzip(),
            Mode::Shifted | Mode::Identity => (None, None),
        };
        site.gate = gate;
        site.files = caller.files;
        site.held_above = caller.holds_many;
        site.layers_to_come = layers_to_come;
        let counts = groups.is_some() || scope.as_ref().is_some_and(Scope::counts_processes);
        site.pids = record.policy.limits.pids.filter(|_| !counts);
        let pending = launch::begin(site, blueprint, first, meanwhile)?;
        let (record, notices) = (record.clone(), blueprint.notices.clone());
        Ok(Begun { pending, home: home.clone(), record, groups, scope, notices })
    }
}

/// What is left to be done of a VM that was taken out of sight, and of which only init is left. `init`: its pidfd.
pub(super) fn clean(home: &Home, init: &OwnedFd, record: &VmRecord) -> Result<(), VmError> {
    // The end of who had it has killed it; this does not hang on that.
    let _already_gone = rustix::process::pidfd_send_signal(init, Signal::KILL);
    home.remove_socket(&record.id)?;
    keeper::await_end(init);
    // First what would be lost sight of if somebody removed the state directory meanwhile.
    home.remove_outside(record)?;
    home.empty_trash()
}

/// A process that cleans up after the VM of `init` when it is told to, if one can be started. While it has `held`, nobody sees
/// that this process has closed them.
pub(super) fn cleaner(home: &Home, init: &OwnedFd, record: &VmRecord, held: &[RawFd]) -> Option<Heir> {
    let init = rustix::io::fcntl_dupfd_cloexec(init, 3).ok()?;
    let kept = [&[init.as_raw_fd()], held].concat();
    let (home, record) = (home.clone(), record.clone());
    let work = move || clean(&home, &init, &record).is_err().into();
    Heir::new(&kept, Box::new(work)).ok()
}

impl Begun {
    /// The same before the VM is there, but for its init.
    ///
    /// # Errors
    /// When the VM cannot be.
    pub fn cleaner(&mut self) -> Result<Option<Heir>, VmError> {
        let init = self.pending.init()?;
        Ok(cleaner(&self.home, &init, &self.record, &[]))
    }

    /// Whether nothing will have to be told or taken back of the VM when it is thrown away.
    pub fn is_light(&self) -> bool {
        let is_limited = self.groups.is_some() || self.scope.is_some() || self.record.policy.limits.any();
        self.record.ephemeral && !is_limited && !disk::has(&self.home, &self.record)
    }

    /// The VM's record.
    pub fn record(&self) -> VmRecord {
        self.record.clone()
    }

    /// Waits until init is ready.
    pub fn wait(mut self) -> Result<Up, VmError> {
        while !self.pending.listen()? {}
        self.up()
    }

    /// Once [`Pending::listen`] has said that init is ready.
    pub fn up(self) -> Result<Up, VmError> {
        let Self { pending, home, record, groups, mut scope, mut notices } = self;
        let mut vm = pending.launched()?;
        if let Some(scope) = &mut scope {
            scope.settle();
        }
        vm.quota = Quota::of(&home, &record);
        notices.append(&mut vm.notices);
        notices.extend(disk::notice(&home, &record));
        Ok(Up { vm, kept: Kept::new(&home, record, groups, scope), notices })
    }
}
