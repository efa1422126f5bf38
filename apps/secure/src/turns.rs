//! Who is decided about next; pure.
//!
//! ```text
//!   those that wait, in order ─► the first whose owner has fewer at work than one may have ─► at work ─► done
//! ```
//!
//! Invariants: never more than so many are at work, and never more than so many of one owner: whoever makes deciding take long
//! (memory that nobody fills, a file system that does not answer) waits for itself.

use std::collections::{HashMap, VecDeque};

/// So many are decided about at once,
pub(crate) const AT_ONCE_MAX: usize = 64;
/// and of one owner so many.
pub(crate) const OF_ONE_MAX: usize = 16;

/// Those that wait for their turn, and how many have it.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    waiting: VecDeque<(u32, T)>,
    at_work: HashMap<u32, usize>,
    total: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), at_work: HashMap::new(), total: 0 }
    }
}

impl<T> Turns<T> {
    /// One more waits.
    pub fn push(&mut self, owner: u32, one: T) {
        self.waiting.push_back((owner, one));
    }

    /// Whose turn it is now, and its owner; it has it until [`Turns::done`].
    pub fn next(&mut self) -> Option<(u32, T)> {
        if self.total >= AT_ONCE_MAX {
            return None;
        }
        let free = |owner: &u32| self.at_work.get(owner).is_none_or(|n| *n < OF_ONE_MAX);
        let at = self.waiting.iter().position(|(owner, _)| free(owner))?;
        let (owner, one) = self.waiting.remove(at)?;
        *self.at_work.entry(owner).or_default() += 1;
        self.total += 1;
        Some((owner, one))
    }

    /// One of this owner's that had its turn is done.
    pub fn done(&mut self, owner: u32) {
        if let Some(n) = self.at_work.get_mut(&owner) {
            *n -= 1;
            self.total -= 1;
            if *n == 0 {
                self.at_work.remove(&owner);
            }
        }
    }

    /// Only these go on waiting.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.waiting.retain(|(_, one)| keep(one));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_s_are_not_all_that_are_at_work() {
        let mut turns = Turns::default();
        for n in 0..1000 {
            turns.push(1, n);
        }
        turns.push(2, 5000);
        let began: Vec<_> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(began.iter().filter(|(owner, _)| *owner == 1).count(), OF_ONE_MAX);
        assert_eq!(began.last(), Some(&(2, 5000)), "the other one is not behind all of them");
        assert_eq!(turns.next(), None);
        turns.done(1);
        assert_eq!(turns.next(), Some((1, OF_ONE_MAX)), "in order");
        turns.retain(|n| *n == 999);
        turns.done(1);
        assert_eq!((turns.next(), turns.next()), (Some((1, 999)), None));
    }

    #[test]
    fn there_are_never_more_at_work_than_may_be() {
        let mut turns = Turns::default();
        for owner in 0..AT_ONCE_MAX as u32 * 2 {
            turns.push(owner, owner);
        }
        assert_eq!(std::iter::from_fn(|| turns.next()).count(), AT_ONCE_MAX);
        turns.done(0);
        // Who has no turn cannot give one back.
        turns.done(0);
        turns.done(u32::MAX);
        assert_eq!(std::iter::from_fn(|| turns.next()).count(), 1);
    }
}
