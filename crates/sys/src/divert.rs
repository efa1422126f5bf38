//! A thread that makes one system call makes another one instead: `ptrace(2)`, `PTRACE_SEIZE`.
//!
//! ```text
//!   the thread waits in a call (fanotify, say)
//!   Held::seize ─► whoever lets it wait refuses it ─► stopped ─► divert(execve: path, argv) ─► detach
//!                                                       │          memory below its stack
//!                                                       └► drop: it goes on with the refusal
//! ```
//!
//! Invariants: nothing here blocks: whoever waits polls; the thread's memory and registers are touched only while it is
//! stopped at the end of the call; when a new program does not start, it goes on with its registers as they were. Only one
//! thread of this process, the one that seized it, can do anything with it (`ptrace(2)`): a [`Held`] does not move.

use rustix::io::Errno;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;

/// Whether this machine's registers are known here.
pub const KNOWN: bool = cfg!(target_arch = "x86_64");

/// `linux/ptrace.h`.
const PTRACE_EVENT_EXEC: i32 = 4;
const PTRACE_EVENT_STOP: i32 = 128;
const PTRACE_O_TRACESYSGOOD: libc::c_long = 1;
const PTRACE_O_TRACEEXEC: libc::c_long = 1 << 4;
/// Stop signal of a stop at a system call.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// What a program may keep below its stack pointer (System V ABI), and some.
const RED_ZONE: u64 = 256;

/// The program that is to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path.
    pub path: std::ffi::OsString,
    /// Its arguments, the name included.
    pub argv: Vec<std::ffi::OsString>,
    /// Its variables.
    pub environment: Environment,
}

/// Where the variables of a program are in the memory of the thread that executes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environment {
    /// Here is the array of pointers, as `execve` takes it.
    At(u64),
    /// Here are the texts.
    Texts(Vec<u64>),
}

/// How a seized thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not stopped yet.
    Runs,
    /// Stopped between calls, as asked.
    Stopped,
    /// Stopped at the beginning or the end of a call.
    AtCall,
    /// It executes the new program.
    Executed,
    /// A signal is about to be delivered.
    Signal(i32),
    /// It is gone.
    Gone,
}

/// A thread that is traced by this one.
#[derive(Debug)]
pub struct Held {
    tid: i32,
    /// The process, whose id the thread has after an exec.
    pid: i32,
    /// Stopped, so that it can be let go.
    stopped: bool,
    gone: bool,
    not_send: PhantomData<*const ()>,
}

impl Held {
    /// Traces the thread `tid` of process `pid`, and asks it to stop at the end of its call. May wait for a lock that an
    /// exec of that process holds; a signal ends that.
    ///
    /// # Errors
    /// The kernel's: `EPERM` when it is traced already, or must not be.
    pub fn seize(tid: i32, pid: i32) -> Result<Self, Errno> {
        let options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC;
        request(libc::PTRACE_SEIZE as libc::c_long, tid, 0, options)?;
        let held = Self { tid, pid, stopped: false, gone: false, not_send: PhantomData };
        request(libc::PTRACE_INTERRUPT as libc::c_long, tid, 0, 0)?;
        Ok(held)
    }

    /// What became of it; does not wait.
    ///
    /// # Errors
    /// The kernel's.
    pub fn look(&mut self) -> Result<State, Errno> {
        // A thread that executes a program gets the id of its process; before, that is another thread, which we do not trace.
        let ids = if self.tid == self.pid { [Some(self.tid), None] } else { [Some(self.tid), Some(self.pid)] };
        let mut strangers = true;
        for id in ids.into_iter().flatten() {
            let mut status = 0;
            // SAFETY: `status` is a valid int for the call's duration.
            let got = unsafe { libc::waitpid(id, &raw mut status, libc::WNOHANG | libc::__WALL) };
            if got == id {
                return Ok(self.moved(id, status));
            }
            strangers &= got < 0 && crate::last_errno() == Errno::CHILD;
        }
        self.gone = strangers;
        Ok(if strangers { State::Gone } else { State::Runs })
    }

    fn moved(&mut self, id: i32, status: i32) -> State {
        if !libc::WIFSTOPPED(status) {
            self.gone = true;
            return State::Gone;
        }
        self.stopped = true;
        self.tid = id;
        match (libc::WSTOPSIG(status), status >> 16) {
            (_, PTRACE_EVENT_EXEC) => State::Executed,
            (_, PTRACE_EVENT_STOP) => State::Stopped,
            (SYSCALL_STOP, _) => State::AtCall,
            (signal, _) => State::Signal(signal),
        }
    }

    /// Lets it go on to the next beginning or end of a call, with this signal (0: none).
    ///
    /// # Errors
    /// The kernel's.
    pub fn go_on(&mut self, signal: i32) -> Result<(), Errno> {
        self.stopped = false;
        request(libc::PTRACE_SYSCALL as libc::c_long, self.tid, 0, libc::c_long::from(signal))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        if !self.stopped {
            // Only one that is stopped can be let go; it stops soon, or dies with this thread's end, which lets it go too.
            for _ in 0..1000 {
                match self.look() {
                    Ok(State::Runs) => std::thread::sleep(std::time::Duration::from_micros(200)),
                    _ => break,
                }
            }
        }
        let _gone = request(libc::PTRACE_DETACH as libc::c_long, self.tid, 0, 0);
    }
}

fn request(what: libc::c_long, tid: i32, address: u64, data: libc::c_long) -> Result<(), Errno> {
    // SAFETY: the requests used here take numbers, or a pointer to a value of theirs that the caller keeps alive.
    match unsafe { libc::syscall(libc::SYS_ptrace, what, tid, address, data) } {
        0.. => Ok(()),
        _ => Err(crate::last_errno()),
    }
}

/// The registers as they were, to give them back when the program does not start.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Registers(libc::user_regs_struct);

#[cfg(target_arch = "x86_64")]
impl std::fmt::Debug for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registers(rip {:#x}, rsp {:#x})", self.0.rip, self.0.rsp)
    }
}

#[cfg(target_arch = "x86_64")]
impl Held {
    /// Its registers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn registers(&self) -> Result<Registers, Errno> {
        // SAFETY: user_regs_struct is plain numbers; PTRACE_GETREGS writes one where `data` points.
        let mut registers = unsafe { std::mem::zeroed::<libc::user_regs_struct>() };
        request(libc::PTRACE_GETREGS as libc::c_long, self.tid, 0, (&raw mut registers) as libc::c_long)?;
        Ok(Registers(registers))
    }

    /// Gives it these registers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_registers(&self, registers: &Registers) -> Result<(), Errno> {
        request(libc::PTRACE_SETREGS as libc::c_long, self.tid, 0, (&raw const registers.0) as libc::c_long)
    }

    /// Makes it begin `execve` of this program when it goes on, instead of what follows the call that it is at the end of.
    /// Returns its registers as they were.
    ///
    /// # Errors
    /// `ENOSYS` for 32-bit programs, and when it is not just behind a call; `EFAULT` or `E2BIG` when there is no room below its
    /// stack pointer.
    pub fn divert(&self, program: &Program) -> Result<Registers, Errno> {
        /// So much fits into what every stack has.
        const MAX_BYTES: usize = 96 << 10;
        let before = self.registers()?;
        let mut registers = before.0;
        // 64-bit code segment; `syscall` is two bytes long.
        let mut instruction = [0; 2];
        read_memory(self.tid, registers.rip.wrapping_sub(2), &mut instruction)?;
        if registers.cs != 0x33 || instruction != [0x0f, 0x05] || registers.orig_rax > i64::MAX as u64 {
            return Err(Errno::NOSYS);
        }
        let mut texts = Vec::new();
        let mut at = Vec::new();
        for text in [&program.path].into_iter().chain(&program.argv) {
            at.push(texts.len() as u64);
            texts.extend_from_slice(text.as_bytes());
            texts.push(0);
        }
        let variables = match &program.environment {
            Environment::At(_) => &[][..],
            Environment::Texts(texts) => texts,
        };
        let pointers = (program.argv.len() + 1 + variables.len() + 1) * 8;
        if texts.len() + pointers > MAX_BYTES {
            return Err(Errno::TOOBIG);
        }
        let top = registers.rsp.wrapping_sub(RED_ZONE);
        let texts_at = top.wrapping_sub(texts.len() as u64) & !15;
        let argv_at = texts_at.wrapping_sub(pointers as u64) & !15;
        let mut argv = Vec::with_capacity(pointers);
        for offset in &at[1..] {
            argv.extend_from_slice(&texts_at.wrapping_add(*offset).to_ne_bytes());
        }
        argv.extend_from_slice(&[0; 8]);
        let environment = match program.environment {
            Environment::At(at) => at,
            Environment::Texts(_) => argv_at.wrapping_add(argv.len() as u64),
        };
        for text in variables {
            argv.extend_from_slice(&text.to_ne_bytes());
        }
        argv.extend_from_slice(&[0; 8]);
        write_memory(self.tid, texts_at, &texts)?;
        write_memory(self.tid, argv_at, &argv)?;
        // A signal handler that runs before the call finds its own stack below all this.
        registers.rsp = argv_at.wrapping_sub(RED_ZONE) & !15;
        registers.rdi = texts_at;
        registers.rsi = argv_at;
        registers.rdx = environment;
        registers.rax = libc::SYS_execve as u64;
        // No call is to be restarted.
        registers.orig_rax = u64::MAX;
        registers.rip = registers.rip.wrapping_sub(2);
        self.set_registers(&Registers(registers))?;
        Ok(before)
    }
}

/// Reads memory of a thread.
///
/// # Errors
/// The kernel's; `EFAULT` when not all of it is there.
pub fn read_memory(tid: i32, at: u64, into: &mut [u8]) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: the local part is a slice of ours; the remote one is only an address, which the kernel checks.
    let got = unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) };
    all(got, into.len())
}

/// Reads a NUL-terminated text of a thread, without its end.
///
/// # Errors
/// The kernel's; `ENAMETOOLONG` when it is longer than `max_bytes`.
pub fn read_text(tid: i32, at: u64, max_bytes: usize) -> Result<Vec<u8>, Errno> {
    /// No read crosses a page: the next one may not be there.
    const PAGE: u64 = 4096;
    let mut text = Vec::new();
    let mut at = at;
    while text.len() <= max_bytes {
        let mut part = vec![0; usize::try_from(PAGE - at % PAGE).unwrap_or(1)];
        read_memory(tid, at, &mut part)?;
        if let Some(end) = part.iter().position(|b| *b == 0) {
            text.extend_from_slice(&part[..end]);
            return if text.len() <= max_bytes { Ok(text) } else { Err(Errno::NAMETOOLONG) };
        }
        at = at.wrapping_add(part.len() as u64);
        text.append(&mut part);
    }
    Err(Errno::NAMETOOLONG)
}

fn write_memory(tid: i32, at: u64, from: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: from.len() };
    // SAFETY: the local part is only read; the remote one is only an address, which the kernel checks.
    let got = unsafe { libc::process_vm_writev(tid, &raw const local, 1, &raw const remote, 1, 0) };
    all(got, from.len())
}

fn all(got: isize, len: usize) -> Result<(), Errno> {
    match usize::try_from(got) {
        Ok(got) if got == len => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(_) => Err(crate::last_errno()),
    }
}
