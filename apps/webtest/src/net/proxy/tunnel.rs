//! What a CONNECT leads to.
//!
//! ```text
//!   all              how what the browser sends begins is looked at, and told if no page makes a browser begin so ([`super::began`])
//!   live             bytes both ways
//!   record, replay   first byte 0x16: TLS ends here, then HTTP; else HTTP at once
//! ```
//!
//! Invariant: live, bytes are carried, and but for the first ones not looked into.

use super::began::Watched;
use super::record::{Record, Session, collected};
use super::replay::{Replay, url_of};
use super::{Body, Client, Refusal, Way, server};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use url::Url;

/// Bytes that are carried at once.
const BLOCK_BYTES: usize = 16 << 10;
/// How TLS begins: a handshake's record.
const TLS_BEGINS: u8 = 0x16;

/// A tunnel whose far end is there.
pub(super) struct Tunnel {
    host: String,
    port: u16,
    /// Nothing in a replay.
    server: Option<TcpStream>,
}

impl Tunnel {
    /// Connects its far end.
    pub async fn open(client: &Arc<Client>, host: &str, port: u16) -> Result<Self, Refusal> {
        let server = match &*client.way {
            Way::Live(_) | Way::Record(_) => Some(client.dial(host, port).await?),
            Way::Replay(replay) if replay.set.index.has_host(host, port) => None,
            Way::Replay(_) => return Err(Refusal::NotRecorded),
        };
        Ok(Self { host: host.to_owned(), port, server })
    }

    /// Carries bytes, or answers, until the browser has ended or may not go on.
    pub async fn run(self, browser: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, client: &Arc<Client>) {
        let until = client.limits.tunnel_max;
        let browser = Watched::new(browser, client, &self.host, self.port);
        let run = async {
            match (&*client.way, self.server) {
                (Way::Live(_), Some(server)) => carry_both(browser, server, client).await,
                (Way::Record(record), Some(server)) => {
                    let inside = Inside { host: &self.host, port: self.port, client };
                    if let Err(refusal) = inside.record(record, server, browser).await {
                        // Its answer has been given already; what is left is to tell.
                        drop(client.refuse(&self.host, self.port, &refusal));
                    }
                }
                (Way::Replay(replay), None) => {
                    let inside = Inside { host: &self.host, port: self.port, client };
                    drop(inside.replay(replay, browser).await);
                }
                _ => {}
            }
        };
        // It ends by itself, or with the plug, or now.
        drop(timeout(until, run).await);
    }
}

async fn carry_both(browser: impl AsyncRead + AsyncWrite + Unpin, server: TcpStream, client: &Client) {
    let (mut from_browser, mut to_browser) = tokio::io::split(browser);
    let (mut from_server, mut to_server) = server.into_split();
    let out = carry(&mut from_browser, &mut to_server, client);
    let back = carry(&mut from_server, &mut to_browser, client);
    super::names::both(out, back).await;
}

/// One direction; the end of it is passed on.
async fn carry(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), client: &Client) {
    let mut block = vec![0u8; BLOCK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut block).await {
        if !client.take(length) || to.write_all(&block[..length]).await.is_err() {
            break;
        }
    }
    drop(to.shutdown().await);
}

/// The inside of a tunnel that is looked into.
struct Inside<'a> {
    host: &'a str,
    port: u16,
    client: &'a Arc<Client>,
}

impl Inside<'_> {
    /// The address of the server for which the tunnel is.
    fn base(&self, is_tls: bool) -> Result<Url, Refusal> {
        let scheme = if is_tls { "https" } else { "http" };
        let text = format!("{scheme}://{}:{}/", self.host, self.port);
        Url::parse(&text).map_err(|e| Refusal::Malformed(e.to_string()))
    }

    /// Waits for the browser's first byte.
    async fn begin<S: AsyncRead + AsyncWrite + Unpin>(&self, mut browser: S) -> Result<(Begun<S>, bool), Refusal> {
        let first = timeout(self.client.limits.head_max, browser.read_u8()).await;
        let first = first.map_err(|_| Refusal::TooLong)?.map_err(|e| Refusal::NotConnected(e.to_string()))?;
        Ok((Begun { first: Some(first), inner: browser }, first == TLS_BEGINS))
    }

    async fn record<S>(&self, record: &Record, upstream: TcpStream, browser: S) -> Result<(), Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.client.limits;
        let end = Instant::now() + limits.tunnel_max;
        let (browser, is_tls) = self.begin(browser).await?;
        let base = self.base(is_tls)?;
        let session = record.session(upstream, self.host, self.port, is_tls, self.client, end).await?;
        let is_good = session.wrong.is_none();
        let kept = Mutex::new(Some(session));
        let (base, kept) = (&base, &kept);
        let service = service_fn(move |request: Request<Incoming>| async move {
            let answered = self.recorded(record, request, base, kept, is_tls).await;
            Ok::<Response<Body>, Infallible>(
                answered.unwrap_or_else(|refusal| self.client.refuse(self.host, self.port, &refusal)),
            )
        });
        if is_tls {
            let browser = timeout(limits.head_max, record.authority.accept(browser, self.host, is_good)).await;
            let browser = browser.map_err(|_| Refusal::TooLong)??;
            drop(server(limits).serve_connection(TokioIo::new(browser), service).await);
        } else {
            drop(server(limits).serve_connection(TokioIo::new(browser), service).await);
        }
        Ok(())
    }

    /// An exchange on the tunnel's connection, or on a new one when the server has ended that.
    async fn recorded(
        &self,
        record: &Record,
        request: Request<Incoming>,
        base: &Url,
        kept: &Mutex<Option<Session>>,
        is_tls: bool,
    ) -> Result<Response<Body>, Refusal> {
        let url = url_of(&request, Some(base))?;
        let request = collected(request, self.client).await?;
        let deadline = Instant::now() + self.client.limits.exchange_max;
        let mut kept = kept.lock().await;
        let mut session = match kept.take() {
            Some(session) if session.is_open() => session,
            _ => {
                let stream = self.client.dial(self.host, self.port).await?;
                let end = Instant::now() + self.client.limits.tunnel_max;
                record.session(stream, self.host, self.port, is_tls, self.client, end).await?
            }
        };
        let answered = record.on(&mut session, request, &url, self.client, deadline).await;
        if answered.is_ok() {
            *kept = Some(session);
        }
        answered
    }

    async fn replay<S>(&self, replay: &Replay, browser: S) -> Result<(), Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.client.limits;
        let (browser, is_tls) = self.begin(browser).await?;
        let base = self.base(is_tls)?;
        let base = &base;
        let service = service_fn(move |request: Request<Incoming>| async move {
            let answered = replay.answer(request, Some(base), self.client).await;
            Ok::<Response<Body>, Infallible>(
                answered.unwrap_or_else(|refusal| self.client.refuse(self.host, self.port, &refusal)),
            )
        });
        if is_tls {
            let is_good = replay.set.index.wrong_certificate(self.host, self.port).is_none();
            let browser = timeout(limits.head_max, replay.authority.accept(browser, self.host, is_good)).await;
            let browser = browser.map_err(|_| Refusal::TooLong)??;
            drop(server(limits).serve_connection(TokioIo::new(browser), service).await);
        } else {
            drop(server(limits).serve_connection(TokioIo::new(browser), service).await);
        }
        Ok(())
    }
}

/// A stream of which the first byte was read.
struct Begun<S> {
    first: Option<u8>,
    inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if buffer.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buffer.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
