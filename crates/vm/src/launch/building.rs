//! The processes that build a VM, after the fork: nothing here returns to the keeper.
//!
//! ```text
//!   start_shifted ─ build_shifted ─ enter_shifted ┐
//!   start_rootless ───────────────────────────────┼─ prepare ─ finish ─► crate::init::serve
//!   start_identity ───────────────────────────────┘
//! ```
//!
//! Invariants: a process that fails says so and exits; none of them outlives the keeper.

use super::{Ends, Entry, Progress, awaited, die_with_parent, enter_limits, hide_command, tell, write_maps};
use crate::blueprint::SHIFT;
use crate::bus::Bus;
use crate::early::Early;
use crate::executor::{Site, StepError};
use crate::init;
use crate::op::SetupOp;
use crate::refresh::Held;
use crate::router::Helper;
use crate::traced::Traced;
use fvm_model::Mode;
use fvm_sys::beside::Network;
use fvm_sys::process::{self, Fork, Namespaces};
use fvm_sys::{ids, processors, socket};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, CpuSet, LinkNameSpaceType, move_into_link_name_space};

/// Made as the host's root, so that they belong to the host: the VM's root may not mount cgroup file systems in a
/// cgroup namespace that is not its own.
pub(super) const OWNED_BY_HOST: Namespaces = Namespaces::MOUNT.and(Namespaces::CGROUP);

/// Takes the user who is to own the user namespace of VM `id`. What the VM's programs take of what the kernel counts for each user (inotify
/// and fanotify instances, watches, namespaces, pending signals, message queues; `ucounts`, `user_namespaces(7)`) it counts for that owner,
/// too: it must be nobody else's, root's least of all. Ids above 2^31 are no user's, and in no VM (`SHIFT`). Where they are not to be had
/// (in a container), or where only the owner's power over the VM makes up for what this root lacks, the VM counts as root's.
fn take_owner(id: &str) {
    const OWNERS: u32 = 0x8000_0000;
    // The highest id is none.
    const COUNT: u64 = 0x7fff_ffff;
    let needed = CapabilitySet::KILL | CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_OVERRIDE;
    let has_power = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    let number = u64::from_str_radix(id, 16).ok().and_then(|number| u32::try_from(number % COUNT).ok());
    if let (true, Some(number)) = (has_power, number) {
        let _counts_as_roots = ids::set_effective_user(OWNERS + number);
    }
}

pub(super) fn start_shifted(
    mut site: Site,
    entry: &Entry<'_>,
    ends: Ends,
    network: Option<&Helper>,
) -> Result<Option<Pid>, Errno> {
    let until = entry.until.map_or(-1, AsRawFd::as_raw_fd);
    let others = [network.map_or(-1, Helper::as_raw_fd), awaited(&site), until];
    let kept = ends.as_raw_fds().into_iter().chain(others);
    let kept: Vec<_> = kept.collect();
    let (own, here) = (processors::affinity(), processors::current());
    let last = site.doors.iter().map(AsRawFd::as_raw_fd).chain(kept.iter().copied()).max().unwrap_or(-1);
    match if site.held_above { process::fork_below(last + 1)? } else { process::fork()? } {
        Fork::Parent(builder) => {
            if site.layers_to_come.is_some() {
                // This process goes on: it makes the layers.
                let _as_the_kernel_has_it = own.and_then(|own| processors::begin_elsewhere(builder, &own));
            }
            Ok(Some(builder))
        }
        Fork::Child => {
            if let (Ok(own), true) = (&own, site.layers_to_come.is_some()) {
                let _as_the_kernel_has_it = processors::go_elsewhere(here, own);
            }
            die_with_parent();
            enter_limits(&mut site, &ends);
            process::close_all_but(&kept);
            let went = match build_shifted(&mut site, entry, &ends, network, own) {
                Ok(went) => went,
                Err(error) => ends.give_up(error),
            };
            // Should init end now, the keeper is to see it.
            drop(ends);
            // With the end of this process its mounts go, and init, which copies them, would wait for that.
            let _closed = socket::receive(&went, &mut [0]);
            let _closed = entry.until.map(|until| rustix::io::read(until, &mut [0u8][..]));
            process::exit_now(0)
        }
    }
}

/// Returns init's socket, which init closes when it needs this process no more.
pub(super) fn build_shifted(
    site: &mut Site,
    entry: &Entry<'_>,
    ends: &Ends,
    network: Option<&Helper>,
    own: Result<CpuSet, Errno>,
) -> Result<OwnedFd, StepError> {
    let step = |step: &str| {
        let step = step.to_owned();
        move |e: Errno| StepError { step, why: format!("{e}; see 'fvm doctor' for what this kernel allows") }
    };
    process::unshare(OWNED_BY_HOST).map_err(step("make a mount namespace"))?;
    let (go, went) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(step("make a socket pair"))?;
    // The network's takes as long as all others together: init makes it beside the mounts.
    let network_too = entry.namespaces.has(Namespaces::NET);
    let at_once = entry.namespaces.without(OWNED_BY_HOST).without(Namespaces::NET);
    let loopback = Chore::new(network_too).map_err(step("make an event"))?;
    ids::keep_capabilities().map_err(step("keep capabilities"))?;
    take_owner(&site.name);
    let here = processors::current();
    let init = match process::clone_into(at_once, true).map_err(step("make the namespaces"))? {
        Fork::Parent(init) => init,
        Fork::Child => {
            let _as_the_kernel_has_it = own.as_ref().map(|own| processors::go_elsewhere(here, own));
            drop(went);
            if network_too && let Err(e) = process::unshare(Namespaces::NET) {
                ends.give_up(step("make a network namespace")(e));
            }
            begin_network(network, ends);
            hide_command("fvm: init");
            let mut early = prepare(site, entry, ends);
            let _the_same = site.prepare_filter(entry.after);
            // Where it cannot be, the operation says why.
            site.has_loopback = loopback.is_mine() && fvm_sys::net::loopback_up().is_ok();
            // The end without a message: the builder failed, and has said so.
            let mut byte = [0u8];
            let Ok((1, mut fds)) = socket::receive_soon(&go, &mut byte) else { process::exit_now(1) };
            if fds.is_empty() {
                process::exit_now(1)
            }
            let tree = fds.remove(0);
            site.inner = fds;
            if byte == *GO_AND_WAIT {
                site.loopback_to_come = go.try_clone().ok();
            }
            early.builder = Some(go);
            early.processors = own.ok();
            enter_shifted(site, &tree, entry, ends, network, early)
        }
    };
    ends.note(init);
    // A keeper that makes the layers meanwhile waits for all to be done: woken before, it would take a processor from init or from
    // this process. One that goes on waits for many, by what they tell.
    if site.layers_to_come.is_none() {
        ends.tell(&Progress::Init(init.as_raw_nonzero().get()));
    }
    // It takes as long as all that follows here.
    let _as_the_kernel_has_it = own.and_then(|own| processors::begin_elsewhere(init, &own));
    drop(go);
    assemble(site, entry, init)?;
    let inits = networks(init, &loopback);
    let tree = site.assembled().map_err(step("start init"))?;
    let fds: Vec<_> = [tree].into_iter().chain(site.inner.iter().map(AsFd::as_fd)).take(socket::MAX_FDS).collect();
    let go = if inits.is_some() { GO_AND_WAIT } else { GO };
    socket::send(&went, go, &fds).map_err(step("start init"))?;
    if let Some(inits) = inits {
        // Beside init's own mounts. Where it fails, init tries it itself.
        let _is_up = set_loopback_up(&inits).map(|()| socket::send(&went, IS_UP, &[]));
    }
    Ok(went)
}

/// The tree is there.
const GO: &[u8; 1] = b"!";
/// And another word will come when the loopback interface is up.
const GO_AND_WAIT: &[u8; 1] = b"+";
/// It is.
const IS_UP: &[u8; 1] = b"^";

/// What builder or init does, whoever comes to it first: both have enough to do otherwise, and which of them waits for the other in the
/// end is the machine's.
#[derive(Debug)]
struct Chore(OwnedFd);

impl Chore {
    fn new(is_to_be_done: bool) -> Result<Self, Errno> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE;
        eventfd(is_to_be_done.into(), flags).map(Self)
    }

    /// Whether the caller is to do it.
    fn is_mine(&self) -> bool {
        rustix::io::read(&self.0, &mut [0u8; 8][..]).is_ok()
    }
}

/// In the builder: init's network namespace, if that has its own by now and has not come to its loopback interface, which is the caller's
/// chore then.
fn networks(init: Pid, chore: &Chore) -> Option<OwnedFd> {
    let open = |of: &str| fs::open(format!("/proc/{of}/ns/net"), OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty());
    let (own, inits) = (open("self").ok()?, open(&init.as_raw_nonzero().to_string()).ok()?);
    let (a, b) = (fs::fstat(&own).ok()?, fs::fstat(&inits).ok()?);
    ((a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) && chore.is_mine()).then_some(inits)
}

/// In the builder, which needs no network.
fn set_loopback_up(inits: &OwnedFd) -> Result<(), Errno> {
    move_into_link_name_space(inits.as_fd(), Some(LinkNameSpaceType::Network))?;
    fvm_sys::net::loopback_up()
}

/// Puts the tree of the VM together whose init is waiting.
fn assemble(site: &mut Site, entry: &Entry<'_>, init: Pid) -> Result<(), StepError> {
    let step = |step: &str| {
        let step = step.to_owned();
        move |e: Errno| StepError { step, why: e.to_string() }
    };
    ids::set_effective_user(0).map_err(step("be root again"))?;
    write_maps(init, &entry.maps, false).map_err(step("map the VM's ids"))?;
    let userns = format!("/proc/{}/ns/user", init.as_raw_nonzero());
    site.idmap = Some(
        fs::open(userns.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty())
            .map_err(step("open the user namespace"))?,
    );
    // overlayfs makes its work files as this process: it must be somebody whom the shifted layers know.
    ids::set_fs_ids(SHIFT, SHIFT).map_err(step("take the VM's file ids"))?;
    // Each change of ids takes it back.
    die_with_parent();
    rustix::process::umask(FileMode::empty());
    entry.before.iter().try_for_each(|op| site.execute(op))
}

pub(super) fn enter_shifted(
    site: &mut Site,
    tree: &OwnedFd,
    entry: &Entry<'_>,
    ends: &Ends,
    network: Option<&Helper>,
    early: Early,
) -> ! {
    let enter = |site: &mut Site| -> Result<(), Errno> {
        rustix::process::fchdir(tree)?;
        process::unshare(Namespaces::MOUNT)?;
        site.adopt_working_directory()?;
        ids::become_root_of_namespace()
    };
    if let Err(e) = enter(site) {
        ends.give_up(StepError { step: "enter the user namespace".into(), why: e.to_string() });
    }
    finish(site, entry, ends, network, early)
}

/// Tells who makes the network of a root VM where it is to be.
pub(super) fn begin_network(network: Option<&Helper>, ends: &Ends) {
    if let Some(Err(e)) = network.map(Helper::begin) {
        ends.give_up(StepError { step: "reach who makes the VM's network".into(), why: e.to_string() });
    }
}

pub(super) fn await_network(network: Option<&Helper>) {
    if network.is_some_and(|helper| !helper.is_done()) {
        process::exit_now(1)
    }
}

pub(super) fn start_rootless(mut site: Site, entry: &Entry<'_>, ends: Ends) -> Result<Option<Pid>, Errno> {
    let (go, went) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let namespaces = entry.namespaces.without(Namespaces::NET).and(Namespaces::MOUNT);
    let own = processors::affinity();
    match process::clone_into(namespaces, false)? {
        Fork::Parent(init) => {
            let _as_the_kernel_has_it = own.and_then(|own| processors::begin_elsewhere(init, &own));
            drop(go);
            ends.tell(&Progress::Init(init.as_raw_nonzero().get()));
            let maps = write_maps(init, &entry.maps, true);
            let maps = maps.map_err(|e| StepError { step: "map the VM's ids".into(), why: e.to_string() });
            match maps.and_then(|()| admit(&site, init)) {
                Ok(()) => drop(rustix::io::write(&went, b"!")?),
                Err(error) => ends.tell(&Progress::Failed(error)),
            }
            Ok(None)
        }
        Fork::Child => {
            drop(went);
            let mut byte = [0u8];
            if rustix::io::read(&go, &mut byte[..]) != Ok(1) {
                process::exit_now(1);
            }
            hide_command("fvm: init");
            enter_limits(&mut site, &ends);
            process::close_all_but(&[&ends.as_raw_fds()[..], &[awaited(&site)]].concat());
            build_rootless(&mut site, entry, &ends, Net::ToBeMade(own))
        }
    }
}

/// Has the user's systemd put init into the scope that limits the VM, if it is limited.
pub(crate) fn admit(site: &Site, init: Pid) -> Result<(), StepError> {
    let admitted = site.gate.as_ref().map_or(Ok(()), |gate| gate.admit(init));
    admitted.map_err(|why| StepError { step: "limit the VM".into(), why })
}

/// Where an ordinary user's VM has its network from.
#[derive(Debug)]
pub(crate) enum Net {
    /// Others make it; readable when it is there.
    ToCome(OwnedFd),
    /// Nobody has made it, if it is to have one of its own. The processors that whoever cloned init had.
    ToBeMade(Result<CpuSet, Errno>),
}

/// Init of an ordinary user's VM builds it itself, in its namespaces.
pub(crate) fn build_rootless(site: &mut Site, entry: &Entry<'_>, ends: &Ends, network: Net) -> ! {
    rustix::process::umask(FileMode::empty());
    let overlays: Vec<_> = entry.after.iter().filter(|op| op.is_layered() && !op.is_over_names()).collect();
    let (first, others) = overlays.split_at(overlays.len() / 2);
    let mut built = entry.before.iter().try_for_each(|op| site.execute(op));
    built = built.and_then(|()| site.overlay_ahead(first.iter().copied()));
    if let Net::ToBeMade(own) = &network
        && entry.namespaces.has(Namespaces::NET)
    {
        // It wants a processor for as long as several overlays. The other one, if there are but two, made layers until about now.
        let begun = Network::begin().map(|begun| {
            let _as_the_kernel_has_it = own.map(|own| begun.elsewhere(&own));
            site.network = Some(begun);
        });
        built = built.and(begun.map_err(|e| {
            let why = format!("{e}; see 'fvm doctor' for what this kernel allows");
            StepError { step: "make a network namespace".into(), why }
        }));
    }
    if let Err(error) = built.and_then(|()| site.overlay_ahead(others.iter().copied())) {
        ends.give_up(error);
    }
    if let Net::ToCome(network) = network
        && rustix::io::read(network, &mut [0u8][..]) != Ok(1)
    {
        // Whoever makes it failed, and has said so.
        process::exit_now(1)
    }
    let early = prepare(site, entry, ends);
    finish(site, entry, ends, None, early)
}

/// Init builds as the host's root, in a new process namespace, and enters the user namespace at the end, so that
/// every mount, `/proc` with its guards too, is locked. The keeper writes the maps.
pub(super) fn start_identity(
    mut site: Site,
    entry: &Entry<'_>,
    ends: Ends,
    network: Option<&Helper>,
) -> Result<Option<Pid>, Errno> {
    let (go, went) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (entered, has_entered) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match process::clone_into(Namespaces::PID, false)? {
        Fork::Parent(init) => {
            drop((go, has_entered));
            ends.tell(&Progress::Init(init.as_raw_nonzero().get()));
            let mut byte = [0u8];
            // No byte: init failed before, and says so itself.
            if rustix::io::read(&entered, &mut byte[..]) == Ok(1) {
                match write_maps(init, &entry.maps, false) {
                    Ok(()) => drop(rustix::io::write(&went, b"!")?),
                    Err(e) => {
                        ends.tell(&Progress::Failed(StepError { step: "map the VM's ids".into(), why: e.to_string() }))
                    }
                }
            }
            Ok(None)
        }
        Fork::Child => {
            drop((went, entered));
            hide_command("fvm: init");
            enter_limits(&mut site, &ends);
            let own = [&go, &has_entered].map(AsRawFd::as_raw_fd).into_iter().chain(ends.as_raw_fds());
            let kept: Vec<_> = own.chain(network.map(Helper::as_raw_fd)).chain([awaited(&site)]).collect();
            process::close_all_but(&kept);
            rustix::process::umask(FileMode::empty());
            let built = process::unshare(OWNED_BY_HOST)
                .map_err(|e| StepError { step: "make a mount namespace".into(), why: e.to_string() })
                .and_then(|()| entry.before.iter().try_for_each(|op| site.execute(op)));
            if let Err(error) = built {
                ends.give_up(error);
            }
            let enter = |site: &mut Site| -> Result<(), Errno> {
                rustix::process::fchdir(site.assembled()?)?;
                process::unshare(Namespaces::USER)?;
                rustix::io::write(&has_entered, b"!")?;
                let mut byte = [0u8];
                if rustix::io::read(&go, &mut byte[..])? != 1 {
                    return Err(Errno::PERM);
                }
                ids::become_root_of_namespace()?;
                process::unshare(
                    entry
                        .namespaces
                        .without(Namespaces::USER.and(Namespaces::PID).and(OWNED_BY_HOST))
                        .and(Namespaces::MOUNT),
                )?;
                site.adopt_working_directory()
            };
            if let Err(e) = enter(&mut site) {
                ends.give_up(StepError { step: "enter the user namespace".into(), why: e.to_string() });
            }
            drop((go, has_entered));
            begin_network(network, &ends);
            let early = prepare(&site, entry, &ends);
            finish(&mut site, entry, &ends, network, early)
        }
    }
}

pub(super) fn prepare(site: &Site, entry: &Entry<'_>, ends: &Ends) -> Early {
    // Listeners, the tracer's and the one for an ordinary user's links, are put on what is started afterwards: the first program must be.
    let is_traced = entry.after.iter().any(|op| matches!(op, SetupOp::Trace { .. }));
    match Early::prepare(&ends.orders, entry.has_first, site.mode == Mode::Shifted && !is_traced) {
        Ok(early) => early,
        Err(e) => ends.give_up(StepError { step: "prepare init".into(), why: e.to_string() }),
    }
}

/// Init, in its namespaces: the last operations, then service.
pub(super) fn finish(site: &mut Site, entry: &Entry<'_>, ends: &Ends, network: Option<&Helper>, mut early: Early) -> ! {
    // From the tracer's filter on, init's own captured calls wait until the keeper answers: what else it opens comes before.
    let traced_at = entry.after.iter().position(|op| matches!(op, SetupOp::Trace { .. }));
    let (ops, last) = entry.after.split_at(traced_at.unwrap_or(entry.after.len()));
    site.has_network = network.is_some();
    let mut filter = None;
    for op in ops {
        match op {
            // The first program has it already, and runs: see below.
            SetupOp::SystemCalls { .. } if early.ahead.is_some() => filter = Some(op),
            op => {
                if let Err(error) = site.execute(op) {
                    ends.give_up(error);
                }
            }
        }
        if matches!(op, SetupOp::Keyring) {
            early.ahead(site.prepared_filter(ops));
        }
    }
    // No program is there before it, and none of the operations needs it.
    await_network(network);
    // After the last change of credentials, which would reset both.
    die_with_parent();
    let _old_kernel = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    rustix::process::umask(FileMode::from_raw_mode(0o022));
    let bus = site.bus_client.take();
    let buses = std::mem::take(&mut site.buses);
    let inner = std::mem::take(&mut site.inner);
    // Its own, to be closed once it has been used.
    let Ok(report) = rustix::io::fcntl_dupfd_cloexec(&ends.report, 3) else { process::exit_now(1) };
    // The keeper is told that it has begun only when it is on its way.
    ends.note_begin();
    let kept = buses.iter().map(|(_, listener)| listener).chain(&inner).chain(&bus).chain([&ends.orders, &report]);
    process::close_all_but(&kept.map(AsRawFd::as_raw_fd).chain(early.fds()).collect::<Vec<_>>());
    let overlays = Held::open(entry.before.iter().chain(entry.after), inner, site.mode);
    let buses = buses.into_iter().map(|(kind, listener)| Bus::new(kind, listener)).collect();
    for op in last {
        if let Err(error) = site.execute(op) {
            tell(&report, &Progress::Failed(error), &[]);
            process::exit_now(1)
        }
    }
    let is_traced = site.traced.as_ref().is_some_and(Traced::works);
    let null = site.traced.take().and_then(|traced| traced.tell(&report));
    // There is one listener: the tracer has it, and answers for links too.
    let links = site.mode == Mode::Rootless && !is_traced;
    let served = init::Served { orders: &ends.orders, overlays: &overlays, links };
    init::serve(&served, buses, early, null, move || {
        // Before init starts anything else.
        if let Some(Err(error)) = filter.map(|op| site.execute(op)) {
            tell(&report, &Progress::Failed(error), &[]);
            process::exit_now(1)
        }
        tell(&report, &Progress::Ready, bus.as_ref().map(AsFd::as_fd).as_slice())
    })
}
