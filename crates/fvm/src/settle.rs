//! Files that both sides changed, merged: keyed stores by key, texts by line.
//!
//! ```text
//!   base ─── host's version ┐
//!    └────── VM's version ──┴─► merged: what the plan writes instead of the VM's version
//! ```
//!
//! Invariants: nothing is merged without a base; a key, or a line, that both sides changed differently is a conflict; the
//! bytes that were merged are those that the plan expects on the host, so a host edit in between stops the commit.

use crate::bases::Bases;
use fvm_changes::ScanInput;
use fvm_model::{Change, ChangeKind, ChangeSet, FileType, VmPath};
use fvm_registry::{OnKeyConflict, recognise};
use fvm_review::{Choice, Given, OnConflict};
use std::collections::{BTreeMap, BTreeSet};

/// What became of the conflicts.
#[derive(Debug, Default)]
pub struct Settled {
    /// Merged files.
    pub given: BTreeMap<VmPath, Given>,
    /// Why others could not be merged, in words.
    pub why: BTreeMap<VmPath, String>,
}

/// Merges what can be merged of the conflicts in `set`. Keyed stores are always merged; texts when `choice` says so.
pub fn settle(input: &ScanInput, set: &ChangeSet, choice: &Choice, bases: &Bases) -> Settled {
    let mut settled = Settled::default();
    for change in set.changes.iter().filter(|c| c.conflict.is_some() && is_plain(c)) {
        if choice.given.contains_key(&change.path) {
            continue;
        }
        match merge(input, change, choice.on_conflict, bases) {
            Some(Ok(bytes)) => {
                settled.given.insert(change.path.clone(), Given { bytes, whole: true });
            }
            Some(Err(why)) => {
                settled.why.insert(change.path.clone(), why);
            }
            None => {}
        }
    }
    settled
}

/// Whether the change is one of a file's content, and of nothing else's.
pub fn is_plain(change: &Change) -> bool {
    matches!(change.kind, ChangeKind::Modified { .. })
        && change.file_type == FileType::File
        && change.link_group.is_none()
}

fn merge(input: &ScanInput, change: &Change, on: OnConflict, bases: &Bases) -> Option<Result<Vec<u8>, String>> {
    let (host, vm) = fvm_changes::text::contents(input, change).ok()??;
    let on_key = match on {
        OnConflict::Vm => OnKeyConflict::Vm,
        OnConflict::Host => OnKeyConflict::Host,
        OnConflict::Fail | OnConflict::Skip | OnConflict::Merge => OnKeyConflict::Fail,
    };
    if let Some(registry) = recognise(change.path.as_path(), &vm) {
        let Some(base) = bases.content(&change.path) else {
            return Some(Err(format!("it is a {} store, but what it held at the fork is not known", registry.name())));
        };
        return Some(match registry.merge(change.path.as_path(), &base, &vm, &host, None, on_key) {
            Ok(merged) if merged.conflicts.is_empty() => Ok(merged.bytes),
            Ok(merged) => Err(keys(&merged.conflicts)),
            Err(e) => Err(e.to_string()),
        });
    }
    if on != OnConflict::Merge {
        return None;
    }
    if [&host, &vm].iter().any(|text| text.contains(&0)) {
        return Some(Err("it cannot be merged: it is not text".into()));
    }
    let Some(base) = bases.content(&change.path) else {
        return Some(Err("it cannot be merged: what it held at the fork is not known".into()));
    };
    let merged = diffy::merge_bytes(&base, &host, &vm);
    Some(merged.map_err(|_| "it cannot be merged: both sides changed the same lines".into()))
}

fn keys(conflicts: &[fvm_registry::KeyConflict]) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
    let one = |c: &fvm_registry::KeyConflict| {
        format!("{}: {} on the host, {} in the VM", c.key, shown(&c.host), shown(&c.vm))
    };
    format!("both sides changed {}", conflicts.iter().map(one).collect::<Vec<_>>().join("; "))
}

/// The keys that a change of a keyed store makes; `None` when it is no such store, or its base is not known.
pub fn key_changes(
    input: &ScanInput,
    change: &Change,
    bases: &Bases,
) -> Option<(&'static str, Vec<fvm_registry::KeyChange>)> {
    if !is_plain(change) {
        return None;
    }
    let (host, vm) = fvm_changes::text::contents(input, change).ok()??;
    let registry = recognise(change.path.as_path(), &vm)?;
    let base = bases.content(&change.path).or_else(|| change.conflict.is_none().then_some(host))?;
    let keys = registry.diff(change.path.as_path(), &base, &vm).ok()?;
    Some((registry.name(), keys))
}

/// The host's file with only the chosen keys brought over. `Err`: both sides changed one, in words.
pub fn choose_keys(
    input: &ScanInput,
    change: &Change,
    chosen: &BTreeSet<String>,
    on: OnConflict,
    bases: &Bases,
) -> Option<Result<Given, String>> {
    let (host, vm) = fvm_changes::text::contents(input, change).ok()??;
    let registry = recognise(change.path.as_path(), &vm)?;
    let base = bases.content(&change.path).or_else(|| change.conflict.is_none().then(|| host.clone()))?;
    let on_key = match on {
        OnConflict::Vm => OnKeyConflict::Vm,
        OnConflict::Host => OnKeyConflict::Host,
        OnConflict::Fail | OnConflict::Skip | OnConflict::Merge => OnKeyConflict::Fail,
    };
    let all = registry.diff(change.path.as_path(), &base, &vm).ok()?;
    Some(match registry.merge(change.path.as_path(), &base, &vm, &host, Some(chosen), on_key) {
        Ok(merged) if merged.conflicts.is_empty() => {
            Ok(Given { bytes: merged.bytes, whole: all.iter().all(|k| chosen.contains(&k.key)) })
        }
        Ok(merged) => Err(keys(&merged.conflicts)),
        Err(e) => Err(e.to_string()),
    })
}
