//! Addresses of the internet that are near this machine: neighbours in its own networks are out of reach of pages, and others are not.
//! Each test is in network namespaces of its own, with addresses that look like the internet's.
#![expect(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod support;

use fvm_webtest::net::proxy::dial::Reach;
use fvm_webtest::net::proxy::local::Local;
use fvm_webtest::net::proxy::names::Names;
use fvm_webtest::net::proxy::{Live, Way};
use rustix::thread::{UnshareFlags, gettid};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use support::{ask, connect, read_request, respond, short};

/// `ip` in this thread's network namespace.
fn ip(words: &str) {
    let ran = Command::new("/usr/sbin/ip").args(words.split_whitespace()).output().unwrap();
    assert!(ran.status.success(), "ip {words}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// In a network namespace of this thread's alone.
fn apart() {
    #[expect(deprecated, reason = "the other name is unsafe, for what else it can take apart")]
    rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
    ip("link set lo up");
}

/// Waits until a connection to it from this thread's namespace comes about: a link that is new loses what is asked first, and asks
/// again a second later, twice when the machine is busy, which is all that [`short`] waits.
fn until_reached(to: &str) {
    let (to, since) = (to.parse().unwrap(), Instant::now());
    while let Err(e) = TcpStream::connect_timeout(&to, Duration::from_millis(200)) {
        assert!(since.elapsed() < Duration::from_secs(60), "{to}: {e}");
        // Refused or without a route, it returns at once.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A neighbour, and behind it the internet: a server on every address that comes to it.
fn there(ready: &Sender<i32>, plugged: &Receiver<()>, served: &Sender<u16>) {
    apart();
    ready.send(gettid().as_raw_nonzero().get()).unwrap();
    plugged.recv().unwrap();
    for words in [
        "addr add 8.77.0.9/24 dev there",
        "addr add 8.78.0.9/32 dev there",
        "addr add 9.9.9.9/32 dev lo",
        "addr add 2a00:77::9/64 dev there nodad",
        "addr add 2a00:99::9/128 dev lo nodad",
        "link set there up",
    ] {
        ip(words);
    }
    let listener = TcpListener::bind("[::]:0").unwrap();
    served.send(listener.local_addr().unwrap().port()).unwrap();
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            while read_request(&mut reader).is_some() {
                respond(&mut stream, "200 OK", &[], b"reached");
                let _gone = stream.flush();
            }
        });
    }
}

fn live(allow: &[&str]) -> Local {
    let allow = allow.iter().map(|network| network.parse().unwrap()).collect();
    let reach = Reach { names: Names::default(), allow };
    Local::serve(Way::Live(Live::new(reach, Vec::new())), "127.0.0.1:0".parse::<SocketAddr>().unwrap(), short())
        .unwrap()
}

#[test]
fn root_neighbours_with_addresses_of_the_internet_are_out_of_reach() {
    if !fvm_kit::is_root("root_neighbours_with_addresses_of_the_internet_are_out_of_reach") {
        return;
    }
    let ((ready, is_ready), (plug, plugged), (served, is_served)) = (channel(), channel(), channel());
    std::thread::spawn(move || there(&ready, &plugged, &served));
    let neighbour = is_ready.recv().unwrap();
    // This thread is a test's: nothing else of the process is in its namespace, but what it starts.
    apart();
    ip(&format!("link add here type veth peer name there netns {neighbour}"));
    for words in [
        "addr add 8.77.0.1/24 dev here",
        "addr add 2a00:77::1/128 dev here nodad",
        "link set here up",
        "route add 8.78.0.0/24 dev here",
        "route add default via 8.77.0.9",
        "-6 route add 2a00:77::/64 dev here",
        "-6 route add default via 2a00:77::9",
    ] {
        ip(words);
    }
    plug.send(()).unwrap();
    let port = is_served.recv().unwrap();
    for host in ["9.9.9.9", "[2a00:99::9]", "8.77.0.9", "8.78.0.9", "[2a00:77::9]"] {
        until_reached(&format!("{host}:{port}"));
    }
    let (shut, open) = (live(&[]), live(&["8.77.0.0/24", "8.78.0.9", "2a00:77::/64"]));
    let get = |proxy: &Local, host: &str| ask(proxy.at, "GET", &format!("http://{host}:{port}/"), &[], b"").unwrap();
    // By a gateway: the internet.
    for host in ["9.9.9.9", "[2a00:99::9]"] {
        assert_eq!(get(&shut, host).body, b"reached", "{host}");
        assert!(connect(shut.at, &format!("{host}:{port}")).is_ok(), "{host}");
    }
    // In the own network; by a route that needs nobody in between; in a link's IPv6 network; wrapped; this machine.
    for host in
        ["8.77.0.9", "8.78.0.9", "[2a00:77::9]", "[64:ff9b::84d:9]", "[2002:84d:9::1]", "8.77.0.1", "[2a00:77::1]"]
    {
        let (got, tunnel) = (get(&shut, host), connect(shut.at, &format!("{host}:{port}")).unwrap_err());
        assert_eq!(
            (got.said(), tunnel.said()),
            (Some("forbidden-address"), Some("forbidden-address")),
            "{host}: {got:?}"
        );
    }
    // Who is named is reached.
    for host in ["8.77.0.9", "8.78.0.9", "[2a00:77::9]"] {
        assert_eq!(get(&open, host).body, b"reached", "{host}");
    }
}

#[test]
fn root_a_line_to_all_of_the_internet_makes_no_neighbours_of_it() {
    use fvm_net::near::Near;
    if !fvm_kit::is_root("root_a_line_to_all_of_the_internet_makes_no_neighbours_of_it") {
        return;
    }
    apart();
    ip("link add line type veth peer name far");
    ip("link set far up");
    ip("addr add 10.8.0.2/32 dev line");
    ip("link set line up");
    let has = |address: &str| Near::look().unwrap().has(address.parse().unwrap()).unwrap();
    // No way at all: whoever connects finds that out.
    assert!(!has("9.9.9.9") && !has("2a00::1"));
    ip("route add default dev line");
    ip("-6 route add default dev line");
    assert!(!has("9.9.9.9") && !has("2a00::1"));
    ip("route add 8.0.0.0/7 dev line");
    ip("-6 route add 2a00::/12 dev line");
    assert!(has("9.9.9.9") && has("2a00::1"));
    ip("route add unreachable 9.9.9.0/24");
    assert!(!has("9.9.9.9"));
    ip("route add local 9.9.9.9/32 dev lo");
    assert!(has("9.9.9.9"));
}
