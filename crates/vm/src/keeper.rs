//! The keeper: one process per running VM, outside it. Holds the VM's lock, its init and the control socket.
//!
//! ```text
//!   fvm run      the command itself is the keeper; the control socket is served by a thread beside it
//!   fvm start    a process of its own, without a terminal: crate::manager forks it
//! ```
//!
//! Invariants: it answers only its own user (the socket lies in a 0700 directory); when it dies, init dies; when
//! init dies, it gives the lock back and removes its socket.

use crate::error::VmError;
use crate::home::Home;
use crate::kept::Kept;
use crate::launch::Launched;
use crate::proto::{self, Info, Order, Reply, Request};
use crate::quota::Quota;
use crate::refresh;
use crate::router::Guard;
use fvm_model::{VmId, VmName};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};
use rustix::process::{PidfdFlags, Signal};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Longer than the grace that init gives, before the keeper stops waiting for it.
pub(crate) const STOP_MARGIN_MS: u64 = 2_000;

/// The control socket of a VM that is being started or runs; removed when dropped.
#[derive(Debug)]
pub struct Control {
    listener: OwnedFd,
    dir: OwnedFd,
    /// `None`: another process removes it.
    name: Option<String>,
}

impl Control {
    /// Opens the control socket of `id`, replacing a dead one. The caller holds the VM's lock.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(home: &Home, id: &VmId) -> Result<Self, VmError> {
        Self::named(home.run_dir(), format!("{id}.sock"))
    }

    /// The same, called `name` in `place`, of whatever has the lock that belongs to that.
    pub(crate) fn named(place: &Path, name: String) -> Result<Self, VmError> {
        let error = |e| VmError::sys("make a control socket in", place, e);
        let dir = open_dir(place).map_err(|e| VmError::sys("open", place, e))?;
        match fs::unlinkat(&dir, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(error(e)),
        }
        // Nobody waits for a client that is not there any more.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(error)?;
        bind(&listener, &address(&dir, &name).map_err(error)?).map_err(error)?;
        listen(&listener, 64).map_err(error)?;
        Ok(Self { listener, dir, name: Some(name) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Removed already, or swept by the next command.
        if let Some(name) = &self.name {
            let _gone = fs::unlinkat(&self.dir, name.as_str(), AtFlags::empty());
        }
    }
}

impl Control {
    /// Closes it here and lets it be: a process that was forked has it now.
    pub(crate) fn leave(mut self) {
        self.name = None;
    }

    /// What a process that was forked keeps open to have it.
    pub(crate) fn as_raw_fds(&self) -> [RawFd; 2] {
        [self.listener.as_raw_fd(), self.dir.as_raw_fd()]
    }

    /// Readable when somebody asks.
    #[must_use]
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn open_dir(place: &Path) -> Result<OwnedFd, Errno> {
    fs::open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Through the directory's descriptor, because a socket address holds only 107 bytes of path.
pub(crate) fn address(dir: &OwnedFd, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())))
}

/// Why a keeper does not only answer requests any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Init has ended.
    Ended,
    /// What else it waited for can be read.
    Readable,
    /// It is time.
    Due,
}

/// Answers requests until init ends, `also` becomes readable, or it is time; `due` is asked anew after each request.
///
/// # Errors
/// When waiting fails.
pub fn serve(
    control: &Control,
    vm: &Launched,
    kept: &Kept,
    also: Option<&OwnedFd>,
    due: impl Fn() -> Option<Instant>,
) -> Result<Woken, Errno> {
    loop {
        let look = vm.quota.as_ref().map(Quota::due);
        let left = due().into_iter().chain(look).min().map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.map(timespec);
        let mut polled = vec![PollFd::new(&vm.pidfd, PollFlags::IN), PollFd::new(&control.listener, PollFlags::IN)];
        polled.extend(also.map(|fd| PollFd::new(fd, PollFlags::IN)));
        let count = match poll(&mut polled, left.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        if ready[0] {
            return Ok(Woken::Ended);
        }
        if vm.quota.as_ref().is_some_and(Quota::is_passed) {
            end(vm)?;
            continue;
        }
        if count == 0 && due().is_some_and(|due| due <= Instant::now()) {
            return Ok(Woken::Due);
        }
        if ready.get(2).copied().unwrap_or(false) {
            return Ok(Woken::Readable);
        }
        if ready[1]
            && let Ok(client) = accept_with(&control.listener, SocketFlags::CLOEXEC)
        {
            answer(&client, vm, kept);
        }
    }
}

/// One request. A client that says nothing for a second, or nonsense, is dropped.
fn answer(client: &OwnedFd, vm: &Launched, kept: &Kept) {
    if let Some((request, fds)) = hear::<Request>(client) {
        reply(client, request, &fds, vm, kept);
    }
}

/// What a client asks, unless it says nothing for a second, or nonsense.
pub(crate) fn hear<T: serde::de::DeserializeOwned>(client: &OwnedFd) -> Option<(T, Vec<OwnedFd>)> {
    const LIMIT: Duration = Duration::from_secs(1);
    let limited = || rustix::net::sockopt::set_socket_timeout(client, rustix::net::sockopt::Timeout::Recv, Some(LIMIT));
    proto::read_message_alone::<T>(client, limited).ok().flatten()
}

/// Does what is asked, and says so.
pub(crate) fn reply(client: &OwnedFd, request: Request, fds: &[OwnedFd], vm: &Launched, kept: &Kept) {
    let done = |result: Result<(), Errno>| result.map_or_else(|e| Reply::Refused(e.to_string()), |()| Reply::Done);
    let mut pause = vm.pause.lock().unwrap_or_else(PoisonError::into_inner);
    let reply = match request {
        Request::Start(_) | Request::Service(_) | Request::Refresh if pause.now => {
            Reply::Refused("it is suspended: 'fvm resume' first".into())
        }
        Request::Suspend => pause.suspend(vm).map_or_else(Reply::Refused, |()| Reply::Done),
        Request::Settle if kept.settle() => Reply::Done,
        Request::Settle => Reply::Refused("its log's tracer does not answer".into()),
        Request::Resume => pause.resume(vm).map_or_else(Reply::Refused, |()| Reply::Done),
        Request::Info => Reply::Info(Info {
            keeper: rustix::process::getpid().as_raw_nonzero().get(),
            init: vm.init.as_raw_nonzero().get(),
            suspended: pause.now,
            address: vm.guard.as_ref().and_then(Guard::address),
        }),
        Request::Start(program) => {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            done(proto::write_message(&vm.orders, &Order::Start(program), &fds))
        }
        Request::Service(request) => {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            done(proto::write_message(&vm.orders, &Order::Service(request), &fds))
        }
        Request::Stop { grace_ms } => {
            // Asked to end, its programs must run to do so.
            let _it_ran = pause.resume(vm);
            drop(pause);
            let asked = proto::write_message(&vm.orders, &Order::Stop { grace_ms }, &[]);
            if asked.is_err() || !ends_within(vm, grace_ms.saturating_add(STOP_MARGIN_MS)) {
                done(end(vm))
            } else {
                Reply::Done
            }
        }
        Request::Kill => {
            drop(pause);
            done(end(vm))
        }
        Request::Configure(wanted) => {
            // The kernel may take its time, and the VM may be ended meanwhile.
            drop(pause);
            let done = kept.configure(&wanted, vm.init.as_raw_nonzero().get(), vm.quota.as_ref());
            done.map_or_else(|e| Reply::Refused(e.to_string()), |()| Reply::Done)
        }
        Request::Refresh => refresh::refresh(vm).map_or_else(Reply::Refused, |()| Reply::Done),
    };
    // A client that left does not need the answer.
    let _left = proto::write_message(client, &reply, &[]);
}

pub(crate) fn ends_within(vm: &Launched, wait_ms: u64) -> bool {
    has_ended(&vm.pidfd, wait_ms)
}

/// Waits for the end of a process as long as it takes.
pub(crate) fn await_end(pidfd: &OwnedFd) {
    has_ended(pidfd, u64::from(u32::MAX));
}

fn has_ended(pidfd: &OwnedFd, wait_ms: u64) -> bool {
    let timeout = timespec(Duration::from_millis(wait_ms));
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut polled, Some(&timeout)).is_ok_and(|n| n > 0)
}

pub(crate) fn timespec(time: Duration) -> rustix::time::Timespec {
    rustix::time::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// Ends init, and with it every process of the VM, and waits until it is gone.
///
/// # Errors
/// When the kernel refuses.
pub fn end(vm: &Launched) -> Result<(), Errno> {
    match rustix::process::pidfd_send_signal(&vm.pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(e) => return Err(e),
    }
    vm.pause.lock().unwrap_or_else(PoisonError::into_inner).let_go();
    ends_within(vm, u64::from(u32::MAX));
    Ok(())
}

/// A connection to the socket `name` in `place`.
pub(crate) fn dial(place: &Path, name: &str) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match SocketAddrUnix::new(place.join(name)) {
        Ok(address) => connect(&socket, &address)?,
        Err(_) => connect(&socket, &address(&open_dir(place)?, name)?)?,
    }
    Ok(socket)
}

/// Sends one request to the keeper of a VM.
///
/// # Errors
/// [`VmError::NotRunning`] when there is none, [`VmError::Keeper`] when it does not answer, [`VmError::Refused`].
pub fn ask(home: &Home, id: &VmId, name: &VmName, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, VmError> {
    let broken = |why: &dyn std::fmt::Display| VmError::Keeper { name: name.clone(), why: why.to_string() };
    let socket = match dial(home.run_dir(), &format!("{id}.sock")) {
        Ok(socket) => socket,
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(VmError::NotRunning(name.clone())),
        Err(e) => return Err(broken(&e)),
    };
    proto::write_message(&socket, request, fds).map_err(|e| broken(&e))?;
    match proto::await_answer(&socket).and_then(|()| proto::read_message_alone::<Reply>(&socket, || Ok(()))) {
        Ok(Some((Reply::Refused(why), _))) => Err(VmError::Refused { name: name.clone(), why }),
        Ok(Some((reply, _))) => Ok(reply),
        Ok(None) => Err(broken(&"it hung up")),
        Err(e) => Err(broken(&e)),
    }
}

/// A descriptor of a process, to wait for its end.
///
/// # Errors
/// The kernel's.
pub fn watch(pid: i32) -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_open(rustix::process::Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())
}
