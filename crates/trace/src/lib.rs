//! The behaviour log of a VM: what its programs did, seen from outside, kept outside, and what follows from it.
//!
//! ```text
//!   VM's programs ── seccomp notification ──► capture ──► store ──► <home>/vms/<id>/events/<n>.log
//!                                             (a thread of the keeper)          │
//!                fvm trace, fvm status --by process, fvm commit --from ◄── log ─┘
//!                                                        filter, tree, origin, ecs
//! ```
//!
//! What events are: [`fvm_model::event`]; the files: `docs/spec/events.md`; what they are worth: `docs/book/behaviour.md`.
//!
//! Invariants: the log is written by the keeper alone and lies where no VM sees it; whatever a VM does, memory and disk are
//! bounded, and what is missing is said; nothing here decides what a VM may do.

pub mod capture;
pub mod codec;
pub mod ecs;
pub mod filter;
pub mod hands;
pub mod log;
pub mod names;
pub mod origin;
pub mod store;
pub mod tree;

pub use filter::Filter;
pub use log::{Integrity, Log, LogError};
pub use origin::Origins;
pub use store::{QUOTA_BYTES, Store};
pub use tree::Tree;
