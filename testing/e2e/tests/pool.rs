//! Pools: VMs that are forked ahead, given out, used, kept, thrown away, and what is left when somebody dies.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// Runs `body` as root and as an ordinary user.
fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

/// Waits up to twenty seconds for `ready`.
#[track_caller]
fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A number or word of `fvm pool status --json`.
fn field(lab: &Lab, pool: &str, key: &str) -> String {
    let json = lab.fvm(["--json", "pool", "status", pool]).expect(0).out;
    let rest = json.split(&format!("\"{key}\": ")).nth(1).unwrap_or_default();
    rest.split([',', '\n']).next().unwrap_or_default().trim_matches('"').to_owned()
}

#[track_caller]
fn filled(lab: &Lab, pool: &str) {
    wait_for("a full pool", || field(lab, pool, "ready") == field(lab, pool, "size"));
}

fn is_alive(pid: &str) -> bool {
    // A zombie of a process that this test's parents do not collect is dead, too.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// The inits of a keeper's VMs.
fn children(keeper: &str) -> Vec<String> {
    let path = format!("/proc/{keeper}/task/{keeper}/children");
    std::fs::read_to_string(path).unwrap_or_default().split_whitespace().map(ToOwned::to_owned).collect()
}

#[test]
fn root_and_user_a_pool_whose_record_is_damaged_is_told_and_can_be_deleted() {
    as_both("root_and_user_a_pool_whose_record_is_damaged_is_told_and_can_be_deleted", |lab| {
        for state in ["running", "stopped"] {
            lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
            filled(lab, "p");
            if state == "stopped" {
                lab.fvm(["pool", "drain", "p"]).expect(0);
                wait_for("a drained pool", || field(lab, "p", "keeper").is_empty());
            }
            let dir = lab.home().join("pools/p");
            let whole = std::fs::read_to_string(dir.join("pool.json")).unwrap();
            // That of a newer fvm is not this one's to delete.
            std::fs::write(dir.join("pool.json"), whole.replace("\"format\": 1", "\"format\": 9")).unwrap();
            assert!(lab.fvm(["pool", "delete", "p"]).expect(1).err.contains("newer fvm"));
            std::fs::write(dir.join("pool.json"), "{").unwrap();
            let said = lab.fvm(["pool", "status"]);
            assert!(said.err.contains("cannot use") && said.err.contains("pool.json"), "{}", said.err);
            lab.fvm(["pool", "status", "p"]).expect(1);
            lab.fvm(["pool", "delete", "p"]).expect(0);
            assert!(!dir.exists(), "{state}");
        }
    });
}

#[test]
fn root_and_user_a_program_gets_a_vm_of_its_own_that_is_ready() {
    as_both("root_and_user_a_program_gets_a_vm_of_its_own_that_is_ready", |lab| {
        lab.sh("echo one > f");
        lab.fvm(["pool", "create", "p", "--size", "2"]).expect(0);
        filled(lab, "p");
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "who waits is nobody's VM");
        lab.sh("echo two > f; echo new > g");
        let script = "cat f g; pwd; echo three > f; test \"$FVM\" && exit 7";
        let ran = lab.fvm(["run", "--pool", "p", "--", "sh", "-c", script]).expect(7);
        let expected = format!("two\nnew\n{}\n", lab.dir().display());
        assert_eq!(ran.out, expected, "the host as it is when the program starts");
        for _ in 0..5 {
            let ran = lab.fvm(["run", "--pool", "p", "--", "cat", "f"]).expect(0);
            assert_eq!(ran.out, "two\n", "nobody sees what another changed, nor does the host");
        }
        lab.fvm(["run", "--pool", "p", "--", "no-such-program"]).expect(127);
        let output = lab.fvm_typed(["run", "--pool", "p", "--", "tr", "a-z", "A-Z"], "typed").expect(0);
        assert_eq!(output.out, "TYPED");
        assert_eq!(field(lab, "p", "given"), "8");
        filled(lab, "p");
        assert_eq!(lab.sh("cat f"), "two\n");
    });
}

#[test]
fn root_and_user_what_a_pool_cannot_do_is_said_and_nothing_is_lost() {
    as_both("root_and_user_what_a_pool_cannot_do_is_said_and_nothing_is_lost", |lab| {
        lab.fvm(["run", "--pool", "none", "--rm", "--", "true"]).expect(125);
        let missing = lab.fvm(["run", "--pool", "none", "--", "true"]).expect(125);
        assert!(missing.err.contains("no pool 'none'") && missing.err.contains("fvm pool create"), "{}", missing.err);
        lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
        assert!(lab.fvm(["pool", "create", "p"]).expect(1).err.contains("already"));
        lab.fvm(["pool", "create", "bad/name"]).expect(2);
        for size in ["0", "10001"] {
            assert!(lab.fvm(["pool", "create", "q", "--size", size]).expect(1).err.contains("1 to 10000"));
        }
        assert!(lab.fvm(["pool", "create", "q", "--dbus", "notifications"]).expect(1).err.contains("--dbus"));
        lab.fvm(["pool", "create", "q", "--from", "nobody"]).expect(4);
        lab.fvm(["pool", "create", "q", "--reserve", "much"]).expect(2);
        assert!(
            lab.fvm(["run", "--pool", "p", "--net", "none", "--", "true"]).expect(2).err.contains("pool configure")
        );
        let kept = lab.fvm(["run", "--pool", "p", "--keep", "--", "true"]).expect(125);
        assert!(kept.err.contains("--kept"), "{}", kept.err);
        lab.fvm(["pool", "start", "p"]).expect(1);
        lab.fvm(["pool", "delete", "q"]).expect(1);
        lab.fvm(["create", "taken"]).expect(0);
        lab.fvm(["pool", "create", "k", "--size", "1", "--kept"]).expect(0);
        let taken = lab.fvm(["run", "--pool", "k", "--keep", "--name", "taken", "--", "true"]).expect(125);
        assert!(taken.err.contains("already is a VM 'taken'"), "{}", taken.err);
        assert_eq!(lab.fvm(["run", "--pool", "p", "--", "echo", "still"]).expect(0).out, "still\n");
    });
}

#[test]
fn root_and_user_a_vm_of_a_pool_can_be_kept_reviewed_and_committed() {
    as_both("root_and_user_a_vm_of_a_pool_can_be_kept_reviewed_and_committed", |lab| {
        lab.sh("echo one > f");
        lab.fvm(["pool", "create", "p", "--size", "2", "--kept"]).expect(0);
        let script = "echo two > f; echo new > g; echo $FVM";
        let ran = lab.fvm(["run", "--pool", "p", "--keep", "--name", "k", "--", "sh", "-c", script]).expect(0);
        assert_eq!(ran.out, "k\n");
        assert!(ran.err.contains("1 added, 1 modified"), "{}", ran.err);
        let status = lab.fvm(["status", "k"]).expect(0).out;
        assert!(status.contains("/f") && status.contains("/g"), "{status}");
        assert_eq!(lab.fvm(["run", "--name", "k", "--", "cat", "f"]).expect(0).out, "two\n", "a VM like any other");
        lab.fvm(["commit", "k"]).expect(0);
        assert_eq!(lab.sh("cat f g"), "two\nnew\n");
        // What lay in its layers before it was given is only as old as they are; a time that a program has set is a change.
        lab.sh("mkdir d e");
        lab.fvm(["pool", "drain", "p"]).expect(0);
        wait_for("the end of its keeper", || field(lab, "p", "keeper").is_empty());
        lab.fvm(["pool", "start", "p"]).expect(0);
        filled(lab, "p");
        std::thread::sleep(Duration::from_secs(3));
        let script = "touch -d '1 second ago' d; touch e/in";
        lab.fvm(["run", "--pool", "p", "--keep", "--name", "dated", "--", "sh", "-c", script]).expect(0);
        let json = lab.fvm(["--json", "status", "dated"]).expect(0).out;
        let status: serde_json::Value = serde_json::from_str(&json).unwrap();
        let changes = status["changes"].as_array().unwrap().iter();
        let paths: Vec<_> =
            changes.map(|change| change["path"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
        assert_eq!(paths, ["d", "in"], "{json}");
        lab.fvm(["delete", "dated"]).expect(0);
        lab.fvm(["run", "--pool", "p", "--commit", "--", "sh", "-c", "echo three > f"]).expect(0);
        assert_eq!(lab.sh("cat f"), "three\n");
        lab.fvm(["run", "--pool", "p", "--commit", "--", "sh", "-c", "echo four > f; exit 1"]).expect(1);
        assert_eq!(lab.sh("cat f"), "three\n");
        lab.fvm(["run", "--pool", "p", "--rm", "--", "sh", "-c", "echo five > f"]).expect(0);
        wait_for("k, and the one whose program failed", || lab.fvm(["list"]).expect(0).out.lines().count() == 3);
    });
}

#[test]
fn root_and_user_a_pool_of_copies_begins_where_its_template_is() {
    as_both("root_and_user_a_pool_of_copies_begins_where_its_template_is", |lab| {
        lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", "echo prepared > f"]).expect(0);
        lab.fvm(["pool", "create", "p", "--size", "2", "--from", "t"]).expect(0);
        for _ in 0..3 {
            let ran = lab.fvm(["run", "--pool", "p", "--rm", "--", "sh", "-c", "cat f; echo spoilt > f"]).expect(0);
            assert_eq!(ran.out, "prepared\n");
        }
        lab.fvm(["run", "--pool", "p", "--keep", "--name", "k", "--", "sh", "-c", "echo more > g"]).expect(0);
        let status = lab.fvm(["status", "k"]).expect(0).out;
        assert!(status.contains("/f") && status.contains("/g"), "its template's changes are its own: {status}");
        assert_eq!(lab.fvm(["run", "--name", "t", "--", "cat", "f"]).expect(0).out, "prepared\n");
        assert_eq!(lab.sh("ls"), "home\n");
        lab.fvm(["commit", "k"]).expect(0);
        assert_eq!(lab.sh("cat f g"), "prepared\nmore\n");
    });
}

#[test]
fn root_and_user_a_vm_that_is_used_is_a_vm_like_any_other() {
    as_both("root_and_user_a_vm_that_is_used_is_a_vm_like_any_other", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1", "--kept"]).expect(0);
        let begin = |name: &str| {
            let run = lab.spawn(["run", "--pool", "p", "--keep", "--name", name, "--", "sleep", "1000"]);
            wait_for("the VM", || lab.fvm(["list"]).out.contains(&format!("{name} ")));
            wait_for("its keeper", || lab.number(name, "init_pid").is_some());
            run
        };
        let mut run = begin("u");
        assert_eq!(lab.fvm(["exec", "u", "sh", "-c", "echo x > f; cat f"]).expect(0).out, "x\n");
        wait_for("its program", || lab.fvm(["ps", "u"]).expect(0).out.contains("sleep"));
        lab.fvm(["suspend", "u"]).expect(0);
        assert!(lab.fvm(["list"]).out.contains("suspended"));
        lab.fvm(["resume", "u"]).expect(0);
        assert!(lab.fvm(["delete", "u"]).expect(1).err.contains("running"));
        lab.fvm(["stop", "u"]).expect(0);
        assert_eq!(run.wait().unwrap().code(), Some(143), "as of a VM without a pool");
        assert!(lab.fvm(["status", "u"]).expect(0).out.contains("/f"), "what it did is there to be looked at");
        let mut run = begin("v");
        lab.fvm(["kill", "v"]).expect(0);
        assert_eq!(run.wait().unwrap().code(), Some(125));
        lab.fvm(["delete", "u", "v"]).expect(0);
        filled(lab, "p");
    });
}

#[test]
fn root_and_user_a_client_that_dies_takes_its_vm_along() {
    as_both("root_and_user_a_client_that_dies_takes_its_vm_along", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
        filled(lab, "p");
        let mut run = lab.spawn(["run", "--pool", "p", "--name", "u", "--", "sleep", "1000"]);
        wait_for("the VM", || lab.number("u", "init_pid").is_some());
        let init = lab.number("u", "init_pid").unwrap().to_string();
        run.kill().unwrap();
        run.wait().unwrap();
        wait_for("its end", || !is_alive(&init) && field(lab, "p", "used") == "0");
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1);
    });
}

#[test]
fn root_and_user_what_a_killed_keeper_leaves_is_swept_and_the_pool_starts_again() {
    as_both("root_and_user_what_a_killed_keeper_leaves_is_swept_and_the_pool_starts_again", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "3", "--kept"]).expect(0);
        filled(lab, "p");
        let mut run = lab.spawn(["run", "--pool", "p", "--rm", "--name", "u", "--", "sleep", "1000"]);
        wait_for("the VM", || lab.number("u", "init_pid").is_some());
        let keeper = field(lab, "p", "keeper");
        let inits = children(&keeper);
        assert!(inits.len() >= 3, "{inits:?}");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(keeper.parse().unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(125), "its VM is gone");
        wait_for("the VMs' end", || !inits.iter().any(|pid| is_alive(pid)));
        assert!(lab.fvm(["pool", "status", "p"]).expect(0).out.contains("stopped"));
        let vms = || std::fs::read_dir(lab.home().join("vms")).unwrap().flatten();
        wait_for("an empty state directory", || {
            lab.fvm(["list"]).expect(0);
            vms().all(|entry| entry.file_name().to_string_lossy().starts_with('.'))
        });
        assert_eq!(lab.fvm(["run", "--pool", "p", "--rm", "--", "echo", "again"]).expect(0).out, "again\n");
        assert_ne!(field(lab, "p", "keeper"), keeper);
    });
}

#[test]
fn root_and_user_a_pool_follows_its_size_and_its_policy() {
    as_both("root_and_user_a_pool_follows_its_size_and_its_policy", |lab| {
        lab.sh("echo secret > s");
        lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
        filled(lab, "p");
        lab.fvm(["pool", "size", "p", "4"]).expect(0);
        filled(lab, "p");
        assert_eq!(field(lab, "p", "ready"), "4");
        lab.fvm(["pool", "size", "p", "2"]).expect(0);
        wait_for("a smaller pool", || children(&field(lab, "p", "keeper")).len() <= 3);
        assert_eq!(lab.fvm(["run", "--pool", "p", "--", "cat", "s"]).expect(0).out, "secret\n");
        let pattern = lab.path("s");
        lab.fvm(["pool", "configure", "p", "--hide", pattern.to_str().unwrap()]).expect(0);
        lab.fvm(["run", "--pool", "p", "--", "cat", "s"]).expect(1);
        lab.fvm(["pool", "configure", "p"]).expect(2);
        lab.fvm(["pool", "size", "p", "0"]).expect(1);
    });
}

#[test]
fn root_and_user_a_vm_is_used_again_if_the_pool_says_so_and_nothing_is_left_running() {
    as_both("root_and_user_a_vm_is_used_again_if_the_pool_says_so_and_nothing_is_left_running", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1", "--reuse", "2"]).expect(0);
        filled(lab, "p");
        let run = |script: &str| {
            filled(lab, "p");
            lab.fvm(["run", "--pool", "p", "--", "sh", "-c", script]).expect(0).out
        };
        assert_eq!(run("ls; echo > left"), "home\n");
        wait_for("the VM", || field(lab, "p", "used") == "0");
        assert_eq!(run("ls"), "home\nleft\n", "the second time");
        assert_eq!(run("ls; echo > left; sleep 1000 >/dev/null 2>&1 </dev/null &"), "home\n", "another");
        wait_for("the VM", || field(lab, "p", "used") == "0");
        assert_eq!(run("ls"), "home\n", "something ran on in that");
    });
}

#[test]
fn root_and_user_a_vm_that_others_were_in_or_that_had_a_name_is_not_used_again_as_such() {
    as_both("root_and_user_a_vm_that_others_were_in_or_that_had_a_name_is_not_used_again_as_such", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1", "--reuse", "9"]).expect(0);
        let unused = || wait_for("the VM", || field(lab, "p", "used") == "0");
        let script = "ls; echo > left; echo $FVM";
        assert_eq!(lab.fvm(["run", "--pool", "p", "--name", "x", "--", "sh", "-c", script]).expect(0).out, "home\nx\n");
        unused();
        lab.fvm(["create", "x"]).expect(0);
        let again = lab.fvm(["run", "--pool", "p", "--", "sh", "-c", script]).expect(0).out;
        assert!(again.starts_with("home\nleft\nvm-"), "there is another 'x' by now: {again}");
        unused();
        let script = "echo > mine; until test -e go; do sleep 0.02; done";
        let mut run = lab.spawn(["run", "--pool", "p", "--name", "y", "--", "sh", "-c", script]);
        wait_for("the VM", || lab.number("y", "init_pid").is_some());
        // The VM may end before that has.
        lab.fvm(["exec", "y", "touch", "go"]);
        assert_eq!(run.wait().unwrap().code(), Some(0));
        unused();
        assert_eq!(lab.fvm(["run", "--pool", "p", "--", "ls"]).expect(0).out, "home\n", "somebody else was in it");
    });
}

/// Whether the client of `args` did without libc, which asks for memory first of all.
fn needs_no_libc(lab: &Lab, args: &[&str]) -> bool {
    let log = lab.path("calls");
    let mut traced = lab.command("strace");
    traced.args(["-o"]).arg(&log).args(["-e", "trace=sendmsg,brk"]).arg(fvm_kit::binary());
    traced.arg("--home").arg(lab.home()).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ran::of(traced.output().unwrap()).expect(0);
    let calls = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert!(calls.contains("sendmsg"), "{calls}");
    !calls.contains("brk")
}

#[test]
fn root_and_user_a_client_of_a_pool_without_libc_does_what_one_with_it_does() {
    as_both("root_and_user_a_client_of_a_pool_without_libc_does_what_one_with_it_does", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "2"]).expect(0);
        filled(lab, "p");
        // A program that has ended before the keeper says that it took the client in is the command's to hear of.
        let mostly_needs_no_libc = |args: &[&str]| (0..9).filter(|_| needs_no_libc(lab, args)).count() > 4;
        let usual = ["run", "--rm", "--pool", "p", "--", "true"];
        assert_eq!(mostly_needs_no_libc(&usual), cfg!(target_arch = "x86_64"));
        assert!(
            !needs_no_libc(lab, &["-q", "run", "--rm", "--pool", "p", "--", "true"]),
            "what is not usual is the command's"
        );
        assert_eq!(mostly_needs_no_libc(&["run", "--pool", "p", "--", "true"]), cfg!(target_arch = "x86_64"));
        lab.fvm(["pool", "create", "k", "--kept", "--size", "1"]).expect(0);
        filled(lab, "k");
        assert!(!needs_no_libc(lab, &["run", "--pool", "k", "--", "true"]), "it may be kept");
        let script = "umask; pwd; env | grep -v ^FVM= | sort; readlink /proc/self/fd/0; \
            stat -Lc %F /proc/self/fd/1 /proc/self/fd/2; ls /proc/self/fd; grep Sig[BI] /proc/self/status; printf '<%s>' \"$@\"";
        let run = |first: &[&str], log: Option<&std::path::Path>| {
            let mut line = lab.command("sh");
            line.args(["-c", "umask 27; mkdir -p 'a \"b\"'; cd 'a \"b\"'; exec \"$@\"", "sh"]).arg(fvm_kit::binary());
            line.arg("--home").arg(lab.home()).args(first).args(["run", "--rm", "--pool", "p", "sh", "-c", script]);
            line.args(["sh", "", "a b", "\"\\", "--rm"])
                .env("LC_ALL", "C")
                .env("TERM", "a\tb\\\"")
                .stdin(Stdio::null());
            line.stdout(log.map_or_else(Stdio::piped, |log| std::fs::File::create(log).unwrap().into()));
            line.stderr(Stdio::piped());
            let ran = Ran::of(line.output().unwrap()).expect(0);
            log.map_or(ran.out, |log| std::fs::read_to_string(log).unwrap())
        };
        let ahead = run(&[], None);
        assert!(
            ahead.contains("0027\n") && ahead.contains("/a \"b\"\n") && ahead.contains("<a b><\"\\><--rm>"),
            "{ahead}"
        );
        assert_eq!(ahead, run(&["-q"], None), "before and after");
        // A file's descriptor goes to nobody.
        let log = lab.path("log");
        assert_eq!(run(&[], Some(&log)), ahead, "a pipe stands for the file");
        assert_eq!(lab.fvm_typed(usual[..5].iter().chain(&["tr", "a-z", "A-Z"]), "typed").expect(0).out, "TYPED");
        lab.fvm(usual[..5].iter().chain(&["no-such-program"])).expect(127);
        lab.fvm(usual[..5].iter().chain(&["sh", "-c", "kill -TERM $$"])).expect(143);
        // What a commit left undone comes before any program.
        std::fs::create_dir_all(lab.home().join("commits")).unwrap();
        std::fs::write(lab.home().join("commits/active"), "?").unwrap();
        assert!(!needs_no_libc(lab, &usual));
        std::fs::remove_file(lab.home().join("commits/active")).unwrap();
        // Whose keeper has gone is started anew.
        lab.fvm(["pool", "drain", "p"]).expect(0);
        wait_for("a drained pool", || field(lab, "p", "keeper").is_empty());
        assert_eq!(lab.fvm(usual[..5].iter().chain(&["echo", "again"])).expect(0).out, "again\n");
    });
}

/// A client of `p` whose script has said "ready", and what it says next.
fn begun(lab: &Lab, option: &str, script: &str) -> (Child, BufReader<ChildStdout>) {
    let mut line = lab.fvm_command(["run", option, "--pool", "p", "sh", "-c", script]);
    let mut run = line.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(run.stdout.take().unwrap());
    let mut text = String::new();
    said.read_line(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    (run, said)
}

#[test]
fn root_and_user_a_signal_to_a_client_without_libc_is_its_programs() {
    as_both("root_and_user_a_signal_to_a_client_without_libc_is_its_programs", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
        filled(lab, "p");
        let script = "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done";
        let (mut run, mut said) = begun(lab, "--rm", script);
        let pid = rustix::process::Pid::from_child(&run);
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        let mut text = String::new();
        said.read_line(&mut text).unwrap();
        assert_eq!((text.as_str(), run.wait().unwrap().code()), ("got\n", Some(3)));
    });
}

#[test]
fn root_and_user_a_keeper_that_dies_after_a_program_does_not_change_how_that_ended() {
    as_both("root_and_user_a_keeper_that_dies_after_a_program_does_not_change_how_that_ended", |lab| {
        for option in ["--rm", "-q"] {
            lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
            filled(lab, "p");
            let keeper = rustix::process::Pid::from_raw(field(lab, "p", "keeper").parse().unwrap()).unwrap();
            let script = "echo ready; sleep 0.5; exit 7";
            let (mut run, _said) = begun(lab, option, script);
            let pid = rustix::process::Pid::from_child(&run);
            rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
            std::thread::sleep(Duration::from_millis(1500));
            rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
            wait_for("its end", || !is_alive(&keeper.as_raw_nonzero().to_string()));
            rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
            assert_eq!(run.wait().unwrap().code(), Some(7), "{option}");
            lab.fvm(["pool", "delete", "p"]).expect(0);
        }
    });
}

#[test]
fn root_and_user_a_program_whose_client_left_is_not_started() {
    as_both("root_and_user_a_program_whose_client_left_is_not_started", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
        filled(lab, "p");
        let keeper = rustix::process::Pid::from_raw(field(lab, "p", "keeper").parse().unwrap()).unwrap();
        rustix::process::kill_process(keeper, rustix::process::Signal::STOP).unwrap();
        // With --rm it says so before libc has started; without, afterwards.
        let mut early = lab.fvm_command(["run", "--rm", "--pool", "p", "--", "true"]);
        let mut early = early.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut run = lab.spawn(["run", "--pool", "p", "--", "true"]);
        // It has said what it wants when it sleeps with a connection.
        let proc = format!("/proc/{}", run.id());
        let sleeps = || std::fs::read_to_string(format!("{proc}/stat")).unwrap_or_default().contains(") S ");
        let held = || std::fs::read_dir(format!("{proc}/fd")).into_iter().flatten().flatten();
        let is_socket = |fd: std::fs::DirEntry| {
            std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        wait_for("the client", || held().any(is_socket) && sleeps());
        for client in [&mut run, &mut early] {
            client.kill().unwrap();
            client.wait().unwrap();
        }
        rustix::process::kill_process(keeper, rustix::process::Signal::CONT).unwrap();
        assert_eq!(lab.fvm(["run", "--pool", "p", "--", "echo", "next"]).expect(0).out, "next\n");
        assert_eq!(field(lab, "p", "given"), "1");
    });
}

#[test]
fn root_and_user_a_keeper_holds_nothing_of_who_started_it_and_collects_all_that_its_vms_had() {
    as_both("root_and_user_a_keeper_holds_nothing_of_who_started_it_and_collects_all_that_its_vms_had", |lab| {
        let create = format!("{} --home {} pool create p --size 2", fvm_kit::binary().display(), lab.home().display());
        lab.sh(&format!("exec 9> lock; {create} 2> /dev/null"));
        let keeper = field(lab, "p", "keeper");
        let held = std::fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().flatten();
        let held: Vec<_> = held.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
        assert!(!held.contains(&lab.path("lock")), "{held:?}");
        for _ in 0..3 {
            lab.fvm(["run", "--pool", "p", "--", "true"]).expect(0);
        }
        filled(lab, "p");
        wait_for("the end of all zombies", || children(&keeper).iter().all(|pid| is_alive(pid)));
    });
}

#[test]
fn root_and_user_a_pool_that_is_made_smaller_while_it_is_filled_becomes_small() {
    as_both("root_and_user_a_pool_that_is_made_smaller_while_it_is_filled_becomes_small", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "30"]).expect(0);
        lab.fvm(["pool", "size", "p", "1"]).expect(0);
        wait_for("one", || field(lab, "p", "ready") == "1" && field(lab, "p", "making") == "0");
        wait_for("nobody else", || lab.home().join("vms").read_dir().unwrap().flatten().count() <= 4);
    });
}

#[test]
fn root_and_user_clients_that_come_together_start_one_keeper() {
    as_both("root_and_user_clients_that_come_together_start_one_keeper", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1"]).expect(0);
        for _ in 0..3 {
            lab.fvm(["pool", "drain", "p"]).expect(0);
            wait_for("the end of its keeper", || field(lab, "p", "keeper").is_empty());
            let mut runs: Vec<_> = (0..6).map(|_| lab.spawn(["run", "--pool", "p", "--", "true"])).collect();
            let codes: Vec<_> = runs.iter_mut().map(|run| run.wait().unwrap().code()).collect();
            assert!(codes.iter().all(|code| *code == Some(0)), "{codes:?}");
        }
    });
}

#[test]
fn root_what_the_host_changed_while_a_users_vm_waited_is_seen_and_not_lost() {
    if !is_root("root_what_the_host_changed_while_a_users_vm_waited_is_seen_and_not_lost") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let fvm = format!("{} --home {}", fvm_kit::binary().display(), lab.home().display());
    lab.sh("mkdir m; echo one > f");
    // Of what lies beside a mount, a user's VM has copies, of when it was made.
    let users = format!(
        "{fvm} pool create p --size 1 --kept; until {fvm} pool status p | grep -q '1 of 1 ready'; do sleep 0.02; done; \
         echo host >> f; sleep 0.1; {fvm} run --pool p --commit -- sh -c 'cat f; echo vm >> f' || true; \
         cat f; {fvm} pool delete p"
    );
    let script = "mount -t tmpfs t m; setpriv --reuid fvmtest --regid fvmtest --clear-groups sh -ec \"$0\"; umount m";
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-ec", script, &users]).current_dir(lab.dir());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.starts_with("one\nhost\none\nhost\n"), "{out} {err}");
}

#[test]
fn root_a_mount_of_the_hosts_is_in_the_next_vm() {
    if !is_root("root_a_mount_of_the_hosts_is_in_the_next_vm") {
        return;
    }
    // In a mount namespace of its own, whose mounts nobody else sees.
    let lab = Lab::new(User::Root);
    let fvm = format!("{} --home {}", fvm_kit::binary().display(), lab.home().display());
    let script = format!(
        "mkdir m; {fvm} pool create p --size 1; \
         until {fvm} pool status p | grep -q '1 of 1 ready'; do sleep 0.02; done; \
         mount -t tmpfs t m; echo there > m/f; \
         until {fvm} pool status p | grep -q '1 renewed'; do sleep 0.02; done; \
         {fvm} run --pool p -- cat m/f; {fvm} pool delete p; umount m"
    );
    let mut command = lab.command("unshare");
    let output = command.args(["-m", "--propagation", "private", "sh", "-ec", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "there\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn root_and_user_what_waiting_vms_have_looked_up_is_what_the_host_has() {
    let test = "root_and_user_what_waiting_vms_have_looked_up_is_what_the_host_has";
    if !is_root(test) {
        return;
    }
    for (user, who) in [(User::Root, ""), (User::Ordinary, "setpriv --reuid fvmtest --regid fvmtest --clear-groups")] {
        let lab = Lab::new(user);
        let fvm = format!("{who} {} --home {}", fvm_kit::binary().display(), lab.home().display());
        // Replaced by a rename, as a package manager does it. One that nobody had looked up would be found in any case, so
        // this goes on until a VM was thrown away because it had.
        let script = format!(
            "mount -t tmpfs t /usr/local/sbin; cd /usr/local/sbin; \
             put() {{ printf '#!/bin/sh\\necho %s\\n' $1 > new; chmod 755 new; mv new prog; }}; \
             put 0; {fvm} pool create p --size 1; \
             until {fvm} pool status p | grep -q '1 of 1 ready'; do sleep 0.02; done; \
             for n in $(seq 40); do \
                 {fvm} run --pool p -- prog > /dev/null; sleep 1.5; put $n; \
                 ran=$({fvm} run --pool p -- /usr/local/sbin/prog); test \"$ran\" = $n || echo \"$ran, not $n\"; \
                 {fvm} pool status p | grep -q ' [1-9][0-9]* renewed' && break; \
             done; {fvm} pool status p | grep -o ' [1-9][0-9]* renewed' | sed 's/ .* /looked up, /'; {fvm} pool delete p; cd /; umount /usr/local/sbin"
        );
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-ec", &script]).current_dir(lab.dir());
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let output = command.env("HOME", lab.dir()).env("PATH", path).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, "looked up, renewed\n", "{user:?}: {err}");
    }
}

/// The processes that wait for their program in a pool's VMs.
fn waiting(keeper: &str) -> Vec<String> {
    let below: Vec<String> = children(keeper).iter().flat_map(|one| children(one)).collect();
    let deeper: Vec<String> = below.iter().flat_map(|one| children(one)).collect();
    // The kernel's own word for the link; what it leads to lies in memory and has no name.
    let exe = |pid: &String| std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let waits = |pid: &String| exe(pid).to_string_lossy().starts_with("/memfd:run");
    below.into_iter().chain(deeper).filter(waits).collect()
}

/// Waits until in each of the next VMs of a pool a process waits for its program, and a second longer: it has begun before any that is
/// started from now on. Those processes.
fn waited(lab: &Lab, pool: &str) -> Vec<String> {
    filled(lab, pool);
    let keeper = field(lab, pool, "keeper");
    let size = field(lab, pool, "size").parse::<usize>().unwrap();
    wait_for("processes that wait", || waiting(&keeper).len() >= size.min(4));
    std::thread::sleep(Duration::from_secs(1));
    waiting(&keeper)
}

fn kill(signal: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([signal, pid]).status().unwrap().success(), "{signal} {pid}");
}

#[test]
fn root_and_user_a_process_that_waited_is_a_program_like_any_other() {
    as_both("root_and_user_a_process_that_waited_is_a_program_like_any_other", |lab| {
        if cfg!(not(target_arch = "x86_64")) {
            eprintln!(
                "skipped: root_and_user_a_process_that_waited_is_a_program_like_any_other: none waits on this machine"
            );
            return;
        }
        lab.fvm(["pool", "create", "p", "--size", "1", "--net", "none"]).expect(0);
        let up = || std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse::<f64>().unwrap();
        // Ticks since the machine's start, of which there are a hundred in a second.
        let began = "cut -d' ' -f22 /proc/$$/stat >&2; ";
        let script = "umask; pwd; env | grep -v '^FVM=\\|^LONG=' | sort; readlink /proc/self/fd/0; ls /proc/self/fd; ulimit -a; \
            grep 'Sig[BI]\\|Cap\\|NoNew\\|Seccomp:\\|NSpid\\|Groups\\|^[UG]id' /proc/self/status; ps -o pid,ppid,sid,tty,comm; \
            cat /proc/self/oom_score_adj /proc/self/cgroup; printf '<%s>' \"$@\"; exit 7";
        let run = |pool: bool, long: &str| {
            let mut line = lab.command("sh");
            line.args(["-c", "umask 27; mkdir -p 'a \"b\"'; cd 'a \"b\"'; exec \"$@\"", "sh"]).arg(fvm_kit::binary());
            line.arg("--home").arg(lab.home()).args(["run", "--rm"]);
            line.args(if pool { ["--pool", "p"] } else { ["--net", "none"] });
            line.args(["sh", "-c", &format!("{began}{script}"), "sh", "", "a b", "\"\\", "--rm"]);
            line.env("LC_ALL", "C")
                .env("LONG", long)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let now = up();
            let ran = Ran::of(line.output().unwrap()).expect(7);
            let ticks = ran
                .err
                .lines()
                .next()
                .and_then(|line| line.parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{}", ran.err));
            (ran.out, ticks / 100.0 < now - 0.5)
        };
        // What is too long for the message is init's to start.
        for (long, waits) in [(String::new(), true), ("x".repeat(70_000), false)] {
            waited(lab, "p");
            let (said, has_waited) = run(true, &long);
            assert_eq!(has_waited, waits, "{said}");
            if waits {
                assert_eq!(said, run(false, &long).0);
            } else {
                assert!(said.starts_with("0027\n") && said.ends_with("<--rm>"), "{said}");
            }
        }
        for (line, code, text) in [
            (&["echo", "here"][..], 0, "here"),
            (&["no-such-program"], 127, "no-such-program"),
            (&["/etc/passwd"], 126, "/etc/passwd"),
            (&["sh", "-c", "kill -KILL $$"], 137, ""),
            (&["sh", "-c", "echo to >&2"], 0, "to"),
            (&["sh", "-c", "sleep 100 & exit 3"], 3, ""),
            (&["tr", "a-z", "A-Z"], 0, "TYPED"),
        ] {
            waited(lab, "p");
            let ran = lab.fvm_typed(["run", "--rm", "--pool", "p", "--"].iter().chain(line), "typed").expect(code);
            assert!(format!("{}{}", ran.out, ran.err).contains(text), "{line:?}: {} {}", ran.out, ran.err);
        }
        // A terminal is init's to make.
        waited(lab, "p");
        let mut line = lab.command("script");
        let typed = format!(
            "{} --home {} run --rm --pool p -- sh -c 'tty; ps -eo comm'",
            fvm_kit::binary().display(),
            lab.home().display()
        );
        line.args(["-qec", &typed, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ran = Ran::of(line.output().unwrap()).expect(0);
        assert!(
            ran.out.contains("/dev/pts/") && !ran.out.contains("memfd") && ran.out.lines().count() < 7,
            "{}",
            ran.out
        );
        // Its end is told also where init hears of it before it hears whose it is.
        let began = waited(lab, "p");
        let status = std::fs::read_to_string(format!("/proc/{}/status", began[0])).unwrap();
        let init = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
        kill("-STOP", init);
        let client = lab.fvm_command(["run", "--rm", "--pool", "p", "--", "sh", "-c", "exit 5"]).spawn();
        wait_for("its end", || !is_alive(&began[0]));
        kill("-CONT", init);
        assert_eq!(client.unwrap().wait().unwrap().code(), Some(5));
        // One that was killed while it waited is missed by nobody.
        let began = waited(lab, "p");
        assert_eq!(began.len(), 1);
        kill("-KILL", &began[0]);
        wait_for("its end", || !is_alive(&began[0]));
        assert_eq!(lab.fvm(["run", "--rm", "--pool", "p", "--", "echo", "here"]).expect(0).out, "here\n");
    });
}

#[test]
fn root_and_user_many_programs_at_once_get_a_vm_each() {
    as_both("root_and_user_many_programs_at_once_get_a_vm_each", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "3"]).expect(0);
        let runs: Vec<_> = (0..20)
            .map(|n| {
                let script = format!("test ! -e mine && echo {n} > mine && cat mine");
                let mut command = lab.fvm_command(["run", "--pool", "p", "--", "sh", "-c", &script]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            let output = run.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{n}\n"), "{err}");
        }
        lab.fvm(["pool", "drain", "p"]).expect(0);
        wait_for("the end of its keeper", || field(lab, "p", "keeper").is_empty());
        let vms = std::fs::read_dir(lab.home().join("vms")).unwrap().flatten();
        let left: Vec<_> = vms.map(|e| e.file_name()).filter(|n| !n.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
        lab.fvm(["pool", "delete", "p"]).expect(0);
        assert!(lab.fvm(["pool", "status"]).expect(0).out.is_empty());
    });
}

#[test]
fn root_and_user_where_memory_is_to_be_left_to_others_a_program_is_refused_not_kept_waiting() {
    as_both("root_and_user_where_memory_is_to_be_left_to_others_a_program_is_refused_not_kept_waiting", |lab| {
        lab.fvm(["pool", "create", "p", "--size", "1", "--reserve", "1000000G"]).expect(0);
        let ran = lab.fvm(["run", "--pool", "p", "--rm", "--", "true"]).expect(125);
        assert!(ran.err.contains("less memory"), "{}", ran.err);
        assert!(lab.fvm(["pool", "status", "p"]).expect(0).out.contains("less memory"));
    });
}

#[test]
fn root_and_user_of_several_that_make_a_pool_at_once_one_does() {
    as_both("root_and_user_of_several_that_make_a_pool_at_once_one_does", |lab| {
        let made: Vec<_> = (1..=6).map(|n| lab.spawn(["pool", "create", "p", "--size", &n.to_string()])).collect();
        let winners: Vec<_> = (1..=6)
            .zip(made)
            .filter_map(|(n, mut child)| child.wait().unwrap().success().then_some(n.to_string()))
            .collect();
        assert_eq!(winners, [field(lab, "p", "size")], "it is what who made it asked for");
    });
}
