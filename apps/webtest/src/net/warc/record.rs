//! One WARC record, and the HTTP message in it, as bytes. Pure.
//!
//! ```text
//!   WARC/1.1 CRLF │ Name: value CRLF ... │ CRLF │ block, Content-Length bytes │ CRLF CRLF
//! ```
//!
//! Invariants: reading ends whatever the bytes are; a head is bounded in bytes and fields; what is written can be read, whatever a page
//! put into it: no field holds a line break.

use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A head may be so long.
pub const HEAD_MAX_BYTES: usize = 64 << 10;
/// And have so many fields.
pub const FIELDS_MAX: usize = 200;
/// An HTTP head in a block may be so long, and have so many headers.
pub const HTTP_HEAD_MAX_BYTES: usize = 256 << 10;
const HTTP_HEADERS_MAX: usize = 512;

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It does not begin as one.
    #[error("no WARC record begins here")]
    NotWarc,
    /// Its head has no end.
    #[error("the record's head is longer than {HEAD_MAX_BYTES} bytes, or has more than {FIELDS_MAX} fields")]
    TooLong,
    /// A line of its head is no field.
    #[error("a line of the record's head is no field")]
    Field,
    /// It does not say how long it is, or not in a number.
    #[error("the record does not say how long it is")]
    Length,
}

/// A record's head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    fields: Vec<(String, String)>,
    /// Bytes of its block.
    pub length: u64,
}

impl Head {
    /// Reads a head at the beginning of `bytes`; with it, its length. Nothing: there must be more bytes.
    ///
    /// # Errors
    /// When no more bytes could make it one.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Bad> {
        const MAGIC: &[u8] = b"WARC/";
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(Bad::NotWarc);
        }
        let window = &bytes[..bytes.len().min(HEAD_MAX_BYTES)];
        let Some(end) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if bytes.len() >= HEAD_MAX_BYTES { Err(Bad::TooLong) } else { Ok(None) };
        };
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in text.split("\r\n").skip(1) {
            if line.starts_with([' ', '\t']) {
                let (_, value) = fields.last_mut().ok_or(Bad::Field)?;
                value.push(' ');
                value.push_str(line.trim());
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(Bad::Field)?;
            if fields.len() >= FIELDS_MAX {
                return Err(Bad::TooLong);
            }
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let mut head = Self { fields, length: 0 };
        head.length = head.get("Content-Length").and_then(|n| n.parse().ok()).ok_or(Bad::Length)?;
        Ok(Some((head, end + 4)))
    }

    /// A field's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// An address field, without the brackets that some put around it.
    #[must_use]
    pub fn uri(&self, name: &str) -> Option<&str> {
        self.get(name).map(|uri| uri.strip_prefix('<').and_then(|uri| uri.strip_suffix('>')).unwrap_or(uri))
    }
}

/// A record to be written.
#[derive(Debug, Default)]
pub struct Record<'a> {
    fields: Vec<(&'static str, String)>,
    block: Vec<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// One of this kind, with this name, of this time.
    #[must_use]
    pub fn new(kind: &'static str, id: &str, at: SystemTime) -> Self {
        let fields = vec![("WARC-Type", kind.into()), ("WARC-Record-ID", id.into()), ("WARC-Date", date(at))];
        Self { fields, block: Vec::new() }
    }

    /// With a field. A control character, which would end it, becomes a space.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value: String = value.into();
        self.fields.push((name, value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()));
        self
    }

    /// With a block, in parts.
    #[must_use]
    pub fn of(mut self, parts: &[&'a [u8]]) -> Self {
        self.block = parts.to_vec();
        self
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let length: usize = self.block.iter().map(|part| part.len()).sum();
        let mut out = Vec::with_capacity(length + 1024);
        out.extend(b"WARC/1.1\r\n");
        for (name, value) in &self.fields {
            out.extend(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend(format!("Content-Length: {length}\r\n\r\n").as_bytes());
        for part in &self.block {
            out.extend(*part);
        }
        out.extend(b"\r\n\r\n");
        out
    }
}

/// A name for a record: `<urn:uuid:...>`, from 16 random bytes (RFC 9562, version 4).
#[must_use]
pub fn id(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0F | 0x40;
    random[8] = random[8] & 0x3F | 0x80;
    let hex = hex(&random);
    format!("<urn:uuid:{}-{}-{}-{}-{}>", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// As hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A digest as WARC has it: `sha256:` and Base32.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    format!("sha256:{}", base32(&hash.finalize()))
}

/// Base32 (RFC 4648) with padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut out = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for five in bytes.chunks(5) {
        let word = five.iter().fold(0u64, |word, b| word << 8 | u64::from(*b)) << (8 * (5 - five.len()));
        let letters = (five.len() * 8).div_ceil(5);
        for n in 0..8 {
            let letter = LETTERS[(word >> (35 - 5 * n)) as usize & 31];
            out.push(if n < letters { char::from(letter) } else { '=' });
        }
    }
    out
}

/// A time as `2026-11-28T20:15:00.123Z`.
#[must_use]
pub fn date(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, in eras of 400 years, as years that begin in March.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let year = year + era * 400 + carry;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// An HTTP answer's head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpHead {
    /// Its status.
    pub status: u16,
    /// Its headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Bytes of the head; what follows is the body.
    pub length: usize,
}

impl HttpHead {
    /// Reads the head of an answer; nothing if there is none, or it is too long.
    #[must_use]
    pub fn read(block: &[u8]) -> Option<Self> {
        let mut headers = vec![httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let window = &block[..block.len().min(HTTP_HEAD_MAX_BYTES)];
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true).ignore_invalid_headers_in_responses(true);
        match config.parse_response(&mut response, window) {
            Ok(httparse::Status::Complete(length)) => Some(Self {
                status: response.code?,
                headers: response.headers.iter().map(|h| (h.name.to_owned(), h.value.to_vec())).collect(),
                length,
            }),
            _ => None,
        }
    }

    /// A header's value, as text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(&found.1).ok()
    }

    /// The type of content, without parameters.
    #[must_use]
    pub fn mime(&self) -> &str {
        self.get("content-type").and_then(|value| value.split(';').next()).map_or("", str::trim)
    }
}

/// The method of a request, and where its body begins.
#[must_use]
pub fn read_request(block: &[u8]) -> Option<(String, usize)> {
    let mut headers = vec![httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&block[..block.len().min(HTTP_HEAD_MAX_BYTES)]) {
        Ok(httparse::Status::Complete(length)) => Some((request.method?.to_owned(), length)),
        _ => None,
    }
}

/// Takes `chunked` away from a body that another tool kept as it came (RFC 9112, 7.1); as it is if it is not that.
#[must_use]
pub fn unchunked(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    loop {
        match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((_, 0))) => return out,
            Ok(httparse::Status::Complete((head, size))) => {
                let Some(chunk) = usize::try_from(size).ok().and_then(|size| rest.get(head..head.checked_add(size)?))
                else {
                    out.extend(&rest[head.min(rest.len())..]);
                    return out;
                };
                out.extend(chunk);
                rest = rest.get(head + chunk.len()..).unwrap_or_default();
                rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
            }
            _ if out.is_empty() => return body.to_vec(),
            _ => return out,
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
