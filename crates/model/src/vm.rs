//! What a VM is on disk: its identity, its layers, its record `vm.json` (`docs/spec/state.md`).

use crate::path::HostPath;
use crate::policy::Policy;
use crate::restart::Restart;
use crate::state::VmState;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The version of `vm.json` and of the state directory that this code writes.
pub const FORMAT: u32 = 1;

/// Twelve lower-case hex digits, random, unique in a state directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(String);

/// What a person calls a VM: a letter or digit, then up to 62 of letters, digits, `_`, `.`, `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

/// Why a text is not an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not twelve hex digits.
    #[error("'{0}' is not a VM id (12 hex digits)")]
    Id(String),
    /// Not a valid name.
    #[error("'{0}' is not a VM name: begin with a letter or digit, then letters, digits, '_', '.' or '-', at most 63")]
    Name(String),
}

impl VmId {
    /// An id from 6 random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 6]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl VmName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmId {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let ok = s.len() == 12 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ok.then(|| Self(s.to_owned())).ok_or_else(|| NameError::Id(crate::path::printable(s.as_bytes())))
    }
}

impl FromStr for VmName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let ok = s.len() <= 63
            && s.bytes()
                .enumerate()
                .all(|(i, b)| b.is_ascii_alphanumeric() || (i > 0 && matches!(b, b'_' | b'.' | b'-')))
            && !s.is_empty();
        ok.then(|| Self(s.to_owned())).ok_or_else(|| NameError::Name(crate::path::printable(s.as_bytes())))
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.0
            }
        }
    };
}
text_type!(VmId);
text_type!(VmName);

/// How a VM is kept apart from the host (`SECURITY.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Root: a user namespace whose ids are shifted to 0x40000000, layers idmapped.
    Shifted,
    /// Root, where the host's root file system cannot be idmapped (it is itself an overlay, as in a container).
    Identity,
    /// An ordinary user.
    Rootless,
}

/// Which extended attributes the overlay keeps its own notes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XattrClass {
    /// `trusted.overlay.*`, written by the kernel for root.
    Trusted,
    /// `user.overlay.*`, rootless.
    User,
}

impl XattrClass {
    /// The prefix, with its final dot.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }
}

impl Mode {
    /// The class of overlay attributes that mounts of this mode use.
    #[must_use]
    pub fn xattr_class(self) -> XattrClass {
        match self {
            Self::Shifted | Self::Identity => XattrClass::Trusted,
            Self::Rootless => XattrClass::User,
        }
    }
}

/// The copy-on-write state of a VM over one host directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its number: `layers/<n>`.
    pub n: u32,
    /// The host directory (or file, for [`LayerKind::File`]) that it stands on, also its place in the VM.
    pub host: HostPath,
    /// How it is built.
    pub kind: LayerKind,
}

/// How a layer is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerKind {
    /// `upper/` and `work/` over the host directory itself.
    Overlay,
    /// Rootless, a directory with mounts below it: `upper/` and `work/` over `skeleton/`, a generated copy of the
    /// directory's names; the directories among them are layers of their own. Read the upper against the host
    /// directory, not the skeleton.
    Skeleton,
    /// A file that is a mount point (as `/etc/hosts` in a container): `file` is a private copy.
    File,
}

/// `vm.json`: everything about a VM that must survive a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// [`FORMAT`] at the time of writing. A reader refuses a larger one.
    pub format: u32,
    /// Identity.
    pub id: VmId,
    /// Name, unique in the state directory.
    pub name: VmName,
    /// `building`, `stopped`, `committing` or `deleting`; see [`crate::state`].
    pub state: VmState,
    /// To be deleted as soon as nobody holds its lock (`fvm run --rm`).
    pub ephemeral: bool,
    /// When it was made: host changes after this are conflicts, unless a later moment is known.
    pub forked: Timestamp,
    /// How it is kept apart.
    pub mode: Mode,
    /// The user (kernel uid) whose VM this is.
    pub uid: u32,
    /// What it may use.
    pub policy: Policy,
    /// Where `layers/<n>` lie: the VM's own directory, or elsewhere in container mode.
    pub layers_dir: HostPath,
    /// Its layers, by number.
    pub layers: Vec<Layer>,
    /// Layers that it shares with the VMs it was copied from or to, the topmost first: `<n>/upper` of each lies between its
    /// own and the host. Nobody writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<HostPath>,
    /// When it came from another state directory, which may be another machine's: from then on host changes are conflicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Timestamp>,
    /// When a pool gave it to its first program, if it was as the host then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Given>,
    /// What its layers hold from before then was copied: when it was written first, is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Timestamp>,
    /// What its limits did to it when it ran last, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reached: Vec<String>,
    /// When a program that it runs by itself (`fvm run --detach`) is started again.
    #[serde(default, skip_serializing_if = "crate::restart::is_no")]
    pub restart: Restart,
    /// How often that program was started again when the VM ran last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// Its last exit status, as `fvm run` would have had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<i32>,
    /// The pool in which it waits for its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<VmName>,
}

/// When a VM that was made ahead was given to its first program: until then nothing ran in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// From then on host changes are conflicts.
    pub at: Timestamp,
    /// After its layers were laid: what is between this and `at` nobody but a program can have put down, by hand.
    pub laid: Timestamp,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl VmRecord {
    /// Since when host changes are conflicts.
    #[must_use]
    pub fn based(&self) -> Timestamp {
        self.imported.unwrap_or(self.begun())
    }

    /// When it was forked, as whoever runs a program in it sees that.
    #[must_use]
    pub fn begun(&self) -> Timestamp {
        self.given.map_or(self.forked, |given| given.at)
    }

    /// The same with what `other` says of the VM's last run: that its keeper writes whenever it comes to know it.
    #[must_use]
    pub fn with_last_run_of(self, other: &Self) -> Self {
        Self { reached: other.reached.clone(), restarts: other.restarts, last_exit: other.last_exit, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_a_path_an_option_or_a_terminal_code_are_refused() {
        for bad in ["", ".", "..", "-a", "a/b", "a b", "a\n", "\u{1b}", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
        for good in ["a", "0", "a.b-c_d", &"x".repeat(63)] {
            assert!(good.parse::<VmName>().is_ok(), "{good:?}");
        }
    }
}
