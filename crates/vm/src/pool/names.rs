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
//! there; one that has looked is given only if on the host each name and its directory still are what they were before.

use rustix::fs::stat;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the loader of nearly every program looks for (ld.so(8)), where that usually is.
const LOADERS: [&str; 7] = [
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/aarch64-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
];
/// A file system's clock ticks at least so often: what changed just now may change once more without being seen.
const TICK: Duration = Duration::from_secs(1);
/// Names of more programs than this are not looked up: each is asked about when a VM is given.
const NAMES_MAX: usize = 8;

/// What a name is: file system, number, and when it changed last.
type Identity = (u64, u64, i64, u64);

/// What names were on the host.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    names: Vec<PathBuf>,
    /// Of those that were there, and of their directories, too.
    were: Vec<(PathBuf, Option<Identity>)>,
}

impl Seen {
    /// Looks at what loaders look for, and at `places`, where the next program may lie. `None`: some of it has just changed.
    pub fn look(places: &[PathBuf]) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let loaders = LOADERS.iter().map(PathBuf::from);
        let places = places.iter().filter(|place| place.is_absolute()).take(NAMES_MAX).cloned();
        let names: Vec<PathBuf> =
            loaders.chain(places).filter(|name| name.parent().is_some_and(Path::is_dir)).collect();
        let dirs: BTreeSet<PathBuf> = names.iter().filter_map(|name| name.parent()).map(Path::to_owned).collect();
        // What is not there is told by its directory.
        let files = names.iter().map(|name| (name.clone(), identity(name))).filter(|(_, is)| is.is_some());
        let dirs = dirs.into_iter().map(|dir| (identity(&dir), dir)).map(|(is, dir)| (dir, is));
        let were: Vec<_> = dirs.chain(files).collect();
        let is_old = |(_, _, changed, _): &Identity| {
            u64::try_from(*changed).is_ok_and(|changed| Duration::from_secs(changed) + TICK < now)
        };
        were.iter().filter_map(|(_, is)| is.as_ref()).all(is_old).then_some(Self { names, were })
    }

    /// The names.
    pub fn names(&self) -> &[PathBuf] {
        &self.names
    }

    /// Whether they are what they were.
    pub fn holds(&self) -> bool {
        self.were.iter().all(|(path, was)| identity(path) == *was)
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let stat = stat(path).ok()?;
    Some((stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_holds_until_the_host_changes_a_name_or_its_directory() {
        let top = std::env::temp_dir().join(format!("fvm-names-{}", std::process::id()));
        std::fs::create_dir_all(&top).unwrap();
        let (here, absent) = (top.join("here"), top.join("absent"));
        std::fs::write(&here, "1").unwrap();
        let places = [here.clone(), absent.clone(), "relative".into(), top.join("no/such")];
        assert!(Seen::look(&places).is_none(), "it has just changed");
        let settled = || {
            (0..100).find_map(|_| {
                std::thread::sleep(Duration::from_millis(100));
                Seen::look(&places)
            })
        };
        let change: [&dyn Fn(); 4] = [
            &|| std::fs::write(top.join("other"), "").unwrap(),
            &|| std::fs::write(&absent, "").unwrap(),
            &|| std::fs::rename(&absent, &here).unwrap(),
            &|| std::fs::remove_file(&here).unwrap(),
        ];
        for change in change {
            let seen = settled().unwrap();
            assert!(seen.names().contains(&here) && !seen.names().iter().any(|name| name.ends_with("such")));
            assert!(seen.holds());
            change();
            assert!(!seen.holds());
        }
        std::fs::remove_dir_all(&top).unwrap();
    }
}
