//! Packets that wanted to leave a VM, as they are told: what, to where, and its first bytes.
//!
//! Invariants: pure; whatever the bytes are, reading them ends; a list of them is bounded by [`FOREIGN_MAX`], and of one kind and
//! destination there is one entry.

use crate::model::Foreign;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// So many different destinations are kept of a VM; the last entry says that there were more.
pub const FOREIGN_MAX: usize = 1_000;
/// So many of the first bytes of a datagram are kept.
const BEGAN_MAX_BYTES: usize = 200;

/// What a packet, from its IP header on, wanted; nothing if it was for the loopback.
#[must_use]
pub fn read(packet: &[u8]) -> Option<Foreign> {
    let version = packet.first()? >> 4;
    let (to, protocol, rest): (IpAddr, u8, &[u8]) = match version {
        4 => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (Ipv4Addr::from(to).into(), packet[9], packet.get(header.max(20)..)?)
        }
        6 => {
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (Ipv6Addr::from(to).into(), packet[6], packet.get(40..)?)
        }
        _ => {
            return Some(Foreign { protocol: "other".into(), began: escaped(packet), ..Foreign::default() });
        }
    };
    if to.is_loopback() {
        return None;
    }
    let port = |at: usize| rest.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let with_port = SocketAddr::new(to, port(2)).to_string();
    Some(match protocol {
        6 => Foreign { protocol: "tcp".into(), to: with_port, ..Foreign::default() },
        17 => {
            let said = rest.get(8..).unwrap_or_default();
            let began = if port(2) == 53 { question(said) } else { None };
            let began = began.unwrap_or_else(|| escaped(said));
            Foreign { protocol: "udp".into(), to: with_port, began, ..Foreign::default() }
        }
        1 | 58 => Foreign { protocol: "icmp".into(), to: to.to_string(), ..Foreign::default() },
        n => Foreign { protocol: format!("ip {n}"), to: to.to_string(), began: escaped(rest), ..Foreign::default() },
    })
}

/// Adds one to a list, unless the same is there.
pub fn note(list: &mut Vec<Foreign>, one: Foreign) {
    let is_there = list.iter().any(|old| old.protocol == one.protocol && old.to == one.to && old.began == one.began);
    if is_there || list.len() > FOREIGN_MAX {
        return;
    }
    if list.len() == FOREIGN_MAX {
        let began = format!("more than {FOREIGN_MAX} destinations: the others are not kept");
        list.push(Foreign { protocol: "any".into(), began, ..Foreign::default() });
        return;
    }
    list.push(one);
}

/// The first bytes as text, with all else escaped.
fn escaped(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(BEGAN_MAX_BYTES)].escape_ascii().to_string()
}

/// The name that a DNS query asks for.
fn question(message: &[u8]) -> Option<String> {
    const HEADER_BYTES: usize = 12;
    let mut rest = message.get(HEADER_BYTES..)?;
    let mut labels = Vec::new();
    loop {
        let (length, behind) = rest.split_first()?;
        match usize::from(*length) {
            0 => break,
            // A pointer has no place in a question.
            64.. => return None,
            length => {
                labels.push(behind.get(..length)?.escape_ascii().to_string());
                rest = &behind[length..];
            }
        }
    }
    Some(format!("looks up {}", if labels.is_empty() { ".".into() } else { labels.join(".") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, to: [u8; 4], rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend(to);
        packet.extend(to);
        packet.extend(rest);
        packet
    }

    #[test]
    fn packets_are_told_by_what_they_want() {
        let syn = v4(6, [203, 0, 113, 9], &[0x80, 0, 0x11, 0x5c, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2]);
        let told = read(&syn).unwrap();
        assert_eq!((told.protocol.as_str(), told.to.as_str()), ("tcp", "203.0.113.9:4444"));
        let mut query = vec![0x80, 0, 0, 53, 0, 0, 0, 0];
        query.extend([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        query.extend(b"\x03www\x07example\0\0\x01\0\x01");
        let told = read(&v4(17, [10, 0, 0, 2], &query)).unwrap();
        assert_eq!((told.to.as_str(), told.began.as_str()), ("10.0.0.2:53", "looks up www.example"));
        let told = read(&v4(17, [10, 0, 0, 2], b"\x80\0\x10\0\0\0\0\0hi\x01")).unwrap();
        assert_eq!((told.to.as_str(), told.began.as_str()), ("10.0.0.2:4096", "hi\\x01"));
        assert_eq!(read(&v4(132, [10, 0, 0, 2], b"x")).unwrap().protocol, "ip 132");
        assert_eq!(read(&v4(6, [127, 0, 0, 1], &[0; 20])), None);
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend("2001:db8::5".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend(b"\0\x01\0\x35\0\0\0\0x");
        assert_eq!(read(&v6).unwrap().to, "[2001:db8::5]:53");
    }

    #[test]
    fn cut_packets_are_no_trouble() {
        for whole in [
            v4(6, [203, 0, 113, 9], &[1; 20]),
            v4(17, [8, 8, 8, 8], b"\x80\0\0\x35\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff"),
        ] {
            for length in 0..=whole.len() {
                drop(read(&whole[..length]));
            }
        }
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_list_of_them_is_bounded_and_says_so() {
        let mut list = Vec::new();
        for n in 0..3 * FOREIGN_MAX {
            let one = || Foreign { protocol: "tcp".into(), to: n.to_string(), ..Foreign::default() };
            note(&mut list, one());
            note(&mut list, one());
        }
        assert_eq!(list.len(), FOREIGN_MAX + 1);
        assert!(list[FOREIGN_MAX].began.contains("more than"));
    }
}
