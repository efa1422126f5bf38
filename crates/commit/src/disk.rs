//! Every operation by which a commit changes the host, in one place.
//!
//! ```text
//!   stage    create, symlink, fifo, mkdir, link, write      metadata  chown, chmod, setxattr, utimes
//!   publish  exchange, no-replace rename                    remove    unlink, remove tree
//! ```
//!
//! Invariant: names are single components in an open directory; no operation follows a symlink.

use fvm_sys::dir::Dir;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::path::Path;

/// The host's file systems.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Disk {
    pub fn create_file(self, dir: &Dir, name: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
    }

    pub fn create_dir(self, dir: &Dir, name: &Path) -> Result<(), Errno> {
        fs::mkdirat(dir, name, Mode::RWXU)
    }

    pub fn create_symlink(self, dir: &Dir, name: &Path, target: &OsStr) -> Result<(), Errno> {
        fs::symlinkat(target, dir, name)
    }

    pub fn create_fifo(self, dir: &Dir, name: &Path) -> Result<(), Errno> {
        fs::mknodat(dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
    }

    pub fn link(self, from: (&Dir, &Path), to: (&Dir, &Path)) -> Result<(), Errno> {
        fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())
    }

    /// Swaps two entries. Where the file system cannot (NFS, some FUSE): `EINVAL`.
    pub fn exchange(self, a: (&Dir, &Path), b: (&Dir, &Path)) -> Result<(), Errno> {
        fs::renameat_with(a.0, a.1, b.0, b.1, RenameFlags::EXCHANGE)
    }

    /// Moves an entry to a name that is free. Where the file system cannot refuse to replace, looks first.
    pub fn move_to_free(self, from: (&Dir, &Path), to: (&Dir, &Path)) -> Result<(), Errno> {
        match fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL) => match to.0.stat_opt(to.1)? {
                Some(_) => Err(Errno::EXIST),
                None => fs::renameat(from.0, from.1, to.0, to.1),
            },
            other => other,
        }
    }

    pub fn chown(self, dir: &Dir, name: &Path, uid: u32, gid: u32) -> Result<(), Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        fs::chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
    }

    /// Through the entry's own descriptor: `fchmodat` cannot refuse to follow.
    pub fn chmod(self, dir: &Dir, name: &Path, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        if name.as_os_str().is_empty() {
            return fs::fchmod(dir, mode);
        }
        let entry = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if fs::FileType::from_raw_mode(fs::fstat(&entry)?.st_mode) == FileType::Symlink {
            return Ok(());
        }
        fs::chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), mode)
    }

    pub fn set_xattr(self, dir: &Dir, name: &Path, attr: &OsStr, value: &[u8]) -> Result<(), Errno> {
        dir.set_xattr(name, attr, value)
    }

    pub fn remove_xattr(self, dir: &Dir, name: &Path, attr: &OsStr) -> Result<(), Errno> {
        dir.remove_xattr(name, attr)
    }

    /// Sets mtime; atime stays.
    pub fn set_mtime(self, dir: &Dir, name: &Path, secs: i64, nanos: u32) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: secs, tv_nsec: i64::from(nanos) },
        };
        if name.as_os_str().is_empty() {
            return fs::futimens(dir, &times);
        }
        fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub fn remove_tree(self, dir: &Dir, name: &Path) -> Result<(), Errno> {
        dir.remove_tree(name)
    }

    /// Everything written so far is on the disk when this returns.
    pub fn sync(self, dir: &Dir) -> Result<(), Errno> {
        // A directory descriptor names its file system.
        fs::syncfs(dir)
    }
}
