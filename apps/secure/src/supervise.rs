//! Starts the worker again when it ends, and ends with it when it is asked to.
//!
//! ```text
//!   fvm guard run (this) ── spawn ──► fvm guard run --worker (guard)
//!        holds the lock                   killed, crashed ─► again, after a moment that grows
//! ```
//!
//! Invariant: the supervisor has no part of the worker's fanotify group: when the worker dies, the kernel lets everybody go
//! on who waits for it.

use crate::exposed::exposed;
use crate::{GuardError, status};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The signals that end it.
pub(crate) const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
/// The worker's word for a kernel on which nobody can be redirected.
pub const CANNOT_REDIRECT: &str = "--cannot-redirect";
/// First pause before it is started again.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest one: until it is over, nothing is guarded.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Whoever lived so long had no bad start.
const WELL: Duration = Duration::from_secs(2);

/// Runs `worker` again and again until a signal ends this.
///
/// # Errors
/// When there is another guard, or the worker does not start at all.
pub fn supervise(dir: &Path, mut worker: Command, tell: &dyn Fn(&str)) -> Result<(), GuardError> {
    if !rustix::process::geteuid().is_root() {
        return Err(GuardError::NotRoot);
    }
    if let Some(path) = exposed(Path::new(worker.get_program())) {
        return Err(GuardError::Exposed(path));
    }
    drop(fvm_sys::fanotify::Group::new().map_err(GuardError::Kernel)?);
    let lock = status::lock(dir)?;
    match fvm_sys::process::try_lock(&lock) {
        Ok(true) => {}
        Ok(false) => return Err(GuardError::Runs(status::read(dir)?.supervisor)),
        Err(e) => return Err(GuardError::io("lock", dir.join("lock"))(e.into())),
    }
    if !crate::probe::can_redirect(dir)? {
        worker.arg(CANNOT_REDIRECT);
    }
    let signals = fvm_sys::process::signal_fd(&[&ENDING[..], &[libc::SIGCHLD]].concat())
        .map_err(|e| GuardError::io("wait for signals at", dir)(e.into()))?;
    let mut pause = PAUSE;
    loop {
        let begun = Instant::now();
        let mut child = worker.spawn().map_err(GuardError::io("start", worker.get_program()))?;
        let pid = child.id().cast_signed();
        loop {
            match fvm_sys::process::next_signal(&signals) {
                Ok(Some(libc::SIGCHLD)) => {
                    if let Ok(Some(ended)) = child.try_wait() {
                        tell(&format!("the worker ended: {ended}; it is started again"));
                        break;
                    }
                }
                Ok(Some(_)) => {
                    // It has nothing to put in order.
                    let _ended = fvm_sys::process::kill(pid, libc::SIGKILL);
                    let _ended = child.wait();
                    return Ok(());
                }
                // None just now: wait for one.
                Ok(None) => {
                    let _woken = rustix::event::poll(
                        &mut [rustix::event::PollFd::new(&signals, rustix::event::PollFlags::IN)],
                        None,
                    );
                }
                Err(e) => return Err(GuardError::io("wait for signals at", dir)(e.into())),
            }
        }
        pause = if begun.elapsed() > WELL { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        std::thread::sleep(pause);
    }
}
