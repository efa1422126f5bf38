//! Changes and VMs as text for people.
//!
//! ```text
//!   A  created    M  content    m  metadata    D  deleted    R  renamed    T  other type
//! ```
//!
//! Invariant: every name that a VM chose passes through `printable`: it cannot write to the terminal.

pub mod findings;
pub mod origin;

use fvm::model::finding::Report;
use fvm::model::path::printable;
use fvm::model::{Change, ChangeKind, FileType, Meta, MetaDelta, Summary, Timestamp, VmRecord, VmState};
use fvm::{FileDiff, KeyChange, ScanError, StoreChange};
use std::borrow::Borrow;
use std::io::{self, Write};

/// `3 added, 1 modified, ...`
pub fn summary(sum: Summary) -> String {
    if sum == Summary::default() {
        return "nothing changed".into();
    }
    format!("{} added, {} modified, {} deleted, {} renamed", sum.added, sum.modified, sum.deleted, sum.renamed)
}

/// Columns as wide as their widest cell; the last one as long as it likes.
pub fn table<const N: usize>(w: &mut dyn Write, rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(w, "{}", line.trim_end())?;
    }
    Ok(())
}

/// UTC, to the second.
pub fn time(at: Timestamp) -> String {
    // Days to civil date: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (days, secs) = (at.secs.div_euclid(86_400), at.secs.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let day = doy - (153 * mp + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", secs / 3600, secs / 60 % 60, secs % 60)
}

/// One key of a keyed store: the adapter has made its texts printable.
fn key_line(store: &str, key: &KeyChange) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
    format!("{store} {}: {} → {}", key.key, value(&key.before), value(&key.after))
}

/// `fvm status`.
pub fn status(
    w: &mut dyn Write,
    record: &VmRecord,
    state: VmState,
    sum: Summary,
    changes: impl IntoIterator<Item = impl Borrow<Change>>,
    stores: &[StoreChange],
    report: Option<&Report>,
) -> io::Result<()> {
    writeln!(w, "{} ({state}), forked {}: {}", record.name, time(record.begun()), summary(sum))?;
    // In the order of the changes.
    let mut stores = stores.iter().peekable();
    for change in changes {
        let change = change.borrow();
        writeln!(w, "  {}{}", line(change), findings::risk(report, change))?;
        if let Some(store) = stores.next_if(|store| store.path == change.path) {
            store.keys.iter().try_for_each(|key| writeln!(w, "       {}", key_line(store.store, key)))?;
        }
    }
    report.map_or(Ok(()), |report| findings::conclusion(w, record, report))
}

/// One change on one line.
pub fn line(change: &Change) -> String {
    let slash = if change.file_type == FileType::Directory { "/" } else { "" };
    let path = change.path.to_string() + slash;
    let mut text = match &change.kind {
        ChangeKind::Created => match (&change.target, &change.base) {
            (Some(target), _) => format!("A  {path} → {}", printable(target.0.as_encoded_bytes())),
            (None, Some(base)) => format!("A  {path} (hard link to {base}){}", powers(change)),
            (None, None) => ["A  ", &path, &special(change.file_type), &powers(change)].concat(),
        },
        ChangeKind::Modified { meta } => format!("M  {path}{}", details(change, *meta)),
        ChangeKind::Metadata { meta } => format!("m  {path}{}", details(change, *meta)),
        ChangeKind::Deleted => format!("D  {path}"),
        ChangeKind::Renamed { modified, meta } => {
            let from = change.base.as_ref().map(ToString::to_string).unwrap_or_default();
            let also = if *modified { " (modified)" } else { "" };
            format!("R  {from}{slash} → {path}{also}{}", details(change, *meta))
        }
        ChangeKind::Retyped { from } => {
            format!("T  {path} ({} → {}){}", type_name(*from), type_name(change.file_type), powers(change))
        }
    };
    if let Some(what) = &change.conflict {
        text.push_str(&format!("  ! conflict: {what}"));
    }
    if let Some(why) = &change.uncommittable {
        text.push_str(&format!("  ! cannot be committed: {why}"));
    }
    text
}

/// What a new entry may do beyond its owner's wish: set-uid, set-gid, sticky.
fn powers(change: &Change) -> String {
    let mode = change.after.as_ref().map_or(0, |after| after.mode);
    if mode & 0o7000 == 0 { String::new() } else { format!(" (mode {mode:o})") }
}

fn special(file_type: FileType) -> String {
    match file_type {
        FileType::File | FileType::Directory | FileType::Symlink => String::new(),
        other => format!(" ({})", type_name(other)),
    }
}

/// `file`, `directory`, ...
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
    }
}

/// ` (mode 644 → 755, owner 0:0 → 1000:1000, times, xattrs)`
fn details(change: &Change, delta: MetaDelta) -> String {
    let mut parts = Vec::new();
    if let (Some(before), Some(after)) = (&change.before, &change.after) {
        if delta.mode {
            parts.push(format!("mode {:o} → {:o}", before.mode, after.mode));
        }
        if delta.owner {
            let owner = |m: &Meta| format!("{}:{}", m.uid, m.gid);
            parts.push(format!("owner {} → {}", owner(before), owner(after)));
        }
    }
    if delta.times && !matches!(change.kind, ChangeKind::Modified { .. }) {
        parts.push("times".into());
    }
    if delta.xattrs {
        parts.push("attributes".into());
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

/// One change for `fvm diff --patch`.
pub fn patch(w: &mut dyn Write, change: &Change, diff: Result<Option<FileDiff>, ScanError>) -> io::Result<()> {
    let mut first = line(change);
    first.push('\n');
    w.write_all(first.as_bytes())?;
    match diff {
        Ok(Some(FileDiff::Text { patch, .. })) => {
            match change.before.as_ref().and(change.base.as_ref()) {
                Some(base) => writeln!(w, "--- {base}")?,
                None => writeln!(w, "--- /dev/null")?,
            }
            match &change.after {
                Some(_) => writeln!(w, "+++ {}", change.path)?,
                None => writeln!(w, "+++ /dev/null")?,
            }
            patch_text(w, &patch)
        }
        Ok(Some(FileDiff::Binary { before_bytes, after_bytes })) => {
            writeln!(w, "binary: {before_bytes} → {after_bytes} bytes")
        }
        Ok(Some(FileDiff::TooLarge { .. })) => writeln!(w, "too large to compare line by line"),
        Ok(None) => Ok(()),
        Err(e) => writeln!(w, "cannot be shown: {e}"),
    }
}

/// The lines of a patch, whose bytes are a VM's.
fn patch_text(w: &mut dyn Write, patch: &str) -> io::Result<()> {
    // Most are of letters: nothing is to be escaped.
    let is_plain = |text: &str| text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n'));
    if patch.ends_with('\n') && is_plain(patch) {
        return w.write_all(patch.as_bytes());
    }
    patch
        .lines()
        .try_for_each(|line| if is_plain(line) { writeln!(w, "{line}") } else { writeln!(w, "{}", visible(line)) })
}

/// A line of a file from a VM: tabs stay, other control characters are shown, so that nothing reaches the terminal.
fn visible(line: &str) -> String {
    line.split('\t').map(|part| printable(part.as_bytes()).replace("\\\\", "\\")).collect::<Vec<_>>().join("\t")
}

/// `fvm diff --stat`: what all changes come to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stat {
    sum: Summary,
    added: usize,
    removed: usize,
}

impl Stat {
    /// The line of one change, and what it adds to the sum.
    pub fn line(w: &mut dyn Write, change: &Change, diff: Result<Option<FileDiff>, ScanError>) -> io::Result<Self> {
        let mut part = Self { sum: Summary::of([change]), ..Self::default() };
        let counts = match diff {
            Ok(Some(FileDiff::Text { added, removed, .. })) => {
                (part.added, part.removed) = (added, removed);
                format!("+{added} -{removed}")
            }
            Ok(Some(FileDiff::Binary { before_bytes, after_bytes })) => {
                format!("binary {before_bytes} → {after_bytes} bytes")
            }
            Ok(Some(FileDiff::TooLarge { .. })) => "large".into(),
            Ok(None) => String::new(),
            Err(e) => format!("cannot be read: {e}"),
        };
        writeln!(w, "{counts:18} {}", line(change))?;
        Ok(part)
    }

    /// Adds a part.
    pub fn add(&mut self, part: Self) {
        self.sum.added += part.sum.added;
        self.sum.modified += part.sum.modified;
        self.sum.deleted += part.sum.deleted;
        self.sum.renamed += part.sum.renamed;
        self.added += part.added;
        self.removed += part.removed;
    }
}

impl std::fmt::Display for Stat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; +{} -{} lines", summary(self.sum), self.added, self.removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_a_patch_reaches_the_terminal_but_letters_and_tabs() {
        let shown = |text: &str| {
            let mut shown = Vec::new();
            patch_text(&mut shown, text).unwrap();
            String::from_utf8(shown).unwrap()
        };
        assert_eq!(shown("@@ -0,0 +1 @@\n+a\tb\n"), "@@ -0,0 +1 @@\n+a\tb\n");
        for odd in ["\u{1b}[2J", "\r", "\u{9b}2J", "\u{7f}", "\u{8}", "\u{202e}", "\u{b}", "\u{c}"] {
            let text = format!("@@ -0,0 +2 @@\n+plain\n+{odd}x\n");
            let (line, hidden) = (format!("+{odd}x"), shown(&text));
            assert_eq!(hidden, format!("@@ -0,0 +2 @@\n+plain\n{}\n", visible(&line)));
            assert!(!hidden.contains(odd), "{hidden:?}");
        }
        assert_eq!(shown("+a\\b\n"), "+a\\b\n", "what a file says is not escaped twice");
        assert_eq!(shown("+a\n\\ No newline at end of file\n"), "+a\n\\ No newline at end of file\n");
        assert_eq!(shown("+a"), "+a\n");
    }

    #[test]
    fn a_moment_is_printed_as_a_date() {
        for (secs, want) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_795_427_999, "2026-11-23 09:59:59Z"),
            (-1, "1969-12-31 23:59:59Z"),
        ] {
            assert_eq!(time(Timestamp { secs, nanos: 0 }), want);
        }
    }

    #[test]
    fn a_line_of_a_hostile_file_keeps_its_tabs_and_loses_its_escapes() {
        assert_eq!(visible("a\tb\\c\x1b[2J"), "a\tb\\c\\u{1b}[2J");
    }
}
