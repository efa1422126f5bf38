//! Starting the program that carries a router's packets to the outside ([`fvm_net::uplink`]).
//!
//! Invariant: it gets no descriptor but those named here, and no environment.

use fvm_net::uplink::Uplink;
use fvm_sys::process::{self, Waited};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

/// How long it may take to be ready.
const UPLINK_MAX_S: i64 = 10;
/// What is kept of what it says.
const SAID_MAX_BYTES: u64 = 2000;

/// Starts the uplink, and waits until packets pass.
pub(super) fn connect(uplink: &Uplink, netns: &str) -> Result<(), String> {
    let (ready, say) = rustix::pipe::pipe().map_err(|e| e.to_string())?;
    let ends_itself = uplink.forks();
    let mut command = Command::new(uplink.program());
    command.args(uplink.arguments(netns, say.as_raw_fd())).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let close = |fd: &OwnedFd| rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
    close(&ready).map_err(|e| e.to_string())?;
    if ends_itself {
        close(&say).map_err(|e| e.to_string())?;
    }
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", uplink.program().display()))?;
    drop(say);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("it has no process id")?;
    let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|e| e.to_string())?;
    let mut polled = vec![PollFd::new(&ended, PollFlags::IN)];
    if !ends_itself {
        polled.push(PollFd::new(&ready, PollFlags::IN));
    }
    let wait = rustix::time::Timespec { tv_sec: UPLINK_MAX_S, tv_nsec: 0 };
    let came = loop {
        match poll(&mut polled, Some(&wait)) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.to_string()),
            Ok(n) => break n > 0,
        }
    };
    let has_ended = !polled[0].revents().is_empty();
    drop(polled);
    if !came {
        let _already_gone = child.kill();
        return Err(format!("it was not ready after {UPLINK_MAX_S} s"));
    }
    if !has_ended {
        return Ok(());
    }
    match process::wait_blocking(pid.as_raw_nonzero().get(), false) {
        Ok((_, Waited::Exited(0))) if ends_itself => Ok(()),
        _ => Err(said(child)),
    }
}

/// What a program that failed had to say.
fn said(child: Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr {
        let _partly = stderr.take(SAID_MAX_BYTES).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| !line.contains("syslog"));
    let text = lines.collect::<Vec<_>>().join("; ");
    if text.is_empty() { "it failed without a word".into() } else { text }
}
