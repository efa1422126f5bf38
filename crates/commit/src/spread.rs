//! Work on many entries, shared out to the machine's cores.
//!
//! ```text
//!   0..count ─► parts ─► worker ─┐
//!                    └─► worker ─┴─► results, in no order
//!   caller: told now and then how far it is; may end it
//! ```
//!
//! Invariants: no thread is left when this returns; after an error, or when the caller ends it, no further part is begun.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// More do not pay: the file system's own locks are in the way.
const THREADS_MAX: usize = 8;
/// How often the caller is told.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// Does `work` for all of `0..count`, `part` at a time. `go_on` is called with how many are done; `Ok(None)`: it ended it.
pub fn spread<T: Send, E: Send>(
    count: usize,
    part: usize,
    work: impl Fn(Range<usize>) -> Result<T, E> + Sync,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<T>>, E> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(THREADS_MAX).min(count.div_ceil(part));
    if threads < 2 {
        return one_after_another(count, part, work, go_on);
    }
    let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let tell = tell.clone();
            let (next, done, stop, work) = (&next, &done, &stop, &work);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let start = next.fetch_add(part, Ordering::Relaxed);
                    if start >= count {
                        break;
                    }
                    let end = count.min(start + part);
                    let result = work(start..end);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    done.fetch_add(end - start, Ordering::Relaxed);
                    if tell.send(result).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        let (mut results, mut ended, mut failed) = (Vec::new(), false, None);
        loop {
            match told.recv_timeout(TELL_EVERY) {
                Ok(Ok(result)) => results.push(result),
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if !ended && !go_on(done.load(Ordering::Relaxed)) {
                ended = true;
                stop.store(true, Ordering::Relaxed);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok((!ended).then_some(results)),
        }
    })
}

/// [`spread`], on this thread alone.
pub fn one_after_another<T, E>(
    count: usize,
    part: usize,
    work: impl Fn(Range<usize>) -> Result<T, E>,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<T>>, E> {
    let mut results = Vec::new();
    for start in (0..count).step_by(part) {
        if !go_on(start) {
            return Ok(None);
        }
        results.push(work(start..count.min(start + part))?);
    }
    Ok(Some(results))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_one_is_done_once() {
        for count in [0, 1, 7, 64, 1000] {
            let work = |range: Range<usize>| Ok::<_, ()>(range.collect::<Vec<_>>());
            let mut all: Vec<_> = spread(count, 7, work, |_| true).unwrap().unwrap().concat();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_and_the_caller_end_it() {
        let work = |range: Range<usize>| if range.contains(&50) { Err("fifty") } else { Ok(()) };
        assert_eq!(spread(1000, 3, work, |_| true), Err("fifty"));
        let mut calls = 0;
        let ended = spread(
            1_000_000,
            1,
            |_| Ok::<_, ()>(()),
            |_| {
                calls += 1;
                calls < 10
            },
        );
        assert_eq!(ended, Ok(None));
    }
}
