//! What one can do with a VM: create, boot, detach, run a program in it, stop, kill, delete.
//!
//! ```text
//!   create ─► (VmRecord, VmLock) ─ boot ─► Running ─ program ─► session ─ attach ─► Ended ─ Running::end
//!                                └ detach ─► a keeper of its own
//! ```
//!
//! Invariants: a VM's layers are written only while its lock is held; a VM that nobody may keep is never synced to
//! disk; whatever fails, no process is left.

mod begin;
mod behind;
mod commands;
mod detach;

pub use commands::{
    Piped, configure, configure_live, delete, empty_trash_behind, exec, exec_piped, info, kill, look, refresh, resume,
    settle, stop, suspend,
};
pub use detach::detach;

pub(crate) use begin::{Begun, Caller, Up, begin};
pub(crate) use commands::piped;

use crate::attach::{self, Attached, Held, Later, Streams};
use crate::blueprint::{self, Blueprint, Brief};
use crate::bus::relay::{Errand, HOST_BUS, Relay};
use crate::disk;
use crate::error::VmError;
use crate::home::{Home, VmLock};
use crate::keeper::{self, Control};
use crate::kept::Kept;
use crate::launch::{First, Launched, Makers};
use crate::proto::{self, Order, Program, Timeout};
use crate::quota::Quota;
use crate::relay::Relays;
use crate::traced;
use begin::begin_new;
use behind::behind;
use fvm_host::HostFacts;
use fvm_model::path::Bytes;
use fvm_model::vm::FORMAT;
use fvm_model::{HostPath, Level, Mode, Network, Policy, Restart, Timestamp, VmId, VmName, VmRecord, VmState};
use fvm_sys::heir::Heir;
use fvm_sys::process;
use fvm_trace::capture::Tracer;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::stdio::{stderr, stdin, stdout};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a new VM shall be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NewVm {
    /// Its name; made up when `None`.
    pub name: Option<VmName>,
    /// What it may use.
    pub policy: Policy,
    /// Deleted when its run ends.
    pub ephemeral: bool,
    /// Of one that is ephemeral: its layers lie in memory, where there is room, although it may use only so much of that: what it
    /// writes counts as memory that it uses.
    #[serde(default)]
    pub in_memory: bool,
    /// When a detached program of it is started again.
    pub restart: Restart,
    /// The pool in which it is to wait for its program.
    pub pool: Option<VmName>,
    /// The home directory of whoever makes it, where stores are whose first version is kept for merges.
    /// Does not travel with it: a path need not be text.
    #[serde(skip)]
    pub user_home: Option<PathBuf>,
}

/// So long a process waits to clean up after a short program.
const CLEANER_WAITS: Duration = Duration::from_millis(100);

/// Tells systemctl that there is no systemd to talk to.
const SYSTEMD_OFFLINE: &str = "SYSTEMD_OFFLINE";

/// A program as a person gives it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Name and arguments.
    pub argv: Vec<OsString>,
    /// Environment; `FVM=<name>` and `SYSTEMD_OFFLINE=1` are added.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory.
    pub cwd: OsString,
    /// File mode creation mask.
    pub umask: u32,
    /// It must not start anywhere else than in `cwd`.
    pub cwd_required: bool,
    /// As whom: a name or number of the VM's.
    pub user: Option<String>,
    /// Variables that it gets whatever the policy says of `env`.
    pub own_env: Vec<(OsString, OsString)>,
    /// How long it may run.
    pub timeout: Option<Timeout>,
}

impl Default for Call {
    /// No program and no variables; in `/`, with the file mode creation mask 022.
    fn default() -> Self {
        Self {
            argv: Vec::new(),
            env: Vec::new(),
            cwd: "/".into(),
            umask: 0o022,
            cwd_required: false,
            user: None,
            own_env: Vec::new(),
            timeout: None,
        }
    }
}

impl Call {
    /// Directories that the program will work in: its own, its home, the places for temporary files.
    #[must_use]
    pub fn reach(&self) -> Vec<PathBuf> {
        let named = ["HOME", "TMPDIR", "XDG_RUNTIME_DIR"];
        let of_env = self.env.iter().filter(|(key, _)| named.iter().any(|n| key == n)).map(|(_, value)| value);
        [&self.cwd].into_iter().chain(of_env).map(PathBuf::from).collect()
    }

    /// The session bus of the host's that its environment names.
    fn host_bus(&self) -> Option<&str> {
        let address = self.env.iter().find(|(key, _)| key == HOST_BUS).and_then(|(_, value)| value.to_str());
        address.filter(|address| !address.is_empty())
    }

    fn program(&self, vm: &VmRecord, streams: &Streams) -> Program {
        let mut program = self.undressed(streams);
        dress(&mut program, vm);
        program
    }

    /// The program with the whole environment of its caller: not yet one for a VM.
    pub(crate) fn undressed(&self, streams: &Streams) -> Program {
        let pairs = |pairs: &[(OsString, OsString)]| {
            pairs.iter().cloned().map(|(key, value)| (Bytes(key), Bytes(value))).collect()
        };
        Program {
            argv: self.argv.iter().cloned().map(Bytes).collect(),
            env: pairs(&self.env),
            cwd: Bytes(self.cwd.clone()),
            terminal: streams.terminal,
            background: streams.begins_in_background(),
            passed: streams.passed(),
            null: [false; 3],
            umask: self.umask,
            cwd_required: self.cwd_required,
            user: self.user.clone(),
            own_env: pairs(&self.own_env),
            timeout: self.timeout,
        }
    }
}

/// Leaves a program of its environment what the policy of `vm` passes, and adds what programs in VMs are told.
pub(crate) fn dress(program: &mut Program, vm: &VmRecord) {
    let mut own = vec![(OsString::from("FVM"), OsString::from(vm.name.as_str()))];
    // Where the host runs systemd, the VM sees that in /run and reaches no systemd: every installation of a service
    // would fail. With this, systemctl does what it does in a chroot: nothing, successfully.
    if !program.env.iter().any(|(key, _)| key.0 == SYSTEMD_OFFLINE) {
        own.push((SYSTEMD_OFFLINE.into(), "1".into()));
    }
    own.extend(crate::bus::Kind::wanted(&vm.policy.dbus).map(crate::bus::Kind::variable));
    // An address of the host's may be that of a socket without a path.
    let is_own = |name: &OsString| name == "FVM" || crate::bus::VARIABLES.iter().any(|v| name == v);
    let passes = |name: &OsString| !is_own(name) && vm.policy.environment.passes(name.as_encoded_bytes());
    program.env.retain(|(key, _)| passes(&key.0));
    program.env.extend(own.into_iter().map(|(key, value)| (Bytes(key), Bytes(value))));
}

/// Makes a VM: its directory and record, and its lock, held.
///
/// # Errors
/// When the name is taken or the state directory cannot be written.
pub fn create(home: &Home, facts: &HostFacts, new: &NewVm) -> Result<(VmRecord, VmLock), VmError> {
    let mut record = draft(home, facts, new)?;
    // A made-up name cannot clash, so it need not wait for others.
    let _names = new.name.is_some().then(|| home.lock_names()).transpose()?;
    record.name = home.free_name(new.name.as_ref(), &record.id)?;
    let lock = home.create_dir(&record.id)?;
    if disk::has(home, &record) {
        disk::make(home, &record)?;
    }
    // One that is thrown away and that nobody knows by name is written when it starts.
    if !new.ephemeral || new.name.is_some() {
        home.save(&record, !new.ephemeral && new.pool.is_none())?;
    }
    Ok((record, lock))
}

/// Gives a stopped VM another name.
///
/// # Errors
/// When that name is taken, or the VM is in use.
pub fn rename(home: &Home, record: &VmRecord, name: &VmName, _lock: &VmLock) -> Result<VmRecord, VmError> {
    let _names = home.lock_names()?;
    let name = home.free_name(Some(name), &record.id)?;
    let renamed = VmRecord { name, ..record.clone() };
    home.save(&renamed, !record.ephemeral)?;
    Ok(renamed)
}

/// The record of a VM as [`create`] would make it now; nothing is written.
///
/// # Errors
/// When there is no place for its layers.
pub fn draft(home: &Home, facts: &HostFacts, new: &NewVm) -> Result<VmRecord, VmError> {
    let id = new_id()?;
    let mode = mode_for(facts);
    // What it wrote would count as the memory that it may use.
    let counts = new.policy.limits.memory_bytes.is_some() && !new.in_memory;
    let is_light = new.ephemeral && !counts && !disk::wants(mode, &new.policy);
    let in_memory = is_light.then(fvm_host::memory_layers_dir).flatten();
    let layers_dir = match in_memory {
        Some(dir) => dir.join(id.as_str()),
        None if disk::wants(mode, &new.policy) => disk::layers_dir(home, &id),
        None => {
            let place = fvm_host::choose_layers_dir(home.state_dir(), home.run_dir())?;
            let at_home = place.dir == home.state_dir();
            if at_home { home.vm_dir(&id).join("layers") } else { place.dir.join(id.as_str()) }
        }
    };
    Ok(VmRecord {
        format: FORMAT,
        name: Home::made_up_name(&id)?,
        state: VmState::Stopped,
        ephemeral: new.ephemeral,
        forked: now(),
        mode,
        uid: facts.ids.euid,
        policy: new.policy.clone(),
        layers_dir: HostPath::new(layers_dir).map_err(|e| VmError::Internal(e.to_string()))?,
        layers: Vec::new(),
        below: Vec::new(),
        imported: None,
        given: None,
        copied: None,
        reached: Vec::new(),
        restart: new.restart,
        restarts: 0,
        last_exit: None,
        pool: new.pool.clone(),
        id,
    })
}

pub(crate) fn new_id() -> Result<VmId, VmError> {
    let mut random = [0u8; 6];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| VmError::Sys("get a random number", e))?;
    Ok(VmId::from_random(random))
}

/// The time by the clock that stamps files: what is done to them from now on is stamped later.
#[must_use]
pub fn now() -> Timestamp {
    timestamp(fvm_sys::clock::now())
}

/// The same, off the start path: what was done to files before is stamped at or before it on every kernel.
#[must_use]
pub fn settled() -> Timestamp {
    timestamp(fvm_sys::clock::settled())
}

/// As records have it.
#[must_use]
pub fn timestamp(at: rustix::fs::Timespec) -> Timestamp {
    Timestamp { secs: at.tv_sec, nanos: u32::try_from(at.tv_nsec).unwrap_or(0) }
}

/// How VMs are kept apart on this host, for this user.
#[must_use]
pub fn mode_for(facts: &HostFacts) -> Mode {
    if !process::is_privileged() {
        Mode::Rootless
    } else if fvm_host::idmap_capable(&facts.root_fs_type) {
        Mode::Shifted
    } else {
        Mode::Identity
    }
}

/// The plan by which `record` would be started now.
#[must_use]
pub fn plan(home: &Home, facts: &HostFacts, record: &VmRecord) -> Blueprint {
    let masked = home.masked(record);
    let mut policy = Cow::Borrowed(&record.policy);
    let mut without = None;
    if policy.network == Network::Own
        && let Err((why, advice)) = fvm_host::own_network(record.mode != Mode::Rootless)
    {
        policy.to_mut().network = Network::None;
        without = Some(format!("the VM has no network: {why} ({advice}; or use '--net host')"));
    }
    if record.pool.is_some() {
        // Their keeper makes others meanwhile, and so must have one thread: there is nobody to answer their calls.
        policy.to_mut().trace = Level::Off;
    }
    let mut drawn =
        blueprint::draw(&Brief { facts, mode: record.mode, policy: &policy, known: &record.layers, masked: &masked });
    drawn.notices.extend(without);
    drawn
}

/// The log of a VM says that it saw nothing of `what`.
///
/// # Errors
/// When that cannot be written.
pub fn note_unseen(home: &Home, record: &VmRecord, what: &str) -> Result<(), VmError> {
    traced::say_unseen(home, record, what)
}

/// A VM that this process keeps.
#[derive(Debug)]
pub struct Running {
    /// What the VM does not have, in words.
    pub notices: Vec<String>,
    vm: Launched,
    control: Control,
    lock: VmLock,
    relay: Option<Relay>,
    kept: Kept,
    handed: Option<(Handed, Held)>,
    cleaner: Option<Heir>,
    makers: Makers,
    tracer: Option<Tracer>,
}

/// A program on our own streams, and what init gets with it.
#[derive(Debug)]
struct Handed {
    order: Order,
    streams: Streams,
    session: OwnedFd,
    theirs: OwnedFd,
    relays: Relays,
}

impl Handed {
    fn new(record: &VmRecord, call: &Call) -> Result<Self, VmError> {
        let streams = Streams::of_this_process();
        Self::of(call.program(record, &streams), streams)
    }

    fn of(mut program: Program, streams: Streams) -> Result<Self, VmError> {
        let (session, theirs) = session_pair()?;
        let relays = Relays::of([stdin(), stdout(), stderr()], u64::MAX);
        let relays = relays.map_err(|e| VmError::Sys("pass the streams", e))?;
        pass(&mut program, &relays);
        Ok(Self { order: Order::Start(program), streams, session, theirs, relays })
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let passed = if let Order::Start(program) = &self.order { program.passed } else { [false; 3] };
        with_streams(&self.theirs, passed, &self.relays)
    }

    /// Has `start` pass the program on, and waits for its end.
    fn run(
        self,
        signals: &Held,
        start: impl FnOnce(Program, &[BorrowedFd<'_>]) -> Result<(), VmError>,
    ) -> Result<Attached, VmError> {
        let Self { order, streams, session, theirs, relays } = self;
        let Order::Start(program) = order else { return Err(VmError::Internal("a program that is none".into())) };
        let fds = with_streams(&theirs, program.passed, &relays);
        start(program, &fds)?;
        drop(fds);
        drop(theirs);
        let relayed = relays.start().map_err(|e| VmError::Sys("pass the streams", e))?;
        let ended = attach::attach(&session, signals, streams, None, None);
        relayed.finish();
        ended.map_err(|e| VmError::Sys("wait for the program", e))
    }
}

/// Has `start` pass a program with our own streams to a VM, and waits for its end.
pub(crate) fn on_own_streams(
    call: &Call,
    signals: &Held,
    start: impl FnOnce(Program, &[BorrowedFd<'_>]) -> Result<(), VmError>,
) -> Result<Attached, VmError> {
    let streams = Streams::of_this_process();
    Handed::of(call.undressed(&streams), streams)?.run(signals, start)
}

/// Starts a VM's init, and, with `at_once`, the program of `call` on our own streams, for [`Running::run`] to wait for. The calling
/// process must have one thread; see [`launch::launch`].
///
/// # Errors
/// When the state does not allow it or a step fails.
pub fn boot(
    home: &Home,
    facts: &HostFacts,
    record: VmRecord,
    lock: VmLock,
    call: &Call,
    at_once: bool,
) -> Result<Running, VmError> {
    boot_in(home, &record.clone(), call, at_once, |caller, first| {
        if record.policy.trace == Level::Off && !record.ephemeral {
            // Before the program: it may have run when the log cannot be told.
            note_unseen(home, &record, "a run without a log")?;
        }
        Ok((begin(home, facts, record, caller, first)?, lock))
    })
}

/// Whether [`boot_new`] takes it: it is thrown away, nobody knows its name, and it needs no disk of its own.
#[must_use]
pub fn is_fleeting(facts: &HostFacts, new: &NewVm) -> bool {
    new.ephemeral && new.name.is_none() && !disk::wants(mode_for(facts), &new.policy)
}

/// [`create`] and [`boot`] of a VM that [`is_fleeting`]: its directories are made while it is being built.
///
/// # Errors
/// As both; a VM that did not start is not left behind.
pub fn boot_new(home: &Home, facts: &HostFacts, new: &NewVm, call: &Call) -> Result<Running, VmError> {
    let mut record = draft(home, facts, new)?;
    let begin = |caller: &Caller<'_>, first: Option<First<'_>>| begin_new(home, facts, record.clone(), caller, first);
    boot_in(home, &record, call, true, begin).or_else(|e| {
        if let Ok(Some(lock)) = home.try_lock(&record.id) {
            delete(home, &mut record, &lock)?;
            // It may have had no record yet by which others would know of them.
            home.remove_outside(&record)?;
            home.empty_trash()?;
        }
        Err(e)
    })
}

fn boot_in(
    home: &Home,
    record: &VmRecord,
    call: &Call,
    at_once: bool,
    begin: impl FnOnce(&Caller<'_>, Option<First<'_>>) -> Result<(Begun, VmLock), VmError>,
) -> Result<Running, VmError> {
    if !process::has_one_thread() {
        return Err(VmError::Threads("start a VM"));
    }
    let (relay, absent) = match relay(record, call) {
        Some(Ok(relay)) => (Some(relay), None),
        Some(Err(e)) => (None, Some(e.to_string())),
        None => (None, None),
    };
    // What the VM may ask of the desktop is there before its program.
    let handed = at_once.then(|| Handed::new(record, call)).transpose()?;
    let fds = handed.as_ref().map(Handed::fds).unwrap_or_default();
    let held = OnceCell::new();
    let first = handed.as_ref().filter(|_| relay.is_none());
    let first = first.map(|handed| First { order: &handed.order, fds: &fds, held: &held });
    let caller = Caller { reach: call.reach(), host_bus: call.host_bus(), files: None, holds_many: false };
    let (mut begun, lock) = begin(&caller, first)?;
    drop(fds);
    // What is thrown away without a word is built by two processes on two processors: this one waits, and goes on beside the program.
    let is_light = at_once && relay.is_none() && begun.is_light();
    let is_beside = is_light && record.policy.trace == Level::Off;
    let control = || Control::open(home, &record.id);
    // A tracer is a thread, and after it no process is forked.
    let before = if is_beside { None } else { Some((control()?, is_light.then(|| begun.cleaner()).transpose()?)) };
    let tracer = traced::start(home, record, begun.pending.traced()?)?;
    let Up { mut vm, kept, mut notices } = begun.wait()?;
    let beside = || Ok::<_, VmError>((control()?, Some(begin::cleaner(home, &vm.pidfd, &kept.record(), &vm.ends()))));
    let (control, cleaner) = before.map_or_else(beside, Ok)?;
    if let Some(tracer) = &tracer {
        kept.is_traced(tracer.settler());
    }
    let makers = vm.take_makers();
    notices.extend(absent);
    if let (Some(relay), Some(bus)) = (&relay, vm.bus.take())
        && !relay.connect(&bus)?
    {
        notices
            .push("the VM's message bus does not answer: what it may ask of the desktop may not be there yet".into());
    }
    let handed = match (handed, held.into_inner()) {
        // It is started later.
        (Some(handed), None) => Some((handed, Held::take()?)),
        (handed, held) => handed.zip(held),
    };
    Ok(Running { notices, vm, control, lock, relay, kept, handed, cleaner: cleaner.flatten(), makers, tracer })
}

/// The relay that the VM's policy asks for. Before the VM is there: later a fork would be of a process with it.
fn relay(record: &VmRecord, call: &Call) -> Option<Result<Relay, VmError>> {
    let pass = &record.policy.dbus.pass;
    if pass.is_empty() {
        return None;
    }
    let Some(address) = call.host_bus() else {
        let why = format!("{HOST_BUS} is not set here");
        return Some(Err(VmError::Desktop { address: "none".into(), why }));
    };
    let inside = if record.mode == Mode::Rootless { record.uid } else { 0 };
    Some(Relay::start(&Errand { vm: &record.name, pass, address, inside }))
}

impl Running {
    /// The VM.
    #[must_use]
    pub fn record(&self) -> VmRecord {
        self.kept.record()
    }

    /// Waits for the program that the VM was started for, on our own streams, until it ends. Other clients are served meanwhile.
    ///
    /// # Errors
    /// When it cannot be handed to init, or was waited for before.
    pub fn run(&mut self) -> Result<Attached, VmError> {
        let (handed, signals) =
            self.handed.take().ok_or_else(|| VmError::Internal("a VM that was started for no program".into()))?;
        if !self.vm.has_first {
            proto::write_message(&self.vm.orders, &handed.order, &handed.fds())
                .map_err(|e| VmError::Sys("reach init", e))?;
        }
        let Handed { streams, session, theirs, relays, .. } = handed;
        drop(theirs);
        let relayed = relays.start().map_err(|e| VmError::Sys("pass the streams", e))?;
        let (done, finished) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| VmError::Sys("make a pipe", e))?;
        let ended = std::thread::scope(|scope| {
            let mut serve =
                || drop(scope.spawn(|| keeper::serve(&self.control, &self.vm, &self.kept, Some(&done), || None)));
            // Nobody asks anything of most VMs, and a thread takes longer to make than many programs to run.
            let knock: Option<(BorrowedFd<'_>, &mut dyn FnMut())> = match &self.vm.quota {
                None => Some((self.control.listener(), &mut serve)),
                Some(_) => {
                    serve();
                    None
                }
            };
            // A program that takes longer does not need an end that is so fast, nor the machine a process that waits.
            let (cleaner, makers) = (&mut self.cleaner, &mut self.makers);
            let mut dismiss = || {
                drop(cleaner.take());
                makers.collect();
            };
            let later = Later { due: Instant::now() + CLEANER_WAITS, act: &mut dismiss };
            let ended = attach::attach(&session, &signals, streams, knock, Some(later));
            drop(finished);
            ended
        });
        relayed.finish();
        drop(signals);
        ended.map_err(|e| VmError::Sys("wait for the program", e))
    }

    /// Whether the VM can [`Running::vanish`] after `attached`: nothing of it runs, and nothing is to be told of it.
    #[must_use]
    pub fn can_vanish(&self, attached: &Attached) -> bool {
        attached.nobody_left && self.is_light()
    }

    /// Whether nothing is to be told or taken back of the VM when it is thrown away.
    fn is_light(&self) -> bool {
        let record = self.kept.record();
        let tells = self.kept.has_groups() || self.vm.quota.is_some() || disk::has(self.kept.home(), &record);
        record.ephemeral && self.relay.is_none() && !tells
    }

    /// Throws an ephemeral VM away of which no process is left: what takes the kernel time goes on behind the answer. The calling
    /// process is to end.
    ///
    /// # Errors
    /// When it cannot be ended or taken out of sight.
    pub fn vanish(mut self) -> Result<(), VmError> {
        let kill = |vm: &Launched| {
            process::kill(vm.init.as_raw_nonzero().get(), rustix::process::Signal::KILL.as_raw())
                .map_err(|e| VmError::Sys("end the VM", e))
        };
        // Init and the builder are killed by the end of this process. By a signal now, or by the end of what they listen to, they
        // would take a processor from it.
        let is_left = self.tracer.is_none() && self.cleaner.is_some();
        if !is_left {
            kill(&self.vm)?;
            // Nothing of it calls any more; with one thread less, what follows can go on behind the answer.
            drop(self.tracer.take());
        }
        let (home, record) = (self.kept.home(), self.kept.record());
        home.hide(&record.id)?;
        // One that copies a stream and was not waited for may have the heap just now that the heir would find.
        let cleaner = self.cleaner.take().filter(|_| process::has_one_thread());
        if cleaner.is_some_and(Heir::tell) {
            // What is closed by the end of this process need not be closed before.
            std::mem::forget(self);
            return Ok(());
        }
        if is_left {
            kill(&self.vm)?;
        }
        let init = &self.vm.pidfd;
        behind(&[init.as_raw_fd()], || begin::clean(home, init, &record))
    }

    /// Ends the VM and gives back its record and lock: nothing of it runs any more.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn end(mut self) -> Result<(VmRecord, VmLock), VmError> {
        // First: it has what the builder waits for.
        drop(self.cleaner.take());
        self.makers.collect();
        keeper::end(&self.vm).map_err(|e| VmError::Sys("end the VM", e))?;
        let _collected = process::wait_nonblocking(self.vm.init.as_raw_nonzero().get(), false);
        // Before the VM is another's: the log is whole then.
        drop(self.tracer);
        // It may hold what the VM sent it.
        drop(self.relay);
        let also = self.vm.quota.as_ref().and_then(Quota::reached);
        let also = also.or_else(|| disk::reached(self.kept.home(), &self.kept.record()));
        Ok((self.kept.close(also)?, self.lock))
    }
}

/// Those of our streams that are no terminal, after the program's session socket.
fn with_streams<'a>(session: &'a OwnedFd, passed: [bool; 3], relays: &'a Relays) -> Vec<BorrowedFd<'a>> {
    let passed = relays.theirs().into_iter().zip(passed).filter(|(_, passed)| *passed);
    [session.as_fd()].into_iter().chain(passed.filter_map(|(fd, _)| fd)).collect()
}

/// Says in `program` which of its streams are passed, and which are nothing.
fn pass(program: &mut Program, relays: &Relays) {
    for (index, null) in relays.null().into_iter().enumerate() {
        program.null[index] = null && program.passed[index];
        program.passed[index] &= !null;
    }
}

fn session_pair() -> Result<(OwnedFd, OwnedFd), VmError> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| VmError::Sys("make a socket pair", e))
}
