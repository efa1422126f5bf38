//! Which created file is a host file that the VM moved.
//!
//! ```text
//!   root      upper g  origin = handle(h) ──┐
//!             lower f  handle = h, deleted ─┴─► Renamed g, base f
//!   rootless  upper g and exactly one deleted lower f of the same size, mtime, mode and bytes; as root where the
//!             note says "copied up", but not from where
//! ```
//!
//! Invariants: a removed host file is the base of at most one rename; a created file at a path that has a host file of
//! its own type is `Modified`, never `Renamed` (so a swap is two modifications).

use crate::compare::{Side, meta, same_content};
use crate::layer::{Candidate, LayerScan};
use crate::lower::{Visit, Walked};
use crate::overlay::Origin;
use fvm_model::{ChangeKind, FileType, Timestamp};
use fvm_sys::dir::Dir;
use fvm_sys::handle::{FileHandle, name_to_handle};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Most entries of deleted directories that are searched for the source of a rename.
const SEARCH_MAX_ENTRIES: usize = 1_000_000;

/// The host files that the VM removed or replaced, by handle.
#[derive(Default)]
pub(crate) struct Handles {
    known: HashSet<FileHandle>,
    /// All of them were looked at.
    complete: bool,
}

impl Handles {
    /// Whether the host still has the inode among what the VM touched; true when that is not certain.
    pub(crate) fn may_know(&self, handle: &FileHandle) -> bool {
        !self.complete || self.known.contains(handle)
    }
}

impl LayerScan<'_> {
    /// Turns deletion + creation of one file into a rename.
    pub(crate) fn match_renames(&mut self) -> Handles {
        if self.trusted() {
            let handles = self.match_by_handle();
            // From a file system without handles, through another overlay, or from another machine.
            let unnamed =
                |f: &crate::layer::Found| f.upper.as_ref().is_some_and(|upper| upper.origin == Origin::Unnamed);
            if self.found.iter().any(unnamed) {
                self.match_by_content(unnamed);
            }
            return handles;
        }
        self.match_by_content(|_| true);
        Handles { known: HashSet::new(), complete: false }
    }

    fn match_by_handle(&mut self) -> Handles {
        let mut handles = Handles { known: std::mem::take(&mut self.seen), complete: true };
        let named = |f: &crate::layer::Found| match &f.upper {
            Some(upper) if f.change.file_type != FileType::Directory => match &upper.origin {
                Origin::Handle(handle) => Some(handle.clone()),
                _ => None,
            },
            _ => None,
        };
        let origins: Vec<(usize, FileHandle)> =
            self.found.iter().enumerate().filter_map(|(i, f)| named(f).map(|h| (i, h))).collect();
        // An edited file in its own place needs no search.
        if origins.iter().all(|(i, h)| self.found[*i].lower.is_some() && handles.known.contains(h)) {
            return handles;
        }
        let mut by_handle: HashMap<FileHandle, Vec<usize>> = HashMap::new();
        for index in 0..self.candidates.len() {
            if let Ok(handle) = self.candidate_handle(&self.candidates[index].rel) {
                handles.known.insert(handle.clone());
                by_handle.entry(handle).or_default().push(index);
            }
        }
        if origins.iter().any(|(_, h)| !handles.known.contains(h)) {
            handles.complete = self.search_gone_dirs(&mut handles.known, &mut by_handle);
        }
        for (found, handle) in origins {
            if self.found[found].change.kind != ChangeKind::Created {
                continue;
            }
            let wanted = self.found[found].change.file_type;
            let free = |c: &&usize| {
                let candidate = &self.candidates[**c];
                !candidate.taken && crate::compare::file_type(&candidate.stat) == wanted
            };
            if let Some(candidate) = by_handle.get(&handle).and_then(|list| list.iter().find(free)).copied() {
                self.rename(found, candidate);
            }
        }
        handles
    }

    fn candidate_handle(&self, rel: &Path) -> Result<FileHandle, Errno> {
        let (dir, name) = self.lower_parent(rel)?;
        name_to_handle(&dir, name)
    }

    /// The lower directory that holds `rel`, and the name there.
    pub(crate) fn lower_parent<'p>(&self, rel: &'p Path) -> Result<(Dir, &'p Path), Errno> {
        let name = rel.file_name().ok_or(Errno::INVAL)?;
        let parent = rel.parent().unwrap_or(Path::new(""));
        Ok((self.lower.open(parent)?.ok_or(Errno::NOENT)?, Path::new(name)))
    }

    /// Adds what deleted directories hold on the host to the candidates; whether all of it was seen.
    fn search_gone_dirs(&mut self, known: &mut HashSet<FileHandle>, by: &mut HashMap<FileHandle, Vec<usize>>) -> bool {
        let mut budget = SEARCH_MAX_ENTRIES;
        let mut complete = true;
        let candidates = &mut self.candidates;
        let claimed = &self.claimed;
        for top in &self.gone_dirs {
            let walked = self.lower.subtree(top, None, &mut budget, |dir, name, rel, stat| {
                if crate::compare::file_type(stat) != FileType::Directory
                    && let Ok(handle) = name_to_handle(dir, name)
                {
                    known.insert(handle.clone());
                    // A directory that was moved out before has taken its files along: they are not gone.
                    if rel.ancestors().skip(1).any(|above| claimed.contains_key(above)) {
                        return Visit::More;
                    }
                    by.entry(handle).or_default().push(candidates.len());
                    candidates.push(Candidate { rel: rel.to_path_buf(), stat: *stat, found: None, taken: false });
                }
                Visit::More
            });
            complete &= walked == Walked::All;
        }
        complete
    }

    fn match_by_content(&mut self, may_be: impl Fn(&crate::layer::Found) -> bool) {
        type Key = (u64, Timestamp, u32);
        let mut pairs: HashMap<Key, (Vec<usize>, Vec<usize>)> = HashMap::new();
        let key = |m: &fvm_model::Meta| (m.size_bytes, m.mtime, m.mode);
        for (index, found) in self.found.iter().enumerate() {
            if let (ChangeKind::Created, Some(after)) = (&found.change.kind, &found.change.after)
                && after.file_type == FileType::File
                && after.size_bytes > 0
                && may_be(found)
            {
                pairs.entry(key(after)).or_default().0.push(index);
            }
        }
        for (index, candidate) in self.candidates.iter().enumerate().filter(|(_, candidate)| !candidate.taken) {
            let meta = meta(&candidate.stat);
            if meta.file_type == FileType::File
                && let Some(pair) = pairs.get_mut(&key(&meta))
            {
                pair.1.push(index);
            }
        }
        // Files of one length, written in one tick of the clock, are told apart by what they hold.
        const SAME_MAX: usize = 8;
        for (created, removed) in pairs.into_values().filter(|(c, r)| c.len() <= SAME_MAX && r.len() <= SAME_MAX) {
            let same = |pair: &(usize, usize)| self.compare(pair.0, pair.1).is_ok_and(|(same, _)| same);
            let all = created.iter().flat_map(|c| removed.iter().map(|r| (*c, *r)));
            let equal: Vec<(usize, usize)> = all.filter(same).collect();
            for (created, removed) in &equal {
                if equal.iter().filter(|(c, r)| c == created || r == removed).count() == 1 {
                    self.rename(*created, *removed);
                }
            }
        }
    }

    fn compare(&self, found: usize, candidate: usize) -> Result<(bool, fvm_model::MetaDelta), Errno> {
        let rel = &self.found[found].rel;
        let upper_dir = self.upper.beneath_deep(rel.parent().unwrap_or(Path::new("")))?;
        let upper_name = Path::new(rel.file_name().ok_or(Errno::INVAL)?);
        let upper_stat = upper_dir.stat(upper_name)?;
        let candidate = &self.candidates[candidate];
        let (lower_dir, lower_name) = self.lower_parent(&candidate.rel)?;
        let upper = Side { dir: &upper_dir, name: upper_name, stat: &upper_stat };
        let lower = Side { dir: &lower_dir, name: lower_name, stat: &candidate.stat };
        Ok((same_content(upper, lower)?, self.meta_delta(upper, lower)?))
    }

    fn rename(&mut self, found: usize, candidate: usize) {
        let (same, delta) = match self.compare(found, candidate) {
            Ok(result) => result,
            Err(e) => {
                let rel = self.found[found].rel.clone();
                self.warn(&rel, format_args!("cannot be compared with the file it was moved from ({e})"));
                return;
            }
        };
        let source = &mut self.candidates[candidate];
        source.taken = true;
        let (from, stat, removed) = (source.rel.clone(), source.stat, source.found);
        let moved = &mut self.found[found];
        moved.change.kind = ChangeKind::Renamed { modified: !same, meta: delta };
        moved.change.base = Some(self.lower.host.join(&from));
        moved.change.before = Some(meta(&stat));
        moved.lower = Some((from, stat));
        let Some(old) = removed.map(|index| &mut self.found[index]) else {
            return;
        };
        match old.change.kind {
            ChangeKind::Deleted => old.dead = true,
            // Something of another type stands there now: it is simply new.
            _ => {
                old.change.kind = ChangeKind::Created;
                old.change.base = None;
                old.change.before = None;
                old.lower = None;
            }
        }
    }
}
