//! The host's `/etc/hosts` and `/etc/resolv.conf` as files, read again when they changed.
//!
//! Invariant: no more than [`FILE_MAX_BYTES`] of a file are read; a file that cannot be read says nothing.

use super::hosts::{Hosts, Resolv};
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// What is read of a file.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// The two files.
#[derive(Debug)]
pub struct HostFiles {
    hosts: Watched<Hosts>,
    resolv: Watched<Resolv>,
}

impl Default for HostFiles {
    fn default() -> Self {
        Self::at("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

impl HostFiles {
    /// Files at other places.
    #[must_use]
    pub fn at(hosts: PathBuf, resolv: PathBuf) -> Self {
        Self { hosts: Watched::new(hosts), resolv: Watched::new(resolv) }
    }

    /// The names of the hosts file, as it is now.
    pub fn hosts(&mut self) -> &Hosts {
        self.hosts.now(Hosts::parse)
    }

    /// The name servers, as they are now.
    pub fn resolv(&mut self) -> &Resolv {
        self.resolv.now(|text| Resolv::parse(text, interface))
    }
}

/// The number of a network interface.
fn interface(name: &str) -> Option<u32> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@".contains(&b);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return None;
    }
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

#[derive(Debug)]
struct Watched<T> {
    path: PathBuf,
    seen: Option<Stamp>,
    value: T,
}

/// Device, inode, size, and the time of the last change.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(meta: &Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec())
}

impl<T: Default> Watched<T> {
    fn new(path: PathBuf) -> Self {
        Self { path, seen: None, value: T::default() }
    }

    fn now(&mut self, parse: impl Fn(&str) -> T) -> &T {
        match std::fs::metadata(&self.path) {
            Ok(meta) if meta.is_file() && self.seen != Some(stamp(&meta)) => {
                let mut text = Vec::new();
                let file = File::open(&self.path);
                if file.is_ok_and(|f| f.take(FILE_MAX_BYTES).read_to_end(&mut text).is_ok()) {
                    self.value = parse(&String::from_utf8_lossy(&text));
                    self.seen = Some(stamp(&meta));
                }
            }
            Ok(meta) if meta.is_file() => {}
            _ => (self.value, self.seen) = (T::default(), None),
        }
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_edited_or_removed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, resolv) = (dir.path().join("hosts"), dir.path().join("resolv.conf"));
        let mut files = HostFiles::at(hosts.clone(), resolv.clone());
        assert!(files.resolv().servers.is_empty());
        std::fs::write(&resolv, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(files.resolv().servers.len(), 1);
        std::fs::write(&hosts, "10.0.0.1 a\n").unwrap();
        assert!(files.hosts().get(&"a".parse().unwrap()).is_some());
        std::fs::write(dir.path().join("new"), "10.0.0.2 b\n").unwrap();
        std::fs::rename(dir.path().join("new"), &hosts).unwrap();
        assert!(files.hosts().get(&"a".parse().unwrap()).is_none());
        assert!(files.hosts().get(&"b".parse().unwrap()).is_some());
        std::fs::remove_file(&resolv).unwrap();
        assert!(files.resolv().servers.is_empty());
    }
}
