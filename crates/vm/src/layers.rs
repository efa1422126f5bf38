//! The directories of layers, made by the keeper before the namespaces exist.
//!
//! ```text
//!   layers/<n>/upper     takes the owner and mode of the directory it stands over
//!   layers/<n>/work      overlayfs's own
//!   layers/<n>/skeleton  rootless: the names of a directory that has mounts below it, and of those in it that have no layer; made anew
//!                        at each start
//!   layers/<n>/file      a private copy of a file that is a mount point
//! ```
//!
//! Where the VM shares layers, its own begin as the topmost of those is.
//!
//! Invariant: an `upper` or `file` that exists is never touched: it is the VM's state.

use crate::blueprint::{Blueprint, is_small};
use crate::error::VmError;
use crate::op::SetupOp;
use fvm_model::{HostPath, LayerKind, Mode};
use fvm_sys::dir::Dir;
use rustix::fs::{self, Access, AtFlags, CWD, Gid, Mode as FileMode, OFlags, Uid};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes what is missing of the layers that `blueprint` uses, over those in `below`, in its order ([`Blueprint::layered`]); `made` is
/// called after each.
///
/// # Errors
/// When a directory cannot be made.
pub fn prepare(
    layers_dir: &Path,
    below: &[HostPath],
    blueprint: &Blueprint,
    mode: Mode,
    reach: &[PathBuf],
    mut made: impl FnMut() -> Result<(), VmError>,
) -> Result<(), VmError> {
    let shared = |n: &u32, what: &str| -> Option<PathBuf> {
        let mut all = below.iter().map(|dir| dir.as_path().join(n.to_string()).join(what));
        all.find(|path| path.exists())
    };
    make(layers_dir)?;
    check_owner(layers_dir)?;
    let upper_of = |layer: &u32| layers_dir.join(layer.to_string()).join("upper");
    // Those that stand on nothing shared: that imitate a directory of the host's.
    let mut own = Vec::new();
    let mut new = Vec::new();
    for op in &blueprint.ops {
        let SetupOp::Overlay { layer, lower, .. } = op else { continue };
        let shared = shared(layer, "upper");
        if shared.is_none() {
            own.push(lower);
        }
        if !upper_of(layer).exists() {
            new.push((*layer, shared));
        }
    }
    for op in blueprint.layered() {
        match op {
            SetupOp::Overlay { layer, lower, skeleton, .. } => {
                let dir = layers_dir.join(layer.to_string());
                let is_new = new.iter().find(|(n, _)| n == layer);
                if is_new.is_some() {
                    make(&dir)?;
                    make(&dir.join("work"))?;
                    if !take_over(layers_dir, blueprint, lower, &dir)? {
                        make(&dir.join("upper"))?;
                    }
                }
                if !skeleton.is_empty() {
                    make_skeleton(&dir, skeleton)?;
                }
                match is_new {
                    // Its ways are open, or the VM closed them.
                    Some((_, Some(shared))) => imitate(&dir.join("upper"), shared, Mode::Identity)?,
                    Some((_, None)) => begin(&dir.join("upper"), lower, mode, reach, &own)?,
                    None => {}
                }
                made()?;
            }
            SetupOp::File { layer, source, .. } => {
                let dir = layers_dir.join(layer.to_string());
                let copy = dir.join("file");
                if !copy.exists() {
                    make(&dir)?;
                    let shared = shared(layer, "file");
                    let (from, mode) = match &shared {
                        Some(shared) => (shared.as_path(), Mode::Identity),
                        None => (source.as_path(), mode),
                    };
                    std::fs::copy(from, &copy).map_err(|e| VmError::io("copy to", &copy, &e))?;
                    imitate(&copy, from, mode)?;
                }
                made()?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Names that were a part of the skeleton above get a layer of their own when the host's mounts or permissions have changed: what
/// the VM did there goes along, from the upper of that above to `dir`. Whether there was something.
fn take_over(layers_dir: &Path, blueprint: &Blueprint, lower: &HostPath, dir: &Path) -> Result<bool, VmError> {
    let above = blueprint.layers.iter().filter(|layer| lower.is_within(&layer.host) && layer.host != *lower);
    let Some(above) = above.max_by_key(|layer| layer.host.as_bytes().len()) else { return Ok(false) };
    let upper = layers_dir.join(above.n.to_string()).join("upper");
    let below = lower.as_path().strip_prefix(above.host.as_path());
    let (LayerKind::Skeleton, Ok(below)) = (above.kind, below) else { return Ok(false) };
    let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else { return Ok(false) };
    // The VM made it: nothing on the way, nor itself, is believed to be a directory.
    let Ok(there) = Dir::open_root(&upper).and_then(|upper| upper.beneath_deep(parent)) else { return Ok(false) };
    let Ok(moved) = there.beneath(Path::new(name)) else { return Ok(false) };
    let failed = |e| VmError::sys("move the VM's changes to", &dir.join("upper"), e);
    let to = Dir::open_root(dir).map_err(|e| VmError::sys("open", dir, e))?;
    let modes = [&there, &moved].map(|dir| fs::fstat(dir).map(|stat| (dir, FileMode::from_raw_mode(stat.st_mode))));
    // What the VM may not change, its user may not either.
    for mode in modes {
        let (dir, mode) = mode.map_err(failed)?;
        fs::fchmod(dir, mode | FileMode::RWXU).map_err(failed)?;
    }
    let renamed = fs::renameat(&there, name, &to, "upper");
    for (dir, mode) in modes.into_iter().flatten() {
        fs::fchmod(dir, mode).map_err(failed)?;
    }
    renamed.map(|()| true).map_err(failed)
}

/// Makes a new `upper` over `lower` as the VM begins with it. `fresh`: all such directories of the VM.
fn begin(upper: &Path, lower: &HostPath, mode: Mode, reach: &[PathBuf], fresh: &[&HostPath]) -> Result<(), VmError> {
    if mode == Mode::Rootless {
        let is_deepest = |path: &Path| !fresh.iter().any(|l| l.is_within(lower) && *l != lower && path.starts_with(l));
        let reach: Vec<&Path> = reach.iter().map(PathBuf::as_path).filter(|path| is_deepest(path)).collect();
        open_ways(upper, lower, &reach)?;
    }
    imitate(upper, lower.as_path(), mode)
}

/// Layers may lie in a place that all users share (`/dev/shm`): whoever owns the directory above them rules them, so
/// that must be this user and nobody else.
fn check_owner(layers_dir: &Path) -> Result<(), VmError> {
    let me = rustix::process::geteuid().as_raw();
    for dir in layers_dir.parent().into_iter().chain([layers_dir]) {
        let meta = dir.symlink_metadata().map_err(|e| VmError::io("look at", dir, &e))?;
        if !meta.is_dir() || meta.uid() != me || meta.mode() & 0o022 != 0 {
            let why = "it is not a directory of yours alone: somebody else made it; remove it, or use another --home";
            return Err(VmError::BadRecord { path: dir.to_owned(), why: why.into() });
        }
    }
    Ok(())
}

/// Rootless, overlayfs cannot copy up a directory of another user (its owner has no name in the VM), so nothing could
/// be written below one: not in `/var/tmp`, not in a project below a directory of root's. Where the user may write,
/// or will work (`reach`: working directory, home, ...), the directories on the way are put into the upper at the
/// beginning, owned by the user, with no more permissions than the user has on the host.
fn open_ways(upper: &Path, lower: &HostPath, reach: &[&Path]) -> Result<(), VmError> {
    let me = rustix::process::geteuid().as_raw();
    let foreign = |path: &Path| path.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() != me);
    let mut ways = Vec::new();
    for path in reach {
        let Ok(below) = path.strip_prefix(lower) else { continue };
        let (mut on_host, mut in_upper) = (lower.as_path().to_path_buf(), upper.to_path_buf());
        for name in below.components() {
            on_host.push(name);
            in_upper.push(name);
            if !foreign(&on_host) {
                break;
            }
            ways.push((in_upper.clone(), on_host.clone()));
        }
    }
    // Beneath the open directory: a look at each is a step, not a way. One that cannot be opened lists nothing either.
    let opened = fs::open(lower.as_path(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty());
    for entry in std::fs::read_dir(lower.as_path()).into_iter().flatten().flatten() {
        let (Ok(dir), Ok(kind)) = (&opened, entry.file_type()) else { continue };
        // Most are files, as the listing itself says, or not for the user to write.
        if kind.is_dir() && fs::accessat(dir, entry.file_name(), Access::WRITE_OK, AtFlags::EACCESS).is_ok() {
            let on_host = entry.path();
            if foreign(&on_host) {
                ways.push((upper.join(entry.file_name()), on_host));
            }
        }
    }
    for (in_upper, _) in &ways {
        make(in_upper)?;
    }
    // Permissions last, from the inside out: they may forbid what is still to be made.
    for (in_upper, on_host) in ways.iter().rev() {
        imitate(in_upper, on_host, Mode::Rootless)?;
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), VmError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(path)
            .map_err(|e| VmError::io("create", path, &e)),
        Err(e) => Err(VmError::io("create", path, &e)),
        Ok(()) => Ok(()),
    }
}

/// The root of an overlay shows the owner and mode of its upper directory: make them those of the host's directory.
/// A user cannot give it away, so where the user may not write, the write permission goes instead.
fn imitate(upper: &Path, lower: &Path, mode: Mode) -> Result<(), VmError> {
    let Ok(meta) = lower.metadata() else { return Ok(()) };
    let mut bits = meta.mode() & 0o7777;
    if mode == Mode::Rootless {
        if fs::accessat(CWD, lower, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
            bits &= !0o222;
        }
        bits |= 0o500;
    } else {
        fs::chown(upper, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())))
            .map_err(|e| VmError::sys("give", upper, e))?;
    }
    fs::chmod(upper, FileMode::from_raw_mode(bits)).map_err(|e| VmError::sys("set the mode of", upper, e))
}

/// Makes `skeleton/` anew from `names`, directories of the host: its own first.
fn make_skeleton(dir: &Path, names: &[HostPath]) -> Result<(), VmError> {
    let handle = Dir::open_root(dir).map_err(|e| VmError::sys("open", dir, e))?;
    handle.remove_tree(Path::new("skeleton")).map_err(|e| VmError::sys("remove", &dir.join("skeleton"), e))?;
    let skeleton = dir.join("skeleton");
    make(&skeleton)?;
    for host in names {
        if let Some(place) = place_of(&handle, dir, names, host) {
            make_names(&place, host)?;
        }
    }
    // Those within last, from the inside out: nothing can be made in them then.
    for host in names.iter().skip(1).rev() {
        if let Some(place) = place_of(&handle, dir, names, host) {
            imitate(&place, host.as_path(), Mode::Rootless)?;
        }
    }
    fs::chmod(&skeleton, FileMode::from_raw_mode(0o755)).map_err(|e| VmError::sys("set the mode of", &skeleton, e))
}

/// Where a directory of `names` is in `skeleton/` of `dir`, unless it is none any more: its parent's names are listed later than it was
/// found.
fn place_of(handle: &Dir, dir: &Path, names: &[HostPath], host: &HostPath) -> Option<PathBuf> {
    let below = host.as_path().strip_prefix(names.first()?.as_path()).ok()?;
    let place = Path::new("skeleton").join(below);
    handle.beneath_deep(&place).ok().map(|_| dir.join(place))
}

/// Makes the names that are in `host`.
fn make_names(place: &Path, host: &HostPath) -> Result<(), VmError> {
    let copies = fs::accessat(CWD, host.as_path(), Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let entries = match std::fs::read_dir(host.as_path()) {
        Ok(entries) => Some(entries),
        // As on the host: the user may enter, but not look around; or it is gone by now.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound) => None,
        Err(e) => return Err(VmError::io("list", host.as_path(), &e)),
    };
    for entry in entries.into_iter().flatten().flatten() {
        let to = place.join(entry.file_name());
        let from = host.as_path().join(entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        let made = if kind.is_dir() {
            // What the user may not enter stays closed.
            let enterable = fs::accessat(CWD, &from, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
            std::fs::DirBuilder::new().mode(if enterable { 0o755 } else { 0 }).create(&to)
        } else if kind.is_symlink() {
            std::fs::read_link(&from).and_then(|target| std::os::unix::fs::symlink(target, &to))
        } else if kind.is_file() {
            if copies && is_small(&from) { copy_with_times(&from, &to) } else { make_placeholder(&to) }
        } else {
            continue;
        };
        match made {
            // A file that the user may not read, or that went away meanwhile, is simply not there.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound) => {}
            other => other.map_err(|e| VmError::io("create", &to, &e))?,
        }
    }
    Ok(())
}

/// A file to be covered by a mount: closed, so that it is never taken for a copy.
fn make_placeholder(to: &Path) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o000).open(to).map(drop)
}

/// Brings `skeleton/` of a running VM up to date, as far as that needs no new mount: symlinks and copied files are
/// added, replaced and removed. Each is replaced by a rename, as any program on the host would do below an overlay.
///
/// # Errors
/// When the skeleton cannot be written.
pub fn update_skeleton(dir: &Path, names: &[HostPath]) -> Result<(), VmError> {
    let handle = Dir::open_root(dir).map_err(|e| VmError::sys("open", dir, e))?;
    for (n, host) in names.iter().enumerate() {
        let Some(place) = place_of(&handle, dir, names, host) else { continue };
        if n == 0 {
            update_names(dir, &place, host)?;
            continue;
        }
        // One within is closed, to the VM's user as to this one.
        fs::chmod(&place, FileMode::from_raw_mode(0o755)).map_err(|e| VmError::sys("set the mode of", &place, e))?;
        update_names(dir, &place, host).and(imitate(&place, host.as_path(), Mode::Rootless))?;
    }
    Ok(())
}

fn update_names(dir: &Path, place: &Path, host: &HostPath) -> Result<(), VmError> {
    let copies = fs::accessat(CWD, host.as_path(), Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    for entry in std::fs::read_dir(host.as_path()).into_iter().flatten().flatten() {
        let (from, to) = (entry.path(), place.join(entry.file_name()));
        let Some(there) = Name::of(&from) else { continue };
        let wanted = there.is_link() || (copies && there.is_file() && is_small(&from));
        let here = Name::of(&to);
        if !wanted || here == Some(there.clone()) || here.is_some_and(|name| !name.is_ours_to_change()) {
            continue;
        }
        let new = dir.join("new");
        let _none = std::fs::remove_file(&new);
        let made = match &there.link {
            Some(target) => std::os::unix::fs::symlink(target, &new),
            None => copy_with_times(&from, &new),
        };
        match made.and_then(|()| std::fs::rename(&new, &to)) {
            Err(e) if matches!(e.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound) => {}
            other => other.map_err(|e| VmError::io("create", &to, &e))?,
        }
    }
    for entry in std::fs::read_dir(place).map_err(|e| VmError::io("list", place, &e))?.flatten() {
        let to = entry.path();
        let Some(here) = Name::of(&to) else { continue };
        let there = Name::of(&host.as_path().join(entry.file_name()));
        if here.is_ours_to_change() && !there.is_some_and(|name| name.is_link() || name.is_file()) {
            std::fs::remove_file(&to).map_err(|e| VmError::io("remove", &to, &e))?;
        }
    }
    Ok(())
}

/// What tells two versions of an entry of a skeleton apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    kind: u32,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    link: Option<PathBuf>,
}

impl Name {
    fn of(path: &Path) -> Option<Self> {
        let meta = path.symlink_metadata().ok()?;
        let kind = meta.mode() & 0o170_000;
        if let Ok(target) = std::fs::read_link(path) {
            return Some(Self { kind, mode: 0, size: 0, modified: (0, 0), link: Some(target) });
        }
        let (mode, modified) = (meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec()));
        Some(Self { kind, mode, size: meta.size(), modified, link: None })
    }

    fn is_link(&self) -> bool {
        self.link.is_some()
    }

    fn is_file(&self) -> bool {
        self.kind == 0o100_000
    }

    /// Not a directory or placeholder, on which a mount stands.
    fn is_ours_to_change(&self) -> bool {
        self.is_link() || (self.is_file() && self.mode != 0)
    }
}

fn copy_with_times(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    let meta = from.metadata()?;
    // Read-only: the copy may be.
    let file: std::fs::File = fs::open(to, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty())?.into();
    file.set_modified(meta.modified()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_may_write_holds_no_layers() {
        let top = std::env::temp_dir().join(format!("fvm-layers-{}", std::process::id()));
        let layers = top.join("vm");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&layers).unwrap();
        let table = [(0o700, 0o700, true), (0o770, 0o700, false), (0o777, 0o700, false), (0o700, 0o722, false)];
        for (above, own, good) in table {
            fs::chmod(&layers, FileMode::from_raw_mode(own)).unwrap();
            fs::chmod(&top, FileMode::from_raw_mode(above)).unwrap();
            assert_eq!(check_owner(&layers).is_ok(), good, "{above:o} {own:o}");
        }
        std::fs::remove_dir_all(&top).unwrap();
    }
}
