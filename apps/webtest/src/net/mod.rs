//! The network of visits: a VM has a loopback and nothing else, and every byte that it sends ends here.
//!
//! ```text
//!  VM (--net none)                                  the worker
//!   browser ─► 127.0.0.1:PROXY ─┐                    ┌─► live: out, directly or through an exit
//!   all else ─► any address ────┴─ listeners made ──►┼─► record: the same, and into WARC
//!               (local 0.0.0.0/0 dev lo)  inside     ├─► replay: out of WARC
//!                                                    └─► not the browser's: refused, and told (`Foreign`)
//! ```
//!
//! What the gate itself answers a browser, because it cannot or will not do what was asked for, has the header [`proxy::SAID`]: such an
//! answer is not the site's. A tunnel that it refuses (CONNECT) has it too; of that, browsers tell no more than that the tunnel
//! failed: [`Plug::refused`] does.

pub mod args;
pub mod gate;
pub mod mirror;
pub mod proxy;
pub mod warc;

use crate::model::Foreign;

/// What carries all connections of a worker.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, GateError> {
    let built =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("fvm-gate").enable_all().build();
    built.map_err(|e| GateError { what: "start the gate's threads".into(), why: e.to_string() })
}

/// The way out of all VMs of a worker.
pub trait Gate: Send + Sync {
    /// Connects the network namespace of process `pid`, which has only a loopback.
    ///
    /// # Errors
    /// When the namespace cannot be entered or has something on these ports already.
    fn plug(&self, pid: u32) -> Result<Box<dyn Plug>, GateError>;
}

/// A VM's connection; it ends when this is dropped.
pub trait Plug: Send {
    /// Where the browser's proxy is, as the VM sees it: `127.0.0.1:port`.
    fn proxy(&self) -> String;

    /// Keys that the browser is to take for good whoever signed them: SHA-256 of their public part, base64.
    fn keys(&self) -> Vec<String>;

    /// Connections up to now that did not come to the proxy.
    fn foreign(&self) -> Vec<Foreign>;

    /// What the gate would not or could not do for the browser: host and port, and why, as in [`proxy::SAID`]. The first hundred.
    fn refused(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Connections that the proxy was asked for and that no page makes a browser ask for: `port`, `tunnel`. The first hundred.
    fn odd(&self) -> Vec<Foreign> {
        Vec::new()
    }

    /// The exit that it uses, if there are several.
    fn exit(&self) -> Option<String>;
}

/// Why a VM could not be connected.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why}")]
pub struct GateError {
    /// What was attempted, on what.
    pub what: String,
    /// Why it failed, and what to do.
    pub why: String,
}
