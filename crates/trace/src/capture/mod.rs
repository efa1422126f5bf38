//! Seeing what a VM's programs do: a thread of the VM's keeper that answers their captured calls.
//!
//! ```text
//!   program ── open(O_CREAT) ── waits ─►  poll ─ receive ─ read path, process   (while the call waits)
//!           ◄──────────── go on ────────  still waits? ─ answer
//!                                         real path ─ event ─► store            (meanwhile the call runs)
//! ```
//!
//! Who reads the log of a VM that runs has the tracer write down what it holds first ([`Settler`]): up to [`TICK`] of it is in
//! memory otherwise.
//!
//! It is a thread and not a process: when it dies the keeper does, and with the keeper init and the VM, so that no call waits
//! for an answer that never comes. Should only the listener be closed, captured calls fail with `ENOSYS`.
//!
//! Invariants: every call is let go, but for those that are refused by number; nothing that a process says is waited for
//! ([`place`]); memory is bounded; an event is written after its call was let go, and before the next one of the same
//! thread.

pub mod calls;
mod kin;
mod look;
mod memory;
mod numbers;
mod own;
mod place;
mod proc;
mod process;
pub mod program;
mod secret;

use crate::store::Store;
use calls::Refused;
use fvm_model::Level;
use fvm_sys::{process as this, seccomp};
use look::Look;
use numbers::Numbers;
use place::Mounts;
use process::Processes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an event waits in memory at most.
const TICK: Duration = Duration::from_millis(100);
/// So many calls that came before a wish to have all written down, or since, are answered first: a VM that never pauses puts it off
/// no longer.
const BEFORE_MAX: u32 = 1_000;
/// So long whoever wishes that waits at most.
const SETTLED_MAX: Duration = Duration::from_secs(1);
/// How often processes are looked for that ended without saying so.
const SWEEP: Duration = Duration::from_secs(1);
/// How often that time is doubled while nothing happens.
const IDLE_MAX: u32 = 6;
/// Descriptors of processes that are held at most.
const HANDLES_MAX: u64 = 4096;

/// What a program that is called so and makes a hard link is told.
pub type LinkRule = fn(&[u8]) -> Option<Errno>;

/// What init hands over when its filter is in place.
#[derive(Debug)]
pub struct Inside {
    /// Where captured calls wait.
    pub listener: OwnedFd,
    /// The VM's root directory.
    pub root: OwnedFd,
    /// Its mount namespace.
    pub mounts: OwnedFd,
    /// Its mounts: `/proc/self/mountinfo` of init.
    pub table: OwnedFd,
}

/// What is to be captured, and where it goes.
#[derive(Debug)]
pub struct Task {
    /// The VM's side.
    pub inside: Inside,
    /// Init, on the host.
    pub init: i32,
    /// How much.
    pub level: Level,
    /// The directory of the log.
    pub events: OwnedFd,
    /// It may hold earlier runs: the log goes on only if it can say that there is another.
    pub again: bool,
    /// The VM's id.
    pub vm: String,
    /// How large the log may become, in bytes.
    pub quota_bytes: u64,
    /// What cannot be seen, in words.
    pub blind: Option<String>,
    /// What is refused, and written down.
    pub refused: Vec<Refused>,
    /// Asked before a hard link is made: whether the program of this name is told that it cannot.
    pub links: Option<LinkRule>,
}

/// A tracer at work.
#[derive(Debug)]
pub struct Tracer {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    settler: Settler,
}

/// Has a tracer write down all that it saw.
#[derive(Debug, Clone)]
pub struct Settler(Arc<Mutex<OwnedFd>>);

impl Settler {
    /// Waits until what the VM did before this call is in the log's files; whether it is. A call that waits still is answered, and
    /// written down, first.
    #[must_use]
    pub fn settle(&self) -> bool {
        // One wish at a time: an answer is to the one that is out.
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer that came too late for whoever wished it.
        while recv(&*socket, &mut [0u8; 8][..], RecvFlags::DONTWAIT).is_ok_and(|(length, _)| length > 0) {}
        if !send(&*socket, &[0], SendFlags::NOSIGNAL).is_ok_and(|sent| sent == 1) {
            return false;
        }
        let until = Instant::now() + SETTLED_MAX;
        loop {
            let left = timespec(until.saturating_duration_since(Instant::now()));
            match poll(&mut [PollFd::new(&*socket, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                Ok(1..) => return rustix::io::read(&*socket, &mut [0u8][..]) == Ok(1),
                Ok(0) | Err(_) => return false,
            }
        }
    }
}

impl Tracer {
    /// Begins to answer.
    ///
    /// # Errors
    /// When there is no thread or pipe to be had, or the log holds earlier runs and cannot be read or written: it would look as if
    /// nothing had happened since.
    pub fn start(mut task: Task) -> Result<Self, Errno> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (asks, asked) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let begun = task.again.then(|| begin(&mut task)).transpose()?;
        let thread = std::thread::Builder::new().name("fvm: tracer".into()).stack_size(256 << 10);
        let begun = thread.spawn(move || {
            this::block_all_signals();
            run(task, begun, &stopped, &asked);
        });
        let thread = begun.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::AGAIN))?;
        Ok(Self { stop: Some(stop), thread: Some(thread), settler: Settler(Arc::new(Mutex::new(asks))) })
    }

    /// What has it write down all that it saw.
    #[must_use]
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// Writes what is left. The VM must have ended: its calls get no answer any more.
    pub fn finish(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended the process where panics abort; elsewhere its log has no end, and says so.
            let _cut = thread.join();
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// As many descriptors as the keeper may have.
fn handles() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(2 * HANDLES_MAX, |hard| hard.min(2 * HANDLES_MAX));
    let now = limit.current.unwrap_or(u64::MAX);
    if now < wanted {
        let more = Rlimit { current: Some(wanted), maximum: limit.maximum };
        // Without more there are fewer.
        let _as_it_is = rustix::process::setrlimit(Resource::Nofile, more);
    }
    let now = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((now / 2).min(HANDLES_MAX)).unwrap_or(0)
}

/// Opens the log and says that a run begins.
fn begin(task: &mut Task) -> Result<Store, Errno> {
    let mut store = Store::open(task.events.try_clone().map_err(|_| Errno::MFILE)?, &task.vm, task.quota_bytes)?;
    if store.begin(look::now(), task.level, task.blind.as_deref()) { Ok(store) } else { Err(Errno::NOSPC) }
}

fn run(mut task: Task, begun: Option<Store>, stopped: &OwnedFd, asked: &OwnedFd) {
    // The first run of a log that cannot be written is answered all the same: a log without a run is never whole.
    let store = begun.or_else(|| begin(&mut task).ok());
    let Task { inside, init, level, vm, refused, links, .. } = task;
    let _slower_without = seccomp::take_turns(&inside.listener);
    let mounts = rustix::fs::fstat(&inside.mounts).ok().map(|stat| stat.st_ino);
    let processes = Processes::new(Numbers::of(init, mounts), handles());
    let look = (inside.listener, inside.root, Mounts::new(inside.table));
    let mut look = Look::new(look, store, processes, vm, level, refused, links);
    let (mut flushed, mut swept) = (Instant::now(), Instant::now());
    // Where nothing happens, it is looked at ever more seldom.
    let mut idle = 0u32;
    // Calls that were answered while somebody wishes to have all written down.
    let mut before = 0u32;
    loop {
        let wait = if look.is_dirty() { Some(TICK) } else { look.knows_any().then_some(SWEEP * (1 << idle)) };
        let Readiness { now, changed, wished } = ready(look.listener(), look.mounts(), stopped, asked, wait);
        if changed {
            look.look_at_mounts();
        }
        if wished && (!matches!(now, Ready::Call) || before >= BEFORE_MAX) {
            look.settle_all();
            answer(asked);
            before = 0;
        }
        before = if wished { before.saturating_add(1) } else { 0 };
        match now {
            Ready::Call => {
                look.one();
                idle = 0;
            }
            Ready::Nothing => idle = (idle + 1).min(IDLE_MAX),
            Ready::End => break,
        }
        let now = Instant::now();
        if now.duration_since(flushed) >= TICK {
            look.settle_all();
            flushed = now;
        }
        if now.duration_since(swept) >= SWEEP {
            look.sweep();
            swept = now;
        }
    }
    look.end();
}

enum Ready {
    Call,
    Nothing,
    End,
}

/// What is to be done, whether the mounts have changed, and whether somebody wishes to have all written down.
struct Readiness {
    now: Ready,
    changed: bool,
    wished: bool,
}

/// All is written down: says so to whoever wished it, as often as it was wished.
fn answer(asked: &OwnedFd) {
    let mut wishes = [0u8; 8];
    if let Ok((length @ 1.., _)) = recv(asked, &mut wishes[..], RecvFlags::DONTWAIT) {
        // Nobody waits any more, or somebody does.
        let _gone = send(asked, &wishes[..length], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

fn timespec(time: Duration) -> rustix::time::Timespec {
    rustix::time::Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: i64::from(time.subsec_nanos()) }
}

fn ready(
    listener: &OwnedFd,
    mounts: &OwnedFd,
    stopped: &OwnedFd,
    asked: &OwnedFd,
    wait: Option<Duration>,
) -> Readiness {
    let wait = wait.map(timespec);
    let mut polled = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(stopped, PollFlags::IN),
        PollFd::new(mounts, PollFlags::PRI),
        PollFd::new(asked, PollFlags::IN),
    ];
    let polled_now = poll(&mut polled, wait.as_ref());
    let changed = polled[2].revents().contains(PollFlags::PRI);
    // Its other end is the keeper's as long as this thread is.
    let wished = polled[3].revents().contains(PollFlags::IN);
    let now = match polled_now {
        Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => Ready::Nothing,
        Err(_) => Ready::End,
        // What waits is answered first.
        Ok(_) if polled[0].revents().contains(PollFlags::IN) => Ready::Call,
        // Nobody is left who could call, or nobody wants to know.
        Ok(_) if !polled[0].revents().is_empty() || !polled[1].revents().is_empty() => Ready::End,
        Ok(_) => Ready::Nothing,
    };
    Readiness { now, changed, wished }
}
