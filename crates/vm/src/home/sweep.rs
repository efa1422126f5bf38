//! Taking VMs out of sight, and what nobody may keep away: ephemeral, half-built, half-deleted.
//!
//! ```text
//!   bury ─ rename ─► .trash-<id> ─ empty_trash ─► gone: first what lies outside the state directory, then the rest
//!   sweep: each directory whose lock nobody holds ─► rubbish? ─ parts of it, or bury
//! ```
//!
//! Invariants: what cannot be read is never removed; whoever removes holds the VM's lock.

use super::{Home, open_lock, parse_record};
use crate::error::VmError;
use fvm_model::{HostPath, VmId, VmRecord, VmState};
use fvm_sys::dir::Dir;
use rustix::fs;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::path::Path;

impl Home {
    /// Takes a VM out of sight at once (a rename); what is left is removed by [`Home::empty_trash`].
    ///
    /// # Errors
    /// When the rename fails.
    pub fn bury(&self, record: &VmRecord) -> Result<(), VmError> {
        self.hide(&record.id)?;
        if record.policy.wants_groups() {
            crate::groups::sweep(&record.id);
        }
        self.remove_socket(&record.id)
    }

    /// The rename alone.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn hide(&self, id: &VmId) -> Result<(), VmError> {
        let from = self.vm_dir(id);
        let to = self.state.join("vms").join(format!(".trash-{id}"));
        std::fs::rename(&from, &to).map_err(|e| VmError::io("remove", &from, &e))
    }

    /// Removes the control socket of a VM that is gone, if it is still there.
    ///
    /// # Errors
    /// When it is, and cannot be.
    pub(crate) fn remove_socket(&self, id: &VmId) -> Result<(), VmError> {
        let socket = self.run.join(format!("{id}.sock"));
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(VmError::io("remove", &socket, &e)),
            _ => Ok(()),
        }
    }

    /// Removes everything that was buried. Slow: done after the answer. What another process removes just now is left to that one.
    ///
    /// # Errors
    /// The first entry that could not be removed.
    pub fn empty_trash(&self) -> Result<(), VmError> {
        let vms = self.state.join("vms");
        let dir = Dir::open_root(&vms).map_err(|e| VmError::sys("open", &vms, e))?;
        let lock_path = vms.join(".trash-lock");
        let list = || -> Result<Vec<OsString>, VmError> {
            let names = dir.names().map_err(|e| VmError::sys("list", &vms, e))?;
            let is_trash = |name: &OsString| {
                name.to_str().is_some_and(|name| name.starts_with(".trash-") && name != ".trash-lock")
            };
            Ok(names.into_iter().filter(is_trash).collect())
        };
        loop {
            let names = list()?;
            if names.is_empty() {
                return Ok(());
            }
            let lock = open_lock(&lock_path)?;
            match fs::flock(&lock, fs::FlockOperation::NonBlockingLockExclusive) {
                // Whoever has it looks once more after it gave it back.
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(e) => return Err(VmError::sys("lock", &lock_path, e)),
                Ok(()) => {}
            }
            for name in names {
                self.remove_buried_outside(&vms.join(&name))?;
                dir.remove_tree(Path::new(&name)).map_err(|e| VmError::sys("remove", &vms.join(&name), e))?;
            }
        }
    }

    /// What of a buried VM does not lie in its directory: its socket, if whoever buried it could not remove it any more, and layers.
    pub(super) fn remove_buried_outside(&self, buried: &Path) -> Result<(), VmError> {
        let id = buried.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix(".trash-"));
        let Some(id) = id.and_then(|id| id.parse::<VmId>().ok()) else { return Ok(()) };
        self.remove_socket(&id)?;
        let text = std::fs::read(buried.join("vm.json")).unwrap_or_default();
        parse_record(&text, &id).map_or(Ok(()), |record| self.remove_outside(&record))
    }

    /// Layers of a VM that was removed, where they do not lie in its directory.
    pub(crate) fn remove_outside(&self, record: &VmRecord) -> Result<(), VmError> {
        self.remove_layers(record.layers_dir.as_path(), &record.id)
    }

    /// The same of `id`, whose layers are, or would be, in `outside`.
    fn remove_layers(&self, outside: &Path, id: &VmId) -> Result<(), VmError> {
        let name = OsStr::new(id.as_str());
        if !outside.starts_with(&self.state)
            && outside.file_name() == Some(name)
            && let Some(parent) = outside.parent()
            && let Ok(dir) = Dir::open_root(parent)
        {
            const TRIES: u32 = 100;
            for _ in 0..TRIES {
                match dir.remove_tree(Path::new(name)) {
                    // Whoever empties the trash, and who threw the VM away, do it both.
                    Err(Errno::NOENT) => {}
                    done => return done.map_err(|e| VmError::sys("remove", outside, e)),
                }
            }
        }
        Ok(())
    }

    /// Removes what killed commands left: ephemeral, half-built and half-deleted VMs that nobody holds, sockets of
    /// VMs that are gone, and the trash. Returns how many VMs went.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn sweep(&self) -> Result<usize, VmError> {
        let vms = self.state.join("vms");
        let dir = Dir::open_root(&vms).map_err(|e| VmError::sys("open", &vms, e))?;
        let mut swept = 0;
        for id in crate::groups::all() {
            // Of one that is buried, nobody makes any.
            let lock = self.try_lock(&id)?;
            if lock.is_some() || vms.join(format!(".trash-{id}")).exists() {
                crate::groups::sweep(&id);
            }
        }
        for id in self.ids_but(&self.waiting()?)? {
            // A lock is taken only for what there is to remove: another command would find the VM in use.
            if self.is_locked(&id)? || matches!(self.rubbish(&id)?, Rubbish::Nothing) {
                continue;
            }
            let Some(_lock) = self.try_lock(&id)? else { continue };
            // Judged again: whoever held the lock a moment ago may have finished what it was making.
            match self.rubbish(&id)? {
                Rubbish::Nothing => continue,
                Rubbish::Parts(parts) => {
                    self.tidy(&id, &parts)?;
                    continue;
                }
                Rubbish::Vm(record) => self.bury(&record)?,
                Rubbish::Directory => {
                    // A VM that is thrown away has its layers before it has a record.
                    if let Some(place) = fvm_host::memory_layers_made() {
                        self.remove_layers(&place.join(id.as_str()), &id)?;
                    }
                    dir.remove_tree(Path::new(id.as_str()))
                        .map_err(|e| VmError::sys("remove", &vms.join(id.as_str()), e))?;
                }
            }
            swept += 1;
        }
        crate::stack::sweep(self)?;
        self.empty_trash()?;
        self.sweep_sockets()?;
        crate::router::routers(&self.run, false);
        Ok(swept)
    }

    /// What killed commands left of a VM, unless somebody who holds its lock is making it.
    pub(super) fn rubbish(&self, id: &VmId) -> Result<Rubbish, VmError> {
        Ok(match self.load(id) {
            Ok(record)
                if record.ephemeral
                    || record.pool.is_some()
                    || matches!(record.state, VmState::Building | VmState::Deleting) =>
            {
                Rubbish::Vm(Box::new(record))
            }
            Ok(record) => match self.left_over(&record)? {
                parts if parts.is_empty() => Rubbish::Nothing,
                parts => Rubbish::Parts(parts),
            },
            // Killed before the first vm.json: nothing was ever in it. A damaged vm.json is somebody's data.
            Err(_) if self.never_was(id) => Rubbish::Directory,
            Err(_) => Rubbish::Nothing,
        })
    }

    /// Removes parts of a VM's directory. Its lock is held.
    pub(super) fn tidy(&self, id: &VmId, parts: &[OsString]) -> Result<(), VmError> {
        let vm = self.vm_dir(id);
        let dir = Dir::open_root(&vm).map_err(|e| VmError::sys("open", &vm, e))?;
        for part in parts {
            dir.remove_tree(Path::new(part)).map_err(|e| VmError::sys("remove", &vm.join(part), e))?;
        }
        Ok(())
    }

    /// What lies in a VM's directory and belongs to nothing: layers that its record does not name, half-made images, views of
    /// processes that are gone. Nothing when the VM is gone.
    pub(super) fn left_over(&self, record: &VmRecord) -> Result<Vec<OsString>, VmError> {
        let (id, vm) = (&record.id, self.vm_dir(&record.id));
        let Ok(dir) = Dir::open_root(&vm) else { return Ok(Vec::new()) };
        let mut names = match dir.names() {
            // Deleted just now.
            Err(Errno::NOENT) => return Ok(Vec::new()),
            names => names.map_err(|e| VmError::sys("list", &vm, e))?,
        };
        names.retain(|name| {
            let Some(text) = name.to_str() else { return false };
            match text.strip_prefix("view-") {
                Some(pid) => !Path::new("/proc").join(pid).exists(),
                // Layers that are shared from now on may still be on their way.
                None if text == "layers" || text.starts_with("layers-") => {
                    let shared = format!("{id}.{text}");
                    let is_shared = |below: &HostPath| below.as_path().file_name() == Some(OsStr::new(&shared));
                    record.layers_dir.as_path() != vm.join(name) && !record.below.iter().any(is_shared)
                }
                None => text == "disk.img.new",
            }
        });
        Ok(names)
    }

    /// A directory in which somebody began to make a VM: it holds nothing yet.
    pub(super) fn is_unborn(&self, id: &VmId) -> bool {
        let dir = self.vm_dir(id);
        !dir.join("vm.json").exists() && !dir.join("layers").exists()
    }

    /// The same, and not begun just now: its maker is dead.
    pub(super) fn never_was(&self, id: &VmId) -> bool {
        const GRACE_S: u64 = 10;
        let made = self.vm_dir(id).metadata().and_then(|m| m.modified());
        made.is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() >= GRACE_S)) && self.is_unborn(id)
    }

    pub(super) fn sweep_sockets(&self) -> Result<(), VmError> {
        let Ok(dir) = Dir::open_root(&self.run) else { return Ok(()) };
        for name in dir.names().map_err(|e| VmError::sys("list", &self.run, e))? {
            let id = name.to_str().and_then(|n| n.strip_suffix(".sock")).and_then(|n| n.parse::<VmId>().ok());
            let Some(id) = id else { continue };
            // Another state directory may share the run-time directory: only sockets of our own VMs are ours.
            if !self.vm_dir(&id).exists() || self.is_locked(&id)? {
                continue;
            }
            // Held, so that it is not the socket of a keeper that starts just now.
            if let Some(_lock) = self.try_lock(&id)? {
                dir.remove_tree(Path::new(&name)).map_err(|e| VmError::sys("remove", &self.run.join(&name), e))?;
            }
        }
        Ok(())
    }
}

/// See [`Home::rubbish`].
pub(super) enum Rubbish {
    Nothing,
    /// Entries of its directory.
    Parts(Vec<OsString>),
    /// All of it.
    Vm(Box<VmRecord>),
    /// A directory in which no VM ever was.
    Directory,
}
