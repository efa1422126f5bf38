//! All who had a hand in a file: whoever opened it for writing, moved it, linked it, set its mode, or was in control of whoever did.
//!
//! ```text
//!   npm opens /a      evil opens /a              last writer: evil      hands: npm, evil
//!   npm opens /a      evil links /a /b, opens /b                        hands of both names: npm, evil
//!   npm opens /a      evil attached to npm by ptrace before             hands: npm, evil
//! ```
//!
//! Who wrote a file last is told ([`crate::origin`]); what is taken because of who made it must be theirs alone. A call that is seen
//! may fail, an open file can be written to for ever: a hand is never taken back.
//!
//! Invariants: bounded: of a file that more had a hand in than are kept, nobody alone made it; a hand that came along with others
//! (renames, links) is kept at both ends.

use fvm_model::event::ProcessKey;
use std::collections::HashMap;

/// Hands that are kept of one file.
const HANDS_MAX: usize = 32;
/// Files with several names that are followed.
const GROUPS_MAX: usize = 100_000;

/// A process, and since which event it was what it was then ([`crate::tree::Tree::era`]).
pub type Hand = (ProcessKey, u64);

/// The hands of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hands {
    known: Vec<Hand>,
    /// There are more than are kept.
    is_full: bool,
}

impl Hands {
    /// One more.
    pub fn add(&mut self, hand: Hand) {
        if self.known.iter().any(|(key, seq)| *key == hand.0 && *seq == hand.1) {
            return;
        }
        if self.known.len() >= HANDS_MAX {
            self.is_full = true;
        } else {
            self.known.push(hand);
        }
    }

    /// Those of another.
    pub fn add_all(&mut self, other: &Self) {
        self.is_full |= other.is_full;
        other.known.iter().for_each(|hand| self.add(*hand));
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.is_full
    }

    /// Whether all of them are known, and `is`.
    pub fn are_all(&self, mut is: impl FnMut(Hand) -> bool) -> bool {
        !self.is_full && self.known.iter().all(|hand| is(*hand))
    }
}

/// Files with several names.
#[derive(Debug, Default)]
pub struct Groups(Vec<Hands>);

impl Groups {
    /// A new one; `None` when there are too many.
    pub fn begin(&mut self, hands: Hands) -> Option<u32> {
        if self.0.len() >= GROUPS_MAX {
            return None;
        }
        self.0.push(hands);
        u32::try_from(self.0.len()).ok()
    }

    /// Its hands.
    pub fn get(&mut self, group: u32) -> Option<&mut Hands> {
        self.0.get_mut(usize::try_from(group).ok()?.checked_sub(1)?)
    }

    /// The same.
    #[must_use]
    pub fn peek(&self, group: u32) -> Option<&Hands> {
        self.0.get(usize::try_from(group).ok()?.checked_sub(1)?)
    }
}

/// Who is in control of others: by the number of the process that is controlled.
#[derive(Debug, Default)]
pub struct Controls(HashMap<u32, Hands>);

impl Controls {
    /// Numbers that are remembered.
    const MAX: usize = 64 << 10;

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `by` may do what it likes in process `number` from now on.
    pub fn add(&mut self, number: u32, by: Hand) {
        if self.0.len() < Self::MAX || self.0.contains_key(&number) {
            self.0.entry(number).or_default().add(by);
        }
    }

    /// Who controls process `number`.
    #[must_use]
    pub fn of(&self, number: u32) -> Option<&Hands> {
        self.0.get(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand(tgid: u32, seq: u64) -> Hand {
        (ProcessKey { tgid, start_ns: 1 }, seq)
    }

    #[test]
    fn of_a_file_of_too_many_nobody_alone_is_the_maker() {
        let mut hands = Hands::default();
        assert!(hands.is_empty() && hands.are_all(|_| false));
        (0..HANDS_MAX).for_each(|n| hands.add(hand(n as u32, 1)));
        hands.add(hand(0, 1));
        assert!(hands.are_all(|_| true) && !hands.are_all(|(key, _)| key.tgid != 3));
        hands.add(hand(1000, 1));
        assert!(!hands.are_all(|_| true));
        let mut other = Hands::default();
        other.add_all(&hands);
        assert!(!other.are_all(|_| true));
    }
}
