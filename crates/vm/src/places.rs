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
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

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

/// What of the host a pattern names, symlinks resolved.
fn expand(pattern: &Pattern, homes: &[HostPath]) -> Vec<HostPath> {
    let mut found: Vec<PathBuf> = if pattern.is_in_home() {
        homes.iter().map(|home| home.as_path().to_path_buf()).collect()
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

    fn path(path: &Path) -> HostPath {
        HostPath::new(path).unwrap()
    }

    #[test]
    fn patterns_find_what_there_is_in_every_home_and_where_it_really_lies() {
        let tmp = tempfile::tempdir().unwrap();
        let base = tmp.path().canonicalize().unwrap();
        for dir in ["a/.ssh", "b/.ssh", "real", "a/.config/x1", "a/.config/x2", "a/.config/.x3"] {
            std::fs::create_dir_all(base.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink("../real", base.join("a/link")).unwrap();
        let homes = [path(&base.join("a")), path(&base.join("b")), path(&base.join("gone"))];
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
