//! How a root VM gets its network: a place in the router that all of a home's share, and a link to it.
//!
//! ```text
//!   keeper ── Join: addresses, rules, ports ──► warden (crate::router::warden), root in R, nobody on the host
//!     │   ◄── Joined: number of the interface, the router's namespace ──┘  filters are in force
//!     │   init ── its network namespace ──► keeper (crate::router::root)
//!     └─ in one message each: the pair of interfaces and its routes; the VM's address; the host's routes to it
//!
//!   <run>/net-<host's namespace>-<range>-<way>.sock     where a warden listens; made under <run>/net.lock by the first keeper
//! ```
//!
//! The connection is the place: it ends with the keeper, and the warden takes away what it made. Nothing here waits for a
//! VM, and no process is started but with a router that is not there yet.
//!
//! Invariants: the socket lies in the home's run-time directory, which is root's alone and hidden from VMs; a keeper keeps no
//! descriptor of the router's namespace, so that it ends with its warden, and with it every link: then the VM has no network.

use super::{Guard, Place, Plan, bind_once_free, pasta_or_slirp, refused, step, warden};
use crate::executor::StepError;
use crate::keeper::address;
use crate::launch::collect;
use crate::proto;
use fvm_model::{Publish, Reach};
use fvm_net::claim::Claim;
use fvm_net::host::{self, Seat};
use fvm_net::house::{self, Plug};
use fvm_net::uplink::Uplink;
use fvm_sys::process::{self, Fork};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, FlockOperation, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

/// Where a process finds its own network namespace.
pub(super) const OWN: &str = "/proc/self/ns/net";
/// How often a keeper that finds a warden that just ends looks for another.
const TRIES: u32 = 20;
/// How long a warden may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The same when it is only looked at.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Descriptors in one message.
const FDS_MAX: usize = 8;

/// What is asked of a warden.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    /// A VM is to come.
    Join {
        /// Its addresses.
        v4: Ipv4Addr,
        v6: Ipv6Addr,
        /// What it may reach.
        reach: Reach,
        /// What is published, and for which port of the VM. The listeners come with this and the messages that follow.
        ports: Vec<SocketAddr>,
    },
    /// More listeners.
    Ports,
    /// Who it is, and to end if it has no VM.
    Look { end: bool },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The router's namespace comes with it.
    Joined {
        /// The number of the VM's interface.
        interface: u32,
        /// The number of the router's interface on the host.
        on_host: u32,
        /// What the VM does without.
        notice: Option<String>,
    },
    /// It cannot be.
    Refused(String),
    /// It serves so many.
    Here { vms: usize },
}

/// A VM's place in a router.
#[derive(Debug)]
pub(crate) struct Line {
    socket: OwnedFd,
    seat: Seat,
    place: Place,
    notices: Vec<String>,
}

impl Line {
    /// Takes a place for the VM `name`, and asks its router, which it starts if there is none, to let it in. `run`: the home's
    /// run-time directory. Takes less than a millisecond where the router runs. The process must have one thread.
    ///
    /// # Errors
    /// The step that failed.
    pub fn ask(run: &Path, name: &str, plan: &Plan) -> Result<Self, StepError> {
        let claim = Claim::new(name).map_err(|e| StepError {
            step: "find an address for the VM".into(),
            why: format!("{e}; thousands are in use"),
        })?;
        let seat = Seat::of(claim.address, plan.range.first());
        let (uplink, notice) = way_out()?;
        let bound = plan.publish.iter().map(|Publish { host, vm }| {
            let listener = bind_once_free(SocketAddr::from((claim.address, *host)))?;
            Ok((listener, SocketAddr::from((seat.v4, *vm))))
        });
        let (listeners, ports): (Vec<TcpListener>, Vec<SocketAddr>) =
            bound.collect::<Result<Vec<_>, StepError>>()?.into_iter().unzip();
        let join = Call::Join { v4: seat.v4, v6: seat.v6, reach: plan.reach.clone(), ports };
        let router = Router::of(run, &seat, uplink)?;
        let socket = router.reach(|socket| {
            let mut fds = listeners.chunks(FDS_MAX).map(|some| some.iter().map(AsFd::as_fd).collect::<Vec<_>>());
            proto::write_message(socket, &join, &fds.next().unwrap_or_default())?;
            fds.try_for_each(|fds| proto::write_message(socket, &Call::Ports, &fds))
        })?;
        let place = Place { address: seat.v4.into(), _claim: claim };
        Ok(Self { socket, seat, place, notices: notice.into_iter().collect() })
    }

    /// Waits until the router lets the VM in, and links it: `vm` is asked for the VM's network namespace when all else is done.
    /// `None`: it has none to give.
    ///
    /// # Errors
    /// The step that failed; `None` when the warden ended just then, and another must be asked.
    pub fn plug(
        self,
        vm: &mut impl FnMut() -> Result<Option<OwnedFd>, StepError>,
    ) -> Result<Option<(Guard, Vec<String>)>, Option<StepError>> {
        let Self { socket, seat, place, mut notices } = self;
        let failed = |why: String| Some(StepError { step: "get a place in the router".into(), why });
        let (answer, mut fds) = match proto::read_message::<Answer>(&socket) {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(Errno::CONNRESET) => return Err(None),
            Err(e) => return Err(failed(e.to_string())),
        };
        let (interface, on_host, router) = match (answer, fds.pop()) {
            (Answer::Joined { interface, on_host, notice }, Some(router)) => {
                notices.extend(notice);
                (interface, on_host, router)
            }
            (Answer::Refused(why), _) => return Err(failed(why)),
            _ => return Err(failed("it made no sense".into())),
        };
        let here = open(OWN).map_err(step("open the host's network"))?;
        let seated = Seated { socket, seat, on_host };
        let plug = Plug::new(&seated.seat, interface, on_host, router.as_fd(), here.as_fd()).map_err(refused)?;
        let Some(vm) = vm()? else { return Ok(None) };
        plug.into(vm.as_fd(), here.as_fd()).map_err(refused)?;
        Ok(Some((Guard::seated(seated, place), notices)))
    }
}

/// A VM that is linked to a router.
#[derive(Debug)]
pub(super) struct Seated {
    /// Its end is the end of the place.
    pub(super) socket: OwnedFd,
    seat: Seat,
    on_host: u32,
}

impl Drop for Seated {
    fn drop(&mut self) {
        house::unplug(&self.seat, self.on_host);
    }
}

pub(super) fn open(path: &str) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty())
}

/// How packets get out: forwarded by the host, or, where somebody else decides what it forwards, by a program whose
/// connections are the host's own; and what there is to say.
fn way_out() -> Result<(Option<Uplink>, Option<String>), StepError> {
    let others = host::prepare().map_err(refused)?;
    let why = if others.is_empty() {
        match host::forward() {
            Ok(()) => return Ok((None, None)),
            Err(e) => format!("cannot {}: {}", e.step, e.errno),
        }
    } else {
        format!("the host filters what it forwards ({})", others.join(", "))
    };
    match pasta_or_slirp() {
        Ok(uplink) => Ok((Some(uplink), None)),
        Err(missing) => {
            let hint = "let it forward what comes from interfaces 'fvm-*', or install the package 'passt'";
            let _may_be_off = host::forward();
            Ok((None, Some(format!("the VM may have no way out: {why}; {hint} ({missing})"))))
        }
    }
}

/// A router that is there, or is to be.
struct Router<'a> {
    dir: OwnedFd,
    name: String,
    seat: &'a Seat,
    uplink: Option<Uplink>,
}

impl<'a> Router<'a> {
    fn of(run: &Path, seat: &'a Seat, uplink: Option<Uplink>) -> Result<Self, StepError> {
        let dir = fs::open(run, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
            .map_err(step("open the run-time directory"))?;
        let namespace = fs::stat(OWN).map_err(step("look at the host's network"))?.st_ino;
        let [a, b, ..] = seat.v4.octets();
        let way = uplink.as_ref().map_or("host", Uplink::name);
        Ok(Self { dir, name: format!("{PREFIX}{namespace}-{a}.{b}-{way}{SUFFIX}"), seat, uplink })
    }

    /// A connection on which `say` has said something. Starts the router where there is none.
    fn reach(&self, say: impl Fn(&OwnedFd) -> Result<(), Errno>) -> Result<OwnedFd, StepError> {
        let said = || dial(&self.dir, &self.name).and_then(|socket| say(&socket).map(|()| socket));
        let mut lock = None;
        for _ in 0..TRIES {
            match said() {
                Ok(socket) => return Ok(socket),
                Err(Errno::NOENT | Errno::CONNREFUSED | Errno::CONNRESET | Errno::PIPE) => {}
                Err(e) => return Err(step("reach the router")(e)),
            }
            match &lock {
                // Another keeper may have started it since.
                None => lock = Some(self.lock().map_err(step("lock the router"))?),
                Some(_) => self.start()?,
            }
        }
        Err(StepError { step: "reach the router".into(), why: "it ends again and again".into() })
    }

    fn lock(&self) -> Result<OwnedFd, Errno> {
        lock(&self.dir, FlockOperation::LockExclusive)
    }

    /// Starts the router: the lock is held.
    fn start(&self) -> Result<(), StepError> {
        let listener = self.listen().map_err(step("make the router's socket"))?;
        let (said, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
        match process::fork().map_err(step("start the router"))? {
            Fork::Child => warden::start(&listener, self.seat, self.uplink.as_ref(), &say),
            Fork::Parent(starter) => {
                drop((say, listener));
                let mut text = Vec::new();
                let mut buffer = [0u8; 4096];
                while let Ok(n @ 1..) = rustix::io::read(&said, &mut buffer[..]) {
                    text.extend(&buffer[..n]);
                }
                collect(starter);
                match serde_json::from_slice::<Option<StepError>>(&text) {
                    Ok(None) => Ok(()),
                    Ok(Some(error)) => Err(error),
                    Err(_) => Err(StepError { step: "start the router".into(), why: "its maker died".into() }),
                }
            }
        }
    }

    fn listen(&self) -> Result<OwnedFd, Errno> {
        match fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&listener, &address(&self.dir, &self.name)?)?;
        listen(&listener, 4096)?;
        Ok(listener)
    }
}

/// What the sockets of wardens are called.
const PREFIX: &str = "net-";
const SUFFIX: &str = ".sock";

fn lock(dir: &OwnedFd, how: FlockOperation) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = fs::openat(dir, "net.lock", flags, FileMode::RUSR | FileMode::WUSR)?;
    fs::flock(&file, how)?;
    Ok(file)
}

fn dial(dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address(dir, name)?)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
    Ok(socket)
}

/// A router that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// How it is called: the host's network namespace, its range, and how packets get out.
    pub name: String,
    /// VMs that it serves.
    pub vms: usize,
}

/// The routers of a home, whose run-time directory is `run`; what ended ones left is removed. `end`: those that serve no VM end
/// at once, instead of some seconds later.
pub fn routers(run: &Path, end: bool) -> Vec<Running> {
    let Ok(dir) = fs::open(run, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty()) else {
        return Vec::new();
    };
    let names = std::fs::read_dir(run).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let names = names.filter(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
    let look = |name: String| {
        let socket = match dial(&dir, &name) {
            Ok(socket) => socket,
            Err(Errno::CONNREFUSED) => {
                // Held, so that it is not the socket of one that starts just now.
                let held = lock(&dir, FlockOperation::NonBlockingLockExclusive);
                if held.is_ok() && dial(&dir, &name).is_err() {
                    let _gone = fs::unlinkat(&dir, name.as_str(), AtFlags::empty());
                }
                return None;
            }
            Err(_) => return None,
        };
        // Nobody who lists VMs waits long for one that hangs.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LOOK_MAX)).ok()?;
        proto::write_message(&socket, &Call::Look { end }, &[]).ok()?;
        match proto::read_message::<Answer>(&socket) {
            Ok(Some((Answer::Here { vms }, _))) => {
                let name = name.trim_start_matches(PREFIX).trim_end_matches(SUFFIX).to_owned();
                Some(Running { name, vms })
            }
            _ => None,
        }
    };
    names.filter_map(look).collect()
}
