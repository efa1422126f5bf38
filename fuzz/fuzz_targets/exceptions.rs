//! A file of exceptions: what is read has a reason, and says what it is about.
#![no_main]

use fvm_analyze::Exceptions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut exceptions = Exceptions::default();
    match exceptions.add("f", text) {
        Ok(()) => assert!(exceptions.is_empty() || text.contains("reason")),
        Err(e) => assert!(!e.to_string().is_empty() && exceptions.is_empty()),
    }
});
