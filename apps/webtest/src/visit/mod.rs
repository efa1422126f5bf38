//! One visit: a VM, a browser in it, a page, and what came of it.

use crate::model::{Observation, Task};
use crate::store::Store;

/// Visits sites. Called from many threads at once.
pub trait Visitor: Send + Sync {
    /// Visits a site in a VM of its own. Always returns, in bounded time: what goes wrong is told in the observation.
    /// `stop` becomes true when the worker has to end; the visit is then cut short.
    fn visit(&self, task: &Task, store: &dyn Store, stop: &std::sync::atomic::AtomicBool) -> Observation;
}
