//! Lists of sites: any bytes are entries or faults with their lines, never a panic; what is taken is an address of the web within its
//! bounds, and taken again it is the same.
#![no_main]
use fvm_webtest::import::{Common, address, lines, one, sitemap, table};
use fvm_webtest::model::TEXT_MAX_BYTES;
use fvm_webtest::report::escape;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let common = Common::default();
    let mut all: Vec<_> = lines(bytes).filter_map(Result::ok).collect();
    all.extend(table(bytes, None).into_iter().flatten().filter_map(Result::ok));
    let map = sitemap(bytes);
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
});
