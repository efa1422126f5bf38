//! What the host changed since the VM took its copy.
//!
//! ```text
//!                     fork          copy-up (btime)
//!   ─────────────────┼─────────────────┼──────────────────► time
//!   copied, root      the VM saw it    │ conflict            lower.ctime ≥ upper.btime, or another inode now
//!   all other         │ conflict ······ · ················    lower.ctime > fork
//! ```
//!
//! Invariants: called only for entries that differ, so equal content never conflicts. For a directory ctime moves with
//! every entry, so its metadata conflict only when its ctime moved without its mtime (a heuristic: a chmod of a
//! directory on the host that was followed by a new entry in it is not seen). A renamed directory carries the host's
//! later entries along.

use crate::Known;
use crate::compare::{birth, file_type, time};
use crate::layer::{Found, LayerScan};
use crate::lower::{Visit, Walked};
use crate::overlay::Origin;
use crate::renames::Handles;
use fvm_model::{ChangeKind, FileType, MetaDelta, Timestamp};
use fvm_sys::handle::name_to_handle;
use rustix::fs::Statx;
use std::path::Path;

/// Most host entries visited below deleted directories of one layer.
const SEARCH_MAX_ENTRIES: usize = 2_000_000;

const CHANGED: &str = "changed on the host after the fork";
const CHANGED_AFTER_COPY: &str = "changed on the host after the VM copied it";
const REPLACED: &str = "replaced on the host after the fork";
const CREATED: &str = "created on the host as well";
const DELETED: &str = "deleted on the host after the fork";

impl LayerScan<'_> {
    /// Notes the conflict of every change that has one.
    pub(crate) fn find_conflicts(&mut self, handles: &Handles) {
        let mut budget = SEARCH_MAX_ENTRIES;
        let mut warnings = Vec::new();
        let conflicts: Vec<(usize, String)> = self
            .found
            .iter()
            .enumerate()
            .filter(|(_, f)| !f.dead)
            .filter_map(|(i, f)| self.conflict(f, handles, &mut budget, &mut warnings).map(|c| (i, c)))
            .collect();
        for (rel, what) in warnings {
            self.warn(&rel, what);
        }
        for (index, what) in conflicts {
            let change = &mut self.found[index].change;
            // Both sides wrote the same bytes, and only the time of doing so differs: that is no change.
            let only_times = MetaDelta { times: true, ..MetaDelta::default() };
            if change.kind == (ChangeKind::Metadata { meta: only_times }) && change.file_type != FileType::Directory {
                self.found[index].dead = true;
            } else {
                change.conflict = Some(what);
            }
        }
    }

    fn conflict(
        &self,
        found: &Found,
        handles: &Handles,
        budget: &mut usize,
        warnings: &mut Vec<(std::path::PathBuf, &'static str)>,
    ) -> Option<String> {
        let forked = self.input.based;
        let Some((rel, lower)) = &found.lower else {
            return self.created(found, handles).map(str::to_owned);
        };
        let changed = time(lower.stx_ctime) > forked;
        let removes_dir = file_type(lower) == FileType::Directory;
        match &found.change.kind {
            ChangeKind::Deleted | ChangeKind::Retyped { .. } if removes_dir => {
                let (seen, walked) = self.changed_below(rel, forked, budget);
                if walked == Walked::Partly {
                    warnings.push((
                        found.rel.clone(),
                        "not all of the deleted directory could be checked for host changes",
                    ));
                }
                seen.or_else(|| own_change(lower, forked).then(|| CHANGED.to_owned()))
            }
            ChangeKind::Metadata { meta } | ChangeKind::Renamed { meta, .. } if removes_dir => {
                let ours = meta.mode || meta.owner || meta.xattrs;
                (ours && own_change(lower, forked)).then(|| CHANGED.to_owned())
            }
            ChangeKind::Deleted | ChangeKind::Retyped { .. } => changed.then(|| since(lower, forked).to_owned()),
            _ => self.copied(found, rel, lower, handles).map(str::to_owned),
        }
    }

    /// A file that is compared with a host file.
    fn copied(&self, found: &Found, rel: &Path, lower: &Statx, handles: &Handles) -> Option<&'static str> {
        let forked = self.input.based;
        let changed_since_fork = (time(lower.stx_ctime) > forked).then(|| since(lower, forked));
        let upper = found.upper.as_ref()?;
        // A part of it was committed: what is left was compared with just this version of the host's.
        let now = Known { ino: lower.stx_ino, ctime: time(lower.stx_ctime) };
        if self.input.known.get(&found.change.path) == Some(&now) {
            return None;
        }
        let (Origin::Handle(origin), true) = (&upper.origin, self.trusted()) else {
            return changed_since_fork;
        };
        let current = self.lower_parent(rel).ok().and_then(|(dir, name)| name_to_handle(&dir, name).ok());
        match current {
            Some(current) if current == *origin => {
                let is_own = |born: &Timestamp| self.input.copied.is_none_or(|copied| *born > copied);
                let born = upper.born.filter(is_own).unwrap_or(forked);
                (time(lower.stx_ctime) >= born).then_some(CHANGED_AFTER_COPY)
            }
            // Another host file, that the VM moved here.
            Some(_) if handles.may_know(origin) || self.lives(origin) => changed_since_fork,
            Some(_) => Some(REPLACED),
            None => changed_since_fork,
        }
    }

    /// An entry that looks new, but was copied from a host entry which nobody in the VM removed.
    fn created(&self, found: &Found, handles: &Handles) -> Option<&'static str> {
        if found.change.kind != ChangeKind::Created {
            return None;
        }
        let upper = found.upper.as_ref()?;
        match &upper.origin {
            // The host file that it was copied from is the judge: while that lives, the VM itself took it away.
            Origin::Handle(origin) if self.trusted() => {
                let known = !found.lost && handles.may_know(origin);
                (!known && !self.lives(origin)).then_some(DELETED)
            }
            _ => found.lost.then_some(DELETED),
        }
    }

    /// Whether the host still has that inode.
    fn lives(&self, handle: &fvm_sys::handle::FileHandle) -> bool {
        fvm_sys::handle::exists(&self.lower.root, handle).unwrap_or(false)
    }

    /// The first entry below `top` that the host changed after the fork.
    fn changed_below(&self, top: &Path, forked: Timestamp, budget: &mut usize) -> (Option<String>, Walked) {
        let mut seen = None;
        let walked = self.lower.subtree(top, None, budget, |_, _, rel, stat| {
            let is_dir = file_type(stat) == FileType::Directory;
            let changed = time(stat.stx_ctime) > forked;
            // A directory's own ctime moves with its entries, which are visited too, unless one was removed.
            if changed {
                let what = if is_dir { CHANGED } else { since(stat, forked) };
                seen = Some(format!("{}: {what}", self.lower.host.join(rel)));
                return Visit::Stop;
            }
            Visit::More
        });
        (seen, walked)
    }
}

/// A directory whose metadata moved without its entries.
fn own_change(lower: &Statx, forked: Timestamp) -> bool {
    time(lower.stx_ctime) > forked && time(lower.stx_mtime) <= forked
}

fn since(lower: &Statx, forked: Timestamp) -> &'static str {
    if birth(lower).is_some_and(|b| b > forked) { CREATED } else { CHANGED }
}
