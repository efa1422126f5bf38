//! A look into a file: what it is by its content, whether it is noise, which accounts it makes.
//!
//! Invariants: bytes in, words out; nothing of a file is executed or unpacked.

use std::collections::HashSet;

/// From so many bits in a byte on, content looks encrypted.
const NOISE_BITS: f64 = 7.5;
/// Less than this says nothing about noise.
const NOISE_MIN_BYTES: usize = 512;
/// So much of a file is weighed.
const WEIGHED_BYTES: usize = 256 << 10;

/// Shannon's entropy, in bits for each byte.
#[must_use]
pub fn entropy(bytes: &[u8]) -> f64 {
    let bytes = &bytes[..bytes.len().min(WEIGHED_BYTES)];
    let mut counts = [0u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    #[allow(clippy::cast_precision_loss, reason = "at most 256 KiB")]
    let len = bytes.len() as f64;
    let part = |count: &u32| {
        let share = f64::from(*count) / len;
        -share * share.log2()
    };
    counts.iter().filter(|count| **count > 0).map(part).sum()
}

/// What a file is, by its first bytes: the kind and the usual ending.
#[must_use]
pub fn kind(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let found = infer::get(bytes)?;
    Some((found.mime_type(), found.extension()))
}

/// Whether what had a meaning looks encrypted now. A file of few bytes cannot show a full byte's entropy: the bound falls with it.
#[must_use]
pub fn became_noise(old: &[u8], new: &[u8]) -> bool {
    let bound = if new.len() < 4096 { 7.0 } else { NOISE_BITS };
    let is_noise = new.len() >= NOISE_MIN_BYTES && entropy(new) > bound && kind(new).is_none();
    // Compressed before, it might be a new version of itself.
    is_noise && !old.is_empty() && (entropy(old) < 6.5 || kind(old).is_some())
}

/// Endings of what is no program.
const NO_PROGRAMS: &[&str] = &[
    "jpg", "jpeg", "png", "gif", "bmp", "webp", "svg", "ico", "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx",
    "odt", "ods", "odp", "txt", "md", "csv", "rtf", "html", "htm", "mp3", "mp4", "avi", "mkv", "mov", "wav", "flac",
    "ogg", "woff", "woff2", "ttf", "json", "xml", "yml", "yaml", "ini", "conf", "log",
];

/// What a file really is, when its name says something harmless and its content is a program.
#[must_use]
pub fn disguise(path: &[u8], content: &[u8]) -> Option<&'static str> {
    let name = crate::world::name_of(path).to_ascii_lowercase();
    let ending = name.rsplit(|b| *b == b'.').next().filter(|ending| ending.len() < name.len())?;
    if !NO_PROGRAMS.iter().any(|known| known.as_bytes() == ending) {
        return None;
    }
    // Of 4 bytes only: a text may begin with two that mean something.
    let is_elf = content.starts_with(b"\x7fELF");
    let is_windows = content.starts_with(b"MZ")
        && content.len() > 256
        && content.windows(4).take(1024).any(|part| part == b"PE\0\0");
    let is_script = content.starts_with(b"#!/") && !matches!(ending, b"txt" | b"md" | b"log" | b"conf" | b"ini");
    match (is_elf, is_windows, is_script) {
        (true, ..) => Some("a Linux program"),
        (_, true, _) => Some("a Windows program"),
        (.., true) => Some("a script"),
        _ => None,
    }
}

/// The accounts that `new` has and `old` has not, with the powers of root: user id 0, or no password.
#[must_use]
pub fn root_accounts(path: &[u8], old: &[u8], new: &[u8]) -> Vec<Vec<u8>> {
    let line = |line: &[u8]| -> Option<Vec<u8>> {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let name = *fields.first()?;
        let is_bad = if path.ends_with(b"shadow") {
            !name.is_empty() && fields.get(1).is_some_and(|hash| hash.is_empty())
        } else {
            let id: Option<u64> = fields.get(2).and_then(|id| std::str::from_utf8(id).ok()?.trim().parse().ok());
            id == Some(0) || (!name.is_empty() && fields.len() > 2 && fields[1].is_empty())
        };
        is_bad.then(|| name.to_vec())
    };
    let before: HashSet<Vec<u8>> = old.split(|b| *b == b'\n').filter_map(line).collect();
    new.split(|b| *b == b'\n').filter_map(line).filter(|name| !before.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_that_of_the_books() {
        assert!(entropy(b"aaaa").abs() < 1e-9);
        assert!((entropy(b"abab") - 1.0).abs() < 1e-9);
        let all: Vec<u8> = (0..=255).collect();
        assert!((entropy(&all) - 8.0).abs() < 1e-9);
        assert!(entropy(b"").abs() < 1e-9);
    }

    #[test]
    fn a_program_under_another_name_is_seen_and_a_document_is_not() {
        for (path, content, want) in [
            ("/a/x.jpg", &b"\x7fELF\x02\x01\x01"[..], Some("a Linux program")),
            ("/a/x.PDF", b"#!/bin/sh\n", Some("a script")),
            ("/a/x.txt", b"#!/bin/sh\n", None),
            ("/a/x", b"\x7fELF\x02", None),
            ("/a/x.so", b"\x7fELF\x02", None),
            ("/a/x.png", b"\x89PNG\r\n\x1a\n", None),
            ("/a/x.txt", b"MZ is how it begins", None),
        ] {
            assert_eq!(disguise(path.as_bytes(), content), want, "{path}");
        }
    }

    #[test]
    fn new_accounts_with_the_powers_of_root_are_seen() {
        let old = b"root:x:0:0::/root:/bin/sh\na:x:1000:1000::/:/bin/sh\n";
        let new = [&old[..], b"b:x:0:0::/:/bin/sh\nc:x:1001:1:::\nd::1002:1:::\n"].concat();
        assert_eq!(root_accounts(b"/etc/passwd", old, &new), [b"b".to_vec(), b"d".to_vec()]);
        assert_eq!(
            root_accounts(b"/etc/shadow", b"root:*:1::::::\n", b"root:*:1::::::\nx::1::::::\ny:!:1::::::\n"),
            [b"x".to_vec()]
        );
    }
}
