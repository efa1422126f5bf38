//! Names that programs look up when they begin, looked up in the VMs that are given next before there is a program.
//!
//! ```text
//!   a VM waits ─ what are they on the host? ─► Seen ─ Order::Look ─► its init: a look at each
//!                                               └─ a program comes: are they what they were? ─ no ─► another VM
//! ```
//!
//! What overlayfs has looked up it does not look up again. In a fresh VM that is a good part of a program's start; and whatever
//! the host replaces after that look, the VM would go on to see as it was.
//!
//! Invariants: only a VM in which nothing has run is asked, for in others a look may have to wait for whoever serves a file system
//! there; one that has looked is given only if on the host each name is what it was before, or as absent, and each directory on the
//! way to it, links followed, is the same one, with the same permissions.

use rustix::fs::{Stat, stat};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the loader of nearly every program looks for (ld.so(8)), where that usually is.
#[cfg(target_arch = "x86_64")]
const LOADERS: [&str; 4] =
    ["/etc/ld.so.preload", "/etc/ld.so.cache", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"];
#[cfg(not(target_arch = "x86_64"))]
const LOADERS: [&str; 4] =
    ["/etc/ld.so.preload", "/etc/ld.so.cache", "/lib/ld-linux-aarch64.so.1", "/lib/aarch64-linux-gnu/libc.so.6"];
/// A file system's clock ticks at least so often: what changed just now may change once more without being seen.
const TICK: Duration = Duration::from_secs(1);
/// No more places of a program are looked at: each is asked about when a VM is given.
pub(super) const PLACES_MAX: usize = 8;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Absent,
    /// Names come and go in it: which one it is, its permissions, whose it is.
    Directory(u64, u64, u32, u32, u32),
    /// Which one, and when it changed last.
    Other(u64, u64, i64, u64),
}

/// What names were on the host.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    names: Vec<PathBuf>,
    /// The names and the directories on the way to them.
    were: Vec<(PathBuf, Identity)>,
}

impl Seen {
    /// Looks at what loaders look for, and at `places`, where the next program may lie. `None`: some of it has just changed.
    pub fn look(places: &[PathBuf]) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let loaders = LOADERS.iter().map(PathBuf::from);
        let places = places.iter().filter(|place| place.is_absolute()).take(PLACES_MAX).cloned();
        let names: Vec<PathBuf> =
            loaders.chain(places).filter(|name| name.parent().is_some_and(Path::is_dir)).collect();
        // A name, the directory that it is in, by that name and by its own, and those above: each once.
        let mut were = BTreeMap::new();
        for name in &names {
            let dir = name.parent().and_then(|dir| Some((dir, dir.canonicalize().ok()?)));
            let (dir, own) = dir?;
            let above = own.ancestors().skip(1).filter(|above| *above != dir);
            for path in [name, dir].into_iter().chain(above) {
                were.entry(path.to_owned()).or_insert_with(|| Identity::of(path));
            }
        }
        let is_old = |identity: &Identity| match identity {
            Identity::Other(_, _, changed, _) => {
                u64::try_from(*changed).is_ok_and(|changed| Duration::from_secs(changed) + TICK < now)
            }
            _ => true,
        };
        were.values().all(is_old).then(|| Self { names, were: were.into_iter().collect() })
    }

    /// The names.
    pub fn names(&self) -> &[PathBuf] {
        &self.names
    }

    /// Whether they are what they were.
    pub fn holds(&self) -> bool {
        self.were.iter().all(|(path, was)| Identity::of(path) == *was)
    }
}

impl Identity {
    fn of(path: &Path) -> Self {
        const DIRECTORY: u32 = 0o040_000;
        match stat(path) {
            Ok(Stat { st_dev, st_ino, st_mode, st_uid, st_gid, .. }) if st_mode & 0o170_000 == DIRECTORY => {
                Self::Directory(st_dev, st_ino, st_mode, st_uid, st_gid)
            }
            Ok(stat) => Self::Other(stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec),
            Err(_) => Self::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_holds_until_the_host_changes_a_name_or_a_directory_on_the_way() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let top = std::env::temp_dir().join(format!("fvm-names-{}", std::process::id()));
        let dir = top.join("real/bin");
        std::fs::create_dir_all(&dir).unwrap();
        symlink("real/bin", top.join("bin")).unwrap();
        symlink("../later", dir.join("dangling")).unwrap();
        std::fs::write(dir.join("here"), "1").unwrap();
        let place = |name: &str| top.join("bin").join(name);
        let places = [place("here"), place("absent"), place("dangling"), "relative".into(), top.join("no/such")];
        assert!(Seen::look(&places).is_none(), "it has just changed");
        let settled = || {
            (0..100).find_map(|_| {
                std::thread::sleep(Duration::from_millis(100));
                Seen::look(&places)
            })
        };
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let (here, real) = (dir.join("here"), top.join("real"));
        let changes: [(&str, &dyn Fn()); 8] = [
            ("written", &|| std::fs::write(&here, "2").unwrap()),
            ("its permissions", &|| mode(&here, 0o700)),
            ("made", &|| std::fs::write(dir.join("absent"), "").unwrap()),
            ("replaced", &|| std::fs::rename(dir.join("absent"), &here).unwrap()),
            ("what a link leads to", &|| std::fs::write(real.join("later"), "").unwrap()),
            ("a directory above", &|| mode(&real, 0o700)),
            ("a directory above, replaced", &|| {
                std::fs::rename(&real, top.join("old")).unwrap();
                std::fs::create_dir(&real).unwrap();
                std::fs::rename(top.join("old/bin"), &dir).unwrap();
            }),
            ("gone", &|| std::fs::remove_file(&here).unwrap()),
        ];
        for (what, change) in changes {
            let seen = settled().unwrap();
            assert!(seen.names().contains(&places[0]) && !seen.names().iter().any(|name| name.ends_with("such")));
            std::fs::write(dir.join("other"), what).unwrap();
            std::fs::remove_file(dir.join("other")).unwrap();
            assert!(seen.holds(), "another name is nothing to it: {what}");
            change();
            assert!(!seen.holds(), "{what}");
        }
        std::fs::remove_dir_all(&top).unwrap();
    }
}
