//! What a runner tells whoever started it.

use crate::db::{Counts, Run, word};
use crate::model::{Outcome, Task};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The rate is of so much time.
const WINDOW: Duration = Duration::from_secs(120);

/// Listens. Called from many threads.
pub trait Teller: Sync {
    /// Something happened.
    fn tell(&self, event: &Event);
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Each second.
    Progress(Progress),
    /// A result was recorded.
    Result {
        /// The site's number.
        site: i64,
        /// Its address.
        url: String,
        /// The verdict.
        verdict: &'static str,
        /// The first reason, if any.
        reason: Option<String>,
        /// Milliseconds of the visit.
        took_ms: f64,
        /// Which try it was.
        attempt: u32,
    },
    /// A signal came.
    Draining {
        /// Visits may go on for so long.
        seconds: u64,
    },
    /// Something to know.
    Note {
        /// In words.
        text: String,
    },
}

impl Event {
    /// Of a result.
    pub(super) fn result(task: &Task, outcome: &Outcome) -> Self {
        Self::Result {
            site: task.site,
            url: task.url.to_string(),
            verdict: word(outcome.verdict.kind),
            reason: outcome.verdict.reasons.first().map(|reason| reason.text.clone()),
            took_ms: outcome.seen.took_ms,
            attempt: task.attempt,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// The run.
    pub run: i64,
    /// All workers' counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Results a minute, lately, of all workers; nothing before there are some.
    pub per_minute: Option<f64>,
    /// Seconds until the end, at this rate.
    pub eta_s: Option<f64>,
}

/// Measures the rate.
#[derive(Debug, Default)]
pub struct Rate {
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "a measure")]
    pub fn progress(&mut self, run: &Run, counts: Counts) -> Progress {
        let (now, done) = (Instant::now(), counts.done());
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(at, _)| now - *at > WINDOW) {
            self.seen.pop_front();
        }
        let per_minute = self.seen.front().and_then(|(at, before)| {
            let (seconds, results) = ((now - *at).as_secs_f64(), done.saturating_sub(*before) as f64);
            (seconds > 0.5 && results > 0.0).then(|| results / seconds * 60.0)
        });
        let left = counts.total.saturating_sub(done) as f64;
        Progress { run: run.id, counts, per_minute, eta_s: per_minute.map(|rate| left / rate * 60.0) }
    }
}
