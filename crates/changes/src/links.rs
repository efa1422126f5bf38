//! Hard links: names of one file, in the VM and on the host.
//!
//! ```text
//!   VM: ln f g            f unchanged ──┐
//!                         g Created ────┴─ base = host's f
//!   VM: echo >> x         x Modified ───┐
//!   host: x, y one file   y Modified ───┴─ source = x      (index=on: y shows the new content, but is not in the upper)
//! ```
//!
//! Invariants: a group number is given only where at least two names were seen; searching the host for other names is
//! bounded and never leaves the layer's mount.

use crate::compare::file_type;
use crate::layer::{Found, LayerScan};
use crate::lower::{DIR_MAX_ENTRIES, Visit, Walked};
use crate::{ScanError, overlay::Origin};
use fvm_model::{Change, ChangeKind, FileType};
use fvm_sys::dir::Dir;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Most host entries visited in search of other names of one file.
const SEARCH_MAX_ENTRIES: usize = 5_000_000;

impl LayerScan<'_> {
    /// Adds a change for every host name of a changed file that the VM did not touch by that name.
    pub(crate) fn find_aliases(&mut self) -> Result<(), ScanError> {
        let indexed = self.indexed_inodes();
        if indexed.is_empty() {
            return Ok(());
        }
        let mut done = HashSet::new();
        let mut budget = SEARCH_MAX_ENTRIES;
        for index in 0..self.found.len() {
            let found = &self.found[index];
            let (Some(upper), Some((lower_rel, lower))) = (&found.upper, &found.lower) else {
                continue;
            };
            let kind = match &found.change.kind {
                ChangeKind::Modified { meta } => ChangeKind::Modified { meta: *meta },
                ChangeKind::Metadata { meta } => ChangeKind::Metadata { meta: *meta },
                ChangeKind::Renamed { modified: true, meta } => ChangeKind::Modified { meta: *meta },
                ChangeKind::Renamed { modified: false, meta } if meta.any() => ChangeKind::Metadata { meta: *meta },
                _ => continue,
            };
            let is_indexed = indexed.contains(&upper.ino) && upper.origin != Origin::Absent;
            if found.dead
                || found.change.file_type == FileType::Directory
                || lower.stx_nlink < 2
                || !is_indexed
                || !done.insert(upper.ino)
            {
                continue;
            }
            let (lower_rel, lower, upper) = (lower_rel.clone(), *lower, upper.clone());
            let template = found.change.clone();
            let aliases = self.names_of(&lower_rel, lower.stx_ino, lower.stx_nlink, &mut budget);
            for alias in aliases {
                let Some(rel) = self.visible_place(&alias) else {
                    continue;
                };
                let change = Change {
                    path: self.vm_path(&rel),
                    kind: kind.clone(),
                    base: Some(self.lower.host.join(&alias)),
                    source: Some(template.path.clone()),
                    ..template.clone()
                };
                let lower = Some((alias, lower));
                self.found.push(Found { change, rel, lower, upper: Some(upper.clone()), dead: false, lost: false });
            }
        }
        Ok(())
    }

    /// Inodes in `work/index`: upper files that stand for host files with several names.
    fn indexed_inodes(&self) -> HashSet<u64> {
        if !self.trusted() || !self.found.iter().any(|f| f.lower.as_ref().is_some_and(|(_, s)| s.stx_nlink > 1)) {
            return HashSet::new();
        }
        let Ok(dir) = Dir::open_root(&self.index_path) else {
            return HashSet::new();
        };
        let entries = dir.entries(DIR_MAX_ENTRIES).unwrap_or_default();
        entries.iter().filter_map(|(name, _)| dir.stat(Path::new(name)).ok()).map(|s| s.stx_ino).collect()
    }

    /// All other names of a host file: first near it, then further out.
    fn names_of(&mut self, rel: &Path, ino: u64, nlink: u32, budget: &mut usize) -> Vec<PathBuf> {
        let wanted = usize::try_from(nlink).unwrap_or(usize::MAX);
        let mut names = vec![rel.to_path_buf()];
        let mut searched: Option<PathBuf> = None;
        let mut complete = true;
        for top in rel.ancestors().skip(1) {
            let walked = self.lower.subtree(top, searched.as_deref(), budget, |_, _, child, stat| {
                if stat.stx_ino == ino && file_type(stat) != FileType::Directory && child != rel {
                    names.push(child.to_path_buf());
                }
                if names.len() >= wanted { Visit::Stop } else { Visit::More }
            });
            complete &= walked != Walked::Partly;
            if names.len() >= wanted {
                break;
            }
            searched = Some(top.to_path_buf());
        }
        if names.len() < wanted {
            let why = if complete { "outside this layer" } else { "where the search did not reach" };
            self.warn(rel, format_args!("the host's file has {} more names {why}", wanted - names.len()));
        }
        names.remove(0);
        names
    }

    /// Where the VM sees the host's `lower` entry, if nothing in the upper stands there or hides it.
    fn visible_place(&self, lower: &Path) -> Option<PathBuf> {
        let moved = lower.ancestors().skip(1).find_map(|a| self.claimed.get(a).map(|to| (a, to)));
        let rel = match moved {
            Some((from, to)) => to.join(lower.strip_prefix(from).ok()?),
            None => lower.to_path_buf(),
        };
        let mut dir_rel = rel.parent();
        while let Some(parent) = dir_rel {
            match self.upper.beneath_deep(parent) {
                // The deepest directory that the upper has: not replaced, and without the next name.
                Ok(dir) => {
                    let next = rel.strip_prefix(parent).ok()?.components().next()?;
                    let absent = matches!(dir.stat_opt(Path::new(next.as_os_str())), Ok(None));
                    let opaque = crate::overlay::Marks::read_dir(&dir, self.input.class).is_ok_and(|m| m.opaque);
                    return (absent && !opaque).then_some(rel);
                }
                Err(_) => dir_rel = parent.parent(),
            }
        }
        None
    }

    /// Numbers the groups of names that are one file in the VM.
    pub(crate) fn group_links(&mut self, next: &mut u32) {
        let mut groups: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, found) in self.found.iter().enumerate() {
            if let (false, Some(upper)) = (found.dead, &found.upper)
                && upper.nlink > 1
                && found.change.file_type != FileType::Directory
            {
                groups.entry(upper.ino).or_default().push(index);
            }
        }
        let unchanged: HashMap<u64, &PathBuf> = self.unchanged_links.iter().map(|(ino, rel)| (*ino, rel)).collect();
        let mut groups: Vec<(u64, Vec<usize>)> = groups.into_iter().collect();
        groups.sort_by_key(|(_, members)| members[0]);
        for (ino, members) in groups {
            let host = unchanged.get(&ino).map(|rel| self.lower.host.join(rel));
            if members.len() + usize::from(host.is_some()) < 2 {
                continue;
            }
            *next += 1;
            for index in members {
                let change = &mut self.found[index].change;
                change.link_group = Some(*next);
                change.link_host.clone_from(&host);
                if change.kind == ChangeKind::Created {
                    change.base.clone_from(&host);
                }
            }
        }
    }
}
