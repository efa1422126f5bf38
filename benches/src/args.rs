//! The command line.

use crate::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Shown with an error.
pub const USAGE: &str = "\
usage: cargo xtask bench start|density|steady|commit|scan|guard|trace|visits [OPTION...]
  --rounds N    how often each candidate runs (start 100, density 20, steady 3, commit 5, scan 3, guard 400, trace 3; of trace
                --only start a hundred times as often)
  --count N     how many VMs in a pool, and a tenth one by one (density, 1000), or small files (commit, 20000), or changed files (scan, 1000000), or how often the guard is killed (guard, 100), or
                visits at once (visits, 50)
  --gib N       size of the large file (commit, 4; 0: without it)
  --peers       start: the peers that Debian has as well; as root those that are not there are installed
  --only PART   trace: which part, calls|build|npm|start: each takes less than three minutes
  --as PERSON   trace: only root, or only user
  --more        trace, visits: add to what --json FILE has of the same part: short sessions make one table
  --wait N      visits: each page is left alone for so many seconds (60)
  --minutes N   visits: for so long (30)
  --page PAGE   visits: small, or usual (19 requests)
  --json FILE   write all that was measured to FILE
  --book        rewrite the tables of docs/book/performance.md
  --fvm PATH    the fvm to measure (otherwise the one beside this program)
  --dir DIR     where the laboratory is made (otherwise /var/tmp): what file system is measured";

/// Which benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bench {
    /// Starting.
    Start,
    /// Many VMs.
    Density,
    /// What a program pays once it runs.
    Steady,
    /// Diff and commit.
    Commit,
    /// Diff of very many files.
    Scan,
    /// What the guard costs, and whom it keeps waiting when it is killed.
    Guard,
    /// The behaviour log.
    Trace,
    /// Web site testing.
    Visits,
}

impl Bench {
    /// As it is called on the command line, in JSON and in the book.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Density => "density",
            Self::Steady => "steady",
            Self::Commit => "commit",
            Self::Scan => "scan",
            Self::Guard => "guard",
            Self::Trace => "trace",
            Self::Visits => "visits",
        }
    }
}

/// What is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// A line of text.
    Small,
    /// As pages are: scripts, pictures, a timer.
    Usual,
}

impl Page {
    /// As it is called on the command line, in JSON and in the book.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Usual => "usual",
        }
    }
}

/// What of a benchmark that is measured in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// System calls.
    Calls,
    /// A build.
    Build,
    /// An installation of packages.
    Npm,
    /// Starting.
    Start,
}

impl Part {
    /// All.
    pub const ALL: [Self; 4] = [Self::Calls, Self::Build, Self::Npm, Self::Start];

    /// As it is called on the command line, in JSON and in the book.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Build => "build",
            Self::Npm => "npm",
            Self::Start => "start",
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which benchmark.
    pub bench: Bench,
    /// How often.
    pub rounds: usize,
    /// How many VMs, or files, or kills.
    pub count: usize,
    /// Size of the large file.
    pub gib: usize,
    /// Which part: of `trace`, always.
    pub only: Option<Part>,
    /// Only this person.
    pub person: Option<String>,
    /// Whether to add to what the JSON has.
    pub more: bool,
    /// Seconds that a visit waits.
    pub wait_s: usize,
    /// Minutes of visits.
    pub minutes: usize,
    /// What is visited.
    pub page: Page,
    /// Whether with all peers.
    pub peers: bool,
    /// Where the JSON goes.
    pub json: Option<PathBuf>,
    /// Whether to rewrite the book.
    pub book: bool,
    /// The fvm to measure.
    pub fvm: Option<PathBuf>,
    /// Where the laboratory is made.
    pub dir: PathBuf,
}

impl Options {
    /// From the words after the program's name.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let mut words = words.into_iter();
        let wrong = |what: &str| Error::Usage(what.to_owned());
        let name = words.next().unwrap_or_default();
        let (bench, rounds, count) = match name.to_str() {
            Some("start") => (Bench::Start, 100, 0),
            Some("density") => (Bench::Density, 20, 1000),
            Some("steady") => (Bench::Steady, 3, 0),
            Some("commit") => (Bench::Commit, 5, 20_000),
            Some("scan") => (Bench::Scan, 3, 1_000_000),
            Some("guard") => (Bench::Guard, 400, 100),
            Some("trace") => (Bench::Trace, 3, 0),
            Some("visits") => (Bench::Visits, 1, 50),
            _ => return Err(wrong("which benchmark?")),
        };
        let (peers, json, book, fvm) = (false, None, false, None);
        let (only, person, more, dir) = (None, None, false, "/var/tmp".into());
        let (wait_s, minutes, page) = (60, 30, Page::Usual);
        let mut options = Self {
            bench,
            rounds,
            count,
            gib: 4,
            only,
            person,
            more,
            wait_s,
            minutes,
            page,
            peers,
            json,
            book,
            fvm,
            dir,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| wrong(&format!("{}: a value is missing", word.display())));
            match word.to_str() {
                Some("--rounds") => options.rounds = number(&value()?)?.max(1),
                Some("--count") => options.count = number(&value()?)?.max(1),
                Some("--gib") => options.gib = number(&value()?)?,
                Some("--peers") => options.peers = true,
                Some("--json") => options.json = Some(value()?.into()),
                Some("--book") => options.book = true,
                Some("--fvm") => options.fvm = Some(value()?.into()),
                Some("--dir") => options.dir = value()?.into(),
                Some("--only") => options.only = Some(part_of(&value()?)?),
                Some("--as") => options.person = Some(person_of(&value()?)?),
                Some("--more") => options.more = true,
                Some("--wait") => options.wait_s = number(&value()?)?,
                Some("--minutes") => options.minutes = number(&value()?)?.max(1),
                Some("--page") => options.page = page_of(&value()?)?,
                _ => return Err(wrong(&format!("unknown option '{}'", word.display()))),
            }
        }
        if (options.bench == Bench::Trace) != options.only.is_some() {
            return Err(wrong("trace is measured in parts: --only calls|build|npm|start, and only trace"));
        }
        if options.more && options.json.is_none() {
            return Err(wrong("--more needs --json FILE"));
        }
        Ok(options)
    }

    /// The repository that this program was built from.
    #[must_use]
    pub fn repository() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    /// The page that `--book` rewrites.
    #[must_use]
    pub fn book_path(&self) -> PathBuf {
        Self::repository().join("docs/book/performance.md")
    }
}

fn number(word: &OsString) -> Result<usize, Error> {
    let parsed = word.to_str().and_then(|word| word.parse().ok());
    parsed.ok_or_else(|| Error::Usage(format!("'{}' is not a number", word.display())))
}

fn part_of(word: &OsString) -> Result<Part, Error> {
    let part = Part::ALL.into_iter().find(|part| word == part.name());
    part.ok_or_else(|| Error::Usage(format!("'{}' is no part", word.display())))
}

fn page_of(word: &OsString) -> Result<Page, Error> {
    let page = [Page::Small, Page::Usual].into_iter().find(|page| word == page.name());
    page.ok_or_else(|| Error::Usage(format!("'{}' is neither small nor usual", word.display())))
}

fn person_of(word: &OsString) -> Result<String, Error> {
    let known = word.to_str().filter(|word| ["root", "user"].contains(word));
    known.map(str::to_owned).ok_or_else(|| Error::Usage(format!("'{}' is neither root nor user", word.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Error> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_are_read_in_any_order() {
        let options = parse("scan --json /tmp/x --count 10 --book").unwrap();
        assert_eq!((options.bench, options.count, options.rounds, options.book), (Bench::Scan, 10, 3, true));
        assert_eq!(options.json.as_deref(), Some(Path::new("/tmp/x")));
    }

    #[test]
    fn trace_is_measured_in_parts() {
        let options = parse("trace --only npm --as user --more --json /tmp/x").unwrap();
        assert_eq!((options.only, options.person.as_deref(), options.more), (Some(Part::Npm), Some("user"), true));
        assert!(parse("trace --only npm --more").is_err());
    }

    #[test]
    fn visits_are_many_for_long() {
        let options = parse("visits --count 200 --wait 120 --minutes 20 --page small").unwrap();
        assert_eq!((options.count, options.wait_s, options.minutes, options.page), (200, 120, 20, Page::Small));
        assert!(parse("visits --page large").is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "",
            "run",
            "start --rounds",
            "start --rounds x",
            "start --fast",
            "trace",
            "start --only calls",
            "trace --only x",
        ] {
            assert!(matches!(parse(line), Err(Error::Usage(_))), "{line}");
        }
    }
}
