//! Every operation by which a commit changes a disk, in one place: what a crash can come between.
//!
//! ```text
//!   stage    create, copy, symlink, fifo, mkdir, link     metadata  chown, chmod, setxattr, utimes
//!   place    exchange, no-replace rename                   remove    remove tree
//!   journal  create, write, sync file, replace             barrier   sync
//! ```
//!
//! Invariants: names are single components in an open directory; no operation follows a symlink; one call is one
//! disk operation, but for [`Disk::copy_file`] and [`Disk::remove_tree`], which may be done in part when a crash comes.

use crate::copy;
use crate::program::Attrs;
use fvm_sys::dir::Dir;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// An entry: an open directory, and a name in it (empty: the directory itself, where that makes sense).
pub type Entry<'a> = (&'a Dir, &'a Path);

/// A disk that can be written. Tests put one in between that stops, or forgets what was not synced.
pub trait Disk: std::fmt::Debug {
    /// A new empty file, open for writing, for its owner alone.
    ///
    /// # Errors
    /// The kernel's, as for all below.
    fn create_file(&self, at: Entry<'_>) -> Result<OwnedFd, Errno>;
    /// A new file with the content of `from` up to `len_bytes` (holes kept, blocks shared where the file system can) and
    /// these metadata. Returns the attributes that could not be set, and need not be.
    fn copy_file(
        &self,
        at: Entry<'_>,
        from: BorrowedFd<'_>,
        len_bytes: u64,
        attrs: &Attrs,
    ) -> Result<Vec<OsString>, Errno>;
    /// Content from memory.
    fn write(&self, to: &OwnedFd, bytes: &[u8]) -> Result<(), Errno>;
    /// A new directory, for its owner alone.
    fn create_dir(&self, at: Entry<'_>) -> Result<(), Errno>;
    /// A new symlink.
    fn create_symlink(&self, at: Entry<'_>, target: &OsStr) -> Result<(), Errno>;
    /// A new FIFO.
    fn create_fifo(&self, at: Entry<'_>) -> Result<(), Errno>;
    /// Another name of a file.
    fn link(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno>;
    /// Swaps two entries. `EINVAL` where the file system cannot (NFS, some FUSE).
    fn exchange(&self, a: Entry<'_>, b: Entry<'_>) -> Result<(), Errno>;
    /// Moves an entry to a name that is free. Where the file system cannot refuse to replace, looks first.
    fn move_to_free(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno>;
    /// Moves an entry over another one. For the journal only: what was there is gone.
    fn replace(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno>;
    /// Sets owner and group.
    fn chown(&self, at: Entry<'_>, uid: u32, gid: u32) -> Result<(), Errno>;
    /// Sets the permission bits; a symlink has none.
    fn chmod(&self, at: Entry<'_>, mode: u32) -> Result<(), Errno>;
    /// Sets one extended attribute.
    fn set_xattr(&self, at: Entry<'_>, attr: &OsStr, value: &[u8]) -> Result<(), Errno>;
    /// Removes one extended attribute; absent is fine.
    fn remove_xattr(&self, at: Entry<'_>, attr: &OsStr) -> Result<(), Errno>;
    /// Sets mtime; atime stays.
    fn set_mtime(&self, at: Entry<'_>, secs: i64, nanos: u32) -> Result<(), Errno>;
    /// Removes an entry with all below; absent is fine.
    fn remove_tree(&self, at: Entry<'_>) -> Result<(), Errno>;
    /// The content of a file, or the entries of a directory, are on the disk when this returns.
    fn sync_fd(&self, fd: BorrowedFd<'_>) -> Result<(), Errno>;
    /// Everything written so far to the file system of `dir` is on the disk when this returns.
    fn sync(&self, dir: &Dir) -> Result<(), Errno>;
    /// Whatever is changed after this returns has a later time than what was changed before: the kernel's clock for
    /// files has ticked.
    fn tick(&self);
    /// This disk, if operations that do not depend on each other may be done at once. A disk that counts them says no.
    fn shared(&self) -> Option<&(dyn Disk + Sync)> {
        None
    }
}

/// The machine's own file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    fn create_file(&self, at: Entry<'_>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(at.0, at.1, flags, Mode::RUSR | Mode::WUSR)
    }

    fn copy_file(
        &self,
        at: Entry<'_>,
        from: BorrowedFd<'_>,
        len_bytes: u64,
        attrs: &Attrs,
    ) -> Result<Vec<OsString>, Errno> {
        let to = self.create_file(at)?;
        fvm_sys::copy::content(from, to.as_fd(), len_bytes)?;
        copy::set_fd(to.as_fd(), attrs)
    }

    fn write(&self, to: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let written = rustix::io::write(to, bytes)?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn create_dir(&self, at: Entry<'_>) -> Result<(), Errno> {
        fs::mkdirat(at.0, at.1, Mode::RWXU)
    }

    fn create_symlink(&self, at: Entry<'_>, target: &OsStr) -> Result<(), Errno> {
        fs::symlinkat(target, at.0, at.1)
    }

    fn create_fifo(&self, at: Entry<'_>) -> Result<(), Errno> {
        fs::mknodat(at.0, at.1, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
    }

    fn link(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno> {
        fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())
    }

    fn exchange(&self, a: Entry<'_>, b: Entry<'_>) -> Result<(), Errno> {
        fs::renameat_with(a.0, a.1, b.0, b.1, RenameFlags::EXCHANGE)
    }

    fn move_to_free(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno> {
        match fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL) => match to.0.stat_opt(to.1)? {
                Some(_) => Err(Errno::EXIST),
                None => fs::renameat(from.0, from.1, to.0, to.1),
            },
            other => other,
        }
    }

    fn replace(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno> {
        fs::renameat(from.0, from.1, to.0, to.1)
    }

    fn chown(&self, at: Entry<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        fs::chownat(at.0, at.1, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
    }

    /// Through the entry's own descriptor: `fchmodat` cannot refuse to follow.
    fn chmod(&self, at: Entry<'_>, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        if at.1.as_os_str().is_empty() {
            return fs::fchmod(at.0, mode);
        }
        let entry = fs::openat(at.0, at.1, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if fs::FileType::from_raw_mode(fs::fstat(&entry)?.st_mode) == FileType::Symlink {
            return Ok(());
        }
        fs::chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), mode)
    }

    fn set_xattr(&self, at: Entry<'_>, attr: &OsStr, value: &[u8]) -> Result<(), Errno> {
        at.0.set_xattr(at.1, attr, value)
    }

    fn remove_xattr(&self, at: Entry<'_>, attr: &OsStr) -> Result<(), Errno> {
        at.0.remove_xattr(at.1, attr)
    }

    fn set_mtime(&self, at: Entry<'_>, secs: i64, nanos: u32) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: secs, tv_nsec: i64::from(nanos) },
        };
        if at.1.as_os_str().is_empty() {
            return fs::futimens(at.0, &times);
        }
        fs::utimensat(at.0, at.1, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn remove_tree(&self, at: Entry<'_>) -> Result<(), Errno> {
        at.0.remove_tree(at.1)
    }

    fn sync_fd(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        fs::fsync(fd)
    }

    fn sync(&self, dir: &Dir) -> Result<(), Errno> {
        // A directory descriptor names its file system.
        fs::syncfs(dir)
    }

    fn tick(&self) {
        // CONFIG_HZ is 100 or more everywhere.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }

    fn shared(&self) -> Option<&(dyn Disk + Sync)> {
        Some(self)
    }
}
