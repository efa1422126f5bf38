//! What a VM or a client may send: any bytes are a message or none, and a message that is understood can be said again.
#![no_main]
use fvm_vm::proto::{Order, Overlays, Reply, Request, Status, Word, read_message, read_packet, write_message};
use serde::{Serialize, de::DeserializeOwned};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// Less than a socket holds: nobody reads meanwhile.
const MAX_BYTES: usize = 32 << 10;

libfuzzer_sys::fuzz_target!(|input: (u8, bool, &[u8])| {
    let (which, framed, bytes) = input;
    match which % 6 {
        0 => stream::<Request>(framed, bytes),
        1 => stream::<Order>(framed, bytes),
        2 => stream::<Reply>(framed, bytes),
        3 => stream::<Overlays>(framed, bytes),
        4 => packet::<Status>(bytes),
        _ => packet::<Word>(bytes),
    }
});

/// The socket that says `bytes` and ends.
fn saying(bytes: &[u8]) -> UnixStream {
    let (mut said, heard) = UnixStream::pair().expect("a socket");
    said.write_all(&bytes[..bytes.len().min(MAX_BYTES)]).expect("it fits");
    said.shutdown(Shutdown::Write).expect("it is open");
    heard
}

fn stream<T: Serialize + DeserializeOwned>(framed: bool, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    let all = if framed { [&length, bytes].concat() } else { bytes.to_vec() };
    let Ok(Some((message, fds))) = read_message::<T>(saying(&all)) else { return };
    assert!(fds.is_empty());
    let text = serde_json::to_vec(&message).expect("a message can be said");
    let (said, heard) = UnixStream::pair().expect("a socket");
    if text.len() < MAX_BYTES {
        write_message(&said, &message, &[]).expect("it fits");
        let again = read_message::<T>(&heard).expect("it was said").expect("it was said").0;
        assert_eq!(serde_json::to_vec(&again).expect("a message can be said"), text);
    }
}

fn packet<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Some((message, fds)) = read_packet::<T>(saying(bytes)) {
        assert!(fds.is_empty());
        let text = serde_json::to_vec(&message).expect("a message can be said");
        let (again, _) = read_packet::<T>(saying(&text)).expect("it was said");
        assert_eq!(serde_json::to_vec(&again).expect("a message can be said"), text);
    }
}
