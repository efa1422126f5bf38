//! Message buses of a VM: made when they are first used.
//!
//! ```text
//!   before any program   /dev/.session-bus, listening; DBUS_SESSION_BUS_ADDRESS names it
//!   the first client     init ── fork ─► sh ─► dbus-daemon --address=systemd:      gets the listening socket
//!   the daemon ends      init listens again;  it cannot be started: nobody listens any more, clients are refused
//! ```
//!
//! The host's buses are never reached: their sockets in the VM's tree are dead, and their addresses do not pass.
//!
//! Invariants: the socket lies in the VM's own `/dev`, which is no change of the host's files; init neither reads from a
//! client nor waits for the daemon.

mod desktop;
pub mod relay;

use fvm_model::policy::{Bus as Wanted, Dbus};
use fvm_sys::process::{self, Fork, Waited};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::time::{Duration, Instant};

/// Which bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// That of a user's programs.
    Session,
    /// That of the machine's services.
    System,
}

/// The variables that name buses.
pub const VARIABLES: [&str; 2] = ["DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"];

impl Kind {
    /// The buses that a policy wants.
    pub fn wanted(dbus: &Dbus) -> impl Iterator<Item = Self> {
        let all = [(dbus.session, Self::Session), (dbus.system, Self::System)];
        all.into_iter().filter(|(wanted, _)| *wanted == Wanted::Private).map(|(_, kind)| kind)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::System => "system",
        }
    }

    /// The variable that names it, and its address in a VM.
    #[must_use]
    pub fn variable(self) -> (OsString, OsString) {
        let name = VARIABLES[usize::from(self == Self::System)];
        (name.into(), format!("unix:path={}", self.path()).into())
    }

    fn path(self) -> &'static str {
        match self {
            Self::Session => "/dev/.session-bus",
            Self::System => "/dev/.system-bus",
        }
    }

    /// Its socket, listening. To be called in the finished tree.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(self) -> Result<OwnedFd, Errno> {
        const WAITING: i32 = 128;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&listener, &SocketAddrUnix::new(self.path())?)?;
        rustix::fs::chmod(self.path(), Mode::from_raw_mode(0o666))?;
        listen(&listener, WAITING)?;
        Ok(listener)
    }

    /// A connection to it, made before any program could be in its place. It waits until the daemon takes it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect(self) -> Result<OwnedFd, Errno> {
        let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        connect(&client, &SocketAddrUnix::new(self.path())?)?;
        Ok(client)
    }
}

/// A daemon that ends sooner than this was not started well.
const SOON: Duration = Duration::from_secs(2);
/// So many times it is tried again.
const TRIES: u32 = 3;

/// A bus in init's hands.
#[derive(Debug)]
pub struct Bus {
    kind: Kind,
    /// `None`: given up.
    listener: Option<OwnedFd>,
    daemon: Option<(i32, Instant)>,
    failures: u32,
}

impl Bus {
    /// One whose socket listens.
    #[must_use]
    pub fn new(kind: Kind, listener: OwnedFd) -> Self {
        Self { kind, listener: Some(listener), daemon: None, failures: 0 }
    }

    /// What to wait for: `None` while a daemon listens itself.
    #[must_use]
    pub fn waits_for(&self) -> Option<&OwnedFd> {
        self.listener.as_ref().filter(|_| self.daemon.is_none())
    }

    /// Somebody wants it.
    pub fn start(&mut self) {
        let Some(listener) = self.listener.as_ref().filter(|_| self.daemon.is_none()) else { return };
        match process::fork() {
            Ok(Fork::Parent(pid)) => self.daemon = Some((pid.as_raw_nonzero().get(), Instant::now())),
            Ok(Fork::Child) => {
                let _errno = become_daemon(self.kind, listener);
                process::exit_now(127);
            }
            Err(_) => self.fail(),
        }
    }

    /// A process of the VM's has ended.
    pub fn ended(&mut self, pid: i32, how: Waited) {
        let Some((_, began)) = self.daemon.filter(|(daemon, _)| *daemon == pid) else { return };
        self.daemon = None;
        if how == Waited::Exited(127) {
            // There is no dbus-daemon.
            self.failures = TRIES;
        }
        if began.elapsed() < SOON {
            self.fail();
        } else {
            self.failures = 0;
        }
    }

    fn fail(&mut self) {
        self.failures += 1;
        if self.failures >= TRIES {
            self.listener = None;
        }
    }
}

fn become_daemon(kind: Kind, listener: &OwnedFd) -> Result<(), Errno> {
    /// Above the one to which the stub reports.
    const LISTENER: i32 = 4;
    let _leader = rustix::process::setsid();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // Out of the way of the numbers that are given next.
    let listener = rustix::io::fcntl_dupfd_cloexec(listener, 10)?;
    let (_result, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let report = rustix::io::fcntl_dupfd_cloexec(&report, 10)?;
    for target in 0..3 {
        process::install_stdio(null.as_raw_fd(), target)?;
    }
    process::close_all_but(&[listener.as_raw_fd(), report.as_raw_fd()]);
    process::install_stdio(listener.as_raw_fd(), LISTENER)?;
    process::default_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let _root = rustix::process::chdir("/");
    let script = format!(
        "export LISTEN_PID=$$ LISTEN_FDS=1; \
         exec dbus-daemon --{} --nofork --nopidfile --address=systemd: 3<&{LISTENER} {LISTENER}<&-",
        kind.name()
    );
    let text = |text: &str| CString::new(text).map_err(|_| Errno::INVAL);
    let argv = [text("sh")?, text("-c")?, text(&script)?];
    // Services that the daemon starts are the user's: they want to know where their settings are.
    let uid = rustix::process::geteuid().as_raw();
    let home = fvm_host::ids::user(uid).ok().flatten().map_or_else(|| "/".into(), |user| user.home);
    let env = [
        text("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")?,
        text(&format!("HOME={}", home.display()))?,
    ];
    Err(fvm_sys::exec::execute(c"/bin/sh", &argv, &env, report.as_fd()))
}
