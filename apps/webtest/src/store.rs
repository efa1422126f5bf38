//! Where the files of results lie: by the hash of what is in them, so that whoever visits twice stores once.
//!
//! Invariants: a name is SHA-256 in hexadecimal and nothing else; what was stored is there, whole, when `put` has returned; it is
//! stored before the database names it.

/// A place for files of results.
pub trait Store: Send + Sync {
    /// Stores `bytes` and returns their name.
    ///
    /// # Errors
    /// When they cannot be stored; nothing half is left under the name.
    fn put(&self, bytes: &[u8]) -> Result<String, StoreError>;

    /// What is stored as `name`, if it is there.
    ///
    /// # Errors
    /// When `name` is no name, or what is there cannot be read or is not what its name says.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
}

/// Why a file of results could not be stored or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the file of results '{name}' in {place}: {why}")]
pub struct StoreError {
    /// `store` or `read`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// The store.
    pub place: String,
    /// Why.
    pub why: String,
}
