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

#[test]
fn a_root_vm_loads_packages_from_the_only_mirror_that_is_allowed_needs_root_pasta_apt() {
    const NAME: &str = "a_root_vm_loads_packages_from_the_only_mirror_that_is_allowed_needs_root_pasta_apt";
    in_a_world(NAME, |world| network_world::packages_come_from_the_only_mirror_that_is_allowed(world, NAME));
}
