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
use crate::places::{Loc, Places, Root, Visitor};
use crate::{CommitError, Options, Watch, check};
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
        let below = count_below(plan);
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
                    if options.may_move && !options.staying.contains(&op.path) =>
                {
                    // What cannot be looked at is copied, which says why it cannot be.
                    match movable(op, below.get(&i).copied().unwrap_or(1), plan, places, &by_path).unwrap_or(None) {
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

/// For each new directory that is in no other one: how many ops it stands for, itself included.
fn count_below(plan: &Plan) -> HashMap<usize, usize> {
    let (mut tops, mut counts): (HashMap<&VmPath, usize>, HashMap<usize, usize>) = (HashMap::new(), HashMap::new());
    for (i, op) in plan.ops.iter().enumerate() {
        let above = op.path.parent().and_then(|dir| tops.get(&dir).copied());
        let top = above.unwrap_or(i);
        if op.content() == Some(&Content::Directory) {
            tops.insert(&op.path, top);
        }
        if above.is_some() || op.content() == Some(&Content::Directory) {
            *counts.entry(top).or_default() += 1;
        }
    }
    counts
}

/// Whether the new entry, with the `count` ops that it and what is below it are, can leave the upper as it is; then,
/// which entries of it carry overlayfs's attributes.
fn movable(
    op: &PlanOp,
    count: usize,
    plan: &Plan,
    places: &Places,
    by_path: &HashMap<&VmPath, usize>,
) -> Result<Option<Vec<PathBuf>>, Errno> {
    if !places.get(op.layer)?.near_upper || op.source != op.path || op.occupant.is_some() && !is_free(op, places)? {
        return Ok(None);
    }
    let top = places.in_upper(op.layer, &op.path)?;
    let (parent, name) = places.at(&top)?;
    let mut tree = Movable { op, plan, by_path, strips: Vec::new(), links: HashMap::new(), seen: 0, dirs: Vec::new() };
    if !tree.admits(&parent, &name, PathBuf::new())? {
        return Ok(None);
    }
    while let Some(rel) = tree.dirs.pop() {
        let dir = places.dir(&top.join(&rel))?;
        if fvm_sys::dir::fd_xattrs(&dir)?.iter().any(|(attr, _)| copy::is_overlay(attr)) {
            tree.strips.push(rel.clone());
        }
        for name in dir.names()? {
            let below = rel.join(&name);
            if !tree.admits(&dir, Path::new(&name), below)? {
                return Ok(None);
            }
        }
    }
    let all_names = tree.links.values().all(|(seen, all)| seen == all);
    Ok((tree.seen == count && all_names).then_some(tree.strips))
}

/// A tree in the upper, on the way to being found movable.
struct Movable<'p> {
    op: &'p PlanOp,
    plan: &'p Plan,
    by_path: &'p HashMap<&'p VmPath, usize>,
    strips: Vec<PathBuf>,
    /// Names seen, and names that there are, of files that have several.
    links: HashMap<u64, (u32, u32)>,
    seen: usize,
    /// Directories still to be looked into.
    dirs: Vec<PathBuf>,
}

impl Movable<'_> {
    /// Whether the entry is just what the plan creates there, and nobody can still write to it.
    fn admits(&mut self, dir: &Dir, name: &Path, rel: PathBuf) -> Result<bool, Errno> {
        let path = if rel.as_os_str().is_empty() {
            self.op.path.clone()
        } else {
            VmPath::new(self.op.path.as_path().join(&rel)).map_err(|_| Errno::INVAL)?
        };
        let Some(child) = self.by_path.get(&path).map(|i| &self.plan.ops[*i]) else { return Ok(false) };
        let is_plain = matches!(
            &child.action,
            Action::Create { content: Content::Layer | Content::Directory | Content::Op { .. } }
        );
        let stat = dir.stat(name)?;
        if !is_plain
            || child.layer != self.op.layer
            || child.source != child.path
            || !check::is_as_scanned(child, &stat)
        {
            return Ok(false);
        }
        self.seen += 1;
        let marked = match Raw::from_raw_mode(u32::from(stat.stx_mode)) {
            Raw::Directory => {
                self.dirs.push(rel);
                return Ok(true);
            }
            Raw::RegularFile => {
                // One that its owner closed is not looked into: copying it says so.
                let Ok(file) = dir.open_file(name) else { return Ok(false) };
                // A descriptor may have left the VM: whoever has one could write what was reviewed.
                if fvm_sys::lease::has_writer(&file) != Ok(false) {
                    return Ok(false);
                }
                if stat.stx_nlink > 1 {
                    self.links.entry(stat.stx_ino).or_insert((0, stat.stx_nlink)).0 += 1;
                }
                fvm_sys::dir::fd_xattrs(&file)?
            }
            Raw::Symlink | Raw::Fifo if stat.stx_nlink == 1 => dir.xattrs(name)?,
            _ => return Ok(false),
        };
        if marked.iter().any(|(attr, _)| copy::is_overlay(attr)) {
            self.strips.push(rel);
        }
        Ok(true)
    }
}

fn is_free(op: &PlanOp, places: &Places) -> Result<bool, Errno> {
    let Some(occupant) = &op.occupant else { return Ok(true) };
    Ok(places.look(&places.on_host(op.layer, occupant)?)?.is_none())
}

/// Stages every op that brings content.
pub fn all(
    disk: &dyn Disk,
    plan: &Plan,
    places: &Places,
    slots: &Slots,
    watch: &mut dyn Watch,
    notes: &mut Vec<String>,
) -> Result<(), CommitError> {
    let total = plan.ops.len();
    let (mut from, mut to) = (places.visitor(), places.visitor());
    for i in 0..total {
        if !watch.go_on(i, total) {
            return Err(CommitError::Interrupted);
        }
        one(disk, plan, i, slots, places, (&mut from, &mut to), notes)?;
    }
    // Their metadata last, deepest first: whatever comes into a directory touches it.
    for (i, op) in plan.ops.iter().enumerate().rev().filter(|(_, op)| op.content() == Some(&Content::Directory)) {
        if !slots.is_moved(i) {
            directory(disk, op, places, slots.loc(i).map_err(|e| failed(op, ("find its stage", e)))?, notes)
                .map_err(|e| failed(op, ("set the metadata of a directory", e)))?;
        }
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

fn failed(op: &PlanOp, (what, errno): (&'static str, Errno)) -> CommitError {
    CommitError::Stage { path: op.path.clone(), what, errno }
}

fn one(
    disk: &dyn Disk,
    plan: &Plan,
    i: usize,
    slots: &Slots,
    places: &Places,
    (from, to): (&mut Visitor<'_>, &mut Visitor<'_>),
    notes: &mut Vec<String>,
) -> Result<(), CommitError> {
    let op = &plan.ops[i];
    let Some(content) = op.content().filter(|_| !slots.is_moved(i)) else { return Ok(()) };
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
            copy::entry(disk, source, to, notes).map_err(fail("copy it from the VM"))
        }
        Content::Given { bytes } => {
            let host = || places.on_host(op.layer, op.base.as_ref().ok_or(Errno::INVAL)?);
            let host = host().and_then(|loc| places.at(&loc)).map_err(fail("find the host's version"))?;
            given(disk, (&host.0, &host.1), to, bytes, notes).map_err(fail("write it"))
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
    copy::set(disk, (&dir, &name), &crate::program::Attrs::of((&from, &source), copy::WHOLE)?, notes)
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
