//! The oracle: a random program run on a plain copy, and in a VM that is then committed, must leave equal trees; an undo
//! leaves the tree that was there before, times and all. So must one that goes on in copies of the VM.
//!
//! `FVM_ORACLE_SEEDS=500 cargo test -p fvm-e2e --test oracle` is the long mode; `FVM_ORACLE_FIRST` shifts the seeds.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Snapshot, User, install, is_root};
use std::path::Path;

const OPS: &str = "40";

fn seeds() -> std::ops::Range<u64> {
    let number = |key: &str, default| std::env::var(key).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let first = number("FVM_ORACLE_FIRST", 0);
    first..first + number("FVM_ORACLE_SEEDS", 30)
}

/// `copies`: so many times the program goes on in a copy of the VM.
fn compare(user: User, copies: u64) {
    let lab = Lab::new(user);
    let ops = lab.path("ops");
    install(Path::new(env!("CARGO_BIN_EXE_fvm-oracle-ops")), &ops);
    let word = if user == User::Root { "root" } else { "user" };
    let mut failed = Vec::new();
    for seed in seeds() {
        let (plain, vm) = (lab.path(format!("plain{seed}")), lab.path(format!("vm{seed}")));
        lab.sh(&format!("./ops base {} {seed}; cp -a {} {}", vm.display(), vm.display(), plain.display()));
        // The fork must be later than the last write to the tree, by the kernel's coarse clock.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let mut wrong = Vec::new();
        let mut name = format!("o{seed}");
        lab.fvm(["create", &name, "--net", "none"]).expect(0);
        for part in 0..=copies {
            if part > 0 {
                let copy = format!("o{seed}-{part}");
                lab.fvm(["copy", &name, &copy]).expect(0);
                if part % 2 == 1 {
                    lab.fvm(["delete", &name]).expect(0);
                }
                name = copy;
            }
            let part_seed = (seed + part * 1_000_000).to_string();
            let words = |tree: &Path| {
                let mut words = vec![ops.clone().into_os_string(), "run".into(), tree.into()];
                words.extend([&part_seed, OPS, word].map(Into::into));
                words.extend((copies > 0).then(|| "copied".into()));
                words
            };
            let said = lab.command(&ops).args(&words(&plain)[1..]).output().unwrap().stdout;
            let run = ["run", "--quiet", "--name", &name, "--"].map(std::ffi::OsString::from);
            let ran = lab.fvm(run.into_iter().chain(words(&vm))).expect(0);
            if ran.out.as_bytes() != said {
                let said = String::from_utf8_lossy(&said);
                wrong.push(format!("operations failed differently in part {part}:\n{said}\n{}", ran.out));
            }
        }
        let before = Snapshot::of(&vm, i64::MAX);
        let commit = lab.fvm(["commit", &name]);
        if commit.code != 0 {
            wrong.push(format!("commit: {}", commit.err));
        }
        // Everything that the base did not date is the time of one run or the other.
        const RECENT_SECS: i64 = 1_700_000_000;
        wrong.extend(Snapshot::of(&plain, RECENT_SECS).differences(&Snapshot::of(&vm, RECENT_SECS)));
        let left = lab.fvm(["status", &name]).out;
        if left.lines().count() != 1 {
            wrong.push(format!("after the commit the VM still has: {left}"));
        }
        // And back: times of directories and all.
        if let Some(number) = commit.err.split("'fvm undo ").nth(1).and_then(|rest| rest.split('\'').next()) {
            let undo = lab.fvm(["undo", number]);
            if undo.code != 0 {
                wrong.push(format!("undo: {}", undo.err));
            }
            wrong.extend(
                before.differences(&Snapshot::of(&vm, i64::MAX)).iter().map(|d| format!("after the undo: {d}")),
            );
        }
        lab.fvm(["delete", &name]).expect(0);
        if !wrong.is_empty() {
            eprintln!("seed {seed}:\n{}", wrong.join("\n"));
            failed.push(seed);
        }
        lab.sh(&format!("chmod -R u+rwx {0} {1}; rm -rf {0} {1}", plain.display(), vm.display()));
    }
    assert!(failed.is_empty(), "seeds that differ: {failed:?}");
}

#[test]
fn root_random_programs_committed_equal_a_plain_run() {
    if is_root("root_random_programs_committed_equal_a_plain_run") {
        compare(User::Root, 0);
    }
}

#[test]
fn user_random_programs_committed_equal_a_plain_run() {
    if is_root("user_random_programs_committed_equal_a_plain_run") {
        compare(User::Ordinary, 0);
    }
}

#[test]
fn root_and_user_random_programs_in_copies_committed_equal_a_plain_run() {
    if is_root("root_and_user_random_programs_in_copies_committed_equal_a_plain_run") {
        for user in [User::Root, User::Ordinary] {
            compare(user, 2);
        }
    }
}
