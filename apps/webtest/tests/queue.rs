//! The queue, over both databases: one and the same suite.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use fvm_kit::splitmix;
use fvm_webtest::db::{self, Added, Chosen, DbError, Filter, NewSite, Queue, Run, Taken, Versions, Worker};
use fvm_webtest::model::{Kind, Observation, Outcome, Params, Reason, Verdict};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const LEASE_MS: u64 = 60_000;

/// A database, empty; opened as often as one likes.
struct Place {
    address: String,
}

impl Place {
    fn open(&self) -> Box<dyn Queue> {
        db::open(&self.address).unwrap()
    }
}

fn site(n: usize) -> NewSite {
    NewSite {
        url: format!("https://site{n}.example/").parse().unwrap(),
        tags: Vec::new(),
        priority: None,
        every_s: None,
        source: "test".into(),
    }
}

fn outcome(kind: Kind) -> Outcome {
    let reason = Reason { rule: "told".into(), kind, text: "so\0 told".into(), evidence: vec!["/e".into()] };
    Outcome {
        verdict: Verdict { kind, reasons: vec![reason] },
        seen: Observation {
            title: "a\0b".repeat(2_000),
            final_url: "https://end.example/%_!".into(),
            took_ms: 1_500.0,
            cpu_ms: 300.0,
            load_ms: Some(700.0),
            ..Observation::default()
        },
    }
}

fn begin(queue: &dyn Queue, params: &Params) -> Run {
    queue.begin(params, &Versions { fvm: "1".into(), ..Versions::default() }, &Chosen::default()).unwrap()
}

fn worker(id: &str, run: i64) -> Worker {
    Worker {
        id: id.into(),
        run,
        host: "h".into(),
        pid: 7,
        concurrent: 4,
        cores: 2.0,
        version: "1".into(),
        silent_ms: 0,
    }
}

/// All of the suite; each part has a database of its own.
fn suite(mut place: impl FnMut(&str) -> Place) {
    sites_are_added_once(&place("sites"));
    a_run_remembers_what_it_was_begun_with(&place("runs"));
    the_important_come_first(&place("priority"));
    only_the_last_lease_records(&place("lease"));
    a_result_whose_answer_was_lost_counts_once(&place("answer"));
    a_slow_worker_hears_that_its_site_was_given_up(&place("slow"));
    tries_are_counted_and_end(&place("tries"));
    a_worker_that_leaves_gives_back_what_it_has(&place("leave"));
    schedules_say_what_is_due(&place("due"));
    results_come_in_pages_and_by_filter(&place("results"));
    a_site_may_have_an_address_of_any_length(&place("long"));
    workers_die_and_each_site_has_one_result(&place("stress"));
}

fn sites_are_added_once(place: &Place) {
    let queue = place.open();
    let tagged = |n, tag: &str| NewSite { tags: vec![tag.into()], ..site(n) };
    assert_eq!(queue.add(&[site(1), tagged(2, "a"), tagged(1, "b")]).unwrap(), [Added::New, Added::New, Added::Known]);
    let later = NewSite { priority: Some(9), every_s: Some(60), ..tagged(2, "c") };
    assert_eq!(queue.add(&[later]).unwrap(), [Added::Known]);
    let sites = place.open().sites(0, 10).unwrap();
    let seen: Vec<_> = sites.iter().map(|s| (s.url.as_str(), s.tags.join("+"), s.priority, s.every_s)).collect();
    assert_eq!(
        seen,
        [
            ("https://site1.example/", "b".to_owned(), 0, None),
            ("https://site2.example/", "a+c".to_owned(), 9, Some(60))
        ]
    );
    let many: Vec<NewSite> = (0..1_700).map(site).collect();
    let new = queue.add(&many).unwrap().iter().filter(|added| **added == Added::New).count();
    assert_eq!(new, 1_698);
    assert_eq!(queue.sites(sites[1].id, 5_000).unwrap().len(), 1_698);
}

fn a_run_remembers_what_it_was_begun_with(place: &Place) {
    let queue = place.open();
    assert!(matches!(queue.run(None), Err(DbError::NoRun(_))));
    let none = queue.begin(&Params::default(), &Versions::default(), &Chosen::default());
    assert!(matches!(none, Err(DbError::NothingChosen)), "{none:?}");
    assert!(queue.runs().unwrap().is_empty(), "a run without sites was left");
    queue.add(&[site(1), NewSite { tags: vec!["x".into()], ..site(2) }, site(3)]).unwrap();
    let params = Params { wait_s: 120, user_agent: Some("a \"b\" \u{1f980}".into()), ..Params::default() };
    let versions = Versions { fvm: "0.1".into(), browser: Some("c".into()), kernel: "6".into() };
    let chosen = Chosen { tags: vec!["x".into(), "y".into()], due: false, limit: Some(5) };
    let run = queue.begin(&params, &versions, &chosen).unwrap();
    assert_eq!((run.total, &run.params, &run.versions, &run.chosen), (1, &params, &versions, &chosen));
    let second = begin(&*queue, &params);
    assert_eq!(second.total, 3);
    let again = place.open();
    assert_eq!(again.run(Some(run.id)).unwrap(), run);
    assert_eq!(again.run(None).unwrap(), second);
    assert_eq!(again.runs().unwrap(), [second, run]);
}

fn the_important_come_first(place: &Place) {
    let queue = place.open();
    let with = |n, priority| NewSite { priority: Some(priority), ..site(n) };
    queue.add(&[with(1, 0), with(2, 5), with(3, -1), with(4, 5)]).unwrap();
    let run = begin(&*queue, &Params::default());
    let mut order = Vec::new();
    while let Some(task) = queue.claim(&run, "w", LEASE_MS).unwrap() {
        assert_eq!(task.attempt, 1);
        order.push(task.url.host_str().unwrap().to_owned());
    }
    order[..2].sort();
    assert_eq!(order, ["site2.example", "site4.example", "site1.example", "site3.example"]);
    let chosen = Chosen { limit: Some(2), ..Chosen::default() };
    let run = queue.begin(&Params::default(), &Versions::default(), &chosen).unwrap();
    assert_eq!(run.total, 2);
    let first = queue.claim(&run, "w", LEASE_MS).unwrap().unwrap();
    assert!(["site2.example", "site4.example"].contains(&first.url.host_str().unwrap()));
}

fn only_the_last_lease_records(place: &Place) {
    let queue = place.open();
    queue.add(&[site(1)]).unwrap();
    let run = begin(&*queue, &Params::default());
    let old = queue.claim(&run, "slow", 1).unwrap().unwrap();
    assert!(queue.claim(&run, "other", LEASE_MS).unwrap().is_none());
    thread::sleep(Duration::from_millis(20));
    assert_eq!(queue.sweep(run.id, 3).unwrap().queued, 1);
    let new = queue.claim(&run, "other", LEASE_MS).unwrap().unwrap();
    assert_eq!((new.site, new.attempt), (old.site, 2));
    assert_eq!(queue.record(&old, "slow", &outcome(Kind::Malicious), None).unwrap(), Taken::Stale);
    assert_eq!(queue.retry(&old, "slow", 3, 0, &outcome(Kind::Malicious), None).unwrap(), Taken::Stale);
    queue.release(&old).unwrap();
    assert_eq!(queue.counts(run.id).unwrap().running, 1, "a stale lease gave back what another holds");
    assert!(!queue.finish(run.id).unwrap());
    assert_eq!(queue.record(&new, "other", &outcome(Kind::Clean), Some("f00")).unwrap(), Taken::Recorded);
    assert!(queue.finish(run.id).unwrap());
    let rows = queue.results(run.id, &Filter::default(), None, 10).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].verdict, rows[0].attempt, rows[0].worker.as_str()), (Kind::Clean, 2, "other"));
    assert_eq!(rows[0].outcome.as_deref(), Some("f00"));
    assert_eq!(rows[0].reasons[0].text, "so\0 told");
    assert!(rows[0].title.starts_with("a\u{fffd}ba") && rows[0].title.chars().count() <= 1_000);
}

fn a_result_whose_answer_was_lost_counts_once(place: &Place) {
    let queue = place.open();
    queue.add(&[site(1)]).unwrap();
    let run = begin(&*queue, &Params::default());
    let task = queue.claim(&run, "w", LEASE_MS).unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(queue.record(&task, "w", &outcome(Kind::Clean), None).unwrap(), Taken::Recorded);
    }
    assert_eq!(queue.counts(run.id).unwrap().done(), 1);
}

fn a_slow_worker_hears_that_its_site_was_given_up(place: &Place) {
    let queue = place.open();
    queue.add(&[site(1)]).unwrap();
    let run = begin(&*queue, &Params::default());
    let task = queue.claim(&run, "slow", 1).unwrap().unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(queue.sweep(run.id, 1).unwrap().dead, 1);
    assert_eq!(queue.record(&task, "slow", &outcome(Kind::Clean), None).unwrap(), Taken::Stale);
    assert_eq!(queue.results(run.id, &Filter::default(), None, 9).unwrap()[0].verdict, Kind::Unknown);
}

fn tries_are_counted_and_end(place: &Place) {
    let queue = place.open();
    queue.add(&[site(1), site(2)]).unwrap();
    let run = begin(&*queue, &Params::default());
    // The one fails, the other's workers die.
    for attempt in 1..=2 {
        let mut tasks = [
            queue.claim(&run, "w", LEASE_MS).unwrap().expect("a task"),
            queue.claim(&run, "w", LEASE_MS).unwrap().expect("another"),
        ];
        tasks.sort_by_key(|task| task.site);
        assert_eq!((tasks[0].attempt, tasks[1].attempt), (attempt, attempt));
        let taken = queue.retry(&tasks[0], "w", 2, 0, &outcome(Kind::Error), None).unwrap();
        assert_eq!(taken, if attempt == 2 { Taken::Recorded } else { Taken::Queued });
        let swept = queue.bury(run.id, "w", 2).unwrap();
        assert_eq!((swept.queued, swept.dead), if attempt == 2 { (0, 1) } else { (1, 0) });
    }
    assert!(queue.finish(run.id).unwrap());
    let rows = queue.results(run.id, &Filter::default(), None, 10).unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.verdict, row.reasons[0].rule.as_str())).collect();
    assert_eq!(seen, [(Kind::Unknown, "worker-lost"), (Kind::Error, "told")]);

    let run = begin(&*queue, &Params::default());
    let task = queue.claim(&run, "w", LEASE_MS).unwrap().unwrap();
    queue.retry(&task, "w", 5, 3_600_000, &outcome(Kind::Error), None).unwrap();
    let counts = queue.counts(run.id).unwrap();
    assert_eq!((counts.total, counts.queued, counts.waiting, counts.running), (2, 1, 1, 0));
    assert!(queue.claim(&run, "w", LEASE_MS).unwrap().is_some());
    assert!(queue.claim(&run, "w", LEASE_MS).unwrap().is_none(), "one that waits was given out");
}

fn a_worker_that_leaves_gives_back_what_it_has(place: &Place) {
    let queue = place.open();
    queue.add(&[site(1), site(2)]).unwrap();
    let run = begin(&*queue, &Params::default());
    queue.enter(&worker("a", run.id)).unwrap();
    queue.enter(&worker("b", run.id)).unwrap();
    let released = queue.claim(&run, "a", LEASE_MS).unwrap().unwrap();
    queue.release(&released).unwrap();
    queue.claim(&run, "a", LEASE_MS).unwrap().unwrap();
    queue.claim(&run, "b", LEASE_MS).unwrap().unwrap();
    assert_eq!(queue.renew(run.id, "a", LEASE_MS).unwrap(), 1);
    queue.leave("a").unwrap();
    assert_eq!(queue.renew(run.id, "a", LEASE_MS).unwrap(), 0);
    let there: Vec<String> = queue.workers(run.id).unwrap().into_iter().map(|w| w.id).collect();
    assert_eq!(there, ["b"]);
    let task = queue.claim(&run, "c", LEASE_MS).unwrap().unwrap();
    assert_eq!(task.attempt, 1, "what was given back counted as a try");
    assert!(queue.claim(&run, "c", LEASE_MS).unwrap().is_none());
}

fn schedules_say_what_is_due(place: &Place) {
    let queue = place.open();
    let often = NewSite { every_s: Some(0), ..site(1) };
    let seldom = NewSite { every_s: Some(86_400), ..site(2) };
    queue.add(&[often, seldom, site(3)]).unwrap();
    let due = Chosen { due: true, ..Chosen::default() };
    let run = queue.begin(&Params::default(), &Versions::default(), &due).unwrap();
    assert_eq!(run.total, 3, "what was never visited is due");
    while let Some(task) = queue.claim(&run, "w", LEASE_MS).unwrap() {
        queue.record(&task, "w", &outcome(Kind::Clean), None).unwrap();
    }
    assert_eq!(queue.begin(&Params::default(), &Versions::default(), &due).unwrap().total, 1);
    // One that had no schedule gets one.
    queue.add(&[NewSite { every_s: Some(0), ..site(3) }]).unwrap();
    assert_eq!(queue.begin(&Params::default(), &Versions::default(), &due).unwrap().total, 2);
}

fn results_come_in_pages_and_by_filter(place: &Place) {
    let queue = place.open();
    let sites: Vec<NewSite> =
        (0..25).map(|n| NewSite { tags: if n % 5 == 0 { vec!["t".into()] } else { vec![] }, ..site(n) }).collect();
    queue.add(&sites).unwrap();
    let run = begin(&*queue, &Params::default());
    queue.enter(&worker("w", run.id)).unwrap();
    let kinds = [Kind::Clean, Kind::Malicious, Kind::Suspicious, Kind::Error, Kind::Unknown];
    while let Some(task) = queue.claim(&run, "w", LEASE_MS).unwrap() {
        let kind = kinds[usize::try_from(task.site).unwrap() % 5];
        queue.record(&task, "w", &outcome(kind), None).unwrap();
    }
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = queue.results(run.id, &Filter::default(), after, 7).unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.rank, last.site));
        all.extend(page.into_iter().map(|row| (row.rank, row.site)));
    }
    assert_eq!(all.len(), 25);
    assert!(all.is_sorted() && all[0].0 == 0, "{all:?}");
    let count = |filter: Filter| queue.results(run.id, &filter, None, 100).unwrap().len();
    assert_eq!(count(Filter { kinds: vec![Kind::Malicious, Kind::Clean], ..Filter::default() }), 10);
    assert_eq!(count(Filter { text: Some("SITE1.".into()), ..Filter::default() }), 1);
    assert_eq!(count(Filter { text: Some("%_!".into()), ..Filter::default() }), 25);
    assert_eq!(count(Filter { text: Some("%x!".into()), ..Filter::default() }), 0);
    assert_eq!(count(Filter { tag: Some("t".into()), ..Filter::default() }), 5);
    let both =
        Filter { kinds: vec![Kind::Clean], text: Some("site".into()), tag: Some("t".into()), site: Some(all[24].1) };
    assert!(count(both) <= 1);
    let sums = queue.sums(run.id).unwrap();
    assert_eq!((sums.visits, sums.took_ms, sums.cpu_ms, sums.load_median_ms), (25, 1_500.0, 300.0, 700.0));
    let counts = queue.counts(run.id).unwrap();
    assert_eq!((counts.of(Kind::Suspicious), counts.done(), counts.total), (5, 25, 25));
}

fn a_site_may_have_an_address_of_any_length(place: &Place) {
    let queue = place.open();
    let long = |end: char| NewSite {
        url: format!("https://e.example/{}{end}", "é".repeat(1_300)).parse().unwrap(),
        ..site(0)
    };
    assert_eq!(queue.add(&[long('a'), long('b'), long('a')]).unwrap(), [Added::New, Added::New, Added::Known]);
}

/// Workers with connections of their own claim, record, fail, give back, stop without a word; leases are short.
fn workers_die_and_each_site_has_one_result(place: &Place) {
    const SITES: usize = 300;
    let queue = place.open();
    queue.add(&(0..SITES).map(site).collect::<Vec<_>>()).unwrap();
    let run = begin(&*queue, &Params::default());
    let recorded: Mutex<HashMap<i64, u32>> = Mutex::new(HashMap::new());
    let (dead, died) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..6_u64 {
            let (run, recorded, dead, died) = (&run, &recorded, &dead, &died);
            scope.spawn(move || {
                let mut random = 0x5eed ^ (n << 32);
                let (mut queue, mut life) = (place.open(), 0_u64);
                loop {
                    let id = format!("{n}-{life}");
                    dead.fetch_add(queue.sweep(run.id, 4).unwrap().dead, Ordering::Relaxed);
                    let Some(task) = queue.claim(run, &id, 25).unwrap() else {
                        if queue.finish(run.id).unwrap() {
                            return;
                        }
                        thread::sleep(Duration::from_millis(3));
                        continue;
                    };
                    let taken = match splitmix(&mut random) % 10 {
                        // It dies, and its successor knows nothing.
                        0 => {
                            died.fetch_add(1, Ordering::Relaxed);
                            (queue, life) = (place.open(), life + 1);
                            continue;
                        }
                        1 => {
                            queue.release(&task).unwrap();
                            continue;
                        }
                        2 => queue.retry(&task, &id, 4, 2, &outcome(Kind::Error), None).unwrap(),
                        // Perhaps longer than its lease.
                        3 => {
                            thread::sleep(Duration::from_millis(splitmix(&mut random) % 50));
                            queue.record(&task, &id, &outcome(Kind::Clean), None).unwrap()
                        }
                        _ => queue.record(&task, &id, &outcome(Kind::Clean), None).unwrap(),
                    };
                    if taken == Taken::Recorded {
                        *recorded.lock().unwrap().entry(task.site).or_default() += 1;
                    }
                }
            });
        }
    });
    let rows = queue.results(run.id, &Filter::default(), None, 10_000).unwrap();
    assert_eq!(rows.len(), SITES);
    let mut sites: Vec<i64> = rows.iter().map(|row| row.site).collect();
    sites.sort_unstable();
    sites.dedup();
    assert_eq!(sites.len(), SITES);
    let recorded = recorded.into_inner().unwrap();
    assert!(recorded.values().all(|&times| times == 1), "a result was taken twice: {recorded:?}");
    let dead = dead.into_inner();
    assert_eq!(recorded.len() as u64 + dead, SITES as u64);
    assert!(died.into_inner() > 0, "no worker died");
    let lost = rows.iter().filter(|row| row.reasons[0].rule == "worker-lost").count() as u64;
    assert_eq!(lost, dead);
    assert!(rows.iter().all(|row| !matches!(row.ended.as_str(), "failed") || row.verdict == Kind::Unknown));
    let counts = queue.counts(run.id).unwrap();
    assert_eq!((counts.queued, counts.waiting, counts.running), (0, 0, 0));
}

#[test]
fn sqlite_holds_to_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    suite(|name| Place { address: dir.path().join(name).to_str().unwrap().into() });
}

#[test]
fn postgres_holds_to_the_suite() {
    let Some(cluster) = common::Cluster::start("postgres_holds_to_the_suite") else { return };
    suite(|name| Place { address: cluster.database(name) });
}

#[test]
fn postgres_that_goes_away_is_found_again() {
    let Some(cluster) = common::Cluster::start("postgres_that_goes_away_is_found_again") else { return };
    let queue = db::open(&cluster.url()).unwrap();
    queue.add(&[site(1)]).unwrap();
    let run = begin(&*queue, &Params::default());
    let task = queue.claim(&run, "w", LEASE_MS).unwrap().unwrap();
    cluster.stop();
    let failed = queue.record(&task, "w", &outcome(Kind::Clean), None).unwrap_err();
    assert!(failed.passes(), "{failed:?}");
    assert!(failed.hint().unwrap().contains("nothing that was recorded is lost"));
    let failed = db::open(&cluster.url()).err().expect("no server, no database");
    assert!(matches!(failed, DbError::Unreachable { .. }), "{failed:?}");
    cluster.go();
    assert_eq!(queue.record(&task, "w", &outcome(Kind::Clean), None).unwrap(), Taken::Recorded);
}

#[test]
fn what_is_newer_or_not_ours_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("text"), "this is no database, but it is somebody's\n".repeat(40)).unwrap();
    let refused = db::open(&path("text")).err().unwrap();
    assert!(matches!(refused, DbError::NotOurs { .. }), "{refused:?}");
    assert!(std::fs::read_to_string(path("text")).unwrap().starts_with("this is"));
    let missing = db::open(&path("no/such/dir/db")).err().unwrap();
    assert!(matches!(missing, DbError::Unreachable { .. }), "{missing:?}");

    let sqlite = |name: &str, sql: &str| rusqlite::Connection::open(path(name)).unwrap().execute_batch(sql).unwrap();
    sqlite("other", "CREATE TABLE sites (mine TEXT)");
    let refused = db::open(&path("other")).err().unwrap();
    assert!(matches!(refused, DbError::NotOurs { .. }), "{refused:?}");

    drop(db::open(&path("newer")).unwrap());
    sqlite("newer", "UPDATE fvm_webtest SET value = 2");
    let refused = db::open(&path("newer")).err().unwrap();
    assert!(matches!(refused, DbError::Newer { found: 2, .. }), "{refused:?}");
    assert!(refused.hint().is_some());
}
