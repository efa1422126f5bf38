//! How what a browser sends through a tunnel begins: as a page can make a browser begin, or otherwise.
//!
//! ```text
//!   TLS          16 03 0x .. .. 01          https, wss
//!   WebSocket    "GET "                     ws
//!   STUN         [length] 0x .. .. .. 21 12 A4 42   WebRTC by way of TCP, the only way that it has here
//! ```
//!
//! A page chooses where a tunnel leads, never its first bytes: others were sent by something that is not the browser, or took it over.
//!
//! Invariants: only the first [`BEGAN_MAX_BYTES`] are looked at and kept; they are passed on whatever they are.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Client;

/// So many of the first bytes are kept.
const BEGAN_MAX_BYTES: usize = 64;

/// What first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// As a page can make a browser begin.
    Usual,
    /// Up to now; more are needed.
    Open,
    /// Otherwise.
    Odd,
}

/// What `bytes` begin as.
#[must_use]
pub fn begins(bytes: &[u8]) -> Begins {
    /// A byte that must be there: from, to.
    type Form<'a> = &'a [(u8, u8)];
    const ANY: (u8, u8) = (0, 0xFF);
    const fn is(byte: u8) -> (u8, u8) {
        (byte, byte)
    }
    // RFC 8446, 5.1; RFC 6455, 4.1; RFC 8489, 5, and the same behind its length (RFC 4571).
    const COOKIE: [(u8, u8); 4] = [is(0x21), is(0x12), is(0xA4), is(0x42)];
    const FORMS: [Form<'_>; 5] = [
        &[is(0x16), is(3), (0, 4), ANY, ANY, is(1)],
        // What WebRTC says to look like TLS (libwebrtc, `AsyncSSLSocket`: a hello of SSL 2 for TLS 1.0).
        &[is(0x80), is(0x46), is(1), is(3), is(1)],
        &[is(b'G'), is(b'E'), is(b'T'), is(b' ')],
        &[(0, 0x3F), ANY, ANY, ANY, COOKIE[0], COOKIE[1], COOKIE[2], COOKIE[3]],
        &[ANY, ANY, (0, 0x3F), ANY, ANY, ANY, COOKIE[0], COOKIE[1], COOKIE[2], COOKIE[3]],
    ];
    let mut open = false;
    for form in FORMS {
        let fits = form.iter().zip(bytes).all(|((from, to), byte)| (from..=to).contains(&byte));
        if fits && bytes.len() >= form.len() {
            return Begins::Usual;
        }
        open |= fits;
    }
    if open { Begins::Open } else { Begins::Odd }
}

/// A browser's side of a tunnel, whose first bytes are looked at while they are read.
pub(super) struct Watched<S> {
    inner: S,
    client: Arc<Client>,
    place: String,
    /// Nothing once it is known how it begins.
    first: Option<Vec<u8>>,
}

impl<S> Watched<S> {
    /// Of a tunnel to `host` and `port`.
    pub fn new(inner: S, client: &Arc<Client>, host: &str, port: u16) -> Self {
        Self { inner, client: Arc::clone(client), place: super::place(host, port), first: Some(Vec::new()) }
    }

    fn see(&mut self, bytes: &[u8]) {
        let Some(first) = &mut self.first else { return };
        first.extend(&bytes[..bytes.len().min(BEGAN_MAX_BYTES - first.len())]);
        match begins(first) {
            Begins::Open if first.len() < BEGAN_MAX_BYTES => {}
            Begins::Usual => self.first = None,
            Begins::Open | Begins::Odd => self.tell(),
        }
    }

    /// Tells what there is.
    fn tell(&mut self) {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            self.client.note_odd("tunnel", &self.place, &first.escape_ascii().to_string());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if buffer.filled().len() == before && room > 0 {
            // Its end. A browser sends what it begins with at once: what is cut was begun by another. Where the tunnel was dropped before,
            // because the other side is not to be had, nothing can be said.
            self.tell();
        } else if self.first.is_some() {
            self.see(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_can_make_a_browser_send_is_usual_and_all_else_is_odd() {
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let stun = b"\x00\x03\x00\x08\x21\x12\xa4\x42";
        for usual in [&hello[..], b"GET /chat HTTP/1.1\r\n", stun, b"\x00\x1c\x00\x01\x00\x08\x21\x12\xa4\x42"] {
            assert_eq!(begins(usual), Begins::Usual, "{}", usual.escape_ascii());
            // In pieces, it is usual at some length and odd at none.
            assert!((0..usual.len()).all(|length| begins(&usual[..length]) != Begins::Odd));
        }
        for odd in [
            &b"SSH-2.0-x\r\n"[..],
            b"EHLO evil.test\r\n",
            b"POST / HTTP/1.1\r\n",
            b"{\"id\":1,\"method\":\"mining.subscribe\"}",
            b"\x16\x03\x01\x02\x00\x02\x00\x00\x00\x00\x00",
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        ] {
            assert_eq!(begins(odd), Begins::Odd, "{}", odd.escape_ascii());
        }
        assert_eq!((begins(b""), begins(b"G")), (Begins::Open, Begins::Open));
    }
}
