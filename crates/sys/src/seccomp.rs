//! Seccomp (`seccomp(2)`): filters, and user notification for a few named calls (`seccomp_unotify(2)`). rustix lacks
//! both, seccompiler the second.
//!
//! ```text
//!   install(program)                   this process and all that it starts from now on are filtered
//!   watch([link, linkat]) ─► listener fd      this process and all that it starts from now on stop at those calls
//!   listen(program) ─► listener fd     the same with a program of the caller's
//!   next(listener) ─► Call { id, pid, number, arguments }     answer(listener, id, Go on | Fail(errno))
//! ```
//!
//! Invariant: a notification's answer is no protection: a process can change a call's arguments after the look. It only serves
//! compatibility.

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno;

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Names the call.
    pub id: u64,
    /// The thread that made it, as the reader's `/proc` numbers it.
    pub pid: u32,
    /// Its number.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out.
    GoOn,
    /// It fails.
    Fail(Errno),
}

/// The calls that make a hard link.
pub const LINK_CALLS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    libc::SYS_linkat,
];

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// One instruction of classic BPF.
pub type Instruction = libc::sock_filter;

/// From now on `program` decides about every call of this process and of all that it starts. Needs `CAP_SYS_ADMIN` in the
/// user namespace.
///
/// # Errors
/// The kernel's; `EINVAL` when the program is none.
pub fn install(program: &[Instruction]) -> Result<(), Errno> {
    set_filter(program, 0).map(drop)
}

/// Returns what the kernel returns.
fn set_filter(program: &[Instruction], flags: libc::c_ulong) -> Result<i32, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `filter` points to `len` instructions that live past the call, which only reads them.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if set < 0 { Err(crate::last_errno()) } else { i32::try_from(set).map_err(|_| Errno::BADF) }
}

/// From now on, `calls` of this process and of all that it starts wait for an answer on the descriptor returned.
/// This process itself must not make them. Needs `CAP_SYS_ADMIN` in the user namespace.
///
/// # Errors
/// The kernel's; `EBUSY` when there already is a listener.
pub fn watch(calls: &[libc::c_long]) -> Result<OwnedFd, Errno> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump_if_equal = |k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let answer = libc::BPF_RET | libc::BPF_K;
    // struct seccomp_data: the number at offset 0, the architecture at 4.
    let mut program = vec![
        statement(load, 4),
        jump_if_equal(ARCH, 1, 0),
        statement(answer, libc::SECCOMP_RET_ALLOW),
        statement(load, 0),
    ];
    for call in calls {
        program.push(jump_if_equal(u32::try_from(*call).map_err(|_| Errno::INVAL)?, 0, 1));
        program.push(statement(answer, libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(statement(answer, libc::SECCOMP_RET_ALLOW));
    listener_of(set_filter(&program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?)
}

fn listener_of(raw: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: with `NEW_LISTENER` the result is a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// From now on `program` decides about every call of this process and of all that it starts; those that it answers with
/// `SECCOMP_RET_USER_NOTIF` wait for an answer on the descriptor returned. Needs `CAP_SYS_ADMIN` in the user namespace.
///
/// # Errors
/// The kernel's; `EBUSY` when there already is a listener.
pub fn listen(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    /// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19: once received, a call is not begun anew by a signal.
    const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
    let made = match set_filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE) {
        Err(Errno::INVAL) => set_filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        made => made,
    };
    listener_of(made?)
}

/// Whoever makes a waiting call and whoever answers it take turns on one processor (Linux 6.6): a fifth of the cost.
///
/// # Errors
/// The kernel's; an older one knows no such thing.
pub fn take_turns(listener: &OwnedFd) -> Result<(), Errno> {
    /// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: SECCOMP_IOCTL_NOTIF_SET_FLAGS takes its flags by value.
    match unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS, SYNC_WAKE_UP) } {
        0 => Ok(()),
        _ => Err(crate::last_errno()),
    }
}

/// Whether the call still waits: what was read of its process meanwhile was that process's.
#[must_use]
pub fn still_waits(listener: &OwnedFd, id: u64) -> bool {
    // SAFETY: SECCOMP_IOCTL_NOTIF_ID_VALID reads one u64 that lives past the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ID_VALID, &raw const id) == 0 }
}

/// The next waiting call.
///
/// # Errors
/// `ENOENT` when its process died meanwhile; the kernel's others.
pub fn next(listener: &OwnedFd) -> Result<Call, Errno> {
    // SAFETY: seccomp_notif is plain old data; the kernel asks that it be zeroed.
    let mut call = unsafe { std::mem::zeroed::<libc::seccomp_notif>() };
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one seccomp_notif.
    match unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut call) } {
        0 => Ok(Call { id: call.id, pid: call.pid, number: call.data.nr.cast_unsigned(), arguments: call.data.args }),
        _ => Err(crate::last_errno()),
    }
}

/// Answers a waiting call.
///
/// # Errors
/// `ENOENT` when its process died meanwhile; the kernel's others.
pub fn answer(listener: &OwnedFd, id: u64, answer: Answer) -> Result<(), Errno> {
    let (error, flags) = match answer {
        Answer::GoOn => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Fail(errno) => (-errno.raw_os_error(), 0),
    };
    let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one seccomp_notif_resp that lives past the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw const response) } {
        0 => Ok(()),
        _ => Err(crate::last_errno()),
    }
}

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)`.
const NOTIF_RECV: libc::Ioctl = request(0, size_of::<libc::seccomp_notif>());
const NOTIF_SEND: libc::Ioctl = request(1, size_of::<libc::seccomp_notif_resp>());

/// `_IOW('!', 2, __u64)` and `_IOW('!', 4, __u64)`.
const NOTIF_ID_VALID: libc::Ioctl = request(2, size_of::<u64>()) & !(2 << 30);
const NOTIF_SET_FLAGS: libc::Ioctl = request(4, size_of::<u64>()) & !(2 << 30);

const fn request(number: u32, size: usize) -> libc::Ioctl {
    (3 << 30 | (size as libc::Ioctl) << 16 | (b'!' as libc::Ioctl) << 8 | number as libc::Ioctl) as libc::Ioctl
}
