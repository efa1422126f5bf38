//! What a commit will do to the host, in order, fully decided, printable.
//!
//! ```text
//!   VM: mv /srv/a /srv/b; mkdir /srv/a; echo x >> /srv/b/f          n  op
//!                                                                   1  create directory /srv/a
//!   decide ─► Plan { ops, closure, skipped, ... } ─► prepare        2  rename /srv/a to /srv/b
//!                                                                   3  replace file /srv/b/f
//! ```
//!
//! Every op names three places: `path`, where the result stands afterwards; `base`, where the host's previous version
//! lies today; `stage_dir`, an existing host directory of the same mount that no op moves, where the op's stage can lie
//! until it is put in place.
//!
//! Invariants: ops are sorted by `path`, so a parent stands before its children; `n` counts from 1; a plan decides
//! everything and knows nothing that only the host can tell; its texts are printed through [`crate::path::printable`].

use crate::change::{FileType, Meta, MetaDelta, TouchedDir};
use crate::path::{Bytes, HostPath, VmPath};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Where a layer lies: the source of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDir {
    /// Its number.
    pub n: u32,
    /// The host directory that it stands on.
    pub host: HostPath,
    /// The directory that holds `upper/`.
    pub dir: PathBuf,
}

/// What a commit will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[must_use = "a plan does nothing until it is prepared and published"]
pub struct Plan {
    /// Equal plans have equal ids: derived from the ops.
    pub id: String,
    /// When the VM was forked, if known: what stands in the way of a renamed entry may be replaced if older.
    pub forked: Option<Timestamp>,
    /// What is done, sorted by path.
    pub ops: Vec<PlanOp>,
    /// Directories that get their mtime from the VM in the end.
    pub dir_times: Vec<TouchedDir>,
    /// What was added to the choice because the choice needs it.
    pub closure: Vec<Pulled>,
    /// What was chosen and is not done.
    pub skipped: Vec<Skipped>,
    /// Conflicts where the VM's version replaces the host's.
    pub conflicts_overridden: Vec<VmPath>,
    /// Conflicts where the host's version stays, and the VM's is to be dropped after the commit.
    pub host_kept: Vec<VmPath>,
    /// All paths with an op.
    pub selected: Vec<VmPath>,
    /// Those of which nothing is left out: what leaves the VM's layers after the commit.
    pub whole: Vec<VmPath>,
}

/// A change that was added to a choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Which.
    pub path: VmPath,
    /// Why.
    pub why: String,
}

/// A chosen change that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which.
    pub path: VmPath,
    /// Why.
    pub reason: String,
}

/// One entry's part of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOp {
    /// Its number in the plan, from 1.
    pub n: u32,
    /// Where the result stands.
    pub path: VmPath,
    /// The layer it comes from.
    pub layer: u32,
    /// The result's type; for [`Action::Remove`], the type that goes.
    pub file_type: FileType,
    /// What is done.
    pub action: Action,
    /// Where the previous version lies today.
    pub base: Option<HostPath>,
    /// What the previous version must still look like; `None`: anything (a conflict was overridden), or no `base`.
    pub expect: Option<Meta>,
    /// Where today lies what will occupy `path` at the op's turn; `None` when nothing can be there.
    pub occupant: Option<HostPath>,
    /// Who may be there.
    pub may_occupy: Occupant,
    /// An existing host directory, in the same mount as `path`, that nothing in the plan moves.
    pub stage_dir: HostPath,
    /// Where in the layer content and metadata lie.
    pub source: VmPath,
    /// The VM's version at the scan.
    pub after: Option<Meta>,
    /// Which metadata are set on an entry that stays the same file.
    pub meta: MetaDelta,
}

/// What is done to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "do")]
pub enum Action {
    /// A new entry.
    Create {
        /// What it holds.
        content: Content,
    },
    /// The entry makes way for another one, of the same or another type.
    Replace {
        /// What the new one holds.
        content: Content,
    },
    /// The entry goes, with all below.
    Remove,
    /// The entry moves.
    Rename {
        /// From here, before the commit.
        from: HostPath,
        /// New content, if it changed as well.
        content: Option<Content>,
    },
    /// The entry gets other metadata.
    SetMeta,
}

/// Where an entry's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "from")]
pub enum Content {
    /// A directory; what it holds are ops of their own.
    Directory,
    /// A copy of the layer's file, symlink or FIFO.
    Layer,
    /// These bytes, with the host's metadata: hunks that a person chose, or both sides' changes merged.
    Given {
        /// All of the file.
        bytes: Bytes,
    },
    /// A hard link to the stage of an earlier op.
    Op {
        /// Its number.
        n: u32,
    },
    /// A hard link to a host file.
    Host {
        /// Where it lies today.
        at: HostPath,
        /// What it must still look like; `None` when another op checks that.
        expect: Option<Meta>,
    },
}

/// What may stand at an op's path when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Occupant {
    /// Nothing: the host has no such entry.
    Nobody,
    /// The previous version, checked through `base` and `expect`.
    Base,
    /// Nothing, or an entry that is unchanged since the fork: the VM must have removed it.
    Old,
    /// Anything: a conflict was overridden.
    Anything,
}

impl Plan {
    /// The same plan of a VM forked at `at`.
    pub fn with_forked(mut self, at: Timestamp) -> Self {
        self.forked = Some(at);
        self
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

impl PlanOp {
    /// Whether it puts an entry where none, or another one, was.
    #[must_use]
    pub fn places(&self) -> bool {
        matches!(self.action, Action::Create { .. } | Action::Replace { .. } | Action::Rename { .. })
    }

    /// Where the content comes from; `None` when the entry keeps its own.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match &self.action {
            Action::Create { content } | Action::Replace { content } => Some(content),
            Action::Rename { content, .. } => content.as_ref(),
            Action::Remove | Action::SetMeta => None,
        }
    }
}

/// A type in words.
#[must_use]
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
    }
}

fn delta_words(meta: MetaDelta) -> String {
    let words = [(meta.mode, "mode"), (meta.owner, "owner"), (meta.xattrs, "attributes"), (meta.times, "time")];
    words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for PlanOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path) = (type_name(self.file_type), &self.path);
        match &self.action {
            Action::Create { content: Content::Host { at, .. } } => write!(f, "create {path}, a hard link to {at}"),
            Action::Create { content: Content::Op { n } } => {
                write!(f, "create {path}, a hard link to the result of op {n}")
            }
            Action::Create { .. } => write!(f, "create {kind} {path}"),
            Action::Replace { .. } => match &self.expect {
                Some(old) if old.file_type != self.file_type => {
                    write!(f, "replace {} {path} by a {kind}", type_name(old.file_type))
                }
                _ => write!(f, "replace {kind} {path}"),
            },
            Action::Remove => write!(f, "delete {kind} {path}"),
            Action::Rename { from, content } => {
                write!(f, "rename {from} to {path}")?;
                match (content, self.meta.any()) {
                    (Some(_), _) => f.write_str(", with new content"),
                    (None, true) => write!(f, ", set {}", delta_words(self.meta)),
                    (None, false) => Ok(()),
                }
            }
            Action::SetMeta => write!(f, "set {} of {path}", delta_words(self.meta)),
        }
    }
}
