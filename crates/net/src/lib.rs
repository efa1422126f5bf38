//! A VM's network.
//!
//! ```text
//!   dns       fvm's own name server: which names a VM may look up, and what it learned
//!   claim     rootless: a loopback address of the host for each VM
//!   uplink    rootless: the program through which a VM reaches the outside
//!   publish   rootless: connections to the host, carried on to the VM
//! ```

pub mod claim;
pub mod dns;
pub mod publish;
pub mod uplink;
