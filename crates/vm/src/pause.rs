//! Suspending a VM: none of its processes runs until it is resumed.
//!
//! ```text
//!   root   /sys/fs/cgroup/.../fvm/<id>   all of the VM moves in, init too; cgroup.freeze (v2) or freezer.state (v1)
//!   user   init: SIGSTOP to all but itself; SIGCONT to those that it stopped
//! ```
//!
//! A user has no freezer. What a program of a user's VM stops in the moment in which the VM is suspended runs on when it is resumed: the
//! kernel keeps no trace of a second SIGSTOP.
//!
//! Invariants: a VM of root's is frozen as a whole or not at all; one that is frozen can be ended; that it is suspended is
//! nowhere written: it is so while its keeper lives.

use crate::groups::{self, Version};
use crate::launch::Launched;
use crate::proto::{self, Order};
use crate::ps;
use fvm_sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel, or init, may take.
const LONGEST: Duration = Duration::from_secs(5);

/// Whether a VM is suspended.
#[derive(Debug, Default)]
pub struct Paused {
    /// It is.
    pub now: bool,
    /// By what it is, or was before: its processes stay in their group.
    by: Option<Pause>,
}

/// What holds a suspended VM.
#[derive(Debug)]
enum Pause {
    /// The freezer.
    Frozen(Freezer),
    /// Signals, by init.
    Signals,
}

/// A control group in which all of a VM is.
#[derive(Debug)]
struct Freezer {
    dir: PathBuf,
    version: Version,
}

impl Paused {
    /// Suspends the VM.
    ///
    /// # Errors
    /// In words; then it runs on.
    pub fn suspend(&mut self, vm: &Launched) -> Result<(), String> {
        if self.now {
            return Err("it is suspended already".into());
        }
        if self.by.is_none() {
            let freezer = groups::freezer().filter(|_| process::is_privileged());
            self.by = Some(match freezer {
                Some((root, version)) => Pause::Frozen(Freezer::make(&root, version, &vm.id)?),
                None => Pause::Signals,
            });
        }
        match &self.by {
            Some(Pause::Frozen(freezer)) => freezer.freeze(vm.init.as_raw_nonzero().get())?,
            _ => ask(|answer| proto::write_message(&vm.orders, &Order::Pause, &[answer]))?,
        }
        self.now = true;
        Ok(())
    }

    /// Lets it run on.
    ///
    /// # Errors
    /// In words.
    pub fn resume(&mut self, vm: &Launched) -> Result<(), String> {
        if !self.now {
            return Err("it is not suspended".into());
        }
        match &self.by {
            Some(Pause::Frozen(freezer)) => freezer.set(false)?,
            _ => ask(|answer| proto::write_message(&vm.orders, &Order::Continue, &[answer]))?,
        }
        self.now = false;
        Ok(())
    }

    /// Lets processes that were told to end do so. Version 2 does that by itself.
    pub fn let_go(&self) {
        if let (true, Some(Pause::Frozen(freezer))) = (self.now, &self.by) {
            let _gone = freezer.set(false);
        }
    }
}

/// Sends init an order with the end of a pipe, and waits for a byte.
fn ask(send: impl FnOnce(rustix::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno>) -> Result<(), String> {
    let words = |e: rustix::io::Errno| e.to_string();
    let (done, says) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(words)?;
    send(says.as_fd()).map_err(words)?;
    drop(says);
    let wait = rustix::time::Timespec { tv_sec: LONGEST.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&done, PollFlags::IN)], Some(&wait)).map_err(words)? {
        0 => Err("its init does not answer".into()),
        _ if rustix::io::read(&done, &mut [0u8][..]) == Ok(1) => Ok(()),
        _ => Err("its init could not do it".into()),
    }
}

impl Freezer {
    fn make(root: &Path, version: Version, id: &str) -> Result<Self, String> {
        let dir = groups::place(root, id);
        match std::fs::create_dir_all(dir.parent().unwrap_or(root)).and_then(|()| std::fs::create_dir(&dir)) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                Err(format!("cannot make the control group {}: {e}", dir.display()))
            }
            _ => Ok(Self { dir, version }),
        }
    }

    fn freeze(&self, init: i32) -> Result<(), String> {
        let until = Instant::now() + LONGEST;
        // First: who moves in stands still at once, and makes no more processes.
        self.set(true)?;
        let frozen = groups::gather(&self.dir, init, until).and_then(|()| {
            while !self.is_frozen() {
                if Instant::now() > until {
                    let why = "the kernel did not freeze it: a process waits in the kernel, for a disk or a server";
                    return Err(why.to_owned());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        if frozen.is_err() {
            self.set(false)?;
        }
        frozen
    }

    fn set(&self, frozen: bool) -> Result<(), String> {
        let (file, value) = match (self.version, frozen) {
            (Version::One, true) => ("freezer.state", "FROZEN"),
            (Version::One, false) => ("freezer.state", "THAWED"),
            (Version::Two, true) => ("cgroup.freeze", "1"),
            (Version::Two, false) => ("cgroup.freeze", "0"),
        };
        let path = self.dir.join(file);
        std::fs::write(&path, value).map_err(|e| format!("cannot write {value} to {}: {e}", path.display()))
    }

    fn is_frozen(&self) -> bool {
        let (file, wanted) = match self.version {
            Version::One => ("freezer.state", "FROZEN"),
            Version::Two => ("cgroup.events", "frozen 1"),
        };
        std::fs::read_to_string(self.dir.join(file)).is_ok_and(|text| text.lines().any(|line| line == wanted))
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        groups::remove(&self.dir);
    }
}

/// Init's half: stops everything but itself, and says which it stopped.
#[must_use]
pub fn stop_all() -> BTreeSet<i32> {
    // Those that are stopped already are not ours to wake.
    let before: BTreeSet<i32> = states().into_iter().filter(|(_, state)| *state == 'T').map(|(pid, _)| pid).collect();
    let _none = process::kill(-1, Signal::STOP.as_raw());
    states().into_iter().map(|(pid, _)| pid).filter(|pid| !before.contains(pid)).collect()
}

/// Lets these run on.
pub fn continue_all(stopped: &BTreeSet<i32>) {
    for pid in stopped {
        let _ended = process::kill(*pid, Signal::CONT.as_raw());
    }
}

/// Every process but init, and its state.
fn states() -> Vec<(i32, char)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    pids.filter(|pid| *pid != 1)
        .filter_map(|pid| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            ps::parse_stat(&stat).map(|(_, state, _)| (pid, state))
        })
        .collect()
}
