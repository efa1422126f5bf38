//! Which files are watched: those that are marked, and copies of them.
//!
//! ```text
//!   book changes ──────────────────────► round: every place in the book ─► has a mark? ─► watched
//!   something new in a directory of      file  ─► has a mark? ─► watched
//!   such places, or a given one                   as long as a marked one, same hash? ─► marked, watched
//! ```
//!
//! Invariants: only a file that has a mark is watched, so a user's book can only name that user's files; a mark that was
//! taken off without the book knowing comes back with the next round, as long as the content is the same; nothing here is
//! waited for by anybody.

use crate::guard::{Options, Shared};
use crate::task::FileId;
use crate::{GuardError, Reads, rules};
use fvm::{Book, Fvm, Known, Verb};
use fvm_sys::fanotify::Kinds;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Most directories that are watched.
const DIRS_MAX: usize = 16_384;
/// Most files that are: each keeps its inode in memory.
const FILES_MAX: usize = 131_072;
/// Without anything new, the book is looked at again so often.
const ROUND: Duration = Duration::from_secs(30);
/// What belongs together comes within.
const GATHER: Duration = Duration::from_millis(20);

/// The thread that watches.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    fvm: Fvm,
    /// Ours first.
    books: Vec<Book>,
    given: Vec<PathBuf>,
    inotify: OwnedFd,
    dirs: HashMap<i32, PathBuf>,
    files: HashSet<FileId>,
    known: Known,
}

/// What a look at a file found.
enum Found {
    Marked,
    Copy,
    Nothing,
}

impl Watch {
    /// Sets it up; nothing is watched yet.
    pub fn new(shared: Arc<Shared>, fvm: Fvm, options: &Options) -> Result<Self, GuardError> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(GuardError::Kernel)?;
        let books = [fvm.book()].into_iter().chain(options.books.iter().map(Book::in_dir)).collect();
        let (dirs, files) = (HashMap::new(), HashSet::new());
        Ok(Self { shared, fvm, books, given: options.watched.clone(), inotify, dirs, files, known: Known::default() })
    }

    /// Watches for ever.
    pub fn run(mut self) {
        for dir in self.given.clone() {
            self.tree(&dir);
        }
        let mut anew = true;
        loop {
            if anew {
                self.round();
            }
            anew = self.wait();
        }
    }

    /// Looks at every place that a book names.
    fn round(&mut self) {
        let (mut documents, mut unwatched) = (0, 0);
        // Whoever asked before this waits for the end of it.
        let requests = self.requests();
        for book in self.books.clone() {
            let own = book.path() == self.books[0].path();
            // The directory need not be there before the first mark.
            let _made = if own { std::fs::create_dir_all(book.dir()) } else { Ok(()) };
            self.dir(book.dir());
            let known = match book.read() {
                Ok(known) => known,
                Err(e) => {
                    (self.shared.tell)(&format!("{e}"));
                    continue;
                }
            };
            let places: HashSet<PathBuf> =
                known.marked.values().flat_map(|(_, paths)| paths).map(|path| PathBuf::from(&path.0)).collect();
            let unmarked = known.acts.iter().filter(|(verb, ..)| *verb == Verb::Unmark);
            for line in unmarked.flat_map(|(.., lines)| lines) {
                self.forget(Path::new(&line.path.0));
            }
            if own {
                self.known = known;
            }
            for place in &places {
                self.near(place);
                match self.look(place, own) {
                    Ok(true) => {}
                    Ok(false) => documents += 1,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => {}
                    Err(_) => unwatched += 1,
                }
            }
        }
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.watched, status.documents, status.unwatched) = (self.files.len(), documents, unwatched);
        status.rounds += 1;
        drop(status);
        for request in requests {
            let _gone = std::fs::remove_file(request);
        }
    }

    /// Who waits until everything was looked at: only in our own book's directory.
    fn requests(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.books[0].dir()).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| is_request(path)).collect()
    }

    /// Watches a file if it is to be; `false`: it needs no watching.
    fn look(&mut self, path: &Path, own: bool) -> Result<bool, Errno> {
        // Not opened: FIFOs, and ourselves.
        let file = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let magic = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match self.judge(&magic, &stat, own)? {
            Found::Nothing => return Ok(false),
            Found::Copy => {
                let marked = self.fvm.mark_copies(&[path.to_owned()], &mut |_, _| {});
                if marked.is_ok_and(|marked| !marked.is_empty()) {
                    self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).copies += 1;
                    (self.shared.tell)(&format!(
                        "marked {}, a copy",
                        fvm::model::path::printable(path.as_os_str().as_bytes())
                    ));
                }
            }
            Found::Marked => {}
        }
        let id = FileId::of(&file)?;
        if self.files.contains(&id) {
            return Ok(true);
        }
        let all = self.shared.policy.reads == Reads::Refuse;
        if !all && !rules::is_program(&head(&magic), stat.st_mode, path.file_name().unwrap_or_default()) {
            return Ok(false);
        }
        if self.files.len() >= FILES_MAX {
            return Err(Errno::NOSPC);
        }
        let kinds =
            if self.shared.policy.reads == Reads::Allow && !scripts(&magic) { Kinds::Exec } else { Kinds::ExecAndOpen };
        self.shared.group.mark(&magic, kinds)?;
        self.files.insert(id);
        Ok(true)
    }

    fn judge(&self, magic: &Path, stat: &fs::Stat, own: bool) -> Result<Found, Errno> {
        for name in fvm::MARK_NAMES {
            match fs::getxattr(magic, name, &mut [0_u8; 0][..]) {
                Ok(_) => return Ok(Found::Marked),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        if !own || !self.known.sizes.contains(&len) {
            return Ok(Found::Nothing);
        }
        let file = fs::open(magic, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let (hash, _) = fvm::hash_of(&file)?;
        Ok(if self.known.act(&hash).is_some() { Found::Copy } else { Found::Nothing })
    }

    /// Nobody waits because of this file any more, unless it is marked.
    fn forget(&mut self, path: &Path) {
        let Ok(file) = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) else { return };
        let (Ok(id), Ok(stat)) = (FileId::of(&file), fs::fstat(&file)) else { return };
        let magic = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if self.files.contains(&id)
            && matches!(self.judge(&magic, &stat, false), Ok(Found::Nothing))
            && self.shared.group.unmark(&magic).is_ok()
        {
            self.files.remove(&id);
        }
    }

    /// Something may come to be at `place`: watches the nearest directory that is there.
    fn near(&mut self, place: &Path) {
        let mut above = place.parent();
        while let Some(dir) = above {
            if self.dir(dir) {
                return;
            }
            above = dir.parent();
        }
    }

    /// Watches a directory; `false`: it is not there.
    fn dir(&mut self, path: &Path) -> bool {
        if self.dirs.len() >= DIRS_MAX {
            return true;
        }
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(number) => {
                self.dirs.insert(number, path.to_owned());
                true
            }
            Err(errno) => !matches!(errno, Errno::NOENT | Errno::NOTDIR),
        }
    }

    /// Watches a directory and those below it, on one file system.
    fn tree(&mut self, top: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(first) = top.symlink_metadata() else { return };
        let mut pending = vec![top.to_owned()];
        while let Some(dir) = pending.pop() {
            self.dir(&dir);
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let is_dir = entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.dev() == first.dev());
                if is_dir && self.dirs.len() < DIRS_MAX {
                    pending.push(entry.path());
                }
            }
        }
    }

    /// Waits for something new; `true`: everything must be looked at again.
    fn wait(&mut self) -> bool {
        let timeout = rustix::time::Timespec { tv_sec: ROUND.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return true,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => std::thread::sleep(GATHER),
        }
        std::thread::sleep(GATHER);
        let mut anew = false;
        let mut new: Vec<(i32, OsString, bool)> = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
            let flags = event.events();
            anew |= flags.contains(ReadFlags::QUEUE_OVERFLOW) || flags.contains(ReadFlags::IGNORED);
            new.extend(name.map(|name| (event.wd(), name, flags.contains(ReadFlags::ISDIR))));
        }
        for (number, name, is_dir) in new {
            let Some(dir) = self.dirs.get(&number).cloned() else { continue };
            let path = dir.join(&name);
            if is_dir {
                if self.given.iter().any(|given| path.starts_with(given)) {
                    self.tree(&path);
                }
                anew = true;
            } else if self.books.iter().any(|book| book.path() == path)
                || is_request(&path) && dir == self.books[0].dir()
            {
                anew = true;
            } else if self.look(&path, true) == Ok(true) {
                let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
                status.watched = self.files.len();
            }
        }
        anew
    }
}

fn is_request(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(fvm::MARKS_REQUEST.as_bytes()))
}

/// The beginning of a file; nothing if it cannot be read.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    let read = fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut bytes[..]));
    bytes.truncate(read.unwrap_or(0));
    bytes
}

/// Whether an interpreter may be what runs it.
fn scripts(path: &Path) -> bool {
    !head(path).starts_with(b"\x7fELF")
}
