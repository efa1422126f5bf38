//! What ends a run: a fault of its surroundings, not of a site.

use crate::db::{DbError, Run};
use crate::model::{Ended, Network};
use crate::store::StoreError;
use std::sync::atomic::{AtomicU32, Ordering};

/// So many visits, one after the other, may fail.
const FAILED_MAX: u32 = 10;
/// So many sites, one after the other, may not be reached while the machine has no way out.
const UNREACHED_MAX: u32 = 10;

/// Why a run ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Every visit fails.
    #[error("{count} visits failed one after the other; the last: {why}")]
    Failing {
        /// How many.
        count: u32,
        /// Why the last did.
        why: String,
    },
    /// Nothing can be reached.
    #[error(
        "this machine has no way to the net (no default route), and {count} sites were not reached; the last: {why}"
    )]
    NoNetwork {
        /// How many.
        count: u32,
        /// What the browser said.
        why: String,
    },
    /// No threads.
    #[error("cannot start {wanted} threads: {why}")]
    Threads {
        /// How many were to be started.
        wanted: u32,
        /// Why not.
        why: String,
    },
}

impl RunError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Db(e) => e.hint(),
            Self::Store(_) => {
                Some("make room or mend the store; then 'fvm webtest run --resume' goes on, nothing is lost")
            }
            Self::Failing { .. } => Some(
                "'fvm webtest doctor' says what is missing; then 'fvm webtest run --resume' goes on, nothing is lost",
            ),
            Self::NoNetwork { .. } => Some(
                "connect it, or visit a mirror (--replay DIR); then 'fvm webtest run --resume' goes on, nothing is lost",
            ),
            Self::Threads { .. } => Some("take fewer VMs at once (--concurrent)"),
        }
    }
}

/// Counts what goes wrong one after the other.
pub struct Fuses {
    failed_max: u32,
    failed: AtomicU32,
    unreached: AtomicU32,
    /// Whether visits go out into the net.
    out: bool,
}

impl Fuses {
    pub fn new(run: &Run, concurrent: u32) -> Self {
        Self {
            // All that began together may fail together, for a reason that passes.
            failed_max: FAILED_MAX.max(concurrent.saturating_add(1)),
            failed: AtomicU32::new(0),
            unreached: AtomicU32::new(0),
            out: !matches!(run.params.network, Network::Replay { .. }),
        }
    }

    /// Whether it is enough.
    pub fn after(&self, ended: &Ended) -> Option<RunError> {
        match ended {
            Ended::Failed { why } => {
                let count = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
                (count >= self.failed_max).then(|| RunError::Failing { count, why: why.clone() })
            }
            Ended::NotReached { why } => {
                self.failed.store(0, Ordering::Relaxed);
                let count = self.unreached.fetch_add(1, Ordering::Relaxed) + 1;
                let none = self.out && count >= UNREACHED_MAX && !has_way_out();
                none.then(|| RunError::NoNetwork { count, why: why.clone() })
            }
            _ => {
                self.failed.store(0, Ordering::Relaxed);
                self.unreached.store(0, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Whether this machine has a default route (proc(5): destination and mask 0).
#[must_use]
pub fn has_way_out() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = read("/proc/net/route");
    let v6 = read("/proc/net/ipv6_route");
    v4.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000"))
        || v6.lines().any(|line| {
            let mut words = line.split_whitespace();
            let default = words.next().is_some_and(|to| to.bytes().all(|b| b == b'0')) && words.next() == Some("00");
            default && !line.ends_with("lo")
        })
}
