//! Sockets and time around [`super::exchange`].
//!
//! ```text
//!   one thread: poll ─┬─ udp from the VM ──► a socket of its own for each question ──► name server
//!                     ├─ answers, timeouts
//!                     └─ tcp from the VM ──► a thread for each connection, TCP_MAX at most
//! ```
//!
//! One server answers one VM, or many, each by its address and its own gate ([`Clients`]).
//!
//! Invariants: each VM has at most [`PENDING_MAX`] questions and [`TCP_MAX`] connections at a time, [`BURST`] questions at once
//! and [`PER_SECOND`] on the long run, and when all VMs together have [`ALL_PENDING_MAX`] questions, [`FEW`]; more are dropped,
//! and the VM asks again. Each question has a source port and a number that nobody can guess. Who is nobody's client is not
//! answered.

use super::exchange::{self, Gate, Outcome, Question, Step};
use super::host::HostFiles;
use super::message::UDP_MAX_BYTES;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most questions that wait for a name server.
pub const PENDING_MAX: usize = 256;
/// Most of all VMs together, but for [`FEW`] of each.
pub const ALL_PENDING_MAX: usize = 4096;
/// Questions that a VM may always have.
pub const FEW: usize = 8;
/// Most connections.
pub const TCP_MAX: usize = 16;
/// Questions per second that a VM has on the long run.
pub const PER_SECOND: u32 = 200;
/// Questions that it has at once.
pub const BURST: u32 = 400;
/// How long one name server has.
const SERVER_WAIT: Duration = Duration::from_secs(2);
/// How long all have together.
const ALL_WAIT: Duration = Duration::from_secs(8);
/// How long a connection may say nothing.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// How often the hosts file is told to the gate, and for how long that holds.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);
const ANNOUNCE_HOLD: Duration = Duration::from_secs(180);
/// Largest message over TCP from a VM: a question is short.
const TCP_QUERY_MAX_BYTES: usize = 4096;

/// The sockets of a VM's name server, bound already.
#[derive(Debug)]
pub struct Server<G> {
    /// Over UDP.
    pub udp: Vec<UdpSocket>,
    /// Over TCP.
    pub tcp: Vec<TcpListener>,
    /// The host's names and name servers.
    pub files: HostFiles,
    /// Whom it answers.
    pub clients: Arc<Clients<G>>,
}

/// A VM that asks.
#[derive(Debug)]
pub struct Client<G> {
    /// What decides.
    gate: G,
    bucket: Mutex<Bucket>,
    pending: AtomicUsize,
    streams: AtomicUsize,
}

impl<G> Client<G> {
    fn new(gate: G) -> Self {
        Self { gate, bucket: Mutex::new(Bucket::full()), pending: 0.into(), streams: 0.into() }
    }
}

/// The VMs that a server answers.
#[derive(Debug)]
pub struct Clients<G> {
    /// Whatever its address.
    anybody: Option<Arc<Client<G>>>,
    by_address: Mutex<HashMap<IpAddr, Arc<Client<G>>>>,
}

impl<G> Default for Clients<G> {
    fn default() -> Self {
        Self { anybody: None, by_address: Mutex::default() }
    }
}

impl<G: Gate> Clients<G> {
    /// There is but one VM.
    #[must_use]
    pub fn one(gate: G) -> Self {
        Self { anybody: Some(Arc::new(Client::new(gate))), by_address: Mutex::default() }
    }

    /// The VM with these addresses, which nobody else can ask from, is answered from now on. `files`: of the host's names it
    /// learns before.
    pub fn add(&self, addresses: &[IpAddr], gate: G, files: &mut HostFiles) -> Arc<Client<G>> {
        exchange::announce(files.hosts(), &gate, ANNOUNCE_HOLD);
        let client = Arc::new(Client::new(gate));
        lock(&self.by_address).extend(addresses.iter().map(|address| (*address, Arc::clone(&client))));
        client
    }

    /// And is not any longer. Who has its addresses by now stays.
    pub fn remove(&self, addresses: &[IpAddr], client: &Arc<Client<G>>) {
        let mut all = lock(&self.by_address);
        for address in addresses {
            if all.get(address).is_some_and(|now| Arc::ptr_eq(now, client)) {
                all.remove(address);
            }
        }
    }

    fn find(&self, from: IpAddr) -> Option<Arc<Client<G>>> {
        self.anybody.clone().or_else(|| lock(&self.by_address).get(&from).cloned())
    }

    fn announce(&self, files: &mut HostFiles) {
        // Each has two addresses.
        let of_v4 = lock(&self.by_address)
            .iter()
            .filter(|(ip, _)| ip.is_ipv4())
            .map(|(_, c)| Arc::clone(c))
            .collect::<Vec<_>>();
        for client in of_v4.iter().chain(&self.anybody) {
            exchange::announce(files.hosts(), &client.gate, ANNOUNCE_HOLD);
        }
    }
}

/// Ends a [`Server`]: when this is readable or hung up.
pub type Stop = OwnedFd;

impl<G: Gate + Send + Sync + 'static> Server<G> {
    /// Serves until `stop` is readable or hung up.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn run(self, stop: &Stop) -> io::Result<()> {
        for socket in &self.udp {
            socket.set_nonblocking(true)?;
        }
        for listener in &self.tcp {
            listener.set_nonblocking(true)?;
        }
        let Self { udp, tcp, files, clients } = self;
        let shared = Arc::new(Shared { files: Mutex::new(files), clients });
        let mut pending: Vec<Pending<G>> = Vec::new();
        let mut announce = Instant::now();
        loop {
            let now = Instant::now();
            if now >= announce {
                shared.clients.announce(&mut lock(&shared.files));
                announce = now + ANNOUNCE_EVERY;
            }
            let until = pending.iter().map(|p| p.deadline).chain([announce]).min().unwrap_or(announce);
            let mut polled = vec![PollFd::new(stop, PollFlags::IN)];
            polled.extend(udp.iter().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)));
            polled.extend(tcp.iter().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)));
            polled.extend(pending.iter().map(|p| PollFd::from_borrowed_fd(p.socket.as_fd(), PollFlags::IN)));
            let wait = until.saturating_duration_since(now) + Duration::from_millis(1);
            let wait = rustix::time::Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            match poll(&mut polled, Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
            drop(polled);
            if ready[0] {
                return Ok(());
            }
            let (fresh, answered) = ready[1..].split_at(udp.len() + tcp.len());
            let mut ready = answered.iter();
            pending = pending.into_iter().filter_map(|p| p.step(ready.next() == Some(&true), &udp)).collect();
            for (n, socket) in udp.iter().enumerate().filter(|(n, _)| fresh[*n]) {
                receive(n, socket, &shared, &mut pending);
            }
            for (_, listener) in tcp.iter().enumerate().filter(|(n, _)| fresh[udp.len() + *n]) {
                accept(listener, &shared);
            }
        }
    }
}

struct Shared<G> {
    files: Mutex<HostFiles>,
    clients: Arc<Clients<G>>,
}

impl<G: Gate> Shared<G> {
    /// What a query leads to, and whom to ask; nothing when the VM asks too much.
    fn begin(&self, client: &Client<G>, query: &[u8], over_udp: bool) -> Option<(Step, Vec<SocketAddr>)> {
        if !lock(&client.bucket).take(Instant::now()) {
            return None;
        }
        let mut files = lock(&self.files);
        let step = exchange::begin(query, random_id()?, over_udp, files.hosts(), &client.gate);
        let servers = files.resolv().servers.clone();
        Some((step, servers))
    }
}

/// A lock that a thread held when it panicked still guards whole values here.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_id() -> Option<u16> {
    let mut bytes = [0u8; 2];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(2) => Some(u16::from_ne_bytes(bytes)),
        _ => None,
    }
}

/// Questions that a VM still has.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full() -> Self {
        Self { left: f64::from(BURST), at: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        let fresh = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(PER_SECOND);
        (self.left, self.at) = ((self.left + fresh).min(f64::from(BURST)), now);
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// A question over UDP that waits for a name server.
struct Pending<G> {
    question: Question,
    of: Arc<Client<G>>,
    client: SocketAddr,
    /// Which socket the VM asked.
    listener: usize,
    /// The name servers that have not been asked yet, the next one last.
    servers: Vec<SocketAddr>,
    socket: UdpSocket,
    deadline: Instant,
    end: Instant,
}

impl<G> Drop for Pending<G> {
    fn drop(&mut self) {
        self.of.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<G: Gate> Pending<G> {
    fn step(mut self, readable: bool, udp: &[UdpSocket]) -> Option<Self> {
        let mut next = Instant::now() >= self.deadline;
        if readable {
            let mut buffer = vec![0u8; usize::from(UDP_MAX_BYTES)];
            match self.socket.recv(&mut buffer) {
                Ok(n) => {
                    buffer.truncate(n);
                    match self.question.answered(buffer, true, &self.of.gate) {
                        Outcome::Answer(reply) => {
                            self.reply(&reply, udp);
                            return None;
                        }
                        Outcome::TryNext => next = true,
                        Outcome::NotIt => {}
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // Nobody listens there.
                Err(_) => next = true,
            }
        }
        if !next {
            return Some(self);
        }
        let asked = (Instant::now() < self.end).then(|| ask(&self.question, &mut self.servers)).flatten();
        let Some(socket) = asked else {
            self.reply(&self.question.failed(), udp);
            return None;
        };
        self.socket = socket;
        self.deadline = (Instant::now() + SERVER_WAIT).min(self.end);
        Some(self)
    }

    fn reply(&self, bytes: &[u8], udp: &[UdpSocket]) {
        if let Some(socket) = udp.get(self.listener) {
            // It asks again when this was lost.
            let _lost = socket.send_to(bytes, self.client);
        }
    }
}

/// Sends a question to the next name server that can be reached at all.
fn ask(question: &Question, servers: &mut Vec<SocketAddr>) -> Option<UdpSocket> {
    while let Some(server) = servers.pop() {
        let from: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let asked = UdpSocket::bind((from, 0)).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(server)?;
            socket.send(&question.bytes())?;
            Ok(socket)
        });
        if let Ok(socket) = asked {
            return Some(socket);
        }
    }
    None
}

fn receive<G: Gate>(listener: usize, socket: &UdpSocket, shared: &Shared<G>, pending: &mut Vec<Pending<G>>) {
    let mut buffer = [0u8; UDP_MAX_BYTES as usize];
    // A few at a time, so that answers are not kept waiting.
    for _ in 0..32 {
        let Ok((n, client)) = socket.recv_from(&mut buffer) else { return };
        let Some(of) = shared.clients.find(client.ip()) else { continue };
        let Some((step, servers)) = shared.begin(&of, &buffer[..n], true) else { continue };
        let has = of.pending.load(Ordering::Acquire);
        match step {
            Step::Drop => {}
            Step::Answer(reply) => {
                let _lost = socket.send_to(&reply, client);
            }
            Step::Ask(_) if has >= PENDING_MAX || (has >= FEW && pending.len() >= ALL_PENDING_MAX) => {}
            Step::Ask(question) => {
                // Twice: over UDP a question may be lost.
                let mut order: Vec<_> = servers.iter().chain(&servers).copied().collect();
                order.reverse();
                match ask(&question, &mut order) {
                    None => {
                        let _lost = socket.send_to(&question.failed(), client);
                    }
                    Some(upstream) => {
                        let now = Instant::now();
                        of.pending.fetch_add(1, Ordering::AcqRel);
                        pending.push(Pending {
                            question,
                            of,
                            client,
                            listener,
                            servers: order,
                            socket: upstream,
                            deadline: now + SERVER_WAIT,
                            end: now + ALL_WAIT,
                        });
                    }
                }
            }
        }
    }
}

fn accept<G: Gate + Send + Sync + 'static>(listener: &TcpListener, shared: &Arc<Shared<G>>) {
    let Ok((stream, from)) = listener.accept() else { return };
    let Some(client) = shared.clients.find(from.ip()) else { return };
    if client.streams.fetch_add(1, Ordering::AcqRel) >= TCP_MAX {
        client.streams.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let (of_thread, counted) = (Arc::clone(shared), Arc::clone(&client));
    let spawned = std::thread::Builder::new().name("dns".into()).stack_size(128 << 10).spawn(move || {
        // The VM hung up, or was dropped.
        let _end = converse(stream, &of_thread, &counted);
        counted.streams.fetch_sub(1, Ordering::AcqRel);
    });
    if spawned.is_err() {
        client.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One connection of the VM: questions, one after the other.
fn converse<G: Gate>(mut stream: TcpStream, shared: &Shared<G>, client: &Client<G>) -> io::Result<()> {
    let end = Instant::now() + CONNECTION_MAX;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    while Instant::now() < end {
        let query = read_framed(&mut stream, TCP_QUERY_MAX_BYTES, end.min(Instant::now() + IDLE_MAX))?;
        let Some((step, servers)) = shared.begin(client, &query, false) else { break };
        let reply = match step {
            Step::Drop => break,
            Step::Answer(reply) => reply,
            Step::Ask(question) => ask_over_tcp(&question, &servers, client),
        };
        stream.write_all(&framed(&reply))?;
    }
    Ok(())
}

fn ask_over_tcp<G: Gate>(question: &Question, servers: &[SocketAddr], client: &Client<G>) -> Vec<u8> {
    let end = Instant::now() + ALL_WAIT;
    for server in servers {
        let asked = || -> io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(server, SERVER_WAIT)?;
            stream.set_write_timeout(Some(SERVER_WAIT))?;
            stream.write_all(&framed(&question.bytes()))?;
            read_framed(&mut stream, usize::from(u16::MAX), end.min(Instant::now() + SERVER_WAIT))
        };
        if Instant::now() < end
            && let Ok(bytes) = asked()
            && let Outcome::Answer(reply) = question.answered(bytes, false, &client.gate)
        {
            return reply;
        }
    }
    question.failed()
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(0);
    let mut out = length.to_be_bytes().to_vec();
    out.extend(&message[..usize::from(length)]);
    out
}

/// One message with its length before it. However slowly it comes, not after `end`.
fn read_framed(stream: &mut TcpStream, max_bytes: usize, end: Instant) -> io::Result<Vec<u8>> {
    let mut exact = |buffer: &mut [u8]| -> io::Result<()> {
        let mut have = 0;
        while have < buffer.len() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut buffer[have..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => have += n,
            }
        }
        Ok(())
    };
    let mut length = [0u8; 2];
    exact(&mut length)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > max_bytes {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0u8; length];
    exact(&mut message)?;
    Ok(message)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
