//! A small world for VMs with networks of their own: who reaches whom in it, by name and by address.
//!
//! ```text
//!   this test, once more, in its own network, mount and process namespaces: the "machine"
//!     up0 10.77.0.1, fd77::1; lo 10.88.0.1 ─── far, a namespace: 10.77.0.2 and .3, fd77::2 and ::3: web servers, a name server
//! ```
//!
//! The machine's own network and firewall are never touched.
#![allow(dead_code, reason = "each test program uses its part")]

use fvm_kit::{Lab, User, is_root};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `body` in a world of its own with the VMs of `user`, if the machine has what that takes.
pub fn in_a_world(test: &str, user: User, body: impl Fn(&World)) {
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
        let world = World::new(user);
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
pub struct World {
    /// The user's.
    pub lab: Lab,
    running: Vec<Child>,
    /// A process in the network of those who are far.
    far: u32,
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
    fn new(user: User) -> Self {
        let lab = Lab::new(user);
        std::fs::write(lab.path("servers.py"), SERVERS).unwrap();
        std::fs::write(lab.path("fetch.py"), FETCH).unwrap();
        std::fs::write(lab.path("hosts"), "127.0.0.1 localhost\n10.77.0.3 only.hosts.test\n").unwrap();
        std::fs::write(lab.path("resolv.conf"), "nameserver 10.77.0.2\n").unwrap();
        let mut world = Self { lab, running: Vec::new(), far: 0 };
        world.names("mirror.test A 10.77.0.2\nmirror.test AAAA fd77::2\nother.test A 10.77.0.3\n");
        let far = world.start(Command::new("unshare").args(["--net", "sleep", "600"]), None);
        let dir = world.lab.dir().display().to_string();
        world.far = far;
        // Until it is in its namespace.
        std::thread::sleep(Duration::from_millis(300));
        world.root(&format!(
            "mkdir {dir}/dev; mount -t tmpfs none {dir}/dev; mknod -m 666 {dir}/dev/tun c 10 200
             mkdir -p /dev/net; touch /dev/net/tun; mount --bind {dir}/dev/tun /dev/net/tun
             cp {dir}/hosts {dir}/resolv.conf {dir}/dev
             for f in hosts resolv.conf; do mount --bind {dir}/dev/$f $(readlink -f /etc/$f); done
             echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start; echo 0 > /proc/sys/net/ipv4/ip_forward
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

    /// A process in the network of those who are far.
    pub fn far(&self) -> u32 {
        self.far
    }

    /// What the name server answers from now on.
    pub fn names(&self, names: &str) {
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
    pub fn root(&self, script: &str) -> String {
        let out = Command::new("sh").args(["-ec", script]).output().unwrap();
        assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// What a new VM prints.
    pub fn inside(&self, options: &[&str], script: &str) -> String {
        let mut words = vec!["run", "--rm", "--net", "own"];
        words.extend(options);
        words.extend(["--", "sh", "-c", script]);
        let ran = self.lab.fvm(words);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        ran.out
    }

    /// A VM in which the web server of the world listens on port 80; returns where the host reaches it.
    pub fn server(&self, name: &str) -> String {
        let servers = self.lab.path("servers.py").display().to_string();
        let args = ["run", "--detach", "--name", name, "--net", "own", "--publish", "80", "--", "python3", &servers];
        let ran = self.lab.fvm(args.into_iter().chain(["none", "0.0.0.0,80"]));
        assert_eq!(ran.code, 0, "{ran:?}\n{}\n{}", self.lab.fvm(["list", "--json"]).out, self.root("ps axf"));
        let json = self.lab.fvm(["inspect", name]).expect(0).out;
        let address = json
            .split("\"address\": \"")
            .nth(1)
            .unwrap_or_else(|| panic!("{json}{}", self.lab.fvm(["logs", name]).out))
            .split('"')
            .next()
            .unwrap()
            .to_owned();
        assert!(address.starts_with("127.1.") || address.starts_with("10.207."), "{address}");
        address
    }

    /// What the host reads at `url`, within a few seconds.
    pub fn fetch(&self, url: &str) -> String {
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
    pub fn processes(&self) -> String {
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

/// A package mirror at 10.77.0.4 and .5, called mirror.test; a VM that may reach nothing else asks it for its packages.
pub fn packages_come_from_the_only_mirror_that_is_allowed(world: &World, test: &str) {
    if !Path::new("/usr/bin/apt-get").exists() {
        eprintln!("skipped: {test}: there is no 'apt-get'");
        return;
    }
    let (dir, far) = (world.lab.dir().display().to_string(), world.far);
    let one = "Package: only-here\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\nFilename: x\nSize: 1\n\
               SHA256: 0000000000000000000000000000000000000000000000000000000000000000\n";
    // A day apart: apt asks for what is newer than the index that it has, in whole seconds.
    let (first, second) = (one.to_owned(), one.replace("only-here", "moved-here"));
    for (ip, day, package) in [("10.77.0.4", 1, first), ("10.77.0.5", 2, second)] {
        world.lab.sh(&format!(
            "mkdir -p {ip} && cd {ip} && printf '{}' > Packages
             printf 'Date: Mon, 01 Jan 2024 00:00:00 UTC\nSHA256:\n %s %s Packages\n' \
                $(sha256sum < Packages | cut -d' ' -f1) $(stat -c %s Packages) > Release
             touch -d 2024-01-0{day} Release Packages",
            package.replace('\n', "\\n")
        ));
        world.root(&format!(
            "nsenter --net=/proc/{far}/ns/net sh -c 'ip addr add {ip}/24 dev far; cd {dir}/{ip}
             exec python3 -m http.server 80 --bind {ip} >/dev/null 2>&1' & 
             for n in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; python3 {dir}/fetch.py http://{ip} | grep -q says && exit 0; done; exit 1"
        ));
    }
    world.names("mirror.test A 10.77.0.4\n");
    world.lab.sh("echo 'deb [trusted=yes] http://mirror.test/ ./' > sources.list");
    let options = format!(
        "-o Dir::Etc::SourceList={dir}/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State={dir}/state \
         -o Dir::Cache={dir}/cache -o Dir::State::Status=/dev/null -o Dir::Log={dir} -o APT::Sandbox::User= -o Acquire::Languages=none"
    );
    world.lab.fvm(["create", "v", "--net", "own", "--allow", "mirror.test:80"]).expect(0);
    world.lab.fvm(["start", "v"]).expect(0);
    let inside = |script: &str| world.lab.fvm(["exec", "v", "--", "sh", "-ec", script]).expect(0).out;
    let update = format!(
        "cd {dir}; mkdir -p state/lists/partial cache/archives/partial; apt-get {options} update 2>&1; apt-cache {options} pkgnames"
    );
    let said = inside(&update);
    assert!(said.lines().any(|l| l == "only-here") && !said.contains("Err:"), "{said}");
    let closed = "http://10.77.0.2 http://10.77.0.3 http://other.test http://[fd77::2] http://[fd77::3] http://10.77.0.1:9000 \
                  http://10.77.0.5 http://mirror.test:81 http://127.0.0.1:9000";
    let fetch = |urls: &str| inside(&format!("python3 {dir}/fetch.py {urls}"));
    assert_eq!(fetch(closed).matches("is closed").count(), 9);
    // The name moves, and what is allowed with it.
    world.names("mirror.test A 10.77.0.5\n");
    let said = inside(&update);
    assert!(said.lines().any(|l| l == "moved-here") && !said.contains("Err:"), "{said}");
}
