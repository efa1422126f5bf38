//! Lists of sites: any bytes are entries or faults with their lines, never a panic; what is taken is an address of the web within its
//! bounds, and taken again it is the same.
#![no_main]

#[path = "../../apps/webtest/tests/foreign/mod.rs"]
mod foreign;

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreign::import(data));
