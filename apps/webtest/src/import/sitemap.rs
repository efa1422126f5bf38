//! Sitemaps and indexes of sitemaps (sitemaps.org), read as a stream of tags: no entities of their own, no other files.

use super::{Bad, Entry};
use quick_xml::Reader;
use quick_xml::events::Event;

/// Elements may lie so deep.
const DEPTH_MAX: usize = 64;

/// What a sitemap holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sitemap {
    /// Pages.
    pub pages: Vec<Entry>,
    /// Further sitemaps, of an index.
    pub sitemaps: Vec<Entry>,
    /// What is bad.
    pub bad: Vec<Bad>,
}

/// Reads a sitemap. What is after a fault is not read, and the fault is told; what was before it counts.
#[must_use]
pub fn sitemap(bytes: &[u8]) -> Sitemap {
    let mut map = Sitemap::default();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        map.bad.push(Bad::new(1, "", "it is compressed: 'zcat FILE | fvm webtest import --format sitemap -'"));
        return map;
    }
    let mut reader = Reader::from_reader(bytes);
    let mut at = Place { bytes, counted: 0, line: 1 };
    let mut path: Vec<Vec<u8>> = Vec::new();
    let mut text = String::new();
    loop {
        let line = at.line_at(usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX));
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(e) => {
                let line = at.line_at(usize::try_from(reader.error_position()).unwrap_or(usize::MAX));
                map.bad.push(Bad::new(line, "", format!("this is no XML: {e}")));
                return map;
            }
        };
        match event {
            Event::Start(tag) => {
                path.push(tag.local_name().as_ref().to_vec());
                text.clear();
                if path.len() > DEPTH_MAX {
                    map.bad.push(Bad::new(line, "", "elements lie too deep"));
                    return map;
                }
            }
            Event::Text(part) => text += &String::from_utf8_lossy(&part),
            Event::CData(part) => text += &String::from_utf8_lossy(&part),
            Event::GeneralRef(name) => match name.resolve_char_ref() {
                Ok(Some(c)) => text.push(c),
                _ => match quick_xml::escape::resolve_predefined_entity(&String::from_utf8_lossy(&name)) {
                    Some(c) => text += c,
                    None => text += "\u{fffd}",
                },
            },
            Event::End(_) => {
                let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
                let entry = |text: &str| Entry { line, address: text.trim().into(), ..Entry::default() };
                match names.as_slice() {
                    [b"urlset", b"url", b"loc"] => map.pages.push(entry(&text)),
                    [b"sitemapindex", b"sitemap", b"loc"] => map.sitemaps.push(entry(&text)),
                    _ => {}
                }
                path.pop();
                text.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if !path.is_empty() {
        let line = at.line_at(usize::MAX);
        map.bad.push(Bad::new(line, "", "the file ends in the middle"));
    } else if map.pages.is_empty() && map.sitemaps.is_empty() {
        map.bad.push(Bad::new(1, "", "it is no sitemap, or has no pages: <urlset><url><loc>ADDRESS"));
    }
    map
}

/// Counts lines as it goes on.
struct Place<'b> {
    bytes: &'b [u8],
    counted: usize,
    line: u64,
}

impl Place<'_> {
    fn line_at(&mut self, position: usize) -> u64 {
        let end = position.min(self.bytes.len());
        if let Some(new) = self.bytes.get(self.counted..end) {
            self.line += new.iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.counted = end;
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(entries: &[Entry]) -> Vec<(u64, &str)> {
        entries.iter().map(|entry| (entry.line, entry.address.as_str())).collect()
    }

    #[test]
    fn pages_and_further_sitemaps_are_found_with_their_lines() {
        let map = sitemap(
            b"<?xml version=\"1.0\"?>\n<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\" xmlns:image=\"i\">\n\
              <url><loc>https://a.example/?x=1&amp;y=2</loc><image:image><image:loc>https://i.example/</image:loc></image:image></url>\n\
              <url>\n<loc><![CDATA[ https://b.example/ ]]></loc><lastmod>2026</lastmod></url></urlset>",
        );
        assert_eq!(said(&map.pages), [(3, "https://a.example/?x=1&y=2"), (5, "https://b.example/")]);
        assert_eq!(map.bad, []);
        let map = sitemap(b"<sitemapindex>\n<sitemap><loc>https://a.example/1.xml</loc></sitemap></sitemapindex>");
        assert_eq!(said(&map.sitemaps), [(2, "https://a.example/1.xml")]);
    }

    #[test]
    fn a_fault_is_told_and_what_was_before_it_counts() {
        let map = sitemap(b"<urlset>\n<url><loc>https://a.example/</loc></url>\n<url></loc>");
        assert_eq!(said(&map.pages), [(2, "https://a.example/")]);
        assert_eq!(map.bad.len(), 1);
        assert_eq!(map.bad[0].line, 3);
        for text in ["", "hello", "<html></html>", "<urlset><url><loc>https://a.example/", "\u{1f}\u{8b}"] {
            assert!(!sitemap(text.as_bytes()).bad.is_empty(), "{text:?}");
        }
        let deep = "<a>".repeat(1_000_000);
        assert!(sitemap(deep.as_bytes()).bad[0].why.contains("deep"));
    }

    #[test]
    fn entities_of_its_own_stay_unexpanded() {
        let map = sitemap(b"<!DOCTYPE x [<!ENTITY a \"https://evil.example/\"><!ENTITY f SYSTEM \"file:///etc/passwd\">]><urlset><url><loc>&a;&f;</loc></url></urlset>");
        assert!(
            map.pages.iter().all(|page| !page.address.contains("evil") && !page.address.contains("root")),
            "{map:?}"
        );
    }
}
