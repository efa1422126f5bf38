//! Root's VMs with networks of their own: each with an address of its own, filtered where it has no rights, and nothing of
//! them left on the host.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod network_world;

use fvm_kit::User;
use network_world::World;
use std::time::{Duration, Instant};

fn in_a_world(test: &str, body: impl Fn(&World)) {
    network_world::in_a_world(test, User::Root, body);
}

/// Waits until a command prints nothing.
#[track_caller]
fn until_empty(world: &World, script: &str) {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let said = world.root(script);
        if said.trim().is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{script}: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a VM leaves: interfaces, routes, claimed addresses, processes.
const LEFT: &str = "{ ip -o link; ip route; ip -6 route; grep @fvm- /proc/net/unix; ps -eo args; } | grep 'fvm-[0-9@]\\|fvm: \\|--net' \
                    | grep -v 'grep\\|unshare\\|sh -ec' || true";

#[test]
fn two_root_vms_serve_port_80_each_at_its_own_address_needs_root_pasta() {
    in_a_world("two_root_vms_serve_port_80_each_at_its_own_address_needs_root_pasta", |world| {
        let (a, b) = (world.server("a"), world.server("b"));
        assert_ne!(a, b);
        for address in [&a, &b] {
            assert!(world.fetch(&format!("http://{address}/")).contains("says 0.0.0.0 80"));
        }
        let fetch = format!("python3 {}", world.lab.path("fetch.py").display());
        // Out, but neither to the other VM nor to the host, at none of its addresses.
        let urls = format!(
            "http://10.77.0.2 http://mirror.test http://only.hosts.test http://{b} http://127.0.0.1:9000 \
             http://10.77.0.1:9000 http://10.207.0.1:9000 http://198.18.0.1:9000 http://10.88.0.1"
        );
        let said = world.lab.fvm(["exec", "a", "--", "sh", "-c", &format!("{fetch} {urls}")]).expect(0).out;
        assert_eq!((said.matches(" says ").count(), said.matches("is closed").count()), (3, 6), "{said}");
        // What is published is at a loopback address, too.
        let published = a.replacen("10.207.", "127.1.", 1);
        assert!(world.fetch(&format!("http://{published}/")).contains("says"));

        world.lab.fvm(["stop", "a"]).expect(0);
        let said = world.lab.sh(&format!("python3 fetch.py http://{a}/ http://{b}/"));
        assert!(said.contains(&format!("{a}/ is closed")) && said.contains(&format!("{b}/ says")), "{said}");
        // And has the same when it comes back.
        world.lab.fvm(["start", "a"]).expect(0);
        assert!(world.lab.fvm(["inspect", "a"]).expect(0).out.contains(&a));
        for name in ["a", "b"] {
            world.lab.fvm(["delete", "--force", name]).expect(0);
        }
        until_empty(world, LEFT);
    });
}

#[test]
fn a_root_vm_rules_its_own_end_and_speaks_for_nobody_else_needs_root_pasta() {
    in_a_world("a_root_vm_rules_its_own_end_and_speaks_for_nobody_else_needs_root_pasta", |world| {
        let other = world.server("other");
        let fetch = format!("python3 {}", world.lab.path("fetch.py").display());
        // All that root can do at its end: no filter, every address, every route, the other's address.
        let said = world.inside(
            &["--allow", "10.77.0.3"],
            &format!(
                "nft flush ruleset; iptables -F; ip addr add {other}/32 dev eth0; ip addr add 10.207.0.1/32 dev eth0
                 ip route add 10.207.0.0/16 via 198.18.0.1 dev eth0 onlink; ip link add x type dummy
                 echo 1 > /proc/sys/net/ipv4/ip_forward
                 {fetch} http://10.77.0.3 http://10.77.0.2 http://10.77.0.1:9000 http://198.18.0.6:9000
                 ip addr flush dev eth0; ip addr add 10.207.3.3/32 dev eth0; ip link set eth0 up
                 ip route add default via 198.18.0.1 dev eth0 onlink
                 {fetch} http://10.77.0.3; echo -; nsenter --net=/proc/1/ns/net true && echo in || true",
            ),
        );
        assert!(
            said.trim_end().ends_with('-') && said.contains("10.77.0.3 says") && said.matches("is closed").count() == 4,
            "{said}"
        );
        assert!(world.fetch(&format!("http://{other}/")).contains("says"));
        // What serves it is nobody on the host.
        let guards = world.root("ps -eo user:20=,args= | grep 'fvm: networ[k]'");
        assert!(guards.lines().count() == 1 && guards.starts_with("nobody"), "{guards}");
    });
}

#[test]
fn where_the_host_filters_what_it_forwards_the_vm_goes_out_by_pasta_needs_root_pasta() {
    in_a_world("where_the_host_filters_what_it_forwards_the_vm_goes_out_by_pasta_needs_root_pasta", |world| {
        if world.root("command -v nft || true").is_empty() {
            eprintln!("skipped in part: there is no 'nft' (package nftables)");
            return;
        }
        world.root("nft 'add table inet docker; add chain inet docker f { type filter hook forward priority 0; policy drop; }'");
        let fetch = format!("python3 {}", world.lab.path("fetch.py").display());
        let said = world.inside(
            &[],
            &format!("{fetch} http://10.77.0.2 http://mirror.test http://10.77.0.1:9000 http://10.207.0.1:9000"),
        );
        assert!(said.contains("10.77.0.2 says") && said.contains("mirror.test says"), "{said}");
        let a = world.server("a");
        assert!(world.fetch(&format!("http://{a}/")).contains("says"));
        assert!(world.root("ps -eo args").contains("pasta"));
        // Nor was the host's forwarding turned on, or the other table changed.
        assert_eq!(world.root("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
        assert!(world.root("nft list table inet docker").contains("policy drop"));
        world.lab.fvm(["kill", "a"]).expect(0);
        world.root("mount --bind /dev/null $(readlink -f /usr/bin/pasta); [ ! -e /usr/bin/slirp4netns ] || mount --bind /dev/null $(readlink -f /usr/bin/slirp4netns)");
        let ran = world.lab.fvm(["run", "--rm", "--net", "own", "--", "true"]).expect(0);
        assert!(ran.err.contains("may have no way out") && ran.err.contains("docker"), "{}", ran.err);
    });
}

#[test]
fn nothing_of_a_root_vms_network_is_left_when_its_keeper_is_killed_needs_root_pasta() {
    in_a_world("nothing_of_a_root_vms_network_is_left_when_its_keeper_is_killed_needs_root_pasta", |world| {
        for name in ["a", "b"] {
            let address = world.server(name);
            let keeper = world.lab.number(name, "keeper_pid").unwrap();
            world.root(&format!("kill -9 {keeper}"));
            // It starts again at once, at the same address.
            let end = Instant::now() + Duration::from_secs(10);
            while world.lab.fvm(["start", name]).code != 0 {
                assert!(Instant::now() < end, "{}", world.lab.fvm(["start", name]).err);
            }
            assert!(world.lab.fvm(["inspect", name]).expect(0).out.contains(&address));
            world.lab.fvm(["kill", name]).expect(0);
        }
        for n in 0..20 {
            let mut child = world.lab.spawn(["run", "--rm", "--net", "own", "--", "sleep", "100"]);
            std::thread::sleep(Duration::from_millis(n * 10));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        until_empty(world, LEFT);
    });
}

/// Sends packets of any kind from `eth0`: `spoof.py MINE KIND...`.
const SPOOF: &str = r#"
import socket, struct, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("eth0", 0x0800))
own = s.getsockname()[4]
def total(b):
    if len(b) % 2: b += b"\0"
    t = sum(struct.unpack("!%dH" % (len(b) // 2), b)); t = (t >> 16) + (t & 0xffff); return ~(t + (t >> 16)) & 0xffff
def eth(kind, payload, to=b"\xff" * 6): s.send(to + own + struct.pack("!H", kind) + payload)
router = None
def learn():
    # The router's address on the link, as the kernel learned it.
    global router
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b"x", ("198.18.0.1", 53)); time.sleep(0.3)
    for l in open("/proc/net/arp"):
        w = l.split()
        if w[0] == "198.18.0.1": router = bytes.fromhex(w[3].replace(":", ""))
learn()
def udp4(source, to, port, data):
    a, b = socket.inet_aton(source), socket.inet_aton(to)
    u = struct.pack("!HHHH", 5353, port, 8 + len(data), 0) + data
    h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(u), 1, 0, 64, 17, 0, a, b)
    h = h[:10] + struct.pack("!H", total(h)) + h[12:]
    eth(0x0800, h + u, router)
def udp6(source, to, port, data):
    a, b = socket.inet_pton(socket.AF_INET6, source), socket.inet_pton(socket.AF_INET6, to)
    n = 8 + len(data); u = struct.pack("!HHHH", 5353, port, n, 0) + data
    c = total(a + b + struct.pack("!II", n, 17) + u)
    u = u[:6] + struct.pack("!H", c) + u[8:]
    eth(0x86dd, struct.pack("!IHBB", 0x60000000, n, 17, 64) + a + b + u, router)
def arp(who):
    a = socket.inet_aton(who)
    for op in 1, 2: eth(0x0806, struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, op, own, a, b"\xff" * 6, a))
me4, me6, other4, other6 = sys.argv[1:5]
for _ in range(3):
    arp(other4)
    for a, b in (me4, other4), (other4, me4), (other4, "10.77.0.3"), ("10.77.0.3", other4), ("10.77.0.9", "10.77.0.3"): udp4(a, b, 7777, b"from " + a.encode())
    for a, b in (me6, other6), (other6, "fd77::3"), ("fd77::9", "fd77::3"), ("fd77::3", other6): udp6(a, b, 7777, b"from " + a.encode())
    udp4(me4, "10.77.0.3", 7777, b"mine"); udp6(me6, "fd77::3", 7777, b"mine")
    time.sleep(0.2)
print("sent", router is not None)
"#;

/// Prints what comes to port 7777 for some seconds.
const LISTEN: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0); s.bind(("::", 7777)); s.settimeout(0.2)
print("ready", flush=True)
end = time.time() + float(sys.argv[1])
while time.time() < end:
    try: print("got", s.recvfrom(99)[0].decode(), flush=True)
    except TimeoutError: pass
"#;

impl World {
    /// The addresses of a VM, of both kinds.
    fn addresses(&self, name: &str) -> (String, String) {
        let said = self.lab.fvm(["exec", name, "--", "sh", "-c", "ip -o addr show dev eth0"]).expect(0).out;
        let find = |start: &str| said.split(&[' ', '/']).find(|word| word.starts_with(start)).unwrap_or("").to_owned();
        (find("10.207."), find("fd66:"))
    }
}

#[test]
fn two_vms_of_one_router_neither_reach_nor_speak_for_each_other_needs_root_pasta() {
    in_a_world("two_vms_of_one_router_neither_reach_nor_speak_for_each_other_needs_root_pasta", |world| {
        for (file, text) in [("spoof.py", SPOOF), ("listen.py", LISTEN)] {
            std::fs::write(world.lab.path(file), text).unwrap();
        }
        world.root("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let b = world.server("b");
        world.lab.fvm(["run", "--detach", "--name", "a", "--net", "own", "--", "sleep", "600"]).expect(0);
        let ((a4, a6), (b4, b6)) = (world.addresses("a"), world.addresses("b"));
        assert!(b == b4 && a6.starts_with("fd66:") && b6.starts_with("fd66:"), "{a4} {a6} {b4} {b6}");
        assert_eq!(world.root("pgrep -fc '^fvm: network'").trim(), "1", "one router for both");
        let dir = world.lab.dir().display().to_string();
        world.root(&format!(
            "nsenter --net=/proc/{}/ns/net python3 {dir}/listen.py 6 > {dir}/heard 2>&1 &
             for n in $(seq 100); do grep -q ready {dir}/heard && exit 0; sleep 0.1; done; exit 1",
            world.far()
        ));
        let mut listens =
            world.lab.spawn(["exec", "b", "--", "sh", "-c", &format!("python3 {dir}/listen.py 6 > {dir}/heard-b")]);
        let is_ready =
            format!("for n in $(seq 100); do grep -q ready {dir}/heard-b && exit 0; sleep 0.1; done; exit 1");
        world.lab.fvm(["exec", "b", "--", "sh", "-c", &is_ready]).expect(0);
        let send = format!("python3 {dir}/spoof.py {a4} {a6} {b4} {b6}");
        let said = world.lab.fvm(["exec", "a", "--", "sh", "-c", &send]).expect(0).out;
        assert!(said.contains("sent True"), "{said}");
        assert!(listens.wait().unwrap().success());
        let heard = world.lab.sh(&format!("cat {dir}/heard"));
        // Its own, so that the packets are known to be good; and nobody else's.
        assert!(heard.matches("got mine").count() >= 4 && !heard.contains("got from"), "{heard}");
        let heard = world.lab.fvm(["exec", "b", "--", "cat", &format!("{dir}/heard-b")]).expect(0).out;
        assert_eq!(heard.trim(), "ready");
        // The one that was spoken for is still reached.
        assert!(world.fetch(&format!("http://{b}/")).contains("says"));
        // The first to come goes; the other stays where it is, and the next one comes.
        world.lab.fvm(["kill", "b"]).expect(0);
        let fetch = format!("python3 {dir}/fetch.py http://10.77.0.2 http://[fd77::3] http://mirror.test");
        let said = world.lab.fvm(["exec", "a", "--", "sh", "-c", &fetch]).expect(0).out;
        assert_eq!(said.matches(" says ").count(), 3, "{said}");
        world.lab.fvm(["start", "b"]).expect(0);
        world.lab.fvm(["delete", "--force", "a", "b"]).expect(0);
        until_empty(world, LEFT);
    });
}

#[test]
fn without_its_router_a_vm_has_no_network_and_the_next_has_needs_root_pasta() {
    in_a_world("without_its_router_a_vm_has_no_network_and_the_next_has_needs_root_pasta", |world| {
        let a = world.server("a");
        assert!(world.fetch(&format!("http://{a}/")).contains("says"));
        let fetch = format!("python3 {} http://10.77.0.2", world.lab.path("fetch.py").display());
        let inside = |name: &str| world.lab.fvm(["exec", name, "--", "sh", "-c", &fetch]).expect(0).out;
        assert!(inside("a").contains("says"));
        world.root("kill -9 $(pgrep -f '^fvm: network')");
        let end = Instant::now() + Duration::from_secs(15);
        while world.lab.fvm(["exec", "a", "--", "ip", "-o", "link"]).expect(0).out.contains("eth0") {
            assert!(Instant::now() < end, "its link goes with the router");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(inside("a").contains("is closed"));
        // Another router serves the next, and the VM itself when it starts again.
        let b = world.server("b");
        assert!(world.fetch(&format!("http://{b}/")).contains("says"));
        assert!(inside("a").contains("is closed") && inside("b").contains("says"));
        world.lab.fvm(["kill", "a"]).expect(0);
        world.lab.fvm(["start", "a"]).expect(0);
        assert!(inside("a").contains("says"));
    });
}

#[test]
fn what_one_vm_was_allowed_the_next_at_its_address_does_not_inherit_needs_root_pasta() {
    in_a_world("what_one_vm_was_allowed_the_next_at_its_address_does_not_inherit_needs_root_pasta", |world| {
        // Asks from a port that is known, so that the second question belongs to the connection of the first.
        let ask = "import socket, struct\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 4444)); s.settimeout(2)\n\
                   q = struct.pack('!HHHHHH', 7, 256, 1, 0, 0, 0) + b'\\6mirror\\4test\\0\\0\\1\\0\\1'\n\
                   s.sendto(q, ('10.77.0.2', 53))\n\
                   try: print('answered', len(s.recv(999)))\n\
                   except OSError as e: print('silence', e)";
        let asks = || world.lab.fvm(["exec", "a", "--", "python3", "-c", ask]).expect(0).out;
        world.lab.fvm(["run", "--detach", "--name", "a", "--net", "own", "--", "sleep", "600"]).expect(0);
        let (a4, _) = world.addresses("a");
        let router = world.root("pgrep -f '^fvm: network'");
        assert!(asks().contains("answered") && asks().contains("answered"));
        // The same address and router, other rules.
        world.lab.fvm(["kill", "a"]).expect(0);
        world.lab.fvm(["configure", "a", "--allow", "10.77.0.3"]).expect(0);
        world.lab.fvm(["start", "a"]).expect(0);
        assert_eq!((world.addresses("a").0, world.root("pgrep -f '^fvm: network'")), (a4, router));
        assert!(asks().contains("silence"));
        let fetch = format!("python3 {} http://10.77.0.3 http://10.77.0.2", world.lab.path("fetch.py").display());
        let said = world.lab.fvm(["exec", "a", "--", "sh", "-c", &fetch]).expect(0).out;
        assert!(said.contains("10.77.0.3 says") && said.contains("10.77.0.2 is closed"), "{said}");
    });
}

#[test]
fn many_root_vms_start_at_once_on_one_router_and_nothing_is_left_needs_root_pasta() {
    in_a_world("many_root_vms_start_at_once_on_one_router_and_nothing_is_left_needs_root_pasta", |world| {
        let fetch = format!("python3 {} http://10.77.0.2 http://mirror.test", world.lab.path("fetch.py").display());
        for _ in 0..2 {
            let mut all: Vec<_> = (0..12)
                .map(|_| {
                    world.lab.spawn([
                        "run",
                        "--rm",
                        "--net",
                        "own",
                        "--",
                        "sh",
                        "-c",
                        &format!("{fetch} | grep -c says | grep -q 2"),
                    ])
                })
                .collect();
            assert!(all.iter_mut().all(|child| child.wait().unwrap().success()));
            assert_eq!(world.root("pgrep -fc '^fvm: network' || true").trim(), "1");
        }
        // Idle, it ends when it is told, and else by itself.
        assert!(world.lab.fvm(["doctor"]).expect(0).out.contains("serves 0 VMs"));
        world.lab.fvm(["gc"]).expect(0);
        until_empty(world, "pgrep -f '^fvm: network' || true");
        until_empty(world, LEFT);
    });
}

#[test]
fn a_root_vm_loads_packages_from_the_only_mirror_that_is_allowed_needs_root_pasta_apt() {
    const NAME: &str = "a_root_vm_loads_packages_from_the_only_mirror_that_is_allowed_needs_root_pasta_apt";
    in_a_world(NAME, |world| network_world::packages_come_from_the_only_mirror_that_is_allowed(world, NAME));
}
