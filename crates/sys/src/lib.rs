//! The system calls that fvm needs beyond rustix, one small file each, and safe, dirfd-relative file access on top.
//!
//! ```text
//!   beside   a network namespace that is made while its owner does something else
//!   clock    a moment between what was done to files and what is done next
//!   copy     the content of a file, shared or copied
//!   entry    a program's entry without the standard library's
//!   exec     becoming a program without lending it our own
//!   image    what a process is told that waits for its program
//!   dir      open beneath a root, list, read links, xattrs, remove a tree: for hostile layers
//!   divert   a thread that waits in one call makes another one
//!   fanotify permission events of single files
//!   first    before libc has started
//!   handle   name_to_handle_at
//!   heir     a process that goes on in this one's memory when this one has ended
//!   lease    whether a file has a writer
//!   loopdev  a file as a block device
//!   mount    mount_setattr, fsopen & co. with errors that carry the kernel's own message
//!   ids      setfsuid/setfsgid, securebits, id maps
//!   processors  on which one a new process begins
//!   process  fork, clone3, wait, pdeathsig, dumpable, close_range, signalfd
//!   bpf      classic BPF with labels;  seccomp  filters, and user notification
//!   packet   what a network namespace's programs want to reach
//!   peek     the memory of another process
//!   net      the loopback interface
//!   title    the command line that /proc shows
//!   spawn    a program without a copy of this process, while this one goes on
//!   vfork    namespaces without a copy of this process; execve; what a child used
//!   xattr    getxattrat
//!   socket   file descriptors over unix sockets
//! ```
//!
//! Invariant: this is the only crate with `unsafe`; each block says why it is sound.

pub mod beside;
pub mod bpf;
pub mod clock;
pub mod copy;
pub mod dir;
pub mod divert;
pub mod entry;
pub mod exec;
pub mod fanotify;
pub mod first;
pub mod handle;
pub mod heir;
pub mod ids;
pub mod image;
pub mod lease;
pub mod loopdev;
pub mod mount;
pub mod net;
pub mod packet;
pub mod peek;
pub mod process;
pub mod processors;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod title;
pub mod vfork;
pub mod xattr;

/// The calling thread's `errno`.
fn last_errno() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}
