//! Which files are watched: those that are marked, and copies of them.
//!
//! ```text
//!   book changes ──────────────────────► round: every place in the book ─► has a mark? ─► watched
//!   something new in a directory of      file  ─► has a mark? ─► watched
//!   such places, or a given one                   as long as a marked one, same hash? ─► marked, watched
//! ```
//!
//! Invariants: only a file that has a mark is watched, so a user's book can only name that user's files; a mark that was
//! taken off without the book knowing comes back with the next round, as long as the content is the same; what was looked at
//! is what is marked and watched, by its descriptor, for paths are their owners'; nothing here is waited for by anybody, and
//! what others make in directories neither keeps a round waiting for long nor takes the room of what the book names.

use crate::file::{Identity, head, magic, open_again};
use crate::guard::{Options, Shared};
use crate::{GuardError, Reads, rules};
use fvm::{Book, Fvm, Known, Verb};
use fvm_sys::fanotify::Kinds;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Most directories that are watched.
const DIRS_MAX: usize = 16_384;
/// Most files that are: each keeps its inode in memory.
const FILES_MAX: usize = 131_072;
/// Most of them that are no programs, and most that no book names: others make as many as they like.
const LESSER_MAX: usize = FILES_MAX / 2;
/// Most copies that a worker writes into the book.
const COPIES_MAX: u64 = 16_384;
/// Larger files are not compared with marked ones.
const COMPARED_MAX_BYTES: u64 = 1 << 30;
/// So much is compared before the book is looked at again.
const COMPARED_AT_ONCE_BYTES: u64 = 64 << 20;
/// So many new files are looked at before that.
const AT_ONCE: usize = 256;
/// Most new files that wait to be looked at.
const NEW_MAX: usize = 65_536;
/// Without anything new, the book is looked at again so often.
const ROUND: Duration = Duration::from_secs(30);
/// It is not looked at more often than this because directories come and go.
const PAUSE: Duration = Duration::from_millis(100);
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
    files: HashMap<Identity, Watched>,
    known: Known,
    /// What came to be and was not looked at yet.
    new: VecDeque<PathBuf>,
    /// More came to be than was noticed.
    lost: bool,
    /// A directory came to be.
    moved: bool,
    turned: Instant,
    scanned: Option<Instant>,
    copies: u64,
    /// How many of the files no book names,
    unnamed: usize,
    /// and how many are no programs.
    documents: usize,
}

/// What is remembered of a watched file.
#[derive(Debug, Clone)]
struct Watched {
    path: PathBuf,
    kinds: Kinds,
    /// A book names it.
    named: bool,
    is_program: bool,
}

/// What a look at a file found.
enum Found {
    Marked,
    Copy,
    Nothing,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Watched,
    /// It would be, if there was room.
    NoRoom,
    Unmarked,
}

impl Watch {
    /// Sets it up; nothing is watched yet.
    pub fn new(shared: Arc<Shared>, fvm: Fvm, options: &Options) -> Result<Self, GuardError> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(GuardError::Watch)?;
        let books = [fvm.book()].into_iter().chain(options.books.iter().map(Book::of_another)).collect();
        Ok(Self {
            shared,
            fvm,
            books,
            given: options.watched.clone(),
            inotify,
            dirs: HashMap::new(),
            files: HashMap::new(),
            known: Known::default(),
            new: VecDeque::new(),
            lost: false,
            moved: false,
            turned: Instant::now(),
            scanned: None,
            copies: 0,
            unnamed: 0,
            documents: 0,
        })
    }

    /// Watches for ever.
    pub fn run(mut self) {
        // The books' directories before all others: there may be too many of those.
        self.round();
        for dir in self.given.clone() {
            self.tree(&dir);
        }
        let mut anew = false;
        loop {
            if anew {
                self.round();
                self.rescan();
            }
            anew = self.wait();
            if !anew {
                self.look_at_new();
            }
        }
    }

    /// Looks at every place that a book names.
    fn round(&mut self) {
        (self.turned, self.moved) = (Instant::now(), false);
        let (mut documents, mut unwatched) = (0, 0);
        self.files.values_mut().for_each(|file| file.named = false);
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
            let mut copies = Vec::new();
            let mut later = Vec::new();
            for place in &places {
                self.near(place);
                match self.look(place, own, true, &mut copies) {
                    Ok(Looked::NoRoom) => later.push(place),
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => {}
                    Err(_) => unwatched += 1,
                }
                if copies.len() >= AT_ONCE {
                    self.mark(std::mem::take(&mut copies), true);
                }
            }
            self.mark(copies, true);
            self.prune();
            for place in later {
                match self.look(place, own, true, &mut Vec::new()) {
                    Ok(Looked::NoRoom) => documents += 1,
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => {}
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

    /// Watches a file if it is to be. One that is a copy, and has to be marked before, comes to `copies`. `own`: copies are
    /// looked for; `named`: a book names it.
    fn look(
        &mut self,
        path: &Path,
        own: bool,
        named: bool,
        copies: &mut Vec<(PathBuf, OwnedFd)>,
    ) -> Result<Looked, Errno> {
        // Not opened: FIFOs, and ourselves.
        let file = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        match self.judge(&file, &stat, own)? {
            Found::Nothing => Ok(Looked::Unmarked),
            Found::Copy => {
                copies.push((path.to_owned(), open_again(&file)?));
                Ok(Looked::Unmarked)
            }
            Found::Marked => self.watch(path, &file, stat.st_mode, named),
        }
    }

    /// Watches a file that has a mark.
    fn watch(&mut self, path: &Path, file: &OwnedFd, mode: u32, named: bool) -> Result<Looked, Errno> {
        let identity = Identity::of(file)?;
        let known = self.files.get_mut(&identity).filter(|_| identity.born.is_some());
        if let Some(known) = known {
            known.named |= named;
            // The kernel may have forgotten it: nothing is lost by saying it again.
            self.shared.group.mark(&magic(file), known.kinds)?;
            return Ok(Looked::Watched);
        }
        let head = head(file);
        let is_program = rules::is_program(&head, mode, path.file_name().unwrap_or_default());
        let full = self.files.len() >= FILES_MAX
            || !named && self.unnamed >= LESSER_MAX
            || !is_program && self.documents >= LESSER_MAX;
        if full {
            return Ok(Looked::NoRoom);
        }
        // Whatever it is called and whatever it looks like, a shell runs it when it is told to; a program of the machine's own
        // kind is not run by reading it.
        let only_run = self.shared.policy.reads == Reads::Allow && head.starts_with(b"\x7fELF");
        let kinds = if only_run { Kinds::Exec } else { Kinds::ExecAndOpen };
        self.shared.group.mark(&magic(file), kinds)?;
        let watched = Watched { path: path.to_owned(), kinds, named, is_program };
        if self.files.insert(identity, watched).is_none() {
            self.unnamed += usize::from(!named);
            self.documents += usize::from(!is_program);
        }
        Ok(Looked::Watched)
    }

    fn judge(&self, file: &OwnedFd, stat: &fs::Stat, own: bool) -> Result<Found, Errno> {
        let magic = magic(file);
        for name in fvm::MARK_NAMES {
            match fs::getxattr(&magic, name, &mut [0_u8; 0][..]) {
                Ok(_) => return Ok(Found::Marked),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        if !own || !self.known.sizes.contains(&len) || len > COMPARED_MAX_BYTES {
            return Ok(Found::Nothing);
        }
        let (hash, _) = fvm::hash_of(&open_again(file)?)?;
        Ok(if self.known.act(&hash).is_some() { Found::Copy } else { Found::Nothing })
    }

    /// Marks copies, and watches them.
    fn mark(&mut self, copies: Vec<(PathBuf, OwnedFd)>, named: bool) {
        if copies.is_empty() {
            return;
        }
        let write_down = self.copies < COPIES_MAX;
        let marked = match self.fvm.mark_open_copies(&copies, write_down) {
            Ok(marked) => marked,
            Err(e) => {
                (self.shared.tell)(&format!("{e}"));
                return;
            }
        };
        for marked in &marked {
            let shown = fvm::model::path::printable(marked.path.as_os_str().as_bytes());
            let more = if write_down { "" } else { "; there are too many to write them into the book" };
            (self.shared.tell)(&format!("marked {shown}, a copy{more}"));
        }
        self.copies += marked.len() as u64;
        for (path, file) in &copies {
            if let Ok(stat) = fs::fstat(file)
                && matches!(self.judge(file, &stat, false), Ok(Found::Marked))
            {
                let _unwatched = self.watch(path, file, stat.st_mode, named);
            }
        }
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.copies = self.copies;
    }

    /// Looks at some of what came to be.
    fn look_at_new(&mut self) {
        let (mut copies, mut compared) = (Vec::new(), 0);
        for _ in 0..AT_ONCE {
            if compared >= COMPARED_AT_ONCE_BYTES {
                break;
            }
            let Some(path) = self.new.pop_front() else { break };
            let len = path.symlink_metadata().map_or(0, |meta| meta.len());
            if self.known.sizes.contains(&len) {
                compared += len;
            }
            let _gone = self.look(&path, true, false, &mut copies);
        }
        self.mark(copies, false);
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.watched = self.files.len();
    }

    /// Forgets files that are gone: the kernel has.
    fn prune(&mut self) {
        let is_there = |identity: &Identity, path: &Path| {
            let file = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            file.is_ok_and(|file| Identity::of(&file) == Ok(*identity))
        };
        self.files.retain(|identity, file| file.named || is_there(identity, &file.path));
        self.unnamed = self.files.values().filter(|file| !file.named).count();
        self.documents = self.files.values().filter(|file| !file.is_program).count();
    }

    /// Nobody waits because of this file any more, unless it is marked.
    fn forget(&mut self, path: &Path) {
        let Ok(file) = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) else { return };
        let (Ok(identity), Ok(stat)) = (Identity::of(&file), fs::fstat(&file)) else { return };
        if self.files.contains_key(&identity)
            && matches!(self.judge(&file, &stat, false), Ok(Found::Nothing))
            && self.shared.group.unmark(&magic(&file)).is_ok()
        {
            self.files.remove(&identity);
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

    /// Watches a directory and those below it, on one file system, and looks at what is there already.
    fn tree(&mut self, top: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(first) = top.symlink_metadata() else { return };
        let mut pending = vec![top.to_owned()];
        while let Some(dir) = pending.pop() {
            // Others make them: there must be room for the places of the book.
            if self.dirs.len() >= DIRS_MAX / 2 {
                return;
            }
            self.dir(&dir);
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() && meta.dev() == first.dev() => pending.push(entry.path()),
                    Ok(meta) if meta.is_file() && self.is_candidate(&entry.path(), meta.len()) => {
                        self.came(entry.path());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether a file may have to be watched: what has another length than all that is marked is no copy.
    fn is_candidate(&self, path: &Path, len: u64) -> bool {
        let has = |name: &str| fs::lgetxattr(path, name, &mut [0_u8; 0][..]).is_ok();
        self.known.sizes.contains(&len) || fvm::MARK_NAMES.into_iter().any(has)
    }

    /// Waits for something new; `true`: everything must be looked at again.
    fn wait(&mut self) -> bool {
        let due = if self.moved { PAUSE } else { ROUND };
        let left = if self.new.is_empty() { due.saturating_sub(self.turned.elapsed()) } else { Duration::ZERO };
        let timeout =
            rustix::time::Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return self.turned.elapsed() >= due,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => std::thread::sleep(GATHER),
        }
        std::thread::sleep(GATHER);
        let mut anew = self.turned.elapsed() >= due;
        let mut new: Vec<(i32, OsString, bool)> = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
            let flags = event.events();
            self.lost |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
            anew |= flags.contains(ReadFlags::QUEUE_OVERFLOW) || flags.contains(ReadFlags::IGNORED);
            if flags.contains(ReadFlags::IGNORED) {
                self.dirs.remove(&event.wd());
            }
            new.extend(name.map(|name| (event.wd(), name, flags.contains(ReadFlags::ISDIR))));
        }
        for (number, name, is_dir) in new {
            let Some(dir) = self.dirs.get(&number).cloned() else { continue };
            let path = dir.join(&name);
            if is_dir {
                if self.given.iter().any(|given| path.starts_with(given)) {
                    self.tree(&path);
                }
                self.moved = true;
            } else if self.books.iter().any(|book| book.path() == path)
                || is_request(&path) && dir == self.books[0].dir()
            {
                anew = true;
            } else {
                self.came(path);
            }
        }
        anew
    }

    /// Something came to be at `path`.
    fn came(&mut self, path: PathBuf) {
        if self.new.len() < NEW_MAX {
            self.new.push_back(path);
        } else {
            self.lost = true;
        }
    }

    /// Looks at everything in the directories when something was lost, and not all the time.
    fn rescan(&mut self) {
        let wanted = self.lost && self.new.is_empty() && self.scanned.is_none_or(|then| then.elapsed() >= ROUND);
        if !wanted {
            return;
        }
        (self.lost, self.scanned) = (false, Some(Instant::now()));
        let dirs: HashSet<PathBuf> = self.dirs.values().cloned().collect();
        let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
        for entry in entries.take(NEW_MAX) {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                self.came(entry.path());
            }
        }
    }
}

fn is_request(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(fvm::MARKS_REQUEST.as_bytes()))
}
