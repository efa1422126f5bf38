//! A VM's layers become one file.
//!
//! ```text
//!   zstd( tar:  manifest.json                      first, so that a reader knows what comes
//!               layers/<n>/upper/...                owners, times to the nanosecond, attributes, holes as zeros
//!               bases/...  output.log  ...
//!               sha256sums )                        last: 'sha256sum -c' reads it too
//! ```
//!
//! Invariants: layers are a VM's: reached by directory descriptor, no link followed, nothing opened that could block; a file that
//! grows or shrinks meanwhile is an error, not a damaged archive.

use crate::pax::{Extended, fits};
use crate::{TransferError, shown};
use fvm_model::Timestamp;
use fvm_sys::dir::Dir;
use rustix::fs::{FileType, Mode, Statx};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// The name of the list of sums.
pub const SUMS: &str = "sha256sums";
/// Longest file: a VM can make one of any length that holds nothing.
const FILE_MAX_BYTES: u64 = 1 << 40;
/// How hard zstd tries: its default.
const LEVEL: i32 = 3;

/// Writes an archive.
pub struct ArchiveWriter<W: Write> {
    builder: tar::Builder<zstd::stream::write::Encoder<'static, W>>,
    sums: Vec<u8>,
    remarks: Vec<String>,
}

/// A list of sums, as `sha256sum` writes and reads it: names with a backslash or line feed are escaped, and their line begins
/// with a backslash.
pub(crate) fn sum_line(sum: &[u8], path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let mut line = Vec::new();
    if bytes.iter().any(|b| matches!(b, b'\\' | b'\n' | b'\r')) {
        line.push(b'\\');
    }
    for byte in sum {
        line.extend(format!("{byte:02x}").bytes());
    }
    line.extend_from_slice(b"  ");
    for byte in bytes {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    line
}

/// Reads from `inner`, and counts and sums what passes.
struct Summed<R> {
    inner: R,
    sum: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.sum.update(&buffer[..len]);
        self.bytes += len as u64;
        Ok(len)
    }
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins one.
    ///
    /// # Errors
    /// When zstd cannot be set up.
    pub fn new(out: W) -> Result<Self, TransferError> {
        let mut encoder = zstd::stream::write::Encoder::new(out, LEVEL).map_err(|e| TransferError::stream(&e))?;
        encoder.include_checksum(true).map_err(|e| TransferError::stream(&e))?;
        Ok(Self { builder: tar::Builder::new(encoder), sums: Vec::new(), remarks: Vec::new() })
    }

    fn header(
        &mut self,
        kind: EntryType,
        path: &Path,
        stat: Option<&Statx>,
        extended: &mut Extended,
    ) -> Result<Header, TransferError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        let (mode, uid, gid, mtime) = match stat {
            Some(s) => (u32::from(s.stx_mode) & 0o7777, s.stx_uid, s.stx_gid, s.stx_mtime.tv_sec),
            None => (0o600, 0, 0, 0),
        };
        header.set_mode(mode);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
        header.set_size(0);
        // In the form that the rest of the world reads, when there is room.
        if !fits(path.as_os_str()) || header.set_path(path).is_err() {
            extended.path = Some(path.as_os_str().as_bytes().to_vec());
            header.set_path("long").map_err(|e| TransferError::stream(&e))?;
        }
        Ok(header)
    }

    fn append(
        &mut self,
        mut header: Header,
        extended: &Extended,
        size: u64,
        content: impl Read,
    ) -> Result<(), TransferError> {
        let fail = |e: std::io::Error| TransferError::stream(&e);
        if *extended != Extended::default() {
            let bytes = extended.to_bytes();
            let mut before = Header::new_ustar();
            before.set_entry_type(EntryType::XHeader);
            before.set_path("pax").map_err(fail)?;
            before.set_mode(0o600);
            before.set_size(bytes.len() as u64);
            before.set_cksum();
            self.builder.append(&before, &bytes[..]).map_err(fail)?;
        }
        header.set_size(size);
        header.set_cksum();
        self.builder.append(&header, content).map_err(fail)
    }

    /// Adds a file of these bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), TransferError> {
        let mut extended = Extended::default();
        let header = self.header(EntryType::Regular, Path::new(path), None, &mut extended)?;
        self.sums.extend(sum_line(&Sha256::digest(bytes), Path::new(path)));
        self.append(header, &extended, bytes.len() as u64, bytes)
    }

    /// Adds a directory that stands for nothing but itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn directory_of(&mut self, path: &str) -> Result<(), TransferError> {
        let mut extended = Extended::default();
        let mut header = self.header(EntryType::Directory, Path::new(path), None, &mut extended)?;
        header.set_mode(0o700);
        self.append(header, &extended, 0, std::io::empty())
    }

    /// Adds `name` of `dir`, and all below it, as `path`.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn tree(&mut self, path: &Path, dir: &Dir, name: &Path) -> Result<(), TransferError> {
        let mut names: HashMap<u64, PathBuf> = HashMap::new();
        let mut pending = vec![PathBuf::new()];
        let stat = dir.stat(name).map_err(|e| TransferError::io("read", path, e))?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
            return self.entry(path, dir, name, &stat, &mut names);
        }
        let top = dir.beneath(name).map_err(|e| TransferError::io("open", path, e))?;
        while let Some(rel) = pending.pop() {
            let here = if rel.as_os_str().is_empty() { path.to_path_buf() } else { path.join(&rel) };
            let fail = |e| TransferError::io("read", &here, e);
            let dir = top.beneath_deep(&rel).map_err(fail)?;
            self.directory(&here, &dir)?;
            let mut entries = dir.names().map_err(fail)?;
            entries.sort_unstable();
            let mut below = Vec::new();
            for name in entries {
                let (name, path) = (Path::new(&name), here.join(&name));
                let stat = dir.stat(name).map_err(|e| TransferError::io("read", &path, e))?;
                if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                    below.push(rel.join(name));
                } else {
                    self.entry(&path, &dir, name, &stat, &mut names)?;
                }
            }
            pending.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, dir: &Dir) -> Result<(), TransferError> {
        let fail = |e| TransferError::io("read", path, e);
        let stat = dir.stat(Path::new("")).map_err(fail)?;
        let mut extended = extended(&stat, dir.xattrs(Path::new("")).map_err(fail)?);
        let header = self.header(EntryType::Directory, path, Some(&stat), &mut extended)?;
        self.append(header, &extended, 0, std::io::empty())
    }

    fn entry(
        &mut self,
        path: &Path,
        dir: &Dir,
        name: &Path,
        stat: &Statx,
        names: &mut HashMap<u64, PathBuf>,
    ) -> Result<(), TransferError> {
        let fail = |e| TransferError::io("read", path, e);
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if kind == FileType::Socket || is_device && (stat.stx_rdev_major, stat.stx_rdev_minor) != (0, 0) {
            self.remarks.push(format!("{}: a socket or device; left out", shown(path)));
            return Ok(());
        }
        if stat.stx_nlink > 1 && !is_device {
            if let Some(first) = names.get(&stat.stx_ino).cloned() {
                let mut extended = Extended::default();
                let mut header = self.header(EntryType::Link, path, Some(stat), &mut extended)?;
                link(&mut header, first.as_os_str(), &mut extended);
                return self.append(header, &extended, 0, std::io::empty());
            }
            names.insert(stat.stx_ino, path.to_path_buf());
        }
        let mut extended = extended(stat, if is_device { Vec::new() } else { dir.xattrs(name).map_err(fail)? });
        let kind = match kind {
            FileType::RegularFile => {
                if stat.stx_size > FILE_MAX_BYTES {
                    return Err(TransferError::refused(path, "it is longer than 1 TiB"));
                }
                let file = readable(dir, name, stat).map_err(fail)?;
                let header = self.header(EntryType::Regular, path, Some(stat), &mut extended)?;
                let mut summed = Summed { inner: File::from(file).take(stat.stx_size), sum: Sha256::new(), bytes: 0 };
                self.append(header, &extended, stat.stx_size, &mut summed)?;
                if summed.bytes != stat.stx_size {
                    return Err(TransferError::refused(path, "it changed while it was read"));
                }
                self.sums.extend(sum_line(&summed.sum.finalize(), path));
                return Ok(());
            }
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            _ => EntryType::Char,
        };
        let mut header = self.header(kind, path, Some(stat), &mut extended)?;
        if kind == EntryType::Symlink {
            link(&mut header, &dir.read_link(name).map_err(fail)?, &mut extended);
        }
        if kind == EntryType::Char {
            header
                .set_device_major(0)
                .and_then(|()| header.set_device_minor(0))
                .map_err(|e| TransferError::stream(&e))?;
        }
        self.append(header, &extended, 0, std::io::empty())
    }

    /// Ends it, and says what was left out.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(W, Vec<String>), TransferError> {
        let sums = std::mem::take(&mut self.sums);
        let mut extended = Extended::default();
        let header = self.header(EntryType::Regular, Path::new(SUMS), None, &mut extended)?;
        self.append(header, &extended, sums.len() as u64, &sums[..])?;
        let encoder = self.builder.into_inner().map_err(|e| TransferError::stream(&e))?;
        let mut out = encoder.finish().map_err(|e| TransferError::stream(&e))?;
        out.flush().map_err(|e| TransferError::stream(&e))?;
        Ok((out, self.remarks))
    }
}

fn extended(stat: &Statx, xattrs: Vec<(OsString, Vec<u8>)>) -> Extended {
    let mtime = Timestamp { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec };
    Extended { mtime: Some(mtime), xattrs, ..Extended::default() }
}

fn link(header: &mut Header, to: &OsStr, extended: &mut Extended) {
    if !fits(to) || header.set_link_name_literal(to.as_bytes()).is_err() {
        extended.link = Some(to.as_bytes().to_vec());
    }
}

/// Opens a file that its owner, who runs this, may have made unreadable.
fn readable(dir: &Dir, name: &Path, stat: &Statx) -> Result<rustix::fd::OwnedFd, Errno> {
    match dir.open_file(name) {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
            let set = |mode| rustix::fs::chmodat(dir, name, mode, rustix::fs::AtFlags::empty());
            set(mode | Mode::RUSR)?;
            let file = dir.open_file(name);
            set(mode)?;
            file
        }
        other => other,
    }
}
