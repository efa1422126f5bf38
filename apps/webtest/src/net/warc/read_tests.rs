//! Sets as they are, cut, and as nobody should write them.

use super::*;
use crate::net::warc::record::Record;
use crate::net::warc::write::{Exchange, Recorder, Shown};
use std::time::{Duration, UNIX_EPOCH};

fn exchange(url: &str, body: &[u8]) -> Exchange {
    Exchange {
        url: url.into(),
        method: "GET".into(),
        request_head: b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
        response_head:
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n"
                .to_vec(),
        response_body: body.to_vec().into(),
        at: Some(UNIX_EPOCH + Duration::from_secs(1_796_000_000)),
        ..Exchange::default()
    }
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn recorded(dir: &Path) {
    let recorder = Recorder::open(dir).unwrap();
    recorder.take(exchange("http://a.test/", b"first"));
    let every: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    recorder.take(exchange("http://a.test/bytes?x=1", &every));
    let posted =
        Exchange { method: "POST".into(), request_body: b"q=1"[..].into(), ..exchange("http://a.test/p", b"one") };
    let request_head = b"POST /p HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec();
    recorder.take(Exchange { request_head: request_head.clone(), ..posted.clone() });
    recorder.take(Exchange {
        request_head,
        request_body: b"q=2"[..].into(),
        response_body: b"two"[..].into(),
        ..posted
    });
    recorder.take(Exchange { truncated: Some("length"), ..exchange("http://a.test/", b"fir") });
    recorder.shown(Shown {
        host: "bad.test".into(),
        port: 443,
        wrong: Some("expired\r\nx".into()),
        der: vec![1, 2, 3],
    });
    recorder.shown(Shown { host: "good.test".into(), port: 443, wrong: None, der: vec![1] });
    recorder.flush().unwrap();
    assert_eq!(recorder.written(), 5);
}

fn checked(set: &Set) {
    assert_eq!(set.complaints, Vec::<String>::new());
    assert_eq!(set.index.len(), 5);
    let body =
        |method: &str, at: &str, sent: &[u8]| set.answer(method, &url(at), sent).unwrap().map(|answer| answer.body);
    assert_eq!(body("GET", "http://a.test/", b"").unwrap(), b"first");
    let every = body("GET", "http://a.test/bytes?x=1", b"").unwrap();
    assert!(every.len() == 300_000 && every.iter().enumerate().all(|(n, b)| usize::from(*b) == n % 256));
    assert_eq!(body("POST", "http://a.test/p", b"q=1").unwrap(), b"one");
    assert_eq!(body("POST", "http://a.test/p", b"q=2").unwrap(), b"two");
    assert_eq!(body("GET", "http://a.test/none", b""), None);
    let answer = set.answer("GET", &url("http://a.test/"), b"").unwrap().unwrap();
    assert_eq!(answer.head.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
    assert!(set.index.wrong_certificate("bad.test", 443).is_some_and(|wrong| wrong.starts_with("expired")));
    assert_eq!(set.index.wrong_certificate("good.test", 443), None);
}

#[test]
fn what_is_recorded_is_answered_with_the_index_and_without() {
    let dir = tempfile::tempdir().unwrap();
    recorded(dir.path());
    checked(&Set::open(dir.path()).unwrap());
    std::fs::remove_file(dir.path().join(INDEX)).unwrap();
    checked(&Set::open(dir.path()).unwrap());
}

#[test]
fn a_writer_that_was_killed_loses_nothing_whole() {
    let dir = tempfile::tempdir().unwrap();
    recorded(dir.path());
    let index = dir.path().join(INDEX);
    let lines = std::fs::read_to_string(&index).unwrap();
    let file = std::fs::read_dir(dir.path()).unwrap().flatten().find(|e| e.file_name() != INDEX).unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    // The index lags behind, in the middle of a line.
    std::fs::write(&index, &lines[..lines.len() / 3]).unwrap();
    checked(&Set::open(dir.path()).unwrap());
    // The file ends in the middle of its last record.
    std::fs::write(&index, "").unwrap();
    std::fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    let set = Set::open(dir.path()).unwrap();
    assert_eq!((set.index.len(), set.complaints.len()), (5, 1), "{:?}", set.complaints);
    // And a new writer does not touch it.
    let recorder = Recorder::open(dir.path()).unwrap();
    recorder.take(exchange("http://a.test/later", b"later"));
    recorder.flush().unwrap();
    let set = Set::open(dir.path()).unwrap();
    assert_eq!(set.answer("GET", &url("http://a.test/later"), b"").unwrap().unwrap().body, b"later");
    assert_eq!(std::fs::read(&file).unwrap(), &whole[..whole.len() - 5]);
}

#[test]
fn others_files_are_read_plain_and_chunked() {
    let dir = tempfile::tempdir().unwrap();
    let http = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let asked = b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut file = Record::new("warcinfo", "<urn:uuid:1>", UNIX_EPOCH).of(&[b"software: x\r\n"]).bytes();
    let response = Record::new("response", "<urn:uuid:2>", UNIX_EPOCH).with("WARC-Target-URI", "<http://a.test/>");
    file.extend(response.of(&[http]).bytes());
    let request = Record::new("request", "<urn:uuid:3>", UNIX_EPOCH).with("WARC-Concurrent-To", "<urn:uuid:2>");
    file.extend(request.of(&[asked]).bytes());
    std::fs::write(dir.path().join("a.warc"), &file).unwrap();
    let set = Set::open(dir.path()).unwrap();
    assert_eq!((set.index.len(), &set.complaints), (1, &Vec::new()));
    assert_eq!(set.answer("PUT", &url("http://a.test/"), b"").unwrap().unwrap().body, b"abc");
    for cut in 0..file.len() {
        let mut entries = 0;
        drop(scan(&file[..cut], false, 0, &mut |_| entries += 1));
        assert!(entries <= 1);
    }
}

#[test]
fn files_that_lie_are_no_danger() {
    let huge = b"WARC/1.1\r\nWARC-Type: response\r\nContent-Length: 99999999999\r\n\r\n";
    let scanned = |bytes: &[u8], is_gzip| scan(bytes, is_gzip, 0, &mut |_| panic!("nothing is in it"));
    assert!(scanned(huge, false).unwrap_err().contains("more than is read"));
    assert!(scanned(b"\x1f\x8b garbage", true).is_err());
    assert!(scanned(b"hello", false).is_err());
    assert_eq!(scanned(b"", true), Ok(()));
    // A link in the set's directory is not followed, and a pipe is not waited for.
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("x.warc")).unwrap();
    let pipe = dir.path().join("y.warc");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(Set::open(dir.path()).unwrap().complaints.len(), 2);
}

#[test]
fn a_full_disk_stops_the_recording_and_says_so() {
    // A file of the writer's cannot grow: /dev/full stands in for the index.
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join(INDEX)).unwrap();
    let recorder = Recorder::open(dir.path()).unwrap();
    recorder.take(exchange("http://a.test/", b"first"));
    assert!(recorder.flush().unwrap_err().to_string().contains("No space left"));
    assert!(recorder.failed().is_some());
}
