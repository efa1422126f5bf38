//! A VM's rules as packet filters in a router namespace, and the gate that fills their sets.
//!
//! ```text
//!   input    from the VM: only its name server, and ping           forward   from the VM, in the order of Reach
//!   source   what leaves by the uplink has the router's address    sets      r<n>v4, r<n>v6: addresses of rule n's name
//! ```
//!
//! Invariants: what no rule accepts is dropped or rejected; the filters lie in a namespace over which the VM has no
//! rights; an address is in a set only as long as its name holds.

use crate::dns::{Gate, Name};
use crate::netlink::Netlink;
use crate::nft::{Batch, End, Hook, Rule, Transport};
use fvm_model::reach::{NEVER, Net, PRIVATE, Reach, To, What};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The table, in a namespace that holds nothing else.
pub(crate) const TABLE: &str = "fvm";
/// Most addresses of one name that are open at a time.
const SET_SIZE: u32 = 4096;
/// Where names are asked for.
pub const DNS_PORT: u16 = 53;

/// All rules that the VM's names may fill: the denied ones first.
pub(crate) fn named(reach: &Reach) -> impl Iterator<Item = (usize, &To)> {
    let all = reach.deny.iter().chain(reach.allow.iter().flatten()).enumerate();
    all.filter(|(_, to)| matches!(to.what, What::Name(_)))
}

/// The interfaces of a router that has one VM.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// Towards the VM.
    pub inside: &'a str,
    /// The VM's addresses: it speaks for no other.
    pub vm: [IpAddr; 2],
}

/// Puts the rules in force.
///
/// # Errors
/// The kernel's.
pub fn install(socket: &mut Netlink, reach: &Reach, sides: Sides<'_>) -> Result<(), Errno> {
    let Sides { inside, vm } = sides;
    let mut batch = Batch::of(TABLE);
    batch.table();
    sets(&mut batch, reach, "");
    batch.chain("input", Hook::Input);
    batch.rule("input", Rule::default().from(true, "lo").then(End::Accept));
    batch.rule("input", Rule::default().known().then(End::Accept));
    let from_vm = || Rule::default().from(true, inside);
    for transport in [Transport::Udp, Transport::Tcp] {
        batch.rule("input", from_vm().over(transport).port(DNS_PORT).then(End::Accept));
    }
    batch.rule("input", from_vm().over(Transport::Icmp).then(End::Accept));
    // Neighbours are found by it, on the other side too.
    batch.rule("input", Rule::default().over(Transport::Icmp6).then(End::Accept));
    batch.rule("input", from_vm().then(End::Reject));

    batch.chain("forward", Hook::Forward);
    for address in vm {
        batch.rule("forward", from_vm().not_from_address(address).then(End::Drop));
    }
    batch.rule("forward", Rule::default().known().then(End::Accept));
    batch.rule("forward", Rule::default().from(false, inside).then(End::Drop));
    decide(&mut batch, "forward", reach, "", End::Accept);

    batch.chain("source", Hook::Source);
    let elsewhere = Rule::default().to(false, inside).to(false, "lo");
    batch.rule("source", elsewhere.then(End::Masquerade));
    batch.commit(socket)
}

/// The sets of a VM's rules; what they are called begins with `prefix`.
pub(crate) fn sets(batch: &mut Batch, reach: &Reach, prefix: &str) {
    for (n, _) in named(reach) {
        batch.set(&format!("{prefix}r{n}v4"), true, SET_SIZE);
        batch.set(&format!("{prefix}r{n}v6"), false, SET_SIZE);
    }
}

/// Takes them away; nothing uses them.
pub(crate) fn no_sets(batch: &mut Batch, reach: &Reach, prefix: &str) {
    for (n, _) in named(reach) {
        batch.no_set(&format!("{prefix}r{n}v4"));
        batch.no_set(&format!("{prefix}r{n}v6"));
    }
}

/// The rules of a VM, behind what `chain` holds: each packet is accepted, which is `accept`, or rejected.
pub(crate) fn decide(batch: &mut Batch, chain: &str, reach: &Reach, prefix: &str, accept: End) {
    let mut decide = |rule: Rule, end: End| batch.rule(chain, rule.then(end));
    let into = |net: &Net| Rule::default().into_net(net.ip, net.prefix);
    for net in NEVER {
        decide(into(net), End::Reject);
    }
    for (n, to) in reach.deny.iter().enumerate() {
        each(prefix, n, to, &mut |rule| decide(rule, End::Reject));
    }
    for (n, to) in reach.allow.iter().flatten().enumerate() {
        each(prefix, reach.deny.len() + n, to, &mut |rule| decide(rule, accept));
    }
    if reach.allow.is_none() {
        for net in PRIVATE.iter().filter(|_| !reach.private) {
            decide(into(net), End::Reject);
        }
        decide(Rule::default(), accept);
    }
    decide(Rule::default(), End::Reject);
}

/// The filters that make up one rule.
fn each(prefix: &str, n: usize, to: &To, take: &mut impl FnMut(Rule)) {
    let places = match &to.what {
        What::Net(net) => vec![Rule::default().into_net(net.ip, net.prefix)],
        What::Name(_) => vec![
            Rule::default().into_set(&format!("{prefix}r{n}v4"), true),
            Rule::default().into_set(&format!("{prefix}r{n}v6"), false),
        ],
    };
    for place in places {
        match to.port {
            None => take(place),
            Some(port) => {
                take(place.clone().over(Transport::Tcp).port(port));
                take(place.over(Transport::Udp).port(port));
            }
        }
    }
}

/// Whether the host has this address itself: then this process, in the host's network, can be at it.
fn is_ours(address: &IpAddr) -> bool {
    let can_be = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    // Addresses of documents, which nobody has. Some hosts let programs be at any.
    let anyone = match address {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    can_be(*address) && !can_be(anyone)
}

/// The gate of a VM's name server, over the filters that [`install`] made.
#[derive(Debug)]
pub struct Sets {
    reach: Reach,
    /// With what the names of its sets begin.
    prefix: String,
    socket: Arc<Mutex<Netlink>>,
}

impl Sets {
    /// Over the filters of the namespace in which `socket` was opened. Whoever asks it is in the host's network.
    #[must_use]
    pub fn new(reach: Reach, socket: Netlink) -> Self {
        Self { reach, prefix: String::new(), socket: Arc::new(Mutex::new(socket)) }
    }

    /// The same where one socket and one namespace are of many VMs.
    pub(crate) fn among(reach: Reach, prefix: String, socket: Arc<Mutex<Netlink>>) -> Self {
        Self { reach, prefix, socket }
    }

    fn is_named(to: &To, name: &Name) -> bool {
        matches!(&to.what, What::Name(pattern) if pattern.matches(name))
    }
}

impl Gate for Sets {
    fn allows(&self, name: &Name) -> bool {
        self.reach.allow.as_ref().is_none_or(|list| list.iter().any(|to| Self::is_named(to, name)))
    }

    fn denies(&self, name: &Name) -> bool {
        self.reach.deny.iter().any(|to| to.port.is_none() && Self::is_named(to, name))
    }

    fn admits(&self, address: &IpAddr) -> bool {
        crate::dns::exchange::is_elsewhere(address)
            && !is_ours(address)
            && (self.reach.private || !PRIVATE.iter().any(|net| net.contains(address)))
    }

    fn learned(&self, name: &Name, addresses: &[IpAddr], hold: Duration) {
        let mut batch = Batch::of(TABLE);
        let mut any = false;
        for (n, _) in named(&self.reach).filter(|(_, to)| Self::is_named(to, name)) {
            for address in addresses {
                let family = if address.is_ipv4() { "v4" } else { "v6" };
                batch.element(&format!("{}r{n}{family}", self.prefix), *address, hold);
                any = true;
            }
        }
        if any {
            let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
            // A full set: the address stays closed, and what is open goes with its time.
            let _full = batch.commit(&mut socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_addresses_are_told_from_others() {
        assert!(is_ours(&"127.0.0.1".parse().unwrap()) && is_ours(&"127.9.9.9".parse().unwrap()));
        assert!(!is_ours(&"192.0.2.77".parse().unwrap()) && !is_ours(&"2001:db8::77".parse().unwrap()));
    }
}
