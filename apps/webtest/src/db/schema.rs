//! The tables, and which version of them is there.

use super::session::{Columns, Link};
use super::{DbError, Sql};

/// The version of the tables that this fvm makes and reads.
pub const VERSION: i64 = 1;

/// Version 1 (docs/spec/webtest.md).
const TABLES: &str = "
CREATE TABLE fvm_webtest (key TEXT PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE sites (
    id IDENTITY, key TEXT NOT NULL UNIQUE, url TEXT NOT NULL, host TEXT NOT NULL, spread BIGINT NOT NULL,
    priority BIGINT NOT NULL, every_s BIGINT, due_ms BIGINT NOT NULL, added_ms BIGINT NOT NULL, source TEXT NOT NULL);
CREATE INDEX sites_due ON sites (due_ms) WHERE every_s IS NOT NULL;
CREATE TABLE tags (tag TEXT NOT NULL, site BIGINT NOT NULL REFERENCES sites (id), PRIMARY KEY (tag, site));
CREATE INDEX tags_site ON tags (site);
CREATE TABLE runs (
    id IDENTITY, began_ms BIGINT NOT NULL, ended_ms BIGINT, total BIGINT NOT NULL, params TEXT NOT NULL, versions TEXT NOT NULL,
    chosen TEXT NOT NULL);
CREATE TABLE tasks (
    run BIGINT NOT NULL, site BIGINT NOT NULL, priority BIGINT NOT NULL, spread BIGINT NOT NULL, attempt BIGINT NOT NULL,
    ready_ms BIGINT NOT NULL, lease TEXT, worker TEXT, until_ms BIGINT, why TEXT, PRIMARY KEY (run, site));
CREATE INDEX tasks_queued ON tasks (run, priority DESC, attempt, spread, site) WHERE lease IS NULL;
CREATE INDEX tasks_leased ON tasks (run, until_ms) WHERE lease IS NOT NULL;
CREATE TABLE results (
    run BIGINT NOT NULL, site BIGINT NOT NULL, attempt BIGINT NOT NULL, lease TEXT NOT NULL, worker TEXT NOT NULL, at_ms BIGINT NOT NULL,
    rank BIGINT NOT NULL, kind TEXT NOT NULL, reasons TEXT NOT NULL, ended TEXT NOT NULL, tier TEXT NOT NULL, browser TEXT NOT NULL,
    title TEXT NOT NULL, final_url TEXT NOT NULL, vm_ms DOUBLE PRECISION, ready_ms DOUBLE PRECISION, load_ms DOUBLE PRECISION,
    took_ms DOUBLE PRECISION, cpu_ms DOUBLE PRECISION, memory_bytes BIGINT, requests BIGINT NOT NULL, downloads BIGINT NOT NULL,
    picture TEXT, outcome TEXT, PRIMARY KEY (run, site));
CREATE INDEX results_rank ON results (run, rank, site);
CREATE TABLE workers (
    id TEXT PRIMARY KEY, run BIGINT NOT NULL, host TEXT NOT NULL, pid BIGINT NOT NULL, concurrent BIGINT NOT NULL,
    cores DOUBLE PRECISION NOT NULL, version TEXT NOT NULL, began_ms BIGINT NOT NULL, seen_ms BIGINT NOT NULL, ended_ms BIGINT);
CREATE INDEX workers_run ON workers (run);
INSERT INTO fvm_webtest (key, value) VALUES ('version', 1);
";

impl Sql {
    /// Makes the tables, if there are none, and refuses what is not ours or newer.
    pub(super) fn prepare(&self) -> Result<(), DbError> {
        self.session.with(|link| {
            // Of several that come first at once, one makes them.
            link.batch("ALONE")?;
            let names: Vec<String> = link
                .query("TABLE_NAMES", &[])?
                .into_iter()
                .map(|row| Columns::new("list of tables", row).text())
                .collect::<Result<_, _>>()?;
            if !names.iter().any(|name| name == "fvm_webtest") {
                let ours = ["sites", "tags", "runs", "tasks", "results", "workers"];
                if let Some(name) = names.iter().find(|name| ours.contains(&name.as_str())) {
                    return Err(self.not_ours(format!("it has a table '{name}' of something else")));
                }
                return link.batch(TABLES);
            }
            self.check(link)
        })
    }

    fn check(&self, link: &mut dyn Link) -> Result<(), DbError> {
        let rows = link.query("SELECT value FROM fvm_webtest WHERE key = 'version'", &[])?;
        let Some(row) = rows.into_iter().next() else {
            return Err(self.not_ours("it has no version".into()));
        };
        match Columns::new("version", row).int()? {
            VERSION => Ok(()),
            found if found > VERSION => Err(DbError::Newer { place: self.session.place(), found }),
            found => Err(self.not_ours(format!("it has version {found}"))),
        }
    }

    fn not_ours(&self, why: String) -> DbError {
        DbError::NotOurs { place: self.session.place(), why }
    }
}
