//! Words of a value: white space, quotes and backslashes as `systemd.syntax(7)` has them.

use crate::limits::WORDS_MAX;

/// A word; not always UTF-8, because of `\xff`.
pub type Word = Vec<u8>;

/// Splits at white space. `'` and `"` hold a word together; backslash sequences are those of C and `\s`; an unknown one
/// stays as it is.
///
/// # Errors
/// What is wrong, in words.
pub fn split(text: &[u8]) -> Result<Vec<Word>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, quote) {
            (b'\\', _) => rest = escape(rest, word.get_or_insert_default())?,
            (b, Some(q)) if b == q => quote = None,
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (b' ' | b'\t' | b'\n' | b'\r', None) => words.extend(word.take()),
            (b, _) => word.get_or_insert_default().push(b),
        }
        if words.len() > WORDS_MAX {
            return Err("too many words");
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    if words.iter().any(|w| w.contains(&0)) { Err("it holds a NUL byte") } else { Ok(words) }
}

/// What follows a backslash; returns what is after that.
fn escape<'t>(rest: &'t [u8], word: &mut Word) -> Result<&'t [u8], &'static str> {
    let Some((&kind, after)) = rest.split_first() else { return Err("it ends with a backslash") };
    let plain = match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b's' => b' ',
        b'\\' | b'"' | b'\'' => kind,
        b'x' | b'u' | b'U' | b'0'..=b'7' => return Ok(number(rest, word).unwrap_or_else(|| keep(rest, word))),
        _ => return Ok(keep(rest, word)),
    };
    word.push(plain);
    Ok(after)
}

/// An unknown sequence: both bytes stay.
fn keep<'t>(rest: &'t [u8], word: &mut Word) -> &'t [u8] {
    word.push(b'\\');
    word.extend(rest.first());
    rest.get(1..).unwrap_or_default()
}

/// `xHH`, `uHHHH`, `UHHHHHHHH`, `OOO`.
fn number<'t>(rest: &'t [u8], word: &mut Word) -> Option<&'t [u8]> {
    let (skip, len, radix) = match rest.first()? {
        b'x' => (1, 2, 16),
        b'u' => (1, 4, 16),
        b'U' => (1, 8, 16),
        _ => (0, 3, 8),
    };
    let digits = std::str::from_utf8(rest.get(skip..skip + len)?).ok()?;
    if !digits.bytes().all(|b| char::from(b).is_digit(radix)) {
        return None;
    }
    let value = u32::from_str_radix(digits, radix).ok()?;
    if len >= 4 {
        let mut buffer = [0; 4];
        word.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut buffer).as_bytes());
    } else {
        word.push(u8::try_from(value).ok()?);
    }
    rest.get(skip + len..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_systemd_does() {
        let table: &[(&str, &[&[u8]])] = &[
            ("a  b\tc", &[b"a", b"b", b"c"]),
            (r#"sh -c 'a "b" c' "x y"z"#, &[b"sh", b"-c", b"a \"b\" c", b"x yz"]),
            (r"\x41\s\u00e9\101\n", &[b"A \xc3\xa9A\n"]),
            (r"\xff", &[b"\xff"]),
            (r"\d+ \xzz", &[b"\\d+", b"\\xzz"]),
            (r#"'' "" "#, &[b"", b""]),
            ("", &[]),
        ];
        for (text, want) in table {
            let got = split(text.as_bytes()).unwrap();
            assert_eq!(got.iter().map(Vec::as_slice).collect::<Vec<_>>(), *want, "{text:?}");
        }
        for text in ["'a", "a\\", r"\x00"] {
            assert!(split(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
