//! Paths with wildcards, as policies name them.
//!
//! ```text
//!   /etc/shadow     ~/.ssh     ~/.config/*/Login Data     /run/user/*/keyring
//! ```
//!
//! `~` is the home of the VM's user, and for root's VMs every user's. `*` and `?` stand for characters of one name. A
//! directory means all that is in it.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::fmt;
use std::str::FromStr;

/// A path with wildcards, absolute or below `~`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Pattern(String);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("~/").or_else(|| text.strip_prefix('/'));
        let Some(rest) = rest else {
            return Err(format!("'{text}' is neither absolute nor below '~/'"));
        };
        let rest = rest.strip_suffix("/**").unwrap_or(rest).trim_end_matches('/');
        if rest.is_empty() {
            return Err(format!("'{text}' is everything: name something in it"));
        }
        for name in rest.split('/') {
            match name {
                ".." => return Err(format!("'{text}' leaves by '..' what it names")),
                "." | "" => return Err(format!("'{text}' has an empty name in it")),
                "**" => return Err(format!("'{text}': '**' stands only at the end, where it may be left out")),
                _ if name.contains('\0') => return Err(format!("'{}' has a zero byte in it", text.escape_default())),
                _ => {}
            }
        }
        let root = if text.starts_with('~') { "~/" } else { "/" };
        Ok(Self(format!("{root}{rest}")))
    }
}

impl Pattern {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is below the users' homes.
    #[must_use]
    pub fn is_in_home(&self) -> bool {
        self.0.starts_with('~')
    }

    /// Its names, one after the other; some may have wildcards.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }

    /// Whether `name` has a wildcard.
    #[must_use]
    pub fn is_wild(name: &str) -> bool {
        name.contains(['*', '?'])
    }

    /// Whether one name matches one name of a pattern.
    #[must_use]
    pub fn name_matches(pattern: &str, name: &[u8]) -> bool {
        // As in a shell, hidden files are meant only where the pattern says so.
        (pattern.starts_with('.') || !name.starts_with(b".")) && matches(pattern.as_bytes(), name)
    }

    /// Whether all that `other` names lies in what this names.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0 == other.0 || other.0.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// Whether `pattern`, with `*` and `?`, matches all of `text`.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // The last star, and what of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_a_shell() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*_TOKEN", "GH_TOKEN", true),
            ("*_TOKEN", "TOKEN", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xaxxbx", true),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
        assert!(!Pattern::name_matches("*", b".ssh") && Pattern::name_matches(".*", b".ssh"));
    }

    #[test]
    fn only_what_names_something_definite_is_a_pattern() {
        for bad in ["", "/", "~", "~/", "a/b", "~user/x", "/a/../b", "/a//b", "/**", "/a/**/b", "/a/./b", "~/**"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        for (good, text) in [("/a/b/", "/a/b"), ("~/.ssh/**", "~/.ssh"), ("/a/*/b", "/a/*/b"), ("~/a b", "~/a b")] {
            assert_eq!(good.parse::<Pattern>().unwrap().as_str(), text);
        }
        let pattern = |text: &str| text.parse::<Pattern>().unwrap();
        assert!(pattern("/a").covers(&pattern("/a/b")) && !pattern("/a").covers(&pattern("/ab")));
    }
}
