//! WARC files, their index and the HTTP in them: reading them ends, within its bounds.
#![no_main]

#[path = "../../apps/webtest/tests/foreign/mod.rs"]
mod foreign;

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreign::warc(data));
