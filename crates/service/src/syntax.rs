//! A unit file as sections and assignments.
//!
//! ```text
//!   [Service]                      section
//!   # or ; at the line's start     a comment, between continued lines too
//!   ExecStart=/bin/x \             a line that goes on: the backslash becomes a space
//!       --flag
//! ```

use crate::error::{At, UnitError};
use crate::limits::{ENTRIES_MAX, FILE_MAX_BYTES};

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The section's name.
    pub section: String,
    /// Before the `=`.
    pub key: String,
    /// After it, without white space around.
    pub value: String,
    /// Where it begins.
    pub at: At,
}

/// Reads a unit file. `file` is its name for errors.
///
/// # Errors
/// When it is not one; the first fault.
pub fn parse(file: &str, text: &[u8]) -> Result<Vec<Entry>, UnitError> {
    let fault = |line, why| UnitError::Syntax { at: At { file: file.to_owned(), line }, why };
    if text.len() > FILE_MAX_BYTES {
        return Err(fault(0, "the file is too large for a unit"));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|_| fault(0, "it is not UTF-8 text"))?;
    if text.contains('\0') {
        return Err(fault(0, "it holds a NUL byte"));
    }
    let mut section: Option<String> = None;
    let mut entries = Vec::new();
    for (at, line) in joined(text) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| fault(at, "a section's name ends with ']'"))?;
            section = Some(name.to_owned());
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| fault(at, "neither a section nor an assignment"))?;
        let key = key.trim_end();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
            return Err(fault(at, "this is no directive's name"));
        }
        let section = section.clone().ok_or_else(|| fault(at, "an assignment before the first section"))?;
        entries.push(Entry {
            section,
            key: key.to_owned(),
            value: value.trim().to_owned(),
            at: At { file: file.to_owned(), line: at },
        });
        if entries.len() > ENTRIES_MAX {
            return Err(fault(at, "too many assignments"));
        }
    }
    Ok(entries)
}

/// Lines without comments, continued ones put together, with the number of their first line.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        let trimmed = raw.trim_start();
        if trimmed.starts_with(['#', ';']) || (pending.is_none() && trimmed.trim_end().is_empty()) {
            continue;
        }
        let (start, mut line) = pending.take().unwrap_or((index + 1, String::new()));
        match raw.strip_suffix('\\') {
            Some(part) => {
                line.push_str(part);
                line.push(' ');
                pending = Some((start, line));
            }
            None => {
                line.push_str(raw);
                lines.push((start, line.trim().to_owned()));
            }
        }
    }
    lines.extend(pending.map(|(start, line)| (start, line.trim().to_owned())));
    lines.retain(|(_, line)| !line.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_on_and_comments_are_left_out() {
        let text =
            b"\n# c\n[Unit]\nDescription = a b \n;x\n[Service]\nExecStart=/bin/a \\\n# in between\n   b \\\n c\nX=\n";
        let entries = parse("f", text).unwrap();
        let flat: Vec<_> =
            entries.iter().map(|e| (e.section.as_str(), e.key.as_str(), e.value.as_str(), e.at.line)).collect();
        assert_eq!(
            flat,
            [
                ("Unit", "Description", "a b", 4),
                ("Service", "ExecStart", "/bin/a     b   c", 7),
                ("Service", "X", "", 11)
            ]
        );
    }

    #[test]
    fn a_fault_names_its_line() {
        for (text, want) in [
            (&b"[Unit"[..], "f:1: a section's name ends with ']'"),
            (b"A=1", "f:1: an assignment before the first section"),
            (b"[U]\n\nnonsense", "f:3: neither a section nor an assignment"),
            (b"[U]\n=1", "f:2: this is no directive's name"),
            (b"[U]\nA=\xff", "f: it is not UTF-8 text"),
        ] {
            assert_eq!(parse("f", text).unwrap_err().to_string(), want);
        }
        assert!(parse("f", &vec![b'\n'; FILE_MAX_BYTES + 1]).is_err());
    }
}
