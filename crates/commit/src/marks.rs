//! Attributes of staged files that are the host's own affair, whatever the VM had there.
//!
//! ```text
//!   staged file ─► attributes with reserved names that came from the VM  ─► dropped
//!               ─► what [`Marks`] says of its content                    ─► set
//!   base on the host ─► reserved attributes                              ─► stay, where the file stays the same
//! ```
//!
//! Invariants: a file has its final reserved attributes before the commit point; no reserved attribute of a layer reaches
//! the host but through [`Marks`].

use crate::CommitError;
use crate::disk::{Disk, Entry};
use fvm_model::VmPath;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self, FileType};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Extended attributes: name, value.
pub type Attributes = Vec<(OsString, Vec<u8>)>;

/// A regular file that was staged.
#[derive(Debug)]
pub struct NewFile<'f> {
    /// Where it will be.
    pub path: &'f VmPath,
    /// Its content, open for reading.
    pub file: BorrowedFd<'f>,
    /// Reserved attributes of the host's version that it replaces.
    pub was: Attributes,
    /// Reserved attributes that it had in the layer.
    pub brought: Attributes,
}

/// Says which new files are marked, and how.
pub trait Marks: std::fmt::Debug + Send + Sync {
    /// Whether a file of this length may have to be marked, whatever its attributes are.
    fn concerns(&self, len_bytes: u64) -> bool;
    /// The attributes that mark the file, of which at least one must be set; none: it is not marked.
    ///
    /// # Errors
    /// When it cannot be read.
    fn judge(&self, new: &NewFile<'_>) -> Result<Attributes, Errno>;
    /// Writes down what was marked: called once, when everything is staged. Nothing is committed if it fails.
    ///
    /// # Errors
    /// Why it could not, in words.
    fn keep(&self) -> Result<(), String>;
}

/// Whether the name belongs to the host.
pub fn is_reserved(attr: &OsStr) -> bool {
    [&b"user.fvm."[..], b"trusted.fvm."].iter().any(|own| attr.as_bytes().starts_with(own))
}

/// The reserved attributes of an entry.
pub fn reserved(at: Entry<'_>) -> Result<Attributes, Errno> {
    let names = at.0.xattr_names(at.1)?;
    let value = |attr: OsString| Ok(at.0.xattr(at.1, &attr)?.map(|value| (attr, value)));
    names.into_iter().filter(|attr| is_reserved(attr)).filter_map(|attr| value(attr).transpose()).collect()
}

/// Gives the entry that was staged at `to` the reserved attributes that it shall have. `base`: what it replaces; `is_layers`:
/// it is a copy of the layer's, with its attributes.
pub fn settle(
    disk: &dyn Disk,
    path: &VmPath,
    to: Entry<'_>,
    (base, is_layers): (Option<Entry<'_>>, bool),
    marks: Option<&dyn Marks>,
) -> Result<(), CommitError> {
    let fail = |errno| CommitError::Stage { path: path.clone(), what: "look at its marks", errno };
    let there = reserved(to).map_err(fail)?;
    let brought = if is_layers { there.clone() } else { Vec::new() };
    let stat = to.0.stat(to.1).map_err(fail)?;
    let is_file = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile;
    let was = base.map_or(Ok(Vec::new()), reserved).map_err(fail)?;
    let concerned =
        marks.filter(|marks| is_file && (!was.is_empty() || !brought.is_empty() || marks.concerns(stat.stx_size)));
    if concerned.is_none() && there.is_empty() {
        return Ok(());
    }
    let mode = u32::from(stat.stx_mode) & 0o7777;
    let shut = is_file && mode & 0o600 != 0o600 && !rustix::process::geteuid().is_root();
    // Its owner reads it and sets `user.` attributes only as its mode says.
    if shut {
        disk.chmod(to, mode | 0o600).map_err(fail)?;
    }
    let settled = (|| {
        let wanted = match concerned {
            Some(marks) => {
                let file = to.0.open_file(to.1).map_err(fail)?;
                marks.judge(&NewFile { path, file: file.as_fd(), was, brought }).map_err(fail)?
            }
            None => Vec::new(),
        };
        for (attr, _) in there.iter().filter(|(attr, _)| !wanted.iter().any(|(name, _)| name == attr)) {
            disk.remove_xattr(to, attr).map_err(fail)?;
        }
        put(disk, to, &wanted).map_err(|errno| CommitError::Unmarkable { path: path.clone(), errno })
    })();
    if shut {
        disk.chmod(to, mode).map_err(fail)?;
    }
    settled
}

/// One of them is enough: which ones a file system and a user can set differs.
fn put(disk: &dyn Disk, to: Entry<'_>, wanted: &Attributes) -> Result<(), Errno> {
    let mut refused = None;
    let mut set = wanted.is_empty();
    for (attr, value) in wanted {
        match disk.set_xattr(to, attr, value) {
            Ok(()) => set = true,
            Err(errno @ (Errno::PERM | Errno::OPNOTSUPP)) => refused = refused.or(Some(errno)),
            Err(errno) => return Err(errno),
        }
    }
    if set { Ok(()) } else { Err(refused.unwrap_or(Errno::OPNOTSUPP)) }
}

/// Whether an entry of a layer has none of these attributes, and need not be looked into: it can be moved as it is.
pub fn is_plain(marks: Option<&dyn Marks>, names: &[OsString], stat: &fs::Statx) -> bool {
    let is_file = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile;
    let concerned = is_file && marks.is_some_and(|m| m.concerns(stat.stx_size));
    !concerned && !names.iter().any(|attr| is_reserved(attr))
}

/// The entry `path` in `dir`, for [`settle`].
pub fn entry<'e>((dir, name): &'e (fvm_sys::dir::Dir, std::path::PathBuf)) -> Entry<'e> {
    (dir, Path::new(name))
}
