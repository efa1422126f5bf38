//! Layers that several VMs stand on: how a VM is copied without copying anything.
//!
//! ```text
//!   before   vms/<a>/layers/<n>/upper  over the host
//!   copied   vms/<a>/layers-1/<n>/upper ┐                                    made at the next start
//!            vms/<b>/layers/<n>/upper   ┴─ over shared/<a>.layers/<n>/upper  over the host
//! ```
//!
//! The record names what its VM stands on (`below`), and is written before the directory is moved: a move that did not happen is
//! made up for whenever the record is used ([`complete`]).
//!
//! Invariants: nothing in `shared/` is ever written; it goes when no record names it any more; a VM whose shared layers are gone
//! is not started, and not scanned.

use crate::disk;
use crate::error::VmError;
use crate::home::{Found, Home, VmLock};
use fvm_model::path::printable;
use fvm_model::{HostPath, Policy, VmName, VmRecord, VmState};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A VM with as many shared layers is made independent before it is copied again: overlayfs takes 500, but each costs every look-up.
pub const DEPTH_MAX: usize = 8;

/// Where shared layers lie.
fn shared(home: &Home) -> PathBuf {
    home.state_dir().join("shared")
}

/// Whether the layers of a VM lie where they can be shared.
#[must_use]
pub fn can_share(home: &Home, record: &VmRecord) -> bool {
    record.layers_dir.as_path().starts_with(home.state_dir()) && !disk::has(home, record)
}

/// The directories that make up layer `n`, the topmost first: those that there are. `what`: `upper` or `file`.
#[must_use]
pub fn parts(record: &VmRecord, n: u32, what: &str) -> Vec<PathBuf> {
    let all = [&record.layers_dir].into_iter().chain(&record.below);
    let dirs = all.map(|dir| dir.as_path().join(n.to_string()));
    dirs.filter(|dir| dir.join(what).symlink_metadata().is_ok()).collect()
}

/// A place for layers of this VM's own that nothing lies in, and nothing ever lay in that is still shared.
#[must_use]
pub fn next_dir(home: &Home, record: &VmRecord) -> PathBuf {
    let dir = home.vm_dir(&record.id);
    let free = |name: &String| {
        !dir.join(name).exists() && !shared(home).join(format!("{}.{name}", record.id)).exists() && {
            record.layers_dir.as_path() != dir.join(name)
        }
    };
    (1u32..).map(|n| format!("layers-{n}")).find(free).map_or_else(|| dir.join("layers"), |name| dir.join(name))
}

/// Finishes what a killed command began: moves layers to where the record says that they are shared.
///
/// # Errors
/// When layers that the VM stands on are not there.
pub fn complete(home: &Home, record: &VmRecord) -> Result<(), VmError> {
    for place in record.below.iter().map(HostPath::as_path).filter(|place| !place.exists()) {
        let name = place.file_name().unwrap_or_default();
        let own =
            OsStr::from_bytes(name.as_bytes().strip_prefix(format!("{}.", record.id).as_bytes()).unwrap_or_default());
        let own = home.vm_dir(&record.id).join(own);
        if own == home.vm_dir(&record.id) || !own.exists() {
            return Err(VmError::BadRecord {
                path: place.into(),
                why: "the layers that the VM stands on are gone".into(),
            });
        }
        share(&own, place)?;
    }
    Ok(())
}

fn share(own: &Path, place: &Path) -> Result<(), VmError> {
    std::fs::rename(own, place).map_err(|e| VmError::io("share", own, &e))
}

/// Makes the layers of a stopped VM ones that it shares; its own begin anew above them.
///
/// # Errors
/// When the record cannot be written, or the layers cannot be moved.
pub fn freeze(home: &Home, record: &VmRecord, _lock: &VmLock) -> Result<VmRecord, VmError> {
    complete(home, record)?;
    let own = record.layers_dir.as_path();
    let (true, Some(name)) = (own.exists(), own.file_name().and_then(OsStr::to_str)) else { return Ok(record.clone()) };
    let dir = shared(home);
    std::fs::create_dir_all(&dir).map_err(|e| VmError::io("create", &dir, &e))?;
    let place = dir.join(format!("{}.{name}", record.id));
    let path = |path: PathBuf| HostPath::new(path).map_err(|e| VmError::Internal(e.to_string()));
    let mut frozen = VmRecord { layers_dir: path(next_dir(home, record))?, ..record.clone() };
    frozen.below.insert(0, path(place.clone())?);
    home.save(&frozen, true)?;
    share(own, &place)?;
    Ok(frozen)
}

/// The record of a copy of `record`, with an id of its own; nothing is written. Its layers lie beside those of the other, or in
/// an image, where nothing is shared. It is still to be built.
///
/// # Errors
/// When there is no id.
pub fn draft_copy(home: &Home, record: &VmRecord, mut policy: Policy) -> Result<VmRecord, VmError> {
    let id = crate::lifecycle::new_id()?;
    policy.limits.disk_bytes = policy.limits.disk_bytes.or(disk::size(home, record));
    let in_image = disk::has(home, record) || disk::wants(record.mode, &policy);
    let above = record.layers_dir.as_path().parent().unwrap_or(Path::new("/"));
    let place = match () {
        () if in_image => disk::layers_dir(home, &id),
        () if can_share(home, record) => home.vm_dir(&id).join("layers"),
        () => above.join(id.as_str()),
    };
    Ok(VmRecord {
        name: Home::made_up_name(&id)?,
        state: VmState::Building,
        ephemeral: false,
        layers_dir: HostPath::new(place).map_err(|e| VmError::Internal(e.to_string()))?,
        policy,
        reached: Vec::new(),
        restarts: 0,
        last_exit: None,
        pool: None,
        id,
        ..record.clone()
    })
}

/// Makes the VM of a draft, under `name` if there is one. Its lock is held.
///
/// # Errors
/// When the name is taken, or the VM cannot be made.
pub fn create(home: &Home, draft: VmRecord, name: Option<&VmName>) -> Result<(VmRecord, VmLock), VmError> {
    let _names = home.lock_names()?;
    let copy = VmRecord { name: home.free_name(name, &draft.id)?, ..draft };
    let lock = home.create_dir(&copy.id)?;
    home.save(&copy, true)?;
    Ok((copy, lock))
}

/// Gives a stopped VM the layers in `dir`, which hold all that it shared and had: it stands on the host alone.
///
/// # Errors
/// When the record cannot be written.
pub fn detach(home: &Home, record: &VmRecord, dir: &Path, _lock: &VmLock) -> Result<VmRecord, VmError> {
    let layers_dir = HostPath::new(dir).map_err(|e| VmError::Internal(e.to_string()))?;
    let own = VmRecord { layers_dir, below: Vec::new(), copied: Some(crate::lifecycle::settled()), ..record.clone() };
    home.save(&own, true)?;
    discard(home, record.layers_dir.as_path(), &record.id.to_string())?;
    sweep(home)?;
    Ok(own)
}

/// Moves a directory to the trash.
fn discard(home: &Home, dir: &Path, of: &str) -> Result<(), VmError> {
    let name = dir.file_name().map(|name| printable(name.as_bytes())).unwrap_or_default();
    let trash = home.state_dir().join("vms").join(format!(".trash-{of}.{name}"));
    match std::fs::rename(dir, &trash) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(VmError::io("remove", dir, &e)),
        _ => Ok(()),
    }
}

/// Moves shared layers that no VM stands on to the trash. While a record cannot be read, none.
///
/// # Errors
/// When something cannot be read or moved.
pub fn sweep(home: &Home) -> Result<(), VmError> {
    let Ok(entries) = std::fs::read_dir(shared(home)) else { return Ok(()) };
    let mut unused: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if unused.is_empty() {
        return Ok(());
    }
    // Nobody begins to stand on them meanwhile: that needs this lock, and that of a VM which does already.
    let _names = home.lock_names()?;
    for found in home.list_all()? {
        match found {
            Found::Vm(record, _) => unused.retain(|place| record.below.iter().all(|used| used.as_path() != place)),
            Found::Broken(..) => return Ok(()),
        }
    }
    for place in unused {
        discard(home, &place, "shared")?;
    }
    Ok(())
}
