//! Commits, undos and recoveries ended by SIGKILL at any moment: the host has all of it, or none.
//!
//! `FVM_KILLS=500 cargo test -p fvm-e2e --test kill` is the long mode; `FVM_KILLS_FIRST` shifts the seeds,
//! `FVM_KILLS_AS=root` or `=user` does one of the two only.
//!
//! ```text
//!   commit ──┼── killed ── recover ──┼── killed ── history ─► old ── commit ─► new
//!                                                            └► new ── undo ──┼── killed ── history ─► new or old
//! ```
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, Snapshot, User, install, is_root, splitmix};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Beside the random tree: one of everything that a VM can change.
const BASE: &str = "mkdir -p dir/sub emptied gone/deep shut
    for f in modified deleted renamed moded attributed retyped dir/f dir/sub/g gone/deep/f shut/f; do echo $f > $f; done
    echo one > linked; $ln linked linked2; ln -s modified link; ln -s deleted link2; mkfifo pipe
    touch emptied/a emptied/b; chmod 555 shut
    touch -h -d 2001-02-03T04:05:06.7 modified link dir/f dir/sub dir gone shut .";

const CHANGE: &str = "echo more >> modified; rm deleted link2; mv renamed other; chmod 600 moded; rm emptied/*
    mv dir moved; echo new > moved/sub/new; rm -r gone; rm retyped; mkdir -p retyped/a/b; echo x > retyped/a/b/x
    ln -sfn elsewhere link; echo two >> linked; mkdir new; echo n > new/n; ln new/n new/n2; mkfifo new/p
    chmod 700 shut; chmod 750 emptied; touch -d 2002-03-04 attributed";

/// How often which end was seen.
#[derive(Debug, Default)]
struct Tally {
    old: u32,
    new: u32,
    recoveries_killed: u32,
    undos_old: u32,
    undos_new: u32,
    /// Second commits that took the first one's traces for the host's changes.
    conflicts: u32,
}

struct Round<'l> {
    lab: &'l Lab,
    tree: PathBuf,
    name: String,
    old: Snapshot,
    new: Vec<String>,
}

/// A file system of its own, where stages lie beside their targets.
struct Mount(PathBuf);

impl Mount {
    fn new(lab: &Lab) -> Self {
        let at = lab.path("mount");
        // Rootless, what lies beside a mount is a layer, and the root of a layer is never a change: so not the tree.
        lab.sh("mkdir mount disk");
        let (uid, gid) = (lab.sh("id -u"), lab.sh("id -g"));
        let options = format!("mode=755,uid={},gid={}", uid.trim(), gid.trim());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&at).status();
        assert!(mounted.unwrap().success(), "cannot mount at {}", at.display());
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _busy = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Kills `child` after `delay`; whether it had succeeded by then.
fn kill(mut child: Child, delay: Duration) -> bool {
    std::thread::sleep(delay);
    // By its own number, which it keeps until it is waited for.
    child.kill().unwrap();
    child.wait().unwrap().success()
}

impl Round<'_> {
    /// Brings what was killed to its end, being killed in that, too; checks that nothing is left of it.
    fn recover(&self, state: &mut u64, whole: Duration, tally: &mut Tally) {
        for _ in 0..2 {
            if splitmix(state).is_multiple_of(2) {
                let recovered = kill(self.lab.spawn(["recover"]), part(state, whole / 2));
                tally.recoveries_killed += u32::from(!recovered);
            }
        }
        // Any command does it, unless another commit of the same user, such as another test's, holds the lock.
        let active = self.lab.home().join("commits/active");
        let began = Instant::now();
        let told = loop {
            let told = self.lab.fvm(["history"]).expect(0);
            assert!(!told.err.contains("warning"), "{}", told.err);
            if !active.exists() {
                break told;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "a commit is still active: {}", told.err);
            std::thread::sleep(Duration::from_millis(10));
        };
        let left = self.lab.sh("find . -path ./home/vms -prune -o -name '.fvm-*' -print");
        assert_eq!(left, "", "{}", told.err);
    }

    /// Whether the host has the new tree; it must be that or the old one, whole.
    #[track_caller]
    fn is_new(&self) -> bool {
        let now = Snapshot::of(&self.tree, i64::MAX);
        if now.lines() == self.new {
            return true;
        }
        let (from_old, from_new) = (self.old.differences(&now), differences(&self.new, &now.lines()));
        let near = if from_old.len() < from_new.len() { ("old", &from_old) } else { ("new", &from_new) };
        assert!(from_old.is_empty(), "{}: neither old nor new, but {} with\n{}", self.name, near.0, near.1.join("\n"));
        false
    }

    /// The number of the last commit.
    fn last(&self) -> String {
        let told = self.lab.fvm(["history"]).expect(0).out;
        told.lines().nth(1).and_then(|line| line.split_whitespace().next()).unwrap().to_owned()
    }
}

fn differences(expected: &[String], found: &[String]) -> Vec<String> {
    let lack = expected.iter().filter(|l| !found.contains(l)).map(|l| format!("- {l}"));
    lack.chain(found.iter().filter(|l| !expected.contains(l)).map(|l| format!("+ {l}"))).collect()
}

/// A random part of `whole`.
fn part(state: &mut u64, whole: Duration) -> Duration {
    let whole_us = u64::try_from(whole.as_micros()).unwrap().max(1);
    Duration::from_micros(splitmix(state) % whole_us)
}

fn timed(run: impl FnOnce() -> Ran) -> (Ran, Duration) {
    let began = Instant::now();
    (run(), began.elapsed())
}

fn rounds(user: User, count: u64, first: u64) -> Tally {
    let lab = Lab::new(user);
    let mount = Mount::new(&lab);
    let ops = lab.path("ops");
    install(Path::new(env!("CARGO_BIN_EXE_fvm-oracle-ops")), &ops);
    let word = if user == User::Root { "root" } else { "user" };
    // Measured below, on each file system, before anything is killed there.
    let mut usual = [Duration::ZERO; 2];
    let mut tally = Tally::default();
    for seed in first..first + count {
        let state = &mut (seed ^ 0x6b11);
        let place = usize::from(seed % 2 == 1);
        let tree = if place == 1 { mount.0.join(format!("t{seed}")) } else { lab.path(format!("disk/t{seed}")) };
        let (name, shown) = (format!("k{seed}"), tree.display().to_string());
        // What lay beside its target comes back as a copy of its own.
        let link = if place == 1 { "cp -p" } else { "ln" };
        lab.sh(&format!("mkdir {shown}; ./ops base {shown}/random {seed}; cd {shown}; ln='{link}'; {BASE}"));
        let old = Snapshot::of(&tree, i64::MAX);
        // The fork must be later than the last write to the tree, by the kernel's coarse clock.
        std::thread::sleep(Duration::from_millis(30));
        let program = format!("(cd {shown}; {CHANGE}); ./ops run {shown}/random {seed} 30 {word} > /dev/null");
        lab.fvm(["run", "--quiet", "--keep", "--net", "none", "--name", &name, "--", "sh", "-ec", &program]).expect(0);
        let seen = lab.fvm(["run", "--quiet", "--name", &name, "--", "./ops", "show", &shown]).expect(0);
        let new = seen.out.lines().map(str::to_owned).collect();
        let round = Round { lab: &lab, tree, name, old, new };

        let commit = ["commit", &round.name];
        let is_measuring = usual[place].is_zero();
        if !is_measuring {
            let succeeded = kill(lab.spawn(commit), part(state, usual[place] * 6 / 5));
            round.recover(state, usual[place], &mut tally);
            let is_new = round.is_new();
            assert!(is_new || !succeeded, "{}: a commit said that it was done", round.name);
            *(if is_new { &mut tally.new } else { &mut tally.old }) += 1;
        }
        if !round.is_new() {
            let (mut ran, took) = timed(|| lab.fvm(commit));
            if !is_measuring && ran.code == 3 {
                // Stages lay in the directories, or were further names of the host's files: their ctime says so, and
                // that looks like a change of the host's.
                let is_ours = |line: &str| {
                    let (path, what) = line.trim().rsplit_once(": ").unwrap();
                    (place == 1 || !Path::new(path).is_dir()) && what.starts_with("changed on the host after")
                };
                let listed: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("  ")).collect();
                assert!(listed.iter().all(|line| is_ours(line)), "{}", ran.err);
                tally.conflicts += 1;
                ran = lab.fvm(["commit", "--on-conflict", "vm", &round.name]);
            }
            assert_eq!(ran.code, 0, "{}: {}", round.name, ran.err);
            usual[place] = took;
            assert!(round.is_new(), "{}: the second commit changed nothing", round.name);
        }
        let left = lab.fvm(["status", &round.name]).expect(0).out;
        assert_eq!(left.lines().count(), 1, "{}: after the commit the VM still has: {left}", round.name);

        let number = round.last();
        let undo = ["undo", &number];
        if !is_measuring && splitmix(state).is_multiple_of(2) {
            let succeeded = kill(lab.spawn(undo), part(state, usual[place] / 2));
            round.recover(state, usual[place], &mut tally);
            let is_new = round.is_new();
            assert!(!is_new || !succeeded, "{}: an undo said that it was done", round.name);
            *(if is_new { &mut tally.undos_new } else { &mut tally.undos_old }) += 1;
        }
        if round.is_new() {
            lab.fvm(undo).expect(0);
            assert!(!round.is_new(), "{}: the undo changed nothing", round.name);
        }
        lab.fvm(["delete", &round.name]).expect(0);
        lab.sh(&format!("chmod -R u+rwx {shown}; rm -rf {shown}"));
    }
    tally
}

#[test]
fn root_and_user_a_commit_killed_at_any_moment_leaves_all_or_nothing() {
    if !is_root("root_and_user_a_commit_killed_at_any_moment_leaves_all_or_nothing") {
        return;
    }
    let number = |key: &str, default| std::env::var(key).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (count, first) = (number("FVM_KILLS", 8), number("FVM_KILLS_FIRST", 0));
    let only = std::env::var("FVM_KILLS_AS").unwrap_or_default();
    for (user, name) in [(User::Root, "root"), (User::Ordinary, "user")] {
        if !only.is_empty() && only != name {
            continue;
        }
        let tally = rounds(user, count, first);
        println!("{user:?}: {tally:?}");
        assert!(count < 30 || tally.old > 0 && tally.new > 0, "{user:?}: {tally:?}");
    }
}
