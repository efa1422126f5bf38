//! Marks on files.
//!
//! ```text
//!   user.fvm.mark      its owner can take it off; any program reads it
//!   trusted.fvm.mark   CAP_SYS_ADMIN of the first user namespace, which no VM has
//! ```
//!
//! Invariants: symlinks are not followed; nothing is opened that could block.

use crate::Mark;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The mark that everybody sees.
pub const USER_NAME: &str = "user.fvm.mark";
/// The mark that only root sees.
pub const ROOT_NAME: &str = "trusted.fvm.mark";
/// Both.
pub const NAMES: [&str; 2] = [USER_NAME, ROOT_NAME];

/// Whether an attribute is fvm's own on the host: none of that name is taken from a VM.
#[must_use]
pub fn is_reserved(attr: &OsStr) -> bool {
    [&b"user.fvm."[..], b"trusted.fvm."].iter().any(|own| attr.as_bytes().starts_with(own))
}

/// Opens a regular file to look at its mark.
///
/// # Errors
/// The kernel's; `EINVAL` when it is no regular file.
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::open(path, flags, Mode::empty())?;
    let is_file = fs::FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == fs::FileType::RegularFile;
    if is_file { Ok(file) } else { Err(Errno::INVAL) }
}

/// The mark of an open file; root's own before the other.
///
/// # Errors
/// The kernel's.
pub fn read(file: impl AsFd) -> Result<Option<Mark>, Errno> {
    Ok(read_names(file)?.map(|(mark, _)| mark))
}

/// The same, with the attributes that it stands in.
///
/// # Errors
/// The kernel's.
pub fn read_names(file: impl AsFd) -> Result<Option<(Mark, Vec<&'static str>)>, Errno> {
    let mut value = vec![0; 64 << 10];
    let (mut mark, mut names) = (None, Vec::new());
    for name in [ROOT_NAME, USER_NAME] {
        match fs::fgetxattr(&file, name, &mut value[..]) {
            Ok(len) => {
                mark = mark.or_else(|| Some(Mark::from_bytes(&value[..len])));
                names.push(name);
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(mark.map(|mark| (mark, names)))
}

/// Marks an open file. An ordinary user can only set the mark that everybody sees.
///
/// # Errors
/// When neither can be set: why the first could not.
pub fn set(file: impl AsFd, mark: &Mark) -> Result<(), Errno> {
    let bytes = mark.to_bytes();
    let put = |name| writable(&file, || fs::fsetxattr(&file, name, &bytes, XattrFlags::empty()));
    match (put(USER_NAME), put(ROOT_NAME)) {
        (Err(e), Err(_)) => Err(e),
        _ => Ok(()),
    }
}

/// Takes all marks off an open file.
///
/// # Errors
/// When one stays: an ordinary user cannot take off root's own.
pub fn take_off(file: impl AsFd) -> Result<(), Errno> {
    for name in NAMES {
        match writable(&file, || fs::fremovexattr(&file, OsString::from(name))) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            // Without the right to see it, nobody can say whether it is there.
            Err(Errno::PERM) if name == ROOT_NAME && !rustix::process::geteuid().is_root() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Does `work`; `user.` attributes of a file are its owner's to change only while the owner may write it.
fn writable(file: impl AsFd, work: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match work() {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(fs::fstat(&file)?.st_mode & 0o7777);
            fs::fchmod(&file, mode | Mode::WUSR)?;
            let done = work();
            fs::fchmod(&file, mode)?;
            done
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved() {
        for own in ["user.fvm.mark", "trusted.fvm.mark", "user.fvm.x"] {
            assert!(is_reserved(OsStr::new(own)), "{own}");
        }
        for other in ["user.fvmx", "user.mark", "security.fvm.mark", "trusted.overlay.opaque"] {
            assert!(!is_reserved(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn a_mark_is_put_on_and_taken_off() {
        let tmp = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let file = open(tmp.path()).unwrap();
        assert_eq!(read(&file), Ok(None));
        let mark = Mark::new(None, b"/x", 1, 0);
        set(&file, &mark).unwrap();
        assert_eq!(read(&file), Ok(Some(mark)));
        take_off(&file).unwrap();
        take_off(&file).unwrap();
        assert_eq!(read(&file), Ok(None));
        assert_eq!(open(Path::new("/dev/null")).err(), Some(Errno::INVAL));
    }
}
