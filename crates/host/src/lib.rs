//! What is forked: the mounts, ids and kernel features of the machine fvm runs on.
//!
//! ```text
//!   /proc/self/mountinfo ─ mounts::parse ─► mounts::visible ─┐
//!   process ids ─────────────────────────────────────────────┴─► HostFacts ─► crate vm
//!   probe: what this kernel can do ─► Kernel ─► fvm doctor
//! ```
//!
//! Invariants: nothing here writes; collecting facts reads one file and looks once at each mount.

mod kernel;
pub mod mounts;
mod place;

pub use kernel::{Feature, Kernel, Level, probe};
pub use mounts::{Mount, MountFlags, MountInfoError, Shown, VisibleMount, parse, visible};
pub use place::{LayersPlace, choose_layers_dir};

use fvm_model::HostPath;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Why facts could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of the kernel's could not be read.
    #[error("cannot read {}: {errno}; is /proc mounted?", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The mount table makes no sense.
    #[error("cannot understand /proc/self/mountinfo: {0}")]
    Mounts(#[from] MountInfoError),
    /// There is no place for a VM's layers.
    #[error("no file system here can hold a VM's changes: {0}; give --home DIR on ext4, xfs, btrfs or tmpfs")]
    NoPlace(String),
}

/// The ids of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
}

/// What a VM is forked from.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Mounts that are not covered, parents first.
    pub mounts: Vec<VisibleMount>,
    /// Every mount point, covered ones too, sorted.
    pub targets: Vec<HostPath>,
    /// Who forks.
    pub ids: Ids,
    /// Type of the root file system.
    pub root_fs_type: String,
}

impl HostFacts {
    /// Whether anything at all is mounted strictly below `dir`.
    #[must_use]
    pub fn has_mounts_below(&self, dir: &HostPath) -> bool {
        self.targets.iter().any(|t| t != dir && t.is_within(dir))
    }

    /// Whether a VM does not show what is at `path`: it has its own there, or none.
    #[must_use]
    pub fn is_skipped(&self, path: &HostPath) -> bool {
        mounts::is_system_place(path)
            || self.mounts.iter().any(|m| m.mount.target == *path && matches!(m.shown, Shown::Skip(_)))
    }
}

/// Looks at the machine.
///
/// # Errors
/// When `/proc` is not there.
pub fn collect() -> Result<HostFacts, HostError> {
    let path = Path::new("/proc/self/mountinfo");
    let bytes = std::fs::read(path)
        .map_err(|e| HostError::Read { path: path.into(), errno: Errno::from_io_error(&e).unwrap_or(Errno::IO) })?;
    let table = parse(&bytes)?;
    let mut targets: Vec<_> = table.iter().map(|m| m.target.clone()).collect();
    targets.sort();
    targets.dedup();
    let mounts = visible(table);
    let root_fs_type = mounts.iter().find(|m| m.mount.target == HostPath::root()).map(|m| m.mount.fs_type.clone());
    Ok(HostFacts {
        mounts,
        targets,
        ids: Ids { euid: rustix::process::geteuid().as_raw(), egid: rustix::process::getegid().as_raw() },
        root_fs_type: root_fs_type.unwrap_or_default(),
    })
}

/// Whether the owners of a file system's files can be shifted into a VM (Linux `FS_ALLOW_IDMAP`).
#[must_use]
pub fn idmap_capable(fs_type: &str) -> bool {
    [
        "ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "tmpfs", "erofs", "squashfs", "bcachefs", "zfs", "ntfs3",
        "vfat", "exfat", "ceph",
    ]
    .contains(&fs_type)
}
