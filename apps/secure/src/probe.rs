//! Whether a thread that waits in `execve` can be traced on this kernel.
//!
//! ```text
//!   sh: read, exec PROGRAM ─► waits, for MARKED is opened ─► seize, in another thread ─┬─ done: it can
//!                                                    then refused, whatever came of it ┴─ not soon: no
//! ```
//!
//! Before Linux 6.8 it opens the file with a lock held that whoever traces it needs (`cred_guard_mutex`), as all kernels do with
//! the interpreters of scripts: there, redirecting would mean a second's wait and a refusal each time.
//!
//! Invariants: the child is there before the group of events, so it has no part of it; it is let go and waited for.

use crate::GuardError;
use fvm_sys::divert::Held;
use fvm_sys::fanotify::{Group, Kinds};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsRawFd;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Without that lock it takes microseconds.
const SOON: Duration = Duration::from_millis(400);
/// The shell is there within this, or nothing is learned.
const THERE_WITHIN: Duration = Duration::from_secs(5);

/// Whether a thread can be traced that executes a marked file; `dir`: where that may be made. What cannot be tried is taken to
/// be possible: then the deadline refuses.
pub(crate) fn can_redirect(dir: &Path) -> Result<bool, GuardError> {
    let program = dir.join("probe");
    // Nothing that runs, should the answer be another one.
    std::fs::write(&program, "#!/bin/false\n").map_err(GuardError::io("write", &program))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&program, executable).map_err(GuardError::io("write", &program))?;
    let done = try_to(&program, &program);
    let _gone = std::fs::remove_file(&program);
    done.map(|can| can.unwrap_or(true))
}

/// Executes `program` while `marked` is marked; `None`: nobody was seen to wait.
fn try_to(program: &Path, marked: &Path) -> Result<Option<bool>, GuardError> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "read _; exec \"$0\""]).arg(program).env_clear();
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = shell.spawn() else { return Ok(None) };
    let can = (|| {
        let group = Group::new().map_err(GuardError::Kernel)?;
        group.mark(marked, Kinds::Exec).map_err(GuardError::Kernel)?;
        if let Some(mut line) = child.stdin.take() {
            // A shell that is gone is not seen to wait.
            let _gone = line.write_all(b"\n");
        }
        let began = Instant::now();
        while began.elapsed() < THERE_WITHIN {
            let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let _woken = poll(&mut [PollFd::new(&group, PollFlags::IN)], Some(&pause));
            if let Some(asked) = group.next().map_err(GuardError::Kernel)?.pop() {
                let (tid, file) = (asked.tid, asked.file.as_raw_fd());
                let (send, receive) = std::sync::mpsc::channel();
                let tracer = std::thread::spawn(move || {
                    let held = Held::seize(tid, tid);
                    let _nobody = send.send(held.is_ok());
                });
                let can = receive.recv_timeout(SOON).unwrap_or(false);
                let _gone = group.answer(file, false);
                let _ended = tracer.join();
                return Ok(Some(can));
            }
        }
        Ok(None)
    })();
    let _gone = child.kill();
    let _gone = child.wait();
    can
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_a_thread_can_be_traced_when_no_lock_is_held() {
        if !rustix::process::geteuid().is_root() || Group::new().is_err() {
            eprintln!("skipped: root_a_thread_can_be_traced_when_no_lock_is_held: it needs root and fanotify");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // A marked interpreter is opened with that lock held, on every kernel: as the program itself was before Linux 6.8.
        let (script, interpreter) = (dir.path().join("script"), dir.path().join("interpreter"));
        assert!(Command::new("cp").arg("/bin/true").arg(&interpreter).status().unwrap().success());
        let text = format!("printf '#!%s\\n' '{}' > \"$0\"; chmod 755 \"$0\"", interpreter.display());
        assert!(Command::new("sh").arg("-c").arg(text).arg(&script).status().unwrap().success());
        assert_eq!(try_to(&script, &interpreter).unwrap(), Some(false));
        // Nobody waits for what is not executed.
        eprintln!("programs can be redirected on this kernel: {}", can_redirect(dir.path()).unwrap());
        assert!(!dir.path().join("probe").exists());
    }
}
