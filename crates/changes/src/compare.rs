//! Whether two entries are the same: type, content, metadata.
//!
//! ```text
//!   upper entry ─┐
//!                ├─ same_content? ── bytes, holes skipped
//!   lower entry ─┘  delta ────────── mode, owner, mtime, attributes (overlay's own left out)
//! ```
//!
//! Invariants: files are opened by directory descriptor, without following a link and without blocking, and are checked
//! to be regular before a byte is read; memory use does not depend on their size.

use crate::overlay::is_overlay_attr;
use fvm_model::{FileType, Meta, MetaDelta, Timestamp};
use fvm_sys::dir::Dir;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, SeekFrom, Statx, StatxFlags, StatxTimestamp};
use rustix::io::{self, Errno};
use std::path::Path;

const BLOCK_BYTES: usize = 128 * 1024;

/// A `statx` time.
pub(crate) fn time(t: StatxTimestamp) -> Timestamp {
    Timestamp { secs: t.tv_sec, nanos: t.tv_nsec }
}

/// The birth time, where the file system has one.
pub(crate) fn birth(stat: &Statx) -> Option<Timestamp> {
    (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime))
}

/// The type of an entry; unknown types count as a character device, which is never committed.
pub(crate) fn file_type(stat: &Statx) -> FileType {
    match fs::FileType::from_raw_mode(stat.stx_mode.into()) {
        fs::FileType::RegularFile => FileType::File,
        fs::FileType::Directory => FileType::Directory,
        fs::FileType::Symlink => FileType::Symlink,
        fs::FileType::Fifo => FileType::Fifo,
        fs::FileType::Socket => FileType::Socket,
        fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::CharDevice,
    }
}

/// Whether it is overlay's mark of a deletion.
pub(crate) fn is_whiteout(stat: &Statx) -> bool {
    file_type(stat) == FileType::CharDevice && stat.stx_rdev_major == 0 && stat.stx_rdev_minor == 0
}

/// The committable metadata.
pub(crate) fn meta(stat: &Statx) -> Meta {
    Meta {
        file_type: file_type(stat),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size_bytes: stat.stx_size,
        mtime: time(stat.stx_mtime),
    }
}

/// An entry to compare: its directory, its name there (empty: the directory itself), its `statx`.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub dir: &'a Dir,
    pub name: &'a Path,
    pub stat: &'a Statx,
}

/// Opens a regular file, and refuses anything else.
pub(crate) fn open_regular(dir: &Dir, name: &Path) -> Result<OwnedFd, Errno> {
    let fd = dir.open_file(name)?;
    let is_file = fs::FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) == fs::FileType::RegularFile;
    if is_file { Ok(fd) } else { Err(Errno::INVAL) }
}

/// Whether two entries of one type have the same content (link target, device number).
pub(crate) fn same_content(a: Side<'_>, b: Side<'_>) -> Result<bool, Errno> {
    match file_type(a.stat) {
        FileType::File => {
            if a.stat.stx_size != b.stat.stx_size {
                return Ok(false);
            }
            let (a_file, b_file) = (open_regular(a.dir, a.name)?, open_regular(b.dir, b.name)?);
            // Most files are small: then no search for holes pays, nor a whole block.
            let size = usize::try_from(a.stat.stx_size).unwrap_or(usize::MAX);
            if size < BLOCK_BYTES { same_start(a_file, b_file, size) } else { same_bytes(&a_file, &b_file) }
        }
        FileType::Symlink => Ok(a.dir.read_link(a.name)? == b.dir.read_link(b.name)?),
        FileType::CharDevice | FileType::BlockDevice => {
            let rdev = |s: &Statx| (s.stx_rdev_major, s.stx_rdev_minor);
            Ok(rdev(a.stat) == rdev(b.stat))
        }
        FileType::Directory | FileType::Fifo | FileType::Socket => Ok(true),
    }
}

/// Whether two regular files hold the same bytes. Where both have a hole, nothing is read.
pub(crate) fn same_bytes(a: impl AsFd, b: impl AsFd) -> Result<bool, Errno> {
    let (mut block_a, mut block_b) = (vec![0u8; BLOCK_BYTES], vec![0u8; BLOCK_BYTES]);
    let mut at: u64 = 0;
    loop {
        if let (Some(data_a), Some(data_b)) = (next_data(&a, at)?, next_data(&b, at)?) {
            at = at.max(data_a.min(data_b));
        }
        let len_a = read_full(&a, &mut block_a, at)?;
        let len_b = read_full(&b, &mut block_b, at)?;
        if len_a != len_b || block_a[..len_a] != block_b[..len_b] {
            return Ok(false);
        }
        if len_a < BLOCK_BYTES {
            return Ok(true);
        }
        at += BLOCK_BYTES as u64;
    }
}

/// Whether two files that were `size` bytes long hold the same bytes, and no more.
fn same_start(a: impl AsFd, b: impl AsFd, size: usize) -> Result<bool, Errno> {
    let (mut bytes_a, mut bytes_b) = (vec![0u8; size + 1], vec![0u8; size + 1]);
    let len_a = read_full(&a, &mut bytes_a, 0)?;
    let len_b = read_full(&b, &mut bytes_b, 0)?;
    if len_a > size || len_b > size {
        // One is being written.
        return same_bytes(a, b);
    }
    Ok(bytes_a[..len_a] == bytes_b[..len_b])
}

/// Where data begins at or after `at`; the end of the file when there is none; `None` when it cannot be told.
fn next_data(fd: impl AsFd, at: u64) -> Result<Option<u64>, Errno> {
    match fs::seek(&fd, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => fs::fstat(&fd).map(|s| u64::try_from(s.st_size).ok()),
        Err(_) => Ok(None),
    }
}

fn read_full(fd: impl AsFd, block: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut len = 0;
    while len < block.len() {
        match io::pread(&fd, &mut block[len..], at + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

/// Which metadata differ; `times` is plain inequality of mtime.
pub(crate) fn delta(a: Side<'_>, b: Side<'_>) -> Result<MetaDelta, Errno> {
    let (ma, mb) = (meta(a.stat), meta(b.stat));
    Ok(MetaDelta {
        mode: ma.mode != mb.mode,
        owner: (ma.uid, ma.gid) != (mb.uid, mb.gid),
        times: ma.mtime != mb.mtime,
        xattrs: own_xattrs(a)? != own_xattrs(b)?,
    })
}

type Xattrs = Vec<(std::ffi::OsString, Vec<u8>)>;

fn own_xattrs(side: Side<'_>) -> Result<Xattrs, Errno> {
    let mut list = match side.dir.xattrs(side.name) {
        // A file that we may not read has attributes that we may not read: not a difference in itself.
        Err(Errno::ACCESS) => Vec::new(),
        other => other?,
    };
    list.retain(|(name, _)| !is_overlay_attr(name));
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_equal_zeros_and_a_late_difference_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let make = |name: &str, parts: &[(u64, &[u8])]| {
            let path = tmp.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(64 << 20).unwrap();
            for (at, bytes) in parts {
                file.write_all_at(bytes, *at).unwrap();
            }
            File::open(path).unwrap()
        };
        let hole = make("hole", &[]);
        let zeros = make("zeros", &[(5 << 20, &[0; 4096])]);
        let late = make("late", &[((64 << 20) - 1, b"x")]);
        assert!(same_bytes(&hole, &zeros).unwrap());
        assert!(!same_bytes(&hole, &late).unwrap());
        assert!(!same_bytes(&late, &zeros).unwrap());
        assert!(same_bytes(&late, &late).unwrap());
    }
}
