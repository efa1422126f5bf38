//! Starting a program without a copy of the process that starts it: `clone(CLONE_VM)`, and the stub of [`crate::exec`].
//!
//! ```text
//!   caller ── start ──┬── goes on at once; keeps Started, in which the child's stack and words lie
//!                     └── child, on a stack of its own: setsid, streams, umask, directory, execveat(stub)
//!                                                       └─ failed: 5 bytes to `report`: error number, step; exit 127
//! ```
//!
//! A fork copies page tables, and each page that is written afterwards, on both sides: a tenth of a millisecond even for a
//! small process. `CLONE_VFORK` would spare the caller the keeping, but it stands still until the program is executed: where
//! that lies on a file system that does not answer, for ever.
//!
//! A program that will be wanted soon can have its process ahead ([`wait`]): that executes the stub and waits there, and what it is to
//! become comes as a message ([`crate::image`]) when it is known. Then neither who started it nor the stub is on the way any more.
//!
//! Invariants: until it has executed, the child shares the caller's memory, thread-local storage too: it makes system calls by
//! itself (none of libc, which writes `errno`), allocates nothing, drops nothing and writes only what lies in its own
//! [`Started`]; that lives until the child is gone. Descriptors, directory, mask and signal actions are not shared. The caller
//! has no signal handlers.

use crate::exec::{FROM, REPORT, Stub};
use crate::seccomp::Instruction;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The child's stack. Its pages exist only once they are touched.
const STACK_BYTES: usize = 64 << 10;

/// What a child that did not execute its program did last: the fifth byte that it reports.
pub mod step {
    /// The execution, or what cannot be told apart from it.
    pub const EXECUTE: u8 = 0;
    /// Becoming its user.
    pub const USER: u8 = 1;
    /// Entering its directory.
    pub const DIRECTORY: u8 = 2;
}

/// The status of a child that could not execute its program.
pub const NOT_EXECUTED: i32 = 127;

/// A program and how it starts.
#[derive(Debug, Default)]
pub struct Program {
    /// Where it may lie; the first place with a file that may be executed is taken.
    pub places: Vec<CString>,
    /// Its arguments, its name first.
    pub argv: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Its working directory; `/` if that cannot be entered.
    pub directory: CString,
    /// It fails instead.
    pub needs_directory: bool,
    /// Its file mode creation mask.
    pub umask: u32,
}

/// A child that was started, and the memory that it uses until it has executed its program.
#[derive(Debug)]
pub struct Started {
    pid: i32,
    /// From a box.
    memory: NonNull<Memory>,
}

impl Started {
    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: `start` made it of a box, and nobody but this frees it: not under a child that still runs on it.
        unsafe {
            if self.memory.as_ref().in_use.load(Ordering::Acquire) == 0 {
                drop(Box::from_raw(self.memory.as_ptr()));
            }
        }
    }
}

/// All that the child touches.
#[derive(Debug)]
struct Memory {
    stack: Vec<MaybeUninit<u128>>,
    program: Program,
    /// The stub's name, the place, the program's arguments, null.
    argv: Vec<Cell<*const c_char>>,
    env: Vec<*const c_char>,
    streams: [RawFd; 3],
    report: RawFd,
    stub: RawFd,
    /// It waits for its program, from here.
    from: Option<RawFd>,
    /// What it puts on itself before.
    filter: Vec<Instruction>,
    /// Descriptors to close, first and last.
    closed: Vec<(u32, u32)>,
    /// Not 0 while the child runs on this: the kernel clears it (`CLONE_CHILD_CLEARTID`).
    in_use: AtomicU32,
}

/// Starts `program` with the descriptors `streams` as 0, 1 and 2, in a session of its own, with no signal blocked. Where it is not
/// executed, `report` says why, in five bytes: the error number, and what was done last ([`step`]); or four from the stub.
///
/// # Errors
/// The kernel's; `EBADF` when a descriptor is one of the standard ones.
pub fn start(program: Program, streams: [&OwnedFd; 3], report: BorrowedFd<'_>, stub: &Stub) -> Result<Started, Errno> {
    begin(program, streams, report, stub, None)
}

/// For what a process waits.
#[derive(Debug)]
pub enum Until {
    /// Until somebody wants it.
    Wanted,
    /// Until what the caller makes is there, in less than a millisecond: it stays awake for so long. The caller has not put this filter on
    /// itself yet (none if it is empty): the process puts it on itself.
    Made(Vec<Instruction>),
}

/// Starts a process that waits for its program on `from`, a socket of packets of which the other end sends one message ([`crate::image::of`]); it ends
/// when there is nobody at the other end. `streams` are what the message brings none for. When the caller's root becomes another
/// (`pivot_root(2)`), its does too, and there it is when it has the message, if it waits for what is made. All else is as with [`start`], but that where the program
/// is not executed its report may be as short as the stub's.
///
/// # Errors
/// The kernel's; `EBADF` when a descriptor is one of the first five; `ENOSYS` where the stub cannot wait.
pub fn wait(
    streams: [&OwnedFd; 3],
    report: BorrowedFd<'_>,
    stub: &Stub,
    from: BorrowedFd<'_>,
    until: Until,
) -> Result<Started, Errno> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Errno::NOSYS);
    }
    let all =
        streams.map(AsRawFd::as_raw_fd).into_iter().chain([report.as_raw_fd(), from.as_raw_fd(), stub.as_raw_fd()]);
    if { all }.any(|fd| fd <= FROM) {
        return Err(Errno::BADF);
    }
    begin(Program::default(), streams, report, stub, Some((from, until)))
}

fn begin(
    program: Program,
    streams: [&OwnedFd; 3],
    report: BorrowedFd<'_>,
    stub: &Stub,
    waits: Option<(BorrowedFd<'_>, Until)>,
) -> Result<Started, Errno> {
    let [report, stub] = [report.as_raw_fd(), stub.as_raw_fd()];
    let from = waits.as_ref().map(|(from, _)| from.as_raw_fd());
    let streams = streams.map(AsRawFd::as_raw_fd);
    if streams.iter().chain([&report]).any(|fd| *fd < REPORT) || stub <= REPORT {
        return Err(Errno::BADF);
    }
    let closed = crate::process::all_but([report, stub].into_iter().chain(from));
    let words = |first: &[&CStr], rest: &[CString]| -> Vec<*const c_char> {
        let first = first.iter().map(|text| text.as_ptr());
        first.chain(rest.iter().map(|text| text.as_ptr())).chain([std::ptr::null()]).collect()
    };
    // The second is the place, when that is known.
    let (name, second, filter) = match waits {
        None => (crate::exec::NAME, c"", Vec::new()),
        Some((_, Until::Wanted)) => (crate::exec::WAITING, c"", Vec::new()),
        Some((_, Until::Made(filter))) => (crate::exec::WAITING, crate::exec::SOON, filter),
    };
    let argv = words(&[name, second], &program.argv).into_iter().map(Cell::new).collect();
    let env = words(&[], &program.env);
    let stack = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let in_use = AtomicU32::new(1);
    // The strings do not move with the lists that hold them.
    let memory = Box::new(Memory { stack, program, argv, env, streams, report, stub, from, filter, closed, in_use });
    let memory = NonNull::from(Box::leak(memory));
    let mut started = Started { pid: 0, memory };
    let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    // SAFETY: the stack is STACK_BYTES that nothing else uses, aligned to 16, and clone is given its upper end. It and all that the
    // child reads lie in `memory`, which is freed only when the kernel has said that the child no longer runs on it (see
    // Drop). The child's side is `enter`: see the module's invariants.
    let pid = unsafe {
        let Memory { stack, in_use, .. } = memory.as_ref();
        let top = stack.as_ptr().add(stack.capacity()).cast_mut().cast::<c_void>();
        let nothing = std::ptr::null_mut::<c_void>();
        libc::clone(enter, top, flags, memory.as_ptr().cast::<c_void>(), nothing, nothing, in_use.as_ptr())
    };
    if pid == -1 {
        let errno = crate::last_errno();
        // SAFETY: there is no child.
        unsafe { memory.as_ref() }.in_use.store(0, Ordering::Release);
        return Err(errno);
    }
    started.pid = pid;
    Ok(started)
}

extern "C" fn enter(memory: *mut c_void) -> c_int {
    // SAFETY: `start` passes its Memory, which outlives the child's use of it, and which nobody writes meanwhile.
    let memory = unsafe { &*memory.cast::<Memory>() };
    let (step, errno) = memory.become_program();
    let [a, b, c, d] = errno.to_le_bytes();
    let said = [a, b, c, d, step];
    call(libc::SYS_write, [word(memory.report), said.as_ptr() as usize, said.len(), 0, 0]);
    NOT_EXECUTED
}

impl Memory {
    /// Returns only when it failed: at which step, and the error number.
    fn become_program(&self) -> (u8, i32) {
        let program = &self.program;
        call(libc::SYS_setsid, [0; 5]);
        let mut target = 0;
        for stream in self.streams {
            let errno = call(libc::SYS_dup3, [word(stream), target, 0, 0, 0]);
            if errno < 0 {
                return (step::EXECUTE, -errno);
            }
            target = target.wrapping_add(1);
        }
        for (first, last) in &self.closed {
            call(libc::SYS_close_range, [*first as usize, *last as usize, 0, 0, 0]);
        }
        // The kernel's set of signals has 64 bits.
        let none = 0u64;
        let set = (&raw const none) as usize;
        call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, set, 0, size_of::<u64>(), 0]);
        if let Some(from) = self.from {
            let kept = call(libc::SYS_dup3, [word(from), word(FROM), 0, 0, 0]);
            // So that it holds no other directory meanwhile.
            call(libc::SYS_chdir, [address(c"/"), 0, 0, 0, 0]);
            let filtered = self.filter();
            let failed = [kept, filtered].into_iter().find(|result| *result < 0);
            return (step::EXECUTE, failed.map_or_else(|| self.execute_stub(), |errno| -errno));
        }
        call(libc::SYS_umask, [program.umask as usize, 0, 0, 0, 0]);
        let mut errno = call(libc::SYS_chdir, [address(&program.directory), 0, 0, 0, 0]);
        if errno < 0 && program.needs_directory {
            return (step::DIRECTORY, -errno);
        }
        if errno < 0 {
            errno = call(libc::SYS_chdir, [address(c"/"), 0, 0, 0, 0]);
        }
        if errno < 0 {
            return (step::EXECUTE, -errno);
        }
        let Some(place) = self.find() else { return (step::EXECUTE, self.why_not_found()) };
        if let Some(argument) = self.argv.get(1) {
            argument.set(place.as_ptr());
        }
        (step::EXECUTE, self.execute_stub())
    }

    /// Puts its filter on itself; negative: an error number.
    fn filter(&self) -> c_int {
        let Ok(len) = u16::try_from(self.filter.len()) else { return -libc::EINVAL };
        if len == 0 {
            return 0;
        }
        let filter = libc::sock_fprog { len, filter: self.filter.as_ptr().cast_mut() };
        let words = [libc::SECCOMP_SET_MODE_FILTER as usize, 0, (&raw const filter) as usize, 0, 0];
        call(libc::SYS_seccomp, words)
    }

    /// Returns only when it failed: the error number.
    fn execute_stub(&self) -> i32 {
        // Without close-on-exec, for the stub, which sets it.
        let kept = if self.report == REPORT {
            call(libc::SYS_fcntl, [word(self.report), libc::F_SETFD as usize, 0, 0, 0])
        } else {
            call(libc::SYS_dup3, [word(self.report), word(REPORT), 0, 0, 0])
        };
        if kept < 0 {
            return -kept;
        }
        let (argv, env) = (self.argv.as_ptr() as usize, self.env.as_ptr() as usize);
        let flags = libc::AT_EMPTY_PATH as usize;
        -call(libc::SYS_execveat, [word(self.stub), address(c""), argv, env, flags])
    }

    /// The first place with a file that may be executed. One place alone is not looked at: executing it says all.
    fn find(&self) -> Option<&CStr> {
        match self.program.places.as_slice() {
            [only] => Some(only),
            places => places.iter().map(CString::as_c_str).find(|place| is_file(place) && may_execute(place) == 0),
        }
    }

    /// As `execvp(3)`: what is there but may not be executed is worse than what is not there.
    fn why_not_found(&self) -> i32 {
        let is_denied = |place: &CString| matches!(may_execute(place), 0 | libc::EACCES);
        if self.program.places.iter().any(is_denied) { libc::EACCES } else { libc::ENOENT }
    }
}

fn is_file(place: &CStr) -> bool {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let into = found.as_mut_ptr() as usize;
    let wanted = libc::STATX_TYPE as usize;
    if call(libc::SYS_statx, [word(libc::AT_FDCWD), address(place), 0, wanted, into]) < 0 {
        return false;
    }
    // SAFETY: all-zero is a valid statx; the kernel wrote over it.
    let mode = unsafe { found.assume_init_ref().stx_mode };
    u32::from(mode) & libc::S_IFMT == libc::S_IFREG
}

/// 0, or the error number.
fn may_execute(place: &CStr) -> i32 {
    let (mode, flags) = (libc::X_OK as usize, libc::AT_EACCESS as usize);
    -call(libc::SYS_faccessat2, [word(libc::AT_FDCWD), address(place), mode, flags, 0])
}

pub(crate) fn address(text: &CStr) -> usize {
    text.as_ptr() as usize
}

/// As the kernel takes it: sign-extended.
pub(crate) fn word(number: i32) -> usize {
    number as isize as usize
}

/// A system call; what it returns, which is minus an error number when it failed. For calls that return small numbers.
pub(crate) fn call(number: c_long, words: [usize; 5]) -> i32 {
    let [a, b, c, d, e] = words;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: its callers write no memory but what is given for that; the kernel keeps all registers but the three.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: its callers write no memory but what is given for that; the kernel keeps all registers but x0.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            options(nostack),
        );
    }
    result as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;
    use crate::process::{self, Waited};
    use rustix::fd::AsFd;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::Read;

    fn text(words: &[&str]) -> Vec<CString> {
        words.iter().map(|word| CString::new(*word).unwrap()).collect()
    }

    fn high(fd: OwnedFd) -> OwnedFd {
        rustix::io::fcntl_dupfd_cloexec(&fd, 10).unwrap()
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (high(read), high(write))).unwrap()
    }

    fn read(fd: OwnedFd) -> Vec<u8> {
        let mut all = Vec::new();
        std::fs::File::from(fd).read_to_end(&mut all).unwrap();
        all
    }

    /// What it printed, how it ended, what was reported; by each way.
    fn run(program: impl Fn() -> Program) -> (String, Waited, Vec<u8>) {
        let ((out, printed), (result, report)) = (pipe(), pipe());
        let stub = Stub::new().unwrap();
        let started = start(program(), [&printed; 3], report.as_fd(), &stub).unwrap();
        drop((printed, report));
        let (said, reported) = (String::from_utf8(read(out)).unwrap(), read(result));
        let (_, how) = process::wait_blocking(started.pid(), false).unwrap();
        // SAFETY: it is there as long as `started`.
        assert_eq!(unsafe { started.memory.as_ref() }.in_use.load(Ordering::Acquire), 0, "the child has left");
        if cfg!(target_arch = "x86_64") {
            // The stub says no more than why.
            let why = |reported: &[u8]| {
                (reported.get(..4).map(<[u8]>::to_vec), reported.get(4).copied().unwrap_or(step::EXECUTE))
            };
            let soon = || Until::Made(Vec::new());
            for (streams, until) in
                [([true; 3], Until::Wanted), ([false, true, false], Until::Wanted), ([true; 3], soon())]
            {
                let (later, end, its) = run_later(&program(), streams, until);
                assert_eq!((later, end, why(&its)), (said.clone(), how, why(&reported)));
            }
        }
        (said, how, reported)
    }

    fn sockets() -> (OwnedFd, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let kind = SocketType::SEQPACKET;
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map(|(a, b)| (high(a), high(b))).unwrap()
    }

    /// The same of one that waits for its program; with `streams` of the message, the others of its own.
    fn run_later(program: &Program, streams: [bool; 3], until: Until) -> (String, Waited, Vec<u8>) {
        let ((out, printed), (result, report), (to, from)) = (pipe(), pipe(), sockets());
        let null = high(std::fs::File::options().read(true).write(true).open("/dev/null").unwrap().into());
        let stub = Stub::new().unwrap();
        let started = wait([&null; 3], report.as_fd(), &stub, from.as_fd(), until).unwrap();
        drop((report, from));
        // It has left this process's memory before it knows more.
        let began = std::time::Instant::now();
        // SAFETY: it is there as long as `started`.
        while unsafe { started.memory.as_ref() }.in_use.load(Ordering::Acquire) != 0 {
            assert!(began.elapsed().as_secs() < 60, "it has not executed the stub");
            std::thread::yield_now();
        }
        let fds = vec![printed.as_fd(); streams.iter().filter(|is| **is).count()];
        crate::socket::send(&to, &image::of(program, streams).unwrap(), &fds).unwrap();
        drop((to, printed));
        let (said, reported) = (String::from_utf8(read(out)).unwrap(), read(result));
        (said, process::wait_blocking(started.pid(), false).unwrap().1, reported)
    }

    #[test]
    fn one_that_waits_ends_when_nobody_is_there_or_not_all_has_come() {
        if cfg!(not(target_arch = "x86_64")) {
            eprintln!(
                "skipped: one_that_waits_ends_when_nobody_is_there_or_not_all_has_come: this machine's stub cannot wait"
            );
            return;
        }
        let null = high(std::fs::File::open("/dev/null").unwrap().into());
        let stub = Stub::new().unwrap();
        let too_long = [0; crate::exec::IMAGE_MAX_BYTES + 1];
        for (say, why) in [(&[][..], &[][..]), (&too_long, &libc::EMFILE.to_le_bytes())] {
            let ((result, report), (to, from)) = (pipe(), sockets());
            let started = wait([&null; 3], report.as_fd(), &stub, from.as_fd(), Until::Wanted).unwrap();
            drop((report, from));
            if !say.is_empty() {
                crate::socket::send(&to, say, &[]).unwrap();
            }
            drop(to);
            assert_eq!(read(result), why);
            assert_eq!(process::wait_blocking(started.pid(), false).unwrap().1, Waited::Exited(NOT_EXECUTED));
        }
        let long = Program {
            env: vec![CString::new(vec![b'a'; crate::exec::IMAGE_MAX_BYTES]).unwrap()],
            ..Program::default()
        };
        assert_eq!(image::of(&long, [true; 3]), None);
    }

    #[test]
    fn one_that_cannot_have_its_filter_executes_nothing() {
        if cfg!(not(target_arch = "x86_64")) {
            eprintln!("skipped: one_that_cannot_have_its_filter_executes_nothing: this machine's stub cannot wait");
            return;
        }
        // Refused as no program, or, where the caller may install none, as any.
        let none = Until::Made(vec![Instruction { code: u16::MAX, jt: 0, jf: 0, k: 0 }]);
        let (to, from) = sockets();
        let stub = Stub::new().unwrap();
        let started = wait([&from; 3], from.as_fd(), &stub, from.as_fd(), none).unwrap();
        drop(from);
        let mut said = [0; 16];
        let len = crate::socket::receive(&to, &mut said).unwrap().0;
        let errno = i32::from_le_bytes(said[..4].try_into().unwrap());
        assert!(len == 5 && said[4] == step::EXECUTE && [libc::EINVAL, libc::EACCES].contains(&errno), "{said:?}");
        assert_eq!(process::wait_blocking(started.pid(), false).unwrap().1, Waited::Exited(NOT_EXECUTED));
    }

    #[test]
    fn a_program_gets_what_it_was_given_and_nothing_else() {
        let script = "pwd; umask; echo \"$0 $A\"; ls /proc/self/fd | wc -l; grep SigBlk /proc/self/status";
        let program = || Program {
            places: text(&["/nowhere/sh", "/etc/sh", "/bin/sh", "/usr/bin/sh"]),
            argv: text(&["name", "-c", script]),
            env: text(&["A=b", "PATH=/usr/bin:/bin"]),
            directory: c"/etc".into(),
            needs_directory: true,
            umask: 0o27,
        };
        let (said, how, reported) = run(program);
        assert_eq!((how, reported), (Waited::Exited(0), Vec::new()));
        assert_eq!(said, "/etc\n0027\nname b\n4\nSigBlk:\t0000000000000000\n");
    }

    #[test]
    fn a_script_without_a_first_line_is_the_shells() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plain");
        std::fs::write(&path, "echo \"$0|$1|$A\"\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = path.to_str().unwrap();
        let (said, how, reported) = run(|| Program {
            places: text(&["/nowhere/plain", path]),
            argv: text(&["zero", "one"]),
            env: text(&["PATH=/bin", "A=b"]),
            directory: c"/".into(),
            ..Program::default()
        });
        assert_eq!((said, how, reported), (format!("{path}|one|b\n"), Waited::Exited(0), Vec::new()));
    }

    #[test]
    fn what_cannot_be_looked_at_is_passed_over_and_what_is_found_is_executed_and_no_other() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        symlink("loop", at("loop")).unwrap();
        std::fs::write(at("odd"), "#!/no/such/interpreter\n").unwrap();
        std::fs::set_permissions(at("odd"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let run = |places: &[&str]| {
            let (said, how, reported) = run(|| Program {
                places: text(places),
                argv: text(&["sh", "-c", "echo there"]),
                directory: c"/".into(),
                ..Program::default()
            });
            (said, how, reported.get(..4).map(|errno| i32::from_le_bytes(errno.try_into().unwrap())))
        };
        let (long, in_loop, odd) = (format!("/{}/sh", "x".repeat(300)), format!("{}/sh", at("loop")), at("odd"));
        for passed in [&long, &in_loop, "/etc/passwd/sh", "/etc/passwd", "/usr"] {
            assert_eq!(run(&[passed, "/bin/sh"]), ("there\n".to_owned(), Waited::Exited(0), None), "{passed}");
        }
        assert_eq!(run(&[&odd, "/bin/sh"]), (String::new(), Waited::Exited(NOT_EXECUTED), Some(libc::ENOENT)));
        assert_eq!(run(&[&in_loop]), (String::new(), Waited::Exited(NOT_EXECUTED), Some(libc::ELOOP)));
    }

    #[test]
    fn what_keeps_it_from_starting_is_reported() {
        let failed = |places: &[&str], directory: &CStr, needs_directory| {
            run(|| Program {
                places: text(places),
                argv: text(&["x"]),
                directory: directory.into(),
                needs_directory,
                ..Program::default()
            })
        };
        let reported = |errno: i32, step: Option<u8>| errno.to_le_bytes().into_iter().chain(step).collect::<Vec<_>>();
        for (places, directory, needs, expected) in [
            // The stub says so.
            (&["/nowhere"][..], c"/", true, reported(libc::ENOENT, None)),
            (&["/etc/passwd"], c"/", true, reported(libc::EACCES, None)),
            (&["/bin/true"], c"/nowhere", true, reported(libc::ENOENT, Some(step::DIRECTORY))),
            (&[], c"/nowhere", false, reported(libc::ENOENT, Some(step::EXECUTE))),
            (&["/nowhere", "/etc/passwd"], c"/", true, reported(libc::EACCES, Some(step::EXECUTE))),
            (&["/nowhere", "/usr"], c"/", true, reported(libc::EACCES, Some(step::EXECUTE))),
            (&["/etc/passwd/x"], c"/", true, reported(libc::ENOTDIR, None)),
            (&["/etc/passwd/x", "/nowhere"], c"/", true, reported(libc::ENOENT, Some(step::EXECUTE))),
            (&["/nowhere", "/usr", "/nowhere"], c"/", true, reported(libc::EACCES, Some(step::EXECUTE))),
        ] {
            let (_, how, said) = failed(places, directory, needs);
            assert_eq!((how, said), (Waited::Exited(NOT_EXECUTED), expected), "{places:?}");
        }
    }

    #[test]
    fn many_start_while_the_others_run() {
        let stub = Stub::new().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let null = rustix::io::fcntl_dupfd_cloexec(&null, 10).unwrap();
        let started: Vec<Started> = (0..50)
            .map(|code| {
                let argv = text(&["sh", "-c", &format!("exit {code}")]);
                let program =
                    Program { places: text(&["/bin/sh"]), argv, directory: c"/".into(), ..Program::default() };
                start(program, [&null; 3], null.as_fd(), &stub).unwrap()
            })
            .collect();
        for (code, child) in (0..).zip(started) {
            assert_eq!(process::wait_blocking(child.pid(), false).unwrap().1, Waited::Exited(code));
        }
    }
}
