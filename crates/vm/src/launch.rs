//! From a blueprint to a running init: which process does what, in which namespaces.
//!
//! ```text
//!   keeper ──fork──► builder (shifted mode only)             keeper ──clone(namespaces)──► init (rootless)
//!      │               │ unshare(mount)                      keeper ──clone(pid)─────────► init (identity)
//!      │               ├─clone(user pid ipc uts cgroup [net])──► init   (a child of the keeper: CLONE_PARENT)
//!      │◄┄┄ pid ┄┄┄┄┄┄┄┤ write id maps                             │ crate::early; waits
//!      │               │ ops up to EnterNamespaces                 │
//!      │               └── go ────────────────────────────────────►│ unshare(mount): all mounts become locked
//!      │                                                           │ the other ops, pivot_root, the first program
//!      │◄── ready | error ─────────────────────────────────────────┘ serve (crate::init)
//!      └── Makers::collect ► exit
//! ```
//! Init's number is in an eventfd as soon as there is one, and that its first program is about to begin: nobody is woken by that. They are told
//! only to those who wait for many VMs.
//!
//! Invariants: init dies with the keeper (`PR_SET_PDEATHSIG`, and the end of its control socket); no descriptor of
//! the keeper reaches init but its control socket; init is not dumpable and was never exec'ed, so not even the VM's
//! root can trace it.

mod building;
mod ends;

pub(crate) use building::{Net, admit, build_rootless};
pub(crate) use ends::{Ends, tell};

use building::{start_identity, start_rootless, start_shifted};
use ends::BEGINS;

use crate::attach::Held;
use crate::blueprint::Blueprint;
use crate::error::VmError;
use crate::executor::{Site, StepError};
use crate::op::SetupOp;
use crate::pause::Paused;
use crate::proto::{self, Order};
use crate::quota::Quota;
use crate::router::{self, Guard, Maker, Place, Plan, Routed};
use crate::traced;
use fvm_model::{HostPath, Mode};
use fvm_sys::process::{self, Namespaces};
use fvm_sys::socket;
use fvm_trace::capture::Inside;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A VM whose init waits for orders.
#[derive(Debug)]
pub struct Launched {
    /// The VM's id.
    pub id: String,
    /// Init's process id on the host.
    pub init: Pid,
    /// The same as a descriptor; readable when init has ended.
    pub pidfd: OwnedFd,
    /// Orders to init ([`crate::proto::Order`]).
    pub orders: OwnedFd,
    /// A connection to the VM's session bus, where a relay is wanted.
    pub bus: Option<OwnedFd>,
    /// The layers that stand over generated names.
    pub skeletons: Vec<Skeleton>,
    /// Whether it is suspended.
    pub pause: Mutex<Paused>,
    /// What holds the VM's network, if it has one of its own.
    pub guard: Option<Guard>,
    /// What the VM does not have although it was planned, in words.
    pub notices: Vec<String>,
    /// What the keeper watches.
    pub quota: Option<Quota>,
    /// Init had its first order before it was there.
    pub has_first: bool,
    /// Who built it.
    makers: Makers,
}

impl Launched {
    /// Gives what is held of it descriptors of numbers of at least `least`.
    pub(crate) fn lift(&mut self, least: i32) {
        process::lift(&mut self.pidfd, least);
        process::lift(&mut self.orders, least);
        if let Some(guard) = &mut self.guard {
            guard.lift(least);
        }
    }

    /// Whose ends init and those that built it see.
    pub(crate) fn ends(&self) -> Vec<RawFd> {
        [&self.orders].into_iter().chain(&self.makers.stay).map(AsRawFd::as_raw_fd).collect()
    }

    /// Those that built it, for the caller to wait for.
    pub(crate) fn take_makers(&mut self) -> Makers {
        std::mem::take(&mut self.makers)
    }
}

/// Processes that built a VM, and have done their work.
#[derive(Debug, Default)]
pub struct Makers {
    pids: Vec<Pid>,
    /// While it is open they may stay, where there was a first order: their end takes the kernel time that its program needs.
    stay: Option<OwnedFd>,
}

impl Makers {
    /// Waits for their end. They give back what takes the kernel time, so nobody waits who is needed.
    pub fn collect(&mut self) {
        drop(self.stay.take());
        self.pids.drain(..).for_each(collect);
    }

    /// Lets them end, for somebody else to wait for.
    pub(crate) fn into_pids(self) -> Vec<Pid> {
        self.pids
    }
}

/// A layer over the names of host directories ([`crate::layers`]).
#[derive(Debug)]
pub struct Skeleton {
    /// `layers/<n>`.
    pub dir: PathBuf,
    /// The directories: its own first, then some below that.
    pub names: Vec<HostPath>,
}

/// What builder and init tell the keeper while the VM is being built.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Progress {
    Init(i32),
    Guard(i32),
    Notice(String),
    /// With what [`Inside`] has.
    Traced,
    Ready,
    Failed(StepError),
}

/// Largest [`Progress`] message.
const PROGRESS_MAX_BYTES: usize = 64 << 10;

/// The longest first order, in bytes: what a socket takes while nobody reads (`net.core.wmem_default` is 208 KiB, and counts
/// more than the bytes).
const FIRST_MAX_BYTES: usize = 64 << 10;

/// An order that init finds when it is ready.
#[derive(Debug, Clone, Copy)]
pub struct First<'a> {
    /// The order.
    pub order: &'a Order,
    /// Its descriptors.
    pub fds: &'a [BorrowedFd<'a>],
    /// Where the program's signals are held, from before it may run.
    pub held: &'a OnceCell<Held>,
}

impl First<'_> {
    /// Readable when a signal waits that would have ended this process.
    fn hold(&self) -> Result<OwnedFd, VmError> {
        let held = Held::take()?;
        let interrupt = held.interrupt()?;
        // It is held once.
        drop(self.held.set(held));
        Ok(interrupt)
    }
}

/// Builds the VM and starts its init. `first` is its first order, unless that is too long to wait in a socket. The calling process must
/// have one thread, and the calling thread must live as long as the VM.
///
/// # Errors
/// [`VmError::Setup`] with the step that failed; nothing of the VM is left running.
pub fn launch(site: Site, blueprint: &Blueprint, first: Option<First<'_>>) -> Result<Launched, VmError> {
    begin(site, blueprint, first, || Ok(()))?.wait()
}

/// The same without waiting for init. `meanwhile` is done when others build the VM, before anything is begun that is not this
/// process's child.
///
/// # Errors
/// As [`launch`], for what fails at once; those of `meanwhile`.
pub fn begin(
    site: Site,
    blueprint: &Blueprint,
    first: Option<First<'_>>,
    meanwhile: impl FnOnce() -> Result<(), VmError>,
) -> Result<Pending, VmError> {
    let pair = |kind| {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
            .map_err(|e| VmError::Sys("make a socket pair", e))
    };
    let (orders, init_orders) = pair(SocketType::STREAM)?;
    let (progress, report) = pair(SocketType::SEQPACKET)?;
    let has_first = match first {
        Some(First { order, fds, .. }) => proto::write_short_message(&orders, order, fds, FIRST_MAX_BYTES)
            .map_err(|e| VmError::Sys("reach init", e))?,
        None => false,
    };
    let Some(enter) = blueprint.ops.iter().position(|op| matches!(op, SetupOp::EnterNamespaces { .. })) else {
        return Err(VmError::Internal("a blueprint without namespaces".into()));
    };
    let SetupOp::EnterNamespaces { network, uid_map, gid_map } = blueprint.ops[enter] else {
        return Err(VmError::Internal("a blueprint without namespaces".into()));
    };
    let stay = has_first.then(|| rustix::pipe::pipe_with(PipeFlags::CLOEXEC)).transpose();
    let (until, stay) = stay.map_err(|e| VmError::Sys("make a pipe", e))?.unzip();
    let mut namespaces =
        Namespaces::USER.and(Namespaces::PID).and(Namespaces::IPC).and(Namespaces::UTS).and(Namespaces::CGROUP);
    if network {
        namespaces = namespaces.and(Namespaces::NET);
    }
    let entry = Entry {
        namespaces,
        maps: Maps { uid: uid_map, gid: gid_map },
        before: &blueprint.ops[..enter],
        after: &blueprint.ops[enter + 1..],
        has_first,
        until: until.as_ref(),
    };
    let skeletons = blueprint.ops.iter().filter_map(|op| match op {
        SetupOp::Overlay { layer, skeleton, .. } if !skeleton.is_empty() => {
            Some(Skeleton { dir: site.layers_dir.join(layer.to_string()), names: skeleton.clone() })
        }
        _ => None,
    });
    let skeletons = skeletons.collect();
    let id = site.name.clone();
    let noted = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
    let noted = noted.map_err(|e| VmError::Sys("make an event", e))?;
    let theirs = rustix::io::fcntl_dupfd_cloexec(&noted, 0).map_err(|e| VmError::Sys("keep an event", e))?;
    let ends = Ends { orders: init_orders, report, notes: theirs };
    let plan = blueprint.ops.iter().find_map(|op| if let SetupOp::Router(plan) = op { Some(plan) } else { None });
    let no_namespaces = |e: Errno| VmError::Setup {
        step: "make the namespaces".into(),
        why: format!("{e}; see 'fvm doctor' for what this kernel allows"),
    };
    let hold = || first.map_or(Ok(None), |first| first.hold().map(Some));
    let mut interrupt = None;
    if plan.is_none() || site.mode == Mode::Rootless {
        interrupt = hold()?;
    }
    let (mut place, mut maker) = (None, None);
    let run = site.run_dir.clone();
    let started = match (site.mode, plan) {
        (Mode::Rootless, None) => start_rootless(site, &entry, ends),
        (Mode::Rootless, Some(plan)) => {
            let routed = Routed::prepare(plan, &site.name)?;
            place = Some(routed.place()?);
            router::start(site, &entry, ends, routed)
        }
        (mode, plan) => {
            let (helper, ours) = plan.map(|_| router::pair()).transpose().map_err(no_namespaces)?.unzip();
            maker = ours.zip(plan);
            let start = if mode == Mode::Shifted { start_shifted } else { start_identity };
            start(site, &entry, ends, helper.as_ref())
        }
    };
    let children = started.map_err(no_namespaces)?.into_iter().collect();
    let said = Said::default();
    let mut pending = Pending {
        id,
        orders: Some(orders),
        progress,
        noted: Some(noted),
        children,
        place,
        line: None,
        skeletons,
        has_first,
        stay,
        said,
        interrupt,
    };
    meanwhile()?;
    if let Some((maker, plan)) = maker {
        // The program waits for its network, which others make, some of whom stay; and that may take its time.
        let mut held = Ok(None);
        pending.connect(maker, &run, plan, || held = hold())?;
        pending.interrupt = held?;
    }
    Ok(pending)
}

/// A VM that is being built. Given up, with all that was started for it, when dropped.
#[derive(Debug)]
pub struct Pending {
    id: String,
    orders: Option<OwnedFd>,
    progress: OwnedFd,
    /// Readable when init has a number, and when [`BEGINS`]; `None`: init is another's now.
    noted: Option<OwnedFd>,
    children: Vec<Pid>,
    /// An ordinary user's address, for its guard.
    place: Option<Place>,
    /// The network of a VM of root's.
    line: Option<Guard>,
    skeletons: Vec<Skeleton>,
    has_first: bool,
    stay: Option<OwnedFd>,
    said: Said,
    /// Readable when a signal waits by which whoever builds it would have ended.
    interrupt: Option<OwnedFd>,
}

/// What builder and init have told so far.
#[derive(Debug, Default)]
struct Said {
    init: Option<Pid>,
    begins: bool,
    guard: Option<Pid>,
    bus: Option<OwnedFd>,
    notices: Vec<String>,
    traced: Option<Inside>,
    ready: bool,
    /// For [`PROGRESS_MAX_BYTES`].
    buffer: Vec<u8>,
}

impl Pending {
    /// Readable when there is something for [`Pending::listen`].
    #[must_use]
    pub fn progress(&self) -> BorrowedFd<'_> {
        self.progress.as_fd()
    }

    /// Waits for the next thing that builder or init tells, and takes it in; whether init is ready.
    ///
    /// # Errors
    /// [`VmError::Setup`] with the step that failed; [`VmError::Interrupted`].
    pub fn listen(&mut self) -> Result<bool, VmError> {
        if self.said.ready {
            return Ok(true);
        }
        self.await_word(false)?;
        let buffer = &mut self.said.buffer;
        if buffer.is_empty() {
            // Of fresh memory nothing is touched by this.
            *buffer = vec![0; PROGRESS_MAX_BYTES];
        }
        let ended = || StepError { step: "wait for init".into(), why: "it ended before it was ready".into() };
        let received = socket::receive(self.progress.as_fd(), buffer).ok();
        let (message, mut fds) =
            received.map_or((None, Vec::new()), |(len, fds)| (serde_json::from_slice(&buffer[..len]).ok(), fds));
        let failed = |error: StepError| VmError::Setup { step: error.step, why: error.why };
        match message {
            Some(Progress::Init(pid)) => self.said.init = Pid::from_raw(pid),
            Some(Progress::Guard(pid)) => self.said.guard = Pid::from_raw(pid),
            Some(Progress::Notice(text)) => self.said.notices.push(text),
            Some(Progress::Traced) => self.said.traced = traced::inside(fds),
            Some(Progress::Ready) => {
                self.said.bus = fds.pop();
                self.said.ready = true;
                self.learn();
            }
            Some(Progress::Failed(error)) => return Err(failed(error)),
            None => return Err(failed(ended())),
        }
        Ok(self.said.ready)
    }

    /// Whether init is known: it had its number before it was let go.
    fn learn(&mut self) -> bool {
        let mut sum = [0u8; 8];
        if let Some(noted) = &self.noted
            && rustix::io::read(noted, &mut sum[..]) == Ok(sum.len())
        {
            let sum = u64::from_ne_bytes(sum);
            self.said.begins |= sum & BEGINS != 0;
            let number = i32::try_from(sum & !BEGINS).ok().and_then(Pid::from_raw);
            self.said.init = number.or(self.said.init);
        }
        self.said.init.is_some()
    }

    /// Waits until there is something to listen to, or to learn.
    fn await_word(&mut self, or_learn: bool) -> Result<(), VmError> {
        if self.interrupt.is_none() && !or_learn {
            return Ok(());
        }
        loop {
            let awaited = [Some(&self.progress), self.noted.as_ref().filter(|_| or_learn), self.interrupt.as_ref()];
            // What is not awaited is watched as something that is, and answers the same.
            let mut polled = awaited.map(|fd| PollFd::new(fd.unwrap_or(&self.progress), PollFlags::IN));
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(VmError::Sys("wait for init", e)),
            }
            match polled.map(|fd| !fd.revents().is_empty()) {
                [true, ..] | [_, true, _] => return Ok(()),
                [false, false, true] => {
                    self.learn();
                    if !self.said.begins {
                        return Err(VmError::Interrupted);
                    }
                    // The program's, who may have asked for it.
                    self.interrupt = None;
                }
                [false, false, false] => {}
            }
        }
    }

    /// Makes the network of a VM of root's, while others build the rest of it. A millisecond or two.
    fn connect(&mut self, maker: Maker, run: &Path, plan: &Plan, made: impl FnOnce()) -> Result<(), VmError> {
        match maker.make(run, &self.id, plan, made) {
            Ok(Some((guard, notices))) => {
                self.line = Some(guard);
                self.said.notices.extend(notices);
                Ok(())
            }
            // Init has ended: what is told next is why.
            Ok(None) => Ok(()),
            Err(error) => {
                // Init ends, for its network does not come. Who it is must be known, to collect it.
                while let Ok(false) = self.listen() {}
                Err(VmError::Setup { step: error.step, why: error.why })
            }
        }
    }

    /// A descriptor of init, as soon as that is begun.
    ///
    /// # Errors
    /// As [`Pending::listen`], and when init has ended.
    pub fn init(&mut self) -> Result<OwnedFd, VmError> {
        while !self.learn() {
            self.await_word(true)?;
            if is_readable(&self.progress) {
                self.listen()?;
            }
        }
        let init = self.said.init.ok_or_else(|| VmError::Internal("an init without a number".into()))?;
        rustix::process::pidfd_open(init, PidfdFlags::empty()).map_err(|e| VmError::Sys("open init", e))
    }

    /// Waits until init says where captured calls wait, or that it is ready: before that its first program waits, and init with it,
    /// until somebody answers. With init's number.
    ///
    /// # Errors
    /// As [`Pending::listen`].
    pub fn traced(&mut self) -> Result<Option<(Inside, Pid)>, VmError> {
        while self.said.traced.is_none() && !self.said.ready {
            self.listen()?;
        }
        self.learn();
        Ok(self.said.traced.take().zip(self.said.init))
    }

    /// Waits until init is ready.
    ///
    /// # Errors
    /// As [`Pending::listen`]; nothing of the VM is left running.
    pub fn wait(mut self) -> Result<Launched, VmError> {
        while !self.listen()? {}
        self.launched()
    }

    /// The VM, once [`Pending::listen`] has said that init is ready.
    ///
    /// # Errors
    /// When it is not, or has ended.
    pub fn launched(mut self) -> Result<Launched, VmError> {
        let (true, Some(init), Some(orders)) = (self.said.ready, self.said.init, self.orders.take()) else {
            return Err(VmError::Setup { step: "wait for init".into(), why: "it has no process id".into() });
        };
        let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty()).map_err(|e| VmError::Sys("open init", e))?;
        (self.said.init, self.noted) = (None, None);
        Ok(Launched {
            id: std::mem::take(&mut self.id),
            pause: Mutex::default(),
            init,
            pidfd,
            orders,
            bus: self.said.bus.take(),
            skeletons: std::mem::take(&mut self.skeletons),
            guard: match self.line.take() {
                None => self.said.guard.take().map(|pid| Guard::new(pid, self.place.take())),
                line => line,
            },
            notices: std::mem::take(&mut self.said.notices),
            quota: None,
            has_first: self.has_first,
            makers: Makers { pids: std::mem::take(&mut self.children), stay: self.stay.take() },
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Any of them may wait for another that failed.
        for child in &self.children {
            let _already_gone = rustix::process::kill_process(*child, Signal::KILL);
        }
        self.children.drain(..).for_each(collect);
        // Who was not heard of yet.
        self.learn();
        for pid in self.said.init.take().into_iter().chain(self.said.guard.take()) {
            let _already_gone = rustix::process::kill_process(pid, Signal::KILL);
            collect(pid);
        }
    }
}

/// Whether there is something to read now.
fn is_readable(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok_and(|n| n > 0)
}

pub(crate) struct Maps {
    pub uid: [u32; 3],
    pub gid: [u32; 3],
}

pub(crate) struct Entry<'a> {
    pub namespaces: Namespaces,
    pub maps: Maps,
    before: &'a [SetupOp],
    after: &'a [SetupOp],
    /// An order lies in the socket.
    has_first: bool,
    /// Readable when those that have done their work may end.
    until: Option<&'a OwnedFd>,
}

/// Where a builder waits for the layers.
pub(crate) fn awaited(site: &Site) -> RawFd {
    site.layers_to_come.as_ref().map_or(-1, AsRawFd::as_raw_fd)
}

/// Before the namespaces: the VM then sees its own group as the root of all.
pub(crate) fn enter_limits(site: &mut Site, ends: &Ends) {
    if let Err(e) = site.enter_limits() {
        ends.give_up(StepError { step: "enter the VM's control groups".into(), why: e.to_string() });
    }
}

/// While the host's `/proc` is still there, and before the change of credentials after which a process may not write its own
/// memory by way of that.
pub(crate) fn hide_command(title: &str) {
    if !fvm_sys::title::set(title) {
        // Where the program itself may not be read, neither may be what it shows.
        let _not_dumpable = crate::title::set(title);
    }
}

pub(crate) fn die_with_parent() {
    let _cannot_fail = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

/// Writes the id maps of a process that waits in a new user namespace. `alone`: without privilege the kernel asks
/// that `setgroups` be given up first.
pub(crate) fn write_maps(pid: Pid, maps: &Maps, alone: bool) -> Result<(), Errno> {
    let write = |name: &str, text: &str| -> Result<(), Errno> {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        let file = fs::open(path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, FileMode::empty())?;
        rustix::io::write(&file, text.as_bytes()).map(drop)
    };
    let line = |[inside, outside, count]: [u32; 3]| format!("{inside} {outside} {count}\n");
    write("uid_map", &line(maps.uid))?;
    if alone {
        write("setgroups", "deny")?;
    }
    write("gid_map", &line(maps.gid))
}

pub(crate) fn collect(pid: Pid) {
    let _not_ours = process::wait_blocking(pid.as_raw_nonzero().get(), false);
}
