//! What a VM's layers hold against the host.
//!
//! A change is named by its path in the VM (`path`), and, where a previous version exists, by where that version
//! lies on the host (`base`): the two differ for a renamed entry and for everything below a renamed directory.
//!
//! ```text
//!   VM: mv /srv/a /srv/b; echo x >> /srv/b/f; rm /srv/b/g
//!     Renamed  path /srv/b    base /srv/a
//!     Modified path /srv/b/f  base /srv/a/f
//!     Deleted  path /srv/b/g  base /srv/a/g
//! ```
//!
//! Invariants: a change set is sorted by `path` (bytes), so a parent stands before its children; at most one change
//! has a given path; everything in it came from a hostile VM and is printed through [`crate::path::printable`].

use crate::event::Origin;
use crate::path::{Bytes, HostPath, VmPath};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The type of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket: reported, never committed.
    Socket,
    /// Character device: reported, never committed.
    CharDevice,
    /// Block device: reported, never committed.
    BlockDevice,
}

/// What the kernel knows of an entry, as far as it can be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Type.
    pub file_type: FileType,
    /// Permission bits with set-uid, set-gid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Owner on disk.
    pub uid: u32,
    /// Group on disk.
    pub gid: u32,
    /// Length in bytes (of a link: of its target).
    pub size_bytes: u64,
    /// Last change of content.
    pub mtime: Timestamp,
}

/// Which metadata differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct MetaDelta {
    /// Permission bits.
    pub mode: bool,
    /// Owner or group.
    pub owner: bool,
    /// mtime, where that is the VM's doing and not a consequence of another change.
    pub times: bool,
    /// Extended attributes, ACLs and capabilities among them.
    pub xattrs: bool,
}

impl MetaDelta {
    /// Whether anything differs.
    #[must_use]
    pub fn any(self) -> bool {
        self.mode || self.owner || self.times || self.xattrs
    }
}

/// What happened to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "what")]
pub enum ChangeKind {
    /// New in the VM.
    Created,
    /// Same type, other content (or link target), maybe other metadata too.
    Modified {
        /// Metadata that differ as well.
        meta: MetaDelta,
    },
    /// Same content, other metadata.
    Metadata {
        /// What differs.
        meta: MetaDelta,
    },
    /// Gone in the VM. A deleted directory is one change; what it held is not listed.
    Deleted,
    /// The host's entry at `base` now stands at `path`. Deletion of `base` is part of it.
    Renamed {
        /// Content (or link target) changed as well.
        modified: bool,
        /// Metadata that changed as well.
        meta: MetaDelta,
    },
    /// Another type than on the host (file → symlink, directory → file, ...). The old entry, with all below, goes.
    Retyped {
        /// What it was on the host.
        from: FileType,
    },
}

/// One difference between a VM and the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where, in the VM.
    pub path: VmPath,
    /// What happened.
    #[serde(flatten)]
    pub kind: ChangeKind,
    /// Type now; for `Deleted`, the type it had.
    pub file_type: FileType,
    /// Where the previous version lies on the host. Same as `path` except under renames. `None` for `Created`, but for
    /// one case: `Created` with a `base` (and no `before`) is a new hard link to that unchanged host file.
    pub base: Option<HostPath>,
    /// The layer that holds it.
    pub layer: u32,
    /// The previous version, as seen at the scan; `None` for `Created`.
    pub before: Option<Meta>,
    /// The VM's version; `None` for `Deleted`.
    pub after: Option<Meta>,
    /// Target of a symbolic link in the VM.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<Bytes>,
    /// Entries with the same number are hard links to one file in the VM.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link_group: Option<u32>,
    /// An unchanged host file that this entry is a hard link to in the VM.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link_host: Option<HostPath>,
    /// Where, in the same layer, the content lies when that is not at `path`: another name of the same hard-linked
    /// file, through which the VM changed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<VmPath>,
    /// Why this can never be committed (a socket, a device, a mount point); `None` when it can.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uncommittable: Option<String>,
    /// The host's entry changed after the fork as well: what was seen. `None` when it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conflict: Option<String>,
    /// Which program made it, by the behaviour log; `None` where that does not know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<Box<Origin>>,
}

/// Directories whose own entry is unchanged but whose mtime in the VM is to be carried over when a change below them
/// is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchedDir {
    /// Where.
    pub path: VmPath,
    /// Its mtime in the VM.
    pub mtime: Timestamp,
}

/// All changes of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ChangeSet {
    /// Sorted by path.
    pub changes: Vec<Change>,
    /// Sorted by path.
    #[serde(skip_serializing, default)]
    pub touched: Vec<TouchedDir>,
    /// What could not be read or understood in the layers, in words; never silently dropped.
    pub warnings: Vec<String>,
}

/// How many of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Summary {
    /// New entries.
    pub added: usize,
    /// Changed entries: content, metadata or type.
    pub modified: usize,
    /// Gone entries.
    pub deleted: usize,
    /// Renamed entries.
    pub renamed: usize,
}

impl Summary {
    /// Counts these.
    #[must_use]
    pub fn of<'c>(changes: impl IntoIterator<Item = &'c Change>) -> Self {
        let mut sum = Self::default();
        changes.into_iter().for_each(|change| sum.add(change));
        sum
    }

    /// Counts one more.
    pub fn add(&mut self, change: &Change) {
        *match change.kind {
            ChangeKind::Created => &mut self.added,
            ChangeKind::Modified { .. } | ChangeKind::Metadata { .. } | ChangeKind::Retyped { .. } => {
                &mut self.modified
            }
            ChangeKind::Deleted => &mut self.deleted,
            ChangeKind::Renamed { .. } => &mut self.renamed,
        } += 1;
    }
}

impl ChangeSet {
    /// Counts by kind.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary::of(&self.changes)
    }
}
