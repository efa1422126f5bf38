//! Cgroups: which version there is, with which controllers, and whether this process may use them.
//!
//! ```text
//!   /proc/self/cgroup            hierarchy-id:controllers:path     ─► where this process is
//!   mount table: cgroup, cgroup2                                   ─► where that can be seen
//!   cgroup.controllers (v2)                                        ─► what can be limited
//!   the user's systemd (crate::manager)                            ─► the same for an ordinary user
//! ```
//!
//! Invariant: nothing is made or moved: a directory that may be written is enough to know.

use super::Feature;
use crate::manager::{DELEGATE, NO_BUS, Place, UserManager, places_of};
use crate::mounts::{Mount, parse};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::path::Path;

/// What limits need.
const WANTED: [&str; 3] = ["cpu", "memory", "pids"];
const USED_FOR: &str = "limits of memory, processors and processes";

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
pub(super) fn feature(run: &Path, root: bool) -> Feature {
    if !root {
        return judge_user(UserManager::find(run.parent()).as_ref());
    }
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let mounts = parse(&read("/proc/self/mountinfo")).unwrap_or_default();
    judge(&look(&read("/proc/self/cgroup"), &mounts))
}

fn look(own: &[u8], mounts: &[Mount]) -> Seen {
    let mut seen = Seen::default();
    for Place { controllers, dir } in places_of(own, mounts) {
        let ours = accessat(CWD, &dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok();
        if controllers.is_empty() {
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

/// An ordinary user's VMs are limited by the user's systemd.
fn judge_user(manager: Option<&UserManager>) -> Feature {
    let feature = Feature::enforced("cgroups", USED_FOR);
    let Some(manager) = manager else {
        let why = "no systemd of this user's runs: only processes are limited";
        return feature.partly(why).advise("log in by ssh or on a terminal, or 'loginctl enable-linger' for this user");
    };
    if !manager.bus {
        return feature.partly("this user's systemd cannot be asked: only processes are limited").advise(NO_BUS);
    }
    let lacking: Vec<_> = WANTED.into_iter().filter(|name| !manager.can(name)).collect();
    if lacking.is_empty() {
        return feature;
    }
    feature.partly(format!("this user's systemd cannot limit {}", lacking.join(", "))).advise(DELEGATE)
}

fn judge(seen: &Seen) -> Feature {
    let feature = Feature::enforced("cgroups", USED_FOR);
    let lacks = |have: &[String]| WANTED.into_iter().filter(|w| !have.iter().any(|h| h == w)).collect::<Vec<_>>();
    let delegate = "in a container, mount cgroups writable";
    match &seen.v2 {
        None if seen.v1_all.is_empty() => {
            feature.missing("not mounted").advise("sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        }
        Some((true, controllers)) if lacks(controllers).is_empty() => feature,
        Some((false, controllers)) if seen.v1_all.is_empty() || lacks(controllers).is_empty() => {
            feature.partly("version 2, but not writable").advise(delegate)
        }
        Some((true, controllers)) if seen.v1_all.is_empty() => feature
            .partly(format!("version 2 without {}", lacks(controllers).join(", ")))
            .advise("enable them in cgroup.subtree_control of the parent"),
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
    fn each_arrangement_is_judged() {
        let names = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
        let all = "cpu memory pids";
        let table = [
            (None, "", "", "missing: not mounted"),
            (Some((true, all)), "", "", "ok"),
            (Some((true, "cpu memory")), "", "", "version 2 without pids"),
            (Some((false, all)), "", "", "version 2, but not writable"),
            (Some((true, "")), all, all, "version 1 with a version 2 tree beside it"),
            (Some((false, "")), "", all, "version 1 with a version 2 tree beside it, no limits of cpu, memory, pids"),
            (None, "cpu pids", all, "version 1, no limits of memory"),
        ];
        for (v2, ours, every, expected) in table {
            let v2 = v2.map(|(writable, text)| (writable, names(text)));
            let feature = judge(&Seen { v2, v1_ours: names(ours), v1_all: names(every) });
            assert_eq!(said(&feature), expected);
        }
    }

    fn said(feature: &Feature) -> String {
        match &feature.level {
            Level::Enforced => "ok".to_owned(),
            Level::Partly(why) => why.clone(),
            Level::Missing(why) => format!("missing: {why}"),
        }
    }

    #[test]
    fn a_user_has_what_the_users_systemd_has() {
        let manager = |text: &str| UserManager {
            dir: "/run/user/7".into(),
            bus: true,
            controllers: text.split_whitespace().map(ToOwned::to_owned).collect(),
        };
        let table = [
            (None, "no systemd of this user's runs: only processes are limited"),
            (Some(manager("cpu io memory pids")), "ok"),
            (Some(manager("memory pids")), "this user's systemd cannot limit cpu"),
            (
                Some(UserManager { bus: false, ..manager("cpu memory pids") }),
                "this user's systemd cannot be asked: only processes are limited",
            ),
            (Some(manager("")), "this user's systemd cannot limit cpu, memory, pids"),
        ];
        for (manager, expected) in table {
            let feature = judge_user(manager.as_ref());
            assert_eq!(said(&feature), expected);
            assert_eq!(feature.advice.is_none(), feature.level == Level::Enforced);
        }
    }
}
