//! What a program does before libc has started.
//!
//! ```text
//!   kernel ── fvm_begin (of `entry!`) ── the function ─┬─ does all that there is to do ── exit
//!                                                      └─ leave(...) ──► libc ── main ── found() ── ...
//! ```
//!
//! glibc asks the processor what it is before anything else, some hundred times, and each `cpuid` ends in a hypervisor, where there is
//! one: 0.2 to 0.7 ms of each process (docs/design/start-path.md). What needs no libc does not wait for it.
//!
//! Invariants: nothing here needs libc, or what that sets up: no thread-local storage, no allocation, and none of the functions that it
//! chooses for the processor when it starts (`memcpy`, `memcmp`, `strlen`), which the compiler may make of a loop or of a large
//! value. So this crate and `fvm-ahead` are optimised in every build (of `entry!` there is one call in another), foreign memory is read byte by byte as what may change (volatile), and what is
//! written lies in [`Buffer`]s, whose bytes are atomic. There is one thread. Pointers in constants are right: the program is at
//! its place when it is loaded, or the dynamic loader has moved it; a static one that relocates itself does so in libc
//! (`build.rs` of `fvm-cli` sees to that).

use crate::spawn::{call, word};
use rustix::fd::{FromRawFd, OwnedFd};
use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// A process's command line and environment, as the kernel laid them out.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The command line, the program's name first.
    pub argv: Words,
    /// The environment.
    pub env: Words,
}

impl Line {
    /// From what the stack pointer shows when a program begins.
    ///
    /// # Safety
    /// `stack` is that, and nobody has changed the stack above it.
    #[must_use]
    pub unsafe fn new(stack: *const usize) -> Self {
        // SAFETY: by the ABI (System V, "Initial Process Stack") there is the number of arguments, their pointers, null, and
        // the environment's, null.
        unsafe {
            let argv = stack.add(1).cast::<*const u8>();
            Self { argv: Words(argv), env: Words(argv.add(stack.read_volatile()).add(1)) }
        }
    }
}

/// Some of its words, the first of which is next.
#[derive(Debug, Clone, Copy)]
pub struct Words(*const *const u8);

impl Iterator for Words {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        // SAFETY: only `Line::new` makes one, of a list that ends with null; it is not gone beyond that. Each word ends with a
        // zero byte, and stays where it is as long as the process does. Nobody writes to it before libc starts.
        unsafe {
            let text = self.0.read_volatile();
            if text.is_null() {
                return None;
            }
            self.0 = self.0.add(1);
            let mut len = 0;
            while text.add(len).read_volatile() != 0 {
                len += 1;
            }
            Some(std::slice::from_raw_parts(text, len))
        }
    }
}

/// Bytes that are put together.
#[derive(Debug)]
pub struct Buffer<const N: usize> {
    bytes: [AtomicU8; N],
    len: AtomicUsize,
}

impl<const N: usize> Buffer<N> {
    /// An empty one, for a static.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [const { AtomicU8::new(0) }; N], len: AtomicUsize::new(0) }
    }

    /// Empties it.
    pub fn clear(&self) {
        self.len.store(0, Ordering::Relaxed);
    }

    /// Leaves the first `len` of its bytes.
    pub fn cut(&self, len: usize) {
        self.len.store(len.min(self.len()), Ordering::Relaxed);
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes, copied.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().take(self.len()).map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    /// Adds one. `None`: there is no room.
    #[must_use]
    pub fn push(&self, byte: u8) -> Option<()> {
        let len = self.len();
        self.bytes.get(len)?.store(byte, Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Relaxed);
        Some(())
    }

    /// Adds all of `text`. `None`: there is no room.
    #[must_use]
    pub fn extend(&self, text: &[u8]) -> Option<()> {
        for byte in text {
            self.push(*byte)?;
        }
        Some(())
    }

    /// Replaces one that is there.
    pub fn set(&self, index: usize, byte: u8) {
        if let Some(place) = self.bytes.get(index) {
            place.store(byte, Ordering::Relaxed);
        }
    }

    /// The kernel may read up to `len()` bytes there.
    fn start(&self) -> usize {
        self.bytes.as_ptr() as usize
    }

    /// It names a file: no zero byte in it, and one behind it.
    fn as_path(&self) -> Option<usize> {
        self.bytes.get(self.len())?.store(0, Ordering::Relaxed);
        Some(self.start())
    }
}

impl<const N: usize> Default for Buffer<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A descriptor that was opened here. It closes itself when dropped.
#[derive(Debug)]
pub struct Fd(i32);

impl Fd {
    fn of(opened: i32) -> Option<Self> {
        (opened >= 0).then_some(Self(opened))
    }

    fn into_raw(self) -> i32 {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        call(libc::SYS_close, [word(self.0), 0, 0, 0, 0]);
    }
}

const AT: usize = libc::AT_FDCWD as isize as usize;

fn open(path: usize, flags: c_int) -> Option<Fd> {
    Fd::of(call(libc::SYS_openat, [AT, path, word(flags | libc::O_CLOEXEC), 0, 0]))
}

/// Whether this process acts as root.
#[must_use]
pub fn is_root() -> bool {
    call(libc::SYS_geteuid, [0; 5]) == 0
}

/// Whether nothing has that name; not whether that cannot be told.
#[must_use]
pub fn is_missing<const N: usize>(path: &Buffer<N>) -> bool {
    let Some(path) = path.as_path() else { return false };
    let mut found = MaybeUninit::<libc::stat>::uninit();
    let into = found.as_mut_ptr() as usize;
    call(libc::SYS_newfstatat, [AT, path, into, word(libc::AT_SYMLINK_NOFOLLOW), 0]) == -libc::ENOENT
}

/// What a file of less than `N` bytes holds. `None`: it is longer, or cannot be read.
#[must_use]
pub fn read_file<const M: usize, const N: usize>(path: &Buffer<M>, into: &Buffer<N>) -> Option<()> {
    let file = open(path.as_path()?, libc::O_RDONLY | libc::O_NONBLOCK)?;
    into.clear();
    let got = call(libc::SYS_read, [word(file.0), into.start(), N, 0, 0]);
    into.len.store(usize::try_from(got).ok().filter(|got| *got < N)?, Ordering::Relaxed);
    Some(())
}

/// Connects to the socket `name` in a directory, whose path may be longer than a socket's.
#[must_use]
pub fn connect<const N: usize>(dir: &Buffer<N>, name: &CStr) -> Option<Fd> {
    let dir = open(dir.as_path()?, libc::O_PATH | libc::O_DIRECTORY)?;
    let kind = word(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    let socket = Fd::of(call(libc::SYS_socket, [word(libc::AF_UNIX), kind, 0, 0, 0]))?;
    // A sockaddr_un: the family in two bytes, and a path.
    static ADDRESS: Buffer<108> = Buffer::new();
    ADDRESS.clear();
    ADDRESS.push(u8::try_from(libc::AF_UNIX).ok()?)?;
    ADDRESS.push(0)?;
    ADDRESS.extend(b"/proc/self/fd/")?;
    decimal(&ADDRESS, u32::try_from(dir.0).ok()?)?;
    ADDRESS.push(b'/')?;
    ADDRESS.extend(name.to_bytes_with_nul())?;
    let connected = call(libc::SYS_connect, [word(socket.0), ADDRESS.start(), ADDRESS.len(), 0, 0]);
    (connected == 0).then_some(socket)
}

/// Two sockets for packets that are connected to each other.
#[must_use]
pub fn pair() -> Option<(Fd, Fd)> {
    let mut both = 0u64;
    let (kind, into) = (word(libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC), (&raw mut both) as usize);
    let made = call(libc::SYS_socketpair, [word(libc::AF_UNIX), kind, 0, into, 0]);
    // SAFETY: `both` is there. The kernel wrote to it behind the compiler's back.
    let [a, b, c, d, e, f, g, h] = unsafe { (&raw const both).read_volatile() }.to_ne_bytes();
    let (one, other) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
    if made == 0 { Some((Fd(one), Fd(other))) } else { None }
}

/// What one of the three standard streams is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// `/dev/null`.
    Null,
    /// A socket, or a pipe without a name: it gives what goes through it.
    Through,
    /// Something else, or it is closed.
    Other,
}

/// What stream `number` is.
#[must_use]
pub fn stream(number: i32) -> Stream {
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    if call(libc::SYS_fstat, [word(number), stat.as_mut_ptr() as usize, 0, 0, 0]) < 0 {
        return Stream::Other;
    }
    // SAFETY: the kernel wrote it.
    let (mode, device) = unsafe {
        let stat = stat.as_ptr();
        ((&raw const (*stat).st_mode).read_volatile(), (&raw const (*stat).st_rdev).read_volatile())
    };
    match mode & libc::S_IFMT {
        // Device 1:3.
        libc::S_IFCHR if device == 0x103 => Stream::Null,
        libc::S_IFSOCK => Stream::Through,
        libc::S_IFIFO => {
            let mut fs = MaybeUninit::<libc::statfs>::uninit();
            let told = call(libc::SYS_fstatfs, [word(number), fs.as_mut_ptr() as usize, 0, 0, 0]);
            // SAFETY: the kernel wrote it, where it said so.
            let is_pipe = told == 0 && unsafe { (&raw const (*fs.as_ptr()).f_type).read_volatile() } == PIPEFS_MAGIC;
            if is_pipe { Stream::Through } else { Stream::Other }
        }
        _ => Stream::Other,
    }
}

/// The file mode creation mask.
#[must_use]
pub fn umask() -> u32 {
    let mask = call(libc::SYS_umask, [0; 5]);
    call(libc::SYS_umask, [word(mask), 0, 0, 0, 0]);
    mask.cast_unsigned()
}

/// Adds the working directory's path. `None`: it has none that can be said.
#[must_use]
pub fn working_directory<const N: usize>(path: &Buffer<N>) -> Option<()> {
    let at = path.len();
    let room = N.checked_sub(at)?;
    // With its zero byte.
    let len = call(libc::SYS_getcwd, [path.start() + at, room, 0, 0, 0]);
    let len = usize::try_from(len).ok()?.checked_sub(1)?;
    // One that is not reachable is said to be "(unreachable)...".
    if path.bytes.get(at)?.load(Ordering::Relaxed) != b'/' {
        return None;
    }
    path.len.store(at + len, Ordering::Relaxed);
    Some(())
}

/// The bytes of `buffer` from `at` on.
pub fn bytes_from<const N: usize>(buffer: &Buffer<N>, at: usize) -> impl Iterator<Item = u8> {
    let len = buffer.len();
    (at..len).filter_map(|index| buffer.bytes.get(index)).map(|byte| byte.load(Ordering::Relaxed))
}

/// Adds a number.
#[must_use]
pub fn decimal<const N: usize>(to: &Buffer<N>, number: u32) -> Option<()> {
    let mut unit = 1;
    while number / unit > 9 {
        unit *= 10;
    }
    while unit > 0 {
        to.push(b'0' + (number / unit % 10) as u8)?;
        unit /= 10;
    }
    Some(())
}

/// Blocks `signals` besides those that are. What was blocked before, for [`release`].
#[must_use]
pub fn hold(signals: &[i32]) -> u64 {
    mask(libc::SIG_BLOCK, set_of(signals))
}

/// As the kernel takes it.
fn set_of(signals: &[i32]) -> u64 {
    let mut set = 0u64;
    for signal in signals {
        set |= 1 << (signal - 1);
    }
    set
}

/// Blocks what was blocked before [`hold`], and no more.
pub fn release(before: u64) {
    mask(libc::SIG_SETMASK, before);
}

fn mask(how: c_int, set: u64) -> u64 {
    let mut old = 0u64;
    let (new, old_at) = ((&raw const set) as usize, (&raw mut old) as usize);
    call(libc::SYS_rt_sigprocmask, [word(how), new, old_at, size_of::<u64>(), 0]);
    // SAFETY: as in `pair`.
    unsafe { (&raw const old).read_volatile() }
}

/// Sends all of `message`, with `session` and those of the three standard streams that are `passed` on its first byte. `None`: nobody
/// has all of it.
#[must_use]
pub fn send<const N: usize>(to: &Fd, message: &Buffer<N>, session: &Fd, passed: [bool; 3]) -> Option<()> {
    let pair = |low: i32, high: i32| u64::from(low.cast_unsigned()) | u64::from(high.cast_unsigned()) << 32;
    let mut fds = [session.0, 0, 0, 0];
    let mut count = 1;
    for (number, is) in (0..).zip(passed) {
        if is {
            *fds.get_mut(count)? = number;
            count += 1;
        }
    }
    // A cmsghdr (its length, level and type), and the numbers.
    let len = 16 + 4 * count;
    let control = [len as u64, pair(libc::SOL_SOCKET, libc::SCM_RIGHTS), pair(fds[0], fds[1]), pair(fds[2], fds[3])];
    let mut sent = 0;
    while sent < message.len() {
        let vector = [message.start() + sent, message.len() - sent];
        let with = if sent == 0 { [(&raw const control) as usize, len.next_multiple_of(8)] } else { [0; 2] };
        // A msghdr: name, its length, vectors, their number, control, its length, flags.
        let header = [0usize, 0, (&raw const vector) as usize, 1, with[0], with[1], 0];
        let words = [word(to.0), (&raw const header) as usize, word(libc::MSG_NOSIGNAL), 0, 0];
        match call(libc::SYS_sendmsg, words) {
            gone if gone > 0 => sent += usize::try_from(gone).ok()?,
            failed if failed == -libc::EINTR => {}
            _ => return None,
        }
    }
    Some(())
}

/// A descriptor from which `signals` can be read, which are held.
#[must_use]
pub fn signals(signals: &[i32]) -> Option<Fd> {
    let set = set_of(signals);
    let flags = word(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
    Fd::of(call(libc::SYS_signalfd4, [word(-1), (&raw const set) as usize, size_of::<u64>(), flags, 0]))
}

/// Waits until `this` can be read, which is said, or `other` can be.
#[must_use]
pub fn await_before(this: &Fd, other: &Fd) -> bool {
    // Each a pollfd: the descriptor, what is awaited, what came.
    let mut polled =
        [this, other].map(|fd| u64::from(fd.0.cast_unsigned()) | u64::from(libc::POLLIN.cast_unsigned()) << 32);
    let at = (&raw mut polled) as usize;
    while call(libc::SYS_ppoll, [at, 2, 0, 0, 0]) == -libc::EINTR {}
    // SAFETY: `polled` is there. The kernel wrote to it behind the compiler's back.
    let [this, other] = unsafe { (&raw const polled).read_volatile() };
    this >> 48 != 0 && other >> 48 == 0
}

/// Receives what is there, up to what `into` holds: a packet, or some of a stream. `None`: nothing, or the end. `peeks`: it stays there.
#[must_use]
pub fn receive<const N: usize>(from: &Fd, into: &Buffer<N>, peeks: bool) -> Option<()> {
    into.clear();
    let flags = libc::MSG_DONTWAIT | if peeks { libc::MSG_PEEK } else { 0 };
    // recvfrom(2) has a sixth argument; recvmsg(2) has not. No descriptor is taken.
    let vector = [into.start(), N];
    // The kernel writes to it.
    let mut header = [0usize, 0, (&raw const vector) as usize, 1, 0, 0, 0];
    let got = call(libc::SYS_recvmsg, [word(from.0), (&raw mut header) as usize, word(flags), 0, 0]);
    let got = usize::try_from(got).ok().filter(|got| *got > 0)?;
    into.len.store(got, Ordering::Relaxed);
    Some(())
}

/// Sends all of `message`.
#[must_use]
pub fn say(to: &Fd, message: &[u8]) -> Option<()> {
    let vector = [message.as_ptr() as usize, message.len()];
    let header = [0usize, 0, (&raw const vector) as usize, 1, 0, 0, 0];
    let words = [word(to.0), (&raw const header) as usize, word(libc::MSG_NOSIGNAL), 0, 0];
    (usize::try_from(call(libc::SYS_sendmsg, words)) == Ok(message.len())).then_some(())
}

/// Ends the process.
pub fn exit(code: u8) -> ! {
    loop {
        call(libc::SYS_exit_group, [usize::from(code), 0, 0, 0, 0]);
    }
}

/// What the function left for the program.
#[derive(Debug)]
pub struct Left {
    /// To whoever was asked.
    pub asked: OwnedFd,
    /// The other end of what that was given.
    pub session: OwnedFd,
    /// What was blocked before [`hold`].
    pub mask: u64,
}

static ASKED: AtomicI32 = AtomicI32::new(-1);
static SESSION: AtomicI32 = AtomicI32::new(-1);
static MASK: AtomicU64 = AtomicU64::new(0);

/// Leaves something for the program.
pub fn leave(asked: Fd, session: Fd, mask: u64) {
    MASK.store(mask, Ordering::Relaxed);
    SESSION.store(session.into_raw(), Ordering::Relaxed);
    ASKED.store(asked.into_raw(), Ordering::Release);
}

/// What was left, once.
#[must_use]
pub fn found() -> Option<Left> {
    let asked = ASKED.swap(-1, Ordering::Acquire);
    let session = SESSION.swap(-1, Ordering::Relaxed);
    if asked < 0 || session < 0 {
        return None;
    }
    // SAFETY: `leave` was given both as their owners, and nobody else has taken them.
    let (asked, session) = unsafe { (OwnedFd::from_raw_fd(asked), OwnedFd::from_raw_fd(session)) };
    Some(Left { asked, session, mask: MASK.load(Ordering::Relaxed) })
}
