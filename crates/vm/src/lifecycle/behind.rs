//! Work that goes on when the command has answered.
//!
//! ```text
//!   behind            fork ─► work
//!   Heir::new         shares the memory, waits ── tell, and the command has ended ─► work     made while there is time
//!   (fvm_sys::heir)                           └── dropped ─► killed
//! ```
//!
//! Invariant: such a process keeps no descriptor but those that its work needs.

use crate::error::VmError;
use fvm_sys::process::{self, Fork};
use rustix::fd::{AsRawFd, RawFd};
use rustix::fs::{self, Mode, OFlags};

/// Does `work` in a process of its own, which keeps `fds` and nothing else of this one; here and now if this process has
/// several threads.
pub fn behind(fds: &[RawFd], work: impl FnOnce() -> Result<(), VmError>) -> Result<(), VmError> {
    if !process::has_one_thread() {
        return work();
    }
    match process::fork().map_err(|e| VmError::Sys("start a cleaner", e))? {
        Fork::Parent(_) => Ok(()),
        Fork::Child => {
            let _leader = rustix::process::setsid();
            // Nobody may wait for our end of their pipe.
            if let Ok(null) = fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
                for target in 0..3 {
                    let _still_open = process::install_stdio(null.as_raw_fd(), target);
                }
            }
            process::close_all_but(fds);
            process::exit_now(i32::from(work().is_err()))
        }
    }
}
