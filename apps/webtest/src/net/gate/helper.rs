//! The process that enters VMs' network namespaces: a user namespace can be joined by a process with one thread only, and a worker
//! has many.
//!
//! ```text
//!   worker ── "j" + reply, net, user ──► helper ── fork ──► joins user (not as root), net; routes; listener, tap
//!      ▲                                                          │
//!      └────────────────────────── reply: "+" + listener, tap ────┘   or "-" and why
//! ```
//!
//! Invariants: it has one thread and runs nothing of a VM; what it leaves in a namespace are sockets whose only holder is the worker;
//! it ends when the worker does.

use fvm_sys::process::{self, Fork};
use fvm_sys::{packet, socket};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::Duration;

/// Longest answer.
pub(super) const ANSWER_MAX_BYTES: usize = 512;

/// So often a port that is taken is tried.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// The helper: serves the worker whose socket is standard input, until that ends. For a process that has one thread: the first thing
/// that a program does when it is started as [`super::Helper`] says.
pub fn run() -> std::process::ExitCode {
    let worker = rustix::stdio::stdin();
    // A Ctrl-C is for the worker; what it still has to do needs this.
    let _leader = rustix::process::setsid();
    loop {
        let mut port = [0u8; 2];
        match socket::receive(worker, &mut port) {
            Ok((2, fds)) => answer(fds, u16::from_ne_bytes(port)),
            Ok(_) => return std::process::ExitCode::SUCCESS,
            Err(_) => return std::process::ExitCode::FAILURE,
        }
    }
}

fn answer(fds: Vec<OwnedFd>, port: u16) {
    let mut fds = fds.into_iter();
    let (Some(reply), Some(net)) = (fds.next(), fds.next()) else { return };
    let say = |result: Result<(OwnedFd, OwnedFd), String>| {
        // A worker that is gone needs no answer.
        let _gone = match result {
            Ok((listener, tap)) => socket::send(&reply, b"+", &[listener.as_fd(), tap.as_fd()]),
            Err(why) => {
                socket::send(&reply, &format!("-{why}").as_bytes()[..(why.len() + 1).min(ANSWER_MAX_BYTES)], &[])
            }
        };
    };
    match fds.next() {
        None => say(open(&net, port)),
        Some(user) => match process::fork() {
            Ok(Fork::Child) => {
                let entered = move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User));
                say(entered.map_err(|e| format!("join the VM's user namespace: {e}")).and_then(|()| open(&net, port)));
                process::exit_now(0);
            }
            Ok(Fork::Parent(child)) => drop(process::wait_blocking(child.as_raw_nonzero().get(), false)),
            Err(e) => say(Err(format!("start a process: {e}"))),
        },
    }
}

/// Enters a network namespace, for good or until the next, and opens what is needed in it.
fn open(net: &OwnedFd, port: u16) -> Result<(OwnedFd, OwnedFd), String> {
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| format!("join the VM's network namespace: {e}"))?;
    fvm_net::inward::turn().map_err(|refused| format!("{}: {}", refused.step, refused.errno))?;
    let tap = packet::tap().map_err(|e| match e {
        Errno::AFNOSUPPORT => "look at the VM's packets: this kernel has no packet sockets (CONFIG_PACKET)".to_owned(),
        e => format!("look at the VM's packets: {e}"),
    })?;
    let mut tries = 0;
    let listener = loop {
        match TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
            // A plug that was dropped just now is still being taken apart.
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_WAIT);
            }
            opened => break opened.map_err(|e| format!("listen at 127.0.0.1:{port} in the VM: {e}"))?,
        }
    };
    Ok((listener.into(), tap))
}
