//! What a running VM uses of the machine, read from outside of it.
//!
//! ```text
//!   /proc/<pid>/{stat,statm,io}   of every process below init: what lives now     /proc/<init>/net/dev   its own network
//!   .../fvm/<id>/memory.current, cpu.stat, ...     where it has control groups: all of it
//!   .../fvm-<id>.scope/           the same for an ordinary user's
//!   layers/<n>/                   blocks on the disk
//! ```
//!
//! Invariants: a number that cannot be read is missing, never an error: a meter must not end what it measures. Nothing is
//! read that a process of the VM could make wait.

use crate::groups::{self, Shown};
use crate::ps;
use crate::scope;
use fvm_model::{VmId, VmRecord};
use fvm_sys::dir::Dir;
use rustix::fs::FileType;
use rustix::io::Errno;
use serde::Serialize;
use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// More entries of the layers are not counted.
const ENTRIES_MAX: usize = 2_000_000;

/// What a VM uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Usage {
    /// Whether memory is that of its control group; else it is that of its processes, and what several share counts for each.
    pub exact: bool,
    /// Processor time, in microseconds.
    pub cpu_us: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The most memory that it had, in bytes, where its control group says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the kernel killed for want of memory, where its control group says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kills: Option<u64>,
    /// Processes.
    pub processes: usize,
    /// Read from disks, in bytes.
    pub read_bytes: u64,
    /// Written to disks, in bytes.
    pub written_bytes: u64,
    /// Received by its own network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Sent by its own network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// How much of the last ten seconds some process waited for a processor, in percent. Control groups of version 2 only
    /// (Documentation/accounting/psi.rst).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pressure: Option<u64>,
    /// The same for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pressure: Option<u64>,
    /// The same for disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_pressure: Option<u64>,
}

/// What a VM uses now. `init`: its init, as the host numbers it.
#[must_use]
pub fn usage(id: &VmId, init: i32) -> Usage {
    let groups = Shown::of(id);
    let mut usage = of_processes(&groups, init);
    let scope = LazyCell::new(|| scope::places_in(&scope::name(id.as_str()), init));
    let group = |controller: &str, file: &str| {
        let of_scope = || scope.iter().find_map(|place| std::fs::read_to_string(place.dir.join(file)).ok());
        groups.file(controller, file).or_else(of_scope)
    };
    let memory = group("memory", "memory.current").or_else(|| group("memory", "memory.usage_in_bytes"));
    let cpu = group("cpu", "cpu.stat").and_then(|text| groups::counter(&text, "usage_usec"));
    let cpu =
        cpu.or_else(|| group("cpuacct", "cpuacct.usage").and_then(|ns| Some(ns.trim().parse::<u64>().ok()? / 1000)));
    if let Some(bytes) = memory.and_then(|bytes| bytes.trim().parse().ok()) {
        (usage.memory_bytes, usage.exact) = (bytes, true);
    }
    let peak = group("memory", "memory.peak").or_else(|| group("memory", "memory.max_usage_in_bytes"));
    usage.memory_peak_bytes = peak.and_then(|bytes| bytes.trim().parse().ok());
    let kills = group("memory", "memory.events").or_else(|| group("memory", "memory.oom_control"));
    usage.memory_kills = kills.and_then(|text| groups::counter(&text, "oom_kill"));
    usage.cpu_us = cpu.unwrap_or(usage.cpu_us);
    usage.cpu_pressure = group("cpu", "cpu.pressure").and_then(|text| pressure(&text));
    usage.memory_pressure = group("memory", "memory.pressure").and_then(|text| pressure(&text));
    usage.io_pressure = group("io", "io.pressure").and_then(|text| pressure(&text));
    let network_of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if network_of(&init.to_string()) != network_of("self") {
        (usage.received_bytes, usage.sent_bytes) = network(init).unzip();
    }
    usage
}

/// What the layers of a VM take on the disk, in bytes.
#[must_use]
pub fn disk(record: &VmRecord) -> u64 {
    measure(record.layers_dir.as_path(), &|| false).bytes
}

/// What a tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// On the disk.
    pub bytes: u64,
    /// All of it was measured.
    pub complete: bool,
}

/// A directory that is still to be measured: a name at a time below one that is open.
struct Pending {
    anchor: Rc<Dir>,
    rel: PathBuf,
    depth: usize,
}

/// Adds up a tree of a hostile VM's. `is_enough` ends it early.
pub fn measure(tree: &Path, is_enough: &dyn Fn() -> bool) -> Measured {
    // A directory is reached from the nearest one above it that is open: from the top it would take as long as it is deep.
    const ANCHOR_EVERY: usize = 32;
    let Ok(top) = Dir::open_root(tree) else { return Measured { bytes: 0, complete: true } };
    let (mut left, mut blocks, mut complete) = (ENTRIES_MAX, 0u64, true);
    let mut several_names = std::collections::HashSet::new();
    let mut pending = vec![Pending { anchor: Rc::new(top), rel: PathBuf::new(), depth: 0 }];
    while let Some(Pending { anchor, rel, depth }) = pending.pop() {
        if is_enough() {
            return Measured { bytes: blocks.saturating_mul(512), complete };
        }
        let opened = anchor.beneath(&rel).and_then(|dir| dir.entries(left).map(|entries| (dir, entries)));
        let (dir, entries) = match opened {
            Ok(opened) => opened,
            Err(Errno::TOOBIG) => {
                complete = false;
                continue;
            }
            // It went away meanwhile, is closed, or cannot be read now.
            Err(_) => continue,
        };
        left -= entries.len();
        let mut below = Vec::new();
        for (name, _) in entries {
            let Ok(stat) = dir.stat(Path::new(&name)) else { continue };
            let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
            if stat.stx_nlink > 1 && !is_dir {
                let id = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
                if !several_names.insert(id) {
                    continue;
                }
            }
            blocks = blocks.saturating_add(stat.stx_blocks);
            if is_dir {
                below.push(name);
            }
        }
        let is_anchor = depth % ANCHOR_EVERY == ANCHOR_EVERY - 1;
        let (anchor, rel) = if is_anchor { (Rc::new(dir), PathBuf::new()) } else { (anchor, rel) };
        let next = |name| Pending { anchor: Rc::clone(&anchor), rel: rel.join(name), depth: depth + 1 };
        pending.extend(below.into_iter().map(next));
    }
    Measured { bytes: blocks.saturating_mul(512), complete }
}

fn read(pid: i32, name: &str) -> String {
    std::fs::read(format!("/proc/{pid}/{name}")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// The sum over the processes that live. What their children that ended used is counted with them.
fn of_processes(groups: &Shown<'_>, init: i32) -> Usage {
    let mut usage = Usage::default();
    let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let below = ps::below(groups, init);
    usage.processes = below.len();
    for pid in below.into_iter().chain([init]) {
        let add = |sum: &mut u64, value: u64| *sum = sum.saturating_add(value);
        let stat = read(pid, "stat");
        // Behind the name, which may hold anything: the state is the first field, utime to cstime the 12th to 15th.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = fields.split_whitespace().skip(11).take(4).filter_map(|f| f.parse::<u64>().ok());
        add(&mut usage.cpu_us, ticks.fold(0, u64::saturating_add).saturating_mul(tick_us));
        let statm = read(pid, "statm");
        let mut pages = statm.split_whitespace().skip(1).filter_map(|f| f.parse::<u64>().ok());
        // Resident, without what is the page cache's.
        let (resident, of_files) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        add(&mut usage.memory_bytes, resident.saturating_sub(of_files).saturating_mul(page_bytes));
        let io = read(pid, "io");
        add(&mut usage.read_bytes, groups::counter(&io.replace(':', ""), "read_bytes").unwrap_or(0));
        add(&mut usage.written_bytes, groups::counter(&io.replace(':', ""), "write_bytes").unwrap_or(0));
    }
    usage
}

/// `some avg10=1.23 avg60=...`.
fn pressure(text: &str) -> Option<u64> {
    let (_, rest) = text.lines().find(|line| line.starts_with("some "))?.split_once("avg10=")?;
    rest.split('.').next()?.parse().ok()
}

/// Received and sent by all interfaces but the loopback.
fn network(init: i32) -> Option<(u64, u64)> {
    let text = read(init, "net/dev");
    let mut sums = (0u64, 0u64);
    for line in text.lines().skip(2) {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|c| c.parse().ok()).collect();
        if name.trim() != "lo"
            && let (Some(received), Some(sent)) = (counts.first(), counts.get(8))
        {
            sums = (sums.0.saturating_add(*received), sums.1.saturating_add(*sent));
        }
    }
    (!text.is_empty()).then_some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_that_of_the_last_ten_seconds() {
        let text = "some avg10=12.34 avg60=5.00 avg300=1.00 total=99\nfull avg10=7.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!((pressure(text), pressure("")), (Some(12), None));
    }

    #[test]
    fn a_deep_tree_is_measured_to_the_end_and_a_wide_one_says_that_it_is_not() {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        let tmp = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut dir = openat(CWD, tmp.path(), flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
        }
        let file = openat(&dir, "f", OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).unwrap();
        rustix::io::write(&file, &[1; 100_000]).unwrap();
        rustix::fs::fsync(&file).unwrap();
        let began = std::time::Instant::now();
        let all = measure(tmp.path(), &|| false);
        assert!(all.complete && all.bytes >= 100_000, "{all:?}");
        eprintln!("3,000 levels took {:?}", began.elapsed());
        let looks = std::cell::Cell::new(0);
        let some = measure(tmp.path(), &|| looks.replace(looks.get() + 1) > 10);
        assert!(some.bytes < all.bytes);
        Dir::open_root(tmp.path()).unwrap().remove_tree(Path::new("d")).unwrap();
    }

    #[test]
    fn a_process_that_lives_uses_memory() {
        let me = std::process::id().cast_signed();
        let id = VmId::from_random([7; 6]);
        assert!(of_processes(&Shown::of(&id), me).memory_bytes > 50_000);
        assert!(network(me).is_some());
    }
}
