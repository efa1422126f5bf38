//! A program's entry that libc calls, instead of the standard library's own before it.
//!
//! ```text
//!   libc ── main (of `entry!`) ── prepare ── the program ── exit
//!     └ before it, where the linker is told so (`-e fvm_begin`): crate::first
//! ```
//!
//! The standard library asks for the limits of the main thread's stack, which libc finds in `/proc/self/maps`, and makes a
//! second stack, to say a word when the first overflows: as much time as twenty system calls. Without that an overflow is a
//! segmentation fault without the word.
//!
//! Invariant: what else it does is done here: descriptors 0, 1 and 2 are open, so that no file of the program's takes their
//! place; a broken pipe is an error, not a signal; what was printed is flushed at the end.

use rustix::fd::AsRawFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Defines the entry of a program: `entry!(first, function)`, of a `fn(ArgsOs) -> u8` that returns the exit status. The crate is
/// `no_main`. `first`: a `fn(first::Line)` that runs before libc has started ([`crate::first`]), where the linker makes
/// `fvm_begin` the program's entry.
#[macro_export]
macro_rules! entry {
    ($first:path, $program:path) => {
        /// What the kernel calls: libc's own entry, and something before it.
        // SAFETY: it is entered by the kernel, or by the dynamic loader, as `_start` is. That finds the stack and the one register
        // with a meaning (rdx) as they were.
        #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn fvm_begin() -> ! {
            ::std::arch::naked_asm!(
                "xor ebp, ebp",
                "mov rdi, rsp",
                "push rdx",
                "sub rsp, 8",
                "call {first}",
                "add rsp, 8",
                "pop rdx",
                "jmp _start",
                first = sym fvm_first,
            )
        }

        /// What comes before libc.
        #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
        extern "C" fn fvm_first(stack: *const usize) {
            // SAFETY: `fvm_begin` passes the stack as it was at its beginning, and changes nothing above it.
            $first(unsafe { $crate::first::Line::new(stack) })
        }

        /// What libc calls.
        // SAFETY: this is the one symbol of this name, with the type that libc wants.
        #[unsafe(no_mangle)]
        pub extern "C" fn main() -> ::std::ffi::c_int {
            $crate::entry::prepare();
            // glibc passes the words of the command line to the standard library before this.
            ::std::process::exit($program(::std::env::args_os()).into())
        }
    };
}

/// What comes first.
pub fn prepare() {
    for fd in 0..3 {
        // SAFETY: F_GETFD only asks.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1
            && crate::last_errno() == Errno::BADF
            && let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())
            // The lowest number that is free.
            && null.as_raw_fd() == fd
        {
            std::mem::forget(null);
        }
    }
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
