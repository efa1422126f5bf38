//! stdout is data, stderr is talk; of a request to `fvm serve` both are gathered for its answer.

use crate::failure::Failure;
use crate::progress::Progress;
use crate::serve::protocol::Fault;
use crate::serve::request::fault;
use serde::Serialize;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Where and how a command speaks.
#[derive(Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    gathered: Option<RefCell<Gathered>>,
}

/// What a command said that was not printed.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The document, and, of a command that runs a program, what became of that and its VM.
    pub result: Option<Value>,
    /// Talk.
    pub notices: Vec<String>,
    /// Failures that it went on after.
    pub failures: Vec<Fault>,
    fields: Map<String, Value>,
}

impl Output {
    /// As the global flags say.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, gathered: None }
    }

    /// Nothing of fvm's own is printed.
    pub fn gathering() -> Self {
        Self { json: true, quiet: false, gathered: Some(RefCell::default()) }
    }

    /// What was said since.
    pub fn gathered(self) -> Gathered {
        let mut gathered = self.gathered.map(RefCell::into_inner).unwrap_or_default();
        let mut fields = std::mem::take(&mut gathered.fields);
        if !fields.is_empty() {
            fields.extend(gathered.result.take().map(|document| ("committed".into(), document)));
            gathered.result = Some(Value::Object(fields));
        }
        gathered
    }

    /// Something about a command whose standard output is that of a program: only a gathered answer has a place for it.
    pub fn field(&self, name: &str, value: &impl Serialize) {
        if let Some(gathered) = &self.gathered {
            // What has a JSON form at all has one as a value.
            let value = serde_json::to_value(value).unwrap_or(Value::Null);
            drop(gathered.borrow_mut().fields.insert(name.into(), value));
        }
    }

    /// Whether data is to be JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Prints one JSON document and a newline.
    pub fn document(&self, value: &impl Serialize) -> io::Result<()> {
        if let Some(gathered) = &self.gathered {
            gathered.borrow_mut().result = Some(serde_json::to_value(value)?);
            return Ok(());
        }
        self.write(|out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            writeln!(out)
        })
    }

    /// Whether nothing but errors is said.
    pub fn quiet(&self) -> bool {
        self.quiet
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

    /// As [`Self::write`], of what is one document where this prints JSON.
    pub fn pieces(&self, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let Some(gathered) = &self.gathered else { return self.write(body) };
        let mut text = Vec::new();
        body(&mut text)?;
        gathered.borrow_mut().result = Some(serde_json::from_slice(&text)?);
        Ok(())
    }

    /// Says something to the person, unless told to be quiet.
    pub fn say(&self, text: &str) {
        if let Some(gathered) = &self.gathered {
            gathered.borrow_mut().notices.push(text.to_owned());
            return;
        }
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
        if let Some(gathered) = &self.gathered {
            gathered.borrow_mut().failures.push(fault(failure));
            return;
        }
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
