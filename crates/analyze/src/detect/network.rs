//! The network: scans, sweeps, mining pools, metadata services, floods of names, container engines.
//!
//! ```text
//!   by session   address ─► ports     20 of one address      port-scan
//!                private addresses    16 of them             network-sweep
//!   by process   lookups (port 53)    300                    dns-flood
//! ```
//!
//! A shell script scans with one short process after another: what belongs together is the session.

use super::Detector;
use crate::found::{Found, Sighting, command, text};
use crate::rules;
use crate::world::World;
use fvm_model::event::{Event, Kind, Phase, ProcessKey};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;

/// Ports of one address within [`WITHIN_SECS`].
pub const PORTS: usize = 20;
/// Private addresses within [`WITHIN_SECS`].
pub const ADDRESSES: usize = 16;
/// Lookups of one process within [`WITHIN_SECS`].
pub const LOOKUPS: usize = 300;
const WITHIN_SECS: i64 = 120;
/// Things that are remembered at most.
const MAX: usize = 100_000;

/// Ports that mining pools have and hardly anybody else.
const POOL_PORTS: &[u16] = &[3333, 4444, 5555, 7777, 9999, 14433, 14444, 45560, 45700];
/// Words of miners' command lines.
const MINER_WORDS: &[&[u8]] = &[
    b"stratum+tcp:",
    b"stratum+ssl:",
    b"stratum2+tcp:",
    b"stratum+tls:",
    b"--donate-level",
    b"--randomx",
    b"--cryptonight",
];
const MINERS: &[&[u8]] =
    &[b"xmrig", b"minerd", b"cpuminer", b"ethminer", b"t-rex", b"nbminer", b"xmr-stak", b"cgminer", b"bfgminer"];
/// Sockets of container engines.
const ENGINES: &[&[u8]] = &[
    b"/docker.sock",
    b"/containerd.sock",
    b"/podman.sock",
    b"/crio.sock",
    b"/buildkitd.sock",
    b"/lxd/unix.socket",
    b"/incus/unix.socket",
];
const ENGINE_TOOLS: &[&str] = &[
    "docker",
    "docker-*",
    "dockerd",
    "containerd*",
    "ctr",
    "nerdctl",
    "podman",
    "buildah",
    "crictl",
    "kubelet",
    "lxc",
    "lxd",
    "incus",
    "buildctl",
    "buildkitd",
    "python3-docker",
];

/// What one session, or process, has reached for lately.
#[derive(Debug)]
struct Lately<T: Ord> {
    seen: BTreeMap<T, (i64, u64)>,
    told: bool,
}

impl<T: Ord> Default for Lately<T> {
    fn default() -> Self {
        Self { seen: BTreeMap::new(), told: false }
    }
}

impl<T: Ord> Lately<T> {
    /// Adds one; the events of all of them when there are `many`, for the first time.
    fn add(&mut self, what: T, event: &Event, many: usize) -> Option<Vec<u64>> {
        let now = event.ts.secs;
        if self.seen.len() >= many {
            self.seen.retain(|_, (at, _)| now.saturating_sub(*at) <= WITHIN_SECS);
        }
        if self.seen.len() < MAX {
            self.seen.entry(what).or_insert((now, event.seq));
        }
        let is_many = self.seen.values().filter(|(at, _)| now.saturating_sub(*at) <= WITHIN_SECS).count() >= many;
        if self.told || !is_many {
            return None;
        }
        self.told = true;
        let mut events: Vec<u64> = self.seen.values().map(|(_, seq)| *seq).collect();
        events.sort_unstable();
        Some(events)
    }
}

/// Looks at the network.
#[derive(Debug, Default)]
pub struct Network {
    ports: HashMap<(u32, IpAddr), Lately<u16>>,
    addresses: HashMap<u32, Lately<IpAddr>>,
    lookups: HashMap<ProcessKey, Lately<u64>>,
}

/// The address that an event is about.
#[must_use]
pub fn address(event: &Event) -> Option<IpAddr> {
    let is_network = matches!(event.args.family.as_deref(), Some("inet" | "inet6"));
    let text = event.args.address.as_ref().filter(|_| is_network)?.0.to_str()?;
    match text.parse().ok()? {
        IpAddr::V6(v6) => Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)),
        v4 => Some(v4),
    }
}

/// Whether an event reaches for something beyond this machine.
#[must_use]
pub fn is_outside(event: &Event) -> bool {
    // A look-up of what the own address would be.
    event.args.port != Some(0) && address(event).is_some_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            v4.is_private()
                || (v4.is_link_local() && v4 != METADATA)
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn is_metadata(ip: IpAddr) -> bool {
    let v6: [std::net::Ipv6Addr; 1] = [std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)];
    ip == IpAddr::V4(METADATA)
        || ip == IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200))
        || v6.iter().any(|known| ip == IpAddr::V6(*known))
}

impl Network {
    fn reached(&mut self, event: &Event, world: &World, found: &mut Found) {
        let Some(ip) = address(event) else { return };
        let (key, port) = (event.process(), event.args.port.unwrap_or(0));
        // Which address would be used is asked so: nothing is sent.
        if port == 0 || ip.is_unspecified() {
            return;
        }
        let at = Some(event.ts);
        if port == 53
            && self.lookups.len() < MAX
            && let Some(events) = self.lookups.entry(key).or_default().add(event.seq, event, LOOKUPS)
        {
            let what = format!("asked for {LOOKUPS} names within {WITHIN_SECS} seconds");
            found.add(&rules::DNS_FLOOD, &Sighting { what, key: Some(key), at, events: &events, paths: &[] });
        }
        if self.ports.len() < MAX
            && let Some(events) = self.ports.entry((event.sid, ip)).or_default().add(port, event, PORTS)
        {
            let what = format!("tried {} ports of {ip}", events.len());
            found.add(&rules::PORT_SCAN, &Sighting { what, key: Some(key), at, events: &events, paths: &[] });
        }
        if is_private(ip)
            && let Some(events) = self.addresses.entry(event.sid).or_default().add(ip, event, ADDRESSES)
        {
            let what = format!("tried {} private addresses, {ip} among them", events.len());
            found.add(&rules::NETWORK_SWEEP, &Sighting { what, key: Some(key), at, events: &events, paths: &[] });
        }
        const CLOUD: &[&str] = &["cloud-init*", "waagent", "google_*", "aws", "gcloud", "az"];
        if is_metadata(ip) && port == 80 && !world.is_one_of(key, CLOUD) {
            found.event(&rules::METADATA, event, format!("asked {ip}"), &[]);
        }
        if POOL_PORTS.contains(&port)
            && event.kind == Kind::Connect
            && !ip.is_loopback()
            && !is_private(ip)
            && world.is_own(key).is_none()
        {
            let exe = world.process(key).map(|process| process.file.clone()).unwrap_or_default();
            found.event(&rules::MINING, event, format!("a program of the VM's talked to {ip}, port {port}"), &[&exe]);
        }
    }

    fn miner(event: &Event, world: &World, found: &mut Found) {
        let Some(process) = world.process(event.process()) else { return };
        let by_name = MINERS.contains(&crate::world::name_of(&process.file));
        // 'grep stratum+tcp:' looks for one.
        let is_looking = world.is_one_of(
            event.process(),
            &[
                "grep", "rg", "sed", "awk", "git", "sh", "bash", "dash", "cat", "echo", "printf", "less", "vim*", "ps",
                "pgrep",
            ],
        );
        let by_words = process.argv.iter().skip(1).any(|arg| MINER_WORDS.iter().any(|word| arg.starts_with(word)));
        if by_name || (by_words && !is_looking) {
            let path: &[&[u8]] = if world.made(&process.file).is_some() { &[&process.file] } else { &[] };
            found.event(&rules::MINING, event, format!("ran {}", command(&process.argv)), path);
        }
    }
}

impl Detector for Network {
    fn see(&mut self, event: &Event, world: &World, found: &mut Found) {
        match (event.kind, event.phase) {
            (Kind::Connect, _) if event.args.family.as_deref() == Some("unix") => {
                let path = event.args.address.as_ref().map(|address| address.0.as_bytes()).unwrap_or_default();
                if ENGINES.iter().any(|engine| path.ends_with(engine))
                    && !world.is_one_of(event.process(), ENGINE_TOOLS)
                {
                    found.event(&rules::DOCKER_SOCKET, event, format!("connected to {}", text(path)), &[]);
                }
            }
            (Kind::Connect | Kind::Send, _) => self.reached(event, world, found),
            (Kind::Exec, Phase::Done) => Self::miner(event, world, found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::testing::Story;

    #[test]
    fn many_ports_or_private_addresses_are_found_and_many_servers_are_not() {
        let python = |story: &mut Story| story.run(10, "/usr/bin/python3", &["python3"]);
        let mut story = Story::new();
        python(&mut story);
        (1..=20).for_each(|port| story.connect(10, "192.0.2.1", port));
        assert_eq!(story.ids(), ["port-scan"]);
        let mut story = Story::new();
        python(&mut story);
        (1..=16).for_each(|n| story.connect(10, &format!("10.0.0.{n}"), 22));
        assert_eq!(story.ids(), ["network-sweep"]);
        let mut story = Story::new();
        python(&mut story);
        for n in 1..=100 {
            story.connect(10, &format!("198.51.100.{n}"), 443);
            story.connect(10, "192.0.2.1", 443);
            story.connect(10, "10.0.0.1", 53);
        }
        assert_eq!(story.ids(), [""; 0]);
    }

    #[test]
    fn pools_metadata_and_miners_are_known() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.connect(10, "169.254.169.254", 80);
        story.write(10, "/w/m");
        story.run_under(11, 10, "/w/m", &["m", "-o", "stratum+tcp://pool.test:3333"]);
        story.run_under(12, 10, "/usr/bin/grep", &["grep", "stratum+tcp:", "f"]);
        assert_eq!(story.ids(), ["metadata", "mining"]);
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.connect(10, "198.51.100.1", 3333);
        assert_eq!(story.ids(), [""; 0]);
    }

    #[test]
    fn a_mapped_address_is_the_one_it_maps() {
        let mut story = Story::new();
        story.connect(10, "::ffff:127.0.0.1", 80);
        assert!(!is_outside(&story.events[1]));
        assert!(is_private("10.1.2.3".parse().unwrap()) && !is_private("8.8.8.8".parse().unwrap()));
    }
}
