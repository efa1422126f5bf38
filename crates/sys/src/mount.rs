//! Mounting by descriptor: `mount_setattr(2)` (rustix lacks it) and `fsopen` & co. with the kernel's own messages.
//!
//! ```text
//!   fsopen ── fsconfig* ── create ── fsmount ─► detached mount ─┐
//!   open_tree(CLONE) ── mount_setattr(idmap | read-only) ───────┴─► move_mount ─► place
//! ```
//!
//! Invariant: nothing here names a mount by path except where the caller gives a trusted one.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
};
use std::path::Path;

/// A file system that could not be mounted, with what the kernel said in the context's log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{errno}{}", if message.is_empty() { String::new() } else { format!(" (kernel: {message})") })]
pub struct MountError {
    /// The error number.
    pub errno: Errno,
    /// The kernel's messages, joined; often empty.
    pub message: String,
}

impl From<Errno> for MountError {
    fn from(errno: Errno) -> Self {
        Self { errno, message: String::new() }
    }
}

/// One mount option.
#[derive(Debug, Clone)]
pub enum MountOption<'a> {
    /// `key=value`.
    Value(&'a str, String),
    /// `key`.
    Flag(&'a str),
}

/// Makes a new detached mount of `fs_type`.
///
/// # Errors
/// The kernel's, with its messages.
pub fn new_mount(fs_type: &str, options: &[MountOption<'_>], attrs: MountAttrFlags) -> Result<OwnedFd, MountError> {
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configured = options
        .iter()
        .try_for_each(|option| match option {
            MountOption::Value(key, value) => fsconfig_set_string(context.as_fd(), *key, value.as_str()),
            MountOption::Flag(key) => fsconfig_set_flag(context.as_fd(), *key),
        })
        .and_then(|()| fsconfig_create(context.as_fd()))
        .and_then(|()| fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs));
    configured.map_err(|errno| MountError { errno, message: context_log(context.as_fd()) })
}

/// What the kernel wrote into a mount context: one message per read.
fn context_log(context: BorrowedFd<'_>) -> String {
    let mut out = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(len) = rustix::io::read(context, &mut buffer[..]) {
        if len == 0 || out.len() > 8 {
            break;
        }
        out.push(String::from_utf8_lossy(&buffer[..len]).trim().trim_start_matches("e ").to_owned());
    }
    out.join("; ")
}

/// A detached copy of the mount at `path` under `dir` (`recursive`: with all mounts below).
///
/// # Errors
/// The kernel's.
pub fn clone_mount(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(dir, path, flags)
}

/// Puts a detached mount on top of the open directory or file `target`.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn mount_setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty NUL-terminated string; `attr` is a struct mount_attr of the size given; both
    // outlive the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(crate::last_errno()) }
}

/// Makes the ids of a detached mount those of the user namespace `userns`.
///
/// # Errors
/// `EINVAL` where the file system cannot be idmapped (overlayfs, NFS, ...), and the kernel's others.
pub fn mount_setattr_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> Result<(), Errno> {
    let userns_fd = u64::try_from(userns.as_raw_fd()).map_err(|_| Errno::BADF)?;
    mount_setattr(mount, &MountAttr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd }, false)
}

/// Adds attributes (read-only, nosuid, ...) to a mount; never takes one away, so it works on locked mounts too.
///
/// # Errors
/// The kernel's.
pub fn add_attributes(mount: BorrowedFd<'_>, attrs: MountAttrFlags, recursive: bool) -> Result<(), Errno> {
    let attr = MountAttr { attr_set: u64::from(attrs.bits()), attr_clr: 0, propagation: 0, userns_fd: 0 };
    mount_setattr(mount, &attr, recursive)
}

/// Makes the file system whose root `mount` is forget every name that nobody uses now, by reconfiguring it with nothing
/// to change. `mount` need not be in this mount namespace, or reachable by any path.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over the user namespace that mounted it; `EINVAL` when it is not the root of a mount.
pub fn drop_names(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_NO_AUTOMOUNT;
    match fsconfig_reconfigure(fspick(mount, "", flags)?.as_fd()) {
        // It cannot be anything but read-only, and wants that said.
        Err(Errno::ROFS) => {
            let same = fspick(mount, "", flags)?;
            fsconfig_set_flag(same.as_fd(), "ro")?;
            fsconfig_reconfigure(same.as_fd())
        }
        other => other,
    }
}

/// Opens `path` beneath the directory `root`, following no symlink, as a mount point (O_PATH).
///
/// # Errors
/// The kernel's; `ELOOP` when a component is a symlink.
pub fn mount_point(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
}
