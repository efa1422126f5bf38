//! What an analysis of a VM says: findings, and one verdict (`docs/spec/findings.md`).
//!
//! ```text
//!   events, changes ─► findings ─ excused? ─► verdict
//!                      id, severity, ATT&CK    clean | suspicious | malicious | unknown
//!                      evidence: event numbers
//!                      paths ───────────────► left out of a commit unless named
//! ```
//!
//! Invariants: what is not whole is never `clean`; all texts of a VM's are printed through [`crate::path::printable`].

use crate::event::{Level, Program};
use crate::path::VmPath;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of the report that [`Report`] is.
pub const REPORT: u32 = 1;

/// How bad it is if it is what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a look.
    Low,
    /// Good programs do it seldom.
    Medium,
    /// Good programs hardly ever do it.
    High,
    /// There is no good reason.
    Critical,
}

impl Severity {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What all findings come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All was seen, and nothing was found.
    Clean,
    /// Something was found.
    Suspicious,
    /// Something critical was found, or two different things of high severity.
    Malicious,
    /// Nothing was found, and not all was seen.
    Unknown,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Clean, Self::Suspicious, Self::Malicious, Self::Unknown];

    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Suspicious => "suspicious",
            Self::Malicious => "malicious",
            Self::Unknown => "unknown",
        }
    }

    /// What these findings come to. `is_whole`: all was seen.
    #[must_use]
    pub fn of(findings: &[Finding], is_whole: bool) -> Self {
        let is_critical = findings.iter().any(|f| f.severity == Severity::Critical);
        let mut high: Vec<&str> =
            findings.iter().filter(|f| f.severity == Severity::High).map(|f| f.id.as_str()).collect();
        high.sort_unstable();
        high.dedup();
        match (findings.is_empty(), is_whole) {
            (false, _) if is_critical || high.len() > 1 => Self::Malicious,
            (false, _) => Self::Suspicious,
            (true, true) => Self::Clean,
            (true, false) => Self::Unknown,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whose rule it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// One of fvm's own.
    Native,
    /// A Sigma rule.
    Sigma,
    /// A look into the changed files.
    Content,
    /// clamd.
    Clamd,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule: one of the names in `docs/book/detections.md`, or a Sigma rule's id.
    pub id: String,
    /// In a few words.
    pub title: String,
    /// How bad.
    pub severity: Severity,
    /// The technique's number in MITRE ATT&CK; empty where a rule names none.
    pub attack: String,
    /// Why that matters, in plain words.
    pub words: String,
    /// What was seen, in one line.
    pub what: String,
    /// Numbers of the events that show it, the first ones; none where only the changes show it.
    pub events: Vec<u64>,
    /// How many more there are.
    pub more_events: u64,
    /// The files it is about, as the VM names them, sorted.
    pub paths: Vec<VmPath>,
    /// There were more files than are listed.
    pub paths_cut: bool,
    /// The program that did it, if the log says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub program: Option<Program>,
    /// What that came from, nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ancestors: Vec<Program>,
    /// When it was seen first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<Timestamp>,
    /// Whose rule it was.
    pub source: Source,
    /// Why it does not count: an exception.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub excused: Option<String>,
}

/// All that an analysis says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT`].
    pub version: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// What could not be seen, in words; nothing: all that the level names was seen.
    pub gaps: Vec<String>,
    /// What was written down of the last run; `None`: there is no log.
    pub level: Option<Level>,
    /// How many events there are.
    pub events: u64,
    /// What counts, the worst first.
    pub findings: Vec<Finding>,
    /// What was found and excused.
    pub excused: Vec<Finding>,
}

impl Report {
    /// The worst finding about the file at `path`, or about something below it.
    #[must_use]
    pub fn worst_at(&self, path: &VmPath) -> Option<&Finding> {
        let about = |finding: &&Finding| finding.paths.iter().any(|found| found.is_within(path));
        self.findings.iter().filter(about).max_by_key(|finding| finding.severity)
    }

    /// Whether not all files that findings are about are known.
    #[must_use]
    pub fn paths_cut(&self) -> bool {
        self.findings.iter().any(|finding| finding.paths_cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(id: &str, severity: Severity) -> Finding {
        Finding {
            id: id.into(),
            title: String::new(),
            severity,
            attack: String::new(),
            words: String::new(),
            what: String::new(),
            events: Vec::new(),
            more_events: 0,
            paths: Vec::new(),
            paths_cut: false,
            program: None,
            ancestors: Vec::new(),
            at: None,
            source: Source::Native,
            excused: None,
        }
    }

    #[test]
    fn the_verdict_is_the_worst_that_the_findings_allow_and_never_clean_over_a_gap() {
        use Severity::{Critical, High, Low, Medium};
        for (findings, whole, verdict) in [
            (vec![], true, Verdict::Clean),
            (vec![], false, Verdict::Unknown),
            (vec![("a", Low)], true, Verdict::Suspicious),
            (vec![("a", Medium), ("b", Medium), ("c", High)], true, Verdict::Suspicious),
            (vec![("a", High), ("a", High)], true, Verdict::Suspicious),
            (vec![("a", High), ("b", High)], true, Verdict::Malicious),
            (vec![("a", Critical)], false, Verdict::Malicious),
            (vec![("a", Low)], false, Verdict::Suspicious),
        ] {
            let all: Vec<Finding> = findings.iter().map(|(id, severity)| finding(id, *severity)).collect();
            assert_eq!(Verdict::of(&all, whole), verdict, "{findings:?}");
        }
    }

    #[test]
    fn the_worst_finding_below_a_directory_is_told() {
        let path = |text: &str| VmPath::new(text).unwrap();
        let low = Finding { paths: vec![path("/a/b")], ..finding("low", Severity::Low) };
        let high = Finding { paths: vec![path("/a/c")], ..finding("high", Severity::High) };
        let report = Report {
            version: REPORT,
            verdict: Verdict::Suspicious,
            gaps: Vec::new(),
            level: None,
            events: 0,
            findings: vec![low, high],
            excused: Vec::new(),
        };
        assert_eq!(report.worst_at(&path("/a")).unwrap().id, "high");
        assert_eq!(report.worst_at(&path("/a/b")).unwrap().id, "low");
        assert!(report.worst_at(&path("/a/bc")).is_none());
    }
}
