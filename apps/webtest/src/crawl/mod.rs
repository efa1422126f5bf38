//! The crawler: pages and their parts, within a scope, into a WARC set.
//!
//! ```text
//!   begin, sitemaps ─► frontier ─► robots? ─► Record::fetch ─► links ─► scope? ─┐
//!                         ▲                       └─► WARC                      │
//!                         └─────────────────────────────────────────────────────┘
//!   crawl.jsonl: what is done, after it is on the disk
//! ```
//!
//! Invariants: every byte goes through [`Record`], as a browser's does; an address is fetched once; what limits a crawl is counted and
//! told, and what is packed counts as what it was unpacked to; killed and begun again, it goes on where it was, and asks those once more
//! who did not answer.

mod fetch;
pub mod frontier;
pub mod links;
pub mod log;
pub mod robots;
pub mod scope;

use crate::net::GateError;
use crate::net::proxy::record::Record;
use crate::net::proxy::{Client, Limits, Way};
use crate::net::warc::WarcError;
use fetch::{fetch, rules, sitemap, unfetched};
use frontier::{Frontier, Next, Todo, origin};
use links::{Link, Use};
use log::{Done, Line, Log, Map};
use robots::Rules;
use scope::{Out, Scope};
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use url::Url;

/// So many redirections, or styles of styles, are followed.
const STEPS_MAX: u32 = 10;
/// What is done is written down so often, at the latest.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);
/// And when so many wait for it.
const WRITTEN_AT: usize = 64;
/// So many errors are told in words.
const ERRORS_MAX: usize = 100;
/// So many sitemaps are read.
const SITEMAPS_MAX: usize = 100;
/// So many links are remembered for each page that is wanted, and so many at least and at most: a page of few bytes, compressed, holds
/// thousands of long ones.
const SEEN_PER_PAGE: u64 = 20;
const SEEN_MIN: u64 = 20_000;
const SEEN_MAX: u64 = 1_000_000;

/// How far a crawl has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Pages that were fetched.
    pub pages: u64,
    /// Parts of pages that were fetched.
    pub parts: u64,
    /// Bytes that came; of what was unpacked to more, that.
    pub bytes: u64,
    /// Addresses that wait.
    pub waiting: u64,
    /// Addresses from which no answer came.
    pub failed: u64,
    /// Of those, some, and why.
    pub errors: Vec<(String, String)>,
    /// Addresses that were left out, by reason.
    pub left_out: BTreeMap<Out, u64>,
    /// Seconds since this run of it began.
    pub seconds: f64,
    /// Pages that an earlier run of it had fetched.
    pub resumed: u64,
}

/// Why a crawl ended before its end. What it fetched by then is kept.
#[derive(Debug, thiserror::Error)]
pub enum CrawlError {
    /// Its files.
    #[error(transparent)]
    Warc(#[from] WarcError),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// It was begun with another scope.
    #[error("the crawl in {0} was begun with another scope; take another directory, or the same scope")]
    OtherScope(String),
    /// Nowhere to begin.
    #[error("there is nowhere to begin: no address was given that is http or https")]
    Nowhere,
}

/// Crawls into the directory of the recording, or goes on with what was begun there. `tell` is called now and then; `stop` ends it
/// early, with all that was fetched kept.
///
/// # Errors
/// When its files cannot be read or written.
pub fn crawl(
    record: Record,
    begin: &[Url],
    scope: &Scope,
    limits: Limits,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Progress),
) -> Result<Progress, CrawlError> {
    let dir = record.recorder.dir().to_owned();
    let client = Arc::new(Client::new(Arc::new(Way::Record(record)), limits));
    let mut crawl = Crawl::open(&dir, client, begin, scope)?;
    let runtime = crate::net::runtime()?;
    let ended = runtime.block_on(crawl.run(stop, tell));
    // Also after an error: what can be written is.
    let written = crawl.write();
    ended?;
    written?;
    crawl.progress.seconds = crawl.began.elapsed().as_secs_f64();
    Ok(crawl.progress)
}

struct Crawl {
    client: Arc<Client>,
    scope: Scope,
    log: Log,
    frontier: Frontier,
    began: Instant,
    hosts: HashSet<String>,
    pages_of: HashMap<String, u64>,
    rules: HashMap<String, Arc<Rules>>,
    /// Waiting for the rules of their server, which are on their way.
    held: HashMap<String, Vec<Todo>>,
    unwritten: Vec<Line>,
    written_at: Instant,
    sitemaps: HashSet<Url>,
    /// Sitemaps that an earlier run of it had heard of.
    unread: Vec<Url>,
    /// Servers at which it begins.
    begins: Vec<String>,
    progress: Progress,
}

/// What came of one request.
enum Came {
    Page(Todo, Done, Vec<Link>),
    Rules(String, Rules),
    Sitemap(Option<Map>),
}

impl Crawl {
    fn open(dir: &Path, client: Arc<Client>, begin: &[Url], scope: &Scope) -> Result<Self, CrawlError> {
        let (mut old_scope, mut begun): (Option<Scope>, Vec<Url>) = (None, Vec::new());
        let (mut done, mut places): (Vec<Done>, HashMap<(Url, bool), usize>) = (Vec::new(), HashMap::new());
        let mut maps: Vec<Map> = Vec::new();
        let mut log = Log::open(dir, &mut |line| match line {
            Line::Scope { scope } => old_scope = Some(*scope),
            Line::Begin { begin } => begun.push(begin),
            // Whoever was silent may have answered later.
            Line::Done(one) => match places.entry((one.done.clone(), one.page)) {
                Entry::Occupied(place) => done[*place.get()] = one,
                Entry::Vacant(place) => {
                    place.insert(done.len());
                    done.push(one);
                }
            },
            Line::Map(map) => maps.push(map),
        })?;
        match old_scope {
            Some(old) if old != *scope => return Err(CrawlError::OtherScope(dir.display().to_string())),
            Some(_) => {}
            None => log.append(&[Line::Scope { scope: Box::new(scope.clone()) }])?,
        }
        let new = begin.iter().filter(|url| matches!(url.scheme(), "http" | "https") && !begun.contains(url));
        let new: Vec<Url> = new.cloned().collect();
        log.append(&new.iter().map(|begin| Line::Begin { begin: begin.clone() }).collect::<Vec<_>>())?;
        begun.extend(new);
        if begun.is_empty() {
            return Err(CrawlError::Nowhere);
        }
        let mut crawl = Self {
            client,
            scope: scope.clone(),
            log,
            frontier: Frontier::new(Duration::from_millis(scope.pause_ms), scope.at_once.1),
            began: Instant::now(),
            hosts: begun.iter().filter_map(|url| url.host_str().map(Into::into)).collect(),
            pages_of: HashMap::new(),
            rules: HashMap::new(),
            held: HashMap::new(),
            unwritten: Vec::new(),
            written_at: Instant::now(),
            sitemaps: HashSet::new(),
            unread: Vec::new(),
            begins: begun.iter().map(origin).collect::<BTreeSet<_>>().into_iter().collect(),
            progress: Progress::default(),
        };
        // First all that is done, so that nothing of it is taken for new.
        let (silent, done): (Vec<Done>, Vec<Done>) = done.into_iter().partition(Done::is_silent);
        for one in &done {
            let used = if one.page { Use::Page } else { Use::Part };
            crawl.frontier.see(&Link { url: one.done.clone(), used });
            crawl.count(one);
            crawl.progress.resumed += u64::from(one.page);
        }
        for url in begun {
            crawl.found(Link { url, used: Use::Page }, 0, 0);
        }
        for one in silent {
            let used = if one.page { Use::Page } else { Use::Part };
            crawl.found(Link { url: one.done, used }, one.depth, u32::from(!one.page));
        }
        for one in done {
            let steps = u32::from(!one.page);
            one.leads_to().for_each(|link| {
                let depth = depth_of(&link, &one);
                crawl.found(link, depth, steps);
            });
        }
        for map in maps {
            crawl.sitemaps.insert(map.map);
            crawl.of_sitemap(map.links);
            crawl.unread.extend(map.maps);
        }
        Ok(crawl)
    }

    fn record(&self) -> Option<&Record> {
        match &*self.client.way {
            Way::Record(record) => Some(record),
            Way::Live(_) | Way::Replay(_) => None,
        }
    }

    fn leave_out(&mut self, why: Out) {
        *self.progress.left_out.entry(why).or_default() += 1;
    }

    /// Something that a page at `depth` leads to. `steps`: on the way from a page to here.
    fn found(&mut self, link: Link, depth: u32, steps: u32) {
        let hosts = &self.hosts;
        if let Err(why) = self.scope.takes(&link.url, link.used, depth, &|host| hosts.contains(host)) {
            self.leave_out(why);
        } else if self.frontier.seen() >= SEEN_PER_PAGE.saturating_mul(self.scope.pages).clamp(SEEN_MIN, SEEN_MAX) {
            self.leave_out(Out::Pages);
        } else if self.frontier.see(&link) {
            self.frontier.add(Todo { link, depth, steps });
        }
    }

    fn count(&mut self, done: &Done) {
        self.progress.bytes += done.weight();
        match (&done.error, done.page) {
            (Some(why), _) if done.status.is_none() => {
                self.progress.failed += 1;
                if self.progress.errors.len() < ERRORS_MAX {
                    self.progress.errors.push((done.done.to_string(), why.clone()));
                }
            }
            (_, true) => self.progress.pages += 1,
            (_, false) => self.progress.parts += 1,
        }
        if done.page {
            *self.pages_of.entry(origin(&done.done)).or_default() += 1;
        }
    }

    /// What is not fetched yet, with what is under way or waits for its server's rules.
    fn waiting(&self, under_way: usize) -> u64 {
        let held: usize = self.held.values().map(Vec::len).sum();
        (self.frontier.waiting() + held + under_way) as u64
    }

    async fn run(&mut self, stop: &AtomicBool, tell: &mut dyn FnMut(&Progress)) -> Result<(), CrawlError> {
        let mut tasks: JoinSet<Came> = JoinSet::new();
        if self.scope.sitemaps {
            // Also where all pages that are known are done: the sitemaps may not have been read.
            for key in std::mem::take(&mut self.begins) {
                if self.scope.robots {
                    self.ask_rules(key, &mut tasks);
                } else {
                    self.own_sitemap(&key, &mut tasks);
                }
            }
            std::mem::take(&mut self.unread).into_iter().for_each(|map| self.sitemap(map, &mut tasks));
        }
        loop {
            let now = Instant::now();
            if self.unwritten.len() >= WRITTEN_AT || now - self.written_at > WRITTEN_EVERY {
                self.write()?;
                self.progress.waiting = self.waiting(tasks.len());
                self.progress.seconds = self.began.elapsed().as_secs_f64();
                tell(&self.progress);
            }
            if stop.load(Ordering::Relaxed) {
                // What is under way is fetched anew by who goes on.
                self.progress.waiting = self.waiting(tasks.len());
                return Ok(());
            }
            let mut wake = now + WRITTEN_EVERY;
            if tasks.len() < self.scope.at_once.0.max(1) {
                match self.frontier.next(now) {
                    Next::Now(todo) => {
                        self.begin(todo, &mut tasks);
                        continue;
                    }
                    Next::At(at) => wake = wake.min(at),
                    Next::Wait => {}
                    Next::End if tasks.is_empty() => {
                        self.progress.waiting = self.waiting(0);
                        return Ok(());
                    }
                    Next::End => {}
                }
            }
            let wait = wake.saturating_duration_since(now);
            let came = tokio::time::timeout(wait, async {
                match tasks.join_next().await {
                    Some(came) => Some(came),
                    None => std::future::pending().await,
                }
            });
            if let Ok(Some(Ok(came))) = came.await {
                self.came(came, &mut tasks);
            }
        }
    }

    /// Fetches it, or the rules of its server before.
    fn begin(&mut self, todo: Todo, tasks: &mut JoinSet<Came>) {
        let key = origin(&todo.link.url);
        let is_page = todo.link.used == Use::Page;
        let full = self.progress.pages >= self.scope.pages
            || self.pages_of.get(&key).copied().unwrap_or(0) >= self.scope.pages_per_host;
        if let Some(why) = self.rules.get(&key).and_then(|rules| rules.silent.clone()) {
            let mut done = unfetched(&todo);
            done.error = Some(why);
            self.frontier.done(&todo);
            self.count(&done);
            self.unwritten.push(Line::Done(done));
            return;
        }
        let left_out = match self.rules.get(&key) {
            _ if self.progress.bytes >= self.scope.bytes => Some(Out::Bytes),
            _ if is_page && full => Some(Out::Pages),
            Some(rules) if !rules.allows(todo.link.url.as_str()) => Some(Out::Robots),
            None if self.scope.robots => {
                self.ask_rules(key.clone(), tasks);
                self.held.entry(key).or_default().push(todo);
                return;
            }
            _ => None,
        };
        if let Some(why) = left_out {
            self.leave_out(why);
            self.frontier.done(&todo);
            return;
        }
        let (client, scope) = (Arc::clone(&self.client), self.scope.clone());
        tasks.spawn(async move {
            let (done, links) = fetch(&client, &todo, &scope).await;
            Came::Page(todo, done, links)
        });
    }

    /// Asks for the rules of a server, unless that is being done.
    fn ask_rules(&mut self, key: String, tasks: &mut JoinSet<Came>) {
        if let Entry::Vacant(held) = self.held.entry(key.clone()) {
            held.insert(Vec::new());
            let (client, agent) = (Arc::clone(&self.client), self.scope.user_agent.clone());
            tasks.spawn(async move {
                let rules = rules(&client, &key, &agent).await;
                Came::Rules(key, rules)
            });
        }
    }

    fn came(&mut self, came: Came, tasks: &mut JoinSet<Came>) {
        match came {
            Came::Page(todo, done, links) => {
                self.frontier.done(&todo);
                self.count(&done);
                let is_step = is_sent_on(&done) || todo.link.used == Use::Part;
                let steps = if is_step { todo.steps + 1 } else { 0 };
                for link in links {
                    let depth = depth_of(&link, &done);
                    if steps <= STEPS_MAX {
                        self.found(link, depth, steps);
                    }
                }
                self.unwritten.push(Line::Done(done));
            }
            Came::Rules(key, rules) => {
                self.frontier.slower(&key, rules.pause);
                let is_begin =
                    Url::parse(&key).is_ok_and(|url| url.host_str().is_some_and(|host| self.hosts.contains(host)));
                if self.scope.sitemaps && is_begin {
                    for map in rules.sitemaps.iter().filter_map(|map| Url::parse(map).ok()) {
                        self.sitemap(map, tasks);
                    }
                    self.own_sitemap(&key, tasks);
                }
                self.rules.insert(key.clone(), Arc::new(rules));
                for todo in self.held.remove(&key).unwrap_or_default() {
                    self.begin(todo, tasks);
                }
            }
            Came::Sitemap(None) => {}
            Came::Sitemap(Some(map)) => {
                map.maps.iter().for_each(|map| self.sitemap(map.clone(), tasks));
                self.of_sitemap(map.links.clone());
                self.unwritten.push(Line::Map(map));
            }
        }
    }

    /// Pages of a sitemap, as if the first page led to them.
    fn of_sitemap(&mut self, pages: Vec<Url>) {
        pages.into_iter().for_each(|url| self.found(Link { url, used: Use::Page }, 1, 0));
    }

    /// The sitemap of a server whose rules name none.
    fn own_sitemap(&mut self, key: &str, tasks: &mut JoinSet<Came>) {
        if let Ok(map) = Url::parse(&format!("{key}/sitemap.xml")) {
            self.sitemap(map, tasks);
        }
    }

    fn sitemap(&mut self, map: Url, tasks: &mut JoinSet<Came>) {
        let is_ours = map.host_str().is_some_and(|host| self.hosts.contains(host));
        if !is_ours || self.sitemaps.len() >= SITEMAPS_MAX || !self.sitemaps.insert(map.clone()) {
            return;
        }
        let (client, scope) = (Arc::clone(&self.client), self.scope.clone());
        tasks.spawn(async move { Came::Sitemap(sitemap(&client, &map, &scope).await) });
    }

    /// What was fetched is on the disk, and then what is done.
    fn write(&mut self) -> Result<(), WarcError> {
        self.written_at = Instant::now();
        if self.unwritten.is_empty() {
            return Ok(());
        }
        if let Some(record) = self.record() {
            record.recorder.flush()?;
        }
        self.log.append(&self.unwritten)?;
        self.unwritten.clear();
        Ok(())
    }
}

fn is_sent_on(done: &Done) -> bool {
    done.status.is_some_and(|status| (300..400).contains(&status))
}

/// How far away a link of something is: where it was sent on to is as far as it is itself, and so are its parts.
fn depth_of(link: &Link, from: &Done) -> u32 {
    if link.used == Use::Part || is_sent_on(from) { from.depth } else { from.depth + 1 }
}
