//! What can go wrong, in one place.

use std::io;
use std::path::{Path, PathBuf};

/// Why a benchmark did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line.
    #[error("{0}\n{usage}", usage = crate::args::USAGE)]
    Usage(String),
    /// A file.
    #[error("cannot {attempt} {}: {source}", path.display())]
    File {
        /// The verb.
        attempt: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that has to succeed did not.
    #[error("{command}: {reason}")]
    Program {
        /// What was run.
        command: String,
        /// Status, and what it said.
        reason: String,
    },
    /// Something that this machine lacks.
    #[error("{what}; {hint}")]
    Missing {
        /// What.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The book does not have the place for the tables.
    #[error("{}: no line '{marker}'", path.display())]
    Marker {
        /// The page.
        path: PathBuf,
        /// The line.
        marker: String,
    },
}

impl Error {
    /// For `map_err`.
    pub fn file(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { attempt, path, source }
    }

    /// The exit status.
    #[must_use]
    pub fn code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}
