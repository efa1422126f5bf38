//! One entry of an upper against the host's, once [`crate::moves`] knows which directories moved.
//!
//! ```text
//!   upper b/f ── lower a/f (b was moved from a)
//!   upper a   ── no lower: a is claimed, so this a is a new one
//!
//!   judge    what is it?          by itself: any entry, in any order, on any thread
//!   finish   renames and hard links were found before; conflicts
//! ```
//!
//! Invariants: nothing here changes what others see; nothing found in an upper ends the scan.

use crate::compare::{Side, birth, delta, file_type, is_whiteout, same_content, time};
use crate::layer::{Found, Layer, Notes};
use crate::overlay::{Marks, Origin};
use fvm_model::change::TouchedDir;
use fvm_model::{ChangeKind, FileType, MetaDelta, Timestamp, VmPath};
use fvm_sys::dir::Dir;
use rustix::fd::OwnedFd;
use rustix::fs::Statx;
use rustix::io::Errno;
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
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) rel: PathBuf,
    /// Its host directory, from the root of the lower.
    pub(crate) lower: Option<PathBuf>,
    /// Host entries that the upper does not have are gone.
    pub(crate) opaque: bool,
}

/// A directory that is being read.
#[derive(Debug)]
pub(crate) struct At {
    pub(crate) rel: PathBuf,
    /// As the VM sees it.
    pub(crate) vm: VmPath,
    pub(crate) lower: Option<PathBuf>,
    pub(crate) opaque: bool,
    pub(crate) upper: Dir,
    pub(crate) lower_dir: Option<Dir>,
    /// Why entries cannot come to it, or go.
    pub(crate) locked: Option<&'static str>,
    /// Another layer, or fvm's own state, lies in it or below.
    watched: bool,
}

/// Both sides of an entry.
pub(crate) type Sides = (Statx, Option<(PathBuf, Statx)>);

/// An open regular file of an upper, and its `statx`.
pub(crate) type Opened = (OwnedFd, Statx);

/// What an entry is, and what is to be read below it.
pub(crate) type Judged = (Option<Found>, Option<Pending>);

impl Layer<'_> {
    /// Whether `rel` is another layer's, or fvm's own.
    pub(crate) fn is_foreign(&self, rel: &Path) -> bool {
        self.lower.is_excluded(rel) || self.covered.contains(&self.lower.host.join(rel))
    }

    /// Opens both sides of a directory; else says why not.
    pub(crate) fn open_at(&self, pending: &Pending) -> Result<At, String> {
        let rel = &pending.rel;
        let fail =
            |whose: &str, e: Errno| format!("the {whose}'s directory cannot be read ({e}); nothing below it is listed");
        let upper = self.upper.beneath_deep(rel).map_err(|e| fail("VM", e))?;
        let lower_dir = match pending.lower.as_ref().map(|lower| self.lower.open(lower)) {
            None => None,
            Some(opened) => opened.map_err(|e| fail("host", e))?,
        };
        let top = &self.lower.host;
        let host = if rel.as_os_str().is_empty() { top.clone() } else { top.join(rel) };
        let watched = self.covered.iter().chain(&self.input.excluded).any(|place| place.is_within(&host));
        Ok(At {
            rel: rel.clone(),
            vm: host.in_vm(),
            lower: pending.lower.clone(),
            opaque: pending.opaque,
            locked: self.locked(lower_dir.as_ref()),
            upper,
            lower_dir,
            watched,
        })
    }

    /// What the VM's directory hides of the host's.
    pub(crate) fn missing(&self, at: &At, name: &Path, notes: &mut Notes) -> Option<Found> {
        if at.watched && self.is_foreign(&at.rel.join(name)) {
            return None;
        }
        let (lower, dir) = (at.lower.as_ref()?, at.lower_dir.as_ref()?);
        match dir.stat(name) {
            Ok(stat) if self.lower.owns(&stat) => self.deleted(at, name, lower.join(name), stat, notes),
            _ => None,
        }
    }

    /// The entry `name` on both sides; `None` when it is not this layer's. The lower side is where it lies and its `statx`.
    pub(crate) fn sides(&self, at: &At, name: &Path, notes: &mut Notes) -> Result<Option<Sides>, Errno> {
        if at.watched && self.is_foreign(&at.rel.join(name)) {
            return Ok(None);
        }
        self.sides_of(at, name, at.upper.stat(name)?, notes)
    }

    /// The same, where the upper's is `stat`, and this layer's.
    fn sides_of(&self, at: &At, name: &Path, stat: Statx, notes: &mut Notes) -> Result<Option<Sides>, Errno> {
        let dir = &at.upper;
        let lower_stat = match &at.lower_dir {
            Some(lower_dir) => lower_dir.stat_opt(name)?,
            None => None,
        };
        if lower_stat.as_ref().is_some_and(|s| !self.lower.owns(s)) {
            let rel = at.rel.join(name);
            if file_type(&stat) != FileType::Directory {
                self.warn(notes, &rel, "a mount point on the host; not compared");
            } else if !dir.beneath(name)?.names()?.is_empty() {
                let what = "the host has mounted something there since; what the VM changed below is not listed";
                self.warn(notes, &rel, what);
            }
            return Ok(None);
        }
        // A lower directory that a rename took away is not this entry's.
        let lower = match (&at.lower, lower_stat) {
            (Some(l), Some(s)) => Some((l.join(name), s)).filter(|(l, _)| !self.claimed.contains_key(l)),
            _ => None,
        };
        Ok(Some((stat, lower)))
    }

    /// The entry `name`, open, and its `statx`: what is asked of it by descriptor is not looked up again. `None`: it is no regular
    /// file, or cannot be read, or is not this layer's.
    pub(crate) fn open_file(&self, at: &At, name: &Path) -> Option<Opened> {
        if at.watched && self.is_foreign(&at.rel.join(name)) {
            return None;
        }
        let file = at.upper.open_file(name).ok()?;
        let stat = fvm_sys::dir::stat_of(&file).ok()?;
        (file_type(&stat) == FileType::File).then_some((file, stat))
    }

    /// What the entry `name` of an upper directory is. For a directory, also what is to be read below it. `opened`: the
    /// entry, from [`Layer::open_file`].
    pub(crate) fn judge(
        &self,
        at: &At,
        name: &Path,
        opened: Option<&Opened>,
        notes: &mut Notes,
    ) -> Result<Judged, Errno> {
        let sides = match opened {
            Some((_, stat)) => self.sides_of(at, name, *stat, notes)?,
            None => self.sides(at, name, notes)?,
        };
        let Some((stat, lower)) = sides else {
            return Ok((None, None));
        };
        let dir = &at.upper;
        let upper = Side { dir, name, stat: &stat };
        if is_whiteout(&stat) {
            return Ok((lower.and_then(|(l, s)| self.deleted(at, name, l, s, notes)), None));
        }
        if file_type(&stat) == FileType::Directory {
            return self.directory(at, upper, lower, notes).map(|(found, pending)| (found, Some(pending)));
        }
        // Of what the host has not, it is asked only whether the host had it, which none but a handle tells.
        let tells = lower.is_some() || self.trusted();
        let origin = match opened {
            _ if !tells => Ok(Origin::Absent),
            Some((file, _)) => Marks::read_origin_of(file, self.input.class),
            None => Marks::read_origin(dir, name, self.input.class),
        };
        let origin = origin.unwrap_or(Origin::Unnamed);
        let found = match (lower, &at.lower_dir) {
            (Some((l, s)), Some(lower_dir)) if file_type(&s) == file_type(&stat) => {
                let lower = Side { dir: lower_dir, name, stat: &s };
                self.same_place(at, upper, origin, (l, lower), notes)?
            }
            (lower, _) => {
                let kind = match &lower {
                    Some((_, s)) => ChangeKind::Retyped { from: file_type(s) },
                    None => ChangeKind::Created,
                };
                let mut found = self.found(at, name, kind, Some((upper, origin)), lower, notes);
                self.moved_file(&mut found, notes);
                Some(found)
            }
        };
        Ok((found, None))
    }

    /// The host's entry `stat` at `lower` is gone from its place in the VM, unless a rename took it.
    fn deleted(&self, at: &At, name: &Path, lower: PathBuf, stat: Statx, notes: &mut Notes) -> Option<Found> {
        let is_moved = self.claimed.contains_key(&lower) || self.renames.took(&lower);
        (!is_moved).then(|| self.found(at, name, ChangeKind::Deleted, None, Some((lower, stat)), notes))
    }

    /// A non-directory over a host entry of its own type.
    fn same_place(
        &self,
        at: &At,
        upper: Side<'_>,
        origin: Origin,
        lower: (PathBuf, Side<'_>),
        notes: &mut Notes,
    ) -> Result<Option<Found>, Errno> {
        let (lower_rel, lower) = lower;
        let same = same_content(upper, lower)?;
        let meta = self.meta_delta(upper, lower)?;
        let kind = match (same, meta.any()) {
            (false, _) => ChangeKind::Modified { meta },
            (true, true) => ChangeKind::Metadata { meta },
            (true, false) => {
                if upper.stat.stx_nlink > 1 {
                    notes.unchanged_links.push((upper.stat.stx_ino, lower_rel));
                }
                return Ok(None);
            }
        };
        Ok(Some(self.found(at, upper.name, kind, Some((upper, origin)), Some((lower_rel, *lower.stat)), notes)))
    }

    fn directory(
        &self,
        at: &At,
        upper: Side<'_>,
        lower: Option<(PathBuf, Statx)>,
        notes: &mut Notes,
    ) -> Result<(Option<Found>, Pending), Errno> {
        let (name, rel) = (upper.name, at.rel.join(upper.name));
        // What the VM forbids its owner is still the owner's to know: only what is below is out of reach.
        let marks = match upper.dir.beneath(name) {
            Ok(dir) => Marks::read_dir(&dir, self.input.class)?,
            Err(_) => Marks::default(),
        };
        if let Some(from) = self.moved.get(&rel).cloned() {
            let Some(from_dir) = self.lower.open(&from)? else {
                return Err(Errno::NOENT);
            };
            let from_stat = from_dir.stat(Path::new(""))?;
            let side = Side { dir: &from_dir, name: Path::new(""), stat: &from_stat };
            let meta = self.dir_delta(&rel, upper, side, &marks, notes)?;
            let kind = ChangeKind::Renamed { modified: false, meta };
            let lower = Some((from.clone(), from_stat));
            let found = self.found(at, name, kind, Some((upper, marks.origin)), lower, notes);
            return Ok((Some(found), Pending { rel, lower: Some(from), opaque: false }));
        }
        let is_lost = self.lost.contains(&rel);
        let lost = is_lost || (marks.origin != Origin::Absent && !marks.opaque);
        match (lower, &at.lower_dir) {
            (Some((l, s)), Some(lower_dir)) if file_type(&s) == FileType::Directory && !is_lost => {
                let meta = self.dir_delta(&rel, upper, Side { dir: lower_dir, name, stat: &s }, &marks, notes)?;
                // A directory that both sides made after the fork: the VM removed nothing from the host's.
                // All in a replaced directory is, unless the kernel noted that it was moved back here.
                let opaque = marks.opaque || (at.opaque && !self.at_home.contains(&rel));
                // (One of the fork's own tick may be older than the fork: no such.)
                let both_new = opaque && birth(&s).is_some_and(|b| b > after_ns(self.input.based));
                let kind = ChangeKind::Metadata { meta };
                let found = (meta.any() && !both_new)
                    .then(|| self.found(at, name, kind, Some((upper, marks.origin)), Some((l.clone(), s)), notes));
                Ok((found, Pending { rel, lower: Some(l), opaque: opaque && !both_new }))
            }
            (Some((l, s)), _) if file_type(&s) != FileType::Directory => {
                let kind = ChangeKind::Retyped { from: file_type(&s) };
                let mut found = self.found(at, name, kind, Some((upper, marks.origin)), Some((l, s)), notes);
                self.moved_file(&mut found, notes);
                Ok((Some(found), Pending { rel, lower: None, opaque: false }))
            }
            _ => {
                let mut found = self.found(at, name, ChangeKind::Created, Some((upper, marks.origin)), None, notes);
                found.lost = lost;
                Ok((Some(found), Pending { rel, lower: None, opaque: false }))
            }
        }
    }

    /// What hard links and the host make of a judged entry; false when nothing is left of it.
    pub(crate) fn finish(&self, found: &mut Found, notes: &mut Notes) -> bool {
        self.group(found);
        self.find_conflict(found, notes)
    }

    /// What differs in the metadata. In an ordinary user's VM there is one owner, whoever imported it: it says nothing.
    pub(crate) fn meta_delta(&self, upper: Side<'_>, lower: Side<'_>) -> Result<MetaDelta, Errno> {
        let meta = delta(upper, lower)?;
        Ok(MetaDelta { owner: meta.owner && self.trusted(), ..meta })
    }

    /// Metadata of a directory. Its mtime follows its entries, so it is a change only when it was set by hand (to
    /// before the fork or to the future); else the directory is noted as touched. An mtime that was merely copied up
    /// long ago, while the host's has moved on, is neither.
    fn dir_delta(
        &self,
        rel: &Path,
        upper: Side<'_>,
        lower: Side<'_>,
        marks: &Marks,
        notes: &mut Notes,
    ) -> Result<MetaDelta, Errno> {
        // An ordinary user gives no directory away: the VM was given its own copy of another user's directory. (The
        // kernel notes an origin, without a name, on it too, once something below is copied up.) In root's hands, all of an imported
        // VM is root's, whosever the host's directory is: there only what has no origin is known to be given.
        let is_roots = rustix::process::geteuid().is_root();
        let is_given = upper.stat.stx_uid != lower.stat.stx_uid && (marks.origin == Origin::Absent || !is_roots);
        if !self.trusted() && is_given {
            return Ok(MetaDelta::default());
        }
        let mut meta = self.meta_delta(upper, lower)?;
        if meta.times {
            let (ours, theirs) = (time(upper.stat.stx_mtime), time(lower.stat.stx_mtime));
            let future = Timestamp { secs: self.now.secs.saturating_add(FUTURE_SECS), nanos: 0 };
            let forked = self.input.forked;
            // Laid ahead it counts as made when the VM was forked. What was copied up since has such a time from the host.
            let is_laid = self.input.laid.is_some_and(|[from, until]| {
                let born = birth(upper.stat).filter(|born| self.input.copied.is_none_or(|copied| *born > copied));
                (from..=until).contains(&ours) && born.is_none_or(|born| born <= until)
            });
            let ours = if is_laid { ours.max(forked) } else { ours };
            meta.times = ours > future || (ours < forked && theirs < before(forked, STAMP_NANOS));
            if !meta.times && ours >= forked {
                notes.touched.push(TouchedDir { path: self.vm_path(rel), mtime: ours });
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

/// The next nanosecond.
fn after_ns(at: Timestamp) -> Timestamp {
    match at.nanos {
        999_999_999 => Timestamp { secs: at.secs + 1, nanos: 0 },
        nanos => Timestamp { nanos: nanos + 1, ..at },
    }
}
