//! Processes: fork, clone with namespaces, waiting, and what a parent passes on.
//!
//! Invariants: the caller of [`fork`] and [`clone_into`] goes on in a copy of itself; when it has other threads, the
//! child may use only what those threads cannot hold locked. fvm forks before it starts any thread.

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::Pid;

/// Which side of a fork one is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the child's pid.
    Parent(Pid),
    /// The child.
    Child,
}

/// Namespace flags, as in `clone(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// Users.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// Process ids.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// Cgroup root.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// Network.
    pub const NET: Self = Self(libc::CLONE_NEWNET as u64);
    /// None.
    pub const NONE: Self = Self(0);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in `self`.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As `clone(2)` takes them.
    #[must_use]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// `self` without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// `fork(2)`.
///
/// # Errors
/// The kernel's.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: libc's fork keeps its own locks consistent in the child; see the module's invariant for the rest.
    match unsafe { libc::fork() } {
        -1 => Err(crate::last_errno()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::IO),
    }
}

/// `fork(2)`, but the child has none of the descriptors from `first` on.
///
/// A fork copies the table of all descriptors, and to close one that was copied costs a cache miss or three: with three thousand,
/// more than a millisecond. So a process in between, which shares memory and table while the caller stands still (`vfork(2)`), takes
/// a table of its own with the lower ones alone (`CLOSE_RANGE_UNSHARE`, Linux 5.9), and forks the child as its parent's
/// (`CLONE_PARENT`). For few descriptors [`fork`] is quicker.
///
/// # Errors
/// The kernel's.
#[cfg(target_arch = "x86_64")]
pub fn fork_below(first: RawFd) -> Result<Fork, Errno> {
    const BETWEEN: i32 = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
    // Negative: an error number.
    let mut child: i64 = 0;
    let result: i64;
    // SAFETY: the process in between runs only the instructions below, on the caller's stack, of which it touches nothing but
    // `child`, while the caller stands still; no signal handler runs on it (module invariant: fvm has none where it forks). The
    // child goes on behind the block with a copy of the memory and of all registers, as after a fork. Registers that a
    // system call changes are told.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "mov edi, r12d",
            "mov esi, 0xffffffff",
            "mov edx, {unshare}",
            "mov eax, {close_range}",
            "syscall",
            "test rax, rax",
            "js 2f",
            "mov edi, {parent}",
            "xor esi, esi",
            "xor edx, edx",
            "xor r10d, r10d",
            "xor r8d, r8d",
            "mov eax, {clone}",
            "syscall",
            "test rax, rax",
            "jz 3f",
            "2:",
            "mov [r13], rax",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "3:",
            unshare = const libc::CLOSE_RANGE_UNSHARE,
            close_range = const libc::SYS_close_range,
            parent = const libc::CLONE_PARENT,
            clone = const libc::SYS_clone,
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_clone => result,
            inlateout("rdi") i64::from(BETWEEN) => _,
            inlateout("rsi") 0i64 => _,
            inlateout("rdx") 0i64 => _,
            inlateout("r10") 0i64 => _,
            inlateout("r8") 0i64 => _,
            in("r12") i64::from(first.max(3)),
            in("r13") &raw mut child,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    let number = |value: i64| i32::try_from(value).map_err(|_| Errno::IO);
    let failed = |value: i64| Ok::<_, Errno>(Errno::from_raw_os_error(number(-value)?));
    match result {
        0 => return Ok(Fork::Child),
        ..0 => return Err(failed(result)?),
        between => drop(wait_blocking(number(between)?, false)),
    }
    match child {
        // It was killed before it could say anything.
        0 => Err(Errno::IO),
        ..0 => Err(failed(child)?),
        child => Pid::from_raw(number(child)?).map(Fork::Parent).ok_or(Errno::IO),
    }
}

/// See the other one.
///
/// # Errors
/// The kernel's.
#[cfg(not(target_arch = "x86_64"))]
pub fn fork_below(first: RawFd) -> Result<Fork, Errno> {
    let forked = fork()?;
    if forked == Fork::Child {
        // SAFETY: closing descriptors is sound for memory; owners of the closed ones are never used again, as the caller vouches.
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    }
    Ok(forked)
}

/// Gives `fd` a number of at least `least`, so that lower ones are those of what is soon closed again. Without room it keeps its own.
pub fn lift(fd: &mut OwnedFd, least: RawFd) {
    if let Ok(lifted) = rustix::io::fcntl_dupfd_cloexec(&*fd, least) {
        *fd = lifted;
    }
}

/// Forks into new namespaces. `sibling`: the child becomes a child of the caller's parent (`CLONE_PARENT`).
///
/// # Errors
/// The kernel's: `EPERM` or `ENOSPC` where user namespaces are restricted.
pub fn clone_into(namespaces: Namespaces, sibling: bool) -> Result<Fork, Errno> {
    let mut args = CloneArgs { flags: namespaces.0, ..CloneArgs::default() };
    if sibling {
        // With CLONE_PARENT the exit signal must be 0: it is inherited from the caller.
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    // SAFETY: without CLONE_VM and with stack 0 this is a fork: the child runs on a copy of this stack. The struct
    // is a clone_args of the size given. The caller is single-threaded (module invariant), so no lock is held.
    let cloned = match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) } {
        // In a VM with a log (`fvm_trace::capture::program`): the older call does the same.
        -1 if crate::last_errno() == Errno::NOSYS => {
            let flags = args.flags | args.exit_signal;
            // SAFETY: as above: a fork, on a copy of this stack.
            unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) }
        }
        cloned => cloned,
    };
    match cloned {
        -1 => Err(crate::last_errno()),
        0 => Ok(Fork::Child),
        pid => i32::try_from(pid).ok().and_then(Pid::from_raw).map(Fork::Parent).ok_or(Errno::IO),
    }
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Moves this process into new namespaces. The process must have one thread.
///
/// # Errors
/// The kernel's.
pub fn unshare(namespaces: Namespaces) -> Result<(), Errno> {
    let flags = i32::try_from(namespaces.0).map_err(|_| Errno::INVAL)?;
    // SAFETY: the flags are namespace flags only: no CLONE_FILES or CLONE_VM that Rust could observe.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(crate::last_errno()) }
}

/// Whether this process has one thread: whether it may [`fork`]. A thread that has just been joined may count for a moment,
/// and is waited for.
#[must_use]
pub fn has_one_thread() -> bool {
    // Some microseconds, mostly.
    const YIELDS: u32 = 64;
    const TRIES: u32 = YIELDS + 10;
    for n in 0..TRIES {
        // SAFETY: of CLONE_THREAD alone unshare(2) says: in a process with one thread it has no effect, else it fails with EINVAL.
        let alone = unsafe { libc::unshare(libc::CLONE_THREAD) } == 0
            // Where a filter of system calls forbids it altogether.
            || crate::last_errno() != Errno::INVAL
                && std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
        if alone {
            return true;
        }
        if n < YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    false
}

/// Runs `body` in a forked child and returns its result: for trying out what cannot be undone in this process.
///
/// # Errors
/// What `body` returned, or `EIO` when the child died.
pub fn in_child(body: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    match fork()? {
        Fork::Child => exit_now(body().err().map_or(0, |e| e.raw_os_error().clamp(1, 254))),
        Fork::Parent(pid) => match wait_blocking(pid.as_raw_nonzero().get(), false)?.1 {
            Waited::Exited(0) => Ok(()),
            Waited::Exited(errno) => Err(Errno::from_raw_os_error(errno)),
            Waited::Signaled(_) | Waited::Stopped(_) => Err(Errno::IO),
        },
    }
}

/// Ends this process at once: no destructor, no buffer flushed. For children of [`fork`].
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// All descriptors from 3 on but `kept`, as ranges: first and last.
pub(crate) fn all_but(kept: impl IntoIterator<Item = RawFd>) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = kept.into_iter().filter_map(|fd| u32::try_from(fd).ok()).filter(|fd| *fd >= 3).collect();
    kept.sort_unstable();
    kept.dedup();
    let firsts = std::iter::once(3).chain(kept.iter().map(|fd| fd + 1));
    let lasts = kept.iter().map(|fd| fd - 1).chain([u32::MAX]);
    firsts.zip(lasts).filter(|(first, last)| first <= last).collect()
}

/// Closes every descriptor from 3 up but those in `keep`.
///
/// The caller vouches that it uses none of the closed ones again: for children of [`fork`] that then run on what
/// they keep.
pub fn close_all_but(keep: &[RawFd]) {
    for (first, last) in all_but(keep.iter().copied()) {
        // SAFETY: closing descriptors is sound for memory; owners of the closed ones are never used again, as
        // the caller vouches.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// Puts `fd` at number `target` (0, 1 or 2) without close-on-exec.
///
/// # Errors
/// The kernel's.
pub fn install_stdio(fd: RawFd, target: RawFd) -> Result<(), Errno> {
    if fd == target {
        // SAFETY: F_SETFD changes a flag of an open descriptor.
        return if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == 0 { Ok(()) } else { Err(crate::last_errno()) };
    }
    // SAFETY: dup2 onto a standard descriptor; std owns none of them.
    if unsafe { libc::dup2(fd, target) } == target { Ok(()) } else { Err(crate::last_errno()) }
}

/// Resets every signal to its default action and unblocks all: what a program expects at its start.
pub fn default_signals() {
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: SIG_DFL installs no handler code. The two numbers that libc keeps for itself fail harmlessly.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    set_mask(libc::SIG_SETMASK, &[]);
}

/// Whether this process ignores `signal` (its number), as one that was started with `nohup` does SIGHUP.
#[must_use]
pub fn ignores_signal(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid value, and without a new action the call only writes the old one into it.
    unsafe {
        let mut now = std::mem::zeroed::<libc::sigaction>();
        libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

/// Has this process ignore `signal` (its number).
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN installs no handler code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Blocks `signals`, and makes a descriptor from which they are read.
///
/// # Errors
/// The kernel's.
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd, Errno> {
    set_mask(libc::SIG_BLOCK, signals);
    let set = signal_set(signals);
    // SAFETY: `set` is an initialised sigset_t; the result, when not -1, is a descriptor that we own.
    unsafe {
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(crate::last_errno()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// The next pending signal of a [`signal_fd`]; `None` when there is none.
///
/// # Errors
/// The kernel's.
pub fn next_signal(fd: &OwnedFd) -> Result<Option<i32>, Errno> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut info[..]) {
        Ok(_) => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
        Err(Errno::AGAIN) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Unblocks all signals: what a program expects at its start, of a process whose actions are the defaults.
pub fn unblock_all_signals() {
    set_mask(libc::SIG_SETMASK, &[]);
}

/// The calling thread is never interrupted by a signal from now on: others of its process take them.
pub fn block_all_signals() {
    let all: Vec<i32> = (1..=libc::SIGRTMAX()).collect();
    set_mask(libc::SIG_BLOCK, &all);
}

/// Unblocks `signals` again.
pub fn unblock_signals(signals: &[i32]) {
    set_mask(libc::SIG_UNBLOCK, signals);
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before anything reads it.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Those of `signals` that this thread does not block.
#[must_use]
pub fn unblocked_of(signals: &[i32]) -> Vec<i32> {
    let mut now = signal_set(&[]);
    // SAFETY: nothing is changed; the kernel writes the mask to `now`, a set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut now) };
    // SAFETY: `now` is a set; a number that is none is in none.
    signals.iter().copied().filter(|signal| unsafe { libc::sigismember(&raw const now, *signal) } != 1).collect()
}

fn set_mask(how: i32, signals: &[i32]) {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
}

/// Sends `signal` (its number) to a process, or, with a negative `pid`, to a process group (-1: to all it may).
///
/// # Errors
/// The kernel's.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: kill takes two integers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(crate::last_errno()) }
}

/// How a child ended or paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Ended with a code.
    Exited(i32),
    /// Ended by a signal.
    Signaled(i32),
    /// Paused by a signal.
    Stopped(i32),
}

/// Collects a child (`pid` -1: any) that ended, or, with `stops`, that paused; `None` when none did yet.
///
/// # Errors
/// `ECHILD` without children; the kernel's others.
pub fn wait_nonblocking(pid: i32, stops: bool) -> Result<Option<(i32, Waited)>, Errno> {
    wait(pid, libc::WNOHANG | if stops { libc::WUNTRACED } else { 0 })
}

/// Waits for a child to end (or, with `stops`, to pause).
///
/// # Errors
/// `ECHILD`; the kernel's others.
pub fn wait_blocking(pid: i32, stops: bool) -> Result<(i32, Waited), Errno> {
    loop {
        match wait(pid, if stops { libc::WUNTRACED } else { 0 }) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

fn wait(pid: i32, flags: i32) -> Result<Option<(i32, Waited)>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a valid int for the call's duration.
    let got = unsafe { libc::waitpid(pid, &raw mut status, flags) };
    match got {
        -1 => Err(crate::last_errno()),
        0 => Ok(None),
        pid if libc::WIFEXITED(status) => Ok(Some((pid, Waited::Exited(libc::WEXITSTATUS(status))))),
        pid if libc::WIFSTOPPED(status) => Ok(Some((pid, Waited::Stopped(libc::WSTOPSIG(status))))),
        pid => Ok(Some((pid, Waited::Signaled(libc::WTERMSIG(status))))),
    }
}

/// Takes an exclusive lock on an open file, for as long as the open file description lives (`F_OFD_SETLK`): the
/// kernel gives it back however the holder dies. `false` when somebody else holds it.
///
/// # Errors
/// The kernel's, but for "held".
pub fn try_lock(file: &impl AsRawFd) -> Result<bool, Errno> {
    let lock = whole_file_lock();
    // SAFETY: `lock` is an initialised struct flock that outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        -1 => match crate::last_errno() {
            Errno::AGAIN | Errno::ACCESS => Ok(false),
            e => Err(e),
        },
        _ => Ok(true),
    }
}

/// Whether another open file description holds the lock of [`try_lock`]; takes nothing, so it disturbs nobody.
///
/// # Errors
/// The kernel's.
pub fn is_locked(file: &impl AsRawFd) -> Result<bool, Errno> {
    let mut lock = whole_file_lock();
    // SAFETY: `lock` is an initialised struct flock that outlives the call; the kernel writes into it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        -1 => Err(crate::last_errno()),
        _ => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
    }
}

fn whole_file_lock() -> libc::flock {
    libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Whether this process may administer the machine: effective `CAP_SYS_ADMIN` and user id 0.
#[must_use]
pub fn is_privileged() -> bool {
    rustix::process::geteuid().is_root()
        && rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, open};

    fn null() -> OwnedFd {
        open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("there is one")
    }

    #[test]
    fn nothing_but_what_is_kept_stays_open() {
        let max = u32::MAX;
        assert_eq!(all_but([9, 7, 9]), [(3, 6), (8, 8), (10, max)]);
        assert_eq!(all_but([3, 4, 3]), [(5, max)]);
        assert_eq!(all_but([9, 5, 7]), [(3, 4), (6, 6), (8, 8), (10, max)]);
        assert_eq!(all_but([-1, 0, 2]), [(3, max)]);
        assert_eq!(all_but([]), [(3, max)]);
    }

    #[test]
    fn a_child_has_the_lower_descriptors_and_not_the_others() {
        let (low, mut high) = (null(), null());
        lift(&mut high, 700);
        assert!(high.as_raw_fd() >= 700, "{high:?}");
        let local = std::hint::black_box(7u64);
        // What the child does is system calls alone: this process has other threads.
        match fork_below(700).expect("it can be forked") {
            Fork::Child => {
                let has_low = rustix::io::fcntl_getfd(&low).is_ok();
                let has_high = rustix::io::fcntl_getfd(&high).is_ok();
                let is_own = std::hint::black_box(local) == 7;
                exit_now(i32::from(has_low) + 2 * i32::from(!has_high) + 4 * i32::from(is_own));
            }
            Fork::Parent(pid) => {
                let (_, end) =
                    wait_blocking(pid.as_raw_nonzero().get(), false).expect("it is this process's own child");
                assert_eq!(end, Waited::Exited(7));
                assert!(rustix::io::fcntl_getfd(&high).is_ok(), "the parent's are as they were");
            }
        }
    }
}
