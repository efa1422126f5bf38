//! The start of a VM up to its init, whoever is to keep it: the command itself, a keeper of its own, or a pool's.
//!
//! ```text
//!   record + facts ─ plan ─► layers, groups, scope ─ launch::begin ─► Begun ─ wait | listen ─► Up
//! ```
//!
//! Invariants: the caller holds the VM's lock; given up halfway, nothing of it is left running.

use super::{mode_for, plan};
use crate::disk;
use crate::error::VmError;
use crate::executor::Site;
use crate::groups::Groups;
use crate::home::Home;
use crate::kept::Kept;
use crate::launch::{self, First, Launched, Pending};
use crate::layers;
use crate::quota::Quota;
use crate::scope::Scope;
use crate::stack;
use fvm_host::HostFacts;
use fvm_model::{Mode, VmEvent, VmRecord};
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
    mut record: VmRecord,
    caller: &Caller<'_>,
    first: Option<First<'_>>,
) -> Result<Begun, VmError> {
    record.state.next(VmEvent::Start).map_err(|source| VmError::State { name: record.name.clone(), source })?;
    if record.mode == Mode::Rootless && mode_for(facts) != Mode::Rootless {
        return Err(VmError::UsersVm(record.name.clone()));
    }
    let blueprint = plan(home, facts, &record);
    let has_news = blueprint.layers != record.layers;
    let last_run = (std::mem::take(&mut record.restarts), record.last_exit.take());
    if has_news || record.ephemeral || last_run != (0, None) {
        record.layers.clone_from(&blueprint.layers);
        home.save(&record, has_news && !record.ephemeral && record.pool.is_none())?;
    }
    stack::complete(home, &record)?;
    disk::reach(home, &record)?;
    layers::prepare(record.layers_dir.as_path(), &record.below, &blueprint, record.mode, &caller.reach)?;
    let groups = match record.mode {
        Mode::Rootless => None,
        Mode::Shifted | Mode::Identity => Groups::make(&record.id, &record.policy)?,
    };
    let mut site = Site::new(
        record.id.to_string(),
        home.vm_dir(&record.id).join("root"),
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
    let counts = groups.is_some() || scope.as_ref().is_some_and(Scope::counts_processes);
    site.pids = record.policy.limits.pids.filter(|_| !counts);
    let pending = launch::begin(site, &blueprint, first)?;
    Ok(Begun { pending, home: home.clone(), record, groups, scope, notices: blueprint.notices })
}

impl Begun {
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
