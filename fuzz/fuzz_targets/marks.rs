//! Marks: whatever stands on a file is a mark, whose texts cannot move the cursor and which fits on a file; read again it says the
//! same of the file's content. The book: any bytes are a book or none, and what it says of one is in it.
#![no_main]
use fvm_marks::{Hash, Known, Mark, Verb};

libfuzzer_sys::fuzz_target!(|parts: (&[u8], &[u8])| {
    let (attribute, book) = parts;
    let mark = Mark::from_bytes(attribute);
    let texts = [mark.vm.as_deref(), mark.policy.as_deref(), Some(&*mark.origin), Some(&*mark.source())];
    assert!(!texts.into_iter().flatten().any(|text| text.chars().any(char::is_control)), "{mark:?}");
    let again = Mark::from_bytes(&mark.to_bytes());
    assert_eq!((&again.sha256, again.time, again.uid), (&mark.sha256, mark.time, mark.uid), "it does not fit");

    let text = [&b"fvm-marks 1\n"[..], book].concat();
    for bytes in [book, &text] {
        let Some(known) = Known::parse(bytes) else { continue };
        for (hash, (n, paths)) in &known.marked {
            let (verb, act, lines) = &known.acts[*n];
            assert!(*verb == Verb::Mark && lines.iter().any(|line| line.hash == *hash) && !paths.is_empty());
            assert_eq!(known.act(hash), (*hash != Hash::OF_NOTHING).then_some(act));
        }
        assert!(!known.sizes.contains(&0));
    }
});
