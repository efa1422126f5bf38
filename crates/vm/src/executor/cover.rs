//! Covers over what a VM must not see.
//!
//! Invariants: an empty file or directory, read-only, in the place of each; one that would be seen under another name is refused.

use super::{Site, attributes, empty_directory, is_own_file, is_where_it_was};
use crate::op::Restrict;
use fvm_model::{HostPath, Mode, VmPath};
use fvm_sys::mount::{self, MountError};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use std::path::Path;

impl Site {
    /// Covers `target`. If the VM moved a directory above it, it would be seen under another name: refuse.
    pub(super) fn mask(&mut self, target: &VmPath, layer: Option<&(u32, HostPath)>) -> Result<(), MountError> {
        let relative = target.relative_to(&VmPath::root()).ok_or(Errno::INVAL)?;
        let type_of = |stat: fs::Stat| fs::FileType::from_raw_mode(stat.st_mode);
        let is_dir = match fs::stat(target.as_path()) {
            Ok(stat) => type_of(stat) == fs::FileType::Directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let moved = || MountError {
            errno: Errno::PERM,
            message: format!("the VM moved a directory above {target}: undo that first with 'fvm discard'"),
        };
        if let Some((n, lower)) = layer {
            let below = target.relative_to(&lower.in_vm()).ok_or(Errno::INVAL)?;
            for upper in self.uppers(*n) {
                if !is_dir && is_own_file(&upper, below)? {
                    // The VM had a file of that name before the host had.
                    return Ok(());
                }
                if !is_where_it_was(&upper, below, self.mode.xattr_class())? {
                    return Err(moved());
                }
            }
        }
        let point = match mount::mount_point(self.tree()?, relative) {
            Ok(point) => point,
            // Below a place that is the VM's own, such as /dev.
            Err(Errno::NOENT) if layer.is_none() => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(moved()),
            Err(e) => return Err(e.into()),
        };
        let cover = match type_of(fs::fstat(&point)?) {
            fs::FileType::Directory => self.empty_directory()?,
            _ => self.nothing_to_read()?,
        };
        Ok(mount::attach(cover.as_fd(), point.as_fd())?)
    }

    /// A cover for a directory. All are one: a file system takes longer to make, and to take away, than a mount of it.
    pub(super) fn empty_directory(&mut self) -> Result<OwnedFd, MountError> {
        let is_mounted = std::mem::replace(&mut self.is_covered, true);
        let cover = self.cover()?;
        // Not every kernel copies a mount that is nowhere.
        if is_mounted {
            Ok(mount::clone_mount(cover.as_fd(), Path::new(""), false)?)
        } else {
            Ok(rustix::io::dup(cover)?)
        }
    }

    /// The one that all covers of directories are.
    pub(super) fn cover(&mut self) -> Result<&OwnedFd, MountError> {
        let made = match self.cover.take() {
            Some(made) => made,
            None => empty_directory()?,
        };
        Ok(self.cover.insert(made))
    }

    /// A cover for a file.
    pub(super) fn nothing_to_read(&self) -> Result<OwnedFd, Errno> {
        let cover = self.empty_file()?;
        let quiet = attributes(Restrict { read_only: true, nosuid: true, noexec: true });
        mount::add_attributes(cover.as_fd(), quiet, false)?;
        Ok(cover)
    }

    /// An empty file that nobody may read. It lies in the VM's `/dev`, so that the mount table shows no path of the host's;
    /// of a shifted VM it is no one's.
    pub(super) fn empty_file(&self) -> Result<OwnedFd, Errno> {
        const NAME: &str = ".hidden";
        let dev = mount::mount_point(self.tree()?, Path::new("dev"))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        match fs::openat(&dev, NAME, flags, FileMode::empty()) {
            Ok(made) if self.mode == Mode::Shifted => fs::fchown(&made, Some(fs::Uid::ROOT), Some(fs::Gid::ROOT))?,
            Ok(_) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        mount::clone_mount(dev.as_fd(), Path::new(NAME), false)
    }
}
