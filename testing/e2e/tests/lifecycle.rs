//! The rest of a VM's life: names, users, time limits, copies, files in and out.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use rustix::process::Signal;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs `body` as root and as an ordinary user.
fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

#[test]
fn root_and_user_a_renamed_vm_keeps_everything_but_its_name() {
    as_both("root_and_user_a_renamed_vm_keeps_everything_but_its_name", |lab| {
        lab.fvm(["run", "--keep", "--name", "a", "--", "sh", "-c", "echo x > f"]).expect(0);
        lab.fvm(["create", "taken"]).expect(0);
        assert!(lab.fvm(["rename", "a", "taken"]).expect(1).err.contains("already is a VM 'taken'"));
        lab.fvm(["rename", "a", "not/a/name"]).expect(2);
        lab.fvm(["rename", "nobody", "b"]).expect(4);
        let json = lab.fvm(["--json", "rename", "a", "b"]).expect(0).out;
        assert!(json.contains("\"name\": \"b\""), "{json}");
        lab.fvm(["inspect", "a"]).expect(4);
        assert_eq!(lab.fvm(["run", "--name", "b", "--", "sh", "-c", "cat f; echo $FVM"]).expect(0).out, "x\nb\n");
        lab.fvm(["start", "b"]).expect(0);
        assert!(lab.fvm(["rename", "b", "c"]).expect(1).err.contains("fvm stop b"));
        lab.fvm(["kill", "b"]).expect(0);
        lab.fvm(["kill", "b"]).expect(1);
        lab.fvm(["rename", "b", "c"]).expect(0);
        assert!(lab.fvm(["status", "c"]).expect(0).out.contains("/f"));
    });
}

#[test]
fn root_and_user_a_throw_away_vm_ends_with_its_program_whatever_that_leaves() {
    as_both("root_and_user_a_throw_away_vm_ends_with_its_program_whatever_that_leaves", |lab| {
        // Within the time in which a cleaner waits, and after it.
        for pause in ["", "sleep 0.3;"] {
            let script = format!("{pause} sleep 86399 & {pause} exit 5");
            for _ in 0..5 {
                lab.fvm(["run", "--rm", "--net", "none", "--", "sh", "-c", &script]).expect(5);
            }
            lab.fvm(["run", "--rm", "--net", "none", "--", "sh", "-c", &format!("{pause} exit 6")]).expect(6);
        }
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "nothing is left");
        let left = lab
            .sh("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -x 'sleep 86399 ' || :; done");
        assert_eq!(left, "", "nothing is left");
    });
}

#[test]
fn root_and_user_a_signal_that_comes_with_the_first_output_is_the_programs() {
    as_both("root_and_user_a_signal_that_comes_with_the_first_output_is_the_programs", |lab| {
        let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done";
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Whoever keeps the VM comes late to its turn.
            for _ in 0..8 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            // Nothing of it panics: the others would never end.
            let code = |net| -> std::io::Result<Option<i32>> {
                let mut command = lab.fvm_command(["run", "--rm", "--net", net, "--", "sh", "-c", script]);
                let mut child = command.stdout(std::process::Stdio::piped()).spawn()?;
                child.stdout.as_mut().ok_or(ErrorKind::NotFound)?.read_exact(&mut [0u8; 6])?;
                let pid = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process(pid, Signal::USR1)?;
                Ok(child.wait()?.code())
            };
            let codes: Vec<_> = ["none", "host", "own"].into_iter().cycle().take(24).map(code).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(codes.iter().all(|code| matches!(code, Ok(Some(9)))), "{codes:?}");
        });
    });
}

#[test]
fn root_a_signal_before_its_program_ends_what_builds_a_vm() {
    if !is_root("root_a_signal_before_its_program_ends_what_builds_a_vm") {
        return;
    }
    let lab = Lab::new(User::Root);
    // Under nohup a hangup ends nothing but the program, to which it is passed on.
    for (net, signal, code) in [("none", Signal::INT, 130), ("own", Signal::INT, 130), ("none", Signal::HUP, 129)] {
        // Whoever builds it takes long; the program would end otherwise.
        let slow = ["nohup", "strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=pivot_root:delay_enter=3000000"];
        let mut command = lab.command(slow[0]);
        command.args(&slow[1..]).args(["-e", "trace=pivot_root"]).arg(fvm_kit::binary()).arg("--home").arg(lab.home());
        command.args(["run", "--rm", "--net", net, "--", "sh", "-c", "trap 'exit 7' INT; sleep 5; exit 8"]);
        let mut strace = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", strace.id());
        let holds = |pid: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default();
            u64::from_str_radix(blocked.trim(), 16).is_ok_and(|mask| mask & 2 != 0)
        };
        let fvm = wait_until(|| {
            let children = std::fs::read_to_string(&children).unwrap_or_default();
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(holds)
        });
        let pid = rustix::process::Pid::from_raw(fvm).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let mut said = String::new();
        strace.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(strace.wait().unwrap().code(), Some(code), "{said}");
        assert_eq!(said.contains("interrupted while the VM was being built"), signal == Signal::INT, "{said}");
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "nothing is left");
    }
}

fn wait_until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(ready) = ready() {
            return ready;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn root_and_user_kill_ends_at_once_what_stop_would_wait_for() {
    as_both("root_and_user_kill_ends_at_once_what_stop_would_wait_for", |lab| {
        let stubborn = "trap '' TERM HUP INT; echo up; while :; do sleep 0.1; done";
        lab.fvm(["run", "--detach", "--name", "k", "--", "sh", "-c", stubborn]).expect(0);
        let began = Instant::now();
        while lab.fvm(["logs", "k"]).out != "up\n" {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
        let began = Instant::now();
        lab.fvm(["kill", "k"]).expect(0);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert!(lab.fvm(["list"]).out.contains("stopped"));
    });
}

#[test]
fn root_and_user_a_program_gets_user_directory_and_variables_as_asked() {
    as_both("root_and_user_a_program_gets_user_directory_and_variables_as_asked", |lab| {
        lab.sh("mkdir 'a dir'");
        lab.fvm(["create", "v"]).expect(0);
        lab.fvm(["start", "v"]).expect(0);
        // Options go before the name.
        let out = |args: &[&str]| {
            let options = args.chunks(2).take_while(|pair| pair[0].starts_with("--")).count() * 2;
            let (options, command) = args.split_at(options);
            lab.fvm(["exec"].iter().chain(options).chain(&["v"]).chain(command)).expect(0).out
        };
        let dir = lab.dir().to_str().unwrap();
        assert_eq!(out(&["pwd"]), format!("{dir}\n"));
        assert_eq!(out(&["--workdir", "a dir", "pwd"]), format!("{dir}/a dir\n"));
        let told = lab.fvm(["exec", "--workdir", "/no/such", "v", "true"]).expect(125);
        assert!(told.err.contains("'/no/such'") && told.err.contains("hint"), "{}", told.err);
        assert_eq!(out(&["--env", "X=1=2", "--env", "LC_ALL=C", "sh", "-c", "echo $X $LC_ALL"]), "1=2 C\n");
        assert_eq!(out(&["--env", "HOME", "sh", "-c", "echo $HOME"]), format!("{dir}\n"));
        lab.fvm(["exec", "--env", "=x", "v", "true"]).expect(2);
        let told = lab.fvm(["exec", "--user", "no-such-user", "v", "true"]).expect(125);
        assert!(told.err.contains("no user 'no-such-user'"), "{}", told.err);
        let me = lab.sh("id -un");
        let script = "id -un; echo $USER $LOGNAME";
        let seen = out(&["--user", me.trim(), "sh", "-c", script]);
        assert_eq!(seen, format!("{0}\n{0} {0}\n", me.trim()));
        let other =
            lab.fvm(["exec", "--user", "nobody", "--env", "HOME=/x", "v", "sh", "-c", "id -un; echo $HOME; id -G"]);
        if me.trim() == "root" {
            assert!(other.expect(0).out.starts_with("nobody\n/x\n"));
        } else {
            assert!(other.expect(125).err.contains("cannot become 'nobody'"));
        }
        assert_eq!(
            lab.fvm(["run", "--rm", "--workdir", "/", "--env", "A=b", "--", "sh", "-c", "pwd; echo $A"]).out,
            "/\nb\n"
        );
    });
}

#[test]
fn root_and_user_a_program_that_takes_too_long_is_ended_with_124() {
    as_both("root_and_user_a_program_that_takes_too_long_is_ended_with_124", |lab| {
        lab.fvm(["run", "--rm", "--timeout", "1x", "--", "true"]).expect(2);
        lab.fvm(["run", "--rm", "--timeout", "60s", "--", "sh", "-c", "exit 3"]).expect(3);
        let began = Instant::now();
        let told = lab.fvm(["run", "--rm", "--timeout", "300ms", "--", "sleep", "600"]).expect(124);
        assert!(told.err.contains("'sleep' was ended after 300ms"), "{}", told.err);
        let polite = lab.fvm([
            "run",
            "--rm",
            "--timeout",
            "0.3",
            "--",
            "sh",
            "-c",
            "trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done",
        ]);
        assert_eq!(polite.expect(124).out, "bye\n", "it is asked first");
        lab.fvm(["create", "v"]).expect(0);
        lab.fvm(["start", "v"]).expect(0);
        let stubborn = "trap '' TERM; sleep 600 & while :; do sleep 0.05; done";
        lab.fvm(["exec", "--timeout", "200ms", "--kill-after", "200ms", "v", "sh", "-c", stubborn]).expect(124);
        assert!(!lab.fvm(["ps", "v"]).out.contains("sleep 600"), "its group went with it");
        assert_eq!(lab.fvm(["exec", "v", "echo", "still here"]).expect(0).out, "still here\n");
        lab.fvm(["run", "--detach", "--timeout", "300ms", "--name", "d", "--", "sh", "-c", "echo up; sleep 600"])
            .expect(0);
        let ended = || lab.number("d", "init_pid").is_none();
        let waiting = Instant::now();
        while !ended() {
            assert!(waiting.elapsed() < Duration::from_secs(10), "nobody ends it");
        }
        assert_eq!(lab.fvm(["logs", "d"]).out, "up\n");
        assert!(began.elapsed() < Duration::from_secs(60));
    });
}

#[test]
fn root_and_user_what_a_vm_uses_is_told() {
    as_both("root_and_user_what_a_vm_uses_is_told", |lab| {
        let busy = "x = bytearray(b'x' * (64 << 20)); open('f', 'wb').write(x[:8 << 20]); print('up', flush=True)\nwhile True: pass";
        lab.fvm(["run", "--detach", "--name", "busy", "--net", "none", "--", "python3", "-c", busy]).expect(0);
        lab.fvm(["create", "idle", "--net", "none"]).expect(0);
        assert!(lab.fvm(["stats", "idle"]).expect(1).err.contains("fvm start idle"));
        lab.fvm(["stats", "nobody"]).expect(4);
        lab.fvm(["start", "idle"]).expect(0);
        let began = Instant::now();
        while lab.fvm(["logs", "busy"]).out != "up\n" {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let all: serde_json::Value = serde_json::from_str(&lab.fvm(["--json", "stats"]).expect(0).out).unwrap();
        let of = |name: &str, key: &str| {
            let vm = all.as_array().unwrap().iter().find(|vm| vm["name"] == name).unwrap();
            vm[key].as_u64().unwrap()
        };
        let mib = |count: u64| count << 20;
        assert!(of("busy", "memory_bytes") > mib(60) && of("busy", "memory_bytes") < mib(200), "{all}");
        assert!(of("busy", "cpu_us") > 200_000 && of("idle", "cpu_us") < 200_000, "{all}");
        assert!(of("busy", "disk_bytes") >= mib(8) && of("idle", "disk_bytes") < mib(2), "{all}");
        assert_eq!((of("busy", "processes"), of("idle", "processes")), (1, 0), "{all}");
        // Its own network is there, and silent.
        assert_eq!((of("idle", "sent_bytes"), of("idle", "received_bytes")), (0, 0), "{all}");
        let top = lab.fvm(["top", "-d", "300ms", "-n", "2"]).expect(0).out;
        let rows: Vec<&str> = top.lines().collect();
        assert!(rows.len() == 6 && rows[4].starts_with("busy") && rows[4].contains('%'), "{top}");
    });
}

/// What the state directory takes, in bytes.
fn state_bytes(lab: &Lab) -> u64 {
    let out = lab.sh(&format!("du -s --block-size=1 {} 2>&- || true", lab.home().display()));
    out.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn root_and_user_a_copy_is_what_the_vm_was_and_lives_by_itself() {
    as_both("root_and_user_a_copy_is_what_the_vm_was_and_lives_by_itself", |lab| {
        lab.sh("echo base > base; echo moved > from; echo gone > gone; mkdir d; echo 1 > d/f");
        let work = "echo one >> base; mv from to; rm gone; echo new > new; rm -r d; mkdir d; echo 2 > d/g; \
                    head -c 67108864 /dev/urandom > big";
        lab.fvm(["run", "--quiet", "--keep", "--name", "a", "--net", "none", "--", "sh", "-ec", work]).expect(0);
        let changes = |name: &str| {
            let status = lab.fvm(["status", name]).expect(0).out;
            // Whether the host has changed since is another matter.
            status.lines().skip(1).map(|line| line.split("  !").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let first = changes("a");
        assert!(first.len() >= 7 && first.iter().any(|line| line.ends_with("/to")), "{first:?}");
        let before = state_bytes(lab);
        for n in 0..10 {
            lab.fvm(["copy", "a", &format!("c{n}")]).expect(0);
        }
        assert!(state_bytes(lab) - before < 4 << 20, "what is the same is there once");
        assert_eq!([changes("a"), changes("c3")], [first.clone(), first.clone()]);
        lab.fvm(["copy", "a", "c3"]).expect(1);
        lab.fvm(["copy", "nobody", "x"]).expect(4);
        lab.fvm(["start", "a"]).expect(0);
        assert!(lab.fvm(["copy", "a", "x"]).expect(1).err.contains("fvm stop a"));
        lab.fvm(["kill", "a"]).expect(0);

        // Each goes its own way.
        let run = |name: &str, script: &str| {
            lab.fvm(["run", "--quiet", "--name", name, "--", "sh", "-ec", script]).expect(0).out
        };
        assert_eq!(
            run("c1", "cat base to new d/g; ls -I home; echo two >> base; rm new; echo 3 > d/f; mv big large"),
            "base\none\nmoved\nnew\n2\nbase\nbig\nd\nnew\nto\n"
        );
        assert_eq!(run("c2", "cat base; ls d"), "base\none\ng\n");
        assert_eq!(run("a", "cat base; ls d; echo three >> base"), "base\none\ng\n");
        assert_eq!(changes("c3"), first);
        let diff = lab.fvm(["diff", "c1", lab.path("base").to_str().unwrap()]).expect(0).out;
        assert!(diff.contains("+one\n+two"), "{diff}");
        // A copy of a copy, of what the copy had become.
        lab.fvm(["copy", "c1", "cc"]).expect(0);
        assert_eq!(run("cc", "cat base d/f d/g; ls -I home"), "base\none\ntwo\n3\n2\nbase\nd\nlarge\nto\n");

        // Without the first, and committed by the last.
        lab.fvm(["delete", "a", "c1"]).expect(0);
        assert_eq!(run("c4", "cat base"), "base\none\n");
        lab.fvm(["commit", "cc"]).expect(0);
        assert_eq!(lab.sh("cat base d/f d/g; ls -I home"), "base\none\ntwo\n3\n2\nbase\nd\nlarge\nto\n");
        assert_eq!(changes("cc"), Vec::<String>::new());
        assert_eq!(run("cc", "echo more >> base; cat base"), "base\none\ntwo\nmore\n");
        lab.fvm(["undo", "1"]).expect(0);
        assert_eq!(lab.sh("cat base gone from; ls d"), "base\ngone\nmoved\nf\n");
        assert_eq!(changes("c3"), first, "nothing of it is the others'");
        lab.fvm(["discard", "c3", lab.path("d").to_str().unwrap()]).expect(0);
        assert_eq!(run("c3", "cat d/f base"), "1\nbase\none\n");
        // With the last goes what they had together.
        let names: Vec<String> = [0].into_iter().chain(2..10).map(|n| format!("c{n}")).chain(["cc".into()]).collect();
        lab.fvm(["delete"].into_iter().chain(names.iter().map(String::as_str))).expect(0);
        assert_eq!(lab.sh(&format!("ls {}/shared", lab.home().display())), "");
    });
}

#[test]
fn root_and_user_a_copy_gets_another_policy_and_hides_as_well() {
    as_both("root_and_user_a_copy_gets_another_policy_and_hides_as_well", |lab| {
        lab.sh("mkdir -p keep/in; echo secret > keep/in/key; echo 1 > seen");
        let keep = lab.path("keep/in/key").display().to_string();
        let run = |name: &str, script: &str| lab.fvm(["run", "--quiet", "--name", name, "--", "sh", "-c", script]);
        lab.fvm(["create", "a", "--net", "none"]).expect(0);
        // What the copy shall not see, the first moves out of the way.
        run("a", "mv keep elsewhere 2>/dev/null || cp -r keep elsewhere && rm -r keep; echo 2 > seen").expect(0);
        lab.fvm(["create", "b", "--from", "a", "--net", "none", "--hide", &keep]).expect(0);
        let refused = run("b", "cat elsewhere/in/key");
        if lab.user() == User::Root {
            assert!(refused.code == 125 && refused.err.contains("moved a directory above"), "{}", refused.err);
        }
        // And when it is where it was, it is hidden.
        lab.fvm(["create", "c", "--net", "none"]).expect(0);
        run("c", "echo 3 > keep/in/own; echo 3 > seen").expect(0);
        lab.fvm(["create", "d", "--from", "c", "--net", "none", "--hide", &keep]).expect(0);
        let hidden = run("d", "cat seen keep/in/own; cat keep/in/key");
        assert!(hidden.out == "3\n3\n" && hidden.err.contains("ermission denied"), "{}{}", hidden.out, hidden.err);
        assert!(lab.fvm(["inspect", "d"]).expect(0).out.contains(&keep));
        // A running copy sees what the host has made since.
        lab.fvm(["start", "d"]).expect(0);
        let exec = |script: &str| lab.fvm(["exec", "d", "--", "sh", "-c", script]);
        exec("ls; ls keep; cat keep/later later").expect(1);
        lab.sh("echo now > later; echo now > keep/later");
        lab.fvm(["refresh", "d"]).expect(0);
        assert_eq!(exec("cat later keep/later").expect(0).out, "now\nnow\n");
    });
}

#[test]
fn root_and_user_a_copy_that_is_interrupted_loses_nothing() {
    as_both("root_and_user_a_copy_that_is_interrupted_loses_nothing", |lab| {
        lab.fvm(["run", "--quiet", "--keep", "--name", "a", "--net", "none", "--", "sh", "-c", "echo mine > mine"])
            .expect(0);
        lab.fvm(["copy", "a", "b"]).expect(0);
        let home = lab.home().display().to_string();
        let id = lab.fvm(["--json", "inspect", "a"]).expect(0).out;
        let id = id.split("\"id\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        // As after a death between the record and the move.
        lab.fvm(["delete", "b"]).expect(0);
        let back = || lab.sh(&format!("mv {home}/shared/{id}.layers {home}/vms/{id}/layers"));
        back();
        assert!(lab.fvm(["status", "a"]).expect(0).out.contains("/mine"));
        back();
        assert_eq!(lab.fvm(["run", "--quiet", "--name", "a", "--", "cat", "mine"]).expect(0).out, "mine\n");
        // What is gone is missed, not taken for nothing.
        lab.sh(&format!("mv {home}/shared/{id}.layers {home}/gone"));
        assert!(lab.fvm(["status", "a"]).expect(1).err.contains("shared"));
        lab.fvm(["run", "--name", "a", "--", "true"]).expect(125);
        lab.sh(&format!("mv {home}/gone {home}/shared/{id}.layers"));
        assert_eq!(lab.fvm(["run", "--quiet", "--name", "a", "--", "cat", "mine"]).expect(0).out, "mine\n");
    });
}
