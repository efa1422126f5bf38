//! Which instructions a program runs, in the order in which it first does: `ptrace(2)`, step by step.
//!
//! ```text
//!   sh: stops itself ── seized ── executes fvm ─► each of fvm's instructions, those of its children too
//!                                    └─ executes another program: that one runs freely
//! ```

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// The addresses that were run.
#[derive(Debug, Default)]
pub struct Run {
    /// When each was run first.
    first: HashMap<u64, usize>,
}

impl Run {
    /// In the order in which they were run first.
    pub fn addresses(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.first.iter().map(|(address, when)| (*when, *address)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, address)| address).collect()
    }

    /// Runs a command to its end, `fvm` and its children step by step.
    pub fn follow(&mut self, line: &[String], fvm: &Path, home: &Path) -> io::Result<()> {
        // To wake each other on one processor takes them half the time; a pool's keeper waits for no slow client.
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let mut one = CpuSet::new();
        if let Some(first) = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap_or(false)) {
            one.set(first)?;
            sched_setaffinity(Pid::from_raw(0), &one)?;
        }
        // Whoever seizes it must know its number before it is fvm.
        let child = Command::new("/bin/sh")
            .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
            .args(line)
            // As short as it can be: each byte that fvm passes on is many steps.
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let main = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        waitpid(main, Some(WaitPidFlag::WUNTRACED))?;
        let options = Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(main, options)?;
        signal::kill(main, Signal::SIGCONT)?;
        let code = self.watch(main, fvm)?;
        if code != 0 {
            return Err(io::Error::other(format!("{} ended with {code}, stepped through", line.join(" "))));
        }
        Ok(())
    }

    /// Until nobody is left; the status of `main`.
    fn watch(&mut self, main: Pid, fvm: &Path) -> io::Result<i32> {
        let mut code = -1;
        // Those that run another program.
        let mut others = HashSet::from([main]);
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) => return Ok(code),
                status => status?,
            };
            let (pid, deliver) = match status {
                WaitStatus::Exited(pid, status) if pid == main => {
                    code = status;
                    continue;
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 {
                        let is_fvm = std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == fvm);
                        if is_fvm {
                            others.remove(&pid);
                        } else {
                            others.insert(pid);
                        }
                    } else if others.contains(&pid)
                        && let Ok(child) = ptrace::getevent(pid)
                    {
                        others.insert(Pid::from_raw(i32::try_from(child).unwrap_or(0)));
                    }
                    (pid, None)
                }
                WaitStatus::Stopped(pid, Signal::SIGTRAP) => (pid, None),
                WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
                _ => continue,
            };
            // It may have been killed meanwhile.
            let _gone = if others.contains(&pid) {
                ptrace::cont(pid, deliver)
            } else {
                if let Some(address) = at(pid) {
                    let count = self.first.len();
                    self.first.entry(address).or_insert(count);
                }
                ptrace::step(pid, deliver)
            };
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn at(pid: Pid) -> Option<u64> {
    ptrace::getregs(pid).ok().map(|registers| registers.rip)
}

#[cfg(not(target_arch = "x86_64"))]
fn at(_: Pid) -> Option<u64> {
    None
}
