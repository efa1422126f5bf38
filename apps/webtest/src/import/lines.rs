//! One address a line; `#` begins a comment.

use super::{Bad, Entry, LINE_MAX_BYTES};
use std::io::{self, BufRead};

/// The entries of a text.
pub fn lines(text: impl BufRead) -> impl Iterator<Item = io::Result<Result<Entry, Bad>>> {
    let mut lines = Lines { text, number: 0 };
    std::iter::from_fn(move || {
        loop {
            let (number, line) = match lines.next() {
                Ok(None) => return None,
                Ok(Some(next)) => next,
                Err(e) => return Some(Err(e)),
            };
            let line = match line {
                Ok(line) => line,
                Err(bad) => return Some(Ok(Err(bad))),
            };
            let said = line.trim().trim_start_matches('\u{feff}');
            // A '#' within an address is its fragment.
            let said = said.split_once(" #").map_or(said, |(said, _)| said.trim_end());
            if !said.is_empty() && !said.starts_with('#') {
                return Some(Ok(Ok(Entry { line: number, address: said.into(), ..Entry::default() })));
            }
        }
    })
}

struct Lines<R> {
    text: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line and its number; a line that is too long or no text is bad.
    fn next(&mut self) -> io::Result<Option<(u64, Result<String, Bad>)>> {
        let mut line = Vec::new();
        let got = io::Read::take(&mut self.text, LINE_MAX_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        if got == 0 {
            return Ok(None);
        }
        self.number += 1;
        if got > LINE_MAX_BYTES && !line.ends_with(b"\n") {
            self.skip()?;
            let bad = Bad::new(self.number, &String::from_utf8_lossy(&line), "the line is too long");
            return Ok(Some((self.number, Err(bad))));
        }
        let line = String::from_utf8(line)
            .map_err(|e| Bad::new(self.number, &String::from_utf8_lossy(e.as_bytes()), "it is not UTF-8"));
        Ok(Some((self.number, line)))
    }

    fn skip(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.text.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.text.consume(used);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_left_out_and_bad_lines_have_numbers() {
        let mut text = b"\xef\xbb\xbfa.example\r\n\n# no\nhttps://b.example/#frag # why\n\xff\xfe\n".to_vec();
        text.extend(vec![b'x'; LINE_MAX_BYTES * 3]);
        text.extend(b"\nlast.example");
        let all: Vec<_> = lines(&text[..]).map(|entry| entry.unwrap()).collect();
        let said: Vec<_> = all
            .iter()
            .map(|entry| match entry {
                Ok(entry) => (entry.line, entry.address.as_str()),
                Err(bad) => (bad.line, bad.why.as_str()),
            })
            .collect();
        assert_eq!(
            said,
            [
                (1, "a.example"),
                (4, "https://b.example/#frag"),
                (5, "it is not UTF-8"),
                (6, "the line is too long"),
                (7, "last.example")
            ]
        );
        assert!(all.iter().filter_map(|entry| entry.as_ref().err()).all(|bad| bad.text.len() < 500));
    }
}
