//! The user's own systemd (`systemd --user`), and which controllers of control groups the host's systemd passed on to it.
//!
//! ```text
//!   <run-time directory>/systemd/private ─ connect, SO_PEERCRED ─► process id of the user's systemd
//!   /proc/<pid>/cgroup ─► .../user@1000.service/init.scope ─ parent ─► cgroup.controllers: what it can pass on
//! ```
//!
//! Nothing is asked of it: who listens is the kernel's word, and costs two system calls. It listens there in every version
//! since 226, with or without a message bus.
//!
//! Invariants: only a socket of this user's own systemd counts; nothing is written; no environment variable is read.

use crate::mounts::{Mount, parse};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The controllers that limits may need.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// The drop-in by which root passes on what is missing.
pub const DELEGATE: &str = "root: put '[Service]' and 'Delegate=cpu cpuset io memory pids' in \
                            /etc/systemd/system/user@.service.d/delegate.conf, 'systemctl daemon-reload', log in again";

/// What to do where there is no bus to ask it by.
pub const NO_BUS: &str = "this user's systemd has no message bus by which it can be asked: install dbus-user-session (Fedora: \
                          dbus-broker), log in again";

/// The bus, in the run-time directory.
const BUS: &str = "bus";

/// The systemd of this process's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserManager {
    /// The run-time directory that it is in; its sockets are `systemd/private` and, if there is a bus, `bus`.
    pub dir: PathBuf,
    /// Whether a message bus is beside it, by which it can be asked.
    pub bus: bool,
    /// What can be limited in the units that it starts, sorted.
    pub controllers: Vec<String>,
}

impl UserManager {
    /// The one that listens in one of the places where a user's has been seen: `named`, which is the user's run-time directory
    /// where that is known, and the directory that logind makes.
    #[must_use]
    pub fn find(named: Option<&Path>) -> Option<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let usual = PathBuf::from(format!("/run/user/{uid}"));
        let dirs = named.map(Path::to_path_buf).into_iter().chain([usual]);
        dirs.into_iter().find_map(|dir| {
            let pid = listener(&dir.join("systemd/private"), uid)?;
            let mut controllers = Vec::new();
            for Place { controllers: bound, dir } in places(pid) {
                let (dir, names) = if bound.is_empty() {
                    let dir = dir.parent().filter(|_| dir.ends_with("init.scope")).unwrap_or(&dir).to_path_buf();
                    let text = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
                    (dir, text.split_whitespace().map(ToOwned::to_owned).collect())
                } else {
                    (dir, bound)
                };
                if accessat(CWD, &dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok() {
                    controllers.extend(names.into_iter().filter(|name| CONTROLLERS.contains(&name.as_str())));
                }
            }
            controllers.sort_unstable();
            controllers.dedup();
            let bus = listener(&dir.join(BUS), uid).is_some();
            Some(Self { dir, bus, controllers })
        })
    }

    /// Whether it can be asked to limit what `controller` does.
    #[must_use]
    pub fn can(&self, controller: &str) -> bool {
        self.bus && self.controllers.iter().any(|name| name == controller)
    }

    /// Where its message bus is.
    #[must_use]
    pub fn bus(&self) -> PathBuf {
        self.dir.join(BUS)
    }
}

/// The process that listens on a socket of user `uid`, if it is that user's.
fn listener(path: &Path, uid: u32) -> Option<i32> {
    std::fs::symlink_metadata(path).ok().filter(|stat| stat.uid() == uid)?;
    let peer = rustix::net::sockopt::socket_peercred(UnixStream::connect(path).ok()?).ok()?;
    (peer.uid.as_raw() == uid).then(|| peer.pid.as_raw_nonzero().get())
}

/// A control group that a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The controllers of its tree; none: version 2.
    pub controllers: Vec<String>,
    /// Where it is seen.
    pub dir: PathBuf,
}

/// The control groups that a process is in, as far as they are mounted where this process sees them.
#[must_use]
pub fn places(pid: i32) -> Vec<Place> {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let mounts = parse(&read("/proc/self/mountinfo")).unwrap_or_default();
    places_of(&read(&format!("/proc/{pid}/cgroup")), &mounts)
}

/// The same of the text of `/proc/PID/cgroup`.
pub(crate) fn places_of(text: &[u8], mounts: &[Mount]) -> Vec<Place> {
    let place = |(controllers, path): (Vec<String>, &[u8])| {
        let fits = |mount: &&Mount| {
            if controllers.is_empty() {
                return mount.fs_type == "cgroup2";
            }
            let mut names = mount.target.name().as_bytes().split(|b| *b == b',');
            mount.fs_type == "cgroup" && names.any(|name| controllers.iter().any(|c| c.as_bytes() == name))
        };
        let dir = directory(mounts.iter().find(fits)?, path);
        Some(Place { controllers, dir })
    };
    parse_own(text).into_iter().filter_map(place).collect()
}

/// Where a cgroup is seen on a mount. One above the mounted part (a container's) is seen as the mount itself.
fn directory(mount: &Mount, path: &[u8]) -> PathBuf {
    let below =
        Path::new(OsStr::from_bytes(path)).strip_prefix(OsStr::from_bytes(&mount.root)).unwrap_or(Path::new(""));
    mount.target.as_path().join(below)
}

/// The controllers (none: version 2) and path of each hierarchy. Named hierarchies control nothing and are left out.
fn parse_own(bytes: &[u8]) -> Vec<(Vec<String>, &[u8])> {
    bytes.split(|b| *b == b'\n').filter_map(parse_hierarchy).collect()
}

fn parse_hierarchy(line: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let mut fields = line.splitn(3, |b| *b == b':');
    let (_, controllers, path) = (fields.next()?, std::str::from_utf8(fields.next()?).ok()?, fields.next()?);
    let names: Vec<String> = controllers.split(',').filter(|c| !c.is_empty()).map(ToOwned::to_owned).collect();
    (!names.iter().any(|name| name.starts_with("name="))).then_some((names, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read() {
        let own = b"9:name=systemd:/\n4:memory:/a:b/c\n3:cpu,cpuacct:/\n0::/user.slice\nodd\n";
        let found: Vec<_> = parse_own(own).into_iter().map(|(c, p)| (c.join("+"), p)).collect();
        let expected: [(&str, &[u8]); 3] = [("memory", b"/a:b/c"), ("cpu+cpuacct", b"/"), ("", b"/user.slice")];
        assert!(found.iter().map(|(c, p)| (c.as_str(), *p)).eq(expected), "{found:?}");
        assert!(parse_own(b"").is_empty());
    }

    #[test]
    fn a_cgroup_is_found_on_its_mount() {
        let at = |line: &[u8], path: &[u8]| directory(&parse(line).unwrap()[0], path);
        let whole = b"1 0 0:1 / /sys/fs/cgroup rw - cgroup2 c rw";
        assert_eq!(at(whole, b"/"), Path::new("/sys/fs/cgroup"));
        assert_eq!(at(whole, b"/user/1"), Path::new("/sys/fs/cgroup/user/1"));
        let part = b"1 0 0:1 /docker/x /sys/fs/cgroup rw - cgroup2 c rw";
        assert_eq!(at(part, b"/docker/x/y"), Path::new("/sys/fs/cgroup/y"));
        assert_eq!(at(part, b"/other"), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn only_a_socket_that_somebody_listens_on_is_a_systemd() {
        let dir = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let path = dir.path().join("private");
        assert_eq!(listener(&path, uid), None);
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(listener(&path, uid), Some(std::process::id().cast_signed()));
        drop(socket);
        // A process that another test forked meanwhile may have it for a moment, too.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while listener(&path, uid).is_some() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(listener(&path, uid), None);
    }
}
