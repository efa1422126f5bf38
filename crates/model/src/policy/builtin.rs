//! The profiles that come with fvm, and what strangers should not read.

use super::resolve::Source;
use serde::Deserialize;
use std::sync::OnceLock;

/// A built-in profile.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in a line.
    pub about: &'static str,
    /// TOML.
    pub text: &'static str,
}

/// The built-in profiles.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "default",
        about: "programs you trust with your files, not with your machine",
        text: include_str!("profiles/default.toml"),
    },
    Profile {
        name: "untrusted",
        about: "programs you trust with nothing: no network, no secrets, no tracing",
        text: include_str!("profiles/untrusted.toml"),
    },
    Profile { name: "offline", about: "as default, without a network", text: include_str!("profiles/offline.toml") },
    Profile {
        name: "build",
        about: "builds and package installs: no secrets; the network stays",
        text: include_str!("profiles/build.toml"),
    },
    Profile {
        name: "browser",
        about: "web browsers: their own sandbox works, no secrets but their own profile",
        text: include_str!("profiles/browser.toml"),
    },
    Profile {
        name: "unconfined-network",
        about: "the host's own network: servers and tools that need its addresses",
        text: include_str!("profiles/unconfined-network.toml"),
    },
];

/// A built-in profile's text.
pub(super) fn source(name: &str) -> Option<Source> {
    let profile = PROFILES.iter().find(|p| p.name == name)?;
    Some(Source { file: profile.name.to_owned(), text: profile.text.to_owned() })
}

/// Something that strangers should not read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// A pattern of paths, or of names of variables.
    pub name: String,
    /// What is in it.
    pub why: String,
}

/// What strangers should not read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Patterns of paths.
    pub files: Vec<Secret>,
    /// Patterns of names of environment variables.
    pub variables: Vec<Secret>,
}

/// The list, from `secrets.toml`.
#[must_use]
pub fn secrets() -> &'static Secrets {
    static SECRETS: OnceLock<Secrets> = OnceLock::new();
    // A test reads it, too: it cannot be wrong here.
    let read = || toml::from_str(include_str!("secrets.toml"));
    SECRETS.get_or_init(|| read().unwrap_or(Secrets { files: Vec::new(), variables: Vec::new() }))
}
