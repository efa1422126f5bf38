//! A policy as people write it: TOML, each error with its place.
//!
//! ```text
//!   policy.toml:3:1: unknown key 'hid': did you mean 'hide'?
//!     3 | hid = ["~/.ssh"]
//!       | ^^^
//! ```
//!
//! Invariant: a policy may come from a stranger: what an error shows of it cannot write to the terminal, and is short.

use super::{Bus, Demand, Network, Pattern};
use crate::path::printable;
use crate::{HostPath, Level};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::ops::Range;
use toml::Spanned;

/// Largest policy that is read.
const MAX_BYTES: usize = 256 << 10;
/// Longest list: what names more files than these has wildcards.
pub(super) const ENTRIES_MAX: usize = 1000;
/// Characters of a line that are shown before and behind the start of what is meant.
const AROUND: usize = 70;
/// Longest message.
const MESSAGE_MAX: usize = 1000;

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// What, and what to do.
    pub message: String,
    /// Where; nothing for a flag.
    pub place: Option<Place>,
}

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or the name of a profile.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line; of a long one, what is around the place.
    pub text: String,
    /// How many characters of [`Place::text`] stand before what is meant.
    pub before: usize,
    /// How many characters are meant.
    pub len: usize,
}

impl Place {
    /// The place of `span` in `text`.
    pub(super) fn of(file: &str, text: &str, span: &Range<usize>) -> Self {
        let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let start = floor(span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor(span.end).clamp(start, line_end);
        let line = &text[line_start..line_end];
        let column = text[line_start..start].chars().count();
        let skipped = column.saturating_sub(AROUND);
        let (left, right) = (if skipped > 0 { "..." } else { "" }, column + AROUND);
        let mut shown: String = left.chars().chain(line.chars().skip(skipped).take(right - skipped)).collect();
        shown.truncate(shown.trim_end().len());
        if line.chars().nth(right).is_some() {
            shown.push_str("...");
        }
        Self {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: column + 1,
            text: shown,
            before: left.len() + column - skipped,
            len: text[start..end].chars().count().clamp(1, AROUND),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", printable(self.file.as_bytes()), self.line, self.column)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message: String = self.message.chars().take(MESSAGE_MAX).map(tame).collect();
        if self.message.chars().nth(MESSAGE_MAX).is_some() {
            message.push_str("...");
        }
        let Some(place) = &self.place else { return f.write_str(&message) };
        write!(f, "{place}: {message}")?;
        let number = place.line.to_string();
        let pad = " ".repeat(number.len());
        // A tab stays a tab, so that the mark stands below what it means.
        let before = place.text.chars().take(place.before).map(|c| if c == '\t' { '\t' } else { ' ' });
        let before: String = before.collect();
        let text: String = place.text.chars().map(|c| if c == '\t' { c } else { tame(c) }).collect();
        write!(f, "\n  {number} | {text}\n  {pad} | {before}{}", "^".repeat(place.len))
    }
}

impl std::error::Error for PolicyError {}

/// A character that moves the cursor, hides or turns text around is a question mark: one for one, so that marks stand
/// where they should.
fn tame(c: char) -> char {
    let harmless = c == '\\' || !printable(c.encode_utf8(&mut [0; 4]).as_bytes()).starts_with('\\');
    if harmless { c } else { '?' }
}

/// The text of a policy, as it stands; `None` where it says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Text {
    pub extends: Option<Spanned<String>>,
    pub hostname: Option<Spanned<String>>,
    pub requires: Vec<Spanned<String>>,
    pub trace: Option<Level>,
    pub mark: Option<bool>,
    pub network: NetworkText,
    pub files: FilesText,
    pub devices: ListText,
    pub sockets: ListText,
    pub dbus: DbusText,
    pub environment: EnvironmentText,
    pub kernel: KernelText,
    pub commit: CommitText,
    pub limits: LimitsText,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkText {
    #[serde(deserialize_with = "network")]
    pub mode: Option<Network>,
    pub allow: Option<Vec<Spanned<String>>>,
    pub deny: Vec<Spanned<String>>,
    pub private: Option<bool>,
    pub range: Option<Spanned<String>>,
    pub publish: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FilesText {
    pub hide: Vec<Spanned<String>>,
    pub hide_secrets: Option<bool>,
    pub read_only: Vec<Spanned<String>>,
    pub share: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CommitText {
    pub verdict: Option<Demand>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListText {
    pub pass: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DbusText {
    pub session: Option<Bus>,
    pub system: Option<Bus>,
    pub pass: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EnvironmentText {
    pub pass: Option<Vec<Spanned<String>>>,
    pub hide: Vec<Spanned<String>>,
    pub hide_secrets: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsText {
    pub memory: Option<Spanned<Amount>>,
    pub swap: Option<Spanned<Amount>>,
    pub cpus: Option<Spanned<Amount>>,
    pub cpu_weight: Option<Spanned<Amount>>,
    pub pids: Option<Spanned<Amount>>,
    pub disk: Option<Spanned<Amount>>,
    pub io_weight: Option<Spanned<Amount>>,
}

impl LimitsText {
    /// Those that are said, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &Spanned<Amount>)> {
        let Self { memory, swap, cpus, cpu_weight, pids, disk, io_weight } = self;
        let processors = [("cpus", cpus), ("cpu_weight", cpu_weight), ("pids", pids)];
        let disks = [("disk", disk), ("io_weight", io_weight)];
        let all = [("memory", memory), ("swap", swap)].into_iter().chain(processors).chain(disks);
        all.filter_map(|(name, amount)| amount.as_ref().map(|amount| (name, amount)))
    }
}

/// A number, or a text with one.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a text such as \"512M\"")]
pub(super) enum Amount {
    Text(String),
    Whole(i64),
    Part(f64),
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Whole(number) => number.fmt(f),
            Self::Part(number) => number.fmt(f),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KernelText {
    pub filter: Option<bool>,
    pub user_namespaces: Option<bool>,
    pub trace: Option<bool>,
    pub io_uring: Option<bool>,
    pub x86_32: Option<bool>,
}

fn network<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Network>, D::Error> {
    String::deserialize(d)?.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Reads the text of a policy. `file` is only for messages.
pub(super) fn parse(file: &str, text: &str) -> Result<Text, PolicyError> {
    if text.len() > MAX_BYTES {
        let message = format!("a policy has at most {MAX_BYTES} bytes, this one {}", text.len());
        return Err(PolicyError { message, place: Some(Place::of(file, "", &(0..0))) });
    }
    toml::from_str(text).map_err(|e| {
        let span = e.span().unwrap_or(0..0);
        PolicyError { message: in_words(e.message()), place: Some(Place::of(file, text, &span)) }
    })
}

/// What the TOML reader says, with a suggestion for a name that is nearly right.
fn in_words(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (what, wrong, right) = match quoted.split_first() {
        Some((wrong, right)) if message.starts_with("unknown field") => ("unknown key", *wrong, right),
        Some((wrong, right)) if message.starts_with("unknown variant") => ("unknown value", *wrong, right),
        _ => return message.trim_end().to_owned(),
    };
    format!("{what} '{wrong}': {}", suggestion(wrong, right))
}

/// The nearest of `right`, or all of them.
pub(super) fn suggestion(wrong: &str, right: &[&str]) -> String {
    // The distance takes time in proportion to both lengths.
    let wrong: String = wrong.chars().take(64).collect();
    let wrong = wrong.as_str();
    let nearest = right.iter().map(|r| (strsim::damerau_levenshtein(wrong, r), *r)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + wrong.len() / 4 => format!("did you mean '{name}'?"),
        _ => format!("it is one of {}", right.join(", ")),
    }
}

/// A path without wildcards.
pub(super) fn plain_path(text: &str) -> Result<HostPath, String> {
    if Pattern::is_wild(text) {
        return Err(format!("'{text}' may not have wildcards: name just what is meant"));
    }
    HostPath::new(text).map_err(|e| e.to_string()).and_then(|path| {
        if path == HostPath::root() { Err("'/' is everything: name something in it".into()) } else { Ok(path) }
    })
}
