//! System calls, one by one: what a program asks of the kernel all day.
//!
//! ```text
//!   operation ── repeated until a tenth of a second has passed ── five times ─► the quickest, in nanoseconds
//! ```
//!
//! Invariant: the operations go to the kernel directly (rustix), but for threads, processes and directories, which are made
//! as programs make them.

use fvm_sys::process::{Fork, exit_now, fork, wait_blocking};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::{Errno, pread, pwrite, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const HOST_FILE: &str = "/usr/bin/env";
const TENTH: Duration = Duration::from_millis(100);

type Operation<'a> = (&'static str, Box<dyn Fn() -> io::Result<()> + 'a>);

/// Measures every operation, or those of these `names`, with files of its own in `dir`; prints a line each: name, tab,
/// nanoseconds.
///
/// # Errors
/// The kernel's.
pub fn run(dir: &Path, names: &[&str]) -> io::Result<()> {
    let place = Place::new(dir)?;
    for (name, operation) in operations(&place) {
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        println!("{name}\t{:.1}", quickest(&*operation)?);
    }
    place.close()
}

/// Nanoseconds of one `operation`.
fn quickest(operation: &dyn Fn() -> io::Result<()>) -> io::Result<f64> {
    operation()?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        let (mut done, mut step) = (0u32, 1u32);
        let took = loop {
            for _ in 0..step {
                operation()?;
            }
            done += step;
            step = (step * 2).min(1024);
            let took = began.elapsed();
            if took >= TENTH {
                break took;
            }
        };
        best = best.min(took.as_secs_f64() * 1e9 / f64::from(done));
    }
    Ok(best)
}

/// What the operations work on.
struct Place {
    own: PathBuf,
    other: PathBuf,
    file: OwnedFd,
    zero: OwnedFd,
    /// From the echo, and to it.
    from: OwnedFd,
    to: OwnedFd,
    echo: i32,
    /// On the loopback.
    listener: TcpListener,
}

impl Place {
    fn new(dir: &Path) -> io::Result<Self> {
        let (own, other) = (dir.join("own"), dir.join("other"));
        let create = OFlags::CREATE | OFlags::RDWR | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(CWD, &own, create, Mode::from(0o600))?;
        write(&file, &[0; 65536])?;
        let zero = open("/dev/zero", OFlags::RDONLY)?;
        let (from, their_to) = pipe_with(PipeFlags::CLOEXEC)?;
        let (their_from, to) = pipe_with(PipeFlags::CLOEXEC)?;
        let echo = match fork()? {
            Fork::Parent(pid) => pid.as_raw_nonzero().get(),
            Fork::Child => {
                drop(to);
                let mut byte = [0];
                while read(&their_from, &mut byte) == Ok(1) && write(&their_to, &byte) == Ok(1) {}
                exit_now(0)
            }
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self { own, other, file, zero, from, to, echo, listener })
    }

    fn close(self) -> io::Result<()> {
        drop(self.to);
        wait_blocking(self.echo, false)?;
        std::fs::remove_file(&self.own)
    }
}

fn open(path: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}

fn operations(place: &Place) -> Vec<Operation<'_>> {
    let block = || [0u8; 4096];
    vec![
        ("getppid", Box::new(|| done(Ok(rustix::process::getppid())))),
        ("read a byte of /dev/zero", Box::new(|| done(read(&place.zero, &mut [0u8])))),
        ("ioctl on a pipe", Box::new(|| done(rustix::io::ioctl_fionread(&place.from)))),
        ("socket and close", Box::new(socket)),
        ("read 4 KiB of an own file", Box::new(move || done(pread(&place.file, &mut block(), 0)))),
        ("write 4 KiB to an own file", Box::new(move || done(pwrite(&place.file, &block(), 0)))),
        ("stat of a host file", Box::new(|| done(statat(CWD, HOST_FILE, AtFlags::empty())))),
        ("open and close a host file", Box::new(|| done(open(HOST_FILE, OFlags::RDONLY)))),
        ("open and close an own file", Box::new(|| done(open(&place.own, OFlags::RDWR)))),
        ("create and remove a file", Box::new(|| create(&place.other))),
        ("connect to a port of its own", Box::new(|| connect(&place.listener))),
        ("list /usr/bin", Box::new(list)),
        ("a byte to another process and back", Box::new(|| round_trip(place))),
        ("map, touch, unmap a page", Box::new(|| done(fvm_sys::vfork::touch_a_page()))),
        ("start and join a thread", Box::new(thread)),
        ("fork and wait", Box::new(fork_and_wait)),
        ("run /bin/true", Box::new(execute)),
    ]
}

/// The result was asked for, whatever it is.
fn done<T>(result: Result<T, Errno>) -> io::Result<()> {
    black_box(result?);
    Ok(())
}

fn list() -> io::Result<()> {
    black_box(std::fs::read_dir("/usr/bin")?.count());
    Ok(())
}

fn execute() -> io::Result<()> {
    let status = Command::new("/bin/true").status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("/bin/true: {status}"))) }
}

fn socket() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    done(socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None))
}

/// Both ends are closed by a reset: ports that wait for late packets would be used up.
fn connect(listener: &TcpListener) -> io::Result<()> {
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    for end in [&ours, &theirs] {
        rustix::net::sockopt::set_socket_linger(end, Some(Duration::ZERO))?;
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(CWD, path, flags, Mode::from(0o600))?);
    Ok(unlinkat(CWD, path, AtFlags::empty())?)
}

fn round_trip(place: &Place) -> io::Result<()> {
    write(&place.to, &[0])?;
    done(read(&place.from, &mut [0u8]))
}

fn thread() -> io::Result<()> {
    let thread = std::thread::Builder::new().spawn(|| ())?;
    thread.join().map_err(|_| io::Error::other("a thread panicked"))
}

fn fork_and_wait() -> io::Result<()> {
    match fork()? {
        Fork::Child => exit_now(0),
        Fork::Parent(pid) => done(wait_blocking(pid.as_raw_nonzero().get(), false)),
    }
}
