//! A database in a file. Write-ahead log, synced at each commit; several processes of one machine may use it at once.

use super::DbError;
use super::session::{Link, Session, Value, Values, Work};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So long a transaction waits for another process's.
const WAIT: Duration = Duration::from_secs(30);

pub struct Sqlite {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Sqlite {
    pub fn open(path: &Path) -> Result<Self, DbError> {
        // Without SQLITE_OPEN_URI: a file's name is a file's name.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |e| error(path, &e);
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(WAIT).map_err(failed)?;
        // FULL: with NORMAL a power cut takes the last results back.
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            .map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { path: path.into(), connection: Mutex::new(connection) })
    }
}

impl Session for Sqlite {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn transact(&self, work: &mut Work<'_>) -> Result<(), DbError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // Immediate: one that began as a reader could not become a writer when another wrote meanwhile.
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| error(&self.path, &e))?;
        work(&mut Running { path: &self.path, connection: &transaction })?;
        transaction.commit().map_err(|e| error(&self.path, &e))
    }
}

struct Running<'c> {
    path: &'c Path,
    connection: &'c Connection,
}

impl Link for Running<'_> {
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, DbError> {
        let done = self
            .connection
            .prepare_cached(&said(sql))
            .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(values)).map(|rows| rows as u64));
        done.map_err(|e| error(self.path, &e))
    }

    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Values>, DbError> {
        let rows = self.connection.prepare_cached(&said(sql)).and_then(|mut statement| {
            let columns = statement.column_count();
            let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
                (0..columns)
                    .map(|n| {
                        Ok(match row.get_ref(n)? {
                            ValueRef::Null | ValueRef::Blob(_) => Value::Null,
                            ValueRef::Integer(number) => Value::Int(number),
                            ValueRef::Real(number) => Value::Real(number),
                            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                        })
                    })
                    .collect()
            })?;
            rows.collect::<Result<Vec<Values>, _>>()
        });
        rows.map_err(|e| error(self.path, &e))
    }

    fn batch(&mut self, sql: &str) -> Result<(), DbError> {
        self.connection.execute_batch(&said(sql)).map_err(|e| error(self.path, &e))
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// A statement as SQLite says it.
fn said(sql: &str) -> String {
    sql.replace("NOW_MS", "CAST(unixepoch('subsec') * 1000 AS INTEGER)")
        .replace("SKIP_LOCKED", "")
        .replace("IDENTITY", "INTEGER PRIMARY KEY AUTOINCREMENT")
        .replace("TABLE_NAMES", "SELECT name FROM sqlite_master WHERE type = 'table'")
        .replace("ALONE", "SELECT 1")
}

fn error(path: &Path, e: &rusqlite::Error) -> DbError {
    let (place, why) = (path.display().to_string(), e.to_string());
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => DbError::Full { place, why },
        Some(ErrorCode::CannotOpen | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            DbError::Unreachable { place, why }
        }
        Some(ErrorCode::NotADatabase) => DbError::NotOurs { place, why },
        _ => DbError::Failed { place, why },
    }
}
