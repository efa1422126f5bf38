//! Extended headers of tar (POSIX.1-2001 pax): what a plain header has no room for.
//!
//! ```text
//!   "30 mtime=1350244992.023960108\n"     length of the record, itself included; keyword; value, any bytes
//! ```
//!
//! Extended attributes are records `SCHILY.xattr.<name>`, as GNU tar and bsdtar have them; `%` and `=` in a name are `%25` and
//! `%3D`.
//!
//! Invariants: pure; any bytes are accepted without panic; what is written is read back as it was.

use fvm_model::Timestamp;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What one extended header says of the entry behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extended {
    /// Its path.
    pub path: Option<Vec<u8>>,
    /// What it links to.
    pub link: Option<Vec<u8>>,
    /// When it was modified.
    pub mtime: Option<Timestamp>,
    /// Its extended attributes.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend(len.to_string().bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

impl Extended {
    /// As the content of an extended header.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in [(&b"path"[..], &self.path), (b"linkpath", &self.link)] {
            if let Some(value) = value {
                record(&mut out, key, value);
            }
        }
        if let Some(mtime) = self.mtime {
            record(&mut out, b"mtime", time(mtime).as_bytes());
        }
        for (name, value) in &self.xattrs {
            let mut key = XATTR.to_vec();
            for byte in name.as_bytes() {
                match byte {
                    b'%' => key.extend_from_slice(b"%25"),
                    b'=' => key.extend_from_slice(b"%3D"),
                    other => key.push(*other),
                }
            }
            record(&mut out, &key, value);
        }
        out
    }

    /// Reads it; records that are not known are passed over. `None` when it is not well-formed.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|b| *b == b' ')?;
            let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let (one, rest) = bytes.split_at_checked(len)?;
            bytes = rest;
            let one = one.get(space + 1..)?.strip_suffix(b"\n")?;
            let equals = one.iter().position(|b| *b == b'=')?;
            let (key, value) = (&one[..equals], one[equals + 1..].to_vec());
            match key {
                b"path" => found.path = Some(value),
                b"linkpath" => found.link = Some(value),
                b"mtime" => found.mtime = Some(parse_time(&value)?),
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        found.xattrs.push((unescape(name), value));
                    }
                }
            }
        }
        Some(found)
    }
}

fn unescape(name: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, more)) = rest.split_first() {
        let (byte, len) = match rest.get(..3) {
            Some(b"%25") => (b'%', 3),
            Some(b"%3D") => (b'=', 3),
            _ => (*first, 1),
        };
        out.push(byte);
        rest = rest.get(len..).unwrap_or(more);
    }
    OsString::from_vec(out)
}

/// Seconds with nine decimals. Before 1970 the fraction goes the other way: -0.25 s is 1969-12-31 23:59:59.75.
fn time(at: Timestamp) -> String {
    if at.secs < 0 && at.nanos > 0 {
        return format!("-{}.{:09}", -(at.secs + 1), 1_000_000_000 - at.nanos);
    }
    format!("{}.{:09}", at.secs, at.nanos)
}

fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.get(..fraction.len().min(9))?;
    let nanos: u32 = format!("{digits:0<9}").parse().ok()?;
    let secs: i64 = whole.parse().ok()?;
    if !whole.starts_with('-') || nanos == 0 {
        return Some(Timestamp { secs, nanos });
    }
    Some(Timestamp { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos })
}

/// A path that a plain header has room for.
#[must_use]
pub fn fits(path: &OsStr) -> bool {
    path.len() <= 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let of = |secs, nanos| Some(Timestamp { secs, nanos });
        for mtime in
            [None, of(0, 0), of(1, 5), of(-1, 0), of(-1, 750_000_000), of(-3, 1), of(i64::from(u32::MAX), 999_999_999)]
        {
            let written = Extended {
                path: Some(vec![b'p'; 5000]),
                link: Some(b"a\nb=c \xff".to_vec()),
                mtime,
                xattrs: vec![
                    ("user.a=b%c".into(), vec![0, b'\n', 255]),
                    ("trusted.overlay.opaque".into(), b"y".to_vec()),
                ],
            };
            assert_eq!(Extended::parse(&written.to_bytes()), Some(written));
        }
        // The length of a record that is about to have one more digit.
        for len in 80..120 {
            let written = Extended { path: Some(vec![b'x'; len]), ..Extended::default() };
            assert_eq!(Extended::parse(&written.to_bytes()), Some(written), "{len}");
        }
    }

    #[test]
    fn damage_is_seen() {
        for bad in [
            "x",
            "5 a",
            "3 a=b\n",
            "0 a=b\n",
            "99999999999999999999 a=b\n",
            "6 a=b",
            "6 abc\n",
            "12 mtime=x.y\n",
            " a=b\n",
        ] {
            assert_eq!(Extended::parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(Extended::parse(b""), Some(Extended::default()));
        assert_eq!(Extended::parse(b"12 comment=x\n"), None);
        assert_eq!(Extended::parse(b"13 comment=x\n"), Some(Extended::default()));
    }
}
