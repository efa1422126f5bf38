//! From a change set and a choice to a plan.
//!
//! ```text
//!   ChangeSet ─┐ select    paths and patterns ─► chosen changes
//!              ├ closure   + what they need, − what cannot be done
//!   Choice ────┘ conflicts fail, skip, VM's or host's version
//!                ops       ─► Plan: every decision made, nothing touched
//!   hunks                     a text change in parts, and the text with only some of them
//! ```
//!
//! Invariants: pure: no file is read, none is written; a conflict is never overridden unless the choice says so; what
//! is left out, added or overridden is listed in the plan.

use fvm_model::plan::{LayerDir, Plan, Pulled, Skipped};
use fvm_model::{ChangeKind, ChangeSet, HostPath, VmPath};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

mod closure;
pub mod hunks;
mod ops;
mod select;

pub use select::key_pattern;

/// What of a change set shall reach the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// These, and all below; empty: everything.
    pub paths: Vec<VmPath>,
    /// Of those, only what matches one of these patterns; empty: everything.
    pub only: Vec<String>,
    /// Of those, nothing that matches one of these patterns.
    pub except: Vec<String>,
    /// Of those, exactly these changes, whatever lies below; `None`: everything.
    pub exact: Option<BTreeSet<VmPath>>,
    /// Content decided by hand, instead of the VM's, for files that the VM modified. A conflict there is settled by it.
    pub given: BTreeMap<VmPath, Given>,
    /// Left out with all that needs them, and why: the caller has good reason, and nobody asked for them by name.
    pub withheld: BTreeMap<VmPath, String>,
    /// What happens to changes whose entry the host changed as well.
    pub on_conflict: OnConflict,
}

/// Content decided by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// All of the file.
    pub bytes: Vec<u8>,
    /// Whether nothing of the VM's change is left out: the VM need not keep its version.
    pub whole: bool,
}

/// What happens to a change whose entry the host changed after the fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Nothing is committed.
    #[default]
    Fail,
    /// It is left out and stays in the VM.
    Skip,
    /// The VM's version replaces the host's.
    Vm,
    /// It is left out, and the caller drops it from the VM after the commit ([`Plan::host_kept`]).
    Host,
    /// As [`OnConflict::Fail`], for whatever the caller could not merge ([`Choice::given`]).
    Merge,
}

/// An entry that both sides changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where, in the VM.
    pub path: VmPath,
    /// Where, on the host.
    pub base: Option<HostPath>,
    /// What the host did.
    pub what: String,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// A path that no change has.
    #[error("the VM changed nothing at or below '{0}'; 'fvm status' lists what it changed")]
    NoSuchChange(VmPath),
    /// A pattern that cannot be read.
    #[error("'{pattern}' is not a valid pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        #[source]
        source: globset::Error,
    },
    /// A path was asked for that can never be committed.
    #[error("'{path}' cannot be committed: {reason}")]
    Uncommittable {
        /// The path.
        path: VmPath,
        /// Why.
        reason: String,
    },
    /// Entries that both sides changed.
    #[error("the host changed too, so nothing is committed:{}", list(.0))]
    Conflicts(Vec<Conflict>),
    /// A change names a layer that was not given, or a path outside it.
    #[error("'{path}' is not in layer {layer} of this VM; scan it again")]
    NoLayer {
        /// The path.
        path: VmPath,
        /// The layer.
        layer: u32,
    },
    /// Content was given for something else than a modified file with one name.
    #[error("'{path}' cannot be committed in part: only files with one name, that the VM modified, can")]
    NotInPart {
        /// The path.
        path: VmPath,
    },
    /// The change set contradicts itself.
    #[error("the change of '{path}' has no {what}; scan the VM again")]
    Incomplete {
        /// The path.
        path: VmPath,
        /// What is missing.
        what: &'static str,
    },
}

fn list(conflicts: &[Conflict]) -> String {
    conflicts.iter().fold(String::new(), |mut text, c| {
        let _infallible = write!(text, "\n  {}: {}", c.path, fvm_model::path::printable(c.what.as_bytes()));
        text
    })
}

/// What of `set` a choice names, before anything is taken along or left out.
///
/// # Errors
/// When the choice names what does not exist, or a pattern cannot be read.
pub fn narrow(set: &ChangeSet, choice: &Choice) -> Result<ChangeSet, ReviewError> {
    let chosen = select::select(&set.changes, choice)?;
    let changes = chosen.into_iter().map(|i| set.changes[i].clone()).collect();
    Ok(ChangeSet { changes, touched: set.touched.clone(), warnings: set.warnings.clone() })
}

/// The changes that a choice asks for by name: by their own path, not that of a directory above, or by a pattern that matches
/// them and not only a directory above.
///
/// # Errors
/// When a pattern cannot be read.
pub fn named(set: &ChangeSet, choice: &Choice) -> Result<BTreeSet<VmPath>, ReviewError> {
    let only = select::Patterns::new(&choice.only)?;
    let is_named = |path: &VmPath| choice.paths.contains(path) || only.names(path);
    Ok(set.changes.iter().map(|change| &change.path).filter(|path| is_named(path)).cloned().collect())
}

/// Decides what of `set` reaches the host, and how.
///
/// # Errors
/// When the choice names what does not exist or cannot be committed, or meets conflicts and says nothing about them.
pub fn decide(set: &ChangeSet, choice: &Choice, layers: &[LayerDir]) -> Result<Plan, ReviewError> {
    let changes = &set.changes;
    let chosen = select::select(changes, choice)?;
    let needs = closure::Needs::new(changes);
    let (mut todo, added) = needs.close(&chosen);
    let mut plan = Plan::default();

    let mut out = BTreeSet::new();
    for i in &todo {
        let Some(reason) = &changes[*i].uncommittable else { continue };
        let named = |path| choice.paths.contains(path) || choice.exact.as_ref().is_some_and(|e| e.contains(path));
        if named(&changes[*i].path) {
            return Err(ReviewError::Uncommittable { path: changes[*i].path.clone(), reason: reason.clone() });
        }
        out.insert(*i);
        plan.skipped.push(Skipped { path: changes[*i].path.clone(), reason: reason.clone() });
    }
    leave_out(&needs, changes, &mut todo, &out, &mut plan);

    let withheld: BTreeSet<usize> =
        todo.iter().copied().filter(|i| choice.withheld.contains_key(&changes[*i].path)).collect();
    for i in &withheld {
        let path = &changes[*i].path;
        plan.skipped.push(Skipped { path: path.clone(), reason: choice.withheld[path].clone() });
    }
    leave_out(&needs, changes, &mut todo, &withheld, &mut plan);

    let is_conflict = |i: &usize| changes[*i].conflict.is_some() && !choice.given.contains_key(&changes[*i].path);
    let conflicts: BTreeSet<usize> = todo.iter().copied().filter(is_conflict).collect();
    let paths = || conflicts.iter().map(|i| changes[*i].path.clone());
    match choice.on_conflict {
        _ if conflicts.is_empty() => {}
        OnConflict::Fail | OnConflict::Merge => {
            let conflict = |i: &usize| Conflict {
                path: changes[*i].path.clone(),
                base: changes[*i].base.clone(),
                what: changes[*i].conflict.clone().unwrap_or_default(),
            };
            return Err(ReviewError::Conflicts(conflicts.iter().map(conflict).collect()));
        }
        OnConflict::Vm => plan.conflicts_overridden = paths().collect(),
        OnConflict::Skip | OnConflict::Host => {
            for i in &conflicts {
                let reason = changes[*i].conflict.clone().unwrap_or_default();
                plan.skipped.push(Skipped { path: changes[*i].path.clone(), reason });
            }
            if choice.on_conflict == OnConflict::Host {
                plan.host_kept = paths().collect();
            }
            leave_out(&needs, changes, &mut todo, &conflicts, &mut plan);
        }
    }

    // What was added for the sake of something that is left out is not needed any more.
    let wanted: Vec<usize> = chosen.iter().copied().filter(|i| todo.contains(i)).collect();
    let (todo, _) = needs.close(&wanted);
    plan.closure = added
        .into_iter()
        .filter(|(i, _)| todo.contains(i))
        .map(|(i, why)| Pulled { path: changes[i].path.clone(), why })
        .collect();
    let kept: HashSet<&VmPath> = todo.iter().map(|i| &changes[*i].path).collect();
    plan.conflicts_overridden.retain(|p| kept.contains(p));
    plan.selected = todo.iter().map(|i| changes[*i].path.clone()).collect();
    let selected: Vec<&fvm_model::Change> = todo.iter().map(|i| &changes[*i]).collect();
    let is_part = |path: &VmPath| choice.given.get(path).is_some_and(|given| !given.whole);
    plan.whole = plan.selected.iter().filter(|path| !is_part(path)).cloned().collect();
    plan.ops = ops::build(&selected, layers, choice)?;
    let all = *choice == Choice { on_conflict: choice.on_conflict, ..Choice::default() } && !plan.ops.is_empty();
    let dirs = ops::dirs(&plan.ops);
    plan.dir_times = set.touched.iter().filter(|t| all || dirs.contains(&t.path)).cloned().collect();
    plan.id = ops::fingerprint(&plan);
    Ok(plan)
}

/// Takes `out` from `todo` with all that depends on it, saying so in the plan.
fn leave_out(
    needs: &closure::Needs<'_>,
    changes: &[fvm_model::Change],
    todo: &mut BTreeSet<usize>,
    out: &BTreeSet<usize>,
    plan: &mut Plan,
) {
    for (i, lost) in needs.drop_dependents(todo, out) {
        let reason = format!("it needs {}, which is left out", changes[lost].path);
        plan.skipped.push(Skipped { path: changes[i].path.clone(), reason });
    }
}

/// Whether committing `kind` needs anything from the layer.
pub(crate) fn has_after(kind: &ChangeKind) -> bool {
    !matches!(kind, ChangeKind::Deleted)
}
