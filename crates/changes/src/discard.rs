//! Drops changes from the layers of a stopped VM: afterwards it sees the host's version there again.
//!
//! ```text
//!   change            what goes from the upper
//!   created, edited   the entry, with all below
//!   deleted           the whiteout; in a replaced directory: its `opaque` becomes one whiteout per name still gone
//!   renamed           the entry, and the whiteout at its old place
//!   directory chmod   the host's metadata are copied onto the upper directory
//!   hard links        all names of the file, and overlay's index entry
//! ```
//!
//! Invariants: this is the one module of the crate that writes, and it writes only below the layers' own directories,
//! never the host; the caller holds the lock of the VM, which is stopped.

use crate::open::place;
use crate::overlay::is_overlay_attr;
use crate::{ScanError, ScanInput, compare};
use fvm_model::path::printable;
use fvm_model::{Change, ChangeKind, ChangeSet, FileType, HostPath, LayerKind, VmPath};
use fvm_sys::dir::Dir;
use rustix::fs::{self, AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const MAX_ENTRIES: usize = 4_000_000;

/// Drops the `chosen` changes of `set` (a fresh scan of the same layers); returns how many changes went.
///
/// A chosen path that is a change drops that change, with all below it when it is a created, moved or replaced
/// directory (but not when only its metadata changed). A chosen path that is no change drops all changes below it.
/// Hard links to one file go together, and a rename goes by either of its names.
///
/// # Errors
/// When the kernel refuses; changes dropped so far stay dropped.
pub fn discard(input: &ScanInput, set: &ChangeSet, chosen: &[VmPath]) -> Result<usize, ScanError> {
    let picked = closure(set, chosen);
    let below = below_removed(set, &picked);
    let stay = set.changes.iter().enumerate().filter(|(i, c)| is_rename(c) && !picked.contains(i));
    let still_moved: HashSet<VmPath> = stay.filter_map(|(_, c)| c.base.as_ref().map(HostPath::in_vm)).collect();
    // Children before their parents.
    for index in picked.iter().rev() {
        let change = &set.changes[*index];
        // Goes with the directory above it, and has no trace elsewhere.
        if below[*index] && change.before.is_none() && change.link_group.is_none() {
            continue;
        }
        drop_change(input, set, change, &still_moved).map_err(|(what, source)| match what {
            "" => ScanError::NotInLayer { path: change.path.to_string(), layer: change.layer },
            what => ScanError::Discard { path: printable(change.path.as_bytes()), what, source },
        })?;
    }
    Ok(picked.len())
}

/// For each change, whether it lies below a picked directory that goes with all below it.
fn below_removed(set: &ChangeSet, picked: &BTreeSet<usize>) -> Vec<bool> {
    // By component, a directory is followed by all below it.
    let mut order: Vec<usize> = (0..set.changes.len()).collect();
    order.sort_by(|a, b| set.changes[*a].path.cmp(&set.changes[*b].path));
    let mut below = vec![false; set.changes.len()];
    let mut top: Option<&VmPath> = None;
    for index in order {
        let change = &set.changes[index];
        if top.is_some_and(|t| change.path.is_within(t)) {
            below[index] = true;
        } else if picked.contains(&index) && takes_all_below(change) {
            top = Some(&change.path);
        }
    }
    below
}

/// The indices of all changes that go, ascending.
fn closure(set: &ChangeSet, chosen: &[VmPath]) -> BTreeSet<usize> {
    let mut picked = BTreeSet::new();
    // Both names of every change, so that a long choice costs no more than the set.
    let mut by_name: HashMap<&Path, Vec<usize>> = HashMap::new();
    for (index, change) in set.changes.iter().enumerate() {
        by_name.entry(change.path.as_path()).or_default().push(index);
        if let (true, Some(base)) = (is_rename(change), &change.base) {
            by_name.entry(base.as_path()).or_default().push(index);
        }
    }
    for path in chosen {
        match by_name.get(path.as_path()) {
            Some(exact) => picked.extend(exact),
            None => picked.extend((0..set.changes.len()).filter(|i| set.changes[*i].path.is_within(path))),
        }
    }
    let mut groups: HashSet<u32> = HashSet::new();
    loop {
        let before = picked.len();
        groups.extend(picked.iter().filter_map(|i| set.changes[*i].link_group));
        let below = below_removed(set, &picked);
        for (index, change) in set.changes.iter().enumerate() {
            let linked = change.link_group.is_some_and(|g| groups.contains(&g));
            if linked || below[index] {
                picked.insert(index);
            }
        }
        if picked.len() == before {
            return picked;
        }
    }
}

fn is_rename(change: &Change) -> bool {
    matches!(change.kind, ChangeKind::Renamed { .. })
}

fn takes_all_below(change: &Change) -> bool {
    change.file_type == FileType::Directory && !matches!(change.kind, ChangeKind::Metadata { .. } | ChangeKind::Deleted)
}

type Failed = (&'static str, Errno);

fn drop_change(
    input: &ScanInput,
    set: &ChangeSet,
    change: &Change,
    still_moved: &HashSet<VmPath>,
) -> Result<(), Failed> {
    let (view, rel) = place(input, change.layer, &change.path).map_err(|_| ("", Errno::INVAL))?;
    if view.layer.kind == LayerKind::File {
        let copied = std::fs::copy(view.layer.host.as_path(), view.dir.join("file"));
        return copied
            .map(drop)
            .map_err(|e| ("copying the host's file", Errno::from_io_error(&e).unwrap_or(Errno::IO)));
    }
    let layer = LayerDir {
        upper: Dir::open_root(&view.dir.join("upper")).map_err(|e| ("opening the layer", e))?,
        index: Dir::open_root(&view.dir.join("work/index")).ok(),
        input,
    };
    if let (ChangeKind::Metadata { .. }, FileType::Directory, Some(base)) =
        (&change.kind, change.file_type, &change.base)
    {
        return layer.restore_directory(&rel, base).map_err(|e| ("restoring the directory's metadata", e));
    }
    layer.remove(&rel).map_err(|e| ("removing the VM's version", e))?;
    if still_moved.contains(&change.path) {
        return layer.whiteout(&rel).map_err(|e| ("keeping the old name hidden", e));
    }
    let Some(base) = change.base.as_ref().filter(|_| change.before.is_some()) else {
        return Ok(());
    };
    let base_rel = if is_rename(change) {
        let at = vm_place(set, base);
        place(input, change.layer, &at).map_err(|_| ("", Errno::INVAL))?.1
    } else {
        rel
    };
    if is_rename(change) {
        layer.remove_whiteout(&base_rel).map_err(|e| ("uncovering the old name", e))?;
    }
    layer.uncover(&base_rel, base).map_err(|e| ("uncovering the host's version", e))
}

/// Where a host entry would stand in the VM: below a moved directory, under its new name.
fn vm_place(set: &ChangeSet, base: &HostPath) -> VmPath {
    let moved = set.changes.iter().filter(|c| is_rename(c) && c.file_type == FileType::Directory);
    let deepest = moved
        .filter_map(|c| c.base.as_ref().map(|b| (b, c)))
        .filter(|(b, _)| base != *b && base.is_within(b))
        .max_by_key(|(b, _)| b.as_bytes().len());
    match deepest.and_then(|(b, c)| base.relative_to(b).map(|rest| c.path.join(rest))) {
        Some(path) => path,
        None => base.in_vm(),
    }
}

struct LayerDir<'a> {
    upper: Dir,
    index: Option<Dir>,
    input: &'a ScanInput,
}

impl LayerDir<'_> {
    /// The directory that holds `rel`, when the upper (still) has it.
    fn parent<'p>(&self, rel: &'p Path) -> Result<Option<(Dir, &'p Path)>, Errno> {
        let name = Path::new(rel.file_name().ok_or(Errno::INVAL)?);
        match self.upper.beneath_deep(rel.parent().unwrap_or(Path::new(""))) {
            Ok(dir) => Ok(Some((dir, name))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn remove(&self, rel: &Path) -> Result<(), Errno> {
        let Some((dir, name)) = self.parent(rel)? else {
            return Ok(());
        };
        if let (Some(index), Some(stat)) = (&self.index, dir.stat_opt(name)?)
            && stat.stx_nlink > 1
            && !compare::is_whiteout(&stat)
        {
            for (entry, _) in index.entries(MAX_ENTRIES)? {
                let entry = Path::new(&entry);
                if index
                    .stat_opt(entry)?
                    .is_some_and(|s| s.stx_ino == stat.stx_ino && compare::file_type(&s) != FileType::Directory)
                {
                    fs::unlinkat(index, entry, AtFlags::empty())?;
                }
            }
        }
        dir.remove_tree(name)
    }

    fn whiteout(&self, rel: &Path) -> Result<(), Errno> {
        let Some((dir, name)) = self.parent(rel)? else {
            return Ok(());
        };
        make_whiteout(&dir, name)
    }

    fn remove_whiteout(&self, rel: &Path) -> Result<(), Errno> {
        let Some((dir, name)) = self.parent(rel)? else {
            return Ok(());
        };
        match dir.stat_opt(name)? {
            Some(stat) if compare::is_whiteout(&stat) => fs::unlinkat(&dir, name, AtFlags::empty()),
            _ => Ok(()),
        }
    }

    /// Lets the host's `base` show through at `rel`: no directory above may be opaque any more.
    fn uncover(&self, rel: &Path, base: &HostPath) -> Result<(), Errno> {
        let mut chain: Vec<(PathBuf, HostPath)> = Vec::new();
        let (mut at, mut host) = (rel.parent(), base.parent());
        while let (Some(dir), Some(on_host)) = (at, host) {
            chain.push((dir.to_path_buf(), on_host.clone()));
            (at, host) = (dir.parent(), on_host.parent());
        }
        for (dir_rel, on_host) in chain.iter().rev() {
            match self.upper.beneath_deep(dir_rel) {
                Ok(dir) => self.make_merged(&dir, on_host, rel.strip_prefix(dir_rel).ok())?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Replaces `opaque` of one directory by whiteouts for all that is to stay hidden.
    fn make_merged(&self, dir: &Dir, host: &HostPath, wanted: Option<&Path>) -> Result<(), Errno> {
        let prefix = self.input.class.prefix();
        let (opaque, redirect) =
            (OsString::from(format!("{prefix}opaque")), OsString::from(format!("{prefix}redirect")));
        if dir.xattr(Path::new(""), &opaque)?.as_deref() != Some(b"y") {
            return Ok(());
        }
        let wanted = wanted.and_then(|w| w.components().next()).map(|c| c.as_os_str().to_owned());
        let lower = Dir::open_root(host.as_path())?;
        let mount = lower.stat(Path::new(""))?.stx_mnt_id;
        let upper: HashMap<OsString, fs::FileType> = dir.entries(MAX_ENTRIES)?.into_iter().collect();
        for (name, _) in lower.entries(MAX_ENTRIES)? {
            let path = Path::new(&name);
            let Some(stat) = lower.stat_opt(path)? else {
                continue;
            };
            if stat.stx_mnt_id != mount || self.input.excluded.iter().any(|e| host.join(&name).is_within(e)) {
                continue;
            }
            if !upper.contains_key(&name) {
                if wanted.as_ref() != Some(&name) {
                    make_whiteout(dir, path)?;
                }
            } else if dir.stat(path).is_ok_and(|s| compare::file_type(&s) == FileType::Directory)
                && dir.xattr(path, &redirect)?.is_none()
            {
                dir.set_xattr(path, &opaque, b"y")?;
            }
        }
        dir.remove_xattr(Path::new(""), &opaque)
    }

    /// Gives the upper directory the host directory's metadata.
    fn restore_directory(&self, rel: &Path, base: &HostPath) -> Result<(), Errno> {
        let here = Path::new("");
        let dir = match self.upper.beneath_deep(rel) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let from_root = base.relative_to(&HostPath::root()).unwrap_or(here);
        let host = Dir::open_root(Path::new("/"))?.beneath_deep(from_root)?;
        let stat = host.stat(here)?;
        let (uid, gid) = (fs::Uid::from_raw(stat.stx_uid), fs::Gid::from_raw(stat.stx_gid));
        fs::fchown(&dir, Some(uid), Some(gid))?;
        fs::fchmod(&dir, Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777))?;
        let theirs = host.xattrs(here)?;
        let keep: HashSet<&OsStr> = theirs.iter().map(|(name, _)| name.as_os_str()).collect();
        for (name, _) in dir.xattrs(here)? {
            if !is_overlay_attr(&name) && !keep.contains(name.as_os_str()) {
                dir.remove_xattr(here, &name)?;
            }
        }
        for (name, value) in theirs.iter().filter(|(name, _)| !is_overlay_attr(name)) {
            if dir.xattr(here, name)?.as_ref() != Some(value) && !name.as_bytes().starts_with(b"trusted.") {
                dir.set_xattr(here, name, value)?;
            }
        }
        let mtime = Timespec { tv_sec: stat.stx_mtime.tv_sec, tv_nsec: stat.stx_mtime.tv_nsec.into() };
        let atime = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
        fs::futimens(&dir, &Timestamps { last_access: atime, last_modification: mtime })
    }
}

fn make_whiteout(dir: &Dir, name: &Path) -> Result<(), Errno> {
    match fs::mknodat(dir, name, fs::FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}
