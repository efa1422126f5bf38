//! Exceptions: any text is a list of them or an error, never a panic, and none that excuses without a reason.
#![no_main]
use fvm_analyze::exceptions::Exceptions;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut exceptions = Exceptions::default();
    match exceptions.add("fuzz", text) {
        Ok(()) => assert!(exceptions.is_empty() || text.contains("reason")),
        Err(_) => assert!(exceptions.is_empty(), "half a file counts for nothing"),
    }
});
