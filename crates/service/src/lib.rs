//! systemd units without systemd: text → [`Unit`], units → [`StartPlan`]. No file is read and nothing is started here.
//!
//! ```text
//!   bytes ─ syntax ─► entries ─ specifier, words, value ─ unit ─► Unit ─┐
//!   bytes ─ envfile ─► variables                                       ├─ plan ─► StartPlan: what, in which order
//!   name    UnitName: nginx.service, postgresql@15-main.service         ┘
//!   command a line to execute, with variables replaced                 restart  what becomes of one that ended
//! ```
//!
//! Invariants: unit files come from a hostile VM: every input is bounded ([`limits`]), every error is a value that
//! names file and line, and nothing here can be led to loop or to panic. What is not supported is told
//! ([`Unit::ignored`]), never passed over in silence.

pub mod command;
pub mod envfile;
mod error;
pub mod limits;
pub mod name;
pub mod plan;
pub mod restart;
pub mod service;
pub mod specifier;
pub mod syntax;
pub mod unit;
pub mod value;
pub mod words;

pub use command::Command;
pub use error::{At, PlanError, UnitError};
pub use name::{UnitKind, UnitName};
pub use plan::{StartPlan, UnitSet};
pub use service::Service;
pub use specifier::Facts;
pub use unit::{Fragment, Ignored, Unit};
