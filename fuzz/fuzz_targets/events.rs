//! A segment of the behaviour log: torn, damaged, or made by somebody else.
#![no_main]

use fvm_trace::codec::{Decoder, HEADER, Taken, end_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let end = end_of(bytes);
    let Some(mut rest) = bytes.strip_prefix(&HEADER) else {
        assert_eq!(end, None);
        return;
    };
    let mut decoder = Decoder::default();
    while let Taken::Record(len, event) = decoder.take(rest, "0123456789ab") {
        assert!(len > 0 && len <= rest.len());
        if let Some(event) = event {
            // What was read can be printed, and written again.
            let _json = serde_json::to_string(&*event);
            let mut out = Vec::new();
            fvm_trace::codec::Encoder::default().encode(&event, &mut out);
        }
        rest = &rest[len..];
    }
    assert_eq!(end.map(|(end, _)| end), Some(bytes.len() - rest.len()));
});
