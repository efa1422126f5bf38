//! The difference between two versions of a text, in parts that are taken or left one by one.
//!
//! ```text
//!   old  a b c d e f          hunks   [b → B C'] [e →]
//!   new  a B C' c d f         apply   old, with the chosen ones instead:  all = new, none = old
//! ```
//!
//! ```text
//!   lines ─► trimmed of what begins and ends alike ─► short: similar's Myers
//!                                                     long:  split at lines that both have exactly once, then each
//!                                                     too much work: one hunk
//! ```
//!
//! Invariants: bytes are kept as they are (a line ends after its `\n`; no encoding is assumed); the same two texts
//! always give the same hunks, so no clock ends the search, but a count of steps does: the time is bounded whatever the
//! texts hold; between two hunks lies at least one line that both have.

use similar::{Algorithm, DiffTag, capture_diff_slices};
use std::collections::HashMap;
use std::ops::Range;

/// Lines of one version times lines of the other that are compared in search of the smallest difference. What is left
/// over when it is used up becomes one hunk for each stretch.
const BUDGET: usize = 16_000_000;

/// One place where two texts differ, in lines counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// The lines of the old text that go; empty: lines are only added.
    pub old: Range<usize>,
    /// The lines of the new text that come; empty: lines are only removed.
    pub new: Range<usize>,
}

/// The lines of a text, each with its newline; the last may have none.
#[must_use]
pub fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|b| *b == b'\n').collect()
}

/// Where `old` and `new` differ, in order.
#[must_use]
pub fn hunks(old: &[u8], new: &[u8]) -> Vec<Hunk> {
    let (old, new) = number(&lines(old), &lines(new));
    let mut search = Search { old: &old, new: &new, budget: BUDGET, found: Vec::new() };
    search.between(0..old.len(), 0..new.len(), true);
    search.found
}

/// `old` with those hunks of `hunks(old, new)` that `chosen` says; a missing answer is no.
#[must_use]
pub fn apply(old: &[u8], new: &[u8], chosen: &[bool]) -> Vec<u8> {
    apply_hunks(old, new, &hunks(old, new), chosen)
}

/// [`apply`] for hunks that are known already.
#[must_use]
pub fn apply_hunks(old: &[u8], new: &[u8], hunks: &[Hunk], chosen: &[bool]) -> Vec<u8> {
    let (old, new) = (lines(old), lines(new));
    let mut text = Vec::new();
    let mut at = 0;
    for (i, hunk) in hunks.iter().enumerate() {
        text.extend(old[at..hunk.old.start].iter().copied().flatten());
        let taken = chosen.get(i).copied().unwrap_or(false);
        let part = if taken { &new[hunk.new.clone()] } else { &old[hunk.old.clone()] };
        text.extend(part.iter().copied().flatten());
        at = hunk.old.end;
    }
    text.extend(old[at..].iter().copied().flatten());
    text
}

/// Each line as a number: equal lines, equal numbers.
fn number<'t>(old: &[&'t [u8]], new: &[&'t [u8]]) -> (Vec<usize>, Vec<usize>) {
    let mut known: HashMap<&'t [u8], usize> = HashMap::new();
    let mut number = |line: &&'t [u8]| {
        let next = known.len();
        *known.entry(*line).or_insert(next)
    };
    (old.iter().map(&mut number).collect(), new.iter().map(&mut number).collect())
}

struct Search<'n> {
    old: &'n [usize],
    new: &'n [usize],
    budget: usize,
    found: Vec<Hunk>,
}

impl Search<'_> {
    /// Finds the hunks in these lines; `split`: they may be split at common lines.
    fn between(&mut self, old: Range<usize>, new: Range<usize>, split: bool) {
        let (old, new) = trim(self.old, self.new, old, new);
        let work = old.len().saturating_mul(new.len());
        if work == 0 {
            self.found(old, new);
        } else if work <= self.budget {
            self.budget -= work;
            for op in capture_diff_slices(Algorithm::Myers, &self.old[old.clone()], &self.new[new.clone()]) {
                let (tag, o, n) = op.as_tag_tuple();
                if tag != DiffTag::Equal {
                    self.found(old.start + o.start..old.start + o.end, new.start + n.start..new.start + n.end);
                }
            }
        } else if split {
            let (mut o, mut n) = (old.start, new.start);
            for (in_old, in_new) in anchors(self.old, self.new, old.clone(), new.clone()) {
                self.between(o..in_old, n..in_new, false);
                (o, n) = (in_old + 1, in_new + 1);
            }
            self.between(o..old.end, n..new.end, false);
        } else {
            self.found(old, new);
        }
    }

    /// Notes a difference; one that touches the last is part of it.
    fn found(&mut self, old: Range<usize>, new: Range<usize>) {
        if old.is_empty() && new.is_empty() {
            return;
        }
        match self.found.last_mut() {
            Some(last) if last.old.end == old.start && last.new.end == new.start => {
                last.old.end = old.end;
                last.new.end = new.end;
            }
            _ => self.found.push(Hunk { old, new }),
        }
    }
}

/// Both ranges without the lines with which they begin and end alike.
fn trim(a: &[usize], b: &[usize], mut old: Range<usize>, mut new: Range<usize>) -> (Range<usize>, Range<usize>) {
    while !old.is_empty() && !new.is_empty() && a[old.start] == b[new.start] {
        old.start += 1;
        new.start += 1;
    }
    while !old.is_empty() && !new.is_empty() && a[old.end - 1] == b[new.end - 1] {
        old.end -= 1;
        new.end -= 1;
    }
    (old, new)
}

/// Lines that stand exactly once in either text: the most of them that stand in the same order in both.
fn anchors(a: &[usize], b: &[usize], old: Range<usize>, new: Range<usize>) -> Vec<(usize, usize)> {
    let mut seen: HashMap<usize, (usize, usize, usize, usize)> = HashMap::new();
    for i in old.clone() {
        let entry = seen.entry(a[i]).or_default();
        (entry.0, entry.1) = (entry.0 + 1, i);
    }
    for i in new {
        let entry = seen.entry(b[i]).or_default();
        (entry.2, entry.3) = (entry.2 + 1, i);
    }
    let pairs: Vec<(usize, usize)> = old
        .filter_map(|i| match seen.get(&a[i]) {
            Some((1, _, 1, other)) => Some((i, *other)),
            _ => None,
        })
        .collect();
    // The longest increasing run of places in `new`: the last pair of the best run of each length, and who is before.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![None; pairs.len()];
    for i in 0..pairs.len() {
        let length = ends.partition_point(|end| pairs[*end].1 < pairs[i].1);
        before[i] = length.checked_sub(1).map(|shorter| ends[shorter]);
        if length == ends.len() {
            ends.push(i);
        } else {
            ends[length] = i;
        }
    }
    let mut run: Vec<_> = std::iter::successors(ends.last().copied(), |i| before[*i]).map(|i| pairs[i]).collect();
    run.reverse();
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Numbers below `below`, the same in every run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, below: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % below
        }

        /// A text of lines from a small alphabet, with all that a line can end in.
        fn text(&mut self) -> Vec<u8> {
            const LINES: &[&[u8]] = &[b"a\n", b"b\n", b"c\r\n", b"\n", b"\xff\xfe\n", b"\0\n", b"long line\n", b"\t\n"];
            const ENDS: &[&[u8]] = &[b"", b"", b"a", b"\xff", b"\r"];
            let count = self.roll(12);
            let mut text: Vec<u8> = (0..count).flat_map(|_| LINES[self.roll(LINES.len())]).copied().collect();
            text.extend(ENDS[self.roll(ENDS.len())]);
            text
        }
    }

    fn shown(old: &str, new: &str) -> Vec<(Range<usize>, Range<usize>)> {
        hunks(old.as_bytes(), new.as_bytes()).into_iter().map(|h| (h.old, h.new)).collect()
    }

    #[test]
    fn each_run_of_changed_lines_is_one_hunk() {
        assert_eq!(shown("a\nb\nc\n", "a\nb\nc\n"), []);
        assert_eq!(shown("", "a\nb\n"), [(0..0, 0..2)]);
        assert_eq!(shown("a\n", ""), [(0..1, 0..0)]);
        assert_eq!(shown("a\nb\nc\nd\n", "A\nb\nc\nD\n"), [(0..1, 0..1), (3..4, 3..4)]);
        assert_eq!(shown("a\nb\n", "a\nb"), [(1..2, 1..2)], "a newline more or less is a change");
    }

    #[test]
    fn the_chosen_hunks_and_no_others_are_applied() {
        let (old, new) = (&b"1\n2\n3\n4\n5\n"[..], &b"one\n2\n3\n3b\n4\n"[..]);
        for (chosen, want) in [
            ([true, false, false], &b"one\n2\n3\n4\n5\n"[..]),
            ([false, true, false], b"1\n2\n3\n3b\n4\n5\n"),
            ([false, false, true], b"1\n2\n3\n4\n"),
            ([true, false, true], b"one\n2\n3\n4\n"),
        ] {
            assert_eq!(apply(old, new, &chosen), want, "{chosen:?}");
        }
        assert_eq!(apply(old, new, &[]), old);
    }

    #[test]
    fn all_hunks_make_the_new_text_and_none_leave_the_old_one() {
        let mut dice = Dice(7);
        for round in 0..20_000 {
            let (old, new) = (dice.text(), dice.text());
            let hunks = hunks(&old, &new);
            assert_eq!(apply(&old, &new, &vec![true; hunks.len()]), new, "round {round}");
            assert_eq!(apply(&old, &new, &vec![false; hunks.len()]), old, "round {round}");
            for pair in hunks.windows(2) {
                assert!(pair[0].old.end < pair[1].old.start && pair[0].new.end < pair[1].new.start, "round {round}");
            }
            // Whatever is chosen, the rest is still to be had, and only the last line may lack its newline.
            let chosen: Vec<bool> = hunks.iter().map(|_| dice.roll(2) == 0).collect();
            let mixed = apply(&old, &new, &chosen);
            let ends = lines(&mixed);
            assert!(ends.iter().rev().skip(1).all(|l| l.ends_with(b"\n")), "round {round}");
            let count = |taken: bool| -> isize {
                let size = |r: &Range<usize>| isize::try_from(r.len()).unwrap();
                hunks.iter().zip(&chosen).filter(|(_, c)| **c == taken).map(|(h, _)| size(&h.new) - size(&h.old)).sum()
            };
            assert_eq!(isize::try_from(ends.len()).unwrap(), isize::try_from(lines(&old).len()).unwrap() + count(true));
        }
    }

    #[test]
    fn long_texts_are_split_at_common_lines_and_hostile_ones_end_soon() {
        let numbered = |skip: usize| -> Vec<u8> {
            (0..200_000).filter(|i| i % 1000 != skip).flat_map(|i| format!("{i}\n").into_bytes()).collect()
        };
        let mut dice = Dice(1);
        let mut noise = |kinds: usize| -> Vec<u8> {
            (0..300_000).flat_map(|_| format!("{}\n", dice.roll(kinds)).into_bytes()).collect()
        };
        let began = Instant::now();
        let (old, new) = (numbered(1), numbered(500));
        let found = hunks(&old, &new);
        assert_eq!(found.len(), 400);
        assert_eq!(apply_hunks(&old, &new, &found, &[true; 400]), new);
        for kinds in [2, 5000, 1_000_000] {
            let (old, new) = (noise(kinds), noise(kinds));
            let found = hunks(&old, &new);
            assert_eq!(apply_hunks(&old, &new, &found, &vec![true; found.len()]), new);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}
