//! The queue of a run: who may visit what, and whose result counts.
//!
//! ```text
//!  claim: the first that is queued and ready; lease = a new token, until = now + lease, attempt + 1
//!  renew: until = now + lease, of all of a worker's
//!  record: delete the task if its lease is the token; one row: insert the result. No row: stale, or recorded before by this token
//!          (the answer to a commit was lost)
//! ```

use super::runs::Run;
use super::session::{Columns, Link};
use super::sites::{Added, NewSite, Site, hex};
use super::{After, Chosen, Counts, DbError, Filter, Queue, Row, Sql, Sums, Swept, Taken, Versions, Worker, results};
use crate::model::{Ended, Kind, Observation, Outcome, Params, Reason, Task, Tier, Verdict};
use url::Url;

/// So many leases are looked at in one transaction.
const SWEEP_MAX: u32 = 1_000;

impl Queue for Sql {
    fn place(&self) -> String {
        self.session.place()
    }

    fn add(&self, sites: &[NewSite]) -> Result<Vec<Added>, DbError> {
        self.add_sites(sites)
    }

    fn sites(&self, after: i64, limit: u32) -> Result<Vec<Site>, DbError> {
        self.list_sites(after, limit)
    }

    fn begin(&self, params: &Params, versions: &Versions, chosen: &Chosen) -> Result<Run, DbError> {
        self.begin_run(params, versions, chosen)
    }

    fn run(&self, id: Option<i64>) -> Result<Run, DbError> {
        self.find_run(id)
    }

    fn runs(&self) -> Result<Vec<Run>, DbError> {
        self.list_runs()
    }

    fn enter(&self, worker: &Worker) -> Result<(), DbError> {
        self.enter_worker(worker)
    }

    fn leave(&self, worker: &str) -> Result<(), DbError> {
        self.leave_worker(worker)
    }

    fn workers(&self, run: i64) -> Result<Vec<Worker>, DbError> {
        self.list_workers(run)
    }

    fn claim(&self, run: &Run, worker: &str, lease_ms: u64) -> Result<Option<Task>, DbError> {
        let lease = token()?;
        self.session.with(|link| {
            loop {
                let rows = link.query(
                    "UPDATE tasks SET lease = $1, worker = $2, until_ms = NOW_MS + $3, attempt = attempt + 1 \
                     WHERE run = $4 AND site = (SELECT site FROM tasks WHERE run = $4 AND lease IS NULL \
                     AND ready_ms <= NOW_MS ORDER BY priority DESC, attempt, spread, site LIMIT 1 SKIP_LOCKED) \
                     RETURNING site, attempt",
                    &[lease.as_str().into(), worker.into(), lease_ms.into(), run.id.into()],
                )?;
                let Some(row) = rows.into_iter().next() else { return Ok(None) };
                let mut row = Columns::new("task", row);
                let (site, attempt) = (row.int()?, u32::try_from(row.int()?).unwrap_or(1));
                let rows = link.query("SELECT url FROM sites WHERE id = $1", &[site.into()])?;
                let text = rows.into_iter().next().map(|row| Columns::new("site", row).text()).transpose()?;
                let url = Url::parse(text.as_deref().unwrap_or_default());
                let tier = if run.params.tier == Tier::Full { Tier::Full } else { Tier::Shell };
                let task = |url| Task { run: run.id, site, url, attempt, lease: lease.clone(), tier };
                match url {
                    Ok(url) => return Ok(Some(task(url))),
                    // A site whose address no longer is one must not stop the others.
                    Err(e) => {
                        let outcome = dead("bad-address", Kind::Error, format!("its stored address is none: {e}"));
                        let blank = Url::parse("about:blank").map_err(|e| self.failed(&e))?;
                        self.put(link, &task(blank), worker, &outcome, None)?;
                    }
                }
            }
        })
    }

    fn renew(&self, run: i64, worker: &str, lease_ms: u64) -> Result<u64, DbError> {
        self.session.with(|link| {
            link.execute("UPDATE workers SET seen_ms = NOW_MS WHERE id = $1", &[worker.into()])?;
            link.execute(
                "UPDATE tasks SET until_ms = NOW_MS + $1 WHERE run = $2 AND worker = $3 AND lease IS NOT NULL",
                &[lease_ms.into(), run.into(), worker.into()],
            )
        })
    }

    fn record(&self, task: &Task, worker: &str, outcome: &Outcome, stored: Option<&str>) -> Result<Taken, DbError> {
        self.session.with(|link| self.put(link, task, worker, outcome, stored))
    }

    fn retry(
        &self,
        task: &Task,
        worker: &str,
        attempts: u32,
        delay_ms: u64,
        outcome: &Outcome,
        stored: Option<&str>,
    ) -> Result<Taken, DbError> {
        let why = outcome.verdict.reasons.first().map_or("", |reason| reason.text.as_str());
        self.session.with(|link| {
            if task.attempt >= attempts {
                return self.put(link, task, worker, outcome, stored);
            }
            let rows = link.execute(
                "UPDATE tasks SET lease = NULL, worker = NULL, until_ms = NULL, ready_ms = NOW_MS + $1, why = $2 \
                 WHERE run = $3 AND site = $4 AND lease = $5",
                &[delay_ms.into(), why.into(), task.run.into(), task.site.into(), task.lease.as_str().into()],
            )?;
            Ok(if rows == 1 { Taken::Queued } else { Taken::Stale })
        })
    }

    fn release(&self, task: &Task) -> Result<(), DbError> {
        self.session.with(|link| {
            link.execute(
                "UPDATE tasks SET lease = NULL, worker = NULL, until_ms = NULL, attempt = attempt - 1 \
                 WHERE run = $1 AND site = $2 AND lease = $3",
                &[task.run.into(), task.site.into(), task.lease.as_str().into()],
            )?;
            Ok(())
        })
    }

    fn sweep(&self, run: i64, attempts: u32) -> Result<Swept, DbError> {
        self.session.with(|link| self.bring_back(link, run, None, attempts))
    }

    fn bury(&self, run: i64, worker: &str, attempts: u32) -> Result<Swept, DbError> {
        let mut swept = Swept::default();
        loop {
            let some = self.session.with(|link| self.bring_back(link, run, Some(worker), attempts))?;
            swept = Swept { queued: swept.queued + some.queued, dead: swept.dead + some.dead };
            if some == Swept::default() {
                break;
            }
        }
        self.leave_worker(worker)?;
        Ok(swept)
    }

    fn finish(&self, run: i64) -> Result<bool, DbError> {
        self.finish_run(run)
    }

    fn counts(&self, run: i64) -> Result<Counts, DbError> {
        self.count(run)
    }

    fn results(&self, run: i64, filter: &Filter, after: After, limit: u32) -> Result<Vec<Row>, DbError> {
        self.list_results(run, filter, after, limit)
    }

    fn sums(&self, run: i64) -> Result<Sums, DbError> {
        self.sum_results(run)
    }
}

impl Sql {
    /// Records a result, if the lease is the last one given out.
    fn put(
        &self,
        link: &mut dyn Link,
        task: &Task,
        worker: &str,
        outcome: &Outcome,
        stored: Option<&str>,
    ) -> Result<Taken, DbError> {
        if !take(link, task)? {
            let key = [task.run.into(), task.site.into(), task.lease.as_str().into()];
            let before = link.query("SELECT 1 FROM results WHERE run = $1 AND site = $2 AND lease = $3", &key)?;
            return Ok(if before.is_empty() { Taken::Stale } else { Taken::Recorded });
        }
        keep(link, task, worker, outcome, stored)?;
        Ok(Taken::Recorded)
    }

    /// Tasks of `worker`, or of all whose lease is over: queued again, or dead.
    fn bring_back(&self, link: &mut dyn Link, run: i64, worker: Option<&str>, attempts: u32) -> Result<Swept, DbError> {
        let columns = "SELECT site, attempt, lease, worker FROM tasks WHERE run = $1 AND lease IS NOT NULL AND";
        let rows = match worker {
            Some(worker) => link
                .query(&format!("{columns} worker = $2 LIMIT {SWEEP_MAX} SKIP_LOCKED"), &[run.into(), worker.into()])?,
            None => link.query(&format!("{columns} until_ms < NOW_MS LIMIT {SWEEP_MAX} SKIP_LOCKED"), &[run.into()])?,
        };
        let mut swept = Swept::default();
        for row in rows {
            let mut row = Columns::new("task", row);
            let (site, attempt) = (row.int()?, u32::try_from(row.int()?).unwrap_or(u32::MAX));
            let (lease, worker) = (row.text()?, row.text()?);
            if attempt < attempts {
                swept.queued += link.execute(
                    "UPDATE tasks SET lease = NULL, worker = NULL, until_ms = NULL, \
                     why = 'its worker ended, or lost the database' WHERE run = $1 AND site = $2 AND lease = $3",
                    &[run.into(), site.into(), lease.into()],
                )?;
                continue;
            }
            let url = Url::parse("about:blank").map_err(|e| self.failed(&e))?;
            let task = Task { run, site, url, attempt, lease, tier: Tier::Shell };
            let text = format!("{attempt} workers ended, or lost the database, while they visited it");
            if !take(link, &task)? {
                continue;
            }
            // Not by its lease: its holder may be slow and not dead, and must not hear that what it saw was recorded.
            let task = Task { lease: format!("lost:{}", task.lease), ..task };
            keep(link, &task, &worker, &dead("worker-lost", Kind::Unknown, text), None)?;
            swept.dead += 1;
        }
        Ok(swept)
    }

    fn failed(&self, e: &dyn std::fmt::Display) -> DbError {
        DbError::Failed { place: self.session.place(), why: e.to_string() }
    }
}

/// Takes a task out of the queue, if its lease is this.
fn take(link: &mut dyn Link, task: &Task) -> Result<bool, DbError> {
    let key = [task.run.into(), task.site.into(), task.lease.as_str().into()];
    Ok(link.execute("DELETE FROM tasks WHERE run = $1 AND site = $2 AND lease = $3", &key)? == 1)
}

/// Writes its result down in its place.
fn keep(
    link: &mut dyn Link,
    task: &Task,
    worker: &str,
    outcome: &Outcome,
    stored: Option<&str>,
) -> Result<(), DbError> {
    results::insert(link, task, worker, outcome, stored)?;
    link.execute(
        "UPDATE sites SET due_ms = NOW_MS + COALESCE(every_s, 3155760000) * 1000 WHERE id = $1",
        &[task.site.into()],
    )?;
    Ok(())
}

/// What is recorded of a site that nobody could visit.
fn dead(rule: &str, kind: Kind, text: String) -> Outcome {
    let reason = Reason { rule: rule.into(), kind, text: text.clone(), evidence: Vec::new() };
    Outcome {
        verdict: Verdict { kind, reasons: vec![reason] },
        seen: Observation { ended: Ended::Failed { why: text }, ..Observation::default() },
    }
}

/// A text that nobody else has.
fn token() -> Result<String, DbError> {
    let mut bytes = [0_u8; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if got != Ok(bytes.len()) {
        return Err(DbError::Failed { place: "of the kernel".into(), why: format!("getrandom: {got:?}") });
    }
    Ok(hex(&bytes))
}
