//! Both versions of one change, for reading.
//!
//! Invariants: reached by directory descriptor, from the layer's root or from `/`, through no symlink; never blocks;
//! only regular files.

use crate::compare::open_regular;
use crate::{LayerView, ScanError, ScanInput};
use fvm_model::path::printable;
use fvm_model::{Change, FileType, HostPath, LayerKind, VmPath};
use fvm_sys::dir::Dir;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub(crate) const AFTER: &str = "the VM's version";
const BEFORE: &str = "the host's version";

/// Opens the VM's version of a regular file.
///
/// # Errors
/// When the change is of another layer or is not a regular file (any more), or the kernel refuses.
pub fn open_after(input: &ScanInput, change: &Change) -> Result<OwnedFd, ScanError> {
    let fail = |source| read_error(AFTER, &change.path, source);
    let (dir, name) = after_place(input, change)?;
    open_regular(&dir, &name).map_err(fail)
}

/// Opens the host's version of a regular file; `None` when the change has none, or it was not a regular file.
///
/// # Errors
/// When it is gone or not a regular file any more, or the kernel refuses.
pub fn open_before(change: &Change) -> Result<Option<OwnedFd>, ScanError> {
    let (Some(base), Some(FileType::File)) = (&change.base, change.before.as_ref().map(|m| m.file_type)) else {
        return Ok(None);
    };
    let fail = |source| read_error(BEFORE, base, source);
    let (dir, name) = before_place(base).map_err(fail)?;
    open_regular(&dir, &name).map_err(fail).map(Some)
}

/// The names of the attributes of the VM's version; none of a bind-mounted file's.
pub(crate) fn xattr_names_after(input: &ScanInput, change: &Change) -> Result<Vec<OsString>, ScanError> {
    if input.layers.iter().any(|view| view.layer.n == change.layer && view.layer.kind == LayerKind::File) {
        return Ok(Vec::new());
    }
    let (dir, name) = after_place(input, change)?;
    dir.xattr_names(&name).map_err(|e| read_error(AFTER, &change.path, e))
}

/// The target of the VM's symlink.
pub(crate) fn link_after(input: &ScanInput, change: &Change) -> Result<OsString, ScanError> {
    let (dir, name) = after_place(input, change)?;
    dir.read_link(&name).map_err(|e| read_error(AFTER, &change.path, e))
}

/// The target of the host's symlink.
pub(crate) fn link_before(base: &HostPath) -> Result<OsString, ScanError> {
    let fail = |source| read_error(BEFORE, base, source);
    let (dir, name) = before_place(base).map_err(fail)?;
    dir.read_link(&name).map_err(fail)
}

pub(crate) fn read_error(what: &'static str, path: impl AsRef<Path>, source: Errno) -> ScanError {
    ScanError::Read { what, path: printable(path.as_ref().as_os_str().as_bytes()), source }
}

fn before_place(base: &HostPath) -> Result<(Dir, PathBuf), Errno> {
    let rel = base.relative_to(&HostPath::root()).ok_or(Errno::INVAL)?;
    let name = rel.file_name().ok_or(Errno::ISDIR)?;
    let dir = Dir::open_root(Path::new("/"))?.beneath_deep(rel.parent().unwrap_or(Path::new("")))?;
    Ok((dir, name.into()))
}

fn after_place(input: &ScanInput, change: &Change) -> Result<(Dir, PathBuf), ScanError> {
    let path = change.source.as_ref().unwrap_or(&change.path);
    let (view, rel) = place(input, change.layer, path)?;
    let fail = |source| read_error(AFTER, path, source);
    if view.layer.kind == LayerKind::File {
        return Ok((Dir::open_root(&view.dir).map_err(fail)?, PathBuf::from("file")));
    }
    let name = rel.file_name().ok_or_else(|| fail(Errno::ISDIR))?;
    let upper = Dir::open_root(&view.dir.join("upper")).map_err(fail)?;
    let dir = upper.beneath_deep(rel.parent().unwrap_or(Path::new(""))).map_err(fail)?;
    Ok((dir, name.into()))
}

/// The layer of a change, and the path below its root.
pub(crate) fn place<'i>(
    input: &'i ScanInput,
    layer: u32,
    path: &VmPath,
) -> Result<(&'i LayerView, PathBuf), ScanError> {
    let missing = || ScanError::NotInLayer { path: path.to_string(), layer };
    let view = input.layers.iter().find(|l| l.layer.n == layer).ok_or_else(missing)?;
    let rel = path.relative_to(&view.layer.host.in_vm()).ok_or_else(missing)?;
    Ok((view, rel.to_path_buf()))
}
