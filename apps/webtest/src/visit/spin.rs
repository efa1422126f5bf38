//! Whether something in a VM spins: a thread that always wants a processor, whether it gets one or not.
//!
//! ```text
//!   /proc/<pid>/task/<tid>/schedstat   ran ns, waited for a processor ns          ─┐
//!                          status      times it gave the processor up by itself    ├─ of each thread, before and after the wait
//! ```
//!
//! How much processor a page was given depends on who else works on the machine; that it never lets go does not. A thread that works a
//! little now and then may wait as long where the machine is busy, but it goes to sleep each time.
//!
//! Invariants: at most [`THREADS_MAX`] threads are looked at; what ends meanwhile is left out (proc_pid_schedstat, sched/stats of the kernel's
//! documentation).

use std::collections::HashMap;
use std::time::Duration;

/// So many threads are looked at; a VM has no more by default (`Params.pids`).
const THREADS_MAX: usize = 1_000;
/// A thread that spins wants the processor for so much of the time at least.
const WANTED: f64 = 0.8;
/// And gives it up by itself so often in a second at most.
const PAUSES_MAX: f64 = 20.0;
/// So long it has to be seen.
pub(super) const SEEN_MIN: Duration = Duration::from_secs(3);

/// What a thread had done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Thread {
    wanted_ns: u64,
    pauses: u64,
}

/// What all threads had done.
#[derive(Debug, Default)]
pub(super) struct Threads(HashMap<i32, Thread>);

impl Threads {
    /// Of these processes of the host's.
    pub fn of(pids: impl IntoIterator<Item = i32>) -> Self {
        let mut threads = HashMap::new();
        for pid in pids {
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for tid in tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok()) {
                let text = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}"));
                if let (Ok(stat), Ok(status)) = (text("schedstat"), text("status"))
                    && let Some(thread) = parse(&stat, &status)
                    && threads.len() < THREADS_MAX
                {
                    threads.insert(tid, thread);
                }
            }
        }
        Self(threads)
    }

    /// Whether one of them has spun since `before`, which was `took` ago.
    pub fn spun_since(&self, before: &Self, took: Duration) -> bool {
        let spins = |tid: &i32, now: &Thread| {
            let then = before.0.get(tid).copied().unwrap_or_default();
            let wanted = Duration::from_nanos(now.wanted_ns.saturating_sub(then.wanted_ns));
            let pauses = now.pauses.saturating_sub(then.pauses) as f64;
            wanted.as_secs_f64() >= WANTED * took.as_secs_f64() && pauses <= PAUSES_MAX * took.as_secs_f64()
        };
        took >= SEEN_MIN && self.0.iter().any(|(tid, now)| spins(tid, now))
    }
}

fn parse(stat: &str, status: &str) -> Option<Thread> {
    let mut words = stat.split_whitespace().map(str::parse::<u64>);
    let (ran, waited) = (words.next()?.ok()?, words.next()?.ok()?);
    let pauses = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()?;
    Some(Thread { wanted_ns: ran.saturating_add(waited), pauses })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(of: &[(i32, u64, u64)]) -> Threads {
        Threads(
            of.iter().map(|(tid, ms, pauses)| (*tid, Thread { wanted_ns: ms * 1_000_000, pauses: *pauses })).collect(),
        )
    }

    #[test]
    fn what_never_lets_go_spins_and_what_sleeps_does_not() {
        let took = Duration::from_secs(4);
        let before = threads(&[(1, 500, 40), (2, 0, 0)]);
        for (after, spins) in [
            (threads(&[(1, 600, 50)]), false),
            (threads(&[(1, 4_400, 45)]), true),
            // Busy machine, short works: as long on the way, but it slept 500 times.
            (threads(&[(1, 4_400, 540)]), false),
            // It came after `before`.
            (threads(&[(9, 3_500, 3)]), true),
            (threads(&[(9, 3_000, 3)]), false),
            (threads(&[]), false),
        ] {
            assert_eq!(after.spun_since(&before, took), spins, "{after:?}");
        }
        assert!(!threads(&[(1, 9_000, 40)]).spun_since(&before, Duration::from_secs(2)), "not seen for long enough");
    }

    #[test]
    fn a_thread_is_read_or_left_out() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(parse("100 20 3\n", status), Some(Thread { wanted_ns: 120, pauses: 7 }));
        for (stat, status) in [("", status), ("1", status), ("a b c", status), ("1 2 3", ""), ("-1 2 3", status)] {
            assert_eq!(parse(stat, status), None, "{stat} {status}");
        }
    }

    #[test]
    fn this_very_thread_is_found() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(Threads::of([me]).0.contains_key(&me));
        assert!(Threads::of([-1]).0.is_empty());
    }
}
