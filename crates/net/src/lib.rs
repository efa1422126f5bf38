//! A VM's network.
//!
//! ```text
//!   dns    fvm's own name server: which names a VM may look up, and what it learned
//! ```

pub mod dns;
