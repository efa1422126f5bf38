//! Drops from a VM's layers what has been committed: there the host's version is the VM's now.
//!
//! ```text
//!   everything was committed     fresh, empty layers
//!   a part was                   its entries leave the upper, deepest first; directories that moved or were new
//!                                lose their marks and stay while they still hold something
//!   in a directory that hides    it shows what was committed, and names (as whiteouts) what it goes on hiding
//!   the host's (opaque)
//! ```
//!
//! Like [`crate::discard`] this writes only layers of a stopped VM, never the host.
//!
//! Invariant: called after the commit, so that whatever is dropped is on the host.

use crate::discard::LayerDir;
use crate::open::place;
use crate::{LayerView, ScanError, ScanInput};
use fvm_model::{Change, ChangeKind, FileType, LayerKind, VmPath};
use fvm_sys::dir::Dir;
use rustix::fs::{AtFlags, FileType as Raw, Mode, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::HashSet;
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
            let placed: HashSet<&VmPath> = changes.iter().filter(|c| is_placed(c)).map(|c| &c.path).collect();
            changes.iter().rev().try_for_each(|change| {
                drop_entry(input, change).and_then(|()| show(input, change, &placed)).map_err(|source| {
                    ScanError::Discard { path: change.path.to_string(), what: "dropping what was committed", source }
                })
            })
        }
    }
}

/// Whether it is a directory that the commit put there: its own marks go.
fn is_placed(change: &Change) -> bool {
    change.file_type == FileType::Directory && !matches!(change.kind, ChangeKind::Metadata { .. } | ChangeKind::Deleted)
}

/// Lets the VM see the host's `change`, if a directory above, that was there before, hides all that the host has.
fn show(input: &ScanInput, change: &Change, placed: &HashSet<&VmPath>) -> Result<(), Errno> {
    if change.kind == ChangeKind::Deleted {
        return Ok(());
    }
    let (view, rel) = place(input, change.layer, &change.path).map_err(|_| Errno::INVAL)?;
    let upper = Dir::open_root(&view.dir.join("upper"))?;
    let opaque = format!("{}opaque", input.class.prefix());
    let mut above = change.path.parent();
    for dir in rel.ancestors().skip(1) {
        let own = above.as_ref().is_some_and(|at| placed.contains(at));
        above = above.and_then(|at| at.parent());
        let hides = match upper.beneath_deep(dir) {
            Ok(open) => open.xattr(Path::new(""), OsStr::new(&opaque))?.as_deref() == Some(b"y"),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => false,
            Err(e) => return Err(e),
        };
        if hides && !own {
            return LayerDir { upper, index: None, input }.uncover(&rel, &change.path.on_host());
        }
    }
    Ok(())
}

/// Puts an empty `upper` and `work` in the place of the old ones, the owner and mode of the upper kept.
fn renew(view: &LayerView) -> Result<(), Errno> {
    let dir = Dir::open_root(&view.dir)?;
    for name in ["upper", "work"] {
        let fresh = PathBuf::from(format!("{name}.new"));
        dir.remove_tree(&fresh)?;
        let old = dir.stat(Path::new(name))?;
        rustix::fs::mkdirat(&dir, &fresh, Mode::RWXU)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(old.stx_uid), rustix::fs::Gid::from_raw(old.stx_gid));
        let now = dir.stat(&fresh)?;
        if (now.stx_uid, now.stx_gid) != (old.stx_uid, old.stx_gid) {
            rustix::fs::chownat(&dir, &fresh, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let opened = dir.beneath(&fresh)?;
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(u32::from(old.stx_mode) & 0o7777))?;
        let then = Timespec { tv_sec: old.stx_mtime.tv_sec, tv_nsec: i64::from(old.stx_mtime.tv_nsec) };
        rustix::fs::futimens(&opened, &Timestamps { last_access: then, last_modification: then })?;
        rustix::fs::renameat_with(&dir, &fresh, &dir, Path::new(name), RenameFlags::EXCHANGE)?;
    }
    for name in ["upper.new", "work.new"] {
        dir.remove_tree(Path::new(name))?;
    }
    Ok(())
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
        // Also where [`show`] made one for the sake of a neighbour: what was moved to the host is not in the upper.
        remove_whiteout(&dir, &name)?;
        if change.kind == ChangeKind::Deleted {
            return Ok(());
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
