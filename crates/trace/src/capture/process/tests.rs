//! Processes that are looked at, for real.

use super::*;
use crate::capture::numbers::uid_map;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn processes() -> Processes {
    // As if this test's parent were init: its numbers are the tracer's own.
    let own = rustix::process::getppid().unwrap().as_raw_nonzero().get();
    Processes::new(Numbers::of(own, None), 64)
}

/// Waits until the process has executed what is called so: its name comes before its stack.
fn settled(pid: i32, name: &str) {
    let mut before = Stat::default();
    loop {
        let now = proc::stat(pid).unwrap();
        if now.comm == name.as_bytes() && now.image.0 != 0 && now.image.1 != 0 && now == before {
            return;
        }
        before = now;
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// How many: other programs (perf's cache) may have linked to the file.
fn names_of_sleep() -> Option<u32> {
    let place = ["/usr/bin/sleep", "/bin/sleep"].into_iter().find_map(|place| std::fs::metadata(place).ok());
    place.map(|meta| u32::try_from(std::os::unix::fs::MetadataExt::nlink(&meta)).unwrap())
}

fn id(child: &std::process::Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

#[test]
fn a_user_is_numbered_as_in_the_vm() {
    let uids = uid_map("         0 1073741824 1073741824\n");
    let numbers = Numbers { init: 1, level: 0, uids, mounts: None, ticks: 100 };
    assert_eq!(numbers.user(1_073_741_824 + 1000), 1000);
    assert_eq!(numbers.user(5), 65_534);
}

#[test]
fn a_process_knows_its_maker_and_what_it_executes() {
    let mut known = processes();
    let mut child = Command::new("sh").args(["-c", "read x; exec sleep 100"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = id(&child);
    let wait_for = |name: &str| settled(pid, name);
    wait_for("sh");
    let Caller::Known { tid, .. } = known.caller(pid) else { panic!("{:?}", known.caller(pid)) };
    assert_eq!(tid, child.id());
    let process = known.get(pid).unwrap();
    assert_eq!(process.ppid, std::process::id());
    let before = process.exe.clone();
    assert_eq!(known.renew(pid), Renewed::Same);
    known.mark_stale(pid);
    assert_eq!(known.renew(pid), Renewed::Same);
    drop(child.stdin.take());
    wait_for("sleep");
    known.mark_stale(pid);
    assert_eq!(known.renew(pid), Renewed::Executed(names_of_sleep()));
    assert_ne!(known.get(pid).unwrap().exe, before);
    child.kill().unwrap();
    child.wait().unwrap();
    let ended: Vec<i32> = known.take_ended().into_iter().map(|(pid, _)| pid).collect();
    assert!(ended.contains(&pid), "{ended:?}");
    assert_eq!(known.caller(pid), Caller::Gone);
}

#[test]
fn more_processes_than_can_be_known_are_said_to_be_missing() {
    let mut known = processes();
    known.known_max = 3;
    let mut children: Vec<_> = (0..5).map(|_| Command::new("sleep").arg("100").spawn().unwrap()).collect();
    // Those that ended make room first.
    children[0].kill().unwrap();
    let first = id(&children[0]);
    assert!(matches!(known.caller(first), Caller::Known { .. }));
    children[0].wait().unwrap();
    children[1..3].iter().for_each(|child| assert_ne!(known.caller(id(child)), Caller::Gone));
    assert_eq!((known.take_dropped(), known.count() <= 4), (0, true));
    children[3..].iter().for_each(|child| assert_ne!(known.caller(id(child)), Caller::Gone));
    // Its maker comes along.
    assert!(known.take_dropped() > 0 && known.count() <= 4);
    assert!(known.take_ended().iter().any(|(pid, _)| *pid == first), "its end is told");
    children[1..].iter_mut().for_each(|child| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_process_whose_threads_differ_is_foreign_until_it_executes_something() {
    let mut known = processes();
    let mut child = Command::new("sh").args(["-c", "read x; exec sleep 100"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = id(&child);
    settled(pid, "sh");
    assert_ne!(known.caller(pid), Caller::Gone);
    known.scatter(pid);
    known.mark_stale(pid);
    assert_eq!(known.renew(pid), Renewed::Same);
    assert!(known.get(pid).unwrap().foreign);
    drop(child.stdin.take());
    settled(pid, "sleep");
    assert_eq!(known.renew(pid), Renewed::Executed(names_of_sleep()));
    assert!(!known.get(pid).unwrap().foreign);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_execution_that_takes_its_time_is_seen_when_its_process_does_something() {
    let mut known = processes();
    let mut child = Command::new("sh").args(["-c", "read x; exec sleep 100"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = id(&child);
    settled(pid, "sh");
    known.caller(pid);
    known.asks(pid, child.id());
    // Longer than it is looked at by itself.
    (0..20).for_each(|_| assert_eq!(known.renew(pid), Renewed::Same));
    assert!(!known.has_stale() && known.is_in_doubt(pid));
    drop(child.stdin.take());
    settled(pid, "sleep");
    assert_eq!(known.renew(pid), Renewed::Executed(names_of_sleep()));
    assert!(!known.is_in_doubt(pid));
    known.asks(pid, 5);
    known.goes_on(pid, 6);
    assert!(known.is_in_doubt(pid), "another thread says nothing about it");
    known.goes_on(pid, 5);
    assert!(!known.is_in_doubt(pid));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_child_is_noted_before_its_maker_ends() {
    let mut known = processes();
    let mut child = Command::new("sh")
        .args(["-c", "sleep 100 & echo $!; read x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let grandchild: i32 = line.trim().parse().unwrap();
    assert!(matches!(known.caller(id(&child)), Caller::Known { .. }));
    known.note_children(id(&child));
    assert!(known.take_noted().contains(&grandchild));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(known.get(grandchild).unwrap().ppid, child.id());
    assert!(matches!(known.caller(grandchild), Caller::Known { .. }));
    rustix::process::kill_process(Pid::from_raw(grandchild).unwrap(), rustix::process::Signal::KILL).unwrap();
}
