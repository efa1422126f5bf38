//! A tar stream becomes a tree.
//!
//! ```text
//!   header ─ name "./top/a/b" ─ content    GNU's long names ('L', 'K') come before; other extensions are not taken
//! ```
//!
//! Invariant: of the stream nothing is held but a header, a name and a block of content.

use crate::{Entry, Kind, TransferError, TreeWriter};
use fvm_model::Timestamp;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Longest name.
const NAME_MAX_BYTES: u64 = 16 << 10;
/// Most remarks.
const REMARKS_MAX: usize = 20;

/// Writes the tree `./top` of a GNU tar stream. Returns what was left out, in words.
///
/// # Errors
/// When the stream is not such a one, or cannot be written; the tree is not complete then.
pub fn unpack(stream: impl Read, top: &OsStr, mut writer: TreeWriter) -> Result<Vec<String>, TransferError> {
    let malformed = |e: std::io::Error| TransferError::Malformed(e.to_string());
    let mut archive = tar::Archive::new(stream);
    let (mut long_name, mut long_link) = (None, None);
    let mut remarks = Vec::new();
    let mut any = false;
    // Raw: the library would take as much memory as a name says that it is long.
    for entry in archive.entries().map_err(malformed)?.raw(true) {
        let mut entry = entry.map_err(malformed)?;
        let header = entry.header();
        let size = header.entry_size().map_err(malformed)?;
        match header.entry_type() {
            EntryType::GNULongName => {
                long_name = Some(text(&mut entry, size)?);
                continue;
            }
            EntryType::GNULongLink => {
                long_link = Some(text(&mut entry, size)?);
                continue;
            }
            _ => {}
        }
        let name = long_name.take().unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link.take().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let path = below(&name, top)?;
        let linked = || link.clone().ok_or_else(|| TransferError::Malformed("a link to nothing".into()));
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => Kind::File { size },
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(OsString::from_vec(linked()?)),
            EntryType::Link => Kind::Hard(below(&linked()?, top)?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => {
                if remarks.len() < REMARKS_MAX {
                    remarks.push(format!("{}: a device; left out", crate::shown(&path)));
                }
                continue;
            }
            other => return Err(TransferError::Malformed(format!("an entry of kind {:?}", other.as_byte()))),
        };
        let mtime = header.mtime().map_err(malformed)?;
        let mtime = Timestamp { secs: i64::try_from(mtime).unwrap_or(0), nanos: 0 };
        let mode = header.mode().map_err(malformed)?;
        any = true;
        writer.take(&Entry { path, kind, mode, mtime }, &mut entry)?;
    }
    if !any {
        return Err(TransferError::Stream("nothing came".into()));
    }
    writer.finish()?;
    Ok(remarks)
}

fn text(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, TransferError> {
    if size > NAME_MAX_BYTES {
        return Err(TransferError::Malformed("a name is too long".into()));
    }
    let mut name = Vec::new();
    entry.read_to_end(&mut name).map_err(|e| TransferError::stream(&e))?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The path of an entry below `./top`.
fn below(name: &[u8], top: &OsStr) -> Result<PathBuf, TransferError> {
    let strange = || TransferError::refused(Path::new(OsStr::from_bytes(name)), "it was not asked for");
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let rest = name.strip_prefix(b"./").unwrap_or(name).strip_prefix(top.as_bytes()).ok_or_else(strange)?;
    match rest.split_first() {
        None => Ok(PathBuf::new()),
        Some((b'/', path)) => Ok(OsStr::from_bytes(path).into()),
        Some(_) => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use fvm_sys::dir::Dir;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// A stream of such entries: kind, name, link or content.
    fn stream(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, more) in entries {
            let mut header = tar::Header::new_gnu();
            let content = if *kind == EntryType::Regular { more.as_bytes() } else { b"" };
            header.set_entry_type(*kind);
            header.set_mode(0o6755);
            header.set_mtime(1_000_000);
            header.set_size(content.len() as u64);
            // Past the library's own checks, as a hostile program would.
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..name.len()].copy_from_slice(name.as_bytes());
            if *kind != EntryType::Regular {
                gnu.linkname[..more.len()].copy_from_slice(more.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn into(dir: &Path, entries: &[(EntryType, &str, &str)]) -> Result<Vec<String>, TransferError> {
        let writer = TreeWriter::new(Dir::open_root(dir).unwrap(), OsStr::new("new"), Limits::default());
        unpack(&stream(entries)[..], OsStr::new("top"), writer)
    }

    use EntryType::{Block, Directory, Fifo, Link, Regular, Symlink};

    #[test]
    fn a_tree_arrives_under_its_new_name_without_set_id_bits() {
        let tmp = tempfile::tempdir().unwrap();
        let zeros = "\0".repeat(300_000);
        let remarks = into(
            tmp.path(),
            &[
                (Directory, "./top/", ""),
                (Regular, "./top/a", "text"),
                (Link, "./top/b", "./top/a"),
                (Symlink, "./top/s", "/etc/passwd"),
                (Directory, "./top/d", ""),
                (Regular, "./top/d/hole", &zeros),
                (Fifo, "./top/f", ""),
                (Block, "./top/disk", ""),
            ],
        );
        assert_eq!(remarks.unwrap(), ["disk: a device; left out"]);
        let new = tmp.path().join("new");
        let meta = |name: &str| new.join(name).symlink_metadata().unwrap();
        assert_eq!(std::fs::read_to_string(new.join("b")).unwrap(), "text");
        assert_eq!((meta("a").ino(), meta("a").permissions().mode() & 0o7777), (meta("b").ino(), 0o755));
        assert_eq!((meta("d/hole").len(), meta("d/hole").blocks()), (300_000, 0));
        assert_eq!((meta("d").mtime(), meta("s").mtime()), (1_000_000, 1_000_000));
        assert_eq!(std::fs::read_link(new.join("s")).unwrap(), Path::new("/etc/passwd"));
        // Once more over it: directories are used, files replaced.
        into(tmp.path(), &[(Directory, "top", ""), (Regular, "top/s", "now a file")]).unwrap();
        assert_eq!(std::fs::read_to_string(new.join("s")).unwrap(), "now a file");
        assert!(new.join("a").exists());
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_stream_writes_nowhere_else() {
        let tmp = tempfile::tempdir().unwrap();
        let outside = tmp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        let link = outside.to_str().unwrap();
        let dir = tmp.path().join("dir");
        std::fs::create_dir(&dir).unwrap();
        let cases: [&[(EntryType, &str, &str)]; 9] = [
            &[(Directory, "top", ""), (Symlink, "top/l", link), (Regular, "top/l/x", "x")],
            &[(Symlink, "top", link), (Regular, "top/x", "x")],
            &[(Directory, "top", ""), (Regular, "top/../../outside/x", "x")],
            &[(Regular, "/outside/x", "x")],
            &[(Regular, "other", "x")],
            &[(Regular, "topx", "x")],
            &[(Directory, "top", ""), (Link, "top/l", "top/../../outside/secret")],
            &[(Directory, "top", ""), (Symlink, "top/l", link), (Link, "top/m", "top/l/secret")],
            &[(EntryType::XHeader, "top", "")],
        ];
        for (n, case) in cases.iter().enumerate() {
            assert!(into(&dir, case).is_err(), "{n}");
            let _old = std::fs::remove_file(dir.join("new")).or_else(|_| std::fs::remove_dir_all(dir.join("new")));
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        assert!(matches!(unpack(&b""[..], OsStr::new("x"), writer(&dir)), Err(TransferError::Stream(_))));
        assert!(unpack(&[7u8; 2000][..], OsStr::new("x"), writer(&dir)).is_err());
    }

    fn writer(dir: &Path) -> TreeWriter {
        TreeWriter::new(Dir::open_root(dir).unwrap(), OsStr::new("new"), Limits::default())
    }

    #[test]
    fn limits_end_it() {
        let tmp = tempfile::tempdir().unwrap();
        let limits = Limits { entries: 2, bytes: 5, names_bytes: 100 };
        let with = |limits| TreeWriter::new(Dir::open_root(tmp.path()).unwrap(), OsStr::new("new"), limits);
        let long = stream(&[(Regular, "top", "123456")]);
        assert!(matches!(unpack(&long[..], OsStr::new("top"), with(limits)), Err(TransferError::TooLarge)));
        let many = stream(&[(Directory, "top", ""), (Fifo, "top/a", ""), (Fifo, "top/b", "")]);
        assert!(matches!(unpack(&many[..], OsStr::new("top"), with(limits)), Err(TransferError::TooMany)));
    }
}
