//! DNS messages (RFC 1035): a VM's query in, one of our own out; the answer of a name server in.
//!
//! ```text
//!   id flags counts │ question │ answers ... │ authority ... │ additional ...
//!   └───── 12 ──────┘          └─ A, AAAA and CNAME are looked at, the others are stepped over
//! ```
//!
//! Invariants: pure; at most [`RECORDS_MAX`] records of a message are looked at; every length is checked against the
//! bytes that are there.

use fvm_model::Name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 address.
pub const A: u16 = 1;
/// Alias.
pub const CNAME: u16 = 5;
/// IPv6 address.
pub const AAAA: u16 = 28;
const OPT: u16 = 41;
const INTERNET: u16 = 1;

/// Most records of one message that are looked at.
pub const RECORDS_MAX: usize = 512;
/// Most aliases from the name that was asked to its addresses.
const ALIASES_MAX: usize = 16;
/// Most addresses that one answer teaches.
pub const ADDRESSES_MAX: usize = 64;
/// What we take over UDP at once.
pub const UDP_MAX_BYTES: u16 = 4096;
const HEADER_BYTES: usize = 12;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const WANT_RECURSION: u16 = 0x0100;
const CAN_RECURSE: u16 = 0x0080;
const AUTHENTIC: u16 = 0x0020;
const UNCHECKED: u16 = 0x0010;

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Answered.
    Done = 0,
    /// The query is no query.
    Malformed = 1,
    /// No name server answered.
    Failed = 2,
    /// There is no such name, or none that this VM may know.
    NoName = 3,
    /// Such questions are not answered.
    NotSupported = 4,
    /// Not for this VM.
    Refused = 5,
}

/// A VM's question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    id: u16,
    flags: u16,
    /// Which name.
    pub name: Name,
    /// Which type.
    pub kind: u16,
    /// The question as it was asked, upper case kept.
    question: Vec<u8>,
    /// What the VM takes over UDP, and whether it wants signatures: if it says so.
    edns: Option<(u16, bool)>,
}

/// What is to be done with bytes that are no question we forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// Nothing: it is no query at all.
    Silently,
    /// Send this back.
    With(Vec<u8>),
}

impl Query {
    /// A question of our own.
    #[must_use]
    pub fn of(name: Name, kind: u16) -> Self {
        let mut question = name.wire().to_vec();
        question.extend(kind.to_be_bytes());
        question.extend(INTERNET.to_be_bytes());
        Self { id: 0, flags: WANT_RECURSION, name, kind, question, edns: Some((UDP_MAX_BYTES, false)) }
    }

    /// Reads a query.
    ///
    /// # Errors
    /// What to do instead.
    pub fn read(message: &[u8]) -> Result<Self, Rejected> {
        let Some(header) = Header::read(message).filter(|h| h.flags & RESPONSE == 0) else {
            return Err(Rejected::Silently);
        };
        let reject = |code: Code| Rejected::With(header.reply(code).to_vec());
        if header.flags & OPCODE != 0 {
            return Err(reject(Code::NotSupported));
        }
        if header.counts[0] != 1 || header.counts[1] != 0 || header.counts[2] != 0 {
            return Err(reject(Code::Malformed));
        }
        let (name, at) = Name::read(message, HEADER_BYTES).map_err(|_| reject(Code::Malformed))?;
        let (Some(kind), Some(class)) = (word(message, at), word(message, at + 2)) else {
            return Err(reject(Code::Malformed));
        };
        let question = message[HEADER_BYTES..at + 4].to_vec();
        // A pointer in the first name would point into the header: what it means elsewhere, nobody knows.
        if question.len() != name.wire().len() + 4 {
            return Err(reject(Code::Malformed));
        }
        // 251 to 255: whole zones, and everything.
        if class != INTERNET || kind == OPT || (251..=255).contains(&kind) {
            return Err(reject(Code::NotSupported));
        }
        let mut edns = None;
        for record in Records::new(message, at + 4, usize::from(header.counts[3])) {
            let record = record.map_err(|_| reject(Code::Malformed))?;
            if record.kind == OPT {
                edns = Some((record.class, record.ttl & 0x8000 != 0));
            }
        }
        Ok(Self { id: header.id, flags: header.flags, name, kind, question, edns })
    }

    /// What the VM takes over UDP.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.edns.map_or(512, |(size, _)| size.clamp(512, UDP_MAX_BYTES)))
    }

    /// The question as fvm asks it.
    #[must_use]
    pub fn forwarded(&self, id: u16) -> Vec<u8> {
        let flags = WANT_RECURSION | (self.flags & (AUTHENTIC | UNCHECKED));
        let mut out = Header { id, flags, counts: [1, 0, 0, u16::from(self.edns.is_some())] }.bytes().to_vec();
        out.extend(self.question.iter());
        if let Some((_, signatures)) = self.edns {
            let size = u16::try_from(self.room()).unwrap_or(512);
            out.push(0);
            out.extend(OPT.to_be_bytes());
            out.extend(size.to_be_bytes());
            out.extend([0, 0, if signatures { 0x80 } else { 0 }, 0, 0, 0]);
        }
        out
    }

    /// An answer of our own: addresses, or none.
    #[must_use]
    pub fn reply(&self, code: Code, addresses: &[IpAddr], ttl_s: u32) -> Vec<u8> {
        let count = u16::try_from(addresses.len().min(ADDRESSES_MAX)).unwrap_or(0);
        let flags = RESPONSE | (self.flags & (WANT_RECURSION | UNCHECKED)) | CAN_RECURSE | code as u16;
        let mut out = Header { id: self.id, flags, counts: [1, count, 0, 0] }.bytes().to_vec();
        out.extend(self.question.iter());
        for address in addresses.iter().take(ADDRESSES_MAX) {
            let (kind, bytes) = match address {
                IpAddr::V4(v4) => (A, v4.octets().to_vec()),
                IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
            };
            out.extend([0xC0, 0x0C]);
            out.extend(kind.to_be_bytes());
            out.extend(INTERNET.to_be_bytes());
            out.extend(ttl_s.to_be_bytes());
            out.extend(u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
            out.extend(bytes);
        }
        out
    }

    /// What of `out` goes over UDP: all of it, or that it is too long for that.
    #[must_use]
    pub fn fitted(&self, out: Vec<u8>) -> Vec<u8> {
        if out.len() <= self.room() {
            return out;
        }
        let flags = word(&out, 2).unwrap_or(RESPONSE) | TRUNCATED;
        let mut short = Header { id: self.id, flags, counts: [1, 0, 0, 0] }.bytes().to_vec();
        short.extend(self.question.iter());
        short
    }

    /// The same for a name server's answer: `message` with the VM's id.
    #[must_use]
    pub fn passed_on(&self, mut message: Vec<u8>) -> Vec<u8> {
        if let Some(id) = message.get_mut(..2) {
            id.copy_from_slice(&self.id.to_be_bytes());
        }
        message
    }
}

/// What a name server answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The names from the one that was asked, over its aliases, to the one that has the addresses.
    pub names: Vec<Name>,
    /// The addresses of the last name.
    pub addresses: Vec<IpAddr>,
    /// For how long that holds: the shortest of all.
    pub ttl_s: u32,
    /// Whether there is more, over TCP.
    pub truncated: bool,
    /// Whether the server could not or would not say.
    pub failed: bool,
}

/// A message that is no answer to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAnswer;

/// Reads the answer to `query` as it was forwarded with `id`.
///
/// # Errors
/// When it is another's answer, or malformed.
pub fn read_answer(message: &[u8], id: u16, query: &Query) -> Result<Answer, NoAnswer> {
    let header = Header::read(message).ok_or(NoAnswer)?;
    if header.id != id || header.flags & RESPONSE == 0 || header.flags & OPCODE != 0 || header.counts[0] != 1 {
        return Err(NoAnswer);
    }
    let (name, at) = Name::read(message, HEADER_BYTES).map_err(|_| NoAnswer)?;
    if name != query.name || word(message, at) != Some(query.kind) || word(message, at + 2) != Some(INTERNET) {
        return Err(NoAnswer);
    }
    let truncated = header.flags & TRUNCATED != 0;
    let code = header.flags & 0xF;
    let failed = code != Code::Done as u16 && code != Code::NoName as u16;
    let mut aliases: Vec<(Name, Name, u32)> = Vec::new();
    let mut found: Vec<(Name, IpAddr, u32)> = Vec::new();
    for record in Records::new(message, at + 4, usize::from(header.counts[1])) {
        let record = match record {
            Ok(record) => record,
            // A server may cut a message off anywhere when it says so.
            Err(_) if truncated => break,
            Err(_) => return Err(NoAnswer),
        };
        let data = &message[record.data.clone()];
        match (record.class, record.kind) {
            (INTERNET, CNAME) => {
                let (to, end) = Name::read(message, record.data.start).map_err(|_| NoAnswer)?;
                if end > record.data.end {
                    return Err(NoAnswer);
                }
                aliases.push((record.name, to, record.ttl));
            }
            (INTERNET, A) => {
                let v4: [u8; 4] = data.try_into().map_err(|_| NoAnswer)?;
                found.push((record.name, Ipv4Addr::from(v4).into(), record.ttl));
            }
            (INTERNET, AAAA) => {
                let v6: [u8; 16] = data.try_into().map_err(|_| NoAnswer)?;
                found.push((record.name, Ipv6Addr::from(v6).into(), record.ttl));
            }
            _ => {}
        }
    }
    let mut answer = Answer { names: vec![name], ttl_s: u32::MAX, truncated, failed, ..Answer::default() };
    while let Some(last) = answer.names.last()
        && let Some((_, to, ttl_s)) = aliases.iter().find(|(from, ..)| from == last)
        && !answer.names.contains(to)
        && answer.names.len() <= ALIASES_MAX
    {
        answer.ttl_s = answer.ttl_s.min(*ttl_s);
        answer.names.push(to.clone());
    }
    for (of, address, ttl_s) in found {
        if answer.names.last() == Some(&of) && answer.addresses.len() < ADDRESSES_MAX {
            answer.ttl_s = answer.ttl_s.min(ttl_s);
            answer.addresses.push(address);
        }
    }
    Ok(answer)
}

struct Header {
    id: u16,
    flags: u16,
    /// Questions, answers, authority, additional.
    counts: [u16; 4],
}

impl Header {
    fn read(message: &[u8]) -> Option<Self> {
        let at = |n| word(message, n);
        Some(Self { id: at(0)?, flags: at(2)?, counts: [at(4)?, at(6)?, at(8)?, at(10)?] })
    }

    fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let words = [self.id, self.flags].into_iter().chain(self.counts);
        for (to, from) in out.chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&from.to_be_bytes());
        }
        out
    }

    /// To a query of which no question could be read.
    fn reply(&self, code: Code) -> [u8; HEADER_BYTES] {
        let flags = RESPONSE | (self.flags & (OPCODE | WANT_RECURSION)) | CAN_RECURSE | code as u16;
        Self { id: self.id, flags, counts: [0; 4] }.bytes()
    }
}

struct Record {
    name: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    data: std::ops::Range<usize>,
}

struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Records<'a> {
    fn new(message: &'a [u8], at: usize, count: usize) -> Self {
        Self { message, at, left: count.min(RECORDS_MAX) }
    }

    fn read(&mut self) -> Option<Record> {
        let (name, at) = Name::read(self.message, self.at).ok()?;
        let at_word = |n| word(self.message, at + n);
        let (kind, class) = (at_word(0)?, at_word(2)?);
        let ttl = u32::from(at_word(4)?) << 16 | u32::from(at_word(6)?);
        let length = usize::from(at_word(8)?);
        let data = at + 10..at + 10 + length;
        self.message.get(data.clone())?;
        self.at = data.end;
        Some(Record { name, kind, class, ttl, data })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, NoAnswer>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read().ok_or(NoAnswer);
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at.checked_add(2)?).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
