//! What the scan of one layer knows.
//!
//! ```text
//!   prepared, then only read     moves    upper directory ─► lower directory (redirects), and back
//!   (by several threads)         whole    what no entry tells by itself: renames, groups of hard links
//!
//!   per entry                    Found    the change, and the facts of both sides
//!                                Notes    what could not be read; directories that were touched
//! ```
//!
//! Invariant: what is kept of a layer goes with what was moved, removed or linked in it, not with how much it holds.

use crate::compare::{Side, birth, file_type, meta};
use crate::links::Links;
use crate::lower::Lower;
use crate::overlay::Origin;
use crate::renames::Renames;
use crate::walk::At;
use crate::{LayerView, ScanError, ScanInput};
use fvm_model::change::TouchedDir;
use fvm_model::path::{joined, printable};
use fvm_model::{Change, ChangeKind, FileType, HostPath, Timestamp, VmPath, vm::XattrClass};
use fvm_sys::dir::Dir;
use fvm_sys::handle::{FileHandle, exists, name_to_handle};
use rustix::fs::Statx;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most entries of one layer that are kept at once.
pub(crate) const FOUND_MAX: usize = 4_000_000;
/// Most bytes of their names: paths may be long, and each is kept several times.
pub(crate) const FOUND_MAX_BYTES: usize = 400 << 20;
/// Most warnings kept for one layer.
const WARNINGS_MAX: usize = 200;

/// What is known of the upper side of a change.
#[derive(Debug, Clone)]
pub(crate) struct UpperFacts {
    pub ino: u64,
    pub nlink: u32,
    pub born: Option<Timestamp>,
    pub origin: Origin,
}

/// One change, with what is needed to judge it.
pub(crate) struct Found {
    pub change: Change,
    /// From the root of the upper.
    pub rel: PathBuf,
    /// The host's entry: where, from the root of the lower, and its `statx`.
    pub lower: Option<(PathBuf, Statx)>,
    pub upper: Option<UpperFacts>,
    /// A directory copied up, or moved, whose host directory is gone.
    pub lost: bool,
    /// Both sides lie in the directories where the walk found it, under its own name.
    pub plain: bool,
}

/// What is noted besides the changes.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub warnings: Vec<String>,
    pub touched: Vec<TouchedDir>,
    /// Upper files with several names that are as on the host: their inode, and where the host has them.
    pub unchanged_links: Vec<(u64, PathBuf)>,
}

/// A limit on what is kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    count: usize,
    bytes: usize,
}

impl Kept {
    /// Counts one more thing with a name of `bytes`.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), ScanError> {
        self.count += 1;
        self.bytes += bytes;
        if self.count > FOUND_MAX {
            return Err(ScanError::TooMany { limit: FOUND_MAX });
        }
        if self.bytes > FOUND_MAX_BYTES {
            return Err(ScanError::TooLong { limit_bytes: FOUND_MAX_BYTES });
        }
        Ok(())
    }
}

/// One layer.
pub(crate) struct Layer<'a> {
    pub input: &'a ScanInput,
    pub n: u32,
    pub upper: Dir,
    pub lower: Lower,
    pub index_path: PathBuf,
    /// Places where other layers stand: what lies there is theirs.
    pub covered: HashSet<HostPath>,
    pub moved: HashMap<PathBuf, PathBuf>,
    pub claimed: HashMap<PathBuf, PathBuf>,
    /// The directories above those that were moved.
    pub above_moved: HashSet<PathBuf>,
    /// Directories moved away and back into a replaced directory: they still show the host's entries.
    pub at_home: HashSet<PathBuf>,
    pub lost: HashSet<PathBuf>,
    pub renames: Renames,
    pub links: Links,
    /// Where the kernel does not open handles: those of host files that stand beside an upper entry or were removed.
    pub known: Option<HashSet<FileHandle>>,
    /// There, others may be as well.
    pub all_may_live: bool,
    /// What could not be read while this was prepared.
    pub notes: Notes,
    pub now: Timestamp,
}

impl<'a> Layer<'a> {
    /// Opens both sides; `Ok(Err(why))` when the host directory is gone.
    pub(crate) fn open(input: &'a ScanInput, view: &LayerView) -> Result<Result<Self, String>, ScanError> {
        let layer = &view.layer;
        let fail = |path: &Path| {
            let (layer, path) = (layer.n, printable(path.as_os_str().as_bytes()));
            move |source| ScanError::Layer { layer, path, source }
        };
        let upper_path = view.dir.join("upper");
        let upper = Dir::open_root(&upper_path).map_err(fail(&upper_path))?;
        let lower = match Lower::open_root(&layer.host, &input.excluded) {
            Ok(lower) => lower,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Ok(Err(format!("'{}' is gone on the host: layer {} was not read", layer.host, layer.n)));
            }
            Err(e) => return Err(fail(layer.host.as_path())(e)),
        };
        let covered = input.layers.iter().map(|l| l.layer.host.clone()).filter(|h| *h != layer.host).collect();
        // It takes a capability that a container may lack.
        let root = name_to_handle(&lower.root, Path::new(""));
        let opens_handles = root.is_ok_and(|root| exists(&lower.root, &root).unwrap_or(false));
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Ok(Ok(Self {
            input,
            n: layer.n,
            upper,
            lower,
            index_path: view.dir.join("work/index"),
            covered,
            moved: HashMap::new(),
            claimed: HashMap::new(),
            above_moved: HashSet::new(),
            at_home: HashSet::new(),
            lost: HashSet::new(),
            renames: Renames::default(),
            links: Links::default(),
            known: (input.class == XattrClass::Trusted && !opens_handles).then(HashSet::new),
            all_may_live: false,
            notes: Notes::default(),
            now: Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) },
        }))
    }

    /// Why entries cannot come to, or go from, this host directory (`None`: the VM's own). In the VM the user owns its
    /// copy, and may do there what the host forbids.
    pub(crate) fn locked(&self, lower: Option<&Dir>) -> Option<&'static str> {
        let forbidden = self.input.class == XattrClass::User && lower.is_some_and(may_not_write);
        forbidden.then_some("you may not change this directory on the host")
    }

    pub(crate) fn vm_path(&self, rel: &Path) -> VmPath {
        self.lower.host.join(rel).in_vm()
    }

    pub(crate) fn warn(&self, notes: &mut Notes, rel: &Path, what: impl Display) {
        if notes.warnings.len() <= WARNINGS_MAX {
            let path = self.vm_path(rel);
            notes.warnings.push(format!("{path}: {what}"));
        }
    }

    /// Adds a warning to those of this layer, of which `count` are kept so far.
    pub(crate) fn keep_warning(&self, warning: String, count: &mut usize, kept: &mut Vec<String>) {
        *count += 1;
        match (*count).cmp(&(WARNINGS_MAX + 1)) {
            std::cmp::Ordering::Less => kept.push(warning),
            std::cmp::Ordering::Equal => kept.push(format!("layer {}: more warnings were left out", self.n)),
            std::cmp::Ordering::Greater => {}
        }
    }

    /// Whether overlay's notes are those of a privileged mount, with handles and birth times to go by.
    pub(crate) fn trusted(&self) -> bool {
        self.input.class == XattrClass::Trusted
    }

    /// A change of the entry `name` in `at` with the upper side `upper` and the lower side at `lower`.
    pub(crate) fn found(
        &self,
        at: &At,
        name: &Path,
        kind: ChangeKind,
        upper: Option<(Side<'_>, Origin)>,
        lower: Option<(PathBuf, Statx)>,
        notes: &mut Notes,
    ) -> Found {
        let rel = joined(&at.rel, name);
        let file_type = match (&upper, &lower) {
            (Some((side, _)), _) => file_type(side.stat),
            (None, Some((_, stat))) => file_type(stat),
            (None, None) => FileType::File,
        };
        let target = match &upper {
            Some((side, _)) if file_type == FileType::Symlink => match side.dir.read_link(side.name) {
                Ok(target) => Some(fvm_model::path::Bytes(target)),
                Err(e) => {
                    self.warn(notes, &rel, format_args!("its link target cannot be read ({e})"));
                    None
                }
            },
            _ => None,
        };
        let created = kind == ChangeKind::Created;
        let changes_parent = !matches!(kind, ChangeKind::Modified { .. } | ChangeKind::Metadata { .. });
        let uncommittable = match file_type {
            FileType::Socket => Some("a socket cannot be committed"),
            FileType::CharDevice | FileType::BlockDevice => Some("a device node cannot be committed"),
            _ if changes_parent => at.locked,
            _ => None,
        };
        let change = Change {
            path: at.vm.join(name),
            kind,
            file_type,
            base: lower.as_ref().filter(|_| !created).map(|(l, _)| self.lower.host.join(l)),
            layer: self.n,
            before: lower.as_ref().filter(|_| !created).map(|(_, stat)| meta(stat)),
            after: upper.as_ref().map(|(side, _)| meta(side.stat)),
            target,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: uncommittable.map(str::to_owned),
            conflict: None,
            origin: None,
        };
        let upper = upper.map(|(side, origin)| UpperFacts {
            ino: side.stat.stx_ino,
            nlink: side.stat.stx_nlink,
            born: birth(side.stat),
            origin,
        });
        Found { change, rel, lower, upper, lost: false, plain: true }
    }
}

fn may_not_write(dir: &Dir) -> bool {
    let flags = rustix::fs::AtFlags::EACCESS;
    rustix::fs::accessat(dir, ".", rustix::fs::Access::WRITE_OK, flags).is_err()
}
