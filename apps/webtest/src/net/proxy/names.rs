//! Names to addresses, as this machine's `/etc/hosts` and name servers have them. Not the C library's resolver, which a static program
//! cannot carry.
//!
//! Invariants: bounded in time and number; an answer counts only if it answers our question, from whom we asked.

use fvm_net::dns::HostFiles;
use fvm_net::dns::Name;
use fvm_net::dns::message::{A, AAAA, Answer, Query, UDP_MAX_BYTES, read_answer};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// A name server may take so long.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Names that are remembered.
const KNOWN_MAX: usize = 10_000;
/// For how long, at least and at most.
const HOLD_S: (u32, u32) = (5, 300);

type Known = HashMap<String, (Instant, Vec<IpAddr>)>;

/// Looks names up.
#[derive(Debug, Default)]
pub struct Names {
    files: Mutex<HostFiles>,
    known: Mutex<Known>,
}

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// There is no such name, or it has none.
    NoSuchName,
    /// Nobody could say.
    NoAnswer,
}

impl Names {
    /// With other files than `/etc/hosts` and `/etc/resolv.conf`.
    #[must_use]
    pub fn of(files: HostFiles) -> Self {
        Self { files: Mutex::new(files), known: Mutex::default() }
    }

    /// The addresses of `host`, a name or an address, IPv4 first.
    ///
    /// # Errors
    /// When it has none.
    pub async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, NoAddress> {
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![ip]);
        }
        let name: Name = host.trim_end_matches('.').parse().map_err(|_| NoAddress::NoSuchName)?;
        let servers = {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = files.hosts().get(&name) {
                return Ok(known.to_vec());
            }
            files.resolv().servers.clone()
        };
        let key = name.to_string();
        if let Some(addresses) = self.remembered(&key) {
            return Ok(addresses);
        }
        let (v4, v6) = (Query::of(name.clone(), A), Query::of(name, AAAA));
        let mut last = NoAddress::NoAnswer;
        for server in servers {
            let v6_too = async { ask(server, &v6).await.unwrap_or_default() };
            let (first, second) = both(ask(server, &v4), v6_too).await;
            let Some(first) = first else { continue };
            let hold_s = first.ttl_s.min(second.ttl_s).clamp(HOLD_S.0, HOLD_S.1);
            let mut addresses = first.addresses;
            addresses.extend(second.addresses);
            if addresses.is_empty() {
                last = NoAddress::NoSuchName;
                break;
            }
            self.remember(key, &addresses, Duration::from_secs(hold_s.into()));
            return Ok(addresses);
        }
        Err(last)
    }

    fn remembered(&self, key: &str) -> Option<Vec<IpAddr>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, addresses)| addresses.clone())
    }

    fn remember(&self, key: String, addresses: &[IpAddr], hold: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, (Instant::now() + hold, addresses.to_vec()));
    }
}

/// Both at once.
pub(super) async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut got_a, mut got_b) = (None, None);
    std::future::poll_fn(move |context| {
        use std::task::Poll;
        if got_a.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(context)
        {
            got_a = Some(value);
        }
        if got_b.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(context)
        {
            got_b = Some(value);
        }
        match (got_a.take(), got_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (got_a, got_b) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

/// Asks one name server; nothing if it does not know or say.
async fn ask(server: SocketAddr, query: &Query) -> Option<Answer> {
    let answer = timeout(ANSWER_MAX, by_udp(server, query)).await.ok()??;
    if answer.failed {
        return None;
    }
    if answer.truncated {
        return timeout(ANSWER_MAX, by_tcp(server, query)).await.ok()?.filter(|answer| !answer.failed);
    }
    Some(answer)
}

fn number() -> Option<u16> {
    let mut bytes = [0u8; 2];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).ok()?;
    (filled == 2).then(|| u16::from_ne_bytes(bytes))
}

async fn by_udp(server: SocketAddr, query: &Query) -> Option<Answer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    let id = number()?;
    socket.send(&query.forwarded(id)).await.ok()?;
    let mut message = vec![0u8; usize::from(UDP_MAX_BYTES)];
    loop {
        let length = socket.recv(&mut message).await.ok()?;
        if let Ok(answer) = read_answer(&message[..length], id, query) {
            return Some(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, query: &Query) -> Option<Answer> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let id = number()?;
    let asked = query.forwarded(id);
    let mut framed = u16::try_from(asked.len()).ok()?.to_be_bytes().to_vec();
    framed.extend(asked);
    stream.write_all(&framed).await.ok()?;
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0u8; length.into()];
    stream.read_exact(&mut message).await.ok()?;
    read_answer(&message, id, query).ok()
}
