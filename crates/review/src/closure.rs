//! What a change cannot do without.
//!
//! ```text
//!   chosen                      needs
//!   anything below a new,       that directory
//!     moved or retyped one
//!   something new at /a         the rename that took /a away
//!   deletion, rename of /d      the renames of what lay in /d (else it would go with it)
//!   a name of a file            the file's other names, if they are chosen as one group
//! ```
//!
//! Invariant: needs are a relation on the change set alone; a change is carried out only together with all it needs.

use fvm_model::{Change, ChangeKind, HostPath, VmPath};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// The change set, by the questions the closure asks.
pub(crate) struct Needs<'c> {
    changes: &'c [Change],
    by_path: HashMap<&'c VmPath, usize>,
    /// Renames by where they come from; descendants follow their directory.
    by_base: BTreeMap<&'c HostPath, usize>,
    by_group: HashMap<u32, Vec<usize>>,
}

/// Why a change needs another one.
#[derive(Clone, Copy)]
enum Need {
    LiesIn,
    TakesItsPlace,
    WasMovedOut,
    SharesItsFile,
}

/// Whether an entry stands there that was not there before, or another one.
pub(crate) fn places(change: &Change) -> bool {
    matches!(change.kind, ChangeKind::Created | ChangeKind::Renamed { .. } | ChangeKind::Retyped { .. })
}

impl<'c> Needs<'c> {
    pub(crate) fn new(changes: &'c [Change]) -> Self {
        let mut needs = Self { changes, by_path: HashMap::new(), by_base: BTreeMap::new(), by_group: HashMap::new() };
        for (i, change) in changes.iter().enumerate() {
            needs.by_path.insert(&change.path, i);
            if let (ChangeKind::Renamed { .. }, Some(base)) = (&change.kind, &change.base) {
                needs.by_base.insert(base, i);
            }
            if let Some(group) = change.link_group {
                needs.by_group.entry(group).or_default().push(i);
            }
        }
        needs
    }

    /// Why `i` needs `j`, in words.
    fn reason(&self, i: usize, j: usize, need: Need) -> String {
        let path = &self.changes[i].path;
        match need {
            Need::LiesIn => format!("{path} lies in it"),
            Need::TakesItsPlace => format!("{path} takes its old place"),
            Need::SharesItsFile => format!("it is a hard link to the same file as {path}"),
            Need::WasMovedOut => {
                let base = |i: usize| self.changes[i].base.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("it was moved out of {} (as {}), which is not there any more", base(i), base(j))
            }
        }
    }

    /// What change `i` needs directly, with the reason.
    fn of(&self, i: usize) -> Vec<(usize, Need)> {
        let change = &self.changes[i];
        let mut needed = Vec::new();
        let mut above = change.path.parent();
        while let Some(dir) = above {
            if let Some(j) = self.by_path.get(&dir).copied().filter(|j| places(&self.changes[*j])) {
                needed.push((j, Need::LiesIn));
                break;
            }
            above = dir.parent();
        }
        if places(change) {
            let mut at = (!self.by_base.is_empty()).then(|| change.path.on_host());
            while let Some(path) = at {
                if let Some(j) = self.by_base.get(&path).copied() {
                    needed.push((j, Need::TakesItsPlace));
                }
                at = path.parent();
            }
        }
        let removes =
            matches!(change.kind, ChangeKind::Deleted | ChangeKind::Renamed { .. } | ChangeKind::Retyped { .. });
        if let (true, Some(base)) = (removes, &change.base) {
            let below = self
                .by_base
                .range::<HostPath, _>(base..)
                .take_while(|(b, _)| b.is_within(base))
                .filter(|(b, _)| **b != base);
            needed.extend(below.map(|(_, j)| (*j, Need::WasMovedOut)));
        }
        if let Some(group) = change.link_group {
            // By way of the first: each naming each would be quadratic, and a file may have any number of names.
            let all = &self.by_group[&group];
            let others = if all.first() == Some(&i) { all.as_slice() } else { &all[..1] };
            needed.extend(others.iter().map(|j| (*j, Need::SharesItsFile)));
        }
        needed.retain(|(j, _)| *j != i);
        needed
    }

    /// `chosen` with all it needs, and for each added one why.
    pub(crate) fn close(&self, chosen: &[usize]) -> (BTreeSet<usize>, BTreeMap<usize, String>) {
        let mut closed: BTreeSet<usize> = chosen.iter().copied().collect();
        let mut why = BTreeMap::new();
        let mut queue: VecDeque<usize> = chosen.iter().copied().collect();
        while let Some(i) = queue.pop_front() {
            for (j, need) in self.of(i) {
                if closed.insert(j) {
                    why.insert(j, self.reason(i, j, need));
                    queue.push_back(j);
                }
            }
        }
        (closed, why)
    }

    /// Takes `out` from `set`, and all that needs one of those; returns what else went and which need it lacked.
    pub(crate) fn drop_dependents(&self, set: &mut BTreeSet<usize>, out: &BTreeSet<usize>) -> Vec<(usize, usize)> {
        if out.is_empty() {
            return Vec::new();
        }
        set.retain(|i| !out.contains(i));
        let mut users: HashMap<usize, Vec<usize>> = HashMap::new();
        for i in set.iter() {
            for (j, _) in self.of(*i) {
                users.entry(j).or_default().push(*i);
            }
        }
        let mut gone = Vec::new();
        let mut queue: VecDeque<usize> = out.iter().copied().collect();
        while let Some(lost) = queue.pop_front() {
            for user in users.get(&lost).into_iter().flatten() {
                if set.remove(user) {
                    gone.push((*user, lost));
                    queue.push_back(*user);
                }
            }
        }
        gone
    }
}
