//! Results: one row for each site and run, enough for lists; the whole outcome is in the store.

use super::session::{Columns, Link, Value, places};
use super::{DbError, Sql};
use crate::model::{Ended, Kind, Outcome, Reason, Task, Tier};
use serde::Serialize;

/// So much of a title or an address is in the row.
const TEXT_MAX_BYTES: usize = 1_000;
/// So many reasons are in the row, with so many pieces of evidence each.
const REASONS_MAX: usize = 20;

/// Where a list goes on: rank and site of the last row.
pub type After = Option<(i64, i64)>;

/// Which results.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// With one of these verdicts; any if there are none.
    pub kinds: Vec<Kind>,
    /// With this text in the address, title or final address, in any case.
    pub text: Option<String>,
    /// Of sites with this tag.
    pub tag: Option<String>,
    /// Of this site.
    pub site: Option<i64>,
}

/// A result, as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The run.
    pub run: i64,
    /// The site's number.
    pub site: i64,
    /// Its address.
    pub url: String,
    /// The verdict.
    pub verdict: Kind,
    /// Why.
    pub reasons: Vec<Reason>,
    /// How the visit ended: the name of [`Ended`].
    pub ended: String,
    /// Which try it was.
    pub attempt: i64,
    /// Milliseconds since 1970 at which it was recorded.
    pub at_ms: i64,
    /// Who visited.
    pub worker: String,
    /// `shell` or `full`.
    pub tier: String,
    /// The browser and its version.
    pub browser: String,
    /// The page's title, perhaps cut.
    pub title: String,
    /// Where it ended, perhaps cut.
    pub final_url: String,
    /// Milliseconds of the VM's start.
    pub vm_ms: Option<f64>,
    /// Milliseconds until the browser was ready.
    pub ready_ms: Option<f64>,
    /// Milliseconds of loading.
    pub load_ms: Option<f64>,
    /// Milliseconds in all.
    pub took_ms: Option<f64>,
    /// Milliseconds of processor time.
    pub cpu_ms: Option<f64>,
    /// The most memory, in bytes.
    pub memory_bytes: Option<i64>,
    /// How many requests.
    pub requests: i64,
    /// How many downloads.
    pub downloads: i64,
    /// The last picture, in the store.
    pub picture: Option<String>,
    /// The whole outcome, in the store.
    pub outcome: Option<String>,
    /// Its place in the order.
    #[serde(skip)]
    pub rank: i64,
}

/// What a run cost.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Sums {
    /// Results that come from a visit.
    pub visits: u64,
    /// Mean milliseconds of a visit.
    pub took_ms: f64,
    /// Mean milliseconds until the browser was ready.
    pub ready_ms: f64,
    /// Mean milliseconds of a VM's start.
    pub vm_ms: f64,
    /// Mean milliseconds of processor time of a VM.
    pub cpu_ms: f64,
    /// Median milliseconds of loading.
    pub load_median_ms: f64,
    /// The most memory of one VM, in bytes.
    pub memory_max_bytes: i64,
    /// Seconds from the first result to the last.
    pub all_s: f64,
    /// Seconds from the first tenth to the last tenth of results.
    pub middle_s: f64,
    /// VMs at once, of all workers, over the time from the first worker's beginning to the last one's end.
    pub concurrent: f64,
    /// Processors, of all workers' machines, over the same time.
    pub cores: f64,
}

/// The order of lists: the worst first.
fn rank(kind: Kind) -> i64 {
    match kind {
        Kind::Malicious => 0,
        Kind::Suspicious => 1,
        Kind::Unknown => 2,
        Kind::Error => 3,
        Kind::Clean => 4,
    }
}

/// A verdict's word.
pub fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Malicious => "malicious",
        Kind::Suspicious => "suspicious",
        Kind::Unknown => "unknown",
        Kind::Error => "error",
        Kind::Clean => "clean",
    }
}

fn kind(word: &str) -> Result<Kind, DbError> {
    let value = serde_json::Value::String(word.into());
    serde_json::from_value(value).map_err(|e| DbError::Damaged { what: "verdict".into(), why: e.to_string() })
}

fn ended(ended: &Ended) -> &'static str {
    match ended {
        Ended::Done => "done",
        Ended::NeverLoaded => "never_loaded",
        Ended::TimedOut => "timed_out",
        Ended::NotReached { .. } => "not_reached",
        Ended::RendererCrashed => "renderer_crashed",
        Ended::BrowserCrashed => "browser_crashed",
        Ended::OutOfMemory => "out_of_memory",
        Ended::DiskFull => "disk_full",
        Ended::Failed { .. } => "failed",
    }
}

/// A text no longer than `max` bytes, cut between characters.
pub fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Inserts a result.
pub fn insert(
    link: &mut dyn Link,
    task: &Task,
    worker: &str,
    outcome: &Outcome,
    stored: Option<&str>,
) -> Result<(), DbError> {
    let seen = &outcome.seen;
    let reasons: Vec<Reason> = outcome
        .verdict
        .reasons
        .iter()
        .take(REASONS_MAX)
        .map(|reason| Reason {
            rule: reason.rule.clone(),
            kind: reason.kind,
            text: cut(&reason.text, TEXT_MAX_BYTES).into(),
            evidence: reason.evidence.iter().take(5).map(|text| cut(text, TEXT_MAX_BYTES).into()).collect(),
        })
        .collect();
    let json =
        serde_json::to_string(&reasons).map_err(|e| DbError::Damaged { what: "verdict".into(), why: e.to_string() })?;
    // Zeros of a visit that there was not would spoil the means.
    let of_visit = |ms: f64| (seen.took_ms > 0.0).then_some(ms);
    let values: Vec<Value> = vec![
        task.run.into(),
        task.site.into(),
        task.attempt.into(),
        task.lease.as_str().into(),
        worker.into(),
        rank(outcome.verdict.kind).into(),
        word(outcome.verdict.kind).into(),
        json.into(),
        ended(&seen.ended).into(),
        (if seen.tier == Tier::Full { "full" } else { "shell" }).into(),
        cut(&seen.browser, TEXT_MAX_BYTES).into(),
        cut(&seen.title, TEXT_MAX_BYTES).into(),
        cut(&seen.final_url, TEXT_MAX_BYTES).into(),
        of_visit(seen.vm_ms).into(),
        of_visit(seen.ready_ms).into(),
        seen.load_ms.into(),
        of_visit(seen.took_ms).into(),
        of_visit(seen.cpu_ms).into(),
        seen.memory_bytes.into(),
        (seen.requests.len() as u64).into(),
        (seen.downloads.len() as u64).into(),
        seen.artifacts.last.clone().or_else(|| seen.artifacts.first.clone()).into(),
        stored.map(str::to_owned).into(),
    ];
    let sql = format!(
        "INSERT INTO results (at_ms, run, site, attempt, lease, worker, rank, kind, reasons, ended, tier, browser, title, \
         final_url, vm_ms, ready_ms, load_ms, took_ms, cpu_ms, memory_bytes, requests, downloads, picture, outcome) \
         VALUES (NOW_MS, {})",
        places(1, values.len())
    );
    link.execute(&sql, &values)?;
    Ok(())
}

impl Sql {
    pub(super) fn list_results(
        &self,
        run: i64,
        filter: &Filter,
        after: After,
        limit: u32,
    ) -> Result<Vec<Row>, DbError> {
        let (rank, site) = after.unwrap_or((-1, -1));
        let mut values: Vec<Value> = vec![run.into(), rank.into(), site.into()];
        let mut conditions = String::new();
        if !filter.kinds.is_empty() {
            conditions += &format!(" AND r.kind IN ({})", places(values.len() + 1, filter.kinds.len()));
            values.extend(filter.kinds.iter().map(|kind| Value::from(word(*kind))));
        }
        if let Some(text) = &filter.text {
            let n = values.len() + 1;
            // One pattern, three times: a place is used once, so that both databases count alike.
            conditions += &format!(
                " AND (LOWER(s.url) LIKE ${n} ESCAPE '!' OR LOWER(r.title) LIKE ${n} ESCAPE '!' \
                 OR LOWER(r.final_url) LIKE ${n} ESCAPE '!')"
            );
            let text = text.to_lowercase().replace('!', "!!").replace('%', "!%").replace('_', "!_");
            values.push(format!("%{text}%").into());
        }
        if let Some(tag) = &filter.tag {
            let n = values.len() + 1;
            conditions += &format!(" AND EXISTS (SELECT 1 FROM tags t WHERE t.site = r.site AND t.tag = ${n})");
            values.push(tag.as_str().into());
        }
        if let Some(site) = filter.site {
            conditions += &format!(" AND r.site = ${}", values.len() + 1);
            values.push(site.into());
        }
        let sql = format!(
            "SELECT r.run, r.site, s.url, r.kind, r.reasons, r.ended, r.attempt, r.at_ms, r.worker, r.tier, r.browser, r.title, \
             r.final_url, r.vm_ms, r.ready_ms, r.load_ms, r.took_ms, r.cpu_ms, r.memory_bytes, r.requests, r.downloads, \
             r.picture, r.outcome, r.rank FROM results r JOIN sites s ON s.id = r.site \
             WHERE r.run = $1 AND (r.rank, r.site) > ($2, $3){conditions} ORDER BY r.rank, r.site LIMIT {limit}"
        );
        self.session.with(|link| link.query(&sql, &values)?.into_iter().map(row).collect())
    }

    pub(super) fn sum_results(&self, run: i64) -> Result<Sums, DbError> {
        self.session.with(|link| {
            let rows = link.query(
                "SELECT COUNT(*), AVG(took_ms), AVG(ready_ms), AVG(vm_ms), AVG(cpu_ms), COALESCE(MAX(memory_bytes), 0), \
                 COUNT(load_ms) FROM results WHERE run = $1 AND took_ms IS NOT NULL",
                &[run.into()],
            )?;
            let Some(row) = rows.into_iter().next() else { return Ok(Sums::default()) };
            let mut row = Columns::new("sum", row);
            let visits = row.count()?;
            let mut sums = Sums {
                visits,
                took_ms: row.real()?,
                ready_ms: row.real()?,
                vm_ms: row.real()?,
                cpu_ms: row.real()?,
                memory_max_bytes: row.int()?,
                ..Sums::default()
            };
            let loads = row.count()?;
            let mut at = |sql: &str, offset: u64| -> Result<f64, DbError> {
                let rows = link.query(&format!("{sql} LIMIT 1 OFFSET {offset}"), &[run.into()])?;
                rows.into_iter().next().map_or(Ok(0.0), |row| Columns::new("sum", row).real())
            };
            let load = "SELECT load_ms FROM results WHERE run = $1 AND took_ms IS NOT NULL AND load_ms IS NOT NULL ORDER BY load_ms";
            sums.load_median_ms = at(load, loads / 2)?;
            let time = "SELECT at_ms FROM results WHERE run = $1 AND took_ms IS NOT NULL ORDER BY at_ms";
            if visits > 0 {
                sums.all_s = (at(time, visits - 1)? - at(time, 0)?) / 1e3;
                sums.middle_s = (at(time, (visits - 1) * 9 / 10)? - at(time, (visits - 1) / 10)?) / 1e3;
            }
            let rows = link.query(
                "SELECT CAST(COALESCE(SUM(concurrent * (COALESCE(ended_ms, seen_ms) - began_ms)), 0) AS BIGINT), \
                 COALESCE(SUM(cores * (COALESCE(ended_ms, seen_ms) - began_ms)), 0), \
                 COALESCE(MAX(COALESCE(ended_ms, seen_ms)) - MIN(began_ms), 0) FROM workers WHERE run = $1",
                &[run.into()],
            )?;
            if let Some(row) = rows.into_iter().next() {
                let mut row = Columns::new("sum", row);
                #[expect(clippy::cast_precision_loss, reason = "a measure")]
                let (concurrent, cores, span) = (row.int()? as f64, row.real()?, (row.int()? as f64).max(1.0));
                (sums.concurrent, sums.cores) = (concurrent / span, cores / span);
            }
            Ok(sums)
        })
    }
}

fn row(row: Vec<Value>) -> Result<Row, DbError> {
    let mut row = Columns::new("result", row);
    Ok(Row {
        run: row.int()?,
        site: row.int()?,
        url: row.text()?,
        verdict: kind(&row.text()?)?,
        reasons: row.json()?,
        ended: row.text()?,
        attempt: row.int()?,
        at_ms: row.int()?,
        worker: row.text()?,
        tier: row.text()?,
        browser: row.text()?,
        title: row.text()?,
        final_url: row.text()?,
        vm_ms: row.maybe_real()?,
        ready_ms: row.maybe_real()?,
        load_ms: row.maybe_real()?,
        took_ms: row.maybe_real()?,
        cpu_ms: row.maybe_real()?,
        memory_bytes: row.maybe_int()?,
        requests: row.int()?,
        downloads: row.int()?,
        picture: row.maybe_text()?,
        outcome: row.maybe_text()?,
        rank: row.int()?,
    })
}
