//! What a socket that may be clamd's answers: malware, nothing, or an error; never nothing for what is no answer.
#![no_main]

use fvm_analyze::clamd::understand;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| {
    if let Ok(None) = understand(answer) {
        assert!(answer.windows(2).any(|part| part == b"OK"));
    }
});
