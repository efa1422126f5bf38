//! One question of a VM, decided: answer it, forward it, or say no. No I/O.
//!
//! ```text
//!   bytes ─► Step::Answer(bytes) | Step::Ask(Question)         Question + bytes ─► Outcome
//! ```
//!
//! Invariant: bytes go back to the VM only after the gate learned the addresses in them.

use super::hosts::Hosts;
use super::message::{self, A, AAAA, Code, Query, Rejected};
use fvm_model::Name;
use std::net::IpAddr;
use std::time::Duration;

/// A VM may use an address for at least so long after it was answered: programs look up, wait, and then connect.
pub const HOLD_MIN: Duration = Duration::from_secs(60);
/// And no longer than that, whatever a name server says.
pub const HOLD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a name of the hosts file holds for the VM.
const HOSTS_TTL_S: u32 = 10;

/// What decides about names, and is told what they mean.
pub trait Gate {
    /// Whether the VM may look `name` up.
    fn allows(&self, name: &Name) -> bool;

    /// Whether `name` is one that the VM may not even reach as the alias of another.
    fn denies(&self, name: &Name) -> bool;

    /// Whether an address that a name has may be learned. A name must not open what is the host's own or nobody's: who
    /// rules a name can give it any address. So a gate says no to the host's addresses too.
    fn admits(&self, address: &IpAddr) -> bool {
        is_elsewhere(address)
    }

    /// `name`, which the VM may look up, has these addresses; they hold so long. Called before the VM knows.
    fn learned(&self, name: &Name, addresses: &[IpAddr], hold: Duration);
}

/// What a query leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This goes back.
    Answer(Vec<u8>),
    /// A name server must say.
    Ask(Question),
    /// Nothing.
    Drop,
}

/// A question that a name server must answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    query: Query,
    id: u16,
}

/// What a name server's bytes lead to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This goes back.
    Answer(Vec<u8>),
    /// The server cannot say: another may.
    TryNext,
    /// It is not the answer: go on waiting.
    NotIt,
}

/// Looks at a query. `id`: a number that nobody can guess. `over_udp`: long answers must be cut.
#[must_use]
pub fn begin(bytes: &[u8], id: u16, over_udp: bool, hosts: &Hosts, gate: &impl Gate) -> Step {
    let query = match Query::read(bytes) {
        Ok(query) => query,
        Err(Rejected::Silently) => return Step::Drop,
        Err(Rejected::With(reply)) => return Step::Answer(reply),
    };
    if gate.denies(&query.name) || !gate.allows(&query.name) {
        return Step::Answer(query.reply(Code::NoName, &[], 0));
    }
    let wanted = |address: &&IpAddr| match query.kind {
        A => address.is_ipv4(),
        AAAA => address.is_ipv6(),
        _ => false,
    };
    match hosts.get(&query.name) {
        Some(known) if matches!(query.kind, A | AAAA) => {
            let addresses: Vec<IpAddr> = known.iter().filter(wanted).copied().collect();
            teach(gate, &query.name, &addresses, HOLD_MIN);
            let reply = query.reply(Code::Done, &addresses, HOSTS_TTL_S);
            Step::Answer(if over_udp { query.fitted(reply) } else { reply })
        }
        _ => Step::Ask(Question { query, id }),
    }
}

impl Question {
    /// What to send to a name server.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.query.forwarded(self.id)
    }

    /// When no name server answered.
    #[must_use]
    pub fn failed(&self) -> Vec<u8> {
        self.query.reply(Code::Failed, &[], 0)
    }

    /// Looks at what a name server sent.
    #[must_use]
    pub fn answered(&self, bytes: Vec<u8>, over_udp: bool, gate: &impl Gate) -> Outcome {
        let Ok(answer) = message::read_answer(&bytes, self.id, &self.query) else { return Outcome::NotIt };
        if answer.failed {
            return Outcome::TryNext;
        }
        if answer.names.iter().any(|name| gate.denies(name)) {
            return Outcome::Answer(self.query.reply(Code::NoName, &[], 0));
        }
        let hold = Duration::from_secs(answer.ttl_s.into()).clamp(HOLD_MIN, HOLD_MAX);
        teach(gate, &self.query.name, &answer.addresses, hold);
        let passed_on = self.query.passed_on(bytes);
        Outcome::Answer(if over_udp { self.query.fitted(passed_on) } else { passed_on })
    }
}

/// Tells the gate about the addresses of the hosts file that the VM may use: programs in the VM read that file
/// themselves, without asking. `hold`: until this is said again.
pub fn announce(hosts: &Hosts, gate: &impl Gate, hold: Duration) {
    for (name, addresses) in hosts.iter() {
        if gate.allows(name) && !gate.denies(name) {
            teach(gate, name, addresses, hold);
        }
    }
}

fn teach(gate: &impl Gate, name: &Name, addresses: &[IpAddr], hold: Duration) {
    let admitted: Vec<IpAddr> = addresses.iter().copied().filter(|a| gate.admits(a)).collect();
    if !admitted.is_empty() {
        gate.learned(name, &admitted, hold);
    }
}

/// Whether `address` can be a machine somewhere else: not loopback, link-local (where clouds have their metadata),
/// unspecified, multicast, reserved, nor an IPv4 address in IPv6 clothes.
#[must_use]
pub fn is_elsewhere(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            !(first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            let plain = !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast());
            // ::/96 and ::ffff:0:0/96; fe80::/10 and the old fec0::/10.
            plain && v6.to_ipv4().is_none() && !(0xFE80..=0xFEFF).contains(&first)
        }
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
