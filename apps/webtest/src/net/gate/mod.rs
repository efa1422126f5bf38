//! The way out of VMs that have none: listeners in the VM, whose other side is here.
//!
//! ```text
//!   Gateway::plug(pid) ── helper: listener at 127.0.0.1:PORT, tap ──► Plugged
//!                                   │                        │
//!                                   └─► proxy (async task)   └─► foreign()
//! ```
//!
//! Who stops here stays here: the VM's only interface is a loopback that calls every address its own, so a connection to anything but
//! the proxy meets nobody and is refused by the VM's own kernel; the tap sees it.
//!
//! Invariants: no thread of the worker ever changes its namespace; a plug's listener, connections and tunnels end when it is dropped.

pub mod helper;
pub mod tap;

use super::proxy::{Client, Limits, Way, serve};
use super::{Gate, GateError, Plug};
use crate::model::Foreign;
use fvm_sys::{packet, socket};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

/// Where the proxy is in every VM, unless something else is asked for.
pub const PROXY_PORT: u16 = 3128;

/// So often an ordinary user tries to look at a process that has only just been made.
const CLOSED_TRIES: u32 = 200;
const CLOSED_WAIT: Duration = Duration::from_millis(1);

/// How the helper is started: a program, and arguments by which it knows to call [`helper::run`] before anything else.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The program; mostly the own one, `/proc/self/exe`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// How VMs go out.
#[derive(Debug)]
pub struct Options {
    /// Where the proxy is in each VM.
    pub port: u16,
    /// What one VM may do.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self { port: PROXY_PORT, limits: Limits::default() }
    }
}

/// The way out of all VMs of a worker.
#[derive(Debug)]
pub struct Gateway {
    runtime: Runtime,
    way: Arc<Way>,
    options: Options,
    /// Descriptors travel in one message each: one sender at a time.
    orders: Mutex<OwnedFd>,
    helper: Child,
    is_root: bool,
}

fn failed(what: &str) -> impl Fn(Errno) -> GateError {
    move |e| GateError { what: what.to_owned(), why: e.to_string() }
}

impl Gateway {
    /// Starts the helper.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(helper: &Helper, way: Way, options: Options) -> Result<Self, GateError> {
        let starting = "start the gate's helper";
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed("make a socket pair"))?;
        let started = Command::new(&helper.program)
            .args(&helper.args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let helper = started
            .map_err(|e| GateError { what: starting.into(), why: format!("{}: {e}", helper.program.display()) })?;
        let runtime = super::runtime()?;
        let is_root = rustix::process::geteuid().is_root();
        Ok(Self { runtime, way: Arc::new(way), options, orders: Mutex::new(ours), helper, is_root })
    }

    /// How bytes go out.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Listener and tap in the namespaces of process `pid`.
    fn enter(&self, pid: u32) -> Result<(TcpListener, OwnedFd), GateError> {
        let what = || format!("connect the VM of process {pid}");
        let namespace = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            let mut tries = 0;
            let opened = loop {
                match open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                    // Until a program has taken its place, it is a copy of the VM's init, into which nobody may look.
                    Err(Errno::ACCESS) if !self.is_root && tries < CLOSED_TRIES => {
                        tries += 1;
                        std::thread::sleep(CLOSED_WAIT);
                    }
                    result => break result,
                }
            };
            opened.map_err(|e| {
                let hint = match e {
                    Errno::NOENT => "it has ended",
                    Errno::ACCESS | Errno::PERM => {
                        "it belongs to somebody else, or is the VM's init: name a program in the VM"
                    }
                    _ => "is /proc mounted?",
                };
                GateError { what: what(), why: format!("{path}: {e}: {hint}") }
            })
        };
        let net = namespace("net")?;
        let ours = rustix::fs::stat("/proc/self/ns/net").map_err(failed("find this process's network"))?;
        let its = rustix::fs::fstat(&net).map_err(failed("look at the VM's network"))?;
        if (ours.st_dev, ours.st_ino) == (its.st_dev, its.st_ino) {
            let why = "it has this machine's network: the VM must be one without (`--net none`)".into();
            return Err(GateError { what: what(), why });
        }
        // Root may enter any network as it is.
        let user = if self.is_root { None } else { Some(namespace("user")?) };
        let (reply, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed("make a socket pair"))?;
        let mut fds = vec![theirs.as_fd(), net.as_fd()];
        fds.extend(user.as_ref().map(AsFd::as_fd));
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = socket::send(&*orders, &self.options.port.to_ne_bytes(), &fds);
        drop(orders);
        sent.map_err(|e| GateError { what: what(), why: format!("the gate's helper is gone: {e}") })?;
        drop(theirs);
        let mut said = [0u8; helper::ANSWER_MAX_BYTES];
        let (length, fds) = socket::receive(&reply, &mut said).map_err(failed("hear of the VM's network"))?;
        let mut fds = fds.into_iter();
        match (said[..length].split_first(), fds.next(), fds.next()) {
            (Some((b'+', [])), Some(listener), Some(tap)) => Ok((TcpListener::from(listener), tap)),
            (Some((_, why)), ..) => Err(GateError { what: what(), why: String::from_utf8_lossy(why).into_owned() }),
            (None, ..) => Err(GateError { what: what(), why: "the gate's helper ended".into() }),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It ends at once: it holds nothing, and what is being opened is for nobody.
        drop(self.helper.kill());
        drop(self.helper.wait());
    }
}

impl Gate for Gateway {
    fn plug(&self, pid: u32) -> Result<Box<dyn Plug>, GateError> {
        let (listener, tap) = self.enter(pid)?;
        let to_async = |e: std::io::Error| GateError { what: "serve the VM's proxy".into(), why: e.to_string() };
        listener.set_nonblocking(true).map_err(to_async)?;
        let client = Arc::new(Client::new(Arc::clone(&self.way), self.options.limits.clone()));
        let _inside = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).map_err(to_async)?;
        #[expect(deprecated, reason = "an OwnedFd stays open until it is deregistered; the other name is unsafe")]
        let tap = AsyncFd::with_interest(tap, Interest::READABLE)
            .map_err(|e| GateError { what: "watch the VM's packets".into(), why: e.to_string() })?;
        let seen = Arc::new(Seen { tap, list: Mutex::default() });
        let task = self.runtime.spawn(serve(listener, Arc::clone(&client)));
        let watch = self.runtime.spawn(watch(Arc::clone(&seen)));
        Ok(Box::new(Plugged {
            port: self.options.port,
            client,
            seen,
            runtime: self.runtime.handle().clone(),
            tasks: [task, watch],
        }))
    }
}

/// What was seen of a VM's packets.
#[derive(Debug)]
struct Seen {
    tap: AsyncFd<OwnedFd>,
    list: Mutex<Vec<Foreign>>,
}

impl Seen {
    /// Reads what there is.
    fn drain(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packet = [0u8; packet::SNAP_BYTES as usize];
        while let Ok((length, _)) = recv(self.tap.get_ref(), &mut packet[..], RecvFlags::DONTWAIT) {
            if let Some(foreign) = tap::read(&packet[..length.min(packet.len())]) {
                tap::note(&mut list, foreign);
            }
        }
    }
}

/// Keeps the kernel's queue of packets from overflowing, in steps.
async fn watch(seen: Arc<Seen>) {
    while let Ok(mut ready) = seen.tap.readable().await {
        seen.drain();
        ready.clear_ready();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Plugged {
    port: u16,
    client: Arc<Client>,
    seen: Arc<Seen>,
    runtime: Handle,
    tasks: [JoinHandle<()>; 2],
}

impl Plug for Plugged {
    fn proxy(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn keys(&self) -> Vec<String> {
        self.client.way.keys()
    }

    fn foreign(&self) -> Vec<Foreign> {
        self.seen.drain();
        self.seen.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refused(&self) -> Vec<(String, String)> {
        self.client.refused()
    }

    fn odd(&self) -> Vec<Foreign> {
        self.client.odd()
    }

    fn exit(&self) -> Option<String> {
        self.client.exit.as_ref().map(ToString::to_string)
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // The kernel takes tens of milliseconds to close a tap: nobody waits for that, and no connection.
        let seen = Arc::clone(&self.seen);
        self.runtime.spawn_blocking(move || {
            const TRIES: u32 = 1_000;
            let is_last = |_: &u32| Arc::strong_count(&seen) == 1;
            let _others_are_gone = (0..TRIES).find(|n| {
                is_last(n) || {
                    std::thread::sleep(Duration::from_millis(1));
                    false
                }
            });
        });
    }
}
