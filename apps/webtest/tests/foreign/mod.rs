//! What must hold of every parser of foreign bytes, whatever they are. For the fuzz targets (`fuzz/fuzz_targets/webtest_*.rs`, `warc.rs`),
//! which find bytes, and for the test `bytes`, which makes some.
#![allow(clippy::expect_used, missing_docs, dead_code, reason = "test code: a failure is a failure of the test")]

use fvm_webtest::crawl::links::{LINKS_MAX, URL_MAX_BYTES, of_css, of_html, of_sitemap};
use fvm_webtest::crawl::log::Line;
use fvm_webtest::crawl::robots::Rules;
use fvm_webtest::devtools::{Frame, Message, Splitter};
use fvm_webtest::import::{Common, address, lines, one, sitemap, table};
use fvm_webtest::model::{CONSOLE_MAX, DOWNLOADS_MAX, REQUESTS_MAX, TEXT_MAX_BYTES};
use fvm_webtest::net::gate::tap;
use fvm_webtest::net::proxy::began::{Begins, begins};
use fvm_webtest::net::warc::index::Entry;
use fvm_webtest::net::warc::read::scan;
use fvm_webtest::net::warc::record::{FIELDS_MAX, Head, HttpHead, read_request, unchunked};
use fvm_webtest::observe::page::Watch;
use fvm_webtest::report::escape;
use url::Url;

/// WARC files, their index and the HTTP in them: reading them ends, within its bounds.
pub fn warc(data: &[u8]) {
    if let Ok(Some((_, length))) = Head::read(data) {
        assert!(length <= data.len() && FIELDS_MAX > 0);
    }
    for is_gzip in [false, true] {
        let mut bytes = 0;
        let _ended = scan(data, is_gzip, 0, &mut |entry| {
            let (offset, length) = entry.place().expect("a place that was read is one");
            assert!(offset + length <= data.len() as u64);
            bytes += length;
        });
        assert!(bytes <= data.len() as u64);
    }
    if let Some(head) = HttpHead::read(data) {
        assert!(head.length <= data.len());
    }
    if let Some((_, length)) = read_request(data) {
        assert!(length <= data.len());
    }
    assert!(unchunked(data).len() <= data.len());
    if let Some(entry) = Entry::read(&String::from_utf8_lossy(data)) {
        assert!(!entry.filename.contains('/'));
        assert_eq!(Entry::read(entry.line().trim_end_matches('\n')), Some(entry));
    }
}

/// Pages, style sheets, sitemaps and rules that a crawl reads, and its own log.
pub fn crawl(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let at = Url::parse("http://a.test/b").expect("it is one");
    let (pages, is_index) = of_sitemap(data, &at);
    assert_eq!(of_sitemap(data, &at), (pages.clone(), is_index));
    for links in [of_html(data, &at), of_css(&text, &at)] {
        assert!(links.len() <= LINKS_MAX);
        for link in links {
            assert!(matches!(link.url.scheme(), "http" | "https") && link.url.as_str().len() <= URL_MAX_BYTES);
        }
    }
    assert!(pages.len() <= LINKS_MAX && pages.iter().all(|url| matches!(url.scheme(), "http" | "https")));
    let rules = Rules::read("fvm-webtest", 200, data);
    let _allowed = rules.allows("http://a.test/b");
    assert!(rules.sitemaps.len() <= 100 && rules.pause.as_secs() <= 30);
    if let Ok(line) = serde_json::from_slice::<Line>(data) {
        let again = serde_json::to_vec(&line).expect("a line can be written");
        assert_eq!(serde_json::from_slice::<Line>(&again).expect("and read"), line);
    }
}

/// What a browser says, taken over or not: what is kept of it is bounded.
pub fn devtools(data: &[u8]) {
    const SHORT: usize = 4 << 10;
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    Splitter::with_max(SHORT).feed(data, |frame| whole.push(frame));
    let mut splitter = Splitter::with_max(SHORT);
    data.chunks(7).for_each(|piece| splitter.feed(piece, |frame| pieces.push(frame)));
    assert_eq!(whole, pieces, "how it came does not matter");
    let mut watch = Watch::new("nonce");
    let mut answers = watch.begin("/tmp/x").len();
    for frame in whole {
        let Frame::Whole(text) = frame else { continue };
        assert!(text.len() <= SHORT);
        if let Some(message) = Message::parse(&text) {
            answers += watch.see(&message).len();
        }
    }
    assert!(answers < 100 + 20 * data.len(), "few bytes make it say much");
    assert!(watch.console.len() <= CONSOLE_MAX && watch.console.iter().all(|line| line.len() <= 2 * TEXT_MAX_BYTES));
    assert!(watch.fetched.len() <= DOWNLOADS_MAX);
    let (requests, _) = watch.requests.into_parts();
    assert!(requests.len() <= REQUESTS_MAX && requests.iter().all(|request| request.url.len() <= TEXT_MAX_BYTES));
}

/// Lists of sites: any bytes are entries or faults with their lines; what is taken is an address of the web within its bounds, and taken
/// again it is the same.
pub fn import(data: &[u8]) {
    let common = Common::default();
    let mut all: Vec<_> = lines(data).filter_map(Result::ok).collect();
    all.extend(table(data, None).into_iter().flatten().filter_map(Result::ok));
    let map = sitemap(data);
    all.extend(map.pages.into_iter().chain(map.sitemaps).map(Ok));
    all.extend(map.bad.into_iter().map(Err));
    for entry in all {
        match entry.and_then(|entry| one(entry, &common)) {
            Ok(site) => {
                let text = site.url.as_str();
                assert!(text.len() <= TEXT_MAX_BYTES && matches!(site.url.scheme(), "http" | "https"));
                assert_eq!(address(text, false).as_ref(), Ok(&site.url));
                assert!(!escape::html(text).contains(['<', '>', '"', '\'', '`']));
                assert!(!escape::cell(text).starts_with(['=', '+', '-', '@']));
            }
            Err(bad) => assert!(!bad.why.is_empty() && !bad.text.chars().any(char::is_control), "{bad:?}"),
        }
    }
}

/// Packets of a VM, and how its tunnels begin.
pub fn gate(data: &[u8]) {
    if let Some(foreign) = tap::read(data) {
        assert!(foreign.began.len() <= 4 * 200 + 20 && foreign.to.len() < 100);
    }
    // What is usual or odd stays so, whatever follows.
    let of = |length: usize| begins(&data[..length.min(data.len())]);
    let mut before = Begins::Open;
    for length in 0..16 {
        let now = of(length);
        assert!(before == Begins::Open || now == before, "{length}");
        before = now;
    }
}
