//! Entries copied: content, holes, owner, mode, attributes, times.
//!
//! Order: owner before mode (a chown clears set-uid) before attributes (a chown clears capabilities) before times.
//!
//! Invariants: a file that grows while it is read is cut at the size it had when it was opened; overlayfs's own
//! attributes, of either class, never reach the host; however deep a tree is, few descriptors are open.

use crate::disk::{Disk, Entry};
use crate::program::Attrs;
use fvm_model::MetaDelta;
use fvm_model::path::{Bytes, printable};
use fvm_sys::dir::Dir;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self, FileType};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// All metadata.
pub const WHOLE: MetaDelta = MetaDelta { mode: true, owner: true, times: true, xattrs: true };

/// Makes `to` a copy of the file, symlink or FIFO `from`.
pub fn entry(disk: &dyn Disk, from: Entry<'_>, to: Entry<'_>, notes: &mut Vec<String>) -> Result<(), Errno> {
    match from.0.open_file(from.1) {
        Ok(source) => {
            let opened = fs::fstat(&source)?;
            match FileType::from_raw_mode(opened.st_mode) {
                FileType::RegularFile => {}
                FileType::Fifo => return special(disk, from, to, notes),
                _ => return Err(Errno::OPNOTSUPP),
            }
            let len = u64::try_from(opened.st_size).map_err(|_| Errno::INVAL)?;
            let attrs = Attrs::of_fd(source.as_fd(), &opened)?;
            for attr in disk.copy_file(to, source.as_fd(), len, &attrs)? {
                notes.push(unset(&attr, to.1));
            }
            Ok(())
        }
        // A symlink, or a socket.
        Err(Errno::LOOP | Errno::NXIO) => special(disk, from, to, notes),
        Err(e) => Err(e),
    }
}

fn special(disk: &dyn Disk, from: Entry<'_>, to: Entry<'_>, notes: &mut Vec<String>) -> Result<(), Errno> {
    match FileType::from_raw_mode(u32::from(from.0.stat(from.1)?.stx_mode)) {
        FileType::Symlink => disk.create_symlink(to, &from.0.read_link(from.1)?)?,
        FileType::Fifo => disk.create_fifo(to)?,
        _ => return Err(Errno::OPNOTSUPP),
    }
    set(disk, to, &Attrs::of(from, WHOLE)?, notes)
}

fn unset(attr: &OsStr, name: &Path) -> String {
    let (attr, name) = (printable(attr.as_bytes()), printable(name.as_os_str().as_bytes()));
    format!("the attribute {attr} of {name} could not be set")
}

/// Makes `to` a copy of `from` with all below it, of any depth. Sockets and devices are refused.
pub fn tree(disk: &dyn Disk, from: Entry<'_>, to: Entry<'_>, notes: &mut Vec<String>) -> Result<(), Errno> {
    let is_dir = |dir: &Dir, name: &Path| {
        dir.stat(name).map(|s| FileType::from_raw_mode(u32::from(s.stx_mode)) == FileType::Directory)
    };
    if !is_dir(from.0, from.1)? {
        return entry(disk, from, to, notes);
    }
    // The first copy of each file that has several names.
    let mut names: HashMap<u64, PathBuf> = HashMap::new();
    let mut dirs = vec![PathBuf::new()];
    let mut made = Vec::new();
    let (from_top, to_top) = (from.0.beneath(from.1)?, to);
    disk.create_dir(to_top)?;
    let to_root = to.0.beneath(to.1)?;
    while let Some(rel) = dirs.pop() {
        let (source, target) = (from_top.beneath_deep(&rel)?, to_root.beneath_deep(&rel)?);
        for name in source.names()? {
            let name = Path::new(&name);
            let stat = source.stat(name)?;
            if FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory {
                disk.create_dir((&target, name))?;
                dirs.push(rel.join(name));
                continue;
            }
            if let Some(first) = names.get(&stat.stx_ino).filter(|_| stat.stx_nlink > 1) {
                let dir = to_root.beneath_deep(first.parent().unwrap_or(Path::new("")))?;
                let first = first.file_name().map(Path::new).unwrap_or(Path::new(""));
                disk.link((&dir, first), (&target, name))?;
                continue;
            }
            entry(disk, (&source, name), (&target, name), notes)?;
            names.insert(stat.stx_ino, rel.join(name));
        }
        made.push(rel);
    }
    // Deepest first: setting one's time comes after everything in it.
    for rel in made.iter().rev() {
        let (source, target) = (from_top.beneath_deep(rel)?, to_root.beneath_deep(rel)?);
        let attrs = Attrs::of((&source, Path::new("")), WHOLE)?;
        set(disk, (&target, Path::new("")), &attrs, notes)?;
    }
    Ok(())
}

/// Gives a file that was just made these metadata; returns the attributes that could not be set, and need not be.
pub fn set_fd(to: BorrowedFd<'_>, attrs: &Attrs) -> Result<Vec<OsString>, Errno> {
    if let Some((uid, gid)) = attrs.owner {
        let now = fs::fstat(to)?;
        if (now.st_uid, now.st_gid) != (uid, gid) {
            fs::fchown(to, Some(fs::Uid::from_raw(uid)), Some(fs::Gid::from_raw(gid)))?;
        }
    }
    if let Some(mode) = attrs.mode {
        fs::fchmod(to, fs::Mode::from_raw_mode(mode))?;
    }
    let mut unset = Vec::new();
    for (attr, value) in attrs.xattrs.iter().flatten() {
        match fs::fsetxattr(to, &attr.0, value.0.as_bytes(), fs::XattrFlags::empty()) {
            // An ordinary user may not set those, nor could the VM's program.
            Err(Errno::PERM | Errno::OPNOTSUPP) if !attr.0.as_bytes().starts_with(b"user.") => {
                unset.push(attr.0.clone());
            }
            other => other?,
        }
    }
    if let Some(mtime) = attrs.mtime {
        let then = fs::Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) };
        let omit = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
        fs::futimens(to, &fs::Timestamps { last_access: omit, last_modification: then })?;
    }
    Ok(unset)
}

/// Gives an entry these metadata.
pub fn set(disk: &dyn Disk, to: Entry<'_>, attrs: &Attrs, notes: &mut Vec<String>) -> Result<(), Errno> {
    if let Some((uid, gid)) = attrs.owner {
        let now = to.0.stat(to.1)?;
        if (now.stx_uid, now.stx_gid) != (uid, gid) {
            disk.chown(to, uid, gid)?;
        }
    }
    if let Some(mode) = attrs.mode {
        disk.chmod(to, mode)?;
    }
    if let Some(wanted) = &attrs.xattrs {
        attributes(disk, to, wanted, notes)?;
    }
    match attrs.mtime {
        Some(mtime) => disk.set_mtime(to, mtime.secs, mtime.nanos),
        None => Ok(()),
    }
}

/// Makes the attributes of `to` the wanted ones.
fn attributes(disk: &dyn Disk, to: Entry<'_>, wanted: &[(Bytes, Bytes)], notes: &mut Vec<String>) -> Result<(), Errno> {
    let there = own(to.0.xattrs(to.1)?);
    for (attr, _) in there.iter().filter(|(attr, _)| !wanted.iter().any(|(w, _)| w.0 == *attr)) {
        match disk.remove_xattr(to, attr) {
            // A label that the host's security module insists on.
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) if !attr.as_bytes().starts_with(b"user.") => {}
            other => other?,
        }
    }
    let same = |(attr, value): &(Bytes, Bytes)| there.iter().any(|(a, v)| *a == attr.0 && v == value.0.as_bytes());
    for (attr, value) in wanted.iter().filter(|w| !same(w)) {
        match disk.set_xattr(to, &attr.0, value.0.as_bytes()) {
            Ok(()) => {}
            // An ordinary user may not set those, nor could the VM's program.
            Err(Errno::PERM | Errno::OPNOTSUPP) if !attr.0.as_bytes().starts_with(b"user.") => {
                notes.push(unset(&attr.0, to.1));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether the attribute is overlayfs's own.
pub fn is_overlay(attr: &OsString) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|p| attr.as_bytes().starts_with(p))
}

/// The attributes that are an entry's own.
pub fn own(attrs: Vec<(OsString, Vec<u8>)>) -> Vec<(OsString, Vec<u8>)> {
    attrs.into_iter().filter(|(attr, _)| !is_overlay(attr)).collect()
}
