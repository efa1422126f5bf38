//! What is chosen, how much that is in each directory, and the way back.
//!
//! ```text
//!   set [(change, taken), ...] ─► taken   one value for each change
//!                                 counts  one for each node of the tree
//!                                 past    what it was before: one entry for each choice that changed anything
//! ```
//!
//! Invariants: a change that cannot be committed is never taken; the counts of a node are the sum of what lies in it;
//! the past is bounded, and forgets the oldest choice first.

use super::tree::Tree;
use fvm::model::Change;
use std::collections::VecDeque;

/// How many earlier values are remembered, over all choices together.
const PAST: usize = 2_000_000;

/// How much of a change is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Nothing.
    No,
    /// All of it.
    Whole,
    /// These hunks of its text: some, but not all.
    Part(Box<[bool]>),
}

impl Taken {
    /// From an answer for each hunk.
    pub fn of(hunks: &[bool]) -> Self {
        match (hunks.contains(&true), hunks.contains(&false)) {
            (true, true) => Self::Part(hunks.into()),
            (true, false) => Self::Whole,
            _ => Self::No,
        }
    }

    /// Whether hunk `i` is chosen.
    pub fn has(&self, i: usize) -> bool {
        match self {
            Self::No => false,
            Self::Whole => true,
            Self::Part(hunks) => hunks.get(i).copied().unwrap_or(false),
        }
    }
}

/// Numbers of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// That can be committed.
    pub all: usize,
    /// That are chosen, as a whole or in part.
    pub chosen: usize,
    /// That are chosen in part.
    pub part: usize,
    /// That are chosen, and the host changed as well.
    pub conflicts: usize,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.all += other.all;
        self.chosen += other.chosen;
        self.part += other.part;
        self.conflicts += other.conflicts;
    }

    /// The box before a row.
    pub fn mark(self) -> &'static str {
        match self {
            Self { all: 0, .. } => "[-]",
            Self { chosen: 0, .. } => "[ ]",
            Self { all, chosen, part: 0, .. } if all == chosen => "[x]",
            _ => "[~]",
        }
    }
}

/// All choices.
#[derive(Debug)]
pub struct Picks {
    taken: Vec<Taken>,
    able: Vec<bool>,
    conflict: Vec<bool>,
    counts: Vec<Count>,
    past: VecDeque<Vec<(usize, Taken)>>,
    remembered: usize,
}

impl Picks {
    /// Nothing is chosen.
    pub fn new(changes: &[Change], tree: &Tree) -> Self {
        let mut picks = Self {
            taken: vec![Taken::No; changes.len()],
            able: changes.iter().map(|c| c.uncommittable.is_none()).collect(),
            conflict: changes.iter().map(|c| c.conflict.is_some()).collect(),
            counts: Vec::new(),
            past: VecDeque::new(),
            remembered: 0,
        };
        picks.recount(tree);
        picks
    }

    /// How much of a change is chosen.
    pub fn taken(&self, change: usize) -> &Taken {
        &self.taken[change]
    }

    /// Whether a change can be committed.
    pub fn able(&self, change: usize) -> bool {
        self.able[change]
    }

    /// What is chosen at and below a node.
    pub fn count(&self, node: usize) -> Count {
        self.counts[node]
    }

    /// One change by itself.
    pub fn count_one(&self, change: usize) -> Count {
        let (able, chosen) = (self.able[change], self.taken[change] != Taken::No);
        Count {
            all: able.into(),
            chosen: chosen.into(),
            part: matches!(self.taken[change], Taken::Part(_)).into(),
            conflicts: (chosen && self.conflict[change]).into(),
        }
    }

    /// One choice, of any number of changes; returns how many it changed.
    pub fn set(&mut self, tree: &Tree, new: impl IntoIterator<Item = (usize, Taken)>) -> usize {
        let before = self.replace(tree, new);
        let changed = before.len();
        if changed > 0 {
            self.remembered += changed;
            self.past.push_back(before);
        }
        while self.remembered > PAST && self.past.len() > 1 {
            self.remembered -= self.past.pop_front().map_or(0, |oldest| oldest.len());
        }
        changed
    }

    /// Takes back the last choice; returns how many changes it was about.
    pub fn undo(&mut self, tree: &Tree) -> Option<usize> {
        let before = self.past.pop_back()?;
        self.remembered -= before.len();
        Some(self.replace(tree, before).len())
    }

    /// Replaces values and returns the earlier ones.
    fn replace(&mut self, tree: &Tree, new: impl IntoIterator<Item = (usize, Taken)>) -> Vec<(usize, Taken)> {
        let mut before = Vec::new();
        for (change, taken) in new {
            if self.able[change] && self.taken[change] != taken {
                before.push((change, std::mem::replace(&mut self.taken[change], taken)));
            }
        }
        if !before.is_empty() {
            self.recount(tree);
        }
        before
    }

    fn recount(&mut self, tree: &Tree) {
        let own = |node: &super::tree::Node| node.change.map(|c| self.count_one(c)).unwrap_or_default();
        let mut counts: Vec<Count> = tree.nodes.iter().map(own).collect();
        for node in (1..counts.len()).rev() {
            let below = counts[node];
            if let Some(parent) = tree.nodes[node].parent {
                counts[parent].add(below);
            }
        }
        self.counts = counts;
    }
}
