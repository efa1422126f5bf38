//! Other proxies through which the gate goes out: HTTP (CONNECT) and SOCKS 5 (RFC 1928, 1929).
//!
//! Invariants: a name is looked up by the exit, not here, so that nothing of a visit is seen on our own line; what an exit answers is
//! bounded; name and password of an exit are never told.

use std::fmt;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// An HTTP exit's answer may be so long.
const ANSWER_MAX_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

/// A proxy through which to go out.
#[derive(Clone, PartialEq, Eq)]
pub struct Exit {
    kind: Kind,
    /// Its host and port: it is the operator's, and may be anywhere.
    pub host: String,
    /// The same.
    pub port: u16,
    login: Option<(String, String)>,
}

/// A text that names no exit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no proxy: write http://host:port or socks5://host:port")]
pub struct NoExit(pub String);

impl std::str::FromStr for Exit {
    type Err = NoExit;

    fn from_str(text: &str) -> Result<Self, NoExit> {
        let shown =
            || NoExit(text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, behind)| format!("...@{behind}")));
        let url = Url::parse(text).map_err(|_| shown())?;
        let kind = match url.scheme() {
            "http" => Kind::Http,
            "socks5" | "socks5h" => Kind::Socks5,
            _ => return Err(shown()),
        };
        let plain = |text: &str| percent_decoded(text).filter(|text| text.len() < 256);
        let login = if url.username().is_empty() {
            None
        } else {
            let name = plain(url.username()).ok_or_else(shown)?;
            Some((name, plain(url.password().unwrap_or_default()).ok_or_else(shown)?))
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(shown)?.to_owned();
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let port = url.port_or_known_default().unwrap_or(1080);
        if is_bare { Ok(Self { kind, host, port, login }) } else { Err(shown()) }
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let two = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&two).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.kind == Kind::Http { "http" } else { "socks5" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Exit {
    /// Asks the exit at the other end of `stream` for a connection to `host`.
    ///
    /// # Errors
    /// What it says, in words.
    pub async fn ask(&self, stream: &mut TcpStream, host: &str, port: u16) -> Result<(), String> {
        let asked = match self.kind {
            Kind::Http => self.ask_http(stream, host, port).await,
            Kind::Socks5 => self.ask_socks(stream, host, port).await,
        };
        asked.map_err(|e| format!("exit {self}: {e}"))
    }

    async fn ask_http(&self, stream: &mut TcpStream, host: &str, port: u16) -> Result<(), String> {
        let login = match &self.login {
            Some((name, password)) => {
                format!("Proxy-Authorization: Basic {}\r\n", super::base64(format!("{name}:{password}").as_bytes()))
            }
            None => String::new(),
        };
        let asked = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{login}\r\n");
        stream.write_all(asked.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the answer is the server's.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_MAX_BYTES {
                return Err("its answer has no end".into());
            }
            answer.push(stream.read_u8().await.map_err(|e| e.to_string())?);
        }
        let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
        let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
        if status.is_some_and(|status| status.starts_with(b"2")) {
            return Ok(());
        }
        Err(format!("it answered '{}'", line[..line.len().min(100)].escape_ascii()))
    }

    async fn ask_socks(&self, stream: &mut TcpStream, host: &str, port: u16) -> Result<(), String> {
        const NONE: u8 = 0;
        const PASSWORD: u8 = 2;
        let text = |e: std::io::Error| e.to_string();
        let method = if self.login.is_some() { PASSWORD } else { NONE };
        stream.write_all(&[5, 1, method]).await.map_err(text)?;
        let mut chosen = [0u8; 2];
        stream.read_exact(&mut chosen).await.map_err(text)?;
        if chosen != [5, method] {
            return Err("it wants another way to log in".into());
        }
        if let Some((name, password)) = &self.login {
            let mut message = vec![1];
            for part in [name, password] {
                message.push(u8::try_from(part.len()).map_err(|_| "its name or password is too long")?);
                message.extend(part.as_bytes());
            }
            stream.write_all(&message).await.map_err(text)?;
            stream.read_exact(&mut chosen).await.map_err(text)?;
            if chosen[1] != 0 {
                return Err("it refuses the name and password".into());
            }
        }
        let mut message = vec![5, 1, 0];
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(IpAddr::V4(v4)) => {
                message.push(1);
                message.extend(v4.octets());
            }
            Ok(IpAddr::V6(v6)) => {
                message.push(4);
                message.extend(v6.octets());
            }
            Err(_) => {
                message.push(3);
                message.push(u8::try_from(host.len()).map_err(|_| "the host's name is too long")?);
                message.extend(host.as_bytes());
            }
        }
        message.extend(port.to_be_bytes());
        stream.write_all(&message).await.map_err(text)?;
        let mut answer = [0u8; 4];
        stream.read_exact(&mut answer).await.map_err(text)?;
        let rest = match answer[3] {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await.map_err(text)?),
            _ => return Err("its answer is malformed".into()),
        };
        let mut bound = vec![0u8; rest + 2];
        stream.read_exact(&mut bound).await.map_err(text)?;
        match answer[1] {
            0 => Ok(()),
            2 => Err("it does not allow that".into()),
            3 | 4 => Err("it cannot reach the host".into()),
            5 => Err("the host refuses the connection".into()),
            n => Err(format!("it failed with number {n}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_read_and_never_tell_their_password() {
        let shown = |text: &str| text.parse::<Exit>().map(|exit| format!("{exit} {exit:?}"));
        assert_eq!(
            shown("http://ann:s%3Acret@proxy.test:8080").unwrap(),
            "http://proxy.test:8080 http://proxy.test:8080"
        );
        assert_eq!(shown("socks5://[::1]").unwrap(), "socks5://[::1]:1080 socks5://[::1]:1080");
        assert_eq!("http://a:b%40c@h:1".parse::<Exit>().unwrap().login, Some(("a".into(), "b@c".into())));
        for bad in
            ["", "proxy:1", "ftp://h:1", "http://h:1/path", "http://h:99999", "http://a:%zz@h:1", "http://a:secret@h:x"]
        {
            let error = bad.parse::<Exit>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
