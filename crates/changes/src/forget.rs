//! Drops from a VM's layers what has been committed: there the host's version is the VM's now.
//!
//! ```text
//!   everything was committed     no layers: the next start makes them anew
//!   a part was                   its entries leave the upper, deepest first; directories that moved or were new
//!                                lose their marks and stay while they still hold something
//! ```
//!
//! Like [`crate::discard`] this writes only layers of a stopped VM, never the host.
//!
//! Invariant: called after the commit, so that whatever is dropped is on the host.

use crate::open::place;
use crate::{LayerView, ScanError, ScanInput};
use fvm_model::{Change, ChangeKind, FileType, LayerKind, VmPath};
use fvm_sys::dir::Dir;
use rustix::fs::{AtFlags, FileType as Raw};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What leaves the layers.
#[derive(Debug, Clone, Copy)]
pub enum Forget<'c> {
    /// Everything: the VM is as if forked now.
    All,
    /// These changes, sorted by path.
    These(&'c [Change]),
}

/// Drops what was committed from the layers. Doing it again does no harm.
///
/// # Errors
/// When a layer cannot be written.
pub fn forget(input: &ScanInput, what: Forget<'_>) -> Result<(), ScanError> {
    match what {
        Forget::All => input.layers.iter().filter(|v| v.layer.kind != LayerKind::File).try_for_each(|view| {
            renew(view).map_err(|source| ScanError::Layer {
                layer: view.layer.n,
                path: view.dir.display().to_string(),
                source,
            })
        }),
        Forget::These(changes) => {
            let mut opaque = Opaque::new(input, changes);
            changes.iter().rev().try_for_each(|change| {
                let dropped = match opaque.hides(change) {
                    Ok(true) => Ok(()),
                    Ok(false) => drop_entry(input, change),
                    Err(e) => Err(e),
                };
                dropped.map_err(|source| ScanError::Discard {
                    path: change.path.to_string(),
                    what: "dropping what was committed",
                    source,
                })
            })
        }
    }
}

/// Which of these changes [`forget`] would leave in the layers, because a directory that the VM replaced hides what the
/// host has there: their entries must not be moved out of the layers either.
///
/// # Errors
/// When a layer cannot be read.
pub fn staying(input: &ScanInput, changes: &[Change]) -> Result<HashSet<VmPath>, ScanError> {
    let mut opaque = Opaque::new(input, changes);
    let mut staying = HashSet::new();
    for change in changes.iter().filter(|c| c.kind != ChangeKind::Deleted) {
        let fail = |source| ScanError::Discard { path: change.path.to_string(), what: "looking above it", source };
        if opaque.hides(change).map_err(fail)? {
            staying.insert(change.path.clone());
        }
    }
    Ok(staying)
}

/// Directories that the VM replaced by ones of the same name, of which something may not be committed: they hide what the
/// host has there, so without the VM's copy an entry in one would be gone in the VM. It stays, equal to the host's.
struct Opaque<'c> {
    input: &'c ScanInput,
    /// Directories that lose their marks.
    unmarked: HashSet<&'c VmPath>,
    /// What was found out: directory → whether it, or one above it, hides the host's entries.
    known: HashMap<VmPath, bool>,
}

impl<'c> Opaque<'c> {
    fn new(input: &'c ScanInput, changes: &'c [Change]) -> Self {
        let loses_marks = |c: &&Change| {
            c.file_type == FileType::Directory && !matches!(c.kind, ChangeKind::Metadata { .. } | ChangeKind::Deleted)
        };
        Self { input, unmarked: changes.iter().filter(loses_marks).map(|c| &c.path).collect(), known: HashMap::new() }
    }

    fn hides(&mut self, change: &Change) -> Result<bool, Errno> {
        let (view, _) = place(self.input, change.layer, &change.path).map_err(|_| Errno::INVAL)?;
        let upper = match Dir::open_root(&view.dir.join("upper")) {
            Err(Errno::NOENT) => return Ok(true),
            other => other?,
        };
        let top = view.layer.host.in_vm();
        let (mut asked, mut found) = (Vec::new(), false);
        let mut above = change.path.parent().filter(|dir| *dir != top && dir.is_within(&top));
        while let Some(dir) = above {
            if let Some(known) = self.known.get(&dir) {
                found = *known;
                break;
            }
            let rel = dir.relative_to(&top).ok_or(Errno::INVAL)?.to_path_buf();
            let mark = match upper.beneath_deep(rel.parent().unwrap_or(Path::new(""))) {
                Ok(parent) => {
                    let attr = format!("{}opaque", self.input.class.prefix());
                    match parent.xattr(Path::new(dir.name()), OsStr::new(&attr)) {
                        Err(Errno::NOENT | Errno::NOTDIR) => None,
                        other => other?,
                    }
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                Err(e) => return Err(e),
            };
            above = dir.parent().filter(|dir| *dir != top && dir.is_within(&top));
            found = mark.is_some_and(|mark| mark == b"y") && !self.unmarked.contains(&dir);
            asked.push(dir);
            if found {
                break;
            }
        }
        self.known.extend(asked.into_iter().map(|dir| (dir, found)));
        Ok(found)
    }
}

/// Takes a layer away: the next start makes it anew, as for a new VM.
fn renew(view: &LayerView) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (view.dir.parent(), view.dir.file_name()) else { return Err(Errno::INVAL) };
    let (dir, name) = (Dir::open_root(parent)?, Path::new(name));
    let gone = PathBuf::from(format!("{}.gone", name.display()));
    dir.remove_tree(&gone)?;
    match rustix::fs::renameat(&dir, name, &dir, &gone) {
        Ok(()) => dir.remove_tree(&gone),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

fn drop_entry(input: &ScanInput, change: &Change) -> Result<(), Errno> {
    let absent = |result: Result<(), Errno>| match result {
        // LOOP: the VM has a symlink where the host's directory was.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        other => other,
    };
    let dir_of = |path: &VmPath| -> Result<(Dir, PathBuf), Errno> {
        let (view, rel) = place(input, change.layer, path).map_err(|_| Errno::INVAL)?;
        let upper = Dir::open_root(&view.dir.join("upper"))?;
        let parent = upper.beneath_deep(rel.parent().unwrap_or(Path::new("")))?;
        Ok((parent, rel.file_name().map(PathBuf::from).unwrap_or_default()))
    };
    if let (ChangeKind::Renamed { .. }, Some(base)) = (&change.kind, &change.base) {
        absent(dir_of(&base.in_vm()).and_then(|(dir, name)| remove_whiteout(&dir, &name)))?;
    }
    absent(dir_of(&change.path).and_then(|(dir, name)| {
        if change.kind == ChangeKind::Deleted {
            return remove_whiteout(&dir, &name);
        }
        if change.file_type != FileType::Directory {
            return rustix::fs::unlinkat(&dir, &name, AtFlags::empty());
        }
        if !matches!(change.kind, ChangeKind::Metadata { .. }) {
            for mark in ["redirect", "opaque"] {
                dir.remove_xattr(&name, OsStr::new(&format!("{}{mark}", input.class.prefix())))?;
            }
        }
        let is_opaque = dir.xattr(&name, OsStr::new(&format!("{}opaque", input.class.prefix())))?.is_some();
        if is_opaque {
            return Ok(());
        }
        match rustix::fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            other => other,
        }
    }))
}

fn remove_whiteout(dir: &Dir, name: &Path) -> Result<(), Errno> {
    match dir.stat_opt(name)? {
        Some(stat)
            if Raw::from_raw_mode(u32::from(stat.stx_mode)) == Raw::CharacterDevice
                && (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0) =>
        {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())
        }
        _ => Ok(()),
    }
}
