//! The filters of a router that many VMs share, and the links from it to each.
//!
//! ```text
//!                                        the router's namespace                                      host
//!   VM a  eth0 10.207.a.b ──────── fvm-17 ─┐                                      ┌─ (forwards) ──── fvm-xxxxxxxx 10.207.0.1
//!   VM b  eth0 10.207.c.d ──────── fvm-18 ─┼─ lo 198.18.0.1, name server          │
//!         fd66:766d:1:..           fvm-19 ─┘  filters, routes ─── fvm.host 198.18.0.6
//!                                                              └─ tap ── pasta ── sockets, where the host does not forward
//!
//!   table fvm   seats4, seats6   (interface . source address) ─► number of the rules, as the packet's mark
//!               ways             number ─► chain            chain p<n>: the rules of a reach, r<n>: of one VM with names
//!     groups    from fvm-*, to a group: drop
//!     input     icmp6 │ from fvm-*: seat or drop │ known │ its name server, ping │ reject
//!     forward   from fvm-*: seat or drop │ known and own │ host to fvm-* │ else from fvm-* only, and never into one │ ways
//!   set own     (interface . mark of a connection): each connection is marked with the interface of its VM
//! ```
//!
//! Three elements are all that a VM adds, and its interface; where many VMs have the same rules, these are there once. The
//! kernel remembers connections longer than VMs live: so a connection that was allowed is so for the interface for which it
//! was, not for the next VM that has the address.
//!
//! Invariants: a packet of a VM whose interface and source address do not belong together goes nowhere, before anything else
//! is asked; nothing is forwarded from one VM to another, and no connection is inherited; a VM's link is made after its filters; numbers of interfaces are
//! given once in a router's life, so what is left of one VM is never another's.

use crate::filter::{self, DNS_PORT, Sets, TABLE};
use crate::host::{self, MTU_BYTES, Seat};
use crate::link::{self, Address, End as Side};
use crate::netlink::{Message, Netlink};
use crate::nft::{Batch, By, End, Entry, Hook, Key, Rule, Transport};
use crate::router::{self, ALONE, LOOPBACK, NEAR_HOST_V4, NEAR_HOST_V6, PEER, ROUTER_V4, ROUTER_V6, Refused, both};
use fvm_model::reach::Reach;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

/// What the interfaces towards VMs are called, and no other: an uplink's is called as the host's own, which none of fvm's is.
const PREFIX: &str = "fvm-";
/// The interface towards the host.
const NEAR_HOST: &str = "fvm.host";
/// The number of the router's interface towards the host, and of a VM's in the VM: above those that tunnel modules put into
/// every namespace. Numbers are said, so that all about an interface can be in the same message as itself.
const FIXED: u32 = 60;
/// The first number of an interface towards a VM.
pub const FIRST_NUMBER: u32 = FIXED + 1;

/// How addresses on links begin: local ones (bit 2 of the first byte), of the router's ends and of VMs'.
const ROUTER_END: u8 = 0x02;
const VM_END: u8 = 0x06;

/// The address on its link of one end of the link to a VM. Each end is told the other's. To ask, it would need an address of
/// IPv6 on each interface of the router, and with each of a thousand the kernel looks at the routes of all others.
fn hardware(end: u8, interface: u32) -> link::Hardware {
    let [_, a, b, c] = interface.to_be_bytes();
    [end, b'f', b'v', a, b, c]
}

const SEATS4: &str = "seats4";
const SEATS6: &str = "seats6";
const WAYS: &str = "ways";
const OWN: &str = "own";
const SEAT: &str = "seat";
const PASS: &str = "pass";

/// What a router offers.
#[derive(Debug)]
pub struct House {
    /// For the VMs' name server.
    pub udp: Vec<UdpSocket>,
    /// The same.
    pub tcp: Vec<TcpListener>,
    /// To its filters.
    pub filter: Netlink,
}

/// Makes this thread's network namespace, a new one, a router that has no VM yet, and its link to the host. `host`: the host's
/// namespace; `interface`: what the link is called there, whose address is the one that `seat` names as the gateway;
/// `forwards`: the host lets packets out.
///
/// # Errors
/// The step that failed.
pub fn build(seat: &Seat, host: BorrowedFd<'_>, interface: &str, forwards: bool) -> Result<House, Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut filter = Netlink::filter().map_err(at("open the packet filter (nf_tables)"))?;
    install(&mut filter).map_err(at("set the packet filter (nf_tables) up"))?;
    // Before there are interfaces, which begin with these. Nobody on a link of the router's is asked where ways lead.
    router::write_settings(&[
        ("ipv4/ip_forward", "1", true),
        ("ipv6/conf/all/forwarding", "1", false),
        ("ipv4/conf/all/accept_redirects", "0", false),
        ("ipv4/conf/default/accept_redirects", "0", false),
        // A VM asks for the router's address, which is given: one more of each interface's own serves nobody, but an uplink.
        ("ipv6/conf/default/addr_gen_mode", if forwards { "1" } else { "0" }, false),
    ])?;
    let mut link = Netlink::route().map_err(at("open the network"))?;
    let near = FIXED;
    let ends = [NEAR_HOST, interface].map(|name| Side { name, index: near, up: true, hardware: None });
    let there = Side { index: 0, up: false, ..ends[1] };
    let [own4, own6] = both(ROUTER_V4, ROUTER_V6, ALONE);
    let needed = [
        link::up(LOOPBACK),
        link::address(LOOPBACK, own4),
        link::pair(ends[0], there, host, MTU_BYTES),
        link::address(near, Address { ip: NEAR_HOST_V4.into(), prefix: 32 }),
        link::route(Some(seat.gateway.into()), None, near),
    ];
    link.ask(&needed).map_err(at("make a pair of interfaces (veth) with the host"))?;
    // Where the host forwards no IPv6, a VM learns at once that there is no way, instead of waiting for answers.
    let forwards6 = forwards && host::forwards_v6();
    let mut more = vec![
        link::address(LOOPBACK, own6),
        link::address(near, Address { ip: NEAR_HOST_V6.into(), prefix: 64 }),
        link::route(Some(seat.gateway6.into()), None, near),
    ];
    if forwards6 {
        more.push(link::route(None, Some(seat.gateway6.into()), near));
    }
    if forwards {
        link.ask(&[link::route(None, Some(seat.gateway.into()), near)]).map_err(at("give the router its routes"))?;
    }
    // A host without IPv6 has none for its VMs either.
    let _without = link.ask_each(&more).map_err(at("give the router its routes"))?;
    let (udp, tcp) = router::name_server_sockets()?;
    Ok(House { udp, tcp, filter })
}

fn install(socket: &mut Netlink) -> Result<(), Errno> {
    let mut batch = Batch::of(TABLE);
    batch.table();
    for (map, key) in [(SEATS4, Key::Seat4), (SEATS6, Key::Seat6), (WAYS, Key::Way), (OWN, Key::Own)] {
        batch.map(map, key);
    }
    let from_vm = || Rule::default().came_by_like(PREFIX);
    batch.inner_chain(SEAT);
    for (map, v4) in [(SEATS4, true), (SEATS6, false)] {
        batch.rule(SEAT, Rule::default().marked_by_seat(map, v4).then(End::Return));
    }
    batch.rule(SEAT, Rule::default().then(End::Drop));

    batch.inner_chain(PASS);
    batch.rule(PASS, Rule::default().mark_connection(By::Came).then(End::Accept));

    // Neighbours know each other, and nobody routes for groups: each such packet would be looked up among all interfaces.
    batch.open_chain("groups", Hook::Raw);
    batch.rule("groups", from_vm().for_group().then(End::Drop));

    batch.chain("input", Hook::Input);
    batch.rule("input", Rule::default().from(true, "lo").then(End::Accept));
    // The uplink's neighbours are found by it, from addresses that are nobody's seat.
    batch.rule("input", Rule::default().over(Transport::Icmp6).then(End::Accept));
    batch.rule("input", from_vm().then(End::Jump(SEAT)));
    batch.rule("input", Rule::default().known().then(End::Accept));
    for transport in [Transport::Udp, Transport::Tcp] {
        batch.rule("input", from_vm().over(transport).port(DNS_PORT).then(End::Accept));
    }
    batch.rule("input", from_vm().over(Transport::Icmp).then(End::Accept));
    batch.rule("input", from_vm().then(End::Reject));

    batch.chain("forward", Hook::Forward);
    batch.rule("forward", from_vm().then(End::Jump(SEAT)));
    batch.rule("forward", from_vm().known_to(By::Came, OWN).then(End::Accept));
    batch.rule("forward", Rule::default().leaves_by_like(PREFIX).known_to(By::Leaves, OWN).then(End::Accept));
    let from_host = || Rule::default().from(true, NEAR_HOST);
    batch.rule("forward", from_host().leaves_by_like(PREFIX).mark_connection(By::Leaves).then(End::Accept));
    // Who has gone: the host learns it at once.
    batch.rule("forward", from_host().then(End::Reject));
    batch.rule("forward", from_vm().leaves_by_like(PREFIX).then(End::Reject));
    batch.rule("forward", from_vm().by_mark(WAYS));

    batch.chain("source", Hook::Source);
    let elsewhere = Rule::default().to(false, NEAR_HOST).to(false, "lo").leaves_by_unlike(PREFIX);
    batch.rule("source", elsewhere.then(End::Masquerade));
    batch.commit(socket)
}

/// Rules that VMs have in common.
#[derive(Debug)]
struct Common {
    reach: Reach,
    number: u32,
    users: usize,
}

/// The filters of a router as its guard keeps them.
#[derive(Debug)]
pub struct Filters {
    socket: Arc<Mutex<Netlink>>,
    common: Vec<Common>,
    last: u32,
}

/// A VM in the filters.
#[derive(Debug)]
pub struct Admitted {
    /// The number of its interface.
    pub interface: u32,
    addresses: [IpAddr; 2],
    rules: u32,
    /// It has rules by name, which nobody shares.
    named: Option<Reach>,
}

/// The chain of some rules, and with what the names of its sets begin.
fn chain(rules: u32) -> String {
    format!("p{rules}")
}

impl Filters {
    /// Those of the namespace in which `socket` was opened, which [`build`] made.
    #[must_use]
    pub fn new(socket: Netlink) -> Self {
        Self { socket: Arc::new(Mutex::new(socket)), common: Vec::new(), last: 0 }
    }

    /// Lets in what comes over `interface` from these addresses, as far as `reach` goes, and the gate for its names.
    ///
    /// # Errors
    /// The kernel's; nothing is changed then.
    pub fn admit(&mut self, interface: u32, addresses: [IpAddr; 2], reach: &Reach) -> Result<(Admitted, Sets), Errno> {
        let mut batch = Batch::of(TABLE);
        let is_named = filter::named(reach).next().is_some();
        let shared = self.common.iter().position(|common| !is_named && common.reach == *reach);
        let rules = match shared {
            Some(at) => self.common[at].number,
            None => {
                // Never one that a packet without a mark has.
                self.last += 1;
                let chain = chain(self.last);
                filter::sets(&mut batch, reach, &chain);
                batch.inner_chain(&chain);
                filter::decide(&mut batch, &chain, reach, &chain, End::Goto(PASS));
                batch.enter(WAYS, Entry::Way(self.last, &chain));
                self.last
            }
        };
        for address in addresses {
            batch.enter(map_of(address), Entry::Seat(interface, address, rules));
        }
        batch.enter(OWN, Entry::Own(interface));
        batch.commit(&mut self.socket.lock().unwrap_or_else(PoisonError::into_inner))?;
        match shared {
            Some(at) => self.common[at].users += 1,
            None if is_named => {}
            None => self.common.push(Common { reach: reach.clone(), number: rules, users: 1 }),
        }
        let gate = Sets::among(reach.clone(), chain(rules), Arc::clone(&self.socket));
        Ok((Admitted { interface, addresses, rules, named: is_named.then(|| reach.clone()) }, gate))
    }

    /// Takes away what was let in, all at once.
    pub fn dismiss(&mut self, gone: &[Admitted]) {
        let mut batch = Batch::of(TABLE);
        for vm in gone {
            for address in vm.addresses {
                batch.leave(map_of(address), Entry::Seat(vm.interface, address, vm.rules));
            }
            batch.leave(OWN, Entry::Own(vm.interface));
        }
        let mut ended: Vec<(u32, Option<&Reach>)> = Vec::new();
        for vm in gone {
            if vm.named.is_some() {
                ended.push((vm.rules, vm.named.as_ref()));
            } else if let Some(at) = self.common.iter().position(|common| common.number == vm.rules) {
                self.common[at].users -= 1;
                if self.common[at].users == 0 {
                    ended.push((vm.rules, None));
                    self.common.swap_remove(at);
                }
            }
        }
        for (rules, named) in ended {
            batch.leave(WAYS, Entry::Way(rules, ""));
            batch.no_chain(&chain(rules));
            if let Some(reach) = named {
                filter::no_sets(&mut batch, reach, &chain(rules));
            }
        }
        // What stays lets nobody in: no interface ever has these numbers again.
        let _stays = batch.commit(&mut self.socket.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn map_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { SEATS4 } else { SEATS6 }
}

/// The way from a router to a VM that is not there yet.
#[derive(Debug)]
pub struct Plug<'a> {
    seat: &'a Seat,
    interface: u32,
    /// To the router's links.
    router: Netlink,
}

impl<'a> Plug<'a> {
    /// All that needs no VM: the host's routes to a VM that was admitted. `interface`: the number that its filters know;
    /// `on_host`: the number of the router's interface on the host; `router`: the router's network namespace, `here`: the
    /// host's, in which this process is. The calling thread, which enters the other for a moment, is the only one of its
    /// process and has rights over both.
    ///
    /// # Errors
    /// The step that failed.
    pub fn new(
        seat: &'a Seat,
        interface: u32,
        on_host: u32,
        router: BorrowedFd<'_>,
        here: BorrowedFd<'_>,
    ) -> Result<Self, Refused> {
        let at = |step| move |errno| Refused { step, errno };
        let mut link = Netlink::route().map_err(at("open the host's network"))?;
        ask(
            &mut link,
            "give the host a route to the VM",
            &[
                (link::route(Some(seat.v4.into()), Some(NEAR_HOST_V4.into()), on_host), true),
                (link::route(Some(seat.v6.into()), Some(NEAR_HOST_V6.into()), on_host), false),
            ],
        )?;
        let router = Netlink::route_of(router, here).map_err(at("enter the router's network"))?;
        Ok(Self { seat, interface, router })
    }

    /// Makes the link to the VM whose network namespace is `vm`, and the VM's address and routes. As [`Plug::new`].
    ///
    /// # Errors
    /// The step that failed.
    pub fn into(mut self, vm: BorrowedFd<'_>, here: BorrowedFd<'_>) -> Result<(), Refused> {
        let at = |step| move |errno| Refused { step, errno };
        let Self { seat, interface, .. } = self;
        let name = format!("{PREFIX}{interface}");
        let [near, far] = [ROUTER_END, VM_END].map(|end| hardware(end, interface));
        let ours = Side { name: &name, index: interface, up: true, hardware: Some(near) };
        // The kernel makes the other end first, and an interface without another end cannot be up.
        let theirs = Side { name: PEER, index: FIXED, up: false, hardware: Some(far) };
        ask(
            &mut self.router,
            "make a pair of interfaces (veth)",
            &[
                (link::pair(ours, theirs, vm, MTU_BYTES), true),
                (link::route(Some(seat.v4.into()), None, interface), true),
                (link::neighbour(interface, seat.v6.into(), far), false),
                (link::route(Some(seat.v6.into()), None, interface), false),
            ],
        )?;
        let mut link = Netlink::route_of(vm, here).map_err(at("enter the VM's network"))?;
        let [address4, address6] = both(seat.v4, seat.v6, ALONE);
        ask(
            &mut link,
            "give the VM its address",
            &[
                (link::up(FIXED), true),
                (link::address(FIXED, address4), true),
                (link::route(None, Some(ROUTER_V4.into()), FIXED), true),
                (link::address(FIXED, address6), false),
                (link::neighbour(FIXED, ROUTER_V6.into(), near), false),
                (link::route(None, Some(ROUTER_V6.into()), FIXED), false),
            ],
        )
    }
}

/// Takes the host's routes to a VM away. They are replaced or go with the router where nobody does.
pub fn unplug(seat: &Seat, on_host: u32) {
    let gone = [link::no_route(seat.v4.into(), on_host), link::no_route(seat.v6.into(), on_host)];
    let _already = Netlink::route().and_then(|mut link| link.ask_each(&gone));
}

/// Messages, and whether each is needed: a host without IPv6 has none for its VMs either.
fn ask(link: &mut Netlink, step: &'static str, messages: &[(Message, bool)]) -> Result<(), Refused> {
    let at = |errno| Refused { step, errno };
    let sent: Vec<Message> = messages.iter().map(|(message, _)| message.clone()).collect();
    let results = link.ask_each(&sent).map_err(at)?;
    for (result, (_, needed)) in results.into_iter().zip(messages) {
        match result {
            Err(errno) if *needed || !matches!(errno, Errno::OPNOTSUPP | Errno::ACCESS | Errno::AFNOSUPPORT) => {
                return Err(at(errno));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fvm_sys::process::{Namespaces, unshare};

    /// Each message acknowledged, this was more than the socket holds: an answer that was lost was waited for without end.
    #[test]
    fn root_a_thousand_vms_leave_at_once_and_another_comes() {
        let made = std::thread::spawn(|| {
            if !rustix::process::geteuid().is_root() {
                println!("skipped: a network namespace of its own needs root");
                return;
            }
            // Of this thread alone.
            unshare(Namespaces::NET).expect("a network namespace");
            let mut filter = Netlink::filter().expect("a packet filter");
            install(&mut filter).expect("its table");
            let mut filters = Filters::new(filter);
            let seat = |n: u16| {
                let [a, b] = n.to_be_bytes();
                [IpAddr::from([10, 207, a, b]), IpAddr::from([0xfd66, 0, 0, 0, 0, 0, 0, n])]
            };
            let reach = Reach::default();
            let all: Vec<Admitted> = (1..=1000)
                .map(|n| filters.admit(FIRST_NUMBER + u32::from(n), seat(n), &reach).expect("it is let in").0)
                .collect();
            filters.dismiss(&all);
            filters.admit(FIRST_NUMBER + 2000, seat(1), &reach).expect("the next is let in");
        });
        made.join().expect("the thread ended well");
    }
}
