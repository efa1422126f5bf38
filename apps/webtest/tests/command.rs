//! The program `fvm-webtest` as people use it: bad lists, what is missing, a crawl, its replay in real browsers, kill -9, a report.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A place of its own for everything.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("fvm-webtest-").tempdir_in("/var/tmp").unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fvm-webtest"));
        command
            .args(args)
            .env("FVM_WEBTEST_DB", self.path("urls.db"))
            .env("FVM_WEBTEST_STORE", self.path("results"))
            .env("FVM_HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("data"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str], code: i32) -> (String, String) {
        told(&self.command(args).output().unwrap(), code)
    }

    /// With something on standard input.
    #[track_caller]
    fn fed(&self, args: &[&str], input: &[u8], code: i32) -> (String, String) {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        told(&child.wait_with_output().unwrap(), code)
    }
}

#[track_caller]
fn told(out: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, talk) = (text(&out.stdout), text(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "\nstdout: {said}\nstderr: {talk}");
    (said, talk)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn broken_lists_are_told_by_line_and_what_is_good_is_taken() {
    let lab = Lab::new();
    let list = b"good.example\n\nhttp://\n\xff\xfe\nftp://x.example/\nhttps://good.example/\nhttps://two.example/a\x1b[2Jb\nthree.example\n";
    let (said, talk) = lab.fed(&["import", "-"], list, 1);
    assert_eq!(said, "2 added, 1 known already, 4 bad\n");
    for line in ["-:3: ", "-:4: ", "-:5: ", "-:7: "] {
        assert!(talk.contains(line), "{line} in {talk}");
    }
    assert!(!talk.contains('\u{1b}'), "{talk:?}");
    std::fs::write(lab.path("list.csv"), "url,tags,every\nfour.example,a;b,3600\n,x,\n\"five.example\",\"c\",soon\n")
        .unwrap();
    std::fs::write(lab.path("index.xml"), "<sitemapindex>\n<sitemap><loc>https://s.example/one.xml</loc></sitemap>\n<sitemap><loc>https://s.example/no.xml</loc></sitemap></sitemapindex>").unwrap();
    std::fs::write(
        lab.path("one.xml"),
        "<urlset><url><loc>https://s.example/1</loc></url><url><loc>https://s.example/2</loc></url></urlset>",
    )
    .unwrap();
    let (said, _) = lab.run(&["import", "--json", "list.csv", "index.xml", "nowhere.txt"], 1);
    let told = json(&said);
    assert_eq!((told["added"].as_u64(), told["bad"].as_u64()), (Some(3), Some(4)), "{told}");
    let faults: Vec<(&str, u64)> = told["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["file"].as_str().unwrap(), f["line"].as_u64().unwrap()))
        .collect();
    assert_eq!(faults, [("list.csv", 3), ("list.csv", 4), ("index.xml", 3), ("nowhere.txt", 0)]);
    let (said, talk) = lab.fed(&["import", "--strict", "-"], b"six.example\nnot one\n", 1);
    assert!(said.starts_with("0 added") && talk.contains("nothing was added"), "{said}{talk}");
    let (said, _) = lab.fed(&["import", "--strict", "-"], b"six.example\n", 0);
    assert!(said.starts_with("1 added"), "{said}");
}

#[test]
fn what_is_missing_is_named_and_what_to_do() {
    let lab = Lab::new();
    let (_, talk) = lab.run(&["status"], 1);
    assert!(talk.contains("there is no database") && talk.contains("hint: "), "{talk}");
    let (_, talk) = lab.run(&["status", "--db", "postgres://nobody:secret@127.0.0.1:1/none"], 1);
    assert!(talk.contains("cannot reach the database") && !talk.contains("secret"), "{talk}");
    std::fs::write(
        lab.path("urls.db"),
        "no database at all, but somebody's text, long enough to be looked at".repeat(30),
    )
    .unwrap();
    let (_, talk) = lab.run(&["status"], 1);
    assert!(talk.contains("is not a database of fvm webtest"), "{talk}");
    std::fs::remove_file(lab.path("urls.db")).unwrap();
    lab.fed(&["import", "-"], b"a.example\n", 0);
    let (_, talk) = lab.run(&["run", "--resume", "--json"], 1);
    assert!(json(&talk)["hint"].is_string(), "{talk}");
    lab.run(&["run", "--wait", "soon"], 2);
    let (_, talk) = lab.run(&["report", "--to", "report"], 1);
    assert!(talk.contains("there is no run yet"), "{talk}");
    let (said, _) = lab.run(&["run", "--begin", "--wait", "2m", "--tag", "none"], 1);
    assert_eq!(said, "", "a run without sites was begun");
    let (said, _) = lab.run(&["run", "--begin", "--wait", "2m"], 0);
    assert_eq!(said, "1\n");
    let (said, _) = lab.run(&["status", "--json"], 0);
    assert_eq!(json(&said)["run"]["params"]["wait_s"], 120);
    let (_, talk) = lab.run(&["results", "--file", "../../etc/passwd"], 1);
    assert!(talk.contains("cannot read the file of results"), "{talk}");
    // With a root of its own that has no browser, if that can be had.
    let hidden = Command::new("unshare")
        .args([
            "-rm",
            "sh",
            "-c",
            "mount -t tmpfs none /usr/lib/chromium && exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_fvm-webtest"),
        ])
        .args(["run", "--resume", "--db"])
        .arg(lab.path("urls.db"))
        .env("FVM_WEBTEST_STORE", lab.path("results"))
        .env("FVM_HOME", lab.path("home"))
        .env("XDG_DATA_HOME", lab.path("data"))
        .output()
        .unwrap();
    let talk = String::from_utf8_lossy(&hidden.stderr);
    if Path::new("/usr/lib/chromium").exists() && !talk.contains("unshare") && !talk.contains("mount:") {
        assert!(talk.contains("chromium-headless-shell"), "the package is not named: {talk}");
        assert_eq!(hidden.status.code(), Some(1));
    }
    let (said, _) = lab.run(&["status", "--json"], 0);
    assert_eq!(json(&said)["counts"]["queued"], 1, "something was lost");
}

/// Sites at 127.0.1.1, 127.0.1.2, ...: pages with links to each other and to the next site. Their port, and how often they were asked.
fn sites(count: usize, pages: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let of_server = Arc::clone(&asked);
    let serve = move |stream: TcpStream, asked: &AtomicUsize| {
        let own = stream.local_addr().unwrap().ip().to_string();
        let site: usize = own.rsplit('.').next().unwrap().parse().unwrap();
        let mut out = stream.try_clone().unwrap();
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(first)) = lines.next() {
            asked.fetch_add(1, Ordering::Relaxed);
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let path = first.split(' ').nth(1).unwrap_or("/");
            let page = path.trim_start_matches("/page").trim_end_matches(".html").parse().unwrap_or(0_usize);
            let next = (page + 1) % pages;
            let other = site % count + 1;
            let (status, kind, body) = match path {
                "/style.css" => ("200 OK", "text/css", "body { font: 20px serif; background: #ff00c8 }".to_owned()),
                "/robots.txt" | "/sitemap.xml" | "/favicon.ico" => ("404 Not Found", "text/plain", String::new()),
                _ => (
                    "200 OK",
                    "text/html",
                    format!(
                        "<!doctype html><title>Site {site}, page {page}</title><link rel=stylesheet href=/style.css><h1>Site {site}</h1>\
                     <p>Page {page}<a href=/page{next}.html>next</a><a href=http://127.0.1.{other}:{port}/page{page}.html>neighbour</a>"
                    ),
                ),
            };
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
            if out.write_all(head.as_bytes()).and_then(|()| out.write_all(body.as_bytes())).is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = Arc::clone(&of_server);
            thread::spawn(move || serve(stream, &asked));
        }
    });
    (port, asked)
}

/// `FVM_WEBTEST_SITES` (254 at most), `FVM_WEBTEST_PAGES`: more than a few; `FVM_WEBTEST_VISITS`: so many pages of each site are
/// visited; `FVM_WEBTEST_AT_ONCE`: so many at once.
fn number(key: &str, usual: usize) -> usize {
    std::env::var(key).map_or(usual, |value| value.parse().unwrap())
}

#[test]
fn chromium_visits_a_crawled_mirror_is_killed_goes_on_and_its_report_is_read() {
    let name = "chromium_visits_a_crawled_mirror_is_killed_goes_on_and_its_report_is_read";
    for (file, package) in
        [("/usr/lib/chromium/chromium-headless-shell", "chromium-headless-shell"), ("/usr/bin/chromium", "chromium")]
    {
        if !Path::new(file).exists() {
            eprintln!("skipped: {name}: {package} is not installed (apt-get install {package})");
            return;
        }
    }
    let lab = Lab::new();
    let (count, pages) = (number("FVM_WEBTEST_SITES", 6), number("FVM_WEBTEST_PAGES", 4));
    let of_each = number("FVM_WEBTEST_VISITS", pages);
    let visits = count * of_each;
    let (port, asked) = sites(count, pages);
    let url = |site: usize, page: usize| format!("http://127.0.1.{site}:{port}/page{page}.html");
    let hosts: Vec<String> = (1..=count).map(|site| url(site, 0)).collect();
    let mut crawl = vec!["crawl", "set", "--allow-address", "127.0.0.0/8", "--pause", "0", "--depth", "100"];
    crawl.extend(hosts.iter().map(String::as_str));
    let began = Instant::now();
    let (said, _) = lab.run(&crawl, 0);
    eprintln!("crawl, {:.1?}: {}", began.elapsed(), said.trim());
    assert!(said.starts_with(&format!("{} pages, ", count * pages)) && said.contains("; 0 wait, 0 failed"), "{said}");
    if of_each == pages {
        let (said, _) = lab.run(&["import", "--tag", "mirror", "set"], 0);
        assert_eq!(said, format!("{visits} added, 0 known already, 0 bad\n"));
    } else {
        let some = (1..=count).flat_map(|site| (0..of_each).map(move |page| url(site, page) + "\n"));
        let (said, _) = lab.fed(&["import", "-"], some.collect::<String>().as_bytes(), 0);
        assert_eq!(said, format!("{visits} added, 0 known already, 0 bad\n"));
    }
    let by_crawl = asked.load(Ordering::Relaxed);

    // Killed in the middle.
    let began = Instant::now();
    let early = visits.div_ceil(4);
    let mut run = vec!["run", "--replay", "set", "--wait", "0", "--json", "--quiet"];
    let at_once = std::env::var("FVM_WEBTEST_AT_ONCE").ok();
    run.extend(at_once.iter().flat_map(|count| ["--concurrent", count]));
    let mut child = lab.command(&run).stdout(Stdio::piped()).spawn().unwrap();
    let results = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(results.filter(|line| line.contains("\"event\":\"result\"")).take(early).count(), early);
    child.kill().unwrap();
    child.wait().unwrap();
    let (said, _) = lab.run(&["status", "--json"], 0);
    let counts = &json(&said)["counts"];
    let done: u64 = counts["verdicts"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert!(done >= early as u64 && done < visits as u64, "it was not killed in the middle: {counts}");
    // And goes on; nothing waits for a lease.
    lab.run(&["run", "--resume", "--quiet"], 0);
    assert!(lab.run(&["run", "--resume"], 0).1.contains("has ended"));
    eprintln!("{visits} visits, killed after {done}, {:.1?}", began.elapsed());
    assert_eq!(asked.load(Ordering::Relaxed), by_crawl, "a visit of the mirror went to the site");

    let (said, _) = lab.run(&["results", "--json", "--limit", "100000"], 0);
    let rows: Vec<Value> = said.lines().map(json).collect();
    let urls: BTreeSet<&str> = rows.iter().map(|row| row["url"].as_str().unwrap()).collect();
    assert_eq!((rows.len(), urls.len()), (visits, visits), "after {:?}", began.elapsed());
    for row in &rows {
        assert_eq!(row["verdict"], "clean", "{row}");
        assert!(row["title"].as_str().unwrap().starts_with("Site "), "{row}");
    }
    nothing_is_left(&lab);

    let began = Instant::now();
    lab.run(&["report", "--to", "report"], 0);
    eprintln!("report: {:.1?}", began.elapsed());
    let browse = lab.path("browse");
    std::fs::create_dir(&browse).unwrap();
    let dom = |page: &str| {
        common::chromium(
            &lab.path(""),
            &browse,
            &["--dump-dom"],
            &format!("file://{}/{page}", lab.path("report").display()),
        )
    };
    let began = Instant::now();
    let first = url(1, 0);
    let one = first.trim_end_matches("page0.html");
    for (asked, found) in [
        ("kind=clean&q=page0.html".to_owned(), count),
        (format!("q={}", one.replace(':', "%3A").replace('/', "%2F")), of_each),
        ("kind=malicious".to_owned(), 0),
    ] {
        let index = String::from_utf8(dom(&format!("index.html#{asked}"))).unwrap();
        assert!(index.contains(&format!("{found} of {visits}")), "filter and search: {asked}");
    }
    let site = rows.iter().find(|row| row["url"] == first.as_str()).unwrap()["site"].as_i64().unwrap();
    let detail = String::from_utf8(dom(&format!("sites/{site}.html"))).unwrap();
    assert!(
        detail.contains("Site 1, page 0") && detail.contains("style.css") && detail.contains("<img src=\"../files/")
    );
    let shot = browse.join("shot.png");
    let page = format!("file://{}/sites/{site}.html", lab.path("report").display());
    common::chromium(&lab.path(""), &browse, &[&format!("--screenshot={}", shot.display())], &page);
    assert!(common::pixels(&shot, [255, 0, 200]) > 10_000, "the screenshot of the site is not there");
    eprintln!("report read: {:.1?}", began.elapsed());
}

/// No VM and no process of a browser of ours.
fn nothing_is_left(lab: &Lab) {
    let home = lab.path("home");
    let began = Instant::now();
    loop {
        // What is no VM, and none that is being removed, is fvm's own (docs/spec/state.md).
        let is_vm = |entry: &std::fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            entry.path().is_dir() && (!name.starts_with('.') || name.starts_with(".trash-"))
        };
        let vms: Vec<PathBuf> = std::fs::read_dir(home.join("vms"))
            .map_or(Vec::new(), |all| all.flatten().filter(is_vm).map(|entry| entry.path()).collect());
        let browsers = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|process| std::fs::read(process.path().join("environ")).ok())
            .filter(|environ| {
                environ.windows(home.as_os_str().len()).any(|part| part == home.as_os_str().as_encoded_bytes())
            })
            .count();
        if vms.is_empty() && browsers == 0 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{vms:?} and {browsers} processes are left");
        thread::sleep(Duration::from_millis(100));
    }
}
