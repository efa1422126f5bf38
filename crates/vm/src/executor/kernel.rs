//! What the kernel shows of itself in a VM: `/dev` and `/proc`.
//!
//! ```text
//!   /dev    own tmpfs: six nodes, links, pts, shm, mqueue  +  the devices that the policy passes
//!   /proc   of its own processes; what changes the kernel read-only, what tells of the host's covered
//! ```
//!
//! Invariants: no node of a disk is ever made; init's own entries are covered before the first program.

use super::{Site, attributes, empty_directory, vm};
use crate::blueprint::SHIFT;
use crate::op::Restrict;
use fvm_model::{HostPath, Mode};
use fvm_sys::dir::Dir;
use fvm_sys::mount::{self, MountError, MountOption};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::ffi::OsStr;
use std::path::Path;

impl Site {
    /// A node, or a directory of nodes, of the host's `/dev`: made anew by root, with the owner as the VM names it; shown
    /// as it is by an ordinary user, who can make none.
    pub(super) fn device(&self, path: &HostPath) -> Result<(), MountError> {
        let Ok(relative) = path.as_path().strip_prefix("/dev") else { return Err(Errno::INVAL.into()) };
        let mut dir = Dir::open_root(Path::new("/dev"))?;
        let mut made = mount::mount_point(self.tree()?, Path::new("dev"))?;
        let names: Vec<&OsStr> = relative.iter().collect();
        let Some((last, above)) = names.split_last() else { return Err(Errno::INVAL.into()) };
        for name in above {
            dir = dir.beneath(Path::new(name))?;
            match fs::mkdirat(&made, Path::new(name), FileMode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            made = mount::mount_point(&made, Path::new(name))?;
        }
        self.device_node(&dir, Path::new(last), &made, 0)
    }

    pub(super) fn device_node(&self, dir: &Dir, name: &Path, made: &OwnedFd, depth: usize) -> Result<(), MountError> {
        const DEPTH_MAX: usize = 4;
        let Some(stat) = dir.stat_opt(name)? else { return Ok(()) };
        let kind = fs::FileType::from_raw_mode(stat.stx_mode.into());
        let mode = FileMode::from_raw_mode(u32::from(stat.stx_mode) & 0o777);
        match kind {
            fs::FileType::Directory if depth < DEPTH_MAX => {
                match fs::mkdirat(made, name, FileMode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let (below, made) = (dir.beneath(name)?, mount::mount_point(made, name)?);
                for name in below.names()? {
                    self.device_node(&below, Path::new(&name), &made, depth + 1)?;
                }
                Ok(())
            }
            fs::FileType::CharacterDevice | fs::FileType::BlockDevice if self.mode == Mode::Rootless => {
                let copy = mount::clone_mount(dir.as_fd(), name, false)?;
                mount::add_attributes(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
                fs::openat(made, name, OFlags::CREATE | OFlags::CLOEXEC, FileMode::empty())?;
                Ok(mount::attach(copy.as_fd(), mount::mount_point(made, name)?.as_fd())?)
            }
            fs::FileType::CharacterDevice | fs::FileType::BlockDevice => {
                let number = fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
                match fs::mknodat(made, name, kind, mode, number) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let (uid, gid) = (stat.stx_uid + self.shift(), stat.stx_gid + self.shift());
                let owner = (fs::Uid::from_raw(uid), fs::Gid::from_raw(gid));
                Ok(fs::chownat(made, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?)
            }
            fs::FileType::Symlink => {
                let target = dir.read_link(name)?;
                match fs::symlinkat(&target, made, name) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(e) => Err(e.into()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The ids that own the VM's `/dev`, as this process must name them.
    pub(super) fn shift(&self) -> u32 {
        if self.mode == Mode::Shifted { SHIFT } else { 0 }
    }

    pub(super) fn devices(&mut self) -> Result<(), MountError> {
        let option = |key, value: &str| MountOption::Value(key, value.to_owned());
        let mut options = vec![option("mode", "0755"), option("size", "1m")];
        if self.mode == Mode::Shifted {
            options.extend([option("uid", &SHIFT.to_string()), option("gid", &SHIFT.to_string())]);
        }
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let dev = mount::new_mount("tmpfs", &options, quiet)?;
        self.place(&dev, &vm("/dev"))?;
        let dev = mount::mount_point(self.tree()?, Path::new("dev"))?;
        for (name, major, minor) in
            [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        {
            let mode = FileMode::from_raw_mode(0o666);
            // A node of the VM's own is a mount less to make, to copy and to take away. Not everybody may make one: an
            // ordinary user, or root in a container or behind a device controller.
            let number = fs::makedev(major, minor);
            let made = self.mode != Mode::Rootless
                && fs::mknodat(&dev, name, fs::FileType::CharacterDevice, mode, number).is_ok();
            if !made {
                self.hosts_device(&dev, name)?;
            }
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            fs::symlinkat(target, &dev, name)?;
        }
        for name in ["pts", "shm", "mqueue"] {
            fs::mkdirat(&dev, name, FileMode::from_raw_mode(0o755))?;
        }
        let mut options = vec![option("ptmxmode", "0666"), option("mode", "0620")];
        if self.mode != Mode::Rootless {
            options.push(option("gid", &(self.shift() + 5).to_string()));
        }
        let terminals = mount::new_mount("devpts", &options, quiet)?;
        mount::attach(terminals.as_fd(), mount::mount_point(&dev, Path::new("pts"))?.as_fd())?;
        let shm = mount::new_mount(
            "tmpfs",
            &[option("mode", "1777")],
            attributes(Restrict { nosuid: true, ..Restrict::default() }),
        )?;
        mount::attach(shm.as_fd(), mount::mount_point(&dev, Path::new("shm"))?.as_fd())?;
        Ok(())
    }

    /// The host's own node: its mode and times stay as they are. A device can be written all the same.
    pub(super) fn hosts_device(&self, dev: &OwnedFd, name: &str) -> Result<(), MountError> {
        let copy = mount::clone_mount(CWD, &Path::new("/dev").join(name), false)?;
        mount::add_attributes(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
        fs::openat(dev, name, OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, FileMode::from_raw_mode(0o666))?;
        Ok(mount::attach(copy.as_fd(), mount::mount_point(dev, Path::new(name))?.as_fd())?)
    }

    pub(super) fn proc(&mut self, guarded: bool) -> Result<(), MountError> {
        let attrs = attributes(Restrict { nosuid: true, noexec: true, read_only: false });
        let proc = mount::new_mount("proc", &[], attrs)?;
        if self.has_network {
            fvm_net::router::open_ports_in(proc.as_fd());
        }
        self.place(&proc, &vm("/proc"))?;
        let proc = mount::mount_point(self.tree()?, Path::new("proc"))?;
        // Keys of the same user of the host's, where that is the VM's too. Not elsewhere: under a cover the kernel lets
        // nobody in the VM mount another /proc, as sandboxes within it do.
        for name in ["keys", "key-users"].iter().filter(|_| self.mode != Mode::Shifted) {
            if let Ok(point) = mount::mount_point(&proc, Path::new(name)) {
                mount::attach(self.nothing_to_read()?.as_fd(), point.as_fd())?;
            }
        }
        if !guarded {
            return Ok(());
        }
        // Init came from the host: what it has open is nobody's business here.
        for name in ["1/fd", "1/fdinfo", "1/task", "1/map_files"] {
            if let Ok(point) = mount::mount_point(&proc, Path::new(name)) {
                mount::attach(empty_directory()?.as_fd(), point.as_fd())?;
            }
        }
        for name in ["sys", "irq", "bus", "fs", "sysrq-trigger", "acpi", "scsi"] {
            if let Ok(copy) = mount::clone_mount(proc.as_fd(), Path::new(name), false) {
                mount::add_attributes(
                    copy.as_fd(),
                    attributes(Restrict { read_only: true, nosuid: true, noexec: true }),
                    false,
                )?;
                mount::attach(copy.as_fd(), mount::mount_point(&proc, Path::new(name))?.as_fd())?;
            }
        }
        for name in [
            "kcore",
            "kmsg",
            "timer_list",
            "kallsyms",
            "kpagecount",
            "kpageflags",
            "kpagecgroup",
            "slabinfo",
            "vmallocinfo",
            "pagetypeinfo",
            "iomem",
            "ioports",
            "modules",
            "sched_debug",
            "latency_stats",
        ] {
            if let Ok(point) = mount::mount_point(&proc, Path::new(name)) {
                mount::attach(self.nothing_to_read()?.as_fd(), point.as_fd())?;
            }
        }
        Ok(())
    }
}
