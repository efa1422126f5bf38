//! A disk that stops after a number of operations, and may then forget what was not synced.
//!
//! ```text
//!   op 1 ─ op 2 ─ sync ─ op 3 ─ op 4 ╳ stop       every later call fails and does nothing, as after a kill
//!                        └── power cut: op 3, op 4 may be taken back, in any way that keeps operations on one
//!                            directory or one inode in order
//! ```

use fvm_commit::{Attrs, Disk, Entry, HostDisk};
use fvm_sys::dir::Dir;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

type Inode = (u64, u64);

struct Logged {
    dev: u64,
    dirs: Vec<Inode>,
    inodes: Vec<Inode>,
    /// The content of a file: no order of names holds it back.
    data: Option<Inode>,
    back: Box<dyn FnOnce()>,
}

#[derive(Default)]
pub struct Frail {
    /// Operations that still succeed; `None`: all.
    left: Cell<Option<u64>>,
    done: Cell<u64>,
    log: RefCell<Vec<Logged>>,
    keeps_log: bool,
    trash: Cell<u64>,
}

impl std::fmt::Debug for Frail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frail({} done)", self.done.get())
    }
}

fn id(dev: (u32, u32), ino: u64) -> Inode {
    (u64::from(dev.0) << 32 | u64::from(dev.1), ino)
}

fn inode(at: Entry<'_>) -> Inode {
    at.0.stat(at.1).map_or((0, 0), |s| id((s.stx_dev_major, s.stx_dev_minor), s.stx_ino))
}

fn dir(at: Entry<'_>) -> Inode {
    inode((at.0, Path::new("")))
}

fn own(at: Entry<'_>) -> (Dir, PathBuf) {
    (Dir::from_fd(rustix::io::dup(at.0).unwrap()), at.1.to_owned())
}

impl Frail {
    /// Stops after `count` operations.
    pub fn stopping_after(count: u64) -> Self {
        Self { left: Cell::new(Some(count)), ..Self::default() }
    }

    /// The same, ready for [`Frail::cut_power`].
    pub fn without_battery(count: u64) -> Self {
        Self { keeps_log: true, ..Self::stopping_after(count) }
    }

    pub fn count(&self) -> u64 {
        self.done.get()
    }

    pub fn stopped(&self) -> bool {
        self.left.get() == Some(0)
    }

    /// Takes back some of what was not synced, as `coin` falls.
    pub fn cut_power(&self, mut coin: impl FnMut() -> bool) -> usize {
        let mut kept: Vec<(Vec<Inode>, Vec<Inode>)> = Vec::new();
        let mut lost = 0;
        for op in self.log.take().into_iter().rev() {
            let depended = kept.iter().any(|(dirs, inodes)| {
                op.dirs.iter().any(|d| dirs.contains(d)) || op.inodes.iter().any(|i| inodes.contains(i))
            });
            if !depended && coin() {
                (op.back)();
                lost += 1;
            } else {
                kept.push((op.dirs, op.inodes));
            }
        }
        lost
    }

    fn allowed(&self) -> Result<(), Errno> {
        match self.left.get() {
            Some(0) => return Err(Errno::IO),
            Some(n) => self.left.set(Some(n - 1)),
            None => {}
        }
        self.done.set(self.done.get() + 1);
        Ok(())
    }

    fn log(&self, dirs: &[Inode], inodes: &[Inode], back: impl FnOnce() + 'static) {
        if self.keeps_log {
            let dev = dirs.first().or(inodes.first()).map_or(0, |i| i.0);
            self.log.borrow_mut().push(Logged {
                dev,
                dirs: dirs.to_vec(),
                inodes: inodes.to_vec(),
                data: None,
                back: Box::new(back),
            });
        }
    }

    fn created(&self, at: Entry<'_>) {
        let (dir_, name) = own(at);
        self.log(&[dir(at)], &[inode(at)], move || dir_.remove_tree(&name).unwrap());
    }

    /// Where removed things wait for the power to be safe.
    fn trash(&self, at: Entry<'_>) -> (Dir, PathBuf) {
        let name = PathBuf::from(format!(".trash-{}", self.trash.replace(self.trash.get() + 1)));
        (own(at).0, name)
    }
}

impl Disk for Frail {
    fn create_file(&self, at: Entry<'_>) -> Result<OwnedFd, Errno> {
        self.allowed()?;
        let fd = HostDisk.create_file(at)?;
        self.created(at);
        Ok(fd)
    }

    fn copy_file(
        &self,
        at: Entry<'_>,
        from: BorrowedFd<'_>,
        len_bytes: u64,
        attrs: &Attrs,
    ) -> Result<Vec<OsString>, Errno> {
        // The last one gets only half-way.
        let is_last = self.left.get() == Some(1);
        self.allowed()?;
        let length = if is_last { len_bytes / 2 } else { len_bytes };
        let unset = HostDisk.copy_file(at, from, length, attrs)?;
        self.created(at);
        let file = rustix::fs::openat(at.0, at.1, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        self.data(&file);
        Ok(unset)
    }

    fn write(&self, to: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
        if self.stopped() {
            return Err(Errno::IO);
        }
        let is_last = self.left.get() == Some(1);
        self.allowed()?;
        HostDisk.write(to, if is_last { &bytes[..bytes.len() / 2] } else { bytes })?;
        self.data(to);
        Ok(())
    }

    fn create_dir(&self, at: Entry<'_>) -> Result<(), Errno> {
        self.allowed()?;
        HostDisk.create_dir(at)?;
        self.created(at);
        Ok(())
    }

    fn create_symlink(&self, at: Entry<'_>, target: &OsStr) -> Result<(), Errno> {
        self.allowed()?;
        HostDisk.create_symlink(at, target)?;
        self.created(at);
        Ok(())
    }

    fn create_fifo(&self, at: Entry<'_>) -> Result<(), Errno> {
        self.allowed()?;
        HostDisk.create_fifo(at)?;
        self.created(at);
        Ok(())
    }

    fn link(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno> {
        self.allowed()?;
        HostDisk.link(from, to)?;
        self.created(to);
        Ok(())
    }

    fn exchange(&self, a: Entry<'_>, b: Entry<'_>) -> Result<(), Errno> {
        self.allowed()?;
        HostDisk.exchange(a, b)?;
        let (x, y) = (own(a), own(b));
        self.log(&[dir(a), dir(b)], &[inode(a), inode(b)], move || {
            HostDisk.exchange((&x.0, &x.1), (&y.0, &y.1)).unwrap();
        });
        Ok(())
    }

    fn move_to_free(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno> {
        self.allowed()?;
        HostDisk.move_to_free(from, to)?;
        let (x, y) = (own(from), own(to));
        self.log(&[dir(from), dir(to)], &[inode(to)], move || {
            HostDisk.move_to_free((&y.0, &y.1), (&x.0, &x.1)).unwrap();
        });
        Ok(())
    }

    fn replace(&self, from: Entry<'_>, to: Entry<'_>) -> Result<(), Errno> {
        self.allowed()?;
        if !self.keeps_log {
            return HostDisk.replace(from, to);
        }
        let (x, y) = (own(from), own(to));
        if to.0.stat_opt(to.1)?.is_none() {
            HostDisk.replace(from, to)?;
            self.log(&[dir(from), dir(to)], &[inode(to)], move || {
                HostDisk.move_to_free((&y.0, &y.1), (&x.0, &x.1)).unwrap();
            });
            return Ok(());
        }
        let old = self.trash(to);
        HostDisk.move_to_free(to, (&old.0, &old.1))?;
        HostDisk.move_to_free(from, to)?;
        self.log(&[dir(from), dir(to)], &[inode(to)], move || {
            HostDisk.move_to_free((&y.0, &y.1), (&x.0, &x.1)).unwrap();
            HostDisk.move_to_free((&old.0, &old.1), (&y.0, &y.1)).unwrap();
        });
        Ok(())
    }

    fn chown(&self, at: Entry<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
        self.allowed()?;
        let (old, was) = (own(at), at.0.stat(at.1)?);
        HostDisk.chown(at, uid, gid)?;
        self.log(&[], &[inode(at)], move || HostDisk.chown((&old.0, &old.1), was.stx_uid, was.stx_gid).unwrap());
        Ok(())
    }

    fn chmod(&self, at: Entry<'_>, mode: u32) -> Result<(), Errno> {
        self.allowed()?;
        let (old, was) = (own(at), at.0.stat(at.1)?);
        HostDisk.chmod(at, mode)?;
        self.log(&[], &[inode(at)], move || HostDisk.chmod((&old.0, &old.1), u32::from(was.stx_mode)).unwrap());
        Ok(())
    }

    fn set_xattr(&self, at: Entry<'_>, attr: &OsStr, value: &[u8]) -> Result<(), Errno> {
        self.allowed()?;
        let was = at.0.xattr(at.1, attr)?;
        HostDisk.set_xattr(at, attr, value)?;
        self.xattr_back(at, attr, was);
        Ok(())
    }

    fn remove_xattr(&self, at: Entry<'_>, attr: &OsStr) -> Result<(), Errno> {
        self.allowed()?;
        let was = at.0.xattr(at.1, attr)?;
        HostDisk.remove_xattr(at, attr)?;
        self.xattr_back(at, attr, was);
        Ok(())
    }

    fn set_mtime(&self, at: Entry<'_>, secs: i64, nanos: u32) -> Result<(), Errno> {
        self.allowed()?;
        let (old, was) = (own(at), at.0.stat(at.1)?.stx_mtime);
        HostDisk.set_mtime(at, secs, nanos)?;
        self.log(&[], &[inode(at)], move || {
            HostDisk.set_mtime((&old.0, &old.1), was.tv_sec, was.tv_nsec).unwrap();
        });
        Ok(())
    }

    fn remove_tree(&self, at: Entry<'_>) -> Result<(), Errno> {
        let Some(stat) = at.0.stat_opt(at.1)? else { return Ok(()) };
        let is_last = self.left.get() == Some(1);
        self.allowed()?;
        let is_dir = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory;
        if is_last && is_dir {
            // The last one gets only part of the way.
            let below = at.0.beneath(at.1)?;
            if let Some(first) = below.names()?.first() {
                below.remove_tree(Path::new(first))?;
            }
            return Ok(());
        }
        if !self.keeps_log {
            return HostDisk.remove_tree(at);
        }
        let (old, gone, moved) = (own(at), self.trash(at), inode(at));
        HostDisk.move_to_free(at, (&gone.0, &gone.1))?;
        self.log(&[dir(at)], &[moved], move || {
            HostDisk.move_to_free((&gone.0, &gone.1), (&old.0, &old.1)).unwrap();
        });
        Ok(())
    }

    fn sync_fd(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.allowed()?;
        let stat = Dir::from_fd(rustix::io::dup(fd)?).stat(Path::new(""))?;
        let this = id((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        self.log.borrow_mut().retain(|op| {
            let is_data = op.data == Some(this);
            let is_entry = !op.dirs.is_empty() && op.dirs.iter().all(|d| *d == this);
            !is_data && !is_entry
        });
        Ok(())
    }

    fn sync(&self, dir: &Dir) -> Result<(), Errno> {
        self.allowed()?;
        let dev = inode((dir, Path::new(""))).0;
        self.log.borrow_mut().retain(|op| op.dev != dev);
        Ok(())
    }

    fn tick(&self) {}
}

impl Frail {
    fn data(&self, file: &OwnedFd) {
        let stat = Dir::from_fd(rustix::io::dup(file).unwrap()).stat(Path::new("")).unwrap();
        let this = id((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(file));
        if !self.keeps_log {
            return;
        }
        let held = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let back = Box::new(move || rustix::fs::ftruncate(held.as_fd(), 0).unwrap());
        self.log.borrow_mut().push(Logged { dev: this.0, dirs: vec![], inodes: vec![], data: Some(this), back });
    }

    fn xattr_back(&self, at: Entry<'_>, attr: &OsStr, was: Option<Vec<u8>>) {
        let (old, attr): (_, OsString) = (own(at), attr.to_owned());
        self.log(&[], &[inode(at)], move || match was {
            Some(value) => HostDisk.set_xattr((&old.0, &old.1), &attr, &value).unwrap(),
            None => HostDisk.remove_xattr((&old.0, &old.1), &attr).unwrap(),
        });
    }
}

/// `.trash-` entries are not there any more, for anybody.
pub fn empty_trash(top: &Path) {
    for entry in std::fs::read_dir(top).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        if entry.file_name().to_string_lossy().starts_with(".trash-") {
            let open = Dir::open_root(top).unwrap();
            open.remove_tree(Path::new(&entry.file_name())).unwrap();
        } else if is_dir {
            empty_trash(&path);
        }
    }
}
