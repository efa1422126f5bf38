//! How an ordinary user's VM reaches the outside: by a program that speaks the host's sockets on one side and a tap
//! interface on the other.
//!
//! ```text
//!   router namespace ── tap ── pasta (else slirp4netns) ── the user's own sockets ── host, network
//! ```
//!
//! Invariants: pure but for [`find`], which looks for programs at fixed places; whichever program it is, it maps no
//! address to the host's loopback.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where the programs are looked for; `PATH` is the caller's to change, these are not.
const DIRS: &[&str] = &["/usr/bin", "/usr/local/bin", "/bin", "/run/current-system/sw/bin"];

/// A program that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// `pasta`, of the package `passt`.
    Pasta(PathBuf),
    /// `slirp4netns`.
    Slirp(PathBuf),
}

/// What is missing, and what to do.
pub const MISSING: &str = "neither 'pasta' nor 'slirp4netns' is installed: install the package 'passt' (or \
                           'slirp4netns'), or run the VM with '--net none' or '--net host'";

/// The program to use.
#[must_use]
pub fn find() -> Option<Uplink> {
    let named = |name: &str| DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| is_program(path));
    named("pasta").map(Uplink::Pasta).or_else(|| named("slirp4netns").map(Uplink::Slirp))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

impl Uplink {
    /// The file to execute.
    #[must_use]
    pub fn program(&self) -> &Path {
        match self {
            Self::Pasta(path) | Self::Slirp(path) => path,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pasta(_) => "pasta",
            Self::Slirp(_) => "slirp4netns",
        }
    }

    /// Whether it goes on in a process of its own once it is ready. The other says so on a descriptor.
    #[must_use]
    pub fn forks(&self) -> bool {
        matches!(self, Self::Pasta(_))
    }

    /// Its arguments, for the network namespace at `netns`. The caller is root in the user namespace that owns it.
    /// `ready`: the descriptor on which slirp4netns says that it is ready.
    #[must_use]
    pub fn arguments(&self, netns: &str, ready: i32) -> Vec<OsString> {
        let ready = ready.to_string();
        let words: Vec<&str> = match self {
            Self::Pasta(_) => vec![
                "--config-net",
                "--quiet",
                "--netns",
                netns,
                // The namespace lasts longer than the process through which it is named.
                "--no-netns-quit",
                // Nothing of the host's loopback: neither its ports, nor itself under the gateway's address.
                "--tcp-ns",
                "none",
                "--udp-ns",
                "none",
                "--no-map-gw",
                // Ports are published by fvm.
                "--tcp-ports",
                "none",
                "--udp-ports",
                "none",
            ],
            Self::Slirp(_) => vec![
                "--configure",
                "--mtu=65520",
                "--disable-host-loopback",
                "--disable-dns",
                "--enable-ipv6",
                "--netns-type=path",
                "--ready-fd",
                &ready,
                netns,
                "tap0",
            ],
        };
        words.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_program_opens_the_hosts_loopback() {
        let text = |uplink: Uplink| {
            let words = uplink.arguments("/proc/7/ns/net", 5);
            words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        let pasta = text(Uplink::Pasta("/usr/bin/pasta".into()));
        for needed in ["--tcp-ns none", "--udp-ns none", "--no-map-gw", "--tcp-ports none", "--udp-ports none"] {
            assert!(pasta.contains(needed), "{needed}");
        }
        let slirp = text(Uplink::Slirp("/usr/bin/slirp4netns".into()));
        assert!(slirp.contains("--disable-host-loopback") && slirp.contains("--ready-fd 5"));
    }
}
