//! Verdicts and findings as text for people.
//!
//! ```text
//!   demo: malicious: 2 findings in 214 events (level full)
//!   critical  a shell takes its orders from the network        reverse-shell, T1059.004
//!             bash -i with network sockets for input and output
//! ```
//!
//! Invariant: as of all of [`super`]: what a VM chose passes through `printable` (findings come so).

use super::{line, origin, summary};
use fvm::model::finding::{Finding, Report, Source};
use fvm::model::path::printable;
use fvm::model::{Change, ChangeKind, ChangeSet, FileType, Verdict, VmPath, VmRecord};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Files of one finding that are listed.
const PATHS_SHOWN: usize = 10;
/// Findings, and changes, that fit on one screen.
const SCREEN_FINDINGS: usize = 6;
const SCREEN_CHANGES: usize = 8;

fn count(report: &Report) -> String {
    let n = report.findings.len();
    let excused = if report.excused.is_empty() { String::new() } else { format!(", {} excused", report.excused.len()) };
    format!("{n} finding{}{excused}", if n == 1 { "" } else { "s" })
}

/// `fvm analyze`.
pub fn report(w: &mut dyn Write, record: &VmRecord, report: &Report) -> io::Result<()> {
    let level = report.level.map_or("no log".to_owned(), |level| format!("level {level}"));
    let (name, verdict) = (&record.name, report.verdict);
    writeln!(w, "{name}: {verdict}: {} in {} events ({level})", count(report), report.events)?;
    for gap in &report.gaps {
        writeln!(w, "not all was seen: {gap}")?;
    }
    for finding in &report.findings {
        writeln!(w)?;
        one(w, finding)?;
    }
    for finding in &report.excused {
        let why = printable(finding.excused.as_deref().unwrap_or_default().as_bytes());
        writeln!(w, "\nexcused: {} ({}): {}: {why}", finding.title, finding.id, finding.what)?;
    }
    Ok(())
}

fn one(w: &mut dyn Write, finding: &Finding) -> io::Result<()> {
    let attack = if finding.attack.is_empty() { String::new() } else { format!(", {}", finding.attack) };
    writeln!(w, "{:8}  {}  ({}{attack})", finding.severity, finding.title, finding.id)?;
    writeln!(w, "          {}", finding.what)?;
    if !finding.words.is_empty() {
        writeln!(w, "          {}", finding.words)?;
    }
    if let Some(by) = by(finding) {
        writeln!(w, "          by {by}")?;
    }
    if !finding.events.is_empty() {
        let events: Vec<String> = finding.events.iter().take(PATHS_SHOWN).map(u64::to_string).collect();
        let more = finding.events.len().saturating_sub(PATHS_SHOWN) as u64 + finding.more_events;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        writeln!(w, "          events {}{more}", events.join(", "))?;
    }
    for path in finding.paths.iter().take(PATHS_SHOWN) {
        writeln!(w, "          file {path}")?;
    }
    let more = finding.paths.len().saturating_sub(PATHS_SHOWN);
    if more > 0 || finding.paths_cut {
        writeln!(w, "          and {more}{} more", if finding.paths_cut { " and still" } else { "" })?;
    }
    Ok(())
}

/// The program and what it came from.
fn by(finding: &Finding) -> Option<String> {
    let program = finding.program.as_ref()?;
    let names: Vec<String> = std::iter::once(program).chain(&finding.ancestors).map(origin::program).collect();
    let shown = if names.len() > 4 { [&names[..3], &names[names.len() - 1..]].concat() } else { names };
    Some(shown.join(" ← "))
}

/// What a change's line says of its risk.
pub fn risk(report: Option<&Report>, change: &Change) -> String {
    let about = |finding: &&Finding| finding.paths.contains(&change.path);
    let worst = report.and_then(|report| report.findings.iter().filter(about).max_by_key(|f| f.severity));
    worst.map(|finding| format!("  ! {}: {} ({})", finding.severity, finding.title, finding.id)).unwrap_or_default()
}

/// The line below a status.
pub fn conclusion(w: &mut dyn Write, record: &VmRecord, report: &Report) -> io::Result<()> {
    match report.verdict {
        Verdict::Clean => writeln!(w, "analysis: clean"),
        Verdict::Unknown => writeln!(w, "analysis: unknown: {}", report.gaps.join("; ")),
        verdict => writeln!(w, "analysis: {verdict}: {}; 'fvm analyze {}' tells", count(report), record.name),
    }
}

/// What a person should know after a run, on one screen.
pub fn screen(record: &VmRecord, report: &Report, set: &ChangeSet, withheld: &BTreeMap<VmPath, String>) -> Vec<String> {
    let name = &record.name;
    let mut lines = vec![format!("{name}: {}: {}", report.verdict, count(report))];
    lines.extend(report.gaps.iter().map(|gap| format!("  not all was seen: {gap}")));
    for finding in report.findings.iter().take(SCREEN_FINDINGS) {
        let of = if finding.source == Source::Sigma { " (Sigma)" } else { "" };
        lines.push(format!("  {:8}  {}{of}: {}", finding.severity, finding.title, finding.what));
        lines.extend(by(finding).map(|by| format!("            by {by}")));
    }
    if report.findings.len() > SCREEN_FINDINGS {
        lines.push(format!("  and {} more findings", report.findings.len() - SCREEN_FINDINGS));
    }
    lines.push(format!("{name}: {}", summary(set.summary())));
    lines.extend(changes(set, withheld));
    let judged = if report.findings.is_empty() { String::new() } else { format!("fvm analyze {name} | ") };
    let next = if set.changes.is_empty() {
        format!("next: {judged}fvm trace {name} | fvm delete {name}")
    } else {
        format!(
            "next: {judged}fvm status {name} --by process | fvm diff {name} | fvm commit {name} | fvm delete {name}"
        )
    };
    lines.push(next);
    if !withheld.is_empty() {
        lines.push(format!("      a commit leaves out {} of these, marked !, unless they are named", withheld.len()));
    }
    lines
}

/// The changes, as many as there is room for: first what a commit leaves out, then the others, of each new directory only its
/// own name.
fn changes(set: &ChangeSet, withheld: &BTreeMap<VmPath, String>) -> Vec<String> {
    let (mut marked, mut others): (Vec<String>, Vec<(String, usize)>) = (Vec::new(), Vec::new());
    let mut new_dir: Option<&VmPath> = None;
    for change in &set.changes {
        if withheld.contains_key(&change.path) {
            marked.push(format!("  ! {}", line(change)));
            continue;
        }
        let is_in = |dir: &VmPath| {
            change.path.as_bytes().strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
        };
        // They come in the order of their paths.
        if new_dir.is_some_and(is_in) && matches!(change.kind, ChangeKind::Created) {
            others.last_mut().into_iter().for_each(|(_, below)| *below += 1);
            continue;
        }
        let is_new_dir = change.file_type == FileType::Directory && matches!(change.kind, ChangeKind::Created);
        new_dir = is_new_dir.then_some(&change.path);
        others.push((line(change), 0));
    }
    let room = SCREEN_CHANGES.saturating_sub(others.len()).max(SCREEN_CHANGES / 2);
    let hidden = marked.len().saturating_sub(room);
    marked.truncate(room);
    if hidden > 0 {
        marked.push(format!("  ! and {hidden} more"));
    }
    let room = SCREEN_CHANGES.saturating_sub(marked.len());
    let more: usize = others.iter().skip(room).map(|(_, below)| 1 + below).sum();
    let shown = others.into_iter().take(room).map(|(line, below)| match below {
        0 => format!("    {line}"),
        below => format!("    {line} and {below} in it"),
    });
    marked.extend(shown);
    if more > 0 {
        marked.push(format!("    and {more} more"));
    }
    marked
}
