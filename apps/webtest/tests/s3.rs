//! The store in a bucket, at a small server of the test's own that speaks as much of S3 as is needed and checks each signature
//! (AWS Signature Version 4) by itself. Whatever a real S3 does beyond that is not tested here.
#![expect(clippy::unwrap_used, reason = "test code")]

use fvm_webtest::store::{self, S3Options, name_of};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

const SECRET: &str = "the secret";

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    /// So many requests are answered with 503 first.
    busy: u32,
    puts: u32,
    refused: u32,
}

fn serve(bucket: Arc<Mutex<Bucket>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || connection(stream, &bucket));
        }
    });
    address
}

fn connection(mut stream: TcpStream, bucket: &Mutex<Bucket>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (method, path) = (words[0].as_str(), words[1].as_str());
        let mut bucket = bucket.lock().unwrap();
        let (status, answer) = if signature(method, path, &headers).as_ref() != headers.get("authorization") {
            bucket.refused += 1;
            ("403 Forbidden", b"<Error><Code>SignatureDoesNotMatch</Code></Error>".to_vec())
        } else if bucket.busy > 0 {
            bucket.busy -= 1;
            ("503 Slow Down", Vec::new())
        } else {
            match method {
                "PUT" => {
                    bucket.puts += 1;
                    bucket.objects.insert(path.to_owned(), body);
                    ("200 OK", Vec::new())
                }
                _ => match bucket.objects.get(path) {
                    Some(object) => ("200 OK", object.clone()),
                    None => ("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
                },
            }
        };
        drop(bucket);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"x\"\r\nlast-modified: Sat, 28 Nov 2026 20:00:00 GMT\r\n\r\n",
            answer.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        if method != "HEAD" {
            stream.write_all(&answer).unwrap();
        }
    }
}

/// The authorization that a request should have, from its own list of signed headers.
fn signature(method: &str, path: &str, headers: &BTreeMap<String, String>) -> Option<String> {
    let given = headers.get("authorization")?;
    let part = |name: &str| Some(given.split_once(name)?.1.split(',').next().unwrap().trim().to_owned());
    let (scope, signed) = (part("Credential=")?, part("SignedHeaders=")?);
    let scope = scope.split_once('/')?.1.to_owned();
    let canonical: String = signed.split(';').map(|name| format!("{name}:{}\n", headers[name])).collect();
    let request = format!("{method}\n{path}\n\n{canonical}\n{signed}\n{}", headers["x-amz-content-sha256"]);
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", headers["x-amz-date"], hex(&Sha256::digest(request)));
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for word in scope.split('/') {
        key = hmac(&key, word.as_bytes());
    }
    let signature = hex(&hmac(&key, text.as_bytes()));
    Some(format!("AWS4-HMAC-SHA256 Credential=key/{scope}, SignedHeaders={signed}, Signature={signature}"))
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn options(endpoint: String) -> S3Options {
    S3Options { endpoint: Some(endpoint), key: Some("key".into()), secret: Some(SECRET.into()), ..S3Options::default() }
}

#[test]
fn what_was_put_is_got_is_put_once_and_checked() {
    let bucket = Arc::new(Mutex::new(Bucket { busy: 2, ..Bucket::default() }));
    let store = store::open("s3://results/a/b", &options(serve(Arc::clone(&bucket)))).unwrap();
    let name = store.put(b"hello").unwrap();
    assert_eq!(name, name_of(b"hello"));
    assert_eq!(store.put(b"hello").unwrap(), name);
    assert_eq!(store.get(&name).unwrap().unwrap(), b"hello");
    assert_eq!(store.get(&name_of(b"other")).unwrap(), None);
    assert!(store.get("../x").is_err());
    let path = format!("/results/a/b/{}/{}", &name[..2], &name[2..]);
    let mut held = bucket.lock().unwrap();
    assert_eq!((held.puts, held.refused, held.busy), (1, 0, 0));
    assert_eq!(held.objects.keys().collect::<Vec<_>>(), [&path]);
    held.objects.insert(path, b"evil!".to_vec());
    drop(held);
    assert!(store.get(&name).unwrap_err().to_string().contains("not what its name says"));
    // Many threads wait in one store.
    thread::scope(|scope| {
        for n in 0..16_u8 {
            let store = &store;
            scope.spawn(move || {
                let name = store.put(&[n; 5_000]).unwrap();
                assert_eq!(store.get(&name).unwrap().unwrap(), [n; 5_000]);
            });
        }
    });
    assert_eq!(bucket.lock().unwrap().objects.len(), 17);
}

#[test]
fn a_wrong_key_and_no_key_are_refused() {
    let bucket = Arc::new(Mutex::new(Bucket::default()));
    let endpoint = serve(Arc::clone(&bucket));
    let wrong = S3Options { secret: Some("another".into()), ..options(endpoint.clone()) };
    let error = store::open("s3://results", &wrong).unwrap().put(b"x").unwrap_err();
    assert!(error.to_string().contains("s3://results"), "{error}");
    assert!(bucket.lock().unwrap().objects.is_empty());
    let error =
        store::open("s3://results", &S3Options { endpoint: Some(endpoint), ..S3Options::default() }).err().unwrap();
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
}
