//! The host side of one layer.
//!
//! ```text
//!   Lower { root = layer.host }
//!     ├─ open("a/b")        the directory, if it is one, on the same mount, reached through no link
//!     └─ subtree("a", f)    every entry below, breadth by breadth, never across a mount
//! ```
//!
//! Invariants: nothing below another mount or below an excluded path is ever looked at; the number of entries that a
//! subtree walk visits is bounded.

use fvm_model::HostPath;
use fvm_sys::dir::Dir;
use rustix::fs::{self, Statx};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Most names read from one directory.
pub(crate) const DIR_MAX_ENTRIES: usize = 4_000_000;

/// The host directory that a layer stands on.
pub(crate) struct Lower {
    pub root: Dir,
    pub host: HostPath,
    pub excluded: Vec<HostPath>,
    mount: u64,
}

/// What a subtree walk says of each entry, and what it is told to do.
pub(crate) enum Visit {
    /// Go on.
    More,
    /// Found; stop.
    Stop,
}

/// How a subtree walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walked {
    /// Everything was visited.
    All,
    /// The visitor had enough.
    Stopped,
    /// The budget ran out, or something could not be read.
    Partly,
}

impl Lower {
    pub(crate) fn open_root(host: &HostPath, excluded: &[HostPath]) -> Result<Self, Errno> {
        let root = Dir::open_root(host.as_path())?;
        let mount = root.stat(Path::new(""))?.stx_mnt_id;
        Ok(Self { root, host: host.clone(), excluded: excluded.to_vec(), mount })
    }

    /// Whether the entry lies on this layer's own mount.
    pub(crate) fn owns(&self, stat: &Statx) -> bool {
        stat.stx_mnt_id == self.mount
    }

    /// Whether `rel` is fvm's own.
    pub(crate) fn is_excluded(&self, rel: &Path) -> bool {
        let path = self.host.join(rel);
        self.excluded.iter().any(|e| path.is_within(e))
    }

    /// The directory `rel`; `None` when there is none, or it belongs to another mount.
    pub(crate) fn open(&self, rel: &Path) -> Result<Option<Dir>, Errno> {
        match self.root.beneath_deep(rel) {
            Ok(dir) => Ok(self.owns(&dir.stat(Path::new(""))?).then_some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Calls `visit` with (parent directory, name, path from the root, statx) for everything below `top`.
    pub(crate) fn subtree(
        &self,
        top: &Path,
        skip: Option<&Path>,
        budget: &mut usize,
        mut visit: impl FnMut(&Dir, &Path, &Path, &Statx) -> Visit,
    ) -> Walked {
        let mut pending = vec![top.to_path_buf()];
        let mut complete = true;
        while let Some(rel) = pending.pop() {
            let dir = match self.open(&rel) {
                Ok(Some(dir)) => dir,
                Ok(None) => continue,
                Err(_) => {
                    complete = false;
                    continue;
                }
            };
            let Ok(entries) = dir.entries(DIR_MAX_ENTRIES) else {
                complete = false;
                continue;
            };
            for (name, _) in entries {
                let Some(left) = budget.checked_sub(1) else {
                    return Walked::Partly;
                };
                *budget = left;
                let name = Path::new(&name);
                let child: PathBuf = rel.join(name);
                let Ok(stat) = dir.stat(name) else { continue };
                if !self.owns(&stat) || self.is_excluded(&child) || skip == Some(&child) {
                    continue;
                }
                if let Visit::Stop = visit(&dir, name, &child, &stat) {
                    return Walked::Stopped;
                }
                if fs::FileType::from_raw_mode(stat.stx_mode.into()) == fs::FileType::Directory {
                    pending.push(child);
                }
            }
        }
        if complete { Walked::All } else { Walked::Partly }
    }
}
