//! A host directory, a layer over it, and changes described by hand.
//!
//! ```text
//!   <tmp>/host/...         the "host"            lab.host("a/f")
//!   <tmp>/layer/upper/...  what the VM wrote     lab.upper("a/f")
//!   lab.modified("a/f")    a Change, with what both really look like
//! ```

#![allow(dead_code, reason = "each test file uses a part")]

use fvm_commit::{Applied, CommitError, HostDisk, Moving, Options, Prepared, Published, Store, Unwatched, What};
use fvm_model::change::TouchedDir;
use fvm_model::{Change, ChangeKind, ChangeSet, FileType, HostPath, LayerDir, Meta, MetaDelta, Timestamp, VmPath};
use fvm_review::{Choice, decide};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Everything differs.
pub const ALL: MetaDelta = MetaDelta { mode: true, owner: true, times: true, xattrs: true };

pub struct Lab {
    tmp: tempfile::TempDir,
    pub set: ChangeSet,
}

impl Lab {
    pub fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("host")).unwrap();
        fs::create_dir_all(tmp.path().join("layer/upper")).unwrap();
        Self { tmp, set: ChangeSet::default() }
    }

    pub fn host(&self, rel: &str) -> PathBuf {
        self.tmp.path().join("host").join(rel)
    }

    pub fn upper(&self, rel: &str) -> PathBuf {
        self.tmp.path().join("layer/upper").join(rel)
    }

    pub fn vm(&self, rel: &str) -> VmPath {
        VmPath::new(self.host(rel)).unwrap()
    }

    /// Writes a file, with the directories above it.
    pub fn write(path: impl AsRef<Path>, text: &str) {
        let path = path.as_ref();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, rel: &str) -> String {
        fs::read_to_string(self.host(rel)).unwrap_or_else(|e| format!("<{e}>"))
    }

    pub fn layers(&self) -> Vec<LayerDir> {
        let host = HostPath::new(self.host("")).unwrap();
        vec![LayerDir { n: 0, host, dir: self.tmp.path().join("layer") }]
    }

    /// Adds a change; `base` is where the previous version lies.
    pub fn change(&mut self, rel: &str, kind: ChangeKind, base: Option<&str>) -> &mut Change {
        let before = base.filter(|_| kind != ChangeKind::Created).map(|b| meta(&self.host(b)));
        let after = (kind != ChangeKind::Deleted).then(|| meta(&self.upper(rel)));
        let path = self.vm(rel);
        let file_type = after.as_ref().or(before.as_ref()).unwrap().file_type;
        let base = base.map(|b| HostPath::new(self.host(b)).unwrap());
        let change = Change {
            path: path.clone(),
            kind,
            file_type,
            base,
            layer: 0,
            before,
            after,
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        };
        self.set.changes.push(change);
        self.set.changes.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        self.set.changes.iter_mut().find(|c| c.path == path).unwrap()
    }

    pub fn created(&mut self, rel: &str) -> &mut Change {
        self.change(rel, ChangeKind::Created, None)
    }

    pub fn modified(&mut self, rel: &str) -> &mut Change {
        self.change(rel, ChangeKind::Modified { meta: MetaDelta::default() }, Some(rel))
    }

    pub fn deleted(&mut self, rel: &str) -> &mut Change {
        self.change(rel, ChangeKind::Deleted, Some(rel))
    }

    pub fn retyped(&mut self, rel: &str) -> &mut Change {
        let from = meta(&self.host(rel)).file_type;
        self.change(rel, ChangeKind::Retyped { from }, Some(rel))
    }

    pub fn metadata(&mut self, rel: &str, meta: MetaDelta) -> &mut Change {
        self.change(rel, ChangeKind::Metadata { meta }, Some(rel))
    }

    pub fn renamed(&mut self, from: &str, to: &str) -> &mut Change {
        self.change(to, ChangeKind::Renamed { modified: false, meta: MetaDelta::default() }, Some(from))
    }

    pub fn touched(&mut self, rel: &str, secs: i64) {
        let path = self.vm(rel);
        self.set.touched.push(TouchedDir { path, mtime: Timestamp { secs, nanos: 7 } });
    }

    pub fn commit(&self) -> Result<Published, CommitError> {
        self.commit_with(&Choice::default())
    }

    pub fn commit_with(&self, choice: &Choice) -> Result<Published, CommitError> {
        let published = self.prepare(&self.plan(choice)).and_then(Prepared::publish).and_then(Applied::finish);
        self.assert_clean();
        published
    }

    /// Where commits are recorded.
    pub fn store(&self) -> Store {
        Store::new(self.tmp.path().join("commits"), self.tmp.path().join("lock"))
    }

    /// Stages a plan: by copying, as when the VM is kept.
    pub fn prepare(&self, plan: &fvm_model::Plan) -> Result<Prepared<'static>, CommitError> {
        self.prepare_as(plan, false)
    }

    pub fn prepare_as(&self, plan: &fvm_model::Plan, may_move: bool) -> Result<Prepared<'static>, CommitError> {
        let what = What::Commit { vm: "0123456789ab".into(), name: "test".into() };
        let moving = if may_move { Moving::Unwritten } else { Moving::None };
        let options = Options { what, moving, staying: HashSet::new(), after: Vec::new(), marks: None };
        fvm_commit::prepare(&HostDisk, self.store().hold()?, plan, &self.layers(), &options, &mut Unwatched)
    }

    pub fn plan(&self, choice: &Choice) -> fvm_model::Plan {
        decide(&self.set, choice, &self.layers()).unwrap()
    }

    /// No stage is left anywhere.
    pub fn assert_clean(&self) {
        let left: Vec<String> = self.tree().into_iter().filter(|line| line.contains(".fvm-")).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// The host as lines: path, type and mode, content or target, mtime, inode.
    pub fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        walk(&self.host(""), &mut lines);
        lines.sort();
        lines
    }
}

fn walk(dir: &Path, lines: &mut Vec<String>) {
    // A path that is too long for a call is not looked below.
    let Ok(meta) = fs::symlink_metadata(dir) else { return };
    lines.push(format!("{} {:o} {}.{}", dir.display(), meta.mode(), meta.mtime(), meta.mtime_nsec()));
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            walk(&path, lines);
            continue;
        }
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let target = fs::read_link(&path).ok();
        let time = format!("{}.{}", meta.mtime(), meta.mtime_nsec());
        lines.push(format!("{} {:o} {time} {} {target:?} {content:?}", path.display(), meta.mode(), meta.ino()));
    }
}

/// What the kernel says of an entry.
pub fn meta(path: &Path) -> Meta {
    let stat = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kind = stat.file_type();
    let file_type = if kind.is_dir() {
        FileType::Directory
    } else if kind.is_symlink() {
        FileType::Symlink
    } else if kind.is_fifo() {
        FileType::Fifo
    } else {
        FileType::File
    };
    Meta {
        file_type,
        mode: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        size_bytes: stat.size(),
        mtime: Timestamp { secs: stat.mtime(), nanos: u32::try_from(stat.mtime_nsec()).unwrap() },
    }
}

/// Sets mtime without following a symlink.
pub fn set_mtime(path: &Path, secs: i64, nanos: u32) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: nanos.into() },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
