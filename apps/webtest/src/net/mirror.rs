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
use super::proxy::replay::Replay;
use super::proxy::tls::Authority;
use super::proxy::{Client, Limits, Way, serve};
use super::warc::WarcError;
use super::warc::read::Set;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

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
    Ok(Replay { set, authority: Authority::new()? })
}

/// A set that is served as a proxy.
#[derive(Debug)]
pub struct Mirror {
    /// Where.
    pub at: SocketAddr,
    way: Arc<Way>,
    _runtime: Runtime,
    served: JoinHandle<()>,
}

impl Mirror {
    /// Begins to serve at `at`; port 0: any.
    ///
    /// # Errors
    /// When the place is taken.
    pub fn serve(replay: Replay, at: SocketAddr) -> Result<Self, MirrorError> {
        let failed = |e: std::io::Error| {
            let why = format!("{e}; choose another address or port with --listen");
            MirrorError::Gate(GateError { what: format!("listen at {at}"), why })
        };
        let listener = std::net::TcpListener::bind(at).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let runtime = super::runtime()?;
        let way = Arc::new(Way::Replay(replay));
        // One client stands for all of a person's visits: as many bytes as they like.
        let limits = Limits { vm_max_bytes: u64::MAX, connections: 1024, ..Limits::default() };
        let client = Arc::new(Client::new(Arc::clone(&way), limits));
        let served = {
            let _inside = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            runtime.spawn(serve(listener, client))
        };
        Ok(Self { at, way, _runtime: runtime, served })
    }

    /// The set.
    #[must_use]
    pub fn replay(&self) -> Option<&Replay> {
        match &*self.way {
            Way::Replay(replay) => Some(replay),
            Way::Live(_) | Way::Record(_) => None,
        }
    }

    /// Waits until `stop`, or until it ends by itself.
    pub fn wait(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && !self.served.is_finished() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
