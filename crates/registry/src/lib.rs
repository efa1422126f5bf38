//! Configuration stores that are one file and hold many keys, compared and merged by key.
//!
//! ```text
//!   base ──diff──► VM        KeyChange: user avahi, absent → "avahi:x:105:..."
//!     └──────────► host      merge: the host's bytes, with the chosen keys brought over
//! ```
//!
//! | store | files | keys |
//! |---|---|---|
//! | [`accounts`] | `/etc/passwd`, `group`, `shadow`, `gshadow`, `subuid`, `subgid` | entries by name |
//! | [`wine`] | `system.reg`, `user.reg`, `userdef.reg` | registry keys and values |
//! | [`dconf`] | `~/.config/dconf/user` | dconf paths |
//!
//! Invariants: bytes in, bytes out, no file is read or written; all input may come from a hostile VM, so work and memory
//! are linear in its length; what a merge was not asked to change stays byte for byte, where the format allows it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub mod accounts;
pub mod dconf;
pub mod wine;

/// One difference of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Its name, printable, unique within the file.
    pub key: String,
    /// Its value in the base, printable; `None`: absent.
    pub before: Option<String>,
    /// Its value in the VM, printable; `None`: absent.
    pub after: Option<String>,
}

/// A key that both sides changed differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyConflict {
    /// Which.
    pub key: String,
    /// Its value in the base.
    pub base: Option<String>,
    /// Its value on the host, or what there stands in the way.
    pub host: Option<String>,
    /// Its value in the VM.
    pub vm: Option<String>,
}

/// What happens to keys that both sides changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnKeyConflict {
    /// Nothing is merged.
    Fail,
    /// The VM's value wins.
    Vm,
    /// The host's value stays.
    Host,
}

/// What a merge gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The store; the host's, unchanged, when there are conflicts.
    pub bytes: Vec<u8>,
    /// Only with [`OnKeyConflict::Fail`].
    pub conflicts: Vec<KeyConflict>,
}

/// Why a store cannot be read or merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It is not what its name says.
    #[error("the {store} store of the {side} cannot be read: {why}")]
    Malformed {
        /// Which adapter.
        store: &'static str,
        /// `base`, `host` or `VM`.
        side: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The merged store cannot be written.
    #[error("the {store} store cannot be written: {why}")]
    Unwritable {
        /// Which adapter.
        store: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A kind of store.
pub trait Registry: Sync + std::fmt::Debug {
    /// `accounts`, `wine`, `dconf`.
    fn name(&self) -> &'static str;

    /// Whether `path`, which holds `bytes` in the VM, is such a store.
    fn recognises(&self, path: &Path, bytes: &[u8]) -> bool;

    /// The keys that differ, sorted; what changes by itself is left out.
    ///
    /// # Errors
    /// When a side is malformed.
    fn diff(&self, path: &Path, base: &[u8], vm: &[u8]) -> Result<Vec<KeyChange>, RegistryError>;

    /// The host's store with the `chosen` keys (`None`: all) as the VM has them.
    ///
    /// # Errors
    /// When a side is malformed.
    fn merge(
        &self,
        path: &Path,
        base: &[u8],
        vm: &[u8],
        host: &[u8],
        chosen: Option<&BTreeSet<String>>,
        on: OnKeyConflict,
    ) -> Result<Merged, RegistryError>;
}

/// Every adapter.
#[must_use]
pub fn all() -> &'static [&'static dyn Registry] {
    &[&accounts::Accounts, &wine::Wine, &dconf::Dconf]
}

/// The adapter for a file, if it is a keyed store.
#[must_use]
pub fn recognise(path: &Path, bytes: &[u8]) -> Option<&'static dyn Registry> {
    all().iter().copied().find(|registry| registry.recognises(path, bytes))
}

/// Files whose first version is worth keeping when a VM is made; `home` is the user's home directory.
#[must_use]
pub fn base_candidates(home: &Path) -> Vec<PathBuf> {
    let accounts = accounts::NAMES.iter().map(|name| Path::new("/etc").join(name));
    let of_user = [".config/dconf/user", ".wine/system.reg", ".wine/user.reg", ".wine/userdef.reg"];
    accounts.chain(of_user.iter().map(|rel| home.join(rel))).collect()
}
