//! Pools of the laboratory, made by the command line and asked through the API.
//!
//! ```text
//!   Pool::make ── fvm pool create ─► keeper ◄── Fvm::pool_status ── full? ── Pool::wait
//!   Pools      all of them; the host's mounts: when they change, the keepers make their VMs anew
//! ```
//!
//! Invariants: waiting for a pool is never on a clock, unless what is measured is how long it takes to be full again; a pool is
//! deleted with the laboratory, however that ends.

use crate::error::Error;
use crate::lab::{Lab, Person};
use fvm::model::VmName;
use fvm::model::pool::{PoolRecord, PoolStatus};
use fvm::{Fvm, FvmError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// So long a pool may take until it is full.
const FULL_WITHIN: Duration = Duration::from_secs(60);
/// Longer than a keeper waits for more mounts before it looks at them (200 ms), and looks.
const MOUNTS_SETTLE: Duration = Duration::from_millis(300);
const MOMENT: Duration = Duration::from_millis(2);
/// Behind the last VM that was made, so long the keeper's helpers clean up after the one that was used.
const CLEANED: Duration = Duration::from_millis(20);

/// One that is running.
#[derive(Debug)]
pub struct Pool {
    name: VmName,
    fvm: Fvm,
    record: PoolRecord,
}

impl Pool {
    /// Makes one of `person`'s; it is being filled.
    ///
    /// # Errors
    /// When fvm refuses, or it cannot be asked.
    pub fn make(lab: &Lab, person: &Person, name: &str, options: &[impl AsRef<OsStr>]) -> Result<Self, Error> {
        let begin = ["pool", "create", name].map(OsStr::new);
        lab.fvm(person, begin.into_iter().chain(options.iter().map(AsRef::as_ref)))?;
        let (state, run) = lab.state_of(person);
        Self::open(&state, &run, name)
    }

    /// One that is there.
    ///
    /// # Errors
    /// When it is not, or cannot be read.
    pub fn open(state: &Path, run: &Path, name: &str) -> Result<Self, Error> {
        let failed = |why: String| Error::Program { command: format!("the pool {name}"), reason: why };
        let name: VmName = fvm::vm_name(name).map_err(|e| failed(e.to_string()))?;
        let of_fvm = |e: FvmError| failed(e.to_string());
        let fvm = Fvm::open(state, run).map_err(of_fvm)?;
        let record = fvm.pool(&name).map_err(of_fvm)?;
        Ok(Self { name, fvm, record })
    }

    /// The API that it is asked through.
    #[must_use]
    pub fn fvm(&self) -> &Fvm {
        &self.fvm
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// How it is.
    ///
    /// # Errors
    /// When its keeper does not answer, or there is none.
    pub fn status(&self) -> Result<PoolStatus, Error> {
        match self.fvm.pool_status(&self.record) {
            Ok(status) if status.keeper.is_some() => Ok(status),
            Ok(_) => Err(self.failed("its keeper is gone")),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    /// Waits until it is as full as it is to be, and nobody uses a VM of it.
    ///
    /// # Errors
    /// When that does not come within a minute.
    pub fn wait(&self) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let status = self.status()?;
            if status.ready >= status.size && status.making + status.used == 0 {
                return Ok(());
            }
            if began.elapsed() > FULL_WITHIN {
                return Err(self.failed(status.trouble.as_deref().unwrap_or("it is not full within a minute")));
            }
            std::thread::sleep(MOMENT);
        }
    }

    /// The same, and until what was used before is cleaned up as well. Returns at once when nothing was used.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn settle(&self) -> Result<(), Error> {
        let status = self.status()?;
        if status.ready >= status.size && status.making + status.used == 0 {
            return Ok(());
        }
        self.wait()?;
        std::thread::sleep(CLEANED);
        Ok(())
    }

    fn failed(&self, why: &str) -> Error {
        Error::Program { command: format!("the pool {}", self.name), reason: why.to_owned() }
    }
}

/// Several, that are to be full whenever something is measured.
#[derive(Debug)]
pub struct Pools {
    all: Vec<Rc<Pool>>,
    mounts: File,
}

impl Pools {
    /// Of these; waits until they are full.
    ///
    /// # Errors
    /// When one does not become full.
    pub fn new(all: Vec<Rc<Pool>>) -> Result<Self, Error> {
        const MOUNTS: &str = "/proc/self/mounts";
        let mounts = File::open(MOUNTS).map_err(Error::file("open", Path::new(MOUNTS)))?;
        let pools = Self { all, mounts };
        pools.settle()?;
        Ok(pools)
    }

    /// Waits until they have done what the last run made them do.
    ///
    /// # Errors
    /// When one does not become full.
    pub fn settle(&self) -> Result<(), Error> {
        // The kernel says so once for each descriptor (mounts_poll of fs/namespace.c).
        let mut change = [PollFd::new(&self.mounts, PollFlags::PRI)];
        let changed = poll(&mut change, Some(&Timespec::default())).is_ok_and(|count| count > 0);
        if changed && !self.all.is_empty() {
            std::thread::sleep(MOUNTS_SETTLE);
        }
        self.all.iter().try_for_each(|pool| pool.settle())
    }
}
