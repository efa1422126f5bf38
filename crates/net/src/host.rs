//! The host's side of the network of a root VM.
//!
//! ```text
//!   VMs ── eth0 10.207.a.b ── router namespace: filters ── host │ fvm-xxxxxxxx 10.207.0.1 ── table inet fvm ── outside
//!
//!   table inet fvm     input    from fvm-*: no new connection         forward   between fvm-*, and into fvm-*: no new one
//!                      source   from fvm-*: leaves with the host's address
//! ```
//!
//! The table names no VM, so it needs no change when one comes or goes. Of a VM the host has its two routes, which its keeper
//! takes away; all that is left goes with the router's interface, which goes with the router's last process.
//!
//! Invariants: no other table is changed; one that fvm made before is left as it is. IPv6 forwarding is never turned on:
//! a host that learns its own routes by advertisements would stop doing so.

use crate::link::{self, Address};
use crate::netlink::Netlink;
use crate::nft::{self, Batch, End, Hook, Rule, Transport};
use crate::router::{self, Refused};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table.
const TABLE: &str = "fvm";
/// What the interfaces of routers are called, and nobody else's.
const PREFIX: &str = "fvm-";
/// Where the kernel says whether it forwards.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Names of the tables of the older packet filter.
const OLD_TABLES: &str = "/proc/net/ip_tables_names";
/// As most networks have it.
pub const MTU_BYTES: u32 = 1500;

/// The addresses of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The VM's.
    pub v4: Ipv4Addr,
    /// The VM's.
    pub v6: Ipv6Addr,
    /// The host's, the same for all VMs of a range.
    pub gateway: Ipv4Addr,
    /// The same.
    pub gateway6: Ipv6Addr,
}

impl Seat {
    /// The seat that belongs to a loopback address that was claimed ([`crate::claim`]), in a range of 65536 addresses.
    #[must_use]
    pub fn of(claimed: Ipv4Addr, range: Ipv4Addr) -> Self {
        let [_, _, high, low] = claimed.octets();
        let [a, b, ..] = range.octets();
        let number = u16::from_be_bytes([high, low]);
        let v6 = |number| Ipv6Addr::new(0xfd66, 0x766d, 1, u16::from_be_bytes([a, b]), 0, 0, 0, number);
        Self {
            // 127.1.0.1 is claimed like any other, and the host itself is first.
            v4: Ipv4Addr::new(a, b, high, if number == 1 { 255 } else { low }),
            v6: v6(if number == 1 { 255 } else { number }),
            gateway: Ipv4Addr::new(a, b, 0, 1),
            gateway6: v6(1),
        }
    }
}

/// Whether this process may give VMs addresses on this host, and filters to go with them. Nothing is changed.
///
/// # Errors
/// The kernel's.
pub fn possible() -> Result<(), Errno> {
    nft::answers(&mut Netlink::filter()?)
}

/// Makes the host forward what comes from VMs, and returns who else filters that, and may drop it. The calling thread is in
/// the host's network namespace.
///
/// # Errors
/// The step that failed.
pub fn prepare() -> Result<Vec<String>, Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut filter = Netlink::filter().map_err(at("open the packet filter (nf_tables)"))?;
    let found = nft::filters_of_forwarding(&mut filter, TABLE).map_err(at("look at the host's packet filters"))?;
    let nft::Forwarding { ours, mut others } = found;
    // Only where it is not: to try, and to be refused, takes the kernel several grace periods of RCU.
    if !ours {
        match install(&mut filter) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(at("set up the host's table 'inet fvm' (nf_tables)")(e)),
        }
    }
    if std::fs::read_to_string(OLD_TABLES).is_ok_and(|names| names.lines().any(|name| name == "filter")) {
        others.push("iptables".into());
    }
    others.dedup();
    Ok(others)
}

/// Lets the host forward.
///
/// # Errors
/// When it does not, and cannot be made to.
pub fn forward() -> Result<(), Refused> {
    if std::fs::read(FORWARDING).is_ok_and(|text| text.first() == Some(&b'1')) {
        return Ok(());
    }
    std::fs::write(FORWARDING, "1").map_err(|e| Refused {
        step: "let the host forward (net.ipv4.ip_forward)",
        errno: Errno::from_io_error(&e).unwrap_or(Errno::IO),
    })
}

fn install(socket: &mut Netlink) -> Result<(), Errno> {
    let mut batch = Batch::of(TABLE);
    batch.table();
    let from_vm = || Rule::default().came_by_like(PREFIX);
    let to_vm = || Rule::default().leaves_by_like(PREFIX);

    batch.open_chain("input", Hook::Input);
    batch.rule("input", from_vm().known().then(End::Accept));
    for transport in [Transport::Icmp, Transport::Icmp6] {
        batch.rule("input", from_vm().over(transport).then(End::Accept));
    }
    batch.rule("input", from_vm().then(End::Reject));

    batch.open_chain("forward", Hook::Forward);
    batch.rule("forward", to_vm().known().then(End::Accept));
    batch.rule("forward", to_vm().then(End::Reject));

    batch.open_chain("source", Hook::Source);
    batch.rule("source", from_vm().then(End::Masquerade));
    batch.commit(socket)
}

/// Whether the host forwards IPv6.
pub(crate) fn forwards_v6() -> bool {
    std::fs::read("/proc/sys/net/ipv6/conf/all/forwarding").is_ok_and(|text| text.first() == Some(&b'1'))
}

/// The host's end of a router's link, which is there; returns its number. `gateway`, `gateway6`: the host's addresses to it.
/// The calling thread is in the host's network namespace.
///
/// # Errors
/// The step that failed.
pub fn attach(interface: &str, gateway: Ipv4Addr, gateway6: Ipv6Addr) -> Result<u32, Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut link = Netlink::route().map_err(at("open the host's network"))?;
    let index = router::index(interface).map_err(at("find the host's interface to the router"))?;
    let address = |ip: IpAddr, prefix| link::address(index, Address { ip, prefix });
    link.ask(&[link::up(index), address(gateway.into(), 32)])
        .map_err(at("set the host's interface to the router up"))?;
    // A host without IPv6 reaches its VMs without.
    let _without = link.ask(&[address(gateway6.into(), 128)]);
    Ok(index)
}

/// What a router's link may be called on the host: names that are random are not taken.
///
/// # Errors
/// The kernel's.
pub fn new_name() -> Result<String, Errno> {
    let mut bytes = [0u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{PREFIX}{:08x}", u32::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_claims_have_the_same_seat_and_none_is_the_hosts() {
        let range = Ipv4Addr::new(10, 207, 0, 0);
        let mut seen = std::collections::HashSet::new();
        for high in [0, 1, 255] {
            for low in 1..=254 {
                let seat = Seat::of(Ipv4Addr::new(127, 1, high, low), range);
                assert!(seat.v4 != seat.gateway && seat.v6 != seat.gateway6, "{seat:?}");
                assert!(seen.insert((seat.v4, seat.v6)), "{seat:?}");
            }
        }
    }
}
