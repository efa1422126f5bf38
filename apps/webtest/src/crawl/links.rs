//! What a page or a style sheet leads to.
//!
//! ```text
//!   HTML ─ html5gum ─► attributes, meta refresh, <style>, <base> ─┐
//!   CSS ─► url(...), @import "..." ───────────────────────────────┴─► Link { url, what for }
//!   XML ─► <loc>...</loc> ─► of a sitemap
//! ```
//!
//! Invariants: pure; bounded in number and length; only `http` and `https`.

use html5gum::{DefaultEmitter, Token, Tokenizer};
use std::collections::HashSet;
use url::Url;

/// So many links of one page are kept.
pub const LINKS_MAX: usize = 10_000;
/// An address may be so long.
pub const URL_MAX_BYTES: usize = 2_048;

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Another page.
    Page,
    /// A part of this one: picture, script, style, frame.
    Part,
}

/// An address on a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Link {
    /// Where to, without fragment.
    pub url: Url,
    /// What for.
    pub used: Use,
}

#[derive(Default)]
struct Found {
    links: Vec<Link>,
    seen: HashSet<Link>,
}

impl Found {
    fn add(&mut self, base: &Url, text: &str, used: Use) {
        let text = text.trim();
        if text.is_empty() || text.len() > URL_MAX_BYTES || self.links.len() >= LINKS_MAX {
            return;
        }
        let Ok(mut url) = base.join(text) else { return };
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return;
        }
        url.set_fragment(None);
        let link = Link { url, used };
        if link.url.as_str().len() <= URL_MAX_BYTES && self.seen.insert(link.clone()) {
            self.links.push(link);
        }
    }
}

/// The links of a page that is at `at`.
#[must_use]
pub fn of_html(html: &[u8], at: &Url) -> Vec<Link> {
    let mut base = at.clone();
    let mut has_base = false;
    let mut found = Found::default();
    let mut style: Option<String> = None;
    let mut emitter = DefaultEmitter::default();
    // What stands in scripts and titles is text.
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(html, emitter).flatten() {
        match token {
            Token::StartTag(tag) => {
                let name = String::from_utf8_lossy(&tag.name).into_owned();
                let text = |attribute: &str| {
                    tag.attributes.get(attribute.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
                };
                if let Some(css) = text("style") {
                    of_style(&css, &base, &mut found);
                }
                match name.as_str() {
                    // The first one counts.
                    "base" if !has_base => {
                        if let Some(url) = text("href").and_then(|href| at.join(&href).ok()) {
                            (base, has_base) = (url, true);
                        }
                    }
                    "a" | "area" => add(&mut found, &base, text("href"), Use::Page),
                    "form" if text("method").is_none_or(|m| m.eq_ignore_ascii_case("get")) => {
                        add(&mut found, &base, text("action"), Use::Page);
                    }
                    "link" => {
                        let rel = text("rel").unwrap_or_default().to_ascii_lowercase();
                        let is_part = ["stylesheet", "icon", "preload", "modulepreload", "manifest"]
                            .iter()
                            .any(|part| rel.split_whitespace().any(|word| word == *part));
                        let is_page = ["alternate", "next", "prev", "canonical", "author", "help", "search"]
                            .iter()
                            .any(|page| rel.split_whitespace().any(|word| word == *page));
                        if is_part {
                            add(&mut found, &base, text("href"), Use::Part);
                        } else if is_page {
                            add(&mut found, &base, text("href"), Use::Page);
                        }
                    }
                    "meta" => {
                        let is_refresh = text("http-equiv").is_some_and(|v| v.eq_ignore_ascii_case("refresh"));
                        if is_refresh && let Some(to) = text("content").as_deref().and_then(refresh) {
                            found.add(&base, &to, Use::Page);
                        }
                    }
                    "img" | "source" | "script" | "iframe" | "frame" | "embed" | "audio" | "video" | "track"
                    | "input" => {
                        add(&mut found, &base, text("src"), Use::Part);
                        add(&mut found, &base, text("poster"), Use::Part);
                        for (url, _) in text("srcset").iter().flat_map(|set| candidates(set)) {
                            found.add(&base, url, Use::Part);
                        }
                    }
                    "object" => add(&mut found, &base, text("data"), Use::Part),
                    "image" | "use" => {
                        add(&mut found, &base, text("href").or_else(|| text("xlink:href")), Use::Part);
                    }
                    "body" | "table" | "td" => add(&mut found, &base, text("background"), Use::Part),
                    "style" => style = Some(String::new()),
                    _ => {}
                }
            }
            Token::String(text) => {
                if let Some(style) = &mut style {
                    style.push_str(&String::from_utf8_lossy(&text));
                }
            }
            Token::EndTag(tag) if *tag.name == b"style"[..] => {
                if let Some(css) = style.take() {
                    of_style(&css, &base, &mut found);
                }
            }
            _ => {}
        }
    }
    found.links
}

fn add(found: &mut Found, base: &Url, text: Option<String>, used: Use) {
    if let Some(text) = text {
        found.add(base, &text, used);
    }
}

/// The addresses of a `srcset`, with what stands behind each.
fn candidates(set: &str) -> impl Iterator<Item = (&str, &str)> {
    // An address with a comma in it is written without a space behind that.
    set.split(", ").flat_map(|part| {
        let part = part.trim().trim_matches(',');
        (!part.is_empty()).then(|| part.split_once(char::is_whitespace).unwrap_or((part, "")))
    })
}

/// Where `5; url='...'` leads.
fn refresh(content: &str) -> Option<String> {
    let (_, to) = content.split_once([';', ','])?;
    let to = to.trim();
    let to = match to.get(..3) {
        Some(url) if url.eq_ignore_ascii_case("url") => to[3..].trim_start().strip_prefix('=')?.trim(),
        _ => to,
    };
    Some(to.trim_matches(['\'', '"']).to_owned())
}

/// The links of a style sheet that is at `at`.
#[must_use]
pub fn of_css(css: &str, at: &Url) -> Vec<Link> {
    let mut found = Found::default();
    of_style(css, at, &mut found);
    found.links
}

fn of_style(css: &str, base: &Url, found: &mut Found) {
    let mut rest = css;
    while let Some(at) = rest.find(['u', 'U', '@', '/']) {
        rest = &rest[at..];
        if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, behind)| behind);
        } else if starts(rest, "url(") {
            let inside = rest[4..].trim_start();
            let (text, behind) = quoted(inside).unwrap_or_else(|| inside.split_once(')').unwrap_or((inside, "")));
            found.add(base, &unescaped(text.trim_end()), Use::Part);
            rest = behind;
        } else if starts(rest, "@import") {
            let inside = rest[7..].trim_start();
            rest = match quoted(inside) {
                Some((text, behind)) => {
                    found.add(base, &unescaped(text), Use::Part);
                    behind
                }
                None => inside,
            };
        } else {
            let mut all = rest.chars();
            all.next();
            rest = all.as_str();
        }
    }
}

fn starts(text: &str, with: &str) -> bool {
    text.as_bytes().get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with.as_bytes()))
}

/// What stands in quotes at the beginning, and what is behind.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    text[1..].split_once(quote)
}

/// Without the backslashes before single characters.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut all = text.chars();
    while let Some(c) = all.next() {
        match c {
            '\\' => out.extend(all.next()),
            c => out.push(c),
        }
    }
    out
}

/// The addresses of a sitemap or of an index of sitemaps; whether it is the latter.
#[must_use]
pub fn of_sitemap(xml: &[u8], at: &Url) -> (Vec<Url>, bool) {
    let (mut found, mut is_index) = (Found::default(), false);
    let mut loc: Option<String> = None;
    for token in Tokenizer::new(xml).flatten() {
        match token {
            Token::StartTag(tag) if *tag.name == b"sitemapindex"[..] => is_index = true,
            Token::StartTag(tag) if *tag.name == b"loc"[..] => loc = Some(String::new()),
            Token::String(text) => {
                if let Some(loc) = &mut loc {
                    loc.push_str(&String::from_utf8_lossy(&text));
                }
            }
            Token::EndTag(tag) if *tag.name == b"loc"[..] => {
                if let Some(loc) = loc.take() {
                    found.add(at, &loc, Use::Page);
                }
            }
            _ => {}
        }
    }
    (found.links.into_iter().map(|link| link.url).collect(), is_index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Url {
        Url::parse("http://a.test/dir/page").unwrap()
    }

    fn shown(links: &[Link]) -> Vec<String> {
        links.iter().map(|l| format!("{}{}", if l.used == Use::Part { "+" } else { "" }, l.url)).collect()
    }

    #[test]
    fn pages_lead_to_pages_and_parts() {
        let html = br##"<!doctype html><base href="/b/"><base href="/c/"><a href="x?a=1&amp;b=2#top">x</a>
            <A HREF='//other.test/'><a href="javascript:alert(1)"><a href="mailto:a@b"><a href=""><a href="#x">
            <img src=i.png srcset="i2.png 2x, i3.png 3x"><script src=s.js></script><link rel="Stylesheet" href=s.css>
            <link rel=dns-prefetch href=//no.test><meta http-equiv=Refresh content="3; URL='r'">
            <div style="background: url( 'bg.png' )"></div><style>@import "imp.css"; a { b: URL(c.png) }</style>
            <iframe src=f.html></iframe><form action=/search></form><form method=post action=/no></form>
            <!-- <a href=no> --><script>var a = '<a href="no">'</script><video poster=p.jpg src=v.mp4>"##;
        assert_eq!(
            shown(&of_html(html, &at())),
            [
                "http://a.test/b/x?a=1&b=2",
                "http://other.test/",
                "http://a.test/b/",
                "+http://a.test/b/i.png",
                "+http://a.test/b/i2.png",
                "+http://a.test/b/i3.png",
                "+http://a.test/b/s.js",
                "+http://a.test/b/s.css",
                "http://a.test/b/r",
                "+http://a.test/b/bg.png",
                "+http://a.test/b/imp.css",
                "+http://a.test/b/c.png",
                "+http://a.test/b/f.html",
                "http://a.test/search",
                "+http://a.test/b/v.mp4",
                "+http://a.test/b/p.jpg",
            ]
        );
    }

    #[test]
    fn style_sheets_lead_to_parts() {
        let css = "/* url(no.png) */ @import url(a.css); b{c:url(\"d e.png\") url('f)g') url(h\\(i)} url(data:x) url(ü.png) url(";
        assert_eq!(
            shown(&of_css(css, &at())),
            [
                "+http://a.test/dir/a.css",
                "+http://a.test/dir/d%20e.png",
                "+http://a.test/dir/f)g",
                "+http://a.test/dir/h(i",
                "+http://a.test/dir/%C3%BC.png",
            ]
        );
    }

    #[test]
    fn sitemaps_are_lists() {
        let xml = b"<?xml version='1.0'?><urlset><url><loc> http://a.test/1?a&amp;b </loc></url><url><loc>/2</loc></url></urlset>";
        let (urls, is_index) = of_sitemap(xml, &at());
        assert_eq!((urls.len(), urls[0].as_str(), is_index), (2, "http://a.test/1?a&b", false));
        assert!(of_sitemap(b"<sitemapindex><sitemap><loc>http://a.test/s.xml</loc></sitemap></sitemapindex>", &at()).1);
    }

    #[test]
    fn there_are_never_too_many() {
        let html = (0..LINKS_MAX + 50).map(|n| format!("<a href=/{n}>")).collect::<String>();
        assert_eq!(of_html(html.as_bytes(), &at()).len(), LINKS_MAX);
        assert_eq!(of_html(format!("<a href='/{}'>", "x".repeat(URL_MAX_BYTES)).as_bytes(), &at()).len(), 0);
    }
}
