//! One program once: from fork to wait.
//!
//! ```text
//!   Host        ── clock ── fork, exec ─► program ─► wait ── clock
//!   OwnMounts   mounts of our own ── clock ── ... ── clock, all gone
//!   BoundRoot   mounts of our own, / once more at a place ── clock ── ... ── clock, all gone
//!   Bundle      mounts of our own, cgroup2 alone          ── clock ── overlay over / ── ... ── clock, all gone
//! ```
//!
//! A peer that refuses this machine as it is (nspawn `/` itself, crun two kinds of control groups) is given what it wants in
//! a thread that has a mount namespace of its own. So is one that leaves mounts (firejail): each mount of the host's costs a VM an
//! overlay, and that would be on fvm's clock.

use fvm_sys::process::{Namespaces, Waited};
use fvm_sys::vfork::{Usage, wait_with_usage};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// From fork to wait.
    pub wall: Duration,
    /// Its exit status; 128+n by signal n.
    pub code: i32,
    /// What it used.
    pub usage: Usage,
}

impl Sample {
    /// In milliseconds.
    #[must_use]
    pub fn wall_ms(&self) -> f64 {
        self.wall.as_secs_f64() * 1e3
    }
}

/// What a program is given around it.
#[derive(Debug, Clone)]
pub enum Surroundings {
    /// The machine as it is.
    Host,
    /// What it leaves mounted goes with it.
    OwnMounts,
    /// `/` bound at this place.
    BoundRoot(PathBuf),
    /// An overlay over `/`, its upper in memory, at `rootfs` in this directory; made while the clock runs, because it is the
    /// copy on write that the peer does not have.
    Bundle(PathBuf),
}

/// Runs `command` to its end.
///
/// # Errors
/// When it could not be started.
pub fn run(command: &mut Command, surroundings: &Surroundings) -> io::Result<Sample> {
    if matches!(surroundings, Surroundings::Host) {
        return timed(command, || Ok(()));
    }
    let run = || {
        fvm_sys::process::unshare(Namespaces::MOUNT)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        match surroundings {
            Surroundings::Host | Surroundings::OwnMounts => timed(command, || Ok(())),
            Surroundings::BoundRoot(place) => {
                mount_bind("/", place)?;
                timed(command, || Ok(()))
            }
            Surroundings::Bundle(dir) => {
                only_cgroup2()?;
                timed(command, || overlay(dir))
            }
        }
    };
    // The thread's mount namespace goes with it, after the clock.
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_| Err(io::Error::other("the measuring thread panicked")))
}

fn timed(command: &mut Command, before: impl FnOnce() -> io::Result<()>) -> io::Result<Sample> {
    let began = Instant::now();
    before()?;
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(|_| io::Error::other("no process id"))?;
    let (waited, usage) = wait_with_usage(pid)?;
    let wall = began.elapsed();
    let code = match waited {
        Waited::Exited(code) => code,
        Waited::Signaled(signal) | Waited::Stopped(signal) => 128 + signal,
    };
    Ok(Sample { wall, code, usage })
}

/// Where version 1 and 2 are mounted side by side: version 2 alone.
fn only_cgroup2() -> io::Result<()> {
    const BOTH: &str = "/sys/fs/cgroup/unified";
    if std::path::Path::new(BOTH).exists() {
        mount_bind(BOTH, "/sys/fs/cgroup")?;
    }
    Ok(())
}

fn overlay(dir: &std::path::Path) -> io::Result<()> {
    let (layers, root) = (dir.join("layers"), dir.join("rootfs"));
    mount("tmpfs", &layers, "tmpfs", MountFlags::empty(), None)?;
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&work)?;
    let data = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    let data = std::ffi::CString::new(data)?;
    Ok(mount("overlay", &root, "overlay", MountFlags::empty(), Some(data.as_c_str()))?)
}

/// Takes away what a peer left mounted at `place` on the host; nothing is no error.
pub fn unmount_leftovers(place: &std::path::Path) {
    while unmount(place, UnmountFlags::DETACH).is_ok() {}
}
