//! Programs of the host that hold a store in memory and would write it over what a commit brings.
//!
//! Invariant: looks only.

use fvm_model::HostPath;
use std::os::unix::fs::MetadataExt;

/// Whether a wineserver of the host runs on the Wine prefix in which `path` is a registry file: it holds a lock on
/// `/tmp/.wine-<uid>/server-<device>-<inode>/lock`, as Wine's `server/request.c` makes it.
pub fn wineserver(path: &HostPath) -> bool {
    let is_registry = ["system.reg", "user.reg", "userdef.reg"].iter().any(|name| path.name() == *name);
    let Some(prefix) = path.as_path().parent().filter(|_| is_registry).and_then(|dir| dir.metadata().ok()) else {
        return false;
    };
    let lock = format!("/tmp/.wine-{}/server-{:x}-{:x}/lock", prefix.uid(), prefix.dev(), prefix.ino());
    let file = std::fs::File::options().read(true).write(true).open(lock);
    file.is_ok_and(|file| fvm_sys::process::is_locked(&file).unwrap_or(false))
}
