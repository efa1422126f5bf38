//! Runs: which sites, with which parameters and programs; who works on them.

use super::session::{Columns, Link, Value, Values, places};
use super::{DbError, Sql};
use crate::model::{Kind, Params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The programs of a run, so that it can be told what differs when it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    /// fvm.
    pub fvm: String,
    /// The browser; nothing if it was not known at the beginning.
    pub browser: Option<String>,
    /// The kernel.
    pub kernel: String,
}

/// Which sites a run visits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Chosen {
    /// Those with one of these tags; all if there are none.
    pub tags: Vec<String>,
    /// Only those that are due: never visited, or their schedule says so.
    pub due: bool,
    /// At most so many, the most important first.
    pub limit: Option<u32>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Its number.
    pub id: i64,
    /// Milliseconds since 1970 at which it began.
    pub began_ms: i64,
    /// And ended; nothing as long as something is left.
    pub ended_ms: Option<i64>,
    /// How many sites it has.
    pub total: u64,
    /// Its parameters.
    pub params: Params,
    /// Its programs.
    pub versions: Versions,
    /// How its sites were chosen.
    pub chosen: Chosen,
}

/// Who works on a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    /// Its name, of no other ever: machine, boot, process, time.
    pub id: String,
    /// The run.
    pub run: i64,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// How many VMs it has at once.
    pub concurrent: u32,
    /// Processors.
    pub cores: f64,
    /// Its fvm.
    pub version: String,
    /// Milliseconds since it was seen last; 0 when it is entered.
    pub silent_ms: u64,
}

/// How far a run is. `total` = `queued` + `waiting` + `running` + all of `verdicts`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Sites in all.
    pub total: u64,
    /// Not begun.
    pub queued: u64,
    /// To be tried again later.
    pub waiting: u64,
    /// Leased.
    pub running: u64,
    /// Recorded, by verdict.
    pub verdicts: BTreeMap<String, u64>,
}

impl Counts {
    /// Recorded.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.verdicts.values().sum()
    }

    /// Of one verdict.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.verdicts.get(super::results::word(kind)).copied().unwrap_or_default()
    }
}

const RUN: &str = "SELECT id, began_ms, ended_ms, total, params, versions, chosen FROM runs";

fn run(row: Values) -> Result<Run, DbError> {
    let mut row = Columns::new("run", row);
    Ok(Run {
        id: row.int()?,
        began_ms: row.int()?,
        ended_ms: row.maybe_int()?,
        total: row.count()?,
        params: row.json()?,
        versions: row.json()?,
        chosen: row.json()?,
    })
}

fn json<T: Serialize>(value: &T) -> Result<Value, DbError> {
    let text = serde_json::to_string(value);
    Ok(text.map_err(|e| DbError::Damaged { what: "run".into(), why: e.to_string() })?.into())
}

impl Sql {
    pub(super) fn begin_run(&self, params: &Params, versions: &Versions, chosen: &Chosen) -> Result<Run, DbError> {
        self.session.with(|link| {
            let rows = link.query(
                "INSERT INTO runs (began_ms, total, params, versions, chosen) VALUES (NOW_MS, 0, $1, $2, $3) RETURNING id",
                &[json(params)?, json(versions)?, json(chosen)?],
            )?;
            let id = first(rows, "run")?.int()?;
            let total = queue(link, id, chosen)?;
            if total == 0 {
                return Err(DbError::NothingChosen);
            }
            link.execute("UPDATE runs SET total = $1 WHERE id = $2", &[total.into(), id.into()])?;
            find(link, Some(id))
        })
    }

    pub(super) fn find_run(&self, id: Option<i64>) -> Result<Run, DbError> {
        self.session.with(|link| find(link, id))
    }

    pub(super) fn list_runs(&self) -> Result<Vec<Run>, DbError> {
        self.session.with(|link| {
            link.query(&format!("{RUN} ORDER BY id DESC LIMIT 10000"), &[])?.into_iter().map(run).collect()
        })
    }

    pub(super) fn enter_worker(&self, worker: &Worker) -> Result<(), DbError> {
        self.session.with(|link| {
            link.execute(
                "INSERT INTO workers (id, run, host, pid, concurrent, cores, version, began_ms, seen_ms) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, NOW_MS, NOW_MS) \
                 ON CONFLICT (id) DO UPDATE SET run = excluded.run, seen_ms = NOW_MS, ended_ms = NULL",
                &[
                    worker.id.as_str().into(),
                    worker.run.into(),
                    worker.host.as_str().into(),
                    worker.pid.into(),
                    worker.concurrent.into(),
                    worker.cores.into(),
                    worker.version.as_str().into(),
                ],
            )?;
            Ok(())
        })
    }

    pub(super) fn leave_worker(&self, id: &str) -> Result<(), DbError> {
        self.session.with(|link| {
            link.execute("UPDATE workers SET ended_ms = NOW_MS, seen_ms = NOW_MS WHERE id = $1", &[id.into()])?;
            link.execute(
                "UPDATE tasks SET lease = NULL, worker = NULL, until_ms = NULL, attempt = attempt - 1 WHERE worker = $1",
                &[id.into()],
            )?;
            Ok(())
        })
    }

    pub(super) fn list_workers(&self, run: i64) -> Result<Vec<Worker>, DbError> {
        self.session.with(|link| {
            let rows = link.query(
                "SELECT id, run, host, pid, concurrent, cores, version, NOW_MS - seen_ms FROM workers \
                 WHERE run = $1 AND ended_ms IS NULL ORDER BY began_ms, id",
                &[run.into()],
            )?;
            let worker = |row| {
                let mut row = Columns::new("worker", row);
                Ok(Worker {
                    id: row.text()?,
                    run: row.int()?,
                    host: row.text()?,
                    pid: u32::try_from(row.int()?).unwrap_or_default(),
                    concurrent: u32::try_from(row.int()?).unwrap_or_default(),
                    cores: row.real()?,
                    version: row.text()?,
                    silent_ms: u64::try_from(row.int()?).unwrap_or_default(),
                })
            };
            rows.into_iter().map(worker).collect()
        })
    }

    pub(super) fn finish_run(&self, id: i64) -> Result<bool, DbError> {
        self.session.with(|link| {
            link.execute(
                "UPDATE runs SET ended_ms = NOW_MS WHERE id = $1 AND ended_ms IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.run = runs.id)",
                &[id.into()],
            )?;
            Ok(find(link, Some(id))?.ended_ms.is_some())
        })
    }

    pub(super) fn count(&self, id: i64) -> Result<Counts, DbError> {
        self.session.with(|link| {
            // The three may be read at three moments: the total then corrects what waits.
            let mut counts = Counts { total: find(link, Some(id))?.total, ..Counts::default() };
            for row in link.query("SELECT kind, COUNT(*) FROM results WHERE run = $1 GROUP BY kind", &[id.into()])? {
                let mut row = Columns::new("result", row);
                let (kind, count) = (row.text()?, row.count()?);
                counts.verdicts.insert(kind, count);
            }
            let rows = link.query(
                "SELECT CASE WHEN lease IS NOT NULL THEN 2 WHEN ready_ms > NOW_MS THEN 1 ELSE 0 END AS what, COUNT(*) \
                 FROM tasks WHERE run = $1 GROUP BY what",
                &[id.into()],
            )?;
            for row in rows {
                let mut row = Columns::new("task", row);
                let (what, count) = (row.int()?, row.count()?);
                match what {
                    2 => counts.running = count,
                    1 => counts.waiting = count,
                    _ => counts.queued = count,
                }
            }
            Ok(counts)
        })
    }
}

/// Makes a task of each chosen site; how many.
fn queue(link: &mut dyn Link, run: i64, chosen: &Chosen) -> Result<u64, DbError> {
    let mut values: Vec<Value> = vec![run.into()];
    let mut conditions = Vec::new();
    if chosen.due {
        conditions.push("due_ms <= NOW_MS".to_owned());
    }
    if !chosen.tags.is_empty() {
        let tags = places(2, chosen.tags.len());
        conditions.push(format!("EXISTS (SELECT 1 FROM tags WHERE tags.site = sites.id AND tags.tag IN ({tags}))"));
        values.extend(chosen.tags.iter().map(|tag| Value::from(tag.as_str())));
    }
    let conditions = if conditions.is_empty() { "1 = 1".to_owned() } else { conditions.join(" AND ") };
    let limit =
        chosen.limit.map_or(String::new(), |limit| format!(" ORDER BY priority DESC, spread, id LIMIT {limit}"));
    link.execute(
        &format!(
            "INSERT INTO tasks (run, site, priority, spread, attempt, ready_ms) \
             SELECT CAST($1 AS BIGINT), id, priority, spread, 0, 0 FROM sites WHERE {conditions}{limit}"
        ),
        &values,
    )
}

fn find(link: &mut dyn Link, id: Option<i64>) -> Result<Run, DbError> {
    let (rows, none) = match id {
        Some(id) => (link.query(&format!("{RUN} WHERE id = $1"), &[id.into()])?, format!("there is no run {id}")),
        None => (link.query(&format!("{RUN} ORDER BY id DESC LIMIT 1"), &[])?, "there is no run yet".into()),
    };
    rows.into_iter().next().map_or(Err(DbError::NoRun(none)), run)
}

fn first(rows: Vec<Values>, of: &'static str) -> Result<Columns, DbError> {
    let row = rows.into_iter().next();
    Ok(Columns::new(of, row.ok_or_else(|| DbError::Damaged { what: of.into(), why: "no row".into() })?))
}
