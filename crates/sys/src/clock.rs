//! A moment that divides what was done to files into before and after, exactly.
//!
//! ```text
//!   coarse tick          A        now()      B        coarse tick
//!   ────┼────────────────┼──────────┼────────┼─────────────┼──►     A.ctime ≤ now() < B.ctime
//! ```
//!
//! A file's ctime is not the clock's time: it is that of the last tick (4 ms), or a finer one where somebody had looked at the
//! file before, and no later stamp of any file is below that one (multigrain timestamps, Linux 6.13:
//! `Documentation/filesystems/multigrain-ts.rst`). So what a script wrote just before may be stamped later than what
//! `CLOCK_REALTIME_COARSE` says now, and what it writes just after may be stamped earlier than `CLOCK_REALTIME` says now. Only a
//! stamp of the same kind divides them: a file in memory that is looked at, changed, and looked at again.
//!
//! Two file systems stamp by a clock of their own, the last tick and nothing finer (ZFS `gethrestime`, bcachefs `bch2_current_time`):
//! where the kernel has one of them, the answer is the last tick as well.
//!
//! Invariant: no change that follows is stamped at or before the answer, but on file systems that count in whole seconds or let another
//! machine stamp. Where stamps are coarse (those, and kernels before 6.13), a change of the same tick before it may be stamped after
//! it; [`settled`] has none of these either.

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, Mode, Timespec};
use rustix::time::ClockId;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// A tick takes 10 ms at most. A clock that is set back meanwhile is not waited for.
const TICK_MAX_MS: u32 = 20;

/// The last nanosecond of what was.
#[must_use]
pub fn now() -> Timespec {
    Clock::new().now()
}

/// For who asks again and again: making the file takes four times as long as asking it.
#[derive(Debug)]
pub struct Clock(rustix::io::Result<OwnedFd>);

impl Clock {
    /// Makes it.
    #[must_use]
    pub fn new() -> Self {
        Self(rustix::fs::memfd_create(c"fvm-clock", MemfdFlags::CLOEXEC))
    }

    /// As [`now`].
    #[must_use]
    pub fn now(&self) -> Timespec {
        before(self.stamp().0)
    }

    /// What a file would be stamped with that is changed now, and whether that is finer than a tick.
    fn stamp(&self) -> (Timespec, bool) {
        let tick = coarse();
        match self.0.as_ref().map_err(|e| *e).and_then(of_file) {
            Ok(fine) if !has_other_clocks() => (fine, fine != tick && fine != coarse()),
            _ => (tick, false),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The same, but what was done before is never stamped after it: where stamps are coarse, the next tick is waited for (at most 10 ms).
#[must_use]
pub fn settled() -> Timespec {
    let (mut now, is_fine) = Clock::new().stamp();
    let began = now;
    for _ in 0..TICK_MAX_MS {
        if is_fine || (now.tv_sec, now.tv_nsec) > (began.tv_sec, began.tv_nsec) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        now = coarse();
    }
    before(now)
}

fn before(mut at: Timespec) -> Timespec {
    if at.tv_nsec == 0 {
        (at.tv_sec, at.tv_nsec) = (at.tv_sec - 1, 1_000_000_000);
    }
    at.tv_nsec -= 1;
    at
}

fn coarse() -> Timespec {
    rustix::time::clock_gettime(ClockId::RealtimeCoarse)
}

/// File systems that stamp by a clock of their own.
const OTHER_CLOCKS: [&str; 2] = ["zfs", "bcachefs"];

/// Whether this kernel has one of them. Both have parameters, so they are in `/sys/module` also where they are no modules
/// (`Documentation/ABI/stable/sysfs-module`); to read the list of all file systems takes ten times as long (proc(5): filesystems).
fn has_other_clocks() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let modules = Path::new("/sys/module");
        // It is there in every kernel, and so says that the others would be seen.
        if modules.join("kernel").exists() {
            return OTHER_CLOCKS.iter().any(|name| modules.join(name).exists());
        }
        let all = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        all.split_ascii_whitespace().any(|name| OTHER_CLOCKS.contains(&name))
    })
}

/// A first change may only take the tick that just began.
fn of_file(file: &OwnedFd) -> rustix::io::Result<Timespec> {
    let mut stamped = rustix::fs::fstat(file)?;
    for _ in 0..2 {
        rustix::fs::fchmod(file, Mode::RUSR)?;
        stamped = rustix::fs::fstat(file)?;
    }
    Ok(Timespec { tv_sec: stamped.st_ctime, tv_nsec: i64::try_from(stamped.st_ctime_nsec).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_before_and_after_a_moment_is_told_by_its_stamp() {
        let dir = std::env::temp_dir().join(format!("fvm-clock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let stamp = |path: &std::path::Path| {
            let stat = rustix::fs::lstat(path).unwrap();
            (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap())
        };
        let mut before_was_later = 0;
        for _ in 0..500 {
            let (before, looked, after) = (dir.join("before"), dir.join("looked"), dir.join("after"));
            for path in [&before, &looked, &after] {
                let _left = std::fs::remove_file(path);
            }
            std::fs::write(&looked, "").unwrap();
            stamp(&looked);
            std::fs::write(&looked, "x").unwrap();
            std::os::unix::fs::symlink("x", &before).unwrap();
            let now = now();
            std::os::unix::fs::symlink("x", &after).unwrap();
            let now = (now.tv_sec, now.tv_nsec);
            assert!(stamp(&after) > now, "{:?} {now:?}", stamp(&after));
            before_was_later += usize::from(stamp(&before) > now || stamp(&looked) > now);
        }
        for _ in 0..20 {
            let (before, after) = (dir.join("before"), dir.join("after"));
            for path in [&before, &after] {
                let _left = std::fs::remove_file(path);
            }
            std::fs::write(&before, "").unwrap();
            let now = settled();
            std::fs::write(&after, "").unwrap();
            let now = (now.tv_sec, now.tv_nsec);
            assert!(stamp(&before) <= now && stamp(&after) > now, "{:?} {now:?}", stamp(&before));
        }
        std::fs::remove_dir_all(&dir).unwrap();
        let fine = before_was_later == 0;
        let release = rustix::system::uname();
        let version: Vec<u32> = release.release().to_string_lossy().split('.').map_while(|n| n.parse().ok()).collect();
        if version.as_slice() < [6, 13].as_slice() {
            eprintln!("skipped: what was done before: stamps are coarse before Linux 6.13");
            return;
        }
        assert!(fine, "{before_was_later} of 500");
    }
}
