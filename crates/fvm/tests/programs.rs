//! [`Fvm::run`] and [`Fvm::spawn`], called by a program that begins with one thread: this one, run again as root and as an ordinary
//! user.
//!
//! ```text
//!   cargo test ─► main ─► the same as each user: STEP DIR ─► steps
//!                                                  └► the same again, to be killed
//! ```
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm::model::{Level, Policy, VmName, VmState, exit};
use fvm::{CAPTURE_MAX_BYTES, Call, Ended, Fvm, FvmError, NewVm, Place, Stream, Streams};
use fvm_kit::{Lab, Ran, User, install, is_root};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the process that is run again is to do.
const STEP: &str = "FVM_TEST_STEP";
/// Where.
const DIR: &str = "FVM_TEST_DIR";

fn main() {
    if let (Some(step), Some(dir)) = (std::env::var_os(STEP), std::env::var_os(DIR)) {
        let fvm = Fvm::open(&Path::new(&dir).join("home"), &Path::new(&dir).join("run")).unwrap();
        return if step == "victim" { victim(&fvm) } else { steps(&fvm, &dir) };
    }
    if !is_root("programs") {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        let own = lab.path("programs");
        install(&std::env::current_exe().unwrap(), &own);
        let mut again = lab.command(&own);
        again.env(STEP, "steps").env(DIR, lab.dir());
        let ran = Ran::of(again.output().unwrap()).expect(0);
        println!("{user:?}: {}", ran.out.trim());
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "nothing is left");
    }
}

fn call(words: &[&str]) -> Call {
    let env = std::env::vars_os().filter(|(name, _)| name != STEP).collect();
    Call { argv: words.iter().map(Into::into).collect(), env, ..Call::default() }
}

fn sh(script: &str) -> Call {
    call(&["sh", "-c", script])
}

fn thrown_away() -> NewVm {
    NewVm { ephemeral: true, ..NewVm::default() }
}

fn named(name: &str) -> NewVm {
    NewVm { name: Some(fvm::vm_name(name).unwrap()), ..NewVm::default() }
}

#[track_caller]
fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn steps(fvm: &Fvm, dir: &OsStr) {
    ends_and_output_are_the_programs(fvm);
    a_signal_reaches_the_program(fvm);
    what_the_other_process_met_is_an_error_with_its_code(fvm);
    a_kept_vm_is_the_callers_when_its_program_has_ended(fvm);
    a_log_holds_all_up_to_the_moment_in_which_it_was_asked_for(fvm);
    a_program_in_a_vm_of_a_pool_is_the_callers(fvm);
    a_program_that_is_killed_takes_its_vms_along_but_not_those_it_detached(fvm, dir);
    // Of all that ended nobody is left; of all that was started one.
    let own = std::process::id().to_string();
    let is_ours = |entry: &std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(own.as_str())
    };
    let children = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(is_ours).count();
    assert_eq!(children, 1, "the forker is the only child");
    println!("ok");
}

fn ends_and_output_are_the_programs(fvm: &Fvm) {
    let ran = fvm.run(&thrown_away(), &sh("echo out; echo err >&2; cat; exit 7")).unwrap();
    assert_eq!(
        (ran.ended, ran.output.as_slice(), ran.errors.as_slice()),
        (Ended::Exited(7), &b"out\n"[..], &b"err\n"[..])
    );
    assert!(!ran.is_cut && fvm.find(ran.vm.id.as_str()).is_err(), "an ephemeral VM is gone");
    assert_eq!(fvm.run(&thrown_away(), &sh("kill -9 $$")).unwrap().ended, Ended::Signaled(9));
    let missing = fvm.run(&thrown_away(), &call(&["no-such-program"])).unwrap().ended;
    assert!(matches!(missing, Ended::NotExecuted(fvm::Step::Execute, 2)), "{missing:?}");
    let more = CAPTURE_MAX_BYTES + 1000;
    let long = fvm.run(&thrown_away(), &call(&["head", "-c", &more.to_string(), "/dev/zero"])).unwrap();
    assert!(
        long.is_cut && long.output.len() == CAPTURE_MAX_BYTES && long.ended == Ended::Exited(0),
        "{}",
        long.output.len()
    );
    // What a program leaves behind in a VM that runs on holds its pipes, and is not waited for.
    let (vm, lock) = fvm.create(&named("stays")).unwrap();
    drop(lock);
    fvm.detach(vm.clone(), &Call::default()).unwrap();
    let ran = fvm.run_in(&vm, &sh("sleep 1000 & echo left")).unwrap();
    assert_eq!((ran.ended, ran.output.as_slice()), (Ended::Exited(0), &b"left\n"[..]));
    fvm.kill(&vm).unwrap();
    fvm.delete(fvm.find("stays").unwrap()).unwrap();
}

fn a_program_in_a_vm_of_a_pool_is_the_callers(fvm: &Fvm) {
    let name = fvm::vm_name("many").unwrap();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let spawn = |call: &Call, output: &std::fs::File, name: Option<&VmName>, keep| {
        let streams = [&null, output, &null].map(AsFd::as_fd);
        fvm.pool_spawn(&fvm::vm_name("many").unwrap(), call, streams, name, keep)
    };
    let missing = spawn(&call(&["true"]), &null, None, false).unwrap_err();
    assert!(matches!(&missing, FvmError::Vm(fvm::VmError::NoPool(_))), "{missing}");
    let policy = Policy { network: fvm::model::Network::None, ..Policy::default() };
    fvm.pool_create(&name, &fvm::NewPool { size: 2, policy, ..fvm::NewPool::default() }).unwrap();
    let pool = fvm.pool(&name).unwrap();
    let status = || fvm.pool_status(&pool).unwrap();
    // One after the other, sooner than the VMs before are gone, and later.
    for pause_ms in [0, 0, 30, 0, 30] {
        let (mut read, write) = std::io::pipe().unwrap();
        let write = std::fs::File::from(std::os::fd::OwnedFd::from(write));
        let mut program = spawn(&sh("echo out; exit 7"), &write, None, false).unwrap();
        drop(write);
        std::thread::sleep(Duration::from_millis(pause_ms));
        assert_eq!(program.wait().unwrap(), Ended::Exited(7));
        assert_eq!(program.wait().unwrap(), Ended::Exited(7), "once more");
        let vm = program.vm().unwrap().id.to_string();
        program.done(false);
        let mut said = String::new();
        read.read_to_string(&mut said).unwrap();
        assert_eq!(said, "out\n");
        wait_for("the end of its VM", || fvm.find(&vm).is_err() && status().used == 0);
    }
    let mut program = spawn(&call(&["no-such-program"]), &null, None, false).unwrap();
    assert!(matches!(program.wait().unwrap(), Ended::NotExecuted(fvm::Step::Execute, 2)));
    drop(program);
    let mut program = spawn(&sh("kill -9 $$"), &null, None, false).unwrap();
    assert_eq!(program.wait().unwrap(), Ended::Signaled(9));
    program.done(true);
    // What cannot be is told when somebody wants to know.
    let mut refused = spawn(&call(&["true"]), &null, None, true).unwrap();
    let why = refused.wait().unwrap_err().to_string();
    assert!(why.contains("cannot be kept") && refused.vm().is_err(), "{why}");
    assert!(refused.finish().is_err());
    // To be looked at; asked for at once, and when its program has ended by itself.
    for pause_ms in [0, 30] {
        let program = spawn(&sh("echo x > /tmp/made; sleep 0.01"), &null, None, false);
        let mut program = program.unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
        program.wait().unwrap();
        let (record, lock) = program.finish().unwrap();
        let changes = fvm.changes(&record).unwrap();
        assert!(changes.changes.iter().any(|change| change.path.as_path() == Path::new("/tmp/made")), "{changes:?}");
        fvm.delete_locked(record, &lock).unwrap();
    }
    // One that is known by name is there at once; dropped, it ends.
    let called = fvm::vm_name("called").unwrap();
    let mut program = spawn(&call(&["sleep", "1000"]), &null, Some(&called), false).unwrap();
    assert_eq!(program.vm().unwrap().name, called);
    assert_eq!(fvm.find("called").unwrap().name, called);
    drop(program);
    wait_for("its end", || fvm.find("called").is_err());
    // Of one that nobody knows the program ends with it, too, however soon.
    let (mut read, write) = std::io::pipe().unwrap();
    let write = std::fs::File::from(std::os::fd::OwnedFd::from(write));
    drop(spawn(&call(&["sleep", "1000"]), &write, None, false).unwrap());
    drop(write);
    assert_eq!(read.read(&mut [0u8]).unwrap(), 0, "nobody has it any more");
    fvm.pool_drain(&name).unwrap();
    wait_for("the end of its keeper", || status().keeper.is_none());
    fvm.pool_delete(&name).unwrap();
}

fn a_signal_reaches_the_program(fvm: &Fvm) {
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let streams = Streams { output: Stream::Pipe, ..Streams::default() };
    let mut child = fvm.spawn(Place::New(&thrown_away()), &sh(script), streams).unwrap();
    let mut output = BufReader::new(child.output.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    child.signal(Signal::TERM).unwrap();
    assert_eq!((line.as_str(), child.wait().unwrap().ended), ("ready\n", Ended::Exited(5)));
}

fn what_the_other_process_met_is_an_error_with_its_code(fvm: &Fvm) {
    let (vm, lock) = fvm.create(&named("gone")).unwrap();
    // Held by this program itself.
    let busy = fvm.run_in(&vm, &call(&["true"])).unwrap_err();
    assert!(matches!(&busy, FvmError::There { code: exit::FAILED, .. }), "{busy}");
    fvm.delete_locked(vm.clone(), &lock).unwrap();
    drop(lock);
    let gone = fvm.run_in(&vm, &call(&["true"])).unwrap_err();
    assert_eq!((gone.exit_code(), gone.hint().is_some()), (exit::NO_SUCH_VM, true), "{gone}");
    let (vm, lock) = fvm.create(&named("taken")).unwrap();
    let taken = fvm.run(&named("taken"), &call(&["true"])).unwrap_err();
    assert!(taken.to_string().contains("'taken'"), "{taken}");
    fvm.delete_locked(vm, &lock).unwrap();
}

fn a_kept_vm_is_the_callers_when_its_program_has_ended(fvm: &Fvm) {
    for _ in 0..10 {
        let ran = fvm.run(&named("kept"), &sh("echo x > /tmp/made")).unwrap();
        // At once: nobody else holds it any more.
        let lock = fvm.lock(&ran.vm).unwrap();
        let changes = fvm.changes(&ran.vm).unwrap();
        assert!(changes.changes.iter().any(|change| change.path.as_path() == Path::new("/tmp/made")), "{changes:?}");
        drop(lock);
        let again = fvm.run_in(&ran.vm, &call(&["cat", "/tmp/made"])).unwrap();
        assert_eq!(again.output, b"x\n");
        fvm.delete(again.vm).unwrap();
    }
}

/// The tracer holds what it saw for a tenth of a second; a program has run that was not looked for, in a VM that never pauses.
fn a_log_holds_all_up_to_the_moment_in_which_it_was_asked_for(fvm: &Fvm) {
    let policy = Policy { trace: Level::Basic, ..Policy::default() };
    let new = NewVm { policy, ..thrown_away() };
    let script = "while :; do /bin/true; done & while read n; do /bin/echo $n; done; kill %1";
    let streams = Streams { input: Stream::Pipe, output: Stream::Pipe, ..Streams::default() };
    let mut child = fvm.spawn(Place::New(&new), &sh(script), streams).unwrap();
    let (mut input, output) = (child.input.take().unwrap(), child.output.take().unwrap());
    let mut output = BufReader::new(output);
    for n in 0..30 {
        let word = format!("word-{n}");
        writeln!(input, "{word}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
        fvm.settle_log(&child.vm).unwrap();
        let mut is_there = false;
        let whole = fvm.events(&child.vm).unwrap().read(&mut |event| {
            is_there |= event.args.argv.iter().any(|argument| argument.0.as_os_str() == word.as_str());
        });
        assert!(is_there && whole.unwrap().is_whole(true), "{word}");
    }
    let vm = child.vm.clone();
    drop(input);
    assert!(matches!(child.wait().unwrap().ended, Ended::Exited(_) | Ended::Signaled(_)));
    assert!(fvm.settle_log(&vm).is_err(), "it has ended");
}

/// A program that begins one VM and one with a keeper of its own.
fn victim(fvm: &Fvm) {
    let child = fvm.spawn(Place::New(&named("victim")), &call(&["sleep", "1000"]), Streams::captured()).unwrap();
    let (own, lock) = fvm.create(&named("own")).unwrap();
    drop(lock);
    fvm.detach(own, &call(&["sleep", "1000"])).unwrap();
    println!("ready");
    child.wait().unwrap();
}

fn a_program_that_is_killed_takes_its_vms_along_but_not_those_it_detached(fvm: &Fvm, dir: &OsStr) {
    let mut again = Command::new(std::env::current_exe().unwrap());
    let mut victim = again.env(STEP, "victim").env(DIR, dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0u8; 6];
    victim.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(fvm.state(&fvm.find("victim").unwrap()).unwrap(), VmState::Running);
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_for("the VM's end", || fvm.state(&fvm.find("victim").unwrap()).unwrap() == VmState::Stopped);
    let own = fvm.find("own").unwrap();
    assert_eq!(fvm.state(&own).unwrap(), VmState::Running, "it has a keeper of its own");
    fvm.stop(&own, 100).unwrap();
    for name in ["victim", "own"] {
        fvm.delete(fvm.find(name).unwrap()).unwrap();
    }
}
