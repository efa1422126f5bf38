//! Connects to the unix socket that is its argument and hands the connection to whoever is at the other end of its standard input,
//! itself a unix socket; then waits for that to close. For tests that are root and talk to a server that serves one user.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

fn main() -> std::io::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_default();
    let connection = UnixStream::connect(path)?;
    let fds = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "there is room for one");
    sendmsg(std::io::stdin(), &[IoSlice::new(b"!")], &mut control, SendFlags::empty())?;
    drop(connection);
    // Until it is known who connected.
    let mut byte = [0u8];
    rustix::io::read(std::io::stdin(), &mut byte[..])?;
    Ok(())
}
