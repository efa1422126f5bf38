//! Pages, style sheets, sitemaps and rules that a crawl reads, and its own log: what is kept of them is bounded.
#![no_main]

#[path = "../../apps/webtest/tests/foreign/mod.rs"]
mod foreign;

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreign::crawl(data));
