//! One entry of a layer, copied to a stage: content, holes, owner, mode, attributes, times.
//!
//! Order: owner before mode (a chown clears set-uid) before attributes (a chown clears capabilities) before times.
//!
//! Invariants: a file that grows while it is read is cut at the size it had when it was opened; overlayfs's own
//! attributes, of either class, never reach the host.

use crate::disk::Disk;
use fvm_model::MetaDelta;
use fvm_sys::dir::Dir;
use rustix::fd::OwnedFd;
use rustix::fs::{self, FileType, SeekFrom, Statx};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The most that one `copy_file_range` is asked for.
const CHUNK_BYTES: u64 = 64 << 20;

/// Makes `to` a copy of the file, symlink or FIFO `from`.
pub fn entry(from: (&Dir, &Path), to: (&Dir, &Path), notes: &mut Vec<String>) -> Result<(), Errno> {
    let stat = from.0.stat(from.1)?;
    match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => {
            let source = from.0.open_file(from.1)?;
            let opened = fs::fstat(&source)?;
            if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
                return Err(Errno::INVAL);
            }
            let target = Disk.create_file(to.0, to.1)?;
            content(&source, &target, u64::try_from(opened.st_size).map_err(|_| Errno::INVAL)?)?;
        }
        FileType::Symlink => Disk.create_symlink(to.0, to.1, &from.0.read_link(from.1)?)?,
        FileType::Fifo => Disk.create_fifo(to.0, to.1)?,
        _ => return Err(Errno::OPNOTSUPP),
    }
    metadata(from, to, WHOLE, notes)
}

/// Shares the blocks where the file system can, else copies what is not a hole.
fn content(from: &OwnedFd, to: &OwnedFd, len: u64) -> Result<(), Errno> {
    if fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    fs::ftruncate(to, len)?;
    let mut at = 0;
    while at < len {
        let start = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start.min(len),
            // Only a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(_) => at,
        };
        let end = fs::seek(from, SeekFrom::Hole(start)).map_or(len, |end| end.min(len));
        range(from, to, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = usize::try_from((end - read_at).min(CHUNK_BYTES)).map_err(|_| Errno::OVERFLOW)?;
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            // It shrank meanwhile.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return by_hand(from, to, read_at, end);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn by_hand(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0u8; 1 << 20];
    while at < end {
        let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let got = match rustix::io::pread(from, &mut buffer[..want], at) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        let mut written = 0;
        while written < got {
            written += rustix::io::pwrite(to, &buffer[written..got], at + written as u64)?;
        }
        at += got as u64;
    }
    Ok(())
}

/// All metadata.
pub const WHOLE: MetaDelta = MetaDelta { mode: true, owner: true, times: true, xattrs: true };

/// Gives `to` those metadata of `from` that `which` names, and those that a change of owner takes away.
pub fn metadata(
    from: (&Dir, &Path),
    to: (&Dir, &Path),
    which: MetaDelta,
    notes: &mut Vec<String>,
) -> Result<(), Errno> {
    let stat = from.0.stat(from.1)?;
    if which.owner {
        owner(&stat, to)?;
    }
    if which.owner || which.mode {
        Disk.chmod(to.0, to.1, u32::from(stat.stx_mode))?;
    }
    if which.owner || which.xattrs {
        attributes(from, to, notes)?;
    }
    if which.times { mtime(&stat, to) } else { Ok(()) }
}

fn owner(stat: &Statx, to: (&Dir, &Path)) -> Result<(), Errno> {
    let now = to.0.stat(to.1)?;
    if (now.stx_uid, now.stx_gid) == (stat.stx_uid, stat.stx_gid) {
        return Ok(());
    }
    Disk.chown(to.0, to.1, stat.stx_uid, stat.stx_gid)
}

fn mtime(stat: &Statx, to: (&Dir, &Path)) -> Result<(), Errno> {
    Disk.set_mtime(to.0, to.1, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)
}

/// Makes the attributes of `to` those of `from`, but for overlayfs's.
fn attributes(from: (&Dir, &Path), to: (&Dir, &Path), notes: &mut Vec<String>) -> Result<(), Errno> {
    let wanted = own(from.0.xattrs(from.1)?);
    let there = own(to.0.xattrs(to.1)?);
    for (attr, _) in there.iter().filter(|(attr, _)| !wanted.iter().any(|(w, _)| w == attr)) {
        match Disk.remove_xattr(to.0, to.1, attr) {
            // A label that the host's security module insists on.
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) if !attr.as_bytes().starts_with(b"user.") => {}
            other => other?,
        }
    }
    for (attr, value) in wanted.iter().filter(|w| !there.contains(w)) {
        match Disk.set_xattr(to.0, to.1, attr, value) {
            Ok(()) => {}
            // An ordinary user may not set those, nor could the VM's program.
            Err(Errno::PERM | Errno::OPNOTSUPP) if !attr.as_bytes().starts_with(b"user.") => {
                let name = fvm_model::path::printable(attr.as_bytes());
                notes.push(format!(
                    "the attribute {name} of {} could not be set",
                    fvm_model::path::printable(to.1.as_os_str().as_bytes())
                ));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn own(attrs: Vec<(OsString, Vec<u8>)>) -> Vec<(OsString, Vec<u8>)> {
    let foreign =
        |attr: &OsString| [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|p| attr.as_bytes().starts_with(p));
    attrs.into_iter().filter(|(attr, _)| !foreign(attr)).collect()
}
