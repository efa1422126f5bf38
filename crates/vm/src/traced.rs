//! The behaviour log of a VM: init's side, which hands over where calls wait, and the keeper's, which answers them.
//!
//! ```text
//!   init    /dev/null opened ─ filter with a listener ─► Progress::Traced [listener, root, mounts, table] ─► the keeper
//!   keeper  <home>/vms/<id>/events/ ─ fvm_trace::capture::Tracer: a thread, until the VM ends
//! ```
//!
//! Invariants: init waits for no other process from its filter on until the
//! keeper answers; the keeper answers as soon as it hears of the filter, before it waits for anything else of init; where the kernel
//! cannot, the VM starts without a log, and says so; a full log takes nothing of what the policy refuses: its tracer refuses by
//! number, and without it such calls fail.

use crate::error::VmError;
use crate::home::Home;
use crate::init;
use crate::launch::{self, Progress};
use crate::links;
use fvm_model::event::{Args, Kind};
use fvm_model::{Level, Mode, VmRecord};
use fvm_sys::seccomp;
use fvm_trace::capture::calls::Refused;
use fvm_trace::capture::{Inside, Task, Tracer, program};
use fvm_trace::{QUOTA_BYTES, Store};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Whether calls are captured, seen from init.
#[derive(Debug)]
pub enum Traced {
    /// They wait.
    Yes {
        /// What the tracer needs.
        inside: Inside,
        /// The VM's `/dev/null`: opened later, it would wait.
        null: Option<OwnedFd>,
    },
    /// The kernel cannot.
    No(Errno),
}

impl Traced {
    /// From here on captured calls of this process and of all that it starts wait.
    /// `links`: hard links do at every level ([`links`]).
    pub fn begin(level: Level, refused: &[Refused], links: bool) -> Self {
        let null = init::open_nothing();
        let open = |path: &str, flags| fs::open(path, flags | OFlags::CLOEXEC, FileMode::empty());
        let begun = || {
            let root = open("/", OFlags::PATH | OFlags::DIRECTORY)?;
            let mounts = open("/proc/self/ns/mnt", OFlags::RDONLY)?;
            let table = open("/proc/self/mountinfo", OFlags::RDONLY)?;
            let listener = seccomp::listen(&program::filter(level, refused, links)?)?;
            Ok(Inside { listener, root, mounts, table })
        };
        match begun() {
            Ok(inside) => Self::Yes { inside, null },
            Err(e) => Self::No(e),
        }
    }

    /// Whether they are captured.
    pub fn works(&self) -> bool {
        matches!(self, Self::Yes { .. })
    }

    /// Hands the tracer's side to the keeper; what is left is the VM's `/dev/null`.
    pub(crate) fn tell(self, report: &OwnedFd) -> Option<OwnedFd> {
        match self {
            Self::Yes { inside: Inside { listener, root, mounts, table }, null } => {
                let fds = [listener.as_fd(), root.as_fd(), mounts.as_fd(), table.as_fd()];
                launch::tell(report, &Progress::Traced, &fds);
                null
            }
            Self::No(e) => {
                let notice = format!("what its programs do is not written down: {}", why(e));
                launch::tell(report, &Progress::Notice(notice), &[]);
                None
            }
        }
    }
}

fn why(e: Errno) -> String {
    match e {
        Errno::BUSY => "somebody outside answers system calls of this process already (a VM within a VM)".into(),
        Errno::INVAL | Errno::NOSYS => "the kernel has no seccomp notification".into(),
        e => e.to_string(),
    }
}

/// What init handed over.
pub fn inside(fds: Vec<OwnedFd>) -> Option<Inside> {
    let mut fds = fds.into_iter();
    Some(Inside { listener: fds.next()?, root: fds.next()?, mounts: fds.next()?, table: fds.next()? })
}

/// The log of a VM says that it saw nothing of a run, or of what was before it. Where there is none one is begun, unless the VM is
/// thrown away: a later run's would look whole.
///
/// # Errors
/// When that cannot be written.
pub fn say_unseen(home: &Home, record: &VmRecord, what: &str) -> Result<(), VmError> {
    let dir = home.events_dir(&record.id);
    let said = || {
        let (events, again) = match open(&dir, !record.ephemeral) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        let mut store = Store::open(events, record.id.as_str(), QUOTA_BYTES)?;
        let is_said = store.begin(crate::lifecycle::now(), Level::Off, Some(what));
        store.push_own(crate::lifecycle::now(), Kind::End, Args::default());
        store.flush();
        if is_said || !again { Ok(()) } else { Err(Errno::NOSPC) }
    };
    said().map_err(failed)
}

fn failed(e: Errno) -> VmError {
    VmError::Setup { step: "write down what its programs do".into(), why: e.to_string() }
}

/// The directory of a log, and whether it was there. `make`: it is made where it is not.
fn open(dir: &Path, make: bool) -> Result<(OwnedFd, bool), Errno> {
    let again = match make.then(|| std::fs::DirBuilder::new().mode(0o700).create(dir)) {
        Some(Ok(())) => false,
        None => true,
        Some(Err(e)) if e.kind() == std::io::ErrorKind::AlreadyExists => true,
        Some(Err(e)) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((fs::open(dir, flags, FileMode::empty())?, again))
}

/// Begins to answer the calls of a VM, if they are captured: `begun`, where they wait, and its init.
///
/// # Errors
/// When the log cannot be begun. The VM must not run then: nobody would answer its calls.
pub fn start(home: &Home, record: &VmRecord, begun: Option<(Inside, Pid)>) -> Result<Option<Tracer>, VmError> {
    let level = record.policy.trace;
    let kernel = record.policy.kernel;
    let dir = home.events_dir(&record.id);
    let Some((inside, init)) = begun else {
        // With the log off that was said before the VM began.
        let is_said = record.policy.trace == Level::Off;
        return if is_said { Ok(None) } else { say_unseen(home, record, "a run without a log").map(|()| None) };
    };
    let unseen = [
        (!kernel.filter, "calls that no filter knows"),
        ((kernel.io_uring || !kernel.filter) && level != Level::Full, "io_uring"),
        (kernel.x86_32 || !kernel.filter, "32-bit programs"),
    ];
    let blind: Vec<&str> = unseen.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
    let begun = open(&dir, true).and_then(|(events, again)| {
        let calls = crate::calls::Calls::from(kernel);
        Tracer::start(Task {
            inside,
            init: init.as_raw_nonzero().get(),
            level,
            events,
            again,
            vm: record.id.to_string(),
            quota_bytes: QUOTA_BYTES,
            blind: (!blind.is_empty()).then(|| blind.join(", ")),
            refused: calls.logged_at(level, kernel.filter),
            links: (record.mode == Mode::Rootless).then_some(links::refusal),
        })
    });
    begun.map(Some).map_err(failed)
}
