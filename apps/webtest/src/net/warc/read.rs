//! A WARC set, read: its index, and answers by it.
//!
//! ```text
//!   DIR ─► index.cdxj ─┐
//!       └► files, from where the index ends ─┴─► Index ─► find ─► Answer { head, body }
//! ```
//!
//! A file that the index does not know, or not to its end (the writer was killed), is gone through; of what is behind its last whole
//! record nothing is said. So a directory of others' WARC files is a set too, if each record is compressed by itself or none is.
//!
//! Invariants: only plain files that lie in the directory itself are opened, never through a link; a record of more than
//! [`BLOCK_MAX_BYTES`] is stepped over or ends its file.

use super::index::{Entry, Fit, Index, LINE_MAX_BYTES, digits};
use super::record::{self, HEAD_MAX_BYTES, HTTP_HEAD_MAX_BYTES, Head, HttpHead};
use super::write::CERTIFICATE_TYPE;
use super::{ANSWER_MAX_BYTES, BLOCK_MAX_BYTES, INDEX, WarcError};
use flate2::bufread::GzDecoder;
use rustix::fs::{Mode, OFlags, openat};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use url::Url;

/// An answer of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its head.
    pub head: HttpHead,
    /// Its body, with the coding of the content, without that of the transfer.
    pub body: Vec<u8>,
    /// How it fits the request.
    pub fit: Fit,
    /// Why it is not whole.
    pub truncated: Option<String>,
}

/// A set, open.
#[derive(Debug)]
pub struct Set {
    dir: File,
    path: PathBuf,
    /// What is in it.
    pub index: Index,
    /// What could not be read of it, in words.
    pub complaints: Vec<String>,
}

impl Set {
    /// Opens the set in a directory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(path: &Path) -> Result<Self, WarcError> {
        let failed = |e: std::io::Error| WarcError::new("read", path, e);
        let dir = File::open(path).map_err(failed)?;
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(".warc") || name.ends_with(".warc.gz") {
                names.push(name.to_owned());
            }
        }
        names.sort();
        let mut set = Self { dir, path: path.to_owned(), index: Index::default(), complaints: Vec::new() };
        let mut ends: HashMap<String, u64> = HashMap::new();
        if let Ok(index) = set.file(INDEX) {
            let mut index = BufReader::new(index);
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = index.by_ref().take(LINE_MAX_BYTES as u64).read_until(b'\n', &mut line).map_err(failed)?;
                if read == 0 {
                    break;
                }
                // A line without an end was being written.
                let Some(text) = std::str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n')) else {
                    continue;
                };
                let Some(entry) = Entry::read(text).filter(|entry| names.contains(&entry.filename)) else { continue };
                let Some((offset, length)) = entry.place() else { continue };
                let end = ends.entry(entry.filename.clone()).or_default();
                *end = (*end).max(offset + length);
                set.add(entry);
            }
        }
        for name in names {
            let from = ends.get(&name).copied().unwrap_or(0);
            if let Err(why) = set.scan(&name, from) {
                set.complaints.push(format!("{name}: {why}"));
            }
        }
        Ok(set)
    }

    fn add(&mut self, entry: Entry) {
        if !self.index.add(entry) && self.complaints.len() < 100 {
            self.complaints.push("an answer has no address, or there are too many".into());
        }
    }

    fn file(&self, name: &str) -> std::io::Result<File> {
        // A pipe in its place must not make us wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(openat(&self.dir, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no file")) }
    }

    /// Adds what is in a file from a place on.
    fn scan(&mut self, name: &str, from: u64) -> Result<(), String> {
        let mut file = self.file(name).map_err(|e| e.to_string())?;
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        if from >= length {
            return Ok(());
        }
        file.seek(SeekFrom::Start(from)).map_err(|e| e.to_string())?;
        let mut found = Vec::new();
        let result = scan(BufReader::with_capacity(64 << 10, file), name.ends_with(".gz"), from, &mut |mut entry| {
            name.clone_into(&mut entry.filename);
            found.push(entry);
        });
        found.into_iter().for_each(|entry| self.add(entry));
        result
    }

    /// The answer to a request; nothing if it is not in the set. `body`: the request's.
    ///
    /// # Errors
    /// When it is, and cannot be read.
    pub fn answer(&self, method: &str, url: &Url, body: &[u8]) -> Result<Option<Answer>, WarcError> {
        let digest = (!body.is_empty()).then(|| record::digest(&[body]));
        let Some((entry, fit)) = self.index.find(method, url, digest.as_deref()) else { return Ok(None) };
        let failed = |why: String| WarcError::new("read", self.path.join(&entry.filename), why);
        let block = self.block(entry).map_err(failed)?;
        let head = HttpHead::read(&block).ok_or_else(|| failed(format!("the answer at {} is none", entry.offset)))?;
        let body = &block[head.length..];
        let is_chunked =
            head.get("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"));
        let body = if is_chunked { record::unchunked(body) } else { body.to_vec() };
        Ok(Some(Answer { head, body, fit, truncated: entry.truncated.clone() }))
    }

    /// The block of an entry's record.
    fn block(&self, entry: &Entry) -> Result<Vec<u8>, String> {
        let (offset, length) = entry.place().ok_or("the index is damaged")?;
        let mut file = self.file(&entry.filename).map_err(|e| e.to_string())?;
        file.seek(SeekFrom::Start(offset)).map_err(|e| e.to_string())?;
        let mut source: Box<dyn BufRead> = Box::new(BufReader::new(file.take(length)));
        if entry.filename.ends_with(".gz") {
            source = Box::new(BufReader::new(GzDecoder::new(source)));
        }
        let head = read_head(&mut source)?.ok_or("no record is there")?;
        if head.length > ANSWER_MAX_BYTES {
            return Err(format!("the record has {} bytes, which is more than is replayed", head.length));
        }
        let mut block = Vec::new();
        source.take(head.length).read_to_end(&mut block).map_err(|e| e.to_string())?;
        if (block.len() as u64) < head.length { Err("the record is cut off".into()) } else { Ok(block) }
    }
}

/// Reads a record's head, and nothing behind it; nothing at the end.
fn read_head(source: &mut impl BufRead) -> Result<Option<Head>, String> {
    let mut bytes = Vec::new();
    loop {
        let line = bytes.len();
        let room = (HEAD_MAX_BYTES + 1).saturating_sub(line);
        let read = source.by_ref().take(room as u64).read_until(b'\n', &mut bytes).map_err(|e| e.to_string())?;
        if read == 0 {
            return if bytes.is_empty() { Ok(None) } else { Err("a record's head is cut off".into()) };
        }
        // Between records of files that are not compressed there are empty lines, of which some tools write more.
        if bytes == b"\r\n" {
            bytes.clear();
            continue;
        }
        if bytes.len() == read || bytes.len() > HEAD_MAX_BYTES || bytes[line..] == *b"\r\n" {
            match Head::read(&bytes) {
                Ok(Some((head, _))) => return Ok(Some(head)),
                Ok(None) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

/// A reader that knows how far it is.
struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount as u64;
        self.inner.consume(amount);
    }
}

/// Goes through a WARC file's records; each answer and certificate is told, without the file's name.
///
/// # Errors
/// Where it ends before its end, in words; what was told by then holds.
pub fn scan(source: impl BufRead, is_gzip: bool, from: u64, tell: &mut dyn FnMut(Entry)) -> Result<(), String> {
    let mut source = Counted { inner: source, at: from };
    // Requests that were met, or are to come: a record's name → its method and the digest of its body.
    let mut seen = Seen::default();
    loop {
        let begin = source.at;
        if source.fill_buf().map_err(|e| e.to_string())?.is_empty() {
            seen.finish(tell);
            return Ok(());
        }
        let record = if is_gzip {
            let mut member = BufReader::with_capacity(16 << 10, GzDecoder::new(&mut source));
            let record = one(&mut member);
            // To its end, so that the next one is found; what is there beside the one record is not what we index.
            let rest = std::io::copy(&mut member.by_ref().take(HEAD_MAX_BYTES as u64), &mut std::io::sink());
            record.and_then(|record| match rest {
                Ok(n) if n <= 4 => Ok(record),
                Ok(_) => Err("several records are compressed as one".into()),
                Err(e) => Err(e.to_string()),
            })
        } else {
            one(&mut source)
        };
        match record {
            Ok(Some(record)) => seen.take(record, begin, source.at - begin, tell),
            Ok(None) => {
                seen.finish(tell);
                return Ok(());
            }
            Err(e) => {
                seen.finish(tell);
                return Err(format!("at {begin}: {e}"));
            }
        }
    }
}

/// A record, and the beginning of its block.
struct One {
    head: Head,
    began: Vec<u8>,
    body_digest: Option<String>,
}

fn one(source: &mut impl BufRead) -> Result<Option<One>, String> {
    let Some(head) = read_head(source)? else { return Ok(None) };
    if head.length > BLOCK_MAX_BYTES {
        return Err(format!("a record has {} bytes, which is more than is read", head.length));
    }
    let mut block = source.by_ref().take(head.length);
    let mut began = Vec::new();
    let text = |e: std::io::Error| e.to_string();
    block.by_ref().take(HTTP_HEAD_MAX_BYTES as u64).read_to_end(&mut began).map_err(text)?;
    let mut body_digest = None;
    if head.get("WARC-Type") == Some("request") && began.len() as u64 == head.length {
        let body = record::read_request(&began).and_then(|(_, at)| began.get(at..)).unwrap_or_default();
        body_digest = (!body.is_empty()).then(|| record::digest(&[body]));
    }
    std::io::copy(&mut block, &mut std::io::sink()).map_err(text)?;
    if block.limit() > 0 { Err("a record is cut off".into()) } else { Ok(Some(One { head, began, body_digest })) }
}

/// So many requests and answers wait for each other.
const WAITING_MAX: usize = 10_000;

#[derive(Default)]
struct Seen {
    requests: HashMap<String, (String, Option<String>)>,
    /// Answers by name; their request may follow.
    answers: Vec<(String, Entry)>,
}

impl Seen {
    fn take(&mut self, one: One, offset: u64, length: u64, tell: &mut dyn FnMut(Entry)) {
        let One { head, began, body_digest } = one;
        let field = |name: &str| head.uri(name).unwrap_or_default().to_owned();
        let entry = || Entry {
            url: field("WARC-Target-URI"),
            digest: field("WARC-Payload-Digest"),
            offset: offset.to_string(),
            length: length.to_string(),
            truncated: head.get("WARC-Truncated").map(Into::into),
            date: digits(&field("WARC-Date")),
            ..Entry::default()
        };
        match head.get("WARC-Type") {
            Some("request") => {
                let method = record::read_request(&began).map_or_else(|| "GET".to_owned(), |(method, _)| method);
                let answer = field("WARC-Concurrent-To");
                if let Some(at) = self.answers.iter().position(|(id, _)| *id == answer) {
                    let (_, mut entry) = self.answers.remove(at);
                    entry.method = (method != "GET").then_some(method);
                    entry.body = body_digest;
                    tell(entry);
                } else if method != "GET" && self.requests.len() < WAITING_MAX {
                    self.requests.insert(answer, (method.clone(), body_digest.clone()));
                    self.requests.insert(field("WARC-Record-ID"), (method, body_digest));
                }
            }
            Some("response") => {
                let Some(http) = HttpHead::read(&began) else { return };
                let mut entry = Entry { mime: http.mime().to_owned(), status: http.status.to_string(), ..entry() };
                let (id, concurrent) = (field("WARC-Record-ID"), field("WARC-Concurrent-To"));
                let known = self.requests.remove(&id).or_else(|| self.requests.remove(&concurrent));
                if let Some((method, body)) = known {
                    (entry.method, entry.body) = (Some(method), body);
                    tell(entry);
                    return;
                }
                self.answers.push((id, entry));
                // Its request stands close by, if there is one.
                const CLOSE_BY: usize = 8;
                if self.answers.len() > CLOSE_BY {
                    tell(self.answers.remove(0).1);
                }
            }
            Some("metadata") if head.get("Content-Type") == Some(CERTIFICATE_TYPE) => {
                let text = String::from_utf8_lossy(&began).into_owned();
                let wrong = text.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or_default();
                tell(Entry { certificate: Some(wrong.to_owned()), status: "-".into(), ..entry() });
            }
            _ => {}
        }
    }

    fn finish(&mut self, tell: &mut dyn FnMut(Entry)) {
        self.answers.drain(..).for_each(|(_, entry)| tell(entry));
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
