//! The nouns of fvm and the rules that need no I/O.
//!
//! ```text
//!   path ── HostPath, VmPath          what a byte string names
//!   vm   ── VmId, VmName, VmRecord    what a VM is, on disk
//!   state── VmState, VmEvent          how it lives: one total function
//!   policy  Policy, Network           what it may use
//!   domain, reach  NamePattern, Reach   what it may reach in the network
//!   change  Change, ChangeSet         what it did to its view of the host
//!   packed  PackedChanges             very many of them
//!   plan ── Plan, PlanOp              what a commit will do to the host
//!   pool ── PoolRecord, PoolStatus    VMs that wait for programs
//!   restart Restart, Backoff          what becomes of a program that ended
//!   service ServiceStatus, ...         what runs in a VM as a daemon
//!   event   Event, Origin              what its programs did, and who made a change
//!   finding Finding, Report, Verdict  what an analysis says
//!   exit ── exit codes                what the CLI answers
//! ```
//!
//! Invariants: nothing here reads a file, an environment variable or a clock; every type that is printed by
//! `--json` or stored on disk lives here and nowhere else.

pub mod change;
pub mod domain;
pub mod event;
pub mod exit;
pub mod finding;
pub mod packed;
pub mod path;
pub mod plan;
pub mod policy;
pub mod pool;
pub mod reach;
pub mod restart;
pub mod service;
pub mod state;
pub mod time;
pub mod vm;

pub use change::{Change, ChangeKind, ChangeSet, FileType, Meta, MetaDelta, Summary};
pub use domain::{Name, NamePattern};
pub use event::{Event, Level, Origin};
pub use finding::{Finding, Report, Severity, Verdict};
pub use packed::PackedChanges;
pub use path::{HostPath, VmPath};
pub use plan::{LayerDir, Plan, PlanOp};

pub use policy::{Network, Policy};
pub use reach::{Publish, Range, Reach};
pub use restart::Restart;
pub use state::{IllegalEvent, VmEvent, VmState};
pub use time::Timestamp;
pub use vm::{Layer, LayerKind, Mode, VmId, VmName, VmRecord};
