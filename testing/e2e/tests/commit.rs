//! Commits from the command line: taken back, merged, interrupted, by key.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, Snapshot, User, is_root};
use std::process::Command;
use std::time::Duration;

/// Every time counts.
const FOREVER: i64 = i64::MAX;

fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

/// Whether `program` is there; says so when the test is skipped.
fn has(program: &str, test: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success();
    if !found {
        eprintln!("skipped: {test}: there is no {program} here");
    }
    found
}

/// What the host changes from now on is later than what it has, by the kernel's coarse clock.
fn tick() {
    std::thread::sleep(Duration::from_millis(30));
}

#[test]
fn root_and_user_a_commit_is_taken_back_and_brought_again() {
    as_both("root_and_user_a_commit_is_taken_back_and_brought_again", |lab| {
        lab.sh("mkdir -p t/d/e t/gone; cd t; echo a > a; echo b > d/b; echo f > d/e/f; echo g > gone/g; ln a a2; touch -d 2001-02-03 d/b d gone .");
        let tree = lab.path("t");
        let old = Snapshot::of(&tree, FOREVER);
        tick();
        let script =
            "cd t; echo more >> d/b; rm -r gone; mkdir -p n/m; echo x > n/m/x; mv d D; chmod 700 D/e; ln -s a l";
        lab.fvm(["run", "--keep", "--name", "u", "--", "sh", "-c", script]).expect(0);
        let said = lab.fvm(["commit", "u"]).expect(0).err;
        assert!(said.contains("'fvm undo 1' takes it back"), "{said}");
        let new = Snapshot::of(&tree, FOREVER);
        assert_ne!(old, new);
        lab.fvm(["undo", "1"]).expect(0);
        assert_eq!(Snapshot::of(&tree, FOREVER).differences(&old), Vec::<String>::new());
        lab.fvm(["undo", "2"]).expect(0);
        assert_eq!(Snapshot::of(&tree, FOREVER).differences(&new), Vec::<String>::new());
        let history = lab.fvm(["history"]).expect(0).out;
        assert_eq!(history.lines().count(), 4, "{history}");
        assert!(lab.fvm(["show", "1"]).expect(0).out.contains("create file"), "what it did");

        lab.sh("echo edited >> t/n/m/x");
        let refused = lab.fvm(["undo", "3"]).expect(3);
        assert!(refused.err.contains("t/n: m/x changed"), "{}", refused.err);
        assert_ne!(Snapshot::of(&tree, FOREVER), old, "nothing was changed");
        lab.fvm(["gc", "--keep", "0"]).expect(0);
        lab.fvm(["undo", "3"]).expect(1);
        lab.fvm(["undo", "77"]).expect(1);
    });
}

#[test]
fn root_and_user_texts_that_both_sides_changed_are_merged_when_asked() {
    as_both("root_and_user_texts_that_both_sides_changed_are_merged_when_asked", |lab| {
        lab.sh("seq 1 20 > t; seq 1 20 > same");
        tick();
        lab.fvm(["run", "--keep", "--name", "m", "--", "sh", "-c", "sed -i s/^3$/vm/ t same"]).expect(0);
        tick();
        lab.sh("sed -i s/^17$/host/ t");
        lab.fvm(["commit", "m", "t"]).expect(3);
        lab.fvm(["commit", "m", "--on-conflict", "merge"]).expect(0);
        let merged = lab.sh("cat t");
        assert!(merged.contains("vm\n") && merged.contains("host\n"), "{merged}");
        assert!(lab.fvm(["status", "m"]).out.contains("nothing changed"));

        lab.fvm(["run", "--name", "m", "--", "sh", "-c", "sed -i s/^9$/vm/ t"]).expect(0);
        tick();
        lab.sh("sed -i s/^9$/host9/ t");
        let refused = lab.fvm(["commit", "m", "--on-conflict", "merge"]).expect(3);
        assert!(refused.err.contains("both sides changed the same lines"), "{}", refused.err);
        assert!(lab.sh("cat t").contains("host9"), "the host's line stays");
    });
}

#[test]
fn root_and_user_an_interrupt_leaves_all_or_nothing_and_says_which() {
    as_both("root_and_user_an_interrupt_leaves_all_or_nothing_and_says_which", |lab| {
        lab.sh("mkdir t");
        let script = "mkdir t/n; for i in $(seq 2000); do echo $i > t/n/$i; done";
        lab.fvm(["run", "--keep", "--name", "i", "--", "sh", "-c", script]).expect(0);
        for wait_ms in [0, 20, 60, 150, 400] {
            let child = lab.spawn(["commit", "i", "--keep"]);
            std::thread::sleep(Duration::from_millis(wait_ms));
            let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            let _ended_already = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            let code = child.wait_with_output().unwrap().status;
            let count = lab.sh("ls t/n 2>/dev/null | wc -l");
            assert!(["0", "2000"].contains(&count.trim()), "{count} after {wait_ms} ms: {code:?}");
            if count.trim() == "2000" {
                let history = lab.fvm(["history"]).expect(0).out;
                let last = history.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
                lab.fvm(["undo", &last]).expect(0);
            }
            assert_eq!(lab.sh("ls -A t"), "");
        }
    });
}

#[test]
fn root_accounts_of_both_sides_are_there_after_a_commit() {
    let name = "root_accounts_of_both_sides_are_there_after_a_commit";
    if !is_root(name) || !has("useradd", name) {
        return;
    }
    // So that nobody adds it meanwhile.
    drop(Lab::new(User::Ordinary));
    let lab = Lab::new(User::Root);
    let gone = || {
        for user in ["fvmt-vm", "fvmt-host"] {
            let _absent = Command::new("userdel").arg(user).output().unwrap();
        }
    };
    gone();
    lab.fvm(["run", "--keep", "--name", "acc", "--", "useradd", "--system", "--uid", "987", "fvmt-vm"]).expect(0);
    let status = lab.fvm(["status", "acc"]).expect(0).out;
    assert!(status.contains("accounts user fvmt-vm: absent → fvmt-vm:x:987:"), "{status}");
    tick();
    lab.sh("useradd --system --uid 986 fvmt-host");
    let committed = lab.fvm(["commit", "acc", "/etc"]);
    let (both, consistent) =
        (lab.sh("getent passwd fvmt-vm fvmt-host || true"), lab.sh("grpck -r || true; grep -c fvmt- /etc/shadow"));
    gone();
    committed.expect(0);
    assert!(both.contains("fvmt-vm:x:987") && both.contains("fvmt-host:x:986"), "{both}");
    assert!(consistent.trim().ends_with('2'), "{consistent}");
}

#[test]
fn user_dconf_keys_are_committed_one_by_one() {
    let name = "user_dconf_keys_are_committed_one_by_one";
    if !is_root(name) || !has("dconf", name) || !has("dbus-run-session", name) {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let set = |key: &str, value: &str| format!("dconf write /org/fvm/{key} \"'{value}'\"");
    let bus = |script: String| ["dbus-run-session".into(), "--".into(), "sh".into(), "-ec".into(), script];
    let on_host =
        |script: String| lab.sh(&format!("dbus-run-session -- sh -ec '{}' 2>/dev/null", script.replace('\'', r"'\''")));
    on_host([set("a", "1"), set("b", "1"), set("c", "1")].join(";"));
    tick();
    let words = ["run", "--keep", "--name", "dc", "--"].map(str::to_owned);
    lab.fvm(words.into_iter().chain(bus([set("a", "vm"), set("b", "vm")].join(";")))).expect(0);
    tick();
    on_host(set("c", "host"));
    lab.fvm(["commit", "dc", "--key", "/org/fvm/none"]).expect(1);
    lab.fvm(["commit", "dc", "--key", "*/a"]).expect(0);
    assert_eq!(on_host("dconf dump /org/fvm/".into()).trim(), "[/]\na='vm'\nb='1'\nc='host'");
    let left = lab.fvm(["status", "dc"]).out;
    assert!(left.contains("dconf /org/fvm/b: '1' → 'vm'") && !left.contains("/org/fvm/c"), "{left}");
    lab.fvm(["commit", "dc"]).expect(0);
    assert_eq!(on_host("dconf dump /org/fvm/".into()).trim(), "[/]\na='vm'\nb='vm'\nc='host'");
}

#[test]
fn wine_key_needs_wine() {
    let name = "wine_key_needs_wine";
    if !is_root(name) || !has("wine", name) || !has("wineserver", name) {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    // Neither a screen nor the parts that Wine would fetch.
    let wine = |script: &str| {
        format!("export WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml='; {{ {script}; }} 2>&1; wineserver -w")
    };
    let add = |key: &str, value: &str| format!(r"wine reg add 'HKCU\Software\{key}' /v Colour /d {value} /f");
    let files = || -> Vec<String> {
        let list = "cd .wine; find . ! -type d -printf '%p %y %m %U:%G %T@ %l\n'; find . -type d -printf '%p %m\n'; \
                    find . -type f -exec sha256sum {} +";
        let mut lines: Vec<String> = lab.sh(list).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    lab.sh(&wine("wineboot --init"));
    lab.sh(&wine(&add("Fvm Test", "red")));
    let old = files();
    assert!(old.iter().any(|line| line.starts_with("./user.reg ")), "{old:?}");
    tick();
    let script = wine(&[add("Fvm Test", "blue"), add("Other", "green")].join(" && "));
    lab.fvm(["run", "--keep", "--name", "w", "--", "sh", "-ec", &script]).expect(0);
    assert_eq!(files(), old, "what a VM does stays in the VM");
    let status = lab.fvm(["status", "w"]).expect(0).out;
    let line = r#"wine HKCU\Software\Fvm Test value Colour: "red" → "blue""#;
    assert!(status.contains(line) && status.contains(r"HKCU\Software\Other value Colour"), "{status}");

    lab.fvm(["commit", "w", "--key", r"HKCU\Software\Fvm Test value Colour"]).expect(0);
    let new = files();
    let differ: Vec<&String> = new.iter().filter(|line| !old.contains(line)).collect();
    assert!(!differ.is_empty() && differ.iter().all(|line| line.contains("./user.reg")), "{differ:?}");
    assert_eq!(new.len(), old.len(), "nothing came and nothing went");
    let text = lab.sh("cat .wine/user.reg");
    assert!(text.contains("\"Colour\"=\"blue\"") && !text.contains("[Software\\\\Other]"), "{text}");
    let read = lab.sh(&wine(r"wine reg query 'HKCU\Software\Fvm Test' /v Colour"));
    assert!(read.contains("blue"), "Wine reads what was committed: {read}");
    let left = lab.fvm(["status", "w"]).expect(0).out;
    assert!(left.contains(r"HKCU\Software\Other value Colour") && !left.contains("Fvm Test value"), "{left}");
}

#[test]
fn root_and_user_what_was_committed_from_a_replaced_directory_is_still_in_the_vm() {
    as_both("root_and_user_what_was_committed_from_a_replaced_directory_is_still_in_the_vm", |lab| {
        lab.sh("mkdir t t/d; echo a > t/d/a; echo b > t/d/b");
        tick();
        let script = "rm -r t/d; mkdir t/d; echo n > t/d/n; echo other > t/other";
        lab.fvm(["run", "--keep", "--name", "r", "--", "sh", "-c", script]).expect(0);
        lab.fvm(["commit", "r", "t/d/n", "t/d/a"]).expect(0);
        assert_eq!(lab.sh("ls t/d").split_whitespace().collect::<Vec<_>>(), ["b", "n"]);
        let left = lab.fvm(["status", "r"]).expect(0).out;
        assert!(left.contains("/t/d/b") && left.contains("/t/other") && left.lines().count() == 3, "{left}");
        lab.fvm(["commit", "r"]).expect(0);
        assert_eq!(lab.sh("ls t/d t").split_whitespace().collect::<Vec<_>>(), ["t:", "d", "other", "t/d:", "n"]);
        assert_eq!(lab.fvm(["status", "r"]).expect(0).out.lines().count(), 1);
    });
}

#[test]
fn user_a_project_below_a_directory_of_roots_is_committed() {
    if !is_root("user_a_project_below_a_directory_of_roots_is_committed") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    lab.sh("mkdir project; echo old > project/file");
    lab.fvm(["list"]).expect(0);
    // Between the root of a mount, which is not compared, and the project.
    std::os::unix::fs::chown(lab.dir(), Some(0), Some(0)).unwrap();
    // It works there: that opens the way.
    let mut run =
        lab.fvm_command(["run", "--keep", "-n", "p", "--", "sh", "-ec", "echo new > file; mkdir d; echo x > d/x"]);
    Ran::of(run.current_dir(lab.path("project")).output().unwrap()).expect(0);
    // The VM was given a copy of the directory, with another owner and mode: that is no change.
    let status = lab.fvm(["status", "p", "--json"]).expect(0).out;
    let paths: Vec<String> = serde_json::from_str::<serde_json::Value>(&status).unwrap()["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["path"].as_str().unwrap().to_owned())
        .collect();
    let under = |path: &str| lab.path("project").join(path).display().to_string();
    assert_eq!(paths, [under("d"), under("d/x"), under("file")], "{status}");
    lab.fvm(["commit", "p"]).expect(0);
    assert_eq!(lab.sh("cat project/file project/d/x"), "new\nx\n");
}
