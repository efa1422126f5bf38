//! What a person has said does not count (`docs/spec/findings.md`).
//!
//! ```text
//!   [[exception]]
//!   rule = "shell-startup"            a rule's id; '*' and '?' are wildcards
//!   path = ["/home/*/.bashrc"]        all its files must match one of these
//!   command = "*rustup-init*"         the program, or one that it came from
//!   reason = "rustup adds itself to PATH"
//! ```
//!
//! Invariants: an exception without a reason, or without anything to narrow it down, is an error; a finding is excused as a whole or
//! loses the files that match, never more.

use fvm_model::finding::Finding;
use fvm_trace::origin::wild;
use serde::Deserialize;
use std::os::unix::ffi::OsStrExt;

/// Largest file.
pub const MAX_BYTES: u64 = 1 << 20;

/// Why exceptions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExceptionError {
    /// It is no TOML of this form.
    #[error("{file}: {message}")]
    Text {
        /// The file.
        file: String,
        /// What, and where.
        message: String,
    },
    /// One says too little.
    #[error("{file}: exception {n} {what}")]
    Empty {
        /// The file.
        file: String,
        /// Which, from 1.
        n: usize,
        /// What is missing.
        what: &'static str,
    },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    rule: String,
    #[serde(default)]
    path: Vec<String>,
    command: Option<String>,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    exception: Vec<Entry>,
}

/// Exceptions.
#[derive(Debug, Clone, Default)]
pub struct Exceptions(Vec<Entry>);

impl Exceptions {
    /// Reads a file's text and adds its exceptions. `file` is for messages.
    ///
    /// # Errors
    /// When it is not of the form above.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), ExceptionError> {
        let failed = |e: toml::de::Error| ExceptionError::Text { file: file.to_owned(), message: e.to_string() };
        let text: Text = toml::from_str(text).map_err(failed)?;
        for (n, entry) in text.exception.iter().enumerate() {
            let what = if entry.reason.trim().is_empty() {
                "has no reason"
            } else if entry.path.is_empty() && entry.command.is_none() {
                "names neither a path nor a command: it would excuse whatever the rule finds"
            } else if entry.rule.is_empty() {
                "names no rule"
            } else {
                continue;
            };
            return Err(ExceptionError::Empty { file: file.to_owned(), n: n + 1, what });
        }
        self.0.extend(text.exception);
        Ok(())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left of a finding, and what of it is excused.
    #[must_use]
    pub fn apply(&self, finding: Finding) -> (Option<Finding>, Option<Finding>) {
        let mut left = finding;
        let mut excused: Option<Finding> = None;
        for entry in &self.0 {
            if !wild(entry.rule.as_bytes(), left.id.as_bytes())
                || !entry.command.as_ref().is_none_or(|c| is_by(&left, c))
            {
                continue;
            }
            if entry.path.is_empty() {
                left.excused = Some(entry.reason.clone());
                return (None, Some(left));
            }
            let is_meant = |path: &fvm_model::VmPath| entry.path.iter().any(|p| wild(p.as_bytes(), path.as_bytes()));
            let (out, rest): (Vec<_>, Vec<_>) = left.paths.iter().cloned().partition(is_meant);
            if out.is_empty() {
                continue;
            }
            if rest.is_empty() && !left.paths_cut {
                left.excused = Some(entry.reason.clone());
                return (None, Some(left));
            }
            let part = Finding { paths: out, excused: Some(entry.reason.clone()), ..left.clone() };
            left.paths = rest;
            excused = excused.or(Some(part));
        }
        (Some(left), excused)
    }
}

fn is_by(finding: &Finding, pattern: &str) -> bool {
    finding.program.iter().chain(&finding.ancestors).any(|program| {
        let exe = program.exe.0.as_bytes();
        wild(pattern.as_bytes(), &program.command()) || wild(pattern.as_bytes(), exe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fvm_model::event::Program;
    use fvm_model::finding::Source;
    use fvm_model::path::Bytes;
    use fvm_model::{Severity, VmPath};

    fn finding(id: &str, paths: &[&str], argv: &[&str]) -> Finding {
        let argv = argv.iter().map(|arg| Bytes(arg.into())).collect();
        Finding {
            id: id.into(),
            title: String::new(),
            severity: Severity::High,
            attack: String::new(),
            words: String::new(),
            what: String::new(),
            events: Vec::new(),
            more_events: 0,
            paths: paths.iter().map(|path| VmPath::new(path).unwrap()).collect(),
            paths_cut: false,
            program: Some(Program { tgid: 1, start_ns: 1, exe: Bytes("/usr/bin/x".into()), argv }),
            ancestors: Vec::new(),
            at: None,
            source: Source::Native,
            excused: None,
        }
    }

    fn exceptions(text: &str) -> Result<Exceptions, ExceptionError> {
        let mut exceptions = Exceptions::default();
        exceptions.add("f", text).map(|()| exceptions)
    }

    #[test]
    fn a_finding_is_excused_whole_or_in_part() {
        let given = exceptions(
            "[[exception]]\nrule = 'shell-*'\npath = ['/home/*/.bashrc']\ncommand = 'rustup*'\nreason = 'why'\n",
        )
        .unwrap();
        let (left, excused) = given.apply(finding("shell-startup", &["/home/a/.bashrc"], &["rustup-init"]));
        assert!(left.is_none());
        assert_eq!(excused.unwrap().excused.as_deref(), Some("why"));
        let (left, excused) =
            given.apply(finding("shell-startup", &["/home/a/.bashrc", "/root/.zshrc"], &["rustup-init"]));
        assert_eq!((left.unwrap().paths.len(), excused.unwrap().paths.len()), (1, 1));
        for other in [
            finding("cron", &["/home/a/.bashrc"], &["rustup-init"]),
            finding("shell-startup", &["/home/a/.bashrc"], &["curl"]),
            finding("shell-startup", &[], &["rustup-init"]),
        ] {
            let (left, excused) = given.apply(other);
            assert!(left.is_some() && excused.is_none());
        }
    }

    #[test]
    fn an_exception_that_says_too_little_is_an_error() {
        for (text, why) in [
            ("[[exception]]\nrule = 'x'\npath = ['/a']\nreason = ' '", "no reason"),
            ("[[exception]]\nrule = 'x'\nreason = 'y'", "neither a path"),
            ("[[exception]]\nrule = 'x'\npath = ['/a']", "reason"),
            ("[[exceptions]]\nrule = 'x'", "unknown"),
        ] {
            let error = exceptions(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(exceptions("").unwrap().is_empty());
    }
}
