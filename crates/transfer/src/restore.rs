//! The file that a VM became is read back.
//!
//! ```text
//!   manifest.json ─► the caller decides ─► everything else below one directory ─► sums compared ─► the caller makes it a VM
//! ```
//!
//! Invariants: an archive is a stranger's. Entries lie below `layers/`, `bases/`, `events/` or are logs; all are reached beneath the
//! target without following a link; nothing is written twice; no device is made but overlayfs's mark of a deletion; of
//! overlayfs's notes only those that a VM can write are taken; memory goes with the list of sums, which is bounded.

use crate::archive::{SUMS, sum_line};
use crate::pax::Extended;
use crate::{Limits, TransferError, is_inside};
use fvm_model::Timestamp;
use fvm_model::vm::XattrClass;
use fvm_sys::dir::Dir;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::io::{BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// The first entry.
pub const MANIFEST: &str = "manifest.json";
/// Longest manifest.
const MANIFEST_MAX_BYTES: u64 = 256 << 20;
/// Longest extended header: paths, and attributes as long as Linux has them.
const PAX_MAX_BYTES: u64 = 1 << 20;
/// Longest list of sums.
const SUMS_MAX_BYTES: u64 = 1 << 30;
/// What is read at once; a part of a file that is so long and zero becomes a hole.
const BLOCK_BYTES: usize = 64 << 10;

/// Whose the files become, and which notes of overlayfs's are believed.
#[derive(Debug, Clone, Copy)]
pub struct Owners {
    /// Everybody's become this user's and group's; `None`: as in the archive.
    pub all: Option<(u32, u32)>,
    /// The class of the VM's overlays.
    pub class: XattrClass,
    /// Directories may stand for other directories of the host, as those do that a VM moved. That is trust: by a forged note the
    /// VM would see under another name what is hidden from it.
    pub moves: bool,
}

/// An archive of which the manifest has been read.
pub struct ArchiveReader<R: Read> {
    archive: tar::Archive<zstd::stream::read::Decoder<'static, BufReader<R>>>,
}

/// One entry, with all that its headers say.
struct Head {
    kind: EntryType,
    path: PathBuf,
    link: Option<Vec<u8>>,
    mode: u32,
    owner: (u32, u32),
    device: (u32, u32),
    mtime: Timestamp,
    size: u64,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

fn malformed(e: &std::io::Error) -> TransferError {
    TransferError::Malformed(e.to_string())
}

impl<R: Read> ArchiveReader<R> {
    /// Begins to read one.
    ///
    /// # Errors
    /// When it is no zstd stream.
    pub fn new(stream: R) -> Result<Self, TransferError> {
        let mut decoder = zstd::stream::read::Decoder::new(stream).map_err(|e| malformed(&e))?;
        // What our own writer needs at most, so that a stranger's archive cannot ask for more memory.
        decoder.window_log_max(27).map_err(|e| malformed(&e))?;
        Ok(Self { archive: tar::Archive::new(decoder) })
    }

    /// Reads it. `manifest` gets the first entry and says into which directory the rest goes; that is there, and empty.
    ///
    /// # Errors
    /// When it is damaged, holds what it may not, or cannot be written; what was written is the caller's to remove.
    pub fn restore<T, E: From<TransferError>>(
        mut self,
        manifest: impl FnOnce(&[u8]) -> Result<(T, Dir, Owners), E>,
    ) -> Result<T, E> {
        let mut entries = self.archive.entries().map_err(|e| malformed(&e))?.raw(true);
        let mut extended = None;
        let mut first =
            entries.next().ok_or_else(|| TransferError::Malformed("it is empty".into()))?.map_err(|e| malformed(&e))?;
        let head = read_head(&first, None)?;
        if head.path != Path::new(MANIFEST) || head.kind != EntryType::Regular || head.size > MANIFEST_MAX_BYTES {
            return Err(TransferError::Malformed(
                "it does not begin with a manifest: 'fvm export' did not write it".into(),
            )
            .into());
        }
        let mut text = Vec::new();
        first.read_to_end(&mut text).map_err(|e| malformed(&e))?;
        let mut sums = sum_line(&Sha256::digest(&text), Path::new(MANIFEST));
        let (value, top, owners) = manifest(&text)?;
        let mut writer = Writer { top, owners, limits: Limits::default(), open: Vec::new(), last: None };
        let mut said = None;
        for entry in entries {
            let mut entry = entry.map_err(|e| malformed(&e))?;
            if said.is_some() {
                return Err(TransferError::Malformed("there is something behind the list of sums".into()).into());
            }
            if entry.header().entry_type() == EntryType::XHeader {
                extended = Some(pax(&mut entry)?);
                continue;
            }
            let head = read_head(&entry, extended.take())?;
            if head.path == Path::new(SUMS) {
                if head.size > SUMS_MAX_BYTES {
                    return Err(TransferError::TooLarge.into());
                }
                let mut list = Vec::new();
                entry.read_to_end(&mut list).map_err(|e| malformed(&e))?;
                said = Some(list);
                continue;
            }
            if let Some(sum) = writer.take(&head, &mut entry)? {
                sums.extend(sum_line(&sum, &head.path));
                if sums.len() as u64 > SUMS_MAX_BYTES {
                    return Err(TransferError::TooLarge.into());
                }
            }
        }
        to_the_end(self.archive.into_inner())?;
        match said {
            None => return Err(TransferError::Malformed("its end is missing".into()).into()),
            Some(said) if said != sums => {
                return Err(TransferError::Malformed("its files are not those of its list of sums".into()).into());
            }
            Some(_) => {}
        }
        writer.finish()?;
        Ok(value)
    }
}

/// Behind the last entry are zeros, and the checksum of all: only who reads it compares it.
fn to_the_end(stream: impl Read) -> Result<(), TransferError> {
    const PADDING_MAX_BYTES: u64 = 64 << 10;
    let mut rest = Vec::new();
    stream.take(PADDING_MAX_BYTES).read_to_end(&mut rest).map_err(|e| malformed(&e))?;
    if rest.len() as u64 == PADDING_MAX_BYTES || rest.iter().any(|byte| *byte != 0) {
        return Err(TransferError::Malformed("there is something behind its end".into()));
    }
    Ok(())
}

fn pax(entry: &mut tar::Entry<'_, impl Read>) -> Result<Extended, TransferError> {
    let size = entry.header().entry_size().map_err(|e| malformed(&e))?;
    if size > PAX_MAX_BYTES {
        return Err(TransferError::Malformed("an extended header is too long".into()));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|e| malformed(&e))?;
    Extended::parse(&bytes).ok_or_else(|| TransferError::Malformed("an extended header cannot be read".into()))
}

fn read_head(entry: &tar::Entry<'_, impl Read>, extended: Option<Extended>) -> Result<Head, TransferError> {
    let header = entry.header();
    let extended = extended.unwrap_or_default();
    let bad = |e: std::io::Error| malformed(&e);
    let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let path = path.strip_suffix(b"/").unwrap_or(&path);
    let mtime = Timestamp { secs: i64::try_from(header.mtime().map_err(bad)?).unwrap_or(0), nanos: 0 };
    let id = |id: u64| u32::try_from(id).map_err(|_| TransferError::Malformed("an owner that cannot be".into()));
    let number = |n: std::io::Result<Option<u32>>| n.map(Option::unwrap_or_default);
    let is_special = header.entry_type() == EntryType::Char;
    Ok(Head {
        kind: header.entry_type(),
        path: PathBuf::from(OsStr::from_bytes(path)),
        link: extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)),
        mode: header.mode().map_err(bad)? & 0o7777,
        owner: (id(header.uid().map_err(bad)?)?, id(header.gid().map_err(bad)?)?),
        device: if is_special {
            (number(header.device_major()).map_err(bad)?, number(header.device_minor()).map_err(bad)?)
        } else {
            (0, 0)
        },
        mtime: extended.mtime.unwrap_or(mtime),
        size: header.entry_size().map_err(bad)?,
        xattrs: extended.xattrs,
    })
}

struct Writer {
    top: Dir,
    owners: Owners,
    limits: Limits,
    /// Directories that are still to get what belongs to them.
    open: Vec<Head>,
    /// The directory written to last.
    last: Option<(PathBuf, Dir)>,
}

impl Writer {
    /// Takes an entry; the sum of a regular file's content.
    fn take(&mut self, head: &Head, content: &mut impl Read) -> Result<Option<Vec<u8>>, TransferError> {
        let path = &head.path;
        let Self { top, owners, limits, open, last } = self;
        limits.take_entry(path)?;
        if !is_inside(path) || !has_place(path, head.kind) {
            return Err(TransferError::refused(path, "an archive of a VM holds no such entry"));
        }
        let is_move = |(attr, _): &(OsString, Vec<u8>)| {
            attr.as_bytes().strip_prefix(owners.class.prefix().as_bytes()) == Some(b"redirect")
        };
        if !owners.moves && head.xattrs.iter().any(is_move) {
            return Err(TransferError::refused(path, "it stands for another directory of the host"));
        }
        let fail = |what| move |e| TransferError::io(what, path, e);
        let name = Path::new(path.file_name().unwrap_or_default());
        let dir = reach(top, last, path.parent().unwrap_or(Path::new("")))?;
        match head.kind {
            EntryType::Directory => {
                fs::mkdirat(dir, name, Mode::RWXU).map_err(fail("create"))?;
                open.push(Head { path: path.clone(), link: None, xattrs: head.xattrs.clone(), ..*head });
                return Ok(None);
            }
            EntryType::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(fail("create"))?;
                limits.take_bytes(head.size)?;
                let sum = fill(&file, head.size, content, path)?;
                dress(*owners, dir, name, head).map_err(fail("finish"))?;
                return Ok(Some(sum));
            }
            EntryType::Link => {
                let first = PathBuf::from(OsString::from_vec(head.link.clone().unwrap_or_default()));
                // What the VM is told by is not the VM's to write.
                if !is_inside(&first) || !is_in_upper(&first) {
                    return Err(TransferError::refused(path, "a hard link to outside the VM's layers"));
                }
                let from = top.beneath_deep(first.parent().unwrap_or(Path::new(""))).map_err(fail("link"))?;
                let from_name = first.file_name().unwrap_or_default();
                fs::linkat(&from, from_name, dir, name, AtFlags::empty()).map_err(fail("link"))?;
                return Ok(None);
            }
            EntryType::Symlink => {
                let to = OsString::from_vec(head.link.clone().unwrap_or_default());
                fs::symlinkat(to, dir, name).map_err(fail("create"))?;
            }
            EntryType::Fifo => {
                fs::mknodat(dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(fail("create"))?
            }
            // Overlayfs's mark of a deletion, which is no device.
            EntryType::Char if head.device == (0, 0) => {
                fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(fail("create"))?;
                return Ok(None);
            }
            _ => return Err(TransferError::refused(path, "an archive of a VM holds no such file")),
        }
        dress(*owners, dir, name, head).map_err(fail("finish"))?;
        Ok(None)
    }

    fn finish(mut self) -> Result<(), TransferError> {
        while let Some(head) = self.open.pop() {
            let dir = self.top.beneath_deep(&head.path).map_err(|e| TransferError::io("reach", &head.path, e))?;
            dress(self.owners, &dir, Path::new(""), &head).map_err(|e| TransferError::io("finish", &head.path, e))?;
        }
        fs::syncfs(self.top.as_fd()).map_err(|e| TransferError::io("sync", Path::new(""), e))
    }
}

/// Whether a VM's own files lie there.
fn is_in_upper(path: &Path) -> bool {
    let parts: Vec<&[u8]> = path.iter().map(OsStrExt::as_bytes).collect();
    matches!(&parts[..], [b"layers", n, b"upper", _, ..] if is_number(n))
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.len() <= 6 && text.iter().all(u8::is_ascii_digit)
}

/// Of the behaviour log (`docs/spec/events.md`).
fn is_segment(name: &[u8]) -> bool {
    name.strip_suffix(b".log").is_some_and(|n| n.len() == 8 && n.iter().all(u8::is_ascii_digit))
}

/// Whether an entry of this kind may be there. Whatever fvm reaches by its name is a directory or file of the archive's own, never a
/// link: through `layers/0/upper -> /` a VM would write to the host.
fn has_place(path: &Path, kind: EntryType) -> bool {
    let parts: Vec<&[u8]> = path.iter().map(OsStrExt::as_bytes).collect();
    match &parts[..] {
        [b"layers" | b"bases" | b"events"] => kind == EntryType::Directory,
        [b"layers", n] => kind == EntryType::Directory && is_number(n),
        [b"layers", n, b"upper"] => kind == EntryType::Directory && is_number(n),
        [b"layers", n, b"file"] => kind == EntryType::Regular && is_number(n),
        [b"events", segment] => kind == EntryType::Regular && is_segment(segment),
        [b"bases", _] | [b"output.log" | b"services.log"] => kind == EntryType::Regular,
        _ => is_in_upper(path),
    }
}

/// The directory `parent`, kept for the next entry.
fn reach<'d>(top: &Dir, last: &'d mut Option<(PathBuf, Dir)>, parent: &Path) -> Result<&'d Dir, TransferError> {
    let kept = last.take().filter(|(at, _)| at == parent);
    let open = || top.beneath_deep(parent).map_err(|e| TransferError::io("reach", parent, e));
    let (at, dir) = match kept {
        Some(kept) => kept,
        None => (parent.to_owned(), open()?),
    };
    Ok(&last.insert((at, dir)).1)
}

fn fill(file: &OwnedFd, size: u64, content: &mut impl Read, path: &Path) -> Result<Vec<u8>, TransferError> {
    let (mut sum, mut at, mut buffer) = (Sha256::new(), 0, vec![0; BLOCK_BYTES]);
    while at < size {
        let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
        let block = &mut buffer[..wanted];
        content.read_exact(block).map_err(|e| malformed(&e))?;
        sum.update(&*block);
        let mut rest: &[u8] = if block.iter().all(|b| *b == 0) { &[] } else { block };
        let mut to = at;
        while !rest.is_empty() {
            match rustix::io::pwrite(file.as_fd(), rest, to) {
                Ok(len) => {
                    to += len as u64;
                    rest = &rest[len..];
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(TransferError::io("write", path, e)),
            }
        }
        at += wanted as u64;
    }
    fs::ftruncate(file, size).map_err(|e| TransferError::io("write", path, e))?;
    Ok(sum.finalize().to_vec())
}

/// Gives an entry (empty: the directory itself) owner, attributes, mode and time, in the order in which none takes another away.
fn dress(owners: Owners, dir: &Dir, name: &Path, head: &Head) -> Result<(), Errno> {
    let here = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let (uid, gid) = owners.all.unwrap_or(head.owner);
    fs::chownat(dir, here, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?;
    let origin = format!("{}origin", owners.class.prefix());
    for (attr, value) in head.xattrs.iter().filter(|(attr, _)| may_have(owners.class, attr, owners.moves)) {
        // From which inode of another disk a file was copied up, says nothing here; that it was, does.
        let value = if attr.as_bytes() == origin.as_bytes() { &[][..] } else { value };
        match dir.set_xattr(name, attr, value) {
            // Labels and capabilities are not an ordinary user's to give.
            Err(Errno::PERM | Errno::OPNOTSUPP) if !attr.as_bytes().starts_with(b"user.") => {}
            other => other?,
        }
    }
    if head.kind != EntryType::Symlink {
        // What was just made here is no link.
        fs::chmodat(dir, here, Mode::from_raw_mode(head.mode), AtFlags::empty())?;
    }
    let mtime = Timespec { tv_sec: head.mtime.secs, tv_nsec: head.mtime.nanos.into() };
    let omit = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
    fs::utimensat(dir, here, &Timestamps { last_access: omit, last_modification: mtime }, AtFlags::SYMLINK_NOFOLLOW)
}

/// Of overlayfs's own notes, those that a VM's doings leave and that are the host's everywhere; and what a VM itself may set.
fn may_have(class: XattrClass, attr: &OsStr, trusted: bool) -> bool {
    let attr = attr.as_bytes();
    let prefix = class.prefix().as_bytes();
    if let Some(note) = attr.strip_prefix(prefix) {
        return matches!(note, b"opaque" | b"redirect" | b"origin") || note.starts_with(b"overlay.");
    }
    match class {
        XattrClass::User => attr.starts_with(b"user."),
        // Once committed it is the host's: what a stranger's file may do as nobody else is taken on trust only.
        XattrClass::Trusted if attr == b"security.capability" => trusted,
        XattrClass::Trusted => attr.starts_with(b"user.") || attr.starts_with(b"system."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ArchiveWriter;

    /// An archive as a stranger would write it: kind, path, link.
    fn forged(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut sums = sum_line(&Sha256::digest(b"{}"), Path::new(MANIFEST));
        let mut add = |kind: EntryType, path: &str, link: &str, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_device_major(0).and_then(|()| header.set_device_minor(0)).unwrap();
            header.set_size(content.len() as u64);
            let ustar = header.as_ustar_mut().unwrap();
            ustar.name[..path.len()].copy_from_slice(path.as_bytes());
            ustar.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, content).unwrap();
        };
        add(EntryType::Regular, MANIFEST, "", b"{}");
        for (kind, path, link) in entries {
            add(*kind, path, link, b"");
            if *kind == EntryType::Regular {
                sums.extend(sum_line(&Sha256::digest(b""), Path::new(path)));
            }
        }
        add(EntryType::Regular, SUMS, "", &sums);
        zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap()
    }

    fn restored(archive: &[u8]) -> (tempfile::TempDir, Result<(), TransferError>) {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("vm.json"), "the record").unwrap();
        let owners = Owners { all: None, class: XattrClass::User, moves: false };
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let owners = Owners { all: Some(me), ..owners };
        let result = ArchiveReader::new(archive).and_then(|reader| {
            reader.restore(|_| Ok::<_, TransferError>(((), Dir::open_root(tmp.path()).unwrap(), owners)))
        });
        (tmp, result)
    }

    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

    const TOP: [(EntryType, &str, &str); 3] =
        [(Directory, "layers", ""), (Directory, "layers/0", ""), (Directory, "layers/0/upper", "")];

    #[test]
    fn nothing_leads_out_of_what_the_vm_may_write() {
        let good: &[_] = &[
            (Regular, "layers/0/upper/f", ""),
            (Link, "layers/0/upper/g", "layers/0/upper/f"),
            (Symlink, "layers/0/upper/s", "/etc"),
            (Fifo, "layers/0/upper/p", ""),
            (Char, "layers/0/upper/gone", ""),
        ];
        let (tmp, result) = restored(&forged(&[&TOP[..], good].concat()));
        result.unwrap();
        assert!(tmp.path().join("layers/0/upper/s").symlink_metadata().unwrap().is_symlink());
        for bad in [
            &[(Symlink, "layers", "/")][..],
            &[TOP[0], (Symlink, "layers/0", "/")],
            &[TOP[0], TOP[1], (Symlink, "layers/0/upper", "/")],
            &[TOP[0], TOP[1], (Symlink, "layers/0/file", "/etc/shadow")],
            &[TOP[0], TOP[1], (Directory, "layers/0/work", "")],
            &[TOP[0], TOP[1], (Directory, "layers/0/skeleton", "")],
            &[TOP[0], (Directory, "layers/4294967295", "")],
            &[TOP[0], TOP[1], TOP[2], (Link, "layers/0/upper/record", "vm.json")],
            &[TOP[0], TOP[1], TOP[2], (Link, "layers/0/upper/record", "layers/../vm.json")],
            &[TOP[0], TOP[1], TOP[2], (Symlink, "layers/0/upper/s", "/tmp"), (Regular, "layers/0/upper/s/f", "")],
            &[TOP[0], TOP[1], TOP[2], (Regular, "layers/0/upper/f", ""), (Regular, "layers/0/upper/f", "")],
            &[TOP[0], TOP[1], TOP[2], (Block, "layers/0/upper/b", "")],
            &[(Regular, "vm.json", "")],
            &[(Regular, "lock", "")],
            &[(Regular, "../f", "")],
            &[(Symlink, "output.log", "/etc/passwd")],
            &[(Directory, "bases", ""), (Symlink, "bases/x", "/etc/passwd")],
            &[(Directory, "events", ""), (Symlink, "events/00000001.log", "/etc/passwd")],
            &[(Directory, "events", ""), (Regular, "events/x", "")],
            &[(Symlink, "events", "/etc")],
        ] {
            let (tmp, result) = restored(&forged(bad));
            assert!(
                matches!(result, Err(TransferError::Refused { .. } | TransferError::Io { .. })),
                "{bad:?}: {result:?}"
            );
            assert_eq!(std::fs::read(tmp.path().join("vm.json")).unwrap(), b"the record", "{bad:?}");
        }
    }

    #[test]
    fn every_bit_of_an_archive_counts() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("upper")).unwrap();
        std::fs::write(tmp.path().join("upper/f"), "some content\n".repeat(50)).unwrap();
        let mut writer = ArchiveWriter::new(Vec::new()).unwrap();
        writer.bytes(MANIFEST, b"{}").unwrap();
        for dir in ["layers", "layers/0"] {
            writer.directory_of(dir).unwrap();
        }
        let dir = Dir::open_root(tmp.path()).unwrap();
        writer.tree(Path::new("layers/0/upper"), &dir, Path::new("upper")).unwrap();
        let (archive, remarks) = writer.finish().unwrap();
        assert!(remarks.is_empty());
        let content = |there: &tempfile::TempDir| std::fs::read(there.path().join("layers/0/upper/f")).unwrap();
        let (there, result) = restored(&archive);
        result.unwrap();
        assert_eq!(content(&there), "some content\n".repeat(50).as_bytes());
        for at in 0..archive.len() {
            let mut bent = archive.clone();
            bent[at] ^= 0x10;
            // Some bits of a zstd frame say nothing: then all is as it was.
            let (bent, result) = restored(&bent);
            assert!(result.is_err() || content(&bent) == content(&there), "{at}");
            assert!(restored(&archive[..at]).1.is_err(), "cut at {at}");
        }
    }

    #[test]
    fn capabilities_are_taken_on_trust_and_overlays_notes_only_as_far_as_they_are_the_vms() {
        let may = |attr: &str, trusted| may_have(XattrClass::Trusted, OsStr::new(attr), trusted);
        assert!(may("security.capability", true) && !may("security.capability", false));
        for trusted in [false, true] {
            assert!(
                !may("trusted.x", trusted)
                    && !may("trusted.overlay.metacopy", trusted)
                    && !may("security.ima", trusted)
            );
            assert!(may("trusted.overlay.opaque", trusted) && may("trusted.overlay.overlay.opaque", trusted));
            assert!(!may_have(XattrClass::User, OsStr::new("trusted.overlay.redirect"), trusted));
        }
    }
}
