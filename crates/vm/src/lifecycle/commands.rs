//! What is asked of a VM that another process keeps: a program, its end, its state, its removal.
//!
//! Invariants: who asks has no lock of a VM that runs; when `stop` and `kill` return, its lock is free.

use super::behind::behind;
use super::{Call, Handed, session_pair};
use crate::attach::{self, Ended, Streams};
use crate::error::VmError;
use crate::home::{Home, VmLock};
use crate::proto::{self, Configuration, Info, Reply, Request, Status};
use crate::{disk, keeper};
use fvm_model::{Policy, Restart, VmEvent, VmRecord, VmState};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// So long a keeper may take to give a VM back that was ended: it writes its record, and a busy disk may take seconds to have it.
const END_MAX: Duration = Duration::from_secs(30);
/// So long whoever only looks waits for that.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Runs a program in a VM that another process keeps, on our own streams.
///
/// # Errors
/// [`VmError::NotRunning`], or when its keeper does not answer.
pub fn exec(home: &Home, record: &VmRecord, call: &Call) -> Result<Ended, VmError> {
    let signals = attach::Held::take()?;
    Handed::new(record, call)?
        .run(&signals, |program, fds| {
            keeper::ask(home, &record.id, &record.name, &Request::Start(program), fds).map(drop)
        })
        .map(|attached| attached.ended)
}

/// A program in a VM whose streams are pipes of the caller's.
#[derive(Debug)]
pub struct Piped {
    session: OwnedFd,
}

impl Piped {
    /// Waits for its end.
    #[must_use]
    pub fn wait(&self) -> Ended {
        let mut decided = None;
        loop {
            let ended = match proto::read_packet::<Status>(&self.session) {
                Some((Status::Started { .. } | Status::Stopped(_) | Status::NobodyLeft, _)) => continue,
                Some((Status::NotExecuted { step, errno }, _)) => {
                    decided = Some(Ended::NotExecuted(step, errno));
                    continue;
                }
                Some((Status::TimedOut, _)) => {
                    decided = Some(Ended::TimedOut);
                    continue;
                }
                Some((Status::Exited(code) | Status::Last(code), _)) => Ended::Exited(code),
                Some((Status::Signaled(signal), _)) => Ended::Signaled(signal),
                None => Ended::Lost,
            };
            return decided.unwrap_or(ended);
        }
    }
}

/// Starts a program in a VM that another process keeps, on these streams: pipes, of which it gets the very ends.
///
/// # Errors
/// [`VmError::NotRunning`], or when its keeper does not answer.
pub fn exec_piped(home: &Home, record: &VmRecord, call: &Call, streams: [BorrowedFd<'_>; 3]) -> Result<Piped, VmError> {
    let program = call.program(record, &Streams { is_terminal: [false; 3], terminal: None });
    let [input, output, errors] = streams;
    piped(|theirs| {
        let fds = [theirs, input, output, errors];
        keeper::ask(home, &record.id, &record.name, &Request::Start(program), &fds).map(drop)
    })
}

/// Has `start` pass a program on, with the session socket that it is given.
pub(crate) fn piped(start: impl FnOnce(BorrowedFd<'_>) -> Result<(), VmError>) -> Result<Piped, VmError> {
    let (session, theirs) = session_pair()?;
    start(theirs.as_fd())?;
    Ok(Piped { session })
}

/// Ends a running VM: its processes get SIGTERM and `grace_ms` to end.
///
/// # Errors
/// [`VmError::NotRunning`], or when its keeper does not answer.
pub fn stop(home: &Home, record: &VmRecord, grace_ms: u64) -> Result<(), VmError> {
    keeper::ask(home, &record.id, &record.name, &Request::Stop { grace_ms }, &[])?;
    await_unlocked(home, record, END_MAX)
}

/// Ends a running VM at once.
///
/// # Errors
/// [`VmError::NotRunning`], or when its keeper does not answer.
pub fn kill(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    keeper::ask(home, &record.id, &record.name, &Request::Kill, &[])?;
    await_unlocked(home, record, END_MAX)
}

/// Makes a running VM see what the host created, replaced or removed.
///
/// # Errors
/// [`VmError::NotRunning`], or when its keeper does not answer or could not do it all.
pub fn refresh(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    keeper::ask(home, &record.id, &record.name, &Request::Refresh, &[]).map(drop)
}

/// Changes what a stopped VM may use, from its next start.
///
/// # Errors
/// When the record cannot be read or written.
pub fn configure(
    home: &Home,
    record: &VmRecord,
    policy: Policy,
    restart: Restart,
    _lock: &VmLock,
) -> Result<VmRecord, VmError> {
    disk::resize(home, record, policy.limits.disk_bytes)?;
    let changed = VmRecord { policy, restart, ..record.clone() }.with_last_run_of(&home.load(&record.id)?);
    home.save(&changed, !record.ephemeral)?;
    Ok(changed)
}

/// Changes what a running VM may use, at once; its keeper saves it.
///
/// # Errors
/// [`VmError::NotRunning`], [`VmError::Fixed`], or when its keeper could not do it; nothing is changed then.
pub fn configure_live(
    home: &Home,
    record: &VmRecord,
    policy: Policy,
    restart: Option<Restart>,
) -> Result<VmRecord, VmError> {
    let fixed = record.policy.fixed_against(&policy);
    if !fixed.is_empty() {
        return Err(VmError::Fixed { name: record.name.clone(), what: fixed.join(", ") });
    }
    let wanted = Configuration { from: record.policy.clone(), to: policy, restart };
    keeper::ask(home, &record.id, &record.name, &Request::Configure(Box::new(wanted)), &[])?;
    home.load(&record.id)
}

/// After init's end the keeper gives the lock back, a moment later.
pub(super) fn await_unlocked(home: &Home, record: &VmRecord, limit: Duration) -> Result<(), VmError> {
    let began = Instant::now();
    while home.is_locked(&record.id)? {
        if began.elapsed() >= limit {
            return Err(VmError::Busy(record.name.clone()));
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    Ok(())
}

/// What a VM does now, and what its keeper says of it when it runs. One whose init has just ended counts as stopped, and
/// is so when this returns.
///
/// # Errors
/// When its lock cannot be queried.
pub fn look(home: &Home, record: &VmRecord) -> Result<(VmState, Option<Info>), VmError> {
    if record.state != VmState::Stopped || !home.is_locked(&record.id)? {
        return Ok((record.state, None));
    }
    match info(home, record) {
        Ok(info) if crate::ps::is_alive(info.init) => {
            Ok((if info.suspended { VmState::Suspended } else { VmState::Running }, Some(info)))
        }
        Ok(_) => await_unlocked(home, record, LOOK_MAX).map(|()| (record.state, None)),
        // Held by a command that is not a keeper: a commit, a deletion.
        Err(_) => Ok((record.state, None)),
    }
}

/// Lets none of a running VM's processes run, until it is resumed or ended.
///
/// # Errors
/// [`VmError::NotRunning`], or when its keeper does not answer or could not do it.
pub fn suspend(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    keeper::ask(home, &record.id, &record.name, &Request::Suspend, &[]).map(drop)
}

/// Has the behaviour log of a running VM written down up to now: its tracer holds the last moments in memory.
///
/// # Errors
/// As [`suspend`].
pub fn settle(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    keeper::ask(home, &record.id, &record.name, &Request::Settle, &[]).map(drop)
}

/// Lets a suspended VM run on.
///
/// # Errors
/// As [`suspend`].
pub fn resume(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    keeper::ask(home, &record.id, &record.name, &Request::Resume, &[]).map(drop)
}

/// What the keeper of a running VM says of it.
///
/// # Errors
/// [`VmError::NotRunning`], or when its keeper does not answer.
pub fn info(home: &Home, record: &VmRecord) -> Result<Info, VmError> {
    match keeper::ask(home, &record.id, &record.name, &Request::Info, &[])? {
        Reply::Info(info) => Ok(info),
        Reply::Done | Reply::Refused(_) => {
            Err(VmError::Keeper { name: record.name.clone(), why: "it answered something else".into() })
        }
    }
}

/// Takes a stopped VM away. What is slow about it is left in the trash: call [`Home::empty_trash`] later.
///
/// # Errors
/// [`VmError::State`] when it runs; [`VmError::Busy`] when another command holds it.
pub fn delete(home: &Home, record: &mut VmRecord, _lock: &VmLock) -> Result<(), VmError> {
    disk::leave(home, record);
    record.state =
        record.state.next(VmEvent::Delete).map_err(|source| VmError::State { name: record.name.clone(), source })?;
    if !record.ephemeral {
        home.save(record, true)?;
    }
    home.bury(record)
}

/// Empties the trash in a process of its own, so that the caller can answer now; at once if this process has several threads.
///
/// # Errors
/// When no process can be started.
pub fn empty_trash_behind(home: &Home) -> Result<(), VmError> {
    behind(&[], || home.empty_trash())
}
