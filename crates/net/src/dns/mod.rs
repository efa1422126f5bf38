//! fvm's own name server for VMs: it forwards what the VM may ask, and says which addresses it answered.
//!
//! ```text
//!   VM ──udp, tcp──► serve ── query ──► Gate: may it? ── no ──► NXDOMAIN
//!                      │                                 yes
//!                      ├──► /etc/hosts of the host ──────────┐
//!                      └──► the host's name servers ─────────┤
//!   VM ◄── the answer ◄────── Gate::learned(addresses) ◄─────┘
//!
//!   hosts     /etc/hosts and /etc/resolv.conf as text   host     the two as files, read again when they change
//!   message   queries and answers as bytes              serve    sockets and time
//!   exchange  one question, decided; does no I/O
//! ```
//!
//! Invariants: what comes from the VM is hostile and what comes from the network is not much better: both are read in
//! bounded time and memory, without recursion. The host's name servers get only what fvm itself wrote: of the VM's
//! query no more than one name, one type and three flags. [`Gate::learned`] has returned before the VM sees an answer,
//! so the address can be reached when the VM uses it. Of an answer count only the addresses that belong to the name that
//! was asked, over its aliases. No name is allowed by being another's alias longer than that one answer.

pub mod exchange;
pub mod host;
pub mod hosts;
pub mod message;
pub mod serve;

pub use exchange::{Gate, HOLD_MAX, HOLD_MIN};
pub use fvm_model::{Name, NamePattern};
pub use host::HostFiles;
pub use serve::{Client, Clients, Server, Stop};
