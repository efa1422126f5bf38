//! Parsers of foreign bytes, with bytes that are made at random out of good ones: what the fuzz targets do with more time.
//!
//! Which bytes these are is the same each time: `FVM_BYTES_SEED=N` takes others, `FVM_BYTES_TIMES=N` takes more.
#![expect(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod foreign;

/// xorshift64*: numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    /// A change of `bytes`, with parts of `other`.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let end = (at + 1 + self.below(16)).min(bytes.len());
        match self.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => bytes.truncate(at),
            4 => {
                let some = bytes[at.min(end)..end].repeat(1 + self.below(20));
                drop(bytes.splice(at..at, some));
            }
            5 => {
                let from = self.below(other.len());
                let some = other[from..(from + self.below(40)).min(other.len())].to_vec();
                drop(bytes.splice(at..at, some));
            }
            _ => {
                let some: &[u8] =
                    [&b"\0"[..], b"\r\n\r\n", b"99999999999999999999", b"\xFF\xFE", b"\"", b"<", b"http://", b"]]>"]
                        [self.below(8)];
                drop(bytes.splice(at..at, some.iter().copied()));
            }
        }
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Has `parse` read each of `good`, and what becomes of them.
fn with_all(good: &[&[u8]], parse: fn(&[u8])) {
    let mut numbers = Numbers(number("FVM_BYTES_SEED", 0x9E37_79B9_7F4A_7C15).max(1));
    parse(b"");
    for one in good {
        parse(one);
        for length in 0..one.len().min(300) {
            parse(&one[..length]);
        }
    }
    for _ in 0..number("FVM_BYTES_TIMES", 600) {
        let mut bytes = good[numbers.below(good.len())].to_vec();
        let other = good[numbers.below(good.len())];
        for _ in 0..=numbers.below(8) {
            numbers.change(&mut bytes, other);
        }
        parse(&bytes);
    }
}

const RECORD: &[u8] = b"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.test/\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n\
WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: 81\r\n\r\nHTTP/1.1 200 OK\r\n\
Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\r\n\r\n\r\n";

#[test]
fn warc_files_and_http_heads() {
    let packed = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packer, RECORD).unwrap();
        packer.finish().unwrap()
    };
    let index = br#"test,a)/ 20260101000000 {"url":"http://a.test/","mime":"text/html","status":"200","digest":"x","filename":"a.warc.gz","offset":"0","length":"9"}"#;
    let request = b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc";
    with_all(&[RECORD, &packed, index, request, b"5\r\nabcde\r\n0\r\n\r\n"], foreign::warc);
}

#[test]
fn pages_sitemaps_rules_and_the_log_of_a_crawl() {
    let page = b"<!doctype html><base href=/x/><a href='y?a=b#c'>l</a><img srcset='a 1x, b 2x'><style>@import 'z'; \
        p{background:url(\"q\")}</style><meta http-equiv=refresh content='0; url=//b.test/'><script src=data:,></script>";
    let map = b"<?xml version='1.0'?><sitemapindex><sitemap><loc> http://a.test/s.xml </loc></sitemap></sitemapindex>";
    let rules = b"User-agent: *\nDisallow: /x*y$\nCrawl-delay: 1e3\nSitemap: http://a.test/m\n";
    let done = br#"{"done":"http://a.test/","depth":0,"page":true,"status":200,"bytes":5,"links":["http://a.test/x"]}"#;
    let line = br#"{"map":"http://a.test/m.xml","links":["http://a.test/x"],"maps":[]}"#;
    with_all(&[page, map, rules, done, line, b"@import url(a.css);p{b:url('c')}"], foreign::crawl);
}

#[test]
fn messages_of_the_browser() {
    let attached = br#"{"method":"Target.attachedToTarget","params":{"sessionId":"S","targetInfo":{"targetId":"T","type":"page","title":"","url":"about:blank","attached":true},"waitingForDebugger":true}}"#;
    let sent = br#"{"method":"Network.requestWillBeSent","sessionId":"S","params":{"requestId":"1","loaderId":"1","documentURL":"http://a.test/","request":{"url":"http://a.test/","method":"GET","headers":{"A":"b"}},"timestamp":1.5,"type":"Document","frameId":"T","initiator":{"type":"other"}}}"#;
    let came = br#"{"method":"Network.responseReceived","sessionId":"S","params":{"requestId":"1","timestamp":2,"type":"Document","response":{"url":"http://a.test/","status":200,"headers":{"C":"d"},"mimeType":"text/html","remoteIPAddress":"1.2.3.4"}}}"#;
    let said = br#"{"method":"Runtime.consoleAPICalled","sessionId":"S","params":{"type":"log","args":[{"type":"string","value":"x"}]}}"#;
    let asks = br#"{"method":"Page.javascriptDialogOpening","sessionId":"S","params":{"url":"http://a.test/","message":"m","type":"alert"}}"#;
    let fetched = br#"{"method":"Browser.downloadWillBegin","params":{"frameId":"T","guid":"11111111-2222-3333-4444-555555555555","url":"http://a.test/f","suggestedFilename":"../x"}}"#;
    let all = [&attached[..], sent, came, said, asks, fetched];
    let talk = all.join(&b"\0"[..]);
    let mut good = all.to_vec();
    good.push(&talk);
    with_all(&good, foreign::devtools);
    let many = [talk, Vec::new()].join(&b"\0"[..]).repeat(3_000);
    foreign::devtools(&many);
}

#[test]
fn lists_of_sites() {
    let table = b"url,tags,priority,every\nhttps://a.test/,\"x y\",5,12h\n=cmd,,,\n";
    let map = b"<urlset><url><loc>https://a.test/?a=1&amp;b=2</loc></url></urlset>";
    with_all(&[table, map, b"# c\na.test\nhttp://b.test/ tag\r\n\xFF\n", b"\"a\nb\",c\n"], foreign::import);
}

#[test]
fn packets_and_tunnels() {
    let packet = b"\x45\0\0\x3c\0\0\0\0\x40\x11\0\0\x0a\0\0\x01\x08\x08\x08\x08\x80\0\0\x35\0\0\0\0\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    with_all(&[packet, hello, b"GET / HTTP/1.1\r\n", b"\x00\x03\x00\x08\x21\x12\xa4\x42abcdefgh"], foreign::gate);
}
