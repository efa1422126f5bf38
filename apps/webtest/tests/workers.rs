//! Workers as processes of their own, killed: each site has one result all the same.
//!
//! A harness of its own: this program is also the worker (`--child DB STORE RUN`), with a scripted visitor.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use common::scripted::{Script, judge};
use fvm_webtest::db::{self, Chosen, Filter, NewSite, Queue, Run, Versions};
use fvm_webtest::model::{Kind, Params};
use fvm_webtest::report::stored;
use fvm_webtest::runner::{Event, Finished, Runner, Teller, Times, bury_the_dead, worker};
use fvm_webtest::store::{self, S3Options};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LEASE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, db, store, run] = args.as_slice()
        && word == "--child"
    {
        return child(db, store, run.parse().unwrap());
    }
    let tests: [(&str, fn()); 3] = [
        ("a_runner_is_killed_and_its_successor_goes_on", a_runner_is_killed_and_its_successor_goes_on),
        ("a_worker_drains_at_sigterm", a_worker_drains_at_sigterm),
        ("postgres_has_three_workers_and_one_is_killed", postgres_has_three_workers_and_one_is_killed),
    ];
    if args.iter().any(|arg| arg == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| args.iter().filter(|arg| !arg.starts_with('-')).all(|word| name.contains(word.as_str()));
    for (name, test) in tests.into_iter().filter(|(name, _)| wanted(name)) {
        // One that fails ends the program.
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

struct Silent;

impl Teller for Silent {
    fn tell(&self, _: &Event) {}
}

/// A worker.
fn child(db: &str, place: &str, run: i64) -> ExitCode {
    let signals = Arc::new(AtomicUsize::new(0));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_usize(signal, Arc::clone(&signals), 1).unwrap();
    }
    let queue = db::open(db).unwrap();
    let store = store::open(place, &S3Options::default()).unwrap();
    let run = queue.run(Some(run)).unwrap();
    bury_the_dead(&*queue, &run).unwrap();
    let runner = Runner {
        queue: &*queue,
        store: &*store,
        visitor: &Script { pause: Duration::from_millis(40), ..Script::default() },
        judge: &judge,
        run: &run,
        me: worker(&run, 4, 1.0),
        times: Times { lease: LEASE, drain: Duration::from_secs(5), ..Times::default() },
    };
    match runner.work(&|| u32::try_from(signals.load(Ordering::Relaxed)).unwrap(), &Silent).unwrap() {
        Finished::Done => ExitCode::SUCCESS,
        Finished::Stopped => ExitCode::from(7),
    }
}

fn start(db: &str, store: &Path, run: &Run) -> Child {
    let own = std::env::current_exe().unwrap();
    Command::new(own).args(["--child", db]).arg(store).arg(run.id.to_string()).spawn().unwrap()
}

fn begin(queue: &dyn Queue, sites: usize) -> Run {
    let site = |n| NewSite {
        url: format!("https://{}{n}.example/", if n % 10 == 0 { "bad" } else { "h" }).parse().unwrap(),
        tags: Vec::new(),
        priority: None,
        every_s: None,
        source: String::new(),
    };
    queue.add(&(0..sites).map(site).collect::<Vec<_>>()).unwrap();
    queue.begin(&Params { attempts: 5, ..Params::default() }, &Versions::default(), &Chosen::default()).unwrap()
}

/// Waits until so many results are there.
fn until(queue: &dyn Queue, run: &Run, results: u64) {
    let began = Instant::now();
    while queue.counts(run.id).unwrap().done() < results {
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", queue.counts(run.id).unwrap());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Each site has one result, and that is right and stored; how many workers there were.
fn check(queue: &dyn Queue, place: &Path, run: &Run, sites: usize) -> usize {
    let store = store::open(place.to_str().unwrap(), &S3Options::default()).unwrap();
    let rows = queue.results(run.id, &Filter::default(), None, 100_000).unwrap();
    assert_eq!(rows.len(), sites);
    let urls: BTreeSet<&str> = rows.iter().map(|row| row.url.as_str()).collect();
    assert_eq!(urls.len(), sites);
    for row in &rows {
        let expected = if row.url.contains("bad") { Kind::Malicious } else { Kind::Clean };
        assert_eq!(row.verdict, expected, "{row:?}");
        let outcome = stored::get(&*store, row.outcome.as_deref().unwrap()).unwrap();
        assert_eq!(outcome.seen.final_url, row.url);
    }
    let counts = queue.counts(run.id).unwrap();
    assert_eq!((counts.queued, counts.waiting, counts.running, counts.done()), (0, 0, 0, sites as u64));
    assert!(queue.run(Some(run.id)).unwrap().ended_ms.is_some());
    rows.iter().map(|row| row.worker.as_str()).collect::<BTreeSet<_>>().len()
}

fn a_runner_is_killed_and_its_successor_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (db, place) = (dir.path().join("db").to_str().unwrap().to_owned(), dir.path().join("store"));
    let queue = db::open(&db).unwrap();
    let run = begin(&*queue, 150);
    for results in [20, 60] {
        let mut runner = start(&db, &place, &run);
        until(&*queue, &run, results);
        runner.kill().unwrap();
        runner.wait().unwrap();
        let counts = queue.counts(run.id).unwrap();
        assert!(counts.running > 0 && counts.done() < 150, "it was not killed in the middle: {counts:?}");
    }
    assert!(start(&db, &place, &run).wait().unwrap().success());
    assert_eq!(check(&*queue, &place, &run, 150), 3);
}

fn a_worker_drains_at_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let (db, place) = (dir.path().join("db").to_str().unwrap().to_owned(), dir.path().join("store"));
    let queue = db::open(&db).unwrap();
    let run = begin(&*queue, 100);
    let mut worker = start(&db, &place, &run);
    until(&*queue, &run, 10);
    let pid = rustix::process::Pid::from_child(&worker);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(worker.wait().unwrap().code(), Some(7));
    let counts = queue.counts(run.id).unwrap();
    assert!(counts.running == 0 && counts.queued == 100 - counts.done() && counts.done() < 100, "{counts:?}");
    assert!(queue.workers(run.id).unwrap().is_empty());
    assert!(start(&db, &place, &run).wait().unwrap().success());
    check(&*queue, &place, &run, 100);
}

fn postgres_has_three_workers_and_one_is_killed() {
    let Some(cluster) = common::Cluster::start("postgres_has_three_workers_and_one_is_killed") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (db, place) = (cluster.url(), dir.path().join("store"));
    let queue = db::open(&db).unwrap();
    let run = begin(&*queue, 240);
    let mut workers: Vec<Child> = (0..3).map(|_| start(&db, &place, &run)).collect();
    until(&*queue, &run, 40);
    let all = Instant::now();
    while queue.workers(run.id).unwrap().len() < 3 {
        assert!(all.elapsed() < Duration::from_secs(60), "three workers were started");
    }
    let mut killed = workers.remove(0);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(queue.counts(run.id).unwrap().done() < 240, "it was not killed in the middle");
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    assert_eq!(check(&*queue, &place, &run, 240), 3);
}
