//! The guard: marked programs run in VMs, however they are started, and nobody hangs, whatever becomes of the guard.
//!
//! All tests need root and fanotify permission events; only files of the laboratory are marked.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod guard_world;

use fvm_kit::{Lab, Ran, User, binary};
use guard_world::{Guarded, HANGS, ended, has, is_in_vm};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn root_a_marked_program_runs_in_a_vm_however_it_is_started_until_it_is_unmarked() {
    let Some(it) = Guarded::new("root_a_marked_program_runs_in_a_vm_however_it_is_started", &[]) else { return };
    let python = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)";
    for words in [
        &["./m", "FVM"][..],
        &["sh", "-c", "./m FVM; true"],
        &["sh", "-c", "exec ./m FVM"],
        &["bash", "-c", "echo | ./m FVM | cat"],
        &["python3", "-c", python, "./m", "FVM"],
        &["perl", "-e", "system('./m', 'FVM')"],
        &["env", "./m", "FVM"],
        &["timeout", "60", "./m", "FVM"],
        &["nice", "./m", "FVM"],
        &["sh", "-c", "PATH=.:$PATH m FVM"],
        &["xargs", "-a", "/dev/null", "./m", "FVM"],
        &["find", ".", "-name", "m", "-exec", "./m", "FVM", ";"],
        &["setsid", "-w", "./m", "FVM"],
    ] {
        it.confined(words).expect(0);
    }
    for words in [
        &["./m.sh", "a b", "c"][..],
        &["sh", "m.sh", "a b", "c"],
        &["bash", "-e", "./m.sh", "a b", "c"],
        &["python3", "-c", python, "./m.sh", "a b", "c"],
        &["env", "sh", "m.sh", "a b", "c"],
    ] {
        let ran = it.confined(words).expect(7);
        assert!(ran.out.trim_end().ends_with(" a b c"), "{ran:?}");
    }
    it.confined(&["python3", "m.py", "x"]).expect(0);
    it.confined(&["python3", "-u", "-W", "ignore", "m.py"]).expect(0);
    // What a launcher does with its Exec line.
    let entry = format!("[Desktop Entry]\nType=Application\nName=m\nExec={} 1\n", it.lab.path("t/m.sh").display());
    std::fs::write(it.lab.path("m.desktop"), entry).unwrap();
    let line = "import subprocess; exec = [l for l in open('../m.desktop') if l.startswith('Exec=')][0][5:].split(); \
                print(subprocess.run(exec, capture_output=True, text=True).stdout)";
    it.confined(&["python3", "-c", line]).expect(0);
    if has("gio") {
        // It does not wait for the program.
        let before = it.status()["redirected"].as_u64();
        it.run(&["gio", "launch", "../m.desktop"]).expect(0);
        it.wait_for(|status| status["redirected"].as_u64() > before);
        assert!(!it.lab.path("t/left").exists());
    } else {
        eprintln!("not tried: there is no gio here");
    }
    // Input, directory and status pass.
    let ran = it.sh(
        "printf 'echo $PWD; read x; echo \"$x\"; echo in-$FVM; exit 3' > ../free.sh; echo line | ./interp ../free.sh",
    );
    assert!(is_in_vm(&ran.out) && ran.code == 3, "{ran:?}");
    assert!(ran.out.starts_with(&format!("{}\nline\n", it.lab.path("t").display())), "{ran:?}");

    it.lab.fvm(["unmark", "t/m", "t/m.sh", "t/m.py"]).expect(0);
    // Unmarking has waited for the guard.
    assert_eq!(it.run(&["./m", "FVM"]).expect(1).out, "");
    assert!(it.run(&["sh", "m.sh"]).expect(7).out.starts_with("in-\n") && it.lab.path("t/left").exists());
    assert!(it.run(&["python3", "m.py"]).expect(0).out.starts_with("in-\n"));
}

#[test]
fn root_what_is_not_redirected_is_refused_or_known_not_to_be_caught() {
    let Some(it) = Guarded::new("root_what_is_not_redirected_is_refused_or_known_not_to_be_caught", &[]) else {
        return;
    };
    // The loader runs it: as an interpreter does.
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
        if Path::new(loader).exists() {
            it.confined(&[loader, "./m", "FVM"]).expect(0);
        }
    }
    // An interpreter reads it otherwise than as its script.
    it.refused(&["bash", "-c", "bash < m.sh"]);
    it.refused(&["bash", "-c", "source ./m.sh"]);
    it.refused(&["python3", "-c", "exec(open('m.py').read())"]);
    it.refused(&["python3", "-c", "import sys; sys.path.insert(0, '.'); import m"]);
    // A library of it in another program: the loader does not get it, and says so.
    let preloaded = it.run(&["env", "LD_PRELOAD=./m", "true"]).expect(0);
    assert!(preloaded.err.contains("cannot be preloaded"), "{preloaded:?}");
    // Its interpreter is marked, and the script that is executed is not: too late to redirect.
    std::fs::write(it.lab.path("t/free.sh"), format!("#!{}/t/interp\necho in-$FVM\n", it.lab.dir().display())).unwrap();
    std::fs::set_permissions(it.lab.path("t/free.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    it.refused(&["./free.sh"]);
    // Under other names.
    it.confined(&["sh", "-c", "ln m hard; ln -s m soft; ./hard FVM && ./soft FVM; rm hard soft"]).expect(0);
    it.confined(&["sh", "-c", "mv m moved; ./moved FVM; mv moved m"]).expect(0);
    it.confined(&["unshare", "-m", "sh", "-c", "mkdir -p ../b; mount --bind . ../b; cd ../b; ./m FVM"]).expect(0);
    // A traced one cannot be taken over.
    if has("strace") {
        it.refused(&["strace", "-f", "-o", "/dev/null", "./m", "FVM"]);
    } else {
        let traced = "import ctypes, os, sys\npid = os.fork()\nif pid == 0:\n  ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n  \
                      os.execv('./m', ['m', 'FVM'])\nwhile True:\n  _, s = os.waitpid(pid, 0)\n  \
                      if not os.WIFSTOPPED(s): sys.exit(s != 0)\n  ctypes.CDLL(None).ptrace(7, pid, 0, 0)";
        it.refused(&["python3", "-c", traced]);
    }
    // One with the rights of two users would give them to what runs instead.
    it.refused(&["python3", "-c", "import os; os.setresuid(1234, 0, 0); os.execv('./m', ['m', 'FVM'])"]);
    // From a thread that is not the first one.
    let threaded =
        "import os, threading\nt = threading.Thread(target=lambda: os.execv('./m', ['m', 'FVM']))\nt.start()\nt.join()";
    it.confined(&["python3", "-c", threaded]).expect(0);
    // Reading is allowed, and so a copy is read: it is known by its content.
    assert_eq!(it.run(&["cat", "notes.txt"]).expect(0).out, "text\n");
    let copies = it.status()["copies"].as_u64().unwrap();
    it.sh("cp m c1; dd if=m of=c2 status=none; chmod 755 c2; tar cf ../x.tar m; mkdir x; tar xf ../x.tar -C x")
        .expect(0);
    it.wait_for(|status| status["copies"].as_u64() >= Some(copies + 2));
    it.confined(&["./c1", "FVM"]).expect(0);
    it.confined(&["./c2", "FVM"]).expect(0);
    // Not in a directory that nobody watches, until somebody looks there: known.
    assert_eq!(it.run(&["x/m", "FVM"]).code, 1, "caught: say so in docs/book/marks.md");
    it.lab.fvm(["marks", "--mark-copies", "t/x"]).expect(0);
    it.sh("touch x/m").expect(0);
    it.wait_for(|status| status["watched"].as_u64() >= Some(11));
    it.confined(&["x/m", "FVM"]).expect(0);
    // Changed on the host, it is another file: known.
    it.sh("sed -i s/in-/out-/ m.sh").expect(0);
    assert!(it.run(&["./m.sh"]).expect(7).out.starts_with("out-"), "caught: say so in docs/book/marks.md");
    std::fs::remove_file(it.lab.path("t/left")).unwrap();
    // Its owner takes the mark off, or writes another: the guard does not ask the file.
    let strip = "import os\nos.removexattr('m', 'user.fvm.mark')\nos.setxattr('m.py', 'user.fvm.mark', b'x')";
    it.run(&["python3", "-c", strip]).expect(0);
    it.confined(&["./m", "FVM"]).expect(0);
    it.confined(&["python3", "m.py"]).expect(0);
}

#[test]
fn root_where_reads_are_allowed_only_runs_are_caught() {
    let Some(it) = Guarded::new("root_where_reads_are_allowed_only_runs_are_caught", &["--reads", "allow"]) else {
        return;
    };
    let open = "import os; fd = os.open('m', os.O_RDONLY); os.set_inheritable(fd, True);";
    for how in ["os.execve(fd, ['m', 'FVM'], os.environ)", "os.execv(f'/proc/self/fd/{fd}', ['m', 'FVM'])"] {
        it.confined(&["python3", "-c", &format!("{open} {how}")]).expect(0);
    }
    let execveat = "import ctypes; argv = (ctypes.c_char_p * 3)(b'm', b'FVM', None); \
                    ctypes.CDLL(None).execveat(os.open('.', os.O_RDONLY), b'm', argv, \
                    ctypes.c_void_p.in_dll(ctypes.CDLL(None), 'environ'), 0); os._exit(9)";
    it.confined(&["python3", "-c", &format!("{open} {execveat}")]).expect(0);
    it.confined(&["sh", "-c", "./m FVM"]).expect(0);
    it.confined(&["sh", "m.sh"]).expect(7);
    // Known: whoever only reads it can still run it.
    assert_eq!(it.sh("bash < m.sh").expect(7).out, "in-\n", "caught: say so in docs/book/marks.md");
}

#[test]
fn root_an_ordinary_user_s_programs_are_guarded_as_well() {
    let Some(it) = Guarded::new("root_an_ordinary_user_s_programs_are_guarded_as_well", &[]) else { return };
    let other = Lab::new(User::Ordinary);
    let run = |words: &[&str]| {
        let mut command = other.command(words[0]);
        command.args(&words[1..]).env("FVM_HOME", other.home());
        ended(command, words)
    };
    let m = it.lab.path("t/m");
    let ran = run(&[m.to_str().unwrap(), "FVM"]);
    assert!(is_in_vm(&ran.out) && ran.code == 0, "{ran:?}");
    // Within a VM of that user's, it just runs.
    let within = Ran::of(other.fvm_command(["run", "--rm", "--", m.to_str().unwrap(), "FVM"]).output().unwrap());
    assert!(is_in_vm(&within.expect(0).out));
    // What the user made is in the user's book: nobody guards that unless told to.
    other
        .fvm(["run", "--keep", "--name", "v", "--policy", "untrusted", "--", "cp", "/usr/bin/printenv", "mine"])
        .expect(0);
    other.fvm(["commit", "v"]).expect(0);
    assert_eq!(run(&["./mine", "FVM"]).code, 1);
    drop(it);
    let book = other.home().join("marks");
    let Some(it) =
        Guarded::new("root_an_ordinary_user_s_programs_are_guarded_as_well", &["--book", book.to_str().unwrap()])
    else {
        return;
    };
    it.wait_for(|status| status["watched"].as_u64() >= Some(9));
    let ran = run(&["./mine", "FVM"]);
    assert!(is_in_vm(&ran.out) && ran.code == 0, "{ran:?}");
}

#[test]
fn root_by_policy_marked_programs_are_refused_and_marked_files_not_read() {
    let options = ["--runs", "refuse", "--reads", "refuse"];
    let Some(it) = Guarded::new("root_by_policy_marked_programs_are_refused_and_marked_files_not_read", &options)
    else {
        return;
    };
    it.wait_for(|status| status["watched"].as_u64() >= Some(8));
    for words in [&["./m", "FVM"][..], &["sh", "m.sh"], &["./m.sh"], &["python3", "m.py"], &["cat", "notes.txt"]] {
        it.refused(words);
    }
    // In a VM all of it is allowed; and whoever unmarks must read it.
    let words = ["run", "--rm", "--", "sh", "-c", "t/m FVM; cat t/notes.txt; sh t/m.sh"];
    let ran = Ran::of(it.lab.fvm_command(words).output().unwrap()).expect(7);
    assert!(is_in_vm(&ran.out) && ran.out.contains("text\n"), "{ran:?}");
    it.lab.fvm(["unmark", "t/m"]).expect(0);
    it.wait_for(|status| status["watched"].as_u64() == Some(7));
    assert_eq!(it.run(&["./m", "FVM"]).code, 1, "on the host");
}

#[test]
fn root_what_a_later_commit_brings_is_guarded_at_once_and_what_goes_is_not() {
    let Some(it) = Guarded::new("root_what_a_later_commit_brings_is_guarded_at_once_and_what_goes_is_not", &[]) else {
        return;
    };
    let watched = it.status()["watched"].as_u64();
    let script = "mkdir -p d/e; cp /usr/bin/printenv d/e/new";
    it.lab.fvm(["run", "--keep", "--name", "w", "--policy", "untrusted", "--", "sh", "-ec", script]).expect(0);
    it.lab.fvm(["commit", "w"]).expect(0);
    // The commit has waited for the guard.
    it.confined(&["../d/e/new", "FVM"]).expect(0);
    it.wait_for(|status| status["watched"].as_u64() > watched);
    // A second guard is not wanted.
    let second = it.lab.fvm(["guard", "run"]).expect(1);
    assert!(second.err.contains("runs already"), "{second:?}");
}

#[test]
fn root_many_at_once_with_a_marked_interpreter() {
    let Some(it) = Guarded::new("root_many_at_once_with_a_marked_interpreter", &[]) else { return };
    std::fs::write(it.lab.path("t/free.sh"), "echo in-$FVM\n").unwrap();
    let storm = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do ./interp free.sh & (./inner.sh) & done; wait";
    let ran = it.sh(storm).expect(0);
    let confined = ran.out.lines().filter(|line| line.starts_with("in-vm-")).count();
    // Whoever waits too long is refused; nobody runs on the host.
    assert!(confined > 0 && !ran.out.lines().any(|line| line == "in-"), "{ran:?}");
}

#[test]
fn root_nobody_hangs_when_the_guard_is_killed_in_mid_event() {
    let Some(it) = Guarded::new("root_nobody_hangs_when_the_guard_is_killed_in_mid_event", &[]) else { return };
    let kills: u32 = std::env::var("FVM_GUARD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let stop = it.lab.path("stop");
    // Two that execute marked programs, two that execute others; each says how often, and whether any ever failed.
    let marked = "n=0; until [ -e ../stop ]; do ./m FVM > /dev/null; sh m.sh > /dev/null; n=$((n+1)); done; echo $n";
    let free = "n=0; until [ -e ../stop ]; do /usr/bin/printenv PATH > /dev/null || exit 1; sh -c 'exit 0' || exit 2; \
                n=$((n+1)); done; echo $n";
    std::thread::scope(|scope| {
        let run = |script: &'static str| {
            let it = &it;
            scope.spawn(move || {
                let mut command = it.command("sh");
                command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null());
                command.spawn().unwrap().wait_with_output().unwrap()
            })
        };
        let loops: Vec<_> = [marked, marked, free, free].map(run).into();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id());
        for _ in 0..kills {
            let status = it.wait_for(|status| status["watched"].as_u64() >= Some(8));
            // Anywhere within an event: those come all the time.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            std::thread::sleep(Duration::from_micros(seed % 30_000));
            let worker = status["worker"].as_i64().unwrap().to_string();
            assert!(Command::new("kill").args(["-KILL", &worker]).status().unwrap().success());
            it.wait_for(|now| now["worker"] != status["worker"]);
        }
        std::fs::write(&stop, "").unwrap();
        let begun = Instant::now();
        for (n, at) in loops.into_iter().enumerate() {
            while !at.is_finished() {
                assert!(begun.elapsed() < HANGS, "loop {n} hangs");
                std::thread::sleep(Duration::from_millis(20));
            }
            let output = Ran::of(at.join().unwrap()).expect(0);
            let rounds: u32 = output.out.trim().parse().unwrap();
            assert!(rounds > 0, "loop {n} did not turn");
            eprintln!("loop {n}: {rounds} rounds, {kills} kills");
        }
    });
    // As good as new.
    it.wait_for(|status| status["watched"].as_u64() >= Some(8));
    let _old = std::fs::remove_file(it.lab.path("t/left"));
    it.confined(&["./m", "FVM"]).expect(0);
    assert!(binary().exists());
}
