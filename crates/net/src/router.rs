//! The namespace between a VM and the host: what a VM may reach is filtered in it.
//!
//! ```text
//!   VM's network namespace           router namespace, not the VM's                 host
//!   eth0 198.18.0.2 ───────────── vm 198.18.0.1 ── filters, NAT ── tap ── pasta ─── sockets      an ordinary user's
//!        fd66:766d::2                fd66:766d::1, name server
//!   eth0 10.207.a.b ───────────── vm 198.18.0.1 ── filters ── fvm-host ──────────── fvm-a-b      root's (crate::host)
//!                                                      └ NAT ── tap ── pasta ────── sockets      ... where the host
//!                                                                                   would drop what it should forward
//! ```
//!
//! The VM's root rules its own end and nothing of the router. All routers have the same addresses, and so have the VMs of
//! ordinary users: each pair is in a world of its own.
//!
//! Invariant: the link is up only after the filters are in force.

use crate::filter::{self, Sides};
use crate::host::{self, Seat};
use crate::link::Address;
use crate::netlink::Netlink;
use fvm_model::reach::Reach;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

/// The interface towards the VM.
const INSIDE: &str = "vm";
/// Loopback's number.
const LOOPBACK: u32 = 1;
/// As the uplink's own interface has it. The smaller the packets, the slower the uplink, which takes each in its hands.
const MTU_BYTES: u32 = 65_520;
/// The VM's interface.
const PEER: &str = "eth0";
/// The interface towards the host.
const NEAR_HOST: &str = "fvm-host";
/// The router's address there.
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
fn both(v4: Ipv4Addr, v6: Ipv6Addr, bits: [u8; 2]) -> [Address; 2] {
    [Address { ip: v4.into(), prefix: bits[0] }, Address { ip: v6.into(), prefix: bits[1] }]
}

/// What holds the VM and its router only.
const PAIR: [u8; 2] = [30, 64];
/// One address alone.
const ALONE: [u8; 2] = [32, 128];

/// How a root VM's router reaches the host.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// The VM's place.
    pub seat: &'a Seat,
    /// The host's network namespace.
    pub namespace: BorrowedFd<'a>,
    /// The host forwards to the outside.
    pub forwards: bool,
}

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
pub fn build(reach: &Reach, vm: BorrowedFd<'_>, host: Option<Host<'_>>) -> Result<Router, Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut filter = Netlink::filter().map_err(at("open the packet filter (nf_tables)"))?;
    let vm_addresses = host.map_or([VM_V4.into(), VM_V6.into()], |h| [h.seat.v4.into(), h.seat.v6.into()]);
    let sides = Sides { inside: INSIDE, vm: vm_addresses, host: host.map(|_| NEAR_HOST) };
    filter::install(&mut filter, reach, sides).map_err(at("set the packet filter (nf_tables) up"))?;
    let mut link = Netlink::route().map_err(at("open the network"))?;
    link.up(LOOPBACK).map_err(at("set the router's loopback up"))?;
    let mtu = if host.is_some() { host::MTU_BYTES } else { MTU_BYTES };
    link.pair(INSIDE, PEER, vm, mtu).map_err(at("make a pair of interfaces (veth)"))?;
    let inside = index(INSIDE).map_err(at("find the router's interface"))?;
    for address in both(ROUTER_V4, ROUTER_V6, if host.is_some() { ALONE } else { PAIR }) {
        let added = link.address(inside, address);
        // A host without IPv6 has none for its VMs either.
        if address.ip.is_ipv4() || !matches!(added, Err(Errno::OPNOTSUPP | Errno::ACCESS)) {
            added.map_err(at("give the router its address"))?;
        }
    }
    for (setting, needed) in [("ipv4/ip_forward", true), ("ipv6/conf/all/forwarding", false)] {
        let written = std::fs::write(format!("/proc/sys/net/{setting}"), "1");
        if needed && let Err(e) = written {
            return Err(Refused {
                step: "let the router forward",
                errno: Errno::from_io_error(&e).unwrap_or(Errno::IO),
            });
        }
    }
    link.up(inside).map_err(at("set the router's interface up"))?;
    if let Some(host) = host {
        reach_host(&mut link, inside, host)?;
    }
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
    Ok(Router { udp, tcp, filter })
}

/// The links of a root VM's router: to the host, and the routes to both sides.
fn reach_host(link: &mut Netlink, inside: u32, host: Host<'_>) -> Result<(), Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let Host { seat, namespace, forwards } = host;
    host::pair(link, seat, NEAR_HOST, namespace).map_err(at("make a pair of interfaces (veth) with the host"))?;
    let near = index(NEAR_HOST).map_err(at("find the router's interface to the host"))?;
    link.up(near).map_err(at("set the router's interface to the host up"))?;
    // Where the host forwards no IPv6, a VM learns at once that there is no way, instead of waiting for answers.
    let forwards_v6 =
        std::fs::read("/proc/sys/net/ipv6/conf/all/forwarding").is_ok_and(|text| text.first() == Some(&b'1'));
    let sides: [(Address, IpAddr, IpAddr, bool); 2] = [
        (Address { ip: NEAR_HOST_V4.into(), prefix: 32 }, seat.v4.into(), seat.gateway.into(), forwards),
        (
            Address { ip: NEAR_HOST_V6.into(), prefix: 64 },
            seat.v6.into(),
            seat.gateway6.into(),
            forwards && forwards_v6,
        ),
    ];
    for (own, vm, gateway, out) in sides {
        let made = link.address(near, own).and_then(|()| {
            link.add_route(Some(vm), None, inside)?;
            link.add_route(Some(gateway), None, near)?;
            if out { link.add_route(None, Some(gateway), near) } else { Ok(()) }
        });
        if own.ip.is_ipv4() {
            made.map_err(at("give the router its routes"))?;
        }
    }
    Ok(())
}

/// The VM's end. This thread is in the VM's network namespace.
///
/// # Errors
/// The step that failed.
pub fn join(seat: Option<&Seat>) -> Result<(), Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut link = Netlink::route().map_err(at("open the VM's network"))?;
    let peer = index(PEER).map_err(at("find the VM's interface"))?;
    let addresses = match seat {
        Some(seat) => both(seat.v4, seat.v6, ALONE),
        None => both(VM_V4, VM_V6, PAIR),
    };
    for (address, gateway) in addresses.into_iter().zip([IpAddr::V4(ROUTER_V4), IpAddr::V6(ROUTER_V6)]) {
        let added = link.address(peer, address).and_then(|()| link.up(peer)).and_then(|()| match seat {
            Some(_) => link.add_route(None, Some(gateway), peer),
            None => link.default_route(gateway),
        });
        if address.ip.is_ipv4() {
            added.map_err(at("give the VM its address"))?;
        }
    }
    // The VM's user may listen where a web server does: the ports are the VM's own.
    let _old_kernel = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    Ok(())
}
