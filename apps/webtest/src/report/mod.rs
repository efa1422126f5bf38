//! Reports of a run.
//!
//! ```text
//!  database: rows, the worst first ─┐
//!  store: outcomes, pictures ───────┴─► Source::each ─┬─ html/   a directory of pages, for a browser
//!                                                     ├─ jsonl   row and outcome, one line each
//!                                                     ├─ table   CSV
//!                                                     └─ stix    STIX 2.1 bundle
//! ```
//!
//! Invariants: one result is in memory at a time; what comes from a page is text, escaped by [`escape`] for where it goes; no file's
//! name, link or picture comes from a page; the same run gives the same bytes, but for the time at which the report was made.

pub mod escape;
mod html;
mod jsonl;
mod speed;
mod stix;
pub mod stored;
mod table;

pub use html::html;
pub use jsonl::jsonl;
pub use speed::{Speed, speed};
pub use stix::stix;
pub use table::table;

use crate::db::{DbError, Filter, Queue, Row, Run};
use crate::model::Outcome;
use crate::store::{Store, StoreError};

/// So many rows are asked for at once.
const PAGE: u32 = 500;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The place for it.
    #[error("cannot write the report to {place}: {why}")]
    Write {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
    /// Something else is there.
    #[error("{place} holds something else than a report: it is not written over")]
    Occupied {
        /// Where.
        place: String,
    },
}

impl ReportError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Db(e) => e.hint(),
            Self::Occupied { .. } => Some("name another place with --to"),
            Self::Store(_) | Self::Write { .. } => None,
        }
    }
}

/// A run whose report is made.
pub struct Source<'s> {
    /// The database.
    pub queue: &'s dyn Queue,
    /// Where files are.
    pub store: &'s dyn Store,
    /// The run.
    pub run: &'s Run,
    /// Which of its results.
    pub filter: Filter,
}

/// A result, and the whole of it, or why that is not there.
pub type Whole = (Row, Result<Outcome, String>);

impl Source<'_> {
    /// Each result in order, the worst first. An outcome that is missing or damaged stops nothing: its row is there.
    ///
    /// # Errors
    /// When the database fails, or `work` does.
    pub fn each(&self, work: &mut dyn FnMut(Whole) -> Result<(), ReportError>) -> Result<u64, ReportError> {
        let (mut after, mut count) = (None, 0);
        loop {
            let rows = self.queue.results(self.run.id, &self.filter, after, PAGE)?;
            let Some(last) = rows.last() else { return Ok(count) };
            after = Some((last.rank, last.site));
            for row in rows {
                let outcome = match &row.outcome {
                    Some(name) => stored::get(self.store, name).map_err(|e| e.to_string()),
                    None => Err("nobody could visit it".into()),
                };
                work((row, outcome))?;
                count += 1;
            }
        }
    }
}

/// Milliseconds since 1970 as ISO 8601 in UTC (civil-from-days of a proleptic Gregorian calendar).
#[must_use]
pub fn time(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", rest % 1_000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, is) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_796_000_000_123, "2026-11-30T00:53:20.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            let date = std::process::Command::new("date")
                .args(["-u", "-d", &format!("@{}", i64::div_euclid(ms, 1000)), "+%FT%T"])
                .output();
            if let Ok(date) = date {
                assert!(is.starts_with(String::from_utf8_lossy(&date.stdout).trim()), "{is}");
            }
            assert_eq!(super::time(ms), is);
        }
    }
}
