//! A gate that leads to the laboratory's sites and nowhere else.
//!
//! ```text
//!   VM  127.0.0.1:3128 ◄─ a listener made inside (a thread that enters the network namespace, and ends)
//!          └─► a thread for each connection ─► http://  ─────────────────────► Sites::answer
//!                                              CONNECT ─► TLS with a good or a bad key ─┘
//! ```

use super::http::{self, Asked};
use fvm_webtest::model::Foreign;
use fvm_webtest::net::proxy::began::{Begins, begins};
use fvm_webtest::net::proxy::dial::is_web_port;
use fvm_webtest::net::{Gate, GateError, Plug};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustix::net::Shutdown;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

const PROXY: &str = "127.0.0.1:3128";

/// Both directions of a connection.
pub trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// The sites behind the gate. `pid`: a process of the VM that asks, on the host.
pub trait Sites: Send + Sync {
    /// Answers one request.
    fn answer(&self, asked: &Asked, client: &mut dyn Wire, pid: u32);
    /// Whether this host's certificate is one that nobody signed.
    fn has_bad_certificate(&self, host: &str) -> bool;
}

/// The gate.
pub struct LabGate {
    sites: Arc<dyn Sites>,
    keys: [Arc<KeyPair>; 2],
}

impl LabGate {
    pub fn new(sites: Arc<dyn Sites>) -> Self {
        let key = || Arc::new(KeyPair::generate().expect("a key"));
        Self { sites, keys: [key(), key()] }
    }

    fn good_key(&self) -> String {
        use base64::Engine as _;
        use sha2::Digest as _;
        let hash = sha2::Sha256::digest(self.keys[0].subject_public_key_info());
        base64::engine::general_purpose::STANDARD.encode(hash)
    }
}

fn tls(host: &str, key: &KeyPair) -> ServerConfig {
    let certificate = CertificateParams::new(vec![host.to_owned()]).expect("a name").self_signed(key).expect("signed");
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).expect("a certificate")
}

/// What no page makes a browser ask for, by the rules of the gate that users have.
type Odd = Arc<Mutex<Vec<Foreign>>>;

fn note(odd: &Odd, protocol: &str, asked: &Asked, began: &[u8]) {
    let (to, began) = (format!("{}:{}", asked.host, asked.port), began.escape_ascii().to_string());
    odd.lock().expect("no panic").push(Foreign { protocol: protocol.into(), to, began, ..Foreign::default() });
}

fn look_how_it_begins(client: &TcpStream, asked: &Asked, odd: &Odd) {
    let mut first = [0u8; 64];
    while let Ok(length @ 1..) = client.peek(&mut first) {
        match begins(&first[..length]) {
            Begins::Usual => return,
            Begins::Open => std::thread::sleep(std::time::Duration::from_millis(1)),
            Begins::Odd => return note(odd, "tunnel", asked, &first[..length]),
        }
    }
}

fn serve(mut client: TcpStream, sites: &dyn Sites, keys: &[Arc<KeyPair>; 2], pid: u32, odd: &Odd) {
    let Some(asked) = http::read(&mut client) else { return };
    if !is_web_port(asked.port) {
        note(odd, "port", &asked, b"");
    }
    if asked.method != "CONNECT" {
        return sites.answer(&asked, &mut client, pid);
    }
    if client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").is_err() {
        return;
    }
    look_how_it_begins(&client, &asked, odd);
    let key = &keys[usize::from(sites.has_bad_certificate(&asked.host))];
    let Ok(connection) = ServerConnection::new(Arc::new(tls(&asked.host, key))) else { return };
    let mut stream = StreamOwned::new(connection, client);
    if let Some(asked) = http::read(&mut stream) {
        sites.answer(&asked, &mut stream, pid);
        stream.conn.send_close_notify();
        let _sent = stream.flush();
    }
}

struct LabPlug {
    listener: Arc<TcpListener>,
    key: String,
    place: String,
    odd: Odd,
}

impl Gate for LabGate {
    fn plug(&self, pid: u32) -> Result<Box<dyn Plug>, GateError> {
        let inside = move || -> std::io::Result<TcpListener> {
            let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind(PROXY)
        };
        let failed = |why: std::io::Error| GateError { what: "listen in the VM".into(), why: why.to_string() };
        let listener = std::thread::spawn(inside).join().expect("it does not panic").map_err(failed)?;
        Ok(listen(self, listener, pid))
    }
}

/// Answers whoever comes to a listener.
pub fn listen(gate: &LabGate, listener: TcpListener, pid: u32) -> Box<dyn Plug> {
    let listener = Arc::new(listener);
    let (sites, keys, accepting) = (Arc::clone(&gate.sites), gate.keys.clone(), Arc::clone(&listener));
    let odd = Odd::default();
    let noted = Arc::clone(&odd);
    drop(std::thread::spawn(move || {
        while let Ok((client, _)) = accepting.accept() {
            let (sites, keys, odd) = (Arc::clone(&sites), keys.clone(), Arc::clone(&noted));
            drop(std::thread::spawn(move || serve(client, &*sites, &keys, pid, &odd)));
        }
    }));
    Box::new(LabPlug {
        place: listener.local_addr().expect("a place").to_string(),
        listener,
        key: gate.good_key(),
        odd,
    })
}

impl Plug for LabPlug {
    fn proxy(&self) -> String {
        self.place.clone()
    }

    fn keys(&self) -> Vec<String> {
        vec![self.key.clone()]
    }

    fn foreign(&self) -> Vec<Foreign> {
        Vec::new()
    }

    fn odd(&self) -> Vec<Foreign> {
        self.odd.lock().expect("no panic").clone()
    }

    fn exit(&self) -> Option<String> {
        None
    }
}

impl Drop for LabPlug {
    fn drop(&mut self) {
        let _closed = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }
}
