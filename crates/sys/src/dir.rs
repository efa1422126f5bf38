//! Files by directory descriptor and relative name, for trees that a hostile VM has made.
//!
//! ```text
//!   Dir::open_root("/var/lib/fvm/.../upper")     trusted path, once
//!     └─ dir.beneath("a/b")                      openat2: RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS
//!          └─ dir.entries() → names → dir.stat(name), dir.open_file(name) (O_NOFOLLOW|O_NONBLOCK), ...
//! ```
//!
//! Invariants: no function here follows a symlink below the root it was given; none opens a FIFO or device so that it
//! could block; a name is one component.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Longest extended attribute value (`XATTR_SIZE_MAX`) and list (`XATTR_LIST_MAX`) that Linux has.
const XATTR_MAX_BYTES: usize = 65536;

/// How much of a directory is taken from the kernel at once.
const LIST_BLOCK_BYTES: usize = 32 * 1024;

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Dir {
    /// Opens a directory by a trusted path (fvm's own, or the host's mount point). Symlinks in it are followed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_root(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        match fs::open(path, OFlags::RDONLY | flags, Mode::empty()) {
            // One may enter it without being allowed to list it.
            Err(Errno::ACCESS) => fs::open(path, OFlags::PATH | flags, Mode::empty()).map(Self),
            other => other.map(Self),
        }
    }

    /// Takes over an open directory descriptor.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the directory `relative` (empty: this one again) below this one, following no symlink on the way.
    ///
    /// # Errors
    /// `ELOOP` for a symlink, `EXDEV` for an escape, `ENOTDIR`, `ENOENT`, and the kernel's others.
    pub fn beneath(&self, relative: &Path) -> Result<Self, Errno> {
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let mut flags = DIR_FLAGS;
        loop {
            match fs::openat2(&self.0, relative, flags, Mode::empty(), BENEATH) {
                Err(Errno::ACCESS) if !flags.contains(OFlags::PATH) => flags |= OFlags::PATH,
                // The kernel could not rule out a concurrent rename: try again, as openat2(2) says.
                Err(Errno::AGAIN) => {}
                other => return other.map(Self),
            }
        }
    }

    /// Opens the parent directory of `relative` below this one; returns it with the last component.
    ///
    /// # Errors
    /// As [`Dir::beneath`]; `EINVAL` when `relative` has no last component.
    pub fn parent_beneath<'p>(&self, relative: &'p Path) -> Result<(Self, &'p Path), Errno> {
        let name = relative.file_name().ok_or(Errno::INVAL)?;
        Ok((self.beneath(relative.parent().unwrap_or(Path::new("")))?, Path::new(name)))
    }

    /// The names in it, unsorted, without `.` and `..`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn names(&self) -> Result<Vec<OsString>, Errno> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(OsString::from_vec(bytes.to_vec()));
            }
        }
        Ok(names)
    }

    /// As [`Dir::beneath`], for a `relative` of any length: one longer than the kernel takes at once is walked in pieces.
    ///
    /// # Errors
    /// As [`Dir::beneath`].
    pub fn beneath_deep(&self, relative: &Path) -> Result<Self, Errno> {
        const PIECE_BYTES: usize = 2048;
        if relative.as_os_str().len() <= PIECE_BYTES {
            return self.beneath(relative);
        }
        let mut dir: Option<Self> = None;
        let mut piece = std::path::PathBuf::new();
        for component in relative.components() {
            piece.push(component);
            if piece.as_os_str().len() > PIECE_BYTES {
                dir = Some(dir.as_ref().unwrap_or(self).beneath(&piece)?);
                piece.clear();
            }
        }
        dir.as_ref().unwrap_or(self).beneath(&piece)
    }

    /// The names in it with their types (`Unknown` where the file system does not say), unsorted, without `.` and `..`.
    ///
    /// # Errors
    /// `E2BIG` when there are more than `limit`; the kernel's.
    pub fn entries(&self, limit: usize) -> Result<Vec<(OsString, fs::FileType)>, Errno> {
        let mut entries = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            if entries.len() == limit {
                return Err(Errno::TOOBIG);
            }
            entries.push((OsString::from_vec(bytes.to_vec()), entry.file_type()));
        }
        Ok(entries)
    }

    /// Calls `each` with the name, the type (`Unknown` where the file system does not say) and the inode number of every
    /// entry but `.` and `..`, unsorted, until it breaks. Nothing is kept: for directories of any size.
    ///
    /// # Errors
    /// The kernel's.
    pub fn each_entry(
        &self,
        mut each: impl FnMut(&OsStr, fs::FileType, u64) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Errno> {
        let again = fs::openat(&self.0, ".", DIR_FLAGS, Mode::empty())?;
        let mut block = [std::mem::MaybeUninit::<u8>::uninit(); LIST_BLOCK_BYTES];
        let mut entries = fs::RawDir::new(again, &mut block);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && each(OsStr::from_bytes(name), entry.file_type(), entry.ino()).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// `statx` of `name` (empty: the directory itself), not following a symlink; with birth time and mount id.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stat(&self, name: &Path) -> Result<Statx, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        fs::statx(&self.0, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID)
    }

    /// Like [`Dir::stat`], with `None` where nothing has that name.
    ///
    /// # Errors
    /// The kernel's, but for `ENOENT` and `ENOTDIR`.
    pub fn stat_opt(&self, name: &Path) -> Result<Option<Statx>, Errno> {
        match self.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the regular file `name` for reading. Never blocks, never follows; check with `fstat` that it is regular. Where
    /// the kernel allows it (to the file's owner, and to root), reading does not move the file's atime: who looks at very
    /// many files would write as many inodes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_file(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match fs::openat(&self.0, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => fs::openat(&self.0, name, flags, Mode::empty()),
            other => other,
        }
    }

    /// The target of the symlink `name`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_link(&self, name: &Path) -> Result<OsString, Errno> {
        fs::readlinkat(&self.0, name, Vec::new()).map(|c| OsString::from_vec(c.into_bytes()))
    }

    /// All extended attributes of `name` (empty: the directory itself) as (name, value), sorted by name. Does not
    /// follow a symlink. An entry on a file system without attributes has none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn xattrs(&self, name: &Path) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
        let mut out = Vec::new();
        for attr in self.xattr_names(name)? {
            match self.xattr(name, &attr) {
                Ok(Some(value)) => out.push((attr, value)),
                Ok(None) => {}
                Err(e) => return Err(e),
            }
        }
        out.sort();
        Ok(out)
    }

    /// The names of all extended attributes of an entry that this process may see, its own when `name` is empty; symlinks
    /// are not followed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn xattr_names(&self, name: &Path) -> Result<Vec<OsString>, Errno> {
        let mut short = [0u8; 256];
        let mut long = Vec::new();
        let list = match self.list_xattrs(name, &mut short) {
            Ok(len) => &short[..len],
            Err(Errno::RANGE) => {
                long.resize(XATTR_MAX_BYTES, 0);
                let len = self.list_xattrs(name, &mut long)?;
                &long[..len]
            }
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let names = list.split(|b| *b == 0).filter(|a| !a.is_empty());
        Ok(names.map(|attr| OsStr::from_bytes(attr).to_owned()).collect())
    }

    fn list_xattrs(&self, name: &Path, list: &mut [u8]) -> Result<usize, Errno> {
        match crate::xattr::list_at(&self.0, name, list) {
            Err(Errno::NOSYS) => fs::llistxattr(self.proc_path(name), list),
            other => other,
        }
    }

    /// One extended attribute; `None` when absent or unsupported.
    ///
    /// # Errors
    /// The kernel's.
    pub fn xattr(&self, name: &Path, attr: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
        whole_xattr(|value| self.get_xattr(name, attr, value))
    }

    fn get_xattr(&self, name: &Path, attr: &OsStr, value: &mut [u8]) -> Result<usize, Errno> {
        match crate::xattr::get_at(&self.0, name, attr, value) {
            Err(Errno::NOSYS) => fs::lgetxattr(self.proc_path(name), attr, value),
            other => other,
        }
    }

    /// Sets one extended attribute of `name` (empty: the directory itself) without following a symlink.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_xattr(&self, name: &Path, attr: &OsStr, value: &[u8]) -> Result<(), Errno> {
        fs::lsetxattr(self.proc_path(name), attr, value, fs::XattrFlags::empty())
    }

    /// Removes one extended attribute; absent is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_xattr(&self, name: &Path, attr: &OsStr) -> Result<(), Errno> {
        match fs::lremovexattr(self.proc_path(name), attr) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        }
    }

    /// `/proc/self/fd/N/name`: the extended attribute calls have no dirfd form before 6.13. The magic link leads to
    /// exactly this directory, and the l*xattr calls do not follow a final symlink.
    fn proc_path(&self, name: &Path) -> std::path::PathBuf {
        let base = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&self.0));
        if name.as_os_str().is_empty() { Path::new(&base).join(".") } else { Path::new(&base).join(name) }
    }

    /// Removes `name` and all below it, following no symlink; absent is fine. Directories that their owner made
    /// unreadable are opened up first. Uses a bounded number of descriptors however deep the tree is.
    ///
    /// # Errors
    /// The kernel's, from the first entry that could not be removed.
    pub fn remove_tree(&self, name: &Path) -> Result<(), Errno> {
        match fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
        let mut current = self.enter_for_removal(name)?;
        // The directories on the way down, each with those of its own directories that still hold something. Each is
        // listed once: listing it again after each child would be quadratic.
        let mut way = vec![(name.as_os_str().to_owned(), current.clear()?)];
        while let Some((_, full)) = way.last_mut() {
            if let Some(child) = full.pop() {
                current = match current.enter_for_removal(Path::new(&child)) {
                    Err(Errno::NOENT) => continue,
                    other => other?,
                };
                way.push((child, current.clear()?));
                continue;
            }
            let Some((done, _)) = way.pop() else { break };
            // The tree is no VM's any more (it is stopped) and fvm holds its lock, so `..` is where we came from.
            let parent = if way.is_empty() {
                Self(rustix::io::dup(&self.0)?)
            } else {
                Self(fs::openat(&current.0, "..", DIR_FLAGS, Mode::empty())?)
            };
            fs::unlinkat(&parent.0, Path::new(&done), AtFlags::REMOVEDIR)?;
            current = parent;
        }
        Ok(())
    }

    /// Removes all entries but directories that hold something, which it returns.
    fn clear(&self) -> Result<Vec<OsString>, Errno> {
        let mut full = Vec::new();
        for child in self.names()? {
            match fs::unlinkat(&self.0, Path::new(&child), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => match fs::unlinkat(&self.0, Path::new(&child), AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => full.push(child),
                    Err(e) => return Err(e),
                },
                Err(e) => return Err(e),
            }
        }
        Ok(full)
    }

    fn enter_for_removal(&self, name: &Path) -> Result<Self, Errno> {
        // What somebody mounted below is not part of the tree.
        let open = |flags| fs::openat2(&self.0, name, flags, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV);
        let opened = open(DIR_FLAGS);
        let dir = match opened {
            Err(Errno::ACCESS) => {
                // NOFOLLOW: O_PATH first, then chmod through the descriptor's own link.
                let path_fd = open(DIR_FLAGS | OFlags::PATH)?;
                let link = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&path_fd));
                fs::chmod(link, Mode::RWXU)?;
                open(DIR_FLAGS)?
            }
            other => other?,
        };
        let stat = fs::fstat(&dir)?;
        if stat.st_mode & 0o300 != 0o300 {
            fs::fchmod(&dir, Mode::RWXU)?;
        }
        Ok(Self(dir))
    }
}

/// All extended attributes of an open file as (name, value), sorted by name.
///
/// # Errors
/// The kernel's.
pub fn fd_xattrs(file: impl AsFd) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    let file = file.as_fd();
    let mut list = [0u8; 1024];
    let names = match fs::flistxattr(file, &mut list[..]) {
        Ok(len) => list[..len].to_vec(),
        Err(Errno::RANGE) => {
            let mut list = vec![0u8; XATTR_MAX_BYTES];
            let len = fs::flistxattr(file, &mut list[..])?;
            list.truncate(len);
            list
        }
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut out = Vec::new();
    for attr in names.split(|b| *b == 0).filter(|a| !a.is_empty()) {
        let attr = OsStr::from_bytes(attr);
        let mut value = vec![0u8; 256];
        loop {
            match fs::fgetxattr(file, attr, &mut value[..]) {
                Ok(len) => {
                    value.truncate(len);
                    out.push((attr.to_owned(), value));
                    break;
                }
                Err(Errno::RANGE) if value.len() < XATTR_MAX_BYTES => value.resize(XATTR_MAX_BYTES, 0),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => break,
                Err(e) => return Err(e),
            }
        }
    }
    out.sort();
    Ok(out)
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What [`Dir::stat`] tells, of an open file.
///
/// # Errors
/// The kernel's.
pub fn stat_of(file: impl AsFd) -> Result<Statx, Errno> {
    fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID)
}

/// As [`Dir::xattr`], of an open file.
///
/// # Errors
/// The kernel's.
pub fn xattr_of(file: impl AsFd, attr: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    whole_xattr(|value| fs::fgetxattr(&file, attr, value))
}

fn whole_xattr(get: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Option<Vec<u8>>, Errno> {
    let mut short = [0u8; 256];
    match get(&mut short) {
        Ok(len) => Ok(Some(short[..len].to_vec())),
        Err(Errno::RANGE) => {
            let mut long = vec![0u8; XATTR_MAX_BYTES];
            let len = get(&mut long)?;
            long.truncate(len);
            Ok(Some(long))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn removal_stays_inside_and_reaches_the_bottom_of_a_very_deep_tree() {
        let tmp = tempfile::tempdir().unwrap();
        let keep = tmp.path().join("keep");
        std::fs::create_dir(&keep).unwrap();
        std::fs::write(keep.join("f"), "x").unwrap();
        let root = Dir::open_root(tmp.path()).unwrap();
        fs::mkdirat(&root, "t", Mode::RWXU).unwrap();
        let mut dir = root.beneath(Path::new("t")).unwrap();
        for _ in 0..3000 {
            symlink(&keep, dir.proc_path(Path::new("link"))).unwrap();
            fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = dir.beneath(Path::new("d")).unwrap();
        }
        let closed = tmp.path().join("t/closed");
        std::fs::create_dir_all(closed.join("in")).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
        root.remove_tree(Path::new("t")).unwrap();
        assert_eq!(root.names().unwrap(), ["keep"]);
        assert!(keep.join("f").exists());
        root.remove_tree(Path::new("absent")).unwrap();
    }

    #[test]
    fn a_symlink_on_the_way_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("a")).unwrap();
        symlink("a", tmp.path().join("l")).unwrap();
        let root = Dir::open_root(tmp.path()).unwrap();
        assert!(root.beneath(Path::new("l")).is_err());
        assert_eq!(root.beneath(Path::new("l/x")).unwrap_err(), Errno::LOOP);
        assert_eq!(root.beneath(Path::new("../x")).unwrap_err(), Errno::XDEV);
        assert!(root.beneath(Path::new("")).is_ok());
    }
}
