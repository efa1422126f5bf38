//! Becoming another program without lending it our own: `execve(2)` by way of a stub.
//!
//! ```text
//!   fvm ── execveat(memfd: the stub) ──► stub ── execve ──► program
//!                                          └─ failed: 4 bytes, the error number, to descriptor 3; exit 127
//! ```
//!
//! A program is named by a path, and in a VM that path may be a link to `/proc/self/exe`, or a script whose interpreter is
//! that: whoever executes it becomes once more what he already is. Were that fvm, the VM would have a process whose
//! `/proc/PID/exe` is the host's fvm, and could write to it (runc's CVE-2019-5736). The stub lies in sealed memory of its
//! own: it can be executed once more, and nothing comes of it.
//!
//! Called "wait" it waits for its program ([`crate::spawn::wait`]; with another word, awake for a while): one message on descriptor 4,
//! which it takes into its own memory at [`IMAGE_AT`], where all that it needs lies ready to be passed to the kernel
//! ([`crate::image`]).
//!
//! Invariants: nothing of fvm but the stub is ever the executable of a process that others in the VM may open; the stub
//! touches only its own stack, and, where it waits, the pages for its program's words.

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// The descriptor to which the stub reports.
pub(crate) const REPORT: libc::c_int = 3;

/// What the stub is called: it knows its caller by it.
pub(crate) const NAME: &CStr = c"run";

/// The same when it shall wait for its program.
pub(crate) const WAITING: &CStr = c"wait";

/// The word after it when that will not be long.
pub(crate) const SOON: &CStr = c"soon";

/// From where it then takes the message.
pub(crate) const FROM: libc::c_int = 4;

/// Where it takes the message to, and how long that may be. In the assembler text below once more.
pub(crate) const IMAGE_AT: u64 = 0x60_0000;
pub(crate) const IMAGE_MAX_BYTES: usize = 0x1_0000;

// In: the stack as the kernel makes it: argc; argv[0], the stub's name; argv[1], the path to execute; argv[2..], its
// arguments; the environment.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.fvm_stub, \"a\", @progbits",
    ".balign 16",
    "fvm_stub_start:",
    // Called by another name it is executed once more, as its own interpreter, say: that must end.
    "mov rax, [rsp + 8]",
    "cmp dword ptr [rax], 0x6e7572",
    "jne 5f",
    // fcntl(3, F_SETFD, FD_CLOEXEC)
    "mov edi, 3",
    "mov esi, 2",
    "mov edx, 1",
    "mov eax, 72",
    "syscall",
    // execve(argv[1], argv + 2, environment)
    "mov rcx, [rsp]",
    "mov rdi, [rsp + 16]",
    "lea rsi, [rsp + 24]",
    "lea rdx, [rsp + rcx * 8 + 16]",
    "mov eax, 59",
    "syscall",
    // ENOEXEC, a script without '#!': as execvp, sh argv[1] argv[3..].
    "cmp eax, -8",
    "jne 2f",
    "mov rcx, [rsp + 16]",
    "mov [rsp + 24], rcx",
    "lea rdi, [rip + 3f]",
    "mov [rsp + 16], rdi",
    "lea rsi, [rsp + 16]",
    "mov rcx, [rsp]",
    "lea rdx, [rsp + rcx * 8 + 16]",
    "mov eax, 59",
    "syscall",
    // write(3, &errno, 4); exit_group(127)
    "2:",
    "neg eax",
    "push rax",
    "mov edi, 3",
    "mov rsi, rsp",
    "mov edx, 4",
    "mov eax, 1",
    "syscall",
    "4:",
    "mov edi, 127",
    "mov eax, 231",
    "syscall",
    "5:",
    "cmp dword ptr [rax], 0x74696177",
    "jne 4b",
    "cmp byte ptr [rax + 4], 0",
    "jne 4b",
    // mmap(IMAGE_AT, IMAGE_MAX_BYTES, READ | WRITE, PRIVATE | FIXED | ANONYMOUS, -1, 0); its first page, ahead
    "mov edi, 0x600000",
    "mov esi, 0x10000",
    "mov edx, 3",
    "mov r10d, 0x32",
    "mov r8, -1",
    "xor r9d, r9d",
    "mov eax, 9",
    "syscall",
    "cmp rax, rdi",
    "jne 4b",
    "mov ebx, 0x600000",
    "mov qword ptr [rbx], 0",
    // fcntl(3, F_SETFD, FD_CLOEXEC)
    "mov edi, 3",
    "mov esi, 2",
    "mov edx, 1",
    "mov eax, 72",
    "syscall",
    // recvmsg(4, {no name; one piece: the image; 64 bytes for descriptors}, CMSG_CLOEXEC)
    "sub rsp, 160",
    "xor eax, eax",
    "mov [rsp], rax",
    "mov [rsp + 8], rax",
    "lea rcx, [rsp + 64]",
    "mov [rsp + 16], rcx",
    "mov qword ptr [rsp + 24], 1",
    "lea rcx, [rsp + 80]",
    "mov [rsp + 32], rcx",
    "mov qword ptr [rsp + 40], 64",
    "mov [rsp + 48], rax",
    "mov [rsp + 64], rbx",
    "mov qword ptr [rsp + 72], 0x10000",
    // What is to come soon is asked for again and again, for as long as that costs less than to be woken: recvmsg(.., DONTWAIT);
    // sched_yield()
    "mov r14d, 1000",
    "xor r15d, r15d",
    "mov rcx, [rsp + 176]",
    "test rcx, rcx",
    "jz 31f",
    "cmp byte ptr [rcx], 0",
    "je 31f",
    "inc r15d",
    "30:",
    "mov edi, 4",
    "mov rsi, rsp",
    "mov edx, 0x40000040",
    "mov eax, 47",
    "syscall",
    "cmp eax, -11",
    "jne 32f",
    "mov eax, 24",
    "syscall",
    "dec r14d",
    "jnz 30b",
    "31:",
    "mov edi, 4",
    "mov rsi, rsp",
    "mov edx, 0x40000000",
    "mov eax, 47",
    "syscall",
    "32:",
    // Nobody is there any more; or not all of it came (TRUNC, CTRUNC): EMFILE, mostly.
    "test rax, rax",
    "jle 4b",
    "mov eax, -24",
    "test dword ptr [rsp + 48], 0x28",
    "jnz 2b",
    // dup3(descriptor, stream, 0) for each stream that comes along
    "lea r12, [rsp + 96]",
    "xor r13d, r13d",
    "6:",
    "mov rax, [rbx + 48]",
    "bt rax, r13",
    "jnc 7f",
    "mov edi, [r12]",
    "add r12, 4",
    "mov esi, r13d",
    "xor edx, edx",
    "mov eax, 292",
    "syscall",
    "test eax, eax",
    "js 2b",
    "7:",
    "inc r13d",
    "cmp r13d, 3",
    "jl 6b",
    // close_range(4, all, 0); umask
    "mov edi, 4",
    "mov esi, -1",
    "xor edx, edx",
    "mov eax, 436",
    "syscall",
    "mov edi, [rbx + 32]",
    "mov eax, 95",
    "syscall",
    // Where it waited awake its caller has another root by now: chdir("/"). chdir(directory), or there, where it is.
    "test r15d, r15d",
    "jz 29f",
    "lea rdi, [rip + 26f]",
    "mov eax, 80",
    "syscall",
    "test eax, eax",
    "js 2b",
    "29:",
    "mov rdi, [rbx + 24]",
    "cmp word ptr [rdi], 0x2f",
    "je 8f",
    "mov eax, 80",
    "syscall",
    "test eax, eax",
    "jns 8f",
    "cmp qword ptr [rbx + 40], 0",
    "jne 25f",
    "8:",
    // The first place with a file that may be executed (`Memory::find` in `spawn.rs`); one place alone is not looked at.
    "mov r12, [rbx + 16]",
    "mov r13d, -2",
    "cmp qword ptr [r12], 0",
    "je 23f",
    "cmp qword ptr [r12 + 8], 0",
    "je 22f",
    "sub rsp, 256",
    // faccessat2(AT_FDCWD, place, X_OK, AT_EACCESS): what is there but may not be executed is what is said in the end
    "9:",
    "mov rsi, [r12]",
    "test rsi, rsi",
    "jz 23f",
    "mov edi, -100",
    "mov edx, 1",
    "mov r10d, 0x200",
    "mov eax, 439",
    "syscall",
    "cmp eax, -13",
    "je 27f",
    "test eax, eax",
    "jnz 28f",
    // statx(AT_FDCWD, place, 0, STATX_TYPE, the stack): a regular file?
    "mov edi, -100",
    "mov rsi, [r12]",
    "xor edx, edx",
    "mov r10d, 1",
    "mov r8, rsp",
    "mov eax, 332",
    "syscall",
    "test eax, eax",
    "js 27f",
    "movzx eax, word ptr [rsp + 28]",
    "and eax, 0xf000",
    "cmp eax, 0x8000",
    "je 22f",
    "27:",
    "mov r13d, -13",
    "28:",
    "add r12, 8",
    "jmp 9b",
    "23:",
    "mov eax, r13d",
    "jmp 2b",
    // execve(place, argv, environment)
    "22:",
    "mov rdi, [r12]",
    "mov rsi, [rbx]",
    "mov rdx, [rbx + 8]",
    "mov eax, 59",
    "syscall",
    "cmp eax, -8",
    "jne 2b",
    // A script without '#!': sh place argv[1..]; there is room for one more before argv.
    "mov rsi, [rbx]",
    "mov rdi, [r12]",
    "mov [rsi], rdi",
    "lea rdi, [rip + 3f]",
    "sub rsi, 8",
    "mov [rsi], rdi",
    "mov rdx, [rbx + 8]",
    "mov eax, 59",
    "syscall",
    "jmp 2b",
    // The directory: write(3, {errno, step::DIRECTORY}, 5)
    "25:",
    "neg eax",
    "push 2",
    "shl qword ptr [rsp], 32",
    "or [rsp], rax",
    "mov edi, 3",
    "mov rsi, rsp",
    "mov edx, 5",
    "mov eax, 1",
    "syscall",
    "jmp 4b",
    "3: .asciz \"/bin/sh\"",
    "26: .asciz \"/\"",
    "fvm_stub_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.fvm_stub, \"a\", @progbits",
    ".balign 16",
    "fvm_stub_start:",
    "ldr x9, [sp, #8]",
    "ldr w9, [x9]",
    "movz w10, #0x7572",
    "movk w10, #0x6e, lsl #16",
    "cmp w9, w10",
    "b.ne 4f",
    "mov x0, #3",
    "mov x1, #2",
    "mov x2, #1",
    "mov x8, #25",
    "svc #0",
    "ldr x9, [sp]",
    "ldr x0, [sp, #16]",
    "add x1, sp, #24",
    "add x2, sp, x9, lsl #3",
    "add x2, x2, #16",
    "mov x8, #221",
    "svc #0",
    "cmn x0, #8",
    "b.ne 2f",
    "ldr x3, [sp, #16]",
    "str x3, [sp, #24]",
    "adr x0, 3f",
    "str x0, [sp, #16]",
    "add x1, sp, #16",
    "ldr x9, [sp]",
    "add x2, sp, x9, lsl #3",
    "add x2, x2, #16",
    "mov x8, #221",
    "svc #0",
    "2:",
    "neg w0, w0",
    "str w0, [sp, #-16]!",
    "mov x0, #3",
    "mov x1, sp",
    "mov x2, #4",
    "mov x8, #64",
    "svc #0",
    "4:",
    "mov x0, #127",
    "mov x8, #94",
    "svc #0",
    "3: .asciz \"/bin/sh\"",
    "fvm_stub_end:",
    ".popsection",
);

unsafe extern "C" {
    static fvm_stub_start: u8;
    static fvm_stub_end: u8;
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// The stub as an ELF executable: one header, one loadable segment, the code.
fn image() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let start = &raw const fvm_stub_start;
    let end = &raw const fvm_stub_end;
    // SAFETY: both symbols delimit the bytes of one section of this program, which is mapped readable for its whole life.
    let code = unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    let len = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend(2u16.to_le_bytes());
    elf.extend(MACHINE.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable.
    elf.extend(1u32.to_le_bytes());
    elf.extend(5u32.to_le_bytes());
    for word in [0, BASE, BASE, len, len, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// The stub, ready to be executed: any number of times, by any number of processes.
#[derive(Debug)]
pub struct Stub(OwnedFd);

impl Stub {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Self, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let stub = match memfd_create("run", flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 all such memory can be executed.
            Err(Errno::INVAL) => memfd_create("run", flags)?,
            made => made?,
        };
        let image = image();
        if rustix::io::write(&stub, &image)? != image.len() {
            return Err(Errno::NOSPC);
        }
        fcntl_add_seals(&stub, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // Its own place in the table must not be one of those that it uses.
        let is_free = stub.as_raw_fd() > FROM;
        Ok(Self(if is_free { stub } else { rustix::io::fcntl_dupfd_cloexec(&stub, FROM + 1)? }))
    }
}

impl AsRawFd for Stub {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Becomes the program at `path`. `report` gets the error number as four bytes when that fails later than here; it is
/// closed when it succeeds. Descriptor 3 must be free, or be `report`.
///
/// Returns only when it failed at once, with the reason.
#[must_use]
pub fn execute(path: &CStr, argv: &[CString], env: &[CString], report: BorrowedFd<'_>) -> Errno {
    match try_execute(path, argv, env, report) {
        Ok(never) => match never {},
        Err(e) => e,
    }
}

fn try_execute(
    path: &CStr,
    argv: &[CString],
    env: &[CString],
    report: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, Errno> {
    let stub = Stub::new()?;
    let fd = report.as_raw_fd();
    // SAFETY: dup2 and F_SETFD change the descriptor table only; nothing in this process owns descriptor 3 but the
    // caller's `report`.
    let kept = unsafe { if fd == REPORT { libc::fcntl(fd, libc::F_SETFD, 0) } else { libc::dup2(fd, REPORT) } };
    if kept < 0 {
        return Err(crate::last_errno());
    }
    let mut arguments: Vec<*const libc::c_char> = vec![NAME.as_ptr(), path.as_ptr()];
    arguments.extend(argv.iter().map(|a| a.as_ptr()));
    arguments.push(std::ptr::null());
    let mut variables: Vec<*const libc::c_char> = env.iter().map(|v| v.as_ptr()).collect();
    variables.push(std::ptr::null());
    // SAFETY: the path is empty and NUL-terminated; both arrays end with a null pointer and point to strings that live
    // past the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            stub.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            variables.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Err(crate::last_errno())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, Fork, Waited};
    use rustix::fd::AsFd;

    /// What the program's child printed and how it ended, and what the stub reported.
    fn run(path: &str, argv: &[&str], env: &[&str]) -> (String, Waited, Vec<u8>) {
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (out, printed) = rustix::pipe::pipe_with(flags).unwrap();
        let (result, report) = rustix::pipe::pipe_with(flags).unwrap();
        let text = |s: &&str| CString::new(*s).unwrap();
        let (argv, env): (Vec<_>, Vec<_>) = (argv.iter().map(text).collect(), env.iter().map(text).collect());
        let path = CString::new(path).unwrap();
        match process::fork().unwrap() {
            Fork::Child => {
                let _kept = process::install_stdio(printed.as_raw_fd(), 1);
                // Above the descriptors that the stub uses.
                let high = rustix::io::fcntl_dupfd_cloexec(&report, 100).unwrap();
                process::close_all_but(&[high.as_raw_fd()]);
                let errno = execute(&path, &argv, &env, high.as_fd());
                let _gone = rustix::io::write(&high, &errno.raw_os_error().to_le_bytes());
                process::exit_now(99);
            }
            Fork::Parent(pid) => {
                drop((printed, report));
                let read = |fd| {
                    let mut all = Vec::new();
                    std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut all).unwrap();
                    all
                };
                let said = String::from_utf8(read(out)).unwrap();
                let reported = read(result);
                let (_, how) = process::wait_blocking(pid.as_raw_nonzero().get(), false).unwrap();
                (said, how, reported)
            }
        }
    }

    #[test]
    fn a_program_gets_its_arguments_and_environment_and_no_other_descriptor() {
        let script = "echo \"$0 $1 $A\"; ls /proc/self/fd | wc -l; readlink /proc/$$/exe";
        let (said, how, report) = run("/bin/sh", &["sh", "-c", script, "name", "one"], &["A=b", "PATH=/usr/bin:/bin"]);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines[0], how, report.len()), ("name one b", Waited::Exited(0), 0));
        // Three streams, and the directory that ls reads.
        assert_eq!(lines[1], "4", "{said}");
        assert!(!lines[2].contains("memfd"), "{said}");
    }

    #[test]
    fn what_cannot_be_executed_is_reported_by_its_number() {
        for (path, errno) in [("/nowhere", Errno::NOENT), ("/etc/passwd", Errno::ACCESS), ("/proc", Errno::ACCESS)] {
            let (_, how, report) = run(path, &["x"], &[]);
            assert_eq!((how, report), (Waited::Exited(127), errno.raw_os_error().to_le_bytes().to_vec()), "{path}");
        }
    }

    #[test]
    fn a_script_without_a_first_line_is_the_shells_and_the_stub_itself_is_nobodys() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (said, ..) = run(&file("plain", "echo \"$0|$1\"\n"), &["zero", "one"], &["PATH=/bin"]);
        assert!(said.ends_with("plain|one\n"), "{said}");
        // Executed once more, the stub ends.
        let (_, how, _) = run(&file("lure", "#!/proc/self/exe\n"), &["x"], &[]);
        assert_eq!(how, Waited::Exited(127));
    }
}
