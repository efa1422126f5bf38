//! What there is on this machine, counted: to see what VMs take, and what they leave behind.
//!
//! Invariant: nothing is changed; a process that ends while it is counted is no error.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Numbers of things, by their names in tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(pub BTreeMap<&'static str, Option<usize>>);

impl Census {
    /// Everything; `ours` is the directory of the binaries, by which our processes are known.
    #[must_use]
    pub fn take(ours: &Path) -> Self {
        let processes = processes();
        let namespaces = |kind: &str| {
            let inode = |pid: &i32| std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|data| data.ino());
            let mut found: Vec<u64> = processes.iter().filter_map(inode).collect();
            found.sort_unstable();
            found.dedup();
            found.len()
        };
        let entries = |dir: &str| std::fs::read_dir(dir).map_or(0, Iterator::count);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count();
        Self(BTreeMap::from([
            ("processes", Some(processes.len())),
            ("processes that ended, not yet collected", Some(processes.iter().filter(|pid| is_zombie(**pid)).count())),
            ("processes of this fvm", Some(processes.iter().filter(|pid| is_ours(**pid, ours)).count())),
            ("network namespaces", Some(namespaces("net"))),
            ("mount namespaces", Some(namespaces("mnt"))),
            ("mounts", Some(mounts)),
            ("control groups", Some(directories(Path::new("/sys/fs/cgroup")))),
            ("network links", Some(entries("/sys/class/net"))),
            ("sockets in /run/fvm", Some(entries("/run/fvm"))),
            ("nftables rules", rules()),
        ]))
    }
}

/// Numbers of all processes.
#[must_use]
pub fn processes() -> Vec<i32> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    dir.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process has ended, and its parent has not asked how.
fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| after.trim_start().starts_with('Z'))
}

/// Whether a process, or the one that it was forked from, is one of the binaries in `dir`.
#[must_use]
pub fn is_ours(pid: i32, dir: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(dir))
}

/// What a process calls itself.
#[must_use]
pub fn title(pid: i32) -> Option<String> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(first).into_owned())
}

/// The same, and its share of memory in KiB: pages that several use count in parts.
#[must_use]
pub fn share(pid: i32) -> Option<(String, u64)> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let pss = smaps.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().strip_suffix(" kB")?.trim().parse();
    Some((title(pid)?, pss.ok()?))
}

/// Children of any of `parents`, their children, and so on, with `parents`.
#[must_use]
pub fn families(parents: &[i32]) -> Vec<i32> {
    let parent = |pid: i32| -> Option<(i32, i32)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after = stat.rsplit_once(')')?.1;
        Some((pid, after.split_whitespace().nth(1)?.parse().ok()?))
    };
    let parents: BTreeSet<i32> = parents.iter().copied().collect();
    let parent_of: BTreeMap<i32, i32> = processes().into_iter().filter_map(parent).collect();
    let belongs = |pid: &&i32| {
        let mut at = **pid;
        while !parents.contains(&at) {
            match parent_of.get(&at) {
                Some(&up) if up > 1 => at = up,
                _ => return false,
            }
        }
        true
    };
    parent_of.keys().filter(belongs).copied().collect()
}

/// Mount points below `dir` in this process's namespace, the innermost first.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut places: Vec<PathBuf> = places.filter(|place| place.starts_with(dir)).collect();
    places.reverse();
    places
}

fn directories(top: &Path) -> usize {
    let Ok(dir) = std::fs::read_dir(top) else { return 0 };
    let below = dir.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.map(|entry| 1 + directories(&entry.path())).sum()
}

/// Lines of the rule set; nothing without nft(8).
fn rules() -> Option<usize> {
    let out = Command::new("nft").args(["list", "ruleset"]).stdin(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).lines().count())
}
