//! Which system calls are captured, when, and what their arguments are: the one table.
//!
//! ```text
//!   number ─► Call { kind, when: by level, file, to, fields, more }
//!                          │               └──────┴─ read when it has come
//!                          └─ looked at by the filter in the kernel: only values in registers
//! ```
//!
//! Invariant: what decides in the kernel whether a call is captured is never a pointer's target.

use fvm_model::Level;
use fvm_model::event::{Group, Kind};

/// When a call is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Never.
    Never,
    /// Each time.
    Always,
    /// When the argument has one of these bits.
    Any(u8, u32),
    /// When it has both of these bits.
    Both(u8, u32, u32),
    /// When it has one of the first bits, or none of the second.
    AnyOrNone(u8, u32, u32),
    /// When it is not null.
    Given(u8),
}

/// Whether a link as the last name is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It is unless the argument has this bit.
    Unless(u8, u64),
    /// It is if the argument has this bit.
    If(u8, u64),
}

/// Which file an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// None.
    Nothing,
    /// The path at this argument.
    Path(u8, Follow),
    /// The path at the second argument, from the directory in the first one.
    At(u8, u8, Follow),
    /// The open file.
    Fd(u8),
    /// Text that is not looked up: what a symbolic link holds.
    Text(u8),
}

/// A number that is written down as it stands in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// [`fvm_model::event::Args::flags`].
    Flags,
    /// [`fvm_model::event::Args::mode`].
    Mode,
    /// [`fvm_model::event::Args::uid`].
    Uid,
    /// [`fvm_model::event::Args::gid`].
    Gid,
    /// [`fvm_model::event::Args::pid`].
    Pid,
    /// [`fvm_model::event::Args::signal`].
    Signal,
}

/// What else is special about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// Nothing.
    Nothing,
    /// The arguments of a program.
    Argv(u8),
    /// The process, or one thread of it, ends; with this exit code.
    Exit {
        /// Only the thread.
        thread: bool,
    },
    /// A socket address, and its length.
    Address(u8, u8),
    /// A name.
    Name(u8),
    /// The call's own name.
    CallName,
    /// `struct open_how`.
    OpenHow(u8),
    /// What the tracer knows of the process's place is not so any more.
    Moves,
    /// To oneself it is nothing.
    ToOthers,
    /// What it makes may become its maker's child.
    Sibling,
}

/// A captured call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// What it is in the log.
    pub kind: Kind,
    basic: When,
    full: When,
    /// What it is done to.
    pub file: File,
    /// The other file.
    pub to: File,
    /// Arguments that are written down.
    pub fields: &'static [(Field, u8)],
    /// What else.
    pub more: More,
}

impl Call {
    /// Of an open, its flags, where they are in a register.
    #[must_use]
    pub fn open_flags(&self, arguments: &[u64; 6]) -> Option<u64> {
        let flags = self.fields.iter().find(|(field, _)| *field == Field::Flags).filter(|_| self.kind == Kind::Open);
        flags.map(|(_, index)| arguments[usize::from(*index)])
    }

    /// When it is captured at `level`.
    #[must_use]
    pub fn when(&self, level: Level) -> When {
        match level {
            Level::Off => When::Never,
            // The same as at the next level, but for all that is done to files.
            Level::Programs if self.kind.group() == Group::File => When::Never,
            Level::Programs | Level::Basic => self.basic,
            Level::Full => self.full,
        }
    }

    const fn to(self, to: File) -> Self {
        Self { to, ..self }
    }

    const fn more(self, more: More) -> Self {
        Self { more, ..self }
    }
}

const fn call(
    name: &'static str,
    number: libc::c_long,
    kind: Kind,
    (basic, full): (When, When),
    file: File,
    fields: &'static [(Field, u8)],
) -> Call {
    Call { name, number: number as u32, kind, basic, full, file, to: File::Nothing, fields, more: More::Nothing }
}

const ALWAYS: (When, When) = (When::Always, When::Always);
const FULL: (When, When) = (When::Never, When::Always);

/// `O_WRONLY | O_RDWR | O_CREAT | O_TRUNC`.
const WRITES: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;
/// Whether an open with these flags can change a file.
#[must_use]
pub fn writes(flags: u64) -> bool {
    flags & u64::from(WRITES) != 0
}
/// Whether an open with these flags gives no content: of a directory, or of a place.
#[must_use]
pub fn gives_no_content(flags: u64) -> bool {
    flags & u64::from(NO_CONTENT) != 0
}
/// `O_DIRECTORY | O_PATH`.
const NO_CONTENT: u32 = (libc::O_DIRECTORY | libc::O_PATH) as u32;
/// At the full level those for reading wait too, if they give content: which of them are written down is [`super::secret`]'s.
const fn opens(flags: u8) -> (When, When) {
    (When::Any(flags, WRITES), When::AnyOrNone(flags, WRITES, NO_CONTENT))
}
/// Set-uid, set-gid and execute bits: what a mode can give a file.
const POWERS: u32 = 0o6111;
const PROT_WRITE: u32 = libc::PROT_WRITE as u32;
const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const CODE: (When, When) = (When::Never, When::Both(2, PROT_WRITE, PROT_EXEC));
/// Mount and user namespaces.
const PLACES: u32 = (libc::CLONE_NEWNS | libc::CLONE_NEWUSER) as u32;
const NAMESPACES: u32 = PLACES
    | (libc::CLONE_NEWCGROUP | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWPID | libc::CLONE_NEWNET)
        as u32;
/// Bits that `PTRACE_ATTACH` (16) and `PTRACE_SEIZE` (0x4206) have, and the requests of few others.
const ATTACHES: u32 = 0x4010;
/// Whether a `ptrace` request takes another process over.
#[must_use]
pub fn takes_over(request: u64) -> bool {
    matches!(request, 16 | 0x4206)
}
/// `CLONE_PARENT`: what is made becomes its maker's sibling.
pub const SIBLING: u64 = libc::CLONE_PARENT as u64;
const CLONES: (When, When) = (When::Any(0, SIBLING as u32), When::Any(0, NAMESPACES | SIBLING as u32));
/// `clone3`, whose flags lie in memory: where a log is kept programs take `clone`, whose flags are seen.
pub const UNSEEN_CLONE: u32 = libc::SYS_clone3 as u32;
const FOLLOWS: u64 = libc::AT_SYMLINK_FOLLOW as u64;
const NOFOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;

const NONE: File = File::Nothing;
const fn entry(path: u8) -> File {
    File::Path(path, Follow::No)
}
const fn target(path: u8) -> File {
    File::Path(path, Follow::Yes)
}
const fn entry_at(dir: u8) -> File {
    File::At(dir, dir + 1, Follow::No)
}
const fn target_at(dir: u8) -> File {
    File::At(dir, dir + 1, Follow::Yes)
}
const fn at_unless(flags: u8) -> File {
    File::At(0, 1, Follow::Unless(flags, NOFOLLOW))
}

use Field::{Flags, Gid, Mode, Pid, Signal, Uid};

/// The calls, on every architecture.
const CALLS: &[Call] = &[
    call("execve", libc::SYS_execve, Kind::Exec, ALWAYS, target(0), &[]).more(More::Argv(1)),
    call("execveat", libc::SYS_execveat, Kind::Exec, ALWAYS, target_at(0), &[(Flags, 4)]).more(More::Argv(2)),
    call("exit_group", libc::SYS_exit_group, Kind::Exit, ALWAYS, NONE, &[]).more(More::Exit { thread: false }),
    call("exit", libc::SYS_exit, Kind::Exit, ALWAYS, NONE, &[]).more(More::Exit { thread: true }),
    call("setsid", libc::SYS_setsid, Kind::Setsid, ALWAYS, NONE, &[]).more(More::Moves),
    call("chroot", libc::SYS_chroot, Kind::Chroot, ALWAYS, target(0), &[]).more(More::Moves),
    call("pivot_root", libc::SYS_pivot_root, Kind::Chroot, ALWAYS, target(0), &[]).to(target(1)).more(More::Moves),
    call("setns", libc::SYS_setns, Kind::Setns, ALWAYS, NONE, &[(Flags, 1)]).more(More::Moves),
    call(
        "unshare",
        libc::SYS_unshare,
        Kind::Unshare,
        (When::Any(0, PLACES), When::Any(0, NAMESPACES)),
        NONE,
        &[(Flags, 0)],
    )
    .more(More::Moves),
    call("clone", libc::SYS_clone, Kind::Unshare, CLONES, NONE, &[(Flags, 0)]).more(More::Sibling),
    call("connect", libc::SYS_connect, Kind::Connect, ALWAYS, NONE, &[]).more(More::Address(1, 2)),
    call("bind", libc::SYS_bind, Kind::Bind, ALWAYS, NONE, &[]).more(More::Address(1, 2)),
    call("listen", libc::SYS_listen, Kind::Listen, ALWAYS, NONE, &[]),
    call("sendto", libc::SYS_sendto, Kind::Send, (When::Given(4), When::Given(4)), NONE, &[]).more(More::Address(4, 5)),
    call("openat", libc::SYS_openat, Kind::Open, opens(2), target_at(0), &[(Flags, 2), (Mode, 3)]),
    call("openat2", libc::SYS_openat2, Kind::Open, (When::Always, When::Never), target_at(0), &[])
        .more(More::OpenHow(2)),
    call("truncate", libc::SYS_truncate, Kind::Truncate, ALWAYS, target(0), &[]),
    call("mkdirat", libc::SYS_mkdirat, Kind::Mkdir, ALWAYS, entry_at(0), &[(Mode, 2)]),
    call("mknodat", libc::SYS_mknodat, Kind::Mknod, ALWAYS, entry_at(0), &[(Mode, 2)]),
    call("symlinkat", libc::SYS_symlinkat, Kind::Symlink, ALWAYS, entry_at(1), &[]).to(File::Text(0)),
    call("linkat", libc::SYS_linkat, Kind::Link, ALWAYS, File::At(0, 1, Follow::If(4, FOLLOWS)), &[(Flags, 4)])
        .to(entry_at(2)),
    call("renameat", libc::SYS_renameat, Kind::Rename, ALWAYS, entry_at(0), &[]).to(entry_at(2)),
    call("renameat2", libc::SYS_renameat2, Kind::Rename, ALWAYS, entry_at(0), &[(Flags, 4)]).to(entry_at(2)),
    call("unlinkat", libc::SYS_unlinkat, Kind::Unlink, ALWAYS, entry_at(0), &[(Flags, 2)]),
    call("fchmodat", libc::SYS_fchmodat, Kind::Chmod, ALWAYS, target_at(0), &[(Mode, 2)]),
    call("fchmodat2", 452, Kind::Chmod, ALWAYS, at_unless(3), &[(Mode, 2)]),
    call("fchmod", libc::SYS_fchmod, Kind::Chmod, (When::Any(1, POWERS), When::Always), File::Fd(0), &[(Mode, 1)]),
    call("fchownat", libc::SYS_fchownat, Kind::Chown, ALWAYS, at_unless(4), &[(Uid, 2), (Gid, 3)]),
    call("fchown", libc::SYS_fchown, Kind::Chown, ALWAYS, File::Fd(0), &[(Uid, 1), (Gid, 2)]),
    call("setxattr", libc::SYS_setxattr, Kind::Setxattr, ALWAYS, target(0), &[]).more(More::Name(1)),
    call("lsetxattr", libc::SYS_lsetxattr, Kind::Setxattr, ALWAYS, entry(0), &[]).more(More::Name(1)),
    call("fsetxattr", libc::SYS_fsetxattr, Kind::Setxattr, ALWAYS, File::Fd(0), &[]).more(More::Name(1)),
    call("setxattrat", 463, Kind::Setxattr, ALWAYS, at_unless(2), &[]).more(More::Name(3)),
    call("removexattr", libc::SYS_removexattr, Kind::Removexattr, ALWAYS, target(0), &[]).more(More::Name(1)),
    call("lremovexattr", libc::SYS_lremovexattr, Kind::Removexattr, ALWAYS, entry(0), &[]).more(More::Name(1)),
    call("fremovexattr", libc::SYS_fremovexattr, Kind::Removexattr, ALWAYS, File::Fd(0), &[]).more(More::Name(1)),
    call("removexattrat", 466, Kind::Removexattr, ALWAYS, at_unless(2), &[]).more(More::Name(3)),
    call("utimensat", libc::SYS_utimensat, Kind::Utime, FULL, at_unless(3), &[]),
    call(
        "ptrace",
        libc::SYS_ptrace,
        Kind::Ptrace,
        (When::Any(0, ATTACHES), When::Always),
        NONE,
        &[(Flags, 0), (Pid, 1)],
    ),
    call("process_vm_readv", libc::SYS_process_vm_readv, Kind::MemoryRead, FULL, NONE, &[(Pid, 0)]),
    call("process_vm_writev", libc::SYS_process_vm_writev, Kind::MemoryWrite, ALWAYS, NONE, &[(Pid, 0)]),
    call("memfd_create", libc::SYS_memfd_create, Kind::Memfd, FULL, NONE, &[(Flags, 1)]).more(More::Name(0)),
    call("mmap", libc::SYS_mmap, Kind::Protect, CODE, NONE, &[(Flags, 2)]).more(More::CallName),
    call("mprotect", libc::SYS_mprotect, Kind::Protect, CODE, NONE, &[(Flags, 2)]).more(More::CallName),
    call("pkey_mprotect", libc::SYS_pkey_mprotect, Kind::Protect, CODE, NONE, &[(Flags, 2)]).more(More::CallName),
    call("kill", libc::SYS_kill, Kind::Kill, FULL, NONE, &[(Pid, 0), (Signal, 1)]).more(More::ToOthers),
    call("tkill", libc::SYS_tkill, Kind::Kill, FULL, NONE, &[(Pid, 0), (Signal, 1)]).more(More::ToOthers),
    call("tgkill", libc::SYS_tgkill, Kind::Kill, FULL, NONE, &[(Pid, 0), (Signal, 2)]).more(More::ToOthers),
    call("pidfd_send_signal", libc::SYS_pidfd_send_signal, Kind::Kill, FULL, NONE, &[(Signal, 1)]).more(More::CallName),
    call("mount", libc::SYS_mount, Kind::Mount, FULL, target(1), &[(Flags, 3)]).more(More::CallName),
    call("umount2", libc::SYS_umount2, Kind::Mount, FULL, target(0), &[(Flags, 1)]).more(More::CallName),
    call("move_mount", libc::SYS_move_mount, Kind::Mount, FULL, target_at(2), &[(Flags, 4)]).more(More::CallName),
    call("open_tree", libc::SYS_open_tree, Kind::Mount, FULL, target_at(0), &[(Flags, 2)]).more(More::CallName),
    call("fsopen", libc::SYS_fsopen, Kind::Mount, FULL, NONE, &[(Flags, 1)]).more(More::CallName),
    call("fsmount", libc::SYS_fsmount, Kind::Mount, FULL, NONE, &[(Flags, 1)]).more(More::CallName),
    call("fspick", libc::SYS_fspick, Kind::Mount, FULL, target_at(0), &[(Flags, 2)]).more(More::CallName),
    call("mount_setattr", libc::SYS_mount_setattr, Kind::Mount, FULL, target_at(0), &[(Flags, 2)]).more(More::CallName),
    call("setuid", libc::SYS_setuid, Kind::Setuid, FULL, NONE, &[(Uid, 0)]).more(More::Moves),
    call("setreuid", libc::SYS_setreuid, Kind::Setuid, FULL, NONE, &[(Uid, 1)]).more(More::Moves),
    call("setresuid", libc::SYS_setresuid, Kind::Setuid, FULL, NONE, &[(Uid, 1)]).more(More::Moves),
];

/// Those of x86-64 only, which has the old forms too.
#[cfg(target_arch = "x86_64")]
const OLD: &[Call] = &[
    call("open", libc::SYS_open, Kind::Open, opens(1), target(0), &[(Flags, 1), (Mode, 2)]),
    call("creat", libc::SYS_creat, Kind::Open, ALWAYS, target(0), &[(Mode, 1)]),
    call("mkdir", libc::SYS_mkdir, Kind::Mkdir, ALWAYS, entry(0), &[(Mode, 1)]),
    call("mknod", libc::SYS_mknod, Kind::Mknod, ALWAYS, entry(0), &[(Mode, 1)]),
    call("symlink", libc::SYS_symlink, Kind::Symlink, ALWAYS, entry(1), &[]).to(File::Text(0)),
    call("link", libc::SYS_link, Kind::Link, ALWAYS, entry(0), &[]).to(entry(1)),
    call("rename", libc::SYS_rename, Kind::Rename, ALWAYS, entry(0), &[]).to(entry(1)),
    call("unlink", libc::SYS_unlink, Kind::Unlink, ALWAYS, entry(0), &[]),
    call("rmdir", libc::SYS_rmdir, Kind::Rmdir, ALWAYS, entry(0), &[]),
    call("chmod", libc::SYS_chmod, Kind::Chmod, ALWAYS, target(0), &[(Mode, 1)]),
    call("chown", libc::SYS_chown, Kind::Chown, ALWAYS, target(0), &[(Uid, 1), (Gid, 2)]),
    call("lchown", libc::SYS_lchown, Kind::Chown, ALWAYS, entry(0), &[(Uid, 1), (Gid, 2)]),
    call("utime", libc::SYS_utime, Kind::Utime, FULL, target(0), &[]),
    call("utimes", libc::SYS_utimes, Kind::Utime, FULL, target(0), &[]),
    call("futimesat", libc::SYS_futimesat, Kind::Utime, FULL, target_at(0), &[]),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[Call] = &[];

/// Every captured call.
pub fn all() -> impl Iterator<Item = &'static Call> {
    CALLS.iter().chain(OLD)
}

/// A call that every VM is refused, and that is written down where the level asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// With what.
    pub errno: rustix::io::Errno,
}

/// What a level refuses beside what the policy does: its flags lie in memory, and programs take the older way.
#[must_use]
pub fn refused_by(level: Level) -> &'static [Refused] {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a system call number")]
    const OPENAT2: Refused =
        Refused { name: "openat2", number: libc::SYS_openat2 as u32, errno: rustix::io::Errno::NOSYS };
    if level == Level::Full { &[OPENAT2] } else { &[] }
}
