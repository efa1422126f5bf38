//! A policy's patterns, as paths of this host.
//!
//! ```text
//!   ~/.ssh ─ homes ─► /home/u/.ssh ─ wildcards ─► what there is ─ symlinks ─► where it really lies
//!                                                    └─ the same directory through another mount ─► there too
//! ```
//!
//! Invariants: looks at the host and writes nothing; what is hidden is hidden under every name by which a mount of the host
//! shows it; a file that has another name of its own (a hard link) is not followed there.

use fvm_host::{HostFacts, VisibleMount};
use fvm_model::policy::Pattern;
use fvm_model::{HostPath, Policy};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// File systems that list all that they have: ext2 to ext4, XFS, Btrfs, tmpfs, F2FS (statfs(2)).
const LISTING: [u64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010];

/// A home with more in it is asked name by name.
const NAMES_MAX: usize = 4096;

/// One pattern stands for no more paths than this.
const MATCHES_MAX: usize = 4096;

/// Where a policy's rules apply.
#[derive(Debug, Default)]
pub struct Places {
    /// Not to be seen.
    pub hide: Vec<HostPath>,
    /// Not to be changed.
    pub read_only: Vec<HostPath>,
    /// The host's own.
    pub share: Vec<HostPath>,
    /// Sockets of the host's.
    pub sockets: Vec<HostPath>,
    /// Devices of the host's.
    pub devices: Vec<HostPath>,
    /// What was asked for and is not there, in words.
    pub notices: Vec<String>,
}

impl Places {
    /// Looks at the host. `masked` is fvm's own, which is never shared.
    pub fn of(policy: &Policy, facts: &HostFacts, masked: &[HostPath]) -> Self {
        let mut places = Self::default();
        let files = &policy.files;
        let homes = if files.hide.iter().chain(&files.read_only).any(Pattern::is_in_home) {
            fvm_host::ids::homes(facts.ids.euid).unwrap_or_default()
        } else {
            Vec::new()
        };
        let homes: Vec<Listed> = homes.iter().map(|home| Listed::new(home.as_path())).collect();
        for pattern in &files.hide {
            for path in expand(pattern, &homes) {
                let others = twins(&path, &facts.mounts);
                places.hide.push(path);
                places.hide.extend(others);
            }
        }
        places.read_only = files.read_only.iter().flat_map(|pattern| expand(pattern, &homes)).collect();
        for list in [&mut places.hide, &mut places.read_only] {
            list.sort();
            // A cover hides what is below it.
            list.dedup_by(|below, above| below.is_within(above));
        }
        for path in &files.share {
            match std::fs::canonicalize(path.as_path()).map(HostPath::new) {
                Ok(Ok(real)) if masked.iter().any(|own| own.is_within(&real) || real.is_within(own)) => {
                    places.notices.push(format!("{path} is not shared: fvm's own state is there"));
                }
                Ok(Ok(real)) => places.share.push(real),
                _ => places.notices.push(format!("{path} is not shared: it is not there")),
            }
        }
        places.share.sort();
        for path in &policy.sockets {
            let real = std::fs::canonicalize(path.as_path());
            let is_socket = |real: &PathBuf| real.metadata().is_ok_and(|m| m.file_type().is_socket());
            match real.ok().filter(is_socket).map(HostPath::new) {
                Some(Ok(real)) => places.sockets.push(real),
                _ => places.notices.push(format!("{path} is not passed: there is no socket")),
            }
        }
        for path in &policy.devices {
            if path.as_path().symlink_metadata().is_ok() {
                places.devices.push(path.clone());
            } else {
                places.notices.push(format!("{path} is not passed: there is no such device"));
            }
        }
        places
    }
}

/// A home directory, and what is in it. Policies name more than a hundred things below each home, of which hardly any is there, and
/// root's VMs have to look into every home of the machine: one look tells.
struct Listed {
    path: PathBuf,
    /// Their names in small letters, for a directory may be one in which case does not count; `None`: it has to be asked name by name,
    /// because it cannot be listed, a file system like it may hold what it does not list, or names are such that case is no simple thing.
    names: Option<HashSet<Vec<u8>>>,
}

impl Listed {
    fn new(path: &Path) -> Self {
        let lists = |path: &Path| {
            let magic = rustix::fs::statfs(path).ok().and_then(|stat| u64::try_from(stat.f_type).ok());
            magic.is_some_and(|magic| LISTING.contains(&magic))
        };
        let names = || {
            let before = quiet(path)?;
            let mut names = HashSet::new();
            for entry in std::fs::read_dir(path).ok()? {
                let name = entry.ok()?.file_name().as_bytes().to_ascii_lowercase();
                if !name.is_ascii() || names.len() >= NAMES_MAX {
                    return None;
                }
                names.insert(name);
            }
            // A name that is given to another file meanwhile may be missing in the list (readdir(3p)).
            (quiet(path)? == before).then_some(names)
        };
        let is_gone = rustix::fs::stat(path).is_err_and(|e| matches!(e, Errno::NOENT | Errno::NOTDIR));
        let names = if is_gone { Some(HashSet::new()) } else { lists(path).then(names).flatten() };
        Self { path: path.to_path_buf(), names }
    }

    /// Whether the first part of a pattern may be there.
    fn may_have(&self, name: &str) -> bool {
        let Some(names) = self.names.as_ref().filter(|_| name.is_ascii() && !Pattern::is_wild(name)) else {
            return true;
        };
        names.contains(name.to_ascii_lowercase().as_bytes())
    }
}

/// When a directory changed last, if that is so long ago that its next change has another stamp.
fn quiet(path: &Path) -> Option<(i64, i64)> {
    const TICK_MAX: Duration = Duration::from_millis(20);
    let stat = path.metadata().ok()?;
    let changed = UNIX_EPOCH + Duration::new(stat.ctime().try_into().ok()?, stat.ctime_nsec().try_into().ok()?);
    let is_quiet = SystemTime::now().duration_since(changed).is_ok_and(|since| since > TICK_MAX);
    is_quiet.then_some((stat.ctime(), stat.ctime_nsec()))
}

/// What of the host a pattern names, symlinks resolved.
fn expand(pattern: &Pattern, homes: &[Listed]) -> Vec<HostPath> {
    let mut found: Vec<PathBuf> = if pattern.is_in_home() {
        let first = pattern.names().next();
        let may = |home: &&Listed| first.is_none_or(|first| home.may_have(first));
        homes.iter().filter(may).map(|home| home.path.clone()).collect()
    } else {
        vec![PathBuf::from("/")]
    };
    for name in pattern.names() {
        found = if Pattern::is_wild(name) {
            found.iter().flat_map(|dir| matching(dir, name)).take(MATCHES_MAX).collect()
        } else {
            found.into_iter().map(|dir| dir.join(name)).filter(|path| path.symlink_metadata().is_ok()).collect()
        };
    }
    // What cannot be reached by this user cannot be reached in the VM either.
    found.iter().filter_map(|path| HostPath::new(std::fs::canonicalize(path).ok()?).ok()).collect()
}

fn matching(dir: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.retain(|entry| Pattern::name_matches(name, entry.as_bytes()));
    names.sort();
    names.into_iter().map(|entry| dir.join(entry)).collect()
}

/// Other places at which mounts of the host show the same.
fn twins(path: &HostPath, mounts: &[VisibleMount]) -> Vec<HostPath> {
    let holds = mounts.iter().filter(|m| path.is_within(&m.mount.target));
    let Some(own) = holds.max_by_key(|m| m.mount.target.as_bytes().len()) else { return Vec::new() };
    let Some(below) = path.relative_to(&own.mount.target) else { return Vec::new() };
    let root = |mount: &VisibleMount| PathBuf::from(std::ffi::OsStr::from_bytes(&mount.mount.root));
    let inner = root(own).join(below);
    let device = |mount: &VisibleMount| mount.mount.target.as_path().metadata().map(|m| m.dev()).ok();
    let same = |other: &&VisibleMount| {
        other.mount.target != own.mount.target
            && other.mount.fs_type == own.mount.fs_type
            && inner.starts_with(root(other))
            && device(other).is_some_and(|dev| Some(dev) == device(own))
    };
    let there = |other: &VisibleMount| {
        let path = other.mount.target.as_path().join(inner.strip_prefix(root(other)).ok()?);
        HostPath::new(path).ok().filter(|path| path.as_path().symlink_metadata().is_ok())
    };
    mounts.iter().filter(same).filter_map(there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_what_there_is_in_every_home_and_where_it_really_lies() {
        let tmp = tempfile::tempdir().unwrap();
        let base = tmp.path().canonicalize().unwrap();
        for dir in ["a/.ssh", "b/.ssh", "real", "a/.config/x1", "a/.config/x2", "a/.config/.x3"] {
            std::fs::create_dir_all(base.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink("../real", base.join("a/link")).unwrap();
        // What was changed just now is not listed.
        assert!(Listed::new(&base.join("a")).names.is_none());
        std::thread::sleep(Duration::from_millis(40));
        let homes = ["a", "b", "gone"].map(|name| Listed::new(&base.join(name)));
        let unlisted = ["a", "b", "gone"].map(|name| Listed { path: base.join(name), names: None });
        for (pattern, listed) in [("~/.ssh", true), ("~/.config/*", true), ("~/.SSH", true), ("~/other", false)] {
            let first = pattern.trim_start_matches("~/").split('/').next().unwrap();
            assert_eq!(homes[0].may_have(first), listed, "{pattern}");
            let pattern = pattern.parse().unwrap();
            assert_eq!(expand(&pattern, &homes), expand(&pattern, &unlisted));
        }
        assert!(!homes[2].may_have(".ssh") && unlisted[2].may_have(".ssh"));
        let names = |pattern: &str| -> Vec<String> {
            let found = expand(&pattern.parse().unwrap(), &homes);
            found.iter().map(|p| p.as_path().strip_prefix(&base).unwrap().display().to_string()).collect()
        };
        assert_eq!(names("~/.ssh"), ["a/.ssh", "b/.ssh"]);
        assert_eq!(names("~/link"), ["real"]);
        assert_eq!(names("~/.config/*"), ["a/.config/x1", "a/.config/x2"]);
        assert_eq!(names(&format!("{}/?/.ssh", base.display())), ["a/.ssh", "b/.ssh"]);
        assert!(names("~/nothing").is_empty());
    }
}
