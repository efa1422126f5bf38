//! The proxy at an address of this machine: for a person's own browser, and for other programs.

use super::{Client, Limits, Way, serve};
use crate::net::GateError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// A proxy that listens.
#[derive(Debug)]
pub struct Local {
    /// Where.
    pub at: SocketAddr,
    way: Arc<Way>,
    /// Its connections end with it.
    _runtime: Runtime,
    served: JoinHandle<()>,
}

impl Local {
    /// Begins to serve at `at`; port 0: any. All who connect are one client.
    ///
    /// # Errors
    /// When the place is taken.
    pub fn serve(way: Way, at: SocketAddr, limits: Limits) -> Result<Self, GateError> {
        let failed = |e: std::io::Error| GateError {
            what: format!("listen at {at}"),
            why: format!("{e}; choose another address or port"),
        };
        let listener = std::net::TcpListener::bind(at).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let runtime = crate::net::runtime()?;
        let way = Arc::new(way);
        let client = Arc::new(Client::new(Arc::clone(&way), limits));
        let served = {
            let _inside = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            runtime.spawn(serve(listener, client))
        };
        Ok(Self { at, way, _runtime: runtime, served })
    }

    /// How its bytes go out.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Waits until `stop`, or until it ends by itself.
    pub fn wait(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && !self.served.is_finished() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
