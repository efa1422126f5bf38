//! Lists of sites from elsewhere: text, CSV, sitemaps.
//!
//! ```text
//!  bytes ─► lines | table | sitemap ─► Entry { line, address, tags, ... } ─► one ─► NewSite, or Bad { line, why }
//! ```
//!
//! Invariants: a reader yields one entry after the other and holds no more than one (a sitemap: the file, at most
//! [`FILE_MAX_BYTES`]); what is bad is told with its line and stops nothing; nothing is ever fetched from here.

mod lines;
mod sitemap;
mod table;

pub use lines::lines;
pub use sitemap::{Sitemap, sitemap};
pub use table::table;

use crate::db::NewSite;
use crate::model::TEXT_MAX_BYTES;
use serde::Serialize;
use url::Url;

/// A sitemap may have so many bytes: more than its protocol allows.
pub const FILE_MAX_BYTES: usize = 64 << 20;
/// A line may have so many bytes.
pub const LINE_MAX_BYTES: usize = 64 << 10;
/// A site may have so many tags, of so many bytes each.
pub const TAGS_MAX: usize = 32;
const TAG_MAX_BYTES: usize = 100;
/// So much of a bad line is shown.
const SHOWN_MAX_BYTES: usize = 120;

/// What a list says of one site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The line, from 1.
    pub line: u64,
    /// The address, as it is there.
    pub address: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its priority.
    pub priority: Option<i64>,
    /// Seconds after which it is due again.
    pub every_s: Option<u64>,
}

/// What is bad in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The line, from 1.
    pub line: u64,
    /// What is there, cut, with what is not text escaped.
    pub text: String,
    /// Why it was not taken.
    pub why: String,
}

impl Bad {
    fn new(line: u64, text: &str, why: impl Into<String>) -> Self {
        let shown: String = crate::db::cut(text, SHOWN_MAX_BYTES).escape_debug().collect();
        let more = if text.len() > SHOWN_MAX_BYTES { "..." } else { "" };
        Self { line, text: format!("{shown}{more}"), why: why.into() }
    }
}

/// What all entries of a list get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Common {
    /// Tags, beside their own.
    pub tags: Vec<String>,
    /// The priority of those that say none.
    pub priority: Option<i64>,
    /// The schedule of those that say none.
    pub every_s: Option<u64>,
    /// Whether addresses without a scheme are `http`.
    pub http: bool,
    /// Where the list came from.
    pub source: String,
}

/// The site of an entry.
///
/// # Errors
/// When its address is none that can be visited, or its tags are none.
pub fn one(entry: Entry, common: &Common) -> Result<NewSite, Bad> {
    let bad = |why: &str| Bad::new(entry.line, &entry.address, why);
    let url = address(&entry.address, common.http).map_err(|why| bad(&why))?;
    let mut tags = entry.tags.clone();
    tags.extend(common.tags.iter().cloned());
    tags.sort();
    tags.dedup();
    if tags.len() > TAGS_MAX || tags.iter().any(|tag| !is_tag(tag)) {
        return Err(bad(&format!("tags are at most {TAGS_MAX} words of letters, digits and '-_.:/'")));
    }
    Ok(NewSite {
        url,
        tags,
        priority: entry.priority.or(common.priority),
        every_s: entry.every_s.or(common.every_s),
        source: common.source.clone(),
    })
}

/// Whether this can be a tag.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || "-_.:/".contains(c);
    !text.is_empty() && text.len() <= TAG_MAX_BYTES && text.chars().all(letter)
}

/// An address as lists write it: perhaps without a scheme.
///
/// # Errors
/// When it is none, in words.
pub fn address(text: &str, http: bool) -> Result<Url, String> {
    let text = text.trim();
    if text.len() > TEXT_MAX_BYTES {
        return Err(format!("it is longer than {TEXT_MAX_BYTES} bytes"));
    }
    if text.is_empty() {
        return Err("there is no address".into());
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("it has blanks or control characters in it".into());
    }
    let scheme = |text: &str| Url::parse(text).map_err(|e| e.to_string());
    let url = match text.split_once("://") {
        Some(_) => scheme(text)?,
        // 'example.com:8080/x' looks like a scheme to a parser, and 'mailto:x' is one.
        None => {
            let host = text.split(['/', '?', '#']).next().unwrap_or_default();
            let port = host.rsplit_once(':').map(|(_, port)| port);
            if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))
                && !host.starts_with('[')
            {
                return Err("it is neither http nor https".into());
            }
            if !host.contains('.') && !host.starts_with("localhost") && !host.starts_with('[') {
                return Err("it is no address: no host".into());
            }
            scheme(&format!("{}://{text}", if http { "http" } else { "https" }))?
        }
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it is neither http nor https".into());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it has no host".into());
    }
    // Escapes make it longer.
    if url.as_str().len() > TEXT_MAX_BYTES {
        return Err(format!("it is longer than {TEXT_MAX_BYTES} bytes"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        for (text, is) in [
            ("https://example.com", "https://example.com/"),
            ("  HTTP://Example.COM/A?b#c ", "http://example.com/A?b#c"),
            ("example.com", "https://example.com/"),
            ("example.com:8080/x:y", "https://example.com:8080/x:y"),
            ("localhost:80", "https://localhost:80/"),
            ("[::1]:8080/", "https://[::1]:8080/"),
            ("bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
            ("http://user:pw@example.com/", "http://user:pw@example.com/"),
        ] {
            assert_eq!(address(text, false).map(String::from).as_deref(), Ok(is), "{text}");
        }
        assert_eq!(address("example.com", true).map(String::from).as_deref(), Ok("http://example.com/"));
        let long = format!("https://e.example/{}", "a".repeat(TEXT_MAX_BYTES));
        let escaped = format!("https://e.example/{}", "é".repeat(1_000));
        for text in [
            "",
            "   ",
            "word",
            "mailto:a@b.c",
            "javascript:alert(1)",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://",
            "https:// example.com",
            "http://a b.example/",
            "http://[::1",
            "example.com:x",
            "http://e.example:99999/",
            "http://\u{202e}evil.example/\n",
            long.as_str(),
            escaped.as_str(),
        ] {
            assert!(address(text, false).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn tags_are_words() {
        let entry =
            |tag: &str| Entry { line: 3, address: "a.example".into(), tags: vec![tag.into()], ..Entry::default() };
        let common = Common { tags: vec!["all".into(), "x".into()], priority: Some(4), ..Common::default() };
        let site = one(entry("x"), &common).unwrap();
        assert_eq!((site.tags, site.priority), (vec!["all".to_owned(), "x".to_owned()], Some(4)));
        for tag in ["", "a b", "a,b", "a\u{202e}b", "a\nb", &"t".repeat(101)] {
            assert_eq!(one(entry(tag), &common).unwrap_err().line, 3, "{tag:?}");
        }
    }
}
