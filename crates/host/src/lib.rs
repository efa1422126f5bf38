//! What is forked: the mounts, ids and kernel features of the machine fvm runs on.
//!
//! ```text
//!   /proc/self/mountinfo ─ mounts::parse ─► mounts::visible ─┐
//!   process ids ─────────────────────────────────────────────┴ collect ─► HostFacts ─► crate vm
//!   file systems of the home and other places ─ choose_layers_dir ─► LayersPlace ────► crate vm
//!   /etc/passwd, subuid, subgid ─ ids::user, ids::sub_ids ─► User, SubIds
//!   <run-time directory>/systemd/private ─ UserManager::find ─► which limits the user's systemd can hold
//!   trials in forked children ─ probe ─► Kernel ─────────────────────────────────────► fvm doctor
//! ```
//!
//! | on the start path | what it costs |
//! |---|---|
//! | [`collect`] | one read of the mount table, one `statx` for each mount that may be shown |
//! | [`HostFacts::mounts_below`], [`HostFacts::is_skipped`] | a binary search |
//! | [`choose_layers_dir`] | one `statfs` when the home will do |
//! | [`idmap_capable`] | nothing: a list |
//!
//! Invariants: nothing here writes, but for what a trial of [`probe`] makes in a scratch directory and takes away
//! again; collecting facts reads one file and looks once at each mount; no helper program, name service or environment
//! variable is asked.

pub mod ids;
mod kernel;
pub mod manager;
pub mod mounts;
mod place;

pub use ids::{SubIds, User};
pub use kernel::{Feature, Kernel, Level, own_network, probe};
pub use manager::{DELEGATE, UserManager};
pub use mounts::{Mount, MountFlags, MountInfoError, Shown, VisibleMount, parse, visible};
pub use place::{LayersPlace, choose_layers_dir, memory_layers_dir, memory_layers_made};

use fvm_model::HostPath;
use rustix::io::Errno;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why facts could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of the host's could not be read.
    #[error("cannot read {}: {errno}{}", .path.display(), if .path.starts_with("/proc") { "; is /proc mounted?" } else { "" })]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The mount table makes no sense.
    #[error("cannot understand /proc/self/mountinfo: {0}")]
    Mounts(#[from] MountInfoError),
    /// Nothing can be said of `/`.
    #[error(
        "the root directory is not in the mount table: a chroot, or Linux before 5.8; run fvm outside of the chroot, \
         or make its root a mount ('mount --bind DIR DIR') first"
    )]
    NoRoot,
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
    /// Mounts that are not covered, sorted by target: parents first.
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
        !self.mounts_below(dir).is_empty()
    }

    /// The mount points strictly below `dir`: of shown, skipped and covered mounts alike.
    #[must_use]
    pub fn mounts_below(&self, dir: &HostPath) -> &[HostPath] {
        // Sorted component by component, so what lies within a directory stands right behind it.
        let below = &self.targets[self.targets.partition_point(|t| t <= dir)..];
        &below[..below.partition_point(|t| t.is_within(dir))]
    }

    /// Whether a VM does not show what is at `path`: it has its own there, or none.
    #[must_use]
    pub fn is_skipped(&self, path: &HostPath) -> bool {
        let at = self.mounts.partition_point(|m| m.mount.target < *path);
        mounts::is_system_place(path)
            || self.mounts[at..]
                .iter()
                .take_while(|m| m.mount.target == *path)
                .any(|m| matches!(m.shown, Shown::Skip(_)))
    }
}

/// Looks at the machine.
///
/// # Errors
/// When `/proc` is not there.
pub fn collect() -> Result<HostFacts, HostError> {
    let path = Path::new("/proc/self/mountinfo");
    // It tells no length: without room it would be read by a few bytes first, and the kernel writes it anew for each read.
    let mut bytes = Vec::with_capacity(16 << 10);
    std::fs::File::open(path)
        .and_then(|mut table| table.read_to_end(&mut bytes))
        .map_err(|e| HostError::Read { path: path.into(), errno: Errno::from_io_error(&e).unwrap_or(Errno::IO) })?;
    let table = parse(&bytes)?;
    let mut targets: Vec<_> = table.iter().map(|m| m.target.clone()).collect();
    targets.sort();
    targets.dedup();
    let mounts = visible(table);
    let root = mounts.first().filter(|m| m.mount.target == HostPath::root()).ok_or(HostError::NoRoot)?;
    let root_fs_type = root.mount.fs_type.clone();
    Ok(HostFacts {
        mounts,
        targets,
        ids: Ids { euid: rustix::process::geteuid().as_raw(), egid: rustix::process::getegid().as_raw() },
        root_fs_type,
    })
}

/// Whether the owners of a file system's files can be shifted into a VM (Linux `FS_ALLOW_IDMAP`): a hint by name, for
/// the start path; [`probe`] tries it. ext2 and ext3 cannot, even where the ext4 driver serves them.
#[must_use]
pub fn idmap_capable(fs_type: &str) -> bool {
    [
        "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "erofs", "squashfs", "bcachefs", "zfs", "ntfs3", "vfat", "msdos",
        "exfat", "ceph",
    ]
    .contains(&fs_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> HostPath {
        HostPath::new(text).unwrap()
    }

    fn facts(table: &[u8]) -> HostFacts {
        let table = parse(table).unwrap();
        let mut targets: Vec<_> = table.iter().map(|m| m.target.clone()).collect();
        targets.sort();
        HostFacts { mounts: visible(table), targets, ids: Ids { euid: 0, egid: 0 }, root_fs_type: "ext4".into() }
    }

    #[test]
    fn mounts_below_a_directory_are_found_whatever_their_kind() {
        let facts = facts(
            b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /proc rw - proc a rw\n3 1 0:3 / /a/b rw - nfs a rw\n\
              4 1 0:4 / /a/b/c rw - autofs a rw\n5 1 0:5 / /a-z rw - ext4 a rw\n6 1 0:6 / /a\\040 rw - ext4 a rw",
        );
        let below = |dir: &str| facts.mounts_below(&path(dir)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(below("/a"), ["/a/b", "/a/b/c"]);
        assert_eq!(below("/a/b"), ["/a/b/c"]);
        assert_eq!(below("/").len(), 5);
        for none in ["/proc", "/a/b/c", "/a-z", "/b", "/zz"] {
            assert!(!facts.has_mounts_below(&path(none)), "{none}");
        }
        assert!(
            facts.is_skipped(&path("/proc")) && facts.is_skipped(&path("/a/b/c")) && !facts.is_skipped(&path("/a"))
        );
    }

    #[test]
    fn an_automount_point_with_something_mounted_on_it_is_not_skipped() {
        // Below /dev nothing is looked at, so the numbers need not be real: what counts is that the lower one went.
        let facts = facts(b"1 0 0:1 / /dev/x rw - autofs a rw\n2 1 0:2 / /dev/x rw - vfat a rw");
        assert_eq!(facts.mounts.iter().map(|m| m.mount.id).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn this_machine_has_a_root() {
        let facts = collect().unwrap();
        assert!(!facts.root_fs_type.is_empty());
        assert!(facts.has_mounts_below(&HostPath::root()));
        assert!(facts.mounts.is_sorted_by(|a, b| a.mount.target <= b.mount.target));
    }
}
