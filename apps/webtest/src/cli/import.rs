//! `fvm webtest import`.

use super::{DONE, FAILED, Failure, json, places, say};
use fvm_webtest::args::{Format, Global, Import};
use fvm_webtest::db::{Added, NewSite, Queue};
use fvm_webtest::import::{self, Bad, Common, Entry, FILE_MAX_BYTES};
use fvm_webtest::net::warc;
use fvm_webtest::net::warc::read::Set;
use fvm_webtest::report::escape;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// So many go into one transaction.
const TOGETHER: usize = 2_000;
/// So many faults are shown; all are counted.
const SHOWN: usize = 200;
/// Sitemaps may name sitemaps so deep.
const DEPTH_MAX: u32 = 3;

/// What an import came to.
#[derive(Debug, Default, Serialize)]
struct Told {
    /// Sites that are new.
    added: u64,
    /// Sites that were there.
    known: u64,
    /// Entries that are bad.
    bad: u64,
    /// The first of them.
    faults: Vec<Fault>,
}

#[derive(Debug, Serialize)]
struct Fault {
    file: String,
    #[serde(flatten)]
    bad: Bad,
}

/// What is being imported.
struct Importer<'i> {
    queue: &'i dyn Queue,
    args: &'i Import,
    global: &'i Global,
    /// With --strict nothing is added before all was read.
    dry: bool,
    waiting: Vec<NewSite>,
    told: Told,
}

pub fn import(global: &Global, args: &Import) -> Result<u8, Failure> {
    if let Some(tag) = args.tag.iter().find(|tag| !import::is_tag(tag)) {
        return Err(Failure::new(format!("'{tag}' is no tag"), "letters, digits and '-_.:/', at most 100 bytes"));
    }
    let queue = places::db(global, true)?;
    let mut importer =
        Importer { queue: &*queue, args, global, dry: args.strict, waiting: Vec::new(), told: Told::default() };
    // Standard input can be read once: with --strict what it holds waits in memory.
    let mut held = None;
    if args.strict {
        importer.all(&mut held)?;
        if importer.told.bad > 0 {
            importer.tell()?;
            say(global, "nothing was added (--strict)");
            return Ok(FAILED);
        }
        importer.dry = false;
        importer.told = Told::default();
    }
    importer.all(&mut held)?;
    importer.tell()?;
    Ok(if importer.told.bad > 0 { FAILED } else { DONE })
}

impl Importer<'_> {
    fn all(&mut self, held: &mut Option<Vec<u8>>) -> Result<(), Failure> {
        for path in &self.args.files {
            let read = if path.as_os_str() == "-" {
                self.standard_input(held)
            } else if path.is_dir() {
                self.set(path)
            } else {
                File::open(path).and_then(|file| self.file(path, file, 0))
            };
            // What was read before counts, and is told.
            if let Err(e) = read {
                if e.get_ref().is_some_and(|e| e.is::<Stop>()) {
                    return Err(self.told.faults.pop().map_or_else(
                        || Failure { text: e.to_string(), hint: None },
                        |fault| Failure { text: fault.bad.why, hint: Some(fault.bad.text) },
                    ));
                }
                self.flush()?;
                self.bad(path, Bad { line: 0, text: String::new(), why: format!("cannot be read: {e}") });
            }
        }
        self.flush()
    }

    fn standard_input(&mut self, held: &mut Option<Vec<u8>>) -> io::Result<()> {
        let name = PathBuf::from("-");
        if !self.args.strict {
            return self.file(&name, io::stdin().lock(), 0);
        }
        if held.is_none() {
            let mut bytes = Vec::new();
            io::stdin().lock().take(FILE_MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            if bytes.len() > FILE_MAX_BYTES {
                return Err(io::Error::other("it is too large for --strict: give a file"));
            }
            *held = Some(bytes);
        }
        let bytes = held.clone().unwrap_or_default();
        self.file(&name, &bytes[..], 0)
    }

    fn file(&mut self, path: &Path, input: impl Read, depth: u32) -> io::Result<()> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        let format = match self.args.format.filter(|_| depth == 0) {
            Some(format) => format,
            None if depth > 0 => Format::Sitemap,
            None => guess(path, input.fill_buf()?),
        };
        match format {
            Format::Text => self.entries(path, import::lines(input)),
            Format::Csv => self.entries(path, import::table(input, self.args.column.as_deref())?),
            Format::Sitemap => self.sitemap(path, input, depth),
            Format::Warc => Err(io::Error::other("a set of WARC files is a directory")),
        }
    }

    /// The pages of a set of WARC files.
    fn set(&mut self, path: &Path) -> io::Result<()> {
        let set = Set::open(path).map_err(io::Error::other)?;
        let is_page = |entry: &&warc::index::Entry| {
            entry.status == "200"
                && entry.method.is_none()
                && ["text/html", "application/xhtml+xml"].contains(&entry.mime.as_str())
        };
        for entry in set.index.iter().filter(is_page) {
            self.entry(path, Ok(Entry { address: entry.url.clone(), ..Entry::default() }))?;
        }
        for why in &set.complaints {
            self.bad(path, Bad { line: 0, text: String::new(), why: escape::terminal(why) });
        }
        Ok(())
    }

    fn entries(&mut self, path: &Path, all: impl Iterator<Item = io::Result<Result<Entry, Bad>>>) -> io::Result<()> {
        for entry in all {
            self.entry(path, entry?)?;
        }
        Ok(())
    }

    fn sitemap(&mut self, path: &Path, input: impl Read, depth: u32) -> io::Result<()> {
        let mut bytes = Vec::new();
        input.take(FILE_MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > FILE_MAX_BYTES {
            return Err(io::Error::other(format!("a sitemap has at most {FILE_MAX_BYTES} bytes")));
        }
        let map = import::sitemap(&bytes);
        drop(bytes);
        for page in map.pages {
            self.entry(path, Ok(page))?;
        }
        for bad in map.bad {
            self.bad(path, bad);
        }
        for named in map.sitemaps {
            // Nothing is fetched: a sitemap that an index names is looked for beside it.
            let beside = named.address.rsplit('/').next().filter(|name| !name.is_empty() && !name.starts_with('.'));
            let file =
                beside.map(|name| path.with_file_name(name)).filter(|file| path.as_os_str() != "-" && file.is_file());
            match file {
                Some(file) if depth < DEPTH_MAX => self.file(&file, File::open(&file)?, depth + 1)?,
                Some(_) => {
                    self.bad(path, Bad { line: named.line, text: named.address, why: "indexes lie too deep".into() })
                }
                None => {
                    let why = "a further sitemap, which is not beside this file: fetch and import it".into();
                    self.bad(path, Bad { line: named.line, text: named.address.escape_debug().to_string(), why });
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, entry: Result<Entry, Bad>) -> io::Result<()> {
        let args = self.args;
        let common = Common {
            tags: args.tag.clone(),
            priority: args.priority,
            every_s: args.every,
            http: args.http,
            source: path.file_name().map_or_else(|| "-".into(), |name| name.to_string_lossy().into_owned()),
        };
        match entry.and_then(|entry| import::one(entry, &common)) {
            Ok(site) => self.waiting.push(site),
            Err(bad) => self.bad(path, bad),
        }
        if self.waiting.len() >= TOGETHER {
            self.flush().map_err(|failure| {
                let bad = Bad { line: 0, text: failure.hint.unwrap_or_default(), why: failure.text };
                self.told.faults.push(Fault { file: String::new(), bad });
                io::Error::other(Stop)
            })?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if !self.dry && !self.waiting.is_empty() {
            for added in self.queue.add(&self.waiting)? {
                match added {
                    Added::New => self.told.added += 1,
                    Added::Known => self.told.known += 1,
                }
            }
        }
        self.waiting.clear();
        Ok(())
    }

    fn bad(&mut self, path: &Path, bad: Bad) {
        self.told.bad += 1;
        if self.told.faults.len() < SHOWN {
            self.told.faults.push(Fault { file: path.display().to_string(), bad });
        }
    }

    fn tell(&self) -> io::Result<()> {
        if self.global.json {
            return json(&self.told);
        }
        for Fault { file, bad } in &self.told.faults {
            let what = if bad.text.is_empty() { String::new() } else { format!(" '{}'", escape::terminal(&bad.text)) };
            let line = if bad.line > 0 { format!(":{}", bad.line) } else { String::new() };
            say(self.global, &format!("{}{line}: {}{what}", escape::terminal(file), bad.why));
        }
        let told = &self.told;
        if told.bad > told.faults.len() as u64 {
            say(self.global, &format!("and {} more", told.bad - told.faults.len() as u64));
        }
        println!("{} added, {} known already, {} bad", told.added, told.known, told.bad);
        Ok(())
    }
}

/// Ends an import whose database failed.
#[derive(Debug, thiserror::Error)]
#[error("the database failed")]
struct Stop;

/// What is in a file, by its name and first bytes.
fn guess(path: &Path, first: &[u8]) -> Format {
    let text = String::from_utf8_lossy(first.get(..200.min(first.len())).unwrap_or_default());
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        _ if text.starts_with("<?xml") || text.starts_with("<urlset") || text.starts_with("<sitemapindex") => {
            Format::Sitemap
        }
        Some("xml" | "gz") => Format::Sitemap,
        Some("csv") => Format::Csv,
        _ => Format::Text,
    }
}
