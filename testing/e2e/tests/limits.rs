//! Limits: what a VM takes too much of is refused inside, told outside, and costs nobody else anything.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a controller of control groups is mounted, of either version.
fn controller(name: &str) -> Option<PathBuf> {
    let one = Path::new("/sys/fs/cgroup").join(name);
    let two = Path::new("/sys/fs/cgroup");
    let has =
        |dir: &Path| std::fs::read_to_string(dir.join("cgroup.controllers")).is_ok_and(|text| text.contains(name));
    if one.join("cgroup.procs").exists() { Some(one) } else { has(two).then(|| two.to_owned()) }
}

fn can_limit(test: &str, controllers: &[&str]) -> bool {
    if !is_root(test) {
        return false;
    }
    let lacking: Vec<_> = controllers.iter().filter(|name| controller(name).is_none()).collect();
    if !lacking.is_empty() {
        eprintln!("skipped: {test}: no control groups for {lacking:?}");
    }
    lacking.is_empty()
}

/// Groups of this laboratory's VMs that are there now.
fn groups(ids: &[String]) -> Vec<PathBuf> {
    let trees = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
    let all = trees.chain(["/sys/fs/cgroup".into()]);
    all.flat_map(|tree| ids.iter().map(move |id| tree.join("fvm").join(id))).filter(|dir| dir.exists()).collect()
}

fn id(lab: &Lab, name: &str) -> String {
    let json = lab.fvm(["inspect", name]).expect(0).out;
    json.split("\"id\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

const HOG: &str = "import sys\nx = []\nwhile True: x.append(bytearray(1 << 20))";

#[test]
fn root_memory_is_limited_and_told_needs_cgroups() {
    if !can_limit("root_memory_is_limited_and_told_needs_cgroups", &["memory"]) {
        return;
    }
    let lab = Lab::new(User::Root);
    let words = ["run", "--keep", "--name", "m", "--net", "none", "--memory", "64M"];
    let ran = lab.fvm(words.into_iter().chain(["--", "python3", "-c", HOG])).expect(137);
    assert!(ran.err.contains("it reached its memory limit of 64M: 1 process was killed"), "{}", ran.err);
    let json = lab.fvm(["inspect", "m"]).expect(0).out;
    assert!(json.contains("reached its memory limit"), "{json}");
    // The next run begins with a clean record.
    let seen = lab.fvm(["run", "--name", "m", "--", "cat", "/proc/self/cgroup"]).expect(0).out;
    assert!(!seen.contains("fvm"), "the VM sees its own group as the root: {seen}");
    assert!(!lab.fvm(["inspect", "m"]).expect(0).out.contains("reached"));
    assert_eq!(groups(&[id(&lab, "m")]), Vec::<PathBuf>::new());
}

#[test]
fn root_files_of_a_throw_away_vm_are_no_memory_of_its_needs_cgroups() {
    if !can_limit("root_files_of_a_throw_away_vm_are_no_memory_of_its_needs_cgroups", &["memory"]) {
        return;
    }
    let lab = Lab::new(User::Root);
    let write = ["dd", "if=/dev/zero", "of=big", "bs=1M", "count=200"];
    lab.fvm(["run", "--rm", "--net", "none", "--memory", "64M", "--"].iter().chain(&write)).expect(0);
}

#[test]
fn root_and_user_processes_are_limited_needs_cgroups() {
    let test = "root_and_user_processes_are_limited_needs_cgroups";
    if !can_limit(test, &["pids"]) {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        let bomb = "i=0; while [ $i -lt 60 ]; do sleep 0.5 & i=$((i+1)); done; wait; echo survived";
        let ran = lab.fvm(["run", "--rm", "--net", "none", "--pids", "20", "--", "sh", "-c", bomb]);
        assert!(ran.err.contains("Cannot fork") || ran.err.contains("fork"), "{user:?} {} {}", ran.out, ran.err);
        if user == User::Root {
            assert!(ran.err.contains("it reached its limit of 20 processes"), "{}", ran.err);
        }
        // The user's other processes are not counted.
        lab.sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 0.2 & done; wait");
    }
}

#[test]
fn root_a_vm_uses_up_what_it_may_watch_and_not_what_root_may() {
    if !is_root("root_a_vm_uses_up_what_it_may_watch_and_not_what_root_may") {
        return;
    }
    let watchers = "import ctypes,time\nlibc = ctypes.CDLL(None, use_errno=True)\nn = 0\n\
        while libc.inotify_init1(0) >= 0: n += 1\nprint(n, ctypes.get_errno(), flush=True)\ntime.sleep(1000)";
    let lab = Lab::new(User::Root);
    // Two, so that one does not use up what the other may, either.
    for name in ["a", "b"] {
        let words = ["run", "--detach", "--name", name, "--net", "none", "--"];
        lab.fvm(words.into_iter().chain(["sh", "-c", "exec python3 -c \"$0\" >told", watchers])).expect(0);
        let told = || lab.fvm(["exec", name, "--", "cat", "told"]).out;
        let began = Instant::now();
        while told().is_empty() && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let (told, max) = (told(), std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap());
        assert_eq!(told.trim(), format!("{} 24", max.trim()), "{name}: it is refused with EMFILE");
        let host = "import ctypes\nprint(ctypes.CDLL(None).inotify_init1(0) >= 0)";
        assert_eq!(lab.sh(&format!("python3 -c '{host}'")).trim(), "True", "{name}");
    }
    for name in ["a", "b"] {
        lab.fvm(["stop", "-t", "0", name]).expect(0);
    }
}

/// The median and the longest of some answers of the VM `other` and of the host.
fn answers(lab: &Lab) -> String {
    let shown = |mut all: Vec<Duration>| {
        all.sort_unstable();
        format!("{:.1?} (at most {:.1?})", all[all.len() / 2], all[all.len() - 1])
    };
    let time = |ask: &dyn Fn()| {
        let began = Instant::now();
        ask();
        began.elapsed()
    };
    let vm = || drop(lab.fvm(["exec", "other", "sh", "-c", "echo > answer; cat answer"]).expect(0));
    let host = || drop(lab.sh("echo > answer; cat answer"));
    let both: (Vec<_>, Vec<_>) = (0..5).map(|_| (time(&vm), time(&host))).unzip();
    format!("another VM {}, the host {}", shown(both.0), shown(both.1))
}

#[test]
fn root_greedy_vms_get_no_more_than_their_share_and_others_answer_needs_cgroups_loop_devices() {
    let test = "root_greedy_vms_get_no_more_than_their_share_and_others_answer_needs_cgroups_loop_devices";
    if !can_limit(test, &["cpu", "memory", "pids"]) {
        return;
    }
    let lab = Lab::new(User::Root);
    lab.fvm(["create", "other", "--net", "none"]).expect(0);
    lab.fvm(["start", "other"]).expect(0);
    eprintln!("before: {}", answers(&lab));
    let limits =
        ["--net", "none", "--cpus", "0.2", "--memory", "64M", "--pids", "32", "--disk", "32M", "--timeout", "60s"];
    let hog = format!("python3 -c '{HOG}'");
    // What it does, for as long as others are asked; what it meets; what is noted.
    let greedy = [
        ("hog", hog.as_str(), "", "it reached its memory limit of 64M"),
        ("bomb", "bomb() { bomb | bomb & }; bomb; sleep 1; echo", "fork", "it reached its limit of 32 processes"),
        (
            "loop",
            "for i in 1 2 3 4; do while :; do :; done & done; sleep 6; kill 0",
            "",
            "more than its 0.2 processors",
        ),
        ("fill", "cat /dev/zero > big", "No space left on device", "its disk of 32M is full"),
    ];
    for (name, what, error, note) in greedy {
        // Again and again, for as long as others are asked.
        let again = format!("trap : TERM; until [ -e enough ]; do ({what}); n=$((n+1)); done; echo $n times");
        let words = ["run", "--keep", "--name", name];
        let vm = lab.fvm_command(words.iter().chain(&limits).chain(&["--", "sh", "-c", &again]));
        let running = spawned(vm);
        std::thread::sleep(Duration::from_millis(300));
        eprintln!("{name}: {}", answers(&lab));
        let until = Instant::now() + Duration::from_secs(20);
        while lab.fvm(["exec", name, "touch", "enough"]).code != 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        let ended = Ran::of(running.wait_with_output().unwrap());
        assert!(ended.err.contains(error) && ended.err.contains(note), "{name}: {}\n{}", ended.out, ended.err);
        let json = lab.fvm(["inspect", name]).expect(0).out;
        assert!(json.contains(note), "{name}: {json}");
        let ids = [id(&lab, name)];
        lab.fvm(["delete", name]).expect(0);
        assert_eq!(groups(&ids), Vec::<PathBuf>::new(), "{name}");
    }
    eprintln!("after: {}", answers(&lab));
    lab.fvm(["kill", "other"]).expect(0);
}

fn spawned(mut command: std::process::Command) -> std::process::Child {
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

#[test]
fn root_the_groups_of_a_killed_keeper_go_with_the_next_command_needs_cgroups() {
    if !can_limit("root_the_groups_of_a_killed_keeper_go_with_the_next_command_needs_cgroups", &["pids"]) {
        return;
    }
    let lab = Lab::new(User::Root);
    lab.fvm(["create", "busy", "--net", "none", "--pids", "64"]).expect(0);
    lab.fvm(["start", "busy"]).expect(0);
    let ids = [id(&lab, "busy")];
    assert!(!groups(&ids).is_empty());
    let keeper = rustix::process::Pid::from_raw(lab.number("busy", "keeper_pid").unwrap()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !groups(&ids).is_empty() && Instant::now() < until {
        lab.fvm(["recover"]).expect(0);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(groups(&ids), Vec::<PathBuf>::new());
}

#[test]
fn root_only_passed_devices_can_be_opened_needs_cgroup_v1() {
    let test = "root_only_passed_devices_can_be_opened_needs_cgroup_v1";
    if !can_limit(test, &["devices"]) {
        return;
    }
    let lab = Lab::new(User::Root);
    lab.fvm(["create", "d", "--net", "none", "--device", "/dev/fuse"]).expect(0);
    lab.fvm(["start", "d"]).expect(0);
    let list = controller("devices").unwrap().join("fvm").join(id(&lab, "d")).join("devices.list");
    let list = std::fs::read_to_string(list).unwrap();
    assert!(!list.contains("a *:*") && list.contains("c 1:3 rw") && list.contains("c 10:229"), "{list}");
    assert!(!list.lines().any(|line| line.starts_with('b')), "{list}");
    let script = "exec 3<>/dev/fuse && echo OPENED; echo x > /dev/null && head -c 4 /dev/urandom | wc -c";
    let said = lab.fvm(["exec", "d", "sh", "-c", script]).expect(0).out;
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["OPENED", "4"]);
    // New files, whiteouts among them, are no devices.
    lab.fvm(["exec", "d", "sh", "-ec", "rm /etc/hostname || true; echo x > /etc/new; rm /etc/new"]).expect(0);
    lab.fvm(["stop", "d"]).expect(0);
}

#[test]
fn root_and_user_a_limit_that_cannot_be_held_is_refused() {
    let test = "root_and_user_a_limit_that_cannot_be_held_is_refused";
    if !is_root(test) {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let words = |more: &'static [&'static str]| -> Ran {
        let first = ["run", "--rm", "--net", "none", "--memory", "64M"];
        lab.fvm(first.iter().chain(more).chain(&["--", "echo", "ran"]))
    };
    let refused = words(&[]).expect(125);
    assert!(refused.err.contains("cannot limit the VM (memory)") && refused.out.is_empty(), "{}", refused.err);
    let partial = words(&["--allow-partial"]).expect(0);
    assert!(partial.out == "ran\n" && partial.err.contains("without a limit of memory"), "{}", partial.err);
    for (option, value) in
        [("--memory", "2X"), ("--cpus", "0"), ("--pids", "1"), ("--swap", "1G"), ("--cpu-weight", "0")]
    {
        let ran = lab.fvm(["run", "--rm", option, value, "--", "true"]).expect(2);
        assert!(ran.err.contains(value) || ran.err.contains("swap is limited"), "{}", ran.err);
    }
    std::fs::write(lab.path("p.toml"), "[limits]\nmemory = '1Q'\n").unwrap();
    let ran = lab.fvm(["run", "--rm", "--policy", "./p.toml", "--", "true"]).expect(2);
    assert!(ran.err.contains("./p.toml:2:10") && ran.err.contains("'1Q' is no size"), "{}", ran.err);
}

/// Processor time of a process and all below it, in ticks.
fn ticks(root: i32) -> u64 {
    let mut sum = 0;
    let mut queue = vec![root];
    while let Some(pid) = queue.pop() {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        sum += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        queue.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    sum
}

#[test]
fn root_and_user_a_suspended_vm_uses_no_processor_and_runs_on() {
    let test = "root_and_user_a_suspended_vm_uses_no_processor_and_runs_on";
    if !is_root(test) {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        let spin = "i=0; while :; do i=$((i+1)); done & sleep 1000 & kill -STOP $!; echo $! > stopped; wait";
        lab.fvm(["run", "--detach", "--name", "s", "--net", "none", "--", "sh", "-c", spin]).expect(0);
        let init = lab.number("s", "init_pid").unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let state = || lab.fvm(["exec", "s", "sh", "-c", "cut -d' ' -f3 /proc/$(cat stopped)/stat"]).out;
        // One that it stops while it is being suspended is not told from those that are stopped for that (crates/vm/src/pause.rs).
        while (ticks(init) == 0 || state() != "T\n") && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        lab.fvm(["suspend", "s"]).expect(0);
        let before = ticks(init);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(ticks(init), before, "{user:?}: it used the processor");
        assert!(lab.fvm(["list"]).expect(0).out.contains("suspended"));
        let refused = lab.fvm(["exec", "s", "true"]).expect(125);
        assert!(refused.err.contains("is suspended") && refused.err.contains("fvm resume"), "{}", refused.err);
        lab.fvm(["suspend", "s"]).expect(1);
        lab.fvm(["resume", "s"]).expect(0);
        let until = Instant::now() + Duration::from_secs(20);
        while ticks(init) == before && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(ticks(init) > before, "{user:?}: it does not run on");
        // What the VM had stopped itself stays stopped.
        assert_eq!(state(), "T\n", "{user:?}");
        lab.fvm(["resume", "s"]).expect(1);

        // However a suspended VM ends, it ends.
        let ids = [id(&lab, "s")];
        for end in ["stop", "kill", "keeper"] {
            lab.fvm(["suspend", "s"]).expect(0);
            if end == "keeper" {
                let keeper = rustix::process::Pid::from_raw(lab.number("s", "keeper_pid").unwrap()).unwrap();
                rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
                let until = Instant::now() + Duration::from_secs(20);
                while (Path::new(&format!("/proc/{}", lab.number("s", "init_pid").unwrap_or(0))).exists()
                    || !groups(&ids).is_empty())
                    && Instant::now() < until
                {
                    lab.fvm(["recover"]).expect(0);
                    std::thread::sleep(Duration::from_millis(10));
                }
            } else if end == "stop" {
                lab.fvm(["stop", "-t", "1", "s"]).expect(0);
            } else {
                lab.fvm(["kill", "s"]).expect(0);
            }
            assert!(lab.fvm(["list"]).expect(0).out.contains("stopped"), "{user:?} {end}");
            assert_eq!(groups(&ids), Vec::<PathBuf>::new(), "{user:?} {end}");
            lab.fvm(["start", "s"]).expect(0);
        }
        lab.fvm(["kill", "s"]).expect(0);
    }
}
