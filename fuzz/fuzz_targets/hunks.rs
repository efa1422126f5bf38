//! Parts of a text: all of them make the new text, none the old one, and between two lies a line that both have.
#![no_main]
use fvm_review::hunks::{apply_hunks, hunks, lines};

libfuzzer_sys::fuzz_target!(|texts: (bool, &[u8], &[u8])| {
    let (many_lines, old, new) = texts;
    // Lines of one letter are alike more often.
    let split = |text: &[u8]| -> Vec<u8> {
        if many_lines { text.iter().flat_map(|b| [b % 8 + b'a', b'\n']).collect() } else { text.to_vec() }
    };
    let (old, new) = (split(old), split(new));
    let found = hunks(&old, &new);
    assert_eq!(found, hunks(&old, &new), "the same each time");
    assert_eq!(apply_hunks(&old, &new, &found, &vec![true; found.len()]), new);
    assert_eq!(apply_hunks(&old, &new, &found, &[]), old);
    assert_eq!(found.is_empty(), old == new);
    for pair in found.windows(2) {
        let (gap_old, gap_new) = (pair[0].old.end..pair[1].old.start, pair[0].new.end..pair[1].new.start);
        assert!(!gap_old.is_empty());
        assert_eq!(lines(&old)[gap_old], lines(&new)[gap_new]);
    }
    for (i, hunk) in found.iter().enumerate() {
        assert!(!hunk.old.is_empty() || !hunk.new.is_empty());
        // One hunk alone: what is left of the difference is the others.
        let mut chosen = vec![false; found.len()];
        chosen[i] = true;
        if i < 4 {
            assert_ne!(apply_hunks(&old, &new, &found, &chosen), old);
        }
    }
});
