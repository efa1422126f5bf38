//! Daemons of a VM, run by their systemd units, without systemd.
//!
//! ```text
//!   client ── Request::Service + answer, log ──► keeper ──► init ── fork, when first asked ──► manager
//!      ▲                                                                                         │ fork, per service
//!      └───────────────────────── ServiceAnswer ─────────────────────────────────────────────────┤
//!                                                                            services.log ◄──────┤◄── output ──┐
//!                                                                                              monitor ──► programs
//! ```
//!
//! - **manager** ([`manager`]): reads units in the VM's own view ([`load`]), starts monitors in the order that
//!   `fvm_service::plan` gives, holds everyone's status, writes the log ([`log`]).
//! - **monitor** ([`monitor`]): one for each service; carries out its life, from `ExecCondition=` to `ExecStopPost=` and
//!   back. It is the reaper of all orphans below it, so that every process of the service stays its descendant: what a
//!   control group is to systemd ([`tree`]).
//!
//! Both are forks of init, never exec'ed and not dumpable, like it. The log is a file of the VM's directory outside, so
//! that it is no change of the VM's, outlives its stop, and costs no memory; its descriptor is the only thing of the host
//! that the manager holds, and nobody below inherits it.
//!
//! Invariants: init is never kept waiting by the manager; nothing of a unit is read on the host; what a client receives is
//! one bounded message, and only ever shown.

mod child;
mod load;
pub mod log;
mod manager;
mod monitor;
mod tree;
pub(crate) mod users;

use crate::error::VmError;
use crate::home::Home;
use crate::keeper;
use crate::proto::{self, Request};
use fvm_model::VmRecord;
use fvm_model::service::{ServiceAnswer, ServiceRequest};
use fvm_sys::process::{self, Fork};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;

/// The largest request: names of units.
const REQUEST_MAX_BYTES: usize = 64 << 10;

/// The largest answer that a client takes from a VM.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// Init's way to the manager.
#[derive(Debug, Default)]
pub struct Door {
    manager: Option<(i32, OwnedFd)>,
}

impl Door {
    /// Passes a request on, to a new manager when there is none. Never blocks: when the manager does not listen, the
    /// client sees its answer socket close.
    pub fn pass(&mut self, request: &ServiceRequest, fds: &[OwnedFd]) {
        if self.manager.is_none() {
            self.manager = start_manager().ok();
        }
        let Some((_, socket)) = &self.manager else { return };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let _does_not_listen = proto::write_packet(socket, request, &fds);
    }

    /// Whether a manager lives.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.manager.is_some()
    }

    /// Asks the manager to stop all services and to end; false when there is none.
    pub fn stop_all(&self) -> bool {
        let asked = |pid: i32| {
            process::kill(pid, Signal::CONT.as_raw()).and_then(|()| process::kill(pid, Signal::TERM.as_raw())).is_ok()
        };
        self.manager.as_ref().is_some_and(|(pid, _)| asked(*pid))
    }

    /// A child of init has ended.
    pub fn ended(&mut self, pid: i32) {
        self.manager.take_if(|(manager, _)| *manager == pid);
    }
}

fn start_manager() -> Result<(i32, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match process::fork()? {
        Fork::Parent(pid) => {
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok((pid.as_raw_nonzero().get(), ours))
        }
        Fork::Child => {
            drop(ours);
            process::close_all_but(&[theirs.as_raw_fd()]);
            let _leader = rustix::process::setsid();
            let code = i32::from(manager::serve(theirs).is_err());
            process::exit_now(code)
        }
    }
}

/// A client's request on the services of a running VM; returns when it has been carried out.
///
/// # Errors
/// [`VmError::NotRunning`], or when the VM does not answer.
pub fn ask(home: &Home, record: &VmRecord, request: ServiceRequest) -> Result<ServiceAnswer, VmError> {
    if serde_json::to_vec(&request).map_or(usize::MAX, |text| text.len()) > REQUEST_MAX_BYTES {
        return Err(VmError::Refused { name: record.name.clone(), why: "too many units in one request".into() });
    }
    let (answer, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| VmError::Sys("make a socket pair", e))?;
    let path = home.services_log(&record.id);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| VmError::sys("open", &path, e))?;
    keeper::ask(home, &record.id, &record.name, &Request::Service(request), &[theirs.as_fd(), log.as_fd()])?;
    drop(theirs);
    match proto::read_message_within::<ServiceAnswer>(&answer, ANSWER_MAX_BYTES) {
        Ok(Some((answer, _))) => Ok(answer),
        Ok(None) => Err(VmError::Refused {
            name: record.name.clone(),
            why: "the manager of its services ended, or the VM did".into(),
        }),
        Err(e) => Err(VmError::Refused {
            name: record.name.clone(),
            why: format!("the manager of its services does not answer as agreed: {e}"),
        }),
    }
}
