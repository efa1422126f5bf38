//! Rootless: who makes and who holds the namespace between a VM and the host's network ([`fvm_net::router`]).
//!
//! ```text
//!   keeper ─clone(user)─► builder: root of R, a user namespace        all others are children of the keeper, too
//!     │                     ├─clone(pid)──► guard: R's root, host's network ── pasta, name server, published ports
//!     │                     ├─clone(user net ...)──► init: the VM, its user namespace a child of R
//!     │                     ├─ unshare(net): the router namespace; filters, pair of interfaces
//!     │                     └─ sockets ─► guard ─► "ready" ─► init may go on; builder ends
//!     └─ keeps the guard's pid: ends it after init
//! ```
//!
//! Invariants: the VM has no rights over R. The guard is process 1 of a process namespace, so pasta, which daemonises
//! and changes its credentials, ends with it however it ends; it dies with the keeper. No descriptor of the keeper
//! reaches either but what they need. Published addresses are bound before anything starts.

mod connect;

use crate::error::VmError;
use crate::executor::{Site, StepError};
use crate::launch::{
    Ends, Entry, Maps, Progress, build_rootless, collect, die_with_parent, enter_limits, hide_command, write_maps,
};
use crate::op::SetupOp;
use fvm_model::reach::To;
use fvm_model::{HostPath, Network, Policy, Publish, Reach};
use fvm_net::claim::Claim;
use fvm_net::dns::{HostFiles, Server};
use fvm_net::filter::Sets;
use fvm_net::netlink::Netlink;
use fvm_net::publish::{self, Port};
use fvm_net::router::{self, Refused, Router, VM_V4};
use fvm_net::uplink::{self, Uplink};
use fvm_sys::process::{self, Fork, Namespaces};
use fvm_sys::socket;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space, set_capabilities};
use serde::Serialize;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

/// A router as it is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What the VM may reach.
    pub reach: Reach,
    /// What of it the host reaches.
    pub publish: Vec<Publish>,
}

impl Plan {
    /// What the policy says, if the VM has a network of its own.
    #[must_use]
    pub fn of(policy: &Policy) -> Option<Self> {
        (policy.network == Network::Own).then(|| Self { reach: policy.reach.clone(), publish: policy.publish.clone() })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |list: &[To]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        write!(f, "own network behind a router at {}: ", router::ROUTER_V4)?;
        match &self.reach.allow {
            Some(allow) if allow.is_empty() => f.write_str("reaches nothing")?,
            Some(allow) => write!(f, "reaches only {}", list(allow))?,
            None if self.reach.private => f.write_str("reaches everything")?,
            None => f.write_str("reaches everything but private networks")?,
        }
        if !self.reach.deny.is_empty() {
            write!(f, ", never {}", list(&self.reach.deny))?;
        }
        for Publish { host, vm } in &self.publish {
            write!(f, ", port {host} of its loopback address is {vm} in it")?;
        }
        Ok(())
    }
}

/// Where the VM's programs find their name server: in the host's own file, wherever that lies.
#[must_use]
pub fn name_server() -> Option<SetupOp> {
    const FILE: &str = "/etc/resolv.conf";
    let target = std::fs::canonicalize(FILE).ok()?;
    let mut text = format!("# The VM's own name server, outside of it.\nnameserver {}\n", router::ROUTER_V4);
    let search = HostFiles::default().resolv().search.clone();
    if !search.is_empty() {
        let names: Vec<String> = search.iter().map(ToString::to_string).collect();
        text += &format!("search {}\n", names.join(" "));
    }
    Some(SetupOp::NameServer { target: HostPath::new(target).ok()?.in_vm(), text })
}

/// What was got ready on the host.
pub(crate) struct Routed {
    reach: Reach,
    uplink: Uplink,
    ports: Vec<Port>,
    claim: Claim,
}

impl Routed {
    /// Finds the uplink's program, claims an address, and binds what is published.
    pub fn prepare(plan: &Plan, site: &Site) -> Result<Self, VmError> {
        let failed = |step: &str, why: String| VmError::Setup { step: step.into(), why };
        let uplink =
            uplink::find().ok_or_else(|| failed("give the VM a network of its own", uplink::MISSING.into()))?;
        if let Err(e) = fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty()) {
            let why = format!(
                "this user cannot open /dev/net/tun ({e}): root can allow it with 'chmod 666 /dev/net/tun' (it gives \
                 no rights over the host's network), or run the VM with '--net none' or '--net host'"
            );
            return Err(failed("give the VM a network of its own", why));
        }
        let claim = Claim::new(&site.name)
            .map_err(|e| failed("find a loopback address for the VM", format!("{e}; thousands are in use")))?;
        let bound = plan.publish.iter().map(|Publish { host, vm }| {
            let at = SocketAddr::from((claim.address, *host));
            let listener = bind_once_free(at).map_err(|e| {
                let hint = match e.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        ": ports below net.ipv4.ip_unprivileged_port_start are root's; publish another, as 8080:80"
                    }
                    std::io::ErrorKind::AddrInUse => {
                        ": a program of the host's has this port at all addresses; publish another, as 8080:80"
                    }
                    _ => "",
                };
                failed("publish a port", format!("{at}: {e}{hint}"))
            })?;
            Ok(Port { listener, to: SocketAddr::from((VM_V4, *vm)) })
        });
        let ports = bound.collect::<Result<_, VmError>>()?;
        Ok(Self { reach: plan.reach.clone(), uplink, ports, claim })
    }

    /// The claim, for whoever keeps the VM.
    pub fn claim(&self) -> Result<Claim, VmError> {
        self.claim.try_clone().map_err(|e| VmError::Sys("keep the VM's address", e))
    }
}

/// The guard of a VM that just ended may still hold the address for a moment.
fn bind_once_free(at: SocketAddr) -> std::io::Result<TcpListener> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        match TcpListener::bind(at) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return other,
        }
    }
    TcpListener::bind(at)
}

/// The process that holds a VM's network. Ended when dropped.
#[derive(Debug)]
pub struct Guard {
    pid: Pid,
    claim: Option<Claim>,
}

impl Guard {
    pub(crate) fn new(pid: Pid, claim: Option<Claim>) -> Self {
        Self { pid, claim }
    }

    /// Where the host reaches what the VM publishes.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.claim.as_ref().map(|claim| claim.address)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It is our child and not collected yet, so the number is its own.
        let _already_gone = rustix::process::kill_process(self.pid, Signal::KILL);
        // The kernel takes the tap interface down slowly, which nobody needs to wait for: what is not over yet is
        // collected when this process ends.
        let _not_yet = process::wait_nonblocking(self.pid.as_raw_nonzero().get(), false);
    }
}

/// Starts builder, guard and init. In the keeper; as the other `start_*` of [`crate::launch`].
pub(crate) fn start(mut site: Site, entry: &Entry<'_>, ends: Ends, routed: Routed) -> Result<Option<Pid>, Errno> {
    let (go, went) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match process::clone_into(Namespaces::USER, false)? {
        Fork::Parent(builder) => {
            drop(go);
            // Root in there, for pasta is at home so; nobody but us outside.
            let maps = Maps { uid: [0, entry.maps.uid[1], 1], gid: [0, entry.maps.gid[1], 1] };
            match write_maps(builder, &maps, true) {
                Ok(()) => drop(rustix::io::write(&went, b"!")?),
                Err(e) => ends.tell(&failed("map the router's ids", e)),
            }
            Ok(Some(builder))
        }
        Fork::Child => {
            drop(went);
            if rustix::io::read(&go, &mut [0u8][..]) != Ok(1) {
                process::exit_now(1);
            }
            die_with_parent();
            let ports = routed.ports.iter().map(|port| port.listener.as_raw_fd()).chain([routed.claim.as_raw_fd()]);
            let kept: Vec<_> = ports.chain([ends.orders.as_raw_fd(), ends.report.as_raw_fd()]).collect();
            process::close_all_but(&kept);
            if let Err(error) = build(&mut site, entry, &ends, routed) {
                ends.give_up(error);
            }
            process::exit_now(0)
        }
    }
}

fn failed(step: &str, e: Errno) -> Progress {
    Progress::Failed(StepError { step: step.into(), why: e.to_string() })
}

fn build(site: &mut Site, entry: &Entry<'_>, ends: &Ends, routed: Routed) -> Result<(), StepError> {
    let step = |step: &str| {
        let step = step.to_owned();
        move |e: Errno| StepError { step, why: format!("{e}; see 'fvm doctor' for what this kernel allows") }
    };
    let refused = |r: Refused| StepError {
        step: r.step.into(),
        why: format!("{}; without a network of its own the VM starts with '--net none' or '--net host'", r.errno),
    };
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(step("make a pipe"));
    let ((go, went), (network, networked)) = (pipe()?, pipe()?);
    let init = match process::clone_into(entry.namespaces.and(Namespaces::MOUNT), true)
        .map_err(step("make the namespaces"))?
    {
        Fork::Parent(init) => init,
        Fork::Child => {
            drop((went, networked));
            if rustix::io::read(&go, &mut [0u8][..]) != Ok(1) {
                process::exit_now(1);
            }
            hide_command();
            enter_limits(site, ends);
            process::close_all_but(&[ends.orders.as_raw_fd(), ends.report.as_raw_fd(), network.as_raw_fd()]);
            build_rootless(site, entry, ends, Some(&network))
        }
    };
    ends.tell(&Progress::Init(init.as_raw_nonzero().get()));
    drop((go, network));
    let maps = Maps { uid: [entry.maps.uid[0], 0, 1], gid: [entry.maps.gid[0], 0, 1] };
    write_maps(init, &maps, true).map_err(step("map the VM's ids"))?;
    let open = |path: String| fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty());
    let vm = open(format!("/proc/{}/ns/net", init.as_raw_nonzero())).map_err(step("open the VM's network"))?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(step("make a socket pair"))?;
    let Routed { reach, uplink, ports, .. } = routed;
    match process::clone_into(Namespaces::PID, true).map_err(step("make the router's process namespace"))? {
        Fork::Parent(guard) => ends.tell(&Progress::Guard(guard.as_raw_nonzero().get())),
        Fork::Child => guard(&theirs, reach, &uplink, &ports),
    }
    drop((theirs, ports));
    rustix::io::write(&went, b"!").map_err(step("start init"))?;

    process::unshare(Namespaces::NET).map_err(step("make a network namespace"))?;
    let Router { udp, tcp, filter } = router::build(&reach, vm.as_fd()).map_err(refused)?;
    let opened = open("/proc/self/ns/net".into()).map_err(step("open the router's network"))?;
    let holder = Holder::start().map_err(step("name the router's network"))?;
    let own = format!("/proc/{}/ns/net", holder.pid.as_raw_nonzero());
    let mut fds = vec![opened.as_fd(), filter.as_fd()];
    fds.extend(udp.iter().map(AsFd::as_fd).chain(tcp.iter().map(AsFd::as_fd)));
    socket::send(&ours, own.as_bytes(), &fds).map_err(step("reach the guard"))?;
    move_into_link_name_space(vm.as_fd(), Some(LinkNameSpaceType::Network)).map_err(step("enter the VM's network"))?;
    router::join().map_err(refused)?;
    let mut said = vec![0u8; 4096];
    let (length, _) = socket::receive(&ours, &mut said).map_err(step("reach the guard"))?;
    match said[..length].split_first() {
        Some((b'+', [])) => {}
        Some((b'+', notice)) => ends.tell(&Progress::Notice(String::from_utf8_lossy(notice).into_owned())),
        Some((_, why)) => {
            return Err(StepError {
                step: format!("connect the VM's network with {}", uplink.name()),
                why: String::from_utf8_lossy(why).into_owned(),
            });
        }
        None => return Err(StepError { step: "connect the VM's network".into(), why: "the guard died".into() }),
    }
    rustix::io::write(&networked, b"!").map_err(step("start init"))?;
    Ok(())
}

/// A process that does nothing but be in the router's network, so that pasta can be told where that is. It has no
/// capabilities: whoever has all may only be looked at by whoever has them, too, and pasta gives most of its own up.
struct Holder {
    pid: Pid,
    go: Option<OwnedFd>,
}

impl Holder {
    fn start() -> Result<Self, Errno> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let ((end, go), (dropped, drops)) = (pipe()?, pipe()?);
        match process::fork()? {
            Fork::Parent(pid) => {
                let holder = Self { pid, go: Some(go) };
                drop(drops);
                // Not before it is done may anybody look.
                if rustix::io::read(&dropped, &mut [0u8][..]) == Ok(1) { Ok(holder) } else { Err(Errno::PERM) }
            }
            Fork::Child => {
                process::close_all_but(&[end.as_raw_fd(), drops.as_raw_fd()]);
                let none = CapabilitySet::empty();
                let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
                if set_capabilities(None, sets).is_ok() && rustix::io::write(&drops, b"!").is_ok() {
                    let _ended = rustix::io::read(&end, &mut [0u8][..]);
                }
                process::exit_now(0)
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.go.take());
        collect(self.pid);
    }
}

/// Process 1 of its process namespace, root in R, in the host's network.
fn guard(builder: &OwnedFd, reach: Reach, uplink: &Uplink, ports: &[Port]) -> ! {
    die_with_parent();
    // A Ctrl-C is for the program, not for its network.
    let _leader = rustix::process::setsid();
    let kept: Vec<_> = ports.iter().map(|p| p.listener.as_raw_fd()).chain([builder.as_raw_fd()]).collect();
    process::close_all_but(&kept);
    if let Ok(null) = fs::open("/dev/null", OFlags::RDWR, FileMode::empty()) {
        for target in 0..3 {
            let _still_open = process::install_stdio(null.as_raw_fd(), target);
        }
    }
    let mut path = [0u8; 64];
    let Ok((length @ 1.., fds)) = socket::receive(builder, &mut path) else { process::exit_now(1) };
    let mut fds = fds.into_iter();
    let (Some(netns), Some(filter)) = (fds.next(), fds.next()) else { process::exit_now(1) };
    let mut sockets: Vec<OwnedFd> = fds.collect();
    let tcp: Vec<TcpListener> = sockets.split_off(sockets.len() / 2).into_iter().map(Into::into).collect();
    let udp: Vec<UdpSocket> = sockets.into_iter().map(Into::into).collect();
    let answer = match connect::connect(uplink, &String::from_utf8_lossy(&path[..length])) {
        Ok(()) => "+".to_owned(),
        Err(why) if why.contains("External interface not usable") => {
            format!("+the host has no way out, and the VM has none either: {}: {}", uplink.name(), why.trim())
        }
        Err(why) => format!("-{}", why.trim()),
    };
    if socket::send(builder, answer.as_bytes(), &[]).is_err() || answer.starts_with('-') {
        process::exit_now(1);
    }
    // Nobody ends these: they end with this process.
    let Ok((stop, _held)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else { process::exit_now(1) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let gate = Arc::new(Sets::new(reach, Netlink::from(filter)));
            Server { udp, tcp, files: HostFiles::default(), gate }.run(&stop)
        });
        scope.spawn(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            publish::run(ports, &stop).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        });
        // What is orphaned in here is collected here.
        loop {
            if process::wait_blocking(-1, false).is_err() {
                std::thread::park();
            }
        }
    })
}
