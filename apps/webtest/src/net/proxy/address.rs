//! Which addresses a VM may reach through the proxy: machines of the internet, and not what only this machine can reach. Which of the
//! internet's are near this machine does not show in an address: `fvm_net::near` asks the kernel.
//!
//! Invariants: pure; the address that is looked at is the one that is connected to, never a name that is looked up a second time; an
//! address that wraps another one is judged by that.

use fvm_net::near::wrapped;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no network: write an address, or one with a number of bits, as in 192.0.2.0/24")]
pub struct NoNetwork(pub String);

impl std::str::FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let no = || NoNetwork(text.to_owned());
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: IpAddr = ip.parse().map_err(|_| no())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| no())?;
        if bits > most { Err(no()) } else { Ok(Self { ip, bits }) }
    }
}

impl Network {
    /// Whether `ip` is one of its.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.octets(), b.octets(), self.bits),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.octets(), b.octets(), self.bits),
            _ => false,
        }
    }
}

fn same<const N: usize>(a: [u8; N], b: [u8; N], bits: u8) -> bool {
    a.iter().zip(b).enumerate().all(|(n, (a, b))| {
        let left = usize::from(bits).saturating_sub(n * 8).min(8);
        let mask = if left == 0 { 0 } else { 0xFFu8 << (8 - left) };
        a & mask == b & mask
    })
}

/// Whether `ip` is a machine of the internet. Source: the registries of special addresses, RFC 6890 and its successors, and what
/// wraps an IPv4 address in one of IPv6.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    match (a, b, c) {
        // This machine, private, loopback, groups and reserved.
        (0 | 10 | 127 | 224.., ..)
        // Carriers' private, link-local with the metadata of clouds, private.
        | (100, 64..=127, _) | (169, 254, _) | (172, 16..=31, _) | (192, 168, _)
        // Protocols, documentation, the old 6to4 relay, benchmarks (fvm's own), documentation.
        | (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => false,
        _ => true,
    }
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    if let Some(v4) = wrapped(v6) {
        return is_public_v4(v4);
    }
    match v6.segments() {
        // Teredo, benchmarks, identifiers: all below 2001::/23; documentation.
        [0x2001, 0..=0x1FF, ..] | [0x2001, 0xDB8, ..] | [0x3FFF, 0..=0xFFF, ..] => false,
        // What is given out to the internet; all else is local, a group, or nobody's.
        [first, ..] => first & 0xE000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_machines_of_the_internet_are_public() {
        for yes in
            ["1.1.1.1", "93.184.216.34", "100.63.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "64:ff9b::101:101"]
        {
            assert!(is_public(yes.parse().unwrap()), "{yes}");
        }
        for no in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.9.9",
            "192.168.1.1",
            "192.0.0.192",
            "198.18.0.1",
            "198.19.255.1",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:c0a8:101::1",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
        ] {
            assert!(!is_public(no.parse().unwrap()), "{no}");
        }
    }

    #[test]
    fn networks_are_read_and_hold() {
        let has = |net: &str, ip: &str| net.parse::<Network>().unwrap().has(ip.parse().unwrap());
        assert!(has("127.0.0.0/8", "127.9.9.9") && !has("127.0.0.0/8", "128.0.0.1"));
        assert!(has("0.0.0.0/0", "8.8.8.8") && !has("0.0.0.0/0", "::1"));
        assert!(has("10.0.0.128/25", "10.0.0.200") && !has("10.0.0.128/25", "10.0.0.5"));
        assert!(has("::1", "::1") && !has("::1", "::2"));
        for bad in ["", "x", "1.2.3.4/33", "1.2.3.4/-1", "::1/129", "1.2.3.4/"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
