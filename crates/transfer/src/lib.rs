//! Trees of files in and out of VMs, as tar streams.
//!
//! ```text
//!   host's tree ── pack ──► tar stream ──► a program in the VM
//!   a program in the VM ──► tar stream ── unpack ──► TreeWriter ──► host's tree
//!   a VM's layers ── ArchiveWriter ──► zstd(tar) ── ArchiveReader ──► layers of another
//! ```
//!
//! Invariants: a stream that comes from a VM is hostile. What is written stays below the directory that was given and never
//! goes through a name that was there before or that the stream made a link of; an entry's path is relative, without `.`
//! and `..`; entries, names and bytes are bounded by [`Limits`]. Holes stay holes. What cannot be taken along is said.

mod archive;
mod pack;
pub mod pax;
mod restore;
mod tree;
mod unpack;

pub use archive::ArchiveWriter;
pub use pack::pack;
pub use restore::{ArchiveReader, MANIFEST, Owners};
pub use tree::{Seal, TreeWriter};
pub use unpack::unpack;

use fvm_model::Timestamp;
use fvm_model::path::printable;
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the top of the tree; empty: the top itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Last modification.
    pub mtime: Timestamp,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length.
        size: u64,
    },
    /// A symlink and its target.
    Symlink(OsString),
    /// Another name of an earlier entry.
    Hard(PathBuf),
    /// A named pipe.
    Fifo,
}

/// How much may come.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of all names.
    pub names_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 1 << 40, names_bytes: 400 << 20 }
    }
}

impl Limits {
    fn take_entry(&mut self, path: &Path) -> Result<(), TransferError> {
        let names = path.as_os_str().len() as u64;
        match (self.entries.checked_sub(1), self.names_bytes.checked_sub(names)) {
            (Some(entries), Some(names_bytes)) => {
                (self.entries, self.names_bytes) = (entries, names_bytes);
                Ok(())
            }
            _ => Err(TransferError::TooMany),
        }
    }

    fn take_bytes(&mut self, bytes: u64) -> Result<(), TransferError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(TransferError::TooLarge)?;
        Ok(())
    }
}

/// Why a tree did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The kernel refused.
    #[error("cannot {what} '{path}': {errno}")]
    Io {
        /// The verb.
        what: &'static str,
        /// On what, printable.
        path: String,
        /// Why.
        errno: Errno,
    },
    /// The stream ended or could not be written.
    #[error("the stream broke: {0}")]
    Stream(String),
    /// The stream is not what it should be.
    #[error("the stream is damaged: {0}")]
    Malformed(String),
    /// An entry that may not be.
    #[error("'{path}': {why}")]
    Refused {
        /// Which, printable.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// More entries than [`Limits`] allow.
    #[error("there are too many files")]
    TooMany,
    /// More bytes than [`Limits`] allow.
    #[error("there is more in the files than the limit allows")]
    TooLarge,
}

impl TransferError {
    fn io(what: &'static str, path: &Path, errno: Errno) -> Self {
        Self::Io { what, path: shown(path), errno }
    }

    fn refused(path: &Path, why: &'static str) -> Self {
        Self::Refused { path: shown(path), why }
    }

    fn stream(error: &std::io::Error) -> Self {
        Self::Stream(error.to_string())
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// Whether a path of an entry stays where it belongs: relative, no `.`, `..` or empty component, no NUL, not too long.
#[must_use]
pub fn is_inside(path: &Path) -> bool {
    const PATH_MAX_BYTES: usize = 16 << 10;
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return true;
    }
    let plain = bytes.split(|b| *b == b'/').all(|c| !matches!(c, b"" | b"." | b"..") && c.len() <= 255);
    plain
        && bytes.len() <= PATH_MAX_BYTES
        && !bytes.contains(&0)
        && path.components().all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_the_tree_is_seen() {
        for bad in ["/", "/a", "..", "a/..", "a/../b", "./a", "a//b", "a/", "a\0b", "a/./b"] {
            assert!(!is_inside(Path::new(bad)), "{bad:?}");
        }
        let long = "x".repeat(256);
        assert!(!is_inside(Path::new(&long)) && !is_inside(Path::new(&"a/".repeat(9000))));
        for good in ["", "a", "a/b", "...", "a b/\u{1b}"] {
            assert!(is_inside(Path::new(good)), "{good:?}");
        }
    }
}
