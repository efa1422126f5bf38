//! Limits of a VM that runs, changed at once.
//!
//! ```text
//!   limits before, after ─► steps ─► each: read what is there, write ─► the VM moves into groups that are new
//!                                       │ refused
//!                                       └─► what was written is written back, the last first
//! ```
//!
//! Invariants: all of it or nothing; a new group has its limits before anybody is in it; memory is never limited below
//! what cannot be freed, so that nothing is killed for it, and nobody waits for it without end.

use super::{Disks, Groups, Setting, Trees, Version, disks, enable, gather, make, place, settings};
use crate::error::VmError;
use crate::ps;
use fvm_model::VmId;
use fvm_model::policy::Limits;
use fvm_model::policy::limits::show_size;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};
use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to free memory, and the VM's processes to be moved.
const LONGEST: Duration = Duration::from_secs(10);
/// Version 1: the limits of memory, and of memory and swap together. The second is never below the first.
const MEMORY_ONE: [&str; 2] = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
/// Version 2.
const MEMORY_TWO: &str = "memory.max";

/// A group that was made for a VM that runs.
struct New {
    dir: PathBuf,
    /// Where its processes were.
    from: PathBuf,
}

/// Makes the limits of a running VM of root's those of `to`, which were those of `from`.
///
/// # Errors
/// [`VmError::Limit`]; then everything is as it was.
pub(crate) fn change(
    held: &mut Option<Groups>,
    id: &VmId,
    init: i32,
    from: &Limits,
    to: &Limits,
) -> Result<(), VmError> {
    let trees = Trees::look();
    let disks = from.io_weight.or(to.io_weight).map(|_| disks(&trees)).transpose();
    let disks = disks.map_err(|why| VmError::Limit { what: "io_weight".into(), why })?;
    let steps = steps(from, to, disks, |controller| trees.version(controller))?;
    let mut dirs = held.as_ref().map(|groups| groups.dirs.clone()).unwrap_or_default();
    let mut change = Change { trees, id, init, new: Vec::new(), written: Vec::new() };
    match change.carry_out(&steps, &mut dirs) {
        Ok(()) => {
            if !dirs.is_empty() {
                held.get_or_insert(Groups { id: id.clone(), dirs: Vec::new() }).dirs = dirs;
            }
            Ok(())
        }
        Err((what, why)) => {
            let why = change.take_back().map_or(why.clone(), |also| format!("{why}; and {also}"));
            Err(VmError::Limit { what, why })
        }
    }
}

/// What has to be written, in order.
fn steps(
    from: &Limits,
    to: &Limits,
    disks: Option<Disks>,
    version: impl Fn(&str) -> Version,
) -> Result<Vec<Setting>, VmError> {
    let (before, after) = (settings(from, &[], disks, &version), settings(to, &[], disks, &version));
    let mut steps: Vec<Setting> = after.iter().filter(|setting| !before.contains(setting)).cloned().collect();
    for gone in before.iter().filter(|old| !after.iter().any(|new| new.file == old.file)) {
        let value = match gone.file {
            // It only means something beside a quota.
            "cpu.cfs_period_us" => continue,
            "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes" | "cpu.cfs_quota_us" => "-1",
            "memory.max" | "memory.swap.max" | "pids.max" => "max",
            "cpu.max" => "max 100000",
            "cpu.shares" => "1024",
            "cpu.weight" | "io.weight" | "io.bfq.weight" | "blkio.bfq.weight" | "blkio.weight" => "100",
            other => return Err(VmError::Internal(format!("nobody knows how to write no limit to {other}"))),
        };
        steps.push(Setting { value: value.to_owned(), ..gone.clone() });
    }
    Ok(steps)
}

/// Bytes as version 1 writes them; -1, and what is not there, is no limit.
fn bytes(text: &str) -> u64 {
    text.trim().parse().unwrap_or(u64::MAX)
}

/// A change on its way.
struct Change<'a> {
    trees: Trees,
    id: &'a VmId,
    init: i32,
    new: Vec<New>,
    /// Where, and what was there.
    written: Vec<(PathBuf, String)>,
}

impl Change<'_> {
    /// On failure says what of it failed, and why.
    fn carry_out(&mut self, steps: &[Setting], dirs: &mut Vec<PathBuf>) -> Result<(), (String, String)> {
        let mut steps: Vec<(PathBuf, &Setting)> = steps
            .iter()
            .map(|step| self.group(step.controller, dirs).map(|dir| (dir, step)).map_err(|why| (step.file.into(), why)))
            .collect::<Result<_, _>>()?;
        put_memory_in_order(&mut steps);
        for (dir, step) in &steps {
            self.write(dir, step).map_err(|why| (step.file.to_owned(), why))?;
        }
        let until = Instant::now() + LONGEST;
        let moved = self.new.iter().try_for_each(|new| gather(&new.dir, self.init, until));
        moved.map_err(|why| ("control groups".to_owned(), why))
    }

    /// The VM's group in the tree of `controller`; made when it is not there.
    fn group(&mut self, controller: &'static str, dirs: &mut Vec<PathBuf>) -> Result<PathBuf, String> {
        let root = self.trees.root(controller);
        let root = root.ok_or_else(|| format!("no control groups for '{controller}' are mounted; see 'fvm doctor'"))?;
        let root = root.to_path_buf();
        let dir = place(&root, self.id.as_str());
        let version = self.trees.version(controller);
        if version == Version::Two {
            enable(&root, controller)?;
        }
        if !dirs.contains(&dir) {
            let from = origin(&root, version, controller, self.init);
            match make(&dir) {
                Ok(()) => self.new.push(New { dir: dir.clone(), from }),
                // Once suspended, the VM stays in a group of this name.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && from == dir => {}
                Err(e) => return Err(format!("cannot make the control group {}: {e}", dir.display())),
            }
            dirs.push(dir.clone());
        }
        Ok(dir)
    }

    fn write(&mut self, dir: &Path, step: &Setting) -> Result<(), String> {
        let path = dir.join(step.file);
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(e) if step.optional && e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
        };
        let failed = |e: &Error| {
            let busy = e.raw_os_error() == Some(Errno::BUSY.raw_os_error());
            if busy { too_little(dir, &step.value) } else { format!("cannot write '{}' there: {e}", step.value) }
        };
        let _slowed = if step.file == MEMORY_TWO { Some(make_room(dir, &step.value)?) } else { None };
        self.written.push((path.clone(), before.clone()));
        let lowers_one = MEMORY_ONE.contains(&step.file) && step.value != "-1";
        let done =
            if lowers_one { in_time(path, step.value.clone(), before) } else { std::fs::write(&path, &step.value) };
        done.map_err(|e| failed(&e))
    }

    /// Says what could not be taken back.
    fn take_back(&mut self) -> Option<String> {
        let mut failed = None;
        for (path, before) in self.written.drain(..).rev() {
            // Of a group that goes away it does not matter.
            let goes = self.new.iter().any(|new| path.starts_with(&new.dir));
            if let (false, Err(e)) = (goes, std::fs::write(&path, &before)) {
                failed = Some(format!("cannot write '{before}' back to {}: {e}", path.display()));
            }
        }
        for new in self.new.drain(..) {
            if let Err(why) = gather(&new.from, self.init, Instant::now() + LONGEST) {
                failed = Some(why);
            }
            super::remove(&new.dir);
        }
        failed
    }
}

/// Version 1: when both limits rise, that of memory and swap together first.
fn put_memory_in_order(steps: &mut [(PathBuf, &Setting)]) {
    let at = MEMORY_ONE.map(|file| steps.iter().position(|(_, step)| step.file == file));
    if let [Some(memory), Some(both)] = at {
        let now = std::fs::read_to_string(steps[both].0.join(MEMORY_ONE[1])).unwrap_or_default();
        let rises = bytes(&steps[both].1.value) >= bytes(&now);
        if rises == (memory < both) {
            steps.swap(memory, both);
        }
    }
}

/// The group in which a process is.
fn origin(root: &Path, version: Version, controller: &str, pid: i32) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let inside = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = match version {
            Version::One => controllers.split(',').any(|name| name == controller),
            Version::Two => controllers.is_empty(),
        };
        // One above the root of our own view cannot be named.
        is_it.then(|| path.trim_start_matches('/').to_owned()).filter(|path| !path.starts_with(".."))
    });
    inside.map_or_else(|| root.to_path_buf(), |path| if path.is_empty() { root.to_path_buf() } else { root.join(path) })
}

/// Why memory cannot be limited to `value`.
fn too_little(dir: &Path, value: &str) -> String {
    let used =
        ["memory.usage_in_bytes", "memory.current"].iter().find_map(|f| std::fs::read_to_string(dir.join(f)).ok());
    let used = used.map_or_else(String::new, |text| format!(" (it uses {} MiB)", bytes(&text) >> 20));
    let value = value.parse().map_or_else(|_| value.to_owned(), show_size);
    format!("the VM uses more than {value} now{used}, and that cannot be freed: end programs in it, or give it more")
}

/// Version 2: what a VM of which memory is taken away is slowed down at; gone when dropped.
struct Slowed(Option<PathBuf>);

impl Drop for Slowed {
    fn drop(&mut self) {
        if let Some(high) = &self.0 {
            let _ended = std::fs::write(high, "max");
        }
    }
}

/// Version 2 limits memory below what is used too, and then kills. What can be freed is freed before, and the VM held
/// there until the limit is set.
fn make_room(dir: &Path, value: &str) -> Result<Slowed, String> {
    /// Each tries to free it many times.
    const TRIES: u32 = 3;
    let Ok(wanted) = value.parse::<u64>() else { return Ok(Slowed(None)) };
    let used = || std::fs::read_to_string(dir.join("memory.current")).map_or(0, |text| bytes(&text));
    if used() <= wanted {
        return Ok(Slowed(None));
    }
    let high = dir.join("memory.high");
    let slowed = Slowed(Some(high.clone()));
    for _ in 0..TRIES {
        std::fs::write(&high, value).map_err(|e| format!("cannot write '{value}' to {}: {e}", high.display()))?;
        if used() <= wanted {
            return Ok(slowed);
        }
    }
    Err(too_little(dir, value))
}

/// Version 1 frees what it can and then refuses; while the VM fills up what is freed, it could go on for ever. After a
/// while that is a refusal too, and if it comes to an end later, what was there `before` is written again.
fn in_time(path: PathBuf, value: String, before: String) -> Result<(), Error> {
    let (said, told) = std::sync::mpsc::channel();
    let write = move || {
        if said.send(std::fs::write(&path, &value)).is_err() {
            let _ended = std::fs::write(&path, &before);
        }
    };
    // It ends at the latest with the VM.
    drop(std::thread::Builder::new().spawn(write)?);
    told.recv_timeout(LONGEST).unwrap_or_else(|_| Err(Errno::BUSY.into()))
}

/// The same for a VM of an ordinary user's, of which only the number of processes is limited: for each of them, for good.
///
/// # Errors
/// In words.
pub(crate) fn lower_processes(init: i32, most: u32) -> Result<(), String> {
    let limit = || Rlimit { current: Some(most.into()), maximum: Some(most.into()) };
    let until = Instant::now() + LONGEST;
    let mut done = BTreeSet::new();
    let mut clean = 0;
    // Who is born meanwhile of one that is done has the limit too.
    while clean < 2 {
        let all = ps::descendants(init).into_iter().chain([init]);
        let left: Vec<i32> = all.filter(|pid| !done.contains(pid)).collect();
        clean = if left.is_empty() { clean + 1 } else { 0 };
        if Instant::now() > until {
            return Err("its processes make others faster than they can be limited".into());
        }
        for pid in left {
            let set = Pid::from_raw(pid).map(|pid| rustix::process::prlimit(Some(pid), Resource::Nproc, limit()));
            match set {
                None | Some(Ok(_) | Err(Errno::SRCH)) => drop(done.insert(pid)),
                Some(Err(e)) => return Err(format!("cannot limit its process {pid}: {e}")),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(from: &Limits, to: &Limits, version: Version) -> Vec<String> {
        let steps = steps(from, to, None, |_| version).unwrap();
        steps.iter().map(|step| format!("{}={}", step.file, step.value)).collect()
    }

    fn all() -> Limits {
        let (memory_bytes, pids) = (Some(64 << 20), Some(32));
        Limits { memory_bytes, cpu_milli: Some(500), cpu_weight: Some(50), pids, ..Limits::default() }
    }

    #[test]
    fn only_what_differs_is_written_and_what_is_gone_is_unlimited() {
        let fewer = Limits { pids: Some(16), ..all() };
        assert_eq!(written(&all(), &fewer, Version::One), ["pids.max=16"]);
        assert!(written(&all(), &all(), Version::Two).is_empty());
        assert_eq!(
            written(&all(), &Limits::default(), Version::Two),
            ["memory.max=max", "memory.swap.max=max", "cpu.max=max 100000", "cpu.weight=100", "pids.max=max"]
        );
        assert_eq!(
            written(&all(), &Limits::default(), Version::One),
            [
                "memory.limit_in_bytes=-1",
                "memory.memsw.limit_in_bytes=-1",
                "cpu.cfs_quota_us=-1",
                "cpu.shares=1024",
                "pids.max=max"
            ]
        );
        assert_eq!(written(&Limits::default(), &all(), Version::Two).len(), 5);
    }

    #[test]
    fn a_vm_that_uses_more_is_not_limited_and_not_slowed_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let high = dir.path().join("memory.high");
        std::fs::write(dir.path().join("memory.current"), format!("{}\n", 20 << 20)).unwrap();
        let refused = make_room(dir.path(), &(16 << 20).to_string()).err().unwrap();
        assert!(refused.contains("more than 16M now (it uses 20 MiB)"), "{refused}");
        assert_eq!(std::fs::read_to_string(&high).unwrap(), "max");
        std::fs::remove_file(&high).unwrap();
        for fits in ["max", "20971520"] {
            drop(make_room(dir.path(), fits).unwrap());
            assert!(!high.exists(), "{fits}");
        }
    }

    #[test]
    fn memory_with_swap_rises_first_and_falls_last() {
        let order = |now: &str, from: u64, to: u64| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(MEMORY_ONE[1]), now).unwrap();
            let limits = |mib: u64| Limits { memory_bytes: (mib > 0).then_some(mib << 20), ..Limits::default() };
            let steps = steps(&limits(from), &limits(to), None, |_| Version::One).unwrap();
            let mut placed: Vec<_> = steps.iter().map(|step| (dir.path().to_path_buf(), step)).collect();
            put_memory_in_order(&mut placed);
            placed[0].1.file
        };
        let mib = |n: u64| format!("{}\n", n << 20);
        let unlimited = "9223372036854771712\n";
        assert_eq!(order(&mib(64), 64, 128), MEMORY_ONE[1]);
        assert_eq!(order(&mib(64), 64, 0), MEMORY_ONE[1]);
        assert_eq!(order(&mib(64), 64, 32), MEMORY_ONE[0]);
        assert_eq!(order(unlimited, 0, 64), MEMORY_ONE[0]);
    }
}
