//! What can be wrong with units, as values that say where.

use crate::name::UnitName;
use fvm_model::path::printable;
use std::fmt;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The file, as the VM names it, printable.
    pub file: String,
    /// From 1; 0: the file as a whole.
    pub line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = printable(self.file.as_bytes());
        if self.line == 0 { f.write_str(&file) } else { write!(f, "{file}:{}", self.line) }
    }
}

/// Why a unit cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a name of a unit.
    #[error("'{0}' is not a unit's name")]
    Name(String),
    /// The text is not a unit file.
    #[error("{at}: {why}")]
    Syntax {
        /// Where.
        at: At,
        /// What is wrong.
        why: &'static str,
    },
    /// A value that its directive cannot have.
    #[error("{at}: {key}={}: {why}", printable(.value.as_bytes()))]
    Value {
        /// Where.
        at: At,
        /// The directive.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// The directives do not make a service.
    #[error("{unit}: {why}")]
    Service {
        /// Which.
        unit: UnitName,
        /// What is missing or contradicts itself.
        why: &'static str,
    },
}

/// Why units cannot be started together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Somebody asks for a unit that is not there.
    #[error("{by} requires {unit}, and there is no such unit")]
    Missing {
        /// What is asked for.
        unit: UnitName,
        /// By whom.
        by: UnitName,
    },
    /// Everyone waits for the other.
    #[error("these units wait for each other (After=, Before=): {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Cycle(Vec<UnitName>),
    /// Too much for one command.
    #[error("this would start more than {0} units")]
    TooMany(usize),
    /// It was not loaded: a fault of the caller.
    #[error("{0} was not loaded")]
    NotLoaded(UnitName),
}
