//! stdout is data, stderr is talk.

use crate::failure::Failure;
use crate::progress::Progress;
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Where and how a command speaks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// As the global flags say.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether data is to be JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Prints one JSON document and a newline.
    pub fn document(&self, value: &impl Serialize) -> io::Result<()> {
        self.write(|out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            writeln!(out)
        })
    }

    /// Writes data. A reader that has seen enough (`| head`) is no error.
    pub fn write(&self, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        match body(&mut out).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                // What is still buffered has no reader.
                let _unread = out.into_parts();
                Ok(())
            }
            other => other,
        }
    }

    /// Says something to the person, unless told to be quiet.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            // There is nobody else to tell that stderr is closed.
            let _closed = writeln!(io::stderr(), "fvm: {text}");
        }
    }

    /// Does `work`. When it takes longer than a person waits without wondering, a line on the terminal says what goes
    /// on; it is gone again when this returns.
    pub fn during<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let seen = !self.quiet && !self.json && io::stderr().is_terminal();
        let progress = seen.then(|| Progress::on_terminal(what));
        let done = work();
        drop(progress);
        done
    }

    /// Tells of a failure.
    pub fn failure(&self, failure: &Failure) {
        let mut text = format!("fvm: error: {}\n", failure.text());
        if let Some(hint) = failure.hint() {
            text.push_str(&format!("fvm: hint: {hint}\n"));
        }
        let _closed = io::stderr().write_all(text.as_bytes());
    }

    /// Whether a person can be asked: input and talk are a terminal.
    pub fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks and returns the answer, trimmed; `None` at the end of input.
    pub fn ask(&self, question: &str) -> Option<String> {
        let mut err = io::stderr();
        write!(err, "fvm: {question} ").and_then(|()| err.flush()).ok()?;
        let mut line = String::new();
        match io::stdin().read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim().to_owned()),
        }
    }
}
