//! `getxattrat(2)` and `listxattrat(2)`, Linux 6.13: attributes by directory descriptor and name. rustix and libc lack
//! them.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Their numbers: the same on every architecture.
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;

/// `struct xattr_args` of `linux/xattr.h`.
#[repr(C)]
struct Args {
    value: u64,
    size: u32,
    flags: u32,
}

/// Reads the attribute `attr` of `name` in `dir` (empty: of `dir` itself) into `value`, not following a symlink; returns
/// its length.
///
/// # Errors
/// The kernel's; `ENOSYS` where it is older.
pub fn get_at(dir: impl AsFd, name: &Path, attr: &OsStr, value: &mut [u8]) -> Result<usize, Errno> {
    let (name, flags) = named(name)?;
    let attr = CString::new(attr.as_bytes()).map_err(|_| Errno::INVAL)?;
    let size = u32::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    let args = Args { value: value.as_mut_ptr() as u64, size, flags: 0 };
    // SAFETY: both strings are NUL-terminated; `args` says where `value` is and how long, and both live past the call,
    // which writes at most `size` bytes there.
    let got = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            flags,
            attr.as_ptr(),
            &raw const args,
            size_of::<Args>(),
        )
    };
    length(got)
}

/// Reads the names of the attributes of `name` in `dir` (empty: of `dir` itself), each ended by a zero byte, into `names`,
/// not following a symlink; returns their length.
///
/// # Errors
/// The kernel's: `ERANGE` when they are longer, `ENOSYS` where it is older.
pub fn list_at(dir: impl AsFd, name: &Path, names: &mut [u8]) -> Result<usize, Errno> {
    let (name, flags) = named(name)?;
    // SAFETY: the string is NUL-terminated; the call writes at most `names.len()` bytes to `names`.
    let got = unsafe {
        let fd = dir.as_fd().as_raw_fd();
        libc::syscall(SYS_LISTXATTRAT, fd, name.as_ptr(), flags, names.as_mut_ptr(), names.len())
    };
    length(got)
}

/// Whether the kernel is known to lack the calls.
static MISSING: AtomicBool = AtomicBool::new(false);

/// The name as the calls want it, and their flags.
fn named(name: &Path) -> Result<(CString, libc::c_int), Errno> {
    if MISSING.load(Ordering::Relaxed) {
        return Err(Errno::NOSYS);
    }
    let name = CString::new(name.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    Ok((name, flags))
}

fn length(got: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(got).map_err(|_| {
        let errno = crate::last_errno();
        // A seccomp filter that does not know it says EPERM: the older way finds out what is true.
        if matches!(errno, Errno::NOSYS | Errno::PERM) {
            if errno == Errno::NOSYS {
                MISSING.store(true, Ordering::Relaxed);
            }
            return Errno::NOSYS;
        }
        errno
    })
}
