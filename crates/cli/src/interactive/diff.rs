//! The difference that one change makes, as lines to show.
//!
//! ```text
//!   @@ -1,3 +1,4 @@     Header    hunk 0: taken or left as one
//!    a                  Same      up to three lines around
//!   -b                  Minus
//!   +B                  Plus
//!   \ No newline ...    NoNewline
//! ```
//!
//! Invariants: a change whose versions together are longer than [`MAX_BYTES`] is not read; every line belongs to one
//! hunk; nothing here is escaped yet: `text` does that, line by line, when it is shown.

use super::{Texts, visible};
use crate::render;
use fvm::hunks::{Hunk, apply_hunks, hunks, lines};
use fvm::model::path::printable;
use fvm::model::{Change, ChangeKind, FileType};
use std::ops::Range;
use std::rc::Rc;

/// Longest versions, together, whose difference is shown.
pub const MAX_BYTES: u64 = 4 << 20;
/// Equal lines that are shown before and after a hunk.
const AROUND: usize = 3;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `@@ ... @@`
    Header,
    /// In both versions.
    Same,
    /// Only in the host's.
    Minus,
    /// Only in the VM's.
    Plus,
    /// The line above has no newline.
    NoNewline,
}

/// A line to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// The hunk it belongs to.
    pub hunk: usize,
    /// Its number in its version.
    at: usize,
}

/// Both versions of a text, and how they differ.
#[derive(Debug)]
pub struct FileText {
    old: Vec<u8>,
    new: Vec<u8>,
    old_lines: Vec<Range<usize>>,
    new_lines: Vec<Range<usize>>,
    /// The parts that can be chosen.
    pub hunks: Vec<Hunk>,
    /// The lines to show.
    pub lines: Vec<Line>,
    /// Whether hunks may be chosen one by one.
    pub splits: bool,
}

/// What can be shown of a change.
#[derive(Debug, Clone)]
pub enum Shown {
    /// A text.
    Text(Rc<FileText>),
    /// A sentence about it.
    Note(String),
}

/// Reads and compares both versions of a change.
pub fn load(change: &Change, texts: &mut Texts<'_>) -> Shown {
    let size = |meta: &Option<fvm::model::Meta>| meta.as_ref().map_or(0, |m| m.size_bytes);
    let (before, after) = (size(&change.before), size(&change.after));
    if let Some(target) = &change.target {
        return Shown::Note(format!("a link to {}", printable(target.0.as_encoded_bytes())));
    }
    let same = matches!(change.kind, ChangeKind::Metadata { .. } | ChangeKind::Renamed { modified: false, .. });
    if change.file_type != FileType::File {
        return Shown::Note(format!("a {}, not a text", render::type_name(change.file_type)));
    }
    if same {
        return Shown::Note("the content is the same".into());
    }
    if before.saturating_add(after) > MAX_BYTES {
        return Shown::Note(format!("too long to compare here: {before} → {after} bytes"));
    }
    match texts(change) {
        // It may have grown since it was listed.
        Some((old, new)) if (old.len() + new.len()) as u64 <= MAX_BYTES => {
            let text = FileText::new(old, new, splits(change));
            if text.hunks.is_empty() { Shown::Note("no line differs".into()) } else { Shown::Text(Rc::new(text)) }
        }
        _ => Shown::Note(format!("not a text that can be compared: {before} → {after} bytes")),
    }
}

/// Whether a content decided by hand can take the place of the VM's: only for a file with one name, that stays what
/// and where it was.
fn splits(change: &Change) -> bool {
    let alone = change.link_group.is_none() && change.link_host.is_none() && change.source.is_none();
    matches!(change.kind, ChangeKind::Modified { .. }) && alone && change.uncommittable.is_none()
}

impl FileText {
    fn new(old: Vec<u8>, new: Vec<u8>, splits: bool) -> Self {
        let hunks = hunks(&old, &new);
        let (old_lines, new_lines) = (ranges(&old), ranges(&new));
        let mut text = Self { old, new, old_lines, new_lines, hunks, lines: Vec::new(), splits };
        text.lines = (0..text.hunks.len()).flat_map(|hunk| text.lines_of(hunk)).collect();
        text
    }

    /// The content with only the chosen hunks.
    pub fn with(&self, chosen: &[bool]) -> Vec<u8> {
        apply_hunks(&self.old, &self.new, &self.hunks, chosen)
    }

    /// The equal lines that are shown before and after a hunk, as lines of the old version.
    fn around(&self, hunk: usize) -> (Range<usize>, Range<usize>) {
        let Range { start, end } = self.hunks[hunk].old;
        // The hunk before takes its lines first.
        let floor = hunk.checked_sub(1).map_or(0, |b| (self.hunks[b].old.end + AROUND).min(start));
        let ceiling = self.hunks.get(hunk + 1).map_or(self.old_lines.len(), |next| next.old.start);
        (start.saturating_sub(AROUND).max(floor)..start, end..(end + AROUND).min(ceiling))
    }

    /// All lines of one hunk, its header first.
    pub fn lines_of(&self, hunk: usize) -> impl Iterator<Item = Line> + '_ {
        let Hunk { old, new } = self.hunks[hunk].clone();
        let (before, after) = self.around(hunk);
        let line = move |kind| move |at| Line { kind, hunk, at };
        std::iter::once(Line { kind: Kind::Header, hunk, at: 0 })
            .chain(before.map(line(Kind::Same)))
            .chain(old.map(line(Kind::Minus)))
            .chain(new.map(line(Kind::Plus)))
            .chain(after.map(line(Kind::Same)))
            .flat_map(|line| {
                let bare = line.kind != Kind::Header && !self.bytes(line).ends_with(b"\n");
                std::iter::once(line).chain(bare.then_some(Line { kind: Kind::NoNewline, ..line }))
            })
    }

    fn bytes(&self, line: Line) -> &[u8] {
        match line.kind {
            Kind::Plus => &self.new[self.new_lines[line.at].clone()],
            Kind::Same | Kind::Minus => &self.old[self.old_lines[line.at].clone()],
            Kind::Header | Kind::NoNewline => &[],
        }
    }

    /// A line with its sign, escaped.
    pub fn text(&self, line: Line) -> String {
        let sign = match line.kind {
            Kind::Header => return self.header(line.hunk),
            Kind::NoNewline => return "\\ No newline at end of file".into(),
            Kind::Same => ' ',
            Kind::Minus => '-',
            Kind::Plus => '+',
        };
        format!("{sign}{}", visible(self.bytes(line)))
    }

    fn header(&self, hunk: usize) -> String {
        let Hunk { old, new } = &self.hunks[hunk];
        let (before, after) = self.around(hunk);
        let side = |lines: &Range<usize>| {
            let (start, len) = (lines.start - before.len(), before.len() + lines.len() + after.len());
            // As diff does it: an empty side is named by the line before it.
            if len == 0 { format!("{start},0") } else { format!("{},{len}", start + 1) }
        };
        format!("@@ -{} +{} @@", side(old), side(new))
    }
}

fn ranges(text: &[u8]) -> Vec<Range<usize>> {
    let mut at = 0;
    lines(text)
        .into_iter()
        .map(|line| {
            at += line.len();
            at - line.len()..at
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::changes;
    use super::*;

    fn shown(old: &str, new: &str) -> Vec<String> {
        let text = FileText::new(old.into(), new.into(), true);
        text.lines.iter().map(|l| text.text(*l)).collect()
    }

    #[test]
    fn every_hunk_shows_its_lines_and_no_line_is_shown_twice() {
        assert_eq!(
            shown("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9"),
            [
                "@@ -2,7 +2,7 @@",
                " 2",
                " 3",
                " 4",
                "-5",
                "+five",
                " 6",
                " 7",
                " 8",
                "@@ -9,1 +9,1 @@",
                "-9",
                "+9",
                "\\ No newline at end of file"
            ]
        );
        assert_eq!(shown("", "a\tb\x1b[2J\r\n"), ["@@ -0,0 +1,1 @@", "+a\tb\\u{1b}[2J\\r"]);
    }

    #[test]
    fn long_files_are_not_even_read() {
        let mut change = changes("M /f").remove(0);
        change.after.as_mut().unwrap().size_bytes = MAX_BYTES;
        assert!(matches!(load(&change, &mut |_| panic!("read")), Shown::Note(n) if n.contains("too long")));
        let mut liar = |_: &Change| Some((Vec::new(), vec![b'\n'; usize::try_from(MAX_BYTES).unwrap() + 1]));
        assert!(matches!(load(&changes("M /f")[0], &mut liar), Shown::Note(_)));
    }

    #[test]
    fn only_a_modified_file_with_one_name_is_chosen_in_parts() {
        let splits = |change: &Change| match load(change, &mut |_| Some((b"a\n".into(), b"b\n".into()))) {
            Shown::Text(text) => text.splits,
            Shown::Note(_) => false,
        };
        let mut linked = changes("M /f").remove(0);
        linked.link_group = Some(1);
        assert!(splits(&changes("M /f")[0]));
        assert!(!splits(&linked) && !splits(&changes("A /f")[0]) && !splits(&changes("M /f #")[0]));
    }
}
