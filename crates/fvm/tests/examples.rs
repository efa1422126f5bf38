//! The examples, run: what they print is what they claim.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, install, is_root};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An example of this build, where the laboratory's user may execute it.
fn example(lab: &Lab, name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "fvm", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "{name} cannot be built");
    let copy = lab.path(name);
    install(&profile.join("examples").join(name), &copy);
    copy
}

fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

#[test]
fn root_and_user_a_program_reviews_and_commits_what_another_did() {
    as_both("root_and_user_a_program_reviews_and_commits_what_another_did", |lab| {
        lab.sh("mkdir d; echo one > d/a");
        let mut review = lab.command(example(lab, "review"));
        review.current_dir(lab.path("d")).arg(lab.home()).arg(lab.path("run"));
        review.args(["*.txt", "sh", "-c", "echo hi; echo two > b.txt; echo two > a; exit 3"]);
        let ran = Ran::of(review.output().unwrap()).expect(0);
        let d = lab.path("d").display().to_string();
        let expected = [
            "hi".into(),
            "ended: Exited(3)".into(),
            format!("changed: {d}/a"),
            format!("changed: {d}/b.txt"),
            format!("planned: create file {d}/b.txt"),
            "committed: 1".into(),
            "undone: 2".into(),
        ];
        // A directory's time may be a change, too.
        let lines: Vec<_> = ran.out.lines().filter(|line| *line != format!("changed: {d}")).collect();
        assert_eq!(lines, expected, "{}", ran.err);
        assert_eq!(lab.sh("cat d/a; ls d"), "one\na\n", "it was undone");
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "nothing is left");
    });
}

#[test]
fn root_and_user_a_program_with_threads_forks_many_vms_at_once() {
    as_both("root_and_user_a_program_with_threads_forks_many_vms_at_once", |lab| {
        let mut threads = lab.command(example(lab, "threads"));
        threads.arg(lab.home()).arg(lab.path("run")).args(["4", "6"]);
        assert_eq!(Ran::of(threads.output().unwrap()).expect(0).out, "24 VMs\n");
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "nothing is left");
    });
}
