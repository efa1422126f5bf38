//! `fcntl(F_SETLEASE)`: whether anybody can still write a file. rustix lacks it.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;

/// `F_SETSIG` of `fcntl.h`, which the libc crate lacks for this target.
const F_SETSIG: libc::c_int = 10;

/// Whether some open file description, or a mapping of one, can write the regular file that `file` has open for
/// reading: the kernel gives a read lease only when none can. It is given back when `file` is closed.
///
/// # Errors
/// The kernel's: `EINVAL` where the file system has no leases, `EACCES` for a file of somebody else's.
pub fn has_writer(file: &OwnedFd) -> Result<bool, Errno> {
    let fd = file.as_raw_fd();
    // SAFETY: F_SETSIG and F_SETLEASE take an int and touch no memory of ours; `fd` is open for the whole block. SIGURG
    // is ignored by default, while SIGIO, which a lease that is broken meanwhile would send, ends the process.
    unsafe {
        if libc::fcntl(fd, F_SETSIG, libc::SIGURG) != 0 {
            return Err(crate::last_errno());
        }
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) != 0 {
            return match crate::last_errno() {
                Errno::AGAIN => Ok(true),
                e => Err(e),
            };
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_that_is_open_for_writing_has_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        let open = || OwnedFd::from(File::open(&path).unwrap());
        assert_eq!(has_writer(&open()), Ok(true));
        drop(writer);
        assert_eq!(has_writer(&open()), Ok(false));
    }
}
