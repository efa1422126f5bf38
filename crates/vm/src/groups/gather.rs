//! Moving a running VM into a control group, whole.
//!
//! Invariant: when [`gather`] returns well, init and all that descends from it are in the group, and so is who is born
//! later.

use crate::ps;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

/// Looks that find nobody outside before it counts: one alone can miss a process whose parent ends just then.
const CLEAN_LOOKS: u32 = 2;

/// Moves init and all that descends from it, until nobody is left outside. Who is born meanwhile is born inside, if the
/// parent was moved already.
///
/// # Errors
/// In words, when the kernel refuses or it is not done by `until`; some may be in the group then.
pub(crate) fn gather(dir: &Path, init: i32, until: Instant) -> Result<(), String> {
    let door = dir.join("cgroup.procs");
    let mut tried = BTreeSet::new();
    let mut clean = 0;
    while clean < CLEAN_LOOKS {
        let inside: BTreeSet<i32> =
            std::fs::read_to_string(&door).unwrap_or_default().lines().filter_map(|pid| pid.parse().ok()).collect();
        let all = ps::descendants(init).into_iter().chain([init]);
        // One that has ended, or ends, cannot be moved any more; its threads, if it has any left, were.
        let is_left = |pid: &i32| !inside.contains(pid) && (!tried.contains(pid) || ps::is_alive(*pid));
        let left: Vec<i32> = all.filter(is_left).collect();
        clean = if left.is_empty() { clean + 1 } else { 0 };
        if !left.is_empty() && Instant::now() > until {
            return Err("its processes make others faster than they can be held; '--pids' limits them".into());
        }
        for pid in left {
            match std::fs::write(&door, pid.to_string()) {
                Ok(()) => {}
                // It has ended.
                Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
                Err(e) => return Err(format!("cannot move a process into {}: {e}", dir.display())),
            }
            tried.insert(pid);
        }
    }
    Ok(())
}
