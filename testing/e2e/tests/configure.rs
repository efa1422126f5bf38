//! `fvm configure` and `--restart`: what a VM may use changes while it runs, and its program is started again.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A control group of a VM, of either version.
fn group(id: &str, controller: &str) -> PathBuf {
    let one = Path::new("/sys/fs/cgroup").join(controller);
    let tree = if one.join("cgroup.procs").exists() { one } else { "/sys/fs/cgroup".into() };
    tree.join("fvm").join(id)
}

/// Which controllers are not there.
fn lacking() -> Vec<&'static str> {
    let has = |name: &str| {
        let all = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists()
            || all.split_whitespace().any(|c| c == name)
    };
    ["memory", "cpu", "pids"].into_iter().filter(|name| !has(name)).collect()
}

fn can_limit(test: &str) -> bool {
    let (root, lacking) = (is_root(test), lacking());
    if root && !lacking.is_empty() {
        eprintln!("skipped: {test}: no control groups for {lacking:?}");
    }
    root && lacking.is_empty()
}

/// Runs `body` as an ordinary user and, where there are control groups, as root.
fn as_both_with_limits(test: &str, body: impl Fn(&Lab)) {
    as_both(test, |lab| {
        if lab.user() == User::Ordinary || can_limit(test) {
            body(lab);
        }
    });
}

fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

fn inspect(lab: &Lab, name: &str) -> serde_json::Value {
    serde_json::from_str(&lab.fvm(["inspect", name]).expect(0).out).unwrap()
}

fn id(lab: &Lab, name: &str) -> String {
    inspect(lab, name)["id"].as_str().unwrap().to_owned()
}

fn pids_limit(lab: &Lab, name: &str) -> Option<u64> {
    inspect(lab, name)["policy"]["limits"]["pids"].as_u64()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_stopped(lab: &Lab, name: &str) -> bool {
    inspect(lab, name)["now"] == "stopped"
}

fn kill_keeper(lab: &Lab, name: &str) {
    let keeper = rustix::process::Pid::from_raw(lab.number(name, "keeper_pid").unwrap()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    wait_for("the VM to be stopped", || is_stopped(lab, name));
}

/// Whether `count` processes can be there at once.
fn can_have(lab: &Lab, name: &str, count: u32) -> bool {
    let script = format!("i=0; while [ $i -lt {count} ]; do sleep 0.3 & i=$((i+1)); done; wait; echo all");
    let ran = lab.fvm(["exec", name, "sh", "-c", &script]);
    let all = ran.out == "all\n" && !ran.err.contains("fork");
    assert!(all || ran.err.contains("fork"), "{} {}", ran.out, ran.err);
    all
}

fn takes_memory(lab: &Lab, name: &str, mib: u32) -> Ran {
    let script = format!("x = [bytearray(1 << 20) for i in range({mib})]; print('had it')");
    lab.fvm(["exec", name, "python3", "-c", &script])
}

#[test]
fn root_limits_of_a_running_vm_are_lowered_and_raised_needs_cgroups() {
    if !can_limit("root_limits_of_a_running_vm_are_lowered_and_raised_needs_cgroups") {
        return;
    }
    let lab = Lab::new(User::Root);
    lab.fvm(["create", "v", "--net", "none", "--memory", "256M", "--pids", "100", "--cpus", "2"]).expect(0);
    lab.fvm(["start", "v"]).expect(0);
    let keeper = lab.number("v", "keeper_pid");
    assert!(can_have(&lab, "v", 40));
    assert_eq!(takes_memory(&lab, "v", 100).expect(0).out, "had it\n");

    lab.fvm(["configure", "v", "--memory", "64M", "--pids", "20", "--cpus", "0.1"]).expect(0);
    assert!(!can_have(&lab, "v", 40));
    takes_memory(&lab, "v", 100).expect(137);
    let spin = "import time; end = time.time() + 2\nwhile time.time() < end: pass\nprint(time.process_time())";
    let busy: f64 = lab.fvm(["exec", "v", "python3", "-c", spin]).expect(0).out.trim().parse().unwrap();
    assert!(busy < 1.0, "{busy} s of 2 on a tenth of a processor");

    lab.fvm(["configure", "v", "--memory", "512M", "--swap", "1G", "--pids", "200", "--cpus", "none"]).expect(0);
    assert!(can_have(&lab, "v", 40));
    assert_eq!(takes_memory(&lab, "v", 100).expect(0).out, "had it\n");
    let quota = group(&id(&lab, "v"), "cpu");
    let quota =
        ["cpu.cfs_quota_us", "cpu.max"].iter().find_map(|f| std::fs::read_to_string(quota.join(f)).ok()).unwrap();
    assert!(quota.starts_with("-1") || quota.starts_with("max"), "{quota}");

    lab.fvm(["configure", "v", "--memory", "none", "--pids", "none"]).expect(0);
    assert_eq!(takes_memory(&lab, "v", 600).expect(0).out, "had it\n");
    let limits = inspect(&lab, "v")["policy"].clone();
    assert!(limits.get("limits").is_none(), "{limits}");
    assert_eq!(lab.number("v", "keeper_pid"), keeper, "it ran all the time");
    lab.fvm(["stop", "v"]).expect(0);
}

#[test]
fn root_a_vm_without_limits_gets_them_while_it_runs_needs_cgroups() {
    if !can_limit("root_a_vm_without_limits_gets_them_while_it_runs_needs_cgroups") {
        return;
    }
    let lab = Lab::new(User::Root);
    // Processes that come and go while the VM is moved.
    let forks = "for i in 1 2 3 4; do while :; do (sleep 0.01; :); done & done; sleep 1000";
    lab.fvm(["run", "--detach", "--name", "v", "--net", "none", "--", "sh", "-c", forks]).expect(0);
    let id = id(&lab, "v");
    assert!(!group(&id, "pids").exists());
    for round in 0..2 {
        if round == 1 {
            // One that was suspended is in a group already.
            lab.fvm(["stop", "-t", "1", "v"]).expect(0);
            assert!(!group(&id, "pids").exists());
            lab.fvm(["configure", "v", "--memory", "none", "--pids", "none"]).expect(0);
            lab.fvm(["run", "--detach", "--name", "v", "--", "sh", "-c", forks]).expect(0);
            lab.fvm(["suspend", "v"]).expect(0);
            lab.fvm(["configure", "v", "--pids", "30"]).expect(0);
            lab.fvm(["resume", "v"]).expect(0);
        }
        lab.fvm(["configure", "v", "--pids", "25", "--memory", "64M"]).expect(0);
        for controller in ["pids", "memory"] {
            let procs = std::fs::read_to_string(group(&id, controller).join("cgroup.procs")).unwrap();
            let inside: BTreeSet<&str> = procs.lines().collect();
            let init = lab.number("v", "init_pid").unwrap().to_string();
            assert!(inside.contains(init.as_str()) && inside.len() > 4, "{controller}: {procs}");
        }
        // Whoever is in the VM is in the group.
        let listed = lab.fvm(["--json", "ps", "v"]).expect(0).out;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
        let name = format!("/fvm/{id}");
        for pid in listed.iter().map(|p| p["pid"].as_i64().unwrap()) {
            // A process that is being made, or has ended, is shown in the root for a moment.
            let groups = || std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
            let lives = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
            };
            let is_outside = || groups().is_some_and(|groups| !groups.is_empty() && !groups.contains(&name));
            let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while is_outside() && lives() && std::time::Instant::now() < until {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(!is_outside() || !lives(), "{pid}: {:?}", groups());
        }
        assert!(!can_have(&lab, "v", 60));
        takes_memory(&lab, "v", 100).expect(137);
    }
    lab.fvm(["kill", "v"]).expect(0);
    assert!(!group(&id, "pids").exists() && !group(&id, "memory").exists());
}

#[test]
fn root_a_limit_that_the_kernel_refuses_takes_all_others_back_needs_cgroups() {
    if !can_limit("root_a_limit_that_the_kernel_refuses_takes_all_others_back_needs_cgroups") {
        return;
    }
    let lab = Lab::new(User::Root);
    let hold = "import time; x = [bytearray(1 << 20) for i in range(100)]; print('up', flush=True); time.sleep(1000)";
    let words = ["run", "--detach", "--name", "v", "--net", "none", "--memory", "256M", "--pids", "50", "--"];
    lab.fvm(words.into_iter().chain(["python3", "-c", hold])).expect(0);
    wait_for("the program", || lab.fvm(["logs", "v"]).out == "up\n");
    let (before, id) = (inspect(&lab, "v"), id(&lab, "v"));
    let written = || -> Vec<String> {
        let files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max"];
        let of_memory = files.map(|file| group(&id, "memory").join(file));
        let all = of_memory.into_iter().chain([group(&id, "pids").join("pids.max")]);
        all.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    };
    let limits = written();
    let began = Instant::now();
    // With version 1, memory and swap together are raised before memory is lowered.
    for swap in ["none", "8G"] {
        let ran = lab.fvm(["configure", "v", "--pids", "20", "--memory", "16M", "--swap", swap]).expect(1);
        assert!(ran.err.contains("uses more than 16M"), "{}", ran.err);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!((inspect(&lab, "v"), written()), (before, limits));
    assert!(can_have(&lab, "v", 30), "it runs as before");
    lab.fvm(["kill", "v"]).expect(0);
}

#[test]
fn root_and_user_what_needs_a_stop_is_refused_and_changes_nothing_needs_cgroups() {
    as_both_with_limits("root_and_user_what_needs_a_stop_is_refused_and_changes_nothing_needs_cgroups", |lab| {
        lab.fvm(["create", "v", "--net", "none", "--pids", "50"]).expect(0);
        assert!(lab.fvm(["configure", "v"]).expect(2).err.contains("nothing to change"));
        lab.fvm(["configure", "v", "--pids", "3"]).expect(2);
        lab.fvm(["configure", "nobody", "--pids", "30"]).expect(4);
        lab.fvm(["start", "v"]).expect(0);
        let before = inspect(lab, "v");
        let refused = lab.fvm(["configure", "v", "--pids", "20", "--hostname", "other", "--hide", "/root"]).expect(1);
        for part in ["files", "hostname", "nothing was changed", "'fvm stop v' first"] {
            assert!(refused.err.contains(part), "{}", refused.err);
        }
        assert!(lab.fvm(["configure", "v", "--policy", "untrusted"]).expect(1).err.contains("kernel"));
        assert_eq!(inspect(lab, "v"), before);
        assert!(can_have(lab, "v", 30));
        if lab.user() == User::Ordinary {
            for value in ["60", "none"] {
                let refused = lab.fvm(["configure", "v", "--pids", value]).expect(1);
                assert!(refused.err.contains("stop the VM first"), "{}", refused.err);
            }
            let refused = lab.fvm(["configure", "v", "--memory", "64M"]).expect(1);
            assert!(refused.err.contains("cannot limit the VM (memory)"), "{}", refused.err);
            assert_eq!(inspect(lab, "v"), before);
        }
        lab.fvm(["stop", "v"]).expect(0);

        lab.fvm(["configure", "v", "--hostname", "other", "--pids", "none", "--hide", "/etc/shells"]).expect(0);
        lab.fvm(["start", "v"]).expect(0);
        let seen =
            lab.fvm(["exec", "v", "sh", "-c", "uname -n; head -c1 /etc/shells | wc -c; ls /proc/net | grep -c ."]);
        let seen = seen.out;
        assert!(seen.starts_with("other\n0\n"), "{seen}");
        lab.fvm(["stop", "v"]).expect(0);
        lab.fvm(["configure", "v", "--hide", "!/etc/shells"]).expect(0);
        let said = lab.fvm(["run", "--name", "v", "--", "sh", "-c", "test -s /etc/shells && uname -n"]).expect(0).out;
        assert_eq!(said, "other\n");
        // The whole, in place of the whole.
        lab.fvm(["configure", "v", "--policy", "offline"]).expect(0);
        let policy = inspect(lab, "v")["policy"].clone();
        assert_eq!((policy["name"].as_str(), policy["hostname"].as_str()), (Some("offline"), None));
    });
}

#[test]
fn root_and_user_a_configured_policy_survives_stop_and_a_killed_keeper_needs_cgroups() {
    as_both_with_limits("root_and_user_a_configured_policy_survives_stop_and_a_killed_keeper_needs_cgroups", |lab| {
        lab.fvm(["create", "v", "--net", "none"]).expect(0);
        lab.fvm(["start", "v"]).expect(0);
        let json = lab.fvm(["--json", "configure", "v", "--pids", "25"]).expect(0).out;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["policy"]["limits"]["pids"].as_u64(), json["now"].as_str()), (Some(25), Some("running")));
        assert_eq!(pids_limit(lab, "v"), Some(25), "at once");
        assert!(!can_have(lab, "v", 60));
        lab.fvm(["stop", "v"]).expect(0);
        assert_eq!(pids_limit(lab, "v"), Some(25));
        lab.fvm(["start", "v"]).expect(0);
        assert!(!can_have(lab, "v", 60));
        lab.fvm(["configure", "v", "--pids", "15"]).expect(0);
        kill_keeper(lab, "v");
        assert_eq!(pids_limit(lab, "v"), Some(15));
        lab.fvm(["start", "v"]).expect(0);
        assert!(!can_have(lab, "v", 22));

        // Several at once: each is done wholly, or refused, and what is saved is in force.
        let mut all: Vec<_> = (0..8).map(|n| lab.spawn(["configure", "v", "--pids", &(14 - n).to_string()])).collect();
        let done = all.iter_mut().filter_map(|child| child.wait().unwrap().code()).filter(|code| *code == 0).count();
        assert!(done > 0);
        let saved = pids_limit(lab, "v").unwrap();
        assert!((7..=15).contains(&saved), "{saved}");
        if lab.user() == User::Root {
            let max = std::fs::read_to_string(group(&id(lab, "v"), "pids").join("pids.max")).unwrap();
            assert_eq!(max.trim(), saved.to_string());
        } else {
            let init = lab.number("v", "init_pid").unwrap();
            let limits = lab.sh(&format!("grep processes /proc/{init}/limits || true"));
            assert!(limits.split_whitespace().any(|word| word == saved.to_string()), "{limits}");
        }
        // A foreground run holds the VM as well.
        lab.fvm(["stop", "v"]).expect(0);
        let mut run = lab.spawn(["run", "--name", "v", "--", "sleep", "1000"]);
        wait_for("the VM to run", || inspect(lab, "v")["now"] == "running");
        lab.fvm(["configure", "v", "--pids", "6"]).expect(0);
        lab.fvm(["stop", "v"]).expect(0);
        run.wait().unwrap();
        assert_eq!(pids_limit(lab, "v"), Some(6));
        lab.fvm(["delete", "v"]).expect(0);
    });
}

#[test]
fn root_and_user_a_detached_program_is_started_again_as_asked() {
    as_both("root_and_user_a_detached_program_is_started_again_as_asked", |lab| {
        for wrong in [&["--restart", "always"][..], &["--detach", "--restart", "never"]] {
            lab.fvm(["run"].iter().chain(wrong).chain(&["--", "true"])).expect(2);
        }
        let run = |name: &str, restart: &str, script: &str| {
            let words = ["run", "--detach", "--name", name, "--net", "none", "--restart", restart, "--", "sh", "-c"];
            lab.fvm(words.into_iter().chain([script])).expect(0);
        };
        let ends = |name: &str| {
            let json = inspect(lab, name);
            (json["restarts"].as_u64().unwrap_or(0), json["last_exit"].as_i64())
        };
        let starts = |name: &str| lab.fvm(["logs", name]).out.matches("started").count();

        run("failing", "on-failure:2", "echo started; exit 7");
        run("good", "on-failure", "echo started");
        run("once", "no", "echo started; kill -9 $$");
        for name in ["failing", "good", "once"] {
            wait_for(name, || is_stopped(lab, name));
        }
        assert_eq!((ends("failing"), starts("failing")), ((2, Some(7)), 3));
        assert_eq!((ends("good"), starts("good")), ((0, Some(0)), 1));
        assert_eq!((ends("once"), starts("once")), ((0, Some(137)), 1));

        // It comes back in the same VM, with what it wrote, until that is stopped.
        run("server", "always", "echo started; echo x >> f; test $(wc -l < f) -lt 4 || exec sleep 1000");
        wait_for("four starts", || starts("server") == 4 && ends("server") == (3, Some(0)));
        let keeper = lab.number("server", "keeper_pid");
        // A killed program is no stopped VM.
        lab.fvm(["exec", "server", "sh", "-c", "kill -9 $(pgrep -x sleep)"]).expect(0);
        wait_for("the fifth start", || starts("server") == 5 && ends("server") == (4, Some(137)));
        assert_eq!(lab.number("server", "keeper_pid"), keeper);
        lab.fvm(["stop", "-t", "5", "server"]).expect(0);
        std::thread::sleep(Duration::from_millis(300));
        assert!(is_stopped(lab, "server") && starts("server") == 5);

        // Whatever it waits for, it ends when it is told to, or when its policy changes.
        let failing =
            ["run", "--detach", "--name", "failing", "--restart", "always", "--", "sh", "-c", "echo started; exit 3"];
        let fail = || drop(lab.fvm(failing).expect(0));
        for end in ["stop", "kill", "configure", "keeper"] {
            fail();
            // The next one, of 3.2 s, begins now.
            wait_for("a pause", || starts("failing") >= 6);
            let before = starts("failing");
            match end {
                "configure" => drop(lab.fvm(["configure", "failing", "--restart", "no"]).expect(0)),
                "keeper" => kill_keeper(lab, "failing"),
                end => drop(lab.fvm([end, "failing"]).expect(0)),
            }
            wait_for("the end", || is_stopped(lab, "failing"));
            assert_eq!(starts("failing"), before, "{end}: it was started once more");
            let (restarts, status) = ends("failing");
            assert!(restarts >= 4 && status == Some(3), "{end}: {restarts} {status:?}");
        }

        // In a suspended VM nothing is started.
        fail();
        wait_for("a pause", || starts("failing") >= 3);
        lab.fvm(["suspend", "failing"]).expect(0);
        let before = starts("failing");
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(starts("failing"), before);
        lab.fvm(["resume", "failing"]).expect(0);
        wait_for("another start", || starts("failing") > before);
        lab.fvm(["delete", "--force", "failing"]).expect(0);

        // The next start begins to count anew; what is not there is a failure, too.
        lab.fvm(["configure", "once", "--restart", "on-failure:1"]).expect(0);
        lab.fvm(["run", "--detach", "--name", "once", "--", "/is/not/there"]).expect(0);
        wait_for("the end", || is_stopped(lab, "once"));
        assert_eq!(ends("once"), (1, Some(127)));
        lab.fvm(["run", "--name", "once", "--", "true"]).expect(0);
        assert_eq!(ends("once"), (0, None));
    });
}
