//! Where the layers of a VM can lie: overlayfs takes an upper directory only on some file systems.
//!
//! ```text
//!   <home> on ext4, xfs, btrfs, f2fs, tmpfs ... ──► there
//!   <home> on overlayfs (a container), NFS, FUSE ─► the roomiest writable one of <run>, /dev/shm, /tmp, /var/tmp
//! ```
//!
//! Invariant: a place outside the home is a directory of fvm's own name there, mode 0700.

use crate::HostError;
use rustix::fs::{Access, CWD, accessat, statfs, statvfs};
use std::path::{Path, PathBuf};

/// Types by magic number (`statfs(2)`) that can hold an upper directory, with what is lost there.
const SUITABLE: &[(u64, &str, bool)] = &[
    (0xEF53, "ext4", true),
    (0x5846_5342, "xfs", true),
    (0x9123_683E, "btrfs", true),
    (0xF2F5_2010, "f2fs", true),
    (0xCA45_1A4E, "bcachefs", true),
    (0x2FC1_2FC1, "zfs", true),
    (0x0102_1994, "tmpfs", false),
];

/// A place for layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayersPlace {
    /// The directory.
    pub dir: PathBuf,
    /// Why there, for people.
    pub why: String,
}

/// Chooses a place: `home` itself when it can, else another.
///
/// # Errors
/// [`HostError::NoPlace`] when there is none.
pub fn choose_layers_dir(home: &Path, run: &Path) -> Result<LayersPlace, HostError> {
    if let Some((name, survives)) = suitable(home) {
        let why = if survives { format!("{name}: kept over a reboot") } else { format!("{name}: lost at a reboot") };
        return Ok(LayersPlace { dir: home.to_owned(), why });
    }
    let user = rustix::process::geteuid().as_raw();
    let best = [run, Path::new("/dev/shm"), Path::new("/tmp"), Path::new("/var/tmp")]
        .into_iter()
        .filter_map(|dir| {
            let (name, survives) = suitable(dir)?;
            accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, rustix::fs::AtFlags::EACCESS).ok()?;
            let free = statvfs(dir).ok()?;
            Some((free.f_bavail.saturating_mul(free.f_frsize), dir, name, survives))
        })
        .max_by_key(|(free, ..)| *free);
    match best {
        Some((_, dir, name, survives)) => Ok(LayersPlace {
            dir: if dir == run { dir.join("layers") } else { dir.join(format!("fvm-{user}")) },
            why: format!(
                "{name}, because the file system of {} cannot hold a VM's changes (a container?){}",
                home.display(),
                if survives { "" } else { "; lost at a reboot" }
            ),
        }),
        None => Err(HostError::NoPlace(home.display().to_string())),
    }
}

/// A place in memory for the layers of a VM that is thrown away: an ordinary user's VM has a score of layers, and making
/// them on a disk takes longer than everything else. `None` when there is none with room (2 GiB).
#[must_use]
pub fn memory_layers_dir() -> Option<PathBuf> {
    const ROOM_BYTES: u64 = 2 << 30;
    let dir = Path::new("/dev/shm");
    let (name, _) = suitable(dir)?;
    accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, rustix::fs::AtFlags::EACCESS).ok()?;
    let free = statvfs(dir).ok()?;
    let roomy = free.f_bavail.saturating_mul(free.f_frsize) >= ROOM_BYTES;
    (name == "tmpfs" && roomy).then(|| dir.join(format!("fvm-{}", rustix::process::geteuid().as_raw())))
}

fn suitable(dir: &Path) -> Option<(&'static str, bool)> {
    let magic = u64::try_from(statfs(dir).ok()?.f_type).ok()?;
    SUITABLE.iter().find(|(m, ..)| *m == magic).map(|(_, name, survives)| (*name, *survives))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_can_hold_nothing_so_another_place_is_taken() {
        let place = choose_layers_dir(Path::new("/proc"), Path::new("/proc")).unwrap();
        assert!(place.dir.to_string_lossy().contains("fvm-"), "{place:?}");
    }
}
