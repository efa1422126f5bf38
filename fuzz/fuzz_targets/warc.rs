//! WARC files, their index and the HTTP in them, pages and style sheets of a crawl, packets of a VM: whatever they hold, reading them
//! ends, within its bounds.
#![no_main]

use fvm_webtest::crawl::links::{LINKS_MAX, of_css, of_html, of_sitemap};
use fvm_webtest::net::gate::tap;
use fvm_webtest::net::warc::index::Entry;
use fvm_webtest::net::warc::read::scan;
use fvm_webtest::net::warc::record::{FIELDS_MAX, HttpHead, Head, read_request, unchunked};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|data: &[u8]| {
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
    let text = String::from_utf8_lossy(data);
    if let Some(entry) = Entry::read(&text) {
        assert!(!entry.filename.contains('/'));
        assert_eq!(Entry::read(entry.line().trim_end_matches('\n')), Some(entry));
    }
    let at = Url::parse("http://a.test/b").expect("it is one");
    assert!(of_html(data, &at).len() <= LINKS_MAX && of_css(&text, &at).len() <= LINKS_MAX);
    assert!(of_sitemap(data, &at).0.len() <= LINKS_MAX);
    let _told = tap::read(data);
});
