//! Who makes and who holds the namespace between a VM and the host's network ([`fvm_net::router`]).
//!
//! ```text
//!   rootless   how an ordinary user's is made: one for each VM     house     how a VM of root's gets a place in one that many share
//!   guard      what holds it: a child of the keeper's              warden    what holds that: nobody's child, it ends after its VMs
//!                                                                  root      how init and keeper find each other for it
//!     both: process 1 of a process namespace: name server, published ports, and below it the uplink (connect), where the host
//!           does not forward
//! ```
//!
//! Invariants: the VM has no rights over R, the user namespace that the router belongs to. The end of guard or warden is the end
//! of all that serves the network, also of pasta, which daemonises and changes its credentials; the guard dies with the keeper. No
//! descriptor of the keeper reaches them but what they need. Published addresses are bound before anything starts.

mod connect;
mod guard;
mod house;
mod root;
mod rootless;
mod warden;

pub use house::{Running, routers};
pub(crate) use root::{Helper, Maker, pair};
pub(crate) use rootless::start;

use crate::error::VmError;
use crate::executor::StepError;
use crate::launch::Progress;
use crate::op::SetupOp;
use fvm_model::reach::To;
use fvm_model::{HostPath, Network, Policy, Publish, Range, Reach};
use fvm_net::claim::Claim;
use fvm_net::dns::HostFiles;
use fvm_net::publish::Port;
use fvm_net::router::{self, Refused, VM_V4};
use fvm_net::uplink::{self, Uplink};
use fvm_sys::process;
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};

/// A router as it is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What the VM may reach.
    pub reach: Reach,
    /// What of it the host reaches.
    pub publish: Vec<Publish>,
    /// Where a root VM's addresses come from.
    pub range: Range,
}

impl Plan {
    /// What the policy says, if the VM has a network of its own.
    #[must_use]
    pub fn of(policy: &Policy) -> Option<Self> {
        let Policy { reach, publish, range, .. } = policy;
        (policy.network == Network::Own).then(|| Self { reach: reach.clone(), publish: publish.clone(), range: *range })
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

/// What was got ready on the host, for an ordinary user's VM.
pub(crate) struct Routed {
    reach: Reach,
    uplink: Uplink,
    ports: Vec<Port>,
    claim: Claim,
}

impl Routed {
    /// Finds the uplink's program, claims an address, and binds what is published.
    pub fn prepare(plan: &Plan, name: &str) -> Result<Self, VmError> {
        let failed = |step: &str, why: String| VmError::Setup { step: step.into(), why };
        let uplink = pasta_or_slirp().map_err(|why| failed("give the VM a network of its own", why))?;
        let claim =
            Claim::new(name).map_err(|e| failed("find an address for the VM", format!("{e}; thousands are in use")))?;
        let bound = plan.publish.iter().map(|Publish { host, vm }| {
            let listener = bind_once_free(SocketAddr::from((claim.address, *host)))?;
            Ok(Port { listener, to: SocketAddr::from((VM_V4, *vm)) })
        });
        let ports = bound.collect::<Result<_, StepError>>().map_err(|e| failed(&e.step, e.why))?;
        Ok(Self { reach: plan.reach.clone(), uplink, ports, claim })
    }

    /// The claim and what it stands for, for whoever keeps the VM.
    pub fn place(&self) -> Result<Place, VmError> {
        let claim = self.claim.try_clone().map_err(|e| VmError::Sys("keep the VM's address", e))?;
        Ok(Place { address: claim.address.into(), _claim: claim })
    }
}

/// The program that carries packets out, if it is there and can work.
fn pasta_or_slirp() -> Result<Uplink, String> {
    let uplink = uplink::find().ok_or(uplink::MISSING)?;
    fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty()).map_err(|e| {
        format!(
            "this user cannot open /dev/net/tun ({e}): root can allow it with 'chmod 666 /dev/net/tun' (it gives no \
             rights over the host's network), or run the VM with '--net none' or '--net host'"
        )
    })?;
    Ok(uplink)
}

/// Publishes a port. Whoever served a VM that just ended may still hold the address for a moment.
fn bind_once_free(at: SocketAddr) -> Result<TcpListener, StepError> {
    const TRIES: u32 = 100;
    let mut tries = 0;
    let error = loop {
        match TcpListener::bind(at) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && tries < TRIES => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(e) => break e,
        }
    };
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            ": ports below net.ipv4.ip_unprivileged_port_start are root's; publish another, as 8080:80"
        }
        std::io::ErrorKind::AddrInUse => {
            ": a program of the host's has this port at all addresses; publish another, as 8080:80"
        }
        _ => "",
    };
    Err(StepError { step: "publish a port".into(), why: format!("{at}: {error}{hint}") })
}

/// Where the host reaches a VM.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    /// Nobody else has it, as long as this is held.
    _claim: Claim,
}

/// What holds a VM's network. Ended when dropped.
#[derive(Debug)]
pub struct Guard {
    /// It ends before the address does.
    held: Held,
    place: Option<Place>,
}

#[derive(Debug)]
enum Held {
    /// An ordinary user's: a process, this one's child.
    Process(Server),
    /// Root's: a place in a router that others share.
    Place(house::Seated),
}

/// A process that is a child of this one, and is ended when this is dropped; `None` once it has been.
#[derive(Debug)]
struct Server(Option<Pid>);

impl Guard {
    pub(crate) fn new(pid: Pid, place: Option<Place>) -> Self {
        Self { held: Held::Process(Server(Some(pid))), place }
    }

    /// Gives what holds it descriptors of numbers of at least `least`.
    pub(crate) fn lift(&mut self, least: i32) {
        if let Held::Place(seated) = &mut self.held {
            process::lift(&mut seated.socket, least);
        }
    }

    fn seated(seated: house::Seated, place: Place) -> Self {
        Self { held: Held::Place(seated), place: Some(place) }
    }

    /// Where the host reaches the VM: all of a root VM's, of an ordinary user's what it publishes.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.place.as_ref().map(|place| place.address)
    }

    /// Ends it. Who must be collected later: the kernel takes the tap interface down slowly, which nobody needs to wait for.
    pub(crate) fn end(self) -> Option<Pid> {
        match self.held {
            Held::Process(mut server) => server.kill(),
            Held::Place(_) => None,
        }
    }
}

impl Server {
    fn kill(&mut self) -> Option<Pid> {
        // It is our child and not collected yet, so the number is its own.
        let pid = self.0.take()?;
        let _already_gone = rustix::process::kill_process(pid, Signal::KILL);
        matches!(process::wait_nonblocking(pid.as_raw_nonzero().get(), false), Ok(None)).then_some(pid)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What is not over yet is collected when this process ends.
        let _not_yet = self.kill();
    }
}

/// The step of a router that the kernel refused.
fn refused(r: Refused) -> StepError {
    StepError {
        step: r.step.into(),
        why: format!("{}; without a network of its own the VM starts with '--net none' or '--net host'", r.errno),
    }
}

fn step(step: &str) -> impl FnOnce(Errno) -> StepError {
    let step = step.to_owned();
    move |e| StepError { step, why: format!("{e}; see 'fvm doctor' for what this kernel allows") }
}

fn failed(step: &str, e: Errno) -> Progress {
    Progress::Failed(StepError { step: step.into(), why: e.to_string() })
}
