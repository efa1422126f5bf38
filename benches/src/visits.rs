//! Web site testing for a long time: many visits at once, of a mirror, one VM each.
//!
//! ```text
//!   pages (here, 127.0.1.N) ─ fvm webtest crawl ─► mirror ─ run --replay, `--count` at once, each left alone `--wait` seconds
//!                                                              │ every second: memory left, processes killed for want of it
//!   row ◄─ status --json ◄─ SIGTERM, 0 s to drain ◄────────────┘ after `--minutes`
//! ```
//!
//! Invariants: every visit is of an address of its own, and no page comes from anywhere but the mirror; what was under way at the end
//! counts for nothing; the rate is what the run's own report says.

use crate::args::{Options, Page};
use crate::error::Error;
use crate::lab::{Lab, checked};
use crate::machine::{Machine, meminfo_kib};
use crate::report::{Report, Table, ratio};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Sites of the mirror.
const SITES: usize = 20;
/// Parts of the larger page: scripts, and as many pictures.
const PARTS: usize = 9;
/// Processor time of the smallest visit that this is for: more of them than that there will not be.
const VISIT_S: f64 = 0.15;
/// So long a run that was told to end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// The benchmark.
///
/// # Errors
/// When the mirror cannot be made or the run does not begin or end.
pub fn run(options: &Options) -> Result<Report, Error> {
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let webtest = Webtest::new(&lab)?;
    let (at_once, wait_s, seconds) = (options.count, options.wait_s, options.minutes * 60);
    let by_vms = at_once as f64 * seconds as f64 / (wait_s as f64 + VISIT_S);
    let by_processors = 2.0 * machine.processors() as f64 * seconds as f64 / VISIT_S;
    let pages = (by_vms.min(by_processors) as usize + 2 * at_once).div_ceil(SITES);
    webtest.mirror(options.page, pages)?;
    let before = killed_for_memory();
    let mut run = webtest.command([
        "run",
        "--replay",
        "mirror",
        "--quiet",
        "--drain",
        "0s",
        "--wait",
        &format!("{wait_s}s"),
        "--concurrent",
        &at_once.to_string(),
    ]);
    let mut run = run.stdout(Stdio::null()).spawn().map_err(Error::file("execute", &webtest.program))?;
    let (began, mut available_min_kib) = (Instant::now(), u64::MAX);
    let mut status = None;
    while status.is_none() && began.elapsed() < Duration::from_secs(seconds as u64) {
        std::thread::sleep(Duration::from_secs(1));
        available_min_kib = available_min_kib.min(meminfo_kib("MemAvailable"));
        status = run.try_wait().map_err(Error::file("wait for", &webtest.program))?;
    }
    if status.is_none() {
        let _told = fvm_sys::process::kill(run.id().cast_signed(), 15);
        let until = Instant::now() + ENDS_WITHIN;
        while run.try_wait().map_err(Error::file("wait for", &webtest.program))?.is_none() {
            if Instant::now() > until {
                let _ended = run.kill().and_then(|()| run.wait());
                return Err(webtest.failed("run", "it does not end"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let said = checked(&mut webtest.command(["status", "--json", "--run", "1"]))?;
    let said: Value = serde_json::from_str(&said).map_err(|e| webtest.failed("status", &e.to_string()))?;
    let row = json!({
        "page": options.page.name(), "at_once": at_once, "wait_s": wait_s, "minutes": options.minutes,
        "counts": said["counts"], "speed": said["speed"],
        "available_min_mib": available_min_kib / 1024, "killed_for_memory": killed_for_memory() - before,
    });
    let mut rows = match (&options.json, options.more) {
        (Some(path), true) if path.exists() => read_rows(path)?,
        _ => Vec::new(),
    };
    rows.push(row);
    let notes = vec![
        "'Model' is the smaller of what the VMs at once and what the processors allow, from what this run measured \
         (docs/book/webtest.md); 'steady' is without the first and the last tenth. VMs that page in one after the other at the \
         beginning end so, too: short runs with long waits come in waves."
            .to_owned(),
    ];
    let data = json!({ "rows": rows });
    let settings = format!("--count {at_once} --wait {wait_s} --minutes {}", options.minutes);
    let tables = vec![table(&rows)];
    Ok(Report { bench: options.bench, part: None, settings, machine, tables, notes, unavailable: Vec::new(), data })
}

/// `fvm-webtest` with a database, a store and VMs of its own.
struct Webtest {
    program: PathBuf,
    dir: PathBuf,
}

impl Webtest {
    fn new(lab: &Lab) -> Result<Self, Error> {
        let here = std::env::current_exe().map_err(Error::file("find", Path::new("this program")))?;
        let program = here.with_file_name("fvm-webtest");
        if !program.exists() {
            let what = format!("{} is not there", program.display());
            return Err(Error::Missing { what, hint: "cargo build --release -p fvm-webtest".into() });
        }
        let dir = lab.path("webtest");
        std::fs::create_dir(&dir).map_err(Error::file("make", &dir))?;
        Ok(Self { program, dir })
    }

    fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).args(["--db", "urls.db", "--store", "results", "--home", "vms"]).current_dir(&self.dir);
        command.stdin(Stdio::null());
        command
    }

    fn failed(&self, what: &str, reason: &str) -> Error {
        Error::Program { command: format!("fvm webtest {what}"), reason: reason.into() }
    }

    /// Pages, as a mirror and in the database.
    fn mirror(&self, page: Page, pages: usize) -> Result<(), Error> {
        let listener = TcpListener::bind("0.0.0.0:0").map_err(Error::file("listen at", Path::new("0.0.0.0")))?;
        let port = listener.local_addr().map_err(Error::file("find", Path::new("the port")))?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, page, pages));
            }
        });
        let limit = (pages + 1).to_string();
        let mut crawl = vec!["crawl", "mirror", "--allow-address", "127.0.0.0/8", "--pause", "0", "--no-robots"];
        crawl.extend(["--no-sitemaps", "--pages-per-host", &limit]);
        let sites: Vec<String> = (1..=SITES).map(|n| format!("http://127.0.1.{n}:{port}/")).collect();
        crawl.extend(sites.iter().map(String::as_str));
        checked(&mut self.command(crawl))?;
        // All sites in turns.
        let urls = (0..pages).flat_map(|n| sites.iter().map(move |site| format!("{site}{n}\n")));
        let list = self.dir.join("urls.txt");
        std::fs::write(&list, urls.collect::<String>()).map_err(Error::file("write", &list))?;
        checked(&mut self.command(["import", "urls.txt"])).map(drop)
    }
}

/// Answers: `/` links to all pages.
fn serve(stream: TcpStream, page: Page, pages: usize) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(first)) = lines.next() {
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let path = first.split(' ').nth(1).unwrap_or("/");
        let (kind, body) = match path {
            "/" => ("text/html", (0..pages).map(|n| format!("<a href=/{n}>{n}</a>\n")).collect()),
            path if path.ends_with(".js") => ("text/javascript", format!("/* {} */", "x".repeat(60_000))),
            path if path.ends_with(".svg") => (
                "image/svg+xml",
                format!("<svg xmlns='http://www.w3.org/2000/svg'><!-- {} --></svg>", "x".repeat(20_000)),
            ),
            path => ("text/html", text_of(page, path)),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: max-age=9\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if out.write_all(head.as_bytes()).and_then(|()| out.write_all(body.as_bytes())).is_err() {
            return;
        }
    }
}

/// The small page, and one of 19 requests, 0.75 MB and a timer.
fn text_of(page: Page, path: &str) -> String {
    match page {
        Page::Small => format!("<!DOCTYPE html><title>{path}</title><p>small"),
        Page::Usual => format!(
            "<!DOCTYPE html><title>{path}</title>{}{}<p>{}<script>setTimeout(() => document.body.append('x'), 50)</script>",
            (0..PARTS).map(|n| format!("<script src=/{n}.js></script>")).collect::<String>(),
            (0..PARTS).map(|n| format!("<img src=/{n}.svg>")).collect::<String>(),
            "text ".repeat(5000)
        ),
    }
}

/// Processes that the kernel ended for want of memory since the machine began (`oom_kill` of proc(5): vmstat).
fn killed_for_memory() -> i64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

fn read_rows(path: &Path) -> Result<Vec<Value>, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    let of = |text: &str| serde_json::from_str::<Value>(text).ok()?["data"]["rows"].as_array().cloned();
    of(&text).ok_or_else(|| Error::Usage(format!("{} is not of this benchmark", path.display())))
}

fn table(rows: &[Value]) -> Table {
    let header = [
        "page",
        "at once",
        "wait",
        "minutes",
        "visits",
        "not clean",
        "a minute",
        "steady",
        "of the model",
        "a day",
        "VM starts in",
        "page load, median",
        "processor each",
        "memory left",
        "killed for memory",
    ];
    let mut table = Table::new("Visits of a mirror with the small browser, one VM each:", &header);
    for row in rows {
        let (speed, sums) = (&row["speed"], &row["speed"]["measured"]);
        let number = |value: &Value, digits: usize| value.as_f64().map_or("–".into(), |n| format!("{n:.digits$}"));
        let steady = speed["steady"].as_f64();
        let verdicts = row["counts"]["verdicts"].as_object().into_iter().flatten();
        let not_clean: u64 = verdicts.filter(|(kind, _)| *kind != "clean").filter_map(|(_, n)| n.as_u64()).sum();
        table.rows.push(vec![
            row["page"].as_str().unwrap_or_default().into(),
            row["at_once"].to_string(),
            format!("{} s", row["wait_s"]),
            row["minutes"].to_string(),
            sums["visits"].to_string(),
            not_clean.to_string(),
            number(&speed["achieved"], 1),
            number(&speed["steady"], 1),
            ratio(steady.unwrap_or_default(), speed["model"].as_f64()),
            steady.map_or("–".into(), |rate| format!("{:.0}", rate * 1_440.0)),
            format!("{} ms", number(&sums["vm_ms"], 1)),
            format!("{} ms", number(&sums["load_median_ms"], 0)),
            format!("{} ms", number(&sums["cpu_ms"], 0)),
            format!("{} MiB", row["available_min_mib"]),
            row["killed_for_memory"].to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_the_run_said() {
        let row = json!({
            "page": "usual", "at_once": 50, "wait_s": 60, "minutes": 30, "available_min_mib": 9_000, "killed_for_memory": 0,
            "counts": {"verdicts": {"clean": 9, "error": 1}},
            "speed": {"achieved": 46.04, "steady": 48.0, "model": 50.0, "measured": {"visits": 10, "vm_ms": 8.0, "load_median_ms": 300.0, "cpu_ms": 400.0}},
        });
        let row = &table(&[row]).rows[0];
        assert_eq!(row[4..10], ["10", "1", "46.0", "48.0", "0.96", "69120"]);
    }
}
