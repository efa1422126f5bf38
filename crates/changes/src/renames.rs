//! Which created file is a host file that the VM moved: found before the walk, so that the walk can tell each entry.
//!
//! ```text
//!   root      upper g  origin = handle(h) ──┐
//!             lower f  handle = h, deleted ─┴─► Renamed g, base f
//!   rootless  upper g and exactly one deleted lower f of the same size, mtime, mode and bytes; as root where the
//!             note says "copied up", but not from where
//!
//!   is anything removed? ─► strays: what may have been moved ─► candidates: what was removed and fits a stray
//! ```
//!
//! Invariants: a removed host file is the base of at most one rename; a created file at a path that has a host file of
//! its own type is `Modified`, never `Renamed` (so a swap is two modifications). Each step keeps only what the one
//! before left possible, so memory goes with the renames, not with what was created or deleted.

use crate::ScanError;
use crate::compare::{Side, file_type, is_whiteout, meta, same_content};
use crate::layer::{Found, Kept, Layer, Notes};
use crate::list::{List, Step};
use crate::lower::{Visit, Walked};
use crate::names::Kind;
use crate::overlay::{Marks, Origin};
use crate::pipeline::sift;
use crate::walk::At;
use fvm_model::{ChangeKind, FileType, MetaDelta, Timestamp};
use fvm_sys::dir::Dir;
use fvm_sys::handle::{FileHandle, name_to_handle};
use rustix::fs::Statx;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Most entries of deleted directories that are searched for the source of a rename.
const SEARCH_MAX_ENTRIES: usize = 1_000_000;

/// Files that were moved.
#[derive(Debug, Default)]
pub(crate) struct Renames {
    /// From the new place in the upper.
    sources: HashMap<PathBuf, Source>,
    /// The old places, in the lower.
    taken: HashSet<PathBuf>,
}

#[derive(Debug)]
struct Source {
    lower: PathBuf,
    modified: bool,
    meta: MetaDelta,
}

impl Renames {
    /// Whether the host's entry was moved elsewhere.
    pub(crate) fn took(&self, lower: &Path) -> bool {
        !self.taken.is_empty() && self.taken.contains(lower)
    }
}

/// What tells files apart that have no handle: size, mtime, mode.
type Key = (u64, Timestamp, u32);

fn key(stat: &Statx) -> Option<Key> {
    let meta = meta(stat);
    (meta.file_type == FileType::File && meta.size_bytes > 0).then_some((meta.size_bytes, meta.mtime, meta.mode))
}

/// An upper entry that may have been moved here.
struct Stray {
    rel: PathBuf,
    file_type: FileType,
    handle: Option<FileHandle>,
    key: Option<Key>,
    /// The host's entry of another type at its place.
    over: Option<PathBuf>,
}

/// A host entry that the VM removed from its place.
struct Candidate {
    rel: PathBuf,
    file_type: FileType,
    handle: Option<FileHandle>,
    key: Option<Key>,
}

/// What a place lost.
type Removed = (PathBuf, Statx, Option<FileHandle>);

impl Layer<'_> {
    /// Finds the files that were moved. `removals`: something may be gone.
    pub(crate) fn find_renames(&mut self, removals: bool) -> Result<(), ScanError> {
        if !removals {
            return Ok(());
        }
        if self.known.is_some() {
            self.know_handles()?;
        }
        let strays = self.strays()?;
        if strays.is_empty() {
            return Ok(());
        }
        let mut candidates = self.candidates(&strays)?;
        self.match_by_handle(&strays, &mut candidates);
        self.match_by_content(&strays, &candidates);
        Ok(())
    }

    /// Calls `each` for every host entry that is gone from its place, until it breaks.
    fn removed(
        &self,
        with_handles: bool,
        mut each: impl FnMut(Removed) -> Result<ControlFlow<()>, ScanError>,
    ) -> Result<(), ScanError> {
        let handle = |dir: &Dir, name: &Path| if with_handles { name_to_handle(dir, name).ok() } else { None };
        let look = |step: &Step| match step {
            Step::Entry { at, name, kind } => {
                let name = Path::new(name);
                let (lower, stat) = self.removal(at, name, *kind)?;
                let handle = at.lower_dir.as_ref().and_then(|dir| handle(dir, name));
                Some((lower, stat, handle))
            }
            Step::Found(found) if matches!(found.change.kind, ChangeKind::Retyped { .. }) => {
                let (lower, stat) = found.lower.clone()?;
                let handle = self.lower_parent(&lower).ok().and_then(|(dir, name)| handle(&dir, name));
                Some((lower, stat, handle))
            }
            _ => None,
        };
        sift(List::new(self, true), &look, &mut each)
    }

    fn removal(&self, at: &At, name: &Path, kind: Kind) -> Option<(PathBuf, Statx)> {
        let mut notes = Notes::default();
        if kind == Kind::Missing {
            return self.missing(at, name, &mut notes)?.lower;
        }
        let (upper, lower) = self.sides(at, name, &mut notes).ok()??;
        let (lower, stat) = lower?;
        (is_whiteout(&upper) || file_type(&upper) != file_type(&stat)).then_some((lower, stat))
    }

    fn strays(&self) -> Result<Vec<Stray>, ScanError> {
        let keys = self.removed_keys()?;
        if matches!(&keys, Some(keys) if keys.is_empty()) {
            return Ok(Vec::new());
        }
        let look = |step: &Step| match step {
            Step::Entry { at, name, kind: Kind::Entry | Kind::File } => self.stray(at, Path::new(name), keys.as_ref()),
            _ => None,
        };
        let (mut strays, mut kept) = (Vec::new(), Kept::default());
        sift(List::new(self, false), &look, &mut |stray: Stray| {
            kept.add(stray.rel.as_os_str().len())?;
            strays.push(stray);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(strays)
    }

    /// Without handles: what removed files look like. `None`: handles tell. Empty: nothing was removed.
    fn removed_keys(&self) -> Result<Option<HashSet<Key>>, ScanError> {
        let (mut keys, mut kept, mut any) = (HashSet::new(), Kept::default(), false);
        let trusted = self.trusted();
        self.removed(false, |(_, stat, _)| {
            any = true;
            if trusted {
                return Ok(ControlFlow::Break(()));
            }
            if let Some(key) = key(&stat) {
                kept.add(0)?;
                keys.insert(key);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((!trusted || !any).then_some(keys))
    }

    fn stray(&self, at: &At, name: &Path, keys: Option<&HashSet<Key>>) -> Option<Stray> {
        // Most entries are the VM's own from the start.
        let origin = match keys {
            None => Marks::read_origin(&at.upper, name, self.input.class).unwrap_or(Origin::Unnamed),
            Some(_) => Origin::Unnamed,
        };
        if origin == Origin::Absent {
            return None;
        }
        let (upper, lower) = self.sides(at, name, &mut Notes::default()).ok()??;
        let file_type = file_type(&upper);
        let in_place = lower.as_ref().is_some_and(|(_, stat)| crate::compare::file_type(stat) == file_type);
        if in_place || file_type == FileType::Directory || is_whiteout(&upper) {
            return None;
        }
        let handle = match origin {
            Origin::Handle(handle) => Some(handle),
            _ => None,
        };
        let key = key(&upper).filter(|_| handle.is_none());
        if handle.is_none() && key.as_ref().is_none_or(|key| keys.is_some_and(|keys| !keys.contains(key))) {
            return None;
        }
        Some(Stray { rel: at.rel.join(name), file_type, handle, key, over: lower.map(|(lower, _)| lower) })
    }

    /// The removed entries that fit a stray.
    fn candidates(&mut self, strays: &[Stray]) -> Result<Vec<Candidate>, ScanError> {
        let handles: HashSet<&FileHandle> = strays.iter().filter_map(|stray| stray.handle.as_ref()).collect();
        let keys: HashSet<Key> = strays.iter().filter_map(|stray| stray.key).collect();
        let (mut found, mut gone_dirs, mut kept) = (Vec::new(), Vec::new(), Kept::default());
        self.removed(!handles.is_empty(), |(rel, stat, handle)| {
            if file_type(&stat) == FileType::Directory {
                kept.add(rel.as_os_str().len())?;
                gone_dirs.push(rel);
            } else if let Some(candidate) = fits(&handles, &keys, rel, &stat, handle) {
                kept.add(candidate.rel.as_os_str().len())?;
                found.push(candidate);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let direct: HashSet<&FileHandle> = found.iter().filter_map(|candidate| candidate.handle.as_ref()).collect();
        let elsewhere = |handle: &&FileHandle| !direct.contains(*handle) && self.may_live(handle);
        if handles.iter().any(elsewhere) {
            let mut inside = Vec::new();
            self.search(&gone_dirs, |rel, stat, handle| {
                // A directory that was moved out before has taken its files along: they are not gone.
                if !rel.ancestors().skip(1).any(|above| self.claimed.contains_key(above)) {
                    inside.extend(fits(&handles, &keys, rel.to_path_buf(), stat, Some(handle)));
                }
            });
            for candidate in inside {
                kept.add(candidate.rel.as_os_str().len())?;
                found.push(candidate);
            }
        }
        Ok(found)
    }

    /// Shows `each` what deleted directories hold on the host; whether all of it was seen.
    fn search(&self, gone_dirs: &[PathBuf], mut each: impl FnMut(&Path, &Statx, FileHandle)) -> bool {
        let mut budget = SEARCH_MAX_ENTRIES;
        let mut complete = true;
        for top in gone_dirs {
            let walked = self.lower.subtree(top, None, &mut budget, |dir, name, rel, stat| {
                if file_type(stat) != FileType::Directory
                    && let Ok(handle) = name_to_handle(dir, name)
                {
                    each(rel, stat, handle);
                }
                Visit::More
            });
            complete &= walked == Walked::All;
        }
        complete
    }

    /// Where handles cannot be opened: which of the host's are certainly there still.
    fn know_handles(&mut self) -> Result<(), ScanError> {
        let (mut known, mut gone_dirs, mut kept) = (HashSet::new(), Vec::new(), Kept::default());
        let look = |step: &Step| match step {
            Step::Entry { at, name, .. } => {
                let (dir, name) = (at.lower_dir.as_ref()?, Path::new(name));
                self.lower.owns(&dir.stat(name).ok()?).then(|| name_to_handle(dir, name).ok())?
            }
            _ => None,
        };
        sift(List::new(self, true), &look, &mut |handle: FileHandle| {
            kept.add(handle.bytes.len())?;
            known.insert(handle);
            Ok(ControlFlow::Continue(()))
        })?;
        self.removed(false, |(rel, stat, _)| {
            if file_type(&stat) == FileType::Directory {
                kept.add(rel.as_os_str().len())?;
                gone_dirs.push(rel);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        // What was not seen may be there.
        let complete = self.search(&gone_dirs, |_, _, handle| {
            known.insert(handle);
        });
        self.all_may_live = !complete;
        self.known = Some(known);
        Ok(())
    }

    /// The lower directory that holds `rel`, and the name there.
    pub(crate) fn lower_parent<'p>(&self, rel: &'p Path) -> Result<(Dir, &'p Path), Errno> {
        let name = rel.file_name().ok_or(Errno::INVAL)?;
        let parent = rel.parent().unwrap_or(Path::new(""));
        Ok((self.lower.open(parent)?.ok_or(Errno::NOENT)?, Path::new(name)))
    }

    /// Whether nothing else was found at the stray's place, or what was there has been moved away.
    fn is_new(&self, stray: &Stray) -> bool {
        !self.renames.sources.contains_key(&stray.rel) && stray.over.as_ref().is_none_or(|over| self.renames.took(over))
    }

    fn match_by_handle(&mut self, strays: &[Stray], candidates: &mut [Candidate]) {
        let mut by_handle: HashMap<&FileHandle, Vec<&Candidate>> = HashMap::new();
        for candidate in candidates.iter() {
            if let Some(handle) = &candidate.handle {
                by_handle.entry(handle).or_default().push(candidate);
            }
        }
        for stray in strays {
            let Some(list) = stray.handle.as_ref().and_then(|handle| by_handle.get(handle)) else { continue };
            if !self.is_new(stray) {
                continue;
            }
            let free = |c: &&&Candidate| c.file_type == stray.file_type && !self.renames.took(&c.rel);
            if let Some(candidate) = list.iter().find(free) {
                self.rename(&stray.rel, &candidate.rel);
            }
        }
    }

    fn match_by_content(&mut self, strays: &[Stray], candidates: &[Candidate]) {
        let mut pairs: HashMap<Key, (Vec<&Path>, Vec<&Path>)> = HashMap::new();
        for stray in strays.iter().filter(|stray| self.is_new(stray)) {
            if let Some(key) = stray.key {
                pairs.entry(key).or_default().0.push(&stray.rel);
            }
        }
        for candidate in candidates.iter().filter(|candidate| !self.renames.took(&candidate.rel)) {
            if let Some(pair) = candidate.key.and_then(|key| pairs.get_mut(&key)) {
                pair.1.push(&candidate.rel);
            }
        }
        // Files of one length, written in one tick of the clock, are told apart by what they hold.
        const SAME_MAX: usize = 8;
        for (created, removed) in pairs.into_values().filter(|(c, r)| c.len() <= SAME_MAX && r.len() <= SAME_MAX) {
            let same = |pair: &(&Path, &Path)| self.compare(pair.0, pair.1).is_ok_and(|(same, _)| same);
            let all = created.iter().flat_map(|c| removed.iter().map(|r| (*c, *r)));
            let equal: Vec<(&Path, &Path)> = all.filter(same).collect();
            for (created, removed) in &equal {
                if equal.iter().filter(|(c, r)| c == created || r == removed).count() == 1 {
                    self.rename(created, removed);
                }
            }
        }
    }

    fn compare(&self, rel: &Path, lower: &Path) -> Result<(bool, MetaDelta), Errno> {
        let upper_dir = self.upper.beneath_deep(rel.parent().unwrap_or(Path::new("")))?;
        let upper_name = Path::new(rel.file_name().ok_or(Errno::INVAL)?);
        let upper_stat = upper_dir.stat(upper_name)?;
        let (lower_dir, lower_name) = self.lower_parent(lower)?;
        let lower_stat = lower_dir.stat(lower_name)?;
        let upper = Side { dir: &upper_dir, name: upper_name, stat: &upper_stat };
        let lower = Side { dir: &lower_dir, name: lower_name, stat: &lower_stat };
        if file_type(&upper_stat) != file_type(&lower_stat) {
            return Err(Errno::STALE);
        }
        Ok((same_content(upper, lower)?, self.meta_delta(upper, lower)?))
    }

    fn rename(&mut self, rel: &Path, lower: &Path) {
        match self.compare(rel, lower) {
            Ok((same, meta)) => {
                self.renames.taken.insert(lower.to_path_buf());
                let source = Source { lower: lower.to_path_buf(), modified: !same, meta };
                self.renames.sources.insert(rel.to_path_buf(), source);
            }
            Err(e) => {
                let mut notes = std::mem::take(&mut self.notes);
                let what = format_args!("cannot be compared with the file it was moved from ({e})");
                self.warn(&mut notes, rel, what);
                self.notes = notes;
            }
        }
    }

    /// A file that stands where the host has nothing, or something else, with what is known of its moves.
    pub(crate) fn moved_file(&self, found: &mut Found, notes: &mut Notes) {
        if self.renames.taken.is_empty() {
            return;
        }
        if let Some(source) = self.renames.sources.get(&found.rel) {
            match self.lower_parent(&source.lower).and_then(|(dir, name)| dir.stat(name)) {
                Ok(stat) => {
                    found.change.kind = ChangeKind::Renamed { modified: source.modified, meta: source.meta };
                    found.change.base = Some(self.lower.host.join(&source.lower));
                    found.change.before = Some(meta(&stat));
                    found.lower = Some((source.lower.clone(), stat));
                    found.plain = false;
                    return;
                }
                Err(e) => {
                    let what = format_args!("cannot be compared with the file it was moved from ({e})");
                    self.warn(notes, &found.rel, what);
                }
            }
        }
        // What stood there was moved away: this is simply new.
        if found.lower.as_ref().is_some_and(|(lower, _)| self.renames.took(lower)) {
            found.change.kind = ChangeKind::Created;
            found.change.base = None;
            found.change.before = None;
            found.lower = None;
        }
    }
}

/// The removed entry as a candidate, if it is one for a stray with one of these.
fn fits(
    handles: &HashSet<&FileHandle>,
    keys: &HashSet<Key>,
    rel: PathBuf,
    stat: &Statx,
    handle: Option<FileHandle>,
) -> Option<Candidate> {
    let handle = handle.filter(|handle| handles.contains(handle));
    let key = key(stat).filter(|key| keys.contains(key));
    (handle.is_some() || key.is_some()).then(|| Candidate { rel, file_type: file_type(stat), handle, key })
}
