//! One visit: a VM, a browser in it, a page, and what came of it.
//!
//! ```text
//!   stock (a VM) ─► admission ─► machine (gate, browser) ─► load ─► first picture ─► wait ─► DOM, last picture, cookies
//!                                                                                              │
//!   Observation ◄─ HAR, downloads into the store ◄─ end, admission ◄─ log, layers, findings ◄──┘
//! ```
//!
//! Invariants: a visit ends in bounded time whatever the page does ([`site`] has all the moments); when it returns its VM is gone, its
//! processes and files with it.

mod admission;
mod browser;
mod disk;
mod gather;
mod look;
mod machine;
mod site;
mod spin;
mod stock;

pub use admission::Admission;
pub use browser::{BEGIN, Browser, DOWNLOADS, HOME, Missing};
pub use machine::{HOLDER, Machine, NO_PLACE, USER, call, policy, words};
pub use site::{VisitError, VmVisitor};

use crate::model::{Observation, Task};
use crate::store::Store;

/// Visits sites. Called from many threads at once.
pub trait Visitor: Send + Sync {
    /// Visits a site in a VM of its own. Always returns, in bounded time: what goes wrong is told in the observation.
    /// `stop` becomes true when the worker has to end; the visit is then cut short.
    fn visit(&self, task: &Task, store: &dyn Store, stop: &std::sync::atomic::AtomicBool) -> Observation;
}
