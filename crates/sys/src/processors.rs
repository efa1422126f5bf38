//! On which processor a new process begins.
//!
//! ```text
//!   parent ── fork ──┬── begin_elsewhere(child) ─► it begins on another processor
//!                    └── child, where it began before that: go_elsewhere
//! ```
//!
//! The kernel puts most children behind their parent, on its processor, beside an idle one, and moves none that waits there.
//!
//! Invariant: where a process may run afterwards is what its parent was allowed to.

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Where this process may run.
///
/// # Errors
/// The kernel's.
pub fn affinity() -> Result<CpuSet, Errno> {
    sched_getaffinity(None)
}

/// The processor that this process has just now.
#[must_use]
pub fn current() -> usize {
    sched_getcpu()
}

/// Has `child`, which was just cloned, begin on another processor than this one, where there is one. The kernel often lets it wait for the
/// one that its parent is on, also when another becomes idle a moment later. Afterwards it may run where `own` says, and, where
/// that is everywhere, also on processors that come later. `own`: [`affinity`] before anybody did this to the caller, who may be
/// such a child himself and in the middle of it.
///
/// # Errors
/// The kernel's.
pub fn begin_elsewhere(child: Pid, own: &CpuSet) -> Result<(), Errno> {
    let mut others = *own;
    others.unset(current());
    if others.count() == 0 {
        return Ok(());
    }
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    let placed = sched_setaffinity(Some(child), &others);
    // What is kept of it is what was asked for: a control group or a machine that grows counts.
    let freed = sched_setaffinity(Some(child), &all);
    let is_as_here = sched_getaffinity(Some(child)).is_ok_and(|may| may == *own);
    if !is_as_here {
        sched_setaffinity(Some(child), own)?;
    }
    placed.and(freed)
}

/// The same in a child that began before its parent came to that, on `parents`, the processor that its parent had: there it keeps its
/// parent from going on, beside an idle one.
///
/// # Errors
/// The kernel's.
pub fn go_elsewhere(parents: usize, own: &CpuSet) -> Result<(), Errno> {
    if current() == parents { begin_elsewhere(rustix::process::getpid(), own) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, Fork};

    #[test]
    fn a_child_that_begins_elsewhere_may_run_everywhere_afterwards() {
        let child = match process::fork().expect("it can be forked") {
            Fork::Child => loop {
                std::thread::yield_now();
            },
            Fork::Parent(child) => child,
        };
        let placed = affinity().and_then(|own| begin_elsewhere(child, &own));
        let may = sched_getaffinity(Some(child));
        rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("it can be ended");
        let _ended = process::wait_blocking(child.as_raw_nonzero().get(), false);
        assert_eq!(placed, Ok(()));
        assert_eq!(may.expect("it is there"), sched_getaffinity(None).expect("we are"));
    }
}
