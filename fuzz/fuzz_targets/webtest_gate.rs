//! Packets of a VM, and how its tunnels begin.
#![no_main]

#[path = "../../apps/webtest/tests/foreign/mod.rs"]
mod foreign;

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreign::gate(data));
