//! The messages between a client, the keeper and init, and how they travel.
//!
//! ```text
//!   client ──Request + fds──► keeper ──Order + fds──► init ──fork──► program
//!      │◄─────Reply──────────────┘                      │
//!      └───────────── session socket ───────────────────┴─ Started(+ terminal), Stopped, Exited / Signal, Continue
//! ```
//!
//! A stream message is a 4-byte length (little endian) and that much JSON; descriptors ride on the first byte. A
//! session message is one JSON packet.
//!
//! Invariants: a message is at most [`MESSAGE_MAX_BYTES`]; what comes from a VM (session packets) is only ever a
//! status: nothing it says makes the host's side do anything but report it.

use fvm_model::path::Bytes;
use fvm_model::service::ServiceRequest;
use fvm_model::{Policy, Restart};
use fvm_sys::socket;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The largest message: room for the largest argument and environment block that Linux takes (about 2 MiB, escaped).
pub const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// A program to start in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Name (looked up in the VM's `PATH`) and arguments.
    pub argv: Vec<Bytes>,
    /// The whole environment.
    pub env: Vec<(Bytes, Bytes)>,
    /// Working directory; `/` when it is not there.
    pub cwd: Bytes,
    /// The terminal to make for it, if any of its three streams is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<WindowSize>,
    /// It begins in that terminal's background, and is paused when it wants to read from it: the client then decides.
    #[serde(default, skip_serializing_if = "is_default")]
    pub background: bool,
    /// Which of standard input, output and error come with the message; the others are the terminal.
    pub passed: [bool; 3],
    /// Which of them are the VM's `/dev/null`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub null: [bool; 3],
    /// File mode creation mask.
    pub umask: u32,
    /// It fails to start when its working directory is not there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cwd_required: bool,
    /// As whom, by the VM's own `/etc/passwd`: a name or a number. With it `HOME`, `USER`, `LOGNAME` and `SHELL` are that
    /// user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// On top of `env`, and of what `user` sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_env: Vec<(Bytes, Bytes)>,
    /// How long it may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
}

/// What is as it mostly is need not be said: whoever starts a VM's program waits until it is read.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How long a program may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeout {
    /// Then it is asked to end (SIGTERM).
    pub after_ms: u64,
    /// So much later it is ended (SIGKILL).
    pub grace_ms: u64,
}

/// What kept a program from being executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Its execution itself, or something before it that cannot be told apart.
    Execute,
    /// Becoming its user.
    User,
    /// Entering its working directory.
    Directory,
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// What the keeper asks of init. Descriptors with `Start`: the session socket, then the passed streams.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Start a program.
    Start(Program),
    /// Ask every process to end (SIGTERM), then end; after `grace_ms` end regardless.
    Stop {
        /// How long they get.
        grace_ms: u64,
    },
    /// Make the VM see what the host changed; with one descriptor, on which [`Overlays`] is the answer.
    Refresh,
    /// Look these names up, so that programs need not; with two descriptors, have a process wait for its program at the first
    /// ([`crate::session::wait`]), and say at the other when it does ([`crate::session::WAITS`]). There is no other answer.
    Look(Vec<Bytes>),
    /// That process has been told its program: watch it, as one that was started, for whoever was named there
    /// ([`crate::session::post`]). Where it has ended by now, or another order has come before, that is done.
    Watch,
    /// Stop every process; with one descriptor, on which a byte says that it is done.
    Pause,
    /// Let those run on that [`Order::Pause`] stopped; the same.
    Continue,
    /// For the VM's services, with two descriptors: the answer, and the log ([`crate::service`]).
    Service(ServiceRequest),
}

/// What init answers to [`Order::Refresh`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Overlays {
    /// Descriptors of overlays come with this message: the keeper has to refresh them.
    These,
    /// There are no more.
    Finished {
        /// Error number of the first that init could not refresh itself.
        failed: Option<i32>,
        /// How many it holds no descriptor of.
        missed: u32,
    },
}

/// What a client asks of a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who runs here?
    Info,
    /// Start a program; descriptors as in [`Order::Start`].
    Start(Program),
    /// Stop the VM.
    Stop {
        /// How long its processes get.
        grace_ms: u64,
    },
    /// End the VM now.
    Kill,
    /// Make it see what the host changed.
    Refresh,
    /// Let none of its processes run.
    Suspend,
    /// Let them run on.
    Resume,
    /// Write down all that was seen of them.
    Settle,
    /// Change what it may use, at once, and save it.
    Configure(Box<Configuration>),
    /// For its services; descriptors as in [`Order::Service`].
    Service(ServiceRequest),
}

/// What a running VM is to be changed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The policy that the client knows: another one means that somebody else changed it meanwhile.
    pub from: Policy,
    /// The policy that it is to have.
    pub to: Policy,
    /// When its program is started again; as it is, if not said.
    pub restart: Option<Restart>,
}

/// A running VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The keeper's process id, as the host numbers it.
    pub keeper: i32,
    /// The same of the VM's init.
    pub init: i32,
    /// None of its processes runs.
    #[serde(default)]
    pub suspended: bool,
    /// Where the host reaches it, if it has a network of its own.
    #[serde(default)]
    pub address: Option<std::net::IpAddr>,
}

/// What a keeper answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To `Info`.
    Info(Info),
    /// Done.
    Done,
    /// Not done.
    Refused(String),
}

/// What init (or the program's monitor) says on a session socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It runs in a terminal, whose master side comes with this message. Of others nobody waits to hear that.
    Started {
        /// Its process id inside.
        pid: i32,
    },
    /// The program could not be executed.
    NotExecuted {
        /// At which step.
        step: Step,
        /// An error number.
        errno: i32,
    },
    /// Its time is over: it has been asked to end.
    TimedOut,
    /// It has ended, and init is the only process of the VM.
    NobodyLeft,
    /// It ended with a code.
    Exited(i32),
    /// The same, and [`Status::NobodyLeft`]: one word, for whom two would wake twice.
    Last(i32),
    /// It was ended by a signal.
    Signaled(i32),
    /// It was paused by a signal (job control).
    Stopped(i32),
}

/// What a client says on a session socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Send this signal to the program.
    Signal(i32),
    /// Resume it in the foreground.
    Continue,
}

/// Sends a stream message.
///
/// # Errors
/// The kernel's; `EMSGSIZE` when it is too large.
pub fn write_message<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    write_short_message(socket, message, fds, MESSAGE_MAX_BYTES)
        .and_then(|sent| if sent { Ok(()) } else { Err(Errno::MSGSIZE) })
}

/// Sends a stream message unless it is longer than `max_bytes`; whether it was sent.
///
/// # Errors
/// The kernel's.
pub fn write_short_message<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
    max_bytes: usize,
) -> Result<bool, Errno> {
    match stream_message(message, max_bytes)? {
        Some(bytes) => socket::send(socket, &bytes, fds).map(|()| true),
        None => Ok(false),
    }
}

/// A stream message, as it is sent; `None`: it is longer than `max_bytes`.
///
/// # Errors
/// `EINVAL` when it cannot be written as JSON.
pub fn stream_message<T: Serialize>(message: &T, max_bytes: usize) -> Result<Option<Vec<u8>>, Errno> {
    let mut bytes = vec![0u8; 4];
    serde_json::to_writer(&mut bytes, message).map_err(|_| Errno::INVAL)?;
    let len = u32::try_from(bytes.len() - 4).ok().filter(|len| *len as usize <= max_bytes);
    Ok(len.map(|len| {
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes
    }))
}

/// Receives a stream message with its descriptors; `None` at the end of the stream.
///
/// # Errors
/// The kernel's; `EMSGSIZE` for a length over the limit, `EBADMSG` for one that is not such a message.
pub fn read_message<T: DeserializeOwned>(socket: impl AsFd) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    read_message_within(socket, MESSAGE_MAX_BYTES)
}

/// The same, with a limit of its own.
///
/// # Errors
/// As [`read_message`].
pub fn read_message_within<T: DeserializeOwned>(
    socket: impl AsFd,
    max_bytes: usize,
) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    let mut head = [0u8; 4];
    let (got, fds) = socket::receive(socket.as_fd(), &mut head)?;
    rest_of_message(socket, &mut head, got, fds, max_bytes)
}

/// As much of a message that comes alone is taken at once.
const ALONE_BYTES: usize = 4096;

/// The same of somebody who will say nothing else before he has an answer: mostly one system call. `slow`: what is done before it is
/// waited for any of it.
///
/// # Errors
/// As [`read_message`].
pub fn read_message_alone<T: DeserializeOwned>(
    socket: impl AsFd,
    slow: impl Fn() -> Result<(), Errno>,
) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    let mut begin = [0u8; ALONE_BYTES];
    let (got, fds) = match socket::receive_now(socket.as_fd(), &mut begin) {
        Err(Errno::AGAIN) => slow().and_then(|()| socket::receive(socket.as_fd(), &mut begin))?,
        received => received?,
    };
    let is_all = |len: u32| got == 4 + len as usize;
    if !begin.first_chunk().is_some_and(|head| got >= 4 && is_all(u32::from_le_bytes(*head))) {
        slow()?;
    }
    rest_of_message(socket, &mut begin, got, fds, MESSAGE_MAX_BYTES)
}

/// The message whose first `got` bytes are in `begin`, and of which no more than that has room there.
fn rest_of_message<T: DeserializeOwned>(
    socket: impl AsFd,
    begin: &mut [u8],
    mut got: usize,
    mut fds: Vec<OwnedFd>,
    max_bytes: usize,
) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    if got == 0 {
        return Ok(None);
    }
    let mut fill = |buffer: &mut [u8], mut got: usize| -> Result<(), Errno> {
        while got < buffer.len() {
            let (more, also) = socket::receive(socket.as_fd(), &mut buffer[got..])?;
            if more == 0 {
                return Err(Errno::BADMSG);
            }
            fds.extend(also);
            got += more;
        }
        Ok(())
    };
    let (head, begun) = begin.split_first_chunk_mut::<4>().ok_or(Errno::BADMSG)?;
    fill(&mut head[..], got.min(4))?;
    got = got.saturating_sub(4);
    let len = u32::from_le_bytes(*head) as usize;
    if len > max_bytes {
        return Err(Errno::MSGSIZE);
    }
    let mut body = begun.get(..got).filter(|begun| begun.len() <= len).ok_or(Errno::BADMSG)?.to_vec();
    // Grown as the bytes come, so that a claimed length costs nothing.
    while body.len() < len {
        let start = body.len();
        body.resize(len.min(start + (64 << 10)), 0);
        fill(&mut body[start..], 0)?;
    }
    serde_json::from_slice(&body).map(|message| Some((message, fds))).map_err(|_| Errno::BADMSG)
}

/// Waits until the other side of a stream says something or hangs up. Who waits for that in `recvmsg(2)` wakes up a first time when
/// the other one has read what it was sent (`unix_write_space` wakes whoever sleeps at the socket, for whatever).
///
/// # Errors
/// The kernel's.
pub fn await_answer(socket: impl AsFd) -> Result<(), Errno> {
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut polled, None)).map(drop)
}

/// Sends a session packet.
///
/// # Errors
/// The kernel's.
pub fn write_packet<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    socket::send(socket, &serde_json::to_vec(message).map_err(|_| Errno::INVAL)?, fds)
}

/// Receives a session packet; `None` when the other side is gone or talks nonsense.
pub fn read_packet<T: DeserializeOwned>(socket: impl AsFd) -> Option<(T, Vec<OwnedFd>)> {
    read_packet_within(socket, &mut [0; 256])
}

/// The same for packets as long as `buffer`.
pub fn read_packet_within<T: DeserializeOwned>(socket: impl AsFd, buffer: &mut [u8]) -> Option<(T, Vec<OwnedFd>)> {
    let (len, fds) = socket::receive(socket, buffer).ok()?;
    serde_json::from_slice(buffer.get(..len)?).ok().map(|message| (message, fds))
}
