//! The line to a browser: commands out, answers and events in, one thread, every wait with an end.
//!
//! ```text
//!   send ─► to write ─┐                          ┌─► answers, events ─► next, ask
//!                     ├─ poll(until a moment) ───┤
//!   read, errors ─────┘                          └─► the last words on standard error
//! ```
//!
//! Invariants: it reads also while it waits to write, so that neither side waits for the other for ever; what waits to be taken is
//! bounded: while [`QUEUE_MAX`] messages wait nothing is read.

use super::{Frame, Message, Refusal, Splitter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::time::{Duration, Instant};

/// So many messages wait to be taken before nothing more is read.
const QUEUE_MAX: usize = 10_000;
/// So many bytes wait to be written before nothing more is sent: a browser that takes none is as good as dead.
const UNSENT_MAX_BYTES: usize = 16 << 20;
/// So much of what the browser said last on its standard error is kept.
const ERRORS_MAX_BYTES: usize = 8 << 10;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The browser ended, or closed the line.
    #[error("the browser ended")]
    Gone,
    /// It did not answer in time.
    #[error("the browser did not answer in time")]
    Late,
    /// It refused.
    #[error("the browser refused: {0}")]
    Refused(String),
}

/// The line.
#[derive(Debug)]
pub struct Line {
    input: File,
    output: File,
    errors: Option<File>,
    splitter: Splitter,
    waiting: VecDeque<Message>,
    unsent: VecDeque<u8>,
    last_words: VecDeque<u8>,
    next_id: u64,
    too_long: u64,
    is_closed: bool,
}

impl Line {
    /// A line over these pipes: the browser's descriptors 3 and 4, and its standard error.
    ///
    /// # Errors
    /// When they cannot be made not to wait.
    pub fn new(input: File, output: File, errors: Option<File>) -> Result<Self, Errno> {
        for pipe in [Some(&input), Some(&output), errors.as_ref()].into_iter().flatten() {
            rustix::fs::fcntl_setfl(pipe, rustix::fs::fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            input,
            output,
            errors,
            splitter: Splitter::default(),
            waiting: VecDeque::new(),
            unsent: VecDeque::new(),
            last_words: VecDeque::new(),
            next_id: 0,
            too_long: 0,
            is_closed: false,
        })
    }

    /// Writes bytes as they are: for whoever is there before the browser.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        if self.unsent.len() + bytes.len() > UNSENT_MAX_BYTES {
            self.is_closed = true;
        } else {
            self.unsent.extend(bytes);
        }
    }

    /// Sends a command and returns its number; it goes out when something is waited for.
    pub fn send(&mut self, session: Option<&str>, method: &str, params: Value) -> u64 {
        self.next_id += 1;
        let mut command = serde_json::json!({"id": self.next_id, "method": method, "params": params});
        if let (Some(session), Value::Object(fields)) = (session, &mut command) {
            fields.insert("sessionId".into(), session.into());
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.send_raw(&bytes);
        self.next_id
    }

    /// The next message; `None`: there was none until then.
    ///
    /// # Errors
    /// [`LineError::Gone`], when all that came before has been taken.
    pub fn next(&mut self, until: Instant) -> Result<Option<Message>, LineError> {
        loop {
            self.write();
            if let Some(message) = self.waiting.pop_front() {
                return Ok(Some(message));
            }
            if self.is_closed {
                return Err(LineError::Gone);
            }
            let left = until.saturating_duration_since(Instant::now());
            if !self.turn(left) && left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Sends a command and waits for its answer; `each` is given what comes before it.
    ///
    /// # Errors
    /// As [`LineError`] says.
    pub fn ask(
        &mut self,
        session: Option<&str>,
        method: &str,
        params: Value,
        until: Instant,
        mut each: impl FnMut(&mut Self, Message),
    ) -> Result<Value, LineError> {
        let id = self.send(session, method, params);
        loop {
            match self.next(until)? {
                Some(Message::Answer(of, answer)) if of == id => {
                    return answer.map_err(|Refusal(why)| LineError::Refused(why));
                }
                Some(other) => each(self, other),
                None => return Err(LineError::Late),
            }
            // Events alone must not keep it going.
            if Instant::now() >= until {
                return Err(LineError::Late);
            }
        }
    }

    /// How many messages were too long, or none.
    #[must_use]
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// The last that the browser said on its standard error.
    #[must_use]
    pub fn last_words(&self) -> Vec<u8> {
        self.last_words.iter().copied().collect()
    }

    /// Waits once; whether something came.
    fn turn(&mut self, left: Duration) -> bool {
        let may_read = self.waiting.len() < QUEUE_MAX;
        let ready = {
            let out = if may_read { PollFlags::IN } else { PollFlags::empty() };
            let into = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            let mut polled = vec![PollFd::new(&self.output, out), PollFd::new(&self.input, into)];
            polled.extend(self.errors.iter().map(|errors| PollFd::new(errors, PollFlags::IN)));
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            match poll(&mut polled, Some(&left)) {
                Ok(0) | Err(_) => return false,
                Ok(_) => polled.iter().map(PollFd::revents).collect::<Vec<_>>(),
            }
        };
        if ready.get(2).is_some_and(|events| !events.is_empty()) {
            self.hear();
        }
        if !ready[0].is_empty() {
            self.read();
        }
        // What is written to nobody fails at the next turn.
        ready.iter().enumerate().any(|(n, events)| n != 1 && !events.is_empty())
    }

    fn write(&mut self) {
        while !self.unsent.is_empty() {
            match rustix::io::write(&self.input, self.unsent.as_slices().0) {
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // What it said before is still to be read, and then its end.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    fn read(&mut self) {
        let mut block = [0u8; 64 << 10];
        let Self { splitter, waiting, too_long, .. } = self;
        match rustix::io::read(&self.output, &mut block[..]) {
            Ok(0) => self.is_closed = true,
            Ok(len) => splitter.feed(&block[..len], |frame| match frame {
                Frame::Whole(text) => match Message::parse(&text) {
                    Some(message) => waiting.push_back(message),
                    None => *too_long += 1,
                },
                Frame::TooLong(_) => *too_long += 1,
            }),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.is_closed = true,
        }
    }

    fn hear(&mut self) {
        let Some(errors) = &self.errors else { return };
        let mut block = [0u8; 4 << 10];
        match rustix::io::read(errors, &mut block[..]) {
            Ok(0) => self.errors = None,
            Ok(len) => {
                self.last_words.extend(&block[..len]);
                let over = self.last_words.len().saturating_sub(ERRORS_MAX_BYTES);
                drop(self.last_words.drain(..over));
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.errors = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;
    use serde_json::json;
    use std::io::{Read, Write};

    fn line() -> (Line, File, File) {
        let (theirs_in, ours_in) = pipe().unwrap();
        let (ours_out, theirs_out) = pipe().unwrap();
        (Line::new(ours_in.into(), ours_out.into(), None).unwrap(), theirs_in.into(), theirs_out.into())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn what_comes_before_an_answer_is_given_on() {
        let (mut line, mut theirs_in, mut theirs_out) = line();
        theirs_out
            .write_all(b"{\"method\":\"A.b\"}\0{\"id\":9,\"result\":{}}\0{\"id\":1,\"result\":{\"x\":1}}\0")
            .unwrap();
        let mut seen = Vec::new();
        let answer = line.ask(Some("S"), "C.d", json!({"y": 2}), soon(), |_, other| seen.push(other));
        assert_eq!(answer, Ok(json!({"x": 1})));
        assert!(matches!(&seen[..], [Message::Event(event), Message::Answer(9, Ok(_))] if event.method == "A.b"));
        let sent: Vec<u8> =
            std::io::BufReader::new(&mut theirs_in).bytes().map(Result::unwrap).take_while(|b| *b != 0).collect();
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        assert_eq!(sent, json!({"id": 1, "method": "C.d", "params": {"y": 2}, "sessionId": "S"}));
    }

    #[test]
    fn a_browser_that_ends_or_is_silent_is_an_error_and_what_it_said_before_is_not_lost() {
        let (mut line, theirs_in, mut theirs_out) = line();
        assert_eq!(line.ask(None, "C.d", json!({}), Instant::now(), |_, _| ()), Err(LineError::Late));
        theirs_out.write_all(b"{\"method\":\"A.b\"}\0").unwrap();
        drop((theirs_in, theirs_out));
        line.send(None, "E.f", json!({}));
        assert!(matches!(line.next(soon()), Ok(Some(Message::Event(_)))));
        assert_eq!(line.next(soon()), Err(LineError::Gone));
    }

    #[test]
    fn a_flood_is_not_kept_and_a_long_command_goes_out_in_parts() {
        let (mut line, mut theirs_in, mut theirs_out) = line();
        let long = "x".repeat(1 << 20);
        line.send(None, "C.d", json!({"long": long}));
        let reader = std::thread::spawn(move || {
            let mut got = vec![0u8; 1 << 20];
            theirs_in.read_exact(&mut got).unwrap();
        });
        let writer = std::thread::spawn(move || {
            for _ in 0..50_000 {
                theirs_out.write_all(b"{\"method\":\"A.b\",\"params\":{}}\0").unwrap();
            }
        });
        let mut events = 0;
        while line.next(soon()) != Err(LineError::Gone) {
            events += 1;
            assert!(line.waiting.len() < QUEUE_MAX + (64 << 10));
        }
        reader.join().unwrap();
        writer.join().unwrap();
        assert_eq!(events, 50_000);
    }
}
