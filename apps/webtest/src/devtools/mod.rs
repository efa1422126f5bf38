//! A small client of the DevTools protocol, over the two pipes of `--remote-debugging-pipe`: no port that a page could find, and it
//! crosses namespaces.
//!
//! ```text
//!   browser fd 4 ─► Splitter ─► Message ─► Line::next ─► the visit
//!                   (NUL ends a message)                    │
//!   browser fd 3 ◄────────────────────────── Line::send ◄───┘
//! ```
//!
//! Protocol: <https://chromedevtools.github.io/devtools-protocol/>; the pipe: `content/browser/devtools/devtools_pipe_handler.cc`.
//!
//! Invariants: one thread, no waiting without an end; what the browser sends is hostile: a message is bounded, a longer one is passed
//! over and told; nothing is allocated for what a message only says that it holds.

mod frame;
mod line;
mod message;

pub use frame::{Frame, MESSAGE_MAX_BYTES, Splitter};
pub use line::{Line, LineError};
pub use message::{Event, Message, Refusal, Session};
