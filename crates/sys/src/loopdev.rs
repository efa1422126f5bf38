//! Loop devices: a file as a block device (`drivers/block/loop.c`, `loop(4)`).
//!
//! ```text
//!   /sys/block/loop*/loop/   those in use ─ LOOP_GET_STATUS64: of which file? ─┐
//!   LOOP_CTL_GET_FREE ─ LOOP_CONFIGURE(file, autoclear) ──────────────────────┴─► Loop: device, open
//! ```
//!
//! Invariants: a file never has two devices that this module gave it, if its callers hold one lock: two would be two caches of
//! one content; a device gives its file back when its last user (mount or descriptor) is gone.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of `include/uapi/linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const EMPTY: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A device that holds a file; it does so at least as long as this is there.
#[derive(Debug)]
pub struct Loop {
    /// Such as `/dev/loop7`.
    pub path: PathBuf,
    device: OwnedFd,
}

impl Loop {
    /// The device that has `file` already.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(file: &impl AsFd) -> Result<Option<Self>, Errno> {
        let stat = fs::fstat(file)?;
        let link = fs::readlink(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()), Vec::new())?;
        let own = OsStr::from_bytes(name_of(link.as_bytes())).to_owned();
        for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            if !entry.path().join("loop").exists() {
                continue;
            }
            // Nobody else's is opened: that of a file of another name is another's.
            let name = std::fs::read(entry.path().join("loop/backing_file")).unwrap_or_default();
            if !name_of(name.trim_ascii_end()).starts_with(own.as_bytes()) {
                continue;
            }
            let path = PathBuf::from("/dev").join(entry.file_name());
            let device = match fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(device) => device,
                // Given back meanwhile.
                Err(Errno::NXIO) => continue,
                Err(e) => return Err(e),
            };
            let mut info = EMPTY;
            // SAFETY: LOOP_GET_STATUS64 writes one struct loop_info64, which `Info` is, through the pointer; it outlives the call.
            let ret = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, std::ptr::from_mut(&mut info)) };
            if ret == 0 && (info.device, info.inode) == (stat.st_dev, stat.st_ino) {
                return Ok(Some(Self { path, device }));
            }
        }
        Ok(None)
    }

    /// A free device that holds `file` from now on, until its last user is gone.
    ///
    /// # Errors
    /// `ENOENT` or `ENXIO` where the kernel has no loop devices, `EACCES` where this process may not use them.
    pub fn attach(file: &impl AsFd) -> Result<Self, Errno> {
        const TRIES: u32 = 64;
        let control = fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let fd = u32::try_from(file.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
        for _ in 0..TRIES {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number or an error.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(crate::last_errno());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path)?;
            let info = Info { flags: LO_FLAGS_AUTOCLEAR, ..EMPTY };
            let config = Config { fd, block_size: 0, info, reserved: [0; 8] };
            // SAFETY: LOOP_CONFIGURE reads one struct loop_config, which `Config` is, through the pointer; it outlives the call.
            let ret = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, std::ptr::from_ref(&config)) };
            match if ret == 0 { Ok(()) } else { Err(crate::last_errno()) } {
                Ok(()) => return Ok(Self { path, device }),
                // Another process was quicker.
                Err(Errno::BUSY) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Errno::BUSY)
    }

    /// Takes note that the file has grown.
    ///
    /// # Errors
    /// The kernel's.
    pub fn grow(&self) -> Result<(), Errno> {
        // SAFETY: LOOP_SET_CAPACITY takes no argument.
        let ret = unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_CAPACITY) };
        if ret == 0 { Ok(()) } else { Err(crate::last_errno()) }
    }
}

/// The last component of a path. A file that has none any more is called ` (deleted)` behind that.
fn name_of(path: &[u8]) -> &[u8] {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
    name.strip_suffix(b" (deleted)").unwrap_or(name)
}

/// Whether this process may have loop devices; none is taken.
///
/// # Errors
/// Why not.
pub fn available() -> Result<(), Errno> {
    let control = fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number or an error.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 {
        return Err(crate::last_errno());
    }
    open(Path::new(&format!("/dev/loop{number}"))).map(drop)
}

fn open(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn root_a_file_has_one_device_while_somebody_uses_it_needs_loop_devices() {
        if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/loop-control").exists() {
            eprintln!(
                "skipped: root_a_file_has_one_device_while_somebody_uses_it_needs_loop_devices: not root, or no loop devices"
            );
            return;
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(Loop::of(&file).unwrap().is_none());
        let device = Loop::attach(&file).unwrap();
        assert_eq!(Loop::of(&file).unwrap().map(|found| found.path), Some(device.path.clone()));
        file.set_len(2 << 20).unwrap();
        device.grow().unwrap();
        let sectors =
            std::fs::read_to_string(PathBuf::from("/sys/block").join(device.path.file_name().unwrap()).join("size"));
        assert_eq!(sectors.unwrap().trim(), "4096");
        drop(device);
        assert!(Loop::of(&file).unwrap().is_none(), "it gave its file back");
    }
}
