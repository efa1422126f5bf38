//! `getxattrat(2)`, Linux 6.13: an attribute by directory descriptor and name. rustix and libc lack it.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Its number: the same on every architecture.
const SYS_GETXATTRAT: libc::c_long = 464;

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
    static MISSING: AtomicBool = AtomicBool::new(false);
    if MISSING.load(Ordering::Relaxed) {
        return Err(Errno::NOSYS);
    }
    let name = CString::new(name.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let attr = CString::new(attr.as_bytes()).map_err(|_| Errno::INVAL)?;
    let size = u32::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    let args = Args { value: value.as_mut_ptr() as u64, size, flags: 0 };
    let flags = libc::AT_SYMLINK_NOFOLLOW | if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
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
    match usize::try_from(got) {
        Ok(len) => Ok(len),
        Err(_) => {
            let errno = crate::last_errno();
            // A seccomp filter that does not know it says EPERM: the older way finds out what is true.
            if matches!(errno, Errno::NOSYS | Errno::PERM) {
                if errno == Errno::NOSYS {
                    MISSING.store(true, Ordering::Relaxed);
                }
                return Err(Errno::NOSYS);
            }
            Err(errno)
        }
    }
}
