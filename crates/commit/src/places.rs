//! Where the paths of a plan lie: each mount opened once, everything else beneath it.
//!
//! ```text
//!   layer n:  host  ── Dir of the mount ── beneath ── parent, name
//!             dir/upper ── Dir ── beneath ── parent, name
//! ```

use crate::CommitError;
use fvm_model::HostPath;
use fvm_model::plan::{LayerDir, Plan};
use fvm_sys::dir::Dir;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The open ends of a layer.
#[derive(Debug)]
pub struct Place {
    /// The mount's directory on the host.
    pub host: HostPath,
    pub root: Dir,
    pub upper: Dir,
}

/// The layers that a plan uses.
#[derive(Debug)]
pub struct Places(BTreeMap<u32, Place>);

impl Places {
    pub fn open(plan: &Plan, sources: &[LayerDir]) -> Result<Self, CommitError> {
        let mut places = BTreeMap::new();
        for source in sources.iter().filter(|s| plan.ops.iter().any(|op| op.layer == s.n)) {
            let open =
                |path: &Path| Dir::open_root(path).map_err(|errno| CommitError::Open { path: path.into(), errno });
            let (root, upper) = (open(source.host.as_path())?, open(&source.dir.join("upper"))?);
            places.insert(source.n, Place { host: source.host.clone(), root, upper });
        }
        Ok(Self(places))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&u32, &Place)> {
        self.0.iter()
    }

    /// A layer; `EINVAL` when the plan names one that was not given.
    pub fn get(&self, layer: u32) -> Result<&Place, Errno> {
        self.0.get(&layer).ok_or(Errno::INVAL)
    }

    /// The parent directory and name of a host path; the mount's own directory has an empty name.
    pub fn host(&self, layer: u32, path: &HostPath) -> Result<(Dir, PathBuf), Errno> {
        let place = self.get(layer)?;
        split(&place.root, path.relative_to(&place.host).ok_or(Errno::XDEV)?)
    }

    /// The same in the VM's upper directory.
    pub fn upper(&self, layer: u32, path: &HostPath) -> Result<(Dir, PathBuf), Errno> {
        let place = self.get(layer)?;
        split(&place.upper, path.relative_to(&place.host).ok_or(Errno::XDEV)?)
    }

    /// A host directory.
    pub fn host_dir(&self, layer: u32, path: &HostPath) -> Result<Dir, Errno> {
        let place = self.get(layer)?;
        place.root.beneath_deep(path.relative_to(&place.host).ok_or(Errno::XDEV)?)
    }
}

fn split(root: &Dir, relative: &Path) -> Result<(Dir, PathBuf), Errno> {
    let parent = root.beneath_deep(relative.parent().unwrap_or(Path::new("")))?;
    Ok((parent, relative.file_name().map(PathBuf::from).unwrap_or_default()))
}
