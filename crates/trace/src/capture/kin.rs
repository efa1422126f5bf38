//! Which process is which, where the kernel's numbers do not tell: keys for all time, and makers that made a sibling.
//!
//! ```text
//!   number 7, begun at tick 900 ─ ends ─ number 7, begun at tick 900 (a VM's root may choose numbers): the second has a nanosecond more
//!   clone(CLONE_PARENT) by 7, whose maker is 5: a child of 5 that begins now is 7's
//! ```
//!
//! Invariants: two processes never have one key; both tables are bounded, and forget the oldest.

use std::collections::{HashMap, VecDeque};

/// Numbers that are remembered.
const NUMBERS_MAX: usize = 64 << 10;
/// Makers of siblings that are remembered.
const SIBLINGS_MAX: usize = 256;
/// So long after the call, in hundredths of a second, a child may begin.
const BIRTH_TICKS: u64 = 100;

/// The last process of a number.
#[derive(Debug, Clone, Copy)]
struct Last {
    pid: i32,
    ticks: u64,
    more: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Kin {
    last: HashMap<u32, Last>,
    siblings: VecDeque<(i32, u32, u64)>,
}

impl Kin {
    /// What is added to the start of process `pid` (`number` in the VM), begun at `ticks`, to tell it from others.
    pub fn more(&mut self, number: u32, pid: i32, ticks: u64) -> u64 {
        if self.last.len() >= NUMBERS_MAX {
            // Only what begins in the same tick can be mistaken.
            self.last.retain(|_, last| last.ticks.saturating_add(1) >= ticks);
        }
        let more = match self.last.get(&number) {
            Some(last) if last.ticks == ticks && last.pid == pid => last.more,
            Some(last) if last.ticks == ticks => last.more + 1,
            _ => 0,
        };
        self.last.insert(number, Last { pid, ticks, more });
        more
    }

    /// `maker`, as the VM numbers it, makes a child of its own maker's, `parent`, at `ticks`.
    pub fn makes_sibling(&mut self, parent: i32, maker: u32, ticks: u64) {
        if self.siblings.len() >= SIBLINGS_MAX {
            self.siblings.pop_front();
        }
        self.siblings.push_back((parent, maker, ticks));
    }

    /// Who made a child of `parent` that began at `ticks`, if not `parent`.
    #[must_use]
    pub fn maker(&self, parent: i32, ticks: u64) -> Option<u32> {
        let begins = |(of, _, at): &&(i32, u32, u64)| {
            *of == parent && (at.saturating_sub(1)..=at + BIRTH_TICKS).contains(&ticks)
        };
        self.siblings.iter().rev().find(begins).map(|(_, maker, _)| *maker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_chosen_twice_in_one_tick_is_two_processes() {
        let mut kin = Kin::default();
        assert_eq!([kin.more(7, 100, 900), kin.more(7, 100, 900), kin.more(8, 101, 900)], [0, 0, 0]);
        assert_eq!([kin.more(7, 102, 900), kin.more(7, 103, 900), kin.more(7, 104, 901)], [1, 2, 0]);
    }

    #[test]
    fn a_child_made_for_another_is_its_makers() {
        let mut kin = Kin::default();
        kin.makes_sibling(5, 7, 1000);
        assert_eq!([kin.maker(5, 1000), kin.maker(5, 999), kin.maker(5, 1050)], [Some(7); 3]);
        assert_eq!([kin.maker(5, 998), kin.maker(5, 1200), kin.maker(6, 1000)], [None; 3]);
        (0..1000).for_each(|n| kin.makes_sibling(9, n, 2000));
        assert!(kin.siblings.len() <= SIBLINGS_MAX && kin.maker(9, 2000) == Some(999));
    }
}
