//! Limits of an ordinary user's VM: a transient scope of the user's own systemd.
//!
//! ```text
//!   keeper ─ fork ─► anchor   sleeps in the scope, so that it is there until its counters were read
//!      ├──── fork ─► asker    StartTransientUnit(fvm-<id>.scope, PIDs = anchor + init, MemoryMax, ...) ──► systemd --user
//!      │              │  ends when init is in the scope, and the scope has the controllers
//!      └── clone ─► init      waits until then; then makes its cgroup namespace, and everything else of the VM
//! ```
//!
//! The bus is spoken by a process of its own, because zbus has threads, and who clones init must have one. It is the user's bus,
//! not systemd's own socket: there systemd signs as `org.freedesktop.systemd1`, which zbus takes for no sender's name.
//!
//! systemd removes a scope's control group as soon as nobody is in it, and with it the number of processes that the kernel
//! killed or refused; a descriptor of its files is no help, for they are then gone, not only nameless. So a process that does
//! nothing stays in it until the keeper has read them. It is the smallest one there, so the last that the kernel kills, and
//! counted out of the limit of processes. `Delegate` keeps systemd from ending the whole scope for one killed process.
//!
//! Invariants: nothing of the VM runs before init is in the scope; a limit that systemd took and the kernel does not hold,
//! for want of a controller, is an error; where only processes are limited and systemd cannot do it, `RLIMIT_NPROC` does; whatever
//! fails, neither scope nor process is left; no environment variable is read.

mod systemd;

use systemd::{Ways, set};

use crate::error::VmError;
use crate::groups;
use crate::launch::die_with_parent;
use fvm_host::manager::{NO_BUS, Place, places};
use fvm_host::{DELEGATE, UserManager};
use fvm_model::VmId;
use fvm_model::policy::Limits;
use fvm_sys::process::{self, Fork};
use fvm_sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};

/// How long the keeper waits for the asker: longer, so that it hears why.
const ANSWER_MAX_S: i64 = 15;
/// Longest answer of an asker.
const ANSWER_MAX_BYTES: usize = 1024;

/// What the scope of a VM is called.
#[must_use]
pub fn name(id: &str) -> String {
    format!("fvm-{id}.scope")
}

/// The controller that a limit needs; `None`: it is no matter of control groups.
fn controller(limit: &str) -> Option<&'static str> {
    match limit {
        "memory" | "swap" => Some("memory"),
        "cpus" | "cpu_weight" => Some("cpu"),
        "pids" => Some("pids"),
        "io_weight" => Some("io"),
        _ => None,
    }
}

/// The limits that are set and that need a controller, with it.
fn wanted(limits: &Limits) -> Vec<(&'static str, &'static str)> {
    let set = limits.entries().into_iter().filter(|(_, value)| value.is_some());
    set.filter_map(|(limit, _)| Some((limit, controller(limit)?))).collect()
}

/// The limits that cannot be held for a user with this systemd, each with why.
#[must_use]
pub fn unenforced(limits: &Limits, manager: Option<&UserManager>) -> Vec<(&'static str, String)> {
    let Some(manager) = manager else { return groups::unenforced(limits, false) };
    // Processes can be counted without.
    let lacking = wanted(limits).into_iter().filter(|(_, name)| *name != "pids" && !manager.can(name));
    let why = |name| if manager.bus { lacks(name) } else { NO_BUS.into() };
    lacking.map(|(limit, name)| (limit, why(name))).collect()
}

/// The limits that a scope holds: processes are left to `RLIMIT_NPROC` where systemd cannot count them.
fn held(limits: &Limits, manager: &UserManager) -> Limits {
    Limits { pids: limits.pids.filter(|_| manager.can("pids")), ..*limits }
}

fn lacks(controller: &str) -> String {
    format!("this user's systemd has no controller '{controller}'; {DELEGATE}")
}

/// The control groups of a VM's scope, one in each tree in which it has one; `pid` is in it.
#[must_use]
pub fn places_in(name: &str, pid: i32) -> Vec<Place> {
    places(pid).into_iter().filter(|place| place.dir.ends_with(name)).collect()
}

/// The controllers that hold in these groups.
fn controllers(places: &[Place]) -> Vec<String> {
    let of = |place: &Place| -> Vec<String> {
        if !place.controllers.is_empty() {
            return place.controllers.clone();
        }
        let text = std::fs::read_to_string(place.dir.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(ToOwned::to_owned).collect()
    };
    places.iter().flat_map(of).collect()
}

/// Where whoever clones init has it put into the scope.
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// Returns when `init`, as the host numbers it, is in the scope.
    ///
    /// # Errors
    /// In words.
    pub fn admit(&self, init: Pid) -> Result<(), String> {
        let words = |e: Errno| format!("cannot reach who asks this user's systemd: {e}");
        socket::send(&self.0, init.as_raw_nonzero().to_string().as_bytes(), &[]).map_err(words)?;
        answer(&self.0)
    }
}

impl AsRawFd for Gate {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn answer(from: &OwnedFd) -> Result<(), String> {
    let wait = rustix::time::Timespec { tv_sec: ANSWER_MAX_S, tv_nsec: 0 };
    let came = loop {
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&wait)) {
            Err(Errno::INTR) => {}
            other => break other.map_err(|e| format!("cannot wait for this user's systemd: {e}"))?,
        }
    };
    if came == 0 {
        return Err(format!("this user's systemd did not answer in {ANSWER_MAX_S} s; see 'systemctl --user status'"));
    }
    let mut text = [0u8; ANSWER_MAX_BYTES];
    match socket::receive(from, &mut text) {
        Ok((2, _)) if &text[..2] == b"ok" => Ok(()),
        Ok((len @ 1.., _)) => Err(String::from_utf8_lossy(&text[..len]).into_owned()),
        _ => Err("the process that asks this user's systemd ended".into()),
    }
}

/// The scope of a VM, as its keeper has it. Its end is the end of the scope, once the VM's processes are gone.
#[derive(Debug)]
pub struct Scope {
    id: VmId,
    ways: Ways,
    name: String,
    anchor: Child,
    asker: Option<Child>,
    dirs: Vec<PathBuf>,
    counts: bool,
}

/// What a scope is made of.
struct Errand<'a> {
    id: &'a VmId,
    limits: &'a Limits,
    ways: Ways,
}

impl Scope {
    /// The scope that the limits of VM `id` ask for, and where its init is put into it; `None` when they ask for none. `run`: the
    /// user's run-time directory, where that is known; `bus`: the session bus that the user named. The calling process must have
    /// one thread, and the calling thread must live as long as the VM.
    ///
    /// # Errors
    /// [`VmError::Limit`] when a limit cannot be held, or systemd is not reached.
    pub fn prepare(
        id: &VmId,
        limits: &Limits,
        run: Option<&Path>,
        bus: Option<&str>,
    ) -> Result<Option<(Self, Gate)>, VmError> {
        if wanted(limits).is_empty() {
            return Ok(None);
        }
        let manager = UserManager::find(run);
        if let Some((what, why)) = unenforced(limits, manager.as_ref()).into_iter().next() {
            return Err(VmError::Limit { what: what.into(), why });
        }
        let Some(manager) = manager else { return Ok(None) };
        let limits = &held(limits, &manager);
        if wanted(limits).is_empty() {
            return Ok(None);
        }
        let made = Self::reach(&Errand { id, limits, ways: Ways::new(&manager, bus) });
        let only_processes = wanted(limits).iter().all(|(limit, _)| *limit == "pids");
        if only_processes { Ok(made.ok()) } else { made.map(Some) }
    }

    fn reach(errand: &Errand<'_>) -> Result<(Self, Gate), VmError> {
        let name = name(errand.id.as_str());
        let (gate, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| VmError::Sys("make a socket pair", e))?;
        let anchor = Child::start("hold the VM's scope", &[], "fvm: scope", || {
            loop {
                rustix::event::pause();
            }
        })?;
        let pid = anchor.0;
        let asker = Child::start("ask this user's systemd", &[theirs.as_raw_fd()], "fvm: asks systemd", || {
            ask(errand, &name, pid, &theirs);
        })?;
        drop(theirs);
        answer(&gate).map_err(|why| VmError::Limit { what: name.clone(), why })?;
        Ok((
            Self {
                id: errand.id.clone(),
                ways: errand.ways.clone(),
                name,
                anchor,
                asker: Some(asker),
                dirs: Vec::new(),
                counts: errand.limits.pids.is_some(),
            },
            Gate(gate),
        ))
    }

    /// Whether it limits processes.
    #[must_use]
    pub fn counts_processes(&self) -> bool {
        self.counts
    }

    /// Takes note of its control groups. To be called when init runs.
    pub fn settle(&mut self) {
        self.dirs = places_in(&self.name, self.anchor.0.as_raw_nonzero().get()).into_iter().map(|p| p.dir).collect();
        // It has done its work.
        self.asker = None;
    }

    /// What happened to the VM's processes because of its limits, in words.
    #[must_use]
    pub fn reached(&self, limits: &Limits) -> Vec<String> {
        groups::reached(&self.dirs, limits, None)
    }

    /// Other limits from now on.
    ///
    /// # Errors
    /// [`VmError::Limit`]; then the old ones hold.
    pub fn change(&self, limits: &Limits, init: i32) -> Result<(), VmError> {
        set(&self.ways, &self.id, limits, init)
    }
}

/// A process of ours; ended and collected when dropped.
#[derive(Debug)]
struct Child(Pid);

impl Child {
    fn start(what: &'static str, keep: &[RawFd], title: &str, body: impl FnOnce()) -> Result<Self, VmError> {
        let keeper = rustix::process::getpid();
        match process::fork().map_err(|e| VmError::Sys(what, e))? {
            Fork::Parent(pid) => Ok(Self(pid)),
            Fork::Child => {
                // A panic must not run the keeper's code in this process.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    die_with_parent();
                    if rustix::process::getppid() != Some(keeper) {
                        // It died before that.
                        return;
                    }
                    // Not in the terminal's group, whose signals are not for it.
                    let _leader = rustix::process::setsid();
                    crate::launch::hide_command(title);
                    // Not the host's terminal, nor the VM's lock.
                    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                    if let Ok(null) = null
                        && (0..3).all(|target| process::install_stdio(null.as_raw_fd(), target).is_ok())
                    {
                        drop(null);
                        process::close_all_but(keep);
                        body();
                    }
                }));
                process::exit_now(i32::from(done.is_err()));
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _already_gone = rustix::process::kill_process(self.0, Signal::KILL);
        let _collected = process::wait_blocking(self.0.as_raw_nonzero().get(), false);
    }
}

/// The asker's life.
fn ask(errand: &Errand<'_>, name: &str, anchor: Pid, keeper: &OwnedFd) {
    let tell = |result: Result<(), String>| {
        let text = result.err().unwrap_or_else(|| "ok".into());
        let _keeper_gone = socket::send(keeper, &text.as_bytes()[..text.len().min(ANSWER_MAX_BYTES)], &[]);
    };
    let manager = match systemd::Manager::reach(&errand.ways) {
        Ok(manager) => manager,
        Err(why) => return tell(Err(why)),
    };
    tell(Ok(()));
    let mut text = [0u8; 16];
    // The end: the VM is not started.
    let Ok((len @ 1.., _)) = socket::receive(keeper, &mut text) else { return };
    let init = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.parse().ok());
    let Some(init) = init else { return };
    tell(manager.start(name, errand.limits, &[anchor.as_raw_nonzero().get().cast_unsigned(), init]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_without_its_controller_is_named_with_what_to_do() {
        let limits = Limits { memory_bytes: Some(1 << 30), cpu_milli: Some(500), pids: Some(64), ..Limits::default() };
        let manager = |controllers: &[&str]| UserManager {
            dir: "/run/user/7".into(),
            bus: true,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let names = |manager: Option<UserManager>| -> Vec<&str> {
            unenforced(&limits, manager.as_ref()).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(Some(manager(&["cpu", "memory", "pids"]))), Vec::<&str>::new());
        assert_eq!(names(Some(manager(&["memory", "pids"]))), ["cpus"]);
        // Processes are then counted by the kernel for the user in the VM's namespace.
        assert_eq!(names(Some(manager(&[]))), ["memory", "cpus"]);
        assert_eq!(names(None), ["memory", "cpus"]);
        let (_, why) = unenforced(&limits, Some(&manager(&["memory"]))).remove(0);
        assert!(why.contains("'cpu'") && why.contains("Delegate="), "{why}");
        let unreachable = UserManager { bus: false, ..manager(&["cpu", "memory", "pids"]) };
        assert_eq!(held(&limits, &unreachable).pids, None);
        let (_, why) = unenforced(&limits, Some(&unreachable)).remove(0);
        assert!(why.contains("dbus-user-session"), "{why}");
    }

    #[test]
    fn this_process_is_in_no_scope_of_a_vm() {
        assert!(places_in(&name("0123456789ab"), std::process::id().cast_signed()).is_empty());
    }
}
