//! A part of a VM's changes is committed: the VM goes on seeing all of them.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use std::time::Duration;

/// In fresh directories `t`, of what `base` makes: `program` runs in a VM, `chosen` is committed, and `look` says what
/// it said before.
fn check(test: &str, base: &str, program: &str, chosen: &str, look: &str) {
    if !is_root(test) {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        lab.sh(&format!("mkdir t; cd t; {base}"));
        // The fork must be later than the last write to the tree, by the kernel's coarse clock.
        std::thread::sleep(Duration::from_millis(30));
        let inside = |script: &str| {
            let script = format!("cd t; {script}");
            lab.fvm(["run", "--quiet", "--keep", "--name", "p", "--", "sh", "-ec", &script]).expect(0).out
        };
        inside(program);
        let before = inside(look);
        lab.fvm(["commit", "p", chosen]).expect(0);
        assert_eq!(inside(look), before, "{user:?}");
        // What the first commit took out of a directory looks like a change of the host's in it.
        lab.fvm(["commit", "p", "--on-conflict", "vm"]).expect(0);
        assert_eq!(lab.sh(&format!("cd t; {look}")), before, "{user:?}");
    }
}

#[test]
fn root_and_user_what_is_committed_into_a_directory_made_anew_is_seen_in_it() {
    check(
        "root_and_user_what_is_committed_into_a_directory_made_anew_is_seen_in_it",
        "mkdir d; echo old > d/old; echo kept > d/kept; echo other > other",
        "rm -r d; mkdir d d/sub; echo a > d/a; echo b > d/b; echo kept > d/kept; echo x > d/sub/x; echo o > other",
        "t/d/a",
        "ls -R d; cat d/a d/b d/kept d/sub/x other",
    );
}

#[test]
fn root_and_user_what_was_moved_out_of_a_directory_that_became_a_symlink_is_committed() {
    check(
        "root_and_user_what_was_moved_out_of_a_directory_that_became_a_symlink_is_committed",
        "mkdir -p d/e; echo content > d/e/f; echo other > other",
        "mv d/e/f g; rm -r d; ln -s nowhere d; echo o > other",
        "t/g",
        "ls; readlink d; cat g other",
    );
}
