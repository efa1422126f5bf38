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
use crate::places::{Loc, Places, Root};
use crate::{CommitError, Watch};
use fvm_model::path::Bytes;
use fvm_model::plan::{Action, Content, Plan, PlanOp};
use fvm_model::{FileType, VmPath};
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
    pub fn assign(plan: &Plan, places: &Places, token: &str, may_move: bool) -> Result<Self, Errno> {
        let mut slots = Self {
            of: Vec::with_capacity(plan.ops.len()),
            old: HashMap::new(),
            strips: Vec::new(),
            by_n: plan.ops.iter().enumerate().map(|(i, op)| (op.n, i)).collect(),
        };
        let by_path: HashMap<&VmPath, usize> = plan.ops.iter().enumerate().map(|(i, op)| (&op.path, i)).collect();
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
                (Action::Create { content: Content::Layer | Content::Directory }, None) if may_move => {
                    match movable(op, i, plan, places, &by_path)? {
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

/// Whether the new entry can leave the upper as it is; then, which entries of it carry overlayfs's attributes.
fn movable(
    op: &PlanOp,
    index: usize,
    plan: &Plan,
    places: &Places,
    by_path: &HashMap<&VmPath, usize>,
) -> Result<Option<Vec<PathBuf>>, Errno> {
    if !places.get(op.layer)?.near_upper || op.source != op.path || op.occupant.is_some() && !is_free(op, places)? {
        return Ok(None);
    }
    let top = places.in_upper(op.layer, &op.path)?;
    let mut strips = Vec::new();
    // Names seen of files that have several.
    let mut links: HashMap<u64, (u32, u32)> = HashMap::new();
    let mut seen = 0;
    let mut pending = vec![PathBuf::new()];
    while let Some(rel) = pending.pop() {
        let path = if rel.as_os_str().is_empty() {
            op.path.clone()
        } else {
            VmPath::new(op.path.as_path().join(&rel)).map_err(|_| Errno::INVAL)?
        };
        let Some(child) = by_path.get(&path).map(|i| &plan.ops[*i]) else { return Ok(None) };
        let plain = matches!(
            &child.action,
            Action::Create { content: Content::Layer | Content::Directory | Content::Op { .. } }
        );
        if !plain || child.layer != op.layer || child.source != child.path {
            return Ok(None);
        }
        seen += 1;
        let (dir, name) = places.at(&top.join(&rel))?;
        let stat = dir.stat(&name)?;
        match Raw::from_raw_mode(u32::from(stat.stx_mode)) {
            Raw::Directory => {
                for entry in dir.beneath(&name)?.names()? {
                    pending.push(rel.join(entry));
                }
            }
            Raw::RegularFile => {
                // One that its owner closed is not looked into: copying it says so.
                let Ok(file) = dir.open_file(&name) else { return Ok(None) };
                // A descriptor may have left the VM: whoever has one could write what was reviewed.
                if fvm_sys::lease::has_writer(&file) != Ok(false) {
                    return Ok(None);
                }
                if stat.stx_nlink > 1 {
                    links.entry(stat.stx_ino).or_insert((0, stat.stx_nlink)).0 += 1;
                }
            }
            Raw::Symlink | Raw::Fifo if stat.stx_nlink == 1 => {}
            _ => return Ok(None),
        }
        if dir.xattrs(&name)?.iter().any(|(attr, _)| copy::is_overlay(attr)) {
            strips.push(rel);
        }
    }
    let below = plan.ops[index..].iter().take_while(|o| o.path.is_within(&op.path)).count();
    Ok((seen == below && links.values().all(|(seen, all)| seen == all)).then_some(strips))
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
    for (i, op) in plan.ops.iter().enumerate() {
        if !watch.go_on(i, total) {
            return Err(CommitError::Interrupted);
        }
        one(disk, plan, i, places, slots, notes).map_err(|e| failed(op, e))?;
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
    places: &Places,
    slots: &Slots,
    notes: &mut Vec<String>,
) -> Result<(), (&'static str, Errno)> {
    let op = &plan.ops[i];
    let Some(content) = op.content().filter(|_| !slots.is_moved(i)) else { return Ok(()) };
    let slot = slots.loc(i).map_err(|e| ("find its stage", e))?;
    let (dir, name) = places.at(slot).map_err(|e| ("open its stage", e))?;
    let to = (&dir, name.as_path());
    let upper = || {
        let loc = places.in_upper(op.layer, &op.source)?;
        places.at(&loc)
    };
    match content {
        Content::Directory => disk.create_dir(to).map_err(|e| ("create a directory", e)),
        Content::Layer => {
            let (from, source) = upper().map_err(|e| ("find it in the VM", e))?;
            copy::entry(disk, (&from, &source), to, notes).map_err(|e| ("copy it from the VM", e))
        }
        Content::Given { bytes } => {
            let base = op.base.as_ref().ok_or(("find the host's version", Errno::INVAL))?;
            let loc = places.on_host(op.layer, base).map_err(|e| ("find the host's version", e))?;
            let (from, source) = places.at(&loc).map_err(|e| ("find the host's version", e))?;
            given(disk, (&from, &source), to, bytes, notes).map_err(|e| ("write it", e))
        }
        Content::Op { n } => {
            let first = slots.index(*n).and_then(|i| slots.loc(i)).map_err(|e| ("link it", e))?;
            let (from, source) = places.at(first).map_err(|e| ("link it", e))?;
            disk.link((&from, &source), to).map_err(|e| ("link it", e))
        }
        Content::Host { at, .. } => {
            let loc = places.on_host(op.layer, at).map_err(|e| ("find the file that it is a link to", e))?;
            let (from, source) = places.at(&loc).map_err(|e| ("find the file that it is a link to", e))?;
            disk.link((&from, &source), to).map_err(|e| ("link it", e))
        }
    }
}

/// A file with these bytes and the host's metadata, but for the time.
fn given(
    disk: &dyn Disk,
    from: (&fvm_sys::dir::Dir, &Path),
    to: (&fvm_sys::dir::Dir, &Path),
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
    for (i, op) in plan.ops.iter().enumerate() {
        if op.file_type != FileType::File || slots.is_moved(i) || op.content() != Some(&Content::Layer) {
            continue;
        }
        let stat = places.in_upper(op.layer, &op.source).and_then(|loc| places.look(&loc));
        if let Ok(Some(stat)) = stat {
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
