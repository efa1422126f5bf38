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
//!   loaded ── 0.5 ─ 1 ─ 2 ─ ... ─ half of the wait: moments from which on it may have spun ── end of the wait ◄─────────────┐
//!                                                                                                 │                        │
//!   the last look ◄── yes: said of the page ── since one of them, SEEN_MIN ago at least? ◄────────┘                        │
//!                 ◄── no ───────────────────── since the last of them, nearly? ── yes: from now on, LONGER, EXTRA_MAX in all ┘
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
/// So much of what it wanted may not be in its account yet: what it waited is added when it gets the processor again.
const LATE: Duration = Duration::from_millis(100);
/// Who seems to spin at the end of a wait is watched longer by so much at a time,
pub(super) const LONGER: Duration = Duration::from_millis(500);
/// and by so much at most.
const EXTRA_MAX: Duration = Duration::from_secs(20);

/// What a thread had done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Thread {
    ran_ns: u64,
    wanted_ns: u64,
    pauses: u64,
    /// It has the processor, or waits for it.
    is_ready: bool,
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
            let least = took.mul_f64(WANTED);
            // It wanted it all the time, whatever its account says. (Who slept all the time and was just woken has not paused either.)
            let has_not_paused = pauses == 0.0 && then.is_ready && now.is_ready;
            if pauses > PAUSES_MAX * took.as_secs_f64() || !has_not_paused && wanted + LATE < least {
                Spin::No
            } else if wanted < least || ran < RAN_MIN || took < SEEN_MIN {
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
    /// Up to now, or nearly; but it was not seen for long enough.
    Perhaps,
    /// All the time.
    Yes,
}

/// What a VM had done at a moment.
#[derive(Debug)]
struct Moment {
    at: Instant,
    cpu: Duration,
    threads: Threads,
}

impl Moment {
    fn now(machine: &Machine) -> Self {
        let cpu = Duration::from_micros(machine.usage().cpu_us);
        Self { at: Instant::now(), cpu, threads: machine.threads() }
    }

    /// Whether the VM used all of its `cpus` processors since `before`, or one of its threads never let go.
    fn since(&self, before: &Self, cpus: f64) -> Spin {
        let took = self.at.saturating_duration_since(before.at);
        let of_all = match self.cpu.saturating_sub(before.cpu) >= took.mul_f64(WANTED * cpus) {
            true if took < SEEN_MIN => Spin::Perhaps,
            true => Spin::Yes,
            false => Spin::No,
        };
        of_all.max(self.threads.since(&before.threads, took))
    }
}

/// A wait, and the moments from which on something may have spun: each after twice as long as the one before, in the first half of the
/// wait, for what spins has to be fetched first; then those of the time that it is longer.
#[derive(Debug)]
pub(super) struct Looks {
    began: Instant,
    next: Duration,
    last: Duration,
    extra: Duration,
    from: Vec<Moment>,
}

impl Looks {
    /// Before it is asked for anything: all that it uses, it uses from now on.
    pub fn before(machine: &Machine) -> Self {
        let cpu = Duration::from_micros(machine.usage().cpu_us);
        Self::from(Moment { at: Instant::now(), cpu, threads: Threads::default() }, Duration::ZERO)
    }

    /// Of a wait that begins now. Of none there is nothing to see.
    pub fn new(machine: &Machine, wait: Duration) -> Self {
        if wait.is_zero() {
            return Self { began: Instant::now(), next: LONGER, last: wait, extra: wait, from: Vec::new() };
        }
        Self::from(Moment::now(machine), wait)
    }

    fn from(begin: Moment, wait: Duration) -> Self {
        Self { began: begin.at, next: LONGER, last: wait / 2, extra: Duration::ZERO, from: vec![begin] }
    }

    /// Looks, if it is time.
    pub fn turn(&mut self, machine: &Machine, now: Instant) {
        if self.is_time(now) {
            self.from.push(Moment::now(machine));
        }
    }

    fn is_time(&mut self, now: Instant) -> bool {
        let is_time = self.next <= self.last && now >= self.began + self.next;
        if is_time {
            self.next *= 2;
        }
        is_time
    }

    /// At the end of the wait: whether it spins up to now. To look costs as much as a small page: only if it was seen for long enough.
    pub fn spun(&self, machine: &Machine, cpus: f64) -> bool {
        let is_seen = self.from.first().is_some_and(|first| first.at.elapsed() >= SEEN_MIN);
        is_seen && self.spin_until(&Moment::now(machine), cpus) == Spin::Yes
    }

    fn spin_until(&self, now: &Moment, cpus: f64) -> Spin {
        let mut all = self.from.iter().map(|from| now.since(from, cpus)).rev();
        let last = all.next().unwrap_or(Spin::No);
        if all.any(|spin| spin == Spin::Yes) { Spin::Yes } else { last }
    }

    /// Whether the wait is longer by [`LONGER`], for it seems to spin.
    pub fn longer(&mut self, machine: &Machine, cpus: f64) -> bool {
        if self.extra >= EXTRA_MAX {
            return false;
        }
        let now = Moment::now(machine);
        let is_longer = self.spin_until(&now, cpus) == Spin::Perhaps;
        if is_longer {
            self.extra += LONGER;
            self.from.push(now);
        }
        is_longer
    }
}

fn parse(stat: &str, status: &str) -> Option<Thread> {
    let mut words = stat.split_whitespace().map(str::parse::<u64>);
    let (ran, waited) = (words.next()?.ok()?, words.next()?.ok()?);
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let pauses = field("voluntary_ctxt_switches:")?.parse().ok()?;
    let is_ready = field("State:").is_some_and(|state| state.starts_with('R'));
    Some(Thread { ran_ns: ran, wanted_ns: ran.saturating_add(waited), pauses, is_ready })
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
            is_ready: false,
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
            // It waits, and the kernel has not said so yet.
            (threads(&[(1, 1_400, 2_250, 45)]), Spin::Perhaps),
            (threads(&[(1, 1_400, 2_150, 45)]), Spin::No),
            // It came after `before`.
            (threads(&[(9, 3_500, 0, 3)]), Spin::Yes),
            (threads(&[(9, 2_500, 0, 3)]), Spin::No),
            (threads(&[(1, 150, 450, 50), (9, 3_500, 0, 3), (10, 200, 3_200, 3)]), Spin::Yes),
            (threads(&[]), Spin::No),
        ] {
            assert_eq!(after.since(&before, took), spins, "{after:?}");
        }
        for (pauses, was_ready, is_ready, spins) in [
            (40, true, true, Spin::Perhaps),
            (41, true, true, Spin::No),
            (40, true, false, Spin::No),
            // It slept, and was woken just now.
            (40, false, true, Spin::No),
        ] {
            let (mut then, mut waits) = (threads(&[(1, 100, 400, 40)]), threads(&[(1, 500, 500, pauses)]));
            then.0.get_mut(&1).unwrap().is_ready = was_ready;
            waits.0.get_mut(&1).unwrap().is_ready = is_ready;
            assert_eq!(waits.since(&then, took), spins, "{waits:?}");
        }
        let short = threads(&[(1, 2_100, 400, 45)]);
        assert_eq!(short.since(&before, took / 2), Spin::Perhaps, "not seen for long enough");
    }

    /// From the first moment on, at so many milliseconds, with so many used by all.
    fn moment(of: &Moment, ms: u64, cpu_ms: u64) -> Moment {
        let at = of.at + Duration::from_millis(ms);
        Moment { at, cpu: Duration::from_millis(cpu_ms), threads: Threads::default() }
    }

    fn looks(wait_s: u64) -> Looks {
        let begin = Moment { at: Instant::now(), cpu: Duration::ZERO, threads: Threads::default() };
        Looks::from(begin, Duration::from_secs(wait_s))
    }

    #[test]
    fn it_is_looked_ever_more_seldom_and_only_in_the_first_half_of_a_wait() {
        for (wait_s, times) in [(0, &[][..]), (1, &[500]), (4, &[500, 1_000, 2_000]), (10, &[500, 1_000, 2_000, 4_000])]
        {
            let mut all = looks(wait_s);
            let began = all.began;
            let is_time = |ms: &u64| all.is_time(began + Duration::from_millis(*ms));
            assert_eq!((0..20_000).filter(is_time).collect::<Vec<u64>>(), times, "{wait_s}");
        }
    }

    #[test]
    fn what_all_threads_use_counts_from_any_moment_up_to_now() {
        let mut looks = looks(10);
        for (ms, cpu_ms) in [(500, 100), (1_000, 150), (2_000, 200), (4_000, 300)] {
            let next = moment(&looks.from[0], ms, cpu_ms);
            looks.from.push(next);
        }
        for (ms, cpu_ms, cpus, spin) in [
            (10_000, 300, 1.0, Spin::No),
            // It began after four seconds.
            (10_000, 6_200, 1.0, Spin::Yes),
            (10_000, 6_200, 2.0, Spin::No),
            // And after eight.
            (10_000, 2_300, 1.0, Spin::No),
            (7_000, 3_200, 1.0, Spin::Perhaps),
        ] {
            assert_eq!(looks.spin_until(&moment(&looks.from[0], ms, cpu_ms), cpus), spin, "{ms} {cpu_ms} {cpus}");
        }
        // It did for six seconds, and has stopped.
        let after = moment(&looks.from[0], 10_000, 6_200);
        looks.from.push(after);
        assert_eq!(looks.spin_until(&moment(&looks.from[0], 14_500, 6_300), 1.0), Spin::No);
    }

    #[test]
    fn a_thread_is_read_or_left_out() {
        let status = "Name:\tx\nState:\tR (running)\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(
            parse("100 20 3\n", status),
            Some(Thread { ran_ns: 100, wanted_ns: 120, pauses: 7, is_ready: true })
        );
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
