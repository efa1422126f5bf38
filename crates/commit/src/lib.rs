//! Carries a plan out on the host: all of it, or none.
//!
//! ```text
//!   Plan ── prepare ──► Prepared ── publish ──► Published
//!           check         │  check again           renames only, in the plan's order
//!           stage         └─ abandon               stages removed, directories' times set
//!
//!   beside the target:   .fvm-<id>-<n>       what op n brings, then what it replaced
//!                        .fvm-<id>-<n>-old   the old version of a renamed entry with new content
//! ```
//!
//! Invariants: until [`Prepared::publish`] nothing that anybody else uses is changed, only stages are added; publishing
//! copies nothing and so cannot run out of space; a rename that fails undoes those before it; every host path is
//! reached beneath its mount, without following a symlink; every change of the host goes through [`disk::Disk`].

mod check;
mod copy;
mod disk;
mod places;
mod publish;
mod stage;

use fvm_model::plan::{LayerDir, Plan};
use fvm_model::{HostPath, VmPath};
use places::Places;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The host is not as the plan expects: nothing was changed.
    #[error("the host changed since the VM was compared with it, so nothing was committed:{}", list(.0))]
    HostChanged(Vec<Changed>),
    /// A layer or its mount could not be opened.
    #[error("cannot open {}: {errno}; nothing was committed", .path.display())]
    Open {
        /// What.
        path: PathBuf,
        /// Why.
        errno: Errno,
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
    /// The VM's own version changed after the scan.
    #[error("the VM's '{path}' changed since it was compared with the host; nothing was committed: compare again")]
    LayerChanged {
        /// Which.
        path: VmPath,
    },
    /// The name of a stage is taken: it may hold the only copy of something.
    #[error("'{path}' is left of a commit that was interrupted; nothing was committed: look at it, then remove it")]
    Leftover {
        /// Which.
        path: HostPath,
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
    /// A rename failed half-way, and what was done before it has been undone.
    #[error("cannot put {path} in place: {errno}; everything was put back")]
    Publish {
        /// The change.
        path: VmPath,
        /// Why.
        errno: Errno,
    },
    /// A rename failed half-way, and not everything could be undone.
    #[error("cannot put {path} in place: {errno}; these could not be put back, look for '.fvm-' names there: {}", .left.join(", "))]
    Torn {
        /// The change.
        path: VmPath,
        /// Why.
        errno: Errno,
        /// Where the host is now between old and new.
        left: Vec<String>,
    },
}

/// One entry that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where on the host.
    pub path: HostPath,
    /// What was seen.
    pub what: String,
}

fn list(changed: &[Changed]) -> String {
    changed.iter().map(|c| format!("\n  {}: {}", c.path, c.what)).collect()
}

/// A plan whose new content lies beside its targets.
#[derive(Debug)]
#[must_use = "a prepared plan is published or abandoned"]
pub struct Prepared {
    plan: Plan,
    places: Places,
    times: Vec<publish::DirTime>,
    notes: Vec<String>,
}

/// A plan that was carried out.
#[derive(Debug)]
pub struct Published {
    /// How many ops.
    pub applied: usize,
    /// Anything worth telling.
    pub notes: Vec<String>,
}

/// Checks the host and stages everything that the plan brings.
///
/// # Errors
/// Whatever stands in the way; no stage is left then.
pub fn prepare(plan: Plan, sources: &[LayerDir]) -> Result<Prepared, CommitError> {
    let places = Places::open(&plan, sources)?;
    check::host(&plan, &places, check::Depth::Below)?;
    check::layers(&plan, &places)?;
    check::stages(&plan, &places)?;
    check::rights(&plan, &places)?;
    check::space(&plan, &places)?;
    let times = publish::dir_times(&plan, &places);
    let mut notes = Vec::new();
    let staged = stage::all(&plan, &places, &mut notes).and_then(|()| check::host(&plan, &places, check::Depth::Named));
    match staged {
        Ok(()) => Ok(Prepared { plan, places, times, notes }),
        Err(error) => {
            publish::remove_stages(&plan, &places, &mut notes);
            publish::restore_times(&plan, &places, &times);
            Err(error)
        }
    }
}

impl Prepared {
    /// Puts everything in place.
    ///
    /// # Errors
    /// When a rename fails: what was done is undone.
    pub fn publish(self) -> Result<Published, CommitError> {
        let Self { plan, places, times, mut notes } = self;
        publish::publish(&plan, &places, &times, &mut notes)?;
        Ok(Published { applied: plan.ops.len(), notes })
    }

    /// Removes the stages: the host is as it was.
    pub fn abandon(self) {
        let Self { plan, places, times, mut notes } = self;
        publish::remove_stages(&plan, &places, &mut notes);
        publish::restore_times(&plan, &places, &times);
    }
}
