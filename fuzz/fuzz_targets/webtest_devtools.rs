//! What a browser says, taken over or not: what is kept of it is bounded.
#![no_main]

#[path = "../../apps/webtest/tests/foreign/mod.rs"]
mod foreign;

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreign::devtools(data));
