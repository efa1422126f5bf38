//! The namespace between a VM and the host: what a VM may reach is filtered in it.
//!
//! ```text
//!   VM's network namespace           router namespace, not the VM's                 host
//!   eth0 198.18.0.2 ───────────── vm 198.18.0.1 ── filters, NAT ── tap ── pasta ─── sockets      an ordinary user's
//!        fd66:766d::2                fd66:766d::1, name server
//! ```
//!
//! The VM's root rules its own end and nothing of the router. All routers have the same addresses, and so have the VMs of
//! ordinary users: each pair is in a world of its own. Root's VMs share one: [`crate::house`].
//!
//! Invariant: the link is up only after the filters are in force.

use crate::filter::{self, Sides};
use crate::link::{self, Address, End};
use crate::netlink::Netlink;
use fvm_model::reach::Reach;
use rustix::fd::BorrowedFd;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

/// The interface towards the VM.
const INSIDE: &str = "vm";
/// Loopback's number.
pub(crate) const LOOPBACK: u32 = 1;
/// As the uplink's own interface has it. The smaller the packets, the slower the uplink, which takes each in its hands.
const MTU_BYTES: u32 = 65_520;
/// The VM's interface.
pub(crate) const PEER: &str = "eth0";
/// A shared router's address towards the host.
pub const NEAR_HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 6);
/// The same.
pub const NEAR_HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// The router's address, where the VM's name server is.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The VM's.
pub const VM_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The router's.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd66, 0x766d, 0, 0, 0, 0, 0, 1);
/// The VM's.
pub const VM_V6: Ipv6Addr = Ipv6Addr::new(0xfd66, 0x766d, 0, 0, 0, 0, 0, 2);

/// A network address in both families.
pub(crate) fn both(v4: Ipv4Addr, v6: Ipv6Addr, bits: [u8; 2]) -> [Address; 2] {
    [Address { ip: v4.into(), prefix: bits[0] }, Address { ip: v6.into(), prefix: bits[1] }]
}

/// What holds the VM and its router only.
const PAIR: [u8; 2] = [30, 64];
/// One address alone.
pub(crate) const ALONE: [u8; 2] = [32, 128];

/// The number of an interface of this thread's namespace. Old tunnel modules put their own into every new one.
pub(crate) fn index(name: &str) -> Result<u32, Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    name_to_index(&socket, name)
}

/// A router that is ready for its uplink.
#[derive(Debug)]
pub struct Router {
    /// For the VM's name server.
    pub udp: Vec<UdpSocket>,
    /// The same.
    pub tcp: Vec<TcpListener>,
    /// To its filters.
    pub filter: Netlink,
}

/// A step that the kernel refused.
#[derive(Debug)]
pub struct Refused {
    /// Which.
    pub step: &'static str,
    /// Why.
    pub errno: Errno,
}

/// Makes this thread's network namespace, a new one, the router of the VM whose is at `vm`.
///
/// # Errors
/// The step that failed.
pub fn build(reach: &Reach, vm: BorrowedFd<'_>) -> Result<Router, Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut filter = Netlink::filter().map_err(at("open the packet filter (nf_tables)"))?;
    let sides = Sides { inside: INSIDE, vm: [VM_V4.into(), VM_V6.into()] };
    filter::install(&mut filter, reach, sides).map_err(at("set the packet filter (nf_tables) up"))?;
    let mut link = Netlink::route().map_err(at("open the network"))?;
    link.ask(&[link::up(LOOPBACK)]).map_err(at("set the router's loopback up"))?;
    let pair = link::pair(End::named(INSIDE), End::named(PEER), vm, MTU_BYTES);
    link.ask(&[pair]).map_err(at("make a pair of interfaces (veth)"))?;
    let inside = index(INSIDE).map_err(at("find the router's interface"))?;
    for address in both(ROUTER_V4, ROUTER_V6, PAIR) {
        let added = link.ask(&[link::address(inside, address)]);
        // A host without IPv6 has none for its VMs either.
        if address.ip.is_ipv4() || !matches!(added, Err(Errno::OPNOTSUPP | Errno::ACCESS)) {
            added.map_err(at("give the router its address"))?;
        }
    }
    write_settings(&[("ipv4/ip_forward", "1", true), ("ipv6/conf/all/forwarding", "1", false)])?;
    link.ask(&[link::up(inside)]).map_err(at("set the router's interface up"))?;
    let (udp, tcp) = name_server_sockets()?;
    Ok(Router { udp, tcp, filter })
}

/// Writes settings of this network namespace, and whether each is needed.
pub(crate) fn write_settings(settings: &[(&str, &str, bool)]) -> Result<(), Refused> {
    for (setting, value, needed) in settings {
        let written = std::fs::write(format!("/proc/sys/net/{setting}"), value);
        if *needed && let Err(e) = written {
            return Err(Refused {
                step: "let the router forward",
                errno: Errno::from_io_error(&e).unwrap_or(Errno::IO),
            });
        }
    }
    Ok(())
}

/// The name server's sockets, at the router's addresses.
pub(crate) fn name_server_sockets() -> Result<(Vec<UdpSocket>, Vec<TcpListener>), Refused> {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for ip in [IpAddr::V4(ROUTER_V4), IpAddr::V6(ROUTER_V6)] {
        let at = SocketAddr::new(ip, filter::DNS_PORT);
        if let (Ok(u), Ok(t)) = (UdpSocket::bind(at), TcpListener::bind(at)) {
            udp.push(u);
            tcp.push(t);
        }
    }
    if udp.is_empty() {
        return Err(Refused { step: "open the VM's name server", errno: Errno::ADDRNOTAVAIL });
    }
    Ok((udp, tcp))
}

/// The VM's end. This thread is in the VM's network namespace.
///
/// # Errors
/// The step that failed.
pub fn join() -> Result<(), Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut link = Netlink::route().map_err(at("open the VM's network"))?;
    let peer = index(PEER).map_err(at("find the VM's interface"))?;
    for (address, gateway) in both(VM_V4, VM_V6, PAIR).into_iter().zip([IpAddr::V4(ROUTER_V4), IpAddr::V6(ROUTER_V6)]) {
        let added = link.ask(&[link::address(peer, address), link::up(peer), link::default_route(gateway)]);
        if address.ip.is_ipv4() {
            added.map_err(at("give the VM its address"))?;
        }
    }
    open_ports();
    Ok(())
}

/// In the VM's network namespace: the VM's user may listen where a web server does, for the ports are the VM's own.
fn open_ports() {
    let _old_kernel = std::fs::write(format!("/proc/{FIRST_PORT}"), "0");
}

/// The same, through the VM's own `/proc`, at `proc`: in the host's, each network namespace whose settings were looked at leaves an
/// entry that the kernel passes on each later look at any other's.
pub fn open_ports_in(proc: BorrowedFd<'_>) {
    let setting = fs::openat(proc, FIRST_PORT, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let _old_kernel = setting.and_then(|setting| rustix::io::write(&setting, b"0"));
}

const FIRST_PORT: &str = "sys/net/ipv4/ip_unprivileged_port_start";
