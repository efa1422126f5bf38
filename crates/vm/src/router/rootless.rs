//! How an ordinary user's VM gets its router.
//!
//! ```text
//!   keeper ─clone(user)─► builder: root of R                  all others are children of the keeper, too
//!     │                     ├─clone(pid)──► guard: R's root, host's network ── pasta, name server, published ports
//!     │                     ├─clone(user net ...)──► init: the VM, its user namespace a child of R
//!     │                     ├─ unshare(net): the router namespace; filters, pair of interfaces
//!     │                     └─ sockets ─► guard ─► "ready" ─► init may go on; builder ends
//!     └─ keeps the guard's pid: ends it after init
//! ```
//!
//! Invariant: R maps its root to the user, so nothing in it is anybody else's.

use super::{Routed, failed, guard, refused, step};
use crate::executor::{Site, StepError};
use crate::launch::{
    Ends, Entry, Maps, Net, Progress, admit, build_rootless, die_with_parent, enter_limits, hide_command, write_maps,
};
use fvm_net::router;
use fvm_sys::process::{self, Fork, Namespaces};
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Starts builder, guard and init. In the keeper; as the other `start_*` of [`crate::launch`].
pub(crate) fn start(mut site: Site, entry: &Entry<'_>, ends: Ends, routed: Routed) -> Result<Option<Pid>, Errno> {
    let (go, went) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match process::clone_into(Namespaces::USER, false)? {
        Fork::Parent(builder) => {
            drop(go);
            // Root in there, for pasta is at home so; nobody but us outside.
            let maps = Maps { uid: [0, entry.maps.uid[1], 1], gid: [0, entry.maps.gid[1], 1] };
            match write_maps(builder, &maps, true) {
                Ok(()) => drop(rustix::io::write(&went, b"!")?),
                Err(e) => ends.tell(&failed("map the router's ids", e)),
            }
            Ok(Some(builder))
        }
        Fork::Child => {
            drop(went);
            if rustix::io::read(&go, &mut [0u8][..]) != Ok(1) {
                process::exit_now(1);
            }
            die_with_parent();
            hide_command(guard::TITLE);
            let ports = routed.ports.iter().map(|port| port.listener.as_raw_fd()).chain([routed.claim.as_raw_fd()]);
            let ports = ports.chain(site.gate.as_ref().map(AsRawFd::as_raw_fd));
            let kept: Vec<_> = ports.chain(ends.as_raw_fds()).collect();
            process::close_all_but(&kept);
            if let Err(error) = build(&mut site, entry, &ends, routed) {
                ends.give_up(error);
            }
            process::exit_now(0)
        }
    }
}

fn build(site: &mut Site, entry: &Entry<'_>, ends: &Ends, routed: Routed) -> Result<(), StepError> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(step("make a pipe"));
    let ((go, went), (network, networked)) = (pipe()?, pipe()?);
    let init = match process::clone_into(entry.namespaces.and(Namespaces::MOUNT), true)
        .map_err(step("make the namespaces"))?
    {
        Fork::Parent(init) => init,
        Fork::Child => {
            drop((went, networked));
            if rustix::io::read(&go, &mut [0u8][..]) != Ok(1) {
                process::exit_now(1);
            }
            hide_command("fvm: init");
            enter_limits(site, ends);
            process::close_all_but(&[&ends.as_raw_fds()[..], &[network.as_raw_fd()]].concat());
            build_rootless(site, entry, ends, Net::ToCome(network))
        }
    };
    ends.tell(&Progress::Init(init.as_raw_nonzero().get()));
    drop((go, network));
    let maps = Maps { uid: [entry.maps.uid[0], 0, 1], gid: [entry.maps.gid[0], 0, 1] };
    write_maps(init, &maps, true).map_err(step("map the VM's ids"))?;
    admit(site, init)?;
    let open = |path: String| fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty());
    let vm = open(format!("/proc/{}/ns/net", init.as_raw_nonzero())).map_err(step("open the VM's network"))?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(step("make a socket pair"))?;
    let Routed { reach, uplink, ports, .. } = routed;
    let said = guard::Ways { reach: reach.clone(), uplink, ports };
    match process::clone_into(Namespaces::PID, true).map_err(step("make the router's process namespace"))? {
        Fork::Parent(guard) => ends.tell(&Progress::Guard(guard.as_raw_nonzero().get())),
        Fork::Child => guard::hold(&theirs, &ends.report, said),
    }
    drop((theirs, said));
    rustix::io::write(&went, b"!").map_err(step("start init"))?;

    process::unshare(Namespaces::NET).map_err(step("make a network namespace"))?;
    let router = router::build(&reach, vm.as_fd()).map_err(refused)?;
    let own = open("/proc/self/ns/net".into()).map_err(step("open the router's network"))?;
    guard::hand_over(&ours, &own, &router).map_err(step("reach the guard"))?;
    move_into_link_name_space(vm.as_fd(), Some(LinkNameSpaceType::Network)).map_err(step("enter the VM's network"))?;
    router::join().map_err(refused)?;
    guard::await_ready(&ours, ends)?;
    rustix::io::write(&networked, b"!").map_err(step("start init"))?;
    Ok(())
}
