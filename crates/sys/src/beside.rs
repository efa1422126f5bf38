//! A network namespace that is made while its owner does something else.
//!
//! ```text
//!   caller ── begin ──┬── goes on ──────────────────────────────────────── take ─► the namespace
//!                     └── child, on a stack of its own: unshare(net), loopback up, open, exit ─┘
//! ```
//!
//! It takes the kernel as long as all other namespaces together. The child shares memory and descriptors with the caller, so that it
//! costs no copy of either and what it opened is the caller's.
//!
//! Invariants: the child makes system calls by itself (none of libc, whose thread-local storage is the caller's), and writes
//! only what lies in its [`Memory`], which lives until it has ended.

use crate::spawn::{address, call, word};
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::CpuSet;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The child's stack.
const STACK_BYTES: usize = 16 << 10;

/// A network namespace that is being made.
#[derive(Debug)]
pub struct Network {
    child: i32,
    /// From a box, which is not moved as one while the child has it.
    memory: NonNull<Memory>,
}

/// All that the child touches.
#[derive(Debug)]
struct Memory {
    stack: Vec<MaybeUninit<u128>>,
    /// The namespace's descriptor, or minus an error number.
    made: AtomicI32,
    has_loopback: AtomicBool,
}

/// A network namespace.
#[derive(Debug)]
pub struct Made {
    /// To be entered.
    pub namespace: OwnedFd,
    /// Its loopback interface is up.
    pub has_loopback: bool,
}

impl Network {
    /// Begins.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin() -> Result<Self, Errno> {
        let stack = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
        let (made, has_loopback) = (AtomicI32::new(-libc::ESRCH), AtomicBool::new(false));
        let memory = NonNull::from(Box::leak(Box::new(Memory { stack, made, has_loopback })));
        let flags = libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: the stack is STACK_BYTES that nothing else uses, aligned to 16, and clone is given its upper end. It and the word lie
        // in `memory`, which is freed only when the child has ended (`wait`). The child's side is `enter`: see the module's
        // invariants.
        let child = unsafe {
            let stack = &memory.as_ref().stack;
            let top = stack.as_ptr().add(stack.capacity()).cast_mut().cast::<c_void>();
            libc::clone(enter, top, flags, memory.as_ptr().cast::<c_void>())
        };
        // Dropped, it frees the memory.
        let begun = Self { child, memory };
        if child == -1 { Err(crate::last_errno()) } else { Ok(begun) }
    }

    /// Has it made on another processor, if it has not begun: the caller's is where it would wait for the caller.
    /// [`crate::processors::begin_elsewhere`] says what `own` is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn elsewhere(&self, own: &CpuSet) -> Result<(), Errno> {
        let child = Pid::from_raw(self.child).ok_or(Errno::SRCH)?;
        crate::processors::begin_elsewhere(child, own)
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(mut self) -> Result<Made, Errno> {
        self.wait();
        // SAFETY: it lives until this is dropped.
        let memory = unsafe { self.memory.as_ref() };
        let has_loopback = memory.has_loopback.load(Ordering::Acquire);
        match memory.made.swap(-libc::ESRCH, Ordering::Acquire) {
            // SAFETY: the child opened it for its caller, who shares its descriptors; nobody else knows the number.
            made @ 0.. => Ok(Made { namespace: unsafe { OwnedFd::from_raw_fd(made) }, has_loopback }),
            failed => Err(Errno::from_raw_os_error(-failed)),
        }
    }

    fn wait(&mut self) {
        if self.child <= 0 {
            return;
        }
        // It has no signal for its end, so it is not among the children that others wait for.
        // SAFETY: a null status is not written.
        while unsafe { libc::waitpid(self.child, std::ptr::null_mut(), libc::__WALL) } == -1
            && crate::last_errno() == Errno::INTR
        {}
        self.child = 0;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.wait();
        // SAFETY: `begin` made it of a box, the child has ended, and nobody else frees it.
        let memory = unsafe { Box::from_raw(self.memory.as_ptr()) };
        if let made @ 0.. = memory.made.load(Ordering::Acquire) {
            // SAFETY: as in `take`, which leaves none.
            drop(unsafe { OwnedFd::from_raw_fd(made) });
        }
    }
}

extern "C" fn enter(memory: *mut c_void) -> c_int {
    // SAFETY: `begin` passes its Memory, which outlives the child's use of it; its word is atomic.
    let memory = unsafe { &*memory.cast::<Memory>() };
    let made = call(libc::SYS_unshare, [word(libc::CLONE_NEWNET), 0, 0, 0, 0]);
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let own = || call(libc::SYS_openat, [word(libc::AT_FDCWD), address(c"/proc/self/ns/net"), word(flags), 0, 0]);
    if made >= 0 {
        memory.has_loopback.store(loopback_up(), Ordering::Release);
    }
    memory.made.store(if made < 0 { made } else { own() }, Ordering::Release);
    0
}

/// [`crate::net::loopback_up`] by calls of its own.
fn loopback_up() -> bool {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = call(libc::SYS_socket, [word(libc::AF_INET), word(kind), 0, 0, 0]);
    if socket < 0 {
        return false;
    }
    let request = crate::net::up();
    let is_up = call(libc::SYS_ioctl, [word(socket), libc::SIOCSIFFLAGS as usize, (&raw const request) as usize, 0, 0]);
    call(libc::SYS_close, [word(socket), 0, 0, 0, 0]);
    is_up == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;
    use rustix::fd::AsFd;
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    #[test]
    fn it_is_another_than_the_own_one_and_can_be_entered() {
        let own = || std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
        let before = own();
        let made = process::in_child(|| {
            process::unshare(process::Namespaces::USER)?;
            let made = Network::begin().and_then(Network::take)?;
            let stayed = own() == before;
            move_into_link_name_space(made.namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            if stayed && made.has_loopback && own() != before { Ok(()) } else { Err(Errno::NXIO) }
        });
        assert_eq!(made, Ok(()));
        // One that nobody takes leaves nothing.
        let count = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        drop(Network::begin());
        let fds = count();
        drop(Network::begin());
        assert!(count() <= fds + 8, "tests beside this one open files, too");
    }
}
