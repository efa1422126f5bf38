//! `fvm serve`: the commands for other programs, as lines of JSON over a unix socket (`docs/spec/serve.md`).
//!
//! ```text
//!   server ── accept, who is it? ── fork ──► connection ── fork ──► request: what `fvm COMMAND --json` does
//!     │ PATH.lock, PATH                        │ reads, writes         │ one thread: may build VMs
//!     ▼ SIGTERM                                ▼ SIGTERM               ▼ SIGTERM
//!   waits for all ◄─────────────────────────── waits for all ◄──────── ends
//! ```
//!
//! ```text
//!   protocol    lines → requests, answers → lines      arguments   method and parameters → command line
//!   connection  one client                             request     one request
//! ```
//!
//! Processes and no threads, because a process that builds a VM must have one thread; and because what goes wrong in one goes wrong
//! in nobody else's.
//!
//! Invariants: the socket is its owner's alone, and no process of a VM is served, whatever way it found to the socket; a process
//! of this server dies with the one that started it; there is one server for each socket.

mod arguments;
mod connection;
pub mod protocol;
pub(crate) mod request;

pub use arguments::command_line;

use crate::Done;
use crate::args::Serve;
use crate::failure::Failure;
use crate::output::Output;
use fvm::model::exit;
use fvm::{Birth, Fvm, FvmError, Interrupts, Offspring, socket};
use protocol::Answer;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Signal, geteuid, umask};
use rustix::time::Timespec;
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// As many clients are served at once.
const CLIENTS_MAX: usize = 64;
/// Connections have a little more time to end than what they run.
const GRACE: Duration = Duration::from_millis(12_000);

/// `fvm serve`: until it is interrupted.
pub fn serve(fvm: &Fvm, out: &Output, args: &Serve) -> Done {
    let path = place(fvm, args)?;
    let mut interrupts = Interrupts::hold();
    let socket = Socket::open(path)?;
    let home = fvm.home().state_dir();
    out.say(&format!("serving at {}", socket.path.display()));
    let mut clients: Vec<Offspring> = Vec::new();
    loop {
        let has_room = clients.len() < CLIENTS_MAX;
        let [is_asked, is_interrupted] =
            wait(Some(&socket.listener).filter(|_| has_room), &interrupts, &clients, None)?;
        clients.retain_mut(|client| client.collect().is_none());
        if is_interrupted && interrupts.heard() {
            break;
        }
        if is_asked {
            match accept_with(&socket.listener, SocketFlags::CLOEXEC) {
                Ok(client) => clients.extend(begin(&client, home)),
                // Who asked is gone, or there is no descriptor left: the next who ends has one.
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(e) => return Err(Failure::new(format!("cannot take clients: {e}"), "start it again")),
            }
        }
    }
    socket.close();
    end(&mut interrupts, clients);
    out.say("ended");
    Ok(exit::DONE)
}

/// Where the socket is to be, in a directory that is there.
fn place(fvm: &Fvm, args: &Serve) -> Result<PathBuf, Failure> {
    let failed = |path: &Path, e: &dyn std::fmt::Display| {
        Failure::new(format!("cannot use '{}': {e}", path.display()), "give another --socket PATH")
    };
    match &args.socket {
        Some(path) => std::path::absolute(path).map_err(|e| failed(path, &e)),
        None => {
            let dir = fvm.home().run_dir();
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed(dir, &e))?;
            Ok(dir.join("serve.sock"))
        }
    }
}

/// The socket, and the lock that says whose it is.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
    _lock: File,
}

impl Socket {
    fn open(path: PathBuf) -> Result<Self, Failure> {
        let failed = |e: &dyn std::fmt::Display| {
            Failure::new(format!("cannot serve at '{}': {e}", path.display()), "give another --socket PATH")
        };
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = File::from(rustix::fs::open(lock_path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(&e))?);
        let taken = || {
            Failure::new(
                format!("another 'fvm serve' serves at '{}'", path.display()),
                "use that one, or give another --socket PATH",
            )
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken()),
            Err(TryLockError::Error(e)) => return Err(failed(&e)),
        }
        match path.symlink_metadata() {
            // What a server left that was killed: nobody listens there.
            Ok(found) if found.file_type().is_socket() => match UnixStream::connect(&path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(&path).map_err(|e| failed(&e))?;
                }
                _ => return Err(failed(&"something else listens there")),
            },
            Ok(_) => return Err(failed(&"it is there, and no socket")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&e)),
        }
        // Never anybody else's, not even for a moment.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = UnixListener::bind(&path);
        umask(before);
        let listener = bound.map_err(|e| failed(&e))?;
        listener.set_nonblocking(true).map_err(|e| failed(&e))?;
        Ok(Self { path, listener, _lock: lock })
    }

    fn close(self) {
        // Who connects from now on is refused; the lock is still held.
        let _somebody_removed_it = std::fs::remove_file(&self.path);
    }
}

/// Waits; whether a client is there, and whether we are interrupted.
fn wait(
    listener: Option<&UnixListener>,
    interrupts: &Interrupts,
    clients: &[Offspring],
    until: Option<Instant>,
) -> Result<[bool; 2], Failure> {
    let Some(signals) = interrupts.as_fd() else {
        return Err(Failure::new("there are no more descriptors", "close some"));
    };
    let mut polled = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
    polled.extend(clients.iter().map(|client| PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN)));
    let own = polled.len();
    polled.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| rustix::time::Timespec::try_from(left).ok());
    match poll(&mut polled, left.as_ref()) {
        Ok(_) => Ok([polled.get(own).is_some_and(|fd| !fd.revents().is_empty()), !polled[0].revents().is_empty()]),
        Err(Errno::INTR) => Ok([false; 2]),
        Err(e) => Err(Failure::new(format!("cannot wait: {e}"), "start it again")),
    }
}

/// Serves a client, if it may be.
fn begin(client: &OwnedFd, home: &Path) -> Option<Offspring> {
    let birth = Birth {
        title: "fvm: connection",
        streams: [None; 3],
        keep: &[client.as_raw_fd()],
        // It ends what it runs.
        orphaned: Signal::TERM,
    };
    let begun = is_welcome(client).and_then(|()| {
        let started = Offspring::start(&birth, || connection::serve(client, home));
        started.map_err(|e| Failure::from(FvmError::from(e)))
    });
    match begun {
        Ok(served) => Some(served),
        Err(failure) => {
            let line = Answer::refused(failure.code(), failure.text(), failure.hint()).line(None, None);
            let _hung_up = socket::send(client, &line, &[]);
            None
        }
    }
}

/// Whether it is a process of the owner's, and of none of the owner's VMs: those have user namespaces of their own.
fn is_welcome(client: &OwnedFd) -> Result<(), Failure> {
    let refused = |why: &str| Failure::new(why, "serve at a socket of your own");
    let (pid, uid) = socket::peer(client).map_err(|e| refused(&format!("cannot tell who you are: {e}")))?;
    if uid != geteuid().as_raw() {
        return Err(refused("this socket is somebody else's"));
    }
    let process = socket::peer_process(client);
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user"));
    let namespaces = (namespace("self"), namespace(&pid.to_string()));
    // The number may be another's by now: of who left, and whose descriptor a process of a VM still has.
    let is_there = match process {
        Ok(process) => poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&Timespec::default())) == Ok(0),
        // An older kernel.
        Err(e) => e == Errno::NOPROTOOPT,
    };
    match namespaces {
        (Ok(ours), Ok(theirs)) if ours == theirs && is_there => Ok(()),
        _ => Err(refused(
            "processes of VMs, and others of which it is not certain that they are in the server's user namespace, are not served",
        )),
    }
}

/// Ends the connections.
fn end(interrupts: &mut Interrupts, mut clients: Vec<Offspring>) {
    let until = Instant::now() + GRACE;
    clients.iter().for_each(|client| client.signal(Signal::TERM));
    while !clients.is_empty() && Instant::now() < until && wait(None, interrupts, &clients, Some(until)).is_ok() {
        // Told once is enough.
        interrupts.heard();
        clients.retain_mut(|client| client.collect().is_none());
    }
    // What they run dies with them.
    for mut client in clients {
        client.signal(Signal::KILL);
        client.wait();
    }
}
