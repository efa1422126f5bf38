//! The process that holds the router of root's VMs: how it comes to be, and what it does.
//!
//! ```text
//!   keeper ─fork─► starter: the host's root                            warden is nobody's child once the starter ends
//!                    ├─clone(user pid)─► warden: root in R, which maps it to nobody, in the host's network
//!                    │                     └─fork─► unshare(net): the router namespace, owned by R ── descriptor ─► starter
//!                    ├─ in the router: filters, the pair to the host; on the host: its address
//!                    └─ namespace, filters, name server's sockets ──► warden ── "+", "+notice" or "-why" ──►
//!
//!   warden:  socket ◄── keepers, one connection for each VM       threads: name server; published ports, one for each VM
//!            nobody for LINGER: it ends
//! ```
//!
//! Invariants: it is process 1 of its process namespace, with rights over nothing of the host's, the VMs' or their keepers'; its
//! end is the end of the router, of all links to it, and of what it started. A VM's filters are there before the answer that
//! lets its link be made.

use super::guard::{self, carry_out};
use super::house::{Answer, Call, OWN, open};
use super::{refused, step};
use crate::executor::StepError;
use crate::launch::{Maps, hide_command, write_maps};
use crate::proto;
use fvm_model::Reach;
use fvm_net::dns::{Client, Clients, HostFiles, Server};
use fvm_net::filter::Sets;
use fvm_net::host::{self, Seat};
use fvm_net::house::{self, Admitted, FIRST_NUMBER, Filters};
use fvm_net::netlink::Netlink;
use fvm_net::publish::{self, Port};
use fvm_net::uplink::Uplink;
use fvm_sys::process::{self, Fork, Namespaces};
use fvm_sys::{ids, socket};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, socketpair, sockopt};
use rustix::process::Resource;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whom R's root is outside.
const NOBODY: u32 = 65534;
/// How long it waits for a VM when it has none: the next one starts sooner.
const LINGER: Duration = Duration::from_secs(10);
/// How long a keeper may say nothing in the middle of a message.
const KEEPER_MAX: Duration = Duration::from_secs(2);
/// In `epoll`, what is no VM's: numbers of interfaces begin above it.
const LISTENER: u32 = 0;
/// How many events are taken at once.
const EVENTS: usize = 64;
/// A thread for published ports needs little.
const PORTS_STACK_BYTES: usize = 64 << 10;

/// In the starter: makes a router and its warden, says on `say` what came of it, and ends.
pub(super) fn start(listener: &OwnedFd, seat: &Seat, uplink: Option<&Uplink>, say: &OwnedFd) -> ! {
    hide_command(guard::TITLE);
    process::close_all_but(&[listener.as_raw_fd(), say.as_raw_fd()]);
    let made = make(listener, seat, uplink);
    let text = serde_json::to_vec(&made.err()).unwrap_or_default();
    let _keeper_is_gone = rustix::io::write(say, &text);
    process::exit_now(0)
}

fn make(listener: &OwnedFd, seat: &Seat, uplink: Option<&Uplink>) -> Result<(), StepError> {
    let here = open(OWN).map_err(step("open the host's network"))?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(step("make a socket pair"))?;
    start_warden(theirs, listener, uplink).map_err(step("make the router's namespaces"))?;
    let (_, mut fds) = socket::receive(&ours, &mut [0u8]).map_err(step("make a network namespace"))?;
    let own = fds.pop().ok_or(Errno::PIPE).map_err(step("make a network namespace"))?;
    let enter = |namespace: &OwnedFd| move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    let name = host::new_name().map_err(step("name the router's link"))?;
    enter(&own).map_err(step("enter the router's network"))?;
    let house = house::build(seat, here.as_fd(), &name, uplink.is_none()).map_err(refused)?;
    enter(&here).map_err(step("enter the host's network"))?;
    let on_host = host::attach(&name, seat.gateway, seat.gateway6).map_err(refused)?;
    let mut fds = vec![own.as_fd(), house.filter.as_fd()];
    fds.extend(house.udp.iter().map(AsFd::as_fd).chain(house.tcp.iter().map(AsFd::as_fd)));
    socket::send(&ours, &on_host.to_ne_bytes(), &fds).map_err(step("reach the router"))?;
    let mut said = [0u8; 4096];
    let (length, _) = socket::receive(&ours, &mut said).map_err(step("reach the router"))?;
    match said[..length].split_first() {
        Some((b'+', _)) => Ok(()),
        said => Err(StepError {
            step: "connect the router".into(),
            why: said.map_or("it died".into(), |(_, why)| String::from_utf8_lossy(why).into_owned()),
        }),
    }
}

/// Starts the warden, which makes the router's namespace first and sends it over `maker`.
fn start_warden(maker: OwnedFd, listener: &OwnedFd, uplink: Option<&Uplink>) -> Result<(), Errno> {
    let (go, went) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match process::clone_into(Namespaces::USER.and(Namespaces::PID), false)? {
        Fork::Parent(pid) => {
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
            hold(maker, listener, uplink)
        }
    }
}

/// The warden.
fn hold(maker: OwnedFd, listener: &OwnedFd, uplink: Option<&Uplink>) -> ! {
    guard::leave_caller(&[maker.as_raw_fd(), listener.as_raw_fd()]);
    let _cannot_fail = std::env::set_current_dir("/");
    // Many VMs ask and are connected to.
    let mut files = rustix::process::getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _fewer = rustix::process::setrlimit(Resource::Nofile, files);
    let mut number = [0u8; 4];
    let Ok((4, fds)) = socket::receive(&maker, &mut number) else { process::exit_now(1) };
    let mut fds = fds.into_iter();
    let (Some(netns), Some(filter)) = (fds.next(), fds.next()) else { process::exit_now(1) };
    let mut sockets: Vec<OwnedFd> = fds.collect();
    let tcp: Vec<TcpListener> = sockets.split_off(sockets.len() / 2).into_iter().map(Into::into).collect();
    let udp: Vec<UdpSocket> = sockets.into_iter().map(Into::into).collect();
    let answer = uplink.map_or_else(|| "+".to_owned(), |uplink| carry_out(uplink, &netns));
    if socket::send(&maker, answer.as_bytes(), &[]).is_err() || answer.starts_with('-') {
        process::exit_now(1);
    }
    drop(maker);
    let Ok(epoll) = epoll::create(epoll::CreateFlags::CLOEXEC) else { process::exit_now(1) };
    let clients = Arc::new(Clients::default());
    let server = Server { udp, tcp, files: HostFiles::default(), clients: Arc::clone(&clients) };
    let mut warden = Warden {
        listener,
        netns: Arc::new(netns),
        on_host: u32::from_ne_bytes(number),
        notice: answer.get(1..).filter(|text| !text.is_empty()).map(str::to_owned),
        next: FIRST_NUMBER,
        filters: Filters::new(Netlink::from(filter)),
        clients,
        files: HostFiles::default(),
        vms: HashMap::new(),
        epoll,
    };
    // Nobody ends it: it ends with this process.
    let Ok((stop, _held)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else { process::exit_now(1) };
    if std::thread::Builder::new().name("names".into()).spawn(move || server.run(&stop)).is_err() {
        process::exit_now(1);
    }
    process::exit_now(i32::from(warden.serve().is_err()))
}

struct Warden<'a> {
    listener: &'a OwnedFd,
    /// The router's.
    netns: Arc<OwnedFd>,
    /// Its interface on the host.
    on_host: u32,
    /// What each VM is told.
    notice: Option<String>,
    /// The next VM's interface.
    next: u32,
    filters: Filters,
    clients: Arc<Clients<Sets>>,
    files: HostFiles,
    /// By the number of its interface, under which `epoll` has its socket. There may be thousands.
    vms: HashMap<u32, Vm>,
    epoll: OwnedFd,
}

/// A VM that is served.
struct Vm {
    /// To its keeper, who says no more.
    _socket: OwnedFd,
    addresses: [IpAddr; 2],
    admitted: Admitted,
    client: Arc<Client<Sets>>,
    /// Its end is that of the thread for its published ports.
    _ports: Option<OwnedFd>,
}

impl Warden<'_> {
    /// Serves until there has been nobody for long.
    fn serve(&mut self) -> Result<(), Errno> {
        rustix::io::ioctl_fionbio(self.listener, true)?;
        epoll::add(&self.epoll, self.listener, EventData::new_u64(LISTENER.into()), EventFlags::IN)?;
        let mut idle = Instant::now();
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let left = LINGER.saturating_sub(idle.elapsed()) + Duration::from_millis(1);
            let left = rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: left.subsec_nanos().into(),
            };
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, buffer, self.vms.is_empty().then_some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
            // What was orphaned in here is collected here.
            while let Ok(Some(_)) = process::wait_nonblocking(-1, false) {}
            let said: Vec<u32> = events.iter().filter_map(|event| u32::try_from(event.data.u64()).ok()).collect();
            let gone: Vec<Vm> = said.iter().filter_map(|interface| self.vms.remove(interface)).collect();
            if !(gone.is_empty() && self.vms.is_empty()) {
                idle = Instant::now();
            }
            self.leave(gone);
            while said.contains(&LISTENER)
                && let Ok(keeper) = accept_with(self.listener, SocketFlags::CLOEXEC)
            {
                if self.answer(keeper) && self.vms.is_empty() {
                    return Ok(());
                }
            }
            if self.vms.is_empty() && idle.elapsed() >= LINGER {
                return Ok(());
            }
        }
    }

    fn leave(&mut self, gone: Vec<Vm>) {
        if gone.is_empty() {
            return;
        }
        for vm in &gone {
            self.clients.remove(&vm.addresses, &vm.client);
        }
        let gone: Vec<Admitted> = gone.into_iter().map(|vm| vm.admitted).collect();
        self.filters.dismiss(&gone);
    }

    /// A keeper, or somebody who looks. Whether it is asked to end.
    fn answer(&mut self, keeper: OwnedFd) -> bool {
        let _unlimited = sockopt::set_socket_timeout(&keeper, sockopt::Timeout::Recv, Some(KEEPER_MAX));
        // Who left meanwhile does not need an answer.
        match proto::read_message::<Call>(&keeper) {
            Ok(Some((Call::Join { v4, v6, reach, ports }, fds))) => {
                let addresses = [v4.into(), v6.into()];
                let joined =
                    take_ports(&keeper, ports, fds).and_then(|ports| self.join(&keeper, addresses, &reach, ports));
                if let Err(why) = joined {
                    let _left = proto::write_message(&keeper, &Answer::Refused(why), &[]);
                }
                false
            }
            Ok(Some((Call::Look { end }, _))) => {
                let _left = proto::write_message(&keeper, &Answer::Here { vms: self.vms.len() }, &[]);
                end
            }
            _ => false,
        }
    }

    fn join(
        &mut self,
        keeper: &OwnedFd,
        addresses: [IpAddr; 2],
        reach: &Reach,
        ports: Vec<Port>,
    ) -> Result<(), String> {
        let interface = self.next;
        let socket = rustix::io::fcntl_dupfd_cloexec(keeper, 3).map_err(|e| format!("too many VMs: {e}"))?;
        let ports = (!ports.is_empty()).then(|| self.publish(ports)).transpose()?;
        self.next += 1;
        let admitted = self.filters.admit(interface, addresses, reach);
        let (admitted, gate) =
            admitted.map_err(|e| format!("its packet filter (nf_tables) refuses the VM's rules: {e}"))?;
        let client = self.clients.add(&addresses, gate, &mut self.files);
        if let Err(e) = epoll::add(&self.epoll, &socket, EventData::new_u64(interface.into()), EventFlags::IN) {
            self.leave(vec![Vm { _socket: socket, addresses, admitted, client, _ports: ports }]);
            return Err(format!("too many VMs: {e}"));
        }
        self.vms.insert(interface, Vm { _socket: socket, addresses, admitted, client, _ports: ports });
        let answer = Answer::Joined { interface, on_host: self.on_host, notice: self.notice.clone() };
        let _left = proto::write_message(keeper, &answer, &[self.netns.as_fd()]);
        Ok(())
    }

    /// Serves published ports from a thread of their own, until what is returned is closed.
    fn publish(&self, ports: Vec<Port>) -> Result<OwnedFd, String> {
        let failed = |e: &dyn std::fmt::Display| format!("cannot publish its ports: {e}");
        let (stop, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(&e))?;
        let netns = Arc::clone(&self.netns);
        let serve = move || {
            // What it connects from lies there.
            if move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).is_ok() {
                let _ended = publish::run(&ports, &stop);
            }
        };
        let thread = std::thread::Builder::new().name("ports".into()).stack_size(PORTS_STACK_BYTES);
        thread.spawn(serve).map_err(|e| failed(&e))?;
        Ok(end)
    }
}

/// The listeners that belong to `to`, the first of which came already.
fn take_ports(keeper: &OwnedFd, to: Vec<SocketAddr>, mut fds: Vec<OwnedFd>) -> Result<Vec<Port>, String> {
    while fds.len() < to.len() {
        match proto::read_message::<Call>(keeper) {
            Ok(Some((Call::Ports, more))) if !more.is_empty() => fds.extend(more),
            _ => return Err("a keeper left in the middle of a message".into()),
        }
    }
    Ok(fds.into_iter().zip(to).map(|(fd, to)| Port { listener: fd.into(), to }).collect())
}
