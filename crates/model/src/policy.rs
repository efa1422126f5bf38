//! What a VM may use. Grows with the confinement and resource issues; today: the network.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a VM may use; stored with it and shown by `fvm inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Which network it sees.
    #[serde(default)]
    pub network: Network,
}

/// Which network a VM sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's own: addresses, ports and abstract sockets are shared with it.
    #[default]
    Host,
    /// Only its own loopback.
    None,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::None => "none",
        })
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            "own" => Err("a network address of its own is not built yet; use 'host' or 'none'".into()),
            other => Err(format!("'{other}' is not a network; use 'host' or 'none'")),
        }
    }
}
