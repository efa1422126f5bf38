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
use crate::layer::{Found, Kept, Layer, Notes};
use crate::list::{List, Step};
use crate::lower::{DIR_MAX_ENTRIES, Visit, Walked};
use crate::moves::Survey;
use crate::names::Kind;
use crate::pipeline::sift;
use crate::walk::At;
use crate::{ScanError, list, overlay::Origin};
use fvm_model::{Change, ChangeKind, FileType, HostPath};
use fvm_sys::dir::Dir;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Most host entries visited in search of other names of one file.
const SEARCH_MAX_ENTRIES: usize = 5_000_000;

/// Hard links of one layer.
#[derive(Default)]
pub(crate) struct Links {
    /// By inode of the upper.
    groups: HashMap<u64, Group>,
    /// Host names of changed files that the VM did not touch by that name, by path.
    pub aliases: Vec<Found>,
}

#[derive(Default)]
struct Group {
    /// The how manieth group this is; 0: none.
    number: u32,
    /// In which order they were found.
    order: usize,
    changed: usize,
    /// A name whose content is the host's.
    host: Option<HostPath>,
}

/// A name of a file that has several.
struct Name {
    ino: u64,
    changed: bool,
    unchanged: Option<PathBuf>,
    /// Kept only where the host's file may have other names.
    found: Option<Box<Found>>,
}

impl Layer<'_> {
    /// Finds the files that have several names, and adds a change for every host name of a changed file that the VM did
    /// not touch by that name. `next` is the number of the last group.
    pub(crate) fn find_links(&mut self, survey: Survey, next: &mut u32) -> Result<(), ScanError> {
        let indexed = self.indexed_inodes();
        let several = survey.several(&indexed);
        if several.as_ref().is_some_and(HashSet::is_empty) {
            return Ok(());
        }
        let look = |step: &Step| match step {
            Step::Entry { at, name, kind: Kind::Entry | Kind::File } => {
                self.name(at, Path::new(name), several.as_ref(), &indexed).map(Ok)
            }
            _ => None,
        };
        let mut groups: HashMap<u64, Group> = HashMap::new();
        let (mut templates, mut kept) = (Vec::new(), Kept::default());
        sift(List::new(self, false), &look, &mut |name: Result<Name, ScanError>| {
            let name = name?;
            let order = groups.len();
            let group = groups.entry(name.ino).or_insert_with(|| Group { order, ..Group::default() });
            group.changed += usize::from(name.changed);
            if let Some(rel) = name.unchanged {
                kept.add(rel.as_os_str().len())?;
                group.host = Some(self.lower.host.join(rel));
            }
            if let Some(found) = name.found {
                kept.add(found.rel.as_os_str().len())?;
                templates.push(*found);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for alias in self.find_aliases(&templates) {
            kept.add(alias.rel.as_os_str().len())?;
            if let Some(group) = alias.upper.as_ref().and_then(|upper| groups.get_mut(&upper.ino)) {
                group.changed += 1;
            }
            self.links.aliases.push(alias);
        }
        self.links.aliases.sort_by(|a, b| list::before(&a.change.path, &b.change.path));
        groups.retain(|_, group| group.changed > 0 && group.changed + usize::from(group.host.is_some()) >= 2);
        let mut order: Vec<&mut Group> = groups.values_mut().collect();
        order.sort_by_key(|group| group.order);
        for group in order {
            *next += 1;
            group.number = *next;
        }
        self.links.groups = groups;
        Ok(())
    }

    fn name(&self, at: &At, name: &Path, several: Option<&HashSet<u64>>, indexed: &HashSet<u64>) -> Option<Name> {
        let stat = at.upper.stat(name).ok()?;
        let ino = stat.stx_ino;
        let wanted = stat.stx_nlink > 1 && several.is_none_or(|several| several.contains(&ino));
        if !wanted || file_type(&stat) == FileType::Directory {
            return None;
        }
        let mut notes = Notes::default();
        let (found, _) = self.judge(at, name, None, &mut notes).ok()?;
        let unchanged = notes.unchanged_links.pop().map(|(_, rel)| rel);
        let changed = found.as_ref().is_some_and(|found| found.upper.is_some());
        let found = found.filter(|_| changed && indexed.contains(&ino)).map(Box::new);
        Some(Name { ino, changed, unchanged, found })
    }

    /// The changes for names that the VM did not touch, of files in `found` that it changed by another name.
    fn find_aliases(&mut self, found: &[Found]) -> Vec<Found> {
        let mut aliases = Vec::new();
        let mut done = HashSet::new();
        let mut budget = SEARCH_MAX_ENTRIES;
        for found in found {
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
            if lower.stx_nlink < 2 || upper.origin == Origin::Absent || !done.insert(upper.ino) {
                continue;
            }
            for alias in self.names_of(lower_rel, lower.stx_ino, lower.stx_nlink, &mut budget) {
                let Some(rel) = self.visible_place(&alias) else {
                    continue;
                };
                let change = Change {
                    path: self.vm_path(&rel),
                    kind: kind.clone(),
                    base: Some(self.lower.host.join(&alias)),
                    source: Some(found.change.path.clone()),
                    ..found.change.clone()
                };
                let lower = Some((alias, *lower));
                aliases.push(Found { change, rel, lower, upper: Some(upper.clone()), lost: false, plain: false });
            }
        }
        aliases
    }

    /// Inodes in `work/index`: upper files that stand for host files with several names.
    fn indexed_inodes(&self) -> HashSet<u64> {
        if !self.trusted() {
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
            let mut notes = std::mem::take(&mut self.notes);
            let what = format_args!("the host's file has {} more names {why}", wanted - names.len());
            self.warn(&mut notes, rel, what);
            self.notes = notes;
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

    /// Notes of which group a change is.
    pub(crate) fn group(&self, found: &mut Found) {
        let Some(upper) = found.upper.as_ref().filter(|upper| upper.nlink > 1) else { return };
        let change = &mut found.change;
        if change.file_type == FileType::Directory {
            return;
        }
        if let Some(group) = self.links.groups.get(&upper.ino) {
            change.link_group = Some(group.number);
            change.link_host.clone_from(&group.host);
            if change.kind == ChangeKind::Created {
                change.base.clone_from(&group.host);
            }
        }
    }
}
