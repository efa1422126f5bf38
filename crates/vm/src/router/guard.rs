//! What holds the network of an ordinary user's VM, and serves it.
//!
//! ```text
//!   whoever makes the router ── namespace, filters, name server's sockets ──► guard ── "+", "+notice" or "-why" ──►
//! ```
//!
//! Invariants: it is process 1 of its process namespace, root in R and nobody outside, in the host's network; it dies with
//! the keeper, and with it all that it started.

use super::connect;
use crate::executor::StepError;
use crate::launch::{Ends, Progress, die_with_parent};
use fvm_model::Reach;
use fvm_net::dns::{Clients, HostFiles, Server};
use fvm_net::filter::Sets;
use fvm_net::netlink::Netlink;
use fvm_net::publish::{self, Port};
use fvm_net::router::Router;
use fvm_net::uplink::Uplink;
use fvm_sys::process::{self, Namespaces};
use fvm_sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

/// What the processes that make and hold a network are called: what the keeper was told is nobody else's business.
pub(super) const TITLE: &str = "fvm: network";

/// What passes through the router, and how.
pub(super) struct Ways {
    /// What the VM may reach.
    pub reach: Reach,
    /// What carries it out.
    pub uplink: Uplink,
    /// What is published.
    pub ports: Vec<Port>,
}

/// Gives the guard what it needs. `netns`: the router's namespace.
pub(super) fn hand_over(guard: &OwnedFd, netns: &OwnedFd, router: &Router) -> Result<(), Errno> {
    let Router { udp, tcp, filter } = router;
    let mut fds = vec![netns.as_fd(), filter.as_fd()];
    fds.extend(udp.iter().map(AsFd::as_fd).chain(tcp.iter().map(AsFd::as_fd)));
    socket::send(guard, b"!", &fds)
}

/// Waits until packets pass.
pub(super) fn await_ready(guard: &OwnedFd, ends: &Ends) -> Result<(), StepError> {
    let failed = |why: String| StepError { step: "connect the VM's network".into(), why };
    let mut said = vec![0u8; 4096];
    let (length, _) = socket::receive(guard, &mut said).map_err(|e| failed(format!("cannot reach the guard: {e}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match said[..length].split_first() {
        Some((b'+', [])) => Ok(()),
        Some((b'+', notice)) => {
            ends.tell(&Progress::Notice(text(notice)));
            Ok(())
        }
        Some((_, why)) => Err(failed(text(why))),
        None => Err(failed("the guard died".into())),
    }
}

/// Keeps nothing of whoever called fvm but the descriptors `kept`: no terminal, no streams.
pub(super) fn leave_caller(kept: &[i32]) {
    // A Ctrl-C is for the program, not for its network.
    let _leader = rustix::process::setsid();
    process::unblock_all_signals();
    process::close_all_but(kept);
    if let Ok(null) = fs::open("/dev/null", OFlags::RDWR, FileMode::empty()) {
        for target in 0..3 {
            let _still_open = process::install_stdio(null.as_raw_fd(), target);
        }
    }
}

/// The guard. `maker`: the socket to whoever makes the router. `keeper`: one whose other end only the keeper has.
pub(super) fn hold(maker: &OwnedFd, keeper: &OwnedFd, ways: Ways) -> ! {
    let Ways { reach, uplink, ports } = ways;
    die_with_parent();
    // A keeper that died before that does not end this process, whose namespace hides who its parent is.
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polled = [PollFd::new(keeper, PollFlags::empty())];
    if poll(&mut polled, Some(&now)) != Ok(0) {
        process::exit_now(1);
    }
    let kept: Vec<_> = ports.iter().map(|p| p.listener.as_raw_fd()).chain([maker.as_raw_fd()]).collect();
    leave_caller(&kept);
    let Ok((1.., fds)) = socket::receive(maker, &mut [0u8]) else { process::exit_now(1) };
    let mut fds = fds.into_iter();
    let (Some(netns), Some(filter)) = (fds.next(), fds.next()) else { process::exit_now(1) };
    let mut sockets: Vec<OwnedFd> = fds.collect();
    let tcp: Vec<TcpListener> = sockets.split_off(sockets.len() / 2).into_iter().map(Into::into).collect();
    let udp: Vec<UdpSocket> = sockets.into_iter().map(Into::into).collect();
    let answer = carry_out(&uplink, &netns);
    if socket::send(maker, answer.as_bytes(), &[]).is_err() || answer.starts_with('-') {
        process::exit_now(1);
    }
    // Nobody ends these: they end with this process.
    let Ok((stop, _held)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else { process::exit_now(1) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let clients = Arc::new(Clients::one(Sets::new(reach, Netlink::from(filter))));
            Server { udp, tcp, files: HostFiles::default(), clients }.run(&stop)
        });
        scope.spawn(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            publish::run(&ports, &stop).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        });
        // What is orphaned in here is collected here.
        loop {
            if process::wait_blocking(-1, false).is_err() {
                std::thread::park();
            }
        }
    })
}

/// Gives the router's network a name by which this process's children can open it: in their own mounts, where nobody else
/// sees it, and without a process that they would have to look into.
fn name_network(netns: &OwnedFd) -> Result<&'static str, Errno> {
    const DIR: &str = "/tmp";
    const NAME: &str = "/tmp/router";
    process::unshare(Namespaces::MOUNT)?;
    mount(c"none", DIR, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"mode=755")?;
    drop(fs::open(NAME, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, FileMode::RUSR)?);
    mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), NAME)?;
    Ok(NAME)
}

/// Starts the uplink; the guard's answer.
pub(super) fn carry_out(uplink: &Uplink, netns: &OwnedFd) -> String {
    let connected = name_network(netns)
        .map_err(|e| format!("cannot name the router's network: {e}"))
        .and_then(|name| connect::connect(uplink, name));
    match connected {
        Ok(()) => "+".to_owned(),
        Err(why) if why.contains("External interface not usable") => {
            format!("+the host has no way out, and the VM has none either: {}: {}", uplink.name(), why.trim())
        }
        Err(why) => format!("-{}: {}", uplink.name(), why.trim()),
    }
}
