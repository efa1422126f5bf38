//! Where trials are made: a forked child, its namespaces, a scratch directory.
//!
//! ```text
//!   parent: mkdir <place>/.fvm-trial-<random> (0700)
//!     child: chdir there ─ trial, by relative names ─ exit(errno)
//!   parent: remove it
//! ```
//!
//! Invariants: the directory is new, so nobody else has anything in it; the child works by relative names, so that no
//! odd character of a path meets the syntax of mount options; the parent removes the directory however the child ends.

use super::Feature;
use fvm_sys::dir::Dir;
use fvm_sys::process::{self, Namespaces};
use rustix::fd::OwnedFd;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use std::path::{Path, PathBuf};

/// A feature that is there when `body` succeeds in a child.
pub(super) fn trial(
    name: &'static str,
    needed_for: &'static str,
    advice: &str,
    body: impl FnOnce() -> Result<(), Errno>,
) -> Feature {
    let feature = Feature::enforced(name, needed_for);
    match process::in_child(body) {
        Ok(()) => feature,
        Err(e) => feature.missing(e.to_string()).advise(advice),
    }
}

/// Runs `body` in a child whose working directory is a new one on the file system of `place`, removed afterwards.
pub(super) fn in_scratch(place: &Path, body: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut random = [0u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = PathBuf::from(format!(".fvm-trial-{:016x}", u64::from_ne_bytes(random)));
    let parent = Dir::open_root(crate::place::existing(place))?;
    fs::mkdirat(&parent, &name, Mode::RWXU)?;
    let tried = parent.beneath(&name).and_then(|dir| {
        process::in_child(|| {
            rustix::process::fchdir(&dir)?;
            body()
        })
    });
    let removed = parent.remove_tree(&name);
    tried.and(removed)
}

/// Enters namespaces in which this process may mount.
pub(super) fn may_mount(root: bool) -> Result<(), Errno> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    process::unshare(if root { Namespaces::MOUNT } else { Namespaces::MOUNT.and(Namespaces::USER) })?;
    if !root {
        write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// A new user namespace with the map `map` for users and groups. A helper process holds it until it is open.
pub(super) fn mapped_userns(map: &str) -> Result<OwnedFd, Errno> {
    let (ready, made) = rustix::pipe::pipe()?;
    let child = match process::clone_into(Namespaces::USER, false)? {
        process::Fork::Child => {
            drop(made);
            let _closed = rustix::io::read(&ready, &mut [0u8][..]);
            process::exit_now(0)
        }
        process::Fork::Parent(child) => child.as_raw_nonzero(),
    };
    let opened = write(format!("/proc/{child}/uid_map"), map)
        .and_then(|()| write(format!("/proc/{child}/gid_map"), map))
        .and_then(|()| fs::open(format!("/proc/{child}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()));
    drop(made);
    process::wait_blocking(child.get(), false)?;
    opened
}

/// Writes a small file in one call.
pub(super) fn write(path: impl AsRef<Path>, text: &str) -> Result<(), Errno> {
    std::fs::write(path, text).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_is_removed_when_the_trial_fails_or_dies() {
        let tmp = tempfile::tempdir().unwrap();
        let failed = in_scratch(tmp.path(), || {
            write("left", "x")?;
            fs::mkdir("closed", Mode::empty())?;
            Err(Errno::XDEV)
        });
        assert_eq!(failed, Err(Errno::XDEV));
        assert_eq!(in_scratch(tmp.path(), || process::kill(std::process::id().cast_signed(), 9)), Err(Errno::IO));
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_and_no_panic() {
        assert!(in_scratch(Path::new("/proc/self"), || Ok(())).is_err());
    }
}
