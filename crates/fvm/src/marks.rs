//! Which files of the host came out of VMs that nobody trusts.
//!
//! ```text
//!   commit, cp ─► Marking ─► attributes on the new files, lines in the book
//!   fvm marks  ─► find    ─► what is marked, by its attributes or as a copy
//!   fvm mark, unmark ──────► attributes and book, by a person
//! ```
//!
//! Invariants: what is marked stands in the book before it can be seen under its name; a VM adds marks and takes none
//! off; a copy of what is marked is marked when it comes out of any VM.

use crate::{Fvm, FvmError};
use fvm_commit::{Attributes, Marks, NewFile};
use fvm_marks::{Act, Book, Hash, Known, Line, Mark, Verb};
use fvm_model::path::Bytes;
use fvm_model::{Change, ChangeSet, VmRecord};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The directory of the book in a state directory.
const DIR: &str = "marks";
/// What a request to the guard is called, in that directory: it is removed when everything was looked at.
pub const REQUEST: &str = "request-";
/// Most directories on the way down from one that is scanned.
const DEPTH_MAX: usize = 256;
/// So many risks are said one by one.
const RISKS_MAX: usize = 200;

/// A marked file, or what is known of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Marked {
    /// Where it is.
    #[serde(serialize_with = "any_name")]
    pub path: PathBuf,
    /// How it is known.
    pub by: By,
    /// What its mark says; of a copy: what that of the original says.
    pub mark: Mark,
}

/// A path is bytes, and need not be text.
fn any_name<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    Bytes(path.to_owned().into()).serialize(to)
}

/// How a marked file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// It says so itself.
    Mark,
    /// It has the content of a marked file, and no mark.
    Copy,
}

/// An entry of the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `mark` or `unmark`.
    pub what: &'static str,
    /// Who, when.
    #[serde(flatten)]
    pub act: Act,
    /// Which files.
    pub paths: Vec<Bytes>,
}

impl Fvm {
    /// The book of marks.
    #[must_use]
    pub fn book(&self) -> Book {
        Book::in_dir(self.home().state_dir().join(DIR))
    }

    /// Where the guard of these VMs has its lock and its status.
    #[must_use]
    pub fn guard_dir(&self) -> PathBuf {
        self.home().state_dir().join("guard")
    }

    /// When a guard runs: waits, for a second at most, until it has looked at the book and at the files again, so that who
    /// marks or unmarks and goes on is not quicker than the guard.
    pub(crate) fn tell_guard(&self) {
        const TRIES: u32 = 200;
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
        let lock = std::fs::File::options().read(true).write(true).open(self.guard_dir().join("lock"));
        if !lock.is_ok_and(|lock| fvm_sys::process::is_locked(&lock) == Ok(true)) {
            return;
        }
        let request = self.book().dir().join(format!("{REQUEST}{}", std::process::id()));
        if std::fs::write(&request, "").is_err() {
            return;
        }
        for _ in 0..TRIES {
            if request.symlink_metadata().is_err() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _late = std::fs::remove_file(&request);
    }

    /// All that was marked and unmarked, oldest first, and how many entries are damaged.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn marks_history(&self) -> Result<(Vec<Entry>, usize), FvmError> {
        let known = self.book().read()?;
        let entry = |(verb, act, lines): (Verb, Act, Vec<Line>)| Entry {
            what: if verb == Verb::Mark { "mark" } else { "unmark" },
            act,
            paths: lines.into_iter().map(|line| line.path).collect(),
        };
        Ok((known.acts.into_iter().map(entry).collect(), known.damaged))
    }

    /// The marked files at and below `paths`; without any: those that are where they were marked. `told` hears of what
    /// could not be looked at.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn marks(&self, paths: &[PathBuf], told: &mut dyn FnMut(&Path, Errno)) -> Result<Vec<Marked>, FvmError> {
        let known = self.book().read()?;
        let mut found = Vec::new();
        if paths.is_empty() {
            let mut places: Vec<PathBuf> =
                known.marked.values().flat_map(|(_, paths)| paths.iter().map(|path| PathBuf::from(&path.0))).collect();
            places.sort();
            places.dedup();
            for path in places {
                // What was removed or replaced since is not marked any more.
                if let Ok(Some(marked)) = look(&path, &known) {
                    found.push(marked);
                }
            }
            return Ok(found);
        }
        for path in paths {
            walk(path, &mut |path| match look(path, &known) {
                Ok(Some(marked)) => found.push(marked),
                Ok(None) => {}
                Err(errno) => told(path, errno),
            });
        }
        Ok(found)
    }

    /// Marks what are copies of marked files at and below `paths`; returns those.
    ///
    /// # Errors
    /// When the book cannot be read, or one cannot be marked.
    pub fn mark_copies(&self, paths: &[PathBuf], told: &mut dyn FnMut(&Path, Errno)) -> Result<Vec<Marked>, FvmError> {
        let known = self.book().read()?;
        let (mut copies, mut lines) = (Vec::new(), Vec::new());
        let mut failure = None;
        for path in paths {
            walk(path, &mut |path| match fvm_marks::open(path).and_then(|file| mark_copy(path, &file, &known)) {
                Ok(Some((marked, line))) => {
                    copies.push(marked);
                    lines.push(line);
                }
                Ok(None) => {}
                Err(errno @ (Errno::PERM | Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT | Errno::ROFS)) => {
                    failure.get_or_insert_with(|| failed("mark", path, errno));
                }
                Err(errno) => told(path, errno),
            });
        }
        if !lines.is_empty() {
            self.book().add(Verb::Mark, &by_hand(), &lines)?;
        }
        failure.map_or(Ok(copies), Err)
    }

    /// The same of open files, whatever their paths lead to by now. `write_down`: the book hears of them, too.
    ///
    /// # Errors
    /// When the book cannot be read or written.
    pub fn mark_open_copies(&self, files: &[(PathBuf, OwnedFd)], write_down: bool) -> Result<Vec<Marked>, FvmError> {
        // Read anew: what was unmarked meanwhile stays so.
        let known = self.book().read()?;
        let done = files.iter().filter_map(|(path, file)| mark_copy(path, file, &known).ok().flatten());
        let (copies, lines): (Vec<_>, Vec<_>) = done.unzip();
        if write_down && !lines.is_empty() {
            self.book().add(Verb::Mark, &by_hand(), &lines)?;
        }
        Ok(copies)
    }

    /// Marks files by hand.
    ///
    /// # Errors
    /// When one cannot be marked.
    pub fn mark(&self, paths: &[PathBuf]) -> Result<(), FvmError> {
        let mut lines = Vec::new();
        let mut files = Vec::new();
        for path in paths {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let (file, hash, size_bytes) = read(&path)?;
            let act = by_hand();
            let mark = Mark::new(None, path.as_os_str().as_bytes(), act.time, act.uid).of(&hash);
            lines.push(Line { hash, size_bytes, path: Bytes(path.clone().into()) });
            files.push((path, file, mark));
        }
        self.book().add(Verb::Mark, &by_hand(), &lines)?;
        for (path, file, mark) in &files {
            fvm_marks::set(file, mark).map_err(|e| failed("mark", path, e))?;
        }
        self.tell_guard();
        Ok(())
    }

    /// Unmarks files, with the content that they have: copies that say nothing themselves are not marked any more either.
    /// Returns how many were marked.
    ///
    /// # Errors
    /// When one cannot be unmarked, or this process is in a VM.
    pub fn unmark(&self, paths: &[PathBuf]) -> Result<usize, FvmError> {
        let known = self.book().read()?;
        let mut lines = Vec::new();
        let mut files = Vec::new();
        for path in paths {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let (file, hash, size_bytes) = read(&path)?;
            let marked = fvm_marks::read(&file).map_err(|e| failed("read the mark of", &path, e))?.is_some();
            if marked || known.marked.contains_key(&hash) {
                lines.push(Line { hash, size_bytes, path: Bytes(path.clone().into()) });
                files.push((path, file));
            }
        }
        if lines.is_empty() {
            return Ok(0);
        }
        // First that someone says so, then so it is.
        self.book().add(Verb::Unmark, &by_hand(), &lines)?;
        for (path, file) in &files {
            fvm_marks::take_off(file).map_err(|e| failed("unmark", path, e))?;
        }
        self.tell_guard();
        Ok(lines.len())
    }

    /// What of `changes` would be marks if a VM could make them: those are left out of commits.
    ///
    /// # Errors
    /// When the layers cannot be looked at.
    pub fn forged(&self, record: &VmRecord, changes: &ChangeSet) -> Result<Vec<String>, FvmError> {
        let open = |layer: fvm_model::plan::LayerDir| {
            let upper = fvm_sys::dir::Dir::open_root(&layer.dir.join("upper")).ok()?;
            Some((layer.n, (layer.host, upper)))
        };
        let uppers: HashMap<u32, _> = self.layer_dirs(record)?.into_iter().filter_map(open).collect();
        let mut found = Risks::default();
        // Entries of one directory come in a row.
        let mut last: Option<(u32, PathBuf, fvm_sys::dir::Dir)> = None;
        for change in &changes.changes {
            let source = change.source.as_ref().unwrap_or(&change.path);
            let Some((host, upper)) = uppers.get(&change.layer) else { continue };
            let Some(rel) = source.on_host().relative_to(host).map(Path::to_path_buf) else { continue };
            let (Some(parent), Some(name)) = (rel.parent(), rel.file_name()) else { continue };
            if last.as_ref().is_none_or(|(n, at, _)| *n != change.layer || at != parent) {
                last = upper.beneath_deep(parent).ok().map(|dir| (change.layer, parent.to_owned(), dir));
            }
            let Some((.., dir)) = &last else { continue };
            found.extend(not_taken(change, &dir.xattr_names(Path::new(name)).unwrap_or_default()));
        }
        Ok(found.into_words())
    }

    /// What marks the files of a commit, or of a copy out of a VM. `mark`: all of them, whatever they are.
    pub(crate) fn marking(&self, record: &VmRecord, mark: bool) -> Result<Marking, FvmError> {
        let act = Act { vm: Some(record.name.to_string()), policy: Some(record.policy.name.0.clone()), ..by_hand() };
        Ok(Marking {
            mark,
            act,
            known: self.book().read()?,
            book: self.book(),
            lines: Mutex::default(),
            kept: AtomicBool::new(false),
        })
    }
}

/// What is said of attributes with these names that a VM gave its version.
pub(crate) fn not_taken(change: &Change, names: &[OsString]) -> impl Iterator<Item = String> {
    names.iter().filter(|attr| fvm_marks::is_reserved(attr)).map(|attr| {
        let attr = fvm_model::path::printable(attr.as_bytes());
        format!("{}: the VM's {attr} is not taken: marks are the host's", change.path)
    })
}

/// What is said of a VM's changes, in words; no more than can be read, for a VM makes as many as it likes.
#[derive(Debug, Default)]
pub struct Risks {
    said: Vec<String>,
    more: usize,
}

impl Risks {
    /// All of it, and how many were left out.
    #[must_use]
    pub fn into_words(mut self) -> Vec<String> {
        if self.more > 0 {
            self.said.push(format!("{} more like these were left out", self.more));
        }
        self.said
    }
}

impl Extend<String> for Risks {
    fn extend<I: IntoIterator<Item = String>>(&mut self, risks: I) {
        for risk in risks {
            if self.said.len() < RISKS_MAX {
                self.said.push(risk);
            } else {
                self.more += 1;
            }
        }
    }
}

/// Decides about the files of one commit.
#[derive(Debug)]
pub(crate) struct Marking {
    mark: bool,
    act: Act,
    known: Known,
    book: Book,
    lines: Mutex<Vec<Line>>,
    kept: AtomicBool,
}

impl Marking {
    /// Whether anything was marked.
    pub fn any(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// The mark of a file, if it shall have one; it stands in the book after [`Marks::keep`].
    pub fn of(
        &self,
        path: &[u8],
        file: BorrowedFd<'_>,
        was: Option<Mark>,
        brought: Option<Mark>,
    ) -> Result<Option<Mark>, Errno> {
        let (hash, size_bytes) = fvm_marks::hash_of(file)?;
        let policy = self.act.policy.as_deref().unwrap_or_default();
        let vm = self.act.vm.as_deref().unwrap_or_default();
        let fresh = || Mark::new(Some((vm, policy)), path, self.act.time, self.act.uid);
        // A VM can put any mark on its own file: it counts when the book knows it, and then only confines that file.
        let genuine = |mark: &Mark| {
            mark.sha256
                .as_ref()
                .and_then(|hash| hash.parse().ok())
                .is_some_and(|hash: Hash| self.known.act(&hash).is_some())
        };
        let copied = || self.known.act(&hash).map(|act| mark_of(act, path));
        let mark = if self.mark { Some(fresh()) } else { was.or_else(|| brought.filter(genuine)).or_else(copied) };
        if mark.is_some() {
            let line = Line { hash, size_bytes, path: Bytes(OsString::from(std::ffi::OsStr::from_bytes(path))) };
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        Ok(mark.map(|mark| mark.of(&hash)))
    }
}

impl Marks for Marking {
    fn concerns(&self, len_bytes: u64) -> bool {
        self.mark || self.known.sizes.contains(&len_bytes)
    }

    fn judge(&self, new: &NewFile<'_>) -> Result<Attributes, Errno> {
        let read = |attrs: &Attributes| {
            let named = |name: &str| attrs.iter().find(|(attr, _)| attr == name);
            let found = named(fvm_marks::ROOT_NAME).or_else(|| named(fvm_marks::USER_NAME));
            found.map(|(_, value)| Mark::from_bytes(value))
        };
        let mark = self.of(new.path.as_bytes(), new.file, read(&new.was), read(&new.brought))?;
        let bytes = mark.map(|mark| mark.to_bytes());
        Ok(bytes.iter().flat_map(|bytes| fvm_marks::NAMES.map(|name| (name.into(), bytes.clone()))).collect())
    }

    fn keep(&self) -> Result<(), String> {
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        if lines.is_empty() {
            return Ok(());
        }
        self.kept.store(true, Ordering::Relaxed);
        self.book.add(Verb::Mark, &self.act, &lines).map_err(|e| e.to_string())
    }
}

/// Where, what and how of one file, if it is marked.
fn look(path: &Path, known: &Known) -> Result<Option<Marked>, Errno> {
    let file = fvm_marks::open(path)?;
    if let Some(mark) = fvm_marks::read(&file)? {
        return Ok(Some(Marked { path: path.to_owned(), by: By::Mark, mark }));
    }
    Ok(copy(path, &file, known)?.map(|(marked, _)| marked))
}

/// The same of an open file without a mark, if it is a copy; and what the book is to say of it.
fn copy(path: &Path, file: impl AsFd, known: &Known) -> Result<Option<(Marked, Line)>, Errno> {
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
    if !known.sizes.contains(&size) {
        return Ok(None);
    }
    let (hash, size_bytes) = fvm_marks::hash_of(file)?;
    Ok(known.act(&hash).map(|act| {
        let mark = mark_of(act, path.as_os_str().as_bytes()).of(&hash);
        let line = Line { hash, size_bytes, path: Bytes(path.to_owned().into()) };
        (Marked { path: path.to_owned(), by: By::Copy, mark }, line)
    }))
}

/// Marks an open file if it is a copy, and no other: what was looked at is what is marked, for its path may lead elsewhere
/// by now, where its owner wishes.
fn mark_copy(path: &Path, file: impl AsFd, known: &Known) -> Result<Option<(Marked, Line)>, Errno> {
    if fvm_marks::read(&file)?.is_some() {
        return Ok(None);
    }
    let found = copy(path, &file, known)?;
    if let Some((marked, _)) = &found {
        fvm_marks::set(&file, &marked.mark)?;
    }
    Ok(found)
}

fn mark_of(act: &Act, path: &[u8]) -> Mark {
    let vm = act.vm.as_deref().map(|vm| (vm, act.policy.as_deref().unwrap_or_default()));
    Mark::new(vm, path, act.time, act.uid)
}

/// Every regular file at or below `path`, on its file system, following no symlink.
fn walk(path: &Path, each: &mut dyn FnMut(&Path)) {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(top) = path.symlink_metadata() else {
        each(path);
        return;
    };
    let mut pending = vec![(path.to_owned(), 0)];
    while let Some((path, depth)) = pending.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_file() {
            each(&path);
        } else if meta.is_dir() && meta.dev() == top.dev() && depth < DEPTH_MAX {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(entries.map(|entry| (entry.path(), depth + 1)));
        }
    }
}

fn read(path: &Path) -> Result<(rustix::fd::OwnedFd, Hash, u64), FvmError> {
    let file = fvm_marks::open(path).map_err(|e| failed("open", path, e))?;
    let (hash, size_bytes) = fvm_marks::hash_of(&file).map_err(|e| failed("read", path, e))?;
    Ok((file, hash, size_bytes))
}

fn failed(what: &'static str, path: &Path, errno: Errno) -> FvmError {
    FvmError::Mark { what, path: path.to_owned(), errno }
}

/// A person, now. Behind sudo it is the one who logged in.
fn by_hand() -> Act {
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse().ok());
    let uid = login.filter(|uid| *uid != u32::MAX).unwrap_or_else(|| rustix::process::getuid().as_raw());
    Act { time: fvm_vm::lifecycle::now().secs, uid, ..Act::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_risks_the_first_are_said_and_the_rest_are_counted() {
        let risks = |n: usize| {
            let mut risks = Risks::default();
            risks.extend((0..n).map(|i| i.to_string()));
            risks.into_words()
        };
        assert_eq!(risks(RISKS_MAX).len(), RISKS_MAX);
        let many = risks(RISKS_MAX + 7);
        assert_eq!(many.len(), RISKS_MAX + 1);
        assert_eq!((many[0].as_str(), many[RISKS_MAX].as_str()), ("0", "7 more like these were left out"));
    }

    #[test]
    fn what_was_looked_at_is_marked_whatever_its_path_leads_to_by_now() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let book = Book::in_dir(dir.path().join("marks"));
        let place = dir.path().join("d");
        std::fs::create_dir_all(dir.path().join("root")).unwrap();
        std::fs::create_dir(&place).unwrap();
        for at in ["d/sh", "root/sh", "unlike"] {
            std::fs::write(dir.path().join(at), if at == "unlike" { "other" } else { "shell" }).unwrap();
        }
        let (shell, hash, size_bytes) = read(&place.join("sh")).unwrap();
        let line = Line { hash, size_bytes, path: Bytes("/elsewhere".into()) };
        book.add(Verb::Mark, &Act { vm: Some("u".into()), ..Act::default() }, &[line]).unwrap();
        let known = book.read().unwrap();
        let unlike = fvm_marks::open(&dir.path().join("unlike")).unwrap();
        // Its owner moves the directory away between the look and the mark, and a link to another in its place.
        std::fs::rename(&place, dir.path().join("gone")).unwrap();
        std::os::unix::fs::symlink("root", &place).unwrap();
        let (marked, _) = mark_copy(&place.join("sh"), &shell, &known).unwrap().unwrap();
        assert_eq!((marked.by, marked.mark.vm.as_deref()), (By::Copy, Some("u")));
        assert!(fvm_marks::read(&shell).unwrap().is_some());
        let root = fvm_marks::open(&dir.path().join("root/sh")).unwrap();
        assert_eq!(fvm_marks::read(&root), Ok(None), "somebody else's file was marked");
        // And what is no copy, or is marked already, stays as it is.
        assert!(mark_copy(&place.join("sh"), &unlike, &known).unwrap().is_none());
        assert!(mark_copy(&place.join("sh"), &shell, &known).unwrap().is_none());
        // Unmarked meanwhile.
        book.add(Verb::Unmark, &Act::default(), &[Line { hash, size_bytes, path: Bytes("/elsewhere".into()) }])
            .unwrap();
        assert!(mark_copy(&place.join("sh"), &root, &book.read().unwrap()).unwrap().is_none());
    }
}
