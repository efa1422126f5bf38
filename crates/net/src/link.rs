//! Interfaces, addresses and routes as messages: they mean the network namespace in which the socket that takes them was
//! opened.
//!
//! Invariant: pure bytes.

use crate::netlink::{ACK, Attributes, CREATE, EXCLUSIVE, Message, REPLACE};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::net::IpAddr;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const REMOVE_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
/// The attribute that names an interface.
const NAME: u16 = 3;
/// The attribute of a route that names its next machine.
const GATEWAY: u16 = 5;
/// A route's scope: other machines.
const EVERYWHERE: u8 = 0;
/// A route's scope: neighbours.
const AT_LINK: u8 = 253;
const UP: u32 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;
/// No duplicate address detection: at a link with two ends that fvm made there is nobody else.
const NO_DETECTION: u8 = 2;

/// An address with the length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { INET } else { INET6 }
}

/// `struct ifinfomsg`.
fn interface(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    for word in [index, flags, change] {
        out.extend(word.to_ne_bytes());
    }
    out
}

/// The address of an interface on its link.
pub(crate) type Hardware = [u8; 6];

/// One end of a pair of interfaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    pub name: &'a str,
    /// 0: as the kernel likes.
    pub index: u32,
    pub up: bool,
    /// `None`: as the kernel likes.
    pub hardware: Option<Hardware>,
}

impl<'a> End<'a> {
    /// An end that is set up later.
    pub fn named(name: &'a str) -> Self {
        Self { name, index: 0, up: false, hardware: None }
    }

    fn header(self) -> Vec<u8> {
        interface(self.index, u32::from(self.up) * UP, u32::from(self.up) * UP)
    }

    /// One queue in each direction: as many as there are processors cost memory and time, and give an interface nothing that
    /// hands each packet to its other end at once.
    fn attributes(self, mtu: u32) -> Attributes {
        const HARDWARE: u16 = 1;
        const MTU: u16 = 4;
        const QUEUES_OUT: u16 = 31;
        const QUEUES_IN: u16 = 32;
        let one = 1u32.to_ne_bytes();
        let named = Attributes::default().with_text(NAME, self.name).with(MTU, mtu.to_ne_bytes());
        let queued = named.with(QUEUES_OUT, one).with(QUEUES_IN, one);
        match self.hardware {
            Some(address) => queued.with(HARDWARE, address),
            None => queued,
        }
    }
}

/// Makes a pair of interfaces: `here`, and `there` in the network namespace `namespace`, for packets of `mtu` bytes.
pub(crate) fn pair(here: End<'_>, there: End<'_>, namespace: BorrowedFd<'_>, mtu: u32) -> Message {
    const LINK_INFO: u16 = 18;
    const NAMESPACE: u16 = 28;
    let peer = there.attributes(mtu).with(NAMESPACE, namespace.as_raw_fd().to_ne_bytes());
    let data = Attributes::default().with(1, peer.behind(there.header()));
    let info = Attributes::default().with(1, b"veth").with_nested(2, data);
    let attributes = here.attributes(mtu).with_nested(LINK_INFO, info);
    Message { kind: NEW_LINK, flags: ACK | CREATE | EXCLUSIVE, header: here.header(), attributes }
}

/// Sets an interface up.
pub(crate) fn up(index: u32) -> Message {
    Message { kind: NEW_LINK, flags: ACK, header: interface(index, UP, UP), attributes: Attributes::default() }
}

/// Gives an interface an address.
pub(crate) fn address(index: u32, address: Address) -> Message {
    let mut header = vec![family(address.ip), address.prefix, NO_DETECTION, 0];
    header.extend(index.to_ne_bytes());
    let attributes = Attributes::default().with(1, bytes(address.ip)).with(2, bytes(address.ip));
    Message { kind: NEW_ADDRESS, flags: ACK | CREATE | EXCLUSIVE, header, attributes }
}

/// Says where a neighbour is, for as long as the interface is there: nobody is asked.
pub(crate) fn neighbour(index: u32, ip: IpAddr, at: Hardware) -> Message {
    const PERMANENT: u16 = 0x80;
    const TO: u16 = 1;
    const HARDWARE: u16 = 2;
    // `struct ndmsg` of linux/neighbour.h.
    let mut header = vec![family(ip), 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(PERMANENT.to_ne_bytes());
    header.extend([0, 0]);
    let attributes = Attributes::default().with(TO, bytes(ip)).with(HARDWARE, at);
    Message { kind: NEW_NEIGHBOUR, flags: ACK | CREATE | REPLACE, header, attributes }
}

/// What has no route of its own goes to `gateway`.
pub(crate) fn default_route(gateway: IpAddr) -> Message {
    new_route(gateway, 0, EVERYWHERE, 0, Attributes::default().with(GATEWAY, bytes(gateway)))
}

/// What goes to `to`, or all that has no route of its own, leaves by the interface `over`: to the neighbour `via`, whose
/// address need not be in any of our networks, else to `to` itself, a neighbour. It takes the place of one that is there.
pub(crate) fn route(to: Option<IpAddr>, via: Option<IpAddr>, over: u32) -> Message {
    const DESTINATION: u16 = 1;
    const INTERFACE: u16 = 4;
    const IS_NEIGHBOUR: u32 = 4;
    let some = to.or(via).unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let mut attributes = Attributes::default().with(INTERFACE, over.to_ne_bytes());
    let mut bits = 0;
    if let Some(to) = to {
        let to = bytes(to);
        bits = if to.len() == 4 { 32 } else { 128 };
        attributes = attributes.with(DESTINATION, to);
    }
    match via {
        Some(via) => new_route(some, bits, EVERYWHERE, IS_NEIGHBOUR, attributes.with(GATEWAY, bytes(via))),
        None => new_route(some, bits, if some.is_ipv4() { AT_LINK } else { EVERYWHERE }, 0, attributes),
    }
}

fn new_route(ip: IpAddr, bits: u8, scope: u8, flags: u32, attributes: Attributes) -> Message {
    // Main table, made by an administrator, to a machine.
    let mut header = vec![family(ip), bits, 0, 0, 254, 4, scope, 1];
    header.extend(flags.to_ne_bytes());
    Message { kind: NEW_ROUTE, flags: ACK | CREATE | REPLACE, header, attributes }
}

/// All addresses of a family are this machine's own: what is sent to any of them arrives here.
pub(crate) fn all_is_here(v4: bool, loopback: u32) -> Message {
    const INTERFACE: u16 = 4;
    const LOCAL_TABLE: u8 = 255;
    const THIS_MACHINE: u8 = 254;
    const LOCAL: u8 = 2;
    // Made by an administrator.
    let mut header = vec![if v4 { INET } else { INET6 }, 0, 0, 0, LOCAL_TABLE, 4, THIS_MACHINE, LOCAL];
    header.extend([0; 4]);
    let attributes = Attributes::default().with(INTERFACE, loopback.to_ne_bytes());
    Message { kind: NEW_ROUTE, flags: ACK | CREATE | REPLACE, header, attributes }
}

/// Takes the route to `to` over the interface `over` away.
pub(crate) fn no_route(to: IpAddr, over: u32) -> Message {
    const DESTINATION: u16 = 1;
    const INTERFACE: u16 = 4;
    const NOWHERE: u8 = 255;
    let bits = if to.is_ipv4() { 32 } else { 128 };
    let mut header = vec![family(to), bits, 0, 0, 254, 0, NOWHERE, 0];
    header.extend([0; 4]);
    let attributes = Attributes::default().with(DESTINATION, bytes(to)).with(INTERFACE, over.to_ne_bytes());
    Message { kind: REMOVE_ROUTE, flags: ACK, header, attributes }
}
