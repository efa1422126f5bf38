//! Descriptors, and senders' credentials, over unix sockets.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// The most descriptors that one message carries here.
pub const MAX_FDS: usize = 8;

/// Sends `bytes` (all of them) with `fds` attached to the first.
///
/// # Errors
/// The kernel's; `EPIPE` without a signal.
pub fn send(socket: impl AsFd, mut bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut first = true;
    while first || !bytes.is_empty() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if first && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOBIG);
        }
        match sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        }
        first = false;
    }
    Ok(())
}

/// Receives up to `buffer.len()` bytes and the descriptors that came with them (close-on-exec). 0 bytes: the end.
///
/// # Errors
/// The kernel's.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    receive_with(socket.as_fd(), buffer, RecvFlags::CMSG_CLOEXEC)
}

/// [`receive`] of what is there already.
///
/// # Errors
/// As [`receive`]; `EAGAIN` when there is nothing.
pub fn receive_now(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    receive_with(socket.as_fd(), buffer, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
}

fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(message) => {
                let fds = control
                    .drain()
                    .filter_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { Some(fds) } else { None })
                    .flatten()
                    .collect();
                return Ok((message.bytes, fds));
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// [`receive`] of what will come soon: awake for some tenths of a millisecond, which costs less than to be woken on a processor that
/// has gone to sleep meanwhile, and gives way to whoever wants the same one.
///
/// # Errors
/// As [`receive`].
pub fn receive_soon(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    const TRIES: u32 = 500;
    let mut first = [0u8];
    for _ in 0..TRIES {
        match rustix::net::recv(socket.as_fd(), &mut first[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            _ => break,
        }
    }
    receive(socket, buffer)
}

/// Who connected to a stream socket: process and user, as this process numbers them when the peer connected (`SO_PEERCRED`). Process
/// 0: one that has no number here. Rustix's own call takes that for a valid process id.
///
/// # Errors
/// The kernel's.
pub fn peer(socket: impl AsFd) -> Result<(i32, u32), Errno> {
    let mut who = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `who` and `len` outlive the call, and `len` is the size of `who`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut len,
        )
    };
    if got == 0 { Ok((who.pid, who.uid)) } else { Err(crate::last_errno()) }
}

/// The process that [`peer`] names, as a descriptor that is never another process's (`SO_PEERPIDFD`, Linux 6.5).
///
/// # Errors
/// The kernel's: `ENOPROTOOPT` where it does not know this, another when that process is gone.
pub fn peer_process(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    // include/uapi/asm-generic/socket.h; the architectures with other numbers are none of ours.
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `fd` and `len` outlive the call, and `len` is the size of `fd`.
    let got = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut fd).cast(), &raw mut len)
    };
    match got {
        // SAFETY: the kernel has just made this descriptor for us.
        0 if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        0 => Err(Errno::SRCH),
        _ => Err(crate::last_errno()),
    }
}

/// Receives up to `buffer.len()` bytes of one datagram, and the process that sent it, as this process numbers it. The socket
/// must have been told to ask for credentials. Descriptors that come along are closed.
///
/// # Errors
/// The kernel's; `EAGAIN` when there is nothing.
pub fn receive_with_sender(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Option<i32>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut sender = None;
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmCredentials(who) => sender = Some(who.pid.as_raw_nonzero().get()),
            RecvAncillaryMessage::ScmRights(fds) => fds.for_each(drop),
            _ => {}
        }
    }
    Ok((message.bytes, sender))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::time::Timespec;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_peer_is_there_or_gone() {
        let path = std::env::temp_dir().join(format!("fvm-peer-{}", std::process::id()));
        let _none = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let is_there = |socket: &UnixStream| match peer_process(socket) {
            Ok(process) => poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&Timespec::default())) == Ok(0),
            Err(e) => e == Errno::NOPROTOOPT,
        };
        let client = UnixStream::connect(&path).unwrap();
        let mine = listener.accept().unwrap().0;
        assert!(is_there(&mine));
        if peer_process(&mine).err() != Some(Errno::NOPROTOOPT) {
            let connect = || UnixStream::connect(&path).map(drop).map_err(|_| Errno::CONNREFUSED);
            crate::process::in_child(connect).unwrap();
            assert!(!is_there(&listener.accept().unwrap().0));
        }
        drop(client);
        std::fs::remove_file(&path).unwrap();
    }
}
