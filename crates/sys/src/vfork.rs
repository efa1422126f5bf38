//! Into new namespaces without a copy of this process: `clone(CLONE_VM | CLONE_VFORK)`, and `execve(2)`.
//!
//! ```text
//!   caller ── vfork_into ──┬─ suspended ────────────────────────────► goes on, with the child's pid
//!                          └─ child: body() on a stack of its own, ── execve, or _exit(its result)
//! ```
//!
//! A fork copies page tables, and each page that is written afterwards; this does neither.
//!
//! Invariants: the caller has one thread, so that nobody else runs on the memory that the two share; descriptors are not
//! shared.

use crate::process::{Namespaces, Waited};
use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::{CStr, c_char, c_int, c_void};

/// What `body` may use. Its pages exist only once they are touched.
const STACK_BYTES: usize = 256 << 10;

/// Runs `body` in a child in new namespaces, while this process stands still; goes on when the child has executed another
/// program, or has ended with what `body` returned.
///
/// # Errors
/// The kernel's.
pub fn vfork_into<F: FnOnce() -> i32>(namespaces: Namespaces, body: F) -> Result<Pid, Errno> {
    extern "C" fn enter<F: FnOnce() -> i32>(body: *mut c_void) -> c_int {
        // SAFETY: `body` is the Option below, which outlives the child: its owner is suspended.
        let body = unsafe { &mut *body.cast::<Option<F>>() };
        body.take().map_or(126, |body| body())
    }
    let mut body = Some(body);
    let mut stack: Vec<std::mem::MaybeUninit<u128>> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let flags = i32::try_from(namespaces.bits()).map_err(|_| Errno::INVAL)?;
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is STACK_BYTES of memory that nothing else uses, aligned to 16, and clone is given its upper end.
    // It and `body` live until the child no longer runs on this memory (CLONE_VFORK). No other thread runs (module
    // invariant). A panic cannot leave `enter`, which is extern "C": it aborts.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity()).cast::<c_void>();
        libc::clone(enter::<F>, top, flags, (&raw mut body).cast::<c_void>())
    };
    if pid == -1 {
        return Err(crate::last_errno());
    }
    Pid::from_raw(pid).ok_or(Errno::IO)
}

/// Becomes the program at `path`; returns only when that failed.
#[must_use]
pub fn execute(path: &CStr, args: &[&CStr], env: &[&CStr]) -> Errno {
    let pointers = |list: &[&CStr]| -> Vec<*const c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: three NUL-terminated things, which outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    crate::last_errno()
}

/// What an ended child and its own children that it waited for used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The most memory that the largest of them had at once, in KiB.
    pub max_rss_kib: u64,
    /// Processor time, in user mode and in the kernel, in microseconds.
    pub cpu_us: u64,
}

/// Waits for the child `pid` to end; how, and what it used.
///
/// # Errors
/// `ECHILD`; the kernel's others.
pub fn wait_with_usage(pid: i32) -> Result<(Waited, Usage), Errno> {
    let mut status = 0;
    // SAFETY: rusage is plain old data; all-zero is a valid value.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    loop {
        // SAFETY: both outlive the call, which writes one int and one rusage.
        match unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } {
            -1 if crate::last_errno() == Errno::INTR => {}
            -1 => return Err(crate::last_errno()),
            _ => break,
        }
    }
    let micros = |t: libc::timeval| u64::try_from(t.tv_sec * 1_000_000 + t.tv_usec).unwrap_or(0);
    let waited = if libc::WIFEXITED(status) {
        Waited::Exited(libc::WEXITSTATUS(status))
    } else {
        Waited::Signaled(libc::WTERMSIG(status))
    };
    let max_rss_kib = u64::try_from(usage.ru_maxrss).unwrap_or(0);
    Ok((waited, Usage { max_rss_kib, cpu_us: micros(usage.ru_utime) + micros(usage.ru_stime) }))
}

/// Maps a page of fresh memory, writes to it, unmaps it: for measuring what that takes.
///
/// # Errors
/// The kernel's.
pub fn touch_a_page() -> Result<(), Errno> {
    const LEN: usize = 4096;
    // SAFETY: a new private mapping at a place of the kernel's choice touches no memory of ours.
    let page = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), LEN, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if page == libc::MAP_FAILED {
        return Err(crate::last_errno());
    }
    // SAFETY: the page was mapped writable just now, nobody else knows it, and it is not used after it is unmapped.
    let unmapped = unsafe {
        page.cast::<u8>().write_volatile(1);
        libc::munmap(page, LEN)
    };
    if unmapped == 0 { Ok(()) } else { Err(crate::last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_runs_first_and_its_result_is_its_status() {
        // Other tests' threads run meanwhile: the body touches nothing but what is its own.
        let mut seen = 0;
        let pid = vfork_into(Namespaces::NONE, || {
            seen = 7;
            3
        });
        let (waited, _usage) = wait_with_usage(pid.expect("a child").as_raw_nonzero().get()).expect("it ended");
        assert_eq!((waited, seen), (Waited::Exited(3), 7));
    }

    #[test]
    fn a_program_takes_its_place() {
        let pid = vfork_into(Namespaces::NONE, || {
            let _failed = execute(c"/bin/sh", &[c"sh", c"-c", c"exit $CODE"], &[c"CODE=5"]);
            100
        });
        let (waited, usage) = wait_with_usage(pid.expect("a child").as_raw_nonzero().get()).expect("it ended");
        assert_eq!(waited, Waited::Exited(5));
        assert!(usage.max_rss_kib > 0);
    }

    #[test]
    fn a_page_comes_and_goes() {
        assert_eq!(touch_a_page(), Ok(()));
    }
}
