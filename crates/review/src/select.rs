//! Which changes a choice names.
//!
//! ```text
//!   pattern   cache          any component: /a/cache, /a/cache/x
//!             b/*.log        at any depth:  /a/b/x.log
//!             /etc/**        the whole path
//!   path      /etc           /etc and all below; a rename also by its old name
//!   exact     /etc           the change of /etc itself
//! ```
//!
//! Invariant: a pattern that matches a directory's path matches all below it, as in gitignore.

use crate::{Choice, ReviewError};
use fvm_model::path::printable;
use fvm_model::{Change, ChangeKind, VmPath};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::collections::HashSet;
use std::path::Path;

/// Patterns, ready to match.
pub(crate) struct Patterns(GlobSet);

impl Patterns {
    pub(crate) fn new(patterns: &[String]) -> Result<Self, ReviewError> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let fail = |source| ReviewError::Pattern { pattern: printable(pattern.as_bytes()), source };
            let trimmed = if pattern.len() > 1 { pattern.trim_end_matches('/') } else { pattern };
            let full = if trimmed.starts_with('/') { trimmed.to_owned() } else { format!("/**/{trimmed}") };
            set.add(GlobBuilder::new(&full).literal_separator(true).backslash_escape(true).build().map_err(fail)?);
        }
        let fail = |source| ReviewError::Pattern { pattern: printable(patterns.join(", ").as_bytes()), source };
        set.build().map(Self).map_err(fail)
    }

    /// Whether `path` itself matches.
    pub(crate) fn names(&self, path: &VmPath) -> bool {
        self.0.is_match(path.as_path())
    }

    /// Whether `path` or a directory above it matches.
    pub(crate) fn matches(&self, path: &VmPath) -> bool {
        path.as_path().ancestors().any(|p| p != Path::new("/") && self.0.is_match(p))
    }
}

/// Whether a key of a keyed store matches: `*` and `?` stand for anything; a backslash for itself, for Wine's keys have it.
///
/// # Errors
/// When the pattern cannot be read.
pub fn key_pattern(pattern: &str) -> Result<impl Fn(&str) -> bool, ReviewError> {
    let fail = |source| ReviewError::Pattern { pattern: printable(pattern.as_bytes()), source };
    let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(false).build().map_err(fail)?;
    let matcher = glob.compile_matcher();
    Ok(move |key: &str| matcher.is_match(key))
}

/// Whether `path`, as a person gave it, names `change`, or what it lies in.
fn names(path: &VmPath, change: &Change) -> bool {
    let renamed = matches!(change.kind, ChangeKind::Renamed { .. });
    change.path.is_within(path) || (renamed && change.base.as_ref().is_some_and(|b| b.in_vm().is_within(path)))
}

/// The indices of the chosen changes.
pub(crate) fn select(changes: &[Change], choice: &Choice) -> Result<Vec<usize>, ReviewError> {
    let only = Patterns::new(&choice.only)?;
    let except = Patterns::new(&choice.except)?;
    let unmatched = choice.paths.iter().find(|p| !changes.iter().any(|c| names(p, c)));
    if let Some(path) = unmatched {
        return Err(ReviewError::NoSuchChange(path.clone()));
    }
    if let Some(exact) = &choice.exact {
        let known: HashSet<&VmPath> = changes.iter().map(|c| &c.path).collect();
        if let Some(path) = exact.iter().find(|p| !known.contains(p)) {
            return Err(ReviewError::NoSuchChange(path.clone()));
        }
    }
    let chosen = |c: &Change| {
        choice.exact.as_ref().is_none_or(|exact| exact.contains(&c.path))
            && (choice.paths.is_empty() || choice.paths.iter().any(|p| names(p, c)))
            && (choice.only.is_empty() || only.matches(&c.path))
            && !except.matches(&c.path)
            && choice.exact.as_ref().is_none_or(|exact| exact.contains(&c.path))
    };
    Ok((0..changes.len()).filter(|i| chosen(&changes[*i])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_gitignore() {
        let table = [
            ("cache", "/a/cache", true),
            ("cache", "/a/cache/x", true),
            ("cache", "/a/cached", false),
            ("*.log", "/x.log", true),
            ("*.log", "/a/b/x.log", true),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", true),
            ("/a/*.c", "/a/b/x.c", false),
            ("/a/**", "/a/b/x.c", true),
            ("/a", "/a/b", true),
            ("/b", "/a/b", false),
            ("b/*.c", "/a/b/x.c", true),
            ("b/", "/a/b/x", true),
        ];
        for (pattern, path, want) in table {
            let patterns = Patterns::new(&[pattern.to_owned()]).unwrap();
            assert_eq!(patterns.matches(&VmPath::new(path).unwrap()), want, "{pattern} {path}");
        }
    }
}
