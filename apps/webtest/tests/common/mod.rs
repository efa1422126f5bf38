//! What the tests of webtest share: a PostgreSQL of their own, a browser that reads reports, a visitor that visits nothing.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "test code, and not each test uses all of it"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian has the programs of PostgreSQL; the newest.
fn programs() -> Option<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|e| e.path().join("bin")).collect();
    all.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    all.sort();
    all.pop()
}

/// A cluster in a directory of its own, by an ordinary user, listening on a socket there and nowhere else.
pub struct Cluster {
    dir: tempfile::TempDir,
    bin: PathBuf,
}

impl Cluster {
    /// Nothing, and why, if PostgreSQL is not installed.
    pub fn start(test: &str) -> Option<Self> {
        let Some(bin) = programs() else {
            eprintln!("skipped: {test}: PostgreSQL is not installed (apt-get install postgresql)");
            return None;
        };
        // The path of a socket has room for a hundred letters.
        let dir = tempfile::Builder::new().prefix("fvm-pg-").tempdir_in("/var/tmp").unwrap();
        let cluster = Self { dir, bin };
        let data = cluster.dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        if rustix::process::geteuid().is_root() {
            let owned = Command::new("chown").args(["-R", "nobody"]).arg(cluster.dir.path()).status().unwrap();
            assert!(owned.success());
        }
        cluster.run(
            "initdb",
            &["--auth=trust", "--username=fvm", "--no-sync", "--encoding=UTF8", "--locale=C", "-D", "data"],
        );
        cluster.go();
        cluster.run("createdb", &["-h", cluster.host(), "-U", "fvm", "webtest"]);
        Some(cluster)
    }

    /// Starts its server, if it was stopped.
    pub fn go(&self) {
        let options = format!("-c listen_addresses= -c unix_socket_directories={} -c fsync=off", self.host());
        self.run("pg_ctl", &["-D", "data", "-w", "-l", "log", "-o", &options, "start"]);
    }

    /// Stops it at once, as if it had crashed.
    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", "data", "-m", "immediate", "-w", "stop"]);
    }

    fn host(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    /// The address of its database.
    pub fn url(&self) -> String {
        format!("postgres://fvm@/webtest?host={}", self.host())
    }

    /// A database of its own in it.
    pub fn database(&self, name: &str) -> String {
        self.run("createdb", &["-h", self.host(), "-U", "fvm", name]);
        format!("postgres://fvm@/{name}?host={}", self.host())
    }

    fn run(&self, program: &str, args: &[&str]) {
        let out = self.command(&self.bin.join(program)).args(args).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}{}", text(&out.stdout), text(&out.stderr));
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--clear-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.dir.path()).stdin(Stdio::null()).env("LC_ALL", "C");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = self.command(&self.bin.join("pg_ctl"));
        let stopped = stop.args(["-D", "data", "-m", "immediate", "-w", "stop"]).output();
        if let Err(e) = stopped {
            eprintln!("the PostgreSQL of a test is left: {e}");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A visitor that visits nothing: what it says depends on the address, and it takes its time.
pub mod scripted {
    use fvm_webtest::model::{Download, Ended, Kind, Observation, Reason, Request, Task, Verdict, Wrote};
    use fvm_webtest::store::Store;
    use fvm_webtest::visit::Visitor;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    /// Hosts that begin with `bad` write, `fail` fail, `gone` are not there, `flaky` fail once, `slow` take until they are stopped.
    #[derive(Default)]
    pub struct Script {
        pub pause: Duration,
        pub visits: AtomicU32,
        pub at_once: AtomicU32,
        pub most_at_once: AtomicU32,
    }

    impl Visitor for Script {
        fn visit(&self, task: &Task, store: &dyn Store, stop: &AtomicBool) -> Observation {
            self.visits.fetch_add(1, Ordering::SeqCst);
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            let seen = self.look(task, store, stop);
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            seen
        }
    }

    impl Script {
        fn look(&self, task: &Task, store: &dyn Store, stop: &AtomicBool) -> Observation {
            let host = task.url.host_str().unwrap_or_default().to_owned();
            let (began, slow) = (Instant::now(), host.starts_with("slow"));
            while (slow || began.elapsed() < self.pause) && !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(2));
            }
            let mut seen = Observation {
                tier: task.tier,
                browser: "Script 1.0".into(),
                title: format!("Title of {host}"),
                final_url: task.url.to_string(),
                took_ms: began.elapsed().as_secs_f64() * 1e3 + 1.0,
                cpu_ms: 5.0,
                vm_ms: 3.0,
                ready_ms: 4.0,
                load_ms: Some(7.0),
                requests: vec![Request { url: task.url.to_string(), status: Some(200), ..Request::default() }],
                ..Observation::default()
            };
            if host.starts_with("bad") {
                let by = Some("/usr/bin/evil".into());
                seen.wrote =
                    vec![Wrote { path: "/home/u/.bashrc".into(), what: "modified".into(), persistent: true, by }];
            }
            if host.starts_with("odd") && task.tier == fvm_webtest::model::Tier::Shell {
                seen.downloads = vec![Download { automatic: true, ..Download::default() }];
            }
            if host.starts_with("fail") || (host.starts_with("flaky") && task.attempt == 1) {
                seen.ended = Ended::Failed { why: "no VM".into() };
            } else if host.starts_with("gone") {
                seen.ended = Ended::NotReached { why: "net::ERR_NAME_NOT_RESOLVED".into() };
            } else if let Ok(name) = store.put(picture(&host).as_slice()) {
                seen.artifacts.last = Some(name);
            }
            seen
        }
    }

    /// A PNG of one pixel; each host has its own.
    fn picture(host: &str) -> Vec<u8> {
        let mut png = PIXEL.to_vec();
        png.extend(host.bytes());
        png
    }

    /// A grey pixel.
    pub const PIXEL: &[u8] = &[
        0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0, 1,
        8, 0, 0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 10, b'I', b'D', b'A', b'T', 0x78, 0x9c, 0x63, 0x68, 0, 0, 0,
        0x82, 0, 0x81, 0x77, 0xcd, 0x72, 0xb6, 0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
    ];

    /// Says what the script meant.
    pub fn judge(seen: &Observation) -> Verdict {
        let (kind, rule, text) = match &seen.ended {
            Ended::Failed { .. } => (Kind::Unknown, "failed", "the visit failed"),
            Ended::NotReached { .. } => (Kind::Error, "not-reached", "the site was not there"),
            _ if !seen.wrote.is_empty() => (Kind::Malicious, "wrote", "a program was put where it starts by itself"),
            _ if !seen.downloads.is_empty() => (Kind::Suspicious, "download", "a download came unasked"),
            _ => return Verdict { kind: Kind::Clean, reasons: Vec::new() },
        };
        let evidence = seen.wrote.iter().map(|wrote| wrote.path.clone()).collect();
        Verdict { kind, reasons: vec![Reason { rule: rule.into(), kind, text: text.into(), evidence }] }
    }
}

/// A headless Chromium that reads a report below `all`: as an ordinary user, with its sandbox on.
pub fn chromium(all: &Path, dir: &Path, args: &[&str], page: &str) -> Vec<u8> {
    let mut command = if rustix::process::geteuid().is_root() {
        let owned = Command::new("chown").arg("-R").arg("nobody").arg(all).status().unwrap();
        assert!(owned.success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--clear-groups", "--", "/usr/bin/chromium"]);
        command
    } else {
        Command::new("/usr/bin/chromium")
    };
    let out = command
        .args(["--headless=new", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--window-size=1400,1000"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .args(args)
        .arg(page)
        .env("HOME", dir)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "chromium: {}", text(&out.stderr));
    out.stdout
}

/// How many pixels of a picture have this colour.
pub fn pixels(path: &Path, colour: [u8; 3]) -> usize {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let size = info.color_type.samples();
    bytes.chunks(size).filter(|pixel| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) < 8)).count()
}
