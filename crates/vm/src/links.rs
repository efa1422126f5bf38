//! Hard links in a rootless VM: programs that check what they linked are told to copy instead.
//!
//! ```text
//!   git clone /local/repo:  lstat(object) ── link(object, copy) ── lstat(copy): "hardlink different from source"
//! ```
//!
//! Overlayfs copies a host file up when it is linked, and without privilege it cannot remember which inode the copy
//! came from, so the inode number changes under the program's eyes. Most programs do not look; git does, and dies.
//! When the link itself fails, git copies, as it does between file systems. So exactly those programs get `EXDEV`.
//! Root VMs keep the number (`index=on`) and do without this.
//!
//! Invariant: compatibility, not protection: whoever calls itself git only loses its own hard links.

use fvm_sys::seccomp::{self, Answer};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Programs that compare inode numbers after linking, and copy when linking fails.
const CHECKERS: &[&str] = &["git"];

/// What a program that is called so and makes a hard link is told, where it is not to go on.
#[must_use]
pub fn refusal(comm: &[u8]) -> Option<Errno> {
    CHECKERS.iter().any(|checker| checker.as_bytes() == comm).then_some(Errno::XDEV)
}

/// Makes the links of everything that init starts wait for [`serve`].
///
/// # Errors
/// When the kernel has no user notification.
pub fn watch() -> Result<OwnedFd, Errno> {
    seccomp::watch(seccomp::LINK_CALLS)
}

/// Answers one waiting call.
pub fn serve(listener: &OwnedFd) {
    // A caller that died meanwhile needs no answer.
    let Ok(call) = seccomp::next(listener) else { return };
    let name = std::fs::read(format!("/proc/{}/comm", call.pid)).unwrap_or_default();
    let answer = refusal(name.trim_ascii_end()).map_or(Answer::GoOn, Answer::Fail);
    let _died = seccomp::answer(listener, call.id, answer);
}
