//! A directory of results: `<dir>/ab/cdef...`, named by what is in them.
//!
//! A file is written without a name, synced, and linked to its name: nothing half is ever seen, also after a power cut.

use super::{BYTES_MAX, Store, StoreError, name_of, parts};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

pub struct Dir {
    path: PathBuf,
    dir: OwnedFd,
}

/// Only whoever runs fvm reads what pages sent.
const DIR_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

impl Dir {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |what, e: &dyn std::fmt::Display| StoreError {
            what,
            name: String::new(),
            place: path.display().to_string(),
            why: e.to_string(),
        };
        std::fs::create_dir_all(path).map_err(|e| failed("make a place for", &e))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed("open the place of", &e))?;
        Ok(Self { path: path.into(), dir })
    }

    fn error(&self, what: &'static str, name: &str, e: Errno) -> StoreError {
        let why = match e {
            Errno::NOSPC | Errno::DQUOT => format!("{e}: make room, then resume the run"),
            _ => e.to_string(),
        };
        StoreError { what, name: name.into(), place: self.path.display().to_string(), why }
    }

    /// The directory of names that begin with `first`.
    fn below(&self, first: &str) -> Result<OwnedFd, Errno> {
        let open = || {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat2(&self.dir, first, flags, Mode::empty(), beneath())
        };
        match open() {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&self.dir, first, DIR_MODE) {
                    Ok(()) => rustix::fs::fsync(&self.dir)?,
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                open()
            }
            opened => opened,
        }
    }

    fn write(&self, first: &str, rest: &str, bytes: &[u8]) -> Result<(), Errno> {
        let below = self.below(first)?;
        if is_there(below.as_fd(), rest, bytes.len())? {
            return Ok(());
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&below, ".", flags, FILE_MODE) {
            // A file system without files without names.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return write_named(below.as_fd(), rest, bytes),
            opened => opened?,
        };
        let mut file = File::from(file);
        fill(&mut file, bytes)?;
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        match rustix::fs::linkat(rustix::fs::CWD, own, &below, rest, AtFlags::SYMLINK_FOLLOW) {
            // Another did meanwhile.
            Ok(()) | Err(Errno::EXIST) => rustix::fs::fsync(&below),
            // No /proc.
            Err(Errno::NOENT) => write_named(below.as_fd(), rest, bytes),
            Err(e) => Err(e),
        }
    }
}

impl Store for Dir {
    fn put(&self, bytes: &[u8]) -> Result<String, StoreError> {
        let name = name_of(bytes);
        let (first, rest) = name.split_at(2);
        self.write(first, rest, bytes).map_err(|e| self.error("store", &name, e))?;
        Ok(name)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((first, rest)) = parts(name) else {
            return Err(self.error("read", name, Errno::INVAL));
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = rustix::fs::openat2(&self.dir, format!("{first}/{rest}"), flags, Mode::empty(), beneath());
        let file = match opened {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|e| self.error("read", name, e))?,
        };
        let mut bytes = Vec::new();
        let read = File::from(file).take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| self.error("read", name, Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        if bytes.len() > BYTES_MAX {
            return Err(self.error("read", name, Errno::FBIG));
        }
        if name_of(&bytes) != name {
            let why = "what is there is not what its name says".into();
            return Err(StoreError { what: "read", name: name.into(), place: self.path.display().to_string(), why });
        }
        Ok(Some(bytes))
    }
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS
}

/// Whether a file of this size has the name. One that was damaged keeps its size, and is found when it is read.
fn is_there(below: BorrowedFd<'_>, rest: &str, size: usize) -> Result<bool, Errno> {
    match rustix::fs::statat(below, rest, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let whole =
                FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size == i64::try_from(size).unwrap_or(-1);
            if !whole {
                rustix::fs::unlinkat(below, rest, AtFlags::empty())?;
            }
            Ok(whole)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

fn fill(file: &mut File, bytes: &[u8]) -> Result<(), Errno> {
    let failed = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// The same with a name that nobody else has.
fn write_named(below: BorrowedFd<'_>, rest: &str, bytes: &[u8]) -> Result<(), Errno> {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let name = format!(".{rest}.{}.{thread}", rustix::process::getpid().as_raw_nonzero());
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::openat(below, &name, flags, FILE_MODE)?);
    let done = fill(&mut file, bytes).and_then(|()| rustix::fs::renameat(below, &name, below, rest));
    if let Err(e) = done {
        let _gone = rustix::fs::unlinkat(below, &name, AtFlags::empty());
        return Err(e);
    }
    rustix::fs::fsync(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_got_and_lies_there_once() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Dir::open(&tmp.path().join("a/b")).unwrap();
        let name = store.put(b"hello").unwrap();
        assert_eq!(name, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!(store.put(b"hello").unwrap(), name);
        assert_eq!(store.get(&name).unwrap().unwrap(), b"hello");
        assert_eq!(store.get(&name_of(b"other")).unwrap(), None);
        let files: Vec<_> =
            std::fs::read_dir(tmp.path().join("a/b/2c")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(files, [&name[2..]]);
    }

    #[test]
    fn a_name_is_a_hash_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("secret"), "s").unwrap();
        let store = Dir::open(&tmp.path().join("store")).unwrap();
        for name in ["../secret", "", "..", &"A".repeat(64), &format!("..{}", "/".repeat(62)), &"é".repeat(32)] {
            assert!(store.get(name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_damaged_is_never_given_out_and_put_anew_where_that_shows() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Dir::open(tmp.path()).unwrap();
        let name = store.put(b"whole").unwrap();
        let path = tmp.path().join(&name[..2]).join(&name[2..]);
        std::fs::write(&path, "wh").unwrap();
        assert!(store.get(&name).unwrap_err().to_string().contains("not what its name says"));
        store.put(b"whole").unwrap();
        assert_eq!(store.get(&name).unwrap().unwrap(), b"whole");
        // A link in its place is not followed.
        std::fs::write(tmp.path().join("else"), "whole").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(tmp.path().join("else"), &path).unwrap();
        assert!(store.get(&name).is_err());
    }

    #[test]
    fn many_threads_put_the_same() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Dir::open(tmp.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..50_u8 {
                        store.put(&[n; 100]).unwrap();
                        assert_eq!(write_named(store.below("zz").unwrap().as_fd(), "same", &[n]), Ok(()));
                    }
                });
            }
        });
        for n in 0..50_u8 {
            assert_eq!(store.get(&name_of(&[n; 100])).unwrap().unwrap(), [n; 100]);
        }
        assert_eq!(std::fs::read_dir(tmp.path().join("zz")).unwrap().count(), 1);
    }
}
