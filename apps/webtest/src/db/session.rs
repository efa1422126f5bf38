//! One way to speak to both databases: the same statements, values of four kinds.
//!
//! Statements are written once, with `$1`, `$2`, ... whose first uses come in this order, and with words that each database says in
//! its own way: `NOW_MS` (its clock), `SKIP_LOCKED` (rows that another transaction has), `IDENTITY` (a number given by itself),
//! `TABLE_NAMES`, `ALONE` (whoever else says so waits).

use super::DbError;

/// A value of a row or of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Int(i64),
    /// A measure.
    Real(f64),
    /// A text; without NUL, which PostgreSQL does not store.
    Text(String),
}

/// A row.
pub type Values = Vec<Value>;

/// A transaction under way.
pub trait Link {
    /// Does something; the number of rows that it did it to.
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, DbError>;
    /// Asks something.
    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Values>, DbError>;
    /// Several statements without values.
    fn batch(&mut self, sql: &str) -> Result<(), DbError>;
}

/// What a transaction does.
pub type Work<'w> = dyn FnMut(&mut dyn Link) -> Result<(), DbError> + 'w;

/// A database. One transaction at a time; other processes have their own.
pub trait Session: Send + Sync {
    /// Where it is, without passwords.
    fn place(&self) -> String;
    /// Runs a transaction: committed if `work` succeeds, else nothing of it happened. It may be run again from the beginning.
    fn transact(&self, work: &mut Work<'_>) -> Result<(), DbError>;
}

impl dyn Session {
    /// A transaction with a result.
    pub fn with<T>(&self, mut work: impl FnMut(&mut dyn Link) -> Result<T, DbError>) -> Result<T, DbError> {
        let mut answer = None;
        self.transact(&mut |link| {
            answer = Some(work(link)?);
            Ok(())
        })?;
        answer.ok_or_else(|| DbError::Failed { place: self.place(), why: "a transaction without a result".into() })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.replace('\0', "\u{fffd}"))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        if text.contains('\0') { text.as_str().into() } else { Self::Text(text) }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(number.try_into().unwrap_or(i64::MAX))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Real(number) } else { Self::Null }
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Reads the columns of a row one after the other.
pub struct Columns {
    of: &'static str,
    values: std::vec::IntoIter<Value>,
}

impl Columns {
    /// Of a row of `of`.
    pub fn new(of: &'static str, row: Values) -> Self {
        Self { of, values: row.into_iter() }
    }

    fn wrong(&self, value: Option<&Value>, wanted: &str) -> DbError {
        DbError::Damaged { what: self.of.into(), why: format!("{value:?} where {wanted} is expected") }
    }

    /// A number.
    pub fn int(&mut self) -> Result<i64, DbError> {
        match self.values.next() {
            Some(Value::Int(number)) => Ok(number),
            other => Err(self.wrong(other.as_ref(), "a number")),
        }
    }

    /// A number that is not negative.
    pub fn count(&mut self) -> Result<u64, DbError> {
        let number = self.int()?;
        u64::try_from(number).map_err(|_| self.wrong(Some(&Value::Int(number)), "a count"))
    }

    /// A number or nothing.
    pub fn maybe_int(&mut self) -> Result<Option<i64>, DbError> {
        match self.values.next() {
            Some(Value::Int(number)) => Ok(Some(number)),
            Some(Value::Null) => Ok(None),
            other => Err(self.wrong(other.as_ref(), "a number")),
        }
    }

    /// A measure or nothing.
    pub fn maybe_real(&mut self) -> Result<Option<f64>, DbError> {
        match self.values.next() {
            Some(Value::Real(number)) => Ok(Some(number)),
            #[expect(clippy::cast_precision_loss, reason = "a measure")]
            Some(Value::Int(number)) => Ok(Some(number as f64)),
            Some(Value::Null) => Ok(None),
            other => Err(self.wrong(other.as_ref(), "a measure")),
        }
    }

    /// A measure; zero where nothing is.
    pub fn real(&mut self) -> Result<f64, DbError> {
        Ok(self.maybe_real()?.unwrap_or_default())
    }

    /// A text.
    pub fn text(&mut self) -> Result<String, DbError> {
        match self.values.next() {
            Some(Value::Text(text)) => Ok(text),
            other => Err(self.wrong(other.as_ref(), "a text")),
        }
    }

    /// A text or nothing.
    pub fn maybe_text(&mut self) -> Result<Option<String>, DbError> {
        match self.values.next() {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            other => Err(self.wrong(other.as_ref(), "a text")),
        }
    }

    /// A text that is JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, DbError> {
        let text = self.text()?;
        serde_json::from_str(&text).map_err(|e| DbError::Damaged { what: self.of.into(), why: e.to_string() })
    }
}

/// `$from, $from+1, ...`: `count` places of a statement.
pub fn places(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}
