//! Connections to servers: the name is looked up, its addresses are judged, and one that passed is connected to.
//!
//! ```text
//!   host ─► addresses ─► is each allowed, or public ─► connect to exactly these ─► is it this machine itself? ─► stream
//!                        and not near this machine?
//!      └─ with an exit: the exit looks up and connects; an address that is written out is judged all the same
//! ```
//!
//! Invariant: where the kernel does not say whether an address is near, it is not connected to.

use super::address::{Network, is_public};
use super::exit::Exit;
use super::names::{Names, NoAddress};
use super::{Limits, Refusal};
use fvm_net::near::{Near, wrapped};
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Host;

/// So many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 4;

/// Ports that no site is at, and where a taken-over browser would do harm from here: mail, terminals, files. A part of those that browsers
/// refuse (fetch standard, "port blocking").
const BAD_PORTS: [u16; 24] =
    [7, 9, 19, 21, 22, 23, 25, 53, 69, 110, 111, 119, 135, 137, 139, 143, 161, 389, 445, 465, 514, 587, 993, 995];

/// Of these, what pages can have a browser ask for: a TURN server at 53 (libwebrtc, `TurnPort::AllowedTurnPort`), and 445, which it does
/// not refuse.
const ASKED_PORTS: [u16; 2] = [53, 445];

/// Whether a browser asks for a port that is refused, if a page says so.
#[must_use]
pub fn may_be_asked(port: u16) -> bool {
    ASKED_PORTS.contains(&port)
}

/// Whether sites may be at a port.
#[must_use]
pub fn is_web_port(port: u16) -> bool {
    !BAD_PORTS.contains(&port)
}

/// The address that a host is, in whatever way it is written out: `127.1` and `0x7f000001` too, which other programs read as one.
fn written(host: &str) -> Option<IpAddr> {
    match Host::parse(host.strip_suffix('.').unwrap_or(host)) {
        Ok(Host::Ipv4(ip)) => Some(ip.into()),
        Ok(Host::Ipv6(ip)) => Some(ip.into()),
        Ok(Host::Domain(_)) | Err(_) => host.parse().ok(),
    }
}

/// A name of this machine, or of whatever network looks it up: one without a dot; or what is no name at all.
fn is_near(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    !host.contains('.') || host.ends_with(".localhost") || host.ends_with(".local") || Host::parse(&host).is_err()
}

/// What may be reached, and how names are looked up.
#[derive(Debug, Default)]
pub struct Reach {
    /// Looks names up.
    pub names: Names,
    /// Addresses that may be reached though they are not of the internet.
    pub allow: Vec<Network>,
}

impl Reach {
    /// Whether addresses may be reached.
    ///
    /// # Errors
    /// Why the first that may not does not.
    pub fn judge(&self, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let mut near = None;
        for ip in addresses.iter().copied().filter(|ip| !self.allow.iter().any(|network| network.has(*ip))) {
            if !is_public(ip) {
                return Err(Refusal::Forbidden(ip));
            }
            let unknown =
                |e| Refusal::NotConnected(format!("whether {ip} is near this machine cannot be found out: {e}"));
            let near = match &mut near {
                Some(near) => near,
                // Anew each time: networks come and go while a worker runs.
                none => none.insert(Near::look().map_err(unknown)?),
            };
            let within = match ip {
                IpAddr::V6(v6) => wrapped(v6).map(IpAddr::from),
                IpAddr::V4(_) => None,
            };
            for one in [Some(ip), within].into_iter().flatten() {
                if near.has(one).map_err(unknown)? {
                    return Err(Refusal::Near(ip));
                }
            }
        }
        Ok(())
    }

    /// Connects.
    ///
    /// # Errors
    /// Why not.
    pub async fn dial(
        &self,
        host: &str,
        port: u16,
        exit: Option<&Exit>,
        limits: &Limits,
    ) -> Result<TcpStream, Refusal> {
        if !is_web_port(port) {
            return Err(Refusal::NoWebPort);
        }
        timeout(limits.connect_max, self.connect(host, port, exit)).await.unwrap_or(Err(Refusal::TooLong))
    }

    async fn connect(&self, host: &str, port: u16, exit: Option<&Exit>) -> Result<TcpStream, Refusal> {
        let failed = |e: std::io::Error| Refusal::NotConnected(e.to_string());
        if let Some(exit) = exit {
            match written(host) {
                Some(ip) => self.judge(&[ip])?,
                None if is_near(host) => return Err(Refusal::Forbidden(IpAddr::from([127, 0, 0, 1]))),
                _ => {}
            }
            let at = self
                .names
                .look_up(&exit.host)
                .await
                .map_err(|_| Refusal::NotConnected(format!("exit {exit}: its name has no address")))?;
            let at: Vec<SocketAddr> = at.into_iter().map(|ip| SocketAddr::new(ip, exit.port)).collect();
            let mut stream =
                TcpStream::connect(&at[..]).await.map_err(|e| Refusal::NotConnected(format!("exit {exit}: {e}")))?;
            exit.ask(&mut stream, host, port).await.map_err(Refusal::NotConnected)?;
            return Ok(stream);
        }
        let addresses = self.names.look_up(host).await.map_err(|e| match e {
            NoAddress::NoSuchName => Refusal::NoSuchName,
            NoAddress::NoAnswer => Refusal::NoNameServer,
        })?;
        // One address that is not allowed spoils all: who mixes them means to mislead.
        self.judge(&addresses)?;
        let mut last = Refusal::NoSuchName;
        for ip in addresses.into_iter().take(ADDRESSES_MAX) {
            match TcpStream::connect(SocketAddr::new(ip, port)).await {
                Ok(stream) => {
                    let (ours, its) = (stream.local_addr().map_err(failed)?, stream.peer_addr().map_err(failed)?);
                    // A public address that is this machine's own leads to its services.
                    if ours.ip() == its.ip() && !self.allow.iter().any(|network| network.has(ip)) {
                        return Err(Refusal::Near(ip));
                    }
                    return Ok(stream);
                }
                Err(e) => last = failed(e),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_known_however_they_are_written() {
        for host in ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "[::1]", "::1"] {
            assert!(written(host).is_some_and(|ip| ip.is_loopback()), "{host}");
        }
        assert_eq!(written("example.org"), None);
    }

    #[test]
    fn names_of_near_are_told_from_those_of_the_internet() {
        for host in
            ["localhost", "localhost.", "LOCALHOST", "a.localhost.", "intranet", "nas.local", "1.2.3.4.5", "a b"]
        {
            assert!(is_near(host) || written(host).is_some(), "{host}");
        }
        for host in ["example.org", "example.org.", "a.b.example"] {
            assert!(!is_near(host), "{host}");
        }
    }
}
