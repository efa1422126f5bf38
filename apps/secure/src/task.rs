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
use std::time::{Duration, Instant};

/// Most bytes of arguments that are looked at.
const TEXT_MAX_BYTES: u64 = 256 << 10;
/// Most bytes of the variables of a program: more than the kernel takes (execve(2), "Limits on size of arguments").
const ENVIRONMENT_MAX_BYTES: u64 = 8 << 20;
/// So long a thread that has to wait may take to fall asleep: another one may have its processor.
const FALLS_ASLEEP: Duration = Duration::from_millis(100);
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

impl Own {
    /// Whether the file is this program, or the version of it that took its place since.
    pub fn is(&self, file: FileId) -> bool {
        file == self.id || FileId::at(&self.path) == Ok(file)
    }
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
    waits: Waits,
}

/// A thread in a call. Two of them are never the same: a number is used again only when its thread is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waits {
    /// When the thread began, in the kernel's ticks.
    began: u64,
    /// The call and its arguments, as the kernel shows them.
    call: String,
}

impl Waits {
    fn of(pid: i32, tid: i32) -> Result<Self, Errno> {
        // Whoever is at work for the kernel (io_uring) is in no call.
        let call = text(&format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
        Ok(Self { began: stat_field(&text(&format!("/proc/{pid}/task/{tid}/stat"))?, 22)?, call })
    }

    /// The kernel asks before the thread sleeps, and does not say in which call one is that does not: waits for that.
    fn asleep(pid: i32, tid: i32) -> Result<Self, Errno> {
        let until = Instant::now() + FALLS_ASLEEP;
        let mut pause = Duration::from_micros(20);
        loop {
            let waits = Self::of(pid, tid)?;
            if waits.call.trim_end() != "running" || Instant::now() > until {
                return Ok(waits);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }
}

/// A number in `/proc/PID/stat`, counted as proc_pid_stat(5) does: the name in the second field may hold anything.
fn stat_field(line: &str, n: usize) -> Result<u64, Errno> {
    let rest = line.rsplit_once(')').map(|(_, rest)| rest).ok_or(Errno::INVAL)?;
    rest.split_whitespace().nth(n - 3).and_then(|word| word.parse().ok()).ok_or(Errno::INVAL)
}

/// The call that it waits in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Executes a file: where that is; where the arguments and the variables are.
    Exec {
        /// As seen by it: a path, or below one of its descriptors.
        file: OsString,
        /// That is a path by itself.
        is_path: bool,
        /// The array of arguments.
        argv: u64,
        /// The array of variables.
        environment: u64,
    },
    /// Opens a file only to write it.
    OpenToWrite,
    /// Opens a file.
    Open,
    /// Anything else.
    Other,
}

/// A thread's name is whatever it likes, often half a letter at its end.
fn text(path: &str) -> Result<String, Errno> {
    bytes(path, TEXT_MAX_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn bytes(path: &str, max: u64) -> Result<Vec<u8>, Errno> {
    use std::io::Read as _;
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max { Err(Errno::TOOBIG) } else { Ok(bytes) }
}

/// The numbers behind a name in a text such as `/proc/PID/status`.
fn numbers(status: &str, name: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect()
}

impl Task {
    /// The thread `tid`.
    pub fn of(tid: i32) -> Result<Self, Errno> {
        let tgid = |status: &str| numbers(status, "Tgid").first().copied().unwrap_or(0).cast_signed();
        let waits = Waits::asleep(tgid(&text(&format!("/proc/{tid}/status"))?), tid)?;
        // Whose it is only now: its number may have become another's meanwhile, who began at another time.
        let status = text(&format!("/proc/{tid}/status"))?;
        let three =
            |name| <[u32; 3]>::try_from(numbers(&status, name).get(..3).unwrap_or_default()).unwrap_or([0, 1, 2]);
        let one = |name| numbers(&status, name).first().copied().unwrap_or(0);
        let pid = tgid(&status);
        let (uids, gids, traced) = (three("Uid"), three("Gid"), one("TracerPid") != 0);
        if Waits::of(pid, tid)?.began != waits.began {
            return Err(Errno::SRCH);
        }
        Ok(Self { tid, pid, uids, gids, traced, waits })
    }

    /// Who is behind a thread, as far as the kernel says: the user who logged in, or whose it is.
    pub fn owner(tid: i32) -> u32 {
        let login = text(&format!("/proc/{tid}/loginuid")).ok().and_then(|text| text.trim().parse().ok());
        login.filter(|uid| *uid != u32::MAX).unwrap_or_else(|| {
            let status = text(&format!("/proc/{tid}/status")).unwrap_or_default();
            numbers(&status, "Uid").first().copied().unwrap_or(u32::MAX)
        })
    }

    /// Whether this thread still waits in the call in which it was looked at. Asked while it is traced, when its number
    /// cannot become another one's: before, it may have been killed, and its number may be a stranger's.
    pub fn still_waits(&self) -> bool {
        Waits::of(self.pid, self.tid).is_ok_and(|now| now == self.waits)
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
        let mut words = self.waits.call.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<i64>().ok()) else { return Ok(Call::Other) };
        let arguments: Vec<u64> =
            words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()).collect();
        let [a, b, c, d, e, ..] = arguments[..] else { return Ok(Call::Other) };
        let path = |at| divert::read_text(self.tid, at, 4096);
        let opens = |flags: u64| {
            let write_only = flags & 3 == u64::from(OFlags::WRONLY.bits());
            if write_only { Call::OpenToWrite } else { Call::Open }
        };
        Ok(match number {
            libc::SYS_execve => {
                Call::Exec { file: OsString::from_vec(path(a)?), is_path: true, argv: b, environment: c }
            }
            libc::SYS_execveat => {
                let (file, is_path) = at(a as i32, path(b)?, e as i32);
                Call::Exec { file, is_path, argv: c, environment: d }
            }
            libc::SYS_openat => opens(c),
            libc::SYS_openat2 => Call::Open,
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
        let mut line = bytes(&format!("/proc/{}/cmdline", self.pid), TEXT_MAX_BYTES)?;
        if line.last() == Some(&0) {
            line.pop();
        }
        Ok(line.split(|b| *b == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect())
    }

    /// The variables that its program was started with.
    pub fn environment(&self) -> Result<Vec<u8>, Errno> {
        bytes(&format!("/proc/{}/environ", self.pid), ENVIRONMENT_MAX_BYTES)
    }

    /// Where in its memory those are.
    pub fn environment_texts(&self) -> Result<Vec<u64>, Errno> {
        // env_start.
        let start = Some(stat_field(&text(&format!("/proc/{}/stat", self.pid))?, 50)?);
        let start = start.filter(|at| *at != 0).ok_or(Errno::INVAL)?;
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
        /// An ancestor may end while this climbs; then there is another one.
        const TRIES: usize = 8;
        (0..TRIES).find_map(|_| in_vm(self.pid, own)).unwrap_or(false)
    }
}

/// Whether a process runs in a VM; `None` when one of its ancestors ended meanwhile.
fn in_vm(pid: i32, own: &Own) -> Option<bool> {
    let mut pid = pid;
    for _ in 0..PARENTS_MAX {
        let status = text(&format!("/proc/{pid}/status")).ok()?;
        let ids = numbers(&status, "NSpid");
        if ids.len() > 1 && ids.last() == Some(&1) && is_fvm(pid, own) {
            return Some(true);
        }
        match numbers(&status, "PPid").first() {
            Some(0) | None => return Some(false),
            Some(parent) => pid = parent.cast_signed(),
        }
    }
    Some(false)
}

/// Where `execveat` finds its file, as its caller sees it, and whether that is a path by itself.
fn at(dir: i32, path: Vec<u8>, flags: i32) -> (OsString, bool) {
    if path.starts_with(b"/") || dir == libc::AT_FDCWD && !path.is_empty() {
        return (OsString::from_vec(path), true);
    }
    let fd = format!("/proc/self/fd/{dir}");
    let file = match (path.is_empty(), flags & libc::AT_EMPTY_PATH != 0) {
        (true, true) => fd.into_bytes(),
        // There is no such file.
        (true, false) => path,
        (false, _) => [fd.as_bytes(), &path].join(&b'/'),
    };
    (OsString::from_vec(file), false)
}

/// Whether a process is this program, or the version of it that was replaced since, or replaced it.
fn is_fvm(pid: i32, own: &Own) -> bool {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    if FileId::at(&link).is_ok_and(|file| own.is(file)) {
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
    fn fields_are_counted_behind_a_name_that_may_hold_anything() {
        let line = "7 (a) 2 (\n) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 0";
        assert_eq!((stat_field(line, 4), stat_field(line, 22)), (Ok(1), Ok(99)));
        assert_eq!(stat_field(line, 50), Err(Errno::INVAL));
    }

    #[test]
    fn execveat_s_file_is_a_path_or_below_a_descriptor() {
        let of = |dir, path: &str, flags| {
            let (file, is_path) = at(dir, path.into(), flags);
            (file.into_string().unwrap(), is_path)
        };
        assert_eq!(of(3, "/m", 0), ("/m".into(), true));
        assert_eq!(of(libc::AT_FDCWD, "m", 0), ("m".into(), true));
        assert_eq!(of(3, "m", 0), ("/proc/self/fd/3/m".into(), false));
        assert_eq!(of(3, "", libc::AT_EMPTY_PATH), ("/proc/self/fd/3".into(), false));
        assert_eq!(of(3, "", 0), (String::new(), false));
    }

    #[test]
    fn a_thread_whose_name_is_no_text_is_seen_and_is_another_one_in_another_call() {
        let (named, name) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            rustix::thread::set_name(c"half a letter \xc3").unwrap();
            named.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            wait.recv()
        });
        let tid = name.recv().unwrap();
        let task = Task::of(tid).unwrap();
        assert_eq!(task.pid, std::process::id().cast_signed());
        let same = Task { waits: Waits::of(task.pid, tid).unwrap(), ..task };
        // Its number in another thread's hands: that began at another time, or is in another call.
        let mut later = Task { waits: Waits { began: same.waits.began + 1, ..same.waits.clone() }, ..same };
        assert!(!later.still_waits());
        later.waits =
            Waits { call: "59 0x1 0x2 0x3 0x0 0x0 0x0 0x0 0x0\n".into(), ..Waits::of(later.pid, tid).unwrap() };
        assert!(!later.still_waits());
        go.send(()).unwrap();
        other.join().unwrap().unwrap();
        assert!(!later.still_waits());
    }

    #[test]
    fn a_thread_that_does_not_sleep_yet_is_seen_in_the_call_in_which_it_will() {
        let call = || {
            let (named, name) = std::sync::mpsc::channel();
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let other = std::thread::spawn(move || {
                named.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
                let begun = Instant::now();
                while begun.elapsed() < FALLS_ASLEEP / 5 {
                    std::hint::spin_loop();
                }
                wait.recv()
            });
            let task = Task::of(name.recv().unwrap()).unwrap();
            go.send(()).unwrap();
            other.join().unwrap().unwrap();
            task.waits.call
        };
        // A machine that is busy may keep it awake for longer than anybody waits.
        let expected = format!("{} ", libc::SYS_futex);
        assert!((0..20).any(|_| call().starts_with(&expected)));
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
