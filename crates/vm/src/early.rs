//! What init has ready before its VM is there.
//!
//! ```text
//!   builder   mounts ...................... go ─┐ stays until the first program is on its way
//!   init      network, then this, waits ........└─► Early::ahead ─ its own mounts, /proc, pivot_root ─ tells it ─► filter
//!   the first program's process                        └─► filter, stub, waits ........................└─► the program
//! ```
//!
//! Invariants: nothing here is of the VM's: no file of it is looked at. A process that waits is told what it is to become only when the VM
//! is there, and the host's tree is gone from it; before, it touches nothing but the stub.

use crate::proto::{self, Order};
use crate::session::{self, Child};
use fvm_sys::exec::Stub;
use fvm_sys::process;
use fvm_sys::processors;
use fvm_sys::seccomp::Instruction;
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;

/// See the module.
#[derive(Debug)]
pub struct Early {
    /// Readable when a child has ended.
    pub signals: OwnedFd,
    /// By which programs are executed; made anew for each when it could not be made.
    pub stub: Option<Stub>,
    /// The order that lay there, with its descriptors.
    pub first: Option<(Order, Vec<OwnedFd>)>,
    /// What is to be told to a process that waits for that order's program; `None`: none can.
    image: Option<Vec<u8>>,
    /// That process.
    pub ahead: Option<Ahead>,
    /// The processors that whoever forked the builder had, where that has nothing to do any more.
    pub processors: Option<CpuSet>,
    /// While it is open the builder stays.
    pub builder: Option<OwnedFd>,
}

/// A process that waits for the first program.
#[derive(Debug)]
pub struct Ahead {
    child: Child,
    image: Vec<u8>,
}

impl Ahead {
    /// Has it become its program, with these streams. `None`: it became nothing, and is gone. Dropped instead, it ends, too.
    pub fn tell(self, streams: [&OwnedFd; 3]) -> Option<Child> {
        let Self { child, image } = self;
        let told = child.report.as_ref().map(|to| fvm_sys::socket::send(to, &image, &streams.map(AsFd::as_fd)));
        if let Some(Ok(())) = told {
            return Some(child);
        }
        let _already_gone = process::kill(child.pid, Signal::KILL.as_raw());
        let _collected = process::wait_blocking(child.pid, false);
        None
    }
}

impl Early {
    /// Makes the calling process init's: no terminal of the host's, whatever the keeper's session was, and the default signal
    /// actions, which all that it starts inherits. `has_first`: an order lies in `orders`. `can_wait`: [`Early::ahead`] will be asked for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prepare(orders: &OwnedFd, has_first: bool, can_wait: bool) -> Result<Self, Errno> {
        let _already_leader = rustix::process::setsid();
        process::default_signals();
        let signals = process::signal_fd(&[Signal::CHILD.as_raw()])?;
        let first = if has_first { proto::read_message(orders)? } else { None };
        let image = match &first {
            Some((Order::Start(program), _)) if can_wait => session::whole_message(program),
            _ => None,
        };
        Ok(Self { signals, stub: Stub::new().ok(), first, image, ahead: None, processors: None, builder: None })
    }

    /// Has the process of the first program wait for it, if it can. From here on this process changes nothing that programs inherit but by
    /// `filter`.
    pub fn ahead(&mut self, filter: Option<Vec<Instruction>>) {
        if let (Some(stub), Some(filter), Some(image)) = (&self.stub, filter, self.image.take()) {
            // Without it, it is started as any other.
            self.ahead = session::wait_ahead(stub, filter).ok().map(|child| Ahead { child, image });
        }
        if let (Some(Ahead { child, .. }), Some(own)) = (&self.ahead, &self.processors)
            && let Some(pid) = Pid::from_raw(child.pid)
        {
            // This one has half as much to do as that.
            let _as_the_kernel_has_it = processors::begin_elsewhere(pid, own);
        }
    }

    /// What must stay open.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> {
        let ahead = self.ahead.iter().filter_map(|ahead| ahead.child.report.as_ref());
        let passed =
            self.first.iter().flat_map(|(_, fds)| fds).chain(&self.builder).chain(ahead).map(AsRawFd::as_raw_fd);
        passed.chain(self.stub.as_ref().map(AsRawFd::as_raw_fd)).chain([self.signals.as_raw_fd()])
    }
}
