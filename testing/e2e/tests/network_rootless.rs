//! An ordinary user's VMs with networks of their own: what reaches what, by name and by address, and what is left.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod network_world;

use fvm_kit::User;
use network_world::World;
use std::path::Path;
use std::time::{Duration, Instant};

fn in_a_world(test: &str, body: impl Fn(&World)) {
    network_world::in_a_world(test, User::Ordinary, body);
}

#[test]
fn two_users_vms_both_serve_port_80_and_the_host_reaches_each_needs_root_pasta() {
    in_a_world("two_users_vms_both_serve_port_80_and_the_host_reaches_each_needs_root_pasta", |world| {
        let (a, b) = (world.server("a"), world.server("b"));
        assert_ne!(a, b);
        for address in [&a, &b] {
            assert!(world.fetch(&format!("http://{address}/")).contains("says 0.0.0.0 80"));
        }
        // One ends: only its address is closed.
        world.lab.fvm(["stop", "a"]).expect(0);
        let said = world.lab.sh(&format!("python3 fetch.py http://{a}/ http://{b}/"));
        assert!(said.contains(&format!("{a}/ is closed")) && said.contains(&format!("{b}/ says")), "{said}");
        // And has the same when it comes back.
        world.lab.fvm(["start", "a"]).expect(0);
        assert!(world.lab.fvm(["inspect", "a"]).expect(0).out.contains(&a));
    });
}

#[test]
fn a_users_vm_reaches_the_network_but_neither_the_host_nor_another_vm_needs_root_pasta() {
    in_a_world("a_users_vm_reaches_the_network_but_neither_the_host_nor_another_vm_needs_root_pasta", |world| {
        let other = world.server("other");
        assert!(world.fetch(&format!("http://{other}/")).contains("says"));
        let dir = world.lab.dir().display().to_string();
        let said = world.inside(
            &[],
            &format!(
                "python3 {dir}/fetch.py http://10.77.0.2 http://[fd77::3] http://mirror.test http://only.hosts.test \
                 http://127.0.0.1:9000 http://[::1]:9000 http://10.77.0.1:9000 http://198.18.0.1:9000 \
                 http://[fd66:766d::1]:9000 http://{other} http://[::ffff:127.0.0.1]:9000"
            ),
        );
        let open = ["//10.77.0.2 says", "//[fd77::3] says", "mirror.test says", "only.hosts.test says 10.77.0.3"];
        for open in open {
            assert!(said.contains(open), "{open}\n{said}");
        }
        assert_eq!(said.matches("is closed").count(), 7, "{said}");
        // The VM's root, as far as there is one, has no rights over what filters.
        let tried = world.inside(
            &[],
            "unshare -Urn true && echo new; ip link set eth0 down 2>&1; nsenter --net=/proc/1/ns/net true 2>&1; \
             ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c pasta || true",
        );
        assert!(!tried.contains("pasta\n") && tried.trim_end().ends_with('0'), "{tried}");
    });
}

#[test]
fn an_allow_list_by_name_opens_that_name_and_follows_it_needs_root_pasta() {
    in_a_world("an_allow_list_by_name_opens_that_name_and_follows_it_needs_root_pasta", |world| {
        let fetch = format!("python3 {}", world.lab.path("fetch.py").display());
        let said = world.inside(
            &["--allow", "mirror.test:80"],
            &format!(
                "{fetch} http://10.77.0.2 http://[fd77::2]; echo -; {fetch} http://mirror.test http://mirror.test:81 \
                 http://other.test http://10.77.0.3 http://[fd77::3] http://only.hosts.test; echo -
                 getent ahosts mirror.test | sort -u; getent hosts other.test || echo unknown"
            ),
        );
        let parts: Vec<&str> = said.split("-\n").collect();
        assert_eq!(parts[0].matches("is closed").count(), 2, "before it is asked for: {said}");
        assert!(parts[1].contains("mirror.test says") && parts[1].matches("is closed").count() == 5, "{said}");
        assert!(
            parts[2].contains("10.77.0.2") && parts[2].contains("fd77::2") && parts[2].contains("unknown"),
            "{said}"
        );

        // The name moves while the VM runs.
        let allowed = ["create", "moving", "--net", "own", "--allow", "mirror.test:80"];
        world.lab.fvm(allowed).expect(0);
        world.lab.fvm(["start", "moving"]).expect(0);
        let ask = |url: &str| {
            let script = format!("{fetch} {url}");
            world.lab.fvm(["exec", "moving", "--", "sh", "-c", &script]).expect(0).out
        };
        assert!(ask("http://mirror.test").contains("says"));
        world.names("mirror.test A 10.77.0.3\n");
        assert!(ask("http://10.77.0.3").contains("is closed"));
        assert!(ask("http://mirror.test").contains("says 10.77.0.3 80"));
        // And a name cannot lead to what is the host's own.
        for own in ["10.88.0.1", "127.0.0.1", "169.254.169.254"] {
            world.names(&format!("mirror.test A {own}\nmirror.test AAAA ::1\n"));
            assert!(ask("http://mirror.test").contains("is closed"), "{own}");
        }

        // A name that only the host's own file knows.
        let hosts =
            world.inside(&["--allow", "only.hosts.test"], &format!("{fetch} http://only.hosts.test http://10.77.0.2"));
        assert!(hosts.contains("says 10.77.0.3 80") && hosts.contains("10.77.0.2 is closed"), "{hosts}");
    });
}

#[test]
fn a_long_answer_comes_over_tcp_and_opens_all_its_addresses_needs_root_pasta() {
    in_a_world("a_long_answer_comes_over_tcp_and_opens_all_its_addresses_needs_root_pasta", |world| {
        let many: String = (2..60).map(|n| format!("big.test A 10.77.1.{n}\n")).collect();
        world.names(&format!("{many}big.test A 10.77.0.3\n"));
        let fetch = format!("python3 {}", world.lab.path("fetch.py").display());
        let script = format!("getent ahostsv4 big.test | grep -c STREAM; {fetch} http://10.77.0.3 http://10.77.0.2");
        let said = world.inside(&["--allow", "big.test"], &script);
        assert!(said.starts_with("59\n") && said.contains("0.3 says") && said.contains("0.2 is closed"), "{said}");
    });
}

#[test]
fn nothing_that_fvm_was_given_reaches_what_serves_the_network_needs_root_pasta() {
    in_a_world("nothing_that_fvm_was_given_reaches_what_serves_the_network_needs_root_pasta", |world| {
        let home = world.lab.home().display().to_string();
        let fvm = fvm_kit::binary().display().to_string();
        world.lab.sh(&format!(
            "echo x > canary; exec 9< canary; SECRET=1 {fvm} --home {home} create v --net own --publish 80
             SECRET=1 {fvm} --home {home} start v"
        ));
        let (keeper, init) = (world.lab.number("v", "keeper_pid").unwrap(), world.lab.number("v", "init_pid").unwrap());
        let guards = world.root(&format!(
            "for p in $(pgrep -u fvmtest); do case $p in {keeper}|{init}) continue; esac
             readlink /proc/$p/exe; ls -l /proc/$p/fd
             case $(readlink /proc/$p/exe) in */pas*) tr '\\0' ' ' < /proc/$p/environ;; esac; done"
        ));
        assert!(
            guards.contains("/pas")
                && !guards.contains("canary")
                && !guards.contains("SECRET")
                && !guards.contains(&home),
            "{guards}"
        );
        let inside = world.lab.fvm(["explain", "v"]).expect(0).out;
        assert!(inside.contains("own network behind a router") && inside.contains("port 80"), "{inside}");
    });
}

#[test]
fn a_closed_private_network_is_closed_by_name_too_needs_root_pasta() {
    in_a_world("a_closed_private_network_is_closed_by_name_too_needs_root_pasta", |world| {
        let fetch = format!("python3 {}", world.lab.path("fetch.py").display());
        let script = format!("{fetch} http://mirror.test http://10.77.0.2 http://[fd77::2]");
        let said = world.inside(&["--policy", "untrusted"], &script);
        assert_eq!(said.matches("is closed").count(), 3, "{said}");
        let said = world.inside(&["--policy", "untrusted", "--allow", "10.77.0.2:80"], &script);
        assert!(said.contains("//10.77.0.2 says") && said.contains("[fd77::2] is closed"), "{said}");
    });
}

#[test]
fn nothing_of_a_users_network_is_left_when_its_keeper_is_killed_needs_root_pasta() {
    in_a_world("nothing_of_a_users_network_is_left_when_its_keeper_is_killed_needs_root_pasta", |world| {
        for name in ["a", "b", "c"] {
            let address = world.server(name);
            assert!(world.fetch(&format!("http://{address}/")).contains("says"));
            assert!(world.processes().contains("pasta"), "{}", world.processes());
            let keeper = world.lab.number(name, "keeper_pid").unwrap();
            world.root(&format!("kill -9 {keeper}"));
            let end = Instant::now() + Duration::from_secs(10);
            while !world.processes().trim().is_empty() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(world.processes().trim(), "");
            assert!(world.lab.sh(&format!("python3 fetch.py http://{address}/")).contains("is closed"));
            // It starts again at once, at the same address.
            world.lab.fvm(["start", name]).expect(0);
            assert!(world.lab.fvm(["inspect", name]).expect(0).out.contains(&address));
            world.lab.fvm(["kill", name]).expect(0);
        }
        // Killed while they start, at any moment.
        for n in 0..20 {
            let mut child = world.lab.spawn(["run", "--rm", "--net", "own", "--", "sleep", "100"]);
            std::thread::sleep(Duration::from_millis(n * 15));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let end = Instant::now() + Duration::from_secs(10);
        while !world.processes().trim().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(world.processes().trim(), "");
        assert_eq!(world.root("cat /proc/net/unix").matches("@fvm-").count(), 0);
    });
}

#[test]
fn without_pasta_slirp4netns_is_the_uplink_and_without_both_it_is_said_needs_root_pasta_slirp() {
    in_a_world("without_pasta_slirp4netns_is_the_uplink_and_without_both_it_is_said_needs_root_pasta_slirp", |world| {
        world.root("mount --bind /dev/null $(readlink -f /usr/bin/pasta)");
        if Path::new("/usr/bin/slirp4netns").exists() {
            let fetch = format!("python3 {}", world.lab.path("fetch.py").display());
            let urls = "http://mirror.test http://127.0.0.1:9000 http://10.77.0.1:9000 http://10.0.2.2:9000";
            let said = world.inside(&["--allow", "mirror.test:80"], &format!("{fetch} {urls}"));
            assert!(said.contains("mirror.test says 10.77.0.2 80") && said.matches("is closed").count() == 3, "{said}");
            let said = world.inside(&[], &format!("{fetch} {urls}"));
            assert!(said.contains("http://10.0.2.2:9000 is closed"), "the host's loopback, by slirp's address: {said}");
            let address = world.server("a");
            assert!(world.fetch(&format!("http://{address}/")).contains("says"));
            world.lab.fvm(["kill", "a"]).expect(0);
            world.root("mount --bind /dev/null $(readlink -f /usr/bin/slirp4netns)");
        } else {
            eprintln!("skipped in part: there is no 'slirp4netns'");
        }
        let ran = world.lab.fvm(["run", "--rm", "--net", "own", "--", "true"]).expect(125);
        assert!(ran.err.contains("passt") && ran.err.contains("--net none"), "{}", ran.err);
        let none = world.lab.fvm(["run", "--rm", "--net", "none", "--", "true"]);
        none.expect(0);
    });
}

#[test]
fn a_host_without_a_way_out_still_reaches_what_a_vm_publishes_needs_root_pasta() {
    in_a_world("a_host_without_a_way_out_still_reaches_what_a_vm_publishes_needs_root_pasta", |world| {
        world.root("ip link del up0");
        let ran = world.lab.fvm(["run", "--rm", "--net", "own", "--", "true"]).expect(0);
        assert!(ran.err.is_empty() || ran.err.contains("no way out"), "{}", ran.err);
        let address = world.server("a");
        assert!(world.fetch(&format!("http://{address}/")).contains("says"));
    });
}

#[test]
fn a_device_that_is_roots_only_is_said_with_what_to_do_needs_root_pasta() {
    in_a_world("a_device_that_is_roots_only_is_said_with_what_to_do_needs_root_pasta", |world| {
        world.root("chmod 600 /dev/net/tun");
        let ran = world.lab.fvm(["run", "--rm", "--net", "own", "--", "true"]).expect(125);
        assert!(ran.err.contains("chmod 0666 /dev/net/tun"), "{}", ran.err);
        // Where nobody asked for it, it goes without, and says so.
        let mut command = world.lab.fvm_command(["run", "--rm", "--", "sh", "-c", "ls /sys/class/net"]);
        let ran = fvm_kit::Ran::of(command.env_remove("FVM_POLICY").output().unwrap()).expect(0);
        assert!(ran.out.trim() == "lo" && ran.err.contains("the VM has no network"), "{ran:?}");
        assert!(world.lab.fvm(["doctor"]).out.contains("chmod 0666 /dev/net/tun"));
    });
}

#[test]
fn a_users_vm_loads_packages_from_the_only_mirror_that_is_allowed_needs_root_pasta_apt() {
    const NAME: &str = "a_users_vm_loads_packages_from_the_only_mirror_that_is_allowed_needs_root_pasta_apt";
    in_a_world(NAME, |world| network_world::packages_come_from_the_only_mirror_that_is_allowed(world, NAME));
}
