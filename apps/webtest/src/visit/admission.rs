//! So many VMs start or end at once, and no more: a hundred that start together keep each other waiting for seconds (median load 12 s
//! against 0.7 s with three at a time, two processors).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// So often whoever waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Who may start or end a VM now.
#[derive(Debug)]
pub struct Admission {
    free: Mutex<u32>,
    freed: Condvar,
}

/// May start or end one, until dropped.
#[derive(Debug)]
#[must_use]
pub struct Admitted<'a>(&'a Admission);

impl Admission {
    /// For `at_once` at once; at least one.
    #[must_use]
    pub fn new(at_once: u32) -> Self {
        Self { free: Mutex::new(at_once.max(1)), freed: Condvar::new() }
    }

    /// Waits for its turn; `None`: `stop` became true first.
    pub fn enter(&self, stop: &AtomicBool) -> Option<Admitted<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            free = self.freed.wait_timeout(free, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Some(Admitted(self))
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn never_more_than_so_many_are_in_and_all_come_in() {
        let (admission, stop) = (Admission::new(3), AtomicBool::new(false));
        let (now, most, came) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _in = admission.enter(&stop).unwrap();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        came.fetch_add(1, Ordering::SeqCst);
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(came.into_inner(), 400);
        assert!(most.into_inner() <= 3);
    }

    #[test]
    fn who_waits_hears_of_the_end() {
        let (admission, stop) = (Admission::new(0), AtomicBool::new(false));
        let _one = admission.enter(&stop).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| admission.enter(&stop).is_none());
            stop.store(true, Ordering::Relaxed);
            assert!(waiting.join().unwrap());
        });
    }
}
