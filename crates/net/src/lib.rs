//! A VM's network.
//!
//! ```text
//!   filter    what a VM may reach (fvm_model::reach) in force, and its sets filled by name
//!   dns       fvm's own name server: which names a VM may look up, and what it learned
//!   netlink   messages to the kernel;  link: interfaces, addresses, routes;  nft: packet filters
//!
//!   router    the namespace between VM and host, one for each VM of an ordinary user's;  house: root's, one for many
//!   host      the host's side of root's                      uplink    the program that reaches the outside
//!   inward    a namespace from which nothing leaves, and where every address is its own
//!   near      which addresses are this machine's and its neighbours'
//!   claim     a loopback address for each VM                 publish   connections to it, carried on to the VM
//! ```
//!
//! Invariants: no program is started here; everything that comes from a VM is bounded; filters lie where the VM has no
//! rights.

pub mod claim;
pub mod dns;
pub mod filter;
pub mod host;
pub mod house;
pub mod inward;
mod link;
pub mod near;
pub mod netlink;
mod nft;
pub mod publish;
pub mod router;
pub mod uplink;
