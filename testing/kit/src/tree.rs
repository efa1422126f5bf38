//! Two trees, compared in everything that a commit must bring over.

use rustix::fs::{FileType, Statx};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One entry, as far as two runs of one program must agree on it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Type and permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Of a regular file.
    pub content: Option<Vec<u8>>,
    /// Of a symlink.
    pub target: Option<PathBuf>,
    /// All that the reader sees.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Set by the program; `None` when it is the time of the run.
    pub mtime: Option<(i64, u32)>,
    /// The first name of the same file; nothing for a directory.
    pub first_name: PathBuf,
    /// Whether a good part of it is holes.
    pub sparse: bool,
}

impl Entry {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    /// What somebody who wrote it would miss: all but a directory's time, which every entry moves, and but how it is
    /// stored.
    #[must_use]
    pub fn essence(&self) -> String {
        let Self { mode, owner, content, target, xattrs, mtime, .. } = self;
        let content = content.as_ref().map(|bytes| (bytes.len(), checksum(bytes)));
        let mtime = mtime.filter(|_| !self.is_dir());
        format!("{mode:o} {owner:?} {content:x?} {target:?} {xattrs:?} {mtime:?}")
    }
}

/// A tree at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Reads everything below `root`. Times after `since_secs` count as "now".
    ///
    /// # Panics
    /// When the tree cannot be read.
    #[must_use]
    pub fn of(root: &Path, since_secs: i64) -> Self {
        let mut entries = BTreeMap::new();
        let mut names = HashMap::new();
        let mut files = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(rel) = pending.pop() {
            let path = root.join(&rel);
            let stat = stat(&path);
            let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
            if kind == FileType::Directory {
                pending.extend(std::fs::read_dir(&path).unwrap().map(|e| rel.join(e.unwrap().file_name())));
            } else {
                let file = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
                let first: &mut PathBuf = names.entry(file).or_insert_with(|| rel.clone());
                if rel < *first {
                    first.clone_from(&rel);
                }
                files.push((file, rel.clone()));
            }
            let secs = stat.stx_mtime.tv_sec;
            let entry = Entry {
                mode: u32::from(stat.stx_mode),
                owner: (stat.stx_uid, stat.stx_gid),
                content: (kind == FileType::RegularFile).then(|| std::fs::read(&path).unwrap()),
                target: (kind == FileType::Symlink).then(|| std::fs::read_link(&path).unwrap()),
                xattrs: xattrs(&path),
                mtime: (secs < since_secs).then_some((secs, stat.stx_mtime.tv_nsec)),
                first_name: PathBuf::new(),
                // A quarter at least is holes: a copy-up of overlayfs fills holes up to the next MiB. What was written a
                // moment ago may have no blocks yet.
                sparse: stat.stx_size > 1 << 20 && stat.stx_blocks * 512 < stat.stx_size / 4 * 3,
            };
            entries.insert(rel, entry);
        }
        for (file, rel) in files {
            entries.get_mut(&rel).unwrap().first_name.clone_from(&names[&file]);
        }
        Self(entries)
    }

    /// The entries, by their paths below the root.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<PathBuf, Entry> {
        &self.0
    }

    /// One line for each entry: [`Entry::essence`].
    #[must_use]
    pub fn essences(&self) -> Vec<String> {
        self.0.iter().map(|(path, entry)| format!("{path:?}: {}", entry.essence())).collect()
    }

    /// One line for each entry, everything in it: for a snapshot that another process, such as one in a VM, took.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(|(path, entry)| format!("{path:?}: {}", short(Some(entry)))).collect()
    }

    /// What differs from `other`, a line each.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut paths: Vec<&PathBuf> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        let differs = |p: &&PathBuf| self.0.get(*p) != other.0.get(*p);
        let line = |p: &PathBuf| format!("{p:?}:\n    {}\n    {}", short(self.0.get(p)), short(other.0.get(p)));
        paths.into_iter().filter(differs).map(line).collect()
    }
}

fn short(entry: Option<&Entry>) -> String {
    let Some(entry) = entry else { return "nothing".to_owned() };
    let Entry { mtime, first_name, sparse, .. } = entry;
    format!("{} {mtime:?} {first_name:?} sparse={sparse}", entry.essence())
}

/// FNV-1a, by words: the contents are compared elsewhere, this tells them apart in a text.
fn checksum(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| chunk.iter().fold(1, |word: u64, b| word << 8 | u64::from(*b));
    bytes.chunks(7).fold(0xcbf2_9ce4_8422_2325, |h, c| (h ^ word(c)).wrapping_mul(0x0100_0000_01b3))
}

fn stat(path: &Path) -> Statx {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(rustix::fs::CWD, path, flags, rustix::fs::StatxFlags::BASIC_STATS).unwrap()
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let mut found: Vec<_> = list[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).unwrap_or(0);
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// The next number of a splitmix64 sequence (Steele, Lea, Flood 2014): the tests' only randomness.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
