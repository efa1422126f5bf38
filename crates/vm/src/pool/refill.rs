//! When the next VM of a pool is made: not while a program was started just now, not faster than allowed, not without memory.

use fvm_model::pool::PoolRecord;
use std::time::{Duration, Instant};

/// At once no more are being made. A start waits for the kernel most of its time (grace periods of RCU), so more than processors.
const AT_ONCE: usize = 8;
/// So long after a VM was given its program has the processors, unless few are left.
const CALM: Duration = Duration::from_millis(10);
/// After one could not be made, so long, and twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// So long until memory is looked at again.
const MEMORY_AGAIN: Duration = Duration::from_secs(1);

/// The pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    given: Option<Instant>,
    made: Option<Instant>,
    failed: Option<(Instant, Duration)>,
    low: Option<Instant>,
}

/// How many VMs there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    pub ready: usize,
    pub making: usize,
    /// Used ones that will be ready again.
    pub back: usize,
    /// Clients that wait for one.
    pub asked: usize,
}

/// Whether to make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Now,
    At(Instant),
    /// There are enough, or as many as can be made at once.
    Never,
}

impl Pace {
    pub fn gave(&mut self, now: Instant) {
        self.given = Some(now);
    }

    pub fn made(&mut self, now: Instant) {
        self.made = Some(now);
    }

    pub fn succeeded(&mut self) {
        self.failed = None;
    }

    pub fn failed(&mut self, now: Instant) {
        let pause = self.failed.map_or(RETRY_FIRST, |(_, pause)| (pause * 2).min(RETRY_LAST));
        self.failed = Some((now + pause, pause));
    }

    /// There was less memory than is to be left.
    pub fn lacks_memory(&mut self, now: Instant) {
        self.low = Some(now + MEMORY_AGAIN);
    }

    /// What was tried in vain may go now.
    pub fn forgive(&mut self) {
        self.failed = None;
    }

    /// From when on nothing is in the way of a program that was given a VM just now.
    pub fn calm(&self) -> Option<Instant> {
        self.given.map(|given| given + CALM)
    }

    pub fn next(&self, pool: &PoolRecord, count: Count, now: Instant) -> Next {
        let size = pool.size as usize;
        let coming = count.ready + count.making;
        if coming + count.back >= size && coming >= count.asked || count.making >= AT_ONCE {
            return Next::Never;
        }
        let calm = self.given.filter(|_| count.asked == 0 && count.ready * 2 >= size).map(|given| given + CALM);
        let rate = self.made.zip(pool.per_second).map(|(made, rate)| made + Duration::from_secs(1) / rate.max(1));
        let failed = self.failed.map(|(until, _)| until);
        match [calm, rate, failed, self.low].into_iter().flatten().max() {
            Some(at) if at > now => Next::At(at),
            _ => Next::Now,
        }
    }
}

/// Memory that programs may still take without swapping, in bytes (`MemAvailable` of proc_meminfo(5)).
pub(super) fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fvm_model::Policy;

    fn pool(size: u32, per_second: Option<u32>) -> PoolRecord {
        PoolRecord {
            format: 1,
            name: "p".parse().unwrap(),
            size,
            policy: Policy::default(),
            template: None,
            kept: false,
            uses: 1,
            per_second,
            reserve_bytes: 0,
            reach: Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_is_made_several_at_a_time() {
        let (pace, now) = (Pace::default(), Instant::now());
        let next = |ready, making, asked| pace.next(&pool(3, None), Count { ready, making, back: 0, asked }, now);
        assert_eq!(next(0, 0, 0), Next::Now);
        assert_eq!(
            pace.next(&pool(99, None), Count { ready: 0, making: AT_ONCE, back: 0, asked: 0 }, now),
            Next::Never
        );
        assert_eq!(next(3, 0, 0), Next::Never, "enough");
        assert_eq!(next(2, 1, 0), Next::Never, "soon enough");
        assert_eq!(next(2, 1, 4), Next::Now, "more are asked for than are to wait");
        let next = |back, asked| pace.next(&pool(3, None), Count { ready: 0, making: 0, back, asked }, now);
        assert_eq!(next(3, 0), Next::Never, "they come back");
        assert_eq!(next(3, 1), Next::Now, "who knows when");
    }

    #[test]
    fn a_program_that_was_started_goes_first_unless_few_are_left() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.gave(now);
        let next = |ready, asked| pace.next(&pool(4, None), Count { ready, making: 0, back: 0, asked }, now);
        assert_eq!(next(3, 0), Next::At(now + CALM));
        assert_eq!(next(1, 0), Next::Now);
        assert_eq!(next(3, 4), Next::Now);
    }

    #[test]
    fn no_more_are_made_in_a_second_than_allowed() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.made(now);
        let count = Count { ready: 0, making: 0, back: 0, asked: 0 };
        assert_eq!(pace.next(&pool(4, Some(10)), count, now), Next::At(now + Duration::from_millis(100)));
        assert_eq!(pace.next(&pool(4, Some(10)), count, now + Duration::from_millis(100)), Next::Now);
    }

    #[test]
    fn what_cannot_be_made_is_tried_less_and_less_often() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let count = Count { ready: 0, making: 0, back: 0, asked: 0 };
        for pause_s in [1, 2, 4, 8, 16, 32, 60, 60] {
            pace.failed(now);
            assert_eq!(pace.next(&pool(1, None), count, now), Next::At(now + Duration::from_secs(pause_s)));
        }
        pace.succeeded();
        assert_eq!(pace.next(&pool(1, None), count, now), Next::Now);
    }

    #[test]
    fn available_memory_is_read() {
        assert_eq!(available_bytes("MemTotal: 5 kB\nMemAvailable:   12 kB\n"), Some(12 << 10));
        for bad in ["", "MemAvailable: x kB", "MemAvailable: 3", "MemAvailable: 18446744073709551615 kB"] {
            assert_eq!(available_bytes(bad), None, "{bad}");
        }
    }
}
