//! The runner with a scripted visitor: what is recorded, what is tried again, what ends a run, what a signal does.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use common::scripted::{Script, judge};
use fvm_webtest::db::{self, Chosen, Filter, NewSite, Queue, Run, Versions};
use fvm_webtest::model::{Kind, Params, Tier};
use fvm_webtest::report::stored;
use fvm_webtest::runner::{Event, Finished, RunError, Runner, Teller, Times, bury_the_dead, worker};
use fvm_webtest::store::{self, S3Options, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A database and a store.
struct Lab {
    dir: tempfile::TempDir,
    queue: Box<dyn Queue>,
    store: Box<dyn Store>,
}

/// Keeps what it is told.
#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl Teller for Heard {
    fn tell(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Lab {
    fn new(hosts: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let queue = db::open(dir.path().join("db").to_str().unwrap()).unwrap();
        let store = store::open(dir.path().join("store").to_str().unwrap(), &S3Options::default()).unwrap();
        let site = |host: &&str| NewSite {
            url: format!("https://{host}.example/").parse().unwrap(),
            tags: Vec::new(),
            priority: None,
            every_s: None,
            source: String::new(),
        };
        queue.add(&hosts.iter().map(site).collect::<Vec<_>>()).unwrap();
        Self { dir, queue, store }
    }

    fn begin(&self, params: &Params) -> Run {
        self.queue.begin(params, &Versions::default(), &Chosen::default()).unwrap()
    }

    fn work(
        &self,
        run: &Run,
        concurrent: u32,
        script: &Script,
        signals: &(dyn Fn() -> u32 + Sync),
    ) -> (Result<Finished, RunError>, Vec<Event>) {
        self.work_with(&*self.store, run, concurrent, script, signals)
    }

    fn work_with(
        &self,
        store: &dyn Store,
        run: &Run,
        concurrent: u32,
        script: &Script,
        signals: &(dyn Fn() -> u32 + Sync),
    ) -> (Result<Finished, RunError>, Vec<Event>) {
        let times = Times {
            lease: Duration::from_secs(2),
            drain: Duration::from_millis(300),
            failed: Duration::from_millis(10),
            unreached: Duration::from_millis(10),
            patience: Duration::from_secs(20),
        };
        let me = worker(run, concurrent, 2.0);
        let runner = Runner { queue: &*self.queue, store, visitor: script, judge: &judge, run, me, times };
        let heard = Heard::default();
        (runner.work(signals, &heard), heard.0.into_inner().unwrap())
    }

    /// Verdict and try of each host.
    fn verdicts(&self, run: &Run) -> BTreeMap<String, (Kind, i64)> {
        let rows = self.queue.results(run.id, &Filter::default(), None, 10_000).unwrap();
        let count = rows.len();
        let all: BTreeMap<_, _> = rows
            .into_iter()
            .map(|row| {
                (
                    row.url.trim_start_matches("https://").split('.').next().unwrap().to_owned(),
                    (row.verdict, row.attempt),
                )
            })
            .collect();
        assert_eq!(all.len(), count, "a site has two results");
        all
    }
}

fn no_signal() -> u32 {
    0
}

#[test]
fn each_site_gets_its_result_and_the_outcome_is_in_the_store() {
    let lab = Lab::new(&["a", "b", "bad1", "fail", "flaky", "gone"]);
    let run = lab.begin(&Params { attempts: 3, ..Params::default() });
    let (finished, heard) = lab.work(&run, 3, &Script::default(), &no_signal);
    assert_eq!(finished.unwrap(), Finished::Done);
    let expected = [
        ("a", (Kind::Clean, 1)),
        ("b", (Kind::Clean, 1)),
        ("bad1", (Kind::Malicious, 1)),
        ("fail", (Kind::Unknown, 3)),
        ("flaky", (Kind::Clean, 2)),
        ("gone", (Kind::Error, 3)),
    ];
    assert_eq!(lab.verdicts(&run), expected.map(|(host, is)| (host.to_owned(), is)).into());
    for row in lab.queue.results(run.id, &Filter::default(), None, 10).unwrap() {
        let outcome = stored::get(&*lab.store, row.outcome.as_deref().unwrap()).unwrap();
        assert_eq!(outcome.verdict.kind, row.verdict);
        assert_eq!(outcome.seen.title, row.title);
        if let Some(picture) = &row.picture {
            assert!(lab.store.get(picture).unwrap().unwrap().starts_with(b"\x89PNG"));
        }
    }
    let results = heard.iter().filter(|event| matches!(event, Event::Result { .. })).count();
    assert_eq!(results, 6);
    let Some(Event::Progress(last)) = heard.iter().rev().find(|event| matches!(event, Event::Progress(_))) else {
        panic!("no progress was told");
    };
    assert_eq!((last.counts.done(), last.counts.total, last.counts.running), (6, 6, 0));
    assert!(lab.queue.run(Some(run.id)).unwrap().ended_ms.is_some());
    assert!(lab.queue.workers(run.id).unwrap().is_empty());
}

#[test]
fn no_more_visits_at_once_than_were_allowed() {
    let hosts: Vec<String> = (0..60).map(|n| format!("h{n}")).collect();
    let lab = Lab::new(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    let run = lab.begin(&Params::default());
    let script = Script { pause: Duration::from_millis(15), ..Script::default() };
    assert_eq!(lab.work(&run, 7, &script, &no_signal).0.unwrap(), Finished::Done);
    let most = script.most_at_once.load(Ordering::SeqCst);
    assert!((2..=7).contains(&most), "{most}");
    assert_eq!(script.visits.load(Ordering::SeqCst), 60);
}

#[test]
fn what_is_suspicious_is_visited_again_with_the_full_browser() {
    let lab = Lab::new(&["odd", "a"]);
    let run = lab.begin(&Params { tier: Tier::Auto, ..Params::default() });
    let script = Script::default();
    lab.work(&run, 1, &script, &no_signal).0.unwrap();
    assert_eq!(script.visits.load(Ordering::SeqCst), 3);
    let rows = lab.queue.results(run.id, &Filter::default(), None, 10).unwrap();
    assert_eq!(
        (rows[0].verdict, rows[0].tier.as_str()),
        (Kind::Suspicious, "full"),
        "what the first saw must not be forgotten"
    );
    assert!(rows[0].reasons[0].text.contains("small browser only"), "{:?}", rows[0].reasons);
    assert_eq!(rows[1].tier, "shell");
}

#[test]
fn a_signal_drains_and_what_was_cut_short_is_visited_later() {
    let lab = Lab::new(&["slow1", "slow2", "a", "b", "c", "d"]);
    let run = lab.begin(&Params { attempts: 1, ..Params::default() });
    // The signal comes when both slow ones are being visited: with two at once nothing else is, then.
    let script = Script::default();
    let signals = || u32::from(script.visits.load(Ordering::SeqCst) > 0 && script.at_once.load(Ordering::SeqCst) == 2);
    let raised = AtomicU32::new(0);
    let once = || raised.fetch_max(signals(), Ordering::SeqCst).max(signals());
    let (finished, heard) = lab.work(&run, 2, &script, &once);
    assert_eq!(finished.unwrap(), Finished::Stopped);
    assert!(heard.iter().any(|event| matches!(event, Event::Draining { .. })));
    let counts = lab.queue.counts(run.id).unwrap();
    assert_eq!((counts.running, counts.waiting), (0, 0));
    assert!(counts.queued >= 2 && counts.queued + counts.done() == 6, "{counts:?}");
    assert!(lab.queue.run(Some(run.id)).unwrap().ended_ms.is_none());
    // With one try for each site: being cut short was none.
    let again = AtomicU32::new(0);
    let stop =
        || if script.at_once.load(Ordering::SeqCst) == 2 { again.fetch_add(1, Ordering::SeqCst).min(2) } else { 0 };
    drop(lab.work(&run, 8, &script, &stop));
    let verdicts = lab.verdicts(&run);
    assert!(["a", "b", "c", "d"].iter().all(|host| verdicts[*host] == (Kind::Clean, 1)), "{verdicts:?}");
    assert!(!verdicts.contains_key("slow1"));
}

#[test]
fn when_every_visit_fails_the_run_ends_and_no_site_is_given_up() {
    let hosts: Vec<String> = (0..100).map(|n| format!("fail{n}")).collect();
    let lab = Lab::new(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    let run = lab.begin(&Params::default());
    let error = lab.work(&run, 4, &Script::default(), &no_signal).0.unwrap_err();
    assert!(matches!(&error, RunError::Failing { why, .. } if why == "no VM"), "{error:?}");
    assert!(error.hint().unwrap().contains("nothing is lost"));
    let counts = lab.queue.counts(run.id).unwrap();
    assert_eq!((counts.done(), counts.running, counts.queued + counts.waiting), (0, 0, 100));
}

/// A store whose disk becomes full.
struct Full<'s> {
    store: &'s dyn Store,
    left: AtomicU32,
}

impl Store for Full<'_> {
    fn put(&self, bytes: &[u8]) -> Result<String, StoreError> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            let why = "No space left on device (os error 28)".into();
            return Err(StoreError { what: "store", name: String::new(), place: "/full".into(), why });
        }
        self.store.put(bytes)
    }
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(name)
    }
}

#[test]
fn a_full_disk_ends_the_run_and_the_next_one_goes_on() {
    let hosts: Vec<String> = (0..40).map(|n| format!("h{n}")).collect();
    let lab = Lab::new(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    let run = lab.begin(&Params { attempts: 1, ..Params::default() });
    let full = Full { store: &*lab.store, left: AtomicU32::new(21) };
    let error = lab.work_with(&full, &run, 4, &Script::default(), &no_signal).0.unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    let counts = lab.queue.counts(run.id).unwrap();
    assert!(counts.done() < 40 && counts.running == 0, "{counts:?}");
    for row in lab.queue.results(run.id, &Filter::default(), None, 100).unwrap() {
        stored::get(&*lab.store, row.outcome.as_deref().unwrap()).expect("what is recorded is stored");
    }
    assert_eq!(lab.work(&run, 4, &Script::default(), &no_signal).0.unwrap(), Finished::Done);
    assert!(lab.verdicts(&run).values().all(|verdict| *verdict == (Kind::Clean, 1)));
}

#[test]
fn a_full_disk_below_the_database_loses_nothing() {
    let lab = Lab::new(&["a", "b"]);
    let run = lab.begin(&Params::default());
    let limit = rusqlite::Connection::open(lab.dir.path().join("db")).unwrap();
    let pages: i64 = limit.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    drop(limit);
    assert!(pages > 0);
    let big: Vec<NewSite> = (0..20_000)
        .map(|n| NewSite {
            url: format!("https://x{n}.example/").parse().unwrap(),
            tags: Vec::new(),
            priority: None,
            every_s: None,
            source: String::new(),
        })
        .collect();
    // A file system of a size: the limit of this process would end the test's own output.
    let small = tempfile::tempdir().unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(small.path()).output();
    if !mounted.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped in part: a small file system needs root");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let queue = db::open(small.path().join("db").to_str().unwrap()).unwrap();
        queue.add(&big[..10]).unwrap();
        let error = queue.add(&big).unwrap_err();
        assert!(matches!(error, db::DbError::Full { .. } | db::DbError::Failed { .. }), "{error:?}");
        drop(queue);
        let queue = db::open(small.path().join("db").to_str().unwrap()).unwrap();
        assert_eq!(queue.sites(0, 100).unwrap().len(), 10, "half of an import is there");
        error
    });
    let unmounted = std::process::Command::new("umount").arg("-l").arg(small.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert!(matches!(outcome.unwrap(), db::DbError::Full { .. }), "a full disk is named as such");
    assert_eq!(lab.work(&run, 1, &Script::default(), &no_signal).0.unwrap(), Finished::Done);
}

#[test]
fn the_tasks_of_a_process_that_is_no_more_need_not_wait_for_their_leases() {
    let lab = Lab::new(&["a", "b"]);
    let run = lab.begin(&Params::default());
    let mut dead = worker(&run, 1, 1.0);
    // The same process number, started at another time.
    let mut words: Vec<String> = dead.id.split('/').map(str::to_owned).collect();
    words[4] = "1".into();
    dead.id = words.join("/");
    lab.queue.enter(&dead).unwrap();
    lab.queue.claim(&run, &dead.id, 3_600_000).unwrap().unwrap();
    let alive = worker(&run, 1, 1.0);
    lab.queue.enter(&alive).unwrap();
    lab.queue.claim(&run, &alive.id, 3_600_000).unwrap().unwrap();
    assert_eq!(bury_the_dead(&*lab.queue, &run).unwrap().queued, 1);
    let counts = lab.queue.counts(run.id).unwrap();
    assert_eq!((counts.queued, counts.running), (1, 1));
}
