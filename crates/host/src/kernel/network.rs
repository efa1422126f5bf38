//! Whether VMs can have networks of their own.

use super::Feature;
use fvm_model::policy::OWN_NETWORK;
use fvm_net::{host, uplink};
use rustix::fs::{self, Mode, OFlags};

/// What is missing for a VM of this user to have a network of its own, and what to do about it. Cheap: it is asked at every
/// start.
///
/// # Errors
/// What is missing, and what to do.
pub fn own_network(root: bool) -> Result<(), (String, String)> {
    if root {
        return host::possible().map_err(|e| {
            let advice = "sudo modprobe nf_tables (a container: --cap-add NET_ADMIN)";
            (format!("the packet filter nf_tables does not answer: {e}"), advice.to_owned())
        });
    }
    if uplink::find().is_none() {
        return Err(("no pasta, nor slirp4netns".into(), "sudo apt-get install passt (Fedora: passt)".into()));
    }
    fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop).map_err(|e| {
        let advice = "sudo chmod 0666 /dev/net/tun (it gives no rights over the host's network)";
        (format!("cannot open /dev/net/tun: {e}"), advice.to_owned())
    })
}

pub(super) fn feature(root: bool) -> Feature {
    let feature = Feature::enforced(OWN_NETWORK, "VMs with addresses of their own");
    match own_network(root) {
        Ok(()) => feature,
        Err((why, advice)) => feature.missing(why).advise(advice),
    }
}
