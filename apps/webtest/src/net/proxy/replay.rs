//! Answers out of a WARC set, and nothing else: nothing here can reach the net.

use super::record::collected;
use super::tls::Authority;
use super::{Body, Client, Refusal, full};
use crate::net::warc::index::Fit;
use crate::net::warc::read::Set;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::sync::Arc;
use tokio::sync::Semaphore;
use url::Url;

/// The header of an answer that was recorded for another address: its value is `like`.
pub const FITS: &str = "fvm-replay";

/// A WARC set in place of the net.
#[derive(Debug)]
pub struct Replay {
    /// The set.
    pub set: Set,
    /// What browsers are shown.
    pub authority: Authority,
    /// Large answers that may lie in memory at once, of all VMs.
    large: Arc<Semaphore>,
}

/// So many of them.
const LARGE_MAX: usize = 32;
/// What counts as large.
const LARGE_BYTES: usize = 1 << 20;

impl Replay {
    /// Of a set.
    #[must_use]
    pub fn new(set: Set, authority: Authority) -> Self {
        Self { set, authority, large: Arc::new(Semaphore::new(LARGE_MAX)) }
    }

    /// The answer to a request; `base`: whose server the proxy is for, if it is one.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        base: Option<&Url>,
        client: &Arc<Client>,
    ) -> Result<Response<Body>, Refusal> {
        let url = url_of(&request, base)?;
        let request = collected(request, client).await?;
        let method = request.method().clone();
        let permit = Arc::clone(&self.large).acquire_owned().await.map_err(|_| Refusal::TooMuch)?;
        // A file is read: others go on meanwhile.
        let found = tokio::task::block_in_place(|| self.set.answer(method.as_str(), &url, request.body()));
        let answer = found.map_err(|e| Refusal::Malformed(e.to_string()))?.ok_or(Refusal::NotRecorded)?;
        if !client.take(answer.body.len()) {
            return Err(Refusal::TooMuch);
        }
        let status = StatusCode::from_u16(answer.head.status).map_err(|e| Refusal::Malformed(e.to_string()))?;
        let is_bare = method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let body = if is_bare { Vec::new() } else { answer.body };
        let permit = (body.len() > LARGE_BYTES).then_some(permit);
        // It goes with the body.
        let body = full(body).map_frame(move |frame| {
            let _held = &permit;
            frame
        });
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in &answer.head.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        super::forward::strip(headers);
        // The body is as long as it is.
        if method != Method::HEAD {
            headers.remove(CONTENT_LENGTH);
        }
        headers.remove(super::SAID);
        headers.remove(FITS);
        if answer.fit == Fit::Like {
            headers.insert(FITS, HeaderValue::from_static("like"));
        }
        Ok(response)
    }
}

/// The address that a request means.
pub(super) fn url_of<B>(request: &Request<B>, base: Option<&Url>) -> Result<Url, Refusal> {
    let malformed = |e: url::ParseError| Refusal::Malformed(e.to_string());
    match base {
        None => Url::parse(&request.uri().to_string()).map_err(malformed),
        Some(base) => {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            // Not `join`: a path that begins with two slashes would name another host.
            let mut url = base.clone();
            let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
            url.set_path(path);
            url.set_query(query);
            Ok(url)
        }
    }
}
