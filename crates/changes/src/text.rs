//! One change as a unified diff.
//!
//! ```text
//!   regular file   UTF-8 without NUL on both sides ─► Text;  else Binary;  over 8 MiB ─► TooLarge
//!   symlink        one line: its target
//! ```
//!
//! Invariants: reads at most [`MAX_BYTES`] of each side; the time spent is bounded, after which the diff is coarser but
//! still right. The patch holds the VM's bytes as they are: whoever prints it escapes them.

use crate::open::{link_after, link_before};
use crate::{ScanError, ScanInput, Seen, open_after, open_before};
use fvm_model::path::printable;
use fvm_model::{Change, ChangeKind, FileType, Meta};
use fvm_sys::dir::Dir;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use similar::{ChangeTag, TextDiff};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

/// Longest file that is compared as text.
pub const MAX_BYTES: u64 = 8 << 20;
/// After this, the diff of one file may be coarser than need be.
const PATIENCE: Duration = Duration::from_secs(2);

/// The difference between both versions of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileDiff {
    /// Both are text (or absent).
    Text {
        /// Hunks, without the `---` and `+++` lines.
        patch: String,
        /// Lines added.
        added: usize,
        /// Lines removed.
        removed: usize,
    },
    /// One holds NUL, or is not UTF-8.
    Binary {
        /// Length on the host.
        before_bytes: u64,
        /// Length in the VM.
        after_bytes: u64,
    },
    /// One is longer than [`MAX_BYTES`].
    TooLarge {
        /// Length on the host.
        before_bytes: u64,
        /// Length in the VM.
        after_bytes: u64,
    },
}

/// The difference of content that `change` makes; `None` when it makes none, or has no text (directories, devices, ...).
///
/// # Errors
/// When a version cannot be opened or read.
pub fn diff_file(input: &ScanInput, change: &Change) -> Result<Option<FileDiff>, ScanError> {
    diff_in(input, change, (None, None, None))
}

/// As [`diff_file`], while the scan has both directories open.
///
/// # Errors
/// As [`diff_file`].
pub fn diff_seen(input: &ScanInput, seen: &Seen<'_>) -> Result<Option<FileDiff>, ScanError> {
    diff_in(input, &seen.change, (seen.before, seen.after, seen.file))
}

/// An open directory, and a name there.
type Place<'a> = Option<(&'a Dir, &'a Path)>;

fn diff_in(
    input: &ScanInput,
    change: &Change,
    (before, after, file): (Place<'_>, Place<'_>, Option<&OwnedFd>),
) -> Result<Option<FileDiff>, ScanError> {
    match change.kind {
        ChangeKind::Metadata { .. } | ChangeKind::Renamed { modified: false, .. } => return Ok(None),
        _ => {}
    }
    let before = read_before(change, before)?;
    let after = read_after(input, change, after, file)?;
    if matches!((&before, &after), (Content::None, Content::None)) {
        return Ok(None);
    }
    let (before_bytes, after_bytes) = (before.len(), after.len());
    let (Some(old), Some(new)) = (before.bytes(), after.bytes()) else {
        return Ok(Some(FileDiff::TooLarge { before_bytes, after_bytes }));
    };
    let (Some(old), Some(new)) = (as_text(old), as_text(new)) else {
        return Ok(Some(FileDiff::Binary { before_bytes, after_bytes }));
    };
    Ok(Some(diff_text(old, new)))
}

/// The host's version and the VM's.
pub type BothTexts = (Vec<u8>, Vec<u8>);

/// Both versions of a regular text file whose content `change` changes: the host's and the VM's; one that is not there
/// is empty. `None` for all else: binary (it holds NUL), longer than [`MAX_BYTES`], not a file. Any encoding is text.
///
/// # Errors
/// When a version cannot be opened or read.
pub fn texts(input: &ScanInput, change: &Change) -> Result<Option<BothTexts>, ScanError> {
    let is_text = |bytes: &Vec<u8>| !bytes.contains(&0);
    Ok(contents(input, change)?.filter(|(before, after)| is_text(before) && is_text(after)))
}

/// As [`texts`], for files that hold anything.
///
/// # Errors
/// As [`texts`].
pub fn contents(input: &ScanInput, change: &Change) -> Result<Option<BothTexts>, ScanError> {
    if matches!(change.kind, ChangeKind::Metadata { .. } | ChangeKind::Renamed { modified: false, .. }) {
        return Ok(None);
    }
    let file = |meta: &Option<Meta>| meta.as_ref().is_none_or(|m| m.file_type == FileType::File);
    if change.file_type != FileType::File || !file(&change.before) || !file(&change.after) {
        return Ok(None);
    }
    let whole = |content: Content| match content {
        Content::None => Some(Vec::new()),
        Content::Bytes(bytes) => Some(bytes),
        Content::Long(_) => None,
    };
    let Some(before) = whole(read_before(change, None)?) else { return Ok(None) };
    Ok(whole(read_after(input, change, None, None)?).map(|after| (before, after)))
}

fn diff_text(old: &str, new: &str) -> FileDiff {
    // Most changed files are new. A carriage return ends a line too, in the general way.
    if old.is_empty() && !new.is_empty() && !new.contains('\r') {
        return all_added(new);
    }
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    let count = |tag| diff.iter_all_changes().filter(|c| c.tag() == tag).count();
    let (added, removed) = (count(ChangeTag::Insert), count(ChangeTag::Delete));
    FileDiff::Text { patch: diff.unified_diff().context_radius(3).to_string(), added, removed }
}

/// What a patch of one hunk has besides its lines.
const AROUND_BYTES: usize = 64;

/// The difference to an empty file, as the general way has it.
fn all_added(new: &str) -> FileDiff {
    let is_whole = new.ends_with('\n');
    let added = new.bytes().filter(|b| *b == b'\n').count() + usize::from(!is_whole);
    let mut patch = String::with_capacity(new.len() + added + AROUND_BYTES);
    patch.push_str("@@ -0,0 +1");
    if added != 1 {
        patch.push_str(&format!(",{added}"));
    }
    patch.push_str(" @@\n");
    for line in new.split_inclusive('\n') {
        patch.push('+');
        patch.push_str(line);
    }
    if !is_whole {
        patch.push_str("\n\\ No newline at end of file\n");
    }
    FileDiff::Text { patch, added, removed: 0 }
}

fn as_text(bytes: &[u8]) -> Option<&str> {
    if bytes.contains(&0) { None } else { std::str::from_utf8(bytes).ok() }
}

/// One side.
enum Content {
    /// No such version, or no content.
    None,
    Bytes(Vec<u8>),
    Long(u64),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Long(len) => *len,
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::None => Some(&[]),
            Self::Bytes(bytes) => Some(bytes),
            Self::Long(_) => None,
        }
    }
}

fn read_before(change: &Change, place: Place<'_>) -> Result<Content, ScanError> {
    let what = "the host's version";
    match (&change.base, change.before.as_ref().map(|m| m.file_type)) {
        (Some(base), Some(FileType::Symlink)) => Ok(Content::Bytes(line(link_before(base)?.into_vec()))),
        (Some(_), Some(FileType::File)) => match place {
            Some(place) => read_at(place, change, change.before.as_ref(), what),
            None => open_before(change)?.map_or(Ok(Content::None), |fd| read(fd, change, what)),
        },
        _ => Ok(Content::None),
    }
}

/// `file`: the VM's version, if it is open.
fn read_after(
    input: &ScanInput,
    change: &Change,
    place: Place<'_>,
    file: Option<&OwnedFd>,
) -> Result<Content, ScanError> {
    let what = "the VM's version";
    match change.after.as_ref().map(|m| m.file_type) {
        Some(FileType::Symlink) => Ok(Content::Bytes(line(link_after(input, change)?.into_vec()))),
        Some(FileType::File) => match (file, place) {
            (Some(file), _) => read_seen(file, change, change.after.as_ref(), what),
            (None, Some(place)) => read_at(place, change, change.after.as_ref(), what),
            (None, None) => read(open_after(input, change)?, change, what),
        },
        _ => Ok(Content::None),
    }
}

fn line(mut target: Vec<u8>) -> Vec<u8> {
    target.push(b'\n');
    target
}

fn failed<'c>(change: &'c Change, what: &'static str) -> impl Fn(Errno) -> ScanError + 'c {
    move |source| ScanError::Read { what, path: printable(change.path.as_bytes()), source }
}

/// `seen`: what the scan saw there.
fn read_at(
    (dir, name): (&Dir, &Path),
    change: &Change,
    seen: Option<&Meta>,
    what: &'static str,
) -> Result<Content, ScanError> {
    read_seen(&dir.open_file(name).map_err(failed(change, what))?, change, seen, what)
}

fn read_seen(fd: &OwnedFd, change: &Change, seen: Option<&Meta>, what: &'static str) -> Result<Content, ScanError> {
    let whole = seen.filter(|seen| seen.size_bytes <= SHORT_BYTES).and_then(|seen| read_short(fd, seen.size_bytes));
    // A VM that runs may have put something else in its place.
    whole.map_or_else(|| read_regular(fd).map_err(failed(change, what)), |bytes| Ok(Content::Bytes(bytes)))
}

/// Of a file of this length more is not asked than what is in it: of a million of them each question is half a second.
const SHORT_BYTES: u64 = 64 << 10;

/// A file that has `len` bytes. `None`: another number, or it cannot be read at a position, as no pipe or directory can. (A VM makes no
/// device node.)
fn read_short(fd: &OwnedFd, len: u64) -> Option<Vec<u8>> {
    let len = usize::try_from(len).ok()?;
    // One more, to see its end.
    let mut bytes = vec![0; len + 1];
    let count = rustix::io::pread(fd, &mut bytes[..], 0).ok()?;
    bytes.truncate(len);
    (count == len).then_some(bytes)
}

fn read(fd: OwnedFd, change: &Change, what: &'static str) -> Result<Content, ScanError> {
    read_regular(&fd).map_err(failed(change, what))
}

fn read_regular(fd: &OwnedFd) -> Result<Content, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let len = u64::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
    if len > MAX_BYTES {
        return Ok(Content::Long(len));
    }
    // A running VM may make it longer meanwhile: what is read is what it was.
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Errno::INVAL)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(fd, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(Content::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_read_at_once_only_as_it_was_seen() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("file"), "four").unwrap();
        std::fs::create_dir(tmp.path().join("dir")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tmp.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let dir = Dir::open_root(tmp.path()).unwrap();
        let read = |name: &str, len| read_short(&dir.open_file(Path::new(name)).unwrap(), len);
        assert_eq!(read("file", 4).as_deref(), Some(&b"four"[..]));
        for (name, len) in [("file", 3), ("file", 5), ("file", 0), ("dir", 4), ("dir", 0), ("pipe", 4), ("pipe", 0)] {
            assert_eq!(read(name, len), None, "{name} of {len} bytes");
        }
        std::fs::write(tmp.path().join("file"), "").unwrap();
        assert_eq!(read("file", 0).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_diff_says_when_the_last_line_has_no_newline() {
        let FileDiff::Text { patch, added, removed } = diff_text("a\nb\n", "a\nc") else { panic!() };
        assert_eq!(patch, "@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n");
        assert_eq!((added, removed), (1, 1));
    }

    #[test]
    fn a_new_file_is_shown_as_any_other() {
        for new in [
            "\n",
            "a",
            "a\n",
            "a\nb",
            "a\nb\n",
            "\n\n",
            "a\r\nb\r\n",
            "a\rb\n",
            "a\r",
            "\r\n",
            "ä\u{2028}b\n",
            "a\r\r\nb",
        ] {
            let long = new.repeat(40);
            for text in [new, long.as_str()] {
                let general = TextDiff::from_lines("", text);
                let patch = general.unified_diff().context_radius(3).to_string();
                let added = general.iter_all_changes().count();
                assert_eq!(diff_text("", text), FileDiff::Text { patch, added, removed: 0 }, "{text:?}");
            }
        }
    }

    #[test]
    fn a_diff_of_hostile_files_ends() {
        let lines = |seed: u64| {
            let mut x = seed;
            let mut next = || {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                format!("{}\n", (x >> 40) % 5000)
            };
            (0..300_000).map(|_| next()).collect::<String>()
        };
        let started = std::time::Instant::now();
        drop(diff_text(&lines(1), &lines(2)));
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
