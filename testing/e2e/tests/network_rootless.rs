//! An ordinary user's VMs with networks of their own: what reaches what, by name and by address, and what is left.
//!
//! ```text
//!   this test, once more, in its own network, mount and process namespaces: the "machine"
//!     up0 10.77.0.1, fd77::1; lo 10.88.0.1 ─── far, a namespace: 10.77.0.2 and .3, fd77::2 and ::3: web servers, a name server
//! ```
//!
//! The machine's own network and firewall are never touched.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `body` in a world of its own, if the machine has what that takes.
fn in_a_world(test: &str, body: impl Fn(&World)) {
    if !is_root(test) {
        return;
    }
    for (needed, from) in [("pasta", "passt"), ("ip", "iproute2"), ("python3", "python3"), ("unshare", "util-linux")] {
        let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(needed).exists());
        if !found {
            eprintln!("skipped: {test}: there is no '{needed}' (package {from})");
            return;
        }
    }
    if std::env::var_os(fvm_kit::SCRATCH).is_some() {
        let world = World::new();
        return body(&world);
    }
    // The binary is built where the network is.
    fvm_kit::binary();
    let mut again = Command::new("unshare");
    again
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(std::env::current_exe().unwrap());
    let own = Path::new("/var/tmp").join(format!("fvm-world-{}-{test}", std::process::id()));
    std::fs::create_dir(&own).unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let status = again.args(["--exact", test, "--nocapture"]).env(fvm_kit::SCRATCH, &own).status().unwrap();
    let _left = std::fs::remove_dir_all(&own);
    assert!(status.success(), "{test}: {status}");
}

/// Servers, and a machine with an ordinary user.
struct World {
    lab: Lab,
    running: Vec<Child>,
}

/// Web servers that say who they are and whom they see, and a name server that reads its names from a file.
const SERVERS: &str = r#"
import http.server, socket, struct, sys, threading
def web(ip, port):
    class V6(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    class Say(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write(f"{ip} {port}\n".encode())
        def log_message(self, *a): pass
    threading.Thread(target=V6((ip, port), Say).serve_forever).start()
def answer(q, file, room):
    at, labels = 12, []
    while q[at]: labels.append(q[at+1:at+1+q[at]].decode()); at += q[at] + 1
    kind = struct.unpack("!H", q[at+1:at+3])[0]
    known = [l.split() for l in open(file)]
    found = [(k, v) for n, k, v in known if n == ".".join(labels).lower()]
    records = b""; count = 0
    for k, v in found:
        if k == "A" and kind == 1: d, t = socket.inet_aton(v), 1
        elif k == "AAAA" and kind == 28: d, t = socket.inet_pton(socket.AF_INET6, v), 28
        elif k == "CNAME": d, t = b"".join(bytes([len(l)]) + l.encode() for l in v.split(".")) + b"\0", 5
        else: continue
        records += b"\xc0\x0c" + struct.pack("!HHIH", t, 1, 1, len(d)) + d; count += 1
    flags = 0x8180 | (0 if found else 3)
    if len(records) > room: flags, records, count = flags | 0x200, b"", 0
    return q[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + q[12:at+5] + records
def names(ip, file):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((ip, 53))
    while True:
        q, who = s.recvfrom(4096)
        s.sendto(answer(q, file, 400), who)
def names_over_tcp(ip, file):
    s = socket.create_server((ip, 53))
    while True:
        c = s.accept()[0]; q = c.recv(4096)
        a = answer(q[2:], file, 60000); c.sendall(struct.pack("!H", len(a)) + a); c.close()
for word in sys.argv[2:]:
    ip, port = word.split(",")
    if port == "53":
        for over in names, names_over_tcp: threading.Thread(target=over, args=(ip, sys.argv[1])).start()
    else: web(ip, int(port))
print("ready", flush=True)
"#;

/// Prints what a web server says, or that it cannot be reached.
const FETCH: &str = r#"
import sys, urllib.request
for url in sys.argv[1:]:
    try: print(url, "says", urllib.request.urlopen(url, timeout=3).read().decode().strip())
    except Exception as e: print(url, "is closed")
"#;

impl World {
    fn new() -> Self {
        let lab = Lab::new(User::Ordinary);
        std::fs::write(lab.path("servers.py"), SERVERS).unwrap();
        std::fs::write(lab.path("fetch.py"), FETCH).unwrap();
        std::fs::write(lab.path("hosts"), "127.0.0.1 localhost\n10.77.0.3 only.hosts.test\n").unwrap();
        std::fs::write(lab.path("resolv.conf"), "nameserver 10.77.0.2\n").unwrap();
        let mut world = Self { lab, running: Vec::new() };
        world.names("mirror.test A 10.77.0.2\nmirror.test AAAA fd77::2\nother.test A 10.77.0.3\n");
        let far = world.start(Command::new("unshare").args(["--net", "sleep", "600"]), None);
        let dir = world.lab.dir().display().to_string();
        // Until it is in its namespace.
        std::thread::sleep(Duration::from_millis(300));
        world.root(&format!(
            "mkdir {dir}/dev; mount -t tmpfs none {dir}/dev; mknod -m 666 {dir}/dev/tun c 10 200
             mkdir -p /dev/net; touch /dev/net/tun; mount --bind {dir}/dev/tun /dev/net/tun
             cp {dir}/hosts {dir}/resolv.conf {dir}/dev
             for f in hosts resolv.conf; do mount --bind {dir}/dev/$f $(readlink -f /etc/$f); done
             echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
             ip link set lo up; ip link add up0 type veth peer name far netns {far}; ip link set up0 up
             ip addr add 10.77.0.1/24 dev up0; ip addr add fd77::1/64 dev up0 nodad; ip addr add 10.88.0.1/24 dev lo
             n() {{ nsenter --net=/proc/{far}/ns/net \"$@\"; }}
             n ip link set lo up; n ip link set far up
             for a in 2 3; do n ip addr add 10.77.0.$a/24 dev far; n ip addr add fd77::$a/64 dev far nodad; done
             ip route add default via 10.77.0.2; ip -6 route add default via fd77::2"
        ));
        let net = format!("--net=/proc/{far}/ns/net");
        let places = ["10.77.0.2,53", "10.77.0.2,80", "10.77.0.2,81", "10.77.0.3,80", "fd77::2,80", "fd77::3,80"];
        let servers = [dir.clone() + "/servers.py", dir.clone() + "/names"];
        world.start(Command::new("nsenter").arg(net).arg("python3").args(&servers).args(places), Some("ready"));
        let here = ["127.0.0.1,9000", "10.77.0.1,9000", "::1,9000", "10.88.0.1,80"];
        world.start(Command::new("python3").args(&servers).args(here), Some("ready"));
        world
    }

    /// What the name server answers from now on.
    fn names(&self, names: &str) {
        let new = self.lab.path("names.new");
        std::fs::write(&new, names).unwrap();
        std::fs::rename(new, self.lab.path("names")).unwrap();
    }

    /// Starts a program of the world; returns its process id, when it said `ready`.
    fn start(&mut self, command: &mut Command, ready: Option<&str>) -> u32 {
        use std::io::BufRead;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        if let Some(ready) = ready {
            let mut line = String::new();
            std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line.trim(), ready);
        }
        let pid = child.id();
        self.running.push(child);
        pid
    }

    #[track_caller]
    fn root(&self, script: &str) -> String {
        let out = Command::new("sh").args(["-ec", script]).output().unwrap();
        assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// What a new VM prints.
    fn inside(&self, options: &[&str], script: &str) -> String {
        let mut words = vec!["run", "--rm", "--net", "own"];
        words.extend(options);
        words.extend(["--", "sh", "-c", script]);
        let ran = self.lab.fvm(words);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        ran.out
    }

    /// A VM in which the web server of the world listens on port 80; returns where the host reaches it.
    fn server(&self, name: &str) -> String {
        let servers = self.lab.path("servers.py").display().to_string();
        let args = ["run", "--detach", "--name", name, "--net", "own", "--publish", "80", "--", "python3", &servers];
        self.lab.fvm(args.into_iter().chain(["none", "0.0.0.0,80"])).expect(0);
        let json = self.lab.fvm(["inspect", name]).expect(0).out;
        let address = json
            .split("\"address\": \"")
            .nth(1)
            .unwrap_or_else(|| panic!("{json}{}", self.lab.fvm(["logs", name]).out))
            .split('"')
            .next()
            .unwrap()
            .to_owned();
        assert!(address.starts_with("127.1."), "{address}");
        address
    }

    /// What the host reads at `url`, within a few seconds.
    fn fetch(&self, url: &str) -> String {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let said = self.lab.sh(&format!("python3 fetch.py {url}"));
            if !said.contains("is closed") || Instant::now() > end {
                return said;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Processes of the laboratory's user.
    fn processes(&self) -> String {
        self.root("ps -u fvmtest -o stat=,pid=,args= | grep -v '^Z' || true")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _gone = child.kill();
            let _collected = child.wait();
        }
        let _detached = Command::new("umount").arg("-l").arg(self.lab.path("dev")).status();
    }
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
        assert!(ran.err.contains("chmod 666 /dev/net/tun"), "{}", ran.err);
        assert!(world.lab.fvm(["doctor"]).out.contains("chmod 0666 /dev/net/tun"));
    });
}
