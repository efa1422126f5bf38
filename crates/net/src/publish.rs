//! Published ports of an ordinary user's VM: connections to an address of the host, carried on to the VM.
//!
//! ```text
//!   host ──► listener (host's network) ── accept ─┐          one thread, in the VM's router namespace:
//!                                                 ├─ copy ─  what it connects from lies there,
//!   VM   ◄── connect (router's network) ──────────┘          what it accepted stays on the host
//! ```
//!
//! Invariants: at most [`CONNECTIONS_MAX`] at a time, each with two buffers of [`BUFFER_BYTES`]; bytes are looked at by
//! nobody. The listeners were bound by the caller, so an address that is taken is known before the VM starts.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Most connections at a time.
pub const CONNECTIONS_MAX: usize = 512;
/// Bytes on their way, for each direction of a connection.
pub const BUFFER_BYTES: usize = 64 << 10;
/// How long the VM has to take a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A listener on the host, and what it stands for in the VM.
#[derive(Debug)]
pub struct Port {
    /// Bound and listening.
    pub listener: TcpListener,
    /// Where the VM listens.
    pub to: SocketAddr,
}

/// Carries connections until `stop` is readable or hung up. The calling thread is in the router's network namespace.
///
/// # Errors
/// When waiting fails.
pub fn run(ports: &[Port], stop: &OwnedFd) -> io::Result<()> {
    for port in ports {
        port.listener.set_nonblocking(true)?;
    }
    let mut pairs: Vec<Pair> = Vec::new();
    loop {
        let full = pairs.len() >= CONNECTIONS_MAX;
        let mut polled = vec![PollFd::new(stop, PollFlags::IN)];
        let wanted = if full { PollFlags::empty() } else { PollFlags::IN };
        polled.extend(ports.iter().map(|p| PollFd::from_borrowed_fd(p.listener.as_fd(), wanted)));
        for pair in &pairs {
            let [host, vm] = pair.wants();
            polled.push(PollFd::from_borrowed_fd(pair.host.as_fd(), host));
            polled.push(PollFd::from_borrowed_fd(pair.vm.as_fd(), vm));
        }
        let tick =
            pairs.iter().any(|p| p.connecting.is_some()).then_some(rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut polled, tick.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let events: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        if !events[0].is_empty() {
            return Ok(());
        }
        let of_pairs = events[1 + ports.len()..].chunks_exact(2);
        pairs = pairs.into_iter().zip(of_pairs).filter_map(|(pair, e)| pair.step([e[0], e[1]])).collect();
        for (port, _) in ports.iter().zip(&events[1..]).filter(|(_, e)| !e.is_empty()) {
            if let Ok((host, _)) = port.listener.accept()
                && let Ok(pair) = Pair::begin(host, port.to)
            {
                pairs.push(pair);
            }
        }
    }
}

/// Bytes on their way from one to the other.
struct Way {
    buffer: Vec<u8>,
    start: usize,
    /// There is no more to come.
    ended: bool,
    /// And the other knows.
    told: bool,
}

impl Way {
    fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, ended: false, told: false }
    }

    fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// Moves what can be moved now. `false`: the connection is broken.
    fn carry(&mut self, from: &mut TcpStream, to: &mut TcpStream) -> bool {
        loop {
            if self.is_empty() && !self.ended {
                self.buffer.resize(BUFFER_BYTES, 0);
                self.start = 0;
                match from.read(&mut self.buffer) {
                    Ok(0) => {
                        self.ended = true;
                        self.buffer = Vec::new();
                    }
                    Ok(n) => self.buffer.truncate(n),
                    Err(e) => {
                        self.buffer = Vec::new();
                        return may_wait(&e);
                    }
                }
            }
            if self.is_empty() {
                if !self.told {
                    self.told = true;
                    // Already gone: the next read says so.
                    let _gone = to.shutdown(Shutdown::Write);
                }
                return true;
            }
            match to.write(&self.buffer[self.start..]) {
                Ok(n) => self.start += n,
                Err(e) => return may_wait(&e),
            }
        }
    }
}

fn may_wait(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

struct Pair {
    host: TcpStream,
    vm: TcpStream,
    /// Since when the VM has not taken it.
    connecting: Option<Instant>,
    into_vm: Way,
    out_of_vm: Way,
}

impl Pair {
    fn begin(host: TcpStream, to: SocketAddr) -> io::Result<Self> {
        host.set_nonblocking(true)?;
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        let vm = TcpStream::from(socket);
        // Small answers must not wait for more, whichever end sends them.
        let _slower = (host.set_nodelay(true), vm.set_nodelay(true));
        Ok(Self { host, vm, connecting: Some(Instant::now()), into_vm: Way::new(), out_of_vm: Way::new() })
    }

    fn wants(&self) -> [PollFlags; 2] {
        if self.connecting.is_some() {
            return [PollFlags::empty(), PollFlags::OUT];
        }
        let side = |reads: &Way, writes: &Way| {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, reads.is_empty() && !reads.ended);
            wanted.set(PollFlags::OUT, !writes.is_empty());
            wanted
        };
        [side(&self.into_vm, &self.out_of_vm), side(&self.out_of_vm, &self.into_vm)]
    }

    /// Goes on as far as it goes; nothing is left when the connection has ended.
    fn step(mut self, events: [PollFlags; 2]) -> Option<Self> {
        if let Some(since) = self.connecting {
            if events[0].intersects(PollFlags::ERR | PollFlags::HUP) {
                return None;
            }
            if events[1].is_empty() {
                return (since.elapsed() < CONNECT_MAX).then_some(self);
            }
            if !matches!(sockopt::socket_error(&self.vm), Ok(Ok(()))) {
                return None;
            }
            self.connecting = None;
        } else if events.iter().all(|e| e.is_empty()) {
            return Some(self);
        }
        let lives = self.into_vm.carry(&mut self.host, &mut self.vm)
            && self.out_of_vm.carry(&mut self.vm, &mut self.host)
            && !(self.into_vm.told && self.out_of_vm.told);
        // One end is broken: the other must not be waited for.
        let broken = events.iter().any(|e| e.contains(PollFlags::ERR));
        (lives && !broken).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A port that leads to a server which answers each connection with all that it got.
    fn echo() -> (SocketAddr, UnixStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in server.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).unwrap();
                    stream.write_all(&all).unwrap();
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        std::thread::spawn(move || run(&[Port { listener, to }], &stopped.into()));
        (at, stop)
    }

    #[test]
    fn what_is_sent_arrives_in_both_directions_and_each_end_learns_of_the_others_end() {
        let (at, _stop) = echo();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let bytes = bytes.clone();
                std::thread::spawn(move || {
                    let mut stream = TcpStream::connect(at).unwrap();
                    stream.write_all(&bytes).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).unwrap();
                    back == bytes
                })
            })
            .collect();
        assert!(clients.into_iter().all(|c| c.join().unwrap()));
    }

    #[test]
    fn a_connection_that_the_vm_does_not_take_is_closed() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (_stop, stopped) = UnixStream::pair().unwrap();
        std::thread::spawn(move || run(&[Port { listener, to: nobody }], &stopped.into()));
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0)) || stream.take_error().is_ok());
    }
}
