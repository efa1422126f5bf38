//! The overlays through which a VM sees the host's directories.
//!
//! ```text
//!   Site::overlay_ahead ─ layer after layer, as they come ─► detached ─┐ by layer
//!   Site::execute ─ in the order of the operations ────────────────────┴─► in its place
//! ```
//!
//! Invariants: no option holds a name, only descriptors: nothing to escape, and no host path in the VM's mount table; one that
//! overlayfs quietly made read-only is an error.

use super::{Site, attributes, is_gone, open_path};
use crate::executor::StepError;
use crate::op::{Restrict, SetupOp};
use fvm_model::vm::XattrClass;
use fvm_model::{HostPath, Mode};
use fvm_sys::mount::{self, MountError, MountOption};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{self, StatVfsMountFlags};
use rustix::io::Errno;

impl Site {
    /// Makes the overlays of `ops` that need no names, to be put in their places when their operations are run: what makes the layers
    /// takes long for the others, of which the root is one.
    ///
    /// # Errors
    /// As [`Site::execute`].
    pub fn overlay_ahead<'a>(&mut self, ops: impl IntoIterator<Item = &'a SetupOp>) -> Result<(), StepError> {
        for op in ops {
            let SetupOp::Overlay { layer, .. } = op else { continue };
            if !op.is_over_names() {
                let made = self.overlay(op).map_err(|e| self.step_error(op, &e))?;
                self.ahead.get_or_insert_default().extend(made.map(|made| (*layer, made)));
            }
        }
        Ok(())
    }

    /// The overlay of an operation, not in its place yet; `None` when the host's directory is gone.
    pub(super) fn overlay(&mut self, op: &SetupOp) -> Result<Option<OwnedFd>, MountError> {
        let SetupOp::Overlay { layer, lower, idmapped, class, restrict, .. } = op else {
            return Err(Errno::INVAL.into());
        };
        self.await_layer();
        match self.overlay_over(*layer, lower, *idmapped, *class, op.is_over_names(), *restrict) {
            Err(e) if is_gone(&e, lower) => Ok(None),
            made => made.map(Some),
        }
    }

    fn overlay_over(
        &mut self,
        layer: u32,
        lower: &HostPath,
        idmapped: bool,
        class: XattrClass,
        skeleton: bool,
        restrict: Restrict,
    ) -> Result<OwnedFd, MountError> {
        let dir = self.layers_dir.join(layer.to_string());
        let layer_fd = self.clone_or_open(&dir, idmapped)?;
        let lower_fd =
            if skeleton { open_path(&dir.join("skeleton"))? } else { self.clone_or_open(lower.as_path(), idmapped)? };
        let shared = self.uppers(layer).skip(1).map(|upper| self.clone_or_open(&upper, idmapped));
        let shared = shared.collect::<Result<Vec<_>, _>>()?;
        // By descriptor: no escaping of odd names, and no host path for the VM to read in its mount table.
        let by_fd = |fd: &OwnedFd, rest: &str| format!("/proc/self/fd/{}{rest}", fd.as_raw_fd());
        let mut options = vec![
            MountOption::Value("upperdir", by_fd(&layer_fd, "/upper")),
            MountOption::Value("workdir", by_fd(&layer_fd, "/work")),
            MountOption::Value("metacopy", "off".into()),
            MountOption::Value("xino", "off".into()),
        ];
        match class {
            XattrClass::Trusted => options.extend([
                MountOption::Value("redirect_dir", "on".into()),
                // An index is of the lowest layer's files: it would say nothing of those that are shared.
                MountOption::Value("index", if shared.is_empty() { "on" } else { "off" }.into()),
                MountOption::Value("nfs_export", "off".into()),
            ]),
            XattrClass::User => options.extend([
                MountOption::Flag("userxattr"),
                MountOption::Value("redirect_dir", "nofollow".into()),
                MountOption::Value("index", "off".into()),
            ]),
        }
        if self.volatile {
            options.push(MountOption::Flag("volatile"));
        }
        let over = |host: &OwnedFd| {
            let lowers: Vec<String> = shared.iter().chain([host]).map(|fd| by_fd(fd, "")).collect();
            let options = [vec![MountOption::Value("lowerdir", lowers.join(":"))], options.clone()].concat();
            Self::once_free(|| mount::new_mount("overlay", &options, attributes(restrict)))
        };
        let made = match over(&lower_fd) {
            // Overlayfs takes no lower layer that lies in another, as what is shared may lie in the host's directory: not in an
            // overlay of that.
            Err(e) if e.errno == Errno::LOOP && !shared.is_empty() => {
                let inner = self.read_only_overlay(&lower_fd, Restrict::default())?;
                let made = over(&inner)?;
                self.inner.push(inner);
                made
            }
            made => made?,
        };
        self.spent.extend([layer_fd, lower_fd].into_iter().chain(shared));
        if fs::fstatvfs(&made)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let message = "overlayfs could not use its work directory and would be read-only".into();
            return Err(MountError { errno: Errno::ROFS, message });
        }
        Ok(made)
    }

    /// A directory through overlayfs, which wants two lower ones when there is no upper.
    pub(super) fn read_only_overlay(&mut self, lower: &OwnedFd, restrict: Restrict) -> Result<OwnedFd, MountError> {
        let empty = self.cover()?.as_raw_fd();
        let lowers = format!("/proc/self/fd/{}:/proc/self/fd/{empty}", lower.as_raw_fd());
        let mut options = vec![MountOption::Value("lowerdir", lowers), MountOption::Value("xino", "off".into())];
        if self.mode == Mode::Rootless {
            options.push(MountOption::Flag("userxattr"));
        }
        mount::new_mount("overlay", &options, attributes(restrict))
    }

    /// After a keeper was killed, the kernel takes the old VM's mounts down a moment after its lock is free: until
    /// then the layer is busy.
    fn once_free(mount: impl Fn() -> Result<OwnedFd, MountError>) -> Result<OwnedFd, MountError> {
        const TRIES: u32 = 400;
        for _ in 0..TRIES {
            match mount() {
                Err(e) if e.errno == Errno::BUSY => std::thread::sleep(std::time::Duration::from_millis(5)),
                other => return other,
            }
        }
        mount()
    }
}
