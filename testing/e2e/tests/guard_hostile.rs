//! Who means the guard harm: users who feed it, files that change under it, storms, and itself replaced.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod guard_world;

use fvm_kit::{Lab, Ran, User, binary, install};
use guard_world::{Guarded, HANGS, ended, has, is_in_vm};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

/// Commits a copy of a program from a VM that nobody trusts, and has it run: it must be guarded.
fn commit_and_run(it: &Guarded, vm: &str) {
    let script = format!("cp /usr/bin/printenv {vm}");
    it.lab.fvm(["run", "--keep", "--name", vm, "--policy", "untrusted", "--", "sh", "-c", &script]).expect(0);
    it.lab.fvm(["commit", vm]).expect(0);
    it.confined(&[&format!("../{vm}"), "FVM"]).expect(0);
}

#[test]
fn root_a_new_file_under_the_number_of_an_old_one_is_guarded() {
    let test = "root_a_new_file_under_the_number_of_an_old_one_is_guarded";
    let Some(it) = Guarded::new(test, &[]) else { return };
    let copies = || it.status()["copies"].as_u64();
    let number = |name: &str| it.lab.path("t").join(name).metadata().unwrap().ino();
    let (mut tries, mut again) = (0, false);
    while !again && tries < 20 {
        let (old, before) = (format!("old{tries}"), copies());
        it.sh(&format!("cp m {old}")).expect(0);
        it.wait_for(|status| status["copies"].as_u64() > before);
        it.confined(&[&format!("./{old}"), "FVM"]).expect(0);
        let (gone, before) = (number(&old), copies());
        it.sh(&format!("rm {old}; cp m new{tries}")).expect(0);
        again = number(&format!("new{tries}")) == gone;
        it.wait_for(|status| status["copies"].as_u64() > before);
        it.confined(&[&format!("./new{tries}"), "FVM"]).expect(0);
        tries += 1;
    }
    if !again {
        eprintln!("not tried: {test}: this file system does not use a number again soon");
    }
}

#[test]
fn root_what_stands_in_the_place_of_another_s_book_stops_nothing() {
    let test = "root_what_stands_in_the_place_of_another_s_book_stops_nothing";
    let user = Lab::new(User::Root);
    let (dir, book) = (user.path("marks"), user.path("marks/book"));
    std::fs::create_dir(&dir).unwrap();
    assert!(Command::new("mkfifo").arg(&book).status().unwrap().success());
    let Some(it) = Guarded::new(test, &["--book", dir.to_str().unwrap()]) else { return };
    commit_and_run(&it, "a");
    // Holes cost nothing to whoever makes them.
    std::fs::remove_file(&book).unwrap();
    let file = std::fs::File::create(&book).unwrap();
    std::io::Write::write_all(&mut &file, b"fvm-marks 1\n").unwrap();
    file.set_len(3 << 30).unwrap();
    commit_and_run(&it, "b");
    std::fs::remove_file(&book).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &book).unwrap();
    commit_and_run(&it, "c");
    std::fs::remove_file(&book).unwrap();
    std::fs::remove_dir(&dir).unwrap();
    std::fs::write(&dir, "").unwrap();
    commit_and_run(&it, "d");
}

#[test]
fn root_another_s_book_unmarks_and_marks_nothing_of_root_s() {
    let test = "root_another_s_book_unmarks_and_marks_nothing_of_root_s";
    let other = Lab::new(User::Ordinary);
    let book = other.home().join("marks");
    let Some(it) = Guarded::new(test, &["--book", book.to_str().unwrap()]) else { return };
    let m = it.lab.path("t/m");
    // It is that user's file, and root's mark.
    let owner = other.dir().metadata().unwrap();
    chown(&m, Some(owner.uid()), Some(owner.gid())).unwrap();
    other.fvm(["unmark", m.to_str().unwrap()]).expect(0);
    it.confined(&["./m", "FVM"]).expect(0);
    // A file of root's that has no mark is not guarded because somebody says so.
    std::fs::copy("/usr/bin/printenv", it.lab.path("t/mine")).unwrap();
    let mine = it.lab.path("t/mine");
    let free = it.sh("cp /usr/bin/env free; sleep 0.2; ./free printf x").expect(0);
    assert_eq!(free.out, "x");
    assert!(!other.fvm(["mark", mine.to_str().unwrap()]).err.is_empty());
    assert!(rustix::fs::lgetxattr(it.lab.path("t/free"), "user.fvm.mark", &mut [0_u8; 0][..]).is_err());
}

#[test]
fn root_part_of_another_program_is_refused_without_a_wait() {
    let Some(it) = Guarded::new("root_part_of_another_program_is_refused_without_a_wait", &[]) else { return };
    std::fs::write(it.lab.path("t/free.sh"), format!("#!{}/t/interp\necho in-$FVM\n", it.lab.dir().display())).unwrap();
    std::fs::set_permissions(it.lab.path("t/free.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    for words in
        [&["./free.sh"][..], &["sh", "-c", "./free.sh"], &["python3", "-c", "import os; os.execv('./free.sh', ['x'])"]]
    {
        it.refused(words);
    }
    // Whoever traces it needs a lock that it holds: nobody tries to, and finds that out by waiting.
    let status = it.wait_for(|status| status["refused"].as_u64() >= Some(3));
    assert_eq!(status["late"].as_u64(), Some(0), "{status}");
}

#[test]
fn root_names_and_variables_are_whatever_a_program_likes() {
    let Some(it) = Guarded::new("root_names_and_variables_are_whatever_a_program_likes", &[]) else { return };
    // Half a letter at its end, a line break, what looks like a field.
    for name in ["b'half a letter \\xc3'", "b'a\\nUid:\\t1 2 3 4'", "b') S 1 (\\xff'"] {
        let named =
            format!("import ctypes, os; ctypes.CDLL(None).prctl(15, {name}, 0, 0, 0); os.execv('./m', ['m', 'FVM'])");
        it.confined(&["python3", "-c", &named]).expect(0);
    }
    // The way to a library, behind more variables than are read in one go.
    let big = "import os; env = {f'V{n}': 'x' * 100000 for n in range(5)}; env['LD_PRELOAD'] = './m'; \
               os.execve('/bin/true', ['true'], env)";
    let ran = it.run(&["python3", "-c", big]);
    assert!(ran.err.contains("cannot be preloaded"), "{ran:?}");
    // A file's name is as long and strange as it may be.
    let strange = format!("s\n{}\u{fc}\u{7f}", "x".repeat(240));
    it.sh(&format!("mv m '{strange}'; './{strange}' FVM; mv '{strange}' m")).expect(0);
    it.confined(&["sh", "-c", &format!("ln m '{strange}'; './{strange}' FVM; rm '{strange}'")]).expect(0);
    let deep =
        format!("mkdir -p {0}; ln m {0}/m; {0}/m FVM; rm -r {1}", vec!["d".repeat(200); 15].join("/"), "d".repeat(200));
    it.confined(&["sh", "-c", &deep]).expect(0);
    // Too long to be taken along: refused, not cut off.
    it.refused(&["sh", "-c", "./m FVM $(seq 1 30000)"]);
}

#[test]
fn root_what_a_shell_would_run_is_guarded_whatever_it_looks_like_and_documents_are_read() {
    let test = "root_what_a_shell_would_run_is_guarded_whatever_it_looks_like_and_documents_are_read";
    let Some(it) = Guarded::new(test, &[]) else { return };
    it.confined(&["sh", "plain"]).expect(0);
    it.confined(&["bash", "./plain"]).expect(0);
    // What the kernel does not know a shell runs itself: it is not the host's.
    let ran = it.sh("chmod +x plain; ./plain");
    assert!(!ran.out.lines().any(|line| line == "in-"), "{ran:?}");
    it.sh("chmod -x plain").expect(0);
    if has("make") {
        it.refused(&["make"]);
        it.confined(&["make", "-f", "Makefile"]);
    } else {
        eprintln!("not tried: there is no make");
    }
    // Data is not what a script of the host may not read.
    it.sh("printf 'import sys; print(open(sys.argv[1]).read(), end=\"\")\\n' > ../own.py").expect(0);
    assert_eq!(it.run(&["python3", "../own.py", "notes.txt"]).expect(0).out, "text\n");
    assert_eq!(it.sh("read x < notes.txt; echo $x").expect(0).out, "text\n");
    // Known: this way it is read, not run, for all that can be seen.
    assert_eq!(it.sh("bash < plain").expect(0).out, "in-\n", "caught: say so in docs/book/marks.md");
}

#[test]
fn root_copies_in_new_directories_below_a_watched_one_are_guarded() {
    let test = "root_copies_in_new_directories_below_a_watched_one_are_guarded";
    let dir = Lab::new(User::Root);
    std::fs::set_permissions(dir.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let w = dir.dir().to_str().unwrap().to_owned();
    std::fs::create_dir(dir.path("before")).unwrap();
    // There before the guard is, too.
    std::fs::copy("/usr/bin/printenv", dir.path("before/m")).unwrap();
    let Some(it) = Guarded::new(test, &["--watch", &w]) else { return };
    // Marked; and whoever marks waits until the guard has gone through with what it was at.
    let guarded = |path: &str| {
        let is_marked = || rustix::fs::lgetxattr(path, "user.fvm.mark", &mut [0_u8; 0][..]).is_ok();
        it.wait_for(|_| is_marked());
        it.lab.fvm(["mark", "t/notes.txt"]).expect(0);
        it.confined(&[path, "FVM"]).expect(0);
    };
    guarded(&format!("{w}/before/m"));
    let zip = "set -e; zip -q $1.zip m; mkdir -p $1/a; cd $1/a; unzip -q $1.zip";
    let git = "set -e; export HOME=$1 GIT_CONFIG_NOSYSTEM=1; g='git -c user.name=a -c user.email=a@b'; git init -q $1.r; \
               cp m $1.r/m; $g -C $1.r add m; $g -C $1.r commit -qm m; rm $1.r/m; sleep 1; git clone -q $1.r $1/a";
    for (name, words) in [
        ("cp", &["sh", "-c", "mkdir -p $1/a; cp m $1/a/m", "-"][..]),
        ("cp-r", &["sh", "-c", "mkdir $1.t; cp m $1.t; mkdir $1; cp -r $1.t $1/a", "-"]),
        ("tar", &["sh", "-c", "mkdir -p $1/a; tar cf $1.tar m; tar xf $1.tar -C $1/a", "-"]),
        ("zip", &["sh", "-c", zip, "-"]),
        ("git", &["sh", "-c", git, "-"]),
        ("mv", &["sh", "-c", "mkdir -p $1.t/a; cp m $1.t/a; sleep 1; mkdir $1; mv $1.t/a $1/a", "-"]),
    ] {
        if let Some(lacks) = ["git", "zip", "unzip"].into_iter().find(|tool| tool.contains(name) && !has(tool)) {
            eprintln!("not tried: there is no {lacks}");
            continue;
        }
        let at = format!("{w}/{name}");
        it.run(&[words, &[&at]].concat()).expect(0);
        guarded(&format!("{at}/a/m"));
    }
}

#[test]
fn root_more_at_once_than_the_guard_has_room_for_are_refused_and_do_not_end_it() {
    let test = "root_more_at_once_than_the_guard_has_room_for_are_refused_and_do_not_end_it";
    let few = |lab: &Lab| {
        let mut command = lab.command("sh");
        command.args(["-c", "ulimit -n 24; exec \"$0\" \"$@\""]).arg(binary()).arg("--home").arg(lab.home());
        command
    };
    let Some(it) = Guarded::of(test, &[], few) else { return };
    let worker = it.status()["worker"].as_u64();
    let storm = "for i in $(seq 60); do ./m FVM 2>/dev/null & done; wait";
    for _ in 0..3 {
        let ran = it.sh(storm);
        // Whoever runs on the host prints nothing and fails; whoever is in a VM prints its name.
        assert!(ran.out.lines().all(|line| line.starts_with("vm-")), "{ran:?}");
    }
    let status = it.wait_for(|status| status["refused"].as_u64() >= Some(1));
    assert_eq!(status["worker"].as_u64(), worker, "it ended, and let everybody go: {status}");
    it.confined(&["./m", "FVM"]).expect(0);
}

#[test]
fn root_a_thread_that_does_not_sleep_yet_when_it_is_looked_at_is_redirected() {
    let test = "root_a_thread_that_does_not_sleep_yet_when_it_is_looked_at_is_redirected";
    // On the guard's processor, and behind it: the kernel has asked, and the thread was stopped before it could wait.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let cpu = allowed.split(['-', ',']).next().unwrap();
    let on_one = |lab: &Lab| {
        let mut command = lab.command("taskset");
        command.args(["-c", cpu]).arg(binary()).arg("--home").arg(lab.home());
        command
    };
    let Some(it) = Guarded::of(test, &[], on_one) else { return };
    for _ in 0..5 {
        it.confined(&["taskset", "-c", cpu, "chrt", "--idle", "0", "./m", "FVM"]).expect(0);
    }
}

#[test]
fn root_an_fvm_that_was_replaced_is_still_fvm() {
    let test = "root_an_fvm_that_was_replaced_is_still_fvm";
    let place = Lab::new(User::Root);
    std::fs::set_permissions(place.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let fvm = place.path("fvm");
    install(binary(), &fvm);
    let Some(it) = Guarded::by(test, &fvm, &[]) else { return };
    let within = |words: &[&str]| {
        let mut command = it.lab.command(&fvm);
        command.arg("--home").arg(it.lab.home()).args(["run", "--rm", "--"]).args(words);
        ended(command, words)
    };
    let m = it.lab.path("t/m");
    let m = m.to_str().unwrap();
    assert!(is_in_vm(&within(&[m, "FVM"]).expect(0).out));
    it.confined(&["./m", "FVM"]).expect(0);
    install(binary(), &place.path("new"));
    std::fs::rename(place.path("new"), &fvm).unwrap();
    // What runs in VMs of the new one is in VMs, and the new one takes the old one's place on the host.
    assert!(is_in_vm(&within(&[m, "FVM"]).expect(0).out));
    it.confined(&["./m", "FVM"]).expect(0);
    it.confined(&["sh", "m.sh"]).expect(7);
}

#[test]
fn root_what_others_can_replace_is_not_executed_by_everybody() {
    let test = "root_what_others_can_replace_is_not_executed_by_everybody";
    if !fvm_kit::is_root(test) {
        return;
    }
    let lab = Lab::new(User::Root);
    std::fs::set_permissions(lab.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(lab.path("bin")).unwrap();
    let fvm = lab.path("bin/fvm");
    install(binary(), &fvm);
    chown(lab.path("bin"), Some(1234), None).unwrap();
    // Were it installed, it would be in a place of this command alone.
    let own = "mount -t tmpfs none /etc; exec \"$0\" --home \"$1\" guard install";
    for command in [&["sh", "-c", "exec \"$0\" --home \"$1\" guard run"][..], &["unshare", "-m", "sh", "-ec", own]] {
        let mut run = lab.command(command[0]);
        run.args(&command[1..]).arg(&fvm).arg(lab.home());
        let ran = ended(run, command);
        assert!(ran.code == 1 && ran.err.contains("can be changed by others than root"), "{command:?}: {ran:?}");
    }
    assert!(!Path::new("/etc/systemd/system/fvm-guard.service").exists());
}

#[test]
fn root_nobody_hangs_when_the_supervisor_is_killed() {
    let Some(mut it) = Guarded::new("root_nobody_hangs_when_the_supervisor_is_killed", &[]) else { return };
    let worker = it.status()["worker"].as_i64().unwrap();
    let mut many = it.command("sh");
    many.args(["-c", "for i in $(seq 40); do ./m FVM; sh m.sh; done > /dev/null; echo done"]);
    let many = many.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    it.supervisor.kill().unwrap();
    it.supervisor.wait().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(many.wait_with_output()));
    let output = receive.recv_timeout(HANGS).expect("somebody hangs").unwrap();
    assert_eq!(Ran::of(output).expect(0).out, "done\n");
    let gone = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    });
    assert!(gone, "a worker without a supervisor");
}
