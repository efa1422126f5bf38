//! Interfaces, addresses and routes of the network namespace in which the socket was opened.
//!
//! Invariant: pure bytes and one socket; no program is started.

use crate::netlink::{ACK, APPEND, Attributes, CREATE, EXCLUSIVE, Message, Netlink};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::net::IpAddr;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
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
        const NAME: u16 = 3;
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
        // Main table, made by an administrator, everywhere, to a machine.
        let header = vec![family(gateway), 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        let attributes = Attributes::default().with(5, bytes(gateway));
        self.ask(&[Message { kind: NEW_ROUTE, flags: ACK | CREATE | APPEND, header, attributes }])
    }
}
