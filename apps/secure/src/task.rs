//! What a waiting thread is, as `/proc` shows it.
//!
//! Invariants: the thread waits in a call, so what is read here of the call stays so; all is read in a thread that may take
//! its time, for a file system of that thread's user may; its files are only compared, never trusted.

use fvm_sys::divert;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Most bytes of arguments, or of variables, that are looked at.
const TEXT_MAX_BYTES: u64 = 256 << 10;
/// Longest chain of parents.
const PARENTS_MAX: usize = 4096;

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    /// Of an open file.
    pub fn of(file: impl rustix::fd::AsFd) -> Result<Self, Errno> {
        let stat = fs::fstat(file)?;
        Ok(Self { dev: stat.st_dev, ino: stat.st_ino })
    }

    /// Of the file that a path leads to.
    pub fn at(path: &Path) -> Result<Self, Errno> {
        // Not opened: that might have to wait for ourselves.
        Self::of(fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }
}

/// This program: what runs instead, and what is trusted to look at marked files.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its path.
    pub path: PathBuf,
    /// Which file it is.
    pub id: FileId,
}

/// A waiting thread.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub tid: i32,
    /// Its process.
    pub pid: i32,
    uids: [u32; 3],
    gids: [u32; 3],
    traced: bool,
}

/// The call that it waits in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Executes a file: its path, if a path alone names it; where the arguments and the variables are.
    Exec {
        /// The path as it was given.
        path: Option<OsString>,
        /// The array of arguments.
        argv: u64,
        /// The array of variables.
        environment: u64,
    },
    /// Opens a file only to write it.
    OpenToWrite,
    /// Anything else.
    Other,
}

fn text(path: &str) -> Result<String, Errno> {
    std::fs::read_to_string(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

fn bytes(path: &str) -> Result<Vec<u8>, Errno> {
    use std::io::Read as _;
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(TEXT_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > TEXT_MAX_BYTES { Err(Errno::TOOBIG) } else { Ok(bytes) }
}

/// The numbers behind a name in a text such as `/proc/PID/status`.
fn numbers(status: &str, name: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect()
}

impl Task {
    /// The thread `tid`.
    pub fn of(tid: i32) -> Result<Self, Errno> {
        let status = text(&format!("/proc/{tid}/status"))?;
        let three =
            |name| <[u32; 3]>::try_from(numbers(&status, name).get(..3).unwrap_or_default()).unwrap_or([0, 1, 2]);
        let one = |name| numbers(&status, name).first().copied().unwrap_or(0);
        Ok(Self {
            tid,
            pid: one("Tgid").cast_signed(),
            uids: three("Uid"),
            gids: three("Gid"),
            traced: one("TracerPid") != 0,
        })
    }

    /// Why another program may not run in its place, if so.
    pub fn untouchable(&self) -> Option<&'static str> {
        let same = |ids: &[u32; 3]| ids.iter().all(|id| *id == ids[0]);
        if self.traced {
            Some("it is traced by another program")
        } else if !same(&self.uids) || !same(&self.gids) {
            Some("it has the rights of more than one user")
        } else {
            None
        }
    }

    /// The call that it waits in.
    pub fn call(&self) -> Result<Call, Errno> {
        let line = text(&format!("/proc/{}/task/{}/syscall", self.pid, self.tid))?;
        let mut words = line.split_whitespace();
        let number: i64 = words.next().and_then(|word| word.parse().ok()).ok_or(Errno::INVAL)?;
        let arguments: Vec<u64> =
            words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()).collect();
        let [a, b, c, d, ..] = arguments[..] else { return Err(Errno::INVAL) };
        let path = |at| divert::read_text(self.tid, at, 4096).map(OsString::from_vec);
        let opens = |flags: u64| {
            let write_only = flags & 3 == u64::from(OFlags::WRONLY.bits());
            if write_only { Call::OpenToWrite } else { Call::Other }
        };
        Ok(match number {
            libc::SYS_execve => Call::Exec { path: Some(path(a)?), argv: b, environment: c },
            libc::SYS_execveat => {
                let path = path(b)?;
                let alone = path.as_bytes().starts_with(b"/") || a as i32 == libc::AT_FDCWD && !path.is_empty();
                Call::Exec { path: alone.then_some(path), argv: c, environment: d }
            }
            libc::SYS_openat => opens(c),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => opens(b),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => Call::OpenToWrite,
            _ => Call::Other,
        })
    }

    /// The texts of an array of pointers in its memory.
    pub fn texts(&self, array: u64) -> Result<Vec<OsString>, Errno> {
        let (mut texts, mut len, mut at) = (Vec::new(), 0, array);
        if array == 0 {
            return Ok(texts);
        }
        loop {
            let mut pointer = [0; 8];
            divert::read_memory(self.tid, at, &mut pointer)?;
            match u64::from_ne_bytes(pointer) {
                0 => return Ok(texts),
                pointer => {
                    let text = divert::read_text(self.tid, pointer, 128 << 10)?;
                    len += text.len() as u64 + 8;
                    if len > TEXT_MAX_BYTES {
                        return Err(Errno::TOOBIG);
                    }
                    texts.push(OsString::from_vec(text));
                }
            }
            at = at.wrapping_add(8);
        }
    }

    /// The arguments of the program that it runs.
    pub fn arguments(&self) -> Result<Vec<OsString>, Errno> {
        let mut line = bytes(&format!("/proc/{}/cmdline", self.pid))?;
        if line.last() == Some(&0) {
            line.pop();
        }
        Ok(line.split(|b| *b == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect())
    }

    /// The variables that its program was started with.
    pub fn environment(&self) -> Result<Vec<u8>, Errno> {
        bytes(&format!("/proc/{}/environ", self.pid))
    }

    /// Where in its memory those are.
    pub fn environment_texts(&self) -> Result<Vec<u64>, Errno> {
        // proc_pid_stat(5): field 50 is env_start; the name in the second one may hold anything.
        let line = text(&format!("/proc/{}/stat", self.pid))?;
        let rest = line.rsplit_once(')').map(|(_, rest)| rest).ok_or(Errno::INVAL)?;
        let start: u64 = rest
            .split_whitespace()
            .nth(47)
            .and_then(|word| word.parse().ok())
            .filter(|at| *at != 0)
            .ok_or(Errno::INVAL)?;
        let (mut texts, mut at) = (Vec::new(), start);
        for text in self.environment()?.split_inclusive(|b| *b == 0) {
            if text.last() == Some(&0) && text.len() > 1 {
                texts.push(at);
            }
            at += text.len() as u64;
        }
        Ok(texts)
    }

    /// The program that it runs.
    pub fn program(&self) -> Result<(OsString, FileId), Errno> {
        let link = format!("/proc/{}/exe", self.pid);
        let path = std::fs::read_link(&link).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok((path.into_os_string(), FileId::at(Path::new(&link))?))
    }

    /// The file that a path means to it.
    pub fn file(&self, path: &OsStr) -> Result<FileId, Errno> {
        FileId::at(&self.seen(path))
    }

    /// The same place as we reach it.
    pub fn seen(&self, path: &OsStr) -> PathBuf {
        let own = |rest: &[u8]| PathBuf::from(format!("/proc/{}", self.pid)).join(OsStr::from_bytes(rest));
        let bytes = path.as_bytes();
        if let Some(rest) = bytes.strip_prefix(b"/proc/self/") {
            return own(rest);
        }
        if let Some(rest) = bytes.strip_prefix(b"/dev/fd/") {
            return own(b"fd").join(OsStr::from_bytes(rest));
        }
        let (base, rest) = match bytes.strip_prefix(b"/") {
            Some(rest) => ("root", rest),
            None => ("cwd", bytes),
        };
        own(base.as_bytes()).join(OsStr::from_bytes(rest))
    }

    /// Whether it runs in a VM: one of its ancestors is the first process of a process namespace, and fvm.
    pub fn in_vm(&self, own: &Own) -> bool {
        let mut pid = self.pid;
        for _ in 0..PARENTS_MAX {
            let Ok(status) = text(&format!("/proc/{pid}/status")) else { return false };
            let ids = numbers(&status, "NSpid");
            if ids.len() > 1 && ids.last() == Some(&1) && is_fvm(pid, own) {
                return true;
            }
            match numbers(&status, "PPid").first() {
                Some(0) | None => return false,
                Some(parent) => pid = parent.cast_signed(),
            }
        }
        false
    }
}

/// Whether a process is this program, or the version of it that was replaced since.
fn is_fvm(pid: i32, own: &Own) -> bool {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    if FileId::at(&link) == Ok(own.id) {
        return true;
    }
    let mut old = own.path.clone().into_os_string();
    old.push(" (deleted)");
    std::fs::read_link(&link).is_ok_and(|path| path == Path::new(&old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_by_name() {
        let status = "Name:\tPid: 7\nTgid:\t12\nUid:\t1\t2\t3\t4\nNSpid:\t12\t1\n";
        assert_eq!(numbers(status, "Uid"), [1, 2, 3, 4]);
        assert_eq!(numbers(status, "NSpid"), [12, 1]);
        assert_eq!(numbers(status, "Pid"), Vec::<u32>::new());
    }

    #[test]
    fn this_thread_is_seen_as_it_is() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let task = Task::of(tid).unwrap();
        assert_eq!(task.pid, std::process::id().cast_signed());
        assert_eq!(task.untouchable(), None);
        assert_eq!(task.program().unwrap().1, FileId::at(Path::new("/proc/self/exe")).unwrap());
        assert_eq!(task.arguments().unwrap(), std::env::args_os().collect::<Vec<_>>());
        assert_eq!(task.file(OsStr::new("/etc/passwd")), FileId::at(Path::new("/etc/passwd")));
        assert_eq!(task.seen(OsStr::new("/dev/fd/3")), PathBuf::from(format!("/proc/{}/fd/3", task.pid)));
        let own = Own { path: "/nowhere".into(), id: FileId::at(Path::new("/etc/passwd")).unwrap() };
        assert!(!task.in_vm(&own));
        let variables = std::env::vars_os().filter(|(name, _)| !name.is_empty()).count();
        assert!(task.environment_texts().unwrap().len() <= variables + 8);
    }
}
