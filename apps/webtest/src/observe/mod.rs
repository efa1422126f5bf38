//! What a visit showed, from three sides that do not know of each other.
//!
//! ```text
//!   DevTools messages ─► page, requests ─► what the page did, and what is to be answered to it
//!   log, layers ───────► vm             ─► what the visit did to the VM
//!   page, requests ────► har            ─► HAR 1.2
//! ```
//!
//! Invariants: `page`, `requests` and `har` do no I/O; nothing that a page fills grows without a bound, and what was cut is counted
//! ([`Cut`]); texts of the page's are cut at a character.

pub mod har;
pub mod page;
pub mod requests;
pub mod vm;

use crate::model::TEXT_MAX_BYTES;
use std::collections::BTreeMap;

/// What there was more of than is kept.
#[derive(Debug, Default)]
pub struct Cut(BTreeMap<&'static str, u64>);

impl Cut {
    /// One more of `what` was left out.
    pub fn one(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// In words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        self.0.iter().map(|(what, count)| format!("{what}: {count} more")).collect()
    }
}

/// A text of a page's, as much of it as is kept.
#[must_use]
pub fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Puts `item` into a list that has at most `max`.
fn put<T>(list: &mut Vec<T>, max: usize, item: T, cut: &mut Cut, what: &'static str) {
    if list.len() < max {
        list.push(item);
    } else {
        cut.one(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(bounded("short"), "short");
        let long = "ä".repeat(TEXT_MAX_BYTES);
        assert_eq!(bounded(&long).len(), TEXT_MAX_BYTES);
        let odd = format!("x{long}");
        assert_eq!(bounded(&odd).len(), TEXT_MAX_BYTES - 1);
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let (mut list, mut cut) = (Vec::new(), Cut::default());
        for n in 0..5 {
            put(&mut list, 3, n, &mut cut, "numbers");
        }
        assert_eq!((list, cut.words()), (vec![0, 1, 2], vec!["numbers: 2 more".to_owned()]));
    }
}
