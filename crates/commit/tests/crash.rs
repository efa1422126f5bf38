//! Stopped at any point, a commit or an undo leaves everything or nothing.
//!
//! `FVM_CRASH=all` stops the recovery after every operation for every stop of the commit, which takes minutes; else for
//! every 151st, and every third stop of a commit that copies.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;
#[path = "common/frail.rs"]
mod frail;
#[path = "common/scene.rs"]
mod scene;
use common::{meta, set_mtime};

use frail::{Frail, empty_trash};
use scene::Scene;

fn stride() -> u64 {
    if std::env::var_os("FVM_CRASH").is_some_and(|v| v == "all") { 1 } else { 151 }
}

/// The hosts before and after, and how many operations lie between.
struct Reference {
    old: Vec<String>,
    new: Vec<String>,
    operations: u64,
}

fn reference(may_move: bool) -> Reference {
    let scene = Scene::new();
    let old = scene.host(true);
    let disk = Frail::default();
    scene.commit(&disk, may_move).unwrap();
    let new = scene.host(true);
    assert!(scene.plan.ops.len() >= 40, "{} ops", scene.plan.ops.len());
    assert_eq!(scene.leftovers(), Vec::<String>::new());
    assert_ne!(old, new);
    Reference { old, new, operations: disk.count() }
}

#[track_caller]
fn all_or_nothing(scene: &Scene, reference: &Reference, what: &str) -> bool {
    let now = scene.host(true);
    assert_eq!(scene.leftovers(), Vec::<String>::new(), "{what}");
    if now != reference.old && now != reference.new {
        let differs = |other: &[String]| -> Vec<String> {
            let only = |a: &[String], b: &[String], sign: &str| -> Vec<String> {
                a.iter().filter(|l| !b.contains(l)).map(|l| format!("{sign}{l}")).collect()
            };
            [only(&now, other, "+"), only(other, &now, "-")].concat()
        };
        let (old, new) = (differs(&reference.old), differs(&reference.new));
        panic!("{what}: neither old nor new\nagainst old: {old:#?}\nagainst new: {new:#?}");
    }
    now == reference.new
}

#[test]
fn stopped_after_every_operation_of_a_commit_and_of_its_recovery_the_host_has_all_or_nothing() {
    for may_move in [true, false] {
        let reference = reference(may_move);
        let (mut all, mut none) = (0, 0);
        let every = if may_move || stride() == 1 { 1 } else { 3 };
        for stop in (0..reference.operations).step_by(every) {
            let scene = Scene::new();
            let disk = Frail::stopping_after(stop);
            scene.commit(&disk, may_move).unwrap_err();
            let repair = Frail::default();
            scene.recover(&repair).unwrap();
            let what = format!("stopped after {stop} (moved: {may_move})");
            let has_all = all_or_nothing(&scene, &reference, &what);
            *(if has_all { &mut all } else { &mut none }) += 1;
            if stop % stride() != 0 {
                continue;
            }
            for second in 0..repair.count() {
                let scene = Scene::new();
                scene.commit(&Frail::stopping_after(stop), may_move).unwrap_err();
                scene.recover(&Frail::stopping_after(second)).unwrap_err();
                scene.recover(&Frail::default()).unwrap();
                let what = format!("stopped after {stop}, recovery after {second} (moved: {may_move})");
                all_or_nothing(&scene, &reference, &what);
            }
        }
        assert!(all > 20 && none > 20, "{all} times all, {none} times nothing");
        eprintln!("{} stops: {all} times all, {none} times nothing", reference.operations);
    }
}

#[test]
fn stopped_in_an_undo_the_host_has_all_or_nothing() {
    let reference = reference(true);
    let count = {
        let scene = Scene::new();
        let number = scene.commit(&Frail::default(), true).unwrap();
        let disk = Frail::default();
        let store = scene.store();
        fvm_commit::undo(&disk, &store, store.hold().unwrap(), number).unwrap();
        assert_eq!(scene.host(true), reference.old, "an undo brings everything back");
        // And an undo of the undo.
        fvm_commit::undo(&Frail::default(), &store, store.hold().unwrap(), number + 1).unwrap();
        // On the file system that the area is not on, a link to a file of the host's comes back as a file of its own.
        let but_links = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|l| !l.starts_with("linked2 ")).cloned().collect()
        };
        assert_eq!(but_links(&scene.host(true)), but_links(&reference.new));
        fvm_commit::undo(&Frail::default(), &store, store.hold().unwrap(), number).unwrap();
        assert_eq!(scene.host(true), reference.old);
        disk.count()
    };
    for stop in 0..count {
        let scene = Scene::new();
        let number = scene.commit(&Frail::default(), true).unwrap();
        let store = scene.store();
        fvm_commit::undo(&Frail::stopping_after(stop), &store, store.hold().unwrap(), number).unwrap_err();
        scene.recover(&Frail::default()).unwrap();
        all_or_nothing(&scene, &reference, &format!("undo stopped after {stop}"));
    }
}

#[test]
fn when_the_power_goes_what_was_not_synced_may_be_lost_and_the_host_has_all_or_nothing() {
    let reference = reference(true);
    let (old, new) = {
        let scene = Scene::new();
        let old = scene.host(false);
        scene.commit(&Frail::default(), true).unwrap();
        (old, scene.host(false))
    };
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut coin = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random & 1 == 0
    };
    let mut lost = 0;
    for stop in 0..reference.operations {
        let scene = Scene::new();
        let disk = Frail::without_battery(stop);
        scene.commit(&disk, true).unwrap_err();
        lost += disk.cut_power(&mut coin);
        scene.clear(empty_trash);
        scene.recover(&Frail::default()).unwrap();
        let now = scene.host(false);
        assert_eq!(scene.leftovers(), Vec::<String>::new(), "power cut after {stop}");
        if now != old && now != new {
            let only: Vec<_> = now.iter().filter(|l| !old.contains(l) && !new.contains(l)).collect();
            panic!("power cut after {stop}: neither old nor new: {only:#?}");
        }
    }
    assert!(lost > 500, "only {lost} operations were ever lost");
}
