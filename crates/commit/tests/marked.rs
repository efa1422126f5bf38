//! Stopped at any point, what a VM made is never on the host without its mark, and no mark of a VM's own making is.
#![expect(clippy::unwrap_used, reason = "test code")]
#![allow(dead_code, reason = "shared with other tests")]

mod common;
#[path = "common/frail.rs"]
mod frail;
#[path = "common/scene.rs"]
mod scene;
use common::{meta, set_mtime};

use frail::Frail;
use fvm_commit::{Attributes, Marks, NewFile, Unwatched};
use rustix::fs::{XattrFlags, lgetxattr, setxattr};
use rustix::io::Errno;
use scene::Scene;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const NAME: &str = "user.fvm.mark";

/// What the VM of a scene makes: where, with which content.
const MADE: &[(&str, &str)] = &[
    ("new", "new"),
    ("newdir/f", "f"),
    ("newdir/sub/g", "f"),
    ("newdir/sub/h", "h"),
    ("modified", "changed in the VM"),
    ("renamed/inner", "inner changed"),
    ("renamed/new", "new"),
    ("typed/x", "x"),
    ("content2", "other content"),
    ("given", "first\nchosen\n"),
];
/// What it only moves, or whose metadata it changes.
const NOT_MADE: &[&str] = &["kept", "moved2", "linked2", "renamed/stays", "two/1", "deeper/f"];

/// Marks every file that it is asked about.
#[derive(Debug, Default)]
struct All {
    asked: AtomicUsize,
    kept: AtomicUsize,
}

impl Marks for All {
    fn concerns(&self, _: u64) -> bool {
        true
    }

    fn judge(&self, new: &NewFile<'_>) -> Result<Attributes, Errno> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(new.was.is_empty());
        Ok(vec![(NAME.into(), b"ours".to_vec())])
    }

    fn keep(&self) -> Result<(), String> {
        self.kept.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A scene whose VM made marks of its own.
fn scene() -> Scene {
    let scene = Scene::new();
    for layer in scene.layers() {
        for forged in ["new", "newdir", "newdir/sub/h", "kept", "metadir", "modified"] {
            setxattr(layer.dir.join("upper").join(forged), NAME, b"forged", XattrFlags::empty()).unwrap();
        }
    }
    scene
}

fn commit(scene: &Scene, disk: &Frail, marks: Option<Arc<dyn Marks>>) -> Result<u64, fvm_commit::CommitError> {
    let held = scene.store().hold()?;
    let options = fvm_commit::Options { marks, ..Scene::options(true) };
    let prepared = fvm_commit::prepare(disk, held, &scene.plan, &scene.layers(), &options, &mut Unwatched)?;
    Ok(prepared.publish()?.finish()?.number)
}

fn mark(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    lgetxattr(path, NAME, &mut value[..]).ok().map(|len| value[..len].to_vec())
}

fn hosts(scene: &Scene) -> Vec<PathBuf> {
    scene.layers().iter().map(|layer| layer.host.as_path().to_owned()).collect()
}

/// How many of the VM's files are there; each must be marked.
#[track_caller]
fn marked(scene: &Scene, what: &str) -> usize {
    let mut count = 0;
    for host in hosts(scene) {
        for (rel, content) in MADE {
            let path = host.join(rel);
            if std::fs::read_to_string(&path).is_ok_and(|now| now == *content) {
                assert_eq!(mark(&path).as_deref(), Some(&b"ours"[..]), "{}: {what}", path.display());
                count += 1;
            }
        }
        for rel in NOT_MADE.iter().copied().chain(["newdir", "metadir"]) {
            assert_eq!(mark(&host.join(rel)), None, "{rel}: {what}");
        }
    }
    count
}

#[test]
fn stopped_after_every_operation_nothing_of_a_vms_is_there_without_its_mark() {
    let whole = scene();
    let (disk, all) = (Frail::default(), Arc::new(All::default()));
    commit(&whole, &disk, Some(all.clone())).unwrap();
    assert_eq!(marked(&whole, "whole"), 2 * MADE.len());
    assert_eq!(all.kept.load(Ordering::Relaxed), 1);
    assert_eq!(all.asked.load(Ordering::Relaxed), 2 * (MADE.len() - 1), "one file has two names");
    let mut seen = 0;
    for stop in 0..disk.count() {
        let scene = scene();
        commit(&scene, &Frail::stopping_after(stop), Some(Arc::new(All::default()))).unwrap_err();
        seen += marked(&scene, &format!("stopped after {stop}"));
        scene.recover(&Frail::default()).unwrap();
        let now = marked(&scene, &format!("stopped after {stop}, recovered"));
        assert!(now == 0 || now == 2 * MADE.len(), "{now}");
    }
    assert!(seen > 100, "this test shows nothing: {seen}");
}

#[test]
fn without_anybody_who_marks_a_vms_marks_are_dropped_all_the_same() {
    let scene = scene();
    commit(&scene, &Frail::default(), None).unwrap();
    for host in hosts(&scene) {
        for rel in MADE.iter().map(|(rel, _)| *rel).chain(NOT_MADE.iter().copied()).chain(["newdir", "metadir"]) {
            assert_eq!(mark(&host.join(rel)), None, "{rel}");
        }
    }
}

#[test]
fn what_cannot_be_marked_or_written_down_is_not_committed() {
    #[derive(Debug)]
    struct Fails(bool);
    impl Marks for Fails {
        fn concerns(&self, _: u64) -> bool {
            true
        }
        fn judge(&self, _: &NewFile<'_>) -> Result<Attributes, Errno> {
            // No file system has attributes of such a kind.
            let name = if self.0 { "nothing.fvm.mark" } else { NAME };
            Ok(vec![(name.into(), b"ours".to_vec())])
        }
        fn keep(&self) -> Result<(), String> {
            Err("the book is full".into())
        }
    }
    for unmarkable in [true, false] {
        let scene = scene();
        let before = scene.host(true);
        let error = commit(&scene, &Frail::default(), Some(Arc::new(Fails(unmarkable)))).unwrap_err().to_string();
        assert!(error.contains(if unmarkable { "cannot mark" } else { "the book is full" }), "{error}");
        assert_eq!(scene.host(true), before);
        assert_eq!(scene.leftovers(), Vec::<String>::new());
    }
}
