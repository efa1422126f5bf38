//! The lines of `fvm serve` (`docs/spec/serve.md`): bytes → requests, answers → bytes. No I/O.
//!
//! ```text
//!   bytes as they come ─► Lines ─► line ─► parse ─► Request        {"id":1,"method":"status","params":{"name":"demo"}}
//!   Answer ─► line                                                  {"id":1,"code":0,"result":{…}}
//!   Event  ─► line                                                  {"id":1,"event":"stdout","data":"…"}
//! ```
//!
//! Invariants: nothing is kept of a line beyond [`LINE_MAX_BYTES`]; whatever the bytes are, there is a request or one sentence that
//! says why there is none.

use fvm::model::path::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The version of the protocol.
pub const VERSION: u32 = 1;
/// The longest line of a client, without its newline.
pub const LINE_MAX_BYTES: usize = 1 << 20;
/// As much of each stream is in an answer.
pub const CAPTURE_MAX_BYTES: usize = 1 << 20;
/// The longest id that is text.
const ID_MAX_BYTES: usize = 128;

/// What a client calls its request: a number or a text, and nothing else is done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// What becomes of the streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// What is printed is in the answer, up to a limit.
    #[default]
    Capture,
    /// What is printed comes in events, all of it.
    Stream,
    /// The streams are three descriptors that came along.
    Passed,
    /// There is nothing to read, and what is printed is thrown away.
    Null,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Its name, for the answer.
    pub id: Id,
    /// A command, such as `status`, `service.start`; or `hello`, `signal`.
    pub method: String,
    /// Options and arguments, by their names.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// Its streams.
    #[serde(default)]
    pub streams: Wanted,
    /// Standard input, where that is not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Bytes>,
}

/// Why a line is no request; with its id, if it has one.
#[derive(Debug, PartialEq)]
pub struct NoRequest {
    /// Its id.
    pub id: Option<Id>,
    /// In words.
    pub why: String,
}

/// Reads one line, without its newline.
///
/// # Errors
/// [`NoRequest`].
pub fn parse(line: &[u8]) -> Result<Request, NoRequest> {
    let none = |id, why: String| NoRequest { id, why };
    let value: Value = serde_json::from_slice(line).map_err(|e| none(None, format!("it is not JSON: {e}")))?;
    let id = value.get("id").and_then(|id| Id::deserialize(id).ok());
    let id = id.filter(|id| !matches!(id, Id::Text(text) if text.len() > ID_MAX_BYTES));
    if id.is_none() {
        return Err(none(None, format!("it has no 'id' that is a number or a text of at most {ID_MAX_BYTES} bytes")));
    }
    let request: Request = serde_json::from_value(value).map_err(|e| none(id.clone(), shortened(&e.to_string())))?;
    if request.input.is_some() && matches!(request.streams, Wanted::Passed | Wanted::Null) {
        return Err(none(id, "'input' is for streams that are captured or streamed".into()));
    }
    Ok(request)
}

/// What a message repeats of a client's text.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    if text.chars().count() <= MAX_CHARS {
        return fvm::model::path::printable(text.as_bytes());
    }
    let start: String = text.chars().take(MAX_CHARS).collect();
    format!("{}…", fvm::model::path::printable(start.as_bytes()))
}

/// A line is longer than [`LINE_MAX_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Lines out of what comes in pieces.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
    /// No newline is before here.
    looked: usize,
}

impl Lines {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole line, if there is one.
    ///
    /// # Errors
    /// [`TooLong`]: what follows cannot be told from it.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let end = self.held[self.looked..].iter().position(|b| *b == b'\n').map(|at| self.looked + at);
        match end {
            Some(end) if end > LINE_MAX_BYTES => Err(TooLong),
            Some(end) => {
                let rest = self.held.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                self.looked = 0;
                Ok(Some(line))
            }
            None if self.held.len() > LINE_MAX_BYTES => Err(TooLong),
            None => {
                self.looked = self.held.len();
                Ok(None)
            }
        }
    }

    /// Whether something is held that is no whole line.
    pub fn has_rest(&self) -> bool {
        !self.held.is_empty()
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The exit status that the command would have.
    pub code: u8,
    /// What failed.
    pub message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What a command says: what its process hands to that of the connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The exit status that the command would have.
    pub code: u8,
    /// The document that it would print with `--json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// What it would say on standard error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// What else did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Fault>,
}

impl Answer {
    /// A refusal.
    pub fn refused(code: u8, message: impl Into<String>, hint: Option<&str>) -> Self {
        let fault = Fault { code, message: message.into(), hint: hint.map(Into::into) };
        Self { code, error: Some(fault), ..Self::default() }
    }

    /// Good news.
    pub fn done(result: Value) -> Self {
        Self { result: Some(result), ..Self::default() }
    }

    /// As a line.
    pub fn line(&self, id: Option<&Id>, captured: Option<&Captured>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Line<'a> {
            id: Option<&'a Id>,
            #[serde(flatten)]
            captured: Option<&'a Captured>,
            #[serde(flatten)]
            answer: &'a Answer,
        }
        line(&Line { id, captured, answer: self })
    }
}

/// What was printed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// On standard output.
    pub stdout: Bytes,
    /// On standard error.
    pub stderr: Bytes,
    /// One of them was longer than [`CAPTURE_MAX_BYTES`].
    pub truncated: bool,
}

impl Captured {
    /// Of these bytes.
    pub fn new([stdout, stderr]: [Vec<u8>; 2], truncated: bool) -> Self {
        let bytes = |bytes| Bytes(OsString::from_vec(bytes));
        Self { stdout: bytes(stdout), stderr: bytes(stderr), truncated }
    }
}

/// A piece of what is printed, as a line.
pub fn event(id: &Id, stream: &str, data: Vec<u8>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a> {
        id: &'a Id,
        event: &'a str,
        data: Bytes,
    }
    line(&Event { id, event: stream, data: Bytes(OsString::from_vec(data)) })
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Everything here can be said; the keys are texts.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// How much of `bytes` to send now, so that no character is cut in two.
pub fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &[u8]) -> (Option<Id>, String) {
        let NoRequest { id, why } = parse(line).unwrap_err();
        (id, why)
    }

    #[test]
    fn a_request_says_what_it_says_and_everything_else_is_refused_in_words() {
        let request = parse(br#" {"id":7,"method":"status","params":{"name":"demo"}} "#).unwrap();
        assert_eq!((request.id, request.method.as_str(), request.streams), (Id::Number(7), "status", Wanted::Capture));
        let passed = parse(br#"{"id":"a","method":"run","streams":"passed"}"#).unwrap();
        assert_eq!((passed.id, passed.streams), (Id::Text("a".into()), Wanted::Passed));
        assert_eq!(parse(br#"{"id":1,"method":"run","input":{"hex":"00ff"}}"#).unwrap().input.unwrap().0.len(), 2);
        assert!(refusal(b"").1.contains("not JSON"));
        assert!(refusal(b"\xff\xfe").1.contains("not JSON"));
        assert!(refusal(b"[1]").1.contains("'id'"));
        assert!(refusal(br#"{"id":-1,"method":"list"}"#).1.contains("'id'"));
        assert!(refusal(br#"{"id":null,"method":"list"}"#).1.contains("'id'"));
        let long = format!(r#"{{"id":"{}","method":"list"}}"#, "x".repeat(ID_MAX_BYTES + 1));
        assert!(refusal(long.as_bytes()).1.contains("'id'"));
        let (id, why) = refusal(br#"{"id":3,"method":"list","parms":{}}"#);
        assert!(id == Some(Id::Number(3)) && why.contains("parms"), "{why}");
        assert!(refusal(br#"{"id":3}"#).1.contains("method"));
        assert!(refusal(br#"{"id":3,"method":"run","streams":"passed","input":"x"}"#).1.contains("'input'"));
        assert!(refusal(br#"{"id":3,"method":"run","streams":"tape"}"#).1.contains("tape"));
        let deep = format!(r#"{{"id":3,"method":"x","params":{}"#, r#"{"a":"#.repeat(100_000));
        assert!(refusal(deep.as_bytes()).1.contains("recursion"), "depth is bounded");
    }

    #[test]
    fn lines_are_found_however_the_bytes_come_and_none_is_too_long() {
        let text = b"one\n\ntwo\nrest";
        for size in 1..=text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.push(piece);
                while let Some(line) = lines.take().unwrap() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(found, ["one", "", "two"], "in pieces of {size}");
            assert!(lines.has_rest());
        }
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_MAX_BYTES]);
        assert_eq!(lines.take(), Ok(None));
        lines.push(b"\n");
        assert_eq!(lines.take().unwrap().unwrap().len(), LINE_MAX_BYTES);
        lines.push(&vec![b'x'; LINE_MAX_BYTES + 1]);
        assert_eq!(lines.take(), Err(TooLong));
    }

    #[test]
    fn answers_are_one_line_each_with_what_is_known() {
        let said = |line: Vec<u8>| String::from_utf8(line).unwrap();
        let done = Answer::done(serde_json::json!([1, 2]));
        assert_eq!(said(done.line(Some(&Id::Number(4)), None)), "{\"id\":4,\"code\":0,\"result\":[1,2]}\n");
        let captured = Captured::new([b"a\nb".to_vec(), vec![0xff]], false);
        assert_eq!(
            said(Answer::default().line(Some(&Id::Text("x".into())), Some(&captured))),
            "{\"id\":\"x\",\"stdout\":\"a\\nb\",\"stderr\":{\"hex\":\"ff\"},\"truncated\":false,\"code\":0}\n"
        );
        let refused = Answer::refused(2, "no", Some("yes"));
        assert_eq!(
            said(refused.line(None, None)),
            "{\"id\":null,\"code\":2,\"error\":{\"code\":2,\"message\":\"no\",\"hint\":\"yes\"}}\n"
        );
    }

    #[test]
    fn no_character_is_cut_in_two() {
        let text = "aé€😀".as_bytes();
        assert_eq!(
            (1..=text.len()).map(|n| whole_characters(&text[..n])).collect::<Vec<_>>(),
            [1, 1, 3, 3, 3, 6, 6, 6, 6, 10]
        );
        assert_eq!(whole_characters(b"\xff\xffa"), 3, "what is no text is sent as it is");
    }
}
