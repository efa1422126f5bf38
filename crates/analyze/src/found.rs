//! What detectors found, gathered into findings: one for each rule and program.
//!
//! Invariant: bounded: of a flood the first is told, and how much more there was; when files are not all listed, that is said.

use crate::rules::Rule;
use crate::world::World;
use fvm_model::event::{Event, ProcessKey};
use fvm_model::finding::{Finding, Source};
use fvm_model::path::printable;
use fvm_model::{Severity, Timestamp, VmPath};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// Events that one finding names.
const EVENTS_MAX: usize = 32;
/// Files that one finding names.
const PATHS_MAX: usize = 100_000;
/// Findings of one rule.
const PER_RULE_MAX: usize = 200;

/// What one rule found of one program.
#[derive(Debug)]
struct Entry {
    rule: &'static Rule,
    severity: Severity,
    what: String,
    key: Option<ProcessKey>,
    at: Option<Timestamp>,
    events: Vec<u64>,
    more_events: u64,
    paths: BTreeSet<VmPath>,
    paths_cut: bool,
}

/// All that was found so far.
#[derive(Debug, Default)]
pub struct Found {
    entries: Vec<Entry>,
    by: HashMap<(&'static str, Option<ProcessKey>), usize>,
    counts: HashMap<&'static str, usize>,
}

/// One thing that was seen.
#[derive(Debug)]
pub struct Sighting<'s> {
    /// What, in one line, about the first of its kind; printable.
    pub what: String,
    /// Who did it.
    pub key: Option<ProcessKey>,
    /// When.
    pub at: Option<Timestamp>,
    /// The events that show it.
    pub events: &'s [u64],
    /// The files it is about.
    pub paths: &'s [&'s [u8]],
}

impl Found {
    /// Adds what an event shows.
    pub fn event(&mut self, rule: &'static Rule, event: &Event, what: String, paths: &[&[u8]]) {
        let sighting = Sighting { what, key: Some(event.process()), at: Some(event.ts), events: &[event.seq], paths };
        self.add(rule, &sighting);
    }

    /// Adds what was seen.
    pub fn add(&mut self, rule: &'static Rule, sighting: &Sighting<'_>) {
        self.add_as(rule, rule.severity, sighting);
    }

    /// The same, as severe as the case is.
    pub fn add_as(&mut self, rule: &'static Rule, severity: Severity, sighting: &Sighting<'_>) {
        let count = self.counts.entry(rule.id).or_default();
        // A flood of processes: the last finding stands for all further ones.
        let of = (rule.id, if *count < PER_RULE_MAX { sighting.key } else { None });
        let index = *self.by.entry(of).or_insert_with(|| {
            *count += 1;
            self.entries.push(Entry {
                rule,
                severity,
                what: sighting.what.clone(),
                key: sighting.key,
                at: sighting.at,
                events: Vec::new(),
                more_events: 0,
                paths: BTreeSet::new(),
                paths_cut: false,
            });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[index];
        entry.severity = entry.severity.max(severity);
        for seq in sighting.events {
            if entry.events.contains(seq) {
                continue;
            }
            if entry.events.len() < EVENTS_MAX {
                entry.events.push(*seq);
            } else {
                entry.more_events += 1;
            }
        }
        for path in sighting.paths {
            use std::os::unix::ffi::OsStrExt;
            let Ok(path) = VmPath::new(Path::new(std::ffi::OsStr::from_bytes(path))) else { continue };
            if entry.paths.len() < PATHS_MAX {
                entry.paths.insert(path);
            } else {
                entry.paths_cut |= !entry.paths.contains(&path);
            }
        }
    }

    /// Whether `rule` has found something about `path`.
    #[must_use]
    pub fn has(&self, rule: &Rule, path: &VmPath) -> bool {
        self.entries.iter().any(|entry| entry.rule.id == rule.id && entry.paths.contains(path))
    }

    /// The findings.
    #[must_use]
    pub fn into_findings(self, world: &World) -> Vec<Finding> {
        let finding = |entry: Entry| {
            let seq = entry.events.first().copied().unwrap_or(u64::MAX);
            let (program, ancestors) = match entry.key.and_then(|key| world.program(key, seq)) {
                Some((program, ancestors)) => (Some(program), ancestors),
                None => (None, Vec::new()),
            };
            Finding {
                id: entry.rule.id.into(),
                title: entry.rule.title.into(),
                severity: entry.severity,
                attack: entry.rule.attack.into(),
                words: entry.rule.words.into(),
                what: entry.what,
                events: entry.events,
                more_events: entry.more_events,
                paths: entry.paths.into_iter().collect(),
                paths_cut: entry.paths_cut,
                program,
                ancestors,
                at: entry.at,
                source: if entry.rule.id == crate::rules::KNOWN_MALWARE.id { Source::Clamd } else { Source::Native },
                excused: None,
            }
        };
        self.entries.into_iter().map(finding).collect()
    }
}

/// A path or command line for one line of text.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    /// Longer ones are cut.
    const MAX: usize = 160;
    let text = printable(bytes);
    match text.char_indices().nth(MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// A command line.
#[must_use]
pub fn command(argv: &[Vec<u8>]) -> String {
    text(&argv.join(&b' '))
}
