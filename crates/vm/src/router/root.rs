//! How a root VM gets its router: the host's network and the VM's are both root's to change, the router's is not the VM's.
//!
//! ```text
//!   keeper ─fork─► helper: the host's root                                  guard is a child of the keeper, too
//!     │              ├─ the host's table, forwarding
//!     │              ├─clone(user pid)─► guard: root in R, which maps it to nobody
//!     │              │                     └─fork─► unshare(net): the router namespace, owned by R ── descriptor ─► helper
//!     │   init ── its network namespace ─► helper: in the router: filters, pairs; on the host: address, routes;
//!     │   init ◄──────────── "!" ──────────┘        in the VM: its address
//!     └─ keeps the guard's pid: ends it after init
//! ```
//!
//! Invariants: nothing that serves the network has rights over the host's; init sends nothing that helps it: the namespace
//! that it sends is its own, or its VM has no network.

use super::{Routed, guard, pasta_or_slirp, refused, step};
use crate::executor::StepError;
use crate::launch::{Ends, Maps, Progress, die_with_parent, hide_command, write_maps};
use fvm_net::host::{self, Seat};
use fvm_net::router::{self, Host};
use fvm_net::uplink::Uplink;
use fvm_sys::process::{self, Fork, Namespaces};
use fvm_sys::{ids, socket};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Whom R's root is outside.
const NOBODY: u32 = 65534;
/// Where a process finds its own network namespace.
const OWN: &str = "/proc/self/ns/net";

/// The process that makes a router, and init's end of the socket to it.
#[derive(Debug)]
pub(crate) struct Helper {
    /// To be collected when init is ready.
    pub pid: Pid,
    init: OwnedFd,
}

impl Helper {
    /// Starts it. In the keeper.
    pub fn start(ends: &Ends, routed: Routed) -> Result<Self, Errno> {
        let (ours, init) = pair()?;
        match process::fork()? {
            Fork::Parent(pid) => Ok(Self { pid, init }),
            Fork::Child => {
                drop(init);
                die_with_parent();
                hide_command(guard::TITLE);
                let ports = routed.ports.iter().map(|port| port.listener.as_raw_fd()).chain([routed.claim.as_raw_fd()]);
                let kept: Vec<_> = ports.chain([ends.report.as_raw_fd(), ours.as_raw_fd()]).collect();
                process::close_all_but(&kept);
                match make(&ours, routed, ends) {
                    Ok(()) => process::exit_now(0),
                    Err(error) => ends.give_up(error),
                }
            }
        }
    }

    /// Init's descriptor, which it keeps until it is ready.
    pub fn as_raw_fd(&self) -> i32 {
        self.init.as_raw_fd()
    }

    /// In init, as soon as it is in its network namespace.
    pub fn begin(&self) -> Result<(), Errno> {
        let own = open(OWN)?;
        socket::send(&self.init, b"!", &[own.as_fd()])
    }

    /// In init: waits until its network is there. `false`: it could not be made, and that has been said.
    pub fn is_done(&self) -> bool {
        rustix::io::read(&self.init, &mut [0u8][..]) == Ok(1)
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn open(path: &str) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty())
}

fn enter(namespace: &OwnedFd) -> Result<(), Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}

fn make(init: &OwnedFd, routed: Routed, ends: &Ends) -> Result<(), StepError> {
    let Routed { reach, ports, claim, seat, .. } = routed;
    let Some(seat) = seat else {
        return Err(StepError { step: "give the VM its address".into(), why: "it has none".into() });
    };
    let here = open(OWN).map_err(step("open the host's network"))?;
    let way = way_out(&seat, ends)?;
    let forwards = way.is_none();
    let (ours, theirs) = pair().map_err(step("make a socket pair"))?;
    let ways = guard::Ways { reach: reach.clone(), uplink: way, ports };
    start_guard(theirs, ways, ends).map_err(step("make the router's namespaces"))?;
    // The guard needs no address but those it listens at.
    drop(claim);
    let received = |socket: &OwnedFd| -> Result<OwnedFd, Errno> {
        let (_, mut fds) = socket::receive(socket, &mut [0u8])?;
        fds.pop().ok_or(Errno::PIPE)
    };
    let own = received(&ours).map_err(step("make a network namespace"))?;
    let vm = received(init).map_err(step("get the VM's network"))?;

    enter(&own).map_err(step("enter the router's network"))?;
    let host = Host { seat: &seat, namespace: here.as_fd(), forwards };
    let router = router::build(&reach, vm.as_fd(), Some(host)).map_err(refused)?;
    guard::hand_over(&ours, &own, &router).map_err(step("reach the guard"))?;
    enter(&here).map_err(step("enter the host's network"))?;
    host::attach(&seat).map_err(refused)?;
    enter(&vm).map_err(step("enter the VM's network"))?;
    router::join(Some(&seat)).map_err(refused)?;
    guard::await_ready(&ours, ends)?;
    rustix::io::write(init, b"!").map(drop).map_err(step("start init"))
}

/// How packets get out: forwarded by the host, or, where somebody else decides what it forwards, by a program whose
/// connections are the host's own.
fn way_out(seat: &Seat, ends: &Ends) -> Result<Option<Uplink>, StepError> {
    let others = host::prepare().map_err(refused)?;
    host::clear(seat).map_err(refused)?;
    let why = if others.is_empty() {
        match host::forward() {
            Ok(()) => return Ok(None),
            Err(e) => format!("cannot {}: {}", e.step, e.errno),
        }
    } else {
        format!("the host filters what it forwards ({})", others.join(", "))
    };
    match pasta_or_slirp() {
        Ok(uplink) => Ok(Some(uplink)),
        Err(missing) => {
            let hint = "let it forward what comes from interfaces 'fvm-*', or install the package 'passt'";
            ends.tell(&Progress::Notice(format!("the VM may have no way out: {why}; {hint} ({missing})")));
            let _may_be_off = host::forward();
            Ok(None)
        }
    }
}

/// Starts the guard, which makes the router's namespace first and sends it over `maker`.
fn start_guard(maker: OwnedFd, ways: guard::Ways, ends: &Ends) -> Result<(), Errno> {
    let (go, went) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match process::clone_into(Namespaces::USER.and(Namespaces::PID), true)? {
        Fork::Parent(pid) => {
            ends.tell(&Progress::Guard(pid.as_raw_nonzero().get()));
            write_maps(pid, &Maps { uid: [0, NOBODY, 1], gid: [0, NOBODY, 1] }, false)?;
            rustix::io::write(&went, b"!").map(drop)
        }
        Fork::Child => {
            drop(went);
            if rustix::io::read(&go, &mut [0u8][..]) != Ok(1) || ids::become_root_of_namespace().is_err() {
                process::exit_now(1);
            }
            drop(go);
            // This process stays in the host's network, to which it could not come back.
            let sent = match process::fork() {
                Ok(Fork::Parent(pid)) => process::wait_blocking(pid.as_raw_nonzero().get(), false).is_ok(),
                Ok(Fork::Child) => {
                    let made = process::unshare(Namespaces::NET).and_then(|()| open(OWN));
                    let sent = made.and_then(|own| socket::send(&maker, b"!", &[own.as_fd()]));
                    process::exit_now(i32::from(sent.is_err()))
                }
                Err(_) => false,
            };
            if !sent {
                process::exit_now(1);
            }
            guard::hold(&maker, ways)
        }
    }
}
