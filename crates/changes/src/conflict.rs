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
use crate::layer::{Found, Layer, Notes};
use crate::lower::{Visit, Walked};
use crate::overlay::Origin;
use fvm_model::{ChangeKind, FileType, MetaDelta, Timestamp};
use fvm_sys::handle::{FileHandle, name_to_handle};
use rustix::fs::Statx;
use std::path::Path;

/// Most host entries visited below one deleted directory.
const SEARCH_MAX_ENTRIES: usize = 2_000_000;

const CHANGED: &str = "changed on the host after the fork";
const CHANGED_AFTER_COPY: &str = "changed on the host after the VM copied it";
const REPLACED: &str = "replaced on the host after the fork";
const CREATED: &str = "created on the host as well";
const DELETED: &str = "deleted on the host after the fork";

impl Layer<'_> {
    /// Notes the conflict of a change that has one. False when the host made the same change, so that none is left.
    pub(crate) fn find_conflict(&self, found: &mut Found, notes: &mut Notes) -> bool {
        let Some(what) = self.conflict(found, notes) else { return true };
        let change = &mut found.change;
        // Both sides wrote the same bytes, and only the time of doing so differs: that is no change.
        let only_times = MetaDelta { times: true, ..MetaDelta::default() };
        if change.kind == (ChangeKind::Metadata { meta: only_times }) && change.file_type != FileType::Directory {
            return false;
        }
        change.conflict = Some(what);
        true
    }

    fn conflict(&self, found: &Found, notes: &mut Notes) -> Option<String> {
        let forked = self.input.based;
        let Some((rel, lower)) = &found.lower else {
            return self.created(found).map(str::to_owned);
        };
        let changed = time(lower.stx_ctime) > forked;
        let removes_dir = file_type(lower) == FileType::Directory;
        match &found.change.kind {
            ChangeKind::Deleted | ChangeKind::Retyped { .. } if removes_dir => {
                let (seen, walked) = self.changed_below(rel, forked);
                if walked == Walked::Partly {
                    let what = "not all of the deleted directory could be checked for host changes";
                    self.warn(notes, &found.rel, what);
                }
                seen.or_else(|| own_change(lower, forked).then(|| CHANGED.to_owned()))
            }
            ChangeKind::Metadata { meta } | ChangeKind::Renamed { meta, .. } if removes_dir => {
                let ours = meta.mode || meta.owner || meta.xattrs;
                (ours && own_change(lower, forked)).then(|| CHANGED.to_owned())
            }
            ChangeKind::Deleted | ChangeKind::Retyped { .. } => changed.then(|| since(lower, forked).to_owned()),
            _ => self.copied(found, rel, lower).map(str::to_owned),
        }
    }

    /// A file that is compared with a host file.
    fn copied(&self, found: &Found, rel: &Path, lower: &Statx) -> Option<&'static str> {
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
            Some(_) if self.may_live(origin) => changed_since_fork,
            Some(_) => Some(REPLACED),
            None => changed_since_fork,
        }
    }

    /// An entry that looks new, but was copied from a host entry which nobody in the VM removed.
    fn created(&self, found: &Found) -> Option<&'static str> {
        if found.change.kind != ChangeKind::Created {
            return None;
        }
        let upper = found.upper.as_ref()?;
        match &upper.origin {
            // The host file that it was copied from is the judge: while that lives, the VM itself took it away.
            Origin::Handle(origin) if self.trusted() => {
                let lives = if found.lost { self.lives(origin) } else { self.may_live(origin) };
                (!lives).then_some(DELETED)
            }
            _ => found.lost.then_some(DELETED),
        }
    }

    /// Whether the host still has that inode.
    fn lives(&self, handle: &FileHandle) -> bool {
        fvm_sys::handle::exists(&self.lower.root, handle).unwrap_or(false)
    }

    /// As [`Layer::lives`]; where the kernel does not say, whether it may.
    pub(crate) fn may_live(&self, handle: &FileHandle) -> bool {
        let seen = self.known.as_ref().is_some_and(|known| self.all_may_live || known.contains(handle));
        seen || self.lives(handle)
    }

    /// The first entry below `top` that the host changed after the fork.
    fn changed_below(&self, top: &Path, forked: Timestamp) -> (Option<String>, Walked) {
        let (mut seen, mut budget) = (None, SEARCH_MAX_ENTRIES);
        let walked = self.lower.subtree(top, None, &mut budget, |_, _, rel, stat| {
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
