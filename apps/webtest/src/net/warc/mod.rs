//! WARC 1.1 (ISO 28500:2017): what was fetched, kept so that others' tools read it too. `docs/spec/warc.md` says what we write.
//!
//! ```text
//!   DIR/fvm-20261128201500-1f0c-00001.warc.gz    warcinfo │ request response │ request response │ metadata ...
//!   DIR/index.cdxj                                one line for each answer: where it is
//!
//!   record    one record's head and block as bytes; pure      write   exchanges → files and index, in a thread of its own
//!   index     lines of the index; which answer is for what    read    files and index → an answer's bytes
//! ```
//!
//! Invariants: files of a set are hostile input: heads, blocks and what gzip makes of them are bounded, names in the index are names in
//! the directory and nothing else; a file is written once, from its beginning, by one writer; the index can always be made anew.

pub mod index;
pub mod read;
pub mod record;
pub mod write;

use std::path::PathBuf;

/// The index's name in a set's directory.
pub const INDEX: &str = "index.cdxj";
/// A record's block may be so long.
pub const BLOCK_MAX_BYTES: u64 = 1 << 30;
/// What is read of an answer to be replayed.
pub const ANSWER_MAX_BYTES: u64 = 64 << 20;
/// A set may have so many answers.
pub const ENTRIES_MAX: usize = 10_000_000;

/// Why a WARC set cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {why}", path.display())]
pub struct WarcError {
    /// `read`, `write`, ...
    pub what: &'static str,
    /// What.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

impl WarcError {
    pub(crate) fn new(what: &'static str, path: impl Into<PathBuf>, why: impl ToString) -> Self {
        Self { what, path: path.into(), why: why.to_string() }
    }
}
