//! A server of a laboratory's user, and clients of it.

use fvm_kit::{Lab, install};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Waits up to twenty seconds for `ready`.
#[track_caller]
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `fvm serve`.
pub struct Server<'a> {
    lab: &'a Lab,
    pub socket: PathBuf,
    pub process: Child,
}

impl<'a> Server<'a> {
    pub fn start(lab: &'a Lab) -> Self {
        Self::of(lab, lab.spawn(["serve", "--socket", lab.path("s.sock").to_str().unwrap()]))
    }

    /// One that was started otherwise.
    pub fn of(lab: &'a Lab, process: Child) -> Self {
        let connect = lab.path("connect");
        if !connect.exists() {
            install(Path::new(env!("CARGO_BIN_EXE_fvm-connect")), &connect);
        }
        let server = Self { lab, socket: lab.path("s.sock"), process };
        server.wait();
        server
    }

    /// Until it serves.
    pub fn wait(&self) {
        wait_for("the server", || {
            self.try_connect().is_some_and(|mut client| client.try_call("hello", json!({})).is_some())
        });
    }

    fn try_connect(&self) -> Option<Client> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut connect = self.lab.command(self.lab.path("connect"));
        connect.arg(&self.socket).stdin(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::null());
        let mut connector = connect.spawn().unwrap();
        // Or its end of ours stays open.
        drop(connect);
        let connection = received(&ours);
        let client = connection.map(|connection| {
            let stream = UnixStream::from(connection);
            Client { reader: BufReader::new(stream.try_clone().unwrap()), stream, id: 0 }
        });
        // Known once it was answered.
        let client = client.and_then(|mut client| client.try_call("hello", json!({})).map(|_| client));
        drop(ours);
        connector.wait().unwrap();
        client
    }

    pub fn client(&self) -> Client {
        self.try_connect().expect("it can be connected to")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit code once it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        wait_for("the server's end", || {
            code = self.process.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|code| code.code())
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.signal(rustix::process::Signal::TERM);
            self.process.wait().unwrap();
        }
    }
}

/// The descriptor that comes.
fn received(socket: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|part| if let RecvAncillaryMessage::ScmRights(mut fds) = part { fds.next() } else { None })
}

/// A client, connected as the laboratory's user.
pub struct Client {
    reader: BufReader<UnixStream>,
    pub stream: UnixStream,
    id: u64,
}

impl Client {
    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a request; its id.
    pub fn send(&mut self, mut request: Value) -> u64 {
        self.id += 1;
        request["id"] = self.id.into();
        self.raw(format!("{request}\n").as_bytes());
        self.id
    }

    /// Sends one with three descriptors for its streams.
    pub fn send_passed(&mut self, method: &str, params: Value, fds: [BorrowedFd<'_>; 3]) -> u64 {
        self.send_with(json!({"method": method, "params": params, "streams": "passed"}), &fds)
    }

    /// Sends one with up to three descriptors, whatever it says of them.
    pub fn send_with(&mut self, mut request: Value, fds: &[BorrowedFd<'_>]) -> u64 {
        self.id += 1;
        request["id"] = self.id.into();
        let line = format!("{request}\n");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(self.stream.as_fd(), &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::empty());
        assert_eq!(sent.unwrap(), line.len());
        self.id
    }

    /// The next line; `None` at the end.
    pub fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(1..) => Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))),
            _ => None,
        }
    }

    fn try_call(&mut self, method: &str, params: Value) -> Option<Value> {
        self.send(json!({"method": method, "params": params}));
        self.line().filter(|line| line.get("id").is_some_and(Value::is_number))
    }

    /// Has a command carried out; its answer.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(json!({"method": method, "params": params}));
        let line = self.line().unwrap_or_else(|| panic!("no answer to {method}"));
        assert_eq!(line["id"], id, "{line}");
        line
    }

    /// The same: it must be good.
    #[track_caller]
    pub fn done(&mut self, method: &str, params: Value) -> Value {
        let line = self.call(method, params);
        assert!(line["code"] == 0 && line.get("error").is_none(), "{method}: {line}");
        line["result"].clone()
    }

    /// Waits until the server hangs up.
    pub fn end(mut self) -> Vec<Value> {
        let lines = std::iter::from_fn(|| self.line()).collect();
        assert_eq!(self.stream.read(&mut [0]).unwrap_or(0), 0);
        lines
    }
}
