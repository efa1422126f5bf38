//! A whole outcome in the store: JSON, compressed.

use crate::model::Outcome;
use crate::store::{Store, StoreError};
use std::io::Read;

/// An outcome may have so many bytes as JSON.
const JSON_MAX_BYTES: u64 = 256 << 20;

/// Stores an outcome.
///
/// # Errors
/// When the store fails.
pub fn put(store: &dyn Store, outcome: &Outcome) -> Result<String, StoreError> {
    let json = serde_json::to_vec(outcome).map_err(|e| failed("store", "", &e))?;
    let packed = zstd::bulk::compress(&json, 3).map_err(|e| failed("store", "", &e))?;
    store.put(&packed)
}

/// Reads one.
///
/// # Errors
/// When the store fails, or it is not there, or is none.
pub fn get(store: &dyn Store, name: &str) -> Result<Outcome, StoreError> {
    let packed = store.get(name)?.ok_or_else(|| failed("read", name, &"it is not there"))?;
    let mut json = Vec::new();
    let reader = zstd::stream::read::Decoder::new(&packed[..]).map_err(|e| failed("read", name, &e))?;
    reader.take(JSON_MAX_BYTES).read_to_end(&mut json).map_err(|e| failed("read", name, &e))?;
    serde_json::from_slice(&json).map_err(|e| failed("read", name, &e))
}

fn failed(what: &'static str, name: &str, e: &dyn std::fmt::Display) -> StoreError {
    StoreError { what, name: name.into(), place: "the store".into(), why: e.to_string() }
}
