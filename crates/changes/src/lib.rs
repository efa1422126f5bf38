//! From the layers of a VM to the set of its changes.
//!
//! ```text
//!   layers/<n>/upper ─┐  moves    directories that were moved; what else the names tell
//!                     ├─ renames  deletion + creation of one inode = Renamed
//!   host directory  ──┘  links    hard-link groups, aliases that share a changed inode
//!                        list     every entry of all layers, in the order of their paths
//!                        walk     one entry: merged place, and where its lower lies   (by several threads: pipeline)
//!                        compare  type, content, metadata: equal entries are no change
//!                        conflict what the host changed since
//!                          └─► change after change, sorted by path, one per path; or all as a ChangeSet
//!   stack    several uppers as one, for a VM that stands on the layers of another
//!   text     one change as a unified diff           open     both versions of one change
//!   discard  the only writer, and only to layers
//! ```
//!
//! Invariants: everything in an upper is hostile: it is reached by directory descriptor beneath its root, no link is
//! followed, and what cannot be read is a warning in the result. Nothing here writes, except [`discard()`], which
//! writes the layers of a stopped VM and never the host.

use fvm_model::{ChangeSet, HostPath, Layer, Timestamp, VmPath, vm::XattrClass};
use rustix::io::Errno;
use std::collections::HashMap;
use std::path::PathBuf;

mod compare;
mod conflict;
pub mod discard;
mod forget;
mod layer;
mod links;
mod list;
mod lower;
mod moves;
mod names;
mod open;
pub mod overlay;
mod pipeline;
mod renames;
mod scan;
pub mod stack;
pub mod text;
mod walk;

pub use discard::discard;
pub use forget::{Forget, forget, staying};
pub use open::{open_after, open_before};
pub use scan::{Rest, Scan, Seen, Sheet, prepare, scan, scan_under};
pub use stack::{Means, StackError, flatten};

/// Where a layer of a stopped or running VM lies.
#[derive(Debug, Clone)]
pub struct LayerView {
    /// What it stands on.
    pub layer: Layer,
    /// `<layers_dir>/layers/<n>`, holding `upper/` and `work/` (or `file` for `LayerKind::File`).
    pub dir: PathBuf,
}

/// What to scan.
#[derive(Debug, Clone)]
pub struct ScanInput {
    /// The VM's layers.
    pub layers: Vec<LayerView>,
    /// The class of overlay attributes to believe; the other one is the VM's own words.
    pub class: XattrClass,
    /// When the VM was forked.
    pub forked: Timestamp,
    /// Where its layers are older: from when until when they were laid. A directory in them that is as old as that is only theirs.
    pub laid: Option<[Timestamp; 2]>,
    /// Since when the host is as its changes know it: changes of the host after this can be conflicts.
    pub based: Timestamp,
    /// When the layers were copied, if they were: birth times from before say nothing.
    pub copied: Option<Timestamp>,
    /// fvm's own state: never looked below, on neither side.
    pub excluded: Vec<HostPath>,
    /// Host files that the VM's version is known to be based on, in the state in which they were seen.
    pub known: HashMap<VmPath, Known>,
}

/// A host file at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its inode.
    pub ino: u64,
    /// Its ctime: any change moves it.
    pub ctime: Timestamp,
}

/// Why changes could not be found, read or dropped.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A layer's own directory is not there or not readable.
    #[error("cannot open layer {layer} at '{path}'")]
    Layer {
        /// Its number.
        layer: u32,
        /// Its directory.
        path: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// One version of a changed entry cannot be opened.
    #[error("cannot read {what} of '{path}'")]
    Read {
        /// Which version.
        what: &'static str,
        /// Whose.
        path: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The change names a layer that the VM does not have, or a path outside it.
    #[error("'{path}' is not in layer {layer} of this VM")]
    NotInLayer {
        /// The path.
        path: String,
        /// The layer.
        layer: u32,
    },
    /// The layers hold more than fvm is ready to list.
    #[error("the VM has more than {limit} changed entries in one layer; delete some in the VM, or discard a directory")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The same, of their names.
    #[error(
        "the paths that the VM changed in one layer are longer than {limit_bytes} bytes together; delete some in the VM"
    )]
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// A layer could not be changed.
    #[error("cannot discard '{path}': {what} failed")]
    Discard {
        /// Whose change.
        path: String,
        /// What was attempted.
        what: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Keeps the changes whose path, or whose base, is one of `only` or lies below one. All when `only` is empty.
#[must_use]
pub fn filter(mut set: ChangeSet, only: &[VmPath]) -> ChangeSet {
    if !only.is_empty() {
        set.changes.retain(|change| is_one_of(change, only));
        set.touched.retain(|t| only.iter().any(|o| t.path.is_within(o)));
    }
    set
}

/// Whether [`filter`] keeps the change.
#[must_use]
pub fn is_one_of(change: &fvm_model::Change, only: &[VmPath]) -> bool {
    let within = |path: &VmPath| only.iter().any(|o| path.is_within(o));
    let from = || match change.kind {
        fvm_model::ChangeKind::Renamed { .. } => change.base.as_ref().is_some_and(|base| within(&base.in_vm())),
        _ => false,
    };
    only.is_empty() || within(&change.path) || from()
}
