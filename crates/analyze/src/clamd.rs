//! clamd, asked by its socket whether a file is known malware.
//!
//! ```text
//!   ► zINSTREAM\0   ► length u32 (big-endian), bytes   ► ...   ► 0u32
//!   ◄ stream: OK\0  |  stream: NAME FOUND\0  |  ... ERROR\0
//! ```
//!
//! Invariants: bounded in bytes and time; what clamd says is text of its own and is cut and escaped by whoever prints it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest file that is sent: clamd's own limit (`StreamMaxLength`) is 25 MB and more.
pub const FILE_MAX_BYTES: u64 = 25_000_000;
const CHUNK_BYTES: usize = 64 << 10;
const ANSWER_MAX_BYTES: u64 = 4096;
/// How long clamd may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a file was not looked at.
#[derive(Debug, thiserror::Error)]
pub enum ClamdError {
    /// It does not answer.
    #[error("clamd at {} does not answer", path.display())]
    Socket {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not want to.
    #[error("clamd says: {0}")]
    Refused(String),
}

/// The name of the malware that `content` is, if clamd has one. At most [`FILE_MAX_BYTES`] are sent.
///
/// # Errors
/// When clamd cannot be reached, or could not look.
pub fn scan(socket: &Path, content: &mut dyn Read) -> Result<Option<String>, ClamdError> {
    let fail = |source| ClamdError::Socket { path: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(fail)?;
    let answer = ask(&mut stream, content).map_err(fail)?;
    understand(&answer)
}

fn ask(stream: &mut UnixStream, content: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"zINSTREAM\0")?;
    let mut content = content.take(FILE_MAX_BYTES);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = content.read(&mut chunk)?;
        let size = u32::try_from(len).map_err(std::io::Error::other)?;
        // It may have had enough, and said so: the answer tells.
        let sent = stream.write_all(&size.to_be_bytes()).and_then(|()| stream.write_all(&chunk[..len]));
        if len == 0 || sent.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
    Ok(answer)
}

/// What an answer says.
///
/// # Errors
/// When it says neither that the file is clean nor what it is.
pub fn understand(answer: &[u8]) -> Result<Option<String>, ClamdError> {
    let text = String::from_utf8_lossy(answer);
    let text = text.trim_matches(['\0', '\n', ' ']);
    let said = text.strip_prefix("stream: ").unwrap_or(text);
    match said.strip_suffix(" FOUND") {
        Some(name) => Ok(Some(name.to_owned())),
        None if said == "OK" => Ok(None),
        None => Err(ClamdError::Refused(said.chars().take(200).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A stand-in that speaks as clamd does: malware is what has the word in it.
    fn stand_in(dir: &Path) -> PathBuf {
        let path = dir.join("clamd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut hello = [0; 10];
                stream.read_exact(&mut hello).unwrap();
                assert_eq!(&hello, b"zINSTREAM\0");
                let mut all = Vec::new();
                loop {
                    let mut size = [0; 4];
                    stream.read_exact(&mut size).unwrap();
                    let mut chunk = vec![0; u32::from_be_bytes(size) as usize];
                    if chunk.is_empty() {
                        break;
                    }
                    stream.read_exact(&mut chunk).unwrap();
                    all.extend(chunk);
                }
                let is_bad = all.windows(5).any(|part| part == b"EICAR");
                stream.write_all(if is_bad { b"stream: Eicar-Test FOUND\0" } else { b"stream: OK\0" }).unwrap();
            }
        });
        path
    }

    #[test]
    fn a_file_is_sent_whole_and_the_answer_understood() {
        let dir = tempfile::tempdir().unwrap();
        let socket = stand_in(dir.path());
        let long = [vec![b'x'; 3 * CHUNK_BYTES + 1], b"EICAR".to_vec()].concat();
        assert_eq!(scan(&socket, &mut long.as_slice()).unwrap().as_deref(), Some("Eicar-Test"));
        assert_eq!(scan(&socket, &mut &long[..CHUNK_BYTES]).unwrap(), None);
        assert!(matches!(scan(&dir.path().join("gone"), &mut &b""[..]), Err(ClamdError::Socket { .. })));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for no_answer in [&b"stream: OK\xff"[..], b"OK OK", b"stream: ", b"\0\0", b"stream: \x1b[2JOK", b" FOUND OK"] {
            assert!(understand(no_answer).is_err(), "{no_answer:?}");
        }
        assert!(understand(b"INSTREAM size limit exceeded. ERROR\0").is_err());
        assert!(understand(b"").is_err());
        assert_eq!(understand(b"stream: OK\0").unwrap(), None);
    }
}
