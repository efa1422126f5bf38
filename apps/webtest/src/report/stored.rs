//! A whole outcome in the store: JSON, compressed.
//!
//! ```text
//!   outcome ─► JSON ── too long? ─► without headers ─► with fewer requests ─► with fewer of everything ─► zstd ─► store
//! ```
//!
//! Every list and text of an outcome is bounded, but all of them full of what JSON writes as six bytes for one are more than is read
//! again: what is cut then is told in `cut`, and the verdict is never touched.
//!
//! Invariant: what [`put`] has stored, [`get`] reads.

use crate::model::{Observation, Outcome};
use crate::store::{Store, StoreError};
use std::io::{Read, Write};

/// An outcome may have so many bytes as JSON.
const JSON_MAX_BYTES: usize = 256 << 20;

/// So many requests, and lines of the console, are left of an outcome that is too long.
const FEWER: usize = 200;
/// So many of everything are left of one that still is.
const FEW: usize = 20;
/// So many bytes of one text are left then.
const SHORT_BYTES: usize = 256;

/// Stores an outcome.
///
/// # Errors
/// When the store fails.
pub fn put(store: &dyn Store, outcome: &Outcome) -> Result<String, StoreError> {
    let json = fitting(outcome, JSON_MAX_BYTES).map_err(|e| failed("store", "", &e))?;
    let packed = zstd::bulk::compress(&json, 3).map_err(|e| failed("store", "", &e))?;
    store.put(&packed)
}

/// Reads one.
///
/// # Errors
/// When the store fails, or it is not there, or is none.
pub fn get(store: &dyn Store, name: &str) -> Result<Outcome, StoreError> {
    let packed = store.get(name)?.ok_or_else(|| failed("read", name, &"it is not there"))?;
    let mut json = Vec::new();
    let reader = zstd::stream::read::Decoder::new(&packed[..]).map_err(|e| failed("read", name, &e))?;
    reader.take(JSON_MAX_BYTES as u64).read_to_end(&mut json).map_err(|e| failed("read", name, &e))?;
    serde_json::from_slice(&json).map_err(|e| failed("read", name, &e))
}

fn failed(what: &'static str, name: &str, e: &dyn std::fmt::Display) -> StoreError {
    StoreError { what, name: name.into(), place: "the store".into(), why: e.to_string() }
}

/// An outcome as JSON of at most `max_bytes`, with as little cut as that takes.
fn fitting(outcome: &Outcome, max_bytes: usize) -> Result<Vec<u8>, serde_json::Error> {
    if let Some(json) = json(outcome, max_bytes)? {
        return Ok(json);
    }
    let mut outcome = outcome.clone();
    let steps: [fn(&mut Observation) -> Vec<String>; 3] = [without_headers, with_fewer_requests, with_few];
    for step in steps {
        let cut = step(&mut outcome.seen);
        outcome.seen.cut.extend(cut.into_iter().map(|what| format!("too long to be kept: {what}")));
        if let Some(json) = json(&outcome, max_bytes)? {
            return Ok(json);
        }
    }
    // A verdict alone is small: its evidence is bounded in number, and by now in length.
    for text in outcome.verdict.reasons.iter_mut().flat_map(|reason| &mut reason.evidence) {
        shorten(text);
    }
    json(&outcome, max_bytes)?.ok_or_else(|| serde::ser::Error::custom("it is too long"))
}

/// As JSON, unless that is longer.
fn json(outcome: &Outcome, max_bytes: usize) -> Result<Option<Vec<u8>>, serde_json::Error> {
    struct Bounded {
        bytes: Vec<u8>,
        max_bytes: usize,
    }
    impl Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.bytes.len() + bytes.len() > self.max_bytes {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            self.bytes.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut out = Bounded { bytes: Vec::new(), max_bytes };
    match serde_json::to_writer(&mut out, outcome) {
        Ok(()) => Ok(Some(out.bytes)),
        Err(e) if e.is_io() => Ok(None),
        Err(e) => Err(e),
    }
}

fn without_headers(seen: &mut Observation) -> Vec<String> {
    let mut count = 0;
    for request in &mut seen.requests {
        count += request.request_headers.len() + request.response_headers.len();
        request.request_headers.clear();
        request.response_headers.clear();
    }
    told(&[(count, "headers")])
}

fn with_fewer_requests(seen: &mut Observation) -> Vec<String> {
    let requests = shorten_list(&mut seen.requests, FEWER);
    let console = shorten_list(&mut seen.console, FEWER);
    told(&[(requests, "requests"), (console, "lines of the console")])
}

fn with_few(seen: &mut Observation) -> Vec<String> {
    let counts = [
        (shorten_list(&mut seen.requests, FEW), "requests"),
        (shorten_list(&mut seen.console, FEW), "lines of the console"),
        (shorten_list(&mut seen.certificates, FEW), "certificates"),
        (shorten_list(&mut seen.cookies, FEW), "cookies"),
        (shorten_list(&mut seen.wrote, FEW), "changed files"),
        (shorten_list(&mut seen.ran, FEW), "programs"),
        (shorten_list(&mut seen.listened, FEW), "ports"),
        (shorten_list(&mut seen.foreign, FEW), "connections"),
        (shorten_list(&mut seen.odd, FEW), "connections of the proxy"),
        (shorten_list(&mut seen.findings, FEW), "findings"),
    ];
    for request in &mut seen.requests {
        for text in [&mut request.url, &mut request.method, &mut request.kind] {
            shorten(text);
        }
        let more = [&mut request.mime, &mut request.remote, &mut request.initiator, &mut request.error];
        more.into_iter().flatten().for_each(shorten);
    }
    seen.console.iter_mut().for_each(shorten);
    told(&counts)
}

/// Cuts a list; how many that took.
fn shorten_list<T>(list: &mut Vec<T>, max: usize) -> usize {
    let more = list.len().saturating_sub(max);
    list.truncate(max);
    more
}

fn shorten(text: &mut String) {
    let mut end = text.len().min(SHORT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

fn told(counts: &[(usize, &str)]) -> Vec<String> {
    counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what}: {count} more")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        CONSOLE_MAX, Certificate, Fights, Foreign, Kind, LIST_MAX, PATHS_MAX, REQUESTS_MAX, Ran, Reason, Request,
        TEXT_MAX_BYTES, Verdict, Wrote,
    };
    use crate::store::{S3Options, open};

    /// As much as a page can make of one, all of it characters that JSON writes as six bytes.
    fn largest() -> Outcome {
        let text = || "\u{1}".repeat(TEXT_MAX_BYTES);
        let some = || Some(text());
        let request = |n: usize| Request {
            id: n.to_string(),
            url: text(),
            method: text(),
            kind: text(),
            mime: some(),
            remote: some(),
            initiator: some(),
            error: some(),
            response_headers: [(format!("h{n}"), text())].into(),
            ..Request::default()
        };
        let foreign = || Foreign { protocol: text(), to: text(), program: some(), began: text() };
        let seen = Observation {
            requests: (0..REQUESTS_MAX).map(request).collect(),
            console: vec![text(); CONSOLE_MAX],
            certificates: vec![
                Certificate { host: text(), subject: text(), issuer: text(), ..Certificate::default() };
                LIST_MAX
            ],
            cookies: vec![(text(), text(), text()); LIST_MAX],
            wrote: vec![Wrote { path: text(), what: text(), persistent: false, by: some() }; PATHS_MAX],
            ran: vec![Ran { exe: text(), command: text(), parent: some(), events: vec![7; 10] }; LIST_MAX],
            listened: vec![text(); LIST_MAX],
            foreign: vec![foreign(); LIST_MAX],
            odd: vec![foreign(); LIST_MAX],
            findings: vec![(text(), text(), text()); LIST_MAX],
            fights: Fights::default(),
            title: text(),
            ..Observation::default()
        };
        let reason = Reason { rule: "r".into(), kind: Kind::Malicious, text: "t".into(), evidence: vec![text(); 20] };
        Outcome { verdict: Verdict { kind: Kind::Malicious, reasons: vec![reason] }, seen }
    }

    #[test]
    fn the_largest_outcome_that_a_page_can_make_is_read_again_and_says_what_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path().to_str().unwrap(), &S3Options::default()).unwrap();
        let outcome = largest();
        assert!(json(&outcome, JSON_MAX_BYTES).unwrap().is_none(), "this is not too long");
        let name = put(&*store, &outcome).unwrap();
        let read = get(&*store, &name).unwrap();
        assert_eq!(read.verdict, outcome.verdict);
        assert!(
            read.seen.cut.contains(&format!("too long to be kept: headers: {REQUESTS_MAX} more")),
            "{:?}",
            read.seen.cut
        );
        assert!(read.seen.requests.len() < REQUESTS_MAX && !read.seen.requests.is_empty());
    }

    #[test]
    fn no_more_is_cut_than_must_be() {
        let text = "\u{1}".repeat(100);
        let headers = (0..50).map(|n| (n.to_string(), text.clone())).collect();
        let seen = Observation {
            requests: vec![Request { response_headers: headers, ..Request::default() }; 300],
            console: vec![text; 10],
            ..Observation::default()
        };
        let outcome = Outcome { verdict: Verdict { kind: Kind::Clean, reasons: Vec::new() }, seen };
        let read = |max_bytes| serde_json::from_slice::<Outcome>(&fitting(&outcome, max_bytes).unwrap()).unwrap().seen;
        let whole = json(&outcome, usize::MAX).unwrap().unwrap().len();
        assert_eq!(read(whole), outcome.seen);
        let cut = read(whole - 1);
        assert_eq!((cut.requests.len(), cut.console.len()), (300, 10));
        assert_eq!(cut.cut, ["too long to be kept: headers: 15000 more"]);
        assert_eq!(read(60_000).requests.len(), FEWER);
        assert_eq!(read(20_000).requests.len(), FEW);
        assert!(fitting(&outcome, 10).is_err());
    }
}
