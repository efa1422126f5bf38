//! What a client of `fvm serve` may send: lines are the same however the bytes come, any line is a request or none, and one that
//! is understood can be said again and is a command line that means the same or none.
#![no_main]
use fvm_cli::serve::protocol::{Lines, TooLong, parse};
use fvm_cli::serve::command_line;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let (mut pieces, mut whole) = (Lines::default(), Lines::default());
    whole.push(bytes);
    let mut in_pieces = Vec::new();
    for piece in bytes.chunks(usize::from(size) + 1) {
        pieces.push(piece);
        while let Ok(Some(line)) = pieces.take() {
            in_pieces.push(line);
        }
    }
    let mut at_once = Vec::new();
    let end = loop {
        match whole.take() {
            Ok(Some(line)) => at_once.push(line),
            Ok(None) => break Ok(()),
            Err(TooLong) => break Err(TooLong),
        }
    };
    assert_eq!(in_pieces, at_once);
    assert_eq!(end.is_ok() && whole.has_rest(), pieces.has_rest() && end.is_ok());
    for line in at_once {
        match parse(&line) {
            Ok(request) => {
                let said = serde_json::to_vec(&request).expect("a request can be said");
                assert_eq!(parse(&said), Ok(request.clone()));
                if let Ok(words) = command_line(&request.method, &request.params) {
                    assert_eq!(words[0], "fvm");
                    // Before that are commands and options, after it arguments.
                    let end = words.iter().position(|word| word == "--").expect("the options have an end");
                    assert!(words[1..end].iter().all(|word| !word.is_empty()));
                }
            }
            Err(none) => assert!(!none.why.is_empty() && !none.why.contains('\n')),
        }
    }
});
