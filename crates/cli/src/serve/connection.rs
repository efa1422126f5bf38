//! One client, in a process of its own with one thread: reads requests, has each carried out by a process of its own, writes answers.
//!
//! ```text
//!   client ⇄ socket ⇄ connection ─ fork ─► request (`request`)          one for each, many at once
//!                        ▲  ▲  └── input ────►│ 0
//!                        │  └── pipes ────────┤ 1, 2      captured, or sent on as events
//!                        └───── answer ───────┘
//! ```
//!
//! Invariants: what a client does not read is not read from its commands either, so that nothing grows without bound; when the
//! client is gone its commands are told so as by a terminal that closed (SIGHUP), and nobody is left when this process ends.

use super::arguments;
use super::protocol::{
    Answer, CAPTURE_MAX_BYTES, Captured, Id, LINE_MAX_BYTES, Lines, NoRequest, Request, TooLong, VERSION, Wanted,
    event, parse, whole_characters,
};
use super::request;
use crate::failure::Failure;
use fvm::model::exit;
use fvm::{Birth, Interrupts, Offspring, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// As many requests of one client are carried out at once.
const REQUESTS_MAX: usize = 16;
/// With more to write than this, no more is read.
const UNREAD_MAX_BYTES: usize = 1 << 20;
/// The longest answer of a command.
const ANSWER_MAX_BYTES: usize = 256 << 20;
/// Descriptors that came and were not yet asked for.
const FDS_MAX: usize = 3 * REQUESTS_MAX;
/// So long commands have to end when the server does.
const GRACE: Duration = Duration::from_secs(10);

/// So much longer a client has to read what is said of that.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A client.
struct Connection<'a> {
    client: &'a OwnedFd,
    home: &'a Path,
    lines: Lines,
    passed: VecDeque<OwnedFd>,
    unsent: Vec<u8>,
    running: Vec<Running>,
    /// Nothing more is read.
    is_read: bool,
    /// Nobody is there to write to.
    is_gone: bool,
    /// When what still runs is ended.
    deadline: Option<Instant>,
}

/// A request that is being carried out.
struct Running {
    id: Id,
    wanted: Wanted,
    process: Offspring,
    answer: Option<OwnedFd>,
    said: Vec<u8>,
    streams: [Option<OwnedFd>; 2],
    printed: [Vec<u8>; 2],
    is_cut: bool,
}

/// Serves `client` to its end.
pub fn serve(client: &OwnedFd, home: &Path) -> i32 {
    let mut interrupts = Interrupts::hold();
    let mut connection = Connection {
        client,
        home,
        lines: Lines::default(),
        passed: VecDeque::new(),
        unsent: Vec::new(),
        running: Vec::new(),
        is_read: false,
        is_gone: false,
        deadline: None,
    };
    if rustix::io::ioctl_fionbio(client, true).is_err() {
        return 1;
    }
    while !connection.is_over() {
        if connection.turn(&mut interrupts).is_err() {
            // Nothing can be waited for: those that run die with this process.
            return 1;
        }
    }
    0
}

/// What became ready.
#[derive(Clone, Copy)]
enum What {
    Client,
    Interrupt,
    Ended,
    Answer(usize),
    Stream(usize, usize),
}

impl Connection<'_> {
    fn is_over(&self) -> bool {
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline + LAST_WORD);
        let is_told = self.is_gone || self.unsent.is_empty() || is_late;
        (self.is_read || self.is_gone) && self.running.is_empty() && is_told
    }

    fn turn(&mut self, interrupts: &mut Interrupts) -> Result<(), Errno> {
        for (what, flags) in self.wait(interrupts)? {
            match what {
                What::Interrupt => {
                    if interrupts.heard() && self.deadline.is_none() {
                        self.is_read = true;
                        self.deadline = Some(Instant::now() + GRACE);
                        self.running.iter().for_each(|one| one.process.signal(Signal::TERM));
                    }
                }
                What::Client => {
                    if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
                        self.gone();
                    } else {
                        if flags.contains(PollFlags::OUT) {
                            self.send();
                        }
                        if flags.contains(PollFlags::IN) {
                            self.receive();
                        }
                    }
                }
                What::Answer(n) => self.running[n].hear(),
                What::Stream(n, stream) => self.running[n].read(stream, &mut self.unsent),
                // Below: what it said before is read first.
                What::Ended => {}
            }
        }
        self.finish();
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.running.iter().for_each(|one| one.process.signal(Signal::KILL));
        }
        // What was read before there was room for it.
        self.begin();
        Ok(())
    }

    /// Waits until something can be done.
    fn wait(&self, interrupts: &Interrupts) -> Result<Vec<(What, PollFlags)>, Errno> {
        let has_room = self.unsent.len() < UNREAD_MAX_BYTES;
        let (mut whats, mut polled) = (Vec::new(), Vec::new());
        if !self.is_gone {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !self.is_read && has_room && self.running.len() < REQUESTS_MAX);
            flags.set(PollFlags::OUT, !self.unsent.is_empty());
            whats.push(What::Client);
            polled.push(PollFd::new(self.client, flags));
        }
        if let Some(fd) = interrupts.as_fd() {
            whats.push(What::Interrupt);
            polled.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        for (n, one) in self.running.iter().enumerate() {
            whats.push(What::Ended);
            polled.push(PollFd::from_borrowed_fd(one.process.as_fd(), PollFlags::IN));
            if let Some(answer) = &one.answer {
                whats.push(What::Answer(n));
                polled.push(PollFd::new(answer, PollFlags::IN));
            }
            for (stream, fd) in one.streams.iter().enumerate() {
                if let Some(fd) = fd.as_ref().filter(|_| has_room || one.wanted == Wanted::Capture) {
                    whats.push(What::Stream(n, stream));
                    polled.push(PollFd::new(fd, PollFlags::IN));
                }
            }
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A little later, so that it has come.
        let left = left.and_then(|left| rustix::time::Timespec::try_from(left + Duration::from_millis(1)).ok());
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
        let ready = whats.into_iter().zip(&polled).map(|(what, fd)| (what, fd.revents()));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// The client hung up.
    fn gone(&mut self) {
        if !self.is_gone {
            self.is_gone = true;
            self.unsent = Vec::new();
            self.passed.clear();
            for one in &mut self.running {
                one.process.signal(Signal::HUP);
                one.streams = [None, None];
            }
        }
    }

    fn send(&mut self) {
        match rustix::io::write(self.client, &self.unsent) {
            Ok(len) => drop(self.unsent.drain(..len)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone(),
        }
    }

    fn receive(&mut self) {
        let mut block = [0u8; 64 << 10];
        match socket::receive(self.client, &mut block) {
            Ok((0, _)) => {
                self.is_read = true;
                if self.lines.has_rest() {
                    self.refuse(None, "the last line has no end");
                }
            }
            Ok((len, fds)) => {
                self.lines.push(&block[..len]);
                self.passed.extend(fds);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone(),
        }
    }

    /// Takes up what was read, as far as there is room.
    fn begin(&mut self) {
        while !self.is_gone && self.deadline.is_none() && self.running.len() < REQUESTS_MAX {
            match self.lines.take() {
                Ok(Some(line)) => self.take_up(&line),
                Ok(None) if self.passed.len() <= FDS_MAX => return,
                Ok(None) => return self.give_up("more descriptors came than requests can have"),
                Err(TooLong) => return self.give_up(&format!("a line is longer than {LINE_MAX_BYTES} bytes")),
            }
        }
    }

    fn refuse(&mut self, id: Option<&Id>, why: &str) {
        self.unsent.extend(Answer::refused(exit::USAGE, why, None).line(id, None));
    }

    /// What follows cannot be understood.
    fn give_up(&mut self, why: &str) {
        self.refuse(None, why);
        self.is_read = true;
        self.lines = Lines::default();
        self.passed.clear();
    }

    fn take_up(&mut self, line: &[u8]) {
        let request = match parse(line) {
            Ok(request) => request,
            Err(NoRequest { id, why }) => return self.refuse(id.as_ref(), &why),
        };
        // Before anything else is said of it: they are this one's.
        let passed: Option<Vec<OwnedFd>> = match request.streams {
            Wanted::Passed if self.passed.len() < 3 => {
                // Left there, another request would take them for its own.
                self.passed.clear();
                return self.refuse(Some(&request.id), "three descriptors come with 'streams': 'passed'");
            }
            Wanted::Passed => Some(self.passed.drain(..3).collect()),
            _ => None,
        };
        if self.running.iter().any(|one| one.id == request.id) {
            return self.refuse(Some(&request.id), "another request with this id is being carried out");
        }
        let answer = match request.method.as_str() {
            "hello" => Some(hello(self.home)),
            "signal" => Some(self.signal(&request)),
            _ => None,
        };
        if let Some(answer) = answer {
            return self.unsent.extend(answer.line(Some(&request.id), None));
        }
        let line = match arguments::command_line(&request.method, &request.params) {
            Ok(line) => line,
            Err(why) => return self.refuse(Some(&request.id), &why),
        };
        match self.start(&request, line, passed) {
            Ok(running) => self.running.push(running),
            Err(failure) => {
                let answer = Answer::refused(failure.code(), failure.text(), failure.hint());
                self.unsent.extend(answer.line(Some(&request.id), None));
            }
        }
    }

    fn signal(&self, request: &Request) -> Answer {
        const NAMES: [(&str, Signal); 8] = [
            ("INT", Signal::INT),
            ("TERM", Signal::TERM),
            ("HUP", Signal::HUP),
            ("QUIT", Signal::QUIT),
            ("USR1", Signal::USR1),
            ("USR2", Signal::USR2),
            // Of a terminal that was passed.
            ("WINCH", Signal::WINCH),
            ("KILL", Signal::KILL),
        ];
        let refused = |why: &str| Answer::refused(exit::USAGE, why, None);
        let Some(name) = request.params.get("signal").and_then(Value::as_str) else {
            return refused("'signal' is missing: the name of one");
        };
        let name = name.strip_prefix("SIG").unwrap_or(name);
        let Some((_, signal)) = NAMES.iter().find(|(known, _)| *known == name) else {
            return refused("'signal' is INT, TERM, HUP, QUIT, USR1, USR2, WINCH or KILL");
        };
        let id = request.params.get("request").and_then(|id| serde_json::from_value::<Id>(id.clone()).ok());
        let Some(one) = self.running.iter().find(|one| Some(&one.id) == id.as_ref()) else {
            return refused("'request' is no id of a request that is being carried out");
        };
        one.process.signal(*signal);
        Answer::default()
    }

    fn start(
        &self,
        request: &Request,
        line: Vec<std::ffi::OsString>,
        passed: Option<Vec<OwnedFd>>,
    ) -> Result<Running, Failure> {
        let failed = |e: Errno| Failure::new(format!("cannot begin: {e}"), "end other requests first");
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed);
        let (answer, reply) = pipe()?;
        let (mut ours, mut theirs) = ([None, None], [None, None, None]);
        match (request.streams, passed) {
            (Wanted::Passed, passed) => {
                for (theirs, fd) in theirs.iter_mut().zip(passed.into_iter().flatten()) {
                    *theirs = Some(fd);
                }
            }
            (Wanted::Null, _) => {}
            (Wanted::Capture | Wanted::Stream, _) => {
                theirs[0] =
                    request.input.as_ref().map(|input| file_of(input.0.as_bytes())).transpose().map_err(failed)?;
                for (n, ours) in ours.iter_mut().enumerate() {
                    let (read, write) = pipe()?;
                    (*ours, theirs[n + 1]) = (Some(read), Some(write));
                }
            }
        }
        for fd in ours.iter().flatten().chain([&answer]) {
            rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).map_err(failed)?;
        }
        let [input, output, errors] = &theirs;
        let birth = Birth {
            title: "fvm: request",
            streams: [input, output, errors].map(|fd| fd.as_ref().map(AsFd::as_fd)),
            keep: &[reply.as_raw_fd()],
            orphaned: Signal::KILL,
        };
        let home = self.home;
        let process = Offspring::start(&birth, move || request::carry_out(line, home, File::from(reply)))
            .map_err(fvm::FvmError::from)?;
        let (id, wanted) = (request.id.clone(), request.streams);
        Ok(Running {
            id,
            wanted,
            process,
            answer: Some(answer),
            said: Vec::new(),
            streams: ours,
            printed: [Vec::new(), Vec::new()],
            is_cut: false,
        })
    }

    /// Answers what is done.
    fn finish(&mut self) {
        let mut n = 0;
        while n < self.running.len() {
            let Some(code) = self.running[n].process.collect() else {
                n += 1;
                continue;
            };
            let line = self.running.swap_remove(n).finish(code, &mut self.unsent);
            if !self.is_gone {
                self.unsent.extend(line);
            }
        }
    }
}

impl Running {
    /// Reads its answer; it is at its end only when the process is.
    fn hear(&mut self) {
        if let Some(answer) = &self.answer {
            let mut block = [0u8; 64 << 10];
            match rustix::io::read(answer, &mut block[..]) {
                Ok(len @ 1..) if self.said.len() + len <= ANSWER_MAX_BYTES => {
                    self.said.extend_from_slice(&block[..len])
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(_) | Err(_) => self.answer = None,
            }
        }
    }

    /// Reads what it prints.
    fn read(&mut self, stream: usize, unsent: &mut Vec<u8>) {
        let Some(fd) = &self.streams[stream] else { return };
        let mut block = [0u8; 64 << 10];
        match rustix::io::read(fd, &mut block[..]) {
            Ok(len @ 1..) => self.take(stream, &block[..len], unsent),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => self.streams[stream] = None,
        }
    }

    fn take(&mut self, stream: usize, bytes: &[u8], unsent: &mut Vec<u8>) {
        let printed = &mut self.printed[stream];
        if self.wanted == Wanted::Stream {
            printed.extend_from_slice(bytes);
            let rest = printed.split_off(whole_characters(printed));
            let now = std::mem::replace(printed, rest);
            if !now.is_empty() {
                unsent.extend(event(&self.id, NAMES[stream], now));
            }
            return;
        }
        let room = CAPTURE_MAX_BYTES - printed.len();
        printed.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_cut |= bytes.len() > room;
    }

    /// What is said of it in the end. `code`: of its process.
    fn finish(mut self, code: i32, unsent: &mut Vec<u8>) -> Vec<u8> {
        // What it wrote before its end is there; who else holds its pipes is not waited for.
        const ROUNDS: usize = 32;
        while self.answer.is_some() {
            let before = self.said.len();
            self.hear();
            if self.said.len() == before {
                break;
            }
        }
        for stream in 0..2 {
            for _ in 0..ROUNDS {
                self.read(stream, unsent);
            }
        }
        let captured = match self.wanted {
            Wanted::Capture => Some(Captured::new(std::mem::take(&mut self.printed), self.is_cut)),
            Wanted::Stream => {
                for (name, rest) in NAMES.into_iter().zip(std::mem::take(&mut self.printed)) {
                    if !rest.is_empty() {
                        unsent.extend(event(&self.id, name, rest));
                    }
                }
                None
            }
            Wanted::Passed | Wanted::Null => None,
        };
        let answer = match serde_json::from_slice::<Answer>(&self.said) {
            Ok(answer) if code == 0 => answer,
            _ if self.said.len() + (64 << 10) > ANSWER_MAX_BYTES => {
                Answer::refused(exit::FAILED, "the answer is too long", Some("ask for less at once"))
            }
            _ => {
                let how = if code > 128 { format!("by signal {}", code - 128) } else { format!("with code {code}") };
                Answer::refused(exit::FAILED, format!("what carried it out ended {how}"), None)
            }
        };
        answer.line(Some(&self.id), captured.as_ref())
    }
}

/// Of the two streams that are read.
const NAMES: [&str; 2] = ["stdout", "stderr"];

fn hello(home: &Path) -> Answer {
    Answer::done(json!({
        "protocol": VERSION,
        "fvm": env!("CARGO_PKG_VERSION"),
        "home": fvm::model::path::Bytes(home.as_os_str().to_owned()),
        "methods": arguments::methods(),
        "limits": {
            "line_bytes": LINE_MAX_BYTES,
            "capture_bytes": CAPTURE_MAX_BYTES,
            "answer_bytes": ANSWER_MAX_BYTES,
            "requests": REQUESTS_MAX,
        },
    }))
}

/// A file that holds `bytes` and has no name.
fn file_of(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let mut file = File::from(rustix::fs::memfd_create("fvm-input", MemfdFlags::CLOEXEC)?);
    let written = file.write_all(bytes).and_then(|()| file.rewind());
    written.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(file.into())
}
