//! Limits of an ordinary user's VM by the user's systemd. On a machine without one a stand-in holds them
//! (`fvm-standin-systemd`), with real control groups; a real one: `testing/qemu/systemd.sh`.
//!
//! ```text
//!   this test (root) ── makes /sys/fs/cgroup/{memory,cpu,pids}/fvm-standin-..., the user's ──► stand-in, as the user, in them
//!   fvm, as the user ── XDG_RUNTIME_DIR/bus, a dbus-daemon ──► stand-in ──► init is in a group with the limits
//! ```
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, install, is_root};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const HOG: &str = "x = []\nwhile True: x.append(bytearray(1 << 20))";
const BOMB: &str = "i=0; while [ $i -lt 60 ]; do sleep 0.5 & i=$((i+1)); done; wait";

fn fits(test: &str) -> bool {
    if !is_root(test) {
        return false;
    }
    let lacking =
        ["memory", "cpu", "pids"].iter().find(|c| !Path::new("/sys/fs/cgroup").join(c).join("tasks").exists());
    if let Some(lacking) = lacking {
        eprintln!("skipped: {test}: the stand-in needs control groups of version 1: {lacking}");
    }
    let bus = Path::new("/usr/bin/dbus-daemon").exists();
    if !bus {
        eprintln!("skipped: {test}: dbus-daemon is not installed");
    }
    lacking.is_none() && bus
}

/// A stand-in that runs.
struct Standin {
    lab: Lab,
    process: Child,
    bus: Child,
    groups: Vec<PathBuf>,
}

impl Standin {
    fn new(controllers: &[&str]) -> Self {
        let lab = Lab::new(User::Ordinary);
        let run = lab.path("run");
        lab.sh("mkdir -m 700 run");
        let owner = std::fs::metadata(&run).unwrap();
        let owner = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        let own = lab.dir().file_name().unwrap().to_str().unwrap().replace("fvm-lab", "fvm-standin");
        let groups: Vec<PathBuf> = controllers.iter().map(|c| Path::new("/sys/fs/cgroup").join(c).join(&own)).collect();
        for group in &groups {
            std::fs::create_dir(group).unwrap();
            for path in [group.clone(), group.join("cgroup.procs"), group.join("tasks")] {
                chown(path, Some(owner.0), Some(owner.1)).unwrap();
            }
        }
        let bus = bus(&lab, &run);
        let program = lab.path("standin");
        install(Path::new(env!("CARGO_BIN_EXE_fvm-standin-systemd")), &program);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        // It enters its groups as root does it, before it becomes the user.
        let mut command = lab.command(&program);
        command.arg(&run).args(&groups).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        for group in &groups {
            std::fs::write(group.join("cgroup.procs"), process.id().to_string()).unwrap();
        }
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { lab, process, bus, groups }
    }

    fn fvm(&self, args: &[&str]) -> Ran {
        let mut command = self.lab.fvm_command(args);
        Ran::of(command.env("XDG_RUNTIME_DIR", self.lab.path("run")).output().unwrap())
    }

    fn run(&self, limits: &[&str], program: &[&str]) -> Ran {
        let first = ["run", "--rm", "--net", "none"];
        self.fvm(&[&first, limits, &["--"], program].concat())
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.lab.path("run/calls")).unwrap_or_default()
    }

    /// Scopes that are there now.
    fn scopes(&self) -> Vec<PathBuf> {
        let inside = self.groups.iter().flat_map(|group| std::fs::read_dir(group).unwrap().flatten());
        inside.map(|e| e.path()).filter(|path| path.is_dir()).collect()
    }

    #[track_caller]
    fn expect_no_scopes(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.scopes().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.scopes(), Vec::<PathBuf>::new());
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        // After a failure it may run, in these groups.
        let _none = self.fvm(&["delete", "--force", "m"]);
        for process in [&mut self.process, &mut self.bus] {
            let _gone = process.kill();
            let _gone = process.wait();
        }
        for group in &self.groups {
            for _ in 0..100 {
                if std::fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn bus(lab: &Lab, run: &Path) -> Child {
    let config = format!(
        "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN' \
         'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>\n<busconfig><type>session</type>\
         <listen>unix:path={}</listen><policy context='default'><allow user='*'/><allow own='*'/>\
         <allow send_destination='*'/><allow receive_sender='*'/></policy></busconfig>",
        run.join("bus").display()
    );
    std::fs::write(lab.path("bus.conf"), config).unwrap();
    let mut command = lab.command("dbus-daemon");
    command.arg("--nofork").arg("--print-address").arg("--config-file").arg(lab.path("bus.conf"));
    let mut daemon = command.stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    daemon
}

const ALL: [&str; 3] = ["memory", "cpu", "pids"];

#[test]
fn root_a_users_limits_are_held_by_a_stand_in_for_systemd_and_told_needs_cgroup_v1() {
    if !fits("root_a_users_limits_are_held_by_a_stand_in_for_systemd_and_told_needs_cgroup_v1") {
        return;
    }
    let standin = Standin::new(&ALL);
    let ran = standin.run(&["--memory", "64M"], &["python3", "-c", HOG]).expect(137);
    let told = "it reached its memory limit of 64M: 1 process was killed";
    assert!(ran.err.contains(told), "{}\n{}", ran.err, standin.calls());
    assert!(standin.calls().contains(".scope fail MemoryMax=67108864 MemorySwapMax=0\n"), "{}", standin.calls());
    standin.expect_no_scopes();

    let ran = standin.run(&["--pids", "20"], &["sh", "-c", BOMB]);
    assert!(ran.err.contains("it reached its limit of 20 processes"), "{}", ran.err);
    // Who is in the scope for the counters' sake is not counted.
    assert!(standin.calls().contains(".scope fail TasksMax=21\n"), "{}", standin.calls());
    standin.run(&["--memory", "64M"], &["echo", "fine"]).expect(0);
    standin.expect_no_scopes();

    let spin =
        "import os, time\nt = time.monotonic()\nwhile time.monotonic() - t < 2: pass\nprint(time.process_time())";
    let used = standin.run(&["--cpus", "0.2"], &["python3", "-c", spin]).expect(0).out;
    assert!(used.trim().parse::<f64>().unwrap() < 1.0, "{used}");

    // No limit, no scope.
    let before = standin.calls();
    standin.run(&[], &["true"]).expect(0);
    assert!(!standin.calls()[before.len()..].contains("start"));
    standin.expect_no_scopes();
}

#[test]
fn root_a_users_scope_goes_with_its_keeper_and_an_old_one_is_replaced_with_a_stand_in_for_systemd_needs_cgroup_v1() {
    let test = "root_a_users_scope_goes_with_its_keeper_and_an_old_one_is_replaced_with_a_stand_in_for_systemd_needs_cgroup_v1";
    if !fits(test) {
        return;
    }
    let standin = Standin::new(&ALL);
    standin.fvm(&["create", "m", "--net", "none", "--memory", "256M", "--pids", "40"]).expect(0);
    standin.fvm(&["start", "m"]).expect(0);
    let scopes = standin.scopes();
    assert_eq!(scopes.len(), 3, "{}", standin.calls());
    let name = scopes[0].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("fvm-") && name.ends_with(".scope"), "{name}");
    // Inside, it is the root of all.
    let seen = standin.fvm(&["exec", "m", "cat", "/proc/self/cgroup"]).expect(0).out;
    assert!(!seen.contains("fvm-"), "{seen}");
    let usage = standin.fvm(&["stats", "m", "--json"]).expect(0).out;
    assert!(usage.contains("\"exact\": true") || usage.contains("\"exact\":true"), "{usage}");

    // Other limits, while it runs.
    let json = standin.fvm(&["inspect", "m"]).expect(0).out;
    let number = |key: &str| -> i32 {
        let rest = json.split(&format!("\"{key}\": ")).nth(1).unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    standin.fvm(&["configure", "m", "--memory", "128M", "--cpus", "0.5", "--pids", "none"]).expect(0);
    assert!(standin.fvm(&["inspect", "m"]).expect(0).out.contains("\"memory_bytes\": 134217728"));
    let read = |controller: usize, file: &str| {
        let path = standin.groups[controller].join(&name).join(file);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let now = [read(0, "memory.limit_in_bytes"), read(1, "cpu.cfs_quota_us"), read(2, "pids.max")];
    assert_eq!(now, ["134217728", "50000", "max"]);

    let keeper = rustix::process::Pid::from_raw(number("keeper_pid")).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    standin.expect_no_scopes();

    // One that a stranger keeps alive under that name.
    let mut stranger = standin.lab.command("sleep").arg("1000").spawn().unwrap();
    let call = format!(
        "busctl --address=unix:path={} call org.freedesktop.systemd1 /org/freedesktop/systemd1 \
         org.freedesktop.systemd1.Manager StartTransientUnit 'ssa(sv)a(sa(sv))' {name} fail 1 PIDs au 1 {} 0",
        standin.lab.path("run/bus").display(),
        stranger.id()
    );
    let started = standin.lab.command("sh").args(["-c", &call]).stdout(Stdio::null()).status().unwrap();
    if started.success() {
        standin.fvm(&["start", "m"]).expect(0);
        assert!(standin.calls().contains(&format!("stop {name}\n")), "{}", standin.calls());
        assert!(stranger.wait().unwrap().code().is_none(), "it was killed");
        standin.fvm(&["stop", "m"]).expect(0);
    } else {
        eprintln!("not tried: an old scope (no busctl)");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    standin.expect_no_scopes();
}

#[test]
fn root_what_a_stand_in_for_systemd_cannot_limit_is_refused_needs_cgroup_v1() {
    if !fits("root_what_a_stand_in_for_systemd_cannot_limit_is_refused_needs_cgroup_v1") {
        return;
    }
    let standin = Standin::new(&["pids"]);
    let refused = standin.run(&["--memory", "64M"], &["echo", "ran"]).expect(125);
    assert!(refused.err.contains("has no controller 'memory'") && refused.err.contains("Delegate="), "{}", refused.err);
    assert!(refused.out.is_empty());
    let partial = standin.run(&["--memory", "64M", "--pids", "20", "--allow-partial"], &["sh", "-c", BOMB]);
    assert!(partial.err.contains("without a limit of memory"), "{}", partial.err);
    assert!(partial.err.contains("it reached its limit of 20 processes"), "{}", partial.err);
    let doctor = standin.fvm(&["doctor"]).out;
    assert!(doctor.contains("this user's systemd cannot limit cpu, memory"), "{doctor}");
    standin.expect_no_scopes();
}
