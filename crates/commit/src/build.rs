//! From a staged plan to its program: every decision that needed a look at the host.
//!
//! ```text
//!   PlanOp ── what is at base, at the occupant's place, in the slot ──► steps, metadata, times
//! ```
//!
//! Invariant: looks only.

use crate::CommitError;
use crate::places::{Loc, Places};
use crate::program::{Attrs, DirTime, Program, SetMeta, Stamp, Step, Turn};
use crate::stage::{Slot, Slots};
use fvm_model::plan::{Action, Content, Occupant, Plan, PlanOp};
use fvm_model::{FileType, HostPath, MetaDelta, Timestamp};
use rustix::fs::{FileType as Raw, Statx};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// The program of a plan whose slots are filled.
pub fn program(plan: &Plan, places: &Places, slots: &Slots, times: Vec<DirTime>) -> Result<Program, CommitError> {
    let mut program = Program { times, ..Program::default() };
    let ordinary = !rustix::process::geteuid().is_root();
    for (i, op) in plan.ops.iter().enumerate() {
        let fail = |errno| CommitError::Stage { path: op.path.clone(), what: "look at it", errno };
        one(op, i, places, slots, ordinary, &mut program).map_err(fail)?;
    }
    // Deepest first, so that each is still where the plan says. One that lies in another must be out durably before.
    program.phases[0].sort_by_key(|step| std::cmp::Reverse(step.path.path().components().count()));
    let mut above: HashSet<Loc> = HashSet::new();
    // None lies in another of its own depth, so the first of them waits for all.
    let mut waited = HashSet::new();
    for step in &mut program.phases[0] {
        let level = (step.path.root, step.path.path().components().count());
        step.barrier = above.contains(&step.path) && waited.insert(level);
        let mut dir = step.path.parent();
        while !dir.path().as_os_str().is_empty() && above.insert(dir.clone()) {
            dir = dir.parent();
        }
    }
    for (i, rel) in &slots.strips {
        let op = &plan.ops[*i];
        let fail = |errno| CommitError::Stage { path: op.path.clone(), what: "find it", errno };
        program.strips.push(places.on_host(op.layer, &op.path.on_host()).map_err(fail)?.join(rel));
    }
    Ok(program)
}

fn one(
    op: &PlanOp,
    i: usize,
    places: &Places,
    slots: &Slots,
    ordinary: bool,
    program: &mut Program,
) -> Result<(), Errno> {
    let path = places.on_host(op.layer, &op.path.on_host())?;
    let host = |path: &HostPath| -> Result<(Loc, Statx), Errno> {
        let loc = places.on_host(op.layer, path)?;
        let stat = places.look(&loc)?.ok_or(Errno::NOENT)?;
        Ok((loc, stat))
    };
    let base = || host(op.base.as_ref().ok_or(Errno::INVAL)?);
    let shut = |stat: &Statx| shut_mode(stat).filter(|_| ordinary);
    // What stands in the way and may be replaced.
    let occupant = || -> Result<Option<Statx>, Errno> {
        match (&op.occupant, op.may_occupy) {
            (Some(at), Occupant::Old | Occupant::Anything) => places.look(&places.on_host(op.layer, at)?),
            _ => Ok(None),
        }
    };
    let step = |slot: &Loc, path: &Loc, turn, going: Option<&Statx>, coming: Option<&Statx>, made| Step {
        n: op.n,
        slot: slot.clone(),
        path: path.clone(),
        turn,
        stamp: going.and_then(stamp),
        made,
        shut: [coming.and_then(shut), going.and_then(shut)],
        barrier: false,
    };
    let arrive = |slot: &Loc, coming: &Statx, made: bool| -> Result<Step, Errno> {
        Ok(match occupant()? {
            // It came a moment ago: the VM's layer is no place for what belongs to the host.
            Some(_) if matches!(slots.of[i], Slot::Upper(_)) => return Err(Errno::EXIST),
            Some(there) => {
                let turn = Turn::Swap { comes: coming.stx_ino, goes: there.stx_ino };
                step(slot, &path, turn, Some(&there), Some(coming), made)
            }
            None => step(slot, &path, Turn::Put(coming.stx_ino), None, Some(coming), made),
        })
    };
    let staged = || places.look(slots.loc(i)?)?.ok_or(Errno::NOENT);
    match &op.action {
        Action::SetMeta => {
            let (was_at, stat) = base()?;
            let meta = set_meta(op, places, path, was_at, stat.stx_ino)?;
            program.metas.push(meta);
        }
        Action::Remove => {
            let (_, stat) = base()?;
            program.phases[1].push(step(slots.loc(i)?, &path, Turn::Take(stat.stx_ino), Some(&stat), None, false));
        }
        Action::Replace { .. } => {
            let ((_, goes), comes) = (base()?, staged()?);
            let turn = Turn::Swap { comes: comes.stx_ino, goes: goes.stx_ino };
            program.phases[1].push(step(slots.loc(i)?, &path, turn, Some(&goes), Some(&comes), true));
        }
        Action::Create { .. } => {
            if !matches!(slots.of[i], Slot::Inside(..)) {
                program.phases[1].push(arrive(slots.loc(i)?, &staged()?, true)?);
            }
        }
        Action::Rename { from, content } => {
            let (was_at, stat) = host(from)?;
            let slot = if content.is_some() { slots.old.get(&i).ok_or(Errno::INVAL)? } else { slots.loc(i)? };
            program.phases[0].push(step(slot, &was_at, Turn::Take(stat.stx_ino), Some(&stat), None, false));
            if content.is_some() {
                program.phases[1].push(arrive(slots.loc(i)?, &staged()?, true)?);
            } else {
                program.phases[1].push(arrive(slots.loc(i)?, &stat, false)?);
                if op.meta.any() {
                    program.metas.push(set_meta(op, places, path, was_at, stat.stx_ino)?);
                }
            }
        }
    }
    Ok(())
}

fn set_meta(op: &PlanOp, places: &Places, at: Loc, was_at: Loc, ino: u64) -> Result<SetMeta, Errno> {
    let (upper, source) = places.at(&places.in_upper(op.layer, &op.source)?)?;
    let (host, name) = places.at(&was_at)?;
    let before = Attrs::of((&host, &name), op.meta)?;
    Ok(SetMeta {
        n: op.n,
        ino,
        after: Attrs::of((&upper, &source), op.meta)?.with_reserved_of(Some(&before)),
        before,
        at,
        was_at,
    })
}

fn is_dir(stat: &Statx) -> bool {
    Raw::from_raw_mode(u32::from(stat.stx_mode)) == Raw::Directory
}

fn shut_mode(stat: &Statx) -> Option<u32> {
    let mode = u32::from(stat.stx_mode) & 0o7777;
    (is_dir(stat) && mode & 0o200 == 0).then_some(mode)
}

/// What of a file an edit in place would change.
pub fn stamp(stat: &Statx) -> Option<Stamp> {
    let is_file = Raw::from_raw_mode(u32::from(stat.stx_mode)) == Raw::RegularFile;
    is_file.then(|| Stamp { size_bytes: stat.stx_size, mtime: mtime(stat) })
}

/// The mtime of an entry.
pub fn mtime(stat: &Statx) -> Timestamp {
    Timestamp { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec }
}

/// The directories whose times the commit will disturb, with what they have and what they get. Called before anything
/// is staged.
pub fn dir_times(plan: &Plan, places: &Places, beside: &[Loc]) -> Vec<DirTime> {
    // Old path → layer; and the times that the VM gives.
    let (forward, backward) = (Moves::forward(plan), Moves::backward(plan));
    let made: HashSet<&Path> =
        plan.ops.iter().filter(|o| o.content() == Some(&Content::Directory)).map(|o| o.path.as_path()).collect();
    let mut dirs: BTreeMap<HostPath, u32> = BTreeMap::new();
    // By their new paths: the host may have another directory there, that is moved away.
    let mut new_dirs: BTreeMap<HostPath, u32> = BTreeMap::new();
    // Ops of one directory come in a row.
    let mut last = None;
    for op in plan.ops.iter().filter(|op| op.action != Action::SetMeta) {
        let parent = op.path.on_host().parent().filter(|dir| last.as_ref() != Some(dir));
        if let Some(parent) = parent {
            last = Some(parent.clone());
            if made.contains(parent.as_path()) {
                new_dirs.insert(parent, op.layer);
            } else {
                dirs.insert(backward.apply(&parent), op.layer);
            }
        }
        if let Some(parent) = op.base.as_ref().and_then(HostPath::parent) {
            dirs.insert(parent, op.layer);
        }
    }
    for loc in beside {
        if let crate::places::Root::Mount(n) = loc.root
            && let Ok(place) = places.get(n)
            && let Ok(path) = HostPath::new(place.host.as_path().join(loc.parent().path()))
        {
            dirs.insert(path, n);
        }
    }
    let mut wanted: BTreeMap<HostPath, Timestamp> =
        plan.dir_times.iter().map(|t| (t.path.on_host(), t.mtime)).collect();
    // New directories that renamed entries come into after they were staged.
    for op in plan.ops.iter().filter(|op| op.content() == Some(&Content::Directory)) {
        if let Some(after) = &op.after {
            wanted.insert(op.path.on_host(), after.mtime);
        }
    }
    // A time that was set by hand is a change of its own, but what comes and goes in that directory touches it again.
    for op in plan.ops.iter().filter(|op| op.file_type == FileType::Directory && op.meta.times) {
        if let Some(after) = &op.after {
            wanted.insert(op.path.on_host(), after.mtime);
        }
    }
    let mut times = Vec::new();
    for (new, layer) in new_dirs {
        let (Ok(at), Some(after)) = (places.on_host(layer, &new), wanted.remove(&new)) else { continue };
        times.push(DirTime { at: Some(at), was_at: None, ino: 0, before: None, after: Some(after) });
    }
    for (old, layer) in dirs {
        let new = forward.apply(&old);
        let Ok(at) = places.on_host(layer, &new) else { continue };
        let there = places.on_host(layer, &old).ok().and_then(|loc| Some((places.look(&loc).ok()??, loc)));
        let Some((stat, was_at)) = there.filter(|(stat, _)| is_dir(stat)) else { continue };
        // What stands there afterwards may be another one, new or renamed.
        let stays = !made.contains(new.as_path()) && backward.apply(&new) == old;
        let after = if stays { wanted.remove(&new) } else { None };
        times.push(DirTime {
            at: Some(at),
            was_at: Some(was_at),
            ino: stat.stx_ino,
            before: Some(mtime(&stat)),
            after,
        });
    }
    // Times that only the VM touched.
    for (new, after) in wanted.into_iter().filter(|(new, _)| !made.contains(new.as_path())) {
        let old = backward.apply(&new);
        let Some(layer) = places.layer_of(&new) else { continue };
        let (Ok(at), Ok(was_at)) = (places.on_host(layer, &new), places.on_host(layer, &old)) else { continue };
        let Ok(Some(stat)) = places.look(&was_at) else { continue };
        times.push(DirTime {
            at: Some(at),
            was_at: Some(was_at),
            ino: stat.stx_ino,
            before: Some(mtime(&stat)),
            after: Some(after),
        });
    }
    times
}

/// Where paths go by a plan's renames, or where they came from.
struct Moves<'p>(HashMap<&'p Path, HostPath>);

impl<'p> Moves<'p> {
    fn forward(plan: &'p Plan) -> Self {
        let of = |op: &'p PlanOp| match &op.action {
            Action::Rename { from, .. } => Some((from.as_path(), op.path.on_host())),
            _ => None,
        };
        Self(plan.ops.iter().filter_map(of).collect())
    }

    fn backward(plan: &'p Plan) -> Self {
        let of = |op: &'p PlanOp| match &op.action {
            Action::Rename { from, .. } => Some((op.path.as_path(), from.clone())),
            _ => None,
        };
        Self(plan.ops.iter().filter_map(of).collect())
    }

    fn apply(&self, path: &HostPath) -> HostPath {
        // A look at every ancestor of every path is much, where paths are long.
        if self.0.is_empty() {
            return path.clone();
        }
        let nearest = path.as_path().ancestors().find_map(|above| Some((above, self.0.get(above)?)));
        let moved = nearest.and_then(|(from, to)| {
            let rest = path.as_path().strip_prefix(from).ok()?;
            if rest.as_os_str().is_empty() { Some(to.clone()) } else { HostPath::new(to.as_path().join(rest)).ok() }
        });
        moved.unwrap_or_else(|| path.clone())
    }
}

/// Metadata that an undo compares: those of the entry now, of the kind that `which` names.
pub fn attrs_now(places: &Places, loc: &Loc, which: MetaDelta) -> Result<Option<Attrs>, Errno> {
    match places.at(loc) {
        Ok((dir, name)) => match dir.stat_opt(&name)? {
            Some(_) => Attrs::of((&dir, &name), which).map(Some),
            None => Ok(None),
        },
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}
