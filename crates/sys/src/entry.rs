//! A program's entry that libc calls, instead of the standard library's own before it.
//!
//! ```text
//!   libc ── main (of `entry!`) ── prepare ── the program ── exit
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

/// Defines the entry of a program: `entry!(function)`, of a `fn(ArgsOs) -> u8` that returns the exit status. The crate is
/// `no_main`.
#[macro_export]
macro_rules! entry {
    ($program:path) => {
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
