//! Puts the stages in place: renames only, in the plan's order.
//!
//! ```text
//!   1  take out    renamed entries, deepest first, to their stage           old namespace
//!   2  place       by path, parents first: exchange, or move to a free name  new namespace
//!   3  metadata    of entries that stay the same file
//!   4  clean       what was replaced or removed goes
//!   5  directories their metadata and times, deepest first
//! ```
//!
//! Invariants: 1 and 2 keep a list of what they did and undo it from the back when one fails; 3 to 5 come when the new
//! state is in place, and what fails there is told, not undone.

use crate::CommitError;
use crate::copy;
use crate::disk::Disk;
use crate::places::Places;
use fvm_model::plan::{Action, Content, Occupant, Plan, PlanOp};
use fvm_model::{FileType, HostPath};
use fvm_sys::dir::Dir;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Two names whose entries were swapped, or of which the second got the first's entry.
struct Step {
    layer: u32,
    from: HostPath,
    to: HostPath,
    swapped: bool,
}

/// Carries out a staged plan.
pub fn publish(plan: &Plan, places: &Places, before: &[DirTime], notes: &mut Vec<String>) -> Result<(), CommitError> {
    let mut done = Vec::new();
    if let Err((op, errno)) = take_out(plan, places, &mut done).and_then(|()| place_all(plan, places, &mut done)) {
        let left = undo(places, &done);
        let path = op.path.clone();
        if !left.is_empty() {
            // A stage may hold the host's own entry now: nothing is removed.
            return Err(CommitError::Torn { path, errno, left });
        }
        remove_stages(plan, places, notes);
        restore_times(plan, places, before);
        return Err(CommitError::Publish { path, errno });
    }
    for op in plan.ops.iter().filter(|op| op.file_type != FileType::Directory && keeps_file(op)) {
        told(set_metadata(op, places, notes), op, notes);
    }
    remove_stages(plan, places, notes);
    restore_times(plan, places, before);
    directories(plan, places, notes);
    for (_, place) in places.iter() {
        if let Err(e) = Disk.sync(&place.root) {
            notes.push(format!("{} could not be synced: {e}", place.host));
        }
    }
    Ok(())
}

type Failed<'p> = (&'p PlanOp, Errno);

/// Renamed entries leave their old places.
fn take_out<'p>(plan: &'p Plan, places: &Places, done: &mut Vec<Step>) -> Result<(), Failed<'p>> {
    let mut renames: Vec<(&PlanOp, &HostPath)> = plan
        .ops
        .iter()
        .filter_map(|op| if let Action::Rename { from, .. } = &op.action { Some((op, from)) } else { None })
        .collect();
    renames.sort_by_key(|(_, from)| std::cmp::Reverse(from.as_path().components().count()));
    for (op, from) in renames {
        let name = if op.content().is_some() { op.old_name(&plan.id) } else { op.stage_name(&plan.id) };
        step(places, op.layer, from.clone(), op.stage_dir.join(&name), false, done).map_err(|e| (op, e))?;
    }
    Ok(())
}

fn place_all<'p>(plan: &'p Plan, places: &Places, done: &mut Vec<Step>) -> Result<(), Failed<'p>> {
    for op in &plan.ops {
        let stage = op.stage_dir.join(op.stage_name(&plan.id));
        let path = op.path.on_host();
        match &op.action {
            Action::SetMeta => Ok(()),
            Action::Remove => step(places, op.layer, path, stage, false, done),
            Action::Replace { .. } => step(places, op.layer, stage, path, true, done),
            Action::Create { .. } | Action::Rename { .. } => {
                match step(places, op.layer, stage.clone(), path.clone(), false, done) {
                    Err(Errno::EXIST) if matches!(op.may_occupy, Occupant::Old | Occupant::Anything) => {
                        step(places, op.layer, stage, path, true, done)
                    }
                    other => other,
                }
            }
        }
        .map_err(|e| (op, e))?;
    }
    Ok(())
}

fn step(
    places: &Places,
    layer: u32,
    from: HostPath,
    to: HostPath,
    swap: bool,
    done: &mut Vec<Step>,
) -> Result<(), Errno> {
    let step = Step { layer, from, to, swapped: swap };
    carry_out(places, &step)?;
    done.push(step);
    Ok(())
}

fn carry_out(places: &Places, step: &Step) -> Result<(), Errno> {
    let (from_dir, from) = places.host(step.layer, &step.from)?;
    let (to_dir, to) = places.host(step.layer, &step.to)?;
    let (from, to) = ((&from_dir, from.as_path()), (&to_dir, to.as_path()));
    if !step.swapped {
        return Disk.move_to_free(from, to);
    }
    match Disk.exchange(from, to) {
        // No exchange here (NFS, some FUSE): three renames by way of a name of our own.
        Err(Errno::INVAL) => {
            let aside = PathBuf::from(format!("{}-swap", from.1.display()));
            Disk.move_to_free(to, (&from_dir, &aside))?;
            if let Err(e) = Disk.move_to_free(from, to) {
                Disk.move_to_free((&from_dir, &aside), to)?;
                return Err(e);
            }
            Disk.move_to_free((&from_dir, &aside), from)
        }
        other => other,
    }
}

/// Undoes from the back; returns what could not be undone.
fn undo(places: &Places, done: &[Step]) -> Vec<String> {
    let mut left = Vec::new();
    for step in done.iter().rev() {
        let (from, to) = if step.swapped { (&step.from, &step.to) } else { (&step.to, &step.from) };
        let back = Step { layer: step.layer, from: from.clone(), to: to.clone(), swapped: step.swapped };
        if carry_out(places, &back).is_err() {
            left.push(step.to.to_string());
        }
    }
    left
}

/// Removes every stage and everything that was replaced. What cannot be removed is told: it is in nobody's way.
pub fn remove_stages(plan: &Plan, places: &Places, notes: &mut Vec<String>) {
    for op in &plan.ops {
        let Ok(dir) = places.host_dir(op.layer, &op.stage_dir) else { continue };
        for name in [op.stage_name(&plan.id), op.old_name(&plan.id)] {
            if let Err(e) = Disk.remove_tree(&dir, Path::new(&name)) {
                notes.push(format!("{} could not be removed: {e}", op.stage_dir.join(&name)));
            }
        }
    }
}

/// The time of a host directory before the commit came near it.
#[derive(Debug)]
pub struct DirTime {
    layer: u32,
    path: HostPath,
    ino: u64,
    secs: i64,
    nanos: u32,
}

/// The times of all directories in which stages are made or entries come and go.
pub fn dir_times(plan: &Plan, places: &Places) -> Vec<DirTime> {
    let mut paths = std::collections::BTreeSet::new();
    for op in plan.ops.iter().filter(|op| op.action != Action::SetMeta) {
        paths.insert((op.layer, op.stage_dir.clone()));
        let parents = [op.path.on_host().parent(), op.base.as_ref().and_then(HostPath::parent)];
        paths.extend(parents.into_iter().flatten().map(|parent| (op.layer, parent)));
    }
    paths
        .into_iter()
        .filter_map(|(layer, path)| {
            let stat = places.host_dir(layer, &path).ok()?.stat(Path::new("")).ok()?;
            let (ino, secs, nanos) = (stat.stx_ino, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
            Some(DirTime { layer, path, ino, secs, nanos })
        })
        .collect()
}

/// Gives directories back the time they had: what stages did to it is nobody's change. Where the VM's entries changed
/// it, [`directories`] sets the VM's time afterwards.
pub fn restore_times(plan: &Plan, places: &Places, before: &[DirTime]) {
    let renames: Vec<(&HostPath, HostPath)> = plan
        .ops
        .iter()
        .filter_map(
            |op| if let Action::Rename { from, .. } = &op.action { Some((from, op.path.on_host())) } else { None },
        )
        .collect();
    for old in before {
        let moved =
            renames.iter().filter(|(from, _)| old.path.is_within(from)).max_by_key(|(from, _)| from.as_bytes().len());
        let now = match moved {
            Some((from, to)) => old.path.relative_to(from).and_then(|rest| HostPath::new(to.as_path().join(rest)).ok()),
            None => Some(old.path.clone()),
        };
        let Some(Ok(dir)) = now.map(|path| places.host_dir(old.layer, &path)) else { continue };
        if dir.stat(Path::new("")).is_ok_and(|stat| stat.stx_ino == old.ino) {
            // A directory of somebody else's, in which this user may write, keeps the new time.
            let _not_ours = Disk.set_mtime(&dir, Path::new(""), old.secs, old.nanos);
        }
    }
}

/// Whether the entry at the op's path is the host's own, with other metadata.
fn keeps_file(op: &PlanOp) -> bool {
    op.meta.any() && matches!(op.action, Action::SetMeta | Action::Rename { content: None, .. })
}

fn set_metadata(op: &PlanOp, places: &Places, notes: &mut Vec<String>) -> Result<(), Errno> {
    let (from, source) = places.upper(op.layer, &op.source.on_host())?;
    let (to, name) = places.host(op.layer, &op.path.on_host())?;
    let which = if op.content().is_some() { copy::WHOLE } else { op.meta };
    copy::metadata((&from, &source), (&to, &name), which, notes)
}

fn told(result: Result<(), Errno>, op: &PlanOp, notes: &mut Vec<String>) {
    if let Err(e) = result {
        notes.push(format!("the metadata of {} could not be set: {e}", op.path));
    }
}

/// Directories last, deepest first: every entry that comes or goes touches its directory's time.
fn directories(plan: &Plan, places: &Places, notes: &mut Vec<String>) {
    for op in plan.ops.iter().rev().filter(|op| op.file_type == FileType::Directory) {
        let is_new = op.content() == Some(&Content::Directory);
        if is_new || keeps_file(op) {
            told(set_metadata(op, places, notes), op, notes);
        }
    }
    for touched in plan.dir_times.iter().rev() {
        let path = touched.path.on_host();
        let layer = places.iter().filter(|(_, p)| path.is_within(&p.host)).max_by_key(|(_, p)| p.host.as_bytes().len());
        let set = |dir: &Dir| Disk.set_mtime(dir, Path::new(""), touched.mtime.secs, touched.mtime.nanos);
        let Some((n, _)) = layer else { continue };
        // Only its time: a directory of somebody else's, or one that is gone, keeps what it has.
        if let Err(e) = places.host_dir(*n, &path).and_then(|dir| set(&dir))
            && !matches!(e, Errno::PERM | Errno::NOENT | Errno::ACCESS)
        {
            notes.push(format!("the time of {path} could not be set: {e}"));
        }
    }
}
