//! Exchanges into WARC files, in a thread of its own.
//!
//! ```text
//!   proxy, crawler ── Exchange ──► queue (bounded in bytes) ──► thread: request, response ─► file ─► line of the index
//!                                                                 └─ it cannot be written: the file is cut back, and from then
//!                                                                    on nothing is fetched any more
//! ```
//!
//! Invariants: a record is whole in its file or not there; its line comes after it; what was taken before [`Recorder::flush`] is on
//! the disk when that has returned; nothing is fetched that cannot be kept.

use super::index::{Entry, digits};
use super::record::{self, HttpHead, Record};
use super::{INDEX, WarcError};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file is ended when it is so long.
const FILE_MAX_BYTES: u64 = 1 << 30;
/// So many bytes may wait to be written; whoever brings more waits.
const QUEUE_MAX_BYTES: u64 = 256 << 20;
/// And so many of answers that are still coming; what comes then is not kept.
const HELD_MAX_BYTES: u64 = 512 << 20;

/// A request and its answer.
#[derive(Debug, Clone, Default)]
pub struct Exchange {
    /// The address.
    pub url: String,
    /// The method.
    pub method: String,
    /// The request's head, with the empty line.
    pub request_head: Vec<u8>,
    /// Its body.
    pub request_body: Bytes,
    /// The answer's head, with the empty line.
    pub response_head: Vec<u8>,
    /// Its body, without the transfer's coding and with that of the content.
    pub response_body: Bytes,
    /// Why it is not whole: `length`, `time`, `disconnect`.
    pub truncated: Option<&'static str>,
    /// Who answered.
    pub ip: Option<IpAddr>,
    /// When it was asked.
    pub at: Option<SystemTime>,
}

/// A certificate that a server showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What is wrong with it; nothing: it was verified.
    pub wrong: Option<String>,
    /// The server's own certificate (DER).
    pub der: Vec<u8>,
}

enum Job {
    Exchange(Box<Exchange>),
    Certificate(Shown),
    Flush(SyncSender<Result<(), String>>),
}

/// Takes exchanges and keeps them.
#[derive(Debug)]
pub struct Recorder {
    queue: Mutex<Option<Sender<Job>>>,
    queued_bytes: Arc<AtomicU64>,
    held_bytes: AtomicU64,
    failed: Arc<Mutex<Option<String>>>,
    written: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dir: PathBuf,
}

impl Recorder {
    /// Records into a directory, which is made if it is not there. Files that are there stay as they are.
    ///
    /// # Errors
    /// When it cannot be made, or a file in it.
    pub fn open(dir: &Path) -> Result<Self, WarcError> {
        std::fs::create_dir_all(dir).map_err(|e| WarcError::new("make", dir, e))?;
        let writer = Writer::open(dir)?;
        let (queue, jobs) = channel();
        let (queued_bytes, failed, written) = (Arc::default(), Arc::default(), Arc::default());
        let thread = {
            let (queued, failed, written) = (Arc::clone(&queued_bytes), Arc::clone(&failed), Arc::clone(&written));
            std::thread::Builder::new()
                .name("fvm-warc".into())
                .spawn(move || run(writer, &jobs, &queued, &failed, &written))
                .map_err(|e| WarcError::new("start the writer of", dir, e))?
        };
        let (queue, thread) = (Mutex::new(Some(queue)), Mutex::new(Some(thread)));
        Ok(Self { queue, queued_bytes, held_bytes: AtomicU64::new(0), failed, written, thread, dir: dir.to_owned() })
    }

    /// Where it records.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Exchanges that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Why nothing can be recorded any more.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there is room for more.
    ///
    /// # Errors
    /// When nothing can be recorded any more.
    pub async fn room(&self) -> Result<(), String> {
        while self.queued_bytes.load(Ordering::Relaxed) > QUEUE_MAX_BYTES {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.failed().map_or(Ok(()), Err)
    }

    /// Asks for room for bytes of an answer that is still coming; each that was given is given back by [`Recorder::let_go`].
    #[must_use]
    pub fn hold(&self, bytes: u64) -> bool {
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= HELD_MAX_BYTES);
        self.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives room back.
    pub fn let_go(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn send(&self, job: Job) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_ref().is_some_and(|queue| queue.send(job).is_ok())
    }

    /// Takes an exchange.
    pub fn take(&self, exchange: Exchange) {
        let bytes = (exchange.response_body.len() + exchange.request_body.len()) as u64;
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.send(Job::Exchange(Box::new(exchange)));
    }

    /// Takes a certificate.
    pub fn shown(&self, certificate: Shown) {
        self.send(Job::Certificate(certificate));
    }

    /// Waits until all that was taken is on the disk.
    ///
    /// # Errors
    /// When some of it could not be written.
    pub fn flush(&self) -> Result<(), WarcError> {
        let (done, wait) = sync_channel(1);
        self.send(Job::Flush(done));
        let result = wait.recv().unwrap_or_else(|_| Err("its writer ended".into()));
        result.map_err(|why| WarcError::new("write", &self.dir, why))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join());
        }
    }
}

fn run(
    mut writer: Writer,
    jobs: &Receiver<Job>,
    queued: &AtomicU64,
    failed: &Mutex<Option<String>>,
    written: &AtomicU64,
) {
    let fail = |e: WarcError| {
        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(e.to_string());
    };
    let has_failed = || failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Exchange(exchange) => {
                let bytes = (exchange.response_body.len() + exchange.request_body.len()) as u64;
                if has_failed().is_none() {
                    match writer.exchange(&exchange) {
                        Ok(()) => drop(written.fetch_add(1, Ordering::Relaxed)),
                        Err(e) => fail(e),
                    }
                }
                queued.fetch_sub(bytes, Ordering::Relaxed);
            }
            Job::Certificate(shown) if has_failed().is_none() => {
                let _told = writer.certificate(&shown).map_err(fail);
            }
            Job::Certificate(_) => {}
            Job::Flush(done) => {
                let _told = writer.sync().map_err(fail);
                drop(done.send(has_failed().map_or(Ok(()), Err)));
            }
        }
    }
    drop(writer.sync());
}

/// Writes one set of files.
struct Writer {
    dir: PathBuf,
    file: File,
    name: String,
    offset: u64,
    number: u32,
    index: File,
    /// Host and port → the digest of the certificate that was written last.
    certificates: HashMap<String, String>,
}

fn new_id() -> String {
    let mut random = [0u8; 16];
    // Sixteen bytes come at once or not at all.
    let _whole = rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty());
    record::id(random)
}

impl Writer {
    fn open(dir: &Path) -> Result<Self, WarcError> {
        let path = dir.join(INDEX);
        let index = OpenOptions::new().append(true).create(true).open(&path);
        let index = index.map_err(|e| WarcError::new("open", path, e))?;
        let (file, name) = Self::next_file(dir, 1)?;
        let mut writer =
            Self { dir: dir.to_owned(), file, name, offset: 0, number: 1, index, certificates: HashMap::new() };
        writer.info()?;
        Ok(writer)
    }

    fn next_file(dir: &Path, number: u32) -> Result<(File, String), WarcError> {
        let stamp = digits(&record::date(SystemTime::now()));
        let unique = &new_id()[10..18].to_owned();
        let name = format!("fvm-{stamp}-{unique}-{number:05}.warc.gz");
        let path = dir.join(&name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        Ok((file.map_err(|e| WarcError::new("make", path, e))?, name))
    }

    fn info(&mut self) -> Result<(), WarcError> {
        let text = concat!(
            "software: fvm-webtest/",
            env!("CARGO_PKG_VERSION"),
            "\r\nformat: WARC File Format 1.1\r\nconformsTo: http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/\r\n"
        );
        let record = Record::new("warcinfo", &new_id(), SystemTime::now())
            .with("WARC-Filename", self.name.clone())
            .with("Content-Type", "application/warc-fields")
            .of(&[text.as_bytes()]);
        self.append(&[record]).map(drop)
    }

    /// Appends records, each as a gzip member; where each is. All of them, or none.
    fn append(&mut self, records: &[Record<'_>]) -> Result<Vec<(u64, u64)>, WarcError> {
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            let begin = bytes.len();
            let mut gzip = GzEncoder::new(&mut bytes, Compression::fast());
            let packed = gzip.write_all(&record.bytes()).and_then(|()| gzip.finish().map(drop));
            packed.map_err(|e| self.failed(e))?;
            places.push((self.offset + begin as u64, (bytes.len() - begin) as u64));
        }
        if let Err(e) = self.file.write_all(&bytes) {
            // Nothing half is left, if the disk lets us.
            drop(self.file.set_len(self.offset));
            drop(self.file.seek(std::io::SeekFrom::Start(self.offset)));
            return Err(self.failed(e));
        }
        self.offset += bytes.len() as u64;
        Ok(places)
    }

    fn failed(&self, e: std::io::Error) -> WarcError {
        WarcError::new("write", self.dir.join(&self.name), e)
    }

    fn index(&mut self, entry: &Entry) -> Result<(), WarcError> {
        let line = entry.line();
        self.index.write_all(line.as_bytes()).map_err(|e| WarcError::new("write", self.dir.join(INDEX), e))
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<(), WarcError> {
        if self.offset > FILE_MAX_BYTES {
            self.sync()?;
            self.number += 1;
            (self.file, self.name) = Self::next_file(&self.dir, self.number)?;
            self.offset = 0;
            self.info()?;
        }
        let (asked, answered) = (new_id(), new_id());
        let at = exchange.at.unwrap_or(UNIX_EPOCH);
        let digest = record::digest(&[&exchange.response_body]);
        let request_parts: [&[u8]; 2] = [&exchange.request_head, &exchange.request_body];
        let response_parts: [&[u8]; 2] = [&exchange.response_head, &exchange.response_body];
        let request = Record::new("request", &asked, at)
            .with("WARC-Target-URI", exchange.url.clone())
            .with("WARC-Concurrent-To", answered.clone())
            .with("WARC-Block-Digest", record::digest(&request_parts))
            .with("Content-Type", "application/http; msgtype=request")
            .of(&request_parts);
        let mut response = Record::new("response", &answered, at)
            .with("WARC-Target-URI", exchange.url.clone())
            .with("WARC-Concurrent-To", asked.clone())
            .with("WARC-Payload-Digest", digest.clone())
            .with("WARC-Block-Digest", record::digest(&response_parts))
            .with("Content-Type", "application/http; msgtype=response");
        if let Some(ip) = exchange.ip {
            response = response.with("WARC-IP-Address", ip.to_string());
        }
        if let Some(why) = exchange.truncated {
            response = response.with("WARC-Truncated", why);
        }
        let places = self.append(&[request, response.of(&response_parts)])?;
        let (offset, length) = places[1];
        let head = HttpHead::read(&exchange.response_head).unwrap_or_default();
        self.index(&Entry {
            url: exchange.url.clone(),
            mime: head.mime().to_owned(),
            status: head.status.to_string(),
            digest,
            filename: self.name.clone(),
            offset: offset.to_string(),
            length: length.to_string(),
            method: (exchange.method != "GET").then(|| exchange.method.clone()),
            body: (!exchange.request_body.is_empty()).then(|| record::digest(&[&exchange.request_body])),
            truncated: exchange.truncated.map(Into::into),
            certificate: None,
            date: digits(&record::date(at)),
        })
    }

    /// Once for each host and certificate.
    fn certificate(&mut self, shown: &Shown) -> Result<(), WarcError> {
        let at = format!("{}:{}", shown.host, shown.port);
        let digest = record::digest(&[&shown.der, shown.wrong.as_deref().unwrap_or_default().as_bytes()]);
        if self.certificates.get(&at) == Some(&digest) {
            return Ok(());
        }
        let now = SystemTime::now();
        let url = format!("https://{at}/");
        let wrong: String =
            shown.wrong.iter().flat_map(|w| w.chars()).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = format!(
            "verified: {}\r\nerror: {wrong}\r\ncertificate: {}\r\n",
            if shown.wrong.is_none() { "yes" } else { "no" },
            crate::net::proxy::base64(&shown.der)
        );
        let parts: [&[u8]; 1] = [text.as_bytes()];
        let record = Record::new("metadata", &new_id(), now)
            .with("WARC-Target-URI", url.clone())
            .with("WARC-Block-Digest", record::digest(&parts))
            .with("Content-Type", CERTIFICATE_TYPE)
            .of(&parts);
        let places = self.append(&[record])?;
        self.index(&Entry {
            url,
            mime: CERTIFICATE_TYPE.into(),
            status: "-".into(),
            filename: self.name.clone(),
            offset: places[0].0.to_string(),
            length: places[0].1.to_string(),
            certificate: Some(wrong),
            date: digits(&record::date(now)),
            ..Entry::default()
        })?;
        self.certificates.insert(at, digest);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WarcError> {
        self.file.sync_data().map_err(|e| self.failed(e))?;
        self.index.sync_data().map_err(|e| WarcError::new("write", self.dir.join(INDEX), e))
    }
}

/// The type of a record that holds a certificate.
pub(super) const CERTIFICATE_TYPE: &str = "application/warc-fields; profile=fvm-certificate";
