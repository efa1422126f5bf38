//! Connections to servers: the name is looked up, its addresses are judged, and one that passed is connected to.
//!
//! ```text
//!   host ─► addresses ─► is each public, or allowed? ─► connect to exactly these ─► is it this machine itself? ─► stream
//!      └─ with an exit: the exit looks up and connects; an address that is written out is judged all the same
//! ```

use super::address::{Network, is_public};
use super::exit::Exit;
use super::names::{Names, NoAddress};
use super::{Limits, Refusal};
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// So many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 4;

/// What may be reached, and how names are looked up.
#[derive(Debug, Default)]
pub struct Reach {
    /// Looks names up.
    pub names: Names,
    /// Addresses that may be reached though they are not of the internet.
    pub allow: Vec<Network>,
}

impl Reach {
    /// Whether an address may be reached.
    #[must_use]
    pub fn admits(&self, ip: IpAddr) -> bool {
        is_public(ip) || self.allow.iter().any(|network| network.has(ip))
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
        timeout(limits.connect_max, self.connect(host, port, exit)).await.unwrap_or(Err(Refusal::TooLong))
    }

    async fn connect(&self, host: &str, port: u16, exit: Option<&Exit>) -> Result<TcpStream, Refusal> {
        let failed = |e: std::io::Error| Refusal::NotConnected(e.to_string());
        if let Some(exit) = exit {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            // Names of this machine, and addresses that only the exit's own network has.
            let is_local = bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost");
            match bare.parse::<IpAddr>() {
                Ok(ip) if !self.admits(ip) => return Err(Refusal::Forbidden(ip)),
                Err(_) if is_local => return Err(Refusal::Forbidden(IpAddr::from([127, 0, 0, 1]))),
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
        if let Some(forbidden) = addresses.iter().find(|ip| !self.admits(**ip)) {
            return Err(Refusal::Forbidden(*forbidden));
        }
        let mut last = Refusal::NoSuchName;
        for ip in addresses.into_iter().take(ADDRESSES_MAX) {
            match TcpStream::connect(SocketAddr::new(ip, port)).await {
                Ok(stream) => {
                    let (ours, its) = (stream.local_addr().map_err(failed)?, stream.peer_addr().map_err(failed)?);
                    // A public address that is this machine's own leads to its services.
                    if ours.ip() == its.ip() && !self.allow.iter().any(|network| network.has(ip)) {
                        return Err(Refusal::Forbidden(ip));
                    }
                    return Ok(stream);
                }
                Err(e) => last = failed(e),
            }
        }
        Err(last)
    }
}
