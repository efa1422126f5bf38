//! As much of HTTP as a browser's proxy needs: a request in, an answer out, one for each connection.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// What a browser asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub host: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
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

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::html(format!("<title>{status}</title>")) }
    }

    pub fn to(status: u16, place: impl Into<String>) -> Self {
        Self { status, headers: vec![("Location", place.into())], body: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn send(self, mut client: &TcpStream) -> std::io::Result<()> {
        let mut text = format!("HTTP/1.1 {} Lab\r\nConnection: close\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        client.write_all(text.as_bytes())?;
        client.write_all(&self.body)
    }
}

/// Reads a request; `None`: it is none that a proxy is asked.
pub fn read(client: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, url) = (words.next()?, words.next()?);
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
    if method == "CONNECT" {
        return Some(Asked { host: url.to_owned(), path: String::new(), headers });
    }
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_at(rest.find('/')?);
    Some(Asked { host: host.to_owned(), path: path.to_owned(), headers })
}
