//! One address, fetched through the recording: a page, a part, a server's rules, a sitemap.
//!
//! Invariants: what is read is bounded, also after the coding of its content is taken away; an error is an outcome.

use super::frontier::Todo;
use super::links::{self, Link, Use};
use super::log::{Done, Map};
use super::robots::{self, Rules};
use super::scope::Scope;
use crate::net::proxy::record::is_redirect;
use crate::net::proxy::{Body, Client, Refusal, Way};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HOST, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Request, Response};
use std::borrow::Cow;
use std::io::Read as _;
use std::sync::Arc;
use url::Url;

/// What a sitemap names; of one that is not there, nothing. `None`: nobody said, and it is to be asked for another time.
pub(super) async fn sitemap(client: &Arc<Client>, map: &Url, scope: &Scope) -> Option<Map> {
    let mut read = Map { map: map.clone(), links: Vec::new(), maps: Vec::new() };
    let response = get(client, map, &scope.user_agent).await.ok()?;
    if response.status().is_server_error() {
        return None;
    }
    if response.status().is_success() {
        let (head, body) = response.into_parts();
        let (bytes, _) = collect(body, scope.page_max_bytes).await;
        let text = decoded(&head.headers, map, &bytes, scope.page_max_bytes);
        let (found, is_index) = links::of_sitemap(&text.bytes, map);
        *(if is_index { &mut read.maps } else { &mut read.links }) = found;
    }
    Some(read)
}

/// What a server lets us fetch.
pub(super) async fn rules(client: &Arc<Client>, origin: &str, agent: &str) -> Rules {
    let mut at = match Url::parse(&format!("{origin}/robots.txt")) {
        Ok(url) => url,
        Err(e) => return Rules::silent(e.to_string()),
    };
    for _ in 0..5 {
        let (head, body) = match get(client, &at, agent).await {
            Ok(response) => response.into_parts(),
            Err(refusal) => return Rules::silent(refusal.to_string()),
        };
        if is_redirect(head.status)
            && let Some(to) = head.headers.get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| at.join(to).ok())
        {
            at = to;
            continue;
        }
        let (bytes, _) = collect(body, robots::ROBOTS_MAX_BYTES as u64).await;
        let text = decoded(&head.headers, &at, &bytes, robots::ROBOTS_MAX_BYTES as u64);
        return Rules::read(agent, head.status.as_u16(), &text.bytes);
    }
    // Sent on for ever is as if it were not there (RFC 9309, 2.3.1.2).
    Rules::read(agent, 404, b"")
}

async fn get(client: &Arc<Client>, url: &Url, agent: &str) -> Result<Response<Body>, Refusal> {
    let Way::Record(record) = &*client.way else { return Err(Refusal::NotSupported("crawling without recording")) };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::NotSupported("this scheme"));
    }
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = Request::builder()
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, agent)
        .header(ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")
        .header(ACCEPT_ENCODING, "gzip")
        .body(Bytes::new())
        .map_err(|e| Refusal::Malformed(e.to_string()))?;
    record.fetch(request, url, client).await
}

/// Reads a body up to a limit; why it is not whole.
async fn collect(mut body: Body, max_bytes: u64) -> (Vec<u8>, Option<String>) {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    if (bytes.len() + data.len()) as u64 > max_bytes {
                        return (bytes, Some("it has more bytes than are wanted".into()));
                    }
                    bytes.extend(data);
                }
            }
            Err(e) => return (bytes, Some(e.to_string())),
        }
    }
    (bytes, None)
}

/// A body without the coding of its content.
struct Decoded<'a> {
    bytes: Cow<'a, [u8]>,
    /// There is more of it than is wanted.
    is_cut: bool,
}

/// Without the coding of the content; cut at a limit.
fn decoded<'a>(headers: &HeaderMap, url: &Url, bytes: &'a [u8], max_bytes: u64) -> Decoded<'a> {
    let coding = headers.get("content-encoding").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Sitemaps are often files that are compressed.
    let is_file = url.path().ends_with(".gz") && bytes.starts_with(&[0x1F, 0x8B]);
    if !is_file && !coding.eq_ignore_ascii_case("gzip") && !coding.eq_ignore_ascii_case("x-gzip") {
        return Decoded { bytes: bytes.into(), is_cut: false };
    }
    let mut out = Vec::new();
    // What could be read counts.
    drop(MultiGzDecoder::new(bytes).take(max_bytes.saturating_add(1)).read_to_end(&mut out));
    let is_cut = out.len() as u64 > max_bytes;
    out.truncate(usize::try_from(max_bytes).unwrap_or(usize::MAX));
    Decoded { bytes: out.into(), is_cut }
}

/// What is said of something before it is fetched.
pub(super) fn unfetched(todo: &Todo) -> Done {
    Done {
        done: todo.link.url.clone(),
        depth: todo.depth,
        page: todo.link.used == Use::Page,
        status: None,
        bytes: 0,
        unpacked: 0,
        error: None,
        links: Vec::new(),
        parts: Vec::new(),
    }
}

/// Fetches something: what came of it, and what it leads to.
pub(super) async fn fetch(client: &Arc<Client>, todo: &Todo, scope: &Scope) -> (Done, Vec<Link>) {
    let url = &todo.link.url;
    let mut done = unfetched(todo);
    let response = match get(client, url, &scope.user_agent).await {
        Ok(response) => response,
        Err(refusal) => {
            done.error = Some(refusal.to_string());
            return (done, Vec::new());
        }
    };
    let (head, body) = response.into_parts();
    done.status = Some(head.status.as_u16());
    let mime = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mime = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let mut found = Vec::new();
    if is_redirect(head.status)
        && let Some(to) = head.headers.get(LOCATION).and_then(|to| to.to_str().ok())
        && let Ok(mut to) = url.join(to)
        && to.as_str().len() <= links::URL_MAX_BYTES
        && matches!(to.scheme(), "http" | "https")
    {
        to.set_fragment(None);
        found.push(Link { url: to, used: todo.link.used });
    }
    if done.page && !scope.wants(&mime) {
        done.error = Some(format!("its type '{mime}' is not wanted"));
    } else {
        let (bytes, error) = collect(body, scope.page_max_bytes).await;
        (done.bytes, done.error) = (bytes.len() as u64, error);
        // A part that is a page, in a frame, has parts and leads nowhere.
        let mut text = || {
            let text = decoded(&head.headers, url, &bytes, scope.page_max_bytes);
            done.unpacked = text.bytes.len() as u64;
            if text.is_cut && done.error.is_none() {
                done.error = Some("it has more bytes than are wanted, once it is unpacked".into());
            }
            text.bytes
        };
        match mime.as_str() {
            "text/html" | "application/xhtml+xml" => {
                let text = text();
                let keep = |link: &Link| done.page || link.used == Use::Part;
                found.extend(links::of_html(&text, url).into_iter().filter(keep));
            }
            "text/css" => found.extend(links::of_css(&String::from_utf8_lossy(&text()), url)),
            _ => {}
        }
    }
    for link in &found {
        if link.used == Use::Page { &mut done.links } else { &mut done.parts }.push(link.url.clone());
    }
    (done, found)
}
