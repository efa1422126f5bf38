//! What is still to be fetched: breadth first, and of each host one after another with pauses.
//!
//! ```text
//!   level n:  a.test: ○ ○ ○   b.test: ○ ○ ─► next(now): one whose host is free, or when to ask again
//!   level n+1: ...            begun when level n is empty and nothing of it is on its way
//! ```
//!
//! Parts belong to the level of their page. Pure: time is given.

use super::links::{Link, Use};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use url::Url;

/// Something to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Todo {
    /// What.
    pub link: Link,
    /// So many links away from the beginning.
    pub depth: u32,
    /// So many redirections and styles of styles on the way there from a page.
    pub steps: u32,
}

#[derive(Debug)]
struct Host {
    waiting: VecDeque<Todo>,
    on_way: usize,
    free_at: Instant,
    pause: Duration,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This, now. [`Frontier::done`] is to follow.
    Now(Todo),
    /// Nothing before then.
    At(Instant),
    /// Nothing before something on its way is done.
    Wait,
    /// Nothing any more.
    End,
}

/// All that is to be fetched.
#[derive(Debug)]
pub struct Frontier {
    hosts: HashMap<String, Host>,
    /// Hosts with something to fetch, in turns.
    turns: VecDeque<String>,
    later: Vec<Todo>,
    seen: HashSet<Link>,
    on_way: usize,
    depth: u32,
    pause: Duration,
    per_host: usize,
}

/// Host and port, which is what servers and `robots.txt` belong to.
#[must_use]
pub fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

impl Frontier {
    /// An empty one: `per_host` at once of each host, `pause` between two.
    #[must_use]
    pub fn new(pause: Duration, per_host: usize) -> Self {
        Self {
            hosts: HashMap::new(),
            turns: VecDeque::new(),
            later: Vec::new(),
            seen: HashSet::new(),
            on_way: 0,
            depth: 0,
            pause,
            per_host: per_host.max(1),
        }
    }

    /// Notes an address as seen; whether it is new. An address that was seen as a page is not fetched again as a part.
    pub fn see(&mut self, link: &Link) -> bool {
        let other = Link { url: link.url.clone(), used: if link.used == Use::Page { Use::Part } else { Use::Page } };
        // A part that turns out to be a page too is looked into then.
        let known = self.seen.contains(&other) && link.used == Use::Part;
        !known && self.seen.insert(link.clone())
    }

    /// Adds what [`Frontier::see`] said is new.
    pub fn add(&mut self, todo: Todo) {
        if todo.depth > self.depth {
            self.later.push(todo);
            return;
        }
        let key = origin(&todo.link.url);
        let host = self.hosts.entry(key.clone()).or_insert_with(|| Host {
            waiting: VecDeque::new(),
            on_way: 0,
            free_at: Instant::now(),
            pause: self.pause,
        });
        if host.waiting.is_empty() {
            self.turns.push_back(key);
        }
        host.waiting.push_back(todo);
    }

    /// How many have been seen in all.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.len() as u64
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.hosts.values().map(|host| host.waiting.len()).sum::<usize>() + self.later.len()
    }

    /// A host wants longer pauses.
    pub fn slower(&mut self, origin: &str, pause: Duration) {
        if let Some(host) = self.hosts.get_mut(origin) {
            host.pause = host.pause.max(pause);
        }
    }

    /// What comes next.
    pub fn next(&mut self, now: Instant) -> Next {
        loop {
            let mut soonest: Option<Instant> = None;
            for _ in 0..self.turns.len() {
                let Some(key) = self.turns.pop_front() else { break };
                let Some(host) = self.hosts.get_mut(&key) else { continue };
                if host.on_way < self.per_host && host.free_at <= now {
                    let Some(todo) = host.waiting.pop_front() else { continue };
                    host.on_way += 1;
                    self.on_way += 1;
                    host.free_at = now + host.pause;
                    if !host.waiting.is_empty() {
                        self.turns.push_back(key);
                    }
                    return Next::Now(todo);
                }
                if host.on_way < self.per_host {
                    soonest = Some(soonest.map_or(host.free_at, |at| at.min(host.free_at)));
                }
                self.turns.push_back(key);
            }
            match soonest {
                Some(at) => return Next::At(at),
                None if self.on_way > 0 || !self.turns.is_empty() => return Next::Wait,
                None if self.later.is_empty() => return Next::End,
                None => {
                    self.depth = self.later.iter().map(|todo| todo.depth).min().unwrap_or(self.depth);
                    std::mem::take(&mut self.later).into_iter().for_each(|todo| self.add(todo));
                }
            }
        }
    }

    /// Something on its way has come, or will not.
    pub fn done(&mut self, todo: &Todo) {
        self.on_way = self.on_way.saturating_sub(1);
        if let Some(host) = self.hosts.get_mut(&origin(&todo.link.url)) {
            host.on_way = host.on_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn todo(url: &str, depth: u32) -> Todo {
        Todo { link: Link { url: Url::parse(url).unwrap(), used: Use::Page }, depth, steps: 0 }
    }

    #[test]
    fn breadth_comes_first_and_hosts_take_turns_with_pauses() {
        let pause = Duration::from_secs(1);
        let mut frontier = Frontier::new(pause, 1);
        for (url, depth) in
            [("http://a.test/1", 0), ("http://a.test/2", 0), ("http://b.test/1", 0), ("http://a.test/deep", 1)]
        {
            frontier.add(todo(url, depth));
        }
        let now = Instant::now() + Duration::from_secs(60);
        assert_eq!(frontier.next(now), Next::Now(todo("http://a.test/1", 0)));
        assert_eq!(frontier.next(now), Next::Now(todo("http://b.test/1", 0)));
        assert_eq!(frontier.next(now), Next::Wait);
        frontier.done(&todo("http://a.test/1", 0));
        assert_eq!(frontier.next(now), Next::At(now + pause));
        assert_eq!(frontier.next(now + pause), Next::Now(todo("http://a.test/2", 0)));
        frontier.done(&todo("http://a.test/2", 0));
        // b's is still on its way: the next level waits for it.
        assert_eq!(frontier.next(now + 9 * pause), Next::Wait);
        frontier.done(&todo("http://b.test/1", 0));
        assert_eq!(frontier.next(now + 9 * pause), Next::Now(todo("http://a.test/deep", 1)));
        frontier.done(&todo("http://a.test/deep", 1));
        assert_eq!(frontier.next(now + 9 * pause), Next::End);
    }

    #[test]
    fn an_address_is_seen_once_and_a_page_is_no_part_again() {
        let mut frontier = Frontier::new(Duration::ZERO, 1);
        let page = todo("http://a.test/", 0).link;
        let part = Link { used: Use::Part, ..page.clone() };
        assert!(frontier.see(&page) && !frontier.see(&page) && !frontier.see(&part));
        let other = Link { url: Url::parse("http://a.test/f").unwrap(), used: Use::Part };
        assert!(frontier.see(&other) && frontier.see(&Link { used: Use::Page, ..other }));
    }
}
