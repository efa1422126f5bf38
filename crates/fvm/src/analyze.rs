//! What a VM did, judged: the report of its log and its changes, and what of the changes a commit leaves out for it.
//!
//! ```text
//!   log ─► events ─┐
//!   changes ───────┼─ analyze ─► Report ─ withheld ─► Choice::withheld
//!   contents ──────┘
//! ```
//!
//! Invariants: of a file at most [`LOOK_BYTES`] are read, and of changes, however many a VM makes, at most [`HELD_MAX`] are held; where the log has no changes of files nothing is withheld, for then nobody can
//! say what a package manager brought; a virus scanner that was asked for and did not look is an error or a gap, never silence.

use crate::{Fvm, FvmError};
use fvm_analyze::clamd::{self, ClamdError};
use fvm_analyze::{Analysis, Settings};
use fvm_changes::{ScanInput, open_after, open_before};
use fvm_model::event::Kind;
use fvm_model::finding::Report;
use fvm_model::policy::Demand;
use fvm_model::{Change, ChangeKind, ChangeSet, FileType, Level, Verdict, VmPath, VmRecord, VmState};
use fvm_trace::LogError;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Why a new directory is left out about which nothing was found.
pub const ALL_LEFT_OUT: &str = "all that is in it is left out";

/// So much of each version of a file is looked at.
pub const LOOK_BYTES: u64 = 256 << 10;

/// How many changes are known before the events, where no event tells of files: some 50 MB.
const HELD_MAX: usize = 100_000;

/// A report, and whether a commit goes by it.
#[derive(Debug, Clone)]
pub struct Findings {
    /// What was found.
    pub report: Report,
}

impl Fvm {
    /// Judges what a VM did: `changes` are all its changes, `warnings` what reading them said. With the socket of a clamd its
    /// files are scanned too.
    ///
    /// # Errors
    /// When the log cannot be read, or clamd does not answer.
    pub fn analyze(
        &self,
        record: &VmRecord,
        changes: &mut dyn Iterator<Item = Change>,
        warnings: &[String],
        settings: &Settings,
        clamd: Option<&Path>,
    ) -> Result<Findings, FvmError> {
        // Before the log: what ends meanwhile has an end in it.
        let runs = self.state(record)? != VmState::Stopped;
        let mut analysis = Analysis::new(settings);
        let mut held = Vec::new();
        let whole = match self.events(record) {
            Err(FvmError::Log(LogError::None)) => None,
            log => Some(log?.read(&mut |event| {
                if event.kind == Kind::Start && event.sees_all_but_files() && held.is_empty() {
                    held.extend((&mut *changes).take(HELD_MAX));
                    analysis.hold(&held);
                    if held.len() == HELD_MAX {
                        analysis.gap("too many changes to know of each program whether it was made in the VM".into());
                    }
                }
                analysis.see(&event);
            })?),
        };
        let input = self.scan_input(record)?;
        for change in held.into_iter().chain(changes) {
            analysis.change(&change, &mut |change| both(&input, change));
            if let Some(socket) = clamd {
                scan_file(&input, &change, socket, &mut analysis)?;
            }
        }
        if !warnings.is_empty() {
            analysis.gap("not all changes could be read".into());
        }
        Ok(Findings { report: analysis.finish(whole.as_ref(), runs) })
    }

    /// Users' homes, as far as they are this user's to protect.
    #[must_use]
    pub fn homes(&self) -> Vec<VmPath> {
        let homes = fvm_host::ids::homes(rustix::process::geteuid().as_raw()).unwrap_or_default();
        homes.iter().map(fvm_model::HostPath::in_vm).collect()
    }
}

/// The beginning of both versions of a regular file.
fn both(input: &ScanInput, change: &Change) -> Option<(Vec<u8>, Vec<u8>)> {
    let begin = |file: rustix::fd::OwnedFd| {
        let mut bytes = Vec::new();
        File::from(file).take(LOOK_BYTES).read_to_end(&mut bytes).ok().map(|_| bytes)
    };
    let before = match open_before(change) {
        Ok(Some(file)) => begin(file)?,
        Ok(None) => Vec::new(),
        Err(_) => return None,
    };
    Some((before, begin(open_after(input, change).ok()?)?))
}

fn scan_file(input: &ScanInput, change: &Change, socket: &Path, analysis: &mut Analysis<'_>) -> Result<(), FvmError> {
    let is_same = matches!(
        change.kind,
        ChangeKind::Deleted | ChangeKind::Metadata { .. } | ChangeKind::Renamed { modified: false, .. }
    );
    if is_same || change.file_type != FileType::File {
        return Ok(());
    }
    if change.after.as_ref().is_some_and(|after| after.size_bytes > clamd::FILE_MAX_BYTES) {
        analysis.gap(format!("{} is too large for clamd", change.path));
        return Ok(());
    }
    let Ok(file) = open_after(input, change) else {
        analysis.gap(format!("{} could not be scanned", change.path));
        return Ok(());
    };
    match clamd::scan(socket, &mut File::from(file)) {
        Ok(Some(name)) => analysis.known_malware(change, &name),
        Ok(None) => {}
        Err(ClamdError::Refused(why)) => {
            analysis.gap(format!("{}: clamd says: {}", change.path, fvm_model::path::printable(why.as_bytes())));
        }
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

impl Findings {
    /// Whether there was a log of files to judge by.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.report.level.is_some_and(Level::sees_files)
    }

    /// Sees that the verdict is what the VM's policy demands of a commit.
    ///
    /// # Errors
    /// [`FvmError::Verdict`] when it is not.
    pub fn check(&self, record: &VmRecord) -> Result<(), FvmError> {
        let verdict = self.report.verdict;
        if record.policy.commit.verdict == Demand::Clean && verdict != Verdict::Clean {
            return Err(FvmError::Verdict { name: record.name.clone(), verdict });
        }
        Ok(())
    }
}

/// What of `set` a commit leaves out for what was found, and why. `named`: what was asked for by name.
#[must_use]
pub fn withheld(found: &Findings, set: &ChangeSet, named: &BTreeSet<VmPath>) -> BTreeMap<VmPath, String> {
    if !found.has_log() {
        return BTreeMap::new();
    }
    let report = &found.report;
    let mut by_path: BTreeMap<&VmPath, &fvm_model::Finding> = BTreeMap::new();
    for finding in &report.findings {
        for path in &finding.paths {
            let worst = by_path.entry(path).or_insert(finding);
            if finding.severity > worst.severity {
                *worst = finding;
            }
        }
    }
    let is_cut = report.paths_cut();
    let why = |change: &Change| {
        let of_itself = change.path.as_path().ancestors().find_map(|at| {
            let at = VmPath::new(at).ok()?;
            by_path.get(&at).copied()
        });
        // A file that was moved away, and its old name, are one thing.
        let of_base = || change.base.as_ref().and_then(|base| by_path.get(&base.in_vm()).copied());
        let moved = matches!(change.kind, ChangeKind::Renamed { .. });
        match of_itself.or_else(|| of_base().filter(|_| moved)) {
            Some(finding) => Some(format!("{}: {} ({})", finding.severity, finding.title, finding.id)),
            None if is_cut => Some("too many files were touched by what was found to tell them apart".into()),
            None => None,
        }
    };
    // Of a new directory: whether something of what is in it stays. What is in it comes behind it.
    let mut stays_in: HashMap<&Path, bool> = HashMap::new();
    let mut withheld = BTreeMap::new();
    for change in set.changes.iter().rev() {
        let path = change.path.as_path();
        let is_new_dir = change.file_type == FileType::Directory && matches!(change.kind, ChangeKind::Created);
        let empty = || (is_new_dir && stays_in.get(path) == Some(&false)).then(|| ALL_LEFT_OUT.into());
        let why = (!named.contains(&change.path)).then(|| why(change).or_else(empty)).flatten();
        if let Some(parent) = path.parent() {
            *stays_in.entry(parent).or_default() |= why.is_none();
        }
        withheld.extend(why.map(|why| (change.path.clone(), why)));
    }
    withheld
}

#[cfg(test)]
mod tests {
    use super::*;
    use fvm_model::finding::{Finding, REPORT, Source};
    use fvm_model::{HostPath, MetaDelta, Severity};

    fn path(text: &str) -> VmPath {
        VmPath::new(text).unwrap()
    }

    fn change(at: &str, from: Option<&str>) -> Change {
        let renamed = ChangeKind::Renamed { modified: false, meta: MetaDelta::default() };
        Change {
            path: path(at),
            kind: if from.is_some() { renamed } else { ChangeKind::Created },
            file_type: FileType::File,
            base: from.map(|from| HostPath::new(from).unwrap()),
            layer: 0,
            before: None,
            after: None,
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        }
    }

    fn found(paths: &[&str], level: Option<Level>, paths_cut: bool) -> Findings {
        let finding = Finding {
            id: "cron".into(),
            title: "a timed job".into(),
            severity: Severity::High,
            attack: String::new(),
            words: String::new(),
            what: String::new(),
            events: Vec::new(),
            more_events: 0,
            paths: paths.iter().map(|p| path(p)).collect(),
            paths_cut,
            program: None,
            ancestors: Vec::new(),
            at: None,
            source: Source::Native,
            excused: None,
        };
        let (verdict, gaps) = (Verdict::Suspicious, Vec::new());
        let findings = vec![finding];
        Findings { report: Report { version: REPORT, verdict, gaps, level, events: 1, findings, excused: Vec::new() } }
    }

    #[test]
    fn what_findings_are_about_is_withheld_unless_it_is_named() {
        let changes = vec![change("/a", None), change("/b/c", None), change("/d.locked", Some("/d"))];
        let set = ChangeSet { changes, ..ChangeSet::default() };
        let level = Some(Level::Basic);
        let paths = |found: &Findings, named: &[&str]| -> Vec<String> {
            let named = named.iter().map(|p| path(p)).collect();
            withheld(found, &set, &named).keys().map(ToString::to_string).collect()
        };
        assert_eq!(paths(&found(&["/b", "/d"], level, false), &[]), ["/b/c", "/d.locked"]);
        assert_eq!(paths(&found(&["/b", "/d"], level, false), &["/b/c"]), ["/d.locked"]);
        assert_eq!(paths(&found(&["/b"], level, true), &[]), ["/a", "/b/c", "/d.locked"]);
        let dir = |at: &str| Change { file_type: FileType::Directory, ..change(at, None) };
        let changes =
            vec![dir("/n"), dir("/n/e"), dir("/n/o"), change("/n/o/p", None), dir("/n/o/q"), change("/n/o/q/r", None)];
        let set = ChangeSet { changes, ..ChangeSet::default() };
        let dirs = |found: &Findings, named: &[&str]| -> Vec<String> {
            let named = named.iter().map(|p| path(p)).collect();
            withheld(found, &set, &named).keys().map(ToString::to_string).collect()
        };
        assert_eq!(dirs(&found(&["/n/o/q/r"], level, false), &[]), ["/n/o/q", "/n/o/q/r"]);
        assert_eq!(dirs(&found(&["/n/o/q/r", "/n/o/p"], level, false), &[]), ["/n/o", "/n/o/p", "/n/o/q", "/n/o/q/r"]);
        assert_eq!(dirs(&found(&["/n/o/q/r"], level, false), &["/n/o/q/r"]), [""; 0]);
        assert_eq!(paths(&found(&["/b"], None, false), &[]), [""; 0]);
        for level in [Level::Off, Level::Programs] {
            assert_eq!(paths(&found(&["/b"], Some(level), false), &[]), [""; 0]);
        }
    }
}
