//! What a VM may reach: rules as data.
//!
//! ```text
//!   allow = ["mirror.test:80", "*.example.org", "10.1.0.0/16", "[fd00::]/8:443"]     deny = [...]     private = false
//! ```
//!
//! Invariant: pure. Order of decision: what is never reached; what is denied; what is allowed, and with an allow list
//! nothing else; private networks, unless open; everything.

use crate::NamePattern;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What a VM may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reach {
    /// Only these, if there is a list.
    pub allow: Option<Vec<To>>,
    /// Not these.
    pub deny: Vec<To>,
    /// Private networks, link-local addresses (where clouds have their metadata) and the like are open.
    pub private: bool,
}

impl Default for Reach {
    fn default() -> Self {
        Self { allow: None, deny: Vec::new(), private: true }
    }
}

/// 65536 private addresses, of which each VM of root's gets one: `10.207.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range(Ipv4Addr);

impl Range {
    /// Its first address.
    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        self.0
    }
}

impl Default for Range {
    fn default() -> Self {
        Self(Ipv4Addr::new(10, 207, 0, 0))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/16", self.0)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first = text.strip_suffix("/16").and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let first = first.filter(|ip| ip.octets()[2..] == [0, 0]);
        let first =
            first.ok_or_else(|| format!("'{text}' is not a range for VMs; give 65536 addresses, as 10.207.0.0/16"))?;
        if first.is_private() || Net::v4(100, 64, 0, 0, 10).contains(&first.into()) {
            Ok(Self(first))
        } else {
            Err(format!("'{text}' is not private: VMs may have addresses of 10/8, 172.16/12, 192.168/16 and 100.64/10"))
        }
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// Which machines.
    pub what: What,
    /// Only this port of theirs.
    pub port: Option<u16>,
}

/// Machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// By name.
    Name(NamePattern),
    /// By address.
    Net(Net),
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// Its first address.
    pub ip: IpAddr,
    /// How many bits all have in common.
    pub prefix: u8,
}

impl Net {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(high: u16, prefix: u8) -> Self {
        Self { ip: IpAddr::V6(Ipv6Addr::new(high, 0, 0, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether `ip` lies in it.
    #[must_use]
    pub fn contains(&self, ip: &IpAddr) -> bool {
        let shifted = |bits: u128, all: u8| bits.checked_shr(u32::from(all - self.prefix.min(all))).unwrap_or(0);
        match (self.ip, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                shifted(u128::from(net.to_bits()), 32) == shifted(u128::from(ip.to_bits()), 32)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => shifted(net.to_bits(), 128) == shifted(ip.to_bits(), 128),
            _ => false,
        }
    }
}

/// Never reached through a router: addresses that mean "this machine" to some socket on the way, and multicast.
pub const NEVER: &[Net] = &[
    Net::v4(0, 0, 0, 0, 8),
    Net::v4(127, 0, 0, 0, 8),
    Net::v4(224, 0, 0, 0, 3),
    Net { ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 96 },
    Net { ip: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xFFFF, 0, 0)), prefix: 96 },
    Net::v6(0xFF00, 8),
];

/// Private, shared, link-local.
pub const PRIVATE: &[Net] = &[
    Net::v4(10, 0, 0, 0, 8),
    Net::v4(100, 64, 0, 0, 10),
    Net::v4(169, 254, 0, 0, 16),
    Net::v4(172, 16, 0, 0, 12),
    Net::v4(192, 168, 0, 0, 16),
    Net::v6(0xFC00, 7),
    Net::v6(0xFE80, 10),
    Net::v6(0xFEC0, 10),
];

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |digits: &str| match digits.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("'{text}': '{digits}' is not a port, 1 to 65535")),
        };
        if let Some(rest) = text.strip_prefix('[') {
            let Some((ip, rest)) = rest.split_once(']') else {
                return Err(format!("'{text}': ']' is missing"));
            };
            let (prefix, after) = rest.split_once(':').map_or((rest, None), |(p, after)| (p, Some(after)));
            let what = What::Net(net(text, &format!("{ip}{prefix}"))?);
            return Ok(Self { what, port: after.map(port).transpose()? });
        }
        // An IPv6 address has colons of its own: with a port it stands in brackets.
        if text.matches(':').count() > 1 {
            return Ok(Self { what: What::Net(net(text, text)?), port: None });
        }
        let (machine, digits) = text.split_once(':').map_or((text, None), |(m, d)| (m, Some(d)));
        let looks_like_address = machine.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'/');
        let what = if looks_like_address { What::Net(net(text, machine)?) } else { What::Name(machine.parse()?) };
        Ok(Self { what, port: digits.map(port).transpose()? })
    }
}

fn net(whole: &str, text: &str) -> Result<Net, String> {
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(i, p)| (i, Some(p)));
    let wrong = || format!("'{whole}' is not an address or network, as 10.0.0.0/8 or [fd00::]/8:443");
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let all = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Ok(all), str::parse).map_err(|_| wrong())?;
    if prefix > all { Err(wrong()) } else { Ok(Net { ip, prefix }) }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Name(name) => name.fmt(f)?,
            What::Net(Net { ip: IpAddr::V6(ip), prefix }) => write!(f, "[{ip}]/{prefix}")?,
            What::Net(Net { ip, prefix }) => write!(f, "{ip}/{prefix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Serialize for To {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// A published port: on the VM's address on the host, and in the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// On the host.
    pub host: u16,
    /// In the VM.
    pub vm: u16,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |digits: &str| digits.parse::<u16>().ok().filter(|p| *p > 0);
        let (host, vm) = text.split_once(':').unwrap_or((text, text));
        match (port(host), port(vm)) {
            (Some(host), Some(vm)) => Ok(Self { host, vm }),
            _ => Err(format!("'{text}' is not a port, nor two as HOST:VM; a port is 1 to 65535")),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_name_or_a_network_with_or_without_a_port() {
        for (text, want) in [
            ("Mirror.test:80", "mirror.test:80"),
            ("*.example.org", "*.example.org"),
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("10.1.2.3:22", "10.1.2.3/32:22"),
            ("fd00::1", "[fd00::1]/128"),
            ("[fd00::]/8:443", "[fd00::]/8:443"),
            ("[fd00::1]:443", "[fd00::1]/128:443"),
        ] {
            assert_eq!(text.parse::<To>().unwrap().to_string(), want);
        }
        for bad in ["", ":80", "a.test:0", "a.test:x", "10.0.0.0/33", "1.2.3", "[fd00::1", "fd00::/129", "a b:80"] {
            assert!(bad.parse::<To>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_contains_what_begins_as_it_does() {
        let lies = |net: &str, ip: &str| match net.parse::<To>().unwrap().what {
            What::Net(net) => net.contains(&ip.parse().unwrap()),
            What::Name(_) => panic!(),
        };
        assert!(lies("172.16.0.0/12", "172.31.255.255") && !lies("172.16.0.0/12", "172.32.0.0"));
        assert!(lies("0.0.0.0/0", "8.8.8.8") && !lies("0.0.0.0/0", "::1") && lies("10.0.0.1", "10.0.0.1"));
        let any = |nets: &[Net], ip: &str| nets.iter().any(|n| n.contains(&ip.parse().unwrap()));
        assert!(any(NEVER, "::ffff:127.0.0.1") && any(NEVER, "::1") && !any(NEVER, "64:ff9b::1"));
        assert!(any(PRIVATE, "169.254.169.254") && any(PRIVATE, "fd12::1") && !any(PRIVATE, "2001:db8::1"));
    }
}
