//! A process with one thread that starts others for a program with many.
//!
//! ```text
//!   program, any number of threads            forker, one thread                worker, one order
//!     start ────────── fork ──────────────────► waits
//!     hand(order, report, in, out, err) ──────► fork ───────────────────────────► work(order, report)
//!     reads report ◄──────────────────────────────────────────────────────────────┘ exit
//!     ends, or drops it ──────────────────────► ends ── SIGKILL ─────────────────► ends, and the VM that it keeps
//! ```
//!
//! A copy of a process has one thread, and whatever the others held locked stays locked in it for ever. So the copy that builds VMs
//! is made before there are others, and copies itself.
//!
//! Invariants: the forker holds nothing of the program but its memory as it was; it is in no terminal's group; it collects its
//! workers, so that none stays behind dead; nothing of it outlives the program.

use crate::error::VmError;
use crate::offspring::{Birth, Offspring};
use crate::proto;
use fvm_sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// What a worker does with its order; the descriptor is that to report on, its streams are its own 0 to 2.
pub type Work<T> = fn(T, OwnedFd) -> i32;

/// The forker, as its program holds it.
#[derive(Debug)]
pub struct Forker<T> {
    /// `None` once it has been told to end.
    orders: Mutex<Option<OwnedFd>>,
    process: Offspring,
    order: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Forker<T> {
    /// Starts it. The process must have one thread.
    ///
    /// # Errors
    /// [`VmError::Threads`]; the kernel's.
    pub fn start(work: Work<T>) -> Result<Self, VmError> {
        let (orders, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| VmError::Sys("make a socket pair", e))?;
        let birth =
            Birth { title: "fvm: forker", streams: [None; 3], keep: &[theirs.as_raw_fd()], orphaned: Signal::KILL };
        let process = Offspring::start(&birth, || {
            // No place of the host's is held.
            let _root = rustix::process::chdir("/");
            i32::from(serve(&theirs, work).is_err())
        })?;
        Ok(Self { orders: Mutex::new(Some(orders)), process, order: PhantomData })
    }

    /// Has a worker do `order`, which says on `report` what comes of it: the end of that without a word means that it died.
    ///
    /// # Errors
    /// When the forker is gone, or the order is too long.
    pub fn hand(&self, order: &T, report: BorrowedFd<'_>, streams: [BorrowedFd<'_>; 3]) -> Result<(), VmError> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let [input, output, errors] = streams;
        let sent = orders
            .as_ref()
            .map_or(Err(Errno::PIPE), |orders| proto::write_message(orders, order, &[report, input, output, errors]));
        sent.map_err(|e| VmError::Sys("reach the process that starts others", e))
    }
}

impl<T> Drop for Forker<T> {
    fn drop(&mut self) {
        drop(self.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.process.wait();
    }
}

fn serve<T: DeserializeOwned>(orders: &OwnedFd, work: Work<T>) -> Result<(), Errno> {
    let children = process::signal_fd(&[Signal::CHILD.as_raw()])?;
    loop {
        let mut polled = [PollFd::new(orders, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        let [is_asked, has_ended] = polled.map(|p| !p.revents().is_empty());
        if has_ended {
            while process::next_signal(&children)?.is_some() {}
            while let Ok(Some(_)) = process::wait_nonblocking(-1, false) {}
        }
        if is_asked {
            let Some((order, fds)) = proto::read_message::<T>(orders)? else { return Ok(()) };
            // One that came without its streams, and one for which there is no process: the end of its report says it.
            if let Ok([report, input, output, errors]) = <[OwnedFd; 4]>::try_from(fds) {
                let birth = Birth {
                    title: "fvm: worker",
                    streams: [Some(input.as_fd()), Some(output.as_fd()), Some(errors.as_fd())],
                    keep: &[report.as_raw_fd()],
                    orphaned: Signal::KILL,
                };
                let _told = Offspring::start(&birth, move || work(order, report));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn echo(order: String, report: OwnedFd) -> i32 {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        let written = std::fs::File::from(report).write_all(format!("{order} {text}").as_bytes());
        i32::from(read.is_err() || written.is_err())
    }

    /// In a process of its own: a test's has many threads.
    #[test]
    fn many_threads_have_work_done_and_a_process_of_many_starts_none() {
        let Err(VmError::Threads(_)) = Forker::start(echo) else { panic!("the tests' process has several threads") };
        let done = process::in_child(|| {
            let forker = Forker::start(echo).map_err(|_| Errno::CHILD)?;
            let one = |n: usize| {
                let (report, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                let (input, typed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                let order = format!("order {n}");
                forker.hand(&order, theirs.as_fd(), [input.as_fd(); 3]).map_err(|_| Errno::PIPE)?;
                drop((theirs, input));
                rustix::io::write(&typed, b"typed")?;
                drop(typed);
                let mut said = String::new();
                std::fs::File::from(report).read_to_string(&mut said).map_err(|_| Errno::IO)?;
                if said == format!("{order} typed") { Ok(()) } else { Err(Errno::BADMSG) }
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..8).map(|n| scope.spawn(move || (0..4).try_for_each(|m| one(n * 4 + m)))).collect();
                threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(Errno::CHILD)))
            })?;
            drop(forker);
            // It was collected, and it collected its own.
            match process::wait_nonblocking(-1, false) {
                Err(Errno::CHILD) => Ok(()),
                _ => Err(Errno::BUSY),
            }
        });
        done.unwrap();
    }
}
