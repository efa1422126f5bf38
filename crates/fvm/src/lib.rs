#![doc = include_str!("../README.md")]
//!
//! Invariants: only this crate composes the stages; it prints nothing and reads no environment variable; it never leaves a program
//! with threads in a state that depends on what they held.

mod after;
mod analyze;
mod bases;
mod changes;
mod child;
mod commits;
mod copy;
mod error;
mod interrupts;
mod live;
mod marks;
mod migrate;
mod policies;
mod pool;
mod settle;
mod stack;
mod trace;
mod worker;

pub use analyze::{ALL_LEFT_OUT, Findings, withheld};
pub use changes::Sight;
pub use child::{CAPTURE_MAX_BYTES, Child, Output, Place, Ran, Stream, Streams};
pub use commits::{Committed, How, StoreChange};
pub use copy::in_vm;
pub use error::FvmError;
pub use fvm_analyze::{Exceptions, Settings, Sigma, rules};
pub use fvm_changes::text::{BothTexts, FileDiff, diff_file, texts};
pub use fvm_changes::{ScanError, ScanInput, Sheet, filter, open_after};
pub use fvm_commit::{Keep, OpLine, Outcome, Published, Record, Recovered, Unwatched, Watch, What};
pub use fvm_host::{Kernel, Level};
pub use fvm_marks::{Act, Book, BookError, Hash, Known, Mark, NAMES as MARK_NAMES, Verb, hash_of};
pub use fvm_model as model;
pub use fvm_registry::KeyChange;
pub use fvm_review::{Choice, Conflict, Given, OnConflict, hunks, named, narrow};
pub use fvm_sys::socket;
pub use fvm_trace::origin::Maker;
pub use fvm_trace::tree::{Ended as ProcessEnded, Node};
pub use fvm_trace::{Filter, Integrity, Log, LogError, Origins, Tree, ecs};
pub use fvm_vm::attach::{Attached, Ended};
pub use fvm_vm::offspring::{Birth, Offspring};
pub use fvm_vm::pool::{PoolChild, Taken};
pub use fvm_vm::proto::Info;
pub use fvm_vm::ps::Process;
pub use fvm_vm::service::log as service_log;
pub use fvm_vm::usage::Usage;
pub use fvm_vm::{Call, Found, Home, NewVm, Running, SetupOp, Step, Timeout, VmError, VmLock};
pub use interrupts::Interrupts;
pub use marks::{By, Entry as MarksEntry, Marked, REQUEST as MARKS_REQUEST, Risks};
pub use migrate::{Imported, Machine};
pub use policies::{PolicyEntry, amended, amended_policy, policies, policy};
pub use pool::NewPool;
pub use trace::{Made, made_by};

use fvm_changes::LayerView;
use fvm_host::HostFacts;
use fvm_model::path::Bytes;
use fvm_model::plan::LayerDir;
use fvm_model::service::{ServiceAction, ServiceAnswer, ServiceRequest};
use fvm_model::{ChangeSet, LayerKind, Policy, Restart, VmName, VmPath, VmRecord, VmState};
use fvm_vm::lifecycle;
use std::path::{Path, PathBuf};

/// A state directory, open.
#[derive(Debug)]
pub struct Fvm {
    home: Home,
    views: stack::Views,
    starter: child::Starter,
}

impl Fvm {
    /// Opens the state directory `state`, with run-time things in `run`; creates both when they are not there.
    ///
    /// # Errors
    /// When they cannot be used, or were written by a newer fvm.
    pub fn open(state: &Path, run: &Path) -> Result<Self, FvmError> {
        Ok(Self { home: Home::open(state, run)?, views: stack::Views::default(), starter: child::Starter::default() })
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
        Ok(lifecycle::look(&self.home, record)?.0)
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
        if lifecycle::is_fleeting(&facts, new) {
            return Ok(lifecycle::boot_new(&self.home, &facts, new, call)?);
        }
        let (mut record, lock) = lifecycle::create(&self.home, &facts, new)?;
        self.keep_bases(&record, new);
        match lifecycle::boot(&self.home, &facts, record.clone(), lock, call, true) {
            Ok(running) => Ok(running),
            Err(e) => {
                if let Ok(Some(lock)) = self.home.try_lock(&record.id) {
                    lifecycle::delete(&self.home, &mut record, &lock)?;
                    self.home.empty_trash()?;
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
        self.check_requirements(&record.policy)?;
        let lock = self.lock(&record)?;
        Ok(lifecycle::boot(&self.home, &facts()?, record, lock, call, true)?)
    }

    /// Starts a stopped VM with a keeper of its own, running `call` if it has a program.
    ///
    /// # Errors
    /// When it is in use, or a step fails.
    pub fn detach(&self, record: VmRecord, call: &Call) -> Result<(), FvmError> {
        let order = || worker::What::Detach { vm: record.id.clone(), call: Box::new(call.clone()) };
        if let Some(done) = self.done_there(order) {
            return done;
        }
        self.check_requirements(&record.policy)?;
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

    /// Lets none of a running VM's processes run, until it is resumed or ended.
    ///
    /// # Errors
    /// When it is not running, or could not be suspended.
    pub fn suspend(&self, record: &VmRecord) -> Result<(), FvmError> {
        Ok(lifecycle::suspend(&self.home, record)?)
    }

    /// Lets a suspended VM run on.
    ///
    /// # Errors
    /// When it is not suspended.
    pub fn resume(&self, record: &VmRecord) -> Result<(), FvmError> {
        Ok(lifecycle::resume(&self.home, record)?)
    }

    /// A running VM's processes on the host, and its address.
    ///
    /// # Errors
    /// When it is not running.
    pub fn info(&self, record: &VmRecord) -> Result<Info, FvmError> {
        Ok(lifecycle::info(&self.home, record)?)
    }

    /// What a VM does now, and, if it runs, what [`Fvm::info`] says.
    ///
    /// # Errors
    /// When its lock cannot be queried.
    pub fn look(&self, record: &VmRecord) -> Result<(VmState, Option<Info>), FvmError> {
        Ok(lifecycle::look(&self.home, record)?)
    }

    /// What a running VM uses of the machine.
    #[must_use]
    pub fn usage(&self, record: &VmRecord, info: &Info) -> Usage {
        fvm_vm::usage::usage(&record.id, info.init)
    }

    /// What the layers of a VM take on the disk, in bytes.
    #[must_use]
    pub fn disk(&self, record: &VmRecord) -> u64 {
        fvm_vm::disk::taken(&self.home, record).unwrap_or_else(|| fvm_vm::usage::disk(record))
    }

    /// The processes of a running VM.
    ///
    /// # Errors
    /// When it is not running.
    pub fn processes(&self, record: &VmRecord) -> Result<Vec<Process>, FvmError> {
        Ok(fvm_vm::ps::processes(&record.id, self.info(record)?.init))
    }

    /// The numbers of the processes of a running VM, as the host has them. `info`: what [`Fvm::info`] said of it.
    #[must_use]
    pub fn process_ids(&self, record: &VmRecord, info: &Info) -> Vec<i32> {
        fvm_vm::ps::ids(&record.id, info.init)
    }

    /// Gives a stopped VM another name.
    ///
    /// # Errors
    /// When the name is taken, or the VM runs or is in use.
    pub fn rename(&self, record: &VmRecord, name: &VmName) -> Result<VmRecord, FvmError> {
        let lock = self.lock(record)?;
        Ok(lifecycle::rename(&self.home, record, name, &lock)?)
    }

    /// Changes what a VM may use, and when its program is started again; of one that runs, at once. What is `None` stays as
    /// it is. Either all is changed or nothing.
    ///
    /// # Errors
    /// When it runs and something else than limits is to be changed, when the kernel refuses, or when the VM was changed
    /// since `record` was read.
    pub fn configure(
        &self,
        record: &VmRecord,
        policy: Option<Policy>,
        restart: Option<Restart>,
    ) -> Result<VmRecord, FvmError> {
        let policy = policy.unwrap_or_else(|| record.policy.clone());
        match self.lock(record) {
            Ok(lock) => {
                let restart = restart.unwrap_or(record.restart);
                Ok(lifecycle::configure(&self.home, record, policy, restart, &lock)?)
            }
            Err(FvmError::Running(_)) => Ok(lifecycle::configure_live(&self.home, record, policy, restart)?),
            Err(e) => Err(e),
        }
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
        if !record.below.is_empty() {
            fvm_vm::stack::sweep(&self.home)?;
        }
        match self.done_there_later(worker::What::EmptyTrash) {
            Some(ordered) => ordered,
            None => Ok(lifecycle::empty_trash_behind(&self.home)?),
        }
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
    pub fn explain_new(&self, policy: &model::Policy) -> Result<(Vec<SetupOp>, Vec<String>), FvmError> {
        let facts = facts()?;
        let new = NewVm { policy: policy.clone(), ..NewVm::default() };
        let record = lifecycle::draft(&self.home, &facts, &new)?;
        let blueprint = lifecycle::plan(&self.home, &facts, &record);
        Ok((blueprint.ops, blueprint.notices))
    }

    /// Drops changes of a stopped VM: it sees the host's version there again.
    ///
    /// # Errors
    /// When the VM runs, or a path is not a change.
    pub fn discard(&self, record: &VmRecord, changes: &ChangeSet, chosen: &[VmPath]) -> Result<usize, FvmError> {
        let lock = self.lock(record)?;
        let record = &self.own(&lock, record)?;
        let dropped = fvm_changes::discard(&self.scan_input(record)?, changes, chosen)?;
        self.bases(record).renew(Some(&chosen.iter().collect()));
        Ok(dropped)
    }

    /// What fvm can do on this machine.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    pub fn doctor(&self) -> Result<(Kernel, model::Mode, Result<fvm_host::LayersPlace, String>), FvmError> {
        may_probe()?;
        let kernel = fvm_host::probe(self.home.state_dir(), self.home.run_dir());
        let place = fvm_host::choose_layers_dir(self.home.state_dir(), self.home.run_dir()).map_err(|e| e.to_string());
        Ok((kernel, lifecycle::mode_for(&facts()?), place))
    }

    /// The routers that serve root's VMs now, or wait some seconds for the next.
    #[must_use]
    pub fn routers(&self) -> Vec<fvm_vm::router::Running> {
        fvm_vm::router::routers(self.home.run_dir(), false)
    }

    /// The file that holds what a detached program printed.
    #[must_use]
    pub fn output_log(&self, record: &VmRecord) -> PathBuf {
        self.home.output_log(&record.id)
    }

    /// Does something with the services of a running VM; returns when it is done. `places`: directories, as the VM sees them,
    /// where units are looked for first.
    ///
    /// # Errors
    /// When it is not running or does not answer. What a unit did not do as asked is in the answer.
    pub fn services(
        &self,
        record: &VmRecord,
        action: ServiceAction,
        units: Vec<String>,
        places: Vec<Bytes>,
    ) -> Result<ServiceAnswer, FvmError> {
        let request = ServiceRequest { action, units, places, vm: record.name.to_string() };
        Ok(fvm_vm::service::ask(&self.home, record, request)?)
    }

    /// The file that holds what the services of a VM printed ([`service_log`]).
    #[must_use]
    pub fn services_log(&self, record: &VmRecord) -> PathBuf {
        self.home.services_log(&record.id)
    }

    /// Takes a VM's lock, or says who may have it.
    ///
    /// # Errors
    /// When it runs or another command holds it.
    pub fn lock(&self, record: &VmRecord) -> Result<VmLock, FvmError> {
        // Longer than another command sweeps, or a keeper begins or ends.
        const TRIES: u32 = 100;
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
        for _ in 0..TRIES {
            if let Some(lock) = self.home.try_lock(&record.id)? {
                let now = self.home.load(&record.id)?;
                // Its last commit may have made it anew; all else must be as the caller knows it.
                let VmRecord { forked, imported, given, .. } = *record;
                let now = VmRecord { forked, imported, given, ..now };
                let same = now.with_last_run_of(record) == *record;
                return if same { Ok(lock) } else { Err(VmError::Changed(record.name.clone()).into()) };
            }
            if lifecycle::info(&self.home, record).is_ok() {
                return Err(FvmError::Running(record.name.clone()));
            }
            if !self.home.vm_dir(&record.id).exists() {
                return Err(VmError::NoSuchVm(record.name.to_string()).into());
            }
            std::thread::sleep(PAUSE);
        }
        Err(VmError::Busy(record.name.clone()).into())
    }

    fn layer_dirs(&self, record: &VmRecord) -> Result<Vec<LayerDir>, FvmError> {
        let of = |view: LayerView| LayerDir { n: view.layer.n, host: view.layer.host, dir: view.dir };
        let views = self.layer_views(record, false)?;
        Ok(views.into_iter().filter(|view| view.layer.kind != LayerKind::File).map(of).collect())
    }
}

/// The kernel is tried out in copies of this process.
fn may_probe() -> Result<(), FvmError> {
    if fvm_sys::process::has_one_thread() { Ok(()) } else { Err(VmError::Threads("try out this machine").into()) }
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
