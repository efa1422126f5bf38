//! `robots.txt` (RFC 9309), by the crate texting_robots.
//!
//! Invariants: what cannot be fetched because the server fails forbids all, what is not there allows all; no more than
//! [`ROBOTS_MAX_BYTES`] are read.

use std::time::Duration;
use texting_robots::Robot;

/// Of a `robots.txt` so much counts (the least that RFC 9309 asks for).
pub const ROBOTS_MAX_BYTES: usize = 500 << 10;
/// A longer pause than this is not kept: the crawl would never end.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a server lets us fetch.
#[derive(Debug, Default)]
pub struct Rules {
    robot: Option<Robot>,
    forbids_all: bool,
    /// Why nobody answered.
    pub silent: Option<String>,
    /// How long it wants us to wait between two requests.
    pub pause: Duration,
    /// Sitemaps that it names.
    pub sitemaps: Vec<String>,
}

impl Rules {
    /// By what came: a status, and a body.
    #[must_use]
    pub fn read(user_agent: &str, status: u16, body: &[u8]) -> Self {
        match status {
            200..=299 => {}
            // Not there: nothing is forbidden.
            400..=499 => return Self::default(),
            _ => return Self { forbids_all: true, ..Self::default() },
        }
        // The product's name alone is what is compared.
        let agent = user_agent.split(['/', ' ']).next().unwrap_or_default();
        // One that is not understood forbids nothing.
        let Ok(robot) = Robot::new(agent, &body[..body.len().min(ROBOTS_MAX_BYTES)]) else { return Self::default() };
        let pause = robot.delay.and_then(|s| Duration::try_from_secs_f32(s).ok()).unwrap_or_default().min(PAUSE_MAX);
        let sitemaps = robot.sitemaps.iter().take(100).cloned().collect();
        Self { robot: Some(robot), forbids_all: false, silent: None, pause, sitemaps }
    }

    /// Nobody answered.
    #[must_use]
    pub fn silent(why: String) -> Self {
        Self { forbids_all: true, silent: Some(why), ..Self::default() }
    }

    /// Whether an address may be fetched.
    #[must_use]
    pub fn allows(&self, url: &str) -> bool {
        !self.forbids_all && self.robot.as_ref().is_none_or(|robot| robot.allowed(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_counts_and_what_it_does_not() {
        let text = b"User-agent: *\nDisallow: /all\n\nUser-agent: fvm-webtest\nDisallow: /no\nAllow: /no/but\nCrawl-delay: 99\nSitemap: http://a.test/s.xml\n";
        let rules = Rules::read("fvm-webtest/0.1 (x)", 200, text);
        assert!(rules.allows("http://a.test/all") && rules.allows("http://a.test/no/but"));
        assert!(!rules.allows("http://a.test/no/x"));
        assert_eq!((rules.pause, rules.sitemaps), (PAUSE_MAX, vec!["http://a.test/s.xml".to_owned()]));
        assert!(!Rules::read("x", 200, text).allows("http://a.test/all"));
        assert!(Rules::read("x", 404, b"").allows("http://a.test/"));
        assert!(!Rules::read("x", 503, b"").allows("http://a.test/"));
        assert!(!Rules::silent("no".into()).allows("http://a.test/"));
        assert!(Rules::read("x", 200, &[0xFF; 100]).allows("http://a.test/"));
        assert!(Rules::read("x", 200, b"User-agent: *\nCrawl-delay: NaN\n").allows("http://a.test/"));
    }
}
