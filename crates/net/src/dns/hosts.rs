//! `/etc/hosts` and `/etc/resolv.conf` as text.
//!
//! Invariant: pure, and bounded: lines that mean nothing are passed over, as the C library does.

use fvm_model::Name;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Most names of a hosts file that count.
const HOSTS_MAX: usize = 65_536;
/// Most name servers that count.
const SERVERS_MAX: usize = 4;

/// Names with their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(BTreeMap<Name, Vec<IpAddr>>);

impl Hosts {
    /// Reads the text of a hosts file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut hosts: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or("").split_whitespace();
            let Some(address) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) else { continue };
            for name in words.filter_map(|w| w.parse::<Name>().ok()) {
                if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&name) {
                    continue;
                }
                let known = hosts.entry(name).or_default();
                if !known.contains(&address) && known.len() < super::message::ADDRESSES_MAX {
                    known.push(address);
                }
            }
        }
        Self(hosts)
    }

    /// The addresses of `name`.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&[IpAddr]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &[IpAddr])> {
        self.0.iter().map(|(name, addresses)| (name, addresses.as_slice()))
    }
}

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    /// The name servers, the first first.
    pub servers: Vec<SocketAddr>,
    /// Domains in which bare names are looked for.
    pub search: Vec<Name>,
}

impl Resolv {
    /// Reads the text of a resolv.conf. `scope` gives the number of an interface, for `fe80::1%eth0`.
    #[must_use]
    pub fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Self {
        let mut resolv = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|w| server(w, &scope));
                    if let Some(server) = server.filter(|_| resolv.servers.len() < SERVERS_MAX) {
                        resolv.servers.push(server);
                    }
                }
                Some("search" | "domain") => {
                    resolv.search = words.filter_map(|w| w.parse().ok()).take(16).collect();
                }
                _ => {}
            }
        }
        resolv
    }
}

fn server(word: &str, scope: &impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let (address, zone) = word.split_once('%').map_or((word, None), |(a, z)| (a, Some(z)));
    match zone {
        None => Some(SocketAddr::new(address.parse().ok()?, 53)),
        Some(zone) => {
            let id = zone.parse().ok().or_else(|| scope(zone))?;
            Some(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, 53, 0, id).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_gives_each_name_all_its_addresses() {
        let hosts =
            Hosts::parse("# c\n10.0.0.1 a.test A # b.test\n::1 a.test\nnonsense x\n10.0.0.1 a.test\n10.0.0.2\n");
        let get =
            |n: &str| hosts.get(&n.parse().unwrap()).map(|a| a.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(get("A.test"), Some(vec!["10.0.0.1".into(), "::1".into()]));
        assert_eq!(get("a"), Some(vec!["10.0.0.1".into()]));
        assert_eq!((get("b.test"), get("x")), (None, None));
    }

    #[test]
    fn a_resolv_conf_gives_servers_with_scopes_and_the_last_search_list() {
        let text = "; c\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver fe80::2%gone\nnameserver x\n\
                    domain old.test\nsearch a.test b.test\noptions edns0\n";
        let resolv = Resolv::parse(text, |zone| (zone == "eth0").then_some(7));
        let servers: Vec<_> = resolv.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[fe80::1%7]:53"]);
        assert_eq!(resolv.search.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.test", "b.test"]);
        assert_eq!(Resolv::parse("", |_| None), Resolv::default());
    }
}
