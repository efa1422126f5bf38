//! An error as the command line shows it: text, hint, exit code.

use fvm::model::exit;
use fvm::{FvmError, VmError};

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    text: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A refusal that the command line itself decides.
    pub fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { text: text.into(), hint: Some(hint.into()), code: exit::FAILED }
    }

    /// A failure with or without something to do next.
    pub fn plain(text: String, hint: Option<&str>) -> Self {
        Self { text, hint: hint.map(ToOwned::to_owned), code: exit::FAILED }
    }

    /// A command line that makes no sense.
    pub fn usage(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: exit::USAGE, ..Self::new(text, hint) }
    }

    /// The whole chain of causes.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What to do next.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code of a command.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The exit code of `run`, `exec` and `shell`, whose small codes are the program's own.
    pub fn run_code(&self) -> u8 {
        match self.code {
            exit::USAGE | exit::INTERRUPTED => self.code,
            _ => exit::RUN_FAILED,
        }
    }
}

impl From<FvmError> for Failure {
    fn from(error: FvmError) -> Self {
        Self { text: error.chain(), hint: error.hint(), code: error.exit_code() }
    }
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        FvmError::from(error).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { text: format!("cannot print: {error}"), hint: None, code: exit::FAILED }
    }
}
