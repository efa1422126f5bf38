//! What the tests of the network share: a server whose sites are made up as they are asked for, servers that fight, and a client that
//! knows no more than it must.
#![allow(dead_code, missing_docs, reason = "each test binary uses some of it")]

use fvm_net::dns::HostFiles;
use fvm_webtest::net::proxy::dial::Reach;
use fvm_webtest::net::proxy::names::Names;
use fvm_webtest::net::proxy::record::Record;
use fvm_webtest::net::proxy::tls::{Authority, ROOTS, Servers};
use fvm_webtest::net::proxy::{Limits, Live};
use fvm_webtest::net::warc::write::Recorder;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A request, as a server sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn host(&self) -> &str {
        self.headers.get("host").map_or("", |host| host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host))
    }
}

/// Reads one; nothing at the end.
pub fn read_request(stream: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = read_headers(stream)?;
    let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { method, path, headers, body })
}

fn read_headers(stream: &mut impl BufRead) -> Option<HashMap<String, String>> {
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Some(headers),
        }
    }
}

/// A server that answers by a function, each connection in a thread. It ends with the test's process.
pub struct Server {
    pub at: SocketAddr,
    pub asked: Arc<AtomicU64>,
}

pub fn respond(stream: &mut impl Write, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _gone = stream.write_all(&[head.as_bytes(), b"\r\n", body].concat());
}

impl Server {
    pub fn new(answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (asked, answer) = (Arc::new(AtomicU64::new(0)), Arc::new(answer));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, answer) = (Arc::clone(&count), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut stream = stream;
                    while let Some(asked) = read_request(&mut reader) {
                        count.fetch_add(1, Ordering::Relaxed);
                        answer(&asked, &mut stream);
                    }
                });
            }
        });
        Self { at, asked }
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Whom names mean: all of these this machine.
pub fn names(dir: &Path, hosts: &[String]) -> Names {
    let file = dir.join("hosts");
    let text: String = hosts.iter().map(|host| format!("127.0.0.1 {host}\n")).collect();
    std::fs::write(&file, text).unwrap();
    Names::of(HostFiles::at(file, dir.join("no-resolv.conf")))
}

pub fn reach(names: Names) -> Reach {
    Reach { names, allow: vec!["127.0.0.0/8".parse().unwrap()] }
}

/// A recording into `dir`.
pub fn record(dir: &Path, reach: Reach, roots: Option<&Path>) -> Record {
    Record {
        live: Live::new(reach, Vec::new()),
        recorder: Arc::new(Recorder::open(dir).unwrap()),
        authority: Authority::new().unwrap(),
        servers: Servers::trusting(roots.unwrap_or(Path::new(ROOTS))).unwrap(),
    }
}

/// Limits that a test can wait for.
pub fn short() -> Limits {
    Limits {
        connect_max: Duration::from_secs(2),
        head_max: Duration::from_secs(2),
        exchange_max: Duration::from_secs(3),
        tunnel_max: Duration::from_secs(20),
        body_max_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Got {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// The body ended as it said it would.
    pub whole: bool,
}

impl Got {
    pub fn said(&self) -> Option<&str> {
        self.headers.get("fvm-gate").map(String::as_str)
    }
}

/// Reads an answer; nothing if none came. `is_bare`: it has no body.
pub fn read_answer(stream: &mut impl BufRead, is_bare: bool) -> Option<Got> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let status = line.split_whitespace().nth(1)?.parse().ok()?;
    let headers = read_headers(stream)?;
    let (mut body, mut whole) = (Vec::new(), true);
    if is_bare {
    } else if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
        loop {
            let mut size = String::new();
            let read = stream.read_line(&mut size).unwrap_or(0);
            let Some(size) = (read > 0).then(|| usize::from_str_radix(size.trim(), 16).unwrap()) else {
                whole = false;
                break;
            };
            let mut chunk = vec![0; size + 2];
            if stream.read_exact(&mut chunk).is_err() {
                whole = false;
                break;
            }
            if size == 0 {
                break;
            }
            body.extend(&chunk[..size]);
        }
    } else if let Some(length) = headers.get("content-length") {
        let length = length.parse::<u64>().unwrap();
        let _cut = stream.take(length).read_to_end(&mut body);
        whole = body.len() as u64 == length;
    } else {
        let _cut = stream.read_to_end(&mut body);
    }
    Some(Got { status, headers, body, whole })
}

/// Asks a proxy for an `http://` address, on a connection of its own.
pub fn ask(proxy: SocketAddr, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Got> {
    let mut stream = TcpStream::connect(proxy).unwrap();
    // Nothing here takes so long unless it hangs.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head = format!("{method} {url} HTTP/1.1\r\nHost: wrong.test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    let _gone = stream.write_all(&[head.as_bytes(), b"\r\n", body].concat());
    read_answer(&mut BufReader::new(stream), method == "HEAD")
}

/// Opens a tunnel; what the proxy says if it does not.
pub fn connect(proxy: SocketAddr, to: &str) -> Result<TcpStream, Got> {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).unwrap();
    let mut head = Vec::new();
    // Byte by byte: what follows is the server's.
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 200") {
        return Ok(stream);
    }
    let is_bare = false;
    let mut rest = BufReader::new(std::io::Cursor::new(head).chain(stream));
    Err(read_answer(&mut rest, is_bare).unwrap())
}
