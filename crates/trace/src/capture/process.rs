//! The processes of a VM, as far as they did something: who a thread is, and who made it.
//!
//! ```text
//!   thread of a call ─► process known and alive? ── no ─► /proc ─► Process, and its makers, as far as they live
//!   execution  ─► stale: looked at again before its next event; another image: exec, done
//!   exit       ─► its children are noted while they still are its children
//!   killed     ─► its descriptor says so
//! ```
//!
//! Invariants: a number that the kernel gave away again is never taken for the former process (a descriptor of the process
//! is held, or its start is compared); the table is bounded; whoever made a process is never guessed.

use super::kin::Kin;
use super::numbers::Numbers;
use super::own::Own;
use super::proc::{self, Program, Stat, Status};
use fvm_model::event::ProcessKey;
use fvm_model::path::Bytes;
use fvm_sys::peek::is_thread_of;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Processes that are known at a time.
const KNOWN_MAX: usize = 16 << 10;
/// How far makers are looked for.
const DEPTH_MAX: usize = 64;
/// The program of a process that is fvm itself, before it becomes what was asked for.
pub const OURS: &str = "[fvm]";
/// What that executes on its way ([`fvm_sys::exec`]).
const STUB: &[u8] = b"/memfd:run (deleted)";

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Which, for all time.
    pub key: ProcessKey,
    /// Who made it; 0: nobody in the VM, or unknown.
    pub ppid: u32,
    /// The leader of its session.
    pub sid: u32,
    /// Its user, as the VM numbers it.
    pub uid: u32,
    /// Its program.
    pub exe: Bytes,
    /// Its name.
    pub comm: Bytes,
    /// It is fvm itself still.
    pub ours: bool,
    /// It has other mounts than the VM, or a thread of it may.
    pub foreign: bool,
    scattered: bool,
    /// Its root directory, as the VM names it, if it has another than the VM.
    pub root: Vec<u8>,
    handle: Option<OwnedFd>,
    ticks: u64,
    image: (u64, u64),
    /// Its other threads: the VM's numbers for them.
    threads: HashMap<i32, u32>,
    /// This thread of it asked to execute something; whether it did is not known yet.
    asked: Option<u32>,
}

#[cfg(test)]
impl Process {
    /// One of this number in the VM, of which nothing else is known.
    pub fn with_number(tgid: u32) -> Self {
        Self {
            key: ProcessKey { tgid, start_ns: 1 },
            ppid: 0,
            sid: 0,
            uid: 0,
            exe: bytes(Vec::new()),
            comm: bytes(Vec::new()),
            ours: false,
            foreign: false,
            scattered: false,
            root: Vec::new(),
            handle: None,
            ticks: 0,
            image: (0, 0),
            threads: HashMap::new(),
            asked: None,
        }
    }
}

/// Who made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A process that is known now, and its thread as the VM numbers it.
    Known {
        /// As the tracer numbers it.
        pid: i32,
        /// As the VM numbers it.
        tid: u32,
    },
    /// Init.
    Init,
    /// It is gone.
    Gone,
}

/// What a look at a process that may have changed has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It is the same program.
    Same,
    /// It is another one; so many names its file has.
    Executed(Option<u32>),
}

/// The processes that are known.
#[derive(Debug)]
pub struct Processes {
    numbers: Numbers,
    own: Own,
    kin: Kin,
    known: HashMap<i32, Process>,
    /// Thread → process.
    threads: HashMap<i32, i32>,
    handles_max: usize,
    handles: usize,
    /// Those that may be another program by now, or elsewhere, and how often they are looked at still.
    stale: BTreeMap<i32, u8>,
    /// Known now, and not by an event of their own.
    noted: Vec<i32>,
    known_max: usize,
    /// Ended, and made room already.
    ended: Vec<(i32, Process)>,
    /// Dropped while they lived.
    dropped: u64,
}

impl Processes {
    /// None yet. `handles_max`: how many descriptors may be held.
    #[must_use]
    pub fn new(numbers: Numbers, handles_max: usize) -> Self {
        let (known, threads) = (HashMap::new(), HashMap::new());
        let own = Own::of(numbers.init);
        Self {
            numbers,
            own,
            kin: Kin::default(),
            known,
            threads,
            handles_max,
            handles: 0,
            stale: BTreeMap::new(),
            noted: Vec::new(),
            known_max: KNOWN_MAX,
            ended: Vec::new(),
            dropped: 0,
        }
    }

    /// A process that is known.
    #[must_use]
    pub fn get(&self, pid: i32) -> Option<&Process> {
        self.known.get(&pid)
    }

    /// Those that were noted since this was asked last.
    pub fn take_noted(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.noted)
    }

    /// Who thread `tid` is.
    pub fn caller(&mut self, tid: i32) -> Caller {
        if tid == self.numbers.init {
            return Caller::Init;
        }
        if self.is_there(tid) {
            return self.known.get(&tid).map_or(Caller::Gone, |p| Caller::Known { pid: tid, tid: p.key.tgid });
        }
        if let Some(pid) = self.threads.get(&tid).copied()
            && self.is_there(pid)
            && is_thread_of(pid, tid)
            && let Some(inside) = self.known.get(&pid).and_then(|p| p.threads.get(&tid))
        {
            return Caller::Known { pid, tid: *inside };
        }
        let Some(status) = proc::status(tid) else { return Caller::Gone };
        let (pid, inside) = (status.tgid, self.numbers.inside(&status.numbers));
        if pid == self.numbers.init {
            return Caller::Init;
        }
        if !self.is_there(pid) && !self.load(pid, (pid == tid).then_some(status), DEPTH_MAX) {
            return Caller::Gone;
        }
        if pid != tid {
            self.threads.insert(tid, pid);
            if let Some(process) = self.known.get_mut(&pid) {
                process.threads.insert(tid, inside);
            }
        }
        Caller::Known { pid, tid: inside }
    }

    /// Whether `pid` is known, and is the process that is known by it.
    fn is_there(&mut self, pid: i32) -> bool {
        let Some(process) = self.known.get(&pid) else { return false };
        let alive = match &process.handle {
            Some(handle) => is_alive(handle),
            None => proc::stat(pid).is_some_and(|stat| stat.start_ticks == process.ticks),
        };
        if !alive {
            self.forget(pid);
        }
        alive
    }

    /// Takes `pid` and its makers into the table; whether it is there.
    fn load(&mut self, pid: i32, status: Option<Status>, depth: usize) -> bool {
        if self.known.len() >= self.known_max {
            self.make_room();
        }
        let held = self.handles < self.handles_max;
        // Before the look: what is read is then its own.
        let handle = Pid::from_raw(pid).filter(|_| held);
        let handle = handle.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let (Some(stat), Some(status)) = (proc::stat(pid), status.or_else(|| proc::status(pid))) else { return false };
        let (ppid, child_of_ours) = self.maker(&stat, depth);
        let exe = proc::program(pid);
        let ours = child_of_ours && self.is_fvm(pid, &exe, &stat);
        if !ours && exe == Program::Hidden {
            self.own.stranger_hides();
        }
        let tgid = self.numbers.inside(&status.numbers);
        let start_ns = self.start_ns(stat.start_ticks) + self.kin.more(tgid, pid, stat.start_ticks);
        let process = Process {
            key: ProcessKey { tgid, start_ns },
            ppid,
            sid: self.numbers.inside(&status.sessions),
            uid: self.numbers.user(status.uid),
            exe: if ours { Bytes(OURS.into()) } else { program(exe) },
            comm: bytes(stat.comm),
            ours,
            foreign: false,
            scattered: false,
            root: Vec::new(),
            ticks: stat.start_ticks,
            image: stat.image,
            threads: HashMap::new(),
            asked: None,
            handle,
        };
        if handle_alive(&process) {
            self.handles += usize::from(process.handle.is_some());
            self.known.insert(pid, process);
            self.place(pid);
            true
        } else {
            false
        }
    }

    /// The VM's number of whoever made a process, and whether that is fvm.
    fn maker(&mut self, stat: &Stat, depth: usize) -> (u32, bool) {
        let ppid = stat.ppid;
        if let Some(maker) = self.kin.maker(ppid, stat.start_ticks) {
            return (maker, false);
        }
        if ppid == self.numbers.init {
            return (0, true);
        }
        if depth > 0 && ppid > 0 && !self.is_there(ppid) {
            // Outside the VM there is no process of it: its numbers are too few.
            let status = proc::status(ppid).filter(|status| status.numbers.len() > self.numbers.level);
            if status.is_some() && self.load(ppid, status, depth - 1) {
                self.noted.push(ppid);
            }
        }
        match self.known.get(&ppid) {
            Some(maker) if maker.ours => (0, true),
            Some(maker) => (maker.key.tgid, false),
            None => (0, false),
        }
    }

    /// Whether a child of init's, or of another such, is fvm still.
    fn is_fvm(&mut self, pid: i32, exe: &Program, stat: &Stat) -> bool {
        if *exe == Program::Hidden && self.stale.keys().any(|pid| proc::program(*pid) == Program::Hidden) {
            // It executed something, and was not looked at since.
            self.own.stranger_hides();
        }
        let init = proc::stat(self.numbers.init).unwrap_or_default();
        self.own.is(pid, exe, stat, &init.comm)
    }

    /// Which mounts and root directory it has.
    fn place(&mut self, pid: i32) {
        let Some(process) = self.known.get_mut(&pid) else { return };
        let mounts = rustix::fs::stat(format!("/proc/{pid}/ns/mnt")).ok().map(|stat| stat.st_ino);
        let is_other = matches!((mounts, self.numbers.mounts), (Some(own), Some(vm)) if own != vm);
        process.foreign = is_other || process.scattered;
        process.root = proc::link(pid, "root").filter(|root| root != b"/").unwrap_or_default();
    }

    fn start_ns(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(1_000_000_000 / self.numbers.ticks)
    }

    /// What it is known to be may not be so any more, or soon.
    pub fn mark_stale(&mut self, pid: i32) {
        /// A second of ticks: an execution may take its time, or fail.
        const LOOKS: u8 = 10;
        self.stale.insert(pid, LOOKS);
    }

    /// Its thread `tid` asks to execute something: what it is by then shows at the latest when it does something again.
    pub fn asks(&mut self, pid: i32, tid: u32) {
        self.mark_stale(pid);
        if let Some(process) = self.known.get_mut(&pid) {
            process.asked = Some(tid);
        }
    }

    /// Whether it is to be looked at before anything that it does now is taken for its program's.
    #[must_use]
    pub fn is_in_doubt(&self, pid: i32) -> bool {
        self.known.get(&pid).is_some_and(|process| process.asked.is_some())
    }

    /// Thread `tid` does something: what it asked to execute, it did not.
    pub fn goes_on(&mut self, pid: i32, tid: u32) {
        if let Some(process) = self.known.get_mut(&pid)
            && process.asked == Some(tid)
        {
            process.asked = None;
        }
    }

    /// A thread of several takes other mounts or another root: what paths mean differs between them until it executes something.
    pub fn scatter(&mut self, pid: i32) {
        if let Some(process) = self.known.get_mut(&pid) {
            (process.scattered, process.foreign) = (true, true);
        }
    }

    /// It makes a child that is to be its own maker's.
    pub fn makes_sibling(&mut self, pid: i32) {
        let Some((stat, maker)) = proc::stat(pid).zip(self.known.get(&pid).map(|process| process.key.tgid)) else {
            return;
        };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (secs, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
        let ticks = secs * self.numbers.ticks + nanos / (1_000_000_000 / self.numbers.ticks);
        self.kin.makes_sibling(stat.ppid, maker, ticks);
    }

    /// How many were dropped while they lived since this was asked last: who made whom is not known of all then.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Those that may have changed.
    #[must_use]
    pub fn stale(&self) -> Vec<i32> {
        self.stale.keys().copied().collect()
    }

    /// Whether there are such.
    #[must_use]
    pub fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// How many are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Looks again at a process that may have changed.
    pub fn renew(&mut self, pid: i32) -> Renewed {
        let is_in_doubt = self.is_in_doubt(pid);
        match self.stale.get_mut(&pid) {
            Some(looks) => {
                *looks -= 1;
                if *looks == 0 {
                    self.stale.remove(&pid);
                }
            }
            None if is_in_doubt => {}
            None => return Renewed::Same,
        }
        let Some(process) = self.known.get_mut(&pid) else {
            self.stale.remove(&pid);
            return Renewed::Same;
        };
        let (Some(stat), Some(status)) = (proc::stat(pid), proc::status(pid)) else { return Renewed::Same };
        process.comm = bytes(stat.comm);
        process.uid = self.numbers.user(status.uid);
        process.sid = self.numbers.inside(&status.sessions);
        let exe = proc::program(pid);
        let executed = stat.image != process.image || matches!(&exe, Program::At(exe) if !same(&process.exe, exe));
        process.image = stat.image;
        let was_ours = process.ours;
        if executed {
            (process.ours, process.asked, process.scattered) = (false, None, false);
            process.threads.clear();
            let is_stub = was_ours && matches!(&exe, Program::At(exe) if exe == STUB);
            if exe == Program::Hidden {
                self.own.stranger_hides();
            }
            // One that may not be looked at is not what it was.
            process.exe = if is_stub { Bytes(OURS.into()) } else { program(exe) };
            if is_stub {
                self.stale.remove(&pid);
                self.place(pid);
                return Renewed::Same;
            }
        }
        self.place(pid);
        if !executed {
            return Renewed::Same;
        }
        self.stale.remove(&pid);
        let links = rustix::fs::stat(format!("/proc/{pid}/exe")).ok();
        let links = links.map(|stat| u32::try_from(stat.st_nlink).unwrap_or(u32::MAX));
        Renewed::Executed(links)
    }

    /// Notes the children of a process that is about to end.
    pub fn note_children(&mut self, pid: i32) {
        /// So many of one process are noted.
        const CHILDREN_MAX: usize = 1024;
        let threads = proc::stat(pid).map_or(1, |stat| stat.threads);
        for child in proc::children(pid, threads).into_iter().take(CHILDREN_MAX) {
            if child != self.numbers.init && !self.is_there(child) && self.load(child, None, 1) {
                self.noted.push(child);
            }
        }
    }

    /// Whether the thread is the last of its process.
    #[must_use]
    pub fn is_alone(&self, pid: i32) -> bool {
        proc::stat(pid).is_none_or(|stat| stat.threads <= 1)
    }

    /// Drops those that ended without saying so, and returns them.
    pub fn take_ended(&mut self) -> Vec<(i32, Process)> {
        let ended = |(pid, process): (&i32, &Process)| match &process.handle {
            Some(handle) => (!is_alive(handle)).then_some(*pid),
            None => proc::stat(*pid).is_none_or(|stat| stat.start_ticks != process.ticks).then_some(*pid),
        };
        let ended: Vec<i32> = self.known.iter().filter_map(ended).collect();
        if ended.iter().any(|pid| self.stale.contains_key(pid)) {
            // What it had executed is not known.
            self.own.stranger_hides();
        }
        let ended: Vec<(i32, Process)> = ended.into_iter().filter_map(|pid| Some((pid, self.forget(pid)?))).collect();
        self.ended.drain(..).chain(ended).collect()
    }

    /// Drops one that has ended.
    pub fn forget(&mut self, pid: i32) -> Option<Process> {
        let process = self.known.remove(&pid)?;
        self.stale.remove(&pid);
        self.handles -= usize::from(process.handle.is_some());
        for tid in process.threads.keys() {
            self.threads.remove(tid);
        }
        Some(process)
    }

    /// What is dropped here is loaded again when it does something; its maker may be gone by then.
    fn make_room(&mut self) {
        let mut ended = self.take_ended();
        ended.truncate(KNOWN_MAX);
        self.ended = ended;
        if self.known.len() < self.known_max {
            return;
        }
        let pids: Vec<i32> = self.known.keys().copied().take((self.known_max / 4).max(1)).collect();
        self.dropped += pids.len() as u64;
        pids.into_iter().for_each(|pid| drop(self.forget(pid)));
    }
}

fn handle_alive(process: &Process) -> bool {
    process.handle.as_ref().is_none_or(is_alive)
}

fn is_alive(handle: &OwnedFd) -> bool {
    // Of an ended process that was not waited for the number is not given away: it counts as alive.
    fvm_sys::peek::is_there(handle)
}

fn bytes(text: Vec<u8>) -> Bytes {
    Bytes(OsString::from_vec(text))
}

const DELETED: &[u8] = b" (deleted)";

/// The file of a program, as `/proc` names it; empty where it cannot.
fn program(exe: Program) -> Bytes {
    let Program::At(mut link) = exe else { return bytes(Vec::new()) };
    if link.ends_with(DELETED) {
        link.truncate(link.len() - DELETED.len());
    }
    bytes(link)
}

fn same(known: &Bytes, link: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    known.0.as_bytes() == link.strip_suffix(DELETED).unwrap_or(link) || known.0 == OURS
}

#[cfg(test)]
mod tests;
