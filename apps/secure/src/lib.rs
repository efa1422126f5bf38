//! Secure execution: what came out of a VM that nobody trusts runs and opens in VMs only.
//!
//! ```text
//!   supervise   fvm guard run: starts the worker again when it ends
//!     guard     the worker: every thread that executes or opens a watched file waits for it
//!       watch   which files are watched: those that are marked, and copies of them
//!       task    what a waiting thread is, from /proc
//!       rules   what becomes of it: allowed, refused, or another program instead
//!       redirect  the thread executes `fvm run --marked FILE` instead
//!       turns   whose turn it is: fair among users
//!       probe   whether this kernel lets it
//!   exposed     whether fvm is root's alone to change: everybody is made to execute it
//!   unit, hook, desktop   systemd unit, shell hook, file handlers: texts
//! ```
//!
//! Invariants: the guard fails open: when it ends, however that comes, the kernel lets everybody go on; what it cannot
//! decide in time is refused; it marks single files, so what is not marked never waits.

pub mod desktop;
mod exposed;
mod file;
pub mod guard;
pub mod hook;
mod probe;
mod redirect;
mod rules;
pub mod status;
pub mod supervise;
mod task;
mod turns;
pub mod unit;
mod watch;

pub use rules::{Act, GuardPolicy, Reads};

use rustix::io::Errno;
use std::path::PathBuf;

/// Why the guard does not work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Only root is told of what others execute.
    #[error("the guard needs root")]
    NotRoot,
    /// Another one runs.
    #[error("a guard runs already, as process {0}")]
    Runs(i32),
    /// Its supervisor is gone: nobody would start it again.
    #[error("the guard's worker has no supervisor: 'fvm guard run' starts both")]
    Alone,
    /// Whoever can replace what runs instead of marked programs, for every user, is that user.
    #[error("'{}' can be changed by others than root, and would be executed by everybody", .0.display())]
    Exposed(PathBuf),
    /// The kernel lacks something.
    #[error("this kernel does not ask before a file is executed (fanotify permission events): {0}")]
    Kernel(Errno),
    /// Directories cannot be watched.
    #[error("cannot watch directories (inotify): {0}")]
    Watch(Errno),
    /// A file could not be read or written.
    #[error("cannot {what} '{}': {errno}", .path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A program could not be started or failed.
    #[error("'{program}' failed: {why}")]
    Program {
        /// Which.
        program: String,
        /// How.
        why: String,
    },
    /// The state directory.
    #[error(transparent)]
    Fvm(#[from] fvm::FvmError),
}

impl GuardError {
    /// What to do next, when there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotRoot => Some("'fvm guard hook' and 'fvm guard install --user' work without, and only advise"),
            Self::Exposed(_) => Some("install fvm where only root can write: install -m 755 fvm /usr/local/bin/fvm"),
            Self::Runs(_) => Some("'fvm guard status' shows it"),
            Self::Watch(Errno::MFILE) => Some(
                "root has no inotify instance left: programs in root's VMs count as well; 'sysctl fs.inotify.max_user_instances=1024'",
            ),
            Self::Kernel(_) => Some("the kernel must be built with CONFIG_FANOTIFY_ACCESS_PERMISSIONS"),
            _ => None,
        }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |e| Self::Io { what, path, errno: Errno::from_io_error(&e).unwrap_or(Errno::IO) }
    }
}
