//! What a message says: bytes in, a [`Message`] out, no I/O.
//!
//! ```text
//!   {"id":7,"result":{...},"sessionId":"..."}     an answer
//!   {"id":7,"error":{"message":"..."}}            a refusal
//!   {"method":"Page.loadEventFired","params":{...},"sessionId":"..."}     an event
//! ```

use serde::Deserialize;
use serde_json::Value;

/// A conversation with one target: a page, a worker; `None` with the browser itself.
pub type Session = Option<String>;

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Where.
    pub session: Session,
    /// What: `Page.loadEventFired`, ...
    pub method: String,
    /// The rest.
    pub params: Value,
}

/// Something that was asked for was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// A message of the browser's.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The answer to a command, by its number.
    Answer(u64, Result<Value, Refusal>),
    /// An event.
    Event(Event),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    id: Option<u64>,
    session_id: Session,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
    error: Option<RawError>,
}

#[derive(Deserialize)]
struct RawError {
    #[serde(default)]
    message: String,
}

impl Message {
    /// Reads a message; `None`: it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // Its depth is bounded by serde_json (128).
        let raw: Raw = serde_json::from_slice(bytes).ok()?;
        match raw {
            Raw { id: Some(id), error: Some(error), .. } => Some(Self::Answer(id, Err(Refusal(error.message)))),
            Raw { id: Some(id), result, .. } => Some(Self::Answer(id, Ok(result))),
            Raw { method: Some(method), session_id: session, params, .. } => {
                Some(Self::Event(Event { session, method, params }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_answers_refusals_and_events() {
        let cases: [(&str, Option<Message>); 9] = [
            (r#"{"id":7,"result":{"a":1}}"#, Some(Message::Answer(7, Ok(json!({"a": 1}))))),
            (r#"{"id":7,"sessionId":"S","result":{}}"#, Some(Message::Answer(7, Ok(json!({}))))),
            (r#"{"id":8,"error":{"code":-1,"message":"no"}}"#, Some(Message::Answer(8, Err(Refusal("no".into()))))),
            (
                r#"{"method":"X.y","sessionId":"S","params":{"b":2}}"#,
                Some(Message::Event(Event {
                    session: Some("S".into()),
                    method: "X.y".into(),
                    params: json!({"b": 2}),
                })),
            ),
            (
                r#"{"method":"X.y"}"#,
                Some(Message::Event(Event { session: None, method: "X.y".into(), params: Value::Null })),
            ),
            ("", None),
            ("{}", None),
            ("[1]", None),
            (r#"{"id":-1,"result":{}}"#, None),
        ];
        for (text, want) in cases {
            assert_eq!(Message::parse(text.as_bytes()), want, "{text}");
        }
        let deep = [br#"{"method":"X.y","params":"#.as_slice(), &vec![b'['; 100_000]].concat();
        assert_eq!(Message::parse(&deep), None);
        // A lone surrogate stands for nothing that can be text.
        assert!(Message::parse(br#"{"method":"X.y","params":"\ud800"}"#).is_none());
    }
}
