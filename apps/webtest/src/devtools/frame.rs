//! Where a message ends: bytes in, messages out, no I/O.
//!
//! ```text
//!   {"id":1,...} 00 {"method":...} 00 {"me
//!   └ message ─┘    └── message ──┘   └ kept until the rest is there
//! ```
//!
//! Invariant: never more than [`MESSAGE_MAX_BYTES`] are kept; what is longer is dropped as it comes, and said at its end.

/// The longest message that is read: room for a picture of a large window; longer texts are asked for in parts. What it becomes when
/// it is parsed is at most some twenty times as large, for as long as it is looked at.
pub const MESSAGE_MAX_BYTES: usize = 12 << 20;

/// One message, or what is left of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Its text.
    Whole(Vec<u8>),
    /// It had so many bytes, and was not kept.
    TooLong(usize),
}

/// Splits what comes.
#[derive(Debug)]
pub struct Splitter {
    kept: Vec<u8>,
    /// Bytes of a message that is too long.
    dropped: usize,
    max: usize,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::with_max(MESSAGE_MAX_BYTES)
    }
}

impl Splitter {
    /// Splits messages of at most `max` bytes.
    #[must_use]
    pub fn with_max(max: usize) -> Self {
        Self { kept: Vec::new(), dropped: 0, max }
    }

    /// Takes bytes in, and gives each message that has ended to `each`.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while let Some(end) = bytes.iter().position(|b| *b == 0) {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if self.dropped > 0 {
                each(Frame::TooLong(std::mem::take(&mut self.dropped)));
            } else {
                each(Frame::Whole(std::mem::take(&mut self.kept)));
            }
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.dropped == 0 && self.kept.len() + bytes.len() <= self.max {
            self.kept.extend_from_slice(bytes);
        } else {
            self.dropped = self.dropped.saturating_add(self.kept.len()).saturating_add(bytes.len());
            self.kept = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(max: usize, pieces: &[&[u8]]) -> Vec<Frame> {
        let (mut splitter, mut found) = (Splitter::with_max(max), Vec::new());
        for piece in pieces {
            splitter.feed(piece, |frame| found.push(frame));
        }
        found
    }

    #[test]
    fn messages_are_the_same_however_they_come() {
        let whole = |text: &str| Frame::Whole(text.into());
        let all: &[u8] = b"one\0two\0\0three\0rest";
        let want = vec![whole("one"), whole("two"), whole(""), whole("three")];
        assert_eq!(frames(9, &[all]), want);
        for size in 1..all.len() {
            assert_eq!(frames(9, &all.chunks(size).collect::<Vec<_>>()), want, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_too_long_is_dropped_and_said_and_what_follows_is_read() {
        let want = vec![Frame::TooLong(6), Frame::Whole(b"abc".to_vec()), Frame::TooLong(4)];
        let all: &[u8] = b"123456\0abc\0abcd\0";
        for size in 1..=all.len() {
            assert_eq!(frames(3, &all.chunks(size).collect::<Vec<_>>()), want, "in pieces of {size}");
        }
    }

    #[test]
    fn what_never_ends_is_not_kept() {
        let mut splitter = Splitter::with_max(1000);
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 999], |frame| panic!("{frame:?}"));
        }
        assert!(splitter.kept.capacity() <= 2000 && splitter.dropped == 999_000);
    }
}
