//! `fvm commit --interactive`: what was chosen reaches the host, and nothing else.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};

/// A stopped VM `i` with four changes, asked about in this order: a, b, d/ and d/new.
fn lab(test: &str) -> Option<Lab> {
    is_root(test).then(|| {
        let lab = Lab::new(User::Ordinary);
        lab.sh("echo a > a; echo b > b");
        let script = "echo vm >> a; echo vm >> b; mkdir d; echo vm > d/new";
        lab.fvm(["run", "--keep", "--name", "i", "--", "sh", "-c", script]).expect(0);
        lab
    })
}

fn commit(lab: &Lab, typed: &str) -> Ran {
    lab.fvm_typed(["commit", "i", "--interactive"], typed).expect(0)
}

#[test]
fn user_interactive_commit_takes_only_what_was_chosen() {
    let Some(lab) = lab("user_interactive_commit_takes_only_what_was_chosen") else { return };
    for (typed, said) in [("y\ny\nq\n", "nothing committed"), ("y\n", "nothing committed"), ("d\n", "nothing chosen")] {
        let ran = commit(&lab, typed);
        assert!(ran.err.contains(said) && ran.out.is_empty(), "{typed:?}: {}\n{}", ran.err, ran.out);
        assert_eq!(lab.sh("cat a b; ls"), "a\nb\na\nb\nhome\n", "{typed:?}");
    }
    let ran = commit(&lab, "n\ny\nn\nn\n");
    assert!(ran.err.contains("@@ -1,1 +1,2 @@\n b\n+vm\n(2/4) Commit this? [y,n,a,d,s,q,?]"), "{}", ran.err);
    assert_eq!(lab.sh("cat a b; ls"), "a\nb\nvm\na\nb\nhome\n");
    // The directory itself, without what is in it; then that, which is all that is left but a.
    commit(&lab, "n\ny\nn\n");
    assert_eq!(lab.sh("cat a; ls d"), "a\n");
    lab.fvm_typed(["commit", "i", "-i", "d"], "a\n").expect(0);
    assert_eq!(lab.sh("cat a d/new"), "a\nvm\n");
    let status = lab.fvm(["status", "i"]).expect(0).out;
    assert!(status.contains("0 added, 1 modified, 0 deleted"), "{status}");
    commit(&lab, "y\n");
    assert!(commit(&lab, "").err.contains("nothing to commit"));
    assert_eq!(lab.sh("cat a"), "a\nvm\n");
}

#[test]
fn user_interactive_commit_takes_only_the_chosen_hunks() {
    if !is_root("user_interactive_commit_takes_only_the_chosen_hunks") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    lab.sh("seq 9 > n");
    let script = "sed 's/2/two/; s/8/eight/' n > m; cat m > n; rm m";
    lab.fvm(["run", "--keep", "--name", "i", "--", "sh", "-c", script]).expect(0);
    commit(&lab, "s\nn\ny\n");
    assert_eq!(lab.sh("tr '\\n' ' ' < n"), "1 2 3 4 5 6 7 eight 9 ");
    let rest = lab.fvm(["diff", "i", "n"]).expect(0).out;
    assert!(rest.contains("+two") && !rest.contains("+eight"), "{rest}");
}
