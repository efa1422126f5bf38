//! Reports of a run with hostile results: pages in a real browser, tables, lines, bundles.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use fvm_webtest::db::{self, Chosen, Filter, NewSite, Queue, Run, Versions};
use fvm_webtest::model::{
    Certificate, Download, Ended, Foreign, Kind, Observation, Outcome, Params, Ran, Reason, Request, Task, Tier,
    Verdict, Wrote,
};
use fvm_webtest::report::{self, ReportError, Source, stored};
use fvm_webtest::store::{self, S3Options, Store};
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const EVIL: &str = "</title></code></table><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">\u{202e}gpj.exe\u{0}\u{1b}[2J'\"`-->";
const MAGENTA: [u8; 3] = [255, 0, 200];

struct Lab {
    dir: tempfile::TempDir,
    queue: Box<dyn Queue>,
    store: Box<dyn Store>,
    run: Run,
}

/// A picture of one colour.
fn picture(colour: [u8; 3]) -> Vec<u8> {
    let (width, height) = (400_u32, 250_u32);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&colour.repeat((width * height) as usize)).unwrap();
    writer.finish().unwrap();
    bytes
}

/// What a page might show that wants to harm whoever reads the report.
fn hostile(store: &dyn Store) -> Observation {
    let evil = || EVIL.to_owned();
    let request = |url: &str, initiator: Option<&str>, status| Request {
        url: url.into(),
        method: "GET".into(),
        kind: "Document".into(),
        status: Some(status),
        mime: Some("text/html".into()),
        bytes: 12_345,
        took_ms: Some(81.0),
        initiator: initiator.map(str::to_owned),
        ..Request::default()
    };
    let mut seen = Observation {
        title: EVIL.repeat(30).chars().take(4_096).collect(),
        final_url: format!("https://end.example/{EVIL}"),
        browser: evil(),
        exit: Some(evil()),
        redirects: vec!["javascript:alert(1)".into(), evil()],
        requests: vec![
            request("https://a.example/", None, 200),
            request("https://a.example/app.js", Some("https://a.example/"), 200),
            request("https://cdn.example/x.js", Some("https://a.example/app.js"), 404),
            request(EVIL, Some("https://cdn.example/x.js"), 200),
        ],
        certificates: vec![Certificate {
            host: evil(),
            subject: evil(),
            from: i64::MIN,
            until: i64::MAX,
            ..Certificate::default()
        }],
        console: vec![evil(), "x".repeat(4_096)],
        cookies: vec![(evil(), evil(), evil())],
        downloads: vec![Download {
            name: format!("=cmd|{EVIL}"),
            sha256: Some("00ab".repeat(16)),
            bytes: 9,
            automatic: true,
            ..Download::default()
        }],
        wrote: vec![Wrote {
            path: format!("/home/u/.config/autostart/{EVIL}"),
            what: "created".into(),
            persistent: true,
            by: Some(evil()),
        }],
        ran: vec![Ran { exe: "/tmp/dropper".into(), command: evil(), parent: Some(evil()), events: vec![3, 5] }],
        listened: vec![evil()],
        foreign: vec![Foreign {
            protocol: "tcp".into(),
            to: "203.0.113.5:4444".into(),
            program: Some(evil()),
            began: evil(),
        }],
        findings: vec![(evil(), "high".into(), evil())],
        cut: vec![evil()],
        took_ms: 4_000.0,
        cpu_ms: 400.0,
        vm_ms: 3.0,
        ready_ms: 190.0,
        load_ms: Some(700.0),
        memory_bytes: Some(84_000_000),
        ..Observation::default()
    };
    seen.fights.dialogs = 50;
    seen.artifacts.first = Some(store.put(&picture([20, 60, 90])).unwrap());
    seen.artifacts.last = Some(store.put(&picture(MAGENTA)).unwrap());
    seen
}

fn lab() -> Lab {
    let dir = tempfile::Builder::new().prefix("fvm-report-").tempdir_in("/var/tmp").unwrap();
    let queue = db::open(dir.path().join("db").to_str().unwrap()).unwrap();
    let store = store::open(dir.path().join("store").to_str().unwrap(), &S3Options::default()).unwrap();
    let mut urls = vec![
        "https://evil.example/'%3Cscript%3E=x".to_owned(),
        "https://picture.example/".into(),
        "https://gone.example/".into(),
    ];
    urls.extend((0..40).map(|n| format!("https://shop{n}.example/welcome")));
    let site = |url: &String| NewSite {
        url: url.parse().unwrap(),
        tags: vec!["t".into()],
        priority: None,
        every_s: None,
        source: String::new(),
    };
    queue.add(&urls.iter().map(site).collect::<Vec<_>>()).unwrap();
    let run = queue
        .begin(&Params { user_agent: Some(EVIL.into()), ..Params::default() }, &Versions::default(), &Chosen::default())
        .unwrap();
    while let Some(task) = queue.claim(&run, "w", 60_000).unwrap() {
        let outcome = outcome(&task, &*store);
        let stored = stored::put(&*store, &outcome).unwrap();
        queue.record(&task, "w", &outcome, Some(&stored)).unwrap();
    }
    queue.finish(run.id).unwrap();
    Lab { dir, run: queue.run(Some(run.id)).unwrap(), queue, store }
}

fn outcome(task: &Task, store: &dyn Store) -> Outcome {
    let host = task.url.host_str().unwrap();
    let reason = |kind, rule: &str, text: &str| Reason {
        rule: rule.into(),
        kind,
        text: text.into(),
        evidence: vec![EVIL.into()],
    };
    let plain = |title: &str| Observation {
        title: title.into(),
        final_url: task.url.to_string(),
        tier: Tier::Shell,
        took_ms: 1_300.0,
        cpu_ms: 300.0,
        load_ms: Some(430.0),
        ..Observation::default()
    };
    let (kind, reasons, seen) = match host {
        "evil.example" => {
            let reasons = vec![
                reason(Kind::Malicious, "foreign-exec", "a program ran that is not the browser's"),
                reason(Kind::Suspicious, EVIL, EVIL),
            ];
            (Kind::Malicious, reasons, hostile(store))
        }
        "picture.example" => {
            // No picture, though it says so: SVG runs scripts.
            let mut seen = plain("@picture");
            seen.artifacts.last =
                Some(store.put(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>").unwrap());
            (Kind::Suspicious, vec![reason(Kind::Suspicious, "auto-download", "a download came unasked")], seen)
        }
        "gone.example" => {
            let seen =
                Observation { ended: Ended::NotReached { why: "net::ERR_NAME_NOT_RESOLVED".into() }, ..plain("") };
            (Kind::Error, vec![reason(Kind::Error, "not-reached", "the site was not there")], seen)
        }
        other => (Kind::Clean, Vec::new(), plain(&format!("=Welcome to {other}"))),
    };
    Outcome { verdict: Verdict { kind, reasons }, seen }
}

fn source(lab: &Lab) -> Source<'_> {
    Source { queue: &*lab.queue, store: &*lab.store, run: &lab.run, filter: Filter::default() }
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn pages_hold_all_of_it_and_nothing_of_a_page_as_markup() {
    let lab = lab();
    let to = lab.dir.path().join("report");
    assert_eq!(report::html(&source(&lab), &to).unwrap(), 43);
    let index = read(to.join("index.html"));
    assert!(index.find("evil.example").unwrap() < index.find("picture.example").unwrap(), "the worst is first");
    assert_eq!(index.matches("<tr data-kind=").count(), 43);
    let mut pages = vec![index];
    for entry in std::fs::read_dir(to.join("sites")).unwrap() {
        pages.push(read(entry.unwrap().path()));
    }
    assert_eq!(pages.len(), 44);
    for page in &pages {
        assert!(page.contains("default-src 'none'"));
        let scripts = page.matches("<script").count();
        assert_eq!(scripts, page.matches("<script src=\"script.js\"></script>").count(), "{page}");
        for bad in [
            "onerror=\"",
            "javascript:alert(1)\"",
            "href=\"http",
            "src=\"http",
            "<svg",
            "\u{202e}",
            "\u{0}",
            "\u{1b}",
            "style=\"",
        ] {
            assert!(!page.contains(bad), "{bad:?} in {page}");
        }
    }
    let evil = pages.iter().find(|page| page.contains("203.0.113.5:4444")).unwrap();
    for text in [
        "autostart/",
        "/tmp/dropper",
        "app.js",
        "dialogs: 50",
        "\u{ab}U+202E\u{bb}",
        "starts by itself",
        "foreign-exec",
    ] {
        assert!(evil.contains(text), "{text} is missing");
    }
    let files: Vec<String> =
        std::fs::read_dir(to.join("files")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().all(|file| file.ends_with(".png")));
}

#[test]
fn a_report_replaces_a_report_and_nothing_else() {
    let lab = lab();
    let to = lab.dir.path().join("report");
    report::html(&source(&lab), &to).unwrap();
    std::fs::write(to.join("sites/999.html"), "old").unwrap();
    let only = Source { filter: Filter { kinds: vec![Kind::Malicious], ..Filter::default() }, ..source(&lab) };
    assert_eq!(report::html(&only, &to).unwrap(), 1);
    assert_eq!(std::fs::read_dir(to.join("sites")).unwrap().count(), 1);
    let own = lab.dir.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("thesis.txt"), "mine").unwrap();
    assert!(matches!(report::html(&source(&lab), &own), Err(ReportError::Occupied { .. })));
    assert_eq!(std::fs::read_dir(&own).unwrap().count(), 1);
}

#[test]
fn tables_lines_and_bundles_say_the_same() {
    let lab = lab();
    let (mut csv, mut lines, mut bundle) = (Vec::new(), Vec::new(), Vec::new());
    assert_eq!(report::table(&source(&lab), &mut csv).unwrap(), 43);
    assert_eq!(report::jsonl(&source(&lab), &mut lines).unwrap(), 43);
    report::stix(&source(&lab), &mut bundle).unwrap();

    let rows: Vec<csv::StringRecord> = csv::Reader::from_reader(&csv[..]).records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), &rows[0][2], &rows[42][2]), (43, "malicious", "clean"));
    for cell in rows.iter().flat_map(csv::StringRecord::iter) {
        assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell}");
        assert!(!cell.contains(char::is_control), "{cell:?}");
    }

    let lines: Vec<Value> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["verdict"], "malicious");
    assert_eq!(lines[0]["seen"]["wrote"][0]["persistent"], true);
    assert_eq!(lines[0]["seen"]["console"][0], EVIL);
    assert_eq!(lines.iter().filter(|line| line["verdict"] == "clean").count(), 40);

    stix(&serde_json::from_slice(&bundle).unwrap());
    let mut again = Vec::new();
    report::stix(&source(&lab), &mut again).unwrap();
    assert!(again == bundle, "the same run gave another bundle");
}

/// What the standard demands of what is here: identifiers, references, times.
fn stix(bundle: &Value) {
    assert_eq!(bundle["type"], "bundle");
    let objects = bundle["objects"].as_array().unwrap();
    let ids: HashSet<&str> = objects.iter().map(|object| object["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), objects.len(), "an identifier is there twice");
    for object in objects {
        let (kind, id) = (object["type"].as_str().unwrap(), object["id"].as_str().unwrap());
        let (of, uuid) = id.split_once("--").unwrap();
        assert!(of == kind && uuid.len() == 36, "{id}");
        assert_eq!(object["spec_version"], "2.1");
        for (key, value) in object.as_object().unwrap() {
            let refs: Vec<&str> = match value {
                Value::String(text) if key.ends_with("_ref") => vec![text],
                Value::Array(list) if key.ends_with("_refs") => list.iter().map(|v| v.as_str().unwrap()).collect(),
                _ => Vec::new(),
            };
            assert!(refs.iter().all(|id| ids.contains(id)), "{key} of {id} leads nowhere");
        }
        let observable = ["url", "domain-name", "file"].contains(&kind);
        assert_eq!(object["created"].is_string(), !observable, "{id}");
    }
    let of = |kind: &str| objects.iter().filter(|object| object["type"] == kind).collect::<Vec<_>>();
    assert_eq!((of("indicator").len(), of("malware-analysis").len(), of("relationship").len()), (2, 42, 2));
    assert_eq!(of("file")[0]["hashes"]["SHA-256"], "00ab".repeat(16));
    let pattern = of("indicator")[0]["pattern"].as_str().unwrap();
    assert_eq!(pattern, r"[url:value = 'https://evil.example/\'%3Cscript%3E=x']");
}

#[test]
fn chromium_shows_the_report_from_its_files() {
    if !Path::new("/usr/bin/chromium").exists() {
        eprintln!(
            "skipped: chromium_shows_the_report_from_its_files: chromium is not installed (apt-get install chromium)"
        );
        return;
    }
    let lab = lab();
    let to = lab.dir.path().join("report");
    report::html(&source(&lab), &to).unwrap();
    let browse = lab.dir.path().join("browse");
    std::fs::create_dir(&browse).unwrap();
    let chromium = |args: &[&str], page: &str| common::chromium(lab.dir.path(), &browse, args, page);
    let page = |name: &str| format!("file://{}/{name}", to.display());
    let dom = |name: &str| String::from_utf8(chromium(&["--dump-dom"], &page(name))).unwrap();
    let visible = |dom: &str| {
        dom.split("<tr ")
            .skip(1)
            .filter(|row| row.contains("data-kind") && !row.split_once('>').unwrap().0.contains("hidden"))
            .count()
    };
    let all = dom("index.html");
    assert_eq!(visible(&all), 43, "the script runs and hides nothing");
    assert!(all.contains("43 of 43"), "the script runs");
    assert!(all.contains("<title>Run 1</title>") && !all.contains("pwned</title>"));
    let filtered = dom("index.html#kind=malicious");
    assert!(visible(&filtered) == 1 && filtered.contains("1 of 43"), "filter");
    let found = dom("index.html#q=SHOP3+welcome");
    assert!(visible(&found) == 11 && found.contains("11 of 43"), "search: {}", visible(&found));
    let none = dom("index.html#kind=clean&q=evil");
    assert!(visible(&none) == 0 && !none.contains("id=\"none\" hidden"), "nothing is found, and that is said");

    // What is not ours does not run, even if it were in a page.
    let text = read(to.join("index.html")).replace(
        "</body>",
        "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"></body>",
    );
    std::fs::write(to.join("altered.html"), text).unwrap();
    assert!(dom("altered.html").contains("<title>Run 1</title>"), "the policy does not hold");

    let evil =
        lab.queue.results(1, &Filter { kinds: vec![Kind::Malicious], ..Filter::default() }, None, 1).unwrap()[0].site;
    let detail = dom(&format!("sites/{evil}.html"));
    assert!(detail.contains("203.0.113.5:4444") && !detail.contains("<title>pwned"));
    for (name, file) in [("index.html".to_owned(), "index.png"), (format!("sites/{evil}.html"), "detail.png")] {
        let shot = browse.join(file);
        chromium(&[&format!("--screenshot={}", shot.display())], &page(&name));
        let pixels = common::pixels(&shot, MAGENTA);
        assert!(pixels > 1_000, "{name}: the site's picture is not shown ({pixels} pixels)");
        if let Some(keep) = std::env::var_os("FVM_REPORT_SHOTS") {
            std::fs::copy(&shot, Path::new(&keep).join(file)).unwrap();
        }
    }
}
