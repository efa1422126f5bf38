//! Why a commit, an undo or a recovery did not happen, and what the host looks like then.

use fvm_model::{HostPath, VmPath};
use rustix::io::Errno;
use std::path::PathBuf;

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The host is not as the plan expects: nothing was changed.
    #[error("the host changed since the VM was compared with it, so nothing was committed:{}", list(.0))]
    HostChanged(Vec<Changed>),
    /// What a commit brought was changed since.
    #[error("commit {number} cannot be undone, because this changed since; nothing was changed:{}", list(.changed))]
    ChangedSince {
        /// Which commit.
        number: u64,
        /// What.
        changed: Vec<Changed>,
    },
    /// A layer or its mount could not be opened.
    #[error("cannot open {}: {errno}; nothing was committed", .path.display())]
    Open {
        /// What.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Something else is mounted there now.
    #[error("{host} is not the file system that the commit worked on; mount that one there, then 'fvm recover'")]
    OtherMount {
        /// Where.
        host: HostPath,
    },
    /// There is too little room.
    #[error(
        "not enough space below {at}: {needed_bytes} bytes are needed, {free_bytes} are free; nothing was committed"
    )]
    Space {
        /// The mount.
        at: HostPath,
        /// What the staged files take.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The host does not let this user change that directory.
    #[error("cannot change {path}: {errno}; nothing was committed")]
    Denied {
        /// The directory.
        path: HostPath,
        /// Why.
        errno: Errno,
    },
    /// The entry is marked as not to be changed.
    #[error("{path} is {what} (chattr); nothing was committed: 'chattr {flag} {path}' first, or leave it out")]
    Immutable {
        /// Which.
        path: HostPath,
        /// The mark.
        what: &'static str,
        /// What takes it away.
        flag: &'static str,
    },
    /// The VM's own version changed after the scan.
    #[error("the VM's '{path}' changed since it was compared with the host; nothing was committed: compare again")]
    LayerChanged {
        /// Which.
        path: VmPath,
    },
    /// A stage could not be made.
    #[error("cannot prepare {path}: {what}: {errno}; nothing was committed")]
    Stage {
        /// The change.
        path: VmPath,
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// A file that must be marked cannot be.
    #[error("cannot mark {path}: {errno}; nothing was committed")]
    Unmarkable {
        /// Which.
        path: VmPath,
        /// Why.
        errno: Errno,
    },
    /// What was marked could not be written down.
    #[error("{0}; nothing was committed")]
    Marks(String),
    /// The caller asked to stop before the commit point.
    #[error("interrupted; nothing was committed")]
    Interrupted,
    /// A step failed, and everything was taken back.
    #[error("cannot put {path} in place: {}; everything was put back", reason(*.errno))]
    Publish {
        /// Where.
        path: String,
        /// Why.
        errno: Errno,
    },
    /// A step failed, and so did a step of taking everything back.
    #[error(
        "commit {number} stopped half-way at {path}: {}; nothing is lost: mend that, then 'fvm recover'",
        reason(*.errno)
    )]
    Torn {
        /// The commit.
        number: u64,
        /// Where.
        path: String,
        /// Why.
        errno: Errno,
    },
    /// An earlier commit was interrupted and could not be brought to an end yet.
    #[error("an earlier commit was interrupted and is not over; nothing was committed: 'fvm recover' first")]
    Unfinished,
    /// Another commit is under way.
    #[error("another commit or undo is under way; try again when it is over")]
    Busy,
    /// The journal could not be read or written.
    #[error("cannot {what} {}: {errno}", .path.display())]
    Journal {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A file of the journal makes no sense.
    #[error("{} is damaged: {why}", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is no such commit.
    #[error("there is no commit {0}")]
    NoSuchCommit(u64),
    /// A newer fvm made the commit.
    #[error("commit {number} was made by a newer fvm (journal version {version}); use that one")]
    Newer {
        /// Which.
        number: u64,
        /// Its version.
        version: u32,
    },
    /// The commit cannot be undone.
    #[error("commit {number} cannot be undone: {why}")]
    Final {
        /// Which.
        number: u64,
        /// Why.
        why: String,
    },
}

/// One entry that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where on the host, printable.
    pub path: String,
    /// What was seen.
    pub what: String,
}

fn list(changed: &[Changed]) -> String {
    changed.iter().map(|c| format!("\n  {}: {}", c.path, c.what)).collect()
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::EXIST => "something was created there meanwhile".into(),
        Errno::STALE => "it was replaced or edited meanwhile".into(),
        Errno::CANCELED => "it was interrupted".into(),
        Errno::BUSY => "something is mounted on it".into(),
        other => other.to_string(),
    }
}
