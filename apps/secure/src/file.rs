//! A file that was looked at: reached by its descriptor, for its path may lead elsewhere by now.

use crate::task::FileId;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::path::PathBuf;

/// A file for as long as it lives: its number is another's as soon as it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    id: FileId,
    /// When it was made; `None`: this file system does not say.
    pub born: Option<(i64, u32)>,
}

impl Identity {
    pub fn of(file: &OwnedFd) -> Result<Self, Errno> {
        let stat = fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
        let says = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let born = says.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec));
        Ok(Self { id: FileId::of(file)?, born })
    }
}

/// What leads to an open file, whatever its path leads to.
pub(crate) fn magic(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The same file, to be read.
pub(crate) fn open_again(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    fs::open(magic(file), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// The beginning of a file; nothing if it cannot be read.
pub(crate) fn head(file: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    let read = open_again(file).and_then(|file| rustix::io::read(&file, &mut bytes[..]));
    bytes.truncate(read.unwrap_or(0));
    bytes
}
