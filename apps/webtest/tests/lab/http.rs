//! As much of HTTP as a browser's proxy needs: a request in, an answer out, one for each connection.

use std::io::{Read, Write};

/// No request has a longer head.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// What a browser asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// Without a port.
    pub host: String,
    pub port: u16,
    /// Path and query; of CONNECT nothing.
    pub path: String,
}

/// What it gets.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn of(mime: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: vec![("Content-Type", mime.to_owned())], body: body.into() }
    }

    pub fn html(body: impl Into<Vec<u8>>) -> Self {
        Self::of("text/html; charset=utf-8", body)
    }

    pub fn js(body: impl Into<Vec<u8>>) -> Self {
        Self::of("text/javascript", body)
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::html(format!("<title>{status}</title>{status}")) }
    }

    pub fn to(status: u16, place: impl Into<String>) -> Self {
        Self { status, headers: vec![("Location", place.into())], body: Vec::new() }
    }

    pub fn file(name: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::of("application/octet-stream", body)
            .with("Content-Disposition", format!("attachment; filename=\"{name}\""))
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn send(self, client: &mut impl Write) -> std::io::Result<()> {
        let mut text =
            format!("HTTP/1.1 {} Lab\r\nConnection: close\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut all = text.into_bytes();
        all.extend(self.body);
        client.write_all(&all)?;
        client.flush()
    }
}

/// Reads a request; `None`: it is none.
pub fn read(client: &mut impl Read) -> Option<Asked> {
    let (mut head, mut byte) = (Vec::new(), [0u8]);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_MAX_BYTES || client.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let (method, place) = (words.next()?.to_owned(), words.next()?);
    let of_header = || head.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
    let (host, path) = match place.strip_prefix("http://") {
        Some(rest) => rest.split_at(rest.find('/')?),
        None if method == "CONNECT" => (place, ""),
        None => (of_header(), place),
    };
    let (host, port) = host.split_once(':').unwrap_or((host, "80"));
    Some(Asked { method, host: host.to_owned(), port: port.parse().ok()?, path: path.to_owned() })
}
