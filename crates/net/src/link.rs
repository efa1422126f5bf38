//! Interfaces, addresses and routes of the network namespace in which the socket was opened.
//!
//! Invariant: pure bytes and one socket; no program is started.

use crate::netlink::{ACK, APPEND, Attributes, CREATE, EXCLUSIVE, Message, Netlink};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::net::IpAddr;

const NEW_LINK: u16 = 16;
const REMOVE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
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

impl Netlink {
    /// Makes a pair of interfaces: `name` here, `peer` in the network namespace `there`, for packets of `mtu` bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair(&mut self, name: &str, peer: &str, there: BorrowedFd<'_>, mtu: u32) -> Result<(), Errno> {
        const MTU: u16 = 4;
        const LINK_INFO: u16 = 18;
        const NAMESPACE: u16 = 28;
        let peer = Attributes::default()
            .with_text(NAME, peer)
            .with(MTU, mtu.to_ne_bytes())
            .with(NAMESPACE, there.as_raw_fd().to_ne_bytes());
        let info = Attributes::default()
            .with(1, b"veth")
            .with_nested(2, Attributes::default().with(1, peer.behind(interface(0, 0, 0))));
        let named = Attributes::default().with_text(NAME, name).with(MTU, mtu.to_ne_bytes());
        let attributes = named.with_nested(LINK_INFO, info);
        let header = interface(0, 0, 0);
        self.ask(&[Message { kind: NEW_LINK, flags: ACK | CREATE | EXCLUSIVE, header, attributes }])
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn up(&mut self, index: u32) -> Result<(), Errno> {
        let header = interface(index, UP, UP);
        self.ask(&[Message { kind: NEW_LINK, flags: ACK, header, attributes: Attributes::default() }])
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&mut self, index: u32, address: Address) -> Result<(), Errno> {
        let mut header = vec![family(address.ip), address.prefix, NO_DETECTION, 0];
        header.extend(index.to_ne_bytes());
        let attributes = Attributes::default().with(1, bytes(address.ip)).with(2, bytes(address.ip));
        self.ask(&[Message { kind: NEW_ADDRESS, flags: ACK | CREATE | EXCLUSIVE, header, attributes }])
    }

    /// What has no route of its own goes to `gateway`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn default_route(&mut self, gateway: IpAddr) -> Result<(), Errno> {
        self.new_route(gateway, 0, EVERYWHERE, 0, Attributes::default().with(GATEWAY, bytes(gateway)))
    }

    /// What goes to `to`, or all that has no route of its own, leaves by the interface `over`: to the neighbour `via`,
    /// whose address need not be in any of our networks, else to `to` itself, a neighbour.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_route(&mut self, to: Option<IpAddr>, via: Option<IpAddr>, over: u32) -> Result<(), Errno> {
        const DESTINATION: u16 = 1;
        const INTERFACE: u16 = 4;
        const IS_NEIGHBOUR: u32 = 4;
        let Some(some) = to.or(via) else { return Err(Errno::INVAL) };
        let mut attributes = Attributes::default().with(INTERFACE, over.to_ne_bytes());
        let mut bits = 0;
        if let Some(to) = to {
            let to = bytes(to);
            bits = if to.len() == 4 { 32 } else { 128 };
            attributes = attributes.with(DESTINATION, to);
        }
        match via {
            Some(via) => self.new_route(some, bits, EVERYWHERE, IS_NEIGHBOUR, attributes.with(GATEWAY, bytes(via))),
            None => self.new_route(some, bits, if some.is_ipv4() { AT_LINK } else { EVERYWHERE }, 0, attributes),
        }
    }

    fn new_route(&mut self, ip: IpAddr, bits: u8, scope: u8, flags: u32, attributes: Attributes) -> Result<(), Errno> {
        // Main table, made by an administrator, to a machine.
        let mut header = vec![family(ip), bits, 0, 0, 254, 4, scope, 1];
        header.extend(flags.to_ne_bytes());
        self.ask(&[Message { kind: NEW_ROUTE, flags: ACK | CREATE | APPEND, header, attributes }])
    }

    /// Removes an interface, and the other one of its pair.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&mut self, name: &str) -> Result<(), Errno> {
        let attributes = Attributes::default().with_text(NAME, name);
        self.ask(&[Message { kind: REMOVE_LINK, flags: ACK, header: interface(0, 0, 0), attributes }])
    }
}
