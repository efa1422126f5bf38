//! The net, looked into and written down.
//!
//! ```text
//!   request ─► is there room? ─► server ─► head ─► browser
//!                                      └─► body ─► browser, and a copy ─► Recorder, when it has ended or was cut
//! ```
//!
//! Invariants: browser and crawler go the same way ([`Record::fetch`]); a copy is bounded, and a cut one says why; where nothing can be
//! written any more, nothing is fetched.

use super::forward::{exchange, handshake, metered, to_server};
use super::tls::{Authority, Servers};
use super::{Body, BodyError, Client, Live, Refusal, full};
use crate::net::warc::write::{Exchange, Recorder};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::{HeaderMap, Request, Response, StatusCode};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use url::Url;

/// Of one answer so much is kept.
const KEPT_MAX_BYTES: usize = 64 << 20;
/// A request's body may be so long.
const REQUEST_MAX_BYTES: usize = 4 << 20;

/// A recording.
#[derive(Debug)]
pub struct Record {
    /// How to go out.
    pub live: Live,
    /// What it is written with.
    pub recorder: Arc<Recorder>,
    /// What browsers are shown.
    pub authority: Authority,
    /// How servers are verified.
    pub servers: Servers,
}

/// HTTP with a server, on one connection.
pub(super) struct Session {
    sender: SendRequest<Body>,
    ip: Option<IpAddr>,
    /// What is wrong with its certificate.
    pub wrong: Option<String>,
}

impl Session {
    /// Whether the server still takes requests on it.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Record {
    /// A request that came as `http://...`.
    pub(super) async fn plain(
        &self,
        request: Request<Incoming>,
        client: &Arc<Client>,
    ) -> Result<Response<Body>, Refusal> {
        let url = Url::parse(&request.uri().to_string()).map_err(|e| Refusal::Malformed(e.to_string()))?;
        let request = collected(request, client).await?;
        self.fetch(request, &url, client).await
    }

    /// Fetches with a connection of its own, and keeps it. A certificate that is not good is an error here.
    ///
    /// # Errors
    /// Why not.
    pub async fn fetch(
        &self,
        request: Request<Bytes>,
        url: &Url,
        client: &Arc<Client>,
    ) -> Result<Response<Body>, Refusal> {
        let deadline = Instant::now() + client.limits.exchange_max;
        let host = url.host_str().ok_or_else(|| Refusal::Malformed("no host".into()))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let stream = client.dial(host, port).await?;
        let mut session = self.session(stream, host, port, url.scheme() == "https", client, deadline).await?;
        if let Some(wrong) = session.wrong {
            return Err(Refusal::Tls(wrong));
        }
        self.on(&mut session, request, url, client, deadline).await
    }

    /// Begins HTTP with a server that was dialled.
    pub(super) async fn session(
        &self,
        stream: TcpStream,
        host: &str,
        port: u16,
        is_tls: bool,
        client: &Client,
        deadline: Instant,
    ) -> Result<Session, Refusal> {
        // With an exit, who answers is not known.
        let ip = if client.exit.is_none() { stream.peer_addr().ok().map(|at| at.ip()) } else { None };
        if !is_tls {
            return Ok(Session { sender: handshake(stream, deadline).await?, ip, wrong: None });
        }
        let until = deadline.min(Instant::now() + client.limits.connect_max);
        let connected = timeout_at(until, self.servers.connect(stream, host, port)).await;
        let (stream, shown) = connected.map_err(|_| Refusal::TooLong)??;
        self.recorder.shown(shown.clone());
        Ok(Session { sender: handshake(stream, deadline).await?, ip, wrong: shown.wrong })
    }

    /// An exchange on a session.
    pub(super) async fn on(
        &self,
        session: &mut Session,
        request: Request<Bytes>,
        url: &Url,
        client: &Arc<Client>,
        deadline: Instant,
    ) -> Result<Response<Body>, Refusal> {
        self.recorder.room().await.map_err(Refusal::CannotRecord)?;
        session.sender.ready().await.map_err(|e| Refusal::NotConnected(e.to_string()))?;
        let at = SystemTime::now();
        let request = to_server(request)?;
        let (parts, sent) = request.into_parts();
        let mut request_head = format!("{} {} HTTP/1.1\r\n", parts.method, parts.uri).into_bytes();
        write_headers(&mut request_head, &parts.headers);
        let mut kept_url = url.clone();
        kept_url.set_fragment(None);
        let mut kept = Exchange {
            url: kept_url.to_string(),
            method: parts.method.to_string(),
            request_head,
            request_body: sent.clone(),
            ip: session.ip,
            at: Some(at),
            ..Exchange::default()
        };
        let request = Request::from_parts(parts, full(sent));
        let response = exchange(&mut session.sender, request, client, deadline).await?;
        let (parts, body) = response.into_parts();
        let reason = parts.status.canonical_reason().unwrap_or("");
        kept.response_head = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).into_bytes();
        write_headers(&mut kept.response_head, &parts.headers);
        let copied = Copied { body, kept: Some(kept), bytes: Vec::new(), recorder: Arc::clone(&self.recorder) };
        Ok(Response::from_parts(parts, copied.boxed_unsync()))
    }
}

/// With its body, which is bounded.
pub(super) async fn collected(request: Request<Incoming>, client: &Arc<Client>) -> Result<Request<Bytes>, Refusal> {
    let deadline = Instant::now() + client.limits.exchange_max;
    let (mut parts, body) = request.into_parts();
    if !body.is_end_stream() {
        // So many bodies lie in memory at once; one ends with its request.
        let permit = timeout_at(deadline, Arc::clone(&client.bodies).acquire_owned()).await;
        let permit = permit.map_err(|_| Refusal::TooLong)?.map_err(|_| Refusal::TooMuch)?;
        parts.extensions.insert(Arc::new(permit));
    }
    let body = Limited::new(metered(body, client, deadline), REQUEST_MAX_BYTES).collect().await;
    Ok(Request::from_parts(parts, body.map_err(|e| Refusal::Malformed(e.to_string()))?.to_bytes()))
}

fn write_headers(head: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        head.extend(name.as_str().as_bytes());
        head.extend(b": ");
        head.extend(value.as_bytes());
        head.extend(b"\r\n");
    }
    head.extend(b"\r\n");
}

/// A body that is copied while it passes.
struct Copied {
    body: Body,
    kept: Option<Exchange>,
    bytes: Vec<u8>,
    recorder: Arc<Recorder>,
}

impl Copied {
    fn end(&mut self, truncated: Option<&'static str>) {
        if let Some(mut kept) = self.kept.take() {
            let held = self.bytes.len() as u64;
            kept.response_body = std::mem::take(&mut self.bytes).into();
            kept.truncated = kept.truncated.or(truncated);
            self.recorder.take(kept);
            self.recorder.let_go(held);
        }
    }
}

impl hyper::body::Body for Copied {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        match &polled {
            Some(Ok(frame)) => {
                if let (Some(data), Some(kept)) = (frame.data_ref(), &self.kept)
                    && kept.truncated.is_none()
                {
                    let room = KEPT_MAX_BYTES - self.bytes.len();
                    let part = data.slice(..data.len().min(room));
                    let is_held = self.recorder.hold(part.len() as u64);
                    if is_held {
                        self.bytes.extend(&part);
                    }
                    if (!is_held || part.len() < data.len())
                        && let Some(kept) = &mut self.kept
                    {
                        kept.truncated = Some("length");
                    }
                }
            }
            Some(Err(_)) => self.end(Some("disconnect")),
            None => self.end(None),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let whole = self.body.is_end_stream();
        self.end(if whole { None } else { Some("disconnect") });
    }
}

/// Whether an answer leads elsewhere.
#[must_use]
pub fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
