//! Heads of records: what is taken and what is refused.

use super::*;

#[test]
fn what_is_written_is_read() {
    let id = id([0xFF; 16]);
    assert_eq!(id, "<urn:uuid:ffffffff-ffff-4fff-bfff-ffffffffffff>");
    let record = Record::new("response", &id, UNIX_EPOCH).with("WARC-Target-URI", "http://a.test/\r\nX: y");
    let bytes = record.of(&[b"HTTP/1.1 200 OK\r\n\r\n", b"body"]).bytes();
    let (head, length) = Head::read(&bytes).unwrap().unwrap();
    assert_eq!(head.get("warc-type"), Some("response"));
    assert_eq!(head.uri("WARC-Record-ID"), Some("urn:uuid:ffffffff-ffff-4fff-bfff-ffffffffffff"));
    assert_eq!(head.get("WARC-Target-URI"), Some("http://a.test/  X: y"));
    assert_eq!((head.length, &bytes[length..]), (23, &b"HTTP/1.1 200 OK\r\n\r\nbody\r\n\r\n"[..]));
    for cut in 0..length {
        assert_eq!(Head::read(&bytes[..cut]), Ok(None), "{cut}");
    }
}

#[test]
fn heads_that_are_none() {
    let read = |text: &str| Head::read(text.as_bytes()).map(|head| head.is_some());
    assert_eq!(read("HTTP/1.1 200\r\n\r\n"), Err(Bad::NotWarc));
    assert_eq!(read("WARC/1.0\r\nno field\r\n\r\n"), Err(Bad::Field));
    assert_eq!(read("WARC/1.0\r\n folded\r\n\r\n"), Err(Bad::Field));
    assert_eq!(read("WARC/1.0\r\nWARC-Type: x\r\n\r\n"), Err(Bad::Length));
    assert_eq!(read("WARC/1.0\r\nContent-Length: -1\r\n\r\n"), Err(Bad::Length));
    assert_eq!(read("WARC/1.0\r\nContent-Length: 99999999999999999999\r\n\r\n"), Err(Bad::Length));
    assert_eq!(read(&format!("WARC/1.0\r\n{}", "a".repeat(HEAD_MAX_BYTES))), Err(Bad::TooLong));
    assert_eq!(read(&format!("WARC/1.0\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1))), Err(Bad::TooLong));
    let folded = "WARC/1.0\r\nX: a\r\n\tb\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(Head::read(folded.as_bytes()).unwrap().unwrap().0.get("x"), Some("a b"));
}

#[test]
fn dates_and_digests_are_as_others_write_them() {
    let at = |s: u64, ms: u64| date(UNIX_EPOCH + Duration::from_millis(s * 1000 + ms));
    assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(951_782_399, 7), "2000-02-28T23:59:59.007Z");
    assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
    assert_eq!(at(1_796_000_000, 0), "2026-11-30T00:53:20.000Z");
    assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    // `printf fvm | sha256sum | xxd -r -p | base32`, with nothing and with something.
    assert_eq!(digest(&[]), "sha256:4OYMIQUY7QOBJGX36TEJS35ZEQT24QPEMSNZGTFESWMRW6CSXBKQ====");
    assert_eq!(digest(&[b"ab", b"c"]), "sha256:XJ4BNP4PAHH6UQKBIDPF3LRCEOYAGYNDSYLXVHFUCD7WD4QACWWQ====");
}

#[test]
fn heads_of_http_are_read() {
    let block =
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html; charset=x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nbody";
    let head = HttpHead::read(block).unwrap();
    assert_eq!(
        (head.status, head.mime(), head.headers.len(), &block[head.length..]),
        (404, "text/html", 3, &b"body"[..])
    );
    assert_eq!(HttpHead::read(b"HTTP/1.1 200 OK\r\nA: b\r\n"), None);
    assert_eq!(HttpHead::read(b""), None);
    assert_eq!(read_request(b"POST /x HTTP/1.1\r\nHost: a\r\n\r\nq=1"), Some(("POST".into(), 29)));
}

#[test]
fn chunks_are_put_together() {
    assert_eq!(unchunked(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), b"abcde");
    assert_eq!(unchunked(b"3\r\nabc\r\nff\r\nde"), b"abcde");
    assert_eq!(unchunked(b"ffffffffffffffff\r\nde"), b"de");
    assert_eq!(unchunked(b"not chunked"), b"not chunked");
    assert_eq!(unchunked(b""), b"");
}
