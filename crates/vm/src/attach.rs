//! The client's side of a program: passes terminal, signals and the end of the program, and nothing else.
//!
//! ```text
//!   our terminal ⇄ (raw) ⇄ master of the VM's pty ⇄ program        only for the streams that are a terminal
//!   our pipes and files ─────────────────────────── program        handed over as they are
//!   our signals ── Word::Signal ── session socket ── program
//! ```
//!
//! Invariants: the terminal is always given back as it was found, also when the program or its VM dies; bytes are
//! never looked at.

use crate::error::VmError;
use crate::proto::{self, Status, Step, WindowSize, Word};
use fvm_sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{self, OptionalActions, Termios};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How a program ended, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With a code.
    Exited(i32),
    /// By a signal.
    Signaled(i32),
    /// It was never executed: at which step, and an error number.
    NotExecuted(Step, i32),
    /// Its time was over.
    TimedOut,
    /// The VM went away under it.
    Lost,
}

/// The streams of this process, as a program in a VM is to get them.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// Is a terminal: input, output, error.
    pub is_terminal: [bool; 3],
    /// The size of that terminal, when there is one.
    pub terminal: Option<WindowSize>,
}

impl Streams {
    /// Looks at our own three streams.
    #[must_use]
    pub fn of_this_process() -> Self {
        let is_terminal = [termios::isatty(stdin()), termios::isatty(stdout()), termios::isatty(stderr())];
        Self { is_terminal, terminal: is_terminal.contains(&true).then(window_size) }
    }

    /// With our input a terminal and our output not (`fvm run -- x | less`), the terminal belongs to the pipeline: it
    /// stays in its usual mode, and nothing is read from it unless the program asks.
    #[must_use]
    pub fn begins_in_background(&self) -> bool {
        self.is_terminal[0] && !self.is_terminal[1]
    }

    /// Which of our streams are handed over as they are.
    #[must_use]
    pub fn passed(&self) -> [bool; 3] {
        self.is_terminal.map(|is| !is)
    }
}

fn window_size() -> WindowSize {
    [stdout(), stdin(), stderr()]
        .into_iter()
        .find_map(|fd| termios::tcgetwinsize(fd).ok())
        .map_or(WindowSize { rows: 24, columns: 80 }, |w| WindowSize { rows: w.ws_row, columns: w.ws_col })
}

/// The signals that a client passes on.
#[must_use]
pub fn forwarded() -> Vec<i32> {
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH]
        .map(Signal::as_raw)
        .to_vec()
}

/// The signals of [`forwarded`] while they are a program's and not ours: they wait until [`attach`] passes them on. From before it may
/// run: it can ask for one as soon as it does.
#[derive(Debug)]
pub struct Held {
    fd: OwnedFd,
    /// Those that nobody held before.
    ours: Vec<i32>,
}

impl Held {
    /// From now on, in this thread and in those that it starts.
    ///
    /// # Errors
    /// The kernel's, as what was attempted.
    pub fn take() -> Result<Self, VmError> {
        let ours = process::unblocked_of(&forwarded());
        match process::signal_fd(&forwarded()) {
            Ok(fd) => Ok(Self { fd, ours }),
            Err(e) => {
                process::unblock_signals(&ours);
                Err(VmError::Sys("take signals", e))
            }
        }
    }

    /// They are held since before libc had started, when those of `mask` were blocked.
    ///
    /// # Errors
    /// The kernel's, as what was attempted.
    pub fn since(mask: u64) -> Result<Self, VmError> {
        let fd = process::signal_fd(&forwarded()).map_err(|e| VmError::Sys("take signals", e))?;
        let ours = forwarded().into_iter().filter(|signal| mask & (1 << (signal - 1)) == 0).collect();
        Ok(Self { fd, ours })
    }

    /// Readable when one waits that would have ended this process.
    ///
    /// # Errors
    /// The kernel's, as what was attempted.
    pub fn interrupt(&self) -> Result<OwnedFd, VmError> {
        // Held, what is ignored waits like any other: a hangup under nohup(1).
        let ends = |signal: &i32| *signal != Signal::WINCH.as_raw() && !process::ignores_signal(*signal);
        let ending: Vec<i32> = forwarded().into_iter().filter(ends).collect();
        process::signal_fd(&ending).map_err(|e| VmError::Sys("take signals", e))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What came when there was no program any more was for it all the same.
        while let Ok(Some(_)) = process::next_signal(&self.fd) {}
        process::unblock_signals(&self.ours);
    }
}

/// Our terminal in raw mode; as it was, when dropped.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn enter(wanted: bool) -> Self {
        let before = if wanted { termios::tcgetattr(stdin()).ok() } else { None };
        let guard = Self { before };
        guard.on();
        guard
    }

    fn on(&self) {
        if let Some(before) = &self.before {
            let mut raw = before.clone();
            raw.make_raw();
            let _hung_up = termios::tcsetattr(stdin(), OptionalActions::Drain, &raw);
        }
    }

    fn off(&self) {
        if let Some(before) = &self.before {
            let _hung_up = termios::tcsetattr(stdin(), OptionalActions::Drain, before);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.off();
    }
}

/// What a program left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// How it ended.
    pub ended: Ended,
    /// The VM has no process but its init any more.
    pub nobody_left: bool,
}

/// What is to be done once, when a program has run for some time.
pub struct Later<'a> {
    /// When.
    pub due: Instant,
    /// What.
    pub act: &'a mut dyn FnMut(),
}

/// Serves a program until it ends. `knock`: called once, when its descriptor is readable.
///
/// # Errors
/// When waiting fails.
pub fn attach(
    session: &OwnedFd,
    Held { fd: signals, .. }: &Held,
    streams: Streams,
    mut knock: Option<(BorrowedFd<'_>, &mut dyn FnMut())>,
    mut later: Option<Later<'_>>,
) -> Result<Attached, Errno> {
    let [terminal_in, terminal_out, _] = streams.is_terminal;
    let raw = Raw::enter(!streams.begins_in_background() && terminal_in);
    let screen = if terminal_out { stdout() } else { stderr() };
    let mut master: Option<OwnedFd> = None;
    let mut reads_input = terminal_in && !streams.begins_in_background();
    let (mut decided, mut nobody_left) = (None, false);
    loop {
        let mut polled = vec![PollFd::new(session, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let stdin_fd = stdin();
        if let Some(fd) = &master {
            polled.push(PollFd::new(fd, PollFlags::IN));
            if reads_input {
                polled.push(PollFd::from_borrowed_fd(stdin_fd, PollFlags::IN));
            }
        }
        let own = polled.len();
        polled.extend(knock.iter().map(|(fd, _)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let left = later.as_ref().map(|later| timespec(later.due.saturating_duration_since(Instant::now())));
        match poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        if let Some(Later { act, .. }) = later.take_if(|later| later.due <= Instant::now()) {
            act();
        }
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        if ready.get(own) == Some(&true)
            && let Some((_, answer)) = knock.take()
        {
            answer();
        }
        let is_ready = |index: usize| index < own && ready[index];
        if let Some(fd) = &master {
            if is_ready(2) && !copy(fd.as_fd(), screen) && !is_ready(0) {
                // The VM's side of the terminal is closed: only the end of the program is to come.
                master = None;
                continue;
            }
            if is_ready(3) && !copy(stdin_fd, fd.as_fd()) {
                reads_input = false;
                let _closed = rustix::io::write(fd, &[4]);
            }
        }
        if is_ready(1) {
            while let Some(signal) = process::next_signal(signals)? {
                if signal == Signal::WINCH.as_raw() {
                    resize(master.as_ref());
                } else {
                    let _ended = proto::write_packet(session, &Word::Signal(signal), &[]);
                }
            }
        }
        if is_ready(0) {
            match proto::read_packet::<Status>(session) {
                Some((Status::Started { .. }, mut fds)) => {
                    master = fds.pop();
                    if raw.before.is_none() {
                        quiet(master.as_ref());
                    }
                }
                Some((Status::NotExecuted { step, errno }, _)) => decided = Some(Ended::NotExecuted(step, errno)),
                Some((Status::TimedOut, _)) => decided = Some(Ended::TimedOut),
                Some((Status::NobodyLeft, _)) => nobody_left = true,
                Some((Status::Stopped(signal), _))
                    if signal == Signal::TTIN.as_raw() || signal == Signal::TTOU.as_raw() =>
                {
                    // It wants the terminal: from now on our input is its input.
                    reads_input = terminal_in;
                    let _ended = proto::write_packet(session, &Word::Continue, &[]);
                }
                Some((Status::Stopped(_), _)) => {
                    raw.off();
                    // Our shell sees a stopped job; `fg` brings us back to the next line.
                    let _never = process::kill(rustix::process::getpid().as_raw_nonzero().get(), Signal::STOP.as_raw());
                    raw.on();
                    resize(master.as_ref());
                    let _ended = proto::write_packet(session, &Word::Continue, &[]);
                }
                ended => {
                    if let Some(fd) = &master {
                        drain(fd, screen);
                    }
                    nobody_left |= matches!(ended, Some((Status::Last(_), _)));
                    let ended = match ended {
                        Some((Status::Exited(code) | Status::Last(code), _)) => Ended::Exited(code),
                        Some((Status::Signaled(signal), _)) => Ended::Signaled(signal),
                        _ => Ended::Lost,
                    };
                    return Ok(Attached { ended: decided.unwrap_or(ended), nobody_left });
                }
            }
        }
    }
}

fn timespec(left: Duration) -> rustix::time::Timespec {
    rustix::time::Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
}

fn resize(master: Option<&OwnedFd>) {
    if let Some(fd) = master {
        let size = window_size();
        let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _closed = termios::tcsetwinsize(fd, size);
    }
}

/// Our own terminal stays in its usual mode, and already echoes and turns newlines: the VM's must not do so again.
fn quiet(master: Option<&OwnedFd>) {
    if let Some(fd) = master
        && let Ok(mut mode) = termios::tcgetattr(fd)
    {
        mode.local_modes -= termios::LocalModes::ECHO;
        mode.output_modes -= termios::OutputModes::ONLCR;
        let _closed = termios::tcsetattr(fd, OptionalActions::Now, &mode);
    }
}

/// Moves what is there from one to the other; false at the end of either.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 32 << 10];
    match rustix::io::read(from, &mut buffer[..]) {
        Ok(0) => false,
        Ok(len) => write_all(to, &buffer[..len]),
        Err(Errno::INTR | Errno::AGAIN) => true,
        Err(_) => false,
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut polled = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
                if poll(&mut polled, None).is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// What the program printed before it ended and we have not yet passed on. Other programs may keep the terminal
/// open, so: only what is there now.
fn drain(master: &OwnedFd, screen: BorrowedFd<'_>) {
    // More than a terminal holds: who goes on writing is not waited for.
    const TIMES: u32 = 16;
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    for _ in 0..TIMES {
        let mut polled = [PollFd::new(master, PollFlags::IN)];
        let more = poll(&mut polled, Some(&now)).is_ok_and(|n| n > 0) && polled[0].revents().contains(PollFlags::IN);
        if !more || !copy(master.as_fd(), screen) {
            return;
        }
    }
}
