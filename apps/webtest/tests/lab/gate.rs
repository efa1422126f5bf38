//! A gate that leads to the laboratory's sites and nowhere else.
//!
//! ```text
//!   VM  127.0.0.1:3128 ◄─ a listener made inside (a thread that enters the network namespace, and ends)
//!          └─► a thread for each connection ─► Sites::answer
//! ```

use fvm_webtest::model::Foreign;
use fvm_webtest::net::{Gate, GateError, Plug};
use rustix::net::Shutdown;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

const PROXY: &str = "127.0.0.1:3128";

/// Answers whoever comes to the proxy.
pub trait Sites: Send + Sync {
    /// One connection, to its end.
    fn answer(&self, client: TcpStream);
}

/// The gate.
pub struct LabGate(pub Arc<dyn Sites>);

struct LabPlug(Arc<TcpListener>);

impl Gate for LabGate {
    fn plug(&self, pid: u32) -> Result<Box<dyn Plug>, GateError> {
        let inside = move || -> std::io::Result<TcpListener> {
            let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind(PROXY)
        };
        let failed = |why: std::io::Error| GateError { what: "listen in the VM".into(), why: why.to_string() };
        let listener = std::thread::spawn(inside).join().expect("it does not panic").map_err(failed)?;
        let listener = Arc::new(listener);
        let (sites, accepting) = (Arc::clone(&self.0), Arc::clone(&listener));
        std::thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                let sites = Arc::clone(&sites);
                std::thread::spawn(move || sites.answer(client));
            }
        });
        Ok(Box::new(LabPlug(listener)))
    }
}

impl Plug for LabPlug {
    fn proxy(&self) -> String {
        PROXY.into()
    }

    fn keys(&self) -> Vec<String> {
        Vec::new()
    }

    fn foreign(&self) -> Vec<Foreign> {
        Vec::new()
    }

    fn exit(&self) -> Option<String> {
        None
    }
}

impl Drop for LabPlug {
    fn drop(&mut self) {
        let _closed = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}
