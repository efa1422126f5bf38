//! The processes of a service: the descendants of its monitor, which adopts every orphan below it. None gets away: a
//! process whose parent ends becomes the monitor's own child.

use crate::ps::parse_stat;
use fvm_sys::process;
use rustix::process::Signal;
use std::collections::HashMap;

/// (number, parent) of everything that lives.
fn living() -> Vec<(i32, i32)> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let read = |pid: i32| {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let (_, state, parent) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some((pid, parent))
    };
    pids.filter_map(read).collect()
}

/// Every living process below this one.
pub fn descendants() -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in living() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut pending = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(pid) = pending.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        pending.extend(&below);
        found.extend(below);
    }
    found
}

/// The living children of this process.
pub fn children() -> Vec<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    living().into_iter().filter(|(_, parent)| *parent == own).map(|(pid, _)| pid).collect()
}

/// Sends a signal to every process below this one, but for `spared`. Paused ones wake to see it.
pub fn signal_all(signal: i32, spared: Option<i32>) {
    for pid in descendants() {
        if Some(pid) != spared {
            signal_one(pid, signal);
        }
    }
}

/// Sends a signal to one process, and wakes it.
pub fn signal_one(pid: i32, signal: i32) {
    let _ended = process::kill(pid, signal);
    if signal != Signal::KILL.as_raw() && signal != Signal::CONT.as_raw() {
        let _ended = process::kill(pid, Signal::CONT.as_raw());
    }
}
