//! Two host trees on two file systems, a VM's layers over them, and a change of every kind in each.

use super::meta;
use fvm_commit::{Disk, Moving, Options, Store, Unwatched, What};
use fvm_model::change::TouchedDir;
use fvm_model::{Change, ChangeKind, ChangeSet, HostPath, LayerDir, MetaDelta, Plan, Timestamp, VmPath};
use fvm_review::{Choice, Given, OnConflict, decide};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub struct Scene {
    _near: tempfile::TempDir,
    _far: tempfile::TempDir,
    top: PathBuf,
    hosts: [PathBuf; 2],
    pub plan: Plan,
}

const NEW_TIME: i64 = 1_600_000_000;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn xattr(path: &Path, value: &str) {
    rustix::fs::setxattr(path, "user.note", value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
}

/// Sets every time below `top`, so that two scenes are equal.
fn date(top: &Path, secs: i64) {
    for entry in fs::read_dir(top).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            date(&entry.path(), secs);
        } else {
            super::set_mtime(&entry.path(), secs, 1);
        }
    }
    super::set_mtime(top, secs, 1);
}

impl Scene {
    /// `may_move`: only what the plan then needs differs.
    pub fn new() -> Self {
        let near = tempfile::tempdir_in("/var/tmp").unwrap();
        let far = tempfile::tempdir_in("/dev/shm").unwrap();
        let hosts = [near.path().join("host"), far.path().join("host")];
        let mut changes = Vec::new();
        let mut given = BTreeMap::new();
        for (n, host) in hosts.iter().enumerate() {
            let upper = near.path().join(format!("layer{n}/upper"));
            fs::create_dir(host).unwrap();
            fs::create_dir_all(&upper).unwrap();
            tree(host);
            layer(host, &upper);
            date(host, 1_500_000_000);
            date(&upper, NEW_TIME);
            describe(u32::try_from(n).unwrap(), host, &upper, &mut changes);
            let bytes = b"first\nchosen\n".to_vec();
            given.insert(VmPath::new(host.join("given")).unwrap(), Given { bytes, whole: true });
        }
        changes.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        let touched = hosts
            .iter()
            .map(|h| TouchedDir { path: VmPath::new(h).unwrap(), mtime: Timestamp { secs: NEW_TIME, nanos: 5 } })
            .collect();
        let set = ChangeSet { changes, touched, warnings: vec![] };
        let choice = Choice { given, on_conflict: OnConflict::Fail, ..Choice::default() };
        let layers = layers(near.path(), &hosts);
        let plan = decide(&set, &choice, &layers).unwrap().with_forked(Timestamp { secs: i64::MAX, nanos: 0 });
        Self { top: near.path().to_owned(), hosts, plan, _near: near, _far: far }
    }

    pub fn layers(&self) -> Vec<LayerDir> {
        layers(&self.top, &self.hosts)
    }

    pub fn store(&self) -> Store {
        Store::new(self.top.join("commits"), self.top.join("lock"))
    }

    pub fn options(may_move: bool) -> Options {
        Options {
            what: What::Commit { vm: "0123456789ab".into(), name: "test".into() },
            moving: if may_move { Moving::Unwritten } else { Moving::None },
            staying: HashSet::new(),
            after: b"job".to_vec(),
            marks: None,
        }
    }

    /// The whole commit, to its end or until the disk stops.
    pub fn commit(&self, disk: &dyn Disk, may_move: bool) -> Result<u64, fvm_commit::CommitError> {
        let held = self.store().hold()?;
        let options = Self::options(may_move);
        let prepared = fvm_commit::prepare(disk, held, &self.plan, &self.layers(), &options, &mut Unwatched)?;
        Ok(prepared.publish()?.finish()?.number)
    }

    pub fn recover(&self, disk: &dyn Disk) -> Result<(), fvm_commit::CommitError> {
        let store = self.store();
        let held = store.hold()?;
        fvm_commit::recover(disk, &store, &held, &mut |_, bytes| {
            assert!(bytes.is_empty() || bytes == b"job");
            Ok(())
        })
        .map(drop)
    }

    /// Both hosts as lines. Directories' times only if `dir_times`.
    pub fn host(&self, dir_times: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for host in &self.hosts {
            let mut names = BTreeMap::new();
            walk(host, Path::new(""), dir_times, &mut names, &mut lines);
        }
        lines
    }

    /// Cleans every directory of the scene.
    pub fn clear(&self, clean: impl Fn(&Path)) {
        clean(&self.top);
        clean(&self.hosts[1]);
    }

    /// What is left of commits beside the hosts' own entries.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = self.host(false).into_iter().filter(|l| l.contains(".fvm-")).collect();
        if self.top.join("commits/active").exists() {
            left.push("active".into());
        }
        left
    }
}

fn layers(top: &Path, hosts: &[PathBuf; 2]) -> Vec<LayerDir> {
    let of = |(n, host): (usize, &PathBuf)| LayerDir {
        n: u32::try_from(n).unwrap(),
        host: HostPath::new(host).unwrap(),
        dir: top.join(format!("layer{n}")),
    };
    hosts.iter().enumerate().map(of).collect()
}

/// What the host has.
fn tree(host: &Path) {
    for name in ["modified", "deleted", "moved", "typed", "kept", "linked", "content", "given", "untouched"] {
        write(&host.join(name), "first\nsecond\n");
    }
    xattr(&host.join("kept"), "old");
    for name in [
        "gone/a",
        "gone/b/c",
        "dir/inner",
        "dir/gone",
        "dir/stays",
        "dirtyped/x",
        "one/1",
        "two/2",
        "into/x",
        "deep/er/f",
    ] {
        write(&host.join(name), name);
    }
    fs::create_dir(host.join("metadir")).unwrap();
}

/// What the VM wrote.
fn layer(host: &Path, upper: &Path) {
    write(&upper.join("new"), "new");
    symlink("to/nowhere", upper.join("newlink")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, upper.join("newfifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
    write(&upper.join("newdir/f"), "f");
    write(&upper.join("newdir/sub/h"), "h");
    fs::hard_link(upper.join("newdir/f"), upper.join("newdir/sub/g")).unwrap();
    fs::set_permissions(upper.join("newdir/sub"), fs::Permissions::from_mode(0o2711)).unwrap();
    write(&upper.join("modified"), "changed in the VM");
    fs::set_permissions(upper.join("modified"), fs::Permissions::from_mode(0o4755)).unwrap();
    xattr(&upper.join("modified"), "vm");
    write(&upper.join("renamed/inner"), "inner changed");
    write(&upper.join("renamed/new"), "new");
    write(&upper.join("typed/x"), "x");
    symlink("elsewhere", upper.join("dirtyped")).unwrap();
    fs::copy(host.join("kept"), upper.join("kept")).unwrap();
    fs::set_permissions(upper.join("kept"), fs::Permissions::from_mode(0o600)).unwrap();
    xattr(&upper.join("kept"), "new");
    fs::create_dir(upper.join("metadir")).unwrap();
    fs::set_permissions(upper.join("metadir"), fs::Permissions::from_mode(0o700)).unwrap();
    write(&upper.join("moved2"), "first\nsecond\n");
    write(&upper.join("content2"), "other content");
    write(&upper.join("given"), "first\nnot this\n");
    for dir in ["one", "two", "new2/into", "deeper"] {
        fs::create_dir_all(upper.join(dir)).unwrap();
    }
    fs::copy(host.join("linked"), upper.join("linked2")).unwrap();
}

fn describe(layer: u32, host: &Path, upper: &Path, changes: &mut Vec<Change>) {
    let mut add = |rel: &str, kind: ChangeKind, base: Option<&str>| {
        let before = base.filter(|_| kind != ChangeKind::Created).map(|b| meta(&host.join(b)));
        let after = (kind != ChangeKind::Deleted)
            .then(|| meta(&if rel == "linked2" { host.join("linked") } else { upper.join(rel) }));
        changes.push(Change {
            path: VmPath::new(host.join(rel)).unwrap(),
            file_type: after.as_ref().or(before.as_ref()).unwrap().file_type,
            kind,
            base: base.map(|b| HostPath::new(host.join(b)).unwrap()),
            layer,
            before,
            after,
            target: None,
            link_group: matches!(rel, "newdir/f" | "newdir/sub/g").then_some(layer),
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        });
    };
    let none = MetaDelta::default();
    for new in [
        "new",
        "newlink",
        "newfifo",
        "newdir",
        "newdir/f",
        "newdir/sub",
        "newdir/sub/g",
        "newdir/sub/h",
        "new2",
        "renamed/new",
        "typed/x",
    ] {
        add(new, ChangeKind::Created, None);
    }
    for (rel, base) in [("modified", "modified"), ("renamed/inner", "dir/inner"), ("given", "given")] {
        add(rel, ChangeKind::Modified { meta: none }, Some(base));
    }
    for (rel, base) in [("deleted", "deleted"), ("gone", "gone"), ("renamed/gone", "dir/gone"), ("deep", "deep")] {
        add(rel, ChangeKind::Deleted, Some(base));
    }
    for (to, from) in [
        ("moved2", "moved"),
        ("renamed", "dir"),
        ("one", "two"),
        ("two", "one"),
        ("new2/into", "into"),
        ("deeper", "deep/er"),
    ] {
        add(to, ChangeKind::Renamed { modified: false, meta: none }, Some(from));
    }
    add("content2", ChangeKind::Renamed { modified: true, meta: none }, Some("content"));
    for rel in ["typed", "dirtyped"] {
        let from = meta(&host.join(rel)).file_type;
        add(rel, ChangeKind::Retyped { from }, Some(rel));
    }
    let all = MetaDelta { mode: true, owner: false, times: true, xattrs: true };
    add("kept", ChangeKind::Metadata { meta: all }, Some("kept"));
    add("metadir", ChangeKind::Metadata { meta: MetaDelta { mode: true, ..none } }, Some("metadir"));
    add("linked2", ChangeKind::Created, Some("linked"));
}

fn walk(root: &Path, rel: &Path, dir_times: bool, names: &mut BTreeMap<u64, PathBuf>, lines: &mut Vec<String>) {
    let path = root.join(rel);
    let meta = fs::symlink_metadata(&path).unwrap();
    let mut value = [0u8; 64];
    let note =
        rustix::fs::lgetxattr(&path, "user.note", &mut value[..]).map(|n| value[..n].to_vec()).unwrap_or_default();
    let is_recent = meta.mtime() > NEW_TIME + 1;
    let time = if is_recent || meta.is_dir() && !dir_times { 0 } else { meta.mtime() };
    let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
    let target = fs::read_link(&path).ok();
    let first =
        if meta.is_dir() { rel.to_owned() } else { names.entry(meta.ino()).or_insert_with(|| rel.to_owned()).clone() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    lines.push(format!(
        "{} {:o} {time} {target:?} {:?} {:?} as {}",
        rel.display(),
        meta.mode(),
        text(&note),
        text(&content),
        first.display()
    ));
    if meta.is_dir() {
        let mut below: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        below.sort();
        for name in below {
            walk(root, &rel.join(name), dir_times, names, lines);
        }
    }
}
