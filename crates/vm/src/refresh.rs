//! `fvm refresh`: a running VM forgets the names that it remembers, and so sees what the host created, replaced or
//! removed since.
//!
//! ```text
//!   keeper ── Order::Refresh + a socket ──► init   holds the root of each overlay, opened before any program ran
//!      │◄── Overlays + descriptors ───────────┤    root modes: the superblocks are the host's, the keeper flushes
//!      │◄── Finished ─────────────────────────┘    rootless: they are the VM's own, init flushes
//! ```
//!
//! Overlayfs looks below only once for each name: a file that the host replaced stays the old one as long as the
//! kernel remembers it, and so does "there is no such file". Reconfiguring a superblock, with nothing to change, drops
//! all of that; what a program holds open stays.
//!
//! Invariants: the mounts are ours whatever the VM mounted, moved or removed since, because they are reached by
//! descriptor only; nothing but an overlay is reconfigured; no flag of a mount changes; nobody in the VM can ask for it.

use crate::executor::is_overlay_root;
use crate::launch::Launched;
use crate::layers;
use crate::op::SetupOp;
use crate::proto::{self, Order, Overlays};
use fvm_model::{Mode, VmPath};
use fvm_sys::{mount, socket};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Resource;
use std::time::Duration;

/// Descriptors that init needs for itself and its sessions.
const SPARE_DESCRIPTORS: u64 = 256;

/// How long init may take for the next part of its answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Init's part: the overlays of its VM.
#[derive(Debug)]
pub struct Held {
    overlays: Vec<OwnedFd>,
    /// There were more than a process may have descriptors.
    missed: u32,
    /// Their superblocks belong to the VM's user namespace.
    own: bool,
}

impl Held {
    /// Opens the root of every overlay that `ops` mounted, and takes those `inner` ones that stand below others. To be called in the finished tree, before anything else
    /// runs in it. What the VM removed in an earlier run was not mounted, and is passed over.
    #[must_use]
    pub fn open<'a>(ops: impl IntoIterator<Item = &'a SetupOp>, inner: Vec<OwnedFd>, mode: Mode) -> Self {
        // What is below forgets first, so that what is above looks at what is there now.
        let mut held = Self { overlays: inner, missed: 0, own: mode == Mode::Rootless };
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = usize::try_from(limit.saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(usize::MAX);
        let Ok(root) = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty()) else {
            return held;
        };
        for op in ops {
            let SetupOp::Overlay { target, .. } = op else { continue };
            let Some(relative) = target.relative_to(&VmPath::root()) else { continue };
            match mount::mount_point(&root, relative) {
                Ok(fd) if !is_overlay_root(&fd) => {}
                Ok(fd) if held.overlays.len() < room => held.overlays.push(fd),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Ok(_) | Err(_) => held.missed += 1,
            }
        }
        held
    }

    /// Answers [`Order::Refresh`].
    pub fn refresh(&self, answer: &OwnedFd) {
        let mut failed = None;
        for some in self.overlays.chunks(socket::MAX_FDS) {
            if self.own {
                let flushed = some.iter().map(|overlay| mount::drop_names(overlay.as_fd()));
                failed = flushed.fold(failed, |failed, result| failed.or(result.err()));
            } else {
                let fds: Vec<_> = some.iter().map(AsFd::as_fd).collect();
                if proto::write_message(answer, &Overlays::These, &fds).is_err() {
                    // The keeper has given up.
                    return;
                }
            }
        }
        let finished = Overlays::Finished { failed: failed.map(Errno::raw_os_error), missed: self.missed };
        let _given_up = proto::write_message(answer, &finished, &[]);
    }
}

/// The keeper's part.
///
/// # Errors
/// In words, what could not be refreshed; everything else was.
pub fn refresh(vm: &Launched) -> Result<(), String> {
    for skeleton in &vm.skeletons {
        layers::update_skeleton(&skeleton.dir, &skeleton.names).map_err(|e| e.to_string())?;
    }
    flush(vm).map_err(|e| format!("its init does not answer: {e}"))?
}

fn flush(vm: &Launched) -> Result<Result<(), String>, Errno> {
    let (answer, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_timeout(&answer, rustix::net::sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
    proto::write_message(&vm.orders, &Order::Refresh, &[theirs.as_fd()])?;
    drop(theirs);
    let mut first_error = None;
    loop {
        match proto::read_message::<Overlays>(&answer)? {
            Some((Overlays::These, fds)) => {
                let ours = fds.iter().filter(|fd| is_overlay_root(fd));
                let flushed = ours.map(|overlay| mount::drop_names(overlay.as_fd()));
                first_error = flushed.fold(first_error, |first, result| first.or(result.err()));
            }
            Some((Overlays::Finished { failed, missed }, _)) => {
                let error = first_error.or(failed.map(Errno::from_raw_os_error));
                return Ok(match (error, missed) {
                    (Some(error), _) => Err(format!("not all of its directories could be refreshed: {error}")),
                    (None, 1..) => {
                        Err(format!("{missed} of its mounts were not refreshed ('ulimit -n' is too low): restart it"))
                    }
                    (None, 0) => Ok(()),
                });
            }
            None => return Err(Errno::PIPE),
        }
    }
}
