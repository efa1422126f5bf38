//! Visits of the laboratory's sites, each in a VM of its own: what is seen, what is said of it, that it ends, that nothing is left.
//!
//! A harness of its own, for [`fvm::Fvm::start_forker`] is called while there is one thread. `FVM_WEBTEST_WHOLE=1`: all pages, not some;
//! `FVM_WEBTEST_ONLY=a,b`: only those; `FVM_WEBTEST_AT_ONCE=2`: so many at once; `FVM_WEBTEST_SHOW=1`: a line for each.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code: a failure is a failure of the test")]

mod lab;

use fvm_webtest::baseline::{Baseline, Key, Learnt, learn};
use fvm_webtest::model::{Ended, Kind, Observation, Params, Request, Task, Tier, Verdict};
use fvm_webtest::store::{Store, StoreError};
use fvm_webtest::verdict::judge;
use fvm_webtest::visit::{Browser, USER, Visitor, VmVisitor};
use lab::gate::LabGate;
use lab::http::{self, Answer};
use lab::{Net, Site, attacks, benign, fighters, how};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// So many sites are visited at once, if `FVM_WEBTEST_AT_ONCE` says nothing else.
const AT_ONCE: usize = 4;
/// No visit may take longer: far more than all its waits together.
const EVER: Duration = Duration::from_secs(120);

/// Files of results, in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Store for Memory {
    fn put(&self, bytes: &[u8]) -> Result<String, StoreError> {
        use sha2::Digest as _;
        let name: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.lock().unwrap().insert(name.clone(), bytes.to_vec());
        Ok(name)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }
}

/// The laboratory.
struct Lab {
    fvm: Arc<fvm::Fvm>,
    store: Memory,
    dir: tempfile::TempDir,
}

/// Parameters under which each fighter is through in seconds.
fn params() -> Params {
    Params { wait_s: 1, load_max_s: 4, visit_max_s: 20, memory_bytes: 512 << 20, ..Params::default() }
}

impl Lab {
    fn visitor(&self, net: Arc<Net>, params: Params, browsers: Vec<Browser>, learnt: &[Learnt]) -> VmVisitor {
        VmVisitor::new(Arc::clone(&self.fvm), Arc::new(LabGate::new(net)), params, &[], learnt, browsers).unwrap()
    }

    fn visit(&self, visitor: &VmVisitor, url: &str, tier: Tier) -> Observation {
        let task = Task { run: 1, site: 1, url: url.parse().unwrap(), attempt: 1, lease: String::new(), tier };
        visitor.visit(&task, &self.store, &AtomicBool::new(false))
    }

    /// Visits all, and says what is not as it should be.
    fn check(&self, net: &Arc<Net>, params: Params, browsers: Vec<Browser>) -> Vec<Observation> {
        let tier = browsers[0].tier;
        let visitor = self.visitor(Arc::clone(net), params, browsers, &[]);
        let mut sites: Vec<&Site> = net.0.values().filter(|site| is_wanted(&site.host)).collect();
        sites.sort_by(|a, b| a.host.cmp(&b.host));
        let (next, wrong, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..at_once() {
                scope.spawn(|| {
                    while let Some(site) = sites.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let began = Instant::now();
                        let seen = self.visit(&visitor, &site.url, tier);
                        let verdict = judge(&seen, &own());
                        let took = began.elapsed();
                        let complaints = complaints(site, &seen, &verdict, took);
                        if std::env::var_os("FVM_WEBTEST_SHOW").is_some() {
                            let ms =
                                [seen.vm_ms, seen.ready_ms, seen.load_ms.unwrap_or(-1.0), seen.took_ms, seen.cpu_ms];
                            eprintln!("{:30} {:?} {} {ms:.0?}", site.host, verdict.kind, how(&seen));
                        }
                        if !complaints.is_empty() {
                            let brief = Observation {
                                requests: seen
                                    .requests
                                    .iter()
                                    .take(5)
                                    .map(|r| Request {
                                        request_headers: BTreeMap::new(),
                                        response_headers: BTreeMap::new(),
                                        ..r.clone()
                                    })
                                    .collect(),
                                console: seen.console.iter().take(5).cloned().collect(),
                                ..seen.clone()
                            };
                            wrong.lock().unwrap().push(format!(
                                "{}: {}\n{:?}\n{}",
                                site.host,
                                complaints.join("; "),
                                verdict,
                                serde_json::to_string(&brief).unwrap()
                            ));
                        }
                        all.lock().unwrap().push(seen);
                    }
                });
            }
        });
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{} of {} sites:\n\n{}", wrong.len(), sites.len(), wrong.join("\n\n"));
        eprintln!("    {} sites, each as it should be", sites.len());
        all.into_inner().unwrap()
    }

    /// Whether anything is left of VMs that were there.
    fn assert_nothing_is_left(&self) {
        // What is thrown away goes behind the answer.
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let mut left: Vec<String> = self.fvm.list().unwrap().iter().map(|vm| format!("{vm:?}")).collect();
            let files = std::fs::read_dir(self.dir.path().join("home/vms")).into_iter().flatten().flatten();
            let files = files.filter(|entry| ![".trash-lock", ".tree"].iter().any(|own| entry.file_name() == *own));
            left.extend(files.map(|entry| entry.path().display().to_string()));
            left.extend(below(std::process::id()).into_iter().filter(|command| command.contains("chromium")));
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left: {left:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What no browser has learnt.
fn own() -> Baseline {
    Baseline::new(&Key::default(), None).unwrap()
}

fn complaints(site: &Site, seen: &Observation, verdict: &Verdict, took: Duration) -> Vec<String> {
    let mut wrong = Vec::new();
    if site.or == Some(verdict.kind) {
        return wrong;
    }
    if verdict.kind != site.want {
        wrong.push(format!("{:?} and not {:?}", verdict.kind, site.want));
    }
    if let Some(rule) = site.rule.filter(|rule| verdict.reasons.iter().all(|reason| reason.rule != *rule)) {
        wrong.push(format!("not for '{rule}'"));
    }
    if let Some(wanted) = site.how.filter(|wanted| *wanted != how(seen)) {
        wrong.push(format!("{} and not {wanted}", how(seen)));
    }
    if !(site.check)(seen) {
        wrong.push("something is not seen".into());
    }
    if took > EVER {
        wrong.push(format!("it took {took:?}"));
    }
    wrong
}

/// Command lines of all processes below `pid`.
fn below(pid: u32) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![pid.to_string()];
    while let Some(pid) = open.pop() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            open.extend(children.split_ascii_whitespace().map(str::to_owned));
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found.push(String::from_utf8_lossy(&command).replace('\0', " "));
    }
    found
}

fn browsers(tier: Tier) -> Vec<Browser> {
    VmVisitor::browsers(tier).unwrap()
}

fn at_once() -> usize {
    std::env::var("FVM_WEBTEST_AT_ONCE").map_or(AT_ONCE, |value| value.parse().unwrap())
}

fn is_whole() -> bool {
    std::env::var_os("FVM_WEBTEST_WHOLE").is_some()
}

/// Whether a site was asked for, if any were.
fn is_wanted(host: &str) -> bool {
    std::env::var("FVM_WEBTEST_ONLY").is_ok_and(|only| only.split(',').any(|one| host == format!("{one}.test")))
        || std::env::var_os("FVM_WEBTEST_ONLY").is_none()
}

fn chromium_benign_sites_of_all_kinds_are_clean(lab: &Lab) {
    lab.check(&Arc::new(Net::of(benign::sites())), params(), browsers(Tier::Shell));
}

fn chromium_pages_that_fight_back_end_as_results(lab: &Lab) {
    let (patient, others): (Vec<Site>, Vec<Site>) = fighters::sites().into_iter().partition(|site| site.is_patient);
    lab.check(&Arc::new(Net::of(others)), params(), browsers(Tier::Shell));
    lab.check(
        &Arc::new(Net::of(patient)),
        Params { wait_s: 4, load_max_s: 8, cpus: 0.5, ..params() },
        browsers(Tier::Shell),
    );
}

/// A browser with a hole, or why there is none.
fn with_hole(lab: &Lab, tier: Tier) -> Result<Vec<Browser>, String> {
    let place = lab.dir.path().join("hole");
    std::fs::create_dir_all(&place).unwrap();
    for dir in [lab.dir.path(), &place] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let hole = attacks::hole(&place)?;
    let mut browsers = browsers(tier);
    browsers[0].env.push(("LD_PRELOAD".into(), hole.into()));
    Ok(browsers)
}

fn chromium_simulated_attacks_are_called_malicious(lab: &Lab) {
    match with_hole(lab, Tier::Shell) {
        Ok(browsers) => {
            lab.check(&Arc::new(Net::of(attacks::sites())), Params { wait_s: 2, ..params() }, browsers);
        }
        Err(why) => eprintln!("skipped: chromium_simulated_attacks_are_called_malicious: {why}"),
    }
}

fn chromium_no_benign_page_is_called_anything_else(lab: &Lab) {
    let few = Params { load_max_s: 20, ..params() };
    no_benign_page_is_called_anything_else(lab, Tier::Shell, 15, few);
}

fn chromium_the_full_browser_calls_no_benign_page_anything_else(lab: &Lab) {
    no_benign_page_is_called_anything_else(lab, Tier::Full, 3, Params { load_max_s: 20, ..full_params() });
}

/// `few`: so many of each kind, if not all are visited.
fn no_benign_page_is_called_anything_else(lab: &Lab, tier: Tier, few: usize, params: Params) {
    let (of_docs, made) = if is_whole() { (120, 100) } else { (few, few) };
    let mut sites = benign::installed(of_docs);
    eprintln!("    {} pages of installed documentation", sites.len());
    sites.extend((0..made + of_docs - sites.len()).map(benign::made));
    let wait_s = u32::from(is_whole());
    lab.check(&Arc::new(Net::of(sites)), Params { wait_s, ..params }, browsers(tier));
}

/// Under which the full browser, which is slower, is through. Its wait is short: what never ends is told all the same.
fn full_params() -> Params {
    Params { load_max_s: 10, visit_max_s: 40, ..params() }
}

/// Of these, those that are meant, if not all are.
fn some(mut sites: Vec<Site>, wanted: &[&str]) -> Arc<Net> {
    if !is_whole() && std::env::var_os("FVM_WEBTEST_ONLY").is_none() {
        sites.retain(|site| wanted.iter().any(|name| site.is(name)));
        assert_eq!(sites.len(), wanted.len(), "{wanted:?}");
    }
    Arc::new(Net::of(sites))
}

fn chromium_the_full_browser_sees_the_same(lab: &Lab) {
    let calm = ["plain", "assets", "one-question", "opens-windows", "other-protocols", "password", "service-worker"];
    let fights = ["alerts", "many-windows", "automatic-file", "memory", "prints"];
    let mut sites = benign::sites();
    sites.extend(fighters::sites());
    let (patient, others): (Vec<Site>, Vec<Site>) = sites.into_iter().partition(|site| site.is_patient);
    lab.check(&some(others, &[&calm[..], &fights[..]].concat()), full_params(), browsers(Tier::Full));
    lab.check(
        &some(patient, &["mines", "endless-meta", "questions"]),
        Params { wait_s: 4, ..full_params() },
        browsers(Tier::Full),
    );
}

fn chromium_what_never_ends_is_told_after_a_short_wait(lab: &Lab) {
    short_wait(lab, Tier::Shell);
}

fn chromium_the_full_browser_tells_after_a_short_wait(lab: &Lab) {
    short_wait(lab, Tier::Full);
}

/// The wait of others, which is over before anything could be said of these.
fn short_wait(lab: &Lab, tier: Tier) {
    let mut sites = fighters::sites();
    sites.retain(|site| ["spins", "spins-later", "endless-meta", "questions"].iter().any(|name| site.is(name)));
    lab.check(&Arc::new(Net::of(sites)), Params { load_max_s: 6, ..full_params() }, browsers(tier));
}

fn chromium_the_full_browser_is_attacked_no_less(lab: &Lab) {
    let wanted = ["drops-and-runs", "autostart", "writes", "calls-home", "runs-and-crashes", "harmless"];
    match with_hole(lab, Tier::Full) {
        Ok(browsers) => {
            lab.check(&some(attacks::sites(), &wanted), Params { wait_s: 2, ..full_params() }, browsers);
        }
        Err(why) => eprintln!("skipped: chromium_the_full_browser_is_attacked_no_less: {why}"),
    }
}

fn chromium_a_baseline_is_learnt_and_holds(lab: &Lab) {
    // A browser that writes where no other does.
    let browsers = || {
        let mut browsers = browsers(Tier::Full);
        browsers[0].env.push(("XDG_CACHE_HOME".into(), "/tmp/elsewhere".into()));
        browsers
    };
    let net = Arc::new(Net::of((0..10).map(benign::made).collect()));
    let visitor = lab.visitor(Arc::clone(&net), params(), browsers(), &[]);
    let page = |n: usize| lab.visit(&visitor, &format!("http://made{n}.test/"), Tier::Full);
    let all: Vec<Observation> = (0..4).map(page).collect();
    assert!(all.iter().all(|seen| judge(seen, &own()).kind == Kind::Malicious));
    let (learnt, left) = learn(visitor.keys().remove(0), &all);
    eprintln!("    learnt {:?}, left out {left:?}", learnt.globs);
    assert!(!learnt.globs.is_empty());
    let visitor = lab.visitor(net, params(), browsers(), &[learnt]);
    for n in 4..6 {
        let seen = lab.visit(&visitor, &format!("http://made{n}.test/"), Tier::Full);
        assert_eq!(judge(&seen, &own()).kind, Kind::Clean, "{seen:?}");
    }
}

fn chromium_its_own_sandbox_is_on(lab: &Lab) {
    let visitor =
        lab.visitor(Arc::new(Net::of(benign::sites())), Params { wait_s: 5, ..params() }, browsers(Tier::Shell), &[]);
    std::thread::scope(|scope| {
        let visit = scope.spawn(|| lab.visit(&visitor, "http://plain.test/", Tier::Shell));
        let status = loop {
            assert!(!visit.is_finished(), "no renderer was seen");
            let mut found = None;
            for pid in std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
                let command = std::fs::read(pid.join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command);
                if command.contains("--type=renderer") {
                    let status = std::fs::read_to_string(pid.join("status")).unwrap_or_default();
                    found = is_the_visitors(&status).then_some(status).or(found);
                }
            }
            match found {
                Some(status) if status.contains("Seccomp:\t2") => break status,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        // The host's, the VM's, and one of the sandbox's own.
        let depth =
            status.lines().find(|line| line.starts_with("NSpid:")).unwrap().split_ascii_whitespace().count() - 1;
        assert!(depth >= 3, "{status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert_eq!(visit.join().unwrap().ended, Ended::Done);
    });
}

/// Whether a process is the browser's user's of some VM: the same number on the host, or shifted.
fn is_the_visitors(status: &str) -> bool {
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t"));
    let uid = uid.and_then(|rest| rest.split('\t').next()).and_then(|uid| uid.parse::<u32>().ok());
    uid.is_some_and(|uid| uid & !0x4000_0000 == USER)
}

fn chromium_a_worker_that_ends_cuts_visits_short(lab: &Lab) {
    let visitor = lab.visitor(
        Arc::new(Net::of(benign::sites())),
        Params { wait_s: 3600, ..params() },
        browsers(Tier::Shell),
        &[],
    );
    let stop = AtomicBool::new(false);
    let url = "http://plain.test/".parse().unwrap();
    let task = Task { run: 1, site: 1, url, attempt: 1, lease: String::new(), tier: Tier::Shell };
    let seen = std::thread::scope(|scope| {
        let visit = scope.spawn(|| visitor.visit(&task, &lab.store, &stop));
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        visit.join().unwrap()
    });
    assert_eq!(judge(&seen, &own()).kind, Kind::Unknown, "{seen:?}");
}

fn chromium_a_page_that_fills_the_disk_ends_its_visit(lab: &Lab) {
    let net = Arc::new(Net::of(vec![fighters::fills_the_disk()]));
    // However slow the machine is, it comes so far.
    let params = Params { wait_s: 300, disk_bytes: 24 << 20, ..params() };
    let visitor = lab.visitor(net, params, browsers(Tier::Shell), &[]);
    let seen = lab.visit(&visitor, "http://fills-the-disk.test/", Tier::Shell);
    assert_eq!(seen.ended, Ended::DiskFull, "{seen:?}");
    let verdict = judge(&seen, &own());
    assert!(
        verdict.reasons.iter().any(|reason| reason.rule == "disk") && verdict.kind == Kind::Suspicious,
        "{verdict:?}"
    );
    assert!(seen.artifacts.har.is_some() && seen.lost_events == 0, "what was there was looked at");
}

fn chromium_what_is_no_address_of_the_web_is_not_visited(lab: &Lab) {
    let visitor = lab.visitor(Arc::new(Net::default()), params(), browsers(Tier::Shell), &[]);
    for url in ["file:///etc/passwd", "chrome://crash/", "data:text/html,x", "javascript:alert(1)"] {
        let seen = lab.visit(&visitor, url, Tier::Shell);
        assert!(matches!(seen.ended, Ended::Failed { .. }), "{url}: {:?}", seen.ended);
    }
    let seen = lab.visit(&visitor, "http://plain.test/", Tier::Full);
    assert!(matches!(seen.ended, Ended::Failed { .. }), "{:?}", seen.ended);
}

/// `--measure N`: N visits of a small and of a larger page, in VMs and by a bare browser: so many at once as there are processors, in
/// blocks that take turns, and then one after the other, in turns.
fn measure(lab: &Lab, count: usize) {
    let larger = |asked: &http::Asked| match asked.path.as_str() {
        "/" => Answer::html(format!(
            "<!DOCTYPE html><title>p</title>{}{}<p>{}<script>setTimeout(() => document.body.append('x'), 50)</script>",
            (0..9).map(|n| format!("<script src=/{n}.js></script>")).collect::<String>(),
            (0..9).map(|n| format!("<img src=/{n}.svg>")).collect::<String>(),
            "text ".repeat(5000)
        )),
        path if path.ends_with(".js") => Answer::js(format!("/* {} */", "x".repeat(60_000))),
        _ => Answer::of(
            "image/svg+xml",
            format!("<svg xmlns='http://www.w3.org/2000/svg'><!-- {} --></svg>", "x".repeat(20_000)),
        ),
    };
    let sites = vec![
        lab::site("min", Kind::Clean).page("<!DOCTYPE html><title>min</title><p>small"),
        lab::site("p", Kind::Clean).answers(larger),
    ];
    let net = Arc::new(Net::of(sites));
    let params = Params { wait_s: 0, ..Params::default() };
    let gate = LabGate::new(Arc::clone(&net) as Arc<dyn lab::gate::Sites>);
    let visitor = lab.visitor(net, params.clone(), browsers(Tier::Shell), &[]);
    let browser = browsers(Tier::Shell).remove(0);
    // Milliseconds: the VM's start, until the browser was ready, loading, all.
    let visit = |url: &str, in_vm: bool| {
        let began = Instant::now();
        let [vm, ready, load] = if in_vm {
            let seen = lab.visit(&visitor, url, Tier::Shell);
            assert_eq!(seen.ended, Ended::Done);
            [seen.vm_ms, seen.ready_ms, seen.load_ms.unwrap_or(0.0)]
        } else {
            [0.0, lab::bare::visit(&gate, &browser, &params, url, &lab.store), 0.0]
        };
        [vm, ready, load, began.elapsed().as_secs_f64() * 1000.0]
    };
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    for url in ["http://min.test/", "http://p.test/"] {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..6 {
            let in_vm = round % 2 == 0;
            let next = AtomicUsize::new(0);
            let (cpu, began) = (cpu_ms(), Instant::now());
            std::thread::scope(|scope| {
                for _ in 0..at_once {
                    scope.spawn(|| {
                        while next.fetch_add(1, Ordering::Relaxed) < count {
                            visit(url, in_vm);
                        }
                    });
                }
            });
            let rate = count as f64 * 60.0 / began.elapsed().as_secs_f64() / at_once as f64;
            rates[usize::from(in_vm)].push(rate);
            let cpu = (cpu_ms() - cpu) / count as f64;
            let who = if in_vm { "VM  " } else { "bare" };
            println!("{url} {who}: {rate:.0} a minute and processor, {cpu:.0} ms of processor each");
        }
        let [bare, vm] = rates.map(median);
        println!("{url} {at_once} at once: {vm:.0} in VMs, {bare:.0} bare: {:.2}", vm / bare);
        let mut parts: [[Vec<f64>; 4]; 2] = Default::default();
        for n in 0..2 * count {
            let in_vm = n % 2 == 0;
            for (all, part) in parts[usize::from(in_vm)].iter_mut().zip(visit(url, in_vm)) {
                all.push(part);
            }
        }
        let [bare, vm] = parts.map(|parts| parts.map(median));
        println!("{url} one by one, medians of VM start, ready, load, all: {vm:.1?} ms in VMs, {bare:.1?} ms bare");
        println!("{url} one by one: a VM adds {:.1} ms", vm[3] - bare[3]);
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// What all processors have done since the machine began, in milliseconds.
fn cpu_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> =
        text.lines().next().unwrap().split_ascii_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    // Idle and waiting for disks are the fourth and the fifth.
    (fields.iter().take(8).sum::<f64>() - fields[3] - fields[4]) * 10.0
}

type Test = fn(&Lab);

fn main() {
    let tests: &[(&str, Test)] = &[
        ("chromium_benign_sites_of_all_kinds_are_clean", chromium_benign_sites_of_all_kinds_are_clean),
        ("chromium_pages_that_fight_back_end_as_results", chromium_pages_that_fight_back_end_as_results),
        ("chromium_simulated_attacks_are_called_malicious", chromium_simulated_attacks_are_called_malicious),
        ("chromium_no_benign_page_is_called_anything_else", chromium_no_benign_page_is_called_anything_else),
        ("chromium_the_full_browser_sees_the_same", chromium_the_full_browser_sees_the_same),
        (
            "chromium_the_full_browser_calls_no_benign_page_anything_else",
            chromium_the_full_browser_calls_no_benign_page_anything_else,
        ),
        ("chromium_the_full_browser_is_attacked_no_less", chromium_the_full_browser_is_attacked_no_less),
        ("chromium_the_full_browser_tells_after_a_short_wait", chromium_the_full_browser_tells_after_a_short_wait),
        ("chromium_what_never_ends_is_told_after_a_short_wait", chromium_what_never_ends_is_told_after_a_short_wait),
        ("chromium_a_baseline_is_learnt_and_holds", chromium_a_baseline_is_learnt_and_holds),
        ("chromium_its_own_sandbox_is_on", chromium_its_own_sandbox_is_on),
        ("chromium_a_page_that_fills_the_disk_ends_its_visit", chromium_a_page_that_fills_the_disk_ends_its_visit),
        ("chromium_a_worker_that_ends_cuts_visits_short", chromium_a_worker_that_ends_cuts_visits_short),
        (
            "chromium_what_is_no_address_of_the_web_is_not_visited",
            chromium_what_is_no_address_of_the_web_is_not_visited,
        ),
    ];
    let mut args = std::env::args().skip(1);
    if args.any(|arg| arg == "--list") {
        return tests.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let fvm = fvm::Fvm::open(&dir.path().join("home"), &dir.path().join("run")).unwrap();
    fvm.start_forker().unwrap();
    let lab = Lab { fvm: Arc::new(fvm), store: Memory::default(), dir };
    if let Some(count) = std::env::args().skip_while(|arg| arg != "--measure").nth(1) {
        return measure(&lab, count.parse().unwrap());
    }
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f)))
    {
        if let Some(why) = closed(name) {
            eprintln!("skipped: {name}: {why}");
            continue;
        }
        eprintln!("{name}");
        let began = Instant::now();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            test(&lab);
            lab.assert_nothing_is_left();
        }));
        println!(
            "test {name} ... {} ({:.1} s)",
            if done.is_ok() { "ok" } else { "FAILED" },
            began.elapsed().as_secs_f64()
        );
        failed += u32::from(done.is_err());
    }
    drop(lab);
    std::process::exit(i32::from(failed > 0));
}

/// Why a test cannot be run here.
fn closed(name: &str) -> Option<String> {
    if !fvm_kit::is_root(name) {
        return Some("it makes VMs as root".into());
    }
    let full = ["full_browser", "baseline"].iter().any(|part| name.contains(part));
    let needed = if full { Tier::Auto } else { Tier::Shell };
    VmVisitor::browsers(needed).err().map(|missing| missing.to_string())
}
