//! One scan: what takes a look at a whole layer first, then entry after entry in the order of their paths.
//!
//! ```text
//!   prepare   layer ─► find_moves ─► find_renames ─► find_links           (only names, unless something was removed)
//!   stream    layer ─► list ─┐
//!             layer ─► list ─┴─► judge ─► finish ─► what the caller makes of it, on several threads ─► the caller
//!   file      compare with the private copy ──┘
//! ```
//!
//! Invariants: what `stream` gives is sorted by path, one change per path, and the same on any number of threads;
//! memory goes with the largest directory and with what was moved or linked. `scan` keeps all of it, up to a limit.

use crate::compare::{Side, delta, meta, same_content};
use crate::layer::{Found, Kept, Layer, Notes};
use crate::list::{List, Step};
use crate::names::Kind;
use crate::open::{AFTER, read_error, xattr_names_after};
use crate::pipeline::{Source, run};
use crate::walk::{At, Opened};
use crate::{LayerView, ScanError, ScanInput, filter};
use fvm_model::change::TouchedDir;
use fvm_model::path::printable;
use fvm_model::{Change, ChangeKind, ChangeSet, LayerKind, VmPath};
use fvm_sys::dir::Dir;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Everything that the layers hold against the host.
///
/// Unchanged copies are no change. The result is sorted by path and has one change per path; what could not be read is
/// in its warnings.
///
/// # Errors
/// When a layer's own directory cannot be opened, or holds more than can be listed.
pub fn scan(input: &ScanInput) -> Result<ChangeSet, ScanError> {
    let (mut set, mut kept) = (ChangeSet::default(), Kept::default());
    let mut failed = None;
    let rest = prepare(input)?.stream(
        |seen, _| Some(seen.change),
        |change, _| {
            let bytes = change.path.as_bytes().len() + change.target.as_ref().map_or(0, |target| target.0.len());
            failed = kept.add(bytes).err();
            set.changes.push(change);
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    set.touched = rest.touched;
    set.touched.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    set.warnings = rest.warnings;
    Ok(set)
}

/// [`scan`], keeping only what is at or below one of `only` (see [`filter`]).
///
/// # Errors
/// As [`scan`].
pub fn scan_under(input: &ScanInput, only: &[VmPath]) -> Result<ChangeSet, ScanError> {
    Ok(filter(scan(input)?, only))
}

/// A scan that is ready to tell change after change.
pub struct Scan<'i> {
    layers: Vec<Layer<'i>>,
    reads: bool,
    files: Vec<Change>,
    warnings: Vec<String>,
}

/// A change, and how to read it without looking for it again.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The change.
    pub change: Change,
    /// The directory that holds the VM's version, and its name there, if known.
    pub(crate) after: Option<(&'a Dir, &'a Path)>,
    /// The same, if it is open.
    pub(crate) file: Option<&'a OwnedFd>,
    /// The same of the host's version.
    pub(crate) before: Option<(&'a Dir, &'a Path)>,
}

impl Seen<'_> {
    /// The names of the attributes of the VM's version; none, where there is no version of the VM's in a layer's upper.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn xattr_names(&self, input: &ScanInput) -> Result<Vec<OsString>, ScanError> {
        match self.after {
            _ if self.change.after.is_none() => Ok(Vec::new()),
            Some((dir, name)) => dir.xattr_names(name).map_err(|e| read_error(AFTER, &self.change.path, e)),
            None => xattr_names_after(input, &self.change),
        }
    }
}

/// What remains to be said after all changes.
#[derive(Debug, Default)]
pub struct Rest {
    /// Directories whose time the VM moved; in no order.
    pub touched: Vec<TouchedDir>,
    /// What could not be read or understood, in words.
    pub warnings: Vec<String>,
}

/// Looks at what no entry tells by itself.
///
/// # Errors
/// When a layer's own directory cannot be opened, or more was moved or linked in it than can be kept.
pub fn prepare(input: &ScanInput) -> Result<Scan<'_>, ScanError> {
    let mut scan = Scan { layers: Vec::new(), reads: false, files: Vec::new(), warnings: Vec::new() };
    let mut groups = 0;
    for view in &input.layers {
        match view.layer.kind {
            LayerKind::File => scan.files.extend(scan_file(view, &mut scan.warnings)?),
            LayerKind::Overlay | LayerKind::Skeleton => match Layer::open(input, view)? {
                Ok(mut layer) => {
                    let survey = layer.find_moves();
                    layer.find_renames(survey.removals)?;
                    layer.find_links(survey, &mut groups)?;
                    scan.layers.push(layer);
                }
                Err(why) => scan.warnings.push(why),
            },
        }
    }
    Ok(scan)
}

/// What the changes that one thread looks at together are written on.
#[derive(Debug, Default)]
pub struct Sheet {
    /// Their texts, one after another: a buffer of its own for each would be given from thread to thread.
    pub text: Vec<u8>,
    /// How many bytes are held in all that was made of them, more or less: whoever makes something adds its own.
    pub held_bytes: usize,
}

/// What is made of one unit of entries.
struct Made<T> {
    out: Vec<Out<T>>,
    sheet: Sheet,
}

impl<T> Default for Made<T> {
    fn default() -> Self {
        Self { out: Vec::new(), sheet: Sheet::default() }
    }
}

enum Out<T> {
    /// With its path and layer, where several layers may hold it.
    Change(Option<(VmPath, u32)>, T),
    Warning(usize, String),
    Touched(TouchedDir),
    Failed(ScanError),
}

impl Scan<'_> {
    /// What is found will be read: files are opened once, before anything is asked of them.
    #[must_use]
    pub fn reading(self) -> Self {
        Self { reads: true, ..self }
    }

    /// Shows `look` every change, on several threads at once and in no order, and gives what it makes of them to `each`
    /// in the order of their paths, until that breaks. `each` is shown the sheet's text too, on which `look` wrote.
    ///
    /// # Errors
    /// When a directory holds more than can be listed; `each` had what comes before.
    pub fn stream<T: Send>(
        mut self,
        look: impl Fn(Seen<'_>, &mut Sheet) -> Option<T> + Sync,
        mut each: impl FnMut(T, &[u8]) -> ControlFlow<()>,
    ) -> Result<Rest, ScanError> {
        let mut rest = Rest { warnings: std::mem::take(&mut self.warnings), touched: Vec::new() };
        let mut counts = vec![0; self.layers.len()];
        let mut extra = Vec::new();
        for (layer, count) in self.layers.iter_mut().zip(&mut counts) {
            for warning in std::mem::take(&mut layer.notes.warnings) {
                layer.keep_warning(warning, count, &mut rest.warnings);
            }
            extra.push(VecDeque::from(std::mem::take(&mut layer.links.aliases)));
        }
        let files = std::mem::take(&mut self.files);
        let several = self.layers.len() + files.len() > 1;
        let mut sources: Vec<Source<'_>> = (self.layers.iter().zip(extra).enumerate())
            .map(|(index, (layer, extra))| Source::new(index, Some(List::new(layer, false)), extra))
            .collect();
        let mount_point =
            |change| Found { rel: PathBuf::new(), change, lower: None, upper: None, lost: false, plain: false };
        let file = |change| Source::new(usize::MAX, None, VecDeque::from([mount_point(change)]));
        sources.extend(files.into_iter().map(file));
        let (layers, mut last) = (&self.layers, None::<(VmPath, u32)>);
        let how = How { several, reads: self.reads };
        run(
            sources,
            &|made: &mut Made<T>, index, step| work(layers.get(index), index, step, how, &look, made),
            &mut |Made { out, sheet: Sheet { text, .. } }| {
                for out in out {
                    match out {
                        Out::Change(path, made) => {
                            if let (Some((path, _)), Some((first, layer))) = (&path, &last)
                                && path == first
                            {
                                rest.warnings
                                    .push(format!("{path}: two layers hold this path; layer {layer} was believed"));
                                continue;
                            }
                            last = path;
                            if each(made, &text).is_break() {
                                return Ok(ControlFlow::Break(()));
                            }
                        }
                        Out::Warning(index, warning) => match layers.get(index) {
                            Some(layer) => layer.keep_warning(warning, &mut counts[index], &mut rest.warnings),
                            None => rest.warnings.push(warning),
                        },
                        Out::Touched(touched) => rest.touched.push(touched),
                        Out::Failed(e) => return Err(e),
                    }
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok(rest)
    }
}

#[derive(Clone, Copy)]
struct How {
    /// More than one layer may hold a path.
    several: bool,
    /// [`Scan::reading`].
    reads: bool,
}

fn work<T>(
    layer: Option<&Layer<'_>>,
    index: usize,
    step: Step,
    how: How,
    look: &impl Fn(Seen<'_>, &mut Sheet) -> Option<T>,
    made: &mut Made<T>,
) {
    let (mut notes, mut opened) = (Notes::default(), None);
    let (mut found, entry) = match (step, layer) {
        (Step::Entry { at, name, kind }, Some(layer)) => {
            if how.reads && kind == Kind::File {
                opened = layer.open_file(&at, Path::new(&name));
            }
            let found = judge(layer, &at, Path::new(&name), kind, opened.as_ref(), &mut notes);
            (found, Some((at, name)))
        }
        (Step::Entry { .. }, None) => (None, None),
        (Step::Found(found), _) => (Some(*found), None),
        (Step::Warning(warning), _) => {
            notes.warnings.push(warning);
            (None, None)
        }
        (Step::Touched(touched), _) => {
            notes.touched.push(touched);
            (None, None)
        }
        (Step::Failed(e), _) => return made.out.push(Out::Failed(e)),
    };
    let is_left = match (&mut found, layer) {
        (Some(found), Some(layer)) => layer.finish(found, &mut notes),
        (found, _) => found.is_some(),
    };
    made.out.extend(notes.warnings.into_iter().map(|warning| Out::Warning(index, warning)));
    made.out.extend(notes.touched.into_iter().map(Out::Touched));
    let Some(found) = found.filter(|_| is_left) else { return };
    let place = entry.as_ref().filter(|_| found.plain);
    let after = place.map(|(at, name)| (&at.upper, Path::new(name)));
    let before = place.and_then(|(at, name)| at.lower_dir.as_ref().map(|dir| (dir, Path::new(name))));
    let path = how.several.then(|| (found.change.path.clone(), found.change.layer));
    let file = after.and(opened.as_ref()).map(|(file, _)| file);
    let seen = Seen { change: found.change, after, file, before };
    if let Some(one) = look(seen, &mut made.sheet) {
        made.out.push(Out::Change(path, one));
    }
}

fn judge(
    layer: &Layer<'_>,
    at: &At,
    name: &Path,
    kind: Kind,
    opened: Option<&Opened>,
    notes: &mut Notes,
) -> Option<Found> {
    if kind == Kind::Missing {
        return layer.missing(at, name, notes);
    }
    match layer.judge(at, name, opened, notes) {
        Ok((found, below)) => {
            if below.is_some() {
                let what = "it became a directory while it was read; nothing below it is listed";
                layer.warn(notes, &at.rel.join(name), what);
            }
            found
        }
        Err(e) => {
            layer.warn(notes, &at.rel.join(name), format_args!("cannot be read ({e}); not listed"));
            None
        }
    }
}

/// A file that is a mount point: its private copy against the host's.
fn scan_file(view: &LayerView, warnings: &mut Vec<String>) -> Result<Option<Change>, ScanError> {
    let host = &view.layer.host;
    let fail = |source: Errno| ScanError::Layer {
        layer: view.layer.n,
        path: printable(view.dir.as_os_str().as_bytes()),
        source,
    };
    let ours_dir = Dir::open_root(&view.dir).map_err(fail)?;
    let ours_stat = ours_dir.stat(Path::new("file")).map_err(fail)?;
    let theirs = host.parent().and_then(|p| Dir::open_root(p.as_path()).ok());
    let theirs = theirs.and_then(|dir| dir.stat(Path::new(host.name())).ok().map(|stat| (dir, stat)));
    let Some((their_dir, their_stat)) = theirs else {
        warnings.push(format!("'{host}' is gone on the host: layer {} was not read", view.layer.n));
        return Ok(None);
    };
    let ours = Side { dir: &ours_dir, name: Path::new("file"), stat: &ours_stat };
    let their = Side { dir: &their_dir, name: Path::new(host.name()), stat: &their_stat };
    let (ours_meta, their_meta) = (meta(&ours_stat), meta(&their_stat));
    let compared = if ours_meta.file_type == their_meta.file_type {
        same_content(ours, their).and_then(|same| Ok((same, delta(ours, their)?)))
    } else {
        Ok((false, fvm_model::MetaDelta::default()))
    };
    let kind = match compared {
        // A copy's mtime and owner say nothing by themselves.
        Ok((true, meta)) if !meta.mode => return Ok(None),
        Ok((true, meta)) => ChangeKind::Metadata { meta },
        Ok((false, meta)) => ChangeKind::Modified { meta },
        Err(e) => {
            warnings.push(format!("{host}: cannot be compared ({e})"));
            return Ok(None);
        }
    };
    Ok(Some(Change {
        path: host.in_vm(),
        kind,
        file_type: ours_meta.file_type,
        base: Some(host.clone()),
        layer: view.layer.n,
        before: Some(their_meta),
        after: Some(ours_meta),
        target: None,
        link_group: None,
        link_host: None,
        source: None,
        uncommittable: Some("it is a mount point on the host".to_owned()),
        conflict: None,
        origin: None,
    }))
}
