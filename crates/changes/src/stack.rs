//! Several uppers made one: what a VM that stands on the layers of another holds against the host.
//!
//! ```text
//!   upper 0   own          a/x (file)   d  redirect=/b
//!   upper 1   shared       a/   y       b/  redirect=/c   z       ─► upper   a/ x y      d/ redirect=/c  z
//!   host                   a/           c/
//! ```
//!
//! What overlayfs does when it looks a name up through several layers (Documentation/filesystems/overlayfs.rst, "Multiple
//! lower layers", "redirect_dir"), done once for every name: the first layer that has it decides; directories are merged
//! until one is opaque, or something else stands in the way; a redirect says where the layers below have it.
//!
//! Invariants: the sources are hostile: reached by directory descriptor, no link followed; they are never written; the
//! result is complete or an error; memory goes with the number of directories, not with what they hold.

use crate::compare::is_whiteout;
use crate::lower::DIR_MAX_ENTRIES;
use crate::overlay::{Marks, Origin, Redirect};
use crate::walk::PATH_MAX_BYTES;
use fvm_model::path::printable;
use fvm_model::vm::XattrClass;
use fvm_sys::dir::Dir;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Statx, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How a file gets its second place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// As a hard link: for reading only, on one file system.
    Link,
    /// As a copy of its own, which shares blocks where the file system can.
    Copy,
}

/// What could not be done, to what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} '{path}' of the VM's layers: {source}")]
pub struct StackError {
    what: &'static str,
    path: String,
    source: Errno,
}

fn failed<'p>(what: &'static str, path: &'p Path) -> impl Fn(Errno) -> StackError + 'p {
    move |source| StackError { what, path: printable(path.as_os_str().as_bytes()), source }
}

/// Makes `to`, which is not there yet, one layer of `stack`, the topmost first; each holds `upper/`, and one that stands alone may
/// hold `work/index/`. The parent of `to` is there.
///
/// # Errors
/// When something cannot be read or made; what was made then is the caller's to remove.
pub fn flatten(stack: &[PathBuf], class: XattrClass, to: &Path, means: Means) -> Result<(), StackError> {
    let open = |path: &PathBuf| Dir::open_root(&path.join("upper")).map_err(failed("open", path));
    let layers = stack.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    for path in [to, &to.join("upper"), &to.join("work")] {
        fs::mkdir(path, Mode::RWXU).map_err(failed("create", path))?;
    }
    let out = Dir::open_root(&to.join("upper")).map_err(failed("open", to))?;
    let index = match stack {
        [one] => match Dir::open_root(&one.join("work/index")) {
            Err(Errno::NOENT) => None,
            index => Some(index.map_err(failed("open the index of", one))?),
        },
        _ => None,
    };
    Flattening { layers, class, out, means, names: HashMap::new() }
        .run(index.map(|index| (index, to.join("work/index"))))
}

/// The part that one layer has of a merged directory.
#[derive(Debug, Clone)]
struct Part {
    layer: usize,
    rel: PathBuf,
}

/// A merged directory.
#[derive(Debug, Clone)]
struct Merged {
    /// Its place in the result.
    rel: PathBuf,
    /// Top first; never empty.
    parts: Vec<Part>,
    /// Nothing of the host's shows through.
    opaque: bool,
    /// Where the host has it, if elsewhere.
    redirect: Option<Redirect>,
}

/// Longer paths are not copied: each directory's is held in memory.
const COPIED_PATH_MAX_BYTES: usize = 256 << 10;

struct Flattening {
    layers: Vec<Dir>,
    class: XattrClass,
    out: Dir,
    means: Means,
    /// The first place of each file that has several, by layer and inode.
    names: HashMap<(usize, u64), PathBuf>,
}

impl Flattening {
    fn run(mut self, index: Option<(Dir, PathBuf)>) -> Result<(), StackError> {
        let parts = (0..self.layers.len()).map(|layer| Part { layer, rel: PathBuf::new() }).collect();
        let top = Merged { rel: PathBuf::new(), parts, opaque: false, redirect: None };
        let (mut pending, mut done) = (vec![top], Vec::new());
        while let Some(at) = pending.pop() {
            let below = self.directory(&at)?;
            pending.extend(below);
            done.push(at);
        }
        if let Some((index, to)) = index {
            self.hand_on(&index, &to).map_err(failed("make", &to))?;
        }
        // Deepest first: what is made in a directory moves its time, and its mode may forbid it.
        for merged in done.iter().rev() {
            self.dress_directory(merged).map_err(failed("finish", &merged.rel))?;
        }
        Ok(())
    }

    fn open(&self, part: &Part) -> Result<Dir, Errno> {
        self.layers[part.layer].beneath_deep(&part.rel)
    }

    /// Makes what a merged directory holds, except what the directories in it hold, which are returned.
    fn directory(&mut self, at: &Merged) -> Result<Vec<Merged>, StackError> {
        let fail = |what| failed(what, &at.rel);
        let target = self.out.beneath_deep(&at.rel).map_err(fail("reach"))?;
        let mut first: BTreeMap<OsString, usize> = BTreeMap::new();
        let mut dirs = Vec::with_capacity(at.parts.len());
        for (index, part) in at.parts.iter().enumerate() {
            let dir = self.open(part).map_err(fail("reach"))?;
            for (name, _) in dir.entries(DIR_MAX_ENTRIES).map_err(fail("list"))? {
                first.entry(name).or_insert(index);
            }
            dirs.push(dir);
        }
        let mut below = Vec::new();
        for (name, index) in first {
            let (name, rel) = (Path::new(&name), at.rel.join(&name));
            let length = rel.as_os_str().len();
            if length > COPIED_PATH_MAX_BYTES {
                return Err(failed("follow", at.rel.ancestors().last().unwrap_or(&at.rel))(Errno::NAMETOOLONG));
            }
            let stat = dirs[index].stat(name).map_err(failed("read", &rel))?;
            if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                fs::mkdirat(&target, name, Mode::RWXU).map_err(failed("create", &rel))?;
                // Who reads it goes no further either, and says so.
                if self.means == Means::Link && length > PATH_MAX_BYTES {
                    continue;
                }
                below.push(self.merge(at, index, name, rel.clone()).map_err(failed("read", &rel))?);
            } else {
                let layer = at.parts[index].layer;
                self.entry((layer, &dirs[index], name), &stat, &target, &rel).map_err(failed("copy", &rel))?;
            }
        }
        Ok(below)
    }

    /// Collects the parts of the directory `name` in `parent`, of whose parts that at `index` is the first to have it.
    fn merge(&self, parent: &Merged, index: usize, name: &Path, rel: PathBuf) -> Result<Merged, Errno> {
        let own = parent.parts[index].clone();
        let mut parts = vec![Part { rel: own.rel.join(name), ..own }];
        // Where the layers below have it: in the same directory under some name, or somewhere by path.
        let (mut place, mut seen) = (Redirect::Sibling(name.as_os_str().to_owned()), index);
        let (mut opaque, mut moved) = (false, false);
        loop {
            let last = &parts[parts.len() - 1];
            let marks = Marks::read_dir(&self.open(last)?, self.class)?;
            if marks.opaque {
                opaque = true;
                break;
            }
            match marks.redirect {
                Some(Ok(redirect)) => {
                    // A neighbour of where it is known by path.
                    place = match (&place, redirect) {
                        (Redirect::FromRoot(path), Redirect::Sibling(name)) => {
                            Redirect::FromRoot(path.with_file_name(name))
                        }
                        (_, redirect) => redirect,
                    };
                    moved = true;
                }
                // Not the kernel's words: nothing below is believed to belong to it.
                Some(Err(())) => {
                    opaque = true;
                    break;
                }
                None => {}
            }
            let next = match &place {
                Redirect::Sibling(name) => self.sibling(parent, &mut seen, Path::new(name))?,
                Redirect::FromRoot(path) => {
                    let (found, now) = self.by_path(last.layer + 1, path)?;
                    if now != *path {
                        place = Redirect::FromRoot(now);
                    }
                    found
                }
            };
            match next {
                Next::Part(part) => parts.push(part),
                Next::Last(part) => {
                    parts.push(part);
                    opaque = true;
                    break;
                }
                Next::Hidden => {
                    opaque = true;
                    break;
                }
                Next::None => break,
            }
        }
        let redirect = (moved && !opaque && self.comes_from_host(&parts)?).then_some(place);
        let means_something = |redirect: &Redirect| match redirect {
            // Not when it is back at home, nor where the host has no such directory.
            Redirect::Sibling(sibling) => sibling != name.as_os_str() && !parent.opaque,
            Redirect::FromRoot(_) => true,
        };
        Ok(Merged { rel, parts, opaque, redirect: redirect.filter(means_something) })
    }

    /// Whether the lowest part was copied up from the host, not made in a VM.
    fn comes_from_host(&self, parts: &[Part]) -> Result<bool, Errno> {
        let lowest = Marks::read_dir(&self.open(&parts[parts.len() - 1])?, self.class)?;
        Ok(lowest.origin != Origin::Absent || matches!(lowest.redirect, Some(Ok(_))))
    }

    /// The next of the parent's parts below `seen` that has `name`.
    fn sibling(&self, parent: &Merged, seen: &mut usize, name: &Path) -> Result<Next, Errno> {
        for (index, part) in parent.parts.iter().enumerate().skip(*seen + 1) {
            *seen = index;
            match self.open(part)?.stat_opt(name)? {
                None => {}
                Some(stat) if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory => {
                    return Ok(Next::Part(Part { layer: part.layer, rel: part.rel.join(name) }));
                }
                Some(_) => return Ok(Next::Hidden),
            }
        }
        *seen = parent.parts.len();
        Ok(Next::None)
    }

    /// The first layer from `layer` down that has the directory `path`, and the path that the layers below it know it by.
    fn by_path(&self, layer: usize, path: &Path) -> Result<(Next, PathBuf), Errno> {
        let mut path = path.to_path_buf();
        for (layer, top) in self.layers.iter().enumerate().skip(layer) {
            let names: Vec<OsString> = path.iter().map(OsStr::to_owned).collect();
            let (mut rel, mut below) = (PathBuf::new(), PathBuf::new());
            let mut hides = false;
            let mut all = true;
            for (depth, name) in names.iter().enumerate() {
                let dir = top.beneath_deep(&rel)?;
                match dir.stat_opt(Path::new(name))? {
                    None => {
                        below.extend(&names[depth..]);
                        all = false;
                        break;
                    }
                    Some(stat) if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory => {
                        return Ok((Next::Hidden, path));
                    }
                    Some(_) => {}
                }
                rel.push(name);
                if depth + 1 == names.len() {
                    // Its own marks are the caller's to read.
                    below.push(name);
                    break;
                }
                let marks = Marks::read_dir(&top.beneath_deep(&rel)?, self.class)?;
                hides |= marks.opaque;
                match marks.redirect {
                    Some(Ok(Redirect::FromRoot(to))) => below = to,
                    Some(Ok(Redirect::Sibling(to))) => below.push(to),
                    Some(Err(())) => return Ok((Next::Hidden, path)),
                    None => below.push(name),
                }
            }
            if all && !names.is_empty() {
                let part = Part { layer, rel };
                return Ok((if hides { Next::Last(part) } else { Next::Part(part) }, below));
            }
            if hides {
                return Ok((Next::Hidden, path));
            }
            path = below;
        }
        Ok((Next::None, path))
    }

    /// Gives the result an index of what the host has under several names: one more name of each file.
    fn hand_on(&mut self, index: &Dir, to: &Path) -> Result<(), Errno> {
        fs::mkdir(to, Mode::RWXU)?;
        let target = Dir::open_root(to)?;
        let nlink = OsString::from(format!("{}nlink", self.class.prefix()));
        for (name, _) in index.entries(DIR_MAX_ENTRIES)? {
            let name = Path::new(&name);
            let stat = index.stat(name)?;
            if is_whiteout(&stat) || FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                continue;
            }
            match self.names.get(&(0, stat.stx_ino)) {
                Some(first) if self.means == Means::Copy => {
                    let dir = self.out.beneath_deep(first.parent().unwrap_or(Path::new("")))?;
                    fs::linkat(&dir, first.file_name().unwrap_or_default(), &target, name, AtFlags::empty())?;
                }
                _ => self.make((0, index, name), &stat, &target, name)?,
            }
            if self.means == Means::Copy
                && let Some(value) = index.xattr(name, &nlink)?
            {
                target.set_xattr(name, &nlink, &value)?;
            }
        }
        Ok(())
    }

    /// Anything but a directory, `from` a directory of that layer and the name there.
    fn entry(&mut self, from: (usize, &Dir, &Path), stat: &Statx, target: &Dir, rel: &Path) -> Result<(), Errno> {
        let name = Path::new(rel.file_name().ok_or(Errno::INVAL)?);
        if self.means == Means::Copy && stat.stx_nlink > 1 && !is_whiteout(stat) {
            let key = (from.0, stat.stx_ino);
            if let Some(first) = self.names.get(&key) {
                let dir = self.out.beneath_deep(first.parent().unwrap_or(Path::new("")))?;
                return fs::linkat(&dir, first.file_name().unwrap_or_default(), target, name, AtFlags::empty());
            }
            self.names.insert(key, rel.to_path_buf());
        }
        self.make(from, stat, target, name)
    }

    /// The first place of a file, `name` in `target`.
    fn make(&self, from: (usize, &Dir, &Path), stat: &Statx, target: &Dir, name: &Path) -> Result<(), Errno> {
        let (layer, source, from) = from;
        if is_whiteout(stat) {
            return fs::mknodat(target, name, FileType::CharacterDevice, Mode::empty(), 0);
        }
        if self.means == Means::Link {
            return fs::linkat(source, from, target, name, AtFlags::empty());
        }
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => {
                let file = open_readable(source, from, mode)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let copy = fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
                fvm_sys::copy::content(file.as_fd(), copy.as_fd(), stat.stx_size)?;
            }
            FileType::Symlink => fs::symlinkat(source.read_link(from)?, target, name)?,
            kind => {
                let device = fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
                fs::mknodat(target, name, kind, mode, device)?;
            }
        }
        let origin = self.origin();
        let mut attrs = source.xattrs(from)?;
        attrs.retain(|(attr, _)| !self.is_note(attr) || *attr == origin);
        attrs
            .iter_mut()
            .filter(|(attr, _)| *attr == origin && !self.is_lowest(layer))
            .for_each(|(_, value)| value.clear());
        dress(target, name, stat, attrs.iter())
    }

    /// Whether an attribute is overlayfs's own, and not the VM's word, which the kernel has escaped.
    fn is_note(&self, attr: &OsStr) -> bool {
        let (attr, prefix) = (attr.as_bytes(), self.class.prefix().as_bytes());
        attr.strip_prefix(prefix).is_some_and(|rest| !rest.starts_with(b"overlay."))
    }

    fn origin(&self) -> OsString {
        OsString::from(format!("{}origin", self.class.prefix()))
    }

    /// Only what the lowest layer says of where a file comes from is said of the host's files: of others, it is kept that they
    /// come from somewhere.
    fn is_lowest(&self, layer: usize) -> bool {
        layer + 1 == self.layers.len()
    }

    /// A directory is what its topmost part is; where it stands to the host, its lowest part says.
    fn dress_directory(&self, merged: &Merged) -> Result<(), Errno> {
        let (target, no_name) = (self.out.beneath_deep(&merged.rel)?, Path::new(""));
        let top = self.open(&merged.parts[0])?;
        let stat = top.stat(no_name)?;
        let attr = |mark: &str| OsString::from(format!("{}{mark}", self.class.prefix()));
        let mut attrs: Vec<(OsString, Vec<u8>)> =
            top.xattrs(no_name)?.into_iter().filter(|(attr, _)| !self.is_note(attr)).collect();
        // The root of a layer has a note of its own, of which host directory it was first over.
        if merged.opaque {
            attrs.push((attr("opaque"), b"y".to_vec()));
        } else if !merged.rel.as_os_str().is_empty() {
            let lowest = &merged.parts[merged.parts.len() - 1];
            let mut origin = self.open(lowest)?.xattr(no_name, &self.origin())?;
            origin.iter_mut().filter(|_| !self.is_lowest(lowest.layer)).for_each(Vec::clear);
            attrs.extend(origin.map(|origin| (self.origin(), origin)));
            attrs.extend(merged.redirect.as_ref().map(|redirect| (attr("redirect"), redirect.to_bytes())));
        }
        dress(&target, no_name, &stat, attrs.iter())
    }
}

/// What the layers below have of a directory.
enum Next {
    Part(Part),
    /// The same, and whatever is further down is hidden.
    Last(Part),
    /// Something that hides whatever is further down.
    Hidden,
    None,
}

/// Opens a file that its owner, who runs this, may have made unreadable.
fn open_readable(dir: &Dir, name: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
    match dir.open_file(name) {
        Err(Errno::ACCESS) => {
            fs::chmodat(dir, name, mode | Mode::RUSR, AtFlags::empty())?;
            let file = dir.open_file(name);
            fs::chmodat(dir, name, mode, AtFlags::empty())?;
            file
        }
        other => other,
    }
}

/// Gives an entry (empty: the directory itself) owner, attributes, mode and time, in the order in which none takes another
/// away.
fn dress<'a>(
    dir: &Dir,
    name: &Path,
    stat: &Statx,
    attrs: impl Iterator<Item = &'a (OsString, Vec<u8>)>,
) -> Result<(), Errno> {
    let here = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let now = dir.stat(name)?;
    if (now.stx_uid, now.stx_gid) != (stat.stx_uid, stat.stx_gid) {
        let (uid, gid) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
        fs::chownat(dir, here, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for (attr, value) in attrs {
        match dir.set_xattr(name, attr, value) {
            // A label or a capability, which an ordinary user may not set: nor is it worth anything outside the VM.
            Err(Errno::PERM | Errno::OPNOTSUPP) if attr.as_bytes().starts_with(b"security.") => {}
            other => other?,
        }
    }
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Symlink {
        // What was just made here is no link.
        fs::chmodat(dir, here, Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777), AtFlags::empty())?;
    }
    let time = |time: rustix::fs::StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
    let times = Timestamps { last_access: time(stat.stx_atime), last_modification: time(stat.stx_mtime) };
    fs::utimensat(dir, here, &times, AtFlags::SYMLINK_NOFOLLOW)
}
