//! VMs that share layers: copied at once, seen as one, made independent before their layers are written.
//!
//! ```text
//!   copy   ─► freeze (layers become shared) ─► create (a record that names them)          nothing is copied
//!   status, diff  ─► view: vms/<id>/view-<pid>/<n>/upper, hard links                     while this process reads
//!   commit, discard, export ─► own: vms/<id>/layers-<k>/<n>/upper, copies                 then it stands on the host alone
//! ```
//!
//! Invariants: shared layers are only read; a view is no longer than the process that made it; a VM has all that it had, under
//! one record or the other, at any moment.

use crate::{Fvm, FvmError};
use fvm_changes::{LayerView, Means, flatten};
use fvm_model::{LayerKind, Policy, VmId, VmName, VmRecord, VmState};
use fvm_sys::dir::Dir;
use fvm_vm::{VmError, VmLock, disk, lifecycle, stack};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How views are called, before the number of the process that has it.
const VIEW: &str = "view-";

/// Layers put together to be read.
#[derive(Debug)]
struct View(PathBuf);

impl Drop for View {
    fn drop(&mut self) {
        // What stays is removed by the next who looks, at the latest with the VM.
        let _stays = remove(&self.0);
    }
}

/// The views that this process has.
#[derive(Debug, Default)]
pub struct Views(Mutex<HashMap<VmId, View>>);

pub(crate) fn remove(dir: &Path) -> Result<(), VmError> {
    let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
    let removed = Dir::open_root(above).and_then(|above| above.remove_tree(Path::new(name)));
    removed.map_err(|errno| VmError::Io { what: "remove", path: dir.to_owned(), errno })
}

pub(crate) fn create(dir: &Path) -> Result<(), VmError> {
    let made = rustix::fs::mkdir(dir, rustix::fs::Mode::RWXU);
    made.map_err(|errno| VmError::Io { what: "create", path: dir.to_owned(), errno })
}

impl Fvm {
    /// Where the scan of a VM finds its layers. `anew`: as they are now, not as this process saw them before.
    pub(crate) fn layer_views(&self, record: &VmRecord, anew: bool) -> Result<Vec<LayerView>, FvmError> {
        stack::complete(&self.home, record)?;
        disk::reach(&self.home, record)?;
        let mut views = Vec::new();
        for layer in &record.layers {
            let what = if layer.kind == LayerKind::File { "file" } else { "upper" };
            let parts = stack::parts(record, layer.n, what);
            let dir = match parts.as_slice() {
                [] => continue,
                [one] => one.clone(),
                [top, ..] if layer.kind == LayerKind::File => top.clone(),
                _ => self
                    .view(record, anew && views.iter().all(|view: &LayerView| !is_view(&view.dir)))?
                    .join(layer.n.to_string()),
            };
            views.push(LayerView { layer: layer.clone(), dir });
        }
        Ok(views)
    }

    /// All layers of which there are several, as one each.
    fn view(&self, record: &VmRecord, anew: bool) -> Result<PathBuf, FvmError> {
        let mut views = self.views.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(view), false) = (views.get(&record.id), anew) {
            return Ok(view.0.clone());
        }
        views.remove(&record.id);
        let dir = self.home.vm_dir(&record.id);
        remove_stale(&dir);
        let place = dir.join(format!("{VIEW}{}", std::process::id()));
        remove(&place)?;
        create(&place)?;
        let view = View(place.clone());
        for layer in record.layers.iter().filter(|layer| layer.kind != LayerKind::File) {
            let parts = stack::parts(record, layer.n, "upper");
            if parts.len() > 1 {
                flatten(&parts, record.mode.xattr_class(), &place.join(layer.n.to_string()), Means::Link)?;
            }
        }
        views.insert(record.id.clone(), view);
        Ok(place)
    }

    /// Makes a VM that shares layers one that has all of its own, and returns its record as it is then. One that shares none is
    /// returned as it is. `lock` is the VM's.
    ///
    /// # Errors
    /// When something cannot be copied: the VM is then as before.
    pub fn own(&self, lock: &VmLock, record: &VmRecord) -> Result<VmRecord, FvmError> {
        if record.below.is_empty() {
            return Ok(record.clone());
        }
        stack::complete(&self.home, record)?;
        let place = stack::next_dir(&self.home, record);
        let copied =
            self.copy_layers(record, &place).and_then(|()| Ok(stack::detach(&self.home, record, &place, lock)?));
        if copied.is_err() {
            let _rubbish = remove(&place);
        }
        self.views.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
        copied
    }

    /// Copies all layers to `place`, to the disk itself.
    fn copy_layers(&self, record: &VmRecord, place: &Path) -> Result<(), FvmError> {
        create(place)?;
        for layer in &record.layers {
            let to = place.join(layer.n.to_string());
            if layer.kind != LayerKind::File {
                let parts = stack::parts(record, layer.n, "upper");
                if !parts.is_empty() {
                    flatten(&parts, record.mode.xattr_class(), &to, Means::Copy)?;
                }
            } else if let Some(top) = stack::parts(record, layer.n, "file").first() {
                create(&to)?;
                copy_file(&top.join("file"), &to.join("file"))?;
            }
        }
        let all = std::fs::File::open(place).map_err(|e| io("open", place, &e))?;
        rustix::fs::syncfs(&all).map_err(|errno| VmError::Io { what: "sync", path: place.to_owned(), errno })?;
        Ok(())
    }

    /// Makes a VM that is as a stopped one is now, under another name and, if so wanted, another policy. What both hold is on the
    /// disk once; where it cannot be, it is copied.
    ///
    /// # Errors
    /// When it runs, the name is taken, or something cannot be written.
    pub fn copy(&self, record: &VmRecord, name: Option<&VmName>, policy: Option<Policy>) -> Result<VmRecord, FvmError> {
        self.copy_for(record, name, policy, None).map(|(copy, _)| copy)
    }

    /// The same, held; for a pool: a sweep removes it when its keeper dies, however far that came.
    pub(crate) fn copy_for(
        &self,
        record: &VmRecord,
        name: Option<&VmName>,
        policy: Option<Policy>,
        pool: Option<&VmName>,
    ) -> Result<(VmRecord, VmLock), FvmError> {
        let lock = self.lock(record)?;
        if let Some(name) = name
            && let Ok(taken) = self.find(name.as_str())
            && taken.name == *name
        {
            return Err(VmError::NameTaken(name.clone()).into());
        }
        let policy = policy.unwrap_or_else(|| record.policy.clone());
        if disk::has(&self.home, record) || disk::wants(record.mode, &policy) {
            return self.copy_to_image(record, name, policy, pool);
        }
        let mut record = record.clone();
        if record.layers_dir.as_path().exists() {
            record = self.without_index(&lock, record)?;
        }
        if record.below.len() >= stack::DEPTH_MAX {
            record = self.own(&lock, &record)?;
        }
        let shares = stack::can_share(&self.home, &record);
        if shares {
            record = stack::freeze(&self.home, &record, &lock)?;
        }
        let mut draft = stack::draft_copy(&self.home, &record, policy)?;
        draft.pool = pool.cloned();
        if shares {
            return self.finish_copy(&record, draft, name, |_| Ok(false));
        }
        draft.below = Vec::new();
        self.finish_copy(&record, draft, name, |copy| {
            self.copy_layers(&record, copy.layers_dir.as_path()).map(|()| true)
        })
    }

    /// Makes the VM of a draft, which is there for nobody before it has all that belongs to it. `fill` says whether it copied the files of
    /// layers one by one.
    fn finish_copy(
        &self,
        from: &VmRecord,
        draft: VmRecord,
        name: Option<&VmName>,
        fill: impl FnOnce(&VmRecord) -> Result<bool, FvmError>,
    ) -> Result<(VmRecord, VmLock), FvmError> {
        let (copy, lock) = stack::create(&self.home, draft, name)?;
        let made = fill(&copy).and_then(|has_copies| {
            self.copy_companions(from, &copy)?;
            // After all of them: what is born later the VM itself copied from the host.
            let copied = if has_copies { Some(lifecycle::settled()) } else { copy.copied };
            let copy = VmRecord { state: VmState::Stopped, copied, ..copy.clone() };
            self.home.save(&copy, true)?;
            Ok(copy)
        });
        match made {
            Ok(made) => Ok((made, lock)),
            Err(e) => {
                self.delete_locked(copy, &lock)?;
                Err(e)
            }
        }
    }

    /// The same where the copy's layers lie in an image of its own: as the other's does, or with all that the other has in it.
    fn copy_to_image(
        &self,
        record: &VmRecord,
        name: Option<&VmName>,
        policy: Policy,
        pool: Option<&VmName>,
    ) -> Result<(VmRecord, VmLock), FvmError> {
        let mut draft = stack::draft_copy(&self.home, record, policy)?;
        draft.pool = pool.cloned();
        if !disk::has(&self.home, record) {
            draft.below = Vec::new();
        }
        self.finish_copy(record, draft, name, |copy| self.fill_image(record, copy))
    }

    /// Whether files were copied one by one: in the copy of an image they are as old as in the image.
    fn fill_image(&self, from: &VmRecord, to: &VmRecord) -> Result<bool, FvmError> {
        if disk::has(&self.home, from) {
            return Ok(disk::copy(&self.home, from, to).map(|()| false)?);
        }
        stack::complete(&self.home, from)?;
        disk::make(&self.home, to)?;
        disk::reach(&self.home, to)?;
        self.copy_layers(from, to.layers_dir.as_path()).map(|()| true)
    }

    fn copy_companions(&self, from: &VmRecord, to: &VmRecord) -> Result<(), FvmError> {
        // What this host has otherwise is needed; a base is a convenience: without one, a conflict is told, not merged.
        let (from, to) = (self.home.vm_dir(&from.id), self.home.vm_dir(&to.id));
        if from.join("unlike").exists() {
            let copy = to.join("unlike");
            copy_file(&from.join("unlike"), &copy)?;
            std::fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(|e| io("sync", &copy, &e))?;
        }
        if let Ok(entries) = std::fs::read_dir(from.join("bases"))
            && create(&to.join("bases")).is_ok()
        {
            for entry in entries.flatten() {
                let _without = copy_file(&entry.path(), &to.join("bases").join(entry.file_name()));
            }
        }
        // The log says who made what the copy has, too. A part of it would look whole.
        let (from, to) = (from.join("events"), to.join("events"));
        if from.is_dir() {
            create(&to)?;
            for entry in std::fs::read_dir(&from).map_err(|e| io("read", &from, &e))? {
                let entry = entry.map_err(|e| io("read", &from, &e))?;
                copy_file(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// Below other layers, an index says nothing any more: it must not be needed.
    fn without_index(&self, lock: &VmLock, record: VmRecord) -> Result<VmRecord, FvmError> {
        let has_index = |record: &VmRecord| {
            let index = |n: u32| record.layers_dir.as_path().join(n.to_string()).join("work/index");
            let holds = |n| std::fs::read_dir(index(n)).is_ok_and(|mut entries| entries.next().is_some());
            record.layers.iter().any(|layer| holds(layer.n))
        };
        if !has_index(&record) {
            return Ok(record);
        }
        let record = self.own(lock, &record)?;
        if has_index(&record)
            && let Some(alias) = self.changes(&record)?.changes.into_iter().find_map(|change| change.source)
        {
            return Err(FvmError::Alias { name: record.name.clone(), path: alias });
        }
        Ok(record)
    }
}

fn is_view(dir: &Path) -> bool {
    let name = dir.parent().and_then(Path::file_name).unwrap_or_default();
    name.as_bytes().starts_with(VIEW.as_bytes())
}

/// Views of processes that are gone.
fn remove_stale(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.as_bytes().strip_prefix(VIEW.as_bytes()).map(OsStr::from_bytes);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _stays = remove(&entry.path());
        }
    }
}

pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<(), FvmError> {
    use std::os::unix::fs::{MetadataExt, chown};
    let meta = from.symlink_metadata().map_err(|e| io("read", from, &e))?;
    std::fs::copy(from, to).map_err(|e| io("copy", from, &e))?;
    chown(to, Some(meta.uid()), Some(meta.gid())).map_err(|e| io("give away", to, &e))?;
    std::fs::set_permissions(to, meta.permissions()).map_err(|e| io("set the mode of", to, &e))?;
    Ok(())
}

fn io(what: &'static str, path: &Path, error: &std::io::Error) -> FvmError {
    let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
    VmError::Io { what, path: path.to_owned(), errno }.into()
}
