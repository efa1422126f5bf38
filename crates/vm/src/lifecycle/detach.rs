//! VMs with a keeper of their own, and the program that one starts, waits for, and starts again.
//!
//! ```text
//!   detach ── fork ──► keeper: boot ─ start ─ "ready"
//!                        │                └─► wait ─ ended ─ restart? ── no ──► the VM ends
//!                        └ requests are answered   ▲            │ yes
//!                          all the time            └── start ◄── pause
//! ```
//!
//! Invariants: the VM ends with its program, unless the program is to be started again; a VM that is asked to end ends,
//! whatever its program is to do; while the VM is suspended nothing is started.

use super::{Call, Running, boot, pass, session_pair, with_streams};
use crate::attach::Streams;
use crate::error::VmError;
use crate::home::{Home, VmLock};
use crate::keeper::{self, Woken};
use crate::proto::{self, Order, Program, Status, Step};
use crate::relay::{self, LOG_MAX_BYTES, Relays};
use fvm_host::HostFacts;
use fvm_model::restart::Backoff;
use fvm_model::{VmRecord, exit};
use fvm_sys::process::{self, Fork};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode as FileMode, OFlags};
use rustix::io::Errno;
use std::sync::PoisonError;
use std::time::Instant;

/// Starts a VM with a keeper of its own and returns when it is ready. When `call` has a program, its output goes to
/// the VM's log, and the VM ends with it, or starts it again, as the record says.
///
/// # Errors
/// Those of [`boot`], as the keeper met them.
pub fn detach(home: &Home, facts: &HostFacts, record: VmRecord, lock: VmLock, call: &Call) -> Result<(), VmError> {
    if !process::has_one_thread() {
        return Err(VmError::Threads("start a VM"));
    }
    let log_path = home.output_log(&record.id);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let log =
        fs::open(&log_path, flags, FileMode::RUSR | FileMode::WUSR).map_err(|e| VmError::sys("open", &log_path, e))?;
    let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty())
        .map_err(|e| VmError::Sys("open /dev/null", e))?;
    let (result, report) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| VmError::Sys("make a pipe", e))?;
    match process::fork().map_err(|e| VmError::Sys("start a keeper", e))? {
        Fork::Parent(_) => {
            drop((report, lock));
            let mut text = Vec::new();
            let mut buffer = [0u8; 4096];
            while let Ok(len @ 1..) = rustix::io::read(&result, &mut buffer[..]) {
                text.extend_from_slice(&buffer[..len]);
            }
            match text.as_slice() {
                b"ready" => Ok(()),
                [] => Err(VmError::Keeper { name: record.name, why: "it died while starting".into() }),
                why => Err(VmError::Setup {
                    step: "start its keeper".into(),
                    why: String::from_utf8_lossy(why).into_owned(),
                }),
            }
        }
        Fork::Child => {
            drop(result);
            let say = |text: &str| {
                // The parent is the only reader; if it left, nobody needs to know.
                let _left = rustix::io::write(&report, text.as_bytes());
            };
            let _leader = rustix::process::setsid();
            let quiet = (0..3).all(|target| process::install_stdio(null.as_raw_fd(), target).is_ok());
            let _root = rustix::process::chdir("/");
            if !quiet {
                say("cannot open /dev/null");
                process::exit_now(1);
            }
            let code = match start_kept(home, facts, record, lock, call, (null, log)) {
                Ok((running, tended)) => {
                    say("ready");
                    drop(report);
                    i32::from(running.keep(tended).is_err())
                }
                Err(e) => {
                    say(&e.to_string());
                    1
                }
            };
            process::exit_now(code)
        }
    }
}

fn start_kept(
    home: &Home,
    facts: &HostFacts,
    record: VmRecord,
    lock: VmLock,
    call: &Call,
    (null, log): (OwnedFd, OwnedFd),
) -> Result<(Running, Option<(Tended, Started)>), VmError> {
    let running = boot(home, facts, record, lock, call, false)?;
    if call.argv.is_empty() {
        return Ok((running, None));
    }
    let program = call.program(&running.kept.record(), &Streams { is_terminal: [false; 3], terminal: None });
    let tended = Tended { program, null, log };
    let started = tended.start(&running.vm.orders)?;
    Ok((running, Some((tended, started))))
}

/// A program that its keeper may start more than once.
struct Tended {
    program: Program,
    null: OwnedFd,
    log: OwnedFd,
}

/// One start of it.
struct Started {
    session: OwnedFd,
    relayed: relay::Running,
    at: Instant,
}

impl Tended {
    fn start(&self, orders: &OwnedFd) -> Result<Started, VmError> {
        let (session, theirs) = session_pair()?;
        // All starts share the log.
        let written = fs::fstat(&self.log).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        let streams = [&self.null, &self.log, &self.log].map(AsFd::as_fd);
        let relays = Relays::of(streams, LOG_MAX_BYTES.saturating_sub(written));
        let relays = relays.map_err(|e| VmError::Sys("pass the streams", e))?;
        let mut program = self.program.clone();
        pass(&mut program, &relays);
        let fds = with_streams(&theirs, program.passed, &relays);
        proto::write_message(orders, &Order::Start(program), &fds).map_err(|e| VmError::Sys("reach init", e))?;
        let relayed = relays.start().map_err(|e| VmError::Sys("pass the streams", e))?;
        Ok(Started { session, relayed, at: Instant::now() })
    }
}

impl Running {
    /// Keeps the VM until init ends, or, with a program, until that ends for good.
    fn keep(mut self, tended: Option<(Tended, Started)>) -> Result<(), VmError> {
        self.makers.collect();
        match tended {
            Some((tended, started)) => self.tend(&tended, started),
            None => drop(self.serve(None, || None)),
        }
        self.end().map(drop)
    }

    fn serve(&self, also: Option<&OwnedFd>, due: impl Fn() -> Option<Instant>) -> Woken {
        // When waiting fails there is nothing left to be done for the VM.
        keeper::serve(&self.control, &self.vm, &self.kept, also, due).unwrap_or(Woken::Ended)
    }

    /// Starts the program again and again, as the record says.
    fn tend(&self, tended: &Tended, mut started: Started) {
        let mut backoff = Backoff::default();
        loop {
            let (woken, status) = self.wait_for(&started.session);
            let ran = started.at.elapsed();
            started.relayed.finish();
            if let Some(status) = status {
                self.kept.ended(status);
            }
            let Some(status) = status.filter(|status| woken != Woken::Ended && self.kept.restarts_after(*status))
            else {
                return;
            };
            let due = Instant::now() + backoff.after(ran);
            let when = || {
                let is_suspended = self.vm.pause.lock().unwrap_or_else(PoisonError::into_inner).now;
                match (is_suspended, self.kept.restarts_after(status)) {
                    (true, _) => None,
                    (_, true) => Some(due),
                    // It was configured otherwise.
                    (_, false) => Some(Instant::now()),
                }
            };
            if self.serve(None, when) == Woken::Ended || !self.kept.restarts_after(status) {
                return;
            }
            let Ok(again) = tended.start(&self.vm.orders) else { return };
            self.kept.restarted();
            started = again;
        }
    }

    /// Waits until the program ends, or the VM; the exit status, if there is one.
    fn wait_for(&self, session: &OwnedFd) -> (Woken, Option<i32>) {
        let mut decided = None;
        let mut woken = Woken::Readable;
        loop {
            // Of a VM that has ended, what was said before is there to be read, and then the end.
            if woken != Woken::Ended {
                woken = self.serve(Some(session), || None);
            }
            let ended = match proto::read_packet::<Status>(session) {
                Some((Status::Started { .. } | Status::Stopped(_) | Status::NobodyLeft, _)) => continue,
                Some((Status::NotExecuted { step, errno }, _)) => {
                    decided = Some(not_executed(step, errno));
                    continue;
                }
                Some((Status::TimedOut, _)) => {
                    decided = Some(exit::RUN_TIMED_OUT.into());
                    continue;
                }
                Some((Status::Exited(code) | Status::Last(code), _)) => Some(code & 0xff),
                Some((Status::Signaled(signal), _)) => Some(128 + signal),
                None if woken == Woken::Ended => None,
                None => Some(exit::RUN_FAILED.into()),
            };
            return (woken, decided.or(ended));
        }
    }
}

/// The exit status of what was not executed.
fn not_executed(step: Step, errno: i32) -> i32 {
    let code = match step {
        Step::User | Step::Directory => exit::RUN_FAILED,
        Step::Execute if errno == Errno::NOENT.raw_os_error() => exit::RUN_NOT_FOUND,
        Step::Execute => exit::RUN_NOT_EXECUTABLE,
    };
    code.into()
}
