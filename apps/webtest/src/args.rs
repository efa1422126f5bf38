//! The command line of `fvm webtest`, defined once: parser, help, man pages and completions come from it.

use crate::model::{Kind, Network, Params, Tier};
use crate::net::args::{CrawlArgs, MirrorArgs};
use crate::net::proxy::address;
use crate::net::proxy::tls::ROOTS;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Visit web sites with a browser in a fresh VM each, and see what they do to it.
///
/// Sites are imported into a database, a run visits them, a report shows what came of it. What a visit changed in its VM, which
/// programs ran there and who else connected decides whether a site attacks its visitors.
#[derive(Debug, Parser)]
#[command(name = "fvm webtest", bin_name = "fvm webtest", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print JSON on standard output (lines of it, where there are many)
    #[arg(long, global = true)]
    pub json: bool,
    /// The database: a file, or postgres://USER@HOST/NAME [default: urls.db beside the results; also FVM_WEBTEST_DB]
    #[arg(long, global = true, value_name = "PLACE")]
    pub db: Option<String>,
    /// Where screenshots and the like go: a directory, or s3://BUCKET/PREFIX [default: /var/lib/fvm-webtest/results as root,
    /// ~/.local/share/fvm-webtest/results as a user; also FVM_WEBTEST_STORE]
    #[arg(long, global = true, value_name = "PLACE")]
    pub store: Option<String>,
    /// Keep VMs in this directory [default: as fvm does]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add sites to the database: from text, CSV, sitemaps
    Import(Import),
    /// Visit sites
    Run(Box<Run>),
    /// Show runs and how far they are
    Status(Which),
    /// List results, the worst first
    Results(Results),
    /// Write a report of a run
    Report(Report),
    /// Learn what the browsers of this machine write by themselves, from pages that are known to be benign
    Baseline(Baseline),
    /// Fetch sites into WARC files, within a scope
    Crawl(CrawlArgs),
    /// Serve WARC files to your own browser; visits take them with 'run --replay DIR'
    Mirror(MirrorArgs),
    /// Work on the runs of a database that others share, until told to stop
    Worker(Work),
    /// Say what this machine has and lacks for visits
    Doctor,
}

/// `fvm webtest import`.
#[derive(Debug, Args)]
#[command(
    after_help = "What is bad is told with its line and left out; the exit status is then 1. A line of text is an address, '#' begins a \
comment. CSV: the column 'url' of the first row, or the first one, and columns 'tags', 'priority', 'every'."
)]
pub struct Import {
    /// Files, or directories of WARC files; '-' is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What is in them [default: by name and content]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The column of a CSV with addresses: its name, or its number from 1
    #[arg(long, value_name = "COLUMN")]
    pub column: Option<String>,
    /// Tag all of them; may be given again
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Visit them earlier than others with less
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub priority: Option<i64>,
    /// They are due again after so long: 30m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub every: Option<u64>,
    /// Addresses without a scheme are http://, not https://
    #[arg(long)]
    pub http: bool,
    /// Take nothing at all if anything is bad
    #[arg(long)]
    pub strict: bool,
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// An address a line
    Text,
    /// Comma-separated values
    Csv,
    /// A sitemap, or an index of sitemaps
    Sitemap,
    /// A directory of WARC files: its pages
    Warc,
}

/// `fvm webtest run`.
#[derive(Debug, Args)]
#[command(
    after_help = "A run that was interrupted, also by kill -9, goes on with --resume: what was recorded stays, the rest is visited. The \
first SIGINT or SIGTERM lets visits end, the second ends them."
)]
pub struct Run {
    /// Go on with a run; with the last one if no number is given
    #[arg(long, value_name = "RUN", num_args = 0..=1, default_missing_value = "last", conflicts_with_all = ["like", "tag", "due", "limit", "visits"])]
    pub resume: Option<String>,
    /// The same parameters and choice of sites as an earlier run
    #[arg(long, value_name = "RUN", conflicts_with = "visits")]
    pub like: Option<i64>,
    /// Only sites with this tag; may be given again: with one of them
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Only sites that are due: never visited, or their schedule says so
    #[arg(long)]
    pub due: bool,
    /// Only so many, the most important first
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Begin the run and leave the visits to workers
    #[arg(long, conflicts_with = "resume")]
    pub begin: bool,
    /// Parameters.
    #[command(flatten)]
    pub visits: Visits,
    /// How many here, and how they end.
    #[command(flatten)]
    pub here: Here,
}

/// What holds for a machine, not for a run.
#[derive(Debug, Clone, Args)]
pub struct Here {
    /// VMs at once on this machine [default: from its memory and processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrent: Option<u32>,
    /// After a first signal visits may go on for so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds)]
    pub drain: u64,
    /// Where VMs may go.
    #[command(flatten)]
    pub out: Out,
    /// A task whose worker is silent for so long is given to another
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    pub lease: u64,
}

/// Where VMs of this machine may go.
#[derive(Debug, Clone, Args)]
pub struct Out {
    /// Addresses that may be reached though they are not of the internet (10.1.0.0/16); by default none of them is
    #[arg(long = "allow-address", value_name = "NETWORK")]
    pub allow: Vec<address::Network>,
    /// Whom servers' certificates are to be signed by, where exchanges are recorded: a PEM file
    #[arg(long, value_name = "FILE", default_value = ROOTS)]
    pub roots: PathBuf,
}

/// `fvm webtest baseline`.
#[derive(Debug, Args)]
#[command(
    after_help = "What most visits write outside the profile is then taken for the browser's own, for this browser's version and flags. \
Programs that run are never learnt. The pages must be ones that you trust: your own, or a mirror of them."
)]
pub struct Baseline {
    /// Pages that are known to be benign
    #[arg(value_name = "URL", required = true)]
    pub pages: Vec<url::Url>,
    /// Visit each of them so often
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..=1_000))]
    pub times: u32,
    /// As in the runs that are to use it.
    #[command(flatten)]
    pub visits: Visits,
    /// Where VMs may go.
    #[command(flatten)]
    pub out: Out,
}

/// Parameters of visits; what is not given is as in [`Params::default`].
#[derive(Debug, Clone, Args)]
#[group(id = "visits", multiple = true)]
pub struct Visits {
    /// Leave a page alone for so long after it has loaded [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub wait: Option<u64>,
    /// Sites that one VM visits in its life: 1, no other number yet
    #[arg(long, value_name = "N", value_parser = one_each)]
    pub urls_per_vm: Option<u32>,
    /// VMs that start or end at once [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub starts: Option<u32>,
    /// A page may take so long to load [default: 20s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub load_max: Option<u64>,
    /// A visit may take so long in all, beside the wait [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub visit_max: Option<u64>,
    /// Memory of a VM [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Disk that a VM may take, with its browser's profile [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub disk: Option<u64>,
    /// Processors of a VM [default: 1]
    #[arg(long, value_name = "N", value_parser = processors)]
    pub cpus: Option<f64>,
    /// Processes and threads of a VM [default: 300]
    #[arg(long, value_name = "N")]
    pub pids: Option<u64>,
    /// The policy of its VMs beside that [default: untrusted]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// The size of the window [default: 1280x800]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = viewport)]
    pub viewport: Option<(u32, u32)>,
    /// What the browser calls itself
    #[arg(long, value_name = "TEXT")]
    pub user_agent: Option<String>,
    /// Go out through this proxy: http://HOST:PORT, socks5://HOST:PORT; may be given again: in turns
    #[arg(long, value_name = "URL")]
    pub proxy: Vec<String>,
    /// The browser: the small one, the full one, or the full one for what is suspicious [default: shell]
    #[arg(long, value_parser = tier, value_name = "shell|full|auto")]
    pub tier: Option<Tier>,
    /// Record all exchanges into WARC files in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    pub record: Option<PathBuf>,
    /// Visit what the WARC files in this directory hold, and nothing else
    #[arg(long, value_name = "DIR")]
    pub replay: Option<PathBuf>,
    /// Take no screenshots
    #[arg(long)]
    pub no_screenshot: bool,
    /// Keep no DOM
    #[arg(long)]
    pub no_dom: bool,
    /// Tries for a site that cannot be visited [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: Option<u32>,
}

/// A run.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The run [default: the last]
    #[arg(long, value_name = "RUN")]
    pub run: Option<i64>,
}

/// `fvm webtest results`.
#[derive(Debug, Args)]
pub struct Results {
    /// The run.
    #[command(flatten)]
    pub which: Which,
    /// Which results.
    #[command(flatten)]
    pub filter: Choose,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// All that was seen of this one site, as JSON
    #[arg(long, value_name = "NUMBER")]
    pub site: Option<i64>,
    /// Write the stored file of this name (a screenshot, DOM, HAR, download) to standard output: it may be malware
    #[arg(long, value_name = "SHA256", conflicts_with_all = ["site", "verdict", "search", "tag", "run"])]
    pub file: Option<String>,
}

/// Which results.
#[derive(Debug, Clone, Args)]
pub struct Choose {
    /// Only with this verdict; may be given again
    #[arg(long, value_parser = verdict, value_name = "clean|suspicious|malicious|error|unknown")]
    pub verdict: Vec<Kind>,
    /// Only with this text in address or title
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Only of sites with this tag
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
}

/// `fvm webtest report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The run.
    #[command(flatten)]
    pub which: Which,
    /// Which results.
    #[command(flatten)]
    pub filter: Choose,
    /// Where: a directory for html, else a file [default: standard output, but for html]
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
    /// What
    #[arg(long, value_enum, default_value_t = Kinds::Html)]
    pub format: Kinds,
}

/// Kinds of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kinds {
    /// Pages for a browser
    Html,
    /// JSON Lines: all that was seen
    Jsonl,
    /// A table
    Csv,
    /// STIX 2.1
    Stix,
}

/// `fvm webtest worker`.
#[derive(Debug, Args)]
#[command(
    after_help = "Database and store must be ones that all machines reach: --db postgres://..., --store s3://... or a shared directory. A \
run is begun by 'fvm webtest run', or with its --begin by that alone; workers then share it."
)]
pub struct Work {
    /// Only this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<i64>,
    /// End when there is nothing to do
    #[arg(long)]
    pub until_done: bool,
    /// How many here, and how they end.
    #[command(flatten)]
    pub here: Here,
}

impl Visits {
    /// As parameters of a run.
    #[must_use]
    pub fn params(&self) -> Params {
        let usual = Params::default();
        let seconds = |given: Option<u64>, usual: u32| given.map_or(usual, |s| u32::try_from(s).unwrap_or(u32::MAX));
        let dir = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
        Params {
            wait_s: seconds(self.wait, usual.wait_s),
            urls_per_vm: self.urls_per_vm.unwrap_or(usual.urls_per_vm),
            concurrent: None,
            starts: self.starts.unwrap_or(usual.starts),
            load_max_s: seconds(self.load_max, usual.load_max_s),
            visit_max_s: seconds(self.visit_max, usual.visit_max_s),
            memory_bytes: self.memory.unwrap_or(usual.memory_bytes),
            disk_bytes: self.disk.unwrap_or(usual.disk_bytes),
            cpus: self.cpus.unwrap_or(usual.cpus),
            pids: self.pids.unwrap_or(usual.pids),
            policy: self.policy.clone(),
            viewport: self.viewport.unwrap_or(usual.viewport),
            user_agent: self.user_agent.clone(),
            proxies: self.proxy.clone(),
            tier: self.tier.unwrap_or_default(),
            network: match (&self.record, &self.replay) {
                (Some(path), _) => Network::Record { dir: dir(path) },
                (None, Some(path)) => Network::Replay { dir: dir(path) },
                (None, None) => Network::Live,
            },
            screenshot: !self.no_screenshot,
            dom: !self.no_dom,
            attempts: self.attempts.unwrap_or(usual.attempts),
        }
    }
}

/// How many sites a VM visits.
fn one_each(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(1) => Ok(1),
        Ok(2..) => Err("each VM visits one site: several in one life are not implemented, since what one of them did \
                        to the VM could not be told from what the others did"
            .into()),
        _ => Err(format!("'{text}' is no number of sites")),
    }
}

/// `90`, `90s`, `5m`, `12h`, `7d`.
fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is no time: give a number and s, m, h or d, such as 30s");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3_600,
        Some("d") => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(unit).filter(|s| *s <= 100 * 366 * 86_400).ok_or_else(bad)
}

/// `500M`, `1G`.
fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size: give a number and K, M or G, such as 500M");
    let shift = match text.chars().last() {
        Some('K' | 'k') => 10,
        Some('M' | 'm') => 20,
        Some('G' | 'g') => 30,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { text.get(..text.len() - 1).unwrap_or_default() };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes >= 32 << 20).ok_or_else(|| format!("{} (at least 32M)", bad()))
}

fn processors(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    if number.is_finite() && (0.01..=1_024.0).contains(&number) {
        Ok(number)
    } else {
        Err("between 0.01 and 1024".into())
    }
}

fn viewport(text: &str) -> Result<(u32, u32), String> {
    let bad = || format!("'{text}' is no size of a window: such as 1280x800");
    let (width, height) = text.split_once('x').ok_or_else(bad)?;
    let side = |text: &str| text.parse::<u32>().ok().filter(|n| (64..=8_192).contains(n)).ok_or_else(bad);
    Ok((side(width)?, side(height)?))
}

fn word<T: serde::de::DeserializeOwned>(text: &str, known: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.into())).map_err(|_| format!("one of {known}"))
}

fn tier(text: &str) -> Result<Tier, String> {
    word(text, "shell, full, auto")
}

fn verdict(text: &str) -> Result<Kind, String> {
    word(text, "clean, suspicious, malicious, error, unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn parameters_are_what_was_given_and_else_the_usual() {
        let parse = |line: &str| Cli::try_parse_from(std::iter::once("fvm webtest").chain(line.split(' ')));
        let params = |line: &str| match parse(line).unwrap().command {
            Command::Run(run) => run.visits.params(),
            other => panic!("{other:?}"),
        };
        assert_eq!(params("run"), Params::default());
        let given = params(
            "run --wait 2m --memory 512M --cpus 0.5 --viewport 800x600 --tier auto --replay /w --no-dom --attempts 1",
        );
        assert_eq!(
            (given.wait_s, given.memory_bytes, given.viewport, given.tier),
            (120, 512 << 20, (800, 600), Tier::Auto)
        );
        assert_eq!((given.network, given.dom, given.attempts), (Network::Replay { dir: "/w".into() }, false, 1));
        assert_eq!(params("run --urls-per-vm 1 --disk 64M").disk_bytes, 64 << 20);
        assert!(parse("run --urls-per-vm 5").unwrap_err().to_string().contains("each VM visits one site"));
        for bad in [
            "run --wait x",
            "run --wait 3w",
            "run --memory 5",
            "run --disk 5",
            "run --urls-per-vm 0",
            "run --urls-per-vm 2",
            "run --cpus nan",
            "run --viewport 9x9",
            "run --record a --replay b",
            "run --resume 3 --wait 5",
            "run --like 3 --wait 5",
            "import",
            "results --verdict evil",
            "run --concurrent 0",
            "run --wait 9999999d",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(
            matches!(parse("run --resume").unwrap().command, Command::Run(run) if run.resume.as_deref() == Some("last"))
        );
    }
}
