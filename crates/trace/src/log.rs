//! Reading the log of one VM, while it is written or afterwards.
//!
//! ```text
//!   Log::open(dir) ─ read ─► event, event, lost(n), event ...   and how whole it was
//!                  └ more ─► what was added since               (fvm trace --follow)
//! ```
//!
//! Invariants: one segment is in memory at a time; every gap in the numbers comes out as one `lost` event, the loss that the
//! writer tells of and that which a removed or torn segment made.

use crate::codec::{Decoder, HEADER, Taken};
use crate::store::{own_event, read_segment, segments};
use fvm_model::event::{Args, Event, Kind, Trust};
use rustix::fd::OwnedFd;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is none.
    #[error("there is no behaviour log: the VM has not run, or its log is off")]
    None,
    /// The kernel's word.
    #[error("cannot read the behaviour log in {}", path.display())]
    Read {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
}

/// How much of what happened a log tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Integrity {
    /// Events that are missing.
    pub lost: u64,
    /// A run before the last was cut off.
    pub cut: bool,
    /// The last run has no end: it still runs, or was cut off.
    pub is_open: bool,
    /// What some run could not see.
    pub blind: Vec<String>,
    /// Runs in it.
    pub runs: u64,
    /// Of some run changes of files were not written down, for its level has none. One that saw nothing at all is [`Self::blind`].
    pub without_files: bool,
}

impl Integrity {
    /// Whether all that the level names was seen, of a VM that runs or not.
    #[must_use]
    pub fn is_whole(&self, runs: bool) -> bool {
        self.lost == 0 && !self.cut && self.blind.is_empty() && self.runs > 0 && (runs || !self.is_open)
    }
}

/// A log, open for reading.
#[derive(Debug)]
pub struct Log {
    dir: OwnedFd,
    path: PathBuf,
    vm: String,
    at: Option<At>,
    /// The number that comes next.
    next: u64,
    whole: Integrity,
}

/// How far it was read.
#[derive(Debug)]
struct At {
    segment: u32,
    offset: u64,
    decoder: Decoder,
}

impl Log {
    /// Opens the log in the directory `path`. `vm`: whose it is.
    ///
    /// # Errors
    /// [`LogError::None`] when there is none; when it cannot be opened.
    pub fn open(path: &Path, vm: &str) -> Result<Self, LogError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::open(path, flags, Mode::empty()) {
            Ok(dir) => Ok(Self {
                dir,
                path: path.to_owned(),
                vm: vm.to_owned(),
                at: None,
                next: 1,
                whole: Integrity::default(),
            }),
            Err(Errno::NOENT) => Err(LogError::None),
            Err(source) => Err(LogError::Read { path: path.to_owned(), source }),
        }
    }

    /// Hands over all that was not read yet, and says how whole all of it was.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn read(&mut self, each: &mut dyn FnMut(Event)) -> Result<Integrity, LogError> {
        while self.more(each).map_err(|source| LogError::Read { path: self.path.clone(), source })? {}
        Ok(self.whole.clone())
    }

    /// Reads on in the present segment, or in the next one; whether there may be more.
    fn more(&mut self, each: &mut dyn FnMut(Event)) -> Result<bool, Errno> {
        let there = segments(&self.dir)?;
        let mut at = match self.at.take() {
            Some(at) => at,
            None => match there.first() {
                Some(first) => At { segment: *first, offset: 0, decoder: Decoder::default() },
                None => return Ok(false),
            },
        };
        let later = there.into_iter().find(|number| *number > at.segment);
        let bytes = match read_segment(&self.dir, at.segment, at.offset) {
            Ok(bytes) => bytes,
            // It was the oldest, and room was needed.
            Err(Errno::NOENT) => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut rest = bytes.as_slice();
        if at.offset == 0 {
            match rest.strip_prefix(&HEADER) {
                Some(records) => rest = records,
                // Of another version, or just begun.
                None => rest = &[],
            }
        }
        let before = rest.len();
        while let Taken::Record(len, event) = at.decoder.take(rest, &self.vm) {
            rest = &rest[len..];
            if let Some(event) = event {
                self.count(*event, each);
            }
        }
        let read = bytes.len() - rest.len();
        let moved = before != rest.len();
        if moved {
            at.offset += read as u64;
        }
        // Only when it was read to its end is a later one looked at: it may have grown meanwhile.
        self.at = Some(match later {
            Some(segment) if !moved => At { segment, offset: 0, decoder: Decoder::default() },
            _ => at,
        });
        Ok(moved || later.is_some())
    }

    fn count(&mut self, event: Event, each: &mut dyn FnMut(Event)) {
        if event.seq < self.next {
            // Never written so; a copy of what was read already adds nothing.
            return;
        }
        let missing = event.seq - self.next;
        self.next = event.seq.saturating_add(1);
        let told = if event.kind == Kind::Lost { event.args.count.unwrap_or(0) } else { 0 };
        if missing > 0 {
            self.whole.lost += missing;
            let args = Args { count: Some(missing), ..Args::default() };
            let lost = own_event(&self.vm, event.ts, event.seq - 1, Kind::Lost, args);
            if told != missing {
                each(Event { trust: Trust::Derived, ..lost });
            }
        }
        match event.kind {
            Kind::Start => {
                self.whole.cut |= self.whole.is_open;
                self.whole.is_open = true;
                self.whole.runs += 1;
                self.whole.without_files |= event.sees_all_but_files();
                if let Some(name) = &event.args.name {
                    let name = name.0.to_string_lossy().into_owned();
                    if !self.whole.blind.contains(&name) {
                        self.whole.blind.push(name);
                    }
                }
            }
            Kind::End => self.whole.is_open = false,
            _ => {}
        }
        each(event);
    }
}
