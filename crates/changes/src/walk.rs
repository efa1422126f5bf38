//! The walk over an upper: every entry against the host's, once [`crate::moves`] knows which directories moved.
//!
//! ```text
//!   pass 1  directories only: redirect ─► moved[b] = a, claimed[a] = b
//!   pass 2  upper b/f ── lower a/f (b was moved from a)
//!           upper a   ── no lower: a is claimed, so this a is a new one
//! ```
//!
//! Invariants: the walk is iterative, one directory is open at a time on each side, and paths may be longer than the
//! kernel takes; nothing found in an upper ends the scan but sheer number.

use crate::ScanError;
use crate::compare::{Side, birth, delta, file_type, is_whiteout, same_content, time};
use crate::layer::{Candidate, LayerScan};
use crate::lower::DIR_MAX_ENTRIES;
use crate::overlay::{Marks, Origin};
use fvm_model::change::TouchedDir;
use fvm_model::{ChangeKind, FileType, MetaDelta, Timestamp};
use fvm_sys::dir::Dir;
use fvm_sys::handle::name_to_handle;
use rustix::fs::Statx;
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Longest path below a layer that is followed: four times what a program can name. Each entry is reached from the top, so
/// the time grows with the square of the depth.
pub(crate) const PATH_MAX_BYTES: usize = 16 * 1024;
/// How far in the future an mtime must lie to be called set by hand.
const FUTURE_SECS: i64 = 60;
/// By how much a writer on the host may put down an older time than the one at which the VM was forked, though the VM saw
/// the directory without what it wrote: it had the time from the last tick of the kernel's clock, and was held up.
const STAMP_NANOS: u32 = 20_000_000;

/// A directory of the upper that is still to be read.
pub(crate) struct Pending {
    pub(crate) rel: PathBuf,
    /// Its host directory, from the root of the lower.
    pub(crate) lower: Option<PathBuf>,
    /// Host entries that the upper does not have are gone.
    pub(crate) opaque: bool,
}

impl LayerScan<'_> {
    /// Whether `rel` is another layer's, or fvm's own.
    pub(crate) fn is_foreign(&self, rel: &Path) -> bool {
        self.lower.is_excluded(rel) || self.covered.contains(&self.lower.host.join(rel))
    }

    /// Pass 2: every entry.
    pub(crate) fn walk(&mut self) -> Result<(), ScanError> {
        let mut pending = vec![Pending { rel: PathBuf::new(), lower: Some(PathBuf::new()), opaque: false }];
        while let Some(at) = pending.pop() {
            if at.rel.as_os_str().len() > PATH_MAX_BYTES {
                self.warn(&PathBuf::new(), format_args!("a path longer than {PATH_MAX_BYTES} bytes was not followed"));
                continue;
            }
            let dir = match self.upper.beneath_deep(&at.rel) {
                Ok(dir) => dir,
                Err(e) => {
                    self.warn(
                        &at.rel,
                        format_args!("the VM's directory cannot be read ({e}); nothing below it is listed"),
                    );
                    continue;
                }
            };
            let lower_dir = match at.lower.as_ref().map(|l| self.lower.open(l)) {
                None => None,
                Some(Ok(opened)) => opened,
                Some(Err(e)) => {
                    self.warn(
                        &at.rel,
                        format_args!("the host's directory cannot be read ({e}); nothing below it is listed"),
                    );
                    continue;
                }
            };
            self.note_rights(lower_dir.as_ref());
            let entries = match dir.entries(DIR_MAX_ENTRIES) {
                Ok(entries) => entries,
                Err(Errno::TOOBIG) => {
                    return Err(ScanError::TooMany { limit: DIR_MAX_ENTRIES });
                }
                Err(e) => {
                    self.warn(&at.rel, format_args!("the VM's directory cannot be listed ({e})"));
                    continue;
                }
            };
            let mut names: Vec<OsString> = entries.into_iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            for name in &names {
                match self.entry(&at, &dir, lower_dir.as_ref(), Path::new(name)) {
                    Ok(next) => pending.extend(next),
                    Err(Stopped::Scan(e)) => return Err(e),
                    Err(Stopped::Entry(e)) => {
                        self.warn(&at.rel.join(name), format_args!("cannot be read ({e}); not listed"));
                    }
                }
            }
            if let (true, Some(lower_dir), Some(lower)) = (at.opaque, lower_dir, &at.lower) {
                self.missing(&at.rel, &lower_dir, lower, &names)?;
            }
        }
        Ok(())
    }

    /// What a replaced directory no longer has.
    fn missing(&mut self, rel: &Path, dir: &Dir, lower: &Path, upper: &[OsString]) -> Result<(), ScanError> {
        let have: HashSet<&OsString> = upper.iter().collect();
        let entries = match dir.entries(DIR_MAX_ENTRIES) {
            Ok(entries) => entries,
            Err(e) => {
                self.warn(rel, format_args!("the host's directory cannot be listed ({e})"));
                return Ok(());
            }
        };
        for (name, _) in entries.iter().filter(|(name, _)| !have.contains(name)) {
            let child = rel.join(name);
            if self.is_foreign(&child) {
                continue;
            }
            match dir.stat(Path::new(name)) {
                Ok(stat) if self.lower.owns(&stat) => self.push_deleted(&child, lower.join(name), stat)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: &Pending,
        dir: &Dir,
        lower_dir: Option<&Dir>,
        name: &Path,
    ) -> Result<Option<Pending>, Stopped> {
        let rel = at.rel.join(name);
        if self.is_foreign(&rel) {
            return Ok(None);
        }
        let stat = dir.stat(name)?;
        let upper = Side { dir, name, stat: &stat };
        let lower_rel = at.lower.as_ref().map(|l| l.join(name));
        let lower_stat = match lower_dir {
            Some(lower_dir) => lower_dir.stat_opt(name)?,
            None => None,
        };
        if lower_stat.as_ref().is_some_and(|s| !self.lower.owns(s)) {
            if file_type(&stat) != FileType::Directory {
                self.warn(&rel, "a mount point on the host; not compared");
            } else if !self.is_foreign(&rel) && !dir.beneath(name)?.names()?.is_empty() {
                self.warn(&rel, "the host has mounted something there since; what the VM changed below is not listed");
            }
            return Ok(None);
        }
        // A lower directory that a rename took away is not this entry's.
        let lower = match (lower_rel, lower_stat) {
            (Some(l), Some(s)) if !self.claimed.contains_key(&l) => Some((l, s)),
            _ => None,
        };
        if is_whiteout(&stat) {
            if let Some((l, s)) = lower {
                self.push_deleted(&rel, l, s)?;
            }
            return Ok(None);
        }
        if file_type(&stat) == FileType::Directory {
            return self.directory(at, rel, upper, lower, lower_dir).map(Some);
        }
        let origin = Marks::read_origin(dir, name, self.input.class).unwrap_or(Origin::Unnamed);
        match (lower, lower_dir) {
            (Some((l, s)), Some(lower_dir)) if file_type(&s) == file_type(&stat) => {
                self.same_place(&rel, upper, origin, (l, Side { dir: lower_dir, name, stat: &s }))?;
            }
            (Some((l, s)), _) => self.retyped(&rel, upper, origin, l, s)?,
            (None, _) => {
                self.push(&rel, ChangeKind::Created, Some((upper, origin)), None)?;
            }
        }
        Ok(None)
    }

    fn retyped(
        &mut self,
        rel: &Path,
        upper: Side<'_>,
        origin: Origin,
        lower: PathBuf,
        stat: Statx,
    ) -> Result<(), ScanError> {
        let from = file_type(&stat);
        let found = self.push(rel, ChangeKind::Retyped { from }, Some((upper, origin)), Some((lower.clone(), stat)))?;
        if from == FileType::Directory {
            self.gone_dirs.push(lower);
        } else {
            self.candidates.push(Candidate { rel: lower, stat, found: Some(found), taken: false });
        }
        Ok(())
    }

    /// A non-directory over a host entry of its own type.
    fn same_place(
        &mut self,
        rel: &Path,
        upper: Side<'_>,
        origin: Origin,
        lower: (PathBuf, Side<'_>),
    ) -> Result<(), Stopped> {
        let (lower_rel, lower) = lower;
        if self.trusted()
            && let Ok(handle) = name_to_handle(lower.dir, lower.name)
        {
            self.seen.insert(handle);
        }
        let same = same_content(upper, lower)?;
        let meta = self.meta_delta(upper, lower)?;
        let kind = match (same, meta.any()) {
            (false, _) => ChangeKind::Modified { meta },
            (true, true) => ChangeKind::Metadata { meta },
            (true, false) => {
                if upper.stat.stx_nlink > 1 {
                    self.unchanged_links.push((upper.stat.stx_ino, lower_rel));
                }
                return Ok(());
            }
        };
        self.push(rel, kind, Some((upper, origin)), Some((lower_rel, *lower.stat)))?;
        Ok(())
    }

    fn directory(
        &mut self,
        at: &Pending,
        rel: PathBuf,
        upper: Side<'_>,
        lower: Option<(PathBuf, Statx)>,
        lower_dir: Option<&Dir>,
    ) -> Result<Pending, Stopped> {
        // What the VM forbids its owner is still the owner's to know: only what is below is out of reach.
        let marks = match upper.dir.beneath(upper.name) {
            Ok(dir) => Marks::read_dir(&dir, self.input.class)?,
            Err(_) => Marks::default(),
        };
        if let Some(from) = self.moved.get(&rel).cloned() {
            let Some(from_dir) = self.lower.open(&from)? else {
                return Err(Errno::NOENT.into());
            };
            let from_stat = from_dir.stat(Path::new(""))?;
            let side = Side { dir: &from_dir, name: Path::new(""), stat: &from_stat };
            let meta = self.dir_delta(&rel, upper, side, &marks)?;
            let kind = ChangeKind::Renamed { modified: false, meta };
            self.push(&rel, kind, Some((upper, marks.origin)), Some((from.clone(), from_stat)))?;
            return Ok(Pending { rel, lower: Some(from), opaque: false });
        }
        let lost = self.lost.contains(&rel) || (marks.origin != Origin::Absent && !marks.opaque);
        match (lower, lower_dir) {
            (Some((l, s)), Some(lower_dir)) if file_type(&s) == FileType::Directory && !self.lost.contains(&rel) => {
                let meta = self.dir_delta(&rel, upper, Side { dir: lower_dir, name: upper.name, stat: &s }, &marks)?;
                // A directory that both sides made after the fork: the VM removed nothing from the host's.
                // All in a replaced directory is, unless the kernel noted that it was moved back here.
                let opaque = marks.opaque || (at.opaque && !self.at_home.contains(&rel));
                let both_new = opaque && birth(&s).is_some_and(|b| b > self.input.based);
                if meta.any() && !both_new {
                    self.push(&rel, ChangeKind::Metadata { meta }, Some((upper, marks.origin)), Some((l.clone(), s)))?;
                }
                Ok(Pending { rel, lower: Some(l), opaque: opaque && !both_new })
            }
            (Some((l, s)), _) if file_type(&s) != FileType::Directory => {
                self.retyped(&rel, upper, marks.origin, l, s)?;
                Ok(Pending { rel, lower: None, opaque: false })
            }
            _ => {
                let index = self.push(&rel, ChangeKind::Created, Some((upper, marks.origin)), None)?;
                self.found[index].lost = lost;
                Ok(Pending { rel, lower: None, opaque: false })
            }
        }
    }

    /// What differs in the metadata. In an ordinary user's VM there is one owner, whoever imported it: it says nothing.
    pub(crate) fn meta_delta(&self, upper: Side<'_>, lower: Side<'_>) -> Result<MetaDelta, Errno> {
        let meta = delta(upper, lower)?;
        Ok(MetaDelta { owner: meta.owner && self.trusted(), ..meta })
    }

    /// Metadata of a directory. Its mtime follows its entries, so it is a change only when it was set by hand (to
    /// before the fork or to the future); else the directory is noted as touched. An mtime that was merely copied up
    /// long ago, while the host's has moved on, is neither.
    fn dir_delta(&mut self, rel: &Path, upper: Side<'_>, lower: Side<'_>, marks: &Marks) -> Result<MetaDelta, Errno> {
        // An ordinary user gives no directory away: the VM was given its own copy of another user's directory.
        let given = marks.origin == Origin::Absent && upper.stat.stx_uid != lower.stat.stx_uid;
        if !self.trusted() && given {
            return Ok(MetaDelta::default());
        }
        let mut meta = self.meta_delta(upper, lower)?;
        if meta.times {
            let (ours, theirs) = (time(upper.stat.stx_mtime), time(lower.stat.stx_mtime));
            let future = Timestamp { secs: self.now.secs.saturating_add(FUTURE_SECS), nanos: 0 };
            let forked = self.input.forked;
            meta.times = ours > future || (ours < forked && theirs < before(forked, STAMP_NANOS));
            if !meta.times && ours >= forked {
                self.touched.push(TouchedDir { path: self.vm_path(rel), mtime: ours });
            }
        }
        Ok(meta)
    }
}

/// The moment `nanos` before `at`.
fn before(at: Timestamp, nanos: u32) -> Timestamp {
    match at.nanos.checked_sub(nanos) {
        Some(nanos) => Timestamp { nanos, ..at },
        None => Timestamp { secs: at.secs - 1, nanos: at.nanos + 1_000_000_000 - nanos },
    }
}

/// What keeps an entry out of the result, or ends the scan.
enum Stopped {
    Entry(Errno),
    Scan(ScanError),
}

impl From<Errno> for Stopped {
    fn from(e: Errno) -> Self {
        Self::Entry(e)
    }
}

impl From<ScanError> for Stopped {
    fn from(e: ScanError) -> Self {
        Self::Scan(e)
    }
}
