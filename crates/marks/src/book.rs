//! The book of marks: what was marked and unmarked, by hash, by whom, when.
//!
//! ```text
//!   fvm-marks 1
//!   mark {"vm":"web-1","policy":"untrusted","time":...,"uid":0}
//!   <64 digits> <bytes> "<path>"
//!   ...
//!   end <count> <16 digits>          over all lines of the entry: without it the entry does not count
//!   unmark {"time":...,"uid":0}
//!   ...
//! ```
//!
//! Invariants: only added to, never cut, one entry with one write, synced before [`Book::add`] returns; an entry that a
//! crash cut off does not count; one whose end does not fit it is damaged: counted as such, and skipped.

use crate::Hash;
use fvm_model::path::Bytes;
use rustix::fs::{self, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// The first line.
const HEAD: &str = "fvm-marks 1\n";
/// Longest book of one's own that is read.
const MAX_BYTES: u64 = 4 << 30;
/// Longest book of somebody else: whoever reads it pays for it.
const OTHERS_MAX_BYTES: u64 = 16 << 20;

/// Why the book could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The kernel's reason.
    #[error("cannot {what} the book of marks '{}': {errno}", .path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// It is not ours to read.
    #[error("'{}' is no book of marks that this version of fvm reads", .0.display())]
    Format(PathBuf),
    /// More than is ever read: what stands behind that would be forgotten.
    #[error("the book of marks '{}' is longer than {max_bytes} bytes", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// What is read at most.
        max_bytes: u64,
    },
    /// Another process holds it for long.
    #[error("the book of marks '{}' is in use", .0.display())]
    Busy(PathBuf),
}

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Files are marked.
    Mark,
    /// Files are unmarked.
    Unmark,
}

/// Who marked or unmarked, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Act {
    /// The VM that the files came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Seconds since 1970.
    pub time: i64,
    /// The user: the one who logged in, where that is known, as behind sudo.
    pub uid: u32,
}

/// One file of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of its content.
    pub hash: Hash,
    /// Its length.
    pub size_bytes: u64,
    /// Where it was.
    pub path: Bytes,
}

/// Everything that the book says now.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What is marked: its last entry, and the paths under which it was marked.
    pub marked: HashMap<Hash, (usize, BTreeSet<Bytes>)>,
    /// All entries, in order.
    pub acts: Vec<(Verb, Act, Vec<Line>)>,
    /// Lengths of what is marked: what has none of them is no copy.
    pub sizes: HashSet<u64>,
    /// How many entries could not be read.
    pub damaged: usize,
}

impl Known {
    /// Who marked what has this content. Nothing is nobody's: an empty file is a copy of none.
    #[must_use]
    pub fn act(&self, hash: &Hash) -> Option<&Act> {
        let some = Some(hash).filter(|hash| **hash != Hash::OF_NOTHING)?;
        self.marked.get(some).and_then(|(n, _)| self.acts.get(*n)).map(|(_, act, _)| act)
    }

    /// Reads a book. A book of nothing is an empty one; `None`: it is no book.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut known = Self::default();
        if HEAD.as_bytes().starts_with(bytes) {
            return Some(known);
        }
        let body = bytes.strip_prefix(HEAD.as_bytes())?;
        let mut entry: Option<Entry> = None;
        let mut at = HEAD.len();
        for line in body.split_inclusive(|b| *b == b'\n') {
            let start = at;
            at += line.len();
            let whole = line.strip_suffix(b"\n");
            if let Some(open) = Entry::open(whole.unwrap_or_default(), start) {
                entry = Some(open);
                continue;
            }
            // One that a crash cut off has no end.
            let Some(line) = whole else { break };
            if let Some(sum) = line.strip_prefix(b"end ") {
                match entry.take() {
                    Some(open) if open.is_whole(sum, &bytes[open.start..start]) => {
                        known.apply(open.verb, open.act, open.lines);
                    }
                    _ => known.damaged += 1,
                }
            } else if !entry.as_mut().is_some_and(|open| open.take(line)) {
                entry = None;
            }
        }
        Some(known)
    }

    fn apply(&mut self, verb: Verb, act: Act, lines: Vec<Line>) {
        let n = self.acts.len();
        for line in &lines {
            match verb {
                Verb::Mark => {
                    let (last, paths) = self.marked.entry(line.hash).or_default();
                    *last = n;
                    paths.insert(line.path.clone());
                    if line.size_bytes > 0 {
                        self.sizes.insert(line.size_bytes);
                    }
                }
                Verb::Unmark => drop(self.marked.remove(&line.hash)),
            }
        }
        self.acts.push((verb, act, lines));
    }
}

struct Entry {
    start: usize,
    verb: Verb,
    act: Act,
    lines: Vec<Line>,
}

impl Entry {
    fn open(line: &[u8], start: usize) -> Option<Self> {
        let (verb, json) = match line.strip_prefix(b"mark ") {
            Some(json) => (Verb::Mark, json),
            None => (Verb::Unmark, line.strip_prefix(b"unmark ")?),
        };
        // One that cannot be read takes its lines with it: it never ends well.
        let act = serde_json::from_slice(json).ok()?;
        Some(Self { start, verb, act, lines: Vec::new() })
    }

    /// Whether the line is one of its own.
    fn take(&mut self, line: &[u8]) -> bool {
        let read = || {
            let text = std::str::from_utf8(line).ok()?;
            let (hash, rest) = text.split_once(' ')?;
            let (size, path) = rest.split_once(' ')?;
            Some(Line {
                hash: hash.parse().ok()?,
                size_bytes: size.parse().ok()?,
                path: serde_json::from_str(path).ok()?,
            })
        };
        let line = read();
        let is_one = line.is_some();
        self.lines.extend(line);
        is_one
    }

    fn is_whole(&self, sum: &[u8], text: &[u8]) -> bool {
        ending(self.lines.len(), text).as_bytes() == sum
    }
}

/// What stands behind `end`.
fn ending(count: usize, text: &[u8]) -> String {
    let sum: String = Sha256::digest(text)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{count} {sum}")
}

/// The text of an entry.
fn entry(verb: Verb, act: &Act, lines: &[Line]) -> Vec<u8> {
    // Texts and numbers cannot fail to be written.
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    let word = if verb == Verb::Mark { "mark" } else { "unmark" };
    let mut text = format!("{word} {}\n", json(serde_json::to_string(act)));
    for line in lines {
        text.push_str(&format!("{} {} {}\n", line.hash, line.size_bytes, json(serde_json::to_string(&line.path))));
    }
    let end = ending(lines.len(), text.as_bytes());
    text.push_str(&format!("end {end}\n"));
    text.into_bytes()
}

/// The book in a state directory.
#[derive(Debug, Clone)]
pub struct Book {
    dir: PathBuf,
    max_bytes: u64,
}

impl Book {
    /// The book in `dir`, which need not be there yet.
    #[must_use]
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), max_bytes: MAX_BYTES }
    }

    /// The book of somebody else, who may put anything in its place: less of it is read.
    #[must_use]
    pub fn of_another(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), max_bytes: OTHERS_MAX_BYTES }
    }

    /// The directory that holds it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join("book")
    }

    fn fail(&self, what: &'static str) -> impl FnOnce(Errno) -> BookError + use<> {
        let path = self.path();
        move |errno| BookError::Io { what, path, errno }
    }

    /// What it says now.
    ///
    /// # Errors
    /// When it cannot be read; a book that is not there says nothing.
    pub fn read(&self) -> Result<Known, BookError> {
        let file = match crate::open(&self.path()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(Known::default()),
            // No regular file.
            Err(Errno::INVAL) => return Err(BookError::Format(self.path())),
            Err(e) => return Err(self.fail("open")(e)),
        };
        let too_long = || BookError::TooLong { path: self.path(), max_bytes: self.max_bytes };
        // Not read in vain: a file of holes costs its owner nothing.
        let len = fs::fstat(&file).map_err(self.fail("look at"))?.st_size;
        if u64::try_from(len).unwrap_or(0) > self.max_bytes {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        let read = (&file).take(self.max_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|e| self.fail("read")(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        if bytes.len() as u64 > self.max_bytes {
            return Err(too_long());
        }
        Known::parse(&bytes).ok_or_else(|| BookError::Format(self.path()))
    }

    /// Writes an entry; it is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; the book says what it said before then.
    pub fn add(&self, verb: Verb, act: &Act, lines: &[Line]) -> Result<(), BookError> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let io = |what| {
            let fail = self.fail(what);
            move |e: std::io::Error| fail(Errno::from_io_error(&e).unwrap_or(Errno::IO))
        };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.dir)
            .map_err(io("make the directory of"))?;
        let is_new = !self.path().exists();
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut file =
            options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(self.path()).map_err(io("open"))?;
        self.lock(&file)?;
        let mut text = self.before(&mut file).map_err(io("read"))?.ok_or_else(|| BookError::Format(self.path()))?;
        text.extend(entry(verb, act, lines));
        let end = file.seek(SeekFrom::End(0)).map_err(io("write"))?;
        if let Err(e) = file.write_all(&text).and_then(|()| file.sync_all()) {
            // Half an entry does not count, but takes room on a full disk.
            let _left = file.set_len(end);
            return Err(io("write")(e));
        }
        if is_new {
            File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io("write"))?;
        }
        Ok(())
    }

    /// What must be written before the next entry; `None`: it is no book.
    fn before(&self, file: &mut File) -> std::io::Result<Option<Vec<u8>>> {
        let (mut head, mut last) = (Vec::new(), [0]);
        file.seek(SeekFrom::Start(0))?;
        (&*file).take(HEAD.len() as u64).read_to_end(&mut head)?;
        if head != HEAD.as_bytes() {
            return Ok(HEAD.as_bytes().strip_prefix(&head[..]).map(<[u8]>::to_vec));
        }
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        Ok(Some(if last == *b"\n" { Vec::new() } else { b"\n".to_vec() }))
    }

    /// The lock goes with the descriptor.
    fn lock(&self, file: &File) -> Result<(), BookError> {
        const TRIES: u32 = 500;
        for _ in 0..TRIES {
            if fvm_sys::process::try_lock(file).map_err(self.fail("lock"))? {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Err(BookError::Busy(self.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u8) -> Line {
        Line { hash: Hash([n; 32]), size_bytes: u64::from(n), path: Bytes(format!("/tmp/a {n}\n\"").into()) }
    }

    fn act(uid: u32) -> Act {
        Act { uid, ..Act::default() }
    }

    #[test]
    fn what_was_added_is_known_until_it_is_unmarked() {
        let tmp = tempfile::tempdir().unwrap();
        let book = Book::in_dir(tmp.path().join("marks"));
        assert!(book.read().unwrap().marked.is_empty());
        book.add(Verb::Mark, &act(1), &[line(1), line(2)]).unwrap();
        book.add(Verb::Mark, &act(2), &[line(2)]).unwrap();
        book.add(Verb::Unmark, &act(3), &[line(1)]).unwrap();
        let known = book.read().unwrap();
        assert_eq!((known.marked.len(), known.acts.len(), known.damaged), (1, 3, 0));
        assert_eq!(known.act(&Hash([2; 32])).map(|act| act.uid), Some(2));
        assert_eq!(known.marked[&Hash([2; 32])].1, [line(2).path].into());
    }

    #[test]
    fn cut_anywhere_the_book_is_a_prefix_of_whole_entries_and_can_be_gone_on_with() {
        let tmp = tempfile::tempdir().unwrap();
        let book = Book::in_dir(tmp.path());
        for n in 1..4 {
            book.add(Verb::Mark, &act(n.into()), &[line(n), line(n + 10)]).unwrap();
        }
        let whole = std::fs::read(book.path()).unwrap();
        for len in 0..=whole.len() {
            let known = Known::parse(&whole[..len]).unwrap();
            let counted: Vec<u32> = known.acts.iter().map(|(_, act, _)| act.uid).collect();
            assert_eq!(counted, (1..=u32::try_from(counted.len()).unwrap()).collect::<Vec<_>>());
            assert_eq!(known.marked.len(), 2 * counted.len(), "an entry counts as a whole");
            assert_eq!(known.damaged, 0);
            if len % 7 == 0 {
                std::fs::write(book.path(), &whole[..len]).unwrap();
                book.add(Verb::Mark, &act(9), &[line(9)]).unwrap();
                let after = book.read().unwrap();
                // One that lacked nothing but its last newline has that now.
                assert!(after.acts.len() > counted.len(), "{len}");
                assert!(after.marked.contains_key(&line(9).hash));
            }
        }
    }

    #[test]
    fn a_flipped_byte_costs_an_entry_and_never_makes_one() {
        let mut bytes = HEAD.as_bytes().to_vec();
        bytes.extend(entry(Verb::Mark, &act(1), &[line(1)]));
        let first = bytes.len();
        bytes.extend(entry(Verb::Mark, &act(2), &[line(2)]));
        for at in HEAD.len()..first {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            let known = Known::parse(&wrong).unwrap();
            // The end of its last line is the beginning of the next entry.
            let left = usize::from(at + 1 < first);
            assert_eq!(known.acts.len(), left, "{at}");
            assert!(!known.marked.contains_key(&Hash([1; 32])));
        }
        assert!(Known::parse(b"fvm-marks 2\n").is_none());
        assert!(Known::parse(b"something else altogether").is_none());
    }

    #[test]
    fn what_is_no_book_is_not_waited_for_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book");
        // Whoever reads another's book finds what that one put there.
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (send, receive) = std::sync::mpsc::channel();
        let book = Book::of_another(dir.path());
        let of = book.clone();
        std::thread::spawn(move || send.send(matches!(of.read(), Err(BookError::Format(_)))));
        assert_eq!(receive.recv_timeout(std::time::Duration::from_secs(60)), Ok(true), "it waits for a writer");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(book.read(), Err(BookError::Io { errno: Errno::LOOP, .. })));
        std::fs::remove_file(&path).unwrap();
        let file = File::create(&path).unwrap();
        (&file).write_all(HEAD.as_bytes()).unwrap();
        assert!(book.read().unwrap().acts.is_empty());
        file.set_len(OTHERS_MAX_BYTES + 1).unwrap();
        assert!(matches!(book.read(), Err(BookError::TooLong { .. })));
        // One's own may be that long, and is no book here.
        assert!(Book::in_dir(dir.path()).read().is_ok_and(|known| known.acts.is_empty()));
        file.set_len(MAX_BYTES + 1).unwrap();
        assert!(matches!(Book::in_dir(dir.path()).read(), Err(BookError::TooLong { .. })));
    }

    #[test]
    fn very_many_names_of_one_content_are_read_in_a_moment() {
        let mut lines: Vec<Line> =
            (0..200_000).map(|n| Line { path: Bytes(format!("/{n}").into()), ..line(1) }).collect();
        lines.push(line(1));
        let mut bytes = HEAD.as_bytes().to_vec();
        bytes.extend(entry(Verb::Mark, &act(1), &lines));
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(Known::parse(&bytes).map(|known| known.marked[&Hash([1; 32])].1.len())));
        // Each compared with all before it, that would be twenty thousand millions.
        assert_eq!(receive.recv_timeout(std::time::Duration::from_secs(60)), Ok(Some(200_001)));
    }

    #[test]
    fn an_empty_file_is_a_copy_of_none() {
        let nothing = Line { hash: Hash::OF_NOTHING, size_bytes: 0, path: Bytes("/tmp/empty".into()) };
        let mut bytes = HEAD.as_bytes().to_vec();
        bytes.extend(entry(Verb::Mark, &act(1), &[nothing, line(1)]));
        let known = Known::parse(&bytes).unwrap();
        assert!(known.act(&Hash::OF_NOTHING).is_none() && !known.sizes.contains(&0));
        assert!(known.act(&line(1).hash).is_some());
        assert_eq!(known.marked.len(), 2, "where it is, is known");
    }
}
