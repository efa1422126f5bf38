//! What a mark says.
//!
//! ```text
//!   {"version":1,"vm":"web-1","policy":"untrusted","origin":"/home/me/Downloads/x","sha256":"...","time":1764345600}
//! ```
//!
//! Invariant: reading takes anything and widens nothing: what cannot be read is a mark that says nothing.

use crate::Hash;
use fvm_model::path::printable;
use serde::{Deserialize, Serialize};

/// The version of [`Mark`].
pub const VERSION: u32 = 1;
/// Longest text of one of its parts: all of a mark must fit where ext4 keeps attributes.
const PART_MAX_BYTES: usize = 512;
/// Longest mark that is read.
const MAX_BYTES: usize = 4096;

/// What stands on a marked file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// [`VERSION`].
    pub version: u32,
    /// The VM's name; nothing when a person marked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// The VM's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Where it was then, as text: control characters escaped, the beginning of a long one left out.
    #[serde(default)]
    pub origin: String,
    /// The hash of its content then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub time: i64,
    /// The user who did it.
    #[serde(default)]
    pub uid: u32,
}

impl Mark {
    /// A mark, its texts cut to what fits.
    #[must_use]
    pub fn new(vm: Option<(&str, &str)>, origin: &[u8], time: i64, uid: u32) -> Self {
        Self {
            version: VERSION,
            vm: vm.map(|(name, _)| cut(name)),
            policy: vm.map(|(_, policy)| cut(policy)),
            origin: cut(&printable(origin)),
            sha256: None,
            time,
            uid,
        }
    }

    /// The same mark, of a file with this content.
    #[must_use]
    pub fn of(&self, hash: &Hash) -> Self {
        Self { sha256: Some(hash.to_string()), ..self.clone() }
    }

    /// As it stands on the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // A value of texts and numbers cannot fail to be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads it back. Whatever stands there is a mark: one that cannot be read says nothing.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let read = Some(bytes).filter(|b| b.len() <= MAX_BYTES).and_then(|b| serde_json::from_slice(b).ok());
        read.map_or_else(
            || Self { origin: "unreadable".into(), ..Self::new(None, b"", 0, 0) },
            |mark: Self| Self {
                vm: mark.vm.map(|text| cut(&printable(text.as_bytes()))),
                policy: mark.policy.map(|text| cut(&printable(text.as_bytes()))),
                origin: cut(&printable(mark.origin.as_bytes())),
                sha256: mark.sha256.filter(|text| text.parse::<Hash>().is_ok()),
                ..mark
            },
        )
    }

    /// Where it came from, for people.
    #[must_use]
    pub fn source(&self) -> String {
        match &self.vm {
            Some(vm) => format!("VM {vm}, {}", self.origin),
            None => format!("by hand, {}", self.origin),
        }
    }
}

/// The end of a text, whose beginning says less when it is a path.
fn cut(text: &str) -> String {
    let from = (text.len().saturating_sub(PART_MAX_BYTES)..=text.len()).find(|at| text.is_char_boundary(*at));
    match from {
        Some(at) if at > 0 => format!("...{}", &text[at..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_rubbish_is_a_mark_that_says_nothing() {
        let mark = Mark::new(Some(("web", "untrusted")), b"/tmp/a\nb", 7, 1000).of(&Hash([1; 32]));
        assert_eq!(mark.origin, "/tmp/a\\nb");
        assert_eq!(Mark::from_bytes(&mark.to_bytes()), Mark { origin: "/tmp/a\\\\nb".into(), ..mark });
        for rubbish in [&b""[..], b"{", b"\xff\xfe", b"{\"version\":-1}", &[b'['; 5000]] {
            assert_eq!(Mark::from_bytes(rubbish).origin, "unreadable");
        }
        let hostile = br#"{"version":1,"vm":"\u001b[2J","sha256":"x","origin":""}"#;
        let read = Mark::from_bytes(hostile);
        assert_eq!((read.sha256, read.vm.is_some_and(|vm| vm.contains('\u{1b}'))), (None, false));
    }

    #[test]
    fn a_mark_always_fits() {
        let long = vec![b'x'; 4096];
        let name = "v".repeat(2000);
        let mark = Mark::new(Some((&name, &name)), &long, i64::MAX, u32::MAX).of(&Hash([255; 32]));
        assert!(mark.to_bytes().len() < 2048, "{}", mark.to_bytes().len());
        assert!(mark.origin.starts_with("..."));
    }
}
