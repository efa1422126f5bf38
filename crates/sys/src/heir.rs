//! A process that goes on in this one's memory when this one has ended.
//!
//! ```text
//!   caller ── new ──┬── goes on ── tell ── ... ── end
//!                   └── child, on a stack of its own: streams, descriptors; waits for that end ─► told: work ─► exit
//!                                                                                            └─ not told: exit
//! ```
//!
//! A fork copies page tables, each side copies the pages that it then writes, and all of it is taken apart when the process ends, while
//! somebody waits for that end. Memory that another process has as well is not taken apart.
//!
//! Invariants: while the caller's process is there, the child makes system calls by itself (none of libc, whose thread-local storage is the
//! caller's), and reads only what lies in its [`Memory`], which lives until the child is gone. Afterwards it is alone in this memory, and
//! whatever was the caller's main thread's is its own. `work` owns what it needs: nothing of the caller's may be freed under it. It takes no
//! lock that another thread may have had, and asks neither for its thread's number nor for thread-local values with destructors; whoever
//! tells it has one thread ([`crate::process::has_one_thread`]).

use crate::spawn::{address, call, word};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

/// Enough for any work, in every build. Its pages exist only once they are touched.
const STACK_BYTES: usize = 1 << 20;
/// Below it: touched, it ends the process.
const GUARD_BYTES: usize = 64 << 10;

/// What it does; its exit status.
type Work = Box<dyn FnOnce() -> u8>;

/// Such a process, which waits.
#[derive(Debug)]
pub struct Heir {
    child: i32,
    /// It is nobody's any more.
    is_told: bool,
    word: OwnedFd,
    /// From a box.
    memory: NonNull<Memory>,
}

/// All that the child touches.
struct Memory {
    stack: Stack,
    /// Descriptors to close, first and last.
    closed: Vec<(u32, u32)>,
    /// The child's, readable when the caller's process has ended.
    ended: RawFd,
    /// The child's, where it is told.
    told: RawFd,
    work: Option<Work>,
}

impl Heir {
    /// Makes it, with no descriptor of this process but `kept`; its streams are nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(kept: &[RawFd], work: Work) -> Result<Self, Errno> {
        let ended = pidfd_open(getpid(), PidfdFlags::empty())?;
        let (told, word) = pipe_with(PipeFlags::CLOEXEC)?;
        let own = [&ended, &told].map(AsRawFd::as_raw_fd);
        let closed = crate::process::all_but(own.into_iter().chain(kept.iter().copied()));
        let memory = Memory { stack: Stack::new()?, closed, ended: own[0], told: own[1], work: Some(work) };
        let memory = NonNull::from(Box::leak(Box::new(memory)));
        // SAFETY: the stack is STACK_BYTES that nothing else uses, aligned to 16, and clone is given its upper end. It and what the
        // child reads lie in `memory`, which is freed only when the child is gone (see Drop). The child's side is `enter`: see the
        // module's invariants.
        let child = unsafe {
            let top = memory.as_ref().stack.top();
            libc::clone(enter, top, libc::CLONE_VM | libc::SIGCHLD, memory.as_ptr().cast::<c_void>())
        };
        if child == -1 {
            let errno = crate::last_errno();
            // SAFETY: of the box above, and there is no child.
            drop(unsafe { Box::from_raw(memory.as_ptr()) });
            return Err(errno);
        }
        // `ended` and `told` are the child's, who has them.
        Ok(Self { child, is_told: false, word, memory })
    }

    /// Has it do its work when this process has ended; false when it is gone. Whoever is killed in the middle of an allocation leaves a
    /// heap with which the work may fail: as little as possible is to come after this.
    #[must_use]
    pub fn tell(mut self) -> bool {
        self.is_told = rustix::io::write(&self.word, b"!") == Ok(1);
        self.is_told
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let Some(child) = Pid::from_raw(self.child).filter(|_| !self.is_told) else {
            // It needs its memory.
            return;
        };
        let _already_gone = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        let _collected = crate::process::wait_blocking(self.child, false);
        // SAFETY: `new` made it of a box, nobody else frees it, and the child is gone.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

extern "C" fn enter(memory: *mut c_void) -> c_int {
    let memory = memory.cast::<Memory>();
    // SAFETY: `new` passes its Memory, which outlives the child's use of it, and which nobody writes meanwhile.
    if unsafe { &*memory }.wait() {
        // SAFETY: the caller's process is gone, and with it all who could look at this.
        let work = unsafe { &mut *memory }.work.take();
        return work.map_or(0, |work| work().into());
    }
    0
}

impl Memory {
    /// Whether it is to work. Until it returns, the caller's process is there.
    fn wait(&self) -> bool {
        call(libc::SYS_setsid, [0; 5]);
        // Nobody may wait for our end of their pipe.
        call(libc::SYS_close_range, [0, 2, 0, 0, 0]);
        for (first, last) in &self.closed {
            call(libc::SYS_close_range, [*first as usize, *last as usize, 0, 0, 0]);
        }
        let null = call(libc::SYS_openat, [word(libc::AT_FDCWD), address(c"/dev/null"), libc::O_RDWR as usize, 0, 0]);
        for target in 1..3 {
            call(libc::SYS_dup3, [word(null), target, 0, 0, 0]);
        }
        // Woken by the word, or by the end of a pipe, it would take a processor from its parent, for whose end somebody waits: that of
        // the whole process is told last.
        let mut ended = libc::pollfd { fd: self.ended, events: libc::POLLIN, revents: 0 };
        let wait = [(&raw mut ended) as usize, 1, 0, 0, size_of::<u64>()];
        let mut polled = -libc::EINTR;
        while polled == -libc::EINTR {
            polled = call(libc::SYS_ppoll, wait);
        }
        let mut byte = 0u8;
        polled == 1 && call(libc::SYS_read, [word(self.told), (&raw mut byte) as usize, 1, 0, 0]) == 1
    }
}

/// Memory for a stack.
struct Stack(NonNull<c_void>);

impl Stack {
    fn new() -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: fresh memory at an address of the kernel's choice.
        let all = unsafe { libc::mmap(std::ptr::null_mut(), GUARD_BYTES + STACK_BYTES, access, flags, -1, 0) };
        if all == libc::MAP_FAILED {
            return Err(crate::last_errno());
        }
        let stack = Self(NonNull::new(all).ok_or(Errno::NOMEM)?);
        // SAFETY: the lower part of what was just mapped, which nobody uses.
        if unsafe { libc::mprotect(all, GUARD_BYTES, libc::PROT_NONE) } == -1 {
            return Err(crate::last_errno());
        }
        Ok(stack)
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of what is mapped.
        unsafe { self.0.as_ptr().byte_add(GUARD_BYTES + STACK_BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody runs on it any more (`Heir`).
        unsafe { libc::munmap(self.0.as_ptr(), GUARD_BYTES + STACK_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;
    use std::time::{Duration, Instant};

    #[test]
    fn it_works_in_the_memory_of_one_who_has_ended_and_only_if_it_was_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("done");
        for told in [true, false] {
            let words = [String::from("left"), String::from("behind")];
            let (kept, open) = (std::fs::File::open("/dev/zero").unwrap(), std::fs::File::open("/dev/zero").unwrap());
            let (zero, closed, done) = (kept.as_raw_fd(), open.as_raw_fd(), file.clone());
            let parent = process::in_child(move || {
                let work = move || {
                    let has = |fd: RawFd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
                    let said = format!("{} {} {:?}", words.join(" "), has(zero).display(), has(closed));
                    std::fs::write(&done, format!("{said} {}", has(0).display())).is_err().into()
                };
                let heir = Heir::new(&[zero], Box::new(work))?;
                if told && !heir.tell() {
                    return Err(Errno::PIPE);
                }
                std::thread::sleep(Duration::from_millis(100));
                Ok(())
            });
            assert_eq!(parent, Ok(()), "{told}");
            let limit = Duration::from_millis(if told { 20_000 } else { 300 });
            let began = Instant::now();
            while std::fs::read(&file).unwrap_or_default().is_empty() && began.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(5));
            }
            let said = std::fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(said, if told { "left behind /dev/zero \"\" /dev/null" } else { "" });
            let _removed = std::fs::remove_file(&file);
        }
    }

    #[test]
    fn one_that_is_not_needed_leaves_nothing() {
        let (still, file) = (std::rc::Rc::new(()), std::fs::File::open("/dev/null").unwrap());
        let owned = (std::rc::Rc::clone(&still), file.try_clone().unwrap());
        let work = move || {
            let owned = &owned;
            u8::from(owned.1.as_raw_fd() < 0)
        };
        let heir = Heir::new(&[], Box::new(work)).unwrap();
        let child = heir.child;
        drop(heir);
        assert_eq!(std::rc::Rc::strong_count(&still), 1);
        assert!(rustix::process::test_kill_process(Pid::from_raw(child).unwrap()).is_err());
    }
}
