//! The entries of one layer in the order of their paths, one directory after another.
//!
//! ```text
//!   stack   ""  names: d f     ─► d (judged here: what is below depends on it)
//!           d   names: x y     ─► x, y  ─► back to "" ─► f
//! ```
//!
//! Invariants: what is kept is the names of the directories on the way down, and an open descriptor on each side for the
//! upper few of them; paths may be longer than the kernel takes; nothing found in an upper ends it but sheer number.

use crate::ScanError;
use crate::compare::file_type;
use crate::layer::{Found, Layer, Notes};
use crate::lower::DIR_MAX_ENTRIES;
use crate::names::{Kind, Names};
use crate::walk::{At, PATH_MAX_BYTES, Pending};
use fvm_model::{FileType, VmPath};
use rustix::fs::FileType as Raw;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many directories on the way down stay open; deeper ones are opened again.
const OPEN_MAX: usize = 48;

/// What comes next.
pub(crate) enum Step {
    /// Anything but a directory, still to be judged.
    Entry { at: Arc<At>, name: OsString, kind: Kind },
    /// Judged.
    Found(Box<Found>),
    /// Something that could not be read, in words.
    Warning(String),
    /// What only a commit asks for.
    Touched(fvm_model::change::TouchedDir),
    /// The end.
    Failed(ScanError),
}

impl Step {
    /// Its path in the VM; `None` for what has no place.
    pub(crate) fn path(&self) -> Option<VmPath> {
        match self {
            Self::Entry { at, name, .. } => Some(at.vm.join(name)),
            Self::Found(found) => Some(found.change.path.clone()),
            Self::Warning(_) | Self::Touched(_) | Self::Failed(_) => None,
        }
    }
}

struct Frame {
    pending: Pending,
    at: Option<Arc<At>>,
    names: Names,
    next: usize,
    /// Directories that were judged, with their content still to come.
    below: Vec<(OsString, Pending)>,
}

/// The walk.
pub(crate) struct List<'l> {
    layer: &'l Layer<'l>,
    /// Only where the host's directory could have something that is gone, or of another type.
    merged_only: bool,
    stack: Vec<Frame>,
    ready: VecDeque<Step>,
}

impl<'l> List<'l> {
    /// All entries; with `merged_only` only those of directories that the host has as well.
    pub(crate) fn new(layer: &'l Layer<'l>, merged_only: bool) -> Self {
        let mut list = Self { layer, merged_only, stack: Vec::new(), ready: VecDeque::new() };
        list.enter(Pending { rel: PathBuf::new(), lower: Some(PathBuf::new()), opaque: false });
        list
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Some(step);
            }
            let depth = self.stack.len();
            let frame = self.stack.last_mut()?;
            let Some((name, kind)) = frame.names.get(frame.next) else {
                self.stack.pop();
                continue;
            };
            frame.next += 1;
            if kind == Kind::Below {
                let pending = frame.below.iter().position(|(below, _)| below == name);
                if let Some(index) = pending {
                    let (_, pending) = frame.below.swap_remove(index);
                    if depth > OPEN_MAX {
                        frame.at = None;
                    }
                    self.enter(pending);
                }
                continue;
            }
            let name = name.to_owned();
            let at = match &frame.at {
                Some(at) => Arc::clone(at),
                None => match self.layer.open_at(&frame.pending) {
                    Ok(at) => {
                        let at = Arc::new(at);
                        frame.at = Some(Arc::clone(&at));
                        at
                    }
                    Err(why) => {
                        let rel = frame.pending.rel.clone();
                        self.stack.pop();
                        self.warn(&rel, why);
                        continue;
                    }
                },
            };
            if kind != Kind::Directory {
                return Some(Step::Entry { at, name, kind });
            }
            self.directory(&at, name);
        }
    }

    fn warn(&mut self, rel: &Path, why: impl std::fmt::Display) {
        let mut notes = Notes::default();
        self.layer.warn(&mut notes, rel, why);
        self.ready.extend(notes.warnings.into_iter().map(Step::Warning));
    }

    /// Judges a directory, and notes what is to be read of it later.
    fn directory(&mut self, at: &At, name: OsString) {
        let mut notes = Notes::default();
        let judged = self.layer.judge(at, Path::new(&name), None, &mut notes);
        let (found, pending) = judged.unwrap_or_else(|e| {
            self.layer.warn(&mut notes, &at.rel.join(&name), format_args!("cannot be read ({e}); not listed"));
            (None, None)
        });
        self.ready.extend(notes.warnings.into_iter().map(Step::Warning));
        self.ready.extend(notes.touched.into_iter().map(Step::Touched));
        self.ready.extend(found.map(|found| Step::Found(Box::new(found))));
        if let (Some(pending), Some(frame)) = (pending, self.stack.last_mut()) {
            frame.below.push((name, pending));
        }
    }

    /// Lists a directory.
    fn enter(&mut self, pending: Pending) {
        if self.merged_only && pending.lower.is_none() && !self.layer.above_moved.contains(&pending.rel) {
            return;
        }
        if pending.rel.as_os_str().len() > PATH_MAX_BYTES {
            self.warn(Path::new(""), format_args!("a path longer than {PATH_MAX_BYTES} bytes was not followed"));
            return;
        }
        let at = match self.layer.open_at(&pending) {
            Ok(at) => Arc::new(at),
            Err(why) => return self.warn(&pending.rel, why),
        };
        let names = match self.names(&at) {
            Ok(names) => names,
            Err(Errno::TOOBIG) => {
                self.ready.push_back(Step::Failed(ScanError::TooMany { limit: DIR_MAX_ENTRIES }));
                self.stack.clear();
                return;
            }
            Err(e) => return self.warn(&pending.rel, format_args!("the VM's directory cannot be listed ({e})")),
        };
        self.stack.push(Frame { pending, at: Some(at), names, next: 0, below: Vec::new() });
    }

    fn names(&mut self, at: &At) -> Result<Names, Errno> {
        let mut names = Names::default();
        let only_dirs = self.merged_only && at.lower_dir.is_none();
        read_names(&mut names, |put| {
            at.upper.each_entry(|name, raw, _| {
                let is_dir =
                    || at.upper.stat(Path::new(name)).is_ok_and(|stat| file_type(&stat) == FileType::Directory);
                let kind = match raw {
                    Raw::Directory => Kind::Directory,
                    Raw::Unknown if is_dir() => Kind::Directory,
                    Raw::RegularFile => Kind::File,
                    _ => Kind::Entry,
                };
                if only_dirs && kind != Kind::Directory {
                    return ControlFlow::Continue(());
                }
                put(name, kind)
            })
        })?;
        names.sort();
        if let (true, Some(lower)) = (at.opaque, &at.lower_dir) {
            let mut missing = Names::default();
            let listed = read_names(&mut missing, |put| {
                lower.each_entry(|name, _, _| {
                    if names.contains(name) { ControlFlow::Continue(()) } else { put(name, Kind::Missing) }
                })
            });
            match listed {
                Ok(()) => {
                    for (name, kind) in (0..).map_while(|index| missing.get(index)) {
                        names.push(name, kind)?;
                    }
                    names.sort();
                }
                Err(e) => self.warn(&at.rel, format_args!("the host's directory cannot be listed ({e})")),
            }
        }
        Ok(names)
    }
}

/// Adds the names that `list` puts, as many as a directory may have.
fn read_names(
    names: &mut Names,
    list: impl FnOnce(&mut dyn FnMut(&OsStr, Kind) -> ControlFlow<()>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let (mut count, mut failed) = (0, Ok(()));
    list(&mut |name, kind| {
        count += 1;
        let put = if count > DIR_MAX_ENTRIES { Err(Errno::TOOBIG) } else { names.push(name, kind) };
        if put.is_err() {
            failed = put;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    failed
}

/// Which of two paths comes first.
pub(crate) fn before(a: &VmPath, b: &VmPath) -> std::cmp::Ordering {
    a.as_path().as_os_str().as_bytes().cmp(b.as_path().as_os_str().as_bytes())
}
