//! Change after change: the same changes as all at once, in order, and in little memory.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use common::{Overlay, can};
use fvm_changes::text::{diff_file, diff_seen};
use fvm_changes::{LayerView, ScanInput, prepare, scan};
use fvm_model::vm::XattrClass::{Trusted, User};
use fvm_model::{Change, HostPath, Layer, LayerKind};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Makes a tree of some hundred entries, with names before and after `/`.
fn grow(dice: &mut Dice, dir: &Path, depth: u32, whiteouts: bool) {
    let names = ["a", "a-b", "a.c", "a0", "b", "b!", "zz", "\u{1}"];
    for name in names {
        let path = dir.join(name);
        match dice.roll(if whiteouts { 8 } else { 6 }) {
            0 | 1 if depth > 0 => {
                std::fs::create_dir(&path).unwrap();
                grow(dice, &path, depth - 1, whiteouts);
            }
            2 | 3 => std::fs::write(&path, format!("{}\n", dice.roll(3))).unwrap(),
            4 => symlink(["x", "y"][dice.roll(2) as usize], &path).unwrap(),
            5 if dir.join("a").is_file() && name != "a" => std::fs::hard_link(dir.join("a"), &path).unwrap(),
            6 => {
                let kind = rustix::fs::FileType::CharacterDevice;
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::empty(), 0).unwrap();
            }
            _ => {}
        }
    }
}

fn stream(input: &ScanInput, reads: bool) -> (Vec<Change>, Vec<String>) {
    let mut changes = Vec::new();
    let look = |seen: fvm_changes::Seen<'_>, _: &mut fvm_changes::Sheet| {
        // What is read by the directories that are open is what is found by path.
        let (by_dir, by_path) = (diff_seen(input, &seen), diff_file(input, &seen.change));
        assert_eq!(by_dir.unwrap(), by_path.unwrap(), "{}", seen.change.path);
        Some(seen.change)
    };
    let scan = prepare(input).unwrap();
    let scan = if reads { scan.reading() } else { scan };
    let rest = scan.stream(look, |change, _| {
        changes.push(change);
        ControlFlow::Continue(())
    });
    (changes, rest.unwrap().warnings)
}

#[test]
fn root_and_user_what_is_streamed_of_random_trees_is_what_is_collected() {
    for class in [User, Trusted] {
        if !can(class) {
            continue;
        }
        for seed in 0..6 {
            let mut dice = Dice(seed);
            let overlay = Overlay::new(class, "mkdir in");
            grow(&mut dice, &overlay.path("host"), 3, false);
            grow(&mut dice, &overlay.path("layer/upper"), 3, true);
            // Another layer stands in the midst of it.
            let mut input = overlay.input();
            let dir = overlay.path("second");
            std::fs::create_dir_all(dir.join("upper")).unwrap();
            grow(&mut dice, &dir.join("upper"), 2, true);
            let host = HostPath::new(overlay.path("host/in")).unwrap();
            input.layers.push(LayerView { layer: Layer { n: 1, host, kind: LayerKind::Overlay }, dir });
            let set = scan(&input).unwrap();
            assert!(set.changes.len() > 20, "{}", set.changes.len());
            assert!(set.changes.windows(2).all(|w| w[0].path.as_bytes() < w[1].path.as_bytes()));
            assert!(set.changes.iter().any(|change| change.layer == 1));
            for reads in [false, true, false, true] {
                let (changes, warnings) = stream(&input, reads);
                assert_eq!(changes, set.changes, "{class:?} {seed}");
                assert_eq!(warnings, set.warnings);
            }
            for change in &set.changes {
                let (path, after) = (change.path.as_path(), change.after.as_ref());
                let base = if change.layer == 1 { overlay.path("second/upper") } else { overlay.path("layer/upper") };
                let top = overlay.path(if change.layer == 1 { "host/in" } else { "host" });
                let upper = base.join(path.strip_prefix(top).unwrap());
                let there = upper.symlink_metadata();
                assert_eq!(after.map(|meta| meta.size_bytes), after.and(there.ok().map(|meta| meta.len())), "{path:?}");
            }
        }
    }
}

#[test]
fn a_caller_that_has_enough_ends_it() {
    let overlay = Overlay::new(User, "true");
    for n in 0..5000 {
        File::create(overlay.path("layer/upper").join(n.to_string())).unwrap();
    }
    for enough in [1, 100, 300, 4999] {
        let mut seen = 0;
        let input = overlay.input();
        let rest = prepare(&input).unwrap().stream(
            |seen, _| Some(seen.change),
            |_, _| {
                seen += 1;
                if seen == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        assert!(rest.is_ok());
        assert_eq!(seen, enough);
    }
}
