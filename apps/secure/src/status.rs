//! What a guard says about itself.
//!
//! ```text
//!   <home>/guard/lock   held by the supervisor: the guard runs
//!   <home>/guard/status.json   the worker's Status, replaced as a whole
//! ```
//!
//! Invariant: running is the lock; the file alone says nothing.

use crate::{GuardError, GuardPolicy};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How a guard is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether it runs.
    pub running: bool,
    /// The worker's process.
    pub worker: i32,
    /// The process that starts it again.
    pub supervisor: i32,
    /// What it does.
    pub policy: GuardPolicy,
    /// Whether programs can be redirected on this machine.
    pub redirects: bool,
    /// How many files are watched.
    pub watched: usize,
    /// How many marked files are not watched because there is no room for more; programs come first.
    pub documents: usize,
    /// How many could not be watched.
    pub unwatched: usize,
    /// How many runs and reads were allowed,
    pub allowed: u64,
    /// redirected,
    pub redirected: u64,
    /// refused,
    pub refused: u64,
    /// and refused because deciding took too long.
    pub late: u64,
    /// How many copies were marked.
    pub copies: u64,
    /// How often the book was read.
    pub rounds: u64,
}

/// The lock of the guard of this directory.
pub(crate) fn lock(dir: &Path) -> Result<std::fs::File, GuardError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join("lock");
    std::fs::create_dir_all(dir).map_err(GuardError::io("make", dir))?;
    let mut options = std::fs::File::options();
    let file = options.create(true).truncate(false).write(true).read(true).mode(0o600).open(&path);
    file.map_err(GuardError::io("open", path))
}

/// Whether the guard of this directory runs.
pub(crate) fn is_held(dir: &Path) -> bool {
    lock(dir).is_ok_and(|file| fvm_sys::process::is_locked(&file).unwrap_or(false))
}

fn place(dir: &Path) -> PathBuf {
    dir.join("status.json")
}

/// How the guard of this directory is.
///
/// # Errors
/// When its lock cannot be asked.
pub fn read(dir: &Path) -> Result<Status, GuardError> {
    let running = match lock(dir) {
        Ok(file) => fvm_sys::process::is_locked(&file).unwrap_or(false),
        Err(GuardError::Io { errno: rustix::io::Errno::NOENT, .. }) => false,
        Err(e) => return Err(e),
    };
    let last = std::fs::read(place(dir)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(last.filter(|_| running).map_or_else(Status::default, |status| Status { running, ..status }))
}

pub(crate) fn write(dir: &Path, status: &Status) -> Result<(), GuardError> {
    // One name: a worker that was killed leaves it to the next.
    let (path, new) = (place(dir), dir.join("status.new"));
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, &path)).map_err(GuardError::io("write", path))
}
