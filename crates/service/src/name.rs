//! Names of units.
//!
//! ```text
//!   nginx.service            stem nginx               prefix nginx        no instance
//!   postgresql@15-main.service   stem postgresql@15-main   prefix postgresql   instance 15-main   template postgresql@.service
//! ```
//!
//! Invariant: a name holds letters, digits and `:-_.\@` only and at most 255 of them, so it is one component of a path
//! and safe to print.

use crate::error::UnitError;
use fvm_model::path::printable;
use std::fmt;
use std::str::FromStr;

const MAX_BYTES: usize = 255;

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitKind {
    /// A program: what fvm runs.
    Service,
    /// Anything else that systemd knows: `socket`, `target`, ...
    Other,
}

const OTHER_KINDS: &[&str] =
    &["socket", "target", "mount", "automount", "swap", "device", "timer", "path", "slice", "scope"];

/// A valid name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(String);

impl FromStr for UnitName {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Name(printable(text.chars().take(MAX_BYTES).collect::<String>().as_bytes()));
        let (stem, kind) = text.rsplit_once('.').ok_or_else(bad)?;
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
        let known = kind == "service" || OTHER_KINDS.contains(&kind);
        if text.len() > MAX_BYTES
            || stem.is_empty()
            || stem.starts_with(['@', '.'])
            || !known
            || !stem.chars().all(valid)
        {
            return Err(bad());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl UnitName {
    /// A name as a person types it: `.service` may be left out.
    ///
    /// # Errors
    /// When it is no name with that either.
    pub fn typed(text: &str) -> Result<Self, UnitError> {
        text.parse().or_else(|e| format!("{text}.service").parse().map_err(|_| e))
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> UnitKind {
        if self.0.ends_with(".service") { UnitKind::Service } else { UnitKind::Other }
    }

    /// Without its kind.
    #[must_use]
    pub fn stem(&self) -> &str {
        self.0.rsplit_once('.').map_or("", |(stem, _)| stem)
    }

    /// Before the `@`; the stem when there is none.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.stem().split_once('@').map_or_else(|| self.stem(), |(prefix, _)| prefix)
    }

    /// After the `@`; empty for a template; `None` without `@`.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.stem().split_once('@').map(|(_, instance)| instance)
    }

    /// It is a pattern for units, not one itself.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.instance() == Some("")
    }

    /// The template of an instance.
    #[must_use]
    pub fn template(&self) -> Option<Self> {
        let kind = self.0.rsplit_once('.')?.1;
        self.instance().filter(|i| !i.is_empty()).map(|_| Self(format!("{}@.{kind}", self.prefix())))
    }

    /// This template with an instance put in; anything else as it is.
    ///
    /// # Errors
    /// When the result is no name.
    pub fn with_instance(&self, instance: &str) -> Result<Self, UnitError> {
        if !self.is_template() {
            return Ok(self.clone());
        }
        let kind = self.0.rsplit_once('.').map_or("service", |(_, kind)| kind);
        format!("{}@{instance}.{kind}", self.prefix()).parse()
    }
}

/// Takes `-` back to `/` and `\xHH` back to its byte, as `systemd-escape --unescape`.
#[must_use]
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        match (b, bytes.get(i + 1), bytes.get(i + 2).copied().and_then(hex), bytes.get(i + 3).copied().and_then(hex)) {
            (b'\\', Some(b'x'), Some(high), Some(low)) => {
                out.push(high * 16 + low);
                i += 4;
                continue;
            }
            (b'-', ..) => out.push(b'/'),
            _ => out.push(b),
        }
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_apart() {
        let name = UnitName::typed("postgresql@15-main").unwrap();
        assert_eq!(name.as_str(), "postgresql@15-main.service");
        assert_eq!(
            (name.stem(), name.prefix(), name.instance()),
            ("postgresql@15-main", "postgresql", Some("15-main"))
        );
        assert_eq!(name.template().unwrap().as_str(), "postgresql@.service");
        assert_eq!(name.template().unwrap().with_instance("x").unwrap().as_str(), "postgresql@x.service");
        let plain = UnitName::typed("a.b").unwrap();
        assert_eq!((plain.as_str(), plain.prefix(), plain.instance()), ("a.b.service", "a.b", None));
        assert_eq!(UnitName::typed("network.target").unwrap().kind(), UnitKind::Other);
        assert_eq!(unescape("dev-sda\\x2d1"), b"dev/sda-1");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "a/b", "../x", ".service", "@x.service", "a b.service", "a\n", "é", &"x".repeat(300)] {
            assert!(UnitName::typed(text).is_err(), "{text:?}");
        }
    }
}
