//! The URL database: sites, runs, the queue of a run, results. SQLite in a file, or PostgreSQL for many machines.
//!
//! ```text
//!  sites, tags ──begin──► tasks: queued ──claim──► leased ──record──► results     (docs/spec/webtest.md)
//!                                  ▲                 │ │
//!                                  └─ sweep (lease over), retry, release
//!                                                    └─ no attempt left ─► results, as unknown or error
//!
//!  Queue (trait) ── Sql: the statements, once ── Session: sqlite | postgres
//! ```
//!
//! Invariants: a task is deleted and its result inserted in one transaction, which only the last lease's holder passes, so each site of a
//! run has either a task or a result, and one; the clock is the database's; a database of a newer version is refused.

mod postgres;
mod queue;
mod results;
mod runs;
mod schema;
mod session;
mod sites;
mod sqlite;

pub use results::{After, Filter, Row, Sums};
pub use results::{cut, word};
pub use runs::{Chosen, Counts, Run, Versions, Worker};
pub use schema::VERSION;
pub use sites::{Added, NewSite, Site, hex};

use crate::model::{Outcome, Params, Task};
use session::Session;

/// What can be asked of a database.
pub trait Queue: Send + Sync {
    /// Where it is, without passwords.
    fn place(&self) -> String;

    /// Adds sites; what was there gets the new tags and, if they are given, priority and schedule. All of them, or none.
    ///
    /// # Errors
    /// When the database fails.
    fn add(&self, sites: &[NewSite]) -> Result<Vec<Added>, DbError>;

    /// Sites from number `after` on, `limit` of them.
    ///
    /// # Errors
    /// When the database fails.
    fn sites(&self, after: i64, limit: u32) -> Result<Vec<Site>, DbError>;

    /// Begins a run of the chosen sites.
    ///
    /// # Errors
    /// When nothing is chosen, or the database fails.
    fn begin(&self, params: &Params, versions: &Versions, chosen: &Chosen) -> Result<Run, DbError>;

    /// The run `id`; the last one if nothing.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    fn run(&self, id: Option<i64>) -> Result<Run, DbError>;

    /// All runs, the last first.
    ///
    /// # Errors
    /// When the database fails.
    fn runs(&self) -> Result<Vec<Run>, DbError>;

    /// Writes down that a worker is there; with the same id again: that it still is.
    ///
    /// # Errors
    /// When the database fails.
    fn enter(&self, worker: &Worker) -> Result<(), DbError>;

    /// Writes down that it has ended. Tasks that it still holds are queued again, and this try does not count.
    ///
    /// # Errors
    /// When the database fails.
    fn leave(&self, worker: &str) -> Result<(), DbError>;

    /// Workers that were not seen to end.
    ///
    /// # Errors
    /// When the database fails.
    fn workers(&self, run: i64) -> Result<Vec<Worker>, DbError>;

    /// The next task, leased for `lease_ms`.
    ///
    /// # Errors
    /// When the database fails.
    fn claim(&self, run: &Run, worker: &str, lease_ms: u64) -> Result<Option<Task>, DbError>;

    /// Renews all leases of a worker; how many it holds.
    ///
    /// # Errors
    /// When the database fails.
    fn renew(&self, run: i64, worker: &str, lease_ms: u64) -> Result<u64, DbError>;

    /// Records the result of a task. `stored` names the whole outcome in the store, where it already is.
    ///
    /// # Errors
    /// When the database fails.
    fn record(&self, task: &Task, worker: &str, outcome: &Outcome, stored: Option<&str>) -> Result<Taken, DbError>;

    /// Queues a task again after `delay_ms`; if this was the last of `attempts`, records `outcome` instead.
    ///
    /// # Errors
    /// When the database fails.
    fn retry(
        &self,
        task: &Task,
        worker: &str,
        attempts: u32,
        delay_ms: u64,
        outcome: &Outcome,
        stored: Option<&str>,
    ) -> Result<Taken, DbError>;

    /// Gives a task back as if it had not been given out.
    ///
    /// # Errors
    /// When the database fails.
    fn release(&self, task: &Task) -> Result<(), DbError>;

    /// Queues tasks again whose lease is over, and records those as unknown that were tried `attempts` times.
    ///
    /// # Errors
    /// When the database fails.
    fn sweep(&self, run: i64, attempts: u32) -> Result<Swept, DbError>;

    /// The same for the leases of one worker, at once: it is known to be gone.
    ///
    /// # Errors
    /// When the database fails.
    fn bury(&self, run: i64, worker: &str, attempts: u32) -> Result<Swept, DbError>;

    /// Ends a run that has no task left; whether it has ended.
    ///
    /// # Errors
    /// When the database fails.
    fn finish(&self, run: i64) -> Result<bool, DbError>;

    /// How far a run is.
    ///
    /// # Errors
    /// When the database fails.
    fn counts(&self, run: i64) -> Result<Counts, DbError>;

    /// Results, the worst first, after a place, `limit` of them.
    ///
    /// # Errors
    /// When the database fails.
    fn results(&self, run: i64, filter: &Filter, after: After, limit: u32) -> Result<Vec<Row>, DbError>;

    /// What a run cost, summed.
    ///
    /// # Errors
    /// When the database fails.
    fn sums(&self, run: i64) -> Result<Sums, DbError>;
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is recorded.
    Recorded,
    /// The task waits for its next try.
    Queued,
    /// The lease was over and the task somebody else's: nothing was recorded.
    Stale,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Tasks that are queued again.
    pub queued: u64,
    /// Tasks that were recorded as unknown.
    pub dead: u64,
}

/// Opens a database: `postgres://...`, or the path of a file, which is made when it is not there.
///
/// # Errors
/// When it cannot be reached, is no such database, or is of a newer version.
pub fn open(place: &str) -> Result<Box<dyn Queue>, DbError> {
    let session: Box<dyn Session> = if place.starts_with("postgres://") || place.starts_with("postgresql://") {
        Box::new(postgres::Postgres::open(place)?)
    } else {
        Box::new(sqlite::Sqlite::open(place.as_ref())?)
    };
    let sql = Sql { session };
    sql.prepare()?;
    Ok(Box::new(sql))
}

/// The statements, over either session.
struct Sql {
    session: Box<dyn Session>,
}

/// Why a database could not do something.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// It is not there, or went away.
    #[error("cannot reach the database {place}: {why}")]
    Unreachable {
        /// Where it should be, without passwords.
        place: String,
        /// Why.
        why: String,
    },
    /// No room.
    #[error("the database {place} cannot grow: {why}")]
    Full {
        /// Where it is.
        place: String,
        /// Why.
        why: String,
    },
    /// Made by a later fvm.
    #[error("the database {place} has version {found}; this fvm knows versions up to {VERSION}")]
    Newer {
        /// Where it is.
        place: String,
        /// Its version.
        found: i64,
    },
    /// Something else is in it.
    #[error("{place} is not a database of fvm webtest: {why}")]
    NotOurs {
        /// Where it is.
        place: String,
        /// What is there.
        why: String,
    },
    /// A stored value is none that fvm writes.
    #[error("the database holds a damaged {what}: {why}")]
    Damaged {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// There is no such run.
    #[error("{0}")]
    NoRun(String),
    /// No site is chosen by these conditions.
    #[error("no site is chosen")]
    NothingChosen,
    /// Anything else.
    #[error("the database {place} failed: {why}")]
    Failed {
        /// Where it is.
        place: String,
        /// Why.
        why: String,
    },
}

impl DbError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreachable { .. } => {
                "start it, or name another with --db; leases run out by themselves, and nothing that was recorded is lost"
            }
            Self::Full { .. } => "make room; then 'fvm webtest run --resume' goes on, nothing is lost",
            Self::Newer { .. } => "use that fvm, or another database (--db)",
            Self::NotOurs { .. } => "name another with --db",
            Self::NoRun(_) => "'fvm webtest status' lists the runs",
            Self::NothingChosen => "'fvm webtest import FILE' adds sites; check --tag and --due",
            Self::Damaged { .. } | Self::Failed { .. } => return None,
        })
    }

    /// Whether the same may work in a moment.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
