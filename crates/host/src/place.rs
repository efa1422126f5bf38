//! Where the layers of a VM can lie: overlayfs takes an upper directory only on some file systems.
//!
//! ```text
//!   <home> on ext4, xfs, btrfs, f2fs, tmpfs ... ──► there
//!   <home> on overlayfs (a container), NFS, FUSE ─► the roomiest writable one of <run>, /dev/shm, /tmp, /var/tmp
//! ```
//!
//! Invariants: a place outside the home is a directory of fvm's own name there, mode 0700; one that another user made
//! first, or may write in, is not taken. Nothing is made here: whoever makes the directory looks again.

use crate::HostError;
use rustix::fs::{Access, CWD, accessat, statfs, statvfs};
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
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
            let own = if dir == run { dir.join("layers") } else { dir.join(format!("fvm-{user}")) };
            is_free_or_ours(&own).then(|| (free.f_bavail.saturating_mul(free.f_frsize), own, name, survives))
        })
        .max_by_key(|(free, ..)| *free);
    match best {
        Some((_, dir, name, survives)) => Ok(LayersPlace {
            dir,
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
    let own = memory_place();
    (name == "tmpfs" && roomy && is_free_or_ours(&own)).then_some(own)
}

/// The same, if it is there, and ours, whether it has room or not.
#[must_use]
pub fn memory_layers_made() -> Option<PathBuf> {
    let own = memory_place();
    (own.symlink_metadata().is_ok() && is_free_or_ours(&own)).then_some(own)
}

fn memory_place() -> PathBuf {
    Path::new("/dev/shm").join(format!("fvm-{}", rustix::process::geteuid().as_raw()))
}

/// The file system that `dir` is on, or will be, when it can hold an upper directory: its name, and whether it survives
/// a reboot.
fn suitable(dir: &Path) -> Option<(&'static str, bool)> {
    let found = match statfs(dir) {
        Err(Errno::NOENT) => statfs(existing(dir)),
        found => found,
    };
    let magic = u64::try_from(found.ok()?.f_type).ok()?;
    SUITABLE.iter().find(|(m, ..)| *m == magic).map(|(_, name, survives)| (*name, *survives))
}

/// `path`, or the nearest directory above it that is there.
pub(crate) fn existing(path: &Path) -> &Path {
    let found = path.ancestors().find(|p| p.symlink_metadata().is_ok());
    found.unwrap_or(Path::new(if path.is_absolute() { "/" } else { "." }))
}

/// Whether nobody else rules what lies in `dir`: it is not there yet, or is a directory that only this user may change.
fn is_free_or_ours(dir: &Path) -> bool {
    match dir.symlink_metadata() {
        Ok(meta) => meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_can_hold_nothing_so_another_place_is_taken() {
        let place = choose_layers_dir(Path::new("/proc"), Path::new("/proc")).unwrap();
        assert!(place.dir.to_string_lossy().contains("fvm-"), "{place:?}");
    }

    #[test]
    fn a_home_that_is_not_made_yet_is_judged_by_the_directory_above() {
        let tmp = tempfile::tempdir().unwrap();
        let home = tmp.path().join("not/yet");
        assert_eq!(existing(&home), tmp.path());
        assert_eq!(suitable(&home), suitable(tmp.path()));
        assert_eq!(existing(Path::new("no-such-name/at/all")), Path::new("."));
        assert_eq!(existing(Path::new("/no-such-name/at/all")), Path::new("/"));
    }

    #[test]
    fn a_directory_that_another_may_change_is_not_ours() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("d");
        assert!(is_free_or_ours(&dir));
        std::fs::create_dir(&dir).unwrap();
        for (mode, ours) in [(0o700, true), (0o755, true), (0o720, false), (0o1777, false)] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_free_or_ours(&dir), ours, "{mode:o}");
        }
        symlink(tmp.path(), tmp.path().join("link")).unwrap();
        assert!(!is_free_or_ours(&tmp.path().join("link")));
        std::fs::write(tmp.path().join("file"), "").unwrap();
        assert!(!is_free_or_ours(&tmp.path().join("file")));
    }
}
