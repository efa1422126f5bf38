//! Where the steps of a commit happen: each mount, layer and area opened once, everything else beneath it.
//!
//! ```text
//!   Root::Mount(n)  the host directory that layer n stands on      what people see
//!   Root::Upper(n)  the VM's own copies of it                      what a commit reads, and may move from
//!   Root::Area      <home>/commits/<number>/area                   slots: what a step brings, then what it replaced
//! ```
//!
//! A slot lies in the area when its target is on the same mount as that (a rename reaches it), else beside the target.
//!
//! Invariant: a [`Loc`] is reached beneath its root, without following a symlink.

use crate::CommitError;
use fvm_model::path::Bytes;
use fvm_model::plan::LayerDir;
use fvm_model::{HostPath, VmPath};
use fvm_sys::dir::Dir;
use rustix::fs::Statx;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a [`Loc`] lies beneath.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// The host, below the mount that a layer stands on.
    Mount(u32),
    /// A layer of the VM.
    Upper(u32),
    /// The commit's own directory.
    Area,
}

/// An entry that a commit touches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Loc {
    /// Beneath what.
    pub root: Root,
    /// Relative; empty: the root itself.
    pub path: Bytes,
}

impl Loc {
    pub fn new(root: Root, path: impl Into<PathBuf>) -> Self {
        Self { root, path: Bytes(path.into().into_os_string()) }
    }

    pub fn area(name: impl Into<PathBuf>) -> Self {
        Self::new(Root::Area, name)
    }

    pub fn path(&self) -> &Path {
        Path::new(&self.path.0)
    }

    /// The entry `below` this one.
    pub fn join(&self, below: &Path) -> Self {
        Self::new(
            self.root,
            if below.as_os_str().is_empty() { self.path().to_owned() } else { self.path().join(below) },
        )
    }

    pub fn parent(&self) -> Self {
        Self::new(self.root, self.path().parent().unwrap_or(Path::new("")))
    }
}

/// A mount that a commit works on, as the journal remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRef {
    /// The layer's number in its VM.
    pub layer: u32,
    /// The host directory.
    pub host: HostPath,
    /// The layer's directory; `None` for what needs no layer (an undo).
    pub dir: Option<Bytes>,
    /// The inode of the host directory: after a reboot something else may be mounted there, or nothing.
    pub ino: u64,
}

/// An open mount.
#[derive(Debug)]
pub struct Place {
    pub host: HostPath,
    pub root: Dir,
    pub upper: Option<Dir>,
    ino: u64,
    dir: Option<PathBuf>,
    /// Whether a rename leads from here to the area, and from the upper to here.
    pub near_area: bool,
    pub near_upper: bool,
}

/// Everything that a commit opens.
#[derive(Debug)]
pub struct Places {
    mounts: BTreeMap<u32, Place>,
    pub area: Dir,
}

impl Places {
    /// Opens the layers and the hosts under them.
    pub fn open(sources: &[LayerDir], area: Dir) -> Result<Self, CommitError> {
        let refs: Vec<MountRef> = sources
            .iter()
            .map(|s| MountRef {
                layer: s.n,
                host: s.host.clone(),
                dir: Some(Bytes(s.dir.clone().into_os_string())),
                ino: 0,
            })
            .collect();
        Self::reopen(&refs, area)
    }

    /// Opens what a journal names.
    pub fn reopen(refs: &[MountRef], area: Dir) -> Result<Self, CommitError> {
        let stat = |dir: &Dir, path: &Path| {
            dir.stat(Path::new("")).map_err(|errno| CommitError::Open { path: path.into(), errno })
        };
        let area_mount = stat(&area, Path::new("the commit's area"))?.stx_mnt_id;
        let mut mounts = BTreeMap::new();
        for mount in refs {
            let open =
                |path: &Path| Dir::open_root(path).map_err(|errno| CommitError::Open { path: path.into(), errno });
            let root = open(mount.host.as_path())?;
            let found = stat(&root, mount.host.as_path())?;
            if mount.ino != 0 && found.stx_ino != mount.ino {
                return Err(CommitError::OtherMount { host: mount.host.clone() });
            }
            let dir = mount.dir.as_ref().map(|d| PathBuf::from(&d.0));
            // Gone with its VM, or never there: steps that need it say so.
            let upper = dir.as_ref().and_then(|dir| Dir::open_root(&dir.join("upper")).ok());
            let near_upper = match &upper {
                Some(upper) => stat(upper, mount.host.as_path())?.stx_mnt_id == found.stx_mnt_id,
                None => false,
            };
            let place = Place {
                host: mount.host.clone(),
                ino: found.stx_ino,
                near_area: found.stx_mnt_id == area_mount,
                near_upper,
                root,
                upper,
                dir,
            };
            mounts.insert(mount.layer, place);
        }
        Ok(Self { mounts, area })
    }

    /// What the journal must remember to open the same again.
    pub fn refs(&self) -> Vec<MountRef> {
        let of = |(n, p): (&u32, &Place)| MountRef {
            layer: *n,
            host: p.host.clone(),
            dir: p.dir.as_ref().map(|d| Bytes(d.clone().into_os_string())),
            ino: p.ino,
        };
        self.mounts.iter().map(of).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&u32, &Place)> {
        self.mounts.iter()
    }

    /// A layer; `EINVAL` when the plan names one that was not given.
    pub fn get(&self, layer: u32) -> Result<&Place, Errno> {
        self.mounts.get(&layer).ok_or(Errno::INVAL)
    }

    fn root(&self, root: Root) -> Result<&Dir, Errno> {
        match root {
            Root::Mount(n) => Ok(&self.get(n)?.root),
            Root::Upper(n) => self.get(n)?.upper.as_ref().ok_or(Errno::NOENT),
            Root::Area => Ok(&self.area),
        }
    }

    /// The directory in which `loc` is an entry, and its name there; for a root: itself, with an empty name.
    pub fn at(&self, loc: &Loc) -> Result<(Dir, PathBuf), Errno> {
        let parent = self.root(loc.root)?.beneath_deep(loc.path().parent().unwrap_or(Path::new("")))?;
        Ok((parent, loc.path().file_name().map(PathBuf::from).unwrap_or_default()))
    }

    /// For many entries of one directory after another, while nothing is moved.
    pub fn visitor(&self) -> Visitor<'_> {
        Visitor { places: self, last: None }
    }

    /// `loc` itself, a directory.
    pub fn dir(&self, loc: &Loc) -> Result<Dir, Errno> {
        self.root(loc.root)?.beneath_deep(loc.path())
    }

    /// What stands at `loc`; `None` when nothing does, or its directory is not there.
    pub fn look(&self, loc: &Loc) -> Result<Option<Statx>, Errno> {
        match self.at(loc) {
            Ok((dir, name)) => dir.stat_opt(&name),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A host path of a layer.
    pub fn on_host(&self, layer: u32, path: &HostPath) -> Result<Loc, Errno> {
        let place = self.get(layer)?;
        Ok(Loc::new(Root::Mount(layer), path.relative_to(&place.host).ok_or(Errno::XDEV)?))
    }

    /// The same in the VM's upper directory.
    pub fn in_upper(&self, layer: u32, path: &VmPath) -> Result<Loc, Errno> {
        let place = self.get(layer)?;
        Ok(Loc::new(Root::Upper(layer), path.on_host().relative_to(&place.host).ok_or(Errno::XDEV)?))
    }

    /// The layer whose mount holds `path`.
    pub fn layer_of(&self, path: &HostPath) -> Option<u32> {
        let holds = self.iter().filter(|(_, p)| path.is_within(&p.host));
        holds.max_by_key(|(_, p)| p.host.as_bytes().len()).map(|(n, _)| *n)
    }

    /// As people know it.
    pub fn shown(&self, loc: &Loc) -> String {
        match loc.root {
            Root::Mount(n) | Root::Upper(n) => {
                let host = self.get(n).map(|p| p.host.as_path().to_owned()).unwrap_or_default();
                let prefix = if matches!(loc.root, Root::Upper(_)) { "the VM's " } else { "" };
                let path = if loc.path().as_os_str().is_empty() { host } else { host.join(loc.path()) };
                format!("{prefix}{}", fvm_model::path::printable(path.as_os_str().as_encoded_bytes()))
            }
            Root::Area => format!("saved entry {}", fvm_model::path::printable(loc.path.0.as_encoded_bytes())),
        }
    }
}

/// Keeps the directory that was opened last.
#[derive(Debug)]
pub struct Visitor<'p> {
    places: &'p Places,
    last: Option<(Loc, Dir)>,
}

impl Visitor<'_> {
    /// As [`Places::at`].
    pub fn at<'l>(&mut self, loc: &'l Loc) -> Result<(&Dir, &'l Path), Errno> {
        let parent = loc.parent();
        let name = loc.path().file_name().map_or(Path::new(""), Path::new);
        if self.last.as_ref().is_none_or(|(at, _)| *at != parent) {
            self.last = None;
            let dir = self.places.root(loc.root)?.beneath_deep(parent.path())?;
            self.last = Some((parent, dir));
        }
        match &self.last {
            Some((_, dir)) => Ok((dir, name)),
            None => Err(Errno::NOENT),
        }
    }
}
