//! Paths as the VM names them, absolute and without symbolic links where the kernel can say so at once.
//!
//! ```text
//!   while the call waits    text, and what it starts from: the working directory, a descriptor, the root
//!   when it was let go      openat2(the VM's root, RESOLVE_IN_ROOT) ─► /proc/self/fd/N ─► path
//!                                                    └ not there, or not to be asked: as it was written
//! ```
//!
//! Invariant: a file system whose server runs in the VM is not asked: the server may wait for the tracer. Where the VM has mounted
//! one ([`Mounts`]) only what the kernel has cached is looked up, which overlayfs has not: paths there stay as they were written.
//! One that is mounted in the moment of a look holds up this VM's tracer, no longer than its server lives.

use super::calls::{File, Follow};
use super::memory::Memory;
use super::proc;
use super::process::Process;
use fvm_model::path::Bytes;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A file that a call names, read while the call waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Named {
    /// Absolute, but maybe with `.`, `..` and symbolic links.
    text: Vec<u8>,
    follow: bool,
    /// The kernel made it.
    is_fact: bool,
    /// It is not whole, or what it starts from is not known.
    cut: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The path.
    pub bytes: Bytes,
    /// The kernel made it absolute.
    pub resolved: bool,
    /// It is not whole.
    pub cut: bool,
}

/// Reads what `file` names in the call of thread `tid`. `None`: it names none.
#[must_use]
pub fn read(file: File, arguments: &[u64; 6], tid: i32, process: &Process, memory: &Memory) -> Option<Named> {
    let argument = |index: u8| arguments[usize::from(index)];
    let follows = |follow| match follow {
        Follow::Yes => true,
        Follow::No => false,
        Follow::Unless(index, bit) => argument(index) & bit == 0,
        Follow::If(index, bit) => argument(index) & bit != 0,
    };
    Some(match file {
        File::Nothing => return None,
        File::Text(index) => {
            let text = memory.path(argument(index));
            Named { text: text.bytes, cut: text.cut, ..Named::default() }
        }
        File::Fd(index) => of_descriptor(tid, argument(index)),
        File::Path(index, follow) => {
            let text = memory.path(argument(index));
            from(None, text, follows(follow), tid, process)
        }
        // utimensat(2): the open file itself.
        File::At(dir, index, _) if argument(index) == 0 => of_descriptor(tid, argument(dir)),
        File::At(dir, index, follow) => {
            let text = memory.path(argument(index));
            from(Some(argument(dir)), text, follows(follow), tid, process)
        }
    })
}

fn of_descriptor(tid: i32, fd: u64) -> Named {
    let link = descriptor(fd).and_then(|fd| proc::link(tid, &format!("fd/{fd}")));
    let text = link.unwrap_or_default();
    // A socket, a pipe, memory: `socket:[1]`.
    let cut = !text.starts_with(b"/");
    Named { text, follow: false, is_fact: true, cut }
}

/// What a path that leads through `/proc/self`, `/dev/fd` and the like names: links that the kernel follows for this process alone.
/// `None`: it does not lead there. Only as it is now: later the descriptor is another's.
fn magic(text: &[u8], tid: i32, process: &Process) -> Option<Named> {
    let plain = lexical(text);
    let names: Vec<&[u8]> = plain.split(|b| *b == b'/').skip(1).collect();
    let own = process.key.tgid.to_string();
    let (link, rest): (String, &[&[u8]]) = match names.as_slice() {
        [b"dev", b"fd", fd, rest @ ..] => (format!("fd/{}", std::str::from_utf8(fd).ok()?), rest),
        [b"dev", b"stdin"] => ("fd/0".into(), &[]),
        [b"dev", b"stdout"] => ("fd/1".into(), &[]),
        [b"dev", b"stderr"] => ("fd/2".into(), &[]),
        [b"proc", who, more @ ..] => {
            let more = match more {
                // The same links, of a thread.
                [b"task", _, more @ ..] => more,
                more => more,
            };
            let (link, rest) = match more {
                [b"fd", fd, rest @ ..] => (format!("fd/{}", std::str::from_utf8(fd).ok()?), rest),
                [name @ (b"cwd" | b"root" | b"exe"), rest @ ..] => (std::str::from_utf8(name).ok()?.to_owned(), rest),
                [b"map_files", ..] => return Some(Named { text: text.to_vec(), cut: true, ..Named::default() }),
                _ => return None,
            };
            if !matches!(*who, b"self" | b"thread-self") && *who != own.as_bytes() {
                // Another process's: what it has open is not known here.
                return Some(Named { text: text.to_vec(), cut: true, ..Named::default() });
            }
            (link, rest)
        }
        _ => return None,
    };
    let target = proc::link(tid, &link).unwrap_or_default();
    if !target.starts_with(b"/") {
        // A socket, a pipe, memory: no file of the VM's; or there is none, and the call fails.
        let text = if target.is_empty() { text.to_vec() } else { target };
        return Some(Named { text, is_fact: true, ..Named::default() });
    }
    let rest = rest.iter().flat_map(|name| [b"/", *name].concat()).collect::<Vec<u8>>();
    let is_fact = rest.is_empty();
    Some(Named { text: [target, rest].concat(), follow: true, is_fact, cut: false })
}

fn descriptor(fd: u64) -> Option<i32> {
    #[allow(clippy::cast_possible_truncation, reason = "the kernel takes an int")]
    let fd = (fd as u32).cast_signed();
    (fd >= 0).then_some(fd)
}

fn from(dir: Option<u64>, path: super::memory::Text, follow: bool, tid: i32, process: &Process) -> Named {
    let (bytes, cut) = (path.bytes, path.cut);
    if bytes.starts_with(b"/") {
        // Of a link as the last name only what it leads to matters, and whoever does not follow it names an entry of /proc.
        if let Some(named) = magic(&bytes, tid, process).filter(|_| follow && !cut) {
            return named;
        }
        let text = if process.root.is_empty() { bytes } else { [process.root.as_slice(), &bytes].concat() };
        return Named { text, follow, is_fact: false, cut };
    }
    let is_at = dir.is_some();
    let dir = dir.and_then(descriptor);
    if bytes.is_empty() && !cut {
        // AT_EMPTY_PATH, or an error: then nothing comes of it.
        let here = || Named { text: proc::link(tid, "cwd").unwrap_or_default(), is_fact: true, ..Named::default() };
        return match dir {
            Some(fd) => of_descriptor(tid, fd.cast_unsigned().into()),
            None if is_at => here(),
            None => Named { is_fact: true, ..Named::default() },
        };
    }
    let base = match dir {
        Some(fd) => proc::link(tid, &format!("fd/{fd}")),
        None => proc::link(tid, "cwd"),
    };
    match base.filter(|base| base.starts_with(b"/")) {
        // From within /proc: as above.
        Some(base) if base.starts_with(b"/proc/") || base.starts_with(b"/dev/fd") => {
            let text = [base.as_slice(), b"/", &bytes].concat();
            magic(&text, tid, process).filter(|_| follow && !cut).unwrap_or(Named { text, follow, is_fact: false, cut })
        }
        Some(base) => Named { text: [base.as_slice(), b"/", &bytes].concat(), follow, is_fact: false, cut },
        None => Named { text: bytes, follow, is_fact: false, cut: true },
    }
}

impl Named {
    /// As the process wrote it, from where it starts.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Text that names no file.
    #[must_use]
    pub fn into_text(self) -> Path {
        Path { bytes: Bytes(OsString::from_vec(self.text)), resolved: false, cut: self.cut }
    }

    /// The path, as the kernel knows it. `root`: the VM's; `None` where its paths mean something else. `cached`: only what the
    /// kernel can say without asking a file system.
    #[must_use]
    pub fn find(self, root: Option<&OwnedFd>, cached: bool) -> Path {
        let done = |bytes: Vec<u8>, resolved| Path { bytes: Bytes(OsString::from_vec(bytes)), resolved, cut: self.cut };
        if self.is_fact {
            return done(self.text, !self.cut);
        }
        let is_whole = !self.cut && !self.text.is_empty();
        let Some(root) = root.filter(|_| is_whole) else { return done(self.text, false) };
        match resolve(root, &self.text, self.follow, cached) {
            Some(path) => done(path, true),
            // What is a link of the process's own, or cannot be asked, may be any file.
            None => {
                let cut = cached || leads_to_proc(root, &self.text);
                Path { cut, ..done(lexical(&self.text), false) }
            }
        }
    }
}

/// The real path of `text`; the last name is kept as it is unless it is to be followed, and need not be there.
fn resolve(root: &OwnedFd, text: &[u8], follow: bool, cached: bool) -> Option<Vec<u8>> {
    resolve_at(root, text, follow, cached, LINKS_MAX)
}

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

fn resolve_at(root: &OwnedFd, text: &[u8], follow: bool, cached: bool, links_left: usize) -> Option<Vec<u8>> {
    let trimmed = text.iter().rposition(|b| *b != b'/').map_or(&b"/"[..], |last| &text[..=last]);
    let slash = trimmed.iter().rposition(|b| *b == b'/')?;
    let name = &trimmed[slash + 1..];
    let is_plain = !matches!(name, b"" | b"." | b"..");
    if follow || !is_plain {
        match open(root, trimmed, cached) {
            Ok(file) => return real(&file),
            // It is to be made, or was just taken away.
            Err(Errno::NOENT) if is_plain => {}
            Err(_) => return None,
        }
    }
    let parent = open(root, if slash == 0 { b"/" } else { &trimmed[..slash] }, cached).ok()?;
    let mut path = real(&parent)?;
    if path != b"/" {
        path.push(b'/');
    }
    // A link to nothing: what is made is what it leads to.
    if follow && let Ok(target) = fs::readlinkat(&parent, OsStr::from_bytes(name), Vec::new()) {
        let target = target.into_bytes();
        let target = if target.starts_with(b"/") { target } else { [path.as_slice(), &target].concat() };
        return resolve_at(root, &target, true, cached, links_left.checked_sub(1)?);
    }
    path.extend_from_slice(name);
    Some(path)
}

/// Whether `text` leads, by links that are not the kernel's own, to such as a process has in `/proc`.
fn leads_to_proc(root: &OwnedFd, text: &[u8]) -> bool {
    const NAMES_MAX: usize = 4096;
    let split = |path: &[u8]| path.split(|b| *b == b'/').map(<[u8]>::to_vec).rev().collect::<Vec<_>>();
    let (mut at, mut rest, mut links) = (Vec::new(), split(text), 0);
    for _ in 0..NAMES_MAX {
        let Some(name) = rest.pop() else { return false };
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                let end = at.iter().rposition(|b| *b == b'/').unwrap_or(0);
                at.truncate(end);
                continue;
            }
            _ => {}
        }
        if at == b"/proc" && (name.iter().all(u8::is_ascii_digit) || name == b"self" || name == b"thread-self") {
            return rest
                .iter()
                .any(|name| matches!(name.as_slice(), b"fd" | b"cwd" | b"root" | b"exe" | b"map_files" | b"task"));
        }
        let next = [at.as_slice(), b"/", &name].concat();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let Ok(file) = fs::openat2(root, OsStr::from_bytes(&next), flags, Mode::empty(), how) else { return false };
        match fs::readlinkat(&file, "", Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return false;
                }
                let target = target.into_bytes();
                if target.starts_with(b"/") {
                    at.clear();
                }
                rest.extend(split(&target));
            }
            Err(_) => at = next,
        }
    }
    true
}

fn open(root: &OwnedFd, path: &[u8], cached: bool) -> Result<OwnedFd, Errno> {
    let only = if cached { ResolveFlags::CACHED } else { ResolveFlags::empty() };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | only;
    fs::openat2(root, OsStr::from_bytes(path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)
}

/// Where an open file lies; as the VM names it, for its mounts end at its root.
fn real(file: impl AsFd) -> Option<Vec<u8>> {
    let link = fs::readlink(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()), Vec::with_capacity(256)).ok()?;
    let bytes = link.into_bytes();
    (bytes.starts_with(b"/") && !bytes.ends_with(b" (deleted)")).then_some(bytes)
}

/// `..` taken away by name, where nothing better is known.
fn lexical(text: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in text.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let path = names.iter().flat_map(|name| [&b"/"[..], name]).collect::<Vec<_>>().concat();
    if path.is_empty() { b"/".to_vec() } else { path }
}

/// The VM's mounts, as far as they matter here.
#[derive(Debug)]
pub struct Mounts {
    /// `/proc/<init>/mountinfo`; readable when it has changed.
    table: OwnedFd,
    /// Those that may wait for somebody, and were there before the VM's programs: for somebody outside.
    before: BTreeSet<u64>,
    /// The VM has made such a one.
    may_wait: bool,
}

impl Mounts {
    /// As they are before any of the VM's programs runs.
    #[must_use]
    pub fn new(table: OwnedFd) -> Self {
        let before = waiting(&read_all(&table));
        Self { table, before, may_wait: false }
    }

    /// What to poll for changes.
    #[must_use]
    pub fn table(&self) -> &OwnedFd {
        &self.table
    }

    /// They have changed.
    pub fn look(&mut self) {
        self.may_wait = !waiting(&read_all(&self.table)).is_subset(&self.before);
    }

    /// Whether a look-up may wait for a process of the VM.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.may_wait
    }
}

fn read_all(table: &OwnedFd) -> Vec<u8> {
    /// Longest table that is read.
    const MAX: usize = 16 << 20;
    let mut bytes = Vec::new();
    if fs::seek(table, fs::SeekFrom::Start(0)).is_err() {
        return bytes;
    }
    let mut buffer = [0; 16 << 10];
    while let Ok(len @ 1..) = rustix::io::read(table, &mut buffer[..]) {
        bytes.extend_from_slice(&buffer[..len]);
        if bytes.len() > MAX {
            break;
        }
    }
    bytes
}

/// The mounts of file systems that ask a process: FUSE and automounts; by number.
fn waiting(mountinfo: &[u8]) -> BTreeSet<u64> {
    let line = |line: &[u8]| {
        let text = String::from_utf8_lossy(line).into_owned();
        let (own, of_type) = text.split_once(" - ")?;
        let kind = of_type.split(' ').next()?;
        let waits = kind == "autofs" || kind == "fuse" || kind == "fuseblk" || kind.starts_with("fuse.");
        waits.then(|| own.split(' ').next()?.parse().ok()).flatten()
    };
    mountinfo.split(|b| *b == b'\n').filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_as_the_call_would() {
        let dir = tempfile::tempdir().unwrap();
        let base = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        std::fs::write(base.join("real/file"), "").unwrap();
        symlink("real", base.join("dir")).unwrap();
        symlink("real/file", base.join("link")).unwrap();
        let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let text = |rest: &str| [base.as_os_str().as_bytes(), b"/", rest.as_bytes()].concat();
        let find = |rest: &str, follow| {
            let path = Named { text: text(rest), follow, is_fact: false, cut: false }.find(Some(&root), false);
            assert!(path.resolved, "{rest} {follow}");
            path.bytes.0.into_vec()
        };
        assert_eq!(find("dir/file", true), text("real/file"));
        assert_eq!(find("dir/new", true), text("real/new"));
        assert_eq!(find("link", true), text("real/file"));
        assert_eq!(find("link", false), text("link"));
        assert_eq!(find("dir/../real/./file", false), text("real/file"));
        assert_eq!(find("dir/", false), text("dir"));
        symlink("real/to-be", base.join("dangling")).unwrap();
        symlink(base.join("dangling"), base.join("twice")).unwrap();
        assert_eq!((find("dangling", true), find("twice", true)), (text("real/to-be"), text("real/to-be")));
        assert_eq!(find("dangling", false), text("dangling"));
        symlink("round", base.join("round")).unwrap();
        let round = Named { text: text("round"), follow: true, is_fact: false, cut: false }.find(Some(&root), false);
        assert!(!round.resolved);
    }

    #[test]
    fn file_systems_that_ask_a_process_are_known_by_their_type() {
        let table = b"23 28 0:21 / /sys rw - sysfs sysfs rw\n\
            40 28 0:40 / /a\\040-\\040b rw shared:1 - fuse.sshfs x rw\n41 28 0:41 / /fuse rw - ext4 /dev/fuse rw\n\
            42 28 0:42 / /c rw - autofs systemd-1 rw\nnonsense\n";
        assert_eq!(waiting(table), BTreeSet::from([40, 42]));
    }

    #[test]
    fn links_of_the_process_itself_are_followed_or_said_to_lead_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let base = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        symlink("/proc/self/fd/3", base.join("link")).unwrap();
        symlink("/proc/self/cwd", base.join("dir")).unwrap();
        symlink("file", base.join("plain")).unwrap();
        let file = std::fs::File::open(base.join("file")).unwrap();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let process = Process::with_number(own.unsigned_abs());
        let path = base.join("file").into_os_string().into_vec();
        let fd = file.as_raw_fd();
        for text in
            [format!("/proc/self/fd/{fd}"), format!("/dev/fd/{fd}"), format!("/proc//{own}/./task/{own}/fd/{fd}")]
        {
            let named = magic(text.as_bytes(), own, &process).unwrap();
            assert_eq!((named.text, named.cut), (path.clone(), false), "{text}");
        }
        let below = magic(b"/proc/self/root/etc/x", own, &process).unwrap();
        assert_eq!((lexical(&below.text), below.is_fact), (b"/etc/x".to_vec(), false));
        assert!(magic(b"/proc/1/fd/3", own, &process).unwrap().cut, "another's");
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        let named = magic(format!("/proc/self/fd/{}", pipe.as_raw_fd()).as_bytes(), own, &process).unwrap();
        assert!(named.text.starts_with(b"pipe:") && !named.cut, "no file of anybody's");
        for text in ["/proc/self/comm", "/proc/sys/kernel/x", "/etc/x", "/proc/1/mem"] {
            assert_eq!(magic(text.as_bytes(), own, &process), None, "{text}");
        }
        // An empty path names nothing, or where one is: that is no path which is not whole.
        let empty = || super::super::memory::Text::default();
        assert_eq!(from(None, empty(), true, own, &process), Named { is_fact: true, ..Named::default() });
        assert!(!from(Some(libc::AT_FDCWD as u64), empty(), true, own, &process).cut);
        let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let leads = |name: &str| leads_to_proc(&root, base.join(name).as_os_str().as_bytes());
        assert!(leads("link") && leads("dir/x") && !leads("plain") && !leads("nothing/x") && !leads("file"));
    }

    #[test]
    fn what_the_kernel_cannot_say_at_once_is_as_it_was_written() {
        let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let named = |text: &[u8], cut| Named { text: text.to_vec(), follow: true, is_fact: false, cut };
        let path = named(b"/nowhere/../nothing//./x/", false).find(Some(&root), false);
        assert_eq!((path.bytes.0.into_vec(), path.resolved), (b"/nothing/x".to_vec(), false));
        let path = named(b"/etc", true).find(Some(&root), false);
        assert!(path.cut && !path.resolved);
        // mkdir(""): it fails, and names nothing.
        let path = named(b"", false).find(Some(&root), false);
        assert!(path.bytes.0.is_empty() && !path.cut && !path.resolved);
        assert_eq!(lexical(b"/.."), b"/");
    }
}
