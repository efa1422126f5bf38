//! Who is who on this host, from its own files: users, and the ranges of ids that a user may hand out.
//!
//! ```text
//!   /etc/passwd             name:password:uid:gid:comment:home:shell    ─► User
//!   /etc/subuid, subgid     name-or-uid:first:count                     ─► SubIds
//! ```
//! (`passwd(5)`, `subuid(5)`.) Only the files are read: a static binary has no name services, so a user from LDAP has
//! no name here, and runs all the same.
//!
//! Invariants: parsers do no I/O and believe no line that is not whole; a line that is not understood is passed over,
//! as libc does, because one odd line must not lock everybody out; names are bytes.

use crate::HostError;
use fvm_model::HostPath;
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// More of such a file is not read.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// One user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: OsString,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory; empty when the file names none.
    pub home: PathBuf,
    /// Login shell; `/bin/sh` when the file names none.
    pub shell: PathBuf,
}

/// A range of ids that its owner may map into user namespaces (by `newuidmap`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubIds {
    /// Login name, or user id as a decimal number.
    pub owner: OsString,
    /// The first id.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl SubIds {
    /// Whether the range is that of the user with id `uid` (and `name`, where that is known).
    #[must_use]
    pub fn is_of(&self, uid: u32, name: Option<&User>) -> bool {
        name.is_some_and(|user| user.name == self.owner) || number(self.owner.as_bytes()) == Some(uid)
    }
}

/// The users in a password file, in its order.
#[must_use]
pub fn parse_passwd(bytes: &[u8]) -> Vec<User> {
    lines(bytes).filter_map(parse_user).collect()
}

fn parse_user(line: &[u8]) -> Option<User> {
    let [name, _password, uid, gid, _comment, home, shell] = fields(line)?;
    // `+` and `-` include or exclude the users of a name service.
    if name.is_empty() || name.starts_with(b"+") || name.starts_with(b"-") {
        return None;
    }
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    Some(User {
        name: OsString::from_vec(name.to_vec()),
        uid: number(uid)?,
        gid: number(gid)?,
        home: path(home),
        shell: if shell.is_empty() { PathBuf::from("/bin/sh") } else { path(shell) },
    })
}

/// The ranges in a `subuid` or `subgid` file, in its order. Empty ranges, and those beyond the last id, are left out.
#[must_use]
pub fn parse_sub_ids(bytes: &[u8]) -> Vec<SubIds> {
    lines(bytes).filter_map(parse_range).collect()
}

fn parse_range(line: &[u8]) -> Option<SubIds> {
    let [owner, first, count] = fields(line)?;
    let (first, count) = (number(first)?, number(count)?);
    // The last id, u32::MAX, means "no id".
    let whole = count > 0 && first.checked_add(count).is_some();
    (whole && !owner.is_empty()).then(|| SubIds { owner: OsString::from_vec(owner.to_vec()), first, count })
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.starts_with(b"#"))
}

/// Exactly `N` fields between colons; `None` for fewer or more.
fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let mut parts = line.split(|b| *b == b':');
    let mut out = [&[][..]; N];
    for field in &mut out {
        *field = parts.next()?;
    }
    parts.next().is_none().then_some(out)
}

/// Digits only: no sign, no blanks.
fn number(text: &[u8]) -> Option<u32> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// The home directories that are this user's to protect: for root, those of every user.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn homes(uid: u32) -> Result<Vec<HostPath>, HostError> {
    let bytes = read(Path::new("/etc/passwd"))?;
    let users = lines(&bytes).filter_map(parse_user).filter(|user| uid == 0 || user.uid == uid);
    let mut homes: Vec<HostPath> =
        users.filter_map(|user| HostPath::new(user.home).ok()).filter(|home| *home != HostPath::root()).collect();
    homes.sort();
    homes.dedup();
    Ok(homes)
}

/// The user with id `uid`, by `/etc/passwd`; `None` when it is not there (or the file is not).
///
/// # Errors
/// When the file is there and cannot be read.
pub fn user(uid: u32) -> Result<Option<User>, HostError> {
    let bytes = read(Path::new("/etc/passwd"))?;
    // The first line counts, as for libc.
    Ok(lines(&bytes).filter_map(parse_user).find(|user| user.uid == uid))
}

/// The ranges of user ids and of group ids that `uid` may hand out; none where there is no such file.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn sub_ids(uid: u32) -> Result<(Vec<SubIds>, Vec<SubIds>), HostError> {
    let user = user(uid)?;
    let of = |path: &str| -> Result<Vec<SubIds>, HostError> {
        let mut ranges = parse_sub_ids(&read(Path::new(path))?);
        ranges.retain(|range| range.is_of(uid, user.as_ref()));
        Ok(ranges)
    };
    Ok((of("/etc/subuid")?, of("/etc/subgid")?))
}

/// A whole file of bounded size; empty when it is not there.
fn read(path: &Path) -> Result<Vec<u8>, HostError> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(HostError::Read { path: path.into(), errno: Errno::from_io_error(&e).unwrap_or(Errno::IO) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_and_lines_that_are_none_are_passed_over() {
        let users = parse_passwd(
            b"# accounts\nroot:x:0:0:root:/root:/bin/bash\n\n+::::::\n+nis:x:1:1:::\n-bad:x:1:1:::\nshort:x:1:1::/h\n\
              long:x:1:1::/h:/s:more\nno-uid:x::1::/h:/s\nnegative:x:-1:1::/h:/s\nblank:x: 1:1::/h:/s\n\
              big:x:4294967296:1::/h:/s\n:x:5:5::/h:/s\nw\xff:x:1000:100:A, B,,:/home/w\xff:\nlast:*:7:8:::",
        );
        let names: Vec<&[u8]> = users.iter().map(|u| u.name.as_bytes()).collect();
        assert_eq!(names, [&b"root"[..], b"w\xff", b"last"]);
        assert_eq!((users[1].uid, users[1].gid), (1000, 100));
        assert_eq!(users[1].home.as_os_str().as_bytes(), b"/home/w\xff");
        assert_eq!(users[1].shell, Path::new("/bin/sh"), "as login does");
        assert_eq!(users[2].home, Path::new(""));
        assert_eq!(parse_passwd(b""), []);
    }

    #[test]
    fn ranges_are_read_and_those_that_are_none_are_passed_over() {
        let ranges = parse_sub_ids(
            b"# x\nann:100000:65536\n1000:231072:65536\nann:300000:1\nempty:1:0\nover:4294967295:1\nwide:1:4294967295\n\
              short:1\nlong:1:2:3\nminus:-1:5\n:1:2\n\nlast:4294967294:1",
        );
        let found: Vec<_> = ranges.iter().map(|r| (r.owner.to_str().unwrap(), r.first, r.count)).collect();
        let expected =
            [("ann", 100_000, 65536), ("1000", 231_072, 65536), ("ann", 300_000, 1), ("last", 4_294_967_294, 1)];
        assert_eq!(found, expected);
        let ann = User { name: "ann".into(), uid: 1000, gid: 1000, home: "/".into(), shell: "/".into() };
        let of = |uid, user| ranges.iter().filter(|r| r.is_of(uid, user)).count();
        assert_eq!((of(1000, Some(&ann)), of(1000, None), of(7, None), of(0, None)), (3, 1, 0, 0));
    }

    #[test]
    fn a_name_that_is_a_number_is_no_sign_or_blank() {
        for text in [&b"+5"[..], b" 5", b"5 ", b"", b"0x5", b"4294967296"] {
            assert_eq!(number(text), None, "{text:?}");
        }
        assert_eq!(number(b"0005"), Some(5));
    }

    #[test]
    fn root_is_a_user_here_and_a_file_that_is_not_there_holds_nothing() {
        assert_eq!(user(0).unwrap().map(|u| u.uid), Some(0));
        assert_eq!(user(4_294_967_290).unwrap(), None);
        assert_eq!(read(Path::new("/no/such/file")).unwrap(), b"");
        sub_ids(0).unwrap();
    }
}
