//! One exchange with a server: a request, and its answer with a body that has limits.
//!
//! Invariants: headers that mean this connection and not the server's never pass, nor do those by which the gate itself is known; a body is cut, with an error that the browser sees,
//! at its limit of bytes and time.

use super::{Body, BodyError, Client, HEAD_MAX_BYTES, HEADERS_MAX, Refusal};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// Headers that concern one connection (RFC 9110, 7.6.1), and those of proxies.
const OF_CONNECTION: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authorization",
    "proxy-authenticate",
];

/// Takes away what concerns only the connection on which it came.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

/// A request for `http://...`, carried out.
pub(super) async fn plain(request: Request<Incoming>, client: &Arc<Client>) -> Result<Response<Body>, Refusal> {
    let deadline = Instant::now() + client.limits.exchange_max;
    let uri = request.uri().clone();
    let host = uri.host().ok_or_else(|| Refusal::Malformed("no host".into()))?;
    let stream = client.dial(host, uri.port_u16().unwrap_or(80)).await?;
    let mut sender = handshake(stream, deadline).await?;
    let request = to_server(request)?;
    exchange(&mut sender, request.map(|body| metered(body, client, deadline)), client, deadline).await
}

/// As a server wants it: the path only, the host as a header.
pub(super) fn to_server<B>(request: Request<B>) -> Result<Request<B>, Refusal> {
    let malformed = |_| Refusal::Malformed("the address".into());
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = parts.uri.authority() {
        // What the address says counts, whatever the header says: the server that is asked is the one that was judged.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        parts.headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| Refusal::Malformed("the host".into()))?);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse::<Uri>().map_err(malformed)?;
    parts.version = Version::HTTP_11;
    strip(&mut parts.headers);
    Ok(Request::from_parts(parts, body))
}

/// Begins HTTP with a server.
pub(super) async fn handshake(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    deadline: Instant,
) -> Result<SendRequest<Body>, Refusal> {
    let mut builder = Builder::new();
    builder.max_headers(HEADERS_MAX).max_buf_size(HEAD_MAX_BYTES).preserve_header_case(true);
    let (sender, connection) =
        builder.handshake(TokioIo::new(io)).await.map_err(|e| Refusal::Malformed(e.to_string()))?;
    // It ends when the sender and the body are gone.
    tokio::spawn(async move { drop(timeout_at(deadline, connection).await) });
    Ok(sender)
}

/// Sends a request and takes the answer's head; its body comes while it is read.
pub(super) async fn exchange(
    sender: &mut SendRequest<Body>,
    request: Request<Body>,
    client: &Arc<Client>,
    deadline: Instant,
) -> Result<Response<Body>, Refusal> {
    let until = deadline.min(Instant::now() + client.limits.head_max);
    let answered = timeout_at(until, sender.send_request(request)).await.map_err(|_| Refusal::TooLong)?;
    let mut response = answered.map_err(|e| {
        if e.is_parse() || e.is_incomplete_message() {
            Refusal::Malformed(e.to_string())
        } else {
            Refusal::NotConnected(e.to_string())
        }
    })?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::Malformed("the server speaks something else all of a sudden".into()));
    }
    strip(response.headers_mut());
    // What the gate says of an answer is not a site's to say.
    for name in [super::SAID, super::replay::FITS] {
        response.headers_mut().remove(name);
    }
    Ok(response.map(|body| metered(body, client, deadline)))
}

/// A body with limits.
pub(super) fn metered(body: Incoming, client: &Arc<Client>, deadline: Instant) -> Body {
    let left_bytes = client.limits.body_max_bytes;
    let metered = Metered { body, client: Arc::clone(client), left_bytes, end: Box::pin(sleep_until(deadline)) };
    metered.boxed_unsync()
}

struct Metered {
    body: Incoming,
    client: Arc<Client>,
    left_bytes: u64,
    end: Pin<Box<Sleep>>,
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let cut = |why: &str| Poll::Ready(Some(Err(BodyError(why.to_owned()))));
        if self.end.as_mut().poll(context).is_ready() {
            return cut("it took too long");
        }
        match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if self.left_bytes < length as u64 || !self.client.take(length) {
                    return cut("it has too many bytes");
                }
                self.left_bytes -= length as u64;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(e)) => Poll::Ready(Some(Err(BodyError(e.to_string())))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
