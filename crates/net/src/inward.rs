//! A network namespace with a loopback only, in which every address is its own: what is sent to anywhere comes back, and meets
//! whatever listens in it, or a refusal by the kernel at once.
//!
//! ```text
//!   program ─► 203.0.113.9:443 ─► local 0.0.0.0/0 dev lo ─► a listener of the namespace, or: connection refused
//! ```
//!
//! Invariant: it makes no way out; there is none, and a route to the loopback leads to none.

use crate::link;
use crate::netlink::Netlink;
use crate::router::{LOOPBACK, Refused};
use rustix::io::Errno;

/// Makes all addresses this thread's network namespace's own, and sets its loopback up.
///
/// # Errors
/// The step that failed: `EPERM` without rights over the namespace.
pub fn turn() -> Result<(), Refused> {
    let at = |step| move |errno| Refused { step, errno };
    let mut socket = Netlink::route().map_err(at("open the VM's network"))?;
    socket.ask(&[link::up(LOOPBACK)]).map_err(at("set the VM's loopback up"))?;
    socket.ask(&[link::all_is_here(true, LOOPBACK)]).map_err(at("make all addresses the VM's own"))?;
    match socket.ask(&[link::all_is_here(false, LOOPBACK)]) {
        // A host without IPv6 has none for its VMs either.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::ACCESS | Errno::INVAL) => Ok(()),
        Err(errno) => Err(Refused { step: "make all IPv6 addresses the VM's own", errno }),
    }
}
