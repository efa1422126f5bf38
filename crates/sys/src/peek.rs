//! Looking into another process: its memory (`process_vm_readv(2)`), and whether a thread is one of its (`tgkill(2)` of
//! signal 0). rustix lacks both.
//!
//! Invariant: what is read is what stands there at that moment, and can be something else in the next: it proves nothing.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;

/// Pages are at least so large, and begin at multiples of it.
const PAGE: u64 = 4096;
/// Most pages that one look reaches into.
const PAGES_MAX: usize = 16;

/// Reads the memory of thread `pid` from `address` on, as far as it is there, at most the length of `into`.
///
/// # Errors
/// The kernel's: `EPERM` without the right to trace it, `EFAULT` when nothing is there.
pub fn read_memory(pid: i32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // A part that is not there ends the look, and parts end where pages do.
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PAGES_MAX];
    let (mut at, mut left, mut count) = (address, into.len() as u64, 0);
    while left > 0 && count < PAGES_MAX {
        let len = left.min(PAGE - at % PAGE);
        parts[count] = libc::iovec {
            iov_base: std::ptr::without_provenance_mut(usize::try_from(at).map_err(|_| Errno::FAULT)?),
            iov_len: usize::try_from(len).map_err(|_| Errno::FAULT)?,
        };
        at = at.checked_add(len).ok_or(Errno::FAULT)?;
        left -= len;
        count += 1;
    }
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`, which outlives the call; the other addresses are
    // never touched in this process.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, parts.as_ptr(), count as libc::c_ulong, 0) };
    usize::try_from(read).map_err(|_| crate::last_errno())
}

/// Whether `tid` is a thread of process `tgid` now.
#[must_use]
pub fn is_thread_of(tgid: i32, tid: i32) -> bool {
    // SAFETY: signal 0 is never delivered; the arguments are plain integers.
    unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, 0) == 0 }
}

/// Whether the process of a descriptor is there still; one that ended and was not waited for is.
#[must_use]
pub fn is_there(pidfd: &OwnedFd) -> bool {
    let nothing: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: signal 0 is never delivered; the siginfo pointer may be null.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, nothing, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_ends_where_the_memory_does() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let text = b"some text in this process".to_vec();
        let mut into = [0; 25];
        assert_eq!(read_memory(own, text.as_ptr() as u64, &mut into), Ok(25));
        assert_eq!(into.as_slice(), text);
        assert_eq!(read_memory(own, 1, &mut into), Err(Errno::FAULT));
        // Two pages, of which the second is not there.
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping that nobody else knows.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 8192, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: its second page, which nobody uses.
        assert_eq!(unsafe { libc::munmap(at.cast::<u8>().add(4096).cast(), 4096) }, 0);
        let mut into = [1; 100];
        assert_eq!(read_memory(own, at as u64 + 4090, &mut into), Ok(6));
        // SAFETY: its first page, which nobody uses any more.
        assert_eq!(unsafe { libc::munmap(at, 4096) }, 0);
    }

    #[test]
    fn a_thread_is_told_from_what_is_none() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(is_thread_of(own, own));
        let other = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get());
        let ended = other.join().unwrap();
        assert!(is_thread_of(own, rustix::thread::gettid().as_raw_nonzero().get()));
        assert!(!is_thread_of(1, ended));
    }
}
