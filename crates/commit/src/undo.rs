//! Takes a commit back: the inverse program, in a commit of its own.
//!
//! ```text
//!   commit 7 ── its program, its area ──► commit 8, an undo of 7, with the same area
//!                                           │
//!                                           └── undo 8 ──► commit 9: everything of 7 is there again
//! ```
//!
//! Invariants: nothing that was changed after the commit is lost: an entry that is not exactly what the commit left
//! makes the undo refuse, before anything is written; what the undo takes away lies in the area afterwards.

use crate::apply::{End, Run, saved_name};
use crate::build;
use crate::copy;
use crate::disk::Disk;
use crate::error::Changed;
use crate::history::is_undone;
use crate::journal::{Held, Intent, OpLine, Phase, Store, VERSION, What, now};
use crate::places::{Loc, Places, Root};
use crate::program::{Program, Step, Turn};
use crate::recover::abandon;
use crate::{CommitError, Published, next_number, token};
use fvm_model::Timestamp;
use fvm_sys::dir::Dir;
use rustix::fs::{FileType, Statx};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Takes commit `number` back.
///
/// # Errors
/// When it cannot be undone (any more), or something it brought was changed since: nothing is changed then.
pub fn undo(disk: &dyn Disk, store: &Store, held: Held, number: u64) -> Result<Published, CommitError> {
    if held.active()?.is_some() {
        return Err(CommitError::Unfinished);
    }
    let final_ = |why: &str| CommitError::Final { number, why: why.into() };
    let old = store.intent(number)?;
    let state = store.state(number)?.filter(|s| s.phase == Phase::Done).ok_or_else(|| final_("it is not over"))?;
    let finished = state.finished.ok_or_else(|| final_("its record has no time"))?;
    if let Some(why) = state.final_because {
        return Err(final_(&why));
    }
    if is_undone(store, number)? {
        return Err(final_("it is undone already"));
    }
    // What was brought back is as the undo of its undo left it.
    if let Some(again) = brought_back(store, number)? {
        return undo(disk, store, held, again);
    }
    let done = store.program(number)?.ok_or_else(|| final_("what it replaced was removed ('fvm gc')"))?;
    let places = Places::reopen(&old.mounts, held.area(old.area_of).map_err(|_| final_("what it replaced is gone"))?)?;

    let own = next_number(&held)?;
    let token = token()?;
    let (mut program, beside) = prepare_program(&done, &places, &token)?;
    let changed = check(&program, &done, &places, &Since { finished, later: later_moves(store, number)? });
    if !changed.is_empty() {
        return Err(CommitError::ChangedSince { number, changed });
    }
    let disturbed: HashSet<Loc> = beside.iter().map(Loc::parent).collect();
    let intent = Intent {
        version: VERSION,
        number: own,
        what: What::Undo { of: number },
        started: now(),
        area_of: old.area_of,
        mounts: places.refs(),
        times: program
            .times
            .iter()
            .filter(|t| t.was_at.as_ref().is_some_and(|dir| disturbed.contains(dir)))
            .cloned()
            .collect(),
        beside,
    };
    held.begin(disk, own)?;
    let mut notes = Vec::new();
    let staged = (|| {
        held.write_value(disk, own, "intent", &intent)?;
        held.write(disk, own, "ops", &op_lines(store.ops(number)?))?;
        restage(disk, &places, &mut program, &mut notes)?;
        held.write_value(disk, own, "prepared", &program)
    })();
    if let Err(error) = staged {
        abandon(disk, &held, &places, &intent)?;
        return Err(error);
    }
    let mut run = Run { disk, held: &held, intent: &intent, places: &places, program: &program, notes };
    match run.run(Phase::Take)? {
        End::Applied => {
            let applied = program.phases[1].len().max(program.phases[0].len()) + program.metas.len();
            Ok(Published { number: own, applied, notes: run.finish()? })
        }
        End::RolledBack(stop) => Err(CommitError::Publish { path: stop.path, errno: stop.errno }),
    }
}

/// The commit that brought `number` back, after an undo.
fn brought_back(store: &Store, number: u64) -> Result<Option<u64>, CommitError> {
    let last_undo_of = |of: u64| -> Result<Option<u64>, CommitError> {
        for candidate in store.numbers()?.into_iter().rev().take_while(|n| *n > of) {
            let is_it = matches!(store.intent(candidate), Ok(i) if i.what == What::Undo { of });
            if is_it && store.state(candidate)?.is_some_and(|s| s.phase == Phase::Done) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    };
    match last_undo_of(number)? {
        Some(undone) => last_undo_of(undone),
        None => Ok(None),
    }
}

/// The inverse program with slots of its own: those beside targets are named anew, and what came out of a VM's layer
/// goes to a slot like everything else.
fn prepare_program(done: &Program, places: &Places, token: &str) -> Result<(Program, Vec<Loc>), CommitError> {
    let mut program = done.undo();
    for time in &mut program.times {
        // Directories that come back from the area to another file system are copies.
        let is_near = |at: &Loc| matches!(at.root, Root::Mount(n) if places.get(n).is_ok_and(|p| p.near_area));
        if !time.at.as_ref().is_some_and(is_near) {
            time.ino = 0;
        }
    }
    let (mut beside, mut known) = (Vec::new(), HashSet::new());
    for step in program.phases.iter_mut().flatten() {
        let slot = match step.slot.root {
            Root::Area => continue,
            Root::Upper(_) => {
                let near = matches!(step.path.root, Root::Mount(n) if places.get(n).is_ok_and(|p| p.near_area));
                if near {
                    Loc::area(step.n.to_string())
                } else {
                    step.path.parent().join(Path::new(&format!(".fvm-{token}-{}", step.n)))
                }
            }
            Root::Mount(_) => {
                let name = format!(".fvm-{token}-{}", saved_name(&step.slot).display());
                step.slot.parent().join(Path::new(&name))
            }
        };
        if slot.root != Root::Area && known.insert(slot.clone()) {
            beside.push(slot.clone());
        }
        step.slot = slot;
    }
    Ok((program, beside))
}

/// Copies what was brought home from mounts without an area to slots beside their targets again.
fn restage(
    disk: &dyn Disk,
    places: &Places,
    program: &mut Program,
    notes: &mut Vec<String>,
) -> Result<(), CommitError> {
    // What the first phase leaves in a slot is there for the second.
    let filled: HashSet<Loc> = program.phases[0].iter().map(|s| s.slot.clone()).collect();
    let [first, second] = &mut program.phases;
    let second = second.iter_mut().filter(|s| !filled.contains(&s.slot));
    for step in first.iter_mut().chain(second).filter(|s| s.slot.root != Root::Area) {
        let fail = |errno| CommitError::Journal { what: "restore", path: places.shown(&step.path).into(), errno };
        let saved = saved_name(&step.slot);
        let (dir, name) = places.at(&step.slot).map_err(fail)?;
        let comes = match &mut step.turn {
            Turn::Take(_) => continue,
            Turn::Put(ino) | Turn::Swap { comes: ino, .. } => ino,
        };
        if dir.stat_opt(&name).map_err(fail)?.is_none() {
            copy::tree(disk, (&places.area, &saved), (&dir, &name), notes).map_err(fail)?;
        }
        *comes = dir.stat(&name).map_err(fail)?.stx_ino;
    }
    for (_, place) in places.iter().filter(|(_, p)| !p.near_area) {
        disk.sync(&place.root).map_err(|errno| CommitError::Open { path: place.host.as_path().into(), errno })?;
    }
    Ok(())
}

/// Tells a change by somebody else from the renames of later commits, and of their undos.
struct Since {
    finished: Timestamp,
    /// Inode → when a later commit last moved it.
    later: HashMap<u64, Timestamp>,
}

impl Since {
    fn changed(&self, stat: &Statx) -> bool {
        let ctime = Timestamp { secs: stat.stx_ctime.tv_sec, nanos: stat.stx_ctime.tv_nsec };
        let by_us = self.later.get(&stat.stx_ino).is_some_and(|at| ctime <= *at);
        ctime > self.finished && !(by_us && build::mtime(stat) <= self.finished)
    }
}

/// The inodes that commits after `number` moved, with the end of the last one that did.
fn later_moves(store: &Store, number: u64) -> Result<HashMap<u64, Timestamp>, CommitError> {
    let mut moves = HashMap::new();
    for later in store.numbers()?.into_iter().filter(|n| *n > number) {
        let Some(at) = store.state(later)?.and_then(|s| s.finished) else { continue };
        for step in store.program(later)?.unwrap_or_default().phases.iter().flatten() {
            match step.turn {
                Turn::Put(ino) | Turn::Take(ino) => drop(moves.insert(ino, at)),
                Turn::Swap { comes, goes } => moves.extend([(comes, at), (goes, at)]),
            }
        }
    }
    Ok(moves)
}

/// What is not as the commit left it.
fn check(program: &Program, done: &Program, places: &Places, since: &Since) -> Vec<Changed> {
    let mut changed = Vec::new();
    let mut differs = |loc: &Loc, what: String| changed.push(Changed { path: places.shown(loc), what });
    for step in &program.phases[0] {
        match found(step, places, since) {
            Ok(None) => {}
            Ok(Some(what)) => differs(&step.path, what),
            Err(e) => differs(&step.path, format!("it cannot be reached as before: {e}")),
        }
    }
    // The other phase's paths are those of the old namespace: only what lies elsewhere now can be in their way.
    for meta in &done.metas {
        match build::attrs_now(places, &meta.at, meta.after.which()) {
            Ok(Some(now)) if now == meta.after => {}
            Ok(Some(_)) => differs(&meta.at, "its metadata changed".into()),
            Ok(None) => differs(&meta.at, "it is not there any more".into()),
            Err(e) => differs(&meta.at, format!("it cannot be reached as before: {e}")),
        }
    }
    changed
}

fn found(step: &Step, places: &Places, since: &Since) -> Result<Option<String>, Errno> {
    let stat = places.look(&step.path)?;
    let expected = match step.turn {
        Turn::Put(_) => return Ok(stat.map(|_| "something was created there".into())),
        Turn::Take(ino) | Turn::Swap { goes: ino, .. } => ino,
    };
    let Some(stat) = stat else { return Ok(Some("it is not there any more".into())) };
    if stat.stx_ino != expected {
        return Ok(Some("it was replaced".into()));
    }
    if !step.made {
        return Ok(None);
    }
    if since.changed(&stat) {
        return Ok(Some("it was changed".into()));
    }
    if is_dir(&stat) {
        let newer = newer_below(&places.dir(&step.path)?, stat.stx_mnt_id, since);
        return Ok(
            newer.map(|rel| format!("{} changed", fvm_model::path::printable(rel.as_os_str().as_encoded_bytes())))
        );
    }
    Ok(None)
}

fn is_dir(stat: &Statx) -> bool {
    FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory
}

/// The first entry below `top` that changed since, or that something is mounted on.
fn newer_below(top: &Dir, mount: u64, since: &Since) -> Option<PathBuf> {
    let mut pending = vec![PathBuf::new()];
    while let Some(rel) = pending.pop() {
        let Ok(dir) = top.beneath_deep(&rel) else { return Some(rel) };
        for name in dir.names().unwrap_or_default() {
            let Ok(stat) = dir.stat(Path::new(&name)) else { return Some(rel.join(name)) };
            if stat.stx_mnt_id != mount || since.changed(&stat) {
                return Some(rel.join(name));
            }
            if is_dir(&stat) {
                pending.push(rel.join(name));
            }
        }
    }
    None
}

fn op_lines(ops: Vec<OpLine>) -> Vec<u8> {
    let mut lines = Vec::new();
    for op in ops.into_iter().rev() {
        let line = OpLine { text: format!("take back: {}", op.text), ..op };
        if serde_json::to_writer(&mut lines, &line).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}
