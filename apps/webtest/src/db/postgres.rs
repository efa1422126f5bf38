//! PostgreSQL, for many machines. One connection, made anew when it broke.
//!
//! The connection is not enciphered: see the book for how machines reach the database (a private network, or a tunnel).

use super::DbError;
use super::session::{Link, Session, Value, Values, Work};
use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Statement};
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// So often a transaction is begun anew that lost against others.
const AGAIN: u32 = 20;

pub struct Postgres {
    config: Config,
    place: String,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    client: Client,
    prepared: HashMap<String, Statement>,
}

impl Postgres {
    pub fn open(url: &str) -> Result<Self, DbError> {
        let place = shown(url);
        let mut config: Config =
            url.parse().map_err(|e: postgres::Error| DbError::Unreachable { place: place.clone(), why: chain(&e) })?;
        config
            .connect_timeout(CONNECT)
            .application_name("fvm webtest")
            // A machine that vanished does not hold rows, and a statement does not hold a worker, for ever.
            .tcp_user_timeout(Duration::from_secs(30))
            .options("-c statement_timeout=300s -c idle_in_transaction_session_timeout=60s");
        let opened = Self { config, place, connection: Mutex::new(None) };
        *opened.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened.connect()?);
        Ok(opened)
    }

    fn connect(&self) -> Result<Connection, DbError> {
        let client = self.config.connect(NoTls).map_err(|e| self.error(&e))?;
        Ok(Connection { client, prepared: HashMap::new() })
    }

    fn error(&self, e: &postgres::Error) -> DbError {
        let (place, why) = (self.place.clone(), chain(e));
        let code = e.code().map(postgres::error::SqlState::code);
        match code {
            Some("53100") => DbError::Full { place, why },
            // Connections: none left, broken, refused while it starts or stops.
            Some(code) if code.starts_with("08") || code.starts_with("57P") || code == "53300" => {
                DbError::Unreachable { place, why }
            }
            Some(_) => DbError::Failed { place, why },
            None => DbError::Unreachable { place, why },
        }
    }

    fn attempt(&self, connection: &mut Connection, work: &mut Work<'_>) -> Result<(), Outcome> {
        let refused = |e: &postgres::Error| Outcome { again: again(e), error: self.error(e) };
        let transaction = connection.client.transaction().map_err(|e| refused(&e))?;
        let mut running = Running { of: self, transaction, prepared: &mut connection.prepared, again: false };
        if let Err(error) = work(&mut running) {
            return Err(Outcome { again: running.again, error });
        }
        running.transaction.commit().map_err(|e| refused(&e))
    }
}

/// Why a transaction did not happen, and whether it only lost against another.
struct Outcome {
    again: bool,
    error: DbError,
}

impl Session for Postgres {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn transact(&self, work: &mut Work<'_>) -> Result<(), DbError> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0;
        loop {
            let connection = match slot.as_mut() {
                Some(connection) if !connection.client.is_closed() => connection,
                _ => slot.insert(self.connect()?),
            };
            let Err(outcome) = self.attempt(connection, work) else { return Ok(()) };
            tries += 1;
            if !outcome.again || tries >= AGAIN {
                if outcome.error.passes() {
                    *slot = None;
                }
                return Err(outcome.error);
            }
        }
    }
}

struct Running<'c> {
    of: &'c Postgres,
    transaction: postgres::Transaction<'c>,
    prepared: &'c mut HashMap<String, Statement>,
    again: bool,
}

impl Running<'_> {
    fn statement(&mut self, sql: &str) -> Result<Statement, DbError> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.transaction.prepare(&said(sql)).map_err(|e| self.failed(&e))?;
        // Statements of many shapes (imports) do not pile up at the server.
        if self.prepared.len() > 100 {
            self.prepared.clear();
        }
        self.prepared.insert(sql.into(), statement.clone());
        Ok(statement)
    }

    fn failed(&mut self, e: &postgres::Error) -> DbError {
        self.again = again(e);
        self.of.error(e)
    }
}

impl Link for Running<'_> {
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, DbError> {
        let statement = self.statement(sql)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.transaction.execute(&statement, &values).map_err(|e| self.failed(&e))
    }

    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Values>, DbError> {
        let statement = self.statement(sql)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = self.transaction.query(&statement, &values).map_err(|e| self.failed(&e))?;
        rows.iter()
            .map(|row| (0..row.len()).map(|n| row.try_get(n)).collect::<Result<Values, _>>())
            .collect::<Result<_, _>>()
            .map_err(|e| self.failed(&e))
    }

    fn batch(&mut self, sql: &str) -> Result<(), DbError> {
        self.transaction.batch_execute(&said(sql)).map_err(|e| self.failed(&e))
    }
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Real(number) => number.to_sql(ty, out),
            Self::Text(text) => text.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT4, Type::INT8, Type::FLOAT8, Type::TEXT].contains(ty)
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Value {
    fn from_sql(ty: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *ty {
            Type::INT4 => Self::Int(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::FLOAT8 => Self::Real(f64::from_sql(ty, raw)?),
            _ => Self::Text(String::from_sql(ty, raw)?),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        <Self as ToSql>::accepts(ty)
    }
}

/// A statement as PostgreSQL says it.
fn said(sql: &str) -> String {
    sql.replace("NOW_MS", "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)")
        .replace("SKIP_LOCKED", "FOR UPDATE SKIP LOCKED")
        .replace("id IDENTITY", "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        .replace(
            "TABLE_NAMES",
            "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = current_schema()",
        )
        // Any number that all of us take.
        .replace("ALONE", "SELECT pg_advisory_xact_lock(4711202608)")
}

/// Whether a transaction lost against another: serialisation, deadlock.
fn again(e: &postgres::Error) -> bool {
    e.code().is_some_and(|code| ["40001", "40P01"].contains(&code.code()))
}

fn chain(e: &postgres::Error) -> String {
    let mut text = e.to_string();
    let mut cause: Option<&dyn Error> = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

/// An address without its password.
pub fn shown(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) => {
            if url.password().is_some() && url.set_password(Some("...")).is_err() {
                return "postgres://...".into();
            }
            // A password can stand there too.
            url.set_query(None);
            url.into()
        }
        Err(_) => "postgres://...".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(shown("postgres://me:secret@db.example/w?password=secret"), "postgres://me:...@db.example/w");
        assert!(!shown("postgres://me:secret@[bad/").contains("secret"));
    }
}
