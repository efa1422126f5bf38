//! What the parts of a run tell each other. All of it is stored or printed as JSON; no I/O.
//!
//! ```text
//!  Params (of a run) ─┐
//!  Task (from the queue) ─┴─► visit ─► Observation ─► verdict::judge ─► Verdict ─► Outcome (in the database, and in reports)
//! ```
//!
//! Invariants: every list and text that a page can fill has a bound, named here and applied where it is filled; what was cut says so.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use url::Url;

/// So many requests of one visit are kept.
pub const REQUESTS_MAX: usize = 2_000;
/// So many lines of a page's console are kept.
pub const CONSOLE_MAX: usize = 500;
/// So many bytes of one text that comes from a page are kept: an address, a line of the console, a header.
pub const TEXT_MAX_BYTES: usize = 4_096;
/// So many bytes of a page's DOM are kept.
pub const DOM_MAX_BYTES: usize = 8 << 20;
/// So many redirections are followed and kept.
pub const REDIRECTS_MAX: usize = 30;
/// So many paths outside the browser's own places are kept.
pub const PATHS_MAX: usize = 1_000;
/// So many dialogs of a page are answered before its scripts are stopped.
pub const DIALOGS_MAX: u32 = 50;
/// So many windows of a page stay open.
pub const POPUPS_MAX: u32 = 5;
/// So many pages, frames of other sites and workers are looked into.
pub const TARGETS_MAX: u32 = 100;
/// So many downloads of one visit are kept.
pub const DOWNLOADS_MAX: usize = 20;
/// So many bytes of all downloads of a visit are kept.
pub const DOWNLOAD_MAX_BYTES: u64 = 64 << 20;
/// So many cookies, certificates, programs, connections and findings of one visit are kept, of each.
pub const LIST_MAX: usize = 500;

/// Which browser visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// `chromium-headless-shell`: small and quick, and to be told from a person's browser.
    #[default]
    Shell,
    /// `chromium --headless=new`: the full browser.
    Full,
    /// The shell first; what is suspicious, or shows it something else than it would a person, once more with the full browser.
    Auto,
}

/// Where a visit's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase", tag = "mode")]
pub enum Network {
    /// The net, through the gate; nothing is written down but headers.
    #[default]
    Live,
    /// The net, and every exchange goes into the WARC files of this directory.
    Record {
        /// The directory.
        dir: String,
    },
    /// A WARC set in this directory, and nothing else.
    Replay {
        /// The directory.
        dir: String,
    },
}

/// The parameters of a run: stored with it, so that it can be repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// How long a page is left alone after it has loaded, in seconds.
    pub wait_s: u32,
    /// How many sites one VM visits in its life: 1 is the only number that can be visited.
    pub urls_per_vm: u32,
    /// How many VMs there are at once; from memory and processors if nothing.
    pub concurrent: Option<u32>,
    /// How many VMs start or end at once.
    pub starts: u32,
    /// How long a page may take to load, in seconds.
    pub load_max_s: u32,
    /// How long a visit may take in all, in seconds, beside its `wait_s`.
    pub visit_max_s: u32,
    /// Memory of a VM, in bytes.
    pub memory_bytes: u64,
    /// What a VM may take of the disk, with the browser's profile and downloads, in bytes.
    pub disk_bytes: u64,
    /// Processors of a VM.
    pub cpus: f64,
    /// Processes and threads of a VM.
    pub pids: u64,
    /// The policy of fvm that its VMs have beside that.
    pub policy: Option<String>,
    /// The size of the page's window, in pixels.
    pub viewport: (u32, u32),
    /// What the browser calls itself, if not what it is.
    pub user_agent: Option<String>,
    /// The proxies through which the gate goes out, in turns: `http://host:port` or `socks5://host:port`.
    pub proxies: Vec<String>,
    /// Which browser.
    pub tier: Tier,
    /// Where the bytes come from.
    pub network: Network,
    /// Whether a picture of the page is taken.
    pub screenshot: bool,
    /// Whether the page's DOM is kept.
    pub dom: bool,
    /// How often a site is tried that could not be visited.
    pub attempts: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            wait_s: 10,
            urls_per_vm: 1,
            concurrent: None,
            starts: 3,
            load_max_s: 20,
            visit_max_s: 60,
            memory_bytes: 1 << 30,
            disk_bytes: 512 << 20,
            cpus: 1.0,
            pids: 300,
            policy: None,
            viewport: (1280, 800),
            user_agent: None,
            proxies: Vec::new(),
            tier: Tier::default(),
            network: Network::default(),
            screenshot: true,
            dom: true,
            attempts: 3,
        }
    }
}

/// One site to be visited, as the queue gives it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The run.
    pub run: i64,
    /// Its number among the sites of the database.
    pub site: i64,
    /// Where.
    pub url: Url,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// Whoever records the result shows it: only the last one given out is taken.
    pub lease: String,
    /// The browser for this try; never [`Tier::Auto`].
    pub tier: Tier,
}

/// One request that the page made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Request {
    /// The browser's name for it.
    pub id: String,
    /// The address.
    pub url: String,
    /// `GET`, `POST`, ...
    pub method: String,
    /// What for: `Document`, `Script`, `Image`, ...
    pub kind: String,
    /// Milliseconds from the beginning of the visit.
    pub began_ms: f64,
    /// Milliseconds that it took; nothing if it did not end.
    pub took_ms: Option<f64>,
    /// The answer's status.
    pub status: Option<u16>,
    /// The type of content that the answer said.
    pub mime: Option<String>,
    /// Bytes that came.
    pub bytes: u64,
    /// Headers that were sent.
    pub request_headers: BTreeMap<String, String>,
    /// Headers that came.
    pub response_headers: BTreeMap<String, String>,
    /// The address that answered, as the browser saw it.
    pub remote: Option<String>,
    /// Whose request this was: an address of the page or of a script.
    pub initiator: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A certificate that a server showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Certificate {
    /// The host.
    pub host: String,
    /// Whom it names.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Seconds since 1970 from which it holds.
    pub from: i64,
    /// And until which.
    pub until: i64,
    /// What the browser said against it.
    pub error: Option<String>,
}

/// A file that the page made the browser fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Download {
    /// Where from.
    pub url: String,
    /// What the page called it; a text, never a path.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of what came, in hexadecimal; the name under which it is stored.
    pub sha256: Option<String>,
    /// What it is by its content.
    pub mime: Option<String>,
    /// Whether it came without anybody having asked for it.
    pub automatic: bool,
}

/// A connection that did not come from the browser's own network service, or not to where that talks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Foreign {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address and port that it wanted.
    pub to: String,
    /// The program, where known.
    pub program: Option<String>,
    /// Its first bytes, as text with all else escaped.
    pub began: String,
}

/// A program that ran in the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Ran {
    /// The file.
    pub exe: String,
    /// Its command line.
    pub command: String,
    /// Who started it.
    pub parent: Option<String>,
    /// Events of the behaviour log that say so.
    pub events: Vec<u64>,
}

/// A change of the VM's files outside the browser's own places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Wrote {
    /// The path, with what is not text escaped.
    pub path: String,
    /// `created`, `modified`, `deleted`, ...
    pub what: String,
    /// Whether something starts by itself from there.
    pub persistent: bool,
    /// The program, where known: only if the run's policy logs changes of files.
    pub by: Option<String>,
}

/// How a visit ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Ended {
    /// The page was loaded, waited for and looked at.
    #[default]
    Done,
    /// It did not load in `load_max_s`; what was there was looked at.
    NeverLoaded,
    /// The visit had to be ended at `visit_max_s`.
    TimedOut,
    /// There was nothing to load: no such name, no connection, a certificate.
    NotReached {
        /// The browser's words.
        why: String,
    },
    /// The page's renderer died.
    RendererCrashed,
    /// The browser died.
    BrowserCrashed,
    /// The VM had no memory left.
    OutOfMemory,
    /// The VM had taken as much of the disk as it may.
    DiskFull,
    /// Not the page's fault: a VM could not be started, a browser is missing.
    Failed {
        /// Why.
        why: String,
    },
}

/// How the page fought: each counted, all bounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Fights {
    /// Alerts, questions, and pages that did not want to be left.
    pub dialogs: u32,
    /// Windows that it opened.
    pub popups: u32,
    /// Times it went elsewhere by itself after it had loaded.
    pub navigations: u32,
    /// Times it asked for a name and password.
    pub logins: u32,
    /// Times it asked to be printed.
    pub prints: u32,
    /// Workers that it registered.
    pub workers: u32,
    /// Whether it used all of the processor that it was given, for long.
    pub spun: bool,
    /// Whether it wanted more memory than it was given.
    pub swelled: bool,
}

/// Names, by hash, of files in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Artifacts {
    /// The picture when the page had loaded (PNG or JPEG).
    pub first: Option<String>,
    /// The picture at the end.
    pub last: Option<String>,
    /// The DOM at the end (HTML text).
    pub dom: Option<String>,
    /// All requests (HAR 1.2).
    pub har: Option<String>,
}

/// All that a visit showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Observation {
    /// How it ended.
    pub ended: Ended,
    /// The browser that visited.
    pub tier: Tier,
    /// The browser and its version.
    pub browser: String,
    /// The exit through which it went out, if there are several.
    pub exit: Option<String>,
    /// Milliseconds since 1970 at which it began.
    pub began_ms: u64,
    /// Milliseconds until the VM's browser was ready.
    pub ready_ms: f64,
    /// Of these, what the VM took.
    pub vm_ms: f64,
    /// Milliseconds until the page had loaded, from when it was asked for.
    pub load_ms: Option<f64>,
    /// Milliseconds in all.
    pub took_ms: f64,
    /// Milliseconds of processor time of the VM.
    pub cpu_ms: f64,
    /// The most memory that it had, in bytes, where known.
    pub memory_bytes: Option<u64>,
    /// The page's title.
    pub title: String,
    /// Where it ended.
    pub final_url: String,
    /// Addresses on the way there.
    pub redirects: Vec<String>,
    /// Requests.
    pub requests: Vec<Request>,
    /// Certificates.
    pub certificates: Vec<Certificate>,
    /// Lines of the console.
    pub console: Vec<String>,
    /// Cookies: name, domain, path, without values.
    pub cookies: Vec<(String, String, String)>,
    /// Downloads.
    pub downloads: Vec<Download>,
    /// How it fought.
    pub fights: Fights,
    /// Changes outside the browser's own places.
    pub wrote: Vec<Wrote>,
    /// Programs that are not the browser's.
    pub ran: Vec<Ran>,
    /// Ports on which something in the VM listened.
    pub listened: Vec<String>,
    /// Connections that are not the browser's.
    pub foreign: Vec<Foreign>,
    /// Connections that the browser's proxy was asked for and that no page makes a browser ask for: to a port that is no web site's
    /// (`port`), with first bytes that are no browser's (`tunnel`).
    pub odd: Vec<Foreign>,
    /// Findings of the behaviour log: rule, severity, words.
    pub findings: Vec<(String, String, String)>,
    /// Events of the log that were lost.
    pub lost_events: u64,
    /// Files in the store.
    pub artifacts: Artifacts,
    /// What was cut, because there was more of it than is kept.
    pub cut: Vec<String>,
}

/// What is said of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nothing but the usual was seen.
    Clean,
    /// Something that an attack may have done, and others too.
    Suspicious,
    /// Something that no page does that does not attack.
    Malicious,
    /// The site was not there.
    Error,
    /// It cannot be said: something failed, or events were lost.
    Unknown,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The rule: short, stable, lower case with dashes.
    pub rule: String,
    /// What this alone would make of a site.
    pub kind: Kind,
    /// In words.
    pub text: String,
    /// What it was seen in: paths, addresses, numbers of events.
    pub evidence: Vec<String>,
}

/// What is said of a site, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What.
    pub kind: Kind,
    /// Why, the worst first.
    pub reasons: Vec<Reason>,
}

/// What is recorded of a task, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: Observation,
}
