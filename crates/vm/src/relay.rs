//! The host's files as streams of a program in a VM: passed byte by byte, never as descriptors.
//!
//! ```text
//!   our stream               the program gets
//!   an unnamed pipe, socket  the same one
//!   a file, FIFO, device     the end of a new pipe; a thread here copies
//!   a directory              the same: an empty one
//!   /dev/null                the VM's own
//! ```
//!
//! Whoever has a descriptor of a file has more than its bytes: by `/proc/self/fd` the file can be opened again, for writing
//! too, its mode can be changed, and from a directory the whole host can be reached. A user who writes `fvm run -- sh <
//! script` wants to give none of that. What an unnamed pipe or a socket gives is what it carries.
//!
//! Invariants: no descriptor of a file of the host's goes to a VM; what the program wrote before it ended is written to our
//! stream before [`Running::finish`] returns; nothing here waits for programs that the one left behind.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, FileType};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::thread::JoinHandle;

/// What is copied at once.
const BLOCK_BYTES: usize = 64 << 10;

/// Where a stream is copied.
#[derive(Debug)]
struct Copy {
    from: OwnedFd,
    to: OwnedFd,
    /// Once it has so many bytes no more are written.
    limit_bytes: u64,
}

/// Streams that are ready to be passed.
#[derive(Debug)]
pub struct Relays {
    /// For input, output, errors: what the program gets; `None`: the VM's `/dev/null`.
    theirs: [Option<OwnedFd>; 3],
    copies: [Option<Copy>; 3],
}

impl Relays {
    /// Looks at three streams of ours. No more than `limit_bytes` of output are written to a file.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn of(ours: [BorrowedFd<'_>; 3], limit_bytes: u64) -> Result<Self, Errno> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let own = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let (input, feed) = if is_null(ours[0]) {
            (None, None)
        } else if is_harmless(ours[0]) {
            (Some(own(ours[0])?), None)
        } else {
            let (theirs, to) = pipe()?;
            (Some(theirs), Some(Copy { from: own(ours[0])?, to, limit_bytes: u64::MAX }))
        };
        let out = |fd: BorrowedFd<'_>| -> Result<(Option<OwnedFd>, Option<Copy>), Errno> {
            if is_null(fd) {
                return Ok((None, None));
            }
            if is_harmless(fd) {
                return Ok((Some(own(fd)?), None));
            }
            let (from, theirs) = pipe()?;
            Ok((Some(theirs), Some(Copy { from, to: own(fd)?, limit_bytes })))
        };
        let (output, shown) = out(ours[1])?;
        // `> log 2>&1`: one pipe, so that the lines keep their order.
        let (errors, told) = match &output {
            Some(output) if shown.is_some() && is_same(ours[1], ours[2]) => (Some(own(output.as_fd())?), None),
            _ => out(ours[2])?,
        };
        Ok(Self { theirs: [input, output, errors], copies: [feed, shown, told] })
    }

    /// What the program gets.
    #[must_use]
    pub fn theirs(&self) -> [Option<BorrowedFd<'_>>; 3] {
        [0, 1, 2].map(|index| self.theirs[index].as_ref().map(AsFd::as_fd))
    }

    /// Which of them are the VM's `/dev/null`.
    #[must_use]
    pub fn null(&self) -> [bool; 3] {
        [0, 1, 2].map(|index| self.theirs[index].is_none())
    }

    /// Begins to copy; the program has its streams by now.
    ///
    /// # Errors
    /// When there are no more descriptors or threads.
    pub fn start(self) -> Result<Running, Errno> {
        let begin = |copy: Box<dyn FnOnce() + Send>| {
            let begun = std::thread::Builder::new().spawn(copy);
            begun.map_err(|e| e.raw_os_error().map_or(Errno::AGAIN, Errno::from_raw_os_error))
        };
        let Self { theirs, copies: [feed, shown, told] } = self;
        drop(theirs);
        let (stop, stopped) = pipe_with(PipeFlags::CLOEXEC)?;
        if let Some(copy) = feed {
            let stop = rustix::io::fcntl_dupfd_cloexec(&stop, 3)?;
            // It may wait for our input for ever, and is not waited for.
            drop(begin(Box::new(move || feed_all(&copy, &stop)))?);
        }
        let mut writers = Vec::new();
        for copy in [shown, told].into_iter().flatten() {
            let stop = rustix::io::fcntl_dupfd_cloexec(&stop, 3)?;
            writers.push(begin(Box::new(move || write_all(copy, &stop)))?);
        }
        Ok(Running { stopped, writers })
    }
}

/// Streams that are being copied.
#[derive(Debug)]
pub struct Running {
    stopped: OwnedFd,
    writers: Vec<JoinHandle<()>>,
}

impl Running {
    /// The program has ended: what it wrote is written.
    pub fn finish(self) {
        drop(self.stopped);
        for writer in self.writers {
            let _never_panics = writer.join();
        }
    }
}

/// Whether it is the host's `/dev/null`: device 1:3 (Documentation/admin-guide/devices.txt).
fn is_null(fd: BorrowedFd<'_>) -> bool {
    fs::fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == fs::makedev(1, 3)
    })
}

/// Whether a descriptor gives nothing but what goes through it. A terminal is not passed at all: the VM has its own.
fn is_harmless(fd: BorrowedFd<'_>) -> bool {
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    if rustix::termios::isatty(fd) {
        return true;
    }
    match fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Socket) => true,
        Ok(FileType::Fifo) => fs::fstatfs(fd).is_ok_and(|s| s.f_type == PIPEFS_MAGIC),
        Ok(_) => false,
        // Closed: there is nothing to give.
        Err(_) => true,
    }
}

fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    let id = |fd| fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

/// Our input to the program, until either ends.
fn feed_all(copy: &Copy, stop: &OwnedFd) {
    let mut buffer = vec![0u8; BLOCK_BYTES];
    while wait(&copy.from, PollFlags::IN, stop) {
        match rustix::io::read(&copy.from, &mut buffer[..]) {
            Ok(0) => return,
            Ok(len) => {
                let mut rest = &buffer[..len];
                while !rest.is_empty() {
                    // Only so much that it does not wait: a pipe that polls writable takes a page.
                    let part = &rest[..rest.len().min(4096)];
                    if !wait(&copy.to, PollFlags::OUT, stop) {
                        return;
                    }
                    match rustix::io::write(&copy.to, part) {
                        Ok(written) => rest = &rest[written..],
                        Err(Errno::INTR | Errno::AGAIN) => {}
                        Err(_) => return,
                    }
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// The program's output to our stream: until nobody can write any more, or the program has ended and all of its output
/// is written.
fn write_all(copy: Copy, stop: &OwnedFd) {
    let Copy { from, to, limit_bytes } = copy;
    let mut buffer = vec![0u8; BLOCK_BYTES];
    let mut left_bytes = limit_bytes;
    // What the pipe held when the program ended: what others write into it since is not the program's, and may never end.
    let mut last_bytes = None;
    loop {
        if last_bytes.is_none() && !wait(&from, PollFlags::IN, stop) {
            last_bytes = Some(usize::try_from(rustix::io::ioctl_fionread(&from).unwrap_or(0)).unwrap_or(0));
        }
        let wanted = last_bytes.unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        if wanted == 0 {
            return;
        }
        let len = match rustix::io::read(&from, &mut buffer[..wanted]) {
            Ok(0) => return,
            Ok(len) => len,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(_) => return,
        };
        last_bytes = last_bytes.map(|last| last - len);
        let room = len.min(usize::try_from(left_bytes).unwrap_or(len));
        let has_become_full = room < len && left_bytes > 0;
        left_bytes -= room as u64;
        let mut said = buffer[..room].to_vec();
        if has_become_full {
            said.extend(format!("\n[fvm: what follows {limit_bytes} bytes is left out]\n").as_bytes());
        }
        let mut rest = &said[..];
        while !rest.is_empty() {
            match rustix::io::write(&to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)),
                // A full disk: the program is told, as by any broken pipe.
                Err(_) => return,
            }
        }
    }
}

/// Waits until `fd` is ready; false when it is time to stop.
fn wait(fd: &OwnedFd, flags: PollFlags, stop: &OwnedFd) -> bool {
    loop {
        let mut polled = [PollFd::new(fd, flags), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) if !polled[1].revents().is_empty() => return false,
            Ok(_) if !polled[0].revents().is_empty() => return true,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The bytes that a file of output may have, of a program that nobody watches.
pub const LOG_MAX_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn files_are_copied_and_pipes_are_passed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("in"), vec![b'x'; 200_000]).unwrap();
        let (input, output) = (File::open(path("in")).unwrap(), File::create(path("out")).unwrap());
        let (pipe, _end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let relays = Relays::of([input.as_fd(), output.as_fd(), pipe.as_fd()], 1000).unwrap();
        assert!(relays.copies[0].is_some() && relays.copies[1].is_some() && relays.copies[2].is_none());
        let theirs = relays.theirs().map(|fd| fd.unwrap().try_clone_to_owned().unwrap());
        let running = relays.start().unwrap();
        let [input, output, _] = theirs;
        let mut read = Vec::new();
        File::from(input).read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), 200_000);
        let mut output = File::from(output);
        output.write_all(&[b'y'; 3000]).unwrap();
        // The program's children may hold it open: the end does not wait for them.
        running.finish();
        let text = std::fs::read_to_string(path("out")).unwrap();
        assert!(text.starts_with(&"y".repeat(1000)) && text.ends_with("1000 bytes is left out]\n"), "{}", text.len());
    }

    #[test]
    fn what_goes_on_writing_does_not_hold_up_the_end() {
        let output = tempfile::tempfile().unwrap();
        let relays = Relays::of([output.as_fd(); 3], u64::MAX).unwrap();
        let theirs = relays.theirs()[1].unwrap().try_clone_to_owned().unwrap();
        let running = relays.start().unwrap();
        let (said, told) = std::sync::mpsc::channel();
        for _ in 0..3 {
            let (said, mut pipe) = (said.clone(), File::from(theirs.try_clone().unwrap()));
            std::thread::spawn(move || {
                while pipe.write_all(&[b'y'; 60_000]).is_ok() {
                    let _nobody_listens = said.send(());
                }
            });
        }
        told.recv().unwrap();
        running.finish();
    }

    #[test]
    fn an_unread_input_does_not_hold_up_the_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("in"), vec![0; 1 << 20]).unwrap();
        let input = File::open(dir.path().join("in")).unwrap();
        let relays = Relays::of([input.as_fd(), input.as_fd(), input.as_fd()], 0).unwrap();
        let _unread = relays.theirs()[0].unwrap().try_clone_to_owned().unwrap();
        relays.start().unwrap().finish();
    }
}
