//! Names of machines as the DNS writes them, and patterns of names.
//!
//! ```text
//!   3 w w w 7 e x a m p l e 3 o r g 0        stored in lower case, without compression
//! ```
//!
//! Invariants: a [`Name`] has at most 255 bytes and labels of 1 to 63; reading one follows at most 32 pointers, each to
//! a place before the one that it stands at.

use std::fmt;
use std::str::FromStr;

/// Longest name, with its length bytes.
pub const NAME_MAX_BYTES: usize = 255;
/// Longest label.
const LABEL_MAX_BYTES: usize = 63;
/// Most pointers that one name may be made of.
const POINTERS_MAX: usize = 32;

/// A domain name; the case of letters does not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

/// A name in a message that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadName;

impl Name {
    /// Reads the name at `at` of a message. Returns it, and where the message goes on.
    ///
    /// # Errors
    /// When it is cut off, too long, or its pointers do not lead backwards.
    pub fn read(message: &[u8], at: usize) -> Result<(Self, usize), BadName> {
        let mut wire = Vec::with_capacity(32);
        let (mut at, mut goes_on, mut pointers) = (at, None, 0);
        loop {
            let length = usize::from(*message.get(at).ok_or(BadName)?);
            match length {
                0 => {
                    wire.push(0);
                    return Ok((Self(wire), goes_on.unwrap_or(at + 1)));
                }
                1..=LABEL_MAX_BYTES => {
                    let label = message.get(at..=at + length).ok_or(BadName)?;
                    if wire.len() + label.len() >= NAME_MAX_BYTES {
                        return Err(BadName);
                    }
                    // A length byte is below 64, where no letter is.
                    wire.extend(label.iter().map(u8::to_ascii_lowercase));
                    at += label.len();
                }
                0xC0.. => {
                    let low = usize::from(*message.get(at + 1).ok_or(BadName)?);
                    let to = ((length & 0x3F) << 8) | low;
                    pointers += 1;
                    if to >= at || pointers > POINTERS_MAX {
                        return Err(BadName);
                    }
                    goes_on.get_or_insert(at + 2);
                    at = to;
                }
                _ => return Err(BadName),
            }
        }
    }

    /// Its bytes in a message.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is `parent` or below it.
    #[must_use]
    pub fn is_within(&self, parent: &Self) -> bool {
        let mut rest = self.0.as_slice();
        loop {
            if rest.len() <= parent.0.len() {
                return rest == parent.0;
            }
            rest = &rest[usize::from(rest[0]) + 1..];
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(bare.len() + 2);
        for label in bare.split('.') {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if label.is_empty() || label.len() > LABEL_MAX_BYTES {
                return Err(format!("'{text}' is not a host name: a part of it has not 1 to 63 characters"));
            }
            if !label.bytes().all(plain) {
                return Err(format!(
                    "'{text}' is not a host name: use letters, digits, '-' and '.', and for other scripts the xn-- form"
                ));
            }
            wire.push(u8::try_from(label.len()).unwrap_or(0));
            wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        wire.push(0);
        if wire.len() > NAME_MAX_BYTES {
            return Err(format!("'{text}' is longer than a host name can be"));
        }
        Ok(Self(wire))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut rest = self.0.as_slice();
        if rest == [0] {
            return f.write_char('.');
        }
        while let [length, tail @ ..] = rest
            && *length > 0
        {
            let (label, next) = tail.split_at(usize::from(*length).min(tail.len()));
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                    b'!'..=b'~' => f.write_char(char::from(*byte))?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            rest = next;
            if rest != [0] {
                f.write_char('.')?;
            }
        }
        Ok(())
    }
}

/// A name, or with `*.` before it all names below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    name: Name,
    below: bool,
}

impl NamePattern {
    /// Whether it means `name`. As in certificates, `*.example.org` is not `example.org` itself.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        if self.below { name.is_within(&self.name) && *name != self.name } else { *name == self.name }
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |rest| (rest, true));
        Ok(Self { name: name.parse()?, below })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.below {
            f.write_str("*.")?;
        }
        self.name.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_read_over_its_pointers_and_the_message_goes_on_behind_the_first() {
        let message = b"\x03Org\x00\x07eXample\xC0\x00\x03www\xC0\x05rest";
        let (read, on) = Name::read(message, 15).unwrap();
        assert_eq!((read.to_string().as_str(), on), ("www.example.org", 21));
        assert_eq!(read, name("WWW.Example.ORG."));
        assert_eq!(Name::read(b"\0", 0).unwrap().0.to_string(), ".");
    }

    #[test]
    fn a_name_that_is_cut_off_too_long_or_leads_in_circles_is_none() {
        let mut long = Vec::new();
        for _ in 0..4 {
            long.push(63);
            long.extend([b'a'; 63]);
        }
        long.push(0);
        let mut chain = vec![1, b'a', 0];
        for _ in 0..40 {
            let to = u8::try_from(chain.len() - if chain.len() == 3 { 3 } else { 2 }).unwrap();
            chain.extend([0xC0, to]);
        }
        let cases: [(&[u8], usize); 10] = [
            (b"", 0),
            (b"\x03ab", 0),
            (b"\x01a", 0),
            (b"\xC0", 0),
            (b"\xC0\x00", 0),
            (b"\x01a\xC0\x00", 2 - 2),
            (b"\xC0\x02\xC0\x00", 0),
            (b"\x40a\0", 0),
            (&long, 0),
            (&chain, chain.len() - 2),
        ];
        for (bytes, at) in cases {
            assert!(Name::read(bytes, at).is_err(), "{bytes:?} at {at}");
        }
    }

    #[test]
    fn a_pattern_means_a_name_or_all_below_one_and_never_a_part_of_a_label() {
        for (pattern, text, want) in [
            ("mirror.test", "MIRROR.test", true),
            ("mirror.test", "a.mirror.test", false),
            ("*.example.org", "www.example.org", true),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "evilexample.org", false),
            ("*.example.org", "www.example.org.evil.net", false),
        ] {
            assert_eq!(pattern.parse::<NamePattern>().unwrap().matches(&name(text)), want, "{pattern} {text}");
        }
        // A label may hold a dot: it is still one label.
        let (odd, _) = Name::read(b"\x0bwww.example\x03org\0", 0).unwrap();
        assert!(!"*.example.org".parse::<NamePattern>().unwrap().matches(&odd));
        assert_eq!(odd.to_string(), "www\\.example.org");
        for bad in ["", ".", "*", "*.", "a..b", "a.*.b", "ä.org", "a b"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad}");
        }
    }
}
