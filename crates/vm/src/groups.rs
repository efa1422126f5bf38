//! Control groups: what a VM of root's may use of the machine, and which devices.
//!
//! ```text
//!   /sys/fs/cgroup/memory/fvm/<id>/    version 1: a tree for each controller      devices.deny  a
//!   /sys/fs/cgroup/fvm/<id>/           version 2: one tree, memory.max, cpu.max    devices.allow c 1:3 rw ...
//!     made by the keeper ─► joined by the process that becomes init, before its namespaces ─► removed by the keeper
//! ```
//!
//! A VM without limits and without devices of the host's has no group: to join one takes the kernel milliseconds.
//!
//! Invariants: a group is made empty and named by the VM's id; one that is there already belongs to a dead keeper, for the
//! caller holds the VM's lock; what the policy limits and the kernel cannot is an error, never left out silently.

mod gather;
mod live;

pub(crate) use gather::gather;
pub(crate) use live::{change, lower_processes};

use crate::error::VmError;
use fvm_host::Mount;
use fvm_model::policy::Limits;
use fvm_model::policy::limits::show_size;
use fvm_model::{HostPath, Policy, VmId};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All of fvm's groups are in groups of this name.
const PARENT: &str = "fvm";
/// A VM that was held back more rarely, each time for a part of [`PERIOD_US`], is not told of.
const HELD_BACK_MIN: u64 = 10;
/// The period of processor quotas.
const PERIOD_US: u64 = 100_000;
/// Devices that every VM has, as the controller writes them: null, zero, full, random, urandom, tty, ptmx, terminals.
const OWN_DEVICES: [&str; 8] = ["c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:2", "c 136:*"];

/// One thing to write into a group, in the tree of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
    /// Some kernels are built without it: nothing is lost, the setting before it is all that matters.
    optional: bool,
}

/// Which version a controller is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// A tree for each controller.
    One,
    /// One tree.
    Two,
}

/// What a policy asks of the controllers.
fn settings(
    limits: &Limits,
    devices: &[String],
    disks: Option<Disks>,
    version: impl Fn(&str) -> Version,
) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut add = |controller: &'static str, file: &'static str, value: String, optional: bool| {
        all.push(Setting { controller, file, value, optional });
    };
    if let Some(bytes) = limits.memory_bytes {
        let swap = limits.swap_bytes.unwrap_or(0);
        match version("memory") {
            Version::One => {
                add("memory", "memory.limit_in_bytes", bytes.to_string(), false);
                // Both together. Without accounting of swap there is usually no swap either.
                add("memory", "memory.memsw.limit_in_bytes", bytes.saturating_add(swap).to_string(), true);
            }
            Version::Two => {
                add("memory", "memory.max", bytes.to_string(), false);
                add("memory", "memory.swap.max", swap.to_string(), true);
            }
        }
    }
    if let Some(milli) = limits.cpu_milli {
        let quota = PERIOD_US * u64::from(milli) / 1000;
        match version("cpu") {
            Version::One => {
                add("cpu", "cpu.cfs_period_us", PERIOD_US.to_string(), false);
                add("cpu", "cpu.cfs_quota_us", quota.to_string(), false);
            }
            Version::Two => add("cpu", "cpu.max", format!("{quota} {PERIOD_US}"), false),
        }
    }
    if let Some(weight) = limits.cpu_weight {
        match version("cpu") {
            // 1024 is what others have.
            Version::One => add("cpu", "cpu.shares", (u64::from(weight) * 1024 / 100).max(2).to_string(), false),
            Version::Two => add("cpu", "cpu.weight", weight.to_string(), false),
        }
    }
    if let Some(pids) = limits.pids {
        add("pids", "pids.max", pids.to_string(), false);
    }
    if let (Some(weight), Some(disks)) = (limits.io_weight, disks) {
        add(disks.controller, disks.file, weight.min(disks.weight_max).to_string(), false);
    }
    // Version 2 asks for a program in the kernel instead; there what is bound into /dev is all that holds.
    if !devices.is_empty() && version("devices") == Version::One {
        add("devices", "devices.deny", "a".into(), false);
        for device in OWN_DEVICES {
            add("devices", "devices.allow", format!("{device} rw"), false);
        }
        // Init makes their nodes; the VM's own root is not allowed to make any.
        for device in devices {
            add("devices", "devices.allow", format!("{device} rwm"), false);
        }
    }
    all
}

/// Where disks are shared by weight: that depends on the scheduler of the disks as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disks {
    controller: &'static str,
    file: &'static str,
    weight_max: u32,
}

/// Any group but the root has one of these files, if a scheduler knows weights: `io.cost` or BFQ
/// (Documentation/block/bfq-iosched.rst).
const DISKS: [Disks; 4] = [
    Disks { controller: "io", file: "io.weight", weight_max: 10_000 },
    Disks { controller: "io", file: "io.bfq.weight", weight_max: 1000 },
    Disks { controller: "blkio", file: "blkio.bfq.weight", weight_max: 1000 },
    Disks { controller: "blkio", file: "blkio.weight", weight_max: 1000 },
];

fn disks(trees: &Trees) -> Result<Disks, String> {
    let has = |disks: &&Disks| {
        let Some(root) = trees.root(disks.controller) else { return false };
        let is_two = trees.version(disks.controller) == Version::Two;
        if is_two && enable(root, disks.controller).is_err() {
            return false;
        }
        let parent = root.join(PARENT);
        let is_there = std::fs::create_dir_all(&parent).is_ok() && parent.join(disks.file).exists();
        is_there && if disks.file == "io.weight" { is_cost_model_on(root) } else { is_bfq_used() }
    };
    let why = "no disk here has a scheduler that shares it by weight; 'echo bfq > /sys/block/DISK/queue/scheduler' gives it one";
    DISKS.iter().find(has).copied().ok_or_else(|| why.into())
}

/// Without it, the kernel takes weights and does nothing with them (Documentation/admin-guide/cgroup-v2.rst, `io.cost.qos`).
fn is_cost_model_on(root: &Path) -> bool {
    std::fs::read_to_string(root.join("io.cost.qos")).is_ok_and(|text| text.contains("enable=1"))
}

/// The same of disks with another scheduler.
fn is_bfq_used() -> bool {
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut schedulers = disks.map(|disk| std::fs::read_to_string(disk.path().join("queue/scheduler")));
    schedulers.any(|text| text.is_ok_and(|text| text.contains("[bfq]")))
}

/// Where the controllers are.
#[derive(Debug, Default)]
struct Trees {
    one: Vec<(String, PathBuf)>,
    two: Option<PathBuf>,
}

impl Trees {
    fn look() -> Self {
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self::of(&fvm_host::parse(&table).unwrap_or_default())
    }

    fn of(mounts: &[Mount]) -> Self {
        let mut trees = Self::default();
        for mount in mounts {
            let target = mount.target.as_path().to_path_buf();
            match mount.fs_type.as_str() {
                "cgroup2" => trees.two = trees.two.or(Some(target)),
                "cgroup" => {
                    let names = mount.target.name().as_bytes().split(|b| *b == b',');
                    trees.one.extend(names.map(|n| (String::from_utf8_lossy(n).into_owned(), target.clone())));
                }
                _ => {}
            }
        }
        trees
    }

    fn version(&self, controller: &str) -> Version {
        if self.one.iter().any(|(name, _)| name == controller) { Version::One } else { Version::Two }
    }

    fn root(&self, controller: &str) -> Option<&Path> {
        let one = self.one.iter().find(|(name, _)| name == controller).map(|(_, dir)| dir.as_path());
        one.or(self.two.as_deref())
    }

    /// Every tree, once.
    fn roots(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = self.one.iter().map(|(_, dir)| dir.as_path()).chain(self.two.as_deref()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The groups of a VM, one in each tree that is needed; removed when dropped.
#[derive(Debug)]
pub struct Groups {
    id: VmId,
    dirs: Vec<PathBuf>,
}

impl Groups {
    /// Makes what `policy` asks for; `None` when it asks for nothing.
    ///
    /// # Errors
    /// [`VmError::Limit`] with what the kernel does not limit here.
    pub fn make(id: &VmId, policy: &Policy) -> Result<Option<Self>, VmError> {
        let devices: Vec<String> = policy.devices.iter().flat_map(device_numbers).collect();
        if !policy.wants_groups() {
            return Ok(None);
        }
        let trees = Trees::look();
        let disks = policy.limits.io_weight.map(|_| disks(&trees)).transpose();
        let disks = disks.map_err(|why| VmError::Limit { what: "io_weight".into(), why })?;
        let settings = settings(&policy.limits, &devices, disks, |controller| trees.version(controller));
        let mut groups = Self { id: id.clone(), dirs: Vec::new() };
        for setting in &settings {
            let fail = |why: String| VmError::Limit { what: setting.file.into(), why };
            let root = trees.root(setting.controller).ok_or_else(|| {
                fail(format!("no control groups for '{}' are mounted; see 'fvm doctor'", setting.controller))
            })?;
            let dir = place(root, id.as_str());
            if trees.version(setting.controller) == Version::Two {
                enable(root, setting.controller).map_err(&fail)?;
            }
            if !groups.dirs.contains(&dir) {
                make(&dir).map_err(|e| fail(format!("cannot make the control group {}: {e}", dir.display())))?;
                groups.dirs.push(dir.clone());
            }
            if let Err(e) = std::fs::write(dir.join(setting.file), &setting.value) {
                let absent = setting.optional && e.kind() == std::io::ErrorKind::NotFound;
                if !absent {
                    return Err(fail(format!("cannot write '{}' there: {e}", setting.value)));
                }
            }
        }
        Ok((!groups.dirs.is_empty()).then_some(groups))
    }

    /// What a process writes `0` to, to be in them.
    ///
    /// # Errors
    /// When they are gone.
    pub fn doors(&self) -> Result<Vec<OwnedFd>, VmError> {
        let open = |dir: &PathBuf| {
            let path = dir.join("cgroup.procs");
            let opened = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            opened.map_err(|e| VmError::sys("open", &path, e))
        };
        self.dirs.iter().map(open).collect()
    }

    /// What happened to the VM's processes because of its limits, in words.
    #[must_use]
    pub fn reached(&self, limits: &Limits) -> Vec<String> {
        reached(&self.dirs, limits, Some(&self.id))
    }
}

/// The same of the control groups in `dirs`; `id`: that of a VM for which fvm made them.
pub(crate) fn reached(dirs: &[PathBuf], limits: &Limits, id: Option<&VmId>) -> Vec<String> {
    let count = |file: &str, key: &str| -> u64 {
        let texts = dirs.iter().filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
        texts.filter_map(|text| counter(&text, key)).sum()
    };
    let mut said = Vec::new();
    let killed = count("memory.events", "oom_kill") + count("memory.oom_control", "oom_kill");
    if let (Some(limit), 1..) = (limits.memory_bytes, killed) {
        let processes = if killed == 1 { "1 process was".to_owned() } else { format!("{killed} processes were") };
        let names = id.map(|id| crate::oom::names(id, killed)).filter(|names| !names.is_empty());
        let names = names.map_or_else(String::new, |names| format!(" ({names})"));
        said.push(format!("it reached its memory limit of {}: {processes} killed{names}", show_size(limit)));
    }
    let held_back = count("cpu.stat", "nr_throttled");
    if let (Some(milli), HELD_BACK_MIN..) = (limits.cpu_milli, held_back) {
        let processors = f64::from(milli) / 1000.0;
        said.push(format!("it wanted more than its {processors} processors: it was held back {held_back} times"));
    }
    let refused = count("pids.events", "max");
    if let (Some(limit), 1..) = (limits.pids, refused) {
        said.push(format!("it reached its limit of {limit} processes: {refused} were not started"));
    }
    said
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.dirs.iter().for_each(|dir| remove(dir));
    }
}

/// The tree in which processes are frozen. Version 2 does it better, even beside version 1: what is frozen can be killed.
pub(crate) fn freezer() -> Option<(PathBuf, Version)> {
    let trees = Trees::look();
    let two = trees.two.clone().map(|dir| (dir, Version::Two));
    two.or_else(|| trees.root("freezer").map(|dir| (dir.to_path_buf(), Version::One)))
}

/// The group of a VM in a tree.
pub(crate) fn place(root: &Path, id: &str) -> PathBuf {
    root.join(PARENT).join(id)
}

/// The VMs that have groups, of whatever state directory.
#[must_use]
pub fn all() -> Vec<VmId> {
    let trees = Trees::look();
    let names = trees.roots().into_iter().flat_map(|root| std::fs::read_dir(root.join(PARENT)).into_iter().flatten());
    let mut ids: Vec<VmId> = names.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    ids.dedup();
    ids
}

/// Removes what a dead keeper left of a VM.
pub fn sweep(id: &VmId) {
    for root in Trees::look().roots() {
        let dir = place(root, id.as_str());
        if dir.exists() {
            // Version 1 keeps killed processes as long as they are frozen.
            let _not_a_freezer = std::fs::write(dir.join("freezer.state"), "THAWED");
            remove(&dir);
        }
    }
}

/// The control groups of a VM, to be read. Where they are is looked up once: it takes longer than to read them.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    trees: Trees,
    id: &'a VmId,
}

impl<'a> Shown<'a> {
    pub fn of(id: &'a VmId) -> Self {
        Self { trees: Trees::look(), id }
    }

    /// A file of its group, if it has one.
    pub fn file(&self, controller: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(place(self.trees.root(controller)?, self.id.as_str()).join(file)).ok()
    }

    /// All processes of a VM with this init, if it has groups: init is in all of them before it has descendants, and nobody in the VM
    /// can leave. The list is unordered, and version 1 may name one twice (Documentation/admin-guide/cgroup-v1/cgroups.rst).
    pub fn members(&self, init: i32) -> Option<Vec<i32>> {
        let list = |root: &&Path| std::fs::read_to_string(place(root, self.id.as_str()).join("cgroup.procs")).ok();
        let text = self.trees.roots().iter().find_map(list)?;
        let mut all: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        all.sort_unstable();
        all.dedup();
        all.binary_search(&init).ok().map(|_| all)
    }
}

/// The last processes may still be on their way out.
pub(crate) fn remove(dir: &Path) {
    const TRIES: u32 = 50;
    for _ in 0..TRIES {
        match std::fs::remove_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(2)),
            // What cannot be removed now is removed by the next start or deletion of the VM.
            Ok(()) | Err(_) => return,
        }
    }
}

/// A new group. One that is there was left behind by a dead keeper.
fn make(dir: &Path) -> std::io::Result<()> {
    if dir.exists() {
        remove(dir);
    }
    std::fs::create_dir_all(dir.parent().unwrap_or(dir))?;
    std::fs::create_dir(dir)
}

/// Version 2: a group has the controllers that its parents pass on.
fn enable(root: &Path, controller: &str) -> Result<(), String> {
    let has = |dir: &Path, file: &str| {
        std::fs::read_to_string(dir.join(file)).is_ok_and(|text| text.split_whitespace().any(|c| c == controller))
    };
    if !has(root, "cgroup.controllers") {
        return Err(format!("the kernel has no controller '{controller}' here; see 'fvm doctor'"));
    }
    let parent = root.join(PARENT);
    std::fs::create_dir_all(&parent).map_err(|e| format!("cannot make a control group: {e}"))?;
    for dir in [root, &parent] {
        if !has(dir, "cgroup.subtree_control") {
            std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))
                .map_err(|e| format!("cannot pass '{controller}' on in {}: {e}", dir.display()))?;
        }
    }
    Ok(())
}

/// The limits that cannot be held here, each with why.
#[must_use]
pub fn unenforced(limits: &Limits, root: bool) -> Vec<(&'static str, String)> {
    let trees = if root { Trees::look() } else { Trees::default() };
    let controller = |name: &str| match name {
        "memory" | "swap" => "memory",
        "pids" => "pids",
        _ => "cpu",
    };
    let lacks = |name: &str| {
        let controller = controller(name);
        if name == "disk" {
            // Held by the kernel or watched: a VM's user is told which.
            return None;
        }
        if root && name == "io_weight" {
            return self::disks(&trees).err();
        }
        if !root {
            // What the kernel counts for each user in a user namespace.
            let why = "no systemd of this user's runs, which could do it: log in by ssh or on a terminal, or start the VM as root";
            return (controller != "pids").then(|| why.to_owned());
        }
        let file = |dir: &Path| std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let there = match (trees.version(controller), trees.root(controller)) {
            (Version::One, root) => root.is_some(),
            (Version::Two, root) => root.is_some_and(|dir| file(dir).split_whitespace().any(|c| c == controller)),
        };
        (!there).then(|| format!("the kernel has no controller '{controller}' here; see 'fvm doctor'"))
    };
    let said = limits.entries().into_iter().filter(|(_, value)| value.is_some());
    said.filter_map(|(name, _)| lacks(name).map(|why| (name, why))).collect()
}

/// A line `key number`.
pub(crate) fn counter(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The devices at `path`, a node or a directory of such, as the controller writes them. What is not there is not passed.
fn device_numbers(path: &HostPath) -> Vec<String> {
    const DEPTH_MAX: usize = 4;
    let one = |path: &Path| {
        let stat = std::fs::metadata(path).ok()?;
        let kind = match stat.file_type() {
            t if t.is_char_device() => 'c',
            t if t.is_block_device() => 'b',
            _ => return None,
        };
        let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
        Some(format!("{kind} {major}:{minor}"))
    };
    let mut found = Vec::new();
    let mut pending = vec![(path.as_path().to_path_buf(), 0)];
    while let Some((path, depth)) = pending.pop() {
        match std::fs::read_dir(&path) {
            Ok(entries) if depth < DEPTH_MAX => pending.extend(entries.flatten().map(|e| (e.path(), depth + 1))),
            _ => found.extend(one(&path)),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_each_version_wants_them() {
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            swap_bytes: None,
            cpu_milli: Some(1500),
            cpu_weight: Some(50),
            pids: Some(32),
            io_weight: Some(2000),
            ..Limits::default()
        };
        let written = |version: Version| -> Vec<String> {
            let disks = DISKS[if version == Version::Two { 0 } else { 2 }];
            let all = settings(&limits, &["c 10:229".into()], Some(disks), |_| version);
            all.iter().map(|s| format!("{}={}", s.file, s.value)).collect()
        };
        assert_eq!(
            written(Version::Two),
            [
                "memory.max=67108864",
                "memory.swap.max=0",
                "cpu.max=150000 100000",
                "cpu.weight=50",
                "pids.max=32",
                "io.weight=2000"
            ]
        );
        let one = written(Version::One);
        assert_eq!(
            one[..5],
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=67108864",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000",
                "cpu.shares=512"
            ]
        );
        assert_eq!(one[5..9], ["pids.max=32", "blkio.bfq.weight=1000", "devices.deny=a", "devices.allow=c 1:3 rw"]);
        assert_eq!(one.last().map(String::as_str), Some("devices.allow=c 10:229 rwm"));
        assert!(settings(&Limits::default(), &[], None, |_| Version::One).is_empty());
    }

    #[test]
    fn counters_are_whole_words() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(counter(text, "oom_kill"), Some(3));
        assert_eq!(counter(text, "max"), None);
    }
}
