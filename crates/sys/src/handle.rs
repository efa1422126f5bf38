//! `name_to_handle_at(2)`: the identity of an inode that outlives its name. rustix lacks it.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The largest handle that Linux gives (`MAX_HANDLE_SZ`).
const MAX_HANDLE_BYTES: usize = 128;

/// An opaque file handle, as overlayfs stores it in its `origin` attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// The file system's own type number.
    pub kind: i32,
    /// The opaque bytes.
    pub bytes: Vec<u8>,
}

#[repr(C)]
struct RawHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    f_handle: [u8; MAX_HANDLE_BYTES],
}

/// The handle of `name` in `dir`, without following a final symlink. An empty `name` means `dir` itself.
///
/// # Errors
/// The kernel's; `EOPNOTSUPP` where the file system has no handles.
pub fn name_to_handle(dir: impl AsFd, name: &Path) -> Result<FileHandle, Errno> {
    let name = CString::new(name.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let mut raw =
        RawHandle { handle_bytes: MAX_HANDLE_BYTES as libc::c_uint, handle_type: 0, f_handle: [0; MAX_HANDLE_BYTES] };
    let mut mount_id: libc::c_int = 0;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `name` is NUL-terminated; `raw` has the layout of struct file_handle with room for `handle_bytes`
    // bytes after its head; `mount_id` is a valid int. All live past the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            flags,
        )
    };
    if ret != 0 {
        return Err(crate::last_errno());
    }
    let len = (raw.handle_bytes as usize).min(MAX_HANDLE_BYTES);
    Ok(FileHandle { kind: raw.handle_type, bytes: raw.f_handle[..len].to_vec() })
}

/// Whether the inode of `handle` still exists on the file system that `mount` (any open file of it) lies on.
/// Needs `CAP_DAC_READ_SEARCH`.
///
/// # Errors
/// The kernel's; `EPERM` without the capability.
pub fn exists(mount: impl AsFd, handle: &FileHandle) -> Result<bool, Errno> {
    let mut raw = RawHandle {
        handle_bytes: libc::c_uint::try_from(handle.bytes.len()).map_err(|_| Errno::INVAL)?,
        handle_type: handle.kind,
        f_handle: [0; MAX_HANDLE_BYTES],
    };
    raw.f_handle.get_mut(..handle.bytes.len()).ok_or(Errno::INVAL)?.copy_from_slice(&handle.bytes);
    // SAFETY: `raw` has the layout of struct file_handle and holds `handle_bytes` bytes; the result, when not
    // negative, is a new descriptor, which is closed at once.
    unsafe {
        match libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            &raw mut raw,
            libc::O_PATH | libc::O_CLOEXEC,
        ) {
            -1 => match crate::last_errno() {
                Errno::STALE | Errno::NOENT => Ok(false),
                e => Err(e),
            },
            fd => {
                libc::close(libc::c_int::try_from(fd).map_err(|_| Errno::BADF)?);
                Ok(true)
            }
        }
    }
}
