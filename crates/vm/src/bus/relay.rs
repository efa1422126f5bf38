//! The relay: the little that a policy lets programs ask of the host's desktop.
//!
//! ```text
//!   host's session bus ◄── as the host user ── relay ── as a client ──► the VM's session bus ◄── programs in the VM
//!                                               │ a process outside the VM: org.freedesktop.Notifications,
//!                                               │ org.freedesktop.portal.Desktop (crate::bus::desktop)
//!   keeper ── fork ──► relay                    └─ dies with the keeper
//!   init ── connects to its own listening socket before any program runs, and hands the connection out
//! ```
//!
//! The VM may end its bus, or be one itself: all that comes from there is checked, and answers only to what was asked.
//!
//! Invariants: nothing is forwarded; each call that is served makes a new one of its checked parts; no descriptor is
//! taken; the relay holds no descriptor but its two connections.

use super::desktop::{Notifications, OpenUri, label};
use crate::error::VmError;
use fvm_model::VmName;
use fvm_model::policy::Desktop;
use fvm_sys::process::{self, Fork};
use fvm_sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use zbus::connection::Builder;

/// The variable that names the host's session bus.
pub const HOST_BUS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// Longest time that the host may take for an answer.
const HOST_MAX: Duration = Duration::from_secs(10);
/// How long a VM's bus may take to know the relay.
const BUS_MAX_S: i64 = 3;
/// Longest complaint of a relay.
const COMPLAINT_MAX_BYTES: usize = 1024;

/// A relay that runs.
#[derive(Debug)]
pub struct Relay {
    process: Pid,
    socket: OwnedFd,
}

/// What a relay is for.
#[derive(Debug)]
pub struct Errand<'a> {
    /// The VM, as the user knows it.
    pub vm: &'a VmName,
    /// What is passed; not empty.
    pub pass: &'a [Desktop],
    /// The host's session bus.
    pub address: &'a str,
    /// Who init is, in the VM.
    pub inside: u32,
}

impl Relay {
    /// Starts it and waits until it has reached the host's bus. The calling process must have one thread.
    ///
    /// # Errors
    /// [`VmError::Desktop`] when it has not.
    pub fn start(errand: &Errand<'_>) -> Result<Self, VmError> {
        let fail = |why: String| VmError::Desktop { address: errand.address.to_owned(), why };
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| VmError::Sys("make a socket pair", e))?;
        let process = match process::fork().map_err(|e| VmError::Sys("start a relay", e))? {
            Fork::Parent(process) => process,
            Fork::Child => {
                // A panic must not run the keeper's code in this process.
                let served = std::panic::catch_unwind(|| serve(errand, &theirs));
                process::exit_now(i32::from(served.is_err()));
            }
        };
        drop(theirs);
        let relay = Self { process, socket };
        let mut text = [0u8; COMPLAINT_MAX_BYTES];
        match socket::receive(&relay.socket, &mut text) {
            Ok((2, _)) if &text[..2] == b"ok" => Ok(relay),
            Ok((len @ 1.., _)) => Err(fail(String::from_utf8_lossy(&text[..len]).into_owned())),
            _ => Err(fail("the relay ended".into())),
        }
    }

    /// Gives it its connection to the VM's bus, and waits until it is there under its names, so that the VM's first program
    /// finds it. `false`: it is not yet, after [`BUS_MAX_S`]; the bus is the VM's, which may be slow on purpose.
    ///
    /// # Errors
    /// When it has ended.
    pub fn connect(&self, vm: &OwnedFd) -> Result<bool, VmError> {
        use rustix::fd::AsFd;
        let sys = |e| VmError::Sys("reach the relay", e);
        socket::send(&self.socket, b"!", &[vm.as_fd()]).map_err(sys)?;
        let wait = rustix::time::Timespec { tv_sec: BUS_MAX_S, tv_nsec: 0 };
        let came = loop {
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&wait)) {
                Err(Errno::INTR) => {}
                other => break other.map_err(sys)?,
            }
        };
        Ok(came > 0 && matches!(socket::receive(&self.socket, &mut [0u8]), Ok((1, _))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _already_gone = rustix::process::kill_process(self.process, Signal::KILL);
        let _collected = process::wait_blocking(self.process.as_raw_nonzero().get(), false);
    }
}

fn serve(errand: &Errand<'_>, keeper: &OwnedFd) {
    let _cannot_fail = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let tell = |text: &str| {
        let bytes = &text.as_bytes()[..text.len().min(COMPLAINT_MAX_BYTES)];
        let _keeper_gone = socket::send(keeper, bytes, &[]);
    };
    // Not the host's terminal, nor the VM's lock.
    let quiet = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .and_then(|null| (0..3).try_for_each(|target| process::install_stdio(null.as_raw_fd(), target)));
    if let Err(e) = quiet {
        return tell(&format!("cannot open /dev/null: {e}"));
    }
    process::close_all_but(&[keeper.as_raw_fd()]);
    let host = match zbus::block_on(Builder::address(errand.address).method_timeout(HOST_MAX).build()) {
        Ok(host) => host,
        Err(e) => return tell(&e.to_string()),
    };
    tell("ok");
    let mut byte = [0u8];
    let Ok((1, mut fds)) = socket::receive(keeper, &mut byte) else { return };
    let Some(vm) = fds.pop() else { return };
    // An error is the VM's own doing: it has no bus, or a strange one.
    let _not_served = zbus::block_on(at_the_vms_bus(errand, host, vm.into(), || tell("!")));
}

async fn at_the_vms_bus(
    errand: &Errand<'_>,
    host: zbus::Connection,
    vm: UnixStream,
    served: impl Fn(),
) -> zbus::Result<()> {
    let mut builder = Builder::unix_stream(vm).user_id(errand.inside);
    let label = label(errand.vm.as_str());
    for pass in errand.pass {
        builder = match pass {
            Desktop::Notifications => builder
                .serve_at("/org/freedesktop/Notifications", Notifications::new(label.clone(), host.clone()))
                .name("org.freedesktop.Notifications"),
            Desktop::OpenUri => builder
                .serve_at("/org/freedesktop/portal/desktop", OpenUri::new(host.clone()))
                .name("org.freedesktop.portal.Desktop"),
        };
    }
    let vm = builder.build().await?;
    served();
    vm.closed().await;
    Ok(())
}
