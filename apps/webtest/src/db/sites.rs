//! Sites: what there is to visit, with tags, priorities and schedules.

use super::session::{Columns, Link, Value, places};
use super::{DbError, Sql};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use url::Url;

/// So many sites go into one statement.
const TOGETHER: usize = 500;

/// A site to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSite {
    /// Where.
    pub url: Url,
    /// Its tags.
    pub tags: Vec<String>,
    /// The higher, the earlier; 0 if nothing.
    pub priority: Option<i64>,
    /// Seconds after which it is due again.
    pub every_s: Option<u64>,
    /// Where it came from.
    pub source: String,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It was not there before.
    New,
    /// It was.
    Known,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Its number.
    pub id: i64,
    /// Where.
    pub url: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The higher, the earlier.
    pub priority: i64,
    /// Seconds after which it is due again.
    pub every_s: Option<i64>,
    /// Milliseconds since 1970 from which it is due.
    pub due_ms: i64,
    /// Where it came from.
    pub source: String,
}

/// The key by which a site is found: an address may be longer than an index takes.
fn key(url: &Url) -> String {
    hex(&Sha256::digest(url.as_str()))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Neighbours in a list, which are often of one host, do not come one after the other.
fn spread(key: &str) -> i64 {
    i64::from_str_radix(key.get(..8).unwrap_or("0"), 16).unwrap_or_default()
}

impl Sql {
    pub(super) fn add_sites(&self, sites: &[NewSite]) -> Result<Vec<Added>, DbError> {
        self.session.with(|link| {
            let mut added = Vec::with_capacity(sites.len());
            for some in sites.chunks(TOGETHER) {
                added.append(&mut add(link, some)?);
            }
            Ok(added)
        })
    }

    pub(super) fn list_sites(&self, after: i64, limit: u32) -> Result<Vec<Site>, DbError> {
        self.session.with(|link| {
            let rows = link.query(
                "SELECT id, url, priority, every_s, due_ms, source FROM sites WHERE id > $1 ORDER BY id LIMIT $2",
                &[after.into(), i64::from(limit).into()],
            )?;
            let mut sites = Vec::with_capacity(rows.len());
            for row in rows {
                let mut row = Columns::new("site", row);
                let (id, url, priority) = (row.int()?, row.text()?, row.int()?);
                let (every_s, due_ms, source) = (row.maybe_int()?, row.int()?, row.text()?);
                let tags = link
                    .query("SELECT tag FROM tags WHERE site = $1 ORDER BY tag", &[id.into()])?
                    .into_iter()
                    .map(|row| Columns::new("tag", row).text())
                    .collect::<Result<_, _>>()?;
                sites.push(Site { id, url, tags, priority, every_s, due_ms, source });
            }
            Ok(sites)
        })
    }
}

fn add(link: &mut dyn Link, sites: &[NewSite]) -> Result<Vec<Added>, DbError> {
    let keys: Vec<String> = sites.iter().map(|site| key(&site.url)).collect();
    let mut values = Vec::with_capacity(sites.len() * 7);
    for (site, key) in sites.iter().zip(&keys) {
        values.extend([
            key.as_str().into(),
            site.url.as_str().into(),
            site.url.host_str().unwrap_or_default().into(),
            spread(key).into(),
            site.priority.unwrap_or_default().into(),
            site.every_s.into(),
            Value::from(site.source.as_str()),
        ]);
    }
    let rows: Vec<String> = (0..sites.len())
        .map(|n| {
            let at = |k: usize| n * 7 + k;
            format!("(${}, ${}, ${}, ${}, ${}, ${}, 0, NOW_MS, ${})", at(1), at(2), at(3), at(4), at(5), at(6), at(7))
        })
        .collect();
    let sql = format!(
        "INSERT INTO sites (key, url, host, spread, priority, every_s, due_ms, added_ms, source) VALUES {} \
         ON CONFLICT (key) DO NOTHING RETURNING key",
        rows.join(", ")
    );
    let mut new = HashSet::new();
    for row in link.query(&sql, &values)? {
        new.insert(Columns::new("site", row).text()?);
    }
    let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut changed: BTreeMap<(Option<i64>, Option<u64>), Vec<&str>> = BTreeMap::new();
    for (site, key) in sites.iter().zip(&keys) {
        for tag in &site.tags {
            tags.entry(tag).or_default().push(key);
        }
        if !new.contains(key) && (site.priority.is_some() || site.every_s.is_some()) {
            changed.entry((site.priority, site.every_s)).or_default().push(key);
        }
    }
    for (tag, keys) in tags {
        let sql = format!(
            "INSERT INTO tags (tag, site) SELECT CAST($1 AS TEXT), id FROM sites WHERE key IN ({}) ON CONFLICT DO NOTHING",
            places(2, keys.len())
        );
        link.execute(&sql, &with(tag.into(), &keys))?;
    }
    for ((priority, every_s), keys) in changed {
        if let Some(priority) = priority {
            let sql = format!("UPDATE sites SET priority = $1 WHERE key IN ({})", places(2, keys.len()));
            link.execute(&sql, &with(priority.into(), &keys))?;
        }
        if let Some(every_s) = every_s {
            let sql = format!(
                "UPDATE sites SET every_s = CAST($1 AS BIGINT), due_ms = CASE WHEN due_ms > NOW_MS + CAST($1 AS BIGINT) * 1000 \
                 THEN NOW_MS + CAST($1 AS BIGINT) * 1000 \
                 ELSE due_ms END WHERE key IN ({})",
                places(2, keys.len())
            );
            link.execute(&sql, &with(every_s.into(), &keys))?;
        }
    }
    // Of two of the same in one list the first is the new one.
    Ok(keys.iter().map(|key| if new.remove(key) { Added::New } else { Added::Known }).collect())
}

fn with(first: Value, keys: &[&str]) -> Vec<Value> {
    std::iter::once(first).chain(keys.iter().map(|key| (*key).into())).collect()
}
