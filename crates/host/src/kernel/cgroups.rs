//! Cgroups: which version there is, with which controllers, and whether this process may use them.
//!
//! ```text
//!   /proc/self/cgroup            hierarchy-id:controllers:path     ─► where this process is
//!   mount table: cgroup, cgroup2                                   ─► where that can be seen
//!   cgroup.controllers (v2)                                        ─► what can be limited
//! ```
//!
//! Invariant: nothing is made or moved: a directory that may be written is enough to know.

use super::Feature;
use crate::mounts::{Mount, parse};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What limits need.
const WANTED: [&str; 3] = ["cpu", "memory", "pids"];

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Version 2: whether its directory may be written, and its controllers.
    v2: Option<(bool, Vec<String>)>,
    /// Version 1: controllers whose directory may be written.
    v1_ours: Vec<String>,
    /// Version 1: all controllers.
    v1_all: Vec<String>,
}

/// Control over resources.
pub(super) fn feature(root: bool) -> Feature {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let mounts = parse(&read("/proc/self/mountinfo")).unwrap_or_default();
    judge(&look(&read("/proc/self/cgroup"), &mounts), root)
}

fn look(own: &[u8], mounts: &[Mount]) -> Seen {
    let mut seen = Seen::default();
    for (controllers, path) in parse_own(own) {
        let is_v2 = controllers.is_empty();
        let dir = mounts.iter().find_map(|mount| {
            let fits = if is_v2 {
                mount.fs_type == "cgroup2"
            } else {
                mount.fs_type == "cgroup"
                    && mount
                        .target
                        .name()
                        .as_bytes()
                        .split(|b| *b == b',')
                        .any(|n| controllers.iter().any(|c| c.as_bytes() == n))
            };
            fits.then(|| directory(mount, path))
        });
        let Some(dir) = dir else { continue };
        let ours = accessat(CWD, &dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok();
        if is_v2 {
            let names = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            seen.v2 = Some((ours, names.split_whitespace().map(ToOwned::to_owned).collect()));
        } else {
            if ours {
                seen.v1_ours.extend(controllers.iter().cloned());
            }
            seen.v1_all.extend(controllers);
        }
    }
    seen
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

fn judge(seen: &Seen, root: bool) -> Feature {
    let feature = Feature::enforced("cgroups", "limits of memory, processors and processes");
    let lacks = |have: &[String]| WANTED.into_iter().filter(|w| !have.iter().any(|h| h == w)).collect::<Vec<_>>();
    let delegate = if root {
        "in a container, mount cgroups writable"
    } else {
        "systemd-run --user --scope -p Delegate=yes fvm ..."
    };
    match &seen.v2 {
        None if seen.v1_all.is_empty() => {
            feature.missing("not mounted").advise("sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        }
        Some((true, controllers)) if lacks(controllers).is_empty() => feature,
        Some((false, controllers)) if seen.v1_all.is_empty() || lacks(controllers).is_empty() => {
            feature.partly("version 2, but not this user's").advise(delegate)
        }
        Some((true, controllers)) if seen.v1_all.is_empty() => feature
            .partly(format!("version 2 without {}", lacks(controllers).join(", ")))
            .advise(if root { "enable them in cgroup.subtree_control of the parent" } else { delegate }),
        v2 => {
            let version = if v2.is_some() { "version 1 with a version 2 tree beside it" } else { "version 1" };
            let lacking = lacks(&seen.v1_ours);
            let limit = match lacking.as_slice() {
                [] => String::new(),
                some => format!(", no limits of {}", some.join(", ")),
            };
            let feature = feature.partly(format!("{version}{limit}"));
            if lacking.is_empty() { feature } else { feature.advise("boot with systemd.unified_cgroup_hierarchy=1") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Level;

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
    fn each_arrangement_is_judged() {
        let names = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
        let all = "cpu memory pids";
        let table = [
            (None, "", "", "missing: not mounted"),
            (Some((true, all)), "", "", "ok"),
            (Some((true, "cpu memory")), "", "", "version 2 without pids"),
            (Some((false, all)), "", "", "version 2, but not this user's"),
            (Some((true, "")), all, all, "version 1 with a version 2 tree beside it"),
            (Some((false, "")), "", all, "version 1 with a version 2 tree beside it, no limits of cpu, memory, pids"),
            (None, "cpu pids", all, "version 1, no limits of memory"),
        ];
        for (v2, ours, every, expected) in table {
            let v2 = v2.map(|(writable, text)| (writable, names(text)));
            let feature = judge(&Seen { v2, v1_ours: names(ours), v1_all: names(every) }, false);
            let said = match &feature.level {
                Level::Enforced => "ok".to_owned(),
                Level::Partly(why) => why.clone(),
                Level::Missing(why) => format!("missing: {why}"),
            };
            assert_eq!(said, expected);
        }
    }
}
