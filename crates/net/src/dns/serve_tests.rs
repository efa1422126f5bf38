use super::*;
use crate::dns::Name;
use std::thread::JoinHandle;

#[derive(Default)]
struct Learned(Mutex<Vec<(String, Vec<IpAddr>)>>);

impl Gate for Arc<Learned> {
    fn allows(&self, name: &Name) -> bool {
        name.is_within(&"test".parse().unwrap())
    }
    fn denies(&self, _: &Name) -> bool {
        false
    }
    fn learned(&self, name: &Name, addresses: &[IpAddr], _: Duration) {
        lock(&self.0).push((name.to_string(), addresses.to_vec()));
    }
}

struct Running {
    at: SocketAddr,
    gate: Arc<Learned>,
    stop: Option<std::os::unix::net::UnixStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
    dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

/// A forwarder on loopback, without a name server, with the hosts file given.
fn running(hosts: &str) -> Running {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hosts"), hosts).unwrap();
    let files = HostFiles::at(dir.path().join("hosts"), dir.path().join("resolv.conf"));
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let at = udp.local_addr().unwrap();
    let gate = Arc::new(Learned::default());
    let server = Server { udp: vec![udp], tcp: vec![tcp], files, clients: Arc::new(Clients::one(Arc::clone(&gate))) };
    let (stop, stopped) = std::os::unix::net::UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || server.run(&stopped.into()));
    Running { at, gate, stop: Some(stop), thread: Some(thread), dir }
}

fn query(name: &str) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    out.extend(name.parse::<Name>().unwrap().wire());
    out.extend([0, 1, 0, 1]);
    out
}

fn over_udp(at: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(query, at).unwrap();
    let mut buffer = vec![0; 4096];
    let n = socket.recv(&mut buffer).ok()?;
    buffer.truncate(n);
    Some(buffer)
}

#[test]
fn hosts_are_answered_over_udp_and_tcp_and_what_the_gate_refuses_does_not_exist() {
    let running = running("10.0.0.7 a.test\n10.0.0.8 a.org\n");
    let reply = over_udp(running.at, &query("a.test")).unwrap();
    assert_eq!(&reply[reply.len() - 4..], [10, 0, 0, 7]);
    assert_eq!(over_udp(running.at, &query("a.org")).unwrap()[3] & 0xF, 3);
    let mut stream = TcpStream::connect(running.at).unwrap();
    for _ in 0..2 {
        stream.write_all(&framed(&query("a.test"))).unwrap();
        let reply = read_framed(&mut stream, 4096, Instant::now() + Duration::from_secs(5)).unwrap();
        assert_eq!(&reply[reply.len() - 4..], [10, 0, 0, 7]);
    }
    assert!(lock(&running.gate.0).iter().all(|(name, _)| name == "a.test"));
}

#[test]
fn without_a_name_server_a_question_fails_at_once_and_one_that_comes_later_is_asked() {
    let running = running("");
    assert_eq!(over_udp(running.at, &query("b.test")).unwrap()[3] & 0xF, 2);
    // Port 53 of an address where nobody listens.
    std::fs::write(running.dir.path().join("resolv.conf"), "nameserver 127.3.2.1\n").unwrap();
    assert_eq!(over_udp(running.at, &query("b.test")).unwrap()[3] & 0xF, 2);
}

#[test]
fn a_vm_that_asks_too_much_is_not_answered_for_a_while() {
    let mut bucket = Bucket::full();
    let start = bucket.at;
    let taken = (0..1000).filter(|_| bucket.take(start)).count();
    assert_eq!(taken, BURST as usize);
    assert!(bucket.take(start + Duration::from_secs(1)));
}

#[test]
fn connections_without_a_word_do_not_keep_others_from_asking_over_udp() {
    let running = running("10.0.0.7 a.test\n");
    let held: Vec<_> = (0..TCP_MAX * 2).map(|_| TcpStream::connect(running.at).unwrap()).collect();
    assert!(over_udp(running.at, &query("a.test")).is_some());
    drop(held);
}

#[test]
fn each_of_many_is_answered_by_its_own_gate_and_nobody_else_is() {
    struct Only(&'static str);
    impl Gate for Only {
        fn allows(&self, name: &Name) -> bool {
            *name == self.0.parse().unwrap()
        }
        fn denies(&self, _: &Name) -> bool {
            false
        }
        fn learned(&self, _: &Name, _: &[IpAddr], _: Duration) {}
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hosts"), "10.0.0.7 a.test\n10.0.0.8 b.test\n").unwrap();
    let files = || HostFiles::at(dir.path().join("hosts"), dir.path().join("resolv.conf"));
    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], udp.local_addr().unwrap().port()));
    let clients = Arc::new(Clients::default());
    let [a, b, stranger]: [IpAddr; 3] = ["127.7.7.1", "127.7.7.2", "127.7.7.3"].map(|ip| ip.parse().unwrap());
    let first = clients.add(&[a], Only("a.test"), &mut files());
    clients.add(&[b], Only("b.test"), &mut files());
    let server = Server { udp: vec![udp], tcp: Vec::new(), files: files(), clients: Arc::clone(&clients) };
    let (stop, stopped) = std::os::unix::net::UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || server.run(&stopped.into()));
    let ask = |from: IpAddr, name: &str| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send_to(&query(name), at).unwrap();
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).ok().map(|_| buffer[3] & 0xF)
    };
    assert_eq!([ask(a, "a.test"), ask(a, "b.test"), ask(b, "a.test"), ask(b, "b.test")], [0, 3, 3, 0].map(Some));
    assert_eq!(ask(stranger, "a.test"), None);
    // Another has the address, when it is said that the first has gone.
    let second = clients.add(&[a], Only("b.test"), &mut files());
    clients.remove(&[a], &first);
    assert_eq!([ask(a, "a.test"), ask(a, "b.test")], [Some(3), Some(0)]);
    clients.remove(&[a], &second);
    assert_eq!([ask(a, "b.test"), ask(b, "b.test")], [None, Some(0)]);
    drop(stop);
    thread.join().unwrap().unwrap();
}
