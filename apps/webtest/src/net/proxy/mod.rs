//! The proxy that a VM's browser has: HTTP/1.1 and CONNECT.
//!
//! ```text
//!   connection ─► GET http://host/path ──► exchange ─┬─ live, record: dial ─► server
//!              └► CONNECT host:port                  └─ replay: out of the WARC set
//!                    live: dial, then bytes both ways; but for how they begin ([`began`]), not looked into
//!                    record, replay: TLS ends here (throw-away certificate) ─► GET /path ─► exchange
//! ```
//!
//! What the gate itself answers has the header [`SAID`], whose value says why: a browser takes it for the site's otherwise.
//!
//! Invariants: nothing of a request chooses an address that was not judged ([`dial`]); each head, body, connection and VM has its limit
//! of bytes and time; all of a VM's tasks end with its plug. In live mode TLS is the browser's and the site's alone.

pub mod address;
pub mod began;
pub mod dial;
pub mod exit;
mod forward;
pub mod local;
pub mod names;
pub mod record;
pub mod replay;
pub mod tls;
mod tunnel;

use crate::model::Foreign;
use bytes::Bytes;
use dial::Reach;
use exit::Exit;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use record::Record;
use replay::Replay;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The header of what the gate itself answers.
pub const SAID: &str = "fvm-gate";

/// What a body is to hyper.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub String);

/// What one VM may do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Looking up and connecting may take so long.
    pub connect_max: Duration,
    /// A server may take so long until its answer begins.
    pub head_max: Duration,
    /// An exchange may take so long in all.
    pub exchange_max: Duration,
    /// A tunnel may be open so long.
    pub tunnel_max: Duration,
    /// An answer may have so many bytes.
    pub body_max_bytes: u64,
    /// A VM may send and get so many bytes in all.
    pub vm_max_bytes: u64,
    /// A VM may have so many connections at once; more wait.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_max: Duration::from_secs(15),
            head_max: Duration::from_secs(30),
            exchange_max: Duration::from_secs(120),
            tunnel_max: Duration::from_secs(3600),
            body_max_bytes: 256 << 20,
            vm_max_bytes: 2 << 30,
            connections: 256,
        }
    }
}

/// A server's head may have so many bytes, and a browser's.
const HEAD_MAX_BYTES: usize = 128 << 10;
/// And so many headers.
const HEADERS_MAX: usize = 256;

/// How bytes go out.
#[derive(Debug)]
pub enum Way {
    /// Directly, or through exits in turns; not looked into.
    Live(Live),
    /// The same, looked into and written down.
    Record(Record),
    /// Out of a WARC set, and nothing else.
    Replay(Replay),
}

impl Way {
    /// Keys that a browser is to take for good.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        match self {
            Self::Live(_) => Vec::new(),
            Self::Record(record) => record.authority.keys(),
            Self::Replay(replay) => replay.authority.keys(),
        }
    }

    fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Record(record) => Some(&record.live),
            Self::Replay(_) => None,
        }
    }
}

/// The net.
#[derive(Debug, Default)]
pub struct Live {
    /// What may be reached.
    pub reach: Reach,
    /// Exits, taken in turns by VMs; none: directly.
    pub exits: Vec<Exit>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

impl Live {
    /// With these exits.
    #[must_use]
    pub fn new(reach: Reach, exits: Vec<Exit>) -> Self {
        Self { reach, exits, turn: AtomicUsize::new(0) }
    }

    fn next_exit(&self) -> Option<Exit> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (!self.exits.is_empty()).then(|| self.exits[turn % self.exits.len()].clone())
    }
}

/// Why the gate does not do what a browser asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such name.
    NoSuchName,
    /// No name server answered.
    NoNameServer,
    /// It is not of the internet.
    Forbidden(IpAddr),
    /// It is this machine's own, or of a network that it is in.
    Near(IpAddr),
    /// No connection.
    NotConnected(String),
    /// No TLS connection.
    Tls(String),
    /// It took too long.
    TooLong,
    /// The VM has had as many bytes as it may.
    TooMuch,
    /// The server speaks no HTTP that is understood, or the browser does not.
    Malformed(String),
    /// It is not in the WARC set.
    NotRecorded,
    /// It cannot be written down, so it is not fetched.
    CannotRecord(String),
    /// Browsers go to no such port: mail, terminals, files.
    NoWebPort,
    /// Not by this proxy.
    NotSupported(&'static str),
}

impl Refusal {
    /// The value of the header [`SAID`].
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoSuchName => "no-such-name",
            Self::NoNameServer => "no-name-server",
            Self::Forbidden(_) | Self::Near(_) => "forbidden-address",
            Self::NotConnected(_) => "not-connected",
            Self::Tls(_) => "tls",
            Self::TooLong => "too-long",
            Self::TooMuch => "too-much",
            Self::Malformed(_) => "malformed",
            Self::NotRecorded => "not-recorded",
            Self::CannotRecord(_) => "cannot-record",
            Self::NoWebPort => "no-web-port",
            Self::NotSupported(_) => "not-supported",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden(_) | Self::Near(_) | Self::NoWebPort => StatusCode::FORBIDDEN,
            Self::TooLong => StatusCode::GATEWAY_TIMEOUT,
            Self::NotRecorded => StatusCode::NOT_FOUND,
            Self::TooMuch | Self::CannotRecord(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// As an answer.
    #[must_use]
    pub fn answer(&self) -> Response<Body> {
        let mut response = Response::new(full(format!("fvm gate: {self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(SAID, HeaderValue::from_static(self.word()));
        headers.insert("content-type", HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        response
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("there is no such name"),
            Self::NoNameServer => f.write_str("no name server answered"),
            Self::Forbidden(ip) => write!(f, "{ip} is not an address of the internet, and not allowed"),
            Self::Near(ip) => {
                write!(f, "{ip} is an address of this machine or of a network that it is in, and not allowed")
            }
            Self::NotConnected(why) => write!(f, "no connection: {why}"),
            Self::Tls(why) => write!(f, "no TLS connection: {why}"),
            Self::TooLong => f.write_str("it took too long"),
            Self::TooMuch => f.write_str("this VM has had as many bytes as it may"),
            Self::Malformed(why) => write!(f, "not understood: {why}"),
            Self::NotRecorded => f.write_str("this is not in the WARC set"),
            Self::CannotRecord(why) => write!(f, "cannot be written down: {why}"),
            Self::NoWebPort => f.write_str("no web site is at such a port"),
            Self::NotSupported(what) => write!(f, "{what} is not supported here"),
        }
    }
}

/// A whole body.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Base64 (RFC 4648) with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for n in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * n)) as usize & 63];
            out.push(if n <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// One VM, as the proxy knows it.
#[derive(Debug)]
pub struct Client {
    /// How its bytes go out.
    pub way: Arc<Way>,
    /// The exit that it uses.
    pub exit: Option<Exit>,
    /// What it may do.
    pub limits: Limits,
    left_bytes: AtomicU64,
    /// Bodies of its requests that may lie in memory at once.
    bodies: Arc<Semaphore>,
    refused: Mutex<Vec<(String, String)>>,
    odd: Mutex<Vec<Foreign>>,
}

/// So many connections that no browser makes are kept of one VM.
const ODD_MAX: usize = 100;

/// A host and port, as what was refused there is told.
fn place(host: &str, port: u16) -> String {
    format!("{}:{port}", host.chars().take(255).collect::<String>())
}

/// So many refusals of one VM are kept.
const REFUSED_MAX: usize = 100;

/// So many bodies of one VM's requests lie in memory at once.
const BODIES_MAX: usize = 8;

impl Client {
    /// A new one; it is the next exit's.
    #[must_use]
    pub fn new(way: Arc<Way>, limits: Limits) -> Self {
        let exit = way.live().and_then(Live::next_exit);
        Self {
            way,
            exit,
            left_bytes: AtomicU64::new(limits.vm_max_bytes),
            limits,
            bodies: Arc::new(Semaphore::new(BODIES_MAX)),
            refused: Mutex::default(),
            odd: Mutex::default(),
        }
    }

    /// What was refused, and why.
    #[must_use]
    pub fn refused(&self) -> Vec<(String, String)> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections that the proxy was asked for and that no page makes a browser ask for: to a port that browsers refuse by themselves
    /// (`port`), or with other first bytes than a browser's (`tunnel`).
    #[must_use]
    pub fn odd(&self) -> Vec<Foreign> {
        self.odd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes one.
    fn note_odd(&self, protocol: &str, to: &str, began: &str) {
        let mut odd = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
        let one = Foreign { protocol: protocol.into(), to: to.into(), began: began.into(), ..Foreign::default() };
        // How many of the bytes were there differs from time to time.
        let is_same = |old: &Foreign| {
            (old.protocol == one.protocol && old.to == one.to)
                && (old.began.starts_with(&one.began) || one.began.starts_with(&old.began))
        };
        if odd.len() < ODD_MAX && !odd.iter().any(is_same) {
            odd.push(one);
        }
    }

    /// Notes that something was refused; the refusal as an answer.
    fn refuse(&self, host: &str, port: u16, refusal: &Refusal) -> Response<Body> {
        let one = (place(host, port), refusal.word().to_owned());
        if *refusal == Refusal::NoWebPort && !dial::may_be_asked(port) {
            self.note_odd("port", &one.0, "");
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < REFUSED_MAX && !refused.contains(&one) {
            refused.push(one);
        }
        refusal.answer()
    }

    /// Takes from what is left; whether there was enough.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        self.left_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)))
            .is_ok_and(|left| left >= bytes)
    }

    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, Refusal> {
        if self.left_bytes.load(Ordering::Relaxed) == 0 {
            return Err(Refusal::TooMuch);
        }
        let live = self.way.live().ok_or(Refusal::NotRecorded)?;
        let stream = live.reach.dial(host, port, self.exit.as_ref(), &self.limits).await?;
        // Small packets of TLS are not to wait for each other.
        drop(stream.set_nodelay(true));
        Ok(stream)
    }
}

/// Serves all connections to a VM's proxy, until dropped.
pub async fn serve(listener: TcpListener, client: Arc<Client>) {
    let slots = Arc::new(Semaphore::new(client.limits.connections));
    let mut tasks = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let client = Arc::clone(&client);
                drop(stream.set_nodelay(true));
                tasks.spawn(async move {
                    connection(stream, client).await;
                    drop(slot);
                });
            }
            // No descriptors are left, mostly: it may be better soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// What a CONNECT left to be done when its answer has been sent.
struct Upgraded {
    upgrade: OnUpgrade,
    tunnel: tunnel::Tunnel,
}

async fn connection(stream: TcpStream, client: Arc<Client>) {
    let after: Arc<Mutex<Option<Upgraded>>> = Arc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (client, after) = (Arc::clone(&client), Arc::clone(&after));
        async move { Ok::<_, std::convert::Infallible>(first(request, &client, &after).await) }
    });
    let served = server(&client.limits).serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    // Whatever went wrong, the browser has noticed.
    drop(served);
    let upgraded = after.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Upgraded { upgrade, tunnel }) = upgraded
        && let Ok(io) = upgrade.await
    {
        tunnel.run(TokioIo::new(io), &client).await;
    }
}

/// How this end of HTTP behaves towards a VM, which may be hostile.
fn server(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.exchange_max)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX_BYTES)
        .preserve_header_case(true)
        // What a server did not send is not the proxy's to add.
        .auto_date_header(false)
        .half_close(false);
    builder
}

/// A request to the proxy itself.
async fn first(
    mut request: Request<Incoming>,
    client: &Arc<Client>,
    after: &Mutex<Option<Upgraded>>,
) -> Response<Body> {
    if request.method() == Method::CONNECT {
        let Some(authority) = request.uri().authority().cloned() else {
            return Refusal::Malformed("CONNECT to nowhere".into()).answer();
        };
        let Some(port) = authority.port_u16() else {
            return Refusal::Malformed("CONNECT without a port".into()).answer();
        };
        return match tunnel::Tunnel::open(client, authority.host(), port).await {
            Ok(tunnel) => {
                let upgrade = hyper::upgrade::on(&mut request);
                *after.lock().unwrap_or_else(PoisonError::into_inner) = Some(Upgraded { upgrade, tunnel });
                Response::new(full(Bytes::new()))
            }
            Err(refusal) => client.refuse(authority.host(), port, &refusal),
        };
    }
    // A request that a page makes to the proxy as if it were a server.
    if request.uri().scheme_str() != Some("http") || request.uri().host().is_none() {
        return Refusal::Malformed("this is a proxy: it takes http:// addresses and CONNECT".into()).answer();
    }
    let (host, port) = (request.uri().host().unwrap_or_default().to_owned(), request.uri().port_u16().unwrap_or(80));
    let answered = match &*client.way {
        Way::Live(_) => forward::plain(request, client).await,
        Way::Record(record) => record.plain(request, client).await,
        Way::Replay(replay) => replay.answer(request, None, client).await,
    };
    answered.unwrap_or_else(|refusal| client.refuse(&host, port, &refusal))
}
