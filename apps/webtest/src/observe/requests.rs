//! The requests of a page, put together from the browser's events.
//!
//! ```text
//!   requestWillBeSent ─ redirectResponse? ends the one before ─► responseReceived ─► loadingFinished | loadingFailed
//!                                                                  └ securityDetails ─► certificates, by host
//! ```
//!
//! Invariant: at most [`REQUESTS_MAX`] are kept; of those beyond nothing is remembered but their number.

use super::{Cut, bounded, put};
use crate::model::{Certificate, LIST_MAX, REQUESTS_MAX, Request};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use url::Url;

/// So many headers of one message are kept.
const HEADERS_MAX: usize = 100;
/// And so many bytes of all headers of a visit.
const HEADERS_MAX_BYTES: usize = 16 << 20;

/// The requests.
#[derive(Debug, Default)]
pub struct Requests {
    list: Vec<Request>,
    /// Where the last one of an id stands.
    at: HashMap<String, usize>,
    certificates: BTreeMap<String, Certificate>,
    /// The browser's clock when the first began.
    zero_s: Option<f64>,
    /// Bytes of headers that are kept.
    header_bytes: usize,
    /// How many asked for a name and password.
    pub logins: u32,
}

/// A text of a message.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_default()
}

/// A count that the browser says: never less than none.
fn count(value: &Value, path: &str) -> u64 {
    // Saturates.
    number(value, path) as u64
}

/// Headers, as long as there is room in `taken`.
fn headers(value: Option<&Value>, taken: &mut usize, cut: &mut Cut) -> BTreeMap<String, String> {
    let Some(Value::Object(fields)) = value else { return BTreeMap::new() };
    let mut kept = BTreeMap::new();
    for (key, value) in fields.iter().filter_map(|(key, value)| Some((bounded(key), bounded(value.as_str()?)))) {
        let bytes = key.len() + value.len();
        if kept.len() >= HEADERS_MAX || *taken + bytes > HEADERS_MAX_BYTES {
            cut.one("headers");
        } else {
            *taken += bytes;
            kept.insert(key, value);
        }
    }
    kept
}

fn host(url: &str) -> String {
    Url::parse(url).ok().and_then(|url| url.host_str().map(bounded)).unwrap_or_default()
}

impl Requests {
    /// Takes an event of the network in; others are nothing to it.
    pub fn see(&mut self, session: Option<&str>, method: &str, params: &Value, cut: &mut Cut) {
        let key = format!("{} {}", session.unwrap_or_default(), text(params, "/requestId"));
        match method {
            "Network.requestWillBeSent" => self.sent(key, params, cut),
            "Network.webSocketCreated" => {
                let now_ms = self.zero_s.map_or(0.0, |_| self.list.last().map_or(0.0, |last| last.began_ms));
                let request = Request {
                    id: bounded(text(params, "/requestId")),
                    url: bounded(text(params, "/url")),
                    method: "GET".into(),
                    kind: "WebSocket".into(),
                    began_ms: now_ms,
                    ..Request::default()
                };
                self.add(key, request, cut);
            }
            "Network.responseReceived" => self.answered(&key, params, "/response", cut),
            "Network.webSocketHandshakeResponseReceived" => self.answered(&key, params, "/response", cut),
            "Network.loadingFinished" => {
                let bytes = count(params, "/encodedDataLength");
                self.ended(&key, params, |request| request.bytes = bytes);
            }
            "Network.loadingFailed" => {
                let why = bounded(text(params, "/errorText"));
                if why.contains("ERR_CERT") || why.contains("ERR_SSL") {
                    let host = self.at.get(&key).map(|at| host(&self.list[*at].url)).unwrap_or_default();
                    let error = Some(why.clone());
                    self.certificate(Certificate { host, error, ..Certificate::default() }, cut);
                }
                self.ended(&key, params, |request| request.error = Some(why));
            }
            _ => {}
        }
    }

    fn since_zero_ms(&mut self, params: &Value) -> f64 {
        let now_s = number(params, "/timestamp");
        let zero_s = *self.zero_s.get_or_insert(now_s);
        ((now_s - zero_s) * 1000.0).clamp(0.0, 1e12)
    }

    fn sent(&mut self, key: String, params: &Value, cut: &mut Cut) {
        let began_ms = self.since_zero_ms(params);
        if params.get("redirectResponse").is_some() {
            self.answered(&key, params, "/redirectResponse", cut);
            self.ended(&key, params, |_| ());
        }
        let initiator = [text(params, "/initiator/url"), text(params, "/initiator/stack/callFrames/0/url")];
        let request = Request {
            id: bounded(text(params, "/requestId")),
            url: bounded(text(params, "/request/url")),
            method: bounded(text(params, "/request/method")),
            kind: bounded(text(params, "/type")),
            began_ms,
            request_headers: headers(params.pointer("/request/headers"), &mut self.header_bytes, cut),
            initiator: initiator.into_iter().find(|url| !url.is_empty()).map(bounded),
            ..Request::default()
        };
        self.add(key, request, cut);
    }

    fn add(&mut self, key: String, request: Request, cut: &mut Cut) {
        let at = self.list.len();
        put(&mut self.list, REQUESTS_MAX, request, cut, "requests");
        if self.list.len() > at {
            self.at.insert(key, at);
        } else {
            self.at.remove(&key);
        }
    }

    fn answered(&mut self, key: &str, params: &Value, at: &str, cut: &mut Cut) {
        let Some(response) = params.pointer(at) else { return };
        let status = u16::try_from(count(response, "/status")).ok();
        self.logins += u32::from(matches!(status, Some(401 | 407)));
        if let Some(details) = response.get("securityDetails") {
            let seconds = |path: &str| number(details, path) as i64;
            self.certificate(
                Certificate {
                    host: host(text(response, "/url")),
                    subject: bounded(text(details, "/subjectName")),
                    issuer: bounded(text(details, "/issuer")),
                    from: seconds("/validFrom"),
                    until: seconds("/validTo"),
                    error: None,
                },
                cut,
            );
        }
        let Some(request) = self.at.get(key).and_then(|at| self.list.get_mut(*at)) else { return };
        request.status = status;
        request.mime = Some(bounded(text(response, "/mimeType"))).filter(|mime| !mime.is_empty());
        request.response_headers = headers(response.get("headers"), &mut self.header_bytes, cut);
        let (address, port) = (text(response, "/remoteIPAddress"), count(response, "/remotePort"));
        request.remote = (!address.is_empty()).then(|| bounded(&format!("{address}:{port}")));
    }

    fn ended(&mut self, key: &str, params: &Value, with: impl FnOnce(&mut Request)) {
        let now_ms = self.since_zero_ms(params);
        let Some(request) = self.at.remove(key).and_then(|at| self.list.get_mut(at)) else { return };
        request.took_ms = Some((now_ms - request.began_ms).max(0.0));
        with(request);
    }

    fn certificate(&mut self, shown: Certificate, cut: &mut Cut) {
        if self.certificates.contains_key(&shown.host) {
            // The first stays; what was said against a later one is kept.
            if let (Some(first), Some(error)) = (self.certificates.get_mut(&shown.host), shown.error) {
                first.error.get_or_insert(error);
            }
        } else if self.certificates.len() < LIST_MAX {
            self.certificates.insert(shown.host.clone(), shown);
        } else {
            cut.one("certificates");
        }
    }

    /// What was seen: requests, certificates.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Request>, Vec<Certificate>) {
        (self.list, self.certificates.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn see(events: &[(&str, Value)]) -> (Vec<Request>, Vec<Certificate>, Vec<String>) {
        let (mut requests, mut cut) = (Requests::default(), Cut::default());
        for (method, params) in events {
            requests.see(Some("S"), method, params, &mut cut);
        }
        let (list, certificates) = requests.into_parts();
        (list, certificates, cut.words())
    }

    fn sent(id: &str, url: &str, at: f64) -> (&'static str, Value) {
        let params = json!({"requestId": id, "timestamp": at, "type": "Document", "request": {"url": url, "method": "GET",
            "headers": {"A": "b", "C": 1}}, "initiator": {"type": "script", "stack": {"callFrames": [{"url": "https://s/"}]}}});
        ("Network.requestWillBeSent", params)
    }

    #[test]
    fn a_redirected_request_becomes_two() {
        let (_, mut second) = sent("1", "https://b/", 2.5);
        second["redirectResponse"] = json!({"url": "https://a/", "status": 302, "headers": {"Location": "https://b/"}});
        let response = json!({"requestId": "1", "timestamp": 2.7, "response": {"url": "https://b/", "status": 200, "mimeType": "text/html",
            "remoteIPAddress": "127.0.0.1", "remotePort": 3128, "securityDetails": {"subjectName": "b", "issuer": "Ca", "validFrom": 1, "validTo": 2}}});
        let (list, certificates, _) = see(&[
            sent("1", "https://a/", 2.0),
            ("Network.requestWillBeSent", second),
            ("Network.responseReceived", response),
            ("Network.loadingFinished", json!({"requestId": "1", "timestamp": 3.0, "encodedDataLength": 77})),
        ]);
        let brief: Vec<_> = list.iter().map(|r| (r.url.as_str(), r.status, r.began_ms, r.took_ms, r.bytes)).collect();
        let want = [("https://a/", Some(302), 0.0, Some(500.0), 0), ("https://b/", Some(200), 500.0, Some(500.0), 77)];
        assert_eq!(brief, want);
        assert_eq!(list[1].initiator.as_deref(), Some("https://s/"));
        assert_eq!(list[1].remote.as_deref(), Some("127.0.0.1:3128"));
        assert_eq!(list[0].request_headers, BTreeMap::from([("A".into(), "b".into())]));
        assert_eq!((certificates[0].host.as_str(), certificates[0].until), ("b", 2));
    }

    #[test]
    fn a_failure_keeps_its_words_and_a_bad_certificate_its_host() {
        let (list, certificates, _) = see(&[
            sent("1", "https://a:8443/x", 2.0),
            (
                "Network.loadingFailed",
                json!({"requestId": "1", "timestamp": 2.1, "errorText": "net::ERR_CERT_DATE_INVALID"}),
            ),
            ("Network.loadingFailed", json!({"requestId": "unknown", "errorText": "net::ERR_FAILED"})),
        ]);
        assert_eq!(list[0].error.as_deref(), Some("net::ERR_CERT_DATE_INVALID"));
        assert_eq!((certificates[0].host.as_str(), certificates[0].error.is_some()), ("a", true));
    }

    #[test]
    fn no_more_than_so_many_are_kept_and_odd_messages_are_nothing() {
        let mut events: Vec<_> = (0..REQUESTS_MAX + 3).map(|n| sent(&n.to_string(), "https://a/", 1.0)).collect();
        events.push(("Network.loadingFinished", json!({"requestId": (REQUESTS_MAX + 1).to_string()})));
        events.extend([
            ("Network.responseReceived", json!(null)),
            ("Network.responseReceived", json!({"requestId": "1", "response": {"status": -5, "headers": []}})),
            ("Network.loadingFinished", json!({"requestId": "1", "timestamp": -1e300, "encodedDataLength": -7})),
        ]);
        let (list, _, cut) = see(&events);
        assert_eq!((list.len(), cut), (REQUESTS_MAX, vec!["requests: 3 more".to_owned()]));
        assert_eq!((list[1].status, list[1].took_ms, list[1].bytes), (Some(0), Some(0.0), 0));
    }
}
