//! Which addresses are near this machine: its own, its neighbours', and what it reaches without anybody in between. Of these an
//! address alone does not tell: an office's IPv6 network is made of addresses of the internet.
//!
//! ```text
//!   address ─► in the network of one of the own addresses? ─────────────────────────────────────────► near
//!      └─────► the kernel's way there ─┬─ this machine, a group, all of a network ──────────────────► near
//!                                      ├─ by a gateway, or none ────────────────────────────────────► not near
//!                                      └─ straight, by a route to ─┬─ some of the net ──────────────► near
//!                                                                  └─ all of it (a dialled line) ───► not near
//! ```
//!
//! The kernel is asked for each address, with its rules and for this process's user, so what is said holds for a connection that is
//! made now. What lies behind a gateway cannot be told from the internet.
//!
//! Invariant: it asks only; nothing of the host is changed. Source: linux/rtnetlink.h, linux/if_addr.h.

use crate::netlink::{Attributes, Netlink, parse};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv6Addr};

const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER_BYTES: usize = 8;
/// `struct rtmsg`.
const ROUTE_HEADER_BYTES: usize = 12;
/// IPv6 machines of one link have a network of so many bits, whatever of it is written at an interface (RFC 4291, 2.5.4).
const LINK_BITS: u8 = 64;

/// Not the way itself is wanted, but the route that it is by: `RTM_F_FIB_MATCH`.
const ITS_ROUTE: u32 = 0x2000;
/// To one machine: `RTN_UNICAST`.
const UNICAST: u8 = 1;

/// The kernel's way to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// What kind of place it is: `RTN_*`.
    kind: u8,
    /// Whether somebody in between carries it on.
    is_carried: bool,
    /// Bits of the network that the route is for.
    bits: u8,
}

impl Way {
    /// Reads what the kernel said: `struct rtmsg` and its attributes.
    fn read(said: &[u8]) -> Option<Self> {
        const GATEWAY: u16 = 5;
        const VIA: u16 = 18;
        let (header, attributes) = said.split_at_checked(ROUTE_HEADER_BYTES)?;
        let is_carried = [GATEWAY, VIA].into_iter().any(|kind| parse::find(attributes, kind).is_some());
        Some(Self { kind: header[7], is_carried, bits: header[1] })
    }

    /// Whether it leads to one machine with nobody in between.
    fn is_straight(self) -> bool {
        self.kind == UNICAST && !self.is_carried
    }

    /// Whether it leads to somewhere near. `is_v4`: of which net.
    fn is_near(self, is_v4: bool) -> bool {
        const BLACKHOLE: u8 = 6;
        const UNREACHABLE: u8 = 7;
        const PROHIBITED: u8 = 8;
        const THROWN: u8 = 9;
        match self.kind {
            // Halves of all, as programs for private networks make them; all that is given out of IPv6 is 2000::/3.
            UNICAST => self.is_straight() && self.bits > if is_v4 { 1 } else { 3 },
            BLACKHOLE | UNREACHABLE | PROHIBITED | THROWN => false,
            _ => true,
        }
    }
}

/// An own address, and the network that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Own {
    ip: IpAddr,
    bits: u8,
}

impl Own {
    /// Reads what the kernel said of an address: `struct ifaddrmsg` and its attributes. Where a link has two ends, both.
    fn read(said: &[u8]) -> Vec<Self> {
        const ADDRESS: u16 = 1;
        const LOCAL: u16 = 2;
        let Some((header, attributes)) = said.split_at_checked(ADDRESS_HEADER_BYTES) else { return Vec::new() };
        let ip = |bytes: &[u8]| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        };
        let found = [ADDRESS, LOCAL].into_iter().filter_map(|kind| parse::find(attributes, kind)).filter_map(ip);
        found.map(|ip| Self { ip, bits: header[1] }).collect()
    }

    fn has(self, ip: IpAddr) -> bool {
        let differs = |bits: u32, most: u32| bits >= most;
        match (self.ip, ip) {
            // No network of a link: the address alone.
            (own, ip) if self.bits <= 3 => own == ip,
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                differs((own.to_bits() ^ ip.to_bits()).leading_zeros(), self.bits.min(32).into())
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                differs((own.to_bits() ^ ip.to_bits()).leading_zeros(), self.bits.min(LINK_BITS).into())
            }
            _ => false,
        }
    }
}

/// What is near the network namespace of the thread that looked.
#[derive(Debug)]
pub struct Near {
    socket: Netlink,
    own: Vec<Own>,
}

impl Near {
    /// Looks at this thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn look() -> Result<Self, Errno> {
        let mut socket = Netlink::route()?;
        let said = socket.list(GET_ADDRESS, vec![0; ADDRESS_HEADER_BYTES])?;
        Ok(Self { socket, own: said.iter().flat_map(|one| Own::read(one)).collect() })
    }

    /// Whether `ip` is near. What wraps an IPv4 address for sockets (`::ffff:192.0.2.1`) is that.
    ///
    /// # Errors
    /// The kernel's.
    pub fn has(&mut self, ip: IpAddr) -> Result<bool, Errno> {
        let ip = ip.to_canonical();
        if self.own.iter().any(|own| own.has(ip)) {
            return Ok(true);
        }
        let Some(way) = self.way(ip, 0)? else { return Ok(false) };
        let is_v4 = ip.is_ipv4();
        // Which route that is by is asked only where it matters.
        if !way.is_straight() {
            return Ok(way.is_near(is_v4));
        }
        // A kernel that cannot say leaves it straight: near.
        Ok(self.way(ip, ITS_ROUTE)?.is_none_or(|route| Way { bits: route.bits, ..way }.is_near(is_v4)))
    }

    /// The way to an address; nothing if there is none.
    fn way(&mut self, ip: IpAddr, flags: u32) -> Result<Option<Way>, Errno> {
        const DESTINATION: u16 = 1;
        const INET: u8 = 2;
        const INET6: u8 = 10;
        let (family, bits, bytes) = match ip {
            IpAddr::V4(v4) => (INET, 32, v4.octets().to_vec()),
            IpAddr::V6(v6) => (INET6, 128, v6.octets().to_vec()),
        };
        let mut header = vec![family, bits, 0, 0, 0, 0, 0, 0];
        header.extend(flags.to_ne_bytes());
        match self.socket.get(GET_ROUTE, header, Attributes::default().with(DESTINATION, bytes)) {
            Ok(said) => Way::read(&said).map(Some).ok_or(Errno::BADMSG),
            // None; one that leads nowhere; no IPv6.
            Err(
                Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::ACCESS
                | Errno::INVAL
                | Errno::AFNOSUPPORT
                | Errno::OPNOTSUPP
                | Errno::AGAIN,
            ) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The address within one of IPv6 that a translator or a tunnel carries on to the IPv4 net: 64:ff9b::/96 (RFC 6052), 2002::/16
/// (RFC 3056), and ::ffff:0:0/96, which is the address itself.
#[must_use]
pub fn wrapped(ip: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xFFFF, high, low] | [0x64, 0xFF9B, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some((u32::from(high) << 16 | u32::from(low)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_near_unless_somebody_carries_it_on_or_it_is_for_all() {
        let is_near = |kind, is_carried, bits, is_v4| Way { kind, is_carried, bits }.is_near(is_v4);
        // Straight: a neighbour's network, a route to a private network's other end.
        assert!(is_near(1, false, 24, true) && is_near(1, false, 2, true) && is_near(1, false, 64, false));
        // A dialled line, or both halves of one.
        assert!(!is_near(1, false, 0, true) && !is_near(1, false, 1, true) && !is_near(1, false, 3, false));
        // A gateway, whatever the route is for.
        assert!(!is_near(1, true, 0, true) && !is_near(1, true, 24, true));
        // This machine, all of a network, anybody, a group.
        assert!((2..=5).all(|kind| is_near(kind, false, 0, true) && is_near(kind, true, 0, false)));
        // Nowhere.
        assert!(!(6..=9).any(|kind| is_near(kind, false, 32, true)));
    }

    #[test]
    fn an_own_address_has_its_network_and_of_ipv6_the_whole_link() {
        let has = |own: &str, bits, ip: &str| Own { ip: own.parse().unwrap(), bits }.has(ip.parse().unwrap());
        assert!(has("8.1.2.3", 24, "8.1.2.9") && !has("8.1.2.3", 24, "8.1.3.9"));
        assert!(has("8.1.2.3", 32, "8.1.2.3") && !has("8.1.2.3", 32, "8.1.2.2"));
        assert!(has("2a00:1::5", 64, "2a00:1::9") && !has("2a00:1::5", 64, "2a00:1:0:1::9"));
        assert!(has("2a00:1::5", 128, "2a00:1::9:9") && has("2a00:1::5", 48, "2a00:1:0:7::1"));
        // A network of all is none.
        assert!(has("8.1.2.3", 0, "8.1.2.3") && !has("8.1.2.3", 0, "9.9.9.9"));
        assert!(!has("8.1.2.3", 8, "2a00::1"));
    }

    #[test]
    fn what_the_kernel_says_is_read_and_cut_answers_are_none() {
        let mut route = vec![2u8, 24, 0, 0, 254, 2, 253, 1, 0, 0, 0, 0];
        assert_eq!(Way::read(&route), Some(Way { kind: 1, is_carried: false, bits: 24 }));
        route.extend([8, 0, 5, 0, 8, 8, 8, 1]);
        assert_eq!(Way::read(&route), Some(Way { kind: 1, is_carried: true, bits: 24 }));
        assert_eq!(Way::read(&route[..11]), None);
        let address = [2u8, 30, 0, 0, 1, 0, 0, 0, 8, 0, 1, 0, 8, 8, 8, 1, 8, 0, 2, 0, 8, 8, 8, 2];
        let of = |last| Own { ip: IpAddr::from([8, 8, 8, last]), bits: 30 };
        assert_eq!(Own::read(&address), [of(1), of(2)]);
        for length in 0..address.len() {
            drop(Own::read(&address[..length]));
        }
    }

    #[test]
    fn this_machine_is_near_itself() {
        let mut near = Near::look().unwrap();
        assert!(near.has("127.0.0.1".parse().unwrap()).unwrap());
        assert!(near.has("::ffff:127.0.0.1".parse().unwrap()).unwrap());
    }

    #[test]
    fn addresses_are_found_within_others() {
        let within = |ip: &str| wrapped(ip.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(within("64:ff9b::801:203"), Some("8.1.2.3".into()));
        assert_eq!(within("2002:801:203::1"), Some("8.1.2.3".into()));
        assert_eq!(within("::ffff:8.1.2.3"), Some("8.1.2.3".into()));
        assert_eq!(within("2a00::1"), None);
    }
}
