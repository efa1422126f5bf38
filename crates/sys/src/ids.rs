//! User and group ids: fsuid, securebits, becoming another user, the session keyring.

use rustix::io::Errno;
use rustix::process::DumpableBehavior;

/// Sets this thread's file-system user and group id. Capabilities stay only with [`keep_capabilities`].
///
/// # Errors
/// `EPERM` when the kernel did not take the ids (the calls themselves report nothing).
pub fn set_fs_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: both calls take plain integers and touch only this thread's credentials. The second call of each pair
    // uses an invalid id, which changes nothing and returns the current one: the documented way to check.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if now == (uid.cast_signed(), gid.cast_signed()) { Ok(()) } else { Err(Errno::PERM) }
}

/// Makes `uid` this thread's effective user, who owns the user namespaces that it makes. The real one stays, and capabilities with
/// [`keep_capabilities`]. The kernel takes back the death signal of the parent (`commit_creds`); whether it may be dumped
/// stays as it was.
///
/// # Errors
/// `EINVAL` for an id that this user namespace does not have; `EPERM` without the right to.
pub fn set_effective_user(uid: u32) -> Result<(), Errno> {
    let dumpable = rustix::process::dumpable_behavior()?;
    // SAFETY: a raw call with plain integers, so that only this thread is changed; -1 leaves an id as it is.
    if unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) } != 0 {
        return Err(crate::last_errno());
    }
    match dumpable {
        // What a change of ids makes of it where the system says so; it cannot be asked for.
        DumpableBehavior::DumpableReadableOnlyByRoot => Ok(()),
        as_before => rustix::process::set_dumpable_behavior(as_before),
    }
}

/// `SECBIT_NO_SETUID_FIXUP`: capabilities no longer follow the user ids.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn keep_capabilities() -> Result<(), Errno> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: PR_SET_SECUREBITS takes one integer.
    match unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(crate::last_errno()),
    }
}

/// Gives this process an empty session keyring of its own, so that it holds none of the user's keys.
///
/// # Errors
/// `ENOSYS` without keyrings; the kernel's others.
pub fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: with a null name the call makes an anonymous keyring and reads no memory.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) };
    if ret >= 0 { Ok(()) } else { Err(crate::last_errno()) }
}

/// Becomes user and group `id` of this user namespace, with no supplementary group.
///
/// # Errors
/// The kernel's.
pub fn become_root_of_namespace() -> Result<(), Errno> {
    // SAFETY: raw calls, so that only this (single) thread is changed and no libc lock is taken; the empty group
    // list is not read.
    let ok = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) == 0
            && libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
    };
    if ok { Ok(()) } else { Err(crate::last_errno()) }
}

/// Becomes user `uid` and group `gid`, with these supplementary groups and, unless it is the namespace's root, without
/// capabilities.
///
/// # Errors
/// The kernel's: `EINVAL` for ids that the user namespace does not have, `EPERM` without the right to.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: raw calls, so that only this (single) thread is changed and no libc lock is taken; the list is read for
    // its length only.
    let ok = unsafe {
        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
            && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
    };
    if ok { Ok(()) } else { Err(crate::last_errno()) }
}
