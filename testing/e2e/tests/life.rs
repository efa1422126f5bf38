//! A VM's life from the command line: exit codes, streams, states, bad input, sudden death.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
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

#[test]
fn root_and_user_the_exit_code_is_the_programs_own_or_says_what_failed() {
    as_both("root_and_user_the_exit_code_is_the_programs_own_or_says_what_failed", |lab| {
        lab.fvm(["run", "--rm", "--", "sh", "-c", "exit 7"]).expect(7);
        lab.fvm(["run", "--rm", "--", "sh", "-c", "kill -9 $$"]).expect(137);
        let missing = lab.fvm(["run", "--rm", "--", "no-such-program"]).expect(127);
        assert!(
            missing.err.contains("cannot execute 'no-such-program'") && missing.err.contains("hint:"),
            "{}",
            missing.err
        );
        lab.fvm(["run", "--rm", "--", "/etc/passwd"]).expect(126);
        lab.fvm(["run", "--name", "bad/name", "--", "true"]).expect(2);
        lab.fvm(["exec", "nobody", "true"]).expect(125);
        lab.fvm(["status", "nobody"]).expect(4);
        lab.fvm(["no-such-command"]).expect(2);
        lab.fvm(["delete"]).expect(2);
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "nothing is left of any of them");
    });
}

#[test]
fn root_and_user_streams_pass_untouched_and_talk_goes_to_stderr() {
    as_both("root_and_user_streams_pass_untouched_and_talk_goes_to_stderr", |lab| {
        let mut command =
            lab.fvm_command(["run", "--keep", "--name", "s", "--", "sh", "-c", "cat; echo err >&2; echo x > new"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let input: Vec<u8> = (0..300_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut stdin = child.stdin.take().unwrap();
        // Beside the reading: a pipe holds less than this.
        let writer = std::thread::spawn({
            let input = input.clone();
            move || stdin.write_all(&input)
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.stdout == input, "{} bytes came back", output.stdout.len());
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.starts_with("err\n"), "{err}");
        assert!(err.contains("s: 1 added, 0 modified, 0 deleted, 0 renamed") && err.contains("fvm commit s"), "{err}");
    });
}

#[test]
fn root_and_user_programs_of_a_vm_reach_each_other_by_its_loopback_interface_from_the_start() {
    as_both("root_and_user_programs_of_a_vm_reach_each_other_by_its_loopback_interface_from_the_start", |lab| {
        let program = "\
import socket
for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
    listener = socket.socket(family); listener.bind((address, 0)); listener.listen()
    client = socket.create_connection(listener.getsockname()[:2], 5); client.sendall(b'hi')
    print(address, listener.accept()[0].recv(2).decode())
print([name for _, name in socket.if_nameindex()])
";
        // Whether builder or init sets it up differs from one to the next.
        for round in 0..20 {
            let ran = lab.fvm(["run", "--rm", "--net", "none", "--", "python3", "-c", program]).expect(0);
            assert_eq!(ran.out, "127.0.0.1 hi\n::1 hi\n['lo']\n", "round {round}");
        }
        lab.fvm(["pool", "create", "p", "--size", "2", "--net", "none"]).expect(0);
        let ran = lab.fvm(["run", "--pool", "p", "--", "python3", "-c", program]).expect(0);
        assert_eq!(ran.out, "127.0.0.1 hi\n::1 hi\n['lo']\n");
        lab.fvm(["pool", "delete", "p"]).expect(0);
    });
}

#[test]
fn root_and_user_the_first_program_is_as_one_that_is_started_later() {
    // Its process may be there before its VM is, and what it was then must not be seen.
    let script = "umask; pwd; env | sort; readlink /proc/self/fd/0 /proc/self/root; ls /proc/self/fd; ulimit -a; \
        grep 'Sig[BIC]\\|Cap\\|NoNew\\|Secc\\|Groups\\|^[UG]id\\|Umask' /proc/self/status; \
        ls -l /proc/self/ns | sed 's/.*-> //'; cat /proc/self/oom_score_adj /proc/self/cgroup /proc/self/mountinfo; \
        grep allowed /proc/self/status; cut -d' ' -f2,18,19,40,41 /proc/self/stat; cut -d' ' -f4 /proc/$PPID/stat; ls -a /; \
        python3 -c 'import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 0))'";
    as_both("root_and_user_the_first_program_is_as_one_that_is_started_later", |lab| {
        std::fs::write(lab.path("open.toml"), "[network]\nmode = \"none\"\n[kernel]\nfilter = false\n").unwrap();
        for options in [&["--net", "none"][..], &["--net", "host"], &[], &["--policy", "./open.toml"]] {
            let first = format!("({script}) < /dev/null > first 2>&1; echo ready; read line");
            let program = ["--", "sh", "-c", &first];
            // A VM with a log has one that is started as any other.
            let line = ["run", "--keep", "--name", "a", "--trace", "off"].iter().chain(options).chain(&program);
            let mut running = lab.fvm_command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut said = [0; 6];
            std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut said).unwrap();
            assert_eq!(&said, b"ready\n");
            let later = format!("({script}) < /dev/null > later 2>&1; cat first; echo ===; cat later");
            let ran = lab.fvm(["exec", "a", "--", "sh", "-c", &later]).expect(0);
            let (first, later) = ran.out.split_once("===\n").unwrap();
            assert_eq!(first, later, "{options:?}");
            let is_open = options.contains(&"--policy");
            // An ordinary user's links are watched by a filter all the same.
            let is_filtered = first.contains("Seccomp:\t2");
            assert!(is_filtered != (is_open && lab.user() == User::Root), "{first}");
            assert!(first.contains("Seccomp:\t") && first.contains("/dev/null"), "{first}");
            running.stdin.take().unwrap().write_all(b"done\n").unwrap();
            assert!(running.wait().unwrap().success());
            lab.fvm(["delete", "a"]).expect(0);
        }
    });
}

#[test]
fn root_what_cleans_up_behind_the_answer_and_is_killed_leaves_it_to_the_next_command() {
    if !is_root("root_what_cleans_up_behind_the_answer_and_is_killed_leaves_it_to_the_next_command") {
        return;
    }
    let lab = Lab::new(User::Root);
    let buried = || -> Vec<String> {
        let names = std::fs::read_dir(lab.home().join("vms")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_prefix(".trash-").map(str::to_owned)).filter(|id| id != "lock").collect()
    };
    // With the first process of a process namespace all others of it end.
    let mut line = lab.command("unshare");
    line.args(["-pf", "--mount-proc"]).arg(fvm_kit::binary()).arg("--home").arg(lab.home());
    Ran::of(line.args(["run", "--rm", "--", "true"]).output().unwrap()).expect(0);
    let ids = buried();
    let socket = Path::new("/run/fvm").join(format!("{}.sock", ids[0]));
    assert!(ids.len() == 1 && socket.exists(), "nobody has cleaned up: {ids:?}");
    lab.fvm(["list"]).expect(0);
    wait_for("the trash to be emptied", || buried().is_empty());
    assert!(!socket.exists());
}

#[test]
fn root_and_user_a_kept_vm_is_run_in_again_reviewed_committed_and_deleted() {
    as_both("root_and_user_a_kept_vm_is_run_in_again_reviewed_committed_and_deleted", |lab| {
        lab.sh("mkdir d; echo one > d/a; echo two > d/b; chmod 640 d/b");
        lab.fvm(["run", "--keep", "--name", "k", "--", "sh", "-c", "echo more >> d/a; rm d/b; echo $FVM > name"])
            .expect(0);
        assert_eq!(lab.sh("cat d/a d/b; ls"), "one\ntwo\nd\nhome\n", "the host sees nothing of it");
        assert_eq!(lab.fvm(["run", "--name", "k", "--", "cat", "name", "d/a"]).expect(0).out, "k\none\nmore\n");
        let diff = lab.fvm(["diff", "k", "d/a"]).expect(0).out;
        assert!(diff.contains("@@ -1 +1,2 @@\n one\n+more"), "{diff}");
        let status = lab.fvm(["--json", "status", "k"]).expect(0).out;
        assert!(status.contains("\"added\": 1") && status.contains("\"deleted\": 1"), "{status}");
        lab.fvm(["discard", "k", "d/b"]).expect(0);
        lab.fvm(["commit", "k", "d"]).expect(0);
        assert_eq!(lab.sh("cat d/a d/b; ls"), "one\nmore\ntwo\nd\nhome\n", "only what was chosen");
        lab.fvm(["commit", "k"]).expect(0);
        assert_eq!(lab.sh("cat name"), "k\n");
        lab.fvm(["delete", "k"]).expect(0);
        lab.fvm(["inspect", "k"]).expect(4);
    });
}

#[test]
fn root_what_the_host_deleted_of_a_moved_file_is_told_after_a_part_was_discarded_or_committed_too() {
    if !is_root("root_what_the_host_deleted_of_a_moved_file_is_told_after_a_part_was_discarded_or_committed_too") {
        return;
    }
    let rows: [(&str, &[&str]); 2] = [
        ("mkdir new; mv d e; mv e/f new/f", &["discard", "k", "e"]),
        ("mkdir new; mv d/f new/f; echo vm > d/f; chmod 700 d", &["commit", "k", "d"]),
    ];
    for (vm, part) in rows {
        let lab = Lab::new(User::Root);
        lab.sh("mkdir d; echo host > d/f");
        lab.fvm(["run", "--keep", "--name", "k", "--", "sh", "-c", vm]).expect(0);
        lab.sh("rm d/f");
        let told =
            |name: &str| lab.fvm(["status", name]).expect(0).out.contains("/new/f  ! conflict: deleted on the host");
        assert!(told("k"), "{vm}");
        lab.fvm(part).expect(0);
        assert!(told("k"), "{vm}: {part:?}");
        lab.fvm(["copy", "k", "again"]).expect(0);
        assert!(told("again"), "{vm}: {part:?}, copied");
    }
}

#[test]
fn root_and_user_a_file_edited_on_both_sides_is_a_conflict_and_nothing_is_written() {
    as_both("root_and_user_a_file_edited_on_both_sides_is_a_conflict_and_nothing_is_written", |lab| {
        lab.sh("echo base > f; echo base > g");
        std::thread::sleep(Duration::from_millis(30));
        lab.fvm(["run", "--keep", "--name", "c", "--", "sh", "-c", "echo vm > f; echo vm > g"]).expect(0);
        std::thread::sleep(Duration::from_millis(30));
        lab.sh("echo host > f");
        let refused = lab.fvm(["commit", "c"]).expect(3);
        assert!(refused.err.contains("/f: ") && !refused.err.contains("/g: "), "{}", refused.err);
        assert_eq!(lab.sh("cat f g"), "host\nbase\n");
        lab.fvm(["commit", "c", "--on-conflict", "skip"]).expect(0);
        assert_eq!(lab.sh("cat f g"), "host\nvm\n");
        lab.fvm(["commit", "c", "--on-conflict", "vm"]).expect(0);
        assert_eq!(lab.sh("cat f g"), "vm\nvm\n");
    });
}

#[test]
fn root_and_user_vms_do_not_see_each_other_and_twenty_run_at_once() {
    as_both("root_and_user_vms_do_not_see_each_other_and_twenty_run_at_once", |lab| {
        lab.sh("echo host > shared");
        let script = |n: u32| {
            format!(
                "echo vm{n} > shared; sleep 0.5; test \"$(cat shared)\" = vm{n} && test \"$(ps ax -o comm= | grep -c '^sleep$')\" = 0"
            )
        };
        let start = |n: u32| {
            let mut run = lab.fvm_command(["run", "--rm", "--", "sh", "-c", &script(n)]);
            run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = (0..20).map(start).collect();
        for (n, child) in children.into_iter().enumerate() {
            let ran = Ran::of(child.wait_with_output().unwrap());
            assert_eq!(ran.code, 0, "{:?}, VM {n}: {ran:?}", lab.user());
        }
        assert_eq!(lab.sh("cat shared"), "host\n");
    });
}

#[test]
fn root_and_user_start_exec_ps_stop_and_detached_output() {
    as_both("root_and_user_start_exec_ps_stop_and_detached_output", |lab| {
        lab.fvm(["create", "v"]).expect(0);
        lab.fvm(["exec", "v", "true"]).expect(125);
        lab.fvm(["start", "v"]).expect(0);
        let taken = lab.fvm(["start", "v"]).expect(1);
        assert!(taken.err.contains("'v' is running"), "{}", taken.err);
        assert_eq!(lab.fvm(["exec", "v", "sh", "-c", "echo hi; exit 3"]).expect(3).out, "hi\n");
        let mut sleeper = lab.spawn(["exec", "v", "sleep", "987"]);
        wait_for("the process list", || lab.fvm(["ps", "v"]).out.contains("sleep 987"));
        for command in ["commit", "discard", "delete"] {
            let refused = lab.fvm([command, "v"]).expect(1);
            assert!(refused.err.contains("fvm stop v"), "{}", refused.err);
        }
        lab.fvm(["stop", "v"]).expect(0);
        assert!(!sleeper.wait().unwrap().success());
        assert!(lab.fvm(["list"]).out.contains("stopped"));
        lab.fvm(["run", "--detach", "--name", "d", "--", "sh", "-c", "echo out; echo err >&2; sleep 600"]).expect(0);
        wait_for("the log", || lab.fvm(["logs", "d"]).out == "out\nerr\n");
        lab.fvm(["kill", "d"]).expect(0);
        assert_eq!(lab.fvm(["logs", "d"]).out, "out\nerr\n", "the log outlives the VM's run");
    });
}

#[test]
fn root_and_user_sudden_death_of_client_keeper_or_init_leaves_nothing_and_loses_nothing() {
    as_both("root_and_user_sudden_death_of_client_keeper_or_init_leaves_nothing_and_loses_nothing", |lab| {
        // Ours, or on ours: others mount as they like.
        let own = lab.dir().to_str().unwrap().to_owned();
        let mounts =
            || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(&own)).count();
        let before = mounts();
        let mut state = 7;
        for round in 0..10 {
            let pause = Duration::from_millis(fvm_kit::splitmix(&mut state) % 80);
            // The client of a foreground run is its keeper.
            let name = format!("c{round}");
            let mut client =
                lab.spawn(["run", "--keep", "--name", &name, "--", "sh", "-c", "echo data > kept; sleep 600"]);
            std::thread::sleep(pause);
            client.kill().unwrap();
            client.wait().unwrap();
            for victim in ["keeper_pid", "init_pid"] {
                let name = format!("{}{round}", &victim[..1]);
                lab.fvm(["create", &name]).expect(0);
                lab.fvm(["start", &name]).expect(0);
                lab.fvm(["exec", &name, "sh", "-c", "echo data > kept"]).expect(0);
                let mut sleeper = lab.spawn(["exec", &name, "sleep", "600"]);
                std::thread::sleep(pause / 4);
                let pid = rustix::process::Pid::from_raw(lab.number(&name, victim).unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                sleeper.wait().unwrap();
                wait_for("the VM to be stopped", || !lab.fvm(["list"]).expect(0).out.contains("running"));
                let status = lab.fvm(["status", &name]).expect(0).out;
                assert!(status.contains("/kept"), "{status}");
                assert_eq!(lab.fvm(["run", "--name", &name, "--", "cat", "kept"]).expect(0).out, "data\n");
                lab.fvm(["delete", &name]).expect(0);
            }
        }
        assert!(!lab.fvm(["list"]).expect(0).out.contains("running"));
        assert_eq!(mounts(), before);
        let dir = lab.dir().as_os_str().as_encoded_bytes();
        // The VM's own processes show another command line, but they still have the environment they were forked with.
        let ours = |pid: &Path| {
            let has = |bytes: Vec<u8>| bytes.windows(dir.len()).any(|w| w == dir);
            ["cmdline", "environ"].iter().filter_map(|file| std::fs::read(pid.join(file)).ok()).any(has)
        };
        wait_for("every process to be gone", || {
            !std::fs::read_dir("/proc").unwrap().flatten().any(|entry| ours(&entry.path()))
        });
    });
}

#[test]
fn root_and_user_bad_state_is_told_clearly_and_nothing_is_lost() {
    as_both("root_and_user_bad_state_is_told_clearly_and_nothing_is_lost", |lab| {
        for name in ["damaged", "newer", "gone", "fine"] {
            lab.fvm(["run", "--keep", "--name", name, "--", "sh", "-c", "echo x > new"]).expect(0);
        }
        let dir = |name: &str| {
            let json = lab.fvm(["inspect", name]).expect(0).out;
            json.split("\"directory\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let (damaged, newer, gone) = (dir("damaged"), dir("newer"), dir("gone"));
        lab.sh(&format!("echo '{{' > {damaged}/vm.json; sed -i 's/\"format\": 1/\"format\": 9/' {newer}/vm.json; chmod -R u+rwx {gone}; rm -rf {gone}"));
        let list = lab.fvm(["list"]).expect(1);
        assert!(list.out.contains("fine") && !list.out.contains("gone"), "{}", list.out);
        assert!(
            list.err.contains("it is damaged") && list.err.contains("format 9") && list.err.contains("newer fvm"),
            "{}",
            list.err
        );
        let id = damaged.rsplit('/').next().unwrap();
        let told = lab.fvm(["status", id]).expect(1);
        assert!(told.err.contains("vm.json") && told.err.contains("hint"), "{}", told.err);
        lab.fvm(["status", "gone"]).expect(4);
        assert!(lab.fvm(["status", "fine"]).expect(0).out.contains("/new"));
        lab.sh(&format!(
            "test -s {damaged}/vm.json && find {damaged} -name new | grep -q . && find {newer} -name new | grep -q ."
        ));
        lab.sh(&format!("echo 9 > {}/format", lab.home().display()));
        let refused = lab.fvm(["list"]).expect(1);
        assert!(refused.err.contains("use a newer fvm"), "{}", refused.err);
        lab.sh(&format!("echo 1 > {0}/format; chmod -R u+rwx {0}/vms; rm -rf {0}/vms/*", lab.home().display()));
    });
}

#[test]
fn root_a_state_directory_on_a_full_or_read_only_file_system_is_a_clear_error() {
    let test = "root_a_state_directory_on_a_full_or_read_only_file_system_is_a_clear_error";
    if !is_root(test) {
        return;
    }
    let lab = Lab::new(User::Root);
    let fvm = fvm_kit::binary().display().to_string();
    let told = lab.sh(&format!(
        "mkdir m; unshare -m sh -c '
            mount -t tmpfs -o size=16k none m; head -c 1m /dev/zero > m/fill 2>/dev/null || true
            {fvm} --home m/h run --rm -- true 2>&1; echo code $?
            umount m; mount -t tmpfs -o ro none m
            {fvm} --home m/h run --rm -- true 2>&1; echo code $?'"
    ));
    let codes = told.matches("code 125").count();
    assert!(codes == 2 && told.contains("No space left") && told.contains("Read-only file system"), "{told}");
}

#[test]
fn root_and_user_a_vm_has_the_hosts_network_when_it_is_asked_for_and_else_not() {
    as_both("root_and_user_a_vm_has_the_hosts_network_when_it_is_asked_for_and_else_not", |lab| {
        let host = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
        let seen =
            |net: &str| lab.fvm(["run", "--rm", "--net", net, "--", "readlink", "/proc/self/ns/net"]).expect(0).out;
        assert_eq!(seen("host").trim(), host);
        assert_ne!(seen("none").trim(), host);
    });
}

#[test]
fn root_and_user_nothing_is_nothing_whatever_the_vm_calls_so() {
    as_both("root_and_user_nothing_is_nothing_whatever_the_vm_calls_so", |lab| {
        lab.fvm(["create", "n", "--net", "none"]).expect(0);
        lab.fvm(["start", "n"]).expect(0);
        if lab.user() == User::Root {
            let trap = "mount -t tmpfs none /dev; ln -s /proc/self/mem /dev/null";
            lab.fvm(["exec", "n", "sh", "-c", trap]).expect(0);
        }
        // Our own input is /dev/null: the VM's is opened before anything of the VM's runs.
        let seen = lab.fvm(["exec", "n", "stat", "-L", "-c", "%t:%T", "/proc/self/fd/0"]).expect(0).out;
        assert_eq!(seen, "1:3\n");
        lab.fvm(["kill", "n"]).expect(0);
    });
}

#[test]
fn root_what_a_mount_on_the_host_covers_is_not_thrown_away() {
    if !is_root("root_what_a_mount_on_the_host_covers_is_not_thrown_away") {
        return;
    }
    let lab = Lab::new(User::Root);
    let fvm = format!("{} --home {}", fvm_kit::binary().display(), lab.home().display());
    let script = format!(
        "mkdir D; (sleep 0.7; mount -t tmpfs none D) & {fvm} run --net none -- sh -c 'echo data > D/x; sleep 1.5' 2>&1
         wait; {fvm} list | wc -l; umount D; {fvm} status $({fvm} list | tail -1 | cut -d' ' -f1) | grep D/x"
    );
    let ran = fvm_kit::Ran::of(lab.command("unshare").args(["-m", "sh", "-c", &script]).output().unwrap()).expect(0);
    assert!(!ran.out.contains("nothing was changed"), "{}", ran.out);
    assert!(ran.out.contains("\n2\n") && ran.out.contains("/D/x"), "{}{}", ran.out, ran.err);
}
