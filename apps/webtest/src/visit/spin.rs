//! Whether something in a VM spins: a thread that always wants a processor, whether it gets one or not.
//!
//! ```text
//!   /proc/<pid>/task/<tid>/schedstat   ran ns, waited for a processor ns          ─┐
//!                          status      times it gave the processor up by itself    ├─ of each thread, before and after the wait
//! ```
//!
//! How much processor a page was given depends on who else works on the machine; that it never lets go does not. A thread that works a
//! little now and then may wait as long where the machine is busy, but it goes to sleep each time; one that works once and long has run for
//! [`RAN_MIN`] at last.
//!
//! ```text
//!   loaded ── 0.5 ─ 1 ─ 2 ─ ... s: not yet? seen from here on ── half of the wait ──┐
//!                                                                                   ▼
//!                     ┌────────────────────────────── end of the wait: spins since? ─ no ──► the last look
//!                     └── LONGER ◄─ no, and EXTRA_MAX is not over ── for SEEN_MIN? ◄ yes
//!                                                                         └ yes ──► said of the page, the last look
//! ```
//!
//! Invariants: nobody is said to spin who was seen for less than [`SEEN_MIN`], however short the wait is; at most [`THREADS_MAX`] threads are looked at; what ends meanwhile is left out (proc_pid_schedstat, sched/stats of the kernel's
//! documentation).

use super::machine::Machine;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So many threads are looked at; a VM has no more by default (`Params.pids`).
const THREADS_MAX: usize = 1_000;
/// A thread that spins wants the processor for so much of the time at least.
const WANTED: f64 = 0.8;
/// And gives it up by itself so often in a second at most.
const PAUSES_MAX: f64 = 20.0;
/// And has run for so long: a single work of less takes all the time on a busy machine, and is no spinning.
const RAN_MIN: Duration = Duration::from_secs(1);
/// So long it has to be seen.
const SEEN_MIN: Duration = Duration::from_secs(4);
/// Who spins at the end of a wait is watched longer by so much at a time,
pub(super) const LONGER: Duration = Duration::from_millis(500);
/// and by so much at most.
pub(super) const EXTRA_MAX: Duration = Duration::from_secs(12);

/// What a thread had done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Thread {
    ran_ns: u64,
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

    /// What one of them has done since `before`, which was `took` ago: the worst of all.
    fn since(&self, before: &Self, took: Duration) -> Spin {
        let spin = |(tid, now): (&i32, &Thread)| {
            let then = before.0.get(tid).copied().unwrap_or_default();
            let wanted = Duration::from_nanos(now.wanted_ns.saturating_sub(then.wanted_ns));
            let ran = Duration::from_nanos(now.ran_ns.saturating_sub(then.ran_ns));
            let pauses = now.pauses.saturating_sub(then.pauses) as f64;
            if wanted.as_secs_f64() < WANTED * took.as_secs_f64() || pauses > PAUSES_MAX * took.as_secs_f64() {
                Spin::No
            } else if ran < RAN_MIN {
                Spin::Perhaps
            } else {
                Spin::Yes
            }
        };
        self.0.iter().map(spin).max().unwrap_or(Spin::No)
    }
}

/// Whether something spins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spin {
    /// It let go, or was not given all that there is.
    No,
    /// Up to now, but it was not seen for long enough.
    Perhaps,
    /// All the time.
    Yes,
}

/// A moment from which on a VM is watched.
#[derive(Debug)]
pub(super) struct Since {
    at: Instant,
    cpu_us: u64,
    threads: Threads,
}

impl Since {
    /// Before it was asked for anything.
    pub fn begin(machine: &Machine) -> Self {
        Self { at: Instant::now(), cpu_us: machine.usage().cpu_us, threads: Threads::default() }
    }

    /// From now on.
    pub fn now(machine: &Machine) -> Self {
        Self { at: Instant::now(), cpu_us: machine.usage().cpu_us, threads: machine.threads() }
    }

    /// Whether the VM used all of its `cpus` processors since, or one of its threads never let go.
    pub fn spin(&self, machine: &Machine, cpus: f64) -> Spin {
        let took = self.at.elapsed();
        let used = Duration::from_micros(machine.usage().cpu_us.saturating_sub(self.cpu_us));
        let of_all = if used.as_secs_f64() >= WANTED * took.as_secs_f64() * cpus { Spin::Yes } else { Spin::No };
        seen_for(of_all.max(machine.threads().since(&self.threads, took)), took)
    }
}

/// When it is looked whether something spins already: each time after twice as long, in the first half of a wait. What spins has to be
/// fetched first.
#[derive(Debug)]
pub(super) struct Looks {
    began: Instant,
    next: Duration,
    last: Duration,
}

impl Looks {
    /// Of a wait that begins now.
    pub fn new(wait: Duration) -> Self {
        Self { began: Instant::now(), next: LONGER, last: wait / 2 }
    }

    /// Whether it is time.
    pub fn is_time(&mut self, now: Instant) -> bool {
        let is_time = self.next <= self.last && now >= self.began + self.next;
        if is_time {
            self.next *= 2;
        }
        is_time
    }
}

/// Nobody is sure of what was seen for a moment.
fn seen_for(spin: Spin, took: Duration) -> Spin {
    if took < SEEN_MIN { spin.min(Spin::Perhaps) } else { spin }
}

fn parse(stat: &str, status: &str) -> Option<Thread> {
    let mut words = stat.split_whitespace().map(str::parse::<u64>);
    let (ran, waited) = (words.next()?.ok()?, words.next()?.ok()?);
    let pauses = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()?;
    Some(Thread { ran_ns: ran, wanted_ns: ran.saturating_add(waited), pauses })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each: its number, what it ran, what it waited for the processor, its pauses.
    fn threads(of: &[(i32, u64, u64, u64)]) -> Threads {
        let thread = |ran_ms: u64, waited_ms: u64, pauses| Thread {
            ran_ns: ran_ms * 1_000_000,
            wanted_ns: (ran_ms + waited_ms) * 1_000_000,
            pauses,
        };
        Threads(of.iter().map(|(tid, ran, waited, pauses)| (*tid, thread(*ran, *waited, *pauses))).collect())
    }

    #[test]
    fn what_never_lets_go_spins_and_what_sleeps_does_not() {
        let took = Duration::from_secs(4);
        let before = threads(&[(1, 100, 400, 40), (2, 0, 0, 0)]);
        for (after, spins) in [
            (threads(&[(1, 150, 450, 50)]), Spin::No),
            (threads(&[(1, 4_000, 400, 45)]), Spin::Yes),
            // Busy machine: what it got, and what it did not.
            (threads(&[(1, 1_400, 3_000, 45)]), Spin::Yes),
            // Busy machine, short works: as long on the way, but it slept 500 times.
            (threads(&[(1, 1_400, 3_000, 540)]), Spin::No),
            // Busy machine, one work: it may be done in a moment.
            (threads(&[(1, 900, 3_500, 45)]), Spin::Perhaps),
            // It came after `before`.
            (threads(&[(9, 3_500, 0, 3)]), Spin::Yes),
            (threads(&[(9, 3_000, 0, 3)]), Spin::No),
            (threads(&[(1, 150, 450, 50), (9, 3_500, 0, 3), (10, 200, 3_200, 3)]), Spin::Yes),
            (threads(&[]), Spin::No),
        ] {
            assert_eq!(after.since(&before, took), spins, "{after:?}");
        }
    }

    #[test]
    fn nobody_is_sure_of_what_was_seen_for_a_moment() {
        for (spin, short) in [(Spin::No, Spin::No), (Spin::Perhaps, Spin::Perhaps), (Spin::Yes, Spin::Perhaps)] {
            assert_eq!(seen_for(spin, SEEN_MIN / 2), short);
            assert_eq!(seen_for(spin, SEEN_MIN), spin);
        }
    }

    #[test]
    fn it_is_looked_ever_more_seldom_and_only_in_the_first_half_of_a_wait() {
        for (wait_s, looks) in [(0, &[][..]), (1, &[500]), (4, &[500, 1_000, 2_000]), (10, &[500, 1_000, 2_000, 4_000])]
        {
            let mut all = Looks::new(Duration::from_secs(wait_s));
            let began = all.began;
            let times = (0..20_000).filter(|ms| all.is_time(began + Duration::from_millis(*ms)));
            assert_eq!(times.collect::<Vec<u64>>(), looks, "{wait_s}");
        }
    }

    #[test]
    fn a_thread_is_read_or_left_out() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(parse("100 20 3\n", status), Some(Thread { ran_ns: 100, wanted_ns: 120, pauses: 7 }));
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
