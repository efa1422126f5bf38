//! What a VM may use.
//!
//! ```text
//!   built-in profiles ─┐ extends
//!   TOML files ────────┼─► text ─► resolve ─► Policy ─► stored in vm.json, shown by inspect and explain
//!   flags ─────────────┘  (place of   (merge,
//!                          errors)     contradictions)
//! ```
//!
//! Invariants: pure: no file is read here; a [`Policy`] is whole: every question has an answer in it, so that a VM means
//! the same in every version of fvm that reads it.

mod amend;
mod builtin;
pub mod limits;
mod pattern;
mod resolve;
mod show;
mod text;

pub use amend::amend;
pub use builtin::{PROFILES, Profile, Secret, secrets};
pub use limits::Limits;
pub use pattern::Pattern;
pub use resolve::{Flags, Source, resolve};
pub use text::{Place, PolicyError};

use crate::{HostPath, Level, Publish, Range, Reach};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a VM may use; stored with it and shown by `fvm inspect`. The default is the profile `default`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The profile or file that it came from.
    pub name: PolicyName,
    /// Which network it sees.
    pub network: Network,
    /// What it may reach, with a network of its own.
    pub reach: Reach,
    /// From which it has its own address on this host, as a VM of root's.
    pub range: Range,
    /// Which of its ports the host reaches.
    pub publish: Vec<Publish>,
    /// Which files it sees, and how.
    pub files: Files,
    /// Device nodes of the host, or directories of them, that it may use.
    pub devices: Vec<HostPath>,
    /// Sockets of the host's services that it may talk to.
    pub sockets: Vec<HostPath>,
    /// Message buses.
    pub dbus: Dbus,
    /// Environment variables that pass.
    pub environment: Environment,
    /// What it may ask of the kernel.
    pub kernel: Kernel,
    /// How much of what its programs do is written down.
    #[serde(default = "Level::off")]
    pub trace: Level,
    /// What a commit of its changes asks for.
    #[serde(skip_serializing_if = "Commit::is_usual")]
    pub commit: Commit,
    /// How much of the machine it may use.
    #[serde(skip_serializing_if = "no_limits")]
    pub limits: Limits,
    /// What it calls its machine; the host's name, if nothing.
    pub hostname: Option<String>,
    /// Features of `fvm doctor` without which it does not start.
    pub requires: Vec<String>,
    /// Whether files that come from it to the host are marked: they are run and opened in VMs only, until unmarked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mark: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn no_limits(limits: &Limits) -> bool {
    !limits.any()
}

impl Policy {
    /// Whether what its VMs did is judged where their changes are looked at or committed, without anybody asking.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.trace == Level::Full || self.commit.verdict == Demand::Clean
    }
}

/// What a commit of a VM's changes asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Commit {
    /// Which verdict of the analysis.
    pub verdict: Demand,
}

impl Commit {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Which verdict a commit asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Demand {
    /// Any: what findings are about is left out unless it is named.
    #[default]
    Any,
    /// [`crate::Verdict::Clean`]: nothing is committed otherwise.
    Clean,
}

impl Demand {
    /// As policies name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Clean => "clean",
        }
    }
}

/// The feature without which a VM has no network where its policy says `own`, and does not start if that was asked for by
/// option, or a port is published.
pub const OWN_NETWORK: &str = "own network";

/// What `requires` can name: the features of `fvm doctor`, some of which are tried for root or for users only.
pub const FEATURES: &[&str] = &[
    "user namespaces",
    "namespaces",
    "overlay",
    "idmapped mounts",
    "shifted layers",
    "overlay renames",
    "overlay hard links",
    "rename exchange",
    "reflinks",
    "seccomp notification",
    "behaviour log",
    "cgroups",
    OWN_NETWORK,
    "openat2",
    "mount ids in statx",
    "pidfd",
    "run-time directory",
    "/dev/ptmx",
    "/dev/fuse",
    "/dev/net/tun",
    "execution guard",
    "pasta",
    "subordinate ids",
    "newuidmap",
];

/// The name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyName(pub String);

impl Default for PolicyName {
    fn default() -> Self {
        Self("default".into())
    }
}

/// Which network a VM sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's own: addresses, ports and abstract sockets are shared with it.
    Host,
    /// Only its own loopback.
    None,
    /// Its own, with an address of its own; the outside is reached through a router that filters.
    #[default]
    Own,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::None => "none",
            Self::Own => "own",
        })
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            "own" => Ok(Self::Own),
            other => Err(format!("'{other}' is not a network; use 'own', 'host' or 'none'")),
        }
    }
}

/// Which files a VM sees, and how. Everything else is seen as it is, and changes are private.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// Not there, or empty.
    pub hide: Vec<Pattern>,
    /// There, and cannot be changed.
    pub read_only: Vec<Pattern>,
    /// The host's own: what the VM writes there is written to the host at once.
    pub share: Vec<HostPath>,
}

/// Message buses of a VM. The host's are never seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dbus {
    /// The session bus.
    pub session: Bus,
    /// The system bus.
    pub system: Bus,
    /// What programs on its session bus may ask of the host's desktop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass: Vec<Desktop>,
}

impl Default for Dbus {
    fn default() -> Self {
        Self { session: Bus::Private, system: Bus::None, pass: Vec::new() }
    }
}

/// Something that the host's desktop does for programs in a VM: asked through a relay, never through the host's bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desktop {
    /// Show notifications, labelled with the VM's name.
    Notifications,
    /// Open a web or mail address, after asking the user.
    OpenUri,
}

impl Desktop {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Notifications, Self::OpenUri];

    /// As policies name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Notifications => "notifications",
            Self::OpenUri => "open-uri",
        }
    }
}

/// A message bus of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// There is none.
    #[default]
    None,
    /// One of its own, started when it is first used.
    Private,
}

/// Which environment variables pass into a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Environment {
    /// Patterns of names; what matches none stays outside.
    pub pass: Vec<String>,
    /// Patterns of names that stay outside nevertheless.
    pub hide: Vec<String>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { pass: vec!["*".into()], hide: Vec::new() }
    }
}

impl Environment {
    /// Whether the variable `name` passes.
    #[must_use]
    pub fn passes(&self, name: &[u8]) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|p| pattern::matches(p.as_bytes(), name));
        any(&self.pass) && !any(&self.hide)
    }
}

/// What a VM may ask of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kernel {
    /// Dangerous system calls are refused.
    pub filter: bool,
    /// User namespaces within the VM, as browsers' sandboxes and builders want them.
    pub user_namespaces: bool,
    /// Programs may trace programs of the same VM.
    pub trace: bool,
    /// `io_uring`.
    pub io_uring: bool,
    /// 32-bit x86 programs; opens rare socket families too, `vsock` among them.
    pub x86_32: bool,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { filter: true, user_namespaces: true, trace: true, io_uring: false, x86_32: false }
    }
}

impl Policy {
    /// Whether VMs of root have control groups.
    #[must_use]
    pub fn wants_groups(&self) -> bool {
        self.limits.wants_groups() || !self.devices.is_empty()
    }

    /// Whether no open file can be passed to a program outside: no socket is shared with the host, nor a
    /// bus with a relay.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.network != Network::Host
            && self.sockets.is_empty()
            && self.files.share.is_empty()
            && self.dbus.pass.is_empty()
    }
}
