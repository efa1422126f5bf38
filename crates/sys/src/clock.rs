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
//! Invariant: no change that follows is stamped at or before the answer. Where stamps are coarse (older kernels, file systems
//! without finer ones), a change of the same tick before it may be stamped after it.

use rustix::fs::{MemfdFlags, Mode, Timespec};
use rustix::time::ClockId;

/// The last nanosecond of what was.
#[must_use]
pub fn now() -> Timespec {
    let coarse = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    let mut now = stamp().unwrap_or(coarse);
    if now.tv_nsec == 0 {
        (now.tv_sec, now.tv_nsec) = (now.tv_sec - 1, 1_000_000_000);
    }
    now.tv_nsec -= 1;
    now
}

/// What a file would be stamped with that is changed now. A first change may only take the tick that just began.
fn stamp() -> rustix::io::Result<Timespec> {
    let file = rustix::fs::memfd_create(c"fvm-clock", MemfdFlags::CLOEXEC)?;
    let mut stamped = rustix::fs::fstat(&file)?;
    for _ in 0..2 {
        rustix::fs::fchmod(&file, Mode::RUSR)?;
        stamped = rustix::fs::fstat(&file)?;
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
