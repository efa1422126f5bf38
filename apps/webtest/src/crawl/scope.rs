//! What a crawl takes along, and what not. Pure.
//!
//! Invariant: each address that is left out has a reason that can be counted.

use super::links::Use;
use serde::{Deserialize, Serialize};
use url::Url;

/// How far a crawl goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scope {
    /// So many links away from where it begins.
    pub depth: u32,
    /// Hosts beside those where it begins; `*.example.org` are those below it too.
    pub hosts: Vec<String>,
    /// Any host.
    pub any_host: bool,
    /// Pages' paths begin with one of these; none: all do.
    pub prefixes: Vec<String>,
    /// So many pages of one host.
    pub pages_per_host: u64,
    /// So many pages in all.
    pub pages: u64,
    /// So many bytes of one answer.
    pub page_max_bytes: u64,
    /// So many bytes in all.
    pub bytes: u64,
    /// Types of content that pages may have, such as `text/html`; none: all.
    pub types: Vec<String>,
    /// Pictures, scripts and styles of pages too, from any host.
    pub parts: bool,
    /// Whether `robots.txt` is heeded.
    pub robots: bool,
    /// Whether sitemaps are looked for where it begins.
    pub sitemaps: bool,
    /// Milliseconds between two requests to one host; `robots.txt` may ask for more.
    pub pause_ms: u64,
    /// So many requests at once, and at most so many to one host.
    pub at_once: (usize, usize),
    /// What it calls itself.
    pub user_agent: String,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            depth: 3,
            hosts: Vec::new(),
            any_host: false,
            prefixes: Vec::new(),
            pages_per_host: 1_000,
            pages: 100_000,
            page_max_bytes: 16 << 20,
            bytes: 16 << 30,
            types: Vec::new(),
            parts: true,
            robots: true,
            sitemaps: true,
            pause_ms: 200,
            at_once: (32, 2),
            user_agent: concat!("fvm-webtest/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Why an address is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Out {
    /// It is on another host.
    Host,
    /// Its path begins otherwise.
    Prefix,
    /// It is too many links away.
    Depth,
    /// It looks like one of endlessly many.
    Trap,
    /// `robots.txt` says no.
    Robots,
    /// There are enough pages of its host, or in all.
    Pages,
    /// Enough bytes came.
    Bytes,
    /// Its type is not wanted.
    Type,
}

impl Scope {
    /// Whether an address belongs to it. `began`: the hosts where the crawl begins.
    ///
    /// # Errors
    /// Why not.
    pub fn takes(&self, url: &Url, used: Use, depth: u32, began: &dyn Fn(&str) -> bool) -> Result<(), Out> {
        if is_trap(url) {
            return Err(Out::Trap);
        }
        if used == Use::Part {
            return if self.parts { Ok(()) } else { Err(Out::Type) };
        }
        let host = url.host_str().unwrap_or_default();
        if !self.any_host && !began(host) && !self.hosts.iter().any(|pattern| fits(pattern, host)) {
            return Err(Out::Host);
        }
        if !self.prefixes.is_empty() && !self.prefixes.iter().any(|prefix| url.path().starts_with(prefix.as_str())) {
            return Err(Out::Prefix);
        }
        if depth > self.depth { Err(Out::Depth) } else { Ok(()) }
    }

    /// Whether pages of this type are wanted.
    #[must_use]
    pub fn wants(&self, mime: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(mime))
    }
}

fn fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => host == parent || host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Calendars, sessions in paths, links that only get longer.
fn is_trap(url: &Url) -> bool {
    const SEGMENTS_MAX: usize = 24;
    const SAME_MAX: usize = 3;
    const PARAMETERS_MAX: usize = 24;
    let segments: Vec<&str> = url.path_segments().into_iter().flatten().filter(|s| !s.is_empty()).collect();
    let same = |segment: &&str| segments.iter().filter(|other| *other == segment).count();
    segments.len() > SEGMENTS_MAX
        || segments.iter().any(|segment| same(segment) > SAME_MAX)
        || url.query_pairs().count() > PARAMETERS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken() {
        let scope = Scope {
            hosts: vec!["*.b.test".into(), "c.test".into()],
            prefixes: vec!["/docs/".into()],
            depth: 2,
            ..Scope::default()
        };
        let takes =
            |url: &str, depth| scope.takes(&Url::parse(url).unwrap(), Use::Page, depth, &|host| host == "a.test");
        assert_eq!(takes("http://a.test/docs/x", 2), Ok(()));
        assert_eq!(takes("http://a.test/docs/x", 3), Err(Out::Depth));
        assert_eq!(takes("http://a.test/other", 0), Err(Out::Prefix));
        assert_eq!(takes("http://b.test/docs/", 0), Ok(()));
        assert_eq!(takes("http://x.b.test/docs/", 0), Ok(()));
        assert_eq!(takes("http://xb.test/docs/", 0), Err(Out::Host));
        assert_eq!(takes("http://x.c.test/docs/", 0), Err(Out::Host));
        assert_eq!(takes("http://a.test/docs/y/y/y/y", 0), Err(Out::Trap));
        assert_eq!(
            takes(&format!("http://a.test/docs/{}", (0..30).map(|n| format!("{n}/")).collect::<String>()), 0),
            Err(Out::Trap)
        );
        let part = Url::parse("http://cdn.test/i.png").unwrap();
        assert_eq!(scope.takes(&part, Use::Part, 9, &|_| false), Ok(()));
    }
}
