//! A look at what programs in a network namespace want to reach that has a loopback only: each packet that begins something and is
//! not for an address of the loopback's own.
//!
//! ```text
//!   packet ─► classic BPF in the kernel ─► dropped: our copy on its way out, 127/8, TCP but for a first SYN, what the
//!                │                                  kernel itself answers (ICMP errors, echo replies), neighbours
//!                └─► the first SNAP_BYTES bytes, from the IP header on ─► the socket
//! ```
//!
//! Source: packet(7), socket(7) `SO_ATTACH_FILTER`, linux/filter.h.
//!
//! Invariant: the kernel drops what does not count, so that a browser's own traffic costs nothing here.

use crate::bpf::Assembler;
use crate::seccomp::Instruction;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno;

/// As much of a packet is kept.
pub const SNAP_BYTES: u32 = 512;

fn filter() -> Result<Vec<Instruction>, Errno> {
    // SKF_AD_OFF + SKF_AD_PKTTYPE; PACKET_OUTGOING.
    const PACKET_TYPE: u32 = (-0x1000_i32 + 4).cast_unsigned();
    const OUTGOING: u32 = 4;
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    let mut a = Assembler::default();
    let [first, is_6, v4, tcp4, icmp4, v6, tcp6, icmp6, take, drop] = std::array::from_fn(|_| a.label());
    let [v4_other, v4_rest, v6_rest, icmp4_rest] = std::array::from_fn(|_| a.label());
    a.load_byte(PACKET_TYPE);
    a.if_equal(OUTGOING, drop, first);
    a.bind(first);
    a.load_byte(0);
    a.shift_right(4);
    a.if_equal(4, v4, is_6);
    a.bind(is_6);
    a.if_equal(6, v6, take);

    a.bind(v4);
    a.load_byte(16);
    a.if_equal(127, drop, v4_rest);
    a.bind(v4_rest);
    a.load_header_length(0);
    a.load_byte(9);
    a.if_equal(6, tcp4, v4_other);
    a.bind(v4_other);
    a.if_equal(1, icmp4, take);
    a.bind(icmp4);
    a.load_byte_behind(0);
    // Echo reply; unreachable.
    a.if_equal(0, drop, icmp4_rest);
    a.bind(icmp4_rest);
    a.if_equal(3, drop, take);

    a.bind(v6);
    a.load_byte(6);
    a.if_equal(6, tcp6, v6_rest);
    a.bind(v6_rest);
    a.if_equal(58, icmp6, take);
    a.bind(icmp6);
    a.load_byte(40);
    // Of the others only an echo request is a program's.
    a.if_equal(128, take, drop);

    a.bind(tcp6);
    a.load_byte(53);
    a.and(SYN_OR_ACK);
    a.if_equal(SYN, take, drop);
    a.bind(tcp4);
    a.load_byte_behind(13);
    a.and(SYN_OR_ACK);
    a.if_equal(SYN, take, drop);

    a.bind(take);
    a.answer(SNAP_BYTES);
    a.bind(drop);
    a.answer(0);
    a.finish()
}

/// Opens such a socket in this thread's network namespace; it does not block.
///
/// # Errors
/// The kernel's: `EPERM` without rights over the namespace, `EAFNOSUPPORT` where it has no packet sockets.
pub fn tap() -> Result<OwnedFd, Errno> {
    let program = filter()?;
    let everything = i32::from(u16::to_be(libc::ETH_P_ALL as u16));
    // SAFETY: no memory is passed.
    let fd = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, everything)
    };
    if fd < 0 {
        return Err(crate::last_errno());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut lines: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let length = u16::try_from(lines.len()).map_err(|_| Errno::INVAL)?;
    let attached = libc::sock_fprog { len: length, filter: lines.as_mut_ptr() };
    // SAFETY: the kernel copies the program, whose lines outlive the call, and `len` is their number.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const attached).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(socket) } else { Err(crate::last_errno()) }
}
