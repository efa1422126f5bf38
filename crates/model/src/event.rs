//! What a VM's programs did: one line of the behaviour log (`docs/spec/events.md`).
//!
//! ```text
//!   who   tgid, tid, ppid, sid, start_ns, uid, exe, comm      numbers as the VM has them
//!   what  kind, args, phase                                    attempt: asked for; done: it is so
//!   how   src, trust                                           who saw it, and what that is worth
//!   when  ts, seq                                              seq counts lost ones too
//! ```
//!
//! Invariants: everything but `ts`, `vm`, `seq`, `src`, `trust` and `phase` came from a hostile VM and is printed through
//! [`crate::path::printable`]; a gap in `seq` is a loss, and whatever is concluded over a loss is "unknown".

use crate::path::{Bytes, VmPath};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

/// The version of the schema, and of the files that hold it.
pub const SCHEMA: u32 = 1;

/// How much of what a VM does is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing.
    Off,
    /// Programs and the network. What becomes of files is in the VM's layers; who changed them is not written down.
    Programs,
    /// Also changes of files.
    #[default]
    Basic,
    /// Also what reaches for other processes, memory that becomes code, mounts, namespaces and the kernel.
    Full,
}

impl Level {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Off, Self::Programs, Self::Basic, Self::Full];

    /// What a VM has that was made before there was a log.
    #[must_use]
    pub fn off() -> Self {
        Self::Off
    }

    /// As policies name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Programs => "programs",
            Self::Basic => "basic",
            Self::Full => "full",
        }
    }

    /// Its number in files. Never used again for another; they do not follow the order of the levels.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Basic => 1,
            Self::Full => 2,
            Self::Programs => 3,
        }
    }

    /// The level with this number.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|level| u64::from(level.code()) == code)
    }

    /// Whether changes of files are written down. Where they are not, that the log has none says nothing.
    #[must_use]
    pub fn sees_files(self) -> bool {
        self >= Self::Basic
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|level| level.name() == s);
        known.ok_or_else(|| format!("'{s}' is no level of the log; use 'off', 'programs', 'basic' or 'full'"))
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal $code:literal $group:ident,)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// As the log and the command line name it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Its number in files. Never used again for another.
            #[must_use]
            pub fn code(self) -> u8 {
                match self { $(Self::$kind => $code,)* }
            }

            /// The kind with this number.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$kind),)* _ => None }
            }

            /// What it belongs to.
            #[must_use]
            pub fn group(self) -> Group {
                match self { $(Self::$kind => Group::$group,)* }
            }
        }
    };
}

kinds! {
    /// The log of one run of the VM begins: `level`, and `name`: what it cannot see.
    Start "start" 1 Log,
    /// It ends well. A run without this was cut off.
    End "end" 2 Log,
    /// `count` events are missing here.
    Lost "lost" 3 Log,
    /// A program is executed: attempt with `path` and `argv`; done with the new `exe`.
    Exec "exec" 10 Process,
    /// A process ends: `code`, or `signal`.
    Exit "exit" 11 Process,
    /// A process begins a session of its own.
    Setsid "setsid" 12 Process,
    /// A process that another made, noted when the tracer had to know it and it had done nothing yet.
    Fork "fork" 14 Process,
    /// A process takes another root directory (chroot, `pivot_root`).
    Chroot "chroot" 13 Process,
    /// Opened for writing or created: `path`, `flags`, `mode`.
    Open "open" 20 File,
    /// A directory made.
    Mkdir "mkdir" 21 File,
    /// A device node, FIFO or socket made.
    Mknod "mknod" 22 File,
    /// A symbolic link made: `path`, `to` what it holds.
    Symlink "symlink" 23 File,
    /// A hard link made: `path` is there already, `to` is its new name.
    Link "link" 24 File,
    /// `path` becomes `to`.
    Rename "rename" 25 File,
    /// A name removed.
    Unlink "unlink" 26 File,
    /// A directory removed.
    Rmdir "rmdir" 27 File,
    /// Cut to a length.
    Truncate "truncate" 28 File,
    /// `mode`.
    Chmod "chmod" 29 File,
    /// `uid`, `gid`.
    Chown "chown" 30 File,
    /// An extended attribute written: `name`.
    Setxattr "setxattr" 31 File,
    /// An extended attribute removed: `name`.
    Removexattr "removexattr" 32 File,
    /// Times set.
    Utime "utime" 33 File,
    /// Something that strangers should not read is opened for reading: `path`, `flags`.
    Read "read" 34 File,
    /// `family`, `address`, `port`.
    Connect "connect" 40 Network,
    /// `family`, `address`, `port`.
    Bind "bind" 41 Network,
    /// A socket listens.
    Listen "listen" 42 Network,
    /// Sent to an address that the call names.
    Send "send" 43 Network,
    /// `ptrace` of `pid`; `flags`: the request.
    Ptrace "ptrace" 50 Kernel,
    /// Memory of `pid` read.
    MemoryRead "memory_read" 51 Kernel,
    /// Memory of `pid` written.
    MemoryWrite "memory_write" 52 Kernel,
    /// A file in memory only: `name`.
    Memfd "memfd" 53 Kernel,
    /// Memory that may be written and executed: `flags`.
    Protect "protect" 54 Kernel,
    /// A signal to another process: `pid`, `signal`.
    Kill "kill" 55 Kernel,
    /// Something of the mount family: `name` the call.
    Mount "mount" 56 Kernel,
    /// New namespaces: `flags`.
    Unshare "unshare" 57 Kernel,
    /// Another namespace entered.
    Setns "setns" 58 Kernel,
    /// Another user id taken: `uid`.
    Setuid "setuid" 59 Kernel,
    /// A call that every VM is refused (bpf, modules, keys, perf, ...): `name` the call.
    Refused "refused" 60 Kernel,
}

/// What kinds belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The log itself.
    Log,
    /// Processes.
    Process,
    /// Files.
    File,
    /// The network.
    Network,
    /// Other processes' memory, code in memory, namespaces, the kernel.
    Kernel,
}

impl Group {
    /// As the command line names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Process => "process",
            Self::File => "file",
            Self::Network => "network",
            Self::Kernel => "kernel",
        }
    }
}

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Src {
    /// The tracer itself: start, end, loss.
    Tracer,
    /// A system call that waited for the tracer.
    Seccomp,
    /// What `/proc` said when the tracer looked.
    Procfs,
    /// The end of a process that the tracer held a descriptor of.
    Pidfd,
}

/// What the arguments are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Values in registers, or the kernel's own.
    Kernel,
    /// Read from the memory of the process, which another of its threads may have changed before the kernel read it.
    Usermem,
    /// Concluded.
    Derived,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Asked for: it may have failed.
    Attempt,
    /// It is so.
    Done,
}

/// What is said of an event beside its kind; what does not apply is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Args {
    /// What it was done to, as the VM names it: absolute and free of symbolic links where `resolved`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Bytes>,
    /// The other name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Bytes>,
    /// Arguments of a program, its name first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<Bytes>,
    /// The call's flags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<u64>,
    /// A file mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// A user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// A group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// `inet`, `inet6`, `unix`, or the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// An address of the network; of a Unix socket, its path, `@name` for an abstract one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Bytes>,
    /// A port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Another process, by the number that the caller used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// An exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// A signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// A name: of a call, an attribute, a file in memory, a file system; of a program to be executed, what is loaded into it first
    /// (`LD_PRELOAD=/tmp/x.so`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Bytes>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Of a new program: what its descriptors 0, 1, 2 are: `n`etwork socket, other `s`ocket, `p`ipe, `t`erminal, `f`ile, `o`ther,
    /// `-` closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<String>,
    /// Of a new program: how many names its file has; 0: it lies in memory only, or was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<u32>,
    /// The level of a log that begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// What the call was refused with by the tracer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Paths were made absolute by the kernel, symbolic links followed as the call would.
    #[serde(skip_serializing_if = "is_false")]
    pub resolved: bool,
    /// The process has another root directory or other mounts than the VM: its paths name other files.
    #[serde(skip_serializing_if = "is_false")]
    pub foreign: bool,
    /// Something was too long, or could not be read, and is not whole.
    #[serde(skip_serializing_if = "is_false")]
    pub cut: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When the tracer saw it.
    pub ts: Timestamp,
    /// The VM's id.
    pub vm: String,
    /// From 1, through all runs of a VM; lost ones are counted.
    pub seq: u64,
    /// The process; 0 for events of the log itself.
    pub tgid: u32,
    /// The thread.
    pub tid: u32,
    /// Who made the process, as far as the tracer knows; 0: nobody in the VM, or unknown.
    pub ppid: u32,
    /// The leader of its session.
    pub sid: u32,
    /// When the process began, in nanoseconds since the machine did: a number that is used again is told apart by it.
    pub start_ns: u64,
    /// Its user.
    pub uid: u32,
    /// The file of its program.
    pub exe: Bytes,
    /// The name that it gives itself.
    pub comm: Bytes,
    /// What happened.
    pub kind: Kind,
    /// The rest.
    pub args: Args,
    /// Who saw it.
    pub src: Src,
    /// What the arguments are worth.
    pub trust: Trust,
    /// How far it has come.
    pub phase: Phase,
}

/// A process of a VM, for all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Its number in the VM.
    pub tgid: u32,
    /// When it began, in nanoseconds since the machine did.
    pub start_ns: u64,
}

impl Event {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> ProcessKey {
        ProcessKey { tgid: self.tgid, start_ns: self.start_ns }
    }

    /// Of a `start`: whether changes of files are written down from here on. A level that this version does not know has perhaps none.
    #[must_use]
    pub fn sees_files(&self) -> bool {
        self.args.level.is_some_and(Level::sees_files)
    }

    /// Of a `start`: whether something is written down, and no changes of files.
    #[must_use]
    pub fn sees_all_but_files(&self) -> bool {
        self.args.level != Some(Level::Off) && !self.sees_files()
    }

    /// [`Args::path`] as a path of the VM, where it surely is one.
    #[must_use]
    pub fn path(&self) -> Option<VmPath> {
        self.args.vm_path(self.args.path.as_ref())
    }

    /// The same of [`Args::to`].
    #[must_use]
    pub fn to(&self) -> Option<VmPath> {
        self.args.vm_path(self.args.to.as_ref())
    }
}

impl Args {
    fn vm_path(&self, bytes: Option<&Bytes>) -> Option<VmPath> {
        if self.foreign || self.cut {
            return None;
        }
        VmPath::new(Path::new(&bytes?.0)).ok()
    }
}

/// A program that did something, as a change set names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its process's number in the VM.
    pub tgid: u32,
    /// When that began, in nanoseconds since the machine did.
    pub start_ns: u64,
    /// The file of the program.
    pub exe: Bytes,
    /// Its command line, as it was asked for; empty where nobody saw that.
    pub argv: Vec<Bytes>,
}

impl Program {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> ProcessKey {
        ProcessKey { tgid: self.tgid, start_ns: self.start_ns }
    }

    /// The command line as one text, for people and for patterns.
    #[must_use]
    pub fn command(&self) -> Vec<u8> {
        if self.argv.is_empty() {
            return self.exe.0.as_bytes().to_vec();
        }
        self.argv.iter().map(|arg| arg.0.as_bytes()).collect::<Vec<_>>().join(&b' ')
    }
}

/// Who made a change, from the behaviour log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The last program that asked for it.
    pub program: Program,
    /// The programs that it came from, nearest first, up to the one that was started in the VM.
    pub ancestors: Vec<Program>,
    /// When.
    pub at: Timestamp,
    /// What it asked for.
    pub kind: Kind,
    /// Number of the event.
    pub seq: u64,
    /// What the log's word is worth: a path in memory can be changed after the look.
    pub trust: Trust,
}

impl Origin {
    /// The program that was started in the VM.
    #[must_use]
    pub fn root(&self) -> &Program {
        self.ancestors.last().unwrap_or(&self.program)
    }

    /// The program and all that it came from.
    pub fn tree(&self) -> impl Iterator<Item = &Program> {
        std::iter::once(&self.program).chain(&self.ancestors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_number_and_a_name_of_its_own() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|k| k.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert_eq!(Kind::from_code(0), None);
    }

    #[test]
    fn a_path_that_is_not_whole_or_of_another_root_names_no_file_of_the_vm() {
        let args = Args { path: Some(Bytes("/a/./b".into())), ..Args::default() };
        assert_eq!(args.vm_path(args.path.as_ref()), Some(VmPath::new("/a/b").unwrap()));
        for args in [Args { cut: true, ..args.clone() }, Args { foreign: true, ..args }] {
            assert_eq!(args.vm_path(args.path.as_ref()), None);
        }
    }
}
