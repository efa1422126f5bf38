//! Pools: VMs forked ahead, and programs that get one at once.
//!
//! ```no_run
//! # fn main() -> Result<(), fvm::FvmError> {
//! let fvm = fvm::Fvm::open(std::path::Path::new("/var/lib/fvm"), std::path::Path::new("/run/fvm"))?;
//! let call = fvm::Call { argv: vec!["/bin/true".into()], cwd: "/".into(), ..fvm::Call::default() };
//! let null = std::fs::File::options().read(true).write(true).open("/dev/null").expect("there is one");
//! let streams = [&null, &null, &null].map(std::os::fd::AsFd::as_fd);
//! let mut program = fvm.pool_spawn(&"build".parse().expect("a name"), &call, streams, None, false)?;
//! assert_eq!(program.wait()?, fvm::Ended::Exited(0));
//! program.done(false);
//! # Ok(())
//! # }
//! ```
//!
//! Invariants: no process of the command line is started, and none is forked by the caller once the pool has its keeper:
//! programs with many threads may use it.

use crate::{Call, Ended, Fvm, FvmError};
use fvm_host::HostFacts;
use fvm_model::pool::{PoolRecord, PoolStatus, SIZE_MAX};
use fvm_model::vm::FORMAT;
use fvm_model::{Mode, Policy, VmName, VmRecord};
use fvm_sys::first::Left;
use fvm_vm::lifecycle::{self, NewVm};
use fvm_vm::pool::{self, PoolChild, Taken};
use fvm_vm::{VmError, VmLock, disk};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

/// So often a client tries to start a pool that has no keeper, with such a pause where another is about it.
const START_TRIES: u32 = 100;
const START_PAUSE: Duration = Duration::from_millis(20);

/// What a new pool shall be.
#[derive(Debug, Clone, Default)]
pub struct NewPool {
    /// How many VMs are held ready.
    pub size: u32,
    /// What they may use.
    pub policy: Policy,
    /// A stopped VM that they are copies of.
    pub template: Option<VmName>,
    /// Their changes can be kept and committed.
    pub kept: bool,
    /// How often each is used; 0 means once.
    pub uses: u32,
    /// How many are made in a second at most.
    pub per_second: Option<u32>,
    /// None is made while less memory than this is available, in bytes.
    pub reserve_bytes: u64,
    /// Directories in which their programs will work.
    pub reach: Vec<PathBuf>,
}

impl Fvm {
    /// Makes a pool and starts to fill it. Of a program with threads [`Fvm::start_forker`] was called before.
    ///
    /// # Errors
    /// When there is one of that name, or its VMs could not be what is asked for.
    pub fn pool_create(&self, name: &VmName, new: &NewPool) -> Result<(), FvmError> {
        let record = PoolRecord {
            format: FORMAT,
            name: name.clone(),
            size: new.size,
            policy: new.policy.clone(),
            template: new.template.clone(),
            kept: new.kept || new.template.is_some(),
            uses: new.uses.max(1),
            per_second: new.per_second,
            reserve_bytes: new.reserve_bytes,
            reach: new.reach.clone(),
        };
        self.check_pool(&record)?;
        if !self.home.create_pool(&record)? {
            return Err(refused(name, "there is one of that name already"));
        }
        self.pool_start(&record)
    }

    /// What a pool cannot be is said when it is made, not when a VM is wanted.
    fn check_pool(&self, pool: &PoolRecord) -> Result<(), FvmError> {
        self.check_requirements(&pool.policy)?;
        if pool.size == 0 || pool.size > SIZE_MAX {
            return Err(refused(&pool.name, &format!("it can hold 1 to {SIZE_MAX} VMs")));
        }
        if !pool.policy.dbus.pass.is_empty() {
            return Err(refused(
                &pool.name,
                "its VMs cannot pass on what programs ask of the desktop: leave '--dbus' out",
            ));
        }
        if !pool.policy.publish.is_empty() {
            return Err(refused(&pool.name, "only one VM can publish a port: leave '--publish' out"));
        }
        if pool.policy.is_judged() {
            let why = "what its VMs do is not written down, so nobody can judge it: leave '--trace full' and a verdict \
                       that commits demand out, or use 'fvm run' without a pool";
            return Err(refused(&pool.name, why));
        }
        let mode = lifecycle::mode_for(&crate::facts()?);
        if pool.policy.limits.disk_bytes.is_some() && !disk::wants(mode, &pool.policy) {
            return Err(refused(
                &pool.name,
                "a limit of disk that fvm has to watch cannot be in a pool: leave '--disk' out",
            ));
        }
        if mode == Mode::Rootless && pool.policy.limits.wants_groups() {
            let why = "an ordinary user's VMs in a pool have no limits of memory or processors: leave them out";
            return Err(refused(&pool.name, why));
        }
        if let Some(template) = &pool.template {
            self.find(template.as_str())?;
        }
        Ok(())
    }

    /// Every pool, by name; what cannot be read as an error.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn pools(&self) -> Result<Vec<Result<PoolRecord, VmError>>, FvmError> {
        Ok(self.home.list_pools()?)
    }

    /// The pool called `name`.
    ///
    /// # Errors
    /// When there is none, or its record cannot be read.
    pub fn pool(&self, name: &VmName) -> Result<PoolRecord, FvmError> {
        Ok(self.home.load_pool(name)?)
    }

    /// How a pool is.
    ///
    /// # Errors
    /// When its keeper does not answer.
    pub fn pool_status(&self, pool: &PoolRecord) -> Result<PoolStatus, FvmError> {
        Ok(pool::status(&self.home, pool)?)
    }

    /// Changes a pool: what waits and is not what it is to be from now on is made anew.
    ///
    /// # Errors
    /// When it cannot be that, or cannot be written.
    pub fn pool_change(&self, pool: &PoolRecord) -> Result<(), FvmError> {
        self.check_pool(pool)?;
        Ok(pool::change(&self.home, pool)?)
    }

    /// Starts the keeper of a pool that has none: after a reboot, or when it was drained or killed. Of a program with
    /// threads [`Fvm::start_forker`] was called before.
    ///
    /// # Errors
    /// When it has one, or it cannot be started.
    pub fn pool_start(&self, pool: &PoolRecord) -> Result<(), FvmError> {
        if let Some(done) = self.done_there(|| crate::worker::What::Pool { name: pool.name.clone() }) {
            return done;
        }
        let mut make = |pool: &PoolRecord, facts: &HostFacts| self.pool_member(pool, facts);
        Ok(pool::detach(&self.home, pool, &mut make)?)
    }

    fn pool_member(&self, pool: &PoolRecord, facts: &HostFacts) -> Result<(VmRecord, VmLock), VmError> {
        let (record, lock) = self.new_member(pool, facts)?;
        if pool.kept {
            // Its log, that of its template too, knows nothing of what it does in the pool.
            lifecycle::note_unseen(&self.home, &record, "a run in a pool")?;
        }
        Ok((record, lock))
    }

    fn new_member(&self, pool: &PoolRecord, facts: &HostFacts) -> Result<(VmRecord, VmLock), VmError> {
        let Some(template) = &pool.template else {
            let policy = pool.policy.clone();
            let new = NewVm { policy, ephemeral: !pool.kept, pool: Some(pool.name.clone()), ..NewVm::default() };
            return lifecycle::create(&self.home, facts, &new);
        };
        let failed = |e: FvmError| VmError::Pool { name: pool.name.clone(), why: e.to_string() };
        let found = self.home.find(template.as_str())?;
        if found.name != *template {
            // Only the id of another begins like that.
            return Err(VmError::NoSuchVm(template.to_string()));
        }
        self.copy_for(&found, None, Some(pool.policy.clone()), Some(&pool.name)).map_err(failed)
    }

    /// Throws away what waits in a pool, and ends its keeper when the last program has ended.
    ///
    /// # Errors
    /// When the keeper does not answer.
    pub fn pool_drain(&self, name: &VmName) -> Result<(), FvmError> {
        Ok(pool::drain(&self.home, name)?)
    }

    /// Forgets a drained pool.
    ///
    /// # Errors
    /// When it has a keeper, or cannot be removed.
    pub fn pool_delete(&self, name: &VmName) -> Result<(), FvmError> {
        match self.home.try_lock_pool(name)? {
            Some(lock) => Ok(self.home.remove_pool(name, &lock)?),
            None => Err(refused(name, "it is running: drain it first, and wait until its last program has ended")),
        }
    }

    /// Runs a program in a VM of a pool on this process's own streams, and waits for its end; whether nothing else is left in the VM.
    /// A pool that is not running is started. `name`: what the VM is called from now on. `keep`: it stays when its program has ended.
    ///
    /// # Errors
    /// When there is no such pool, or it cannot give a VM.
    pub fn pool_run(
        &self,
        pool: &VmName,
        call: &Call,
        name: Option<&VmName>,
        keep: bool,
    ) -> Result<(Ended, bool, Taken), FvmError> {
        self.pool_attach(pool, call, name, keep, None)
    }

    /// The same. `left`: where it was asked for already, before libc had started ([`fvm_sys::first`]), without a name and not to be kept.
    ///
    /// # Errors
    /// As [`Fvm::pool_run`].
    pub fn pool_attach(
        &self,
        pool: &VmName,
        call: &Call,
        name: Option<&VmName>,
        keep: bool,
        mut left: Option<Left>,
    ) -> Result<(Ended, bool, Taken), FvmError> {
        for tries_left in (0..START_TRIES).rev() {
            let ran = match left.take() {
                Some(left) => pool::resume(&self.home, pool, left),
                None => pool::run(&self.home, pool, call, name, keep),
            };
            match ran {
                Err(VmError::NoPool(_)) if tries_left > 0 => {}
                ran => return Ok(ran?),
            }
            if let Err(e) = self.pool_start(&self.pool(pool)?) {
                if self.home.try_lock_pool(pool)?.is_some() {
                    return Err(e);
                }
                // Another client starts it, or its keeper ends, just now.
                std::thread::sleep(START_PAUSE);
            }
        }
        Err(VmError::NoPool(pool.clone()).into())
    }

    /// Has a VM of a running pool run a program on streams of the caller's: pipes or files, of which it gets the very ends. That the pool
    /// cannot give a VM says [`PoolChild::wait`]; who wants to know it before asks [`PoolChild::vm`].
    ///
    /// # Errors
    /// When the pool is not running.
    pub fn pool_spawn(
        &self,
        pool: &VmName,
        call: &Call,
        streams: [BorrowedFd<'_>; 3],
        name: Option<&VmName>,
        keep: bool,
    ) -> Result<PoolChild, FvmError> {
        Ok(pool::spawn(&self.home, pool, call, streams, name, keep)?)
    }
}

fn refused(name: &VmName, why: &str) -> FvmError {
    VmError::Pool { name: name.clone(), why: why.into() }.into()
}
