//! Netlink messages: how the kernel is asked for interfaces, addresses, routes and filters.
//!
//! ```text
//!   length kind flags number port │ header of the kind │ attribute: length kind bytes, padded │ ...
//! ```
//!
//! Invariant: a [`Netlink`] acts in the network namespace in which it was opened, whoever holds it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A message asks for something.
pub(crate) const REQUEST: u16 = 1;
/// It is acknowledged.
pub(crate) const ACK: u16 = 4;
/// What it names must not be there yet.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// What it names is made.
pub(crate) const CREATE: u16 = 0x400;
/// What it names may be there, and is replaced.
pub(crate) const REPLACE: u16 = 0x100;
/// It stands behind the others.
pub(crate) const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;
const ANSWER_MAX_BYTES: usize = 16 << 10;

/// A socket to the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    number: u32,
}

impl From<OwnedFd> for Netlink {
    fn from(socket: OwnedFd) -> Self {
        // Far from the numbers that whoever opened it used.
        Self { socket, number: 1 << 20 }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netlink {
    /// For interfaces, addresses and routes of this thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn route() -> Result<Self, Errno> {
        Self::open(None)
    }

    /// The same of the namespace `there`, from one in `here`: this thread enters it, and comes back.
    ///
    /// # Errors
    /// The kernel's: `EPERM` without rights over both.
    pub fn route_of(there: BorrowedFd<'_>, here: BorrowedFd<'_>) -> Result<Self, Errno> {
        let enter = |namespace| move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network));
        enter(there)?;
        let opened = Self::route();
        enter(here)?;
        opened
    }

    /// For its filters.
    ///
    /// # Errors
    /// The kernel's.
    pub fn filter() -> Result<Self, Errno> {
        Self::open(Some(NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { socket, number: 0 })
    }

    /// Sends messages as one; all of them succeed, or the first error is returned. Whatever they ask for, only the last is
    /// acknowledged, and what failed: hundreds of acknowledgements are more than the socket holds, and lost.
    pub(crate) fn ask(&mut self, messages: &[Message]) -> Result<(), Errno> {
        let first = self.number.wrapping_add(1);
        let Some(end) = messages.iter().rposition(|message| message.flags & ACK != 0) else {
            return self.say(messages.iter().map(|message| (message, message.flags))).map(drop);
        };
        let quiet = messages.iter().enumerate().map(|(n, message)| {
            let flags = if n == end { message.flags } else { message.flags & !ACK };
            (message, flags)
        });
        let Some(last) = self.say(quiet)? else { return Ok(()) };
        self.answers(first, last, |_, error| match error {
            Some(e) => Err(e),
            None => Ok(()),
        })
    }

    /// The same for messages that do not depend on each other: what each of them led to. All ask for an acknowledgement.
    pub(crate) fn ask_each(&mut self, messages: &[Message]) -> Result<Vec<Result<(), Errno>>, Errno> {
        let first = self.number.wrapping_add(1);
        let mut results = vec![Ok(()); messages.len()];
        let Some(last) = self.say(messages.iter().map(|message| (message, message.flags)))? else { return Ok(results) };
        self.answers(first, last, |n, error| {
            if let (Some(result), Some(e)) = (results.get_mut(n as usize), error) {
                *result = Err(e);
            }
            Ok(())
        })?;
        Ok(results)
    }

    /// Sends, with these flags; the number of the last message that asks for an acknowledgement.
    fn say<'a>(&mut self, messages: impl Iterator<Item = (&'a Message, u16)>) -> Result<Option<u32>, Errno> {
        // What was not read of earlier answers takes the room of these.
        let mut old = [0u8; 512];
        while let Ok(_) | Err(Errno::NOBUFS | Errno::INTR) = recv(&self.socket, &mut old[..], RecvFlags::DONTWAIT) {}
        let mut bytes = Vec::with_capacity(512);
        let mut last = None;
        for (message, flags) in messages {
            self.number = self.number.wrapping_add(1);
            bytes.extend(message.bytes_with(flags, self.number));
            if flags & ACK != 0 {
                last = Some(self.number);
            }
        }
        send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(last)
    }

    /// Reads acknowledgements up to the one with the number `last`; `take` gets each, counted from `first`.
    fn answers(
        &mut self,
        first: u32,
        last: u32,
        mut take: impl FnMut(u32, Option<Errno>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut buffer = vec![0u8; ANSWER_MAX_BYTES];
        loop {
            // The kernel has answered before `send` returns: what is not there now was lost, and never comes.
            let n = match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((n, _)) => n,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(Errno::NOBUFS),
                Err(e) => return Err(e),
            };
            let mut rest = &buffer[..n];
            while rest.len() >= HEADER_BYTES + 4 {
                let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let (length, number) = (word(0) as usize, word(8));
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                if kind == ERROR && (first..=last).contains(&number) {
                    let code = word(HEADER_BYTES).cast_signed();
                    take(number - first, (code != 0).then(|| Errno::from_raw_os_error(-code)))?;
                    if number == last {
                        return Ok(());
                    }
                }
                rest = rest.get(length.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
    }
}

impl Netlink {
    /// All things of a kind, each as the kernel describes it: without the head of the message.
    pub(crate) fn list(&mut self, kind: u16, header: Vec<u8>) -> Result<Vec<Vec<u8>>, Errno> {
        const ALL: u16 = 0x300;
        const DONE: u16 = 3;
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let message = Message { kind, flags: ALL, header, attributes: Attributes::default() };
        send(&self.socket, &message.bytes(number), SendFlags::empty())?;
        let mut found = Vec::new();
        let mut buffer = vec![0u8; ANSWER_MAX_BYTES * 2];
        loop {
            let n = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((n, _)) => n,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e),
            };
            let mut rest = &buffer[..n];
            while rest.len() >= HEADER_BYTES {
                let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let length = (word(0) as usize).clamp(HEADER_BYTES, rest.len());
                let said = &rest[HEADER_BYTES..length];
                if word(8) == number {
                    match (u16::from_ne_bytes([rest[4], rest[5]]), said) {
                        (DONE, _) => return Ok(found),
                        (ERROR, [a, b, c, d, ..]) => match i32::from_ne_bytes([*a, *b, *c, *d]) {
                            0 => return Ok(found),
                            e => return Err(Errno::from_raw_os_error(-e)),
                        },
                        _ => found.push(said.to_vec()),
                    }
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
    }
}

impl Netlink {
    /// The one thing of a kind that is asked for, as the kernel describes it: without the head of the message.
    pub(crate) fn get(&mut self, kind: u16, header: Vec<u8>, attributes: Attributes) -> Result<Vec<u8>, Errno> {
        let message = Message { kind, flags: 0, header, attributes };
        self.say([(&message, 0)].into_iter())?;
        let mut buffer = vec![0u8; ANSWER_MAX_BYTES];
        // The kernel has answered before `send` returns.
        let n = loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((n, _)) => break n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Errno::NOBUFS),
                Err(e) => return Err(e),
            }
        };
        let (head, said) = buffer[..n].split_at_checked(HEADER_BYTES).ok_or(Errno::BADMSG)?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = (word(0) as usize).saturating_sub(HEADER_BYTES).min(said.len());
        match (u16::from_ne_bytes([head[4], head[5]]), said) {
            _ if word(8) != self.number => Err(Errno::BADMSG),
            (ERROR, [a, b, c, d, ..]) => match i32::from_ne_bytes([*a, *b, *c, *d]) {
                0 => Err(Errno::BADMSG),
                e => Err(Errno::from_raw_os_error(e.saturating_neg())),
            },
            _ => Ok(said[..length].to_vec()),
        }
    }
}

/// Reading attributes.
pub(crate) mod parse {
    /// The value of the first attribute of a kind.
    pub fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
        while let [a, b, c, d, ..] = attributes {
            let length = usize::from(u16::from_ne_bytes([*a, *b]));
            let value = attributes.get(4..length)?;
            if u16::from_ne_bytes([*c, *d]) & 0x3fff == kind {
                return Some(value);
            }
            attributes = attributes.get(length.next_multiple_of(4)..)?;
        }
        None
    }

    /// The same, a number in network order.
    pub fn be(attributes: &[u8], kind: u16) -> Option<u32> {
        find(attributes, kind)?.try_into().ok().map(u32::from_be_bytes)
    }
}

/// One message.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub kind: u16,
    pub flags: u16,
    pub header: Vec<u8>,
    pub attributes: Attributes,
}

impl Message {
    fn bytes(&self, number: u32) -> Vec<u8> {
        self.bytes_with(self.flags, number)
    }

    fn bytes_with(&self, flags: u16, number: u32) -> Vec<u8> {
        let length = HEADER_BYTES + self.header.len() + self.attributes.0.len();
        let mut out = Vec::with_capacity(length);
        out.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend((flags | REQUEST).to_ne_bytes());
        out.extend(number.to_ne_bytes());
        out.extend([0; 4]);
        out.extend(&self.header);
        out.extend(&self.attributes.0);
        out
    }
}

/// Attributes, one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// With bytes.
    pub fn with(mut self, kind: u16, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let length = u16::try_from(4 + value.len()).unwrap_or(4);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(&value[..usize::from(length) - 4]);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With text, and the zero byte that the kernel wants behind it.
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, bytes)
    }

    /// With a number in network order, as filters have them.
    pub fn with_be(self, kind: u16, value: u32) -> Self {
        self.with(kind, value.to_be_bytes())
    }

    /// With attributes within.
    pub fn with_nested(self, kind: u16, inner: Self) -> Self {
        self.with(kind | NESTED, inner.0)
    }

    /// Some bytes, then these: as the peer of a pair of interfaces is described.
    pub fn behind(self, mut header: Vec<u8>) -> Vec<u8> {
        header.extend(self.0);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let inner = Attributes::default().with_text(1, "lo");
        let outer = Attributes::default().with(3, [7]).with_nested(4, inner);
        assert_eq!(parse::find(&outer.0, 4).and_then(|inner| parse::find(inner, 1)), Some(&b"lo\0"[..]));
        assert_eq!(parse::find(&outer.0[..outer.0.len() - 1], 4), None);
        assert_eq!(outer.0, [5, 0, 3, 0, 7, 0, 0, 0, 12, 0, 4, 0x80, 7, 0, 1, 0, b'l', b'o', 0, 0]);
    }
}
