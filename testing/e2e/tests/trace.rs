//! The behaviour log, seen from the command line: what is in it, who did it, and that nothing in a VM gets at it.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Runs `body` as root and as an ordinary user.
fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

/// Waits up to ten seconds for `ready`.
#[track_caller]
fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The events that `fvm trace` shows with these options.
#[track_caller]
fn events(lab: &Lab, vm: &str, options: &[&str]) -> Vec<Value> {
    let args = ["trace", vm, "--json"].into_iter().chain(options.iter().copied());
    let out = lab.fvm(args).expect(0).out;
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'v>(event: &'v Value, field: &str) -> &'v str {
    event[field].as_str().or_else(|| event["args"][field].as_str()).unwrap_or_default()
}

/// Whether an event of `kind` was done to `path`, in the laboratory.
fn has(lab: &Lab, events: &[Value], kind: &str, path: &str) -> bool {
    let path = lab.path(path);
    events.iter().any(|e| text(e, "kind") == kind && text(e, "path") == path.to_str().unwrap())
}

fn in_order(events: &[Value]) -> bool {
    events.windows(2).all(|pair| pair[0]["seq"].as_u64() < pair[1]["seq"].as_u64())
}

#[test]
fn root_and_user_what_programs_do_is_written_down_with_who_started_them() {
    as_both("root_and_user_what_programs_do_is_written_down_with_who_started_them", |lab| {
        // The writer of `late` has forked twice, begun a session, and its makers are gone.
        let script = "setsid sh -c '(sleep 0.3; echo x > late; touch never; rm never) & exit 0' marked & wait; \
                      echo a > w; mv w r; ln -s r s; ln r h; mkdir d; chmod 700 d; rmdir d; rm r; cat late > /dev/null; \
                      python3 -c 'import socket; s = socket.socket(); s.connect_ex((\"127.0.0.1\", 9)); s.close(); \
                      s = socket.socket(); s.bind((\"127.0.0.1\", 0)); s.listen()'; sleep 0.6; exit 3";
        lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", script]).expect(3);
        let all = events(lab, "t", &[]);
        assert!(in_order(&all), "{all:?}");
        for (kind, path) in [
            ("open", "late"),
            ("open", "w"),
            ("rename", "w"),
            ("symlink", "s"),
            ("link", "r"),
            ("mkdir", "d"),
            ("chmod", "d"),
            ("rmdir", "d"),
            ("unlink", "r"),
        ] {
            assert!(has(lab, &all, kind, path), "{kind} {path}: {}", lab.fvm(["trace", "t"]).out);
        }
        let network = events(lab, "t", &["--kind", "network"]);
        let kinds: Vec<&str> = network.iter().map(|e| text(e, "kind")).collect();
        assert_eq!(kinds, ["connect", "bind", "listen"], "{network:?}");
        assert_eq!((text(&network[0], "address"), network[0]["args"]["port"].as_u64()), ("127.0.0.1", Some(9)));
        // All that came of the one command, and nothing else.
        let marked = events(lab, "t", &["--process", "sh -c * marked", "--kind", "file"]);
        let marked: Vec<&Value> = marked.iter().filter(|e| text(e, "kind") != "fork").collect();
        assert!(
            !marked.is_empty()
                && marked.iter().all(|e| {
                    let path = text(e, "path");
                    path.ends_with("/late") || path.ends_with("/never")
                }),
            "{marked:?}\n{}",
            lab.fvm(["trace", "t", "--tree"]).out
        );
        let tree = lab.fvm(["trace", "t", "--tree"]).expect(0).out;
        assert!(tree.lines().filter(|line| !line.starts_with(' ')).count() == 1, "one root: {tree}");
        assert!(lab.fvm(["trace", "t"]).expect(0).err.is_empty(), "it is whole");
        let ecs = lab.fvm(["trace", "t", "--ecs", "--kind", "rename"]).expect(0).out;
        let ecs: Value = serde_json::from_str(ecs.lines().next().unwrap()).unwrap();
        assert_eq!(ecs["file"]["target_path"].as_str(), lab.path("r").to_str());
        lab.fvm(["trace", "t", "--kind", "no-such"]).expect(2);
        lab.fvm(["create", "fresh"]).expect(0);
        assert!(lab.fvm(["trace", "fresh"]).expect(1).err.contains("no behaviour log"));
    });
}

#[test]
fn root_and_user_the_longest_path_and_odd_names_are_whole() {
    as_both("root_and_user_the_longest_path_and_odd_names_are_whole", |lab| {
        let script = "import os\npath = os.getcwd()\n\
            while len(path) < 4095 - 256:\n    path += '/' + 'n' * 200\n    os.mkdir(path)\n\
            path += '/' + 'x' * (4095 - len(path) - 1)\nassert len(path) == 4095\nopen(path, 'w').close()\n\
            open('a\\nb\\x1b[2J', 'w').close()\nopen(b'\\xff', 'w').close()\n\
            os.symlink('.', 'loop')\nopen('loop/../' + os.path.basename(os.getcwd()) + '/loop/real', 'w').close()\n";
        std::fs::write(lab.path("long.py"), script).unwrap();
        lab.fvm(["run", "--keep", "--name", "t", "--", "python3", "long.py"]).expect(0);
        let opened = events(lab, "t", &["--kind", "open"]);
        assert!(opened.iter().any(|e| text(e, "path").len() == 4095 && !e["args"]["cut"].as_bool().unwrap_or(false)));
        assert!(has(lab, &opened, "open", "a\nb\x1b[2J") && has(lab, &opened, "open", "real"), "{opened:?}");
        let hex: String = lab.path("").to_str().unwrap().bytes().chain([0xff]).map(|b| format!("{b:02x}")).collect();
        assert!(opened.iter().any(|e| e["args"]["path"]["hex"].as_str() == Some(hex.as_str())), "{hex}");
        let shown = lab.fvm(["trace", "t"]).expect(0).out;
        assert!(!shown.contains('\x1b') && shown.contains("a\\nb\\u{1b}[2J"), "{shown}");
    });
}

#[test]
fn root_and_user_a_flood_is_bounded_and_what_is_missing_is_said() {
    as_both("root_and_user_a_flood_is_bounded_and_what_is_missing_is_said", |lab| {
        let script = "import os\npath = os.getcwd() + '/' + '/'.join(['d' * 250] * 15)\nos.makedirs(path)\n\
            for n in range(10000):\n    os.close(os.open(f'{path}/{n}', os.O_CREAT | os.O_WRONLY))\n    os.unlink(f'{path}/{n}')\n\
            open('last', 'w').close()\n";
        std::fs::write(lab.path("flood.py"), script).unwrap();
        lab.fvm(["run", "--keep", "--name", "t", "--", "python3", "flood.py"]).expect(0);
        let id = serde_json::from_str::<Value>(&lab.fvm(["inspect", "t", "--json"]).expect(0).out).unwrap();
        let dir = lab.home().join("vms").join(id["id"].as_str().unwrap()).join("events");
        let size: u64 = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(size > 32 << 20 && size < 70 << 20, "{size}");
        let shown = lab.fvm(["trace", "t", "--kind", "exec"]).expect(0);
        assert!(shown.out.contains("events are missing") && shown.err.contains("not whole"), "{}", shown.err);
        let all = events(lab, "t", &[]);
        assert!(in_order(&all) && has(lab, &all, "open", "last"));
        let lost: u64 =
            all.iter().filter(|e| text(e, "kind") == "lost").filter_map(|e| e["args"]["count"].as_u64()).sum();
        let kept = all.iter().filter(|e| text(e, "kind") != "lost").count() as u64;
        assert_eq!(kept + lost, all.last().unwrap()["seq"].as_u64().unwrap());
        // What was made before the loss names nobody.
        let status = lab.fvm(["status", "t", "--by", "process"]).expect(0);
        assert!(status.out.contains("origin unknown") && status.out.contains("flood.py"), "{}", status.out);
    });
}

#[test]
fn root_and_user_without_a_tracer_nothing_hangs_and_the_log_says_that_it_was_cut() {
    as_both("root_and_user_without_a_tracer_nothing_hangs_and_the_log_says_that_it_was_cut", |lab| {
        let script = "while :; do echo x > f; mv f g; done";
        lab.fvm(["run", "--detach", "--name", "t", "--", "sh", "-c", script]).expect(0);
        wait_for("its events", || lab.fvm(["trace", "t", "--kind", "rename"]).out.lines().count() > 10);
        let (keeper, init) = (lab.number("t", "keeper_pid").unwrap(), lab.number("t", "init_pid").unwrap());
        let pid = |pid| rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid(keeper), rustix::process::Signal::KILL).unwrap();
        wait_for("its end", || rustix::process::test_kill_process(pid(init)).is_err());
        let cut = lab.fvm(["trace", "t"]).expect(0);
        assert!(cut.err.contains("a run was cut off"), "{}", cut.err);
        lab.fvm(["run", "--name", "t", "--", "sh", "-c", "echo y > after"]).expect(0);
        let all = events(lab, "t", &[]);
        assert!(in_order(&all) && has(lab, &all, "open", "after"), "{all:?}");
        let status = lab.fvm(["status", "t", "--by", "process"]).expect(0);
        let (known, unknown) = status.out.split_once("origin unknown").unwrap();
        assert!(known.contains("/after") && unknown.contains("/g"), "{}", status.out);
        assert!(status.err.contains("a run was cut off"), "{}", status.err);
    });
}

#[test]
fn root_and_user_nothing_in_a_vm_reaches_its_log() {
    as_both("root_and_user_nothing_in_a_vm_reaches_its_log", |lab| {
        lab.fvm(["create", "t"]).expect(0);
        lab.fvm(["start", "t"]).expect(0);
        let script = "echo x > seen; for f in $(ls /proc/1/fd 2>/dev/null); do readlink /proc/1/fd/$f; done; \
                      ls -A home/vms 2>&1; find . -name '0000000?.log' -path '*events*' 2>/dev/null; \
                      rm -rf home 2>/dev/null; ls /proc/*/fd 2>/dev/null | grep -c seccomp; true";
        let said = lab.fvm(["exec", "t", "sh", "-c", script]).expect(0).out;
        assert!(!said.contains(".log") && !said.contains("events"), "{said}");
        let tracer =
            lab.fvm(["exec", "t", "sh", "-c", "cat /proc/[0-9]*/comm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
        assert!(!tracer.expect(0).out.contains("tracer"));
        lab.fvm(["stop", "t"]).expect(0);
        assert!(has(lab, &events(lab, "t", &["--kind", "open"]), "open", "seen"));
        let whole = lab.fvm(["trace", "t"]).expect(0);
        assert!(whole.err.is_empty() && whole.out.contains("the log ends"), "{}", whole.err);
    });
}

#[test]
fn root_and_user_changes_are_grouped_and_committed_by_who_made_them() {
    as_both("root_and_user_changes_are_grouped_and_committed_by_who_made_them", |lab| {
        lab.sh("mkdir conf; echo old > conf/old");
        std::fs::write(
            lab.path("hook.py"),
            "import os\nos.makedirs('auto/start')\nopen('auto/start/evil', 'w').write('x')\nos.remove('conf/old')\n",
        )
        .unwrap();
        std::fs::write(lab.path("install.sh"), "mkdir -p pkg/a; echo 1 > pkg/a/index; python3 hook.py; mkdir -p pkg/a auto; echo 2 > pkg/.tmp; mv pkg/.tmp pkg/b\n").unwrap();
        lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", "sh install.sh --quiet; echo own > own"]).expect(0);
        let status = lab.fvm(["status", "t", "--by", "process"]).expect(0);
        assert!(status.err.is_empty() && !status.out.contains("origin unknown"), "{}", status.out);
        let group = |word: &str| {
            let mut lines = status.out.lines().skip_while(|l| !l.starts_with(word)).skip(1);
            lines
                .by_ref()
                .take_while(|l| l.starts_with(' '))
                .map(|l| l.trim().rsplit('/').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        // Directories are shown with a slash at their end.
        assert_eq!(group("python3 hook.py").len(), 4, "{}", status.out);
        assert!(
            group("sh -c").contains(&"own".to_owned()) && status.out.contains("← sh install.sh --quiet"),
            "{}",
            status.out
        );
        let json: Value = serde_json::from_str(&lab.fvm(["status", "t", "--json"]).expect(0).out).unwrap();
        let change = |name: &str| {
            json["changes"]
                .as_array()
                .unwrap()
                .iter()
                .find(|c| c["path"].as_str().unwrap().ends_with(name))
                .unwrap()
                .clone()
        };
        let origin = &change("/evil")["origin"];
        assert_eq!((&origin["program"]["argv"][1], &origin["kind"]), (&"hook.py".into(), &"open".into()), "{origin}");
        assert_eq!(origin["ancestors"].as_array().unwrap().len(), 2, "{origin}");
        assert_eq!(change("/b")["origin"]["kind"], "rename");
        assert_eq!(change("/conf/old")["origin"]["kind"], "unlink");
        // What the hook made, and its way there; not what it was started by.
        lab.fvm(["commit", "t", "--keep", "--from", "hook.py"]).expect(0);
        assert_eq!(lab.sh("ls auto/start conf; ls -d pkg own 2>/dev/null || true"), "auto/start:\nevil\n\nconf:\n");
        lab.fvm(["undo", "1"]).expect(0);
        lab.fvm(["commit", "t", "--keep", "--from", "install.sh", "--except", "auto", "--except", "conf"]).expect(0);
        assert_eq!(lab.sh("cat pkg/a/index pkg/b; ls -d auto own 2>/dev/null || true; ls conf"), "1\n2\nold\n");
        let nobody = lab.fvm(["commit", "t", "--from", "apt-get"]).expect(1);
        assert!(nobody.err.contains("no change is known to be made by 'apt-get'"), "{}", nobody.err);
    });
}

#[test]
fn root_and_user_a_run_without_a_log_leaves_no_invented_origins() {
    as_both("root_and_user_a_run_without_a_log_leaves_no_invented_origins", |lab| {
        lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", "echo 1 > a"]).expect(0);
        lab.fvm(["configure", "t", "--trace", "off"]).expect(0);
        lab.fvm(["run", "--name", "t", "--", "sh", "-c", "echo 2 > a"]).expect(0);
        let status = lab.fvm(["status", "t", "--by", "process"]).expect(0);
        assert!(status.out.contains("origin unknown") && !status.out.contains("sh -c"), "{}", status.out);
        assert!(status.err.contains("a run without a log"), "{}", status.err);
        let off =
            lab.fvm(["run", "--keep", "--name", "off", "--trace", "off", "--", "sh", "-c", "echo 1 > b"]).expect(0);
        assert!(!off.err.contains("note"), "{}", off.err);
        let status = lab.fvm(["status", "off", "--by", "process"]).expect(0);
        assert!(status.out.contains("origin unknown") && status.err.contains("a run without a log"), "{}", status.err);
        assert!(!lab.fvm(["explain", "off"]).expect(0).out.contains("write down"));
        // A log that begins later does not look whole.
        lab.fvm(["configure", "off", "--trace", "basic"]).expect(0);
        lab.fvm(["run", "--name", "off", "--", "true"]).expect(0);
        let analysed = lab.fvm(["analyze", "off"]).expect(6);
        assert!(analysed.out.contains("a run without a log"), "{}", analysed.out);
        assert!(lab.fvm(["explain"]).expect(0).out.contains("write down what programs do (basic)"));
    });
}

#[test]
fn root_and_user_at_programs_programs_and_the_network_are_written_down_and_files_are_not() {
    as_both("root_and_user_at_programs_programs_and_the_network_are_written_down_and_files_are_not", |lab| {
        std::fs::write(lab.path("old"), "old").unwrap();
        let script = "echo a > w; mv w r; ln r h; ln -s r s; mkdir d; chmod 700 d; rmdir d; rm s old; \
                      python3 -c 'import socket; s = socket.socket(); s.connect_ex((\"127.0.0.1\", 9)); s.close(); \
                      s = socket.socket(); s.bind((\"127.0.0.1\", 0)); s.listen()'; cat r h";
        let ran = lab.fvm(["run", "--keep", "--name", "p", "--trace", "programs", "--", "sh", "-c", script]).expect(0);
        assert_eq!(ran.out, "a\na\n");
        let all = events(lab, "p", &[]);
        assert!(in_order(&all), "{all:?}");
        assert_eq!((text(&all[0], "kind"), text(&all[0], "level")), ("start", "programs"));
        let kinds: Vec<&str> = all.iter().map(|e| text(e, "kind")).collect();
        assert!(
            !kinds.iter().any(|kind| ["open", "rename", "link", "unlink", "mkdir", "chmod"].contains(kind)),
            "{kinds:?}"
        );
        assert!(events(lab, "p", &["--kind", "file"]).is_empty());
        let network: Vec<Value> = events(lab, "p", &["--kind", "network"]);
        let network: Vec<&str> = network.iter().map(|e| text(e, "kind")).collect();
        assert_eq!(network, ["connect", "bind", "listen"]);
        let ran: Vec<&str> = all.iter().filter(|e| text(e, "phase") == "done").map(|e| text(e, "path")).collect();
        for program in ["/mv", "/ln", "/mkdir", "/rm", "/cat"] {
            assert!(ran.iter().any(|path| path.ends_with(program)), "{program}: {ran:?}");
        }
        let tree = lab.fvm(["trace", "p", "--tree"]).expect(0).out;
        assert!(tree.lines().filter(|line| !line.starts_with(' ')).count() == 1, "one root: {tree}");
        // The layers tell what became of files; who did it nobody says, and nobody says that nothing was done.
        let shown = lab.fvm(["trace", "p"]).expect(0);
        assert!(
            shown.err.contains("no changes of files (level programs)") && !shown.err.contains("not whole"),
            "{}",
            shown.err
        );
        let status = lab.fvm(["status", "p", "--by", "process"]).expect(0);
        assert!(status.out.contains("origin unknown") && status.out.contains("/old") && !status.out.contains("sh -c"));
        assert!(status.err.contains("no changes of files (level programs)"), "{}", status.err);
        let analysed = lab.fvm(["analyze", "p"]).expect(6);
        assert!(
            analysed.out.contains("unknown: 0 findings") && analysed.out.contains("(level programs)"),
            "{}",
            analysed.out
        );
        assert!(
            lab.fvm(["commit", "p", "--from", "rm s old"]).expect(1).err.contains("no change is known to be made by")
        );
        // Another run sees them; what the first did nobody knows.
        lab.fvm(["configure", "p", "--trace", "basic"]).expect(0);
        lab.fvm(["run", "--name", "p", "--", "touch", "seen"]).expect(0);
        let status = lab.fvm(["status", "p", "--by", "process"]).expect(0);
        assert!(status.out.contains("touch seen") && status.out.contains("origin unknown"), "{}", status.out);
        assert!(status.err.contains("no changes of files (level programs)"), "{}", status.err);
        assert!(lab.fvm(["analyze", "p"]).expect(6).out.contains("(level programs)"));
        assert!(
            lab.fvm(["explain", "--trace", "programs"])
                .expect(0)
                .out
                .contains("write down what programs do (programs)")
        );
    });
}

#[test]
fn root_and_user_git_is_told_of_hard_links_at_every_level() {
    as_both("root_and_user_git_is_told_of_hard_links_at_every_level", |lab| {
        // Only where links change inode numbers, and only who looks at them: by its name.
        let is_told = lab.user() == User::Ordinary;
        lab.sh("echo x > file");
        let script = "cp \"$(command -v ln)\" git; ln file other || exit 9; ./git file by-git; echo $?";
        for level in ["off", "programs", "basic", "full"] {
            let ran = lab.fvm(["run", "--rm", "--trace", level, "--", "sh", "-c", script]).expect(0);
            assert_eq!(ran.out.trim() != "0", is_told, "{level}: {} {}", ran.out, ran.err);
        }
    });
}

#[test]
fn root_and_user_suspended_restarted_and_copied_vms_keep_their_log() {
    as_both("root_and_user_suspended_restarted_and_copied_vms_keep_their_log", |lab| {
        let script = "n=0; while [ ! -e stop ]; do n=$((n+1)); echo $n > f.new; mv f.new f; done; echo done > ended";
        lab.fvm(["run", "--detach", "--name", "t", "--", "sh", "-c", script]).expect(0);
        let renames = || events(lab, "t", &["--kind", "rename"]).len();
        wait_for("its events", || renames() > 10);
        lab.fvm(["suspend", "t"]).expect(0);
        // What happened before may be on its way still.
        wait_for("silence", || {
            let before = renames();
            std::thread::sleep(Duration::from_millis(300));
            renames() == before
        });
        let held = renames();
        lab.fvm(["resume", "t"]).expect(0);
        wait_for("more events", || renames() > held);
        let follow = lab
            .fvm_command(["trace", "t", "--follow", "--kind", "unlink"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        lab.fvm(["exec", "t", "sh", "-c", "echo x > of-exec; rm of-exec"]).expect(0);
        // The VM may end before this does.
        lab.fvm(["exec", "t", "touch", "stop"]);
        let followed = follow.wait_with_output().unwrap();
        assert!(
            String::from_utf8_lossy(&followed.stdout).contains("/of-exec"),
            "it ends with the VM, and showed what came"
        );
        let whole = lab.fvm(["trace", "t"]).expect(0);
        assert!(whole.err.is_empty(), "{}", whole.err);
        assert!(has(lab, &events(lab, "t", &["--process", "touch stop"]), "open", "stop"));
        lab.fvm(["copy", "t", "c"]).expect(0);
        let status = lab.fvm(["status", "c", "--by", "process"]).expect(0);
        assert!(!status.out.contains("origin unknown") && status.out.contains("touch stop"), "{}", status.out);
        let id = |vm: &str| events(lab, vm, &["--kind", "exec"])[0]["vm"].as_str().unwrap().to_owned();
        assert_ne!(id("t"), id("c"));
    });
}

#[test]
fn root_and_user_all_is_written_down_what_reaches_for_more_than_files() {
    as_both("root_and_user_all_is_written_down_what_reaches_for_more_than_files", |lab| {
        let script = "import ctypes, mmap, os, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n\
            def call(n, *a):\n    r = libc.syscall(n, *a)\n    return ctypes.get_errno() if r < 0 else 0\n\
            print(call(321, 0, 0, 0), call(437, -100, b'/', 0, 24), call(425, 1, 0), call(250, 0, 0))\n\
            os.memfd_create('hidden')\nmmap.mmap(-1, 4096, prot=7)\nos.kill(os.getppid(), 0)\nos.kill(os.getpid(), 0)\n\
            os.utime('.')\nfile = open('by-number', 'w')\nos.utime(file.fileno())\nprint(call(272, 0x20000))\n";
        std::fs::write(lab.path("reach.py"), script).unwrap();
        let said =
            lab.fvm(["run", "--keep", "--name", "t", "--trace", "full", "--", "sh", "-c", "python3 reach.py; true"]);
        let said = said.expect(0).out;
        let (perm, nosys) = (libc_errno("EPERM"), libc_errno("ENOSYS"));
        assert!(said.starts_with(&format!("{perm} {nosys} {nosys} {nosys}\n")), "{said}");
        let all = events(lab, "t", &["--kind", "kernel", "--process", "reach.py"]);
        let refused: Vec<&str> = all.iter().filter(|e| text(e, "kind") == "refused").map(|e| text(e, "name")).collect();
        assert_eq!(refused, ["bpf", "openat2", "io_uring_setup", "keyctl"], "{all:?}");
        for kind in ["memfd", "protect", "unshare"] {
            assert!(all.iter().any(|e| text(e, "kind") == kind), "{kind}: {all:?}");
        }
        let kills = all.iter().filter(|e| text(e, "kind") == "kill").count();
        assert_eq!(kills, 1, "not the one to itself: {all:?}");
        assert!(
            ["", "by-number"].iter().all(|name| {
                let path = lab.dir().join(name).display().to_string();
                let is_it = |e: &Value| text(e, "path") == path.trim_end_matches('/') && e["args"]["cut"].is_null();
                events(lab, "t", &["--kind", "utime"]).iter().any(is_it)
            }),
            "the directory itself"
        );
        let exec = events(lab, "t", &["--kind", "exec", "--process", "reach.py"]);
        let done = exec.iter().find(|e| text(e, "phase") == "done").unwrap();
        assert_eq!((text(done, "streams").len(), text(done, "trust")), (3, "kernel"), "{done}");
        // Without the log the same calls are refused the same way.
        let off = lab.fvm(["run", "--rm", "--trace", "off", "--", "python3", "reach.py"]).out;
        assert!(off.starts_with(&format!("{perm} ")), "{off}");
    });
}

fn libc_errno(name: &str) -> i32 {
    match name {
        "EPERM" => 1,
        _ => 38,
    }
}

#[test]
fn root_and_user_what_a_service_does_is_its_own() {
    as_both("root_and_user_what_a_service_does_is_its_own", |lab| {
        std::fs::create_dir(lab.path("units")).unwrap();
        let unit = format!(
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo x > {}/by-service'\n",
            lab.dir().display()
        );
        std::fs::write(lab.path("units/writer.service"), unit).unwrap();
        lab.fvm(["create", "t"]).expect(0);
        lab.fvm(["start", "t"]).expect(0);
        lab.fvm(["service", "start", "t", "writer", "--unit-dir", "units"]).expect(0);
        lab.fvm(["stop", "t"]).expect(0);
        let status = lab.fvm(["status", "t", "--by", "process"]).expect(0).out;
        let under = status.lines().skip_while(|l| !l.contains("by-service)") && !l.contains("sh -c echo x")).nth(1);
        assert!(under.is_some_and(|line| line.ends_with("/by-service")), "{status}");
    });
}
