//! Makes everything that a plan brings, in slots that only the commit knows.
//!
//! ```text
//!   op                          lies, until it is placed
//!   new file /srv/f             slot "3"                      or in the VM's upper, to be moved from there
//!   new directory /srv/d        slot "4"                      the same
//!   new file /srv/d/x           "4/x": it comes with its directory
//!   renamed entry               slot "5", from the first phase on
//!     with new content          slot "5" for the new, "5-old" for the old one
//! ```
//!
//! Invariants: nothing that anybody uses is changed; what is staged is on the disk before this returns; a tree is moved
//! out of the upper only if it holds exactly what the plan says and nobody can still write to it.

use crate::copy;
use crate::disk::Disk;
use crate::marks::{self, Marks};
use crate::places::{Loc, Places, Root, Visitor};
use crate::spread::{one_after_another, spread};
use crate::{CommitError, Moving, Options, Watch, check};
use fvm_model::path::Bytes;
use fvm_model::plan::{Action, Content, Plan, PlanOp};
use fvm_model::{FileType, VmPath};
use fvm_sys::dir::Dir;
use rustix::fs::{self, FileType as Raw};
use rustix::io::Errno;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the entries of an op wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// It needs none.
    None,
    /// Its own.
    Own(Loc),
    /// In that of the new directory above it, an op of this index.
    Inside(usize, Loc),
    /// Where the VM made it.
    Upper(Loc),
}

/// The slots of a plan.
#[derive(Debug)]
pub struct Slots {
    /// For each op.
    pub of: Vec<Slot>,
    /// For a renamed entry with new content: where the old one goes.
    pub old: HashMap<usize, Loc>,
    /// Entries that come with attributes of overlayfs's, relative to the op that moves them.
    pub strips: Vec<(usize, PathBuf)>,
    by_n: HashMap<u32, usize>,
}

impl Slots {
    /// Decides where everything will wait. Looks, and writes nothing.
    pub fn assign(plan: &Plan, places: &Places, token: &str, options: &Options) -> Result<Self, Errno> {
        let mut slots = Self {
            of: Vec::with_capacity(plan.ops.len()),
            old: HashMap::new(),
            strips: Vec::new(),
            by_n: plan.ops.iter().enumerate().map(|(i, op)| (op.n, i)).collect(),
        };
        let by_path: HashMap<&VmPath, usize> = plan.ops.iter().enumerate().map(|(i, op)| (&op.path, i)).collect();
        let trees = trees(plan);
        let alone = Tree::default();
        // New directories; what comes below one comes with it.
        let mut new_dirs: HashMap<&VmPath, usize> = HashMap::new();
        for (i, op) in plan.ops.iter().enumerate() {
            let above = op.path.parent().and_then(|dir| new_dirs.get(&dir).copied());
            let is_new_dir = op.content() == Some(&Content::Directory);
            let slot = match (&op.action, above) {
                (Action::SetMeta, _) => Slot::None,
                (Action::Create { .. }, Some(dir)) => {
                    let (top, waits) = match &slots.of[dir] {
                        Slot::Inside(top, loc) => (*top, loc.clone()),
                        Slot::Own(loc) | Slot::Upper(loc) => (dir, loc.clone()),
                        Slot::None => return Err(Errno::INVAL),
                    };
                    Slot::Inside(top, waits.join(Path::new(op.path.name())))
                }
                (Action::Create { content: Content::Layer | Content::Directory }, None)
                    if !options.staying.contains(&op.path) =>
                {
                    let tree = trees.get(&i).unwrap_or(&alone);
                    // What cannot be looked at is copied, which says why it cannot be.
                    match movable(op, tree, options, plan, places, &by_path).unwrap_or(None) {
                        Some(strips) => {
                            slots.strips.extend(strips.into_iter().map(|rel| (i, rel)));
                            Slot::Upper(places.in_upper(op.layer, &op.path)?)
                        }
                        None => Slot::Own(own(op, places, token, "")?),
                    }
                }
                _ => Slot::Own(own(op, places, token, "")?),
            };
            if is_new_dir {
                new_dirs.insert(&op.path, i);
            }
            if matches!(op.action, Action::Rename { content: Some(_), .. }) {
                slots.old.insert(i, own(op, places, token, "-old")?);
            }
            slots.of.push(slot);
        }
        Ok(slots)
    }

    /// Slots that do not lie in the area.
    pub fn beside(&self) -> Vec<Loc> {
        let own = self.of.iter().filter_map(|s| if let Slot::Own(loc) = s { Some(loc) } else { None });
        own.chain(self.old.values()).filter(|loc| loc.root != Root::Area).cloned().collect()
    }

    /// The index of the op with number `n`.
    fn index(&self, n: u32) -> Result<usize, Errno> {
        self.by_n.get(&n).copied().ok_or(Errno::INVAL)
    }

    /// Where the op's entry waits.
    pub fn loc(&self, i: usize) -> Result<&Loc, Errno> {
        match &self.of[i] {
            Slot::Own(loc) | Slot::Inside(_, loc) | Slot::Upper(loc) => Ok(loc),
            Slot::None => Err(Errno::INVAL),
        }
    }

    /// Whether the op comes with a tree that is moved.
    pub fn is_moved(&self, i: usize) -> bool {
        match &self.of[i] {
            Slot::Upper(_) => true,
            Slot::Inside(top, _) => matches!(self.of[*top], Slot::Upper(_)),
            _ => false,
        }
    }
}

fn own(op: &PlanOp, places: &Places, token: &str, suffix: &str) -> Result<Loc, Errno> {
    if places.get(op.layer)?.near_area {
        return Ok(Loc::area(format!("{}{suffix}", op.n)));
    }
    let dir = places.on_host(op.layer, &op.stage_dir)?;
    Ok(dir.join(Path::new(&format!(".fvm-{token}-{}{suffix}", op.n))))
}

/// For each new directory that is in no other one: what comes with it.
fn trees(plan: &Plan) -> HashMap<usize, Tree> {
    let mut tops: HashMap<&VmPath, usize> = HashMap::new();
    let mut trees: HashMap<usize, Tree> = HashMap::new();
    for (i, op) in plan.ops.iter().enumerate() {
        let above = op.path.parent().and_then(|dir| tops.get(&dir).copied());
        let is_dir = op.content() == Some(&Content::Directory);
        let top = above.unwrap_or(i);
        if is_dir {
            tops.insert(&op.path, top);
        }
        if above.is_some() || is_dir {
            let tree = trees.entry(top).or_default();
            tree.count += 1;
            tree.dirs.extend(is_dir.then_some(i));
        }
    }
    trees
}

/// Ops that come with one.
#[derive(Debug, Default)]
struct Tree {
    /// How many, itself included.
    count: usize,
    /// Those of them that are directories.
    dirs: Vec<usize>,
}

/// Whether the new entry, with `tree`, can leave the upper as it is; then, which entries of it carry overlayfs's
/// attributes.
fn movable(
    top: &PlanOp,
    tree: &Tree,
    options: &Options,
    plan: &Plan,
    places: &Places,
    by_path: &HashMap<&VmPath, usize>,
) -> Result<Option<Vec<PathBuf>>, Errno> {
    /// So many directories at a time that a thread is worth it.
    const PART: usize = 4;
    let moving = options.moving;
    let is_here = moving != Moving::None && places.get(top.layer)?.near_upper;
    if !is_here || top.source != top.path || top.occupant.is_some() && !is_free(top, places)? {
        return Ok(None);
    }
    let at = places.in_upper(top.layer, &top.path)?;
    let (parent, name) = places.at(&at)?;
    let marks = options.marks.as_deref();
    let new = || Movable { top, plan, by_path, moving, marks, strips: Vec::new(), links: HashMap::new(), seen: 0 };
    let mut whole = new();
    if !whole.admits(&parent, &name, PathBuf::new())? {
        return Ok(None);
    }
    let within = |range: std::ops::Range<usize>| -> Result<Movable<'_>, Option<Errno>> {
        let mut part = new();
        for i in &tree.dirs[range] {
            let rel = plan.ops[*i].path.as_path().strip_prefix(top.path.as_path()).map_err(|_| Errno::INVAL)?;
            let dir = places.dir(&at.join(rel))?;
            for name in dir.names()? {
                if !part.admits(&dir, Path::new(&name), rel.join(&name))? {
                    return Err(None);
                }
            }
        }
        Ok(part)
    };
    let parts = match spread(tree.dirs.len(), PART, within, |_| true) {
        Ok(parts) => parts.unwrap_or_default(),
        Err(None) => return Ok(None),
        Err(Some(errno)) => return Err(errno),
    };
    for part in parts {
        whole.seen += part.seen;
        whole.strips.extend(part.strips);
        for (ino, (seen, all)) in part.links {
            whole.links.entry(ino).or_insert((0, all)).0 += seen;
        }
    }
    let all_names = whole.links.values().all(|(seen, all)| seen == all);
    Ok((whole.seen == tree.count.max(1) && all_names).then_some(whole.strips))
}

/// A part of a tree in the upper, on the way to being found movable.
struct Movable<'p> {
    top: &'p PlanOp,
    plan: &'p Plan,
    by_path: &'p HashMap<&'p VmPath, usize>,
    moving: Moving,
    marks: Option<&'p dyn Marks>,
    strips: Vec<PathBuf>,
    /// Names seen, and names that there are, of files that have several.
    links: HashMap<u64, (u32, u32)>,
    seen: usize,
}

impl Movable<'_> {
    /// Whether the entry, `rel` from the top, is just what the plan creates there, and nobody can still write to it.
    fn admits(&mut self, dir: &Dir, name: &Path, rel: PathBuf) -> Result<bool, Errno> {
        let path = if rel.as_os_str().is_empty() {
            self.top.path.clone()
        } else {
            VmPath::new(self.top.path.as_path().join(&rel)).map_err(|_| Errno::INVAL)?
        };
        let Some(child) = self.by_path.get(&path).map(|i| &self.plan.ops[*i]) else { return Ok(false) };
        let is_plain = matches!(
            &child.action,
            Action::Create { content: Content::Layer | Content::Directory | Content::Op { .. } }
        );
        let stat = dir.stat(name)?;
        if !is_plain
            || child.layer != self.top.layer
            || child.source != child.path
            || !check::is_as_scanned(child, &stat)
        {
            return Ok(false);
        }
        self.seen += 1;
        match Raw::from_raw_mode(u32::from(stat.stx_mode)) {
            Raw::Directory => {}
            Raw::RegularFile => {
                if self.moving != Moving::Sealed && !is_unwritten(dir, name) {
                    return Ok(false);
                }
                if stat.stx_nlink > 1 {
                    self.links.entry(stat.stx_ino).or_insert((0, stat.stx_nlink)).0 += 1;
                }
            }
            Raw::Symlink | Raw::Fifo if stat.stx_nlink == 1 => {}
            _ => return Ok(false),
        }
        let attrs = dir.xattr_names(name)?;
        if !marks::is_plain(self.marks, &attrs, &stat) {
            return Ok(false);
        }
        if attrs.iter().any(copy::is_overlay) {
            self.strips.push(rel);
        }
        Ok(true)
    }
}

/// Whether nobody can write the file any more. One that its owner closed is not looked into: copying it says so.
fn is_unwritten(dir: &Dir, name: &Path) -> bool {
    dir.open_file(name).is_ok_and(|file| fvm_sys::lease::has_writer(&file) == Ok(false))
}

fn is_free(op: &PlanOp, places: &Places) -> Result<bool, Errno> {
    let Some(occupant) = &op.occupant else { return Ok(true) };
    Ok(places.look(&places.on_host(op.layer, occupant)?)?.is_none())
}

/// Stages every op that brings content: directories, then what lies in them, then further names of that, and the
/// directories' metadata last, deepest first, for whatever comes into a directory touches it.
pub fn all(
    disk: &dyn Disk,
    plan: &Plan,
    (places, slots, marks): Where<'_>,
    watch: &mut dyn Watch,
    notes: &mut Vec<String>,
) -> Result<(), CommitError> {
    let total = plan.ops.len();
    let (mut dirs, mut files, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for (i, op) in plan.ops.iter().enumerate().filter(|(i, _)| !slots.is_moved(*i)) {
        match op.content() {
            Some(Content::Directory) => dirs.push(i),
            Some(Content::Layer | Content::Given { .. }) => files.push(i),
            Some(Content::Op { .. } | Content::Host { .. }) => links.push(i),
            None => {}
        }
    }
    let stage = |disk: &dyn Disk, these: &[usize]| -> Result<Vec<String>, CommitError> {
        let (mut from, mut to, mut notes) = (places.visitor(), places.visitor(), Vec::new());
        for i in these {
            one(disk, plan, *i, (places, slots, marks), (&mut from, &mut to), &mut notes)?;
        }
        Ok(notes)
    };
    // So many at a time that a thread is worth it.
    const PART: usize = 64;
    let before = total - files.len() - links.len();
    let mut go_on = |done: usize| watch.go_on(before + done, total);
    notes.extend(stage(disk, &dirs)?);
    let staged = match disk.shared() {
        Some(disk) => spread(files.len(), PART, |range| stage(disk, &files[range]), &mut go_on)?,
        None => one_after_another(files.len(), 1, |range| stage(disk, &files[range]), &mut go_on)?,
    };
    notes.extend(staged.ok_or(CommitError::Interrupted)?.concat());
    let linked =
        one_after_another(links.len(), 1, |range| stage(disk, &links[range]), |done| go_on(files.len() + done))?;
    notes.extend(linked.ok_or(CommitError::Interrupted)?.concat());
    for i in dirs.iter().rev() {
        let op = &plan.ops[*i];
        directory(disk, op, places, slots.loc(*i).map_err(|e| failed(op, ("find its stage", e)))?, notes)
            .map_err(|e| failed(op, ("set the metadata of a directory", e)))?;
    }
    if !watch.go_on(total, total) {
        return Err(CommitError::Interrupted);
    }
    let open = |errno| CommitError::Open { path: "the commit's area".into(), errno };
    disk.sync(&places.area).map_err(open)?;
    for (_, place) in places.iter() {
        let open = |errno| CommitError::Open { path: place.host.as_path().into(), errno };
        disk.sync(&place.root).map_err(open)?;
    }
    Ok(())
}

/// Where things lie, and which of them are marked.
type Where<'w> = (&'w Places, &'w Slots, Option<&'w dyn Marks>);

fn failed(op: &PlanOp, (what, errno): (&'static str, Errno)) -> CommitError {
    CommitError::Stage { path: op.path.clone(), what, errno }
}

fn one(
    disk: &dyn Disk,
    plan: &Plan,
    i: usize,
    (places, slots, marks): Where<'_>,
    (from, to): (&mut Visitor<'_>, &mut Visitor<'_>),
    notes: &mut Vec<String>,
) -> Result<(), CommitError> {
    let op = &plan.ops[i];
    let Some(content) = op.content() else { return Ok(()) };
    let fail = |what| move |errno| failed(op, (what, errno));
    let slot = slots.loc(i).map_err(fail("find its stage"))?;
    let to = to.at(slot).map_err(fail("open its stage"))?;
    match content {
        Content::Directory => disk.create_dir(to).map_err(fail("create a directory")),
        Content::Layer => {
            let changed = || CommitError::LayerChanged { path: op.path.clone() };
            let source = places.in_upper(op.layer, &op.source).map_err(fail("find it in the VM"))?;
            let source = from.at(&source).map_err(|_| changed())?;
            if !check::is_as_scanned(op, &source.0.stat(source.1).map_err(|_| changed())?) {
                return Err(changed());
            }
            copy::entry(disk, source, to, notes).map_err(fail("copy it from the VM"))?;
            let base = base(op, places).map_err(fail("find the host's version"))?;
            marks::settle(disk, &op.path, to, (base.as_ref().map(marks::entry), true), marks)
        }
        Content::Given { bytes } => {
            let host = || places.on_host(op.layer, op.base.as_ref().ok_or(Errno::INVAL)?);
            let host = host().and_then(|loc| places.at(&loc)).map_err(fail("find the host's version"))?;
            given(disk, (&host.0, &host.1), to, bytes, notes).map_err(fail("write it"))?;
            marks::settle(disk, &op.path, to, (Some((&host.0, &host.1)), false), marks)
        }
        Content::Op { n } => {
            let first = slots.index(*n).and_then(|i| slots.loc(i)).map_err(fail("link it"))?;
            let (dir, name) = places.at(first).map_err(fail("link it"))?;
            disk.link((&dir, &name), to).map_err(fail("link it"))
        }
        Content::Host { at, .. } => {
            let missing = "find the file that it is a link to";
            let host = places.on_host(op.layer, at).and_then(|loc| places.at(&loc)).map_err(fail(missing))?;
            disk.link((&host.0, &host.1), to).map_err(fail("link it"))
        }
    }
}

/// The host's entry that the op's replaces.
fn base(op: &PlanOp, places: &Places) -> Result<Option<(Dir, PathBuf)>, Errno> {
    let Some(base) = &op.base else { return Ok(None) };
    places.at(&places.on_host(op.layer, base)?).map(Some)
}

/// A file with these bytes and the host's metadata, but for the time.
fn given(
    disk: &dyn Disk,
    from: (&Dir, &Path),
    to: (&Dir, &Path),
    bytes: &Bytes,
    notes: &mut Vec<String>,
) -> Result<(), Errno> {
    let file = disk.create_file(to)?;
    disk.write(&file, bytes.0.as_encoded_bytes())?;
    let which = fvm_model::MetaDelta { times: false, ..copy::WHOLE };
    copy::set(disk, to, &crate::program::Attrs::of(from, which)?, notes)
}

fn directory(disk: &dyn Disk, op: &PlanOp, places: &Places, slot: &Loc, notes: &mut Vec<String>) -> Result<(), Errno> {
    let (from, source) = places.at(&places.in_upper(op.layer, &op.source)?)?;
    let (dir, name) = places.at(slot)?;
    let attrs = crate::program::Attrs::of((&from, &source), copy::WHOLE)?.with_reserved_of(None);
    copy::set(disk, (&dir, &name), &attrs, notes)
}

/// Whether the staged files fit: their blocks, for holes stay holes, but not those that are moved.
pub fn space(plan: &Plan, places: &Places, slots: &Slots) -> Result<(), CommitError> {
    let mut needed: HashMap<u32, u64> = HashMap::new();
    let mut visitor = places.visitor();
    for (i, op) in plan.ops.iter().enumerate() {
        if op.file_type != FileType::File || slots.is_moved(i) || op.content() != Some(&Content::Layer) {
            continue;
        }
        let Ok(loc) = places.in_upper(op.layer, &op.source) else { continue };
        if let Ok(stat) = visitor.at(&loc).and_then(|(dir, name)| dir.stat(name)) {
            *needed.entry(op.layer).or_default() += stat.stx_blocks.saturating_mul(512);
        }
    }
    for (n, place) in places.iter() {
        let needed_bytes = needed.get(n).copied().unwrap_or(0);
        let Ok(free) = fs::fstatvfs(&place.root) else { continue };
        let free_bytes = free.f_bavail.saturating_mul(free.f_frsize);
        if needed_bytes > free_bytes {
            return Err(CommitError::Space { at: place.host.clone(), needed_bytes, free_bytes });
        }
    }
    Ok(())
}
