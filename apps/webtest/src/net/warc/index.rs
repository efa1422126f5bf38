//! The index of a WARC set: CDXJ lines, as others' replay tools read them once they are sorted.
//!
//! ```text
//!   com,example)/path?q=1 20261128201500 {"url":"...","status":"200","filename":"...","offset":"0","length":"812",...}
//! ```
//!
//! [`Index`] finds the answer to a request:
//!
//! 1. the same method, address and body;
//! 2. the same method and address;
//! 3. the same method, scheme, host and path: of several, the one whose query has most parameters in common, the newest of equals;
//! 4. 1 to 3 with the other of `http` and `https`;
//! 5. for HEAD: as GET, without the body.
//!
//! Of equals a whole answer is preferred to a cut one, and then the newest.
//!
//! Invariants: pure; a name in a line that is not a plain file name is no line; what was found by 3 to 5 says so.

use super::ENTRIES_MAX;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use url::Url;

/// A line may be so long.
pub const LINE_MAX_BYTES: usize = 64 << 10;

/// One answer of a set, or what was seen of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Entry {
    /// The address.
    pub url: String,
    /// Type of content.
    pub mime: String,
    /// Status, as text.
    pub status: String,
    /// Digest of the body.
    pub digest: String,
    /// File in the set's directory.
    pub filename: String,
    /// Where the record begins, as text.
    pub offset: String,
    /// Its length in the file, as text.
    pub length: String,
    /// The method, unless it is GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Digest of the request's body, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Why it is not whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<String>,
    /// Of a certificate: what is wrong with it, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// When, as 14 digits.
    #[serde(skip)]
    pub date: String,
}

impl Entry {
    /// As a line, with its end.
    #[must_use]
    pub fn line(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{} {} {json}\n", surt(&self.url), self.date)
    }

    /// A line, read.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let (_, date, json) = (words.next()?, words.next()?, words.next()?);
        let entry: Self = serde_json::from_str(json).ok()?;
        let is_name = !entry.filename.is_empty()
            && !entry.filename.starts_with('.')
            && entry.filename.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let is_date = date.len() == 14 && date.bytes().all(|b| b.is_ascii_digit());
        (is_name && is_date && entry.place().is_some()).then(|| Self { date: date.to_owned(), ..entry })
    }

    /// Offset and length in the file.
    #[must_use]
    pub fn place(&self) -> Option<(u64, u64)> {
        let (offset, length) = (self.offset.parse::<u64>().ok()?, self.length.parse::<u64>().ok()?);
        offset.checked_add(length).map(|_| (offset, length))
    }

    fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("GET")
    }
}

/// A date of WARC as 14 digits.
#[must_use]
pub fn digits(date: &str) -> String {
    let mut digits: String = date.chars().filter(char::is_ascii_digit).take(14).collect();
    while digits.len() < 14 {
        digits.push('0');
    }
    digits
}

/// The key by which lines are sorted: the host from its end, then the path, in lower case.
fn surt(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return "-".into() };
    let host = url.host_str().unwrap_or_default().to_owned();
    let host = if host.parse::<std::net::Ipv4Addr>().is_ok() || host.starts_with('[') {
        host
    } else {
        host.rsplit('.').collect::<Vec<_>>().join(",")
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{host}{port}){}{query}", url.path()).to_ascii_lowercase().replace(' ', "%20")
}

/// How an answer fits a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is the answer to this request.
    Exact,
    /// It is the answer to one like it.
    Like,
}

/// Finds answers.
#[derive(Debug, Default)]
pub struct Index {
    entries: Vec<Entry>,
    exact: HashMap<String, Vec<u32>>,
    like: HashMap<String, Vec<u32>>,
    /// Host and port → what is wrong with its certificate.
    certificates: HashMap<String, String>,
    hosts: std::collections::HashSet<String>,
}

/// An address as it is compared: without fragment, name and password.
fn plain(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_fragment(None);
    // Schemes that cannot have them have none.
    let _has_none = (url.set_username(""), url.set_password(None));
    url
}

fn at(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0))
}

impl Index {
    /// Adds an answer, newer than those before. Whether there was room.
    pub fn add(&mut self, entry: Entry) -> bool {
        let (Ok(url), true) = (Url::parse(&entry.url), self.entries.len() < ENTRIES_MAX) else { return false };
        if let Some(wrong) = &entry.certificate {
            if wrong.is_empty() {
                self.certificates.remove(&at(&url));
            } else {
                self.certificates.insert(at(&url), wrong.clone());
            }
            return true;
        }
        let Ok(n) = u32::try_from(self.entries.len()) else { return false };
        let url = plain(&url);
        self.hosts.insert(at(&url));
        self.exact.entry(format!("{} {url}", entry.method())).or_default().push(n);
        let mut path = url;
        path.set_query(None);
        self.like.entry(format!("{} {path}", entry.method())).or_default().push(n);
        self.entries.push(entry);
        true
    }

    /// How many answers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All answers, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether anything of a host and port is there.
    #[must_use]
    pub fn has_host(&self, host: &str, port: u16) -> bool {
        self.hosts.contains(&format!("{host}:{port}"))
    }

    /// What was wrong with the certificate of a host and port when it was recorded.
    #[must_use]
    pub fn wrong_certificate(&self, host: &str, port: u16) -> Option<&str> {
        self.certificates.get(&format!("{host}:{port}")).map(String::as_str)
    }

    /// The answer to a request, by the rules above. `body`: the digest of its body, if it has one.
    #[must_use]
    pub fn find(&self, method: &str, url: &Url, body: Option<&str>) -> Option<(&Entry, Fit)> {
        let url = plain(url);
        let mut other = url.clone();
        let swapped = match url.scheme() {
            "http" => "https",
            _ => "http",
        };
        // The ports of the two are each other's too.
        let has_other = url.port().is_none() && other.set_scheme(swapped).is_ok();
        let get = (method == "HEAD").then_some("GET");
        for (n, method) in std::iter::once(method).chain(get).enumerate() {
            if let Some((entry, fit)) = self.of(method, &url, body) {
                return Some((entry, if n == 0 { fit } else { Fit::Like }));
            }
            if let Some((entry, _)) = has_other.then(|| self.of(method, &other, body)).flatten() {
                return Some((entry, Fit::Like));
            }
        }
        None
    }

    fn of(&self, method: &str, url: &Url, body: Option<&str>) -> Option<(&Entry, Fit)> {
        let entry = |n: &u32| self.entries.get(*n as usize);
        if let Some(all) = self.exact.get(&format!("{method} {url}")) {
            let rank = |e: &&Entry| (e.body.as_deref() == body, e.truncated.is_none());
            // The last of the best.
            return all.iter().filter_map(entry).max_by_key(rank).map(|e| (e, Fit::Exact));
        }
        let mut path = url.clone();
        path.set_query(None);
        let wanted: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let rank = |e: &&Entry| {
            let has = Url::parse(&e.url).ok().map_or(0, |its| {
                its.query_pairs().filter(|(k, v)| wanted.iter().any(|(wk, wv)| wk == k && wv == v)).count()
            });
            (has, e.truncated.is_none())
        };
        // Of very many the newest are looked at.
        const LOOKED_AT: usize = 1_000;
        let all = self.like.get(&format!("{method} {path}"))?;
        all[all.len().saturating_sub(LOOKED_AT)..].iter().filter_map(entry).max_by_key(rank).map(|e| (e, Fit::Like))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(url: &str, offset: u32) -> Entry {
        Entry {
            url: url.into(),
            status: "200".into(),
            filename: "a.warc.gz".into(),
            offset: offset.to_string(),
            length: "9".into(),
            date: "20261128201500".into(),
            ..Entry::default()
        }
    }

    fn found(index: &Index, method: &str, url: &str) -> Option<(String, Fit)> {
        let found = index.find(method, &Url::parse(url).unwrap(), None);
        found.map(|(entry, fit)| (entry.offset.clone(), fit))
    }

    #[test]
    fn lines_are_read_as_written_and_name_no_other_place() {
        let one = entry("https://www.Example.com:8443/A b?q", 5);
        let line = one.line();
        assert!(line.starts_with("com,example,www:8443)/a%20b?q 20261128201500 {\"url\":"), "{line}");
        assert_eq!(Entry::read(line.trim_end()), Some(one.clone()));
        for name in ["../x", "/etc/passwd", "", ".x", "a/b", "a b"] {
            let bad = Entry { filename: name.into(), ..one.clone() };
            assert_eq!(Entry::read(bad.line().trim_end()), None, "{name}");
        }
        for bad in
            ["", "a b", "a 20261128201500 {", "a 2026 {}", "a 20261128201500 {\"filename\":\"a\",\"offset\":\"x\"}"]
        {
            assert_eq!(Entry::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn requests_find_their_answers_and_then_those_like_them() {
        let mut index = Index::default();
        for (n, url) in
            ["http://a.test/", "http://a.test/x?a=1&b=2", "http://a.test/x?a=9", "http://a.test/"].iter().enumerate()
        {
            assert!(index.add(entry(url, u32::try_from(n).unwrap())));
        }
        let post = Entry { method: Some("POST".into()), ..entry("http://a.test/p", 7) };
        index.add(post);
        assert_eq!(found(&index, "GET", "http://a.test/#top"), Some(("3".into(), Fit::Exact)));
        assert_eq!(found(&index, "GET", "http://u:p@a.test/x?a=9"), Some(("2".into(), Fit::Exact)));
        assert_eq!(found(&index, "GET", "http://a.test/x?b=2&t=77"), Some(("1".into(), Fit::Like)));
        assert_eq!(found(&index, "GET", "https://a.test/"), Some(("3".into(), Fit::Like)));
        assert_eq!(found(&index, "HEAD", "http://a.test/"), Some(("3".into(), Fit::Like)));
        assert_eq!(found(&index, "GET", "http://a.test/p"), None);
        assert_eq!(found(&index, "POST", "http://a.test/p"), Some(("7".into(), Fit::Exact)));
        assert_eq!(found(&index, "GET", "http://b.test/"), None);
        assert!(index.has_host("a.test", 80) && !index.has_host("a.test", 81));
    }

    #[test]
    fn a_whole_answer_is_preferred_to_a_cut_one() {
        let mut index = Index::default();
        index.add(entry("http://a.test/", 1));
        index.add(Entry { truncated: Some("length".into()), ..entry("http://a.test/", 2) });
        assert_eq!(found(&index, "GET", "http://a.test/"), Some(("1".into(), Fit::Exact)));
    }
}
