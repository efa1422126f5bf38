//! Entries become a tree below a descriptor.
//!
//! ```text
//!   a file        written under another name beside its place, then renamed over what is there
//!   a directory   used as it is when there is one; a new one gets its mode and time last, when all that is in it is
//! ```
//!
//! Invariants: every directory is reached beneath the top without following a link, so an entry that was a symlink a moment
//! ago leads nowhere; files belong to whoever writes them, and keep permission bits but no set-id bit.

use crate::{Entry, Kind, Limits, TransferError, is_inside};
use fvm_model::Timestamp;
use fvm_sys::dir::Dir;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Permission bits that are taken over.
const MODE_MASK: u32 = 0o777;
/// What is read at once; a part of a file that is so long and zero becomes a hole.
const BLOCK_BYTES: usize = 64 << 10;

/// Does something with a file that is written, before it has its name.
pub trait Seal: std::fmt::Debug {
    /// `path`: below the top; `file`: its content, open for reading and writing.
    ///
    /// # Errors
    /// When the file must not come into being.
    fn seal(&mut self, path: &Path, file: BorrowedFd<'_>) -> Result<(), Errno>;
}

/// Writes a tree.
#[derive(Debug)]
pub struct TreeWriter {
    top: Dir,
    /// What the entry with the empty path is called in `top`.
    name: PathBuf,
    limits: Limits,
    /// Directories that are still to get what belongs to them.
    open: Vec<(PathBuf, Entry)>,
    /// What every file passes.
    seal: Option<Box<dyn Seal>>,
    /// The directory written to last.
    last: Option<(PathBuf, Dir)>,
    buffer: Vec<u8>,
}

impl TreeWriter {
    /// Writes to `top`: entries become `name`, one component, and what is below it.
    #[must_use]
    pub fn new(top: Dir, name: &OsStr, limits: Limits) -> Self {
        let buffer = vec![0; BLOCK_BYTES];
        Self { top, name: name.into(), limits, open: Vec::new(), seal: None, last: None, buffer }
    }

    /// Every file passes `seal`.
    #[must_use]
    pub fn sealed(self, seal: Box<dyn Seal>) -> Self {
        Self { seal: Some(seal), ..self }
    }

    /// Gives directories what belongs to them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn finish(mut self) -> Result<(), TransferError> {
        while let Some((path, entry)) = self.open.pop() {
            let fail = |e| TransferError::io("finish", &path, e);
            let dir = self.top.beneath_deep(&path).map_err(fail)?;
            dress(dir.as_fd(), &entry).map_err(fail)?;
        }
        Ok(())
    }

    /// The place of an entry: the directory, reached, and the name in it.
    fn place(&mut self, path: &Path) -> Result<(PathBuf, OsString), TransferError> {
        if !is_inside(path) {
            return Err(TransferError::refused(path, "its path would lead out of the tree"));
        }
        let full = if path.as_os_str().is_empty() { self.name.clone() } else { self.name.join(path) };
        let name = full.file_name().ok_or_else(|| TransferError::refused(path, "it has no name"))?.to_owned();
        let parent = full.parent().unwrap_or(Path::new("")).to_owned();
        if self.last.as_ref().is_none_or(|(at, _)| *at != parent) {
            let dir = self.top.beneath_deep(&parent).map_err(|e| TransferError::io("reach", &parent, e))?;
            self.last = Some((parent.clone(), dir));
        }
        Ok((parent, name))
    }

    /// Takes an entry; `content` is that of a regular file. A directory comes before what is in it, the first name of a
    /// file before its other names.
    ///
    /// # Errors
    /// When it cannot be taken; the tree is not complete then.
    pub fn take(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), TransferError> {
        self.limits.take_entry(&entry.path)?;
        let fail = |what| move |e| TransferError::io(what, &entry.path, e);
        let (parent, name) = self.place(&entry.path)?;
        let Some((_, dir)) = &self.last else { return Err(fail("reach")(Errno::NOENT)) };
        let name = Path::new(&name);
        if entry.kind == Kind::Directory {
            return match fs::mkdirat(dir, name, Mode::RWXU) {
                Ok(()) => {
                    self.open.push((parent.join(name), entry.clone()));
                    Ok(())
                }
                Err(Errno::EXIST) if is_directory(dir, name) => Ok(()),
                Err(e) => Err(fail("create")(e)),
            };
        }
        if is_directory(dir, name) {
            return Err(TransferError::refused(&entry.path, "there is a directory of that name"));
        }
        let temporary = temporary(name);
        match fs::unlinkat(dir, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(fail("replace")(e)),
        }
        let made = match &entry.kind {
            Kind::File { size } => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                fs::openat(dir, &temporary, flags, Mode::RUSR | Mode::WUSR).map_err(fail("create")).and_then(|file| {
                    self.limits.take_bytes(*size)?;
                    fill(&file, *size, content, &mut self.buffer, &entry.path)?;
                    if let Some(seal) = &mut self.seal {
                        seal.seal(&entry.path, file.as_fd()).map_err(fail("mark"))?;
                    }
                    dress(file.as_fd(), entry).map_err(fail("finish"))
                })
            }
            Kind::Hard(first) => self.link(first, &temporary, entry),
            Kind::Symlink(to) => fs::symlinkat(to, dir, &temporary)
                .and_then(|()| fs::utimensat(dir, &temporary, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW))
                .map_err(fail("create")),
            Kind::Fifo => {
                fs::mknodat(dir, &temporary, fs::FileType::Fifo, Mode::from_raw_mode(entry.mode & MODE_MASK), 0)
                    .map_err(fail("create"))
            }
            Kind::Directory => Ok(()),
        };
        made.and_then(|()| fs::renameat(dir, &temporary, dir, name).map_err(fail("replace"))).inspect_err(|_| {
            let _kept = fs::unlinkat(dir, &temporary, AtFlags::empty());
        })
    }

    /// Another name of what this tree has under `first`.
    fn link(&self, first: &Path, name: &Path, entry: &Entry) -> Result<(), TransferError> {
        let fail = |e| TransferError::io("link", &entry.path, e);
        if !is_inside(first) {
            return Err(TransferError::refused(&entry.path, "a hard link to outside the tree"));
        }
        let full = if first.as_os_str().is_empty() { self.name.clone() } else { self.name.join(first) };
        let from = self.top.beneath_deep(full.parent().unwrap_or(Path::new(""))).map_err(fail)?;
        let (Some(from_name), Some((_, dir))) = (full.file_name(), &self.last) else { return Err(fail(Errno::NOENT)) };
        // Without AT_SYMLINK_FOLLOW: a symlink is linked, not followed.
        fs::linkat(&from, from_name, dir, name, AtFlags::empty()).map_err(fail)
    }
}

fn dress(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    fs::fchmod(file, Mode::from_raw_mode(entry.mode & MODE_MASK))?;
    fs::futimens(file, &times(entry.mtime))
}

fn is_directory(dir: &Dir, name: &Path) -> bool {
    dir.stat(name).is_ok_and(|s| fs::FileType::from_raw_mode(s.stx_mode.into()) == fs::FileType::Directory)
}

/// A name for what is on its way to `target`.
fn temporary(target: &Path) -> PathBuf {
    let bytes = target.as_os_str().as_bytes();
    // Names have an end: 255 bytes.
    let mut name = OsString::from(format!(".fvm-cp-{}-", std::process::id()));
    name.push(OsStr::from_bytes(&bytes[..bytes.len().min(200)]));
    name.into()
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

fn fill(
    file: &OwnedFd,
    size: u64,
    content: &mut dyn Read,
    buffer: &mut [u8],
    path: &Path,
) -> Result<(), TransferError> {
    let fail = |e| TransferError::io("write", path, e);
    let mut at = 0;
    while at < size {
        let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
        let block = &mut buffer[..wanted];
        content.read_exact(block).map_err(|e| TransferError::stream(&e))?;
        let mut rest: &[u8] = if block.iter().all(|b| *b == 0) { &[] } else { block };
        let mut to = at;
        while !rest.is_empty() {
            match rustix::io::pwrite(file.as_fd(), rest, to) {
                Ok(len) => {
                    to += len as u64;
                    rest = &rest[len..];
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        at += wanted as u64;
    }
    fs::ftruncate(file, size).map_err(fail)
}
