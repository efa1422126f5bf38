//! Programs in VMs for any Rust program, as `std::process` has them for the host: [`Fvm::run`], [`Fvm::spawn`].
//!
//! ```text
//!   Place::New(&NewVm) ─┐                                ┌─ input, output, errors: null, ours, given, or a pipe
//!   Place::In(&VmRecord)┴─ spawn(place, call, streams) ──┴─► Child ── wait ─► Ran { vm, ended }
//!                                                              └── wait_with_output ─► Output { .., output, errors }
//! ```
//!
//! A VM that a pool has ready is taken by [`Fvm::pool_spawn`], which starts no process and so needs nothing of this.
//!
//! Invariants: nothing is started by the calling process itself, so it may have any number of threads; what a program prints is
//! kept up to [`CAPTURE_MAX_BYTES`] and read beyond it, so that no program can fill the caller's memory, nor stop for want of a
//! reader.

use crate::worker::{Order, Report, What, work};
use crate::{Call, Ended, Fvm, FvmError, NewVm};
use fvm_model::VmRecord;
use fvm_model::path::Bytes;
use fvm_vm::forker::Forker;
use fvm_vm::{VmError, proto};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use rustix::stdio::{stderr, stdin, stdout};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

/// As much of each stream is kept by [`Child::wait_with_output`].
pub const CAPTURE_MAX_BYTES: usize = 16 << 20;

/// The process that starts others for a program, once there is one.
#[derive(Debug, Default)]
pub(crate) struct Starter(Mutex<Option<Arc<Forker<Order>>>>);

impl Starter {
    /// It, started now if it is not there.
    fn ready(&self) -> Result<Arc<Forker<Order>>, FvmError> {
        let mut starter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = &*starter {
            return Ok(Arc::clone(there));
        }
        let started = Arc::new(Forker::start(work)?);
        *starter = Some(Arc::clone(&started));
        Ok(started)
    }

    fn there(&self) -> Option<Arc<Forker<Order>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a program is to run.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In a VM of its own, forked from the host now.
    New(&'a NewVm),
    /// In a VM that is there: started for it if it is stopped, and stopped when the program has ended.
    In(&'a VmRecord),
}

/// One of a program's three streams.
#[derive(Debug, Default)]
pub enum Stream {
    /// Nothing: `/dev/null`.
    #[default]
    Null,
    /// The caller's own.
    Inherit,
    /// A new pipe: the other end is the [`Child`]'s.
    Pipe,
    /// This one.
    Given(OwnedFd),
}

/// A program's streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// Standard input.
    pub input: Stream,
    /// Standard output.
    pub output: Stream,
    /// Standard error.
    pub errors: Stream,
}

impl Streams {
    /// No input, and pipes for what is printed.
    #[must_use]
    pub fn captured() -> Self {
        Self { input: Stream::Null, output: Stream::Pipe, errors: Stream::Pipe }
    }

    /// The caller's own.
    #[must_use]
    pub fn inherited() -> Self {
        Self { input: Stream::Inherit, output: Stream::Inherit, errors: Stream::Inherit }
    }
}

/// A program that runs in a VM.
///
/// Dropped without having been waited for it runs on, and ends at the latest with the calling process.
#[derive(Debug)]
pub struct Child {
    /// The VM, as it was when the program began.
    pub vm: VmRecord,
    /// What the VM does not have, in words.
    pub notices: Vec<String>,
    /// Our end of its input, if that is a pipe.
    pub input: Option<File>,
    /// Our end of its output.
    pub output: Option<File>,
    /// Our end of its errors.
    pub errors: Option<File>,
    report: OwnedFd,
    pidfd: OwnedFd,
    /// It lives as long as a worker may.
    _starter: Arc<Forker<Order>>,
}

/// A program that ran.
#[derive(Debug)]
pub struct Ran {
    /// Its VM, as it is now; of an ephemeral one, as it was.
    pub vm: VmRecord,
    /// How it ended.
    pub ended: Ended,
}

/// What a program left.
#[derive(Debug)]
pub struct Output {
    /// Its VM, as it is now; of an ephemeral one, as it was.
    pub vm: VmRecord,
    /// How it ended.
    pub ended: Ended,
    /// What it printed.
    pub output: Vec<u8>,
    /// What it printed as errors.
    pub errors: Vec<u8>,
    /// One of the two was longer than [`CAPTURE_MAX_BYTES`]: what came then is not there.
    pub is_cut: bool,
    /// What the VM did not have, in words.
    pub notices: Vec<String>,
}

impl Child {
    /// Sends the program a signal: SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 or SIGUSR2. SIGKILL ends the process that keeps the VM,
    /// and so all of it; of a VM that another process keeps, the program gets SIGHUP then.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), FvmError> {
        let sent = rustix::process::pidfd_send_signal(&self.pidfd, signal);
        sent.map_err(|e| VmError::Sys("signal the program", e).into())
    }

    /// Waits for its end. Our end of its input is closed; its output is the caller's to read meanwhile.
    ///
    /// # Errors
    /// When the VM could not be ended or given back.
    pub fn wait(mut self) -> Result<Ran, FvmError> {
        drop(self.input.take());
        match receive(&self.report)?.0 {
            Report::Ended { vm, ended } => Ok(Ran { vm: *vm, ended }),
            other => Err(unexpected(other)),
        }
    }

    /// Reads what it prints until its end.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn wait_with_output(mut self) -> Result<Output, FvmError> {
        drop(self.input.take());
        let notices = std::mem::take(&mut self.notices);
        let mut streams = [self.output.take(), self.errors.take()];
        let mut kept = [Vec::new(), Vec::new()];
        let mut is_cut = false;
        // Once it has ended: more rounds than a pipe holds blocks.
        let (mut is_over, mut rounds_left) = (false, 32);
        while rounds_left > 0 {
            rounds_left -= i32::from(is_over);
            let ready = {
                let mut polled = vec![PollFd::new(&self.report, PollFlags::IN)];
                polled.extend(streams.iter().flatten().map(|stream| PollFd::new(stream, PollFlags::IN)));
                let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
                match poll(&mut polled, is_over.then_some(&now)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(VmError::Sys("wait for the program", e).into()),
                }
                polled.iter().map(|p| !p.revents().is_empty()).collect::<Vec<_>>()
            };
            let mut of_streams = ready[1..].iter();
            let mut has_read = false;
            for (stream, kept) in streams.iter_mut().zip(&mut kept) {
                if stream.is_some() && of_streams.next() == Some(&true) {
                    has_read = true;
                    is_cut |= take(stream, kept);
                }
            }
            // What it printed before its end is there to be read by then; who else holds the pipe is not waited for.
            if is_over && !has_read || streams.iter().all(Option::is_none) {
                break;
            }
            is_over |= ready[0];
        }
        let ran = self.wait()?;
        let [output, errors] = kept;
        Ok(Output { vm: ran.vm, ended: ran.ended, output, errors, is_cut, notices })
    }
}

/// Reads once; whether something was thrown away. The stream is gone at its end.
fn take(stream: &mut Option<File>, kept: &mut Vec<u8>) -> bool {
    let Some(open) = stream else { return false };
    let mut block = [0u8; 64 << 10];
    match rustix::io::read(&*open, &mut block[..]) {
        Ok(len @ 1..) => {
            let room = CAPTURE_MAX_BYTES - kept.len();
            kept.extend_from_slice(&block[..len.min(room)]);
            len > room
        }
        Err(Errno::INTR) => false,
        Ok(_) | Err(_) => {
            *stream = None;
            false
        }
    }
}

fn receive(report: &OwnedFd) -> Result<(Report, Vec<OwnedFd>), FvmError> {
    proto::read_message::<Report>(report)
        .map_err(|e| VmError::Sys("hear of the program", e))?
        .ok_or_else(|| FvmError::There { why: "the process that kept the VM died".into(), hint: None, code: 1 })
}

fn unexpected(report: Report) -> FvmError {
    match report {
        Report::Failed { why, hint, code } => FvmError::There { why, hint, code },
        _ => VmError::Internal("a worker reported something else".into()).into(),
    }
}

/// What the program gets, and our end of it.
fn open(stream: Stream, ours: BorrowedFd<'_>, is_input: bool) -> Result<(OwnedFd, Option<File>), Errno> {
    match stream {
        Stream::Null => Ok((rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?, None)),
        Stream::Inherit => Ok((rustix::io::fcntl_dupfd_cloexec(ours, 3)?, None)),
        Stream::Given(fd) => Ok((fd, None)),
        Stream::Pipe => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (theirs, ours) = if is_input { (read, write) } else { (write, read) };
            Ok((theirs, Some(File::from(ours))))
        }
    }
}

impl Fvm {
    /// Starts the process that starts all others for this program, if it is not there yet. To be called before the program has
    /// several threads; in one that never has, there is no need to.
    ///
    /// # Errors
    /// [`VmError::Threads`] when it is too late.
    pub fn start_forker(&self) -> Result<(), FvmError> {
        self.starter.ready().map(drop)
    }

    /// Runs a program in a new VM and waits for its end. What it printed is in the answer; an ephemeral VM is gone by then, any
    /// other is kept, stopped.
    ///
    /// # Errors
    /// As [`Fvm::spawn`].
    pub fn run(&self, new: &NewVm, call: &Call) -> Result<Output, FvmError> {
        self.spawn(Place::New(new), call, Streams::captured())?.wait_with_output()
    }

    /// The same in a VM that is there, running or not.
    ///
    /// # Errors
    /// As [`Fvm::spawn`].
    pub fn run_in(&self, record: &VmRecord, call: &Call) -> Result<Output, FvmError> {
        self.spawn(Place::In(record), call, Streams::captured())?.wait_with_output()
    }

    /// Starts a program in a VM, in a process of its own that keeps the VM as long as the program runs.
    ///
    /// # Errors
    /// [`VmError::Threads`]: this program has several threads, and [`Fvm::start_forker`] was not called before.
    /// [`FvmError::There`]: what that process met.
    pub fn spawn(&self, place: Place<'_>, call: &Call, streams: Streams) -> Result<Child, FvmError> {
        let call = Box::new(call.clone());
        let what = match place {
            Place::New(new) => {
                let user_home = new.user_home.clone().map(|home| Bytes(home.into()));
                What::New { new: Box::new(new.clone()), user_home, call }
            }
            Place::In(record) => What::In { vm: record.id.clone(), call },
        };
        let starter = self.starter.ready()?;
        let failed = |e| FvmError::from(VmError::Sys("open the program's streams", e));
        let (theirs_in, input) = open(streams.input, stdin(), true).map_err(failed)?;
        let (theirs_out, output) = open(streams.output, stdout(), false).map_err(failed)?;
        let (theirs_err, errors) = open(streams.errors, stderr(), false).map_err(failed)?;
        let given = [theirs_in.as_fd(), theirs_out.as_fd(), theirs_err.as_fd()];
        let report = self.order(&starter, what, given)?;
        match receive(&report)? {
            (Report::Begun { vm, notices }, mut fds) => {
                let pidfd = fds.pop().ok_or_else(|| unexpected(Report::Done))?;
                Ok(Child { vm: *vm, notices, input, output, errors, report, pidfd, _starter: starter })
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    fn order(&self, starter: &Forker<Order>, what: What, streams: [BorrowedFd<'_>; 3]) -> Result<OwnedFd, FvmError> {
        let (report, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| VmError::Sys("make a socket pair", e))?;
        let path = |path: &std::path::Path| Bytes(path.as_os_str().to_owned());
        let order = Order { state: path(self.home.state_dir()), run: path(self.home.run_dir()), what };
        starter.hand(&order, theirs.as_fd(), streams)?;
        Ok(report)
    }

    /// Has it done elsewhere, if there is an elsewhere, and waits until it is.
    pub(crate) fn done_there(&self, what: impl FnOnce() -> What) -> Option<Result<(), FvmError>> {
        let starter = self.starter.there()?;
        let ask = || {
            let what = what();
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| VmError::Sys("open /dev/null", e))?;
            let report = self.order(&starter, what, [null.as_fd(); 3])?;
            match receive(&report)?.0 {
                Report::Done => Ok(()),
                other => Err(unexpected(other)),
            }
        };
        Some(ask())
    }

    /// The same, without waiting.
    pub(crate) fn done_there_later(&self, what: What) -> Option<Result<(), FvmError>> {
        let starter = self.starter.there()?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        Some(
            null.map_err(|e| VmError::Sys("open /dev/null", e).into())
                .and_then(|null| self.order(&starter, what, [null.as_fd(); 3]).map(drop)),
        )
    }
}
