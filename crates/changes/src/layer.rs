//! What the scan of one layer knows while it runs.
//!
//! ```text
//!   moves    upper directory ─► lower directory (redirects), and back
//!   found    changes so far, each with the facts of both sides
//!   candidates, gone_dirs   what the VM removed: a rename may have taken it elsewhere
//!   seen     handles of host files that stand beside an upper entry: an origin among them is no loss
//! ```
//!
//! Invariant: `found` entries are never removed, only marked dead, so indices into it stay valid.

use crate::compare::{Side, birth, file_type, meta};
use crate::lower::Lower;
use crate::overlay::Origin;
use crate::{LayerView, ScanError, ScanInput};
use fvm_model::change::TouchedDir;
use fvm_model::path::printable;
use fvm_model::{Change, ChangeKind, FileType, HostPath, Timestamp, VmPath, vm::XattrClass};
use fvm_sys::dir::Dir;
use fvm_sys::handle::FileHandle;
use rustix::fs::Statx;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most entries listed for one layer.
const FOUND_MAX: usize = 4_000_000;
/// Most bytes of their names: paths may be long, and each is kept several times.
const FOUND_MAX_BYTES: usize = 400 << 20;
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

/// One change, with what later stages need to judge it.
pub(crate) struct Found {
    pub change: Change,
    /// From the root of the upper.
    pub rel: PathBuf,
    /// The host's entry: where, from the root of the lower, and its `statx`.
    pub lower: Option<(PathBuf, Statx)>,
    pub upper: Option<UpperFacts>,
    /// Taken over by another change (the source of a rename).
    pub dead: bool,
    /// A directory copied up, or moved, whose host directory is gone.
    pub lost: bool,
}

/// A host entry that the VM removed from its place.
pub(crate) struct Candidate {
    pub rel: PathBuf,
    pub stat: Statx,
    /// The change that says so; `None` inside a deleted directory.
    pub found: Option<usize>,
    pub taken: bool,
}

/// The scan of one layer.
pub(crate) struct LayerScan<'a> {
    pub input: &'a ScanInput,
    pub n: u32,
    pub upper: Dir,
    pub lower: Lower,
    pub index_path: PathBuf,
    /// Places where other layers stand: what lies there is theirs.
    pub covered: HashSet<HostPath>,
    pub moved: HashMap<PathBuf, PathBuf>,
    pub claimed: HashMap<PathBuf, PathBuf>,
    /// Directories moved away and back into a replaced directory: they still show the host's entries.
    pub at_home: HashSet<PathBuf>,
    pub lost: HashSet<PathBuf>,
    pub found: Vec<Found>,
    /// Length of all names in it.
    pub found_bytes: usize,
    pub candidates: Vec<Candidate>,
    pub gone_dirs: Vec<PathBuf>,
    pub unchanged_links: Vec<(u64, PathBuf)>,
    pub seen: HashSet<FileHandle>,
    pub touched: Vec<TouchedDir>,
    pub warnings: Vec<String>,
    pub now: Timestamp,
    /// Why entries cannot come to, or go from, the directory that is being walked.
    pub locked: Option<&'static str>,
}

impl<'a> LayerScan<'a> {
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
            at_home: HashSet::new(),
            lost: HashSet::new(),
            found: Vec::new(),
            found_bytes: 0,
            candidates: Vec::new(),
            gone_dirs: Vec::new(),
            unchanged_links: Vec::new(),
            seen: HashSet::new(),
            touched: Vec::new(),
            warnings: Vec::new(),
            now: Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) },
            locked: None,
        }))
    }

    /// Notes whether this user may change the host directory that is being walked (`None`: the VM's own). In the
    /// VM the user owns its copy, and may do there what the host forbids.
    pub(crate) fn note_rights(&mut self, lower: Option<&Dir>) {
        let forbidden = self.input.class == XattrClass::User && lower.is_some_and(may_not_write);
        self.locked = forbidden.then_some("you may not change this directory on the host");
    }

    pub(crate) fn vm_path(&self, rel: &Path) -> VmPath {
        self.lower.host.join(rel).in_vm()
    }

    pub(crate) fn warn(&mut self, rel: &Path, what: impl Display) {
        if self.warnings.len() < WARNINGS_MAX {
            let path = self.vm_path(rel);
            self.warnings.push(format!("{path}: {what}"));
        } else if self.warnings.len() == WARNINGS_MAX {
            self.warnings.push(format!("layer {}: more warnings were left out", self.n));
        }
    }

    /// Whether overlay's notes are those of a privileged mount, with handles and birth times to go by.
    pub(crate) fn trusted(&self) -> bool {
        self.input.class == XattrClass::Trusted
    }

    /// Adds a change of the entry `rel` with the upper side `upper` and the lower side at `lower`.
    pub(crate) fn push(
        &mut self,
        rel: &Path,
        kind: ChangeKind,
        upper: Option<(Side<'_>, Origin)>,
        lower: Option<(PathBuf, Statx)>,
    ) -> Result<usize, ScanError> {
        if self.found.len() >= FOUND_MAX {
            return Err(ScanError::TooMany { limit: FOUND_MAX });
        }
        let file_type = match (&upper, &lower) {
            (Some((side, _)), _) => file_type(side.stat),
            (None, Some((_, stat))) => file_type(stat),
            (None, None) => FileType::File,
        };
        let target = match &upper {
            Some((side, _)) if file_type == FileType::Symlink => match side.dir.read_link(side.name) {
                Ok(target) => Some(fvm_model::path::Bytes(target)),
                Err(e) => {
                    self.warn(rel, format_args!("its link target cannot be read ({e})"));
                    None
                }
            },
            _ => None,
        };
        self.found_bytes += rel.as_os_str().len() + target.as_ref().map_or(0, |t| t.0.len());
        if self.found_bytes > FOUND_MAX_BYTES {
            return Err(ScanError::TooLong { limit_bytes: FOUND_MAX_BYTES });
        }
        let created = kind == ChangeKind::Created;
        let changes_parent = !matches!(kind, ChangeKind::Modified { .. } | ChangeKind::Metadata { .. });
        let uncommittable = match file_type {
            FileType::Socket => Some("a socket cannot be committed"),
            FileType::CharDevice | FileType::BlockDevice => Some("a device node cannot be committed"),
            _ if changes_parent => self.locked,
            _ => None,
        };
        let change = Change {
            path: self.vm_path(rel),
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
        self.found.push(Found { change, rel: rel.to_path_buf(), lower, upper, dead: false, lost: false });
        Ok(self.found.len() - 1)
    }

    /// The host's entry `stat` at `lower` is gone from its place `rel` in the VM, unless a rename took it.
    pub(crate) fn push_deleted(&mut self, rel: &Path, lower: PathBuf, stat: Statx) -> Result<(), ScanError> {
        if self.claimed.contains_key(&lower) {
            return Ok(());
        }
        let is_dir = file_type(&stat) == FileType::Directory;
        let index = self.push(rel, ChangeKind::Deleted, None, Some((lower.clone(), stat)))?;
        if is_dir {
            self.gone_dirs.push(lower);
        } else {
            self.candidates.push(Candidate { rel: lower, stat, found: Some(index), taken: false });
        }
        Ok(())
    }
}

fn may_not_write(dir: &Dir) -> bool {
    let flags = rustix::fs::AtFlags::EACCESS;
    rustix::fs::accessat(dir, ".", rustix::fs::Access::WRITE_OK, flags).is_err()
}
