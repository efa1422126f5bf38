//! Where the files of results lie: by the hash of what is in them, so that whoever visits twice stores once.
//!
//! ```text
//!  open(place) ─┬─ path ────────── dir   <place>/ab/cdef...   one file each, synced, named when whole
//!               └─ s3://bucket/... s3    <prefix>/ab/cdef...  one object each, checked when read
//! ```
//!
//! Invariants: a name is SHA-256 in hexadecimal and nothing else; what was stored is there, whole, when `put` has returned; it is
//! stored before the database names it.

mod dir;
mod s3;

pub use s3::S3Options;

use crate::db::hex;
use sha2::{Digest, Sha256};

/// A file of results that is read may have so many bytes.
pub const BYTES_MAX: usize = 1 << 30;

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

/// Opens a store: a directory, which is made when it is not there, or `s3://bucket/prefix`.
///
/// # Errors
/// When it cannot be made or reached.
pub fn open(place: &str, options: &S3Options) -> Result<Box<dyn Store>, StoreError> {
    Ok(if place.starts_with("s3://") {
        Box::new(s3::S3::open(place, options)?)
    } else {
        Box::new(dir::Dir::open(place.as_ref())?)
    })
}

/// The name of `bytes`.
#[must_use]
pub fn name_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The two parts of a name, if it is one.
fn parts(name: &str) -> Option<(&str, &str)> {
    let is_name = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_name.then(|| name.split_at(2))
}
