//! A WARC set, served: to VMs as their only network, and to a person's own browser as a proxy.
//!
//! ```text
//!   VM ── Gateway(Way::Replay) ─┐
//!   browser ── 127.0.0.1:8080 ──┴─► Replay ─► WARC set; nothing else, and no net
//! ```
//!
//! Names are not looked up by whoever visits: a browser with a proxy asks the proxy for a host by name, and this one knows the hosts
//! that are in the set.

use super::GateError;
use super::proxy::local::Local;
use super::proxy::replay::Replay;
use super::proxy::tls::Authority;
use super::proxy::{Limits, Way};
use super::warc::WarcError;
use super::warc::read::Set;
use std::net::SocketAddr;
use std::path::Path;

/// Why a set cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Its files.
    #[error(transparent)]
    Warc(#[from] WarcError),
    /// The proxy.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// Nothing is in it.
    #[error("there is no answer in {0}: crawl or record into it first")]
    Empty(String),
}

/// The way into a WARC set, for a [`super::gate::Gateway`] too.
///
/// # Errors
/// When it cannot be read, or holds nothing.
pub fn way(dir: &Path) -> Result<Replay, MirrorError> {
    let set = Set::open(dir)?;
    if set.index.is_empty() {
        return Err(MirrorError::Empty(dir.display().to_string()));
    }
    Ok(Replay::new(set, Authority::new()?))
}

/// A set, served as a proxy at `at`; port 0: any.
///
/// # Errors
/// When it cannot be read, or the place is taken.
pub fn serve(dir: &Path, at: SocketAddr) -> Result<Local, MirrorError> {
    // One client stands for all of a person's visits: as many bytes as they like.
    let limits = Limits { vm_max_bytes: u64::MAX, connections: 1024, ..Limits::default() };
    Ok(Local::serve(Way::Replay(way(dir)?), at, limits)?)
}
