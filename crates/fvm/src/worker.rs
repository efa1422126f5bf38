//! What is done for a program by a process of its own: its order, what it does, what it reports.
//!
//! ```text
//!   Fvm::spawn ──Order──► forker ──► worker: Fvm::open ─► create_and_boot | boot | exec | detach
//!       │◄── Begun {vm, notices} + pidfd ─────┤            run
//!       │◄── Ended {vm, ended} ───────────────┤            end, delete what is ephemeral
//!       │◄── Failed {why, hint, code} ────────┘
//! ```
//!
//! Invariants: when `Ended` is said, nothing of the worker holds the VM any more; the worker never decides what the library would
//! not decide in the caller's own process.

use crate::{Call, Ended, Fvm, FvmError, NewVm};
use fvm_model::path::Bytes;
use fvm_model::{VmId, VmName, VmRecord, VmState};
use fvm_vm::attach::Held;
use fvm_vm::{VmError, proto};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::PidfdFlags;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a worker is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub state: Bytes,
    pub run: Bytes,
    pub what: What,
}

/// The same, without where.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum What {
    New { new: Box<NewVm>, user_home: Option<Bytes>, call: Box<Call> },
    In { vm: VmId, call: Box<Call> },
    Detach { vm: VmId, call: Box<Call> },
    Pool { name: VmName },
    EmptyTrash,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The program is on its way; the worker's pidfd comes along.
    Begun { vm: Box<VmRecord>, notices: Vec<String> },
    /// It is over.
    Ended { vm: Box<VmRecord>, ended: Ended },
    /// What had no program is done.
    Done,
    /// It could not be done, or not to its end.
    Failed { why: String, hint: Option<String>, code: u8 },
}

impl Report {
    fn failed(error: &FvmError) -> Self {
        Self::Failed { why: error.chain(), hint: error.hint(), code: error.exit_code() }
    }
}

/// A worker's life.
pub(crate) fn work(order: Order, report: OwnedFd) -> i32 {
    let done = carry_out(&order, report.as_fd());
    let said = match &done {
        Ok(last) => tell(&report, last, &[]),
        Err(error) => tell(&report, &Report::failed(error), &[]),
    };
    i32::from(done.is_err() || said.is_err())
}

fn tell(report: impl AsFd, what: &Report, fds: &[BorrowedFd<'_>]) -> Result<(), FvmError> {
    proto::write_message(report, what, fds).map_err(|e| VmError::Sys("report", e).into())
}

fn carry_out(order: &Order, report: BorrowedFd<'_>) -> Result<Report, FvmError> {
    let fvm = Fvm::open(Path::new(&order.state.0), Path::new(&order.run.0))?;
    match &order.what {
        What::New { new, user_home, call } => {
            let user_home = user_home.as_ref().map(|home| (&home.0).into());
            let new = NewVm { user_home, ..NewVm::clone(new) };
            fvm.check_requirements(&new.policy)?;
            run(&fvm, fvm.create_and_boot(&new, call)?, report)
        }
        What::In { vm, call } => {
            let record = fvm.find(vm.as_str())?;
            match fvm.state(&record)? {
                VmState::Running | VmState::Suspended => {
                    let _held = begin(report, &record, Vec::new())?;
                    let ended = fvm.exec(&record, call)?;
                    Ok(Report::Ended { vm: Box::new(record), ended })
                }
                _ => run(&fvm, fvm.boot(record, call)?, report),
            }
        }
        What::Detach { vm, call } => fvm.detach(fvm.find(vm.as_str())?, call).map(|()| Report::Done),
        What::Pool { name } => fvm.pool_start(&fvm.pool(name)?).map(|()| Report::Done),
        What::EmptyTrash => Ok(fvm.home().empty_trash().map(|()| Report::Done)?),
    }
}

/// Signals that come between the report and the program are the program's.
fn begin(report: BorrowedFd<'_>, vm: &VmRecord, notices: Vec<String>) -> Result<Held, FvmError> {
    let held = Held::take()?;
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|e| VmError::Sys("open a process", e))?;
    tell(report, &Report::Begun { vm: Box::new(vm.clone()), notices }, &[own.as_fd()])?;
    Ok(held)
}

fn run(fvm: &Fvm, mut running: crate::Running, report: BorrowedFd<'_>) -> Result<Report, FvmError> {
    let notices = std::mem::take(&mut running.notices);
    let vm = running.record();
    let _held = begin(report, &vm, notices)?;
    let attached = running.run()?;
    let ended = attached.ended;
    if running.can_vanish(&attached) {
        running.vanish()?;
        return Ok(Report::Ended { vm: Box::new(vm), ended });
    }
    let (record, lock) = running.end()?;
    let vm = Box::new(record.clone());
    if record.ephemeral {
        fvm.delete_locked(record, &lock)?;
    }
    drop(lock);
    Ok(Report::Ended { vm, ended })
}
