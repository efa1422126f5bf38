//! What a crawl has done, so that it goes on after it was killed.
//!
//! ```text
//!   DIR/crawl.jsonl   {"scope":{...}}  {"begin":"http://a.test/"}  {"done":"http://a.test/","depth":0,"status":200,"links":[...]}
//!                     {"map":"http://a.test/sitemap.xml","links":[...],"maps":[...]} ...
//! ```
//!
//! Invariants: a page is in it only when its answer is on the disk; what it leads to is in the same line; a line without an end was
//! being written and is none. Whoever is killed fetches a few pages a second time and loses none.

use super::links::{Link, Use};
use super::scope::Scope;
use crate::net::warc::WarcError;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use url::Url;

/// The log's name in a set's directory.
pub const LOG: &str = "crawl.jsonl";
/// A line may be so long: every link of a page, each as long as it may be.
const LINE_MAX_BYTES: u64 = 64 << 20;

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", untagged)]
pub enum Line {
    /// How far it goes.
    Scope {
        /// That.
        scope: Box<Scope>,
    },
    /// Where it begins.
    Begin {
        /// There.
        begin: Url,
    },
    /// A page or part that was fetched, or could not be.
    Done(Done),
    /// A sitemap that was read.
    Map(Map),
}

/// A sitemap that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Its address.
    pub map: Url,
    /// Pages that it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Url>,
    /// Sitemaps that it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<Url>,
}

/// A page or part that was fetched, or could not be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Its address.
    pub done: Url,
    /// So many links away.
    pub depth: u32,
    /// Whether it is a page.
    pub page: bool,
    /// Its status; nothing if there was no answer.
    pub status: Option<u16>,
    /// Its size, as it came.
    #[serde(default)]
    pub bytes: u64,
    /// What that was unpacked to, as far as it was; nothing where it was not.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub unpacked: u64,
    /// Why there was no answer, or not a whole one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Pages to which it leads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Url>,
    /// Its parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Url>,
}

fn is_nothing(n: &u64) -> bool {
    *n == 0
}

impl Done {
    /// Whether nobody answered: another time somebody may.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.status.is_none()
    }

    /// What it counts for where bytes are limited: few that came may be many.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.bytes.max(self.unpacked)
    }

    /// What it leads to.
    pub fn leads_to(&self) -> impl Iterator<Item = Link> {
        let links = self.links.iter().map(|url| Link { url: url.clone(), used: Use::Page });
        links.chain(self.parts.iter().map(|url| Link { url: url.clone(), used: Use::Part }))
    }
}

/// The log, open.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens it; `tell` gets each of its lines.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(dir: &Path, tell: &mut dyn FnMut(Line)) -> Result<Self, WarcError> {
        let path = dir.join(LOG);
        let failed = |e: std::io::Error| WarcError::new("open", &path, e);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| WarcError::new("use", &path, "another crawl is writing it"))?;
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            whole += read as u64;
            let line = serde_json::from_slice(&line);
            tell(line.map_err(|e| WarcError::new("read", &path, format!("a line that ends at {whole}: {e}")))?);
        }
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::Start(whole)).map_err(failed)?;
        Ok(Self { file, path })
    }

    /// Appends lines.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, lines: &[Line]) -> Result<(), WarcError> {
        let mut bytes = Vec::new();
        for line in lines {
            bytes.extend(serde_json::to_vec(line).map_err(|e| WarcError::new("write", &self.path, e))?);
            bytes.push(b'\n');
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|e| WarcError::new("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_again_and_a_half_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let url = |text: &str| Url::parse(text).unwrap();
        let done = Done {
            done: url("http://a.test/"),
            depth: 0,
            page: true,
            status: Some(200),
            bytes: 5,
            unpacked: 7,
            error: None,
            links: vec![url("http://a.test/x")],
            parts: Vec::new(),
        };
        let lines = [
            Line::Scope { scope: Box::default() },
            Line::Begin { begin: url("http://a.test/") },
            Line::Done(done.clone()),
            Line::Map(Map { map: url("http://a.test/m.xml"), links: vec![url("http://a.test/y")], maps: Vec::new() }),
        ];
        let mut log = Log::open(dir.path(), &mut |_| panic!("it is new")).unwrap();
        log.append(&lines).unwrap();
        assert!(Log::open(dir.path(), &mut |_| ()).unwrap_err().to_string().contains("another crawl"));
        drop(log);
        let path = dir.path().join(LOG);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"done\":\"http://a.te"].concat()).unwrap();
        let mut read = Vec::new();
        let mut log = Log::open(dir.path(), &mut |line| read.push(line)).unwrap();
        assert_eq!(read, lines);
        log.append(&[Line::Done(done)]).unwrap();
        drop(log);
        let mut count = 0;
        Log::open(dir.path(), &mut |_| count += 1).unwrap();
        assert_eq!(count, 5);
        std::fs::write(&path, b"nonsense\n").unwrap();
        assert!(Log::open(dir.path(), &mut |_| ()).is_err());
    }
}
