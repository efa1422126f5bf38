//! Carries a program out, forward or back, from wherever a crash left it.
//!
//! ```text
//!             ┌──────── ok ───────┐┌─────── ok ──────┐┌── ok ──┐
//!   prepared ─► Take               Place              Finish    Done
//!                │ fails            │ fails
//!                ▼                  ▼
//!      Undone ◄─ UnTake ◄────────── UnPlace
//! ```
//!
//! Invariants: what a phase did is read from the slots, so running a phase again does only what is left; nothing is
//! ever replaced: entries trade places or move to free names, so whatever was there is in a slot; the next phase begins
//! when everything of this one is on the disk.

use crate::copy;
use crate::disk::Disk;
use crate::journal::{Held, Intent, Phase, State, now};
use crate::places::{Loc, Places};
use crate::program::{self, DirTime, Program, Progress, SetMeta, Step, Turn, slot_ino};
use crate::{CommitError, build};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// A commit that has passed its commit point.
pub struct Run<'c> {
    pub disk: &'c dyn Disk,
    pub held: &'c Held,
    pub intent: &'c Intent,
    pub places: &'c Places,
    pub program: &'c Program,
    pub notes: Vec<String>,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// The host has everything. [`Run::finish`] comes next, after the caller's own work.
    Applied,
    /// The host is as it was, because of this.
    RolledBack(Stop),
}

/// What stood in the way.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Where.
    pub path: String,
    /// Why.
    pub errno: Errno,
}

impl Run<'_> {
    /// Goes on from `phase` until the host has everything or nothing.
    pub fn run(&mut self, mut phase: Phase) -> Result<End, CommitError> {
        let mut why = Stop { path: "an earlier attempt".into(), errno: Errno::CANCELED };
        loop {
            let result = match phase {
                Phase::Take => self.steps(&self.program.phases[0]),
                Phase::Place => self.place(),
                Phase::UnPlace => self.unplace(),
                Phase::UnTake => self.untake(),
                Phase::Finish | Phase::Done => return Ok(End::Applied),
                Phase::Undone => {
                    self.forget()?;
                    return Ok(End::RolledBack(why));
                }
            };
            let succeeded = result.is_ok();
            match phase.next(succeeded) {
                Some(next) => {
                    if let Err(stop) = result {
                        why = stop;
                    } else {
                        self.sync()?;
                    }
                    phase = next;
                    self.save(&State { phase, finished: None, final_because: None })?;
                }
                None => {
                    let stop = result.err().unwrap_or(why);
                    return Err(CommitError::Torn { number: self.intent.number, path: stop.path, errno: stop.errno });
                }
            }
        }
    }

    /// Tidies, and ends the commit. The caller has done its own work.
    pub fn finish(mut self) -> Result<Vec<String>, CommitError> {
        for loc in &self.program.strips {
            if let Err(errno) = self.strip(loc) {
                self.notes.push(format!("{} keeps attributes of overlayfs: {errno}", self.places.shown(loc)));
            }
        }
        let final_because = self.bring_home();
        self.times(true);
        self.sync()?;
        self.save(&State { phase: Phase::Done, finished: Some(now()), final_because })?;
        self.held.end(self.disk)?;
        // Whatever the host changes from now on is later than this commit.
        self.disk.tick();
        Ok(self.notes)
    }

    fn save(&self, state: &State) -> Result<(), CommitError> {
        self.held.write_value(self.disk, self.intent.number, "state", state)
    }

    fn sync(&self) -> Result<(), CommitError> {
        let fail = |errno| CommitError::Journal { what: "sync", path: self.held.path().to_owned(), errno };
        self.disk.sync(&self.places.area).map_err(fail)?;
        self.places.iter().filter(|(_, p)| !p.near_area).try_for_each(|(_, p)| self.disk.sync(&p.root).map_err(fail))
    }

    fn stop(&self, loc: &Loc, errno: Errno) -> Stop {
        Stop { path: self.places.shown(loc), errno }
    }

    fn steps(&self, steps: &[Step]) -> Result<(), Stop> {
        steps.iter().try_for_each(|step| self.step(step).map_err(|errno| self.stop(&step.path, errno)))
    }

    fn place(&mut self) -> Result<(), Stop> {
        self.steps(&self.program.phases[1])?;
        let program = self.program;
        program.metas.iter().try_for_each(|meta| self.meta(meta, true).map_err(|e| self.stop(&meta.at, e)))
    }

    fn unplace(&mut self) -> Result<(), Stop> {
        let program = self.program;
        for meta in program.metas.iter().rev() {
            // One that is not there was not reached.
            match self.meta(meta, false) {
                Err(Errno::NOENT | Errno::STALE) => {}
                other => other.map_err(|e| self.stop(&meta.at, e))?,
            }
        }
        self.steps(&program::inverse(&self.program.phases[1]))
    }

    fn untake(&mut self) -> Result<(), Stop> {
        self.steps(&program::inverse(&self.program.phases[0]))?;
        self.times(false);
        Ok(())
    }

    /// Does a step unless it is done.
    fn step(&self, step: &Step) -> Result<(), Errno> {
        let (slot_dir, slot) = self.places.at(&step.slot)?;
        let aside = PathBuf::from(format!("{}-aside", slot.display()));
        let mut ino = slot_dir.stat_opt(&slot)?.map(|s| s.stx_ino);
        let mut progress = step.turn.progress(ino);
        if matches!(step.turn, Turn::Swap { .. }) && slot_dir.stat_opt(&aside)?.is_some() {
            self.heal(step, (&slot_dir, &slot), &aside)?;
            ino = slot_dir.stat_opt(&slot)?.map(|s| s.stx_ino);
            progress = step.turn.progress(ino);
        }
        match progress {
            Progress::Done => return self.shut(step),
            Progress::Pending => {}
            Progress::Half => return Err(Errno::STALE),
            Progress::Odd => return self.put_back(step),
        }
        if step.barrier {
            self.disk.sync(&slot_dir)?;
            self.disk.sync(&self.places.at(&step.path)?.0)?;
        }
        let (path_dir, path) = self.places.at(&step.path)?;
        if path.as_os_str().is_empty() {
            return Err(Errno::BUSY);
        }
        let (at_slot, at_path) = ((&slot_dir, slot.as_path()), (&path_dir, path.as_path()));
        self.open_up(step, at_slot, at_path)?;
        match step.turn {
            Turn::Put(_) => self.disk.move_to_free(at_slot, at_path)?,
            Turn::Take(_) => self.disk.move_to_free(at_path, at_slot)?,
            Turn::Swap { .. } => match self.disk.exchange(at_slot, at_path) {
                // No exchange here (NFS, some FUSE): three renames by way of a name of our own.
                Err(Errno::INVAL) => {
                    self.disk.move_to_free(at_path, (&slot_dir, &aside))?;
                    if let Err(e) = self.disk.move_to_free(at_slot, at_path) {
                        self.disk.move_to_free((&slot_dir, &aside), at_path)?;
                        return Err(e);
                    }
                    self.disk.move_to_free((&slot_dir, &aside), at_slot)?;
                }
                other => other?,
            },
        }
        self.shut(step)?;
        self.verify(step, (&slot_dir, &slot), (&path_dir, &path))
    }

    /// Whether what left the path is what was meant: somebody may have been quicker. If not, it goes back.
    fn verify(
        &self,
        step: &Step,
        slot: (&fvm_sys::dir::Dir, &Path),
        path: (&fvm_sys::dir::Dir, &Path),
    ) -> Result<(), Errno> {
        let (Turn::Take(meant) | Turn::Swap { goes: meant, .. }) = step.turn else { return Ok(()) };
        let stat = slot.0.stat(slot.1)?;
        if stat.stx_ino == meant && step.stamp.is_none_or(|then| build::stamp(&stat) == Some(then)) {
            return Ok(());
        }
        match step.turn {
            Turn::Take(_) => self.disk.move_to_free(slot, path)?,
            _ => match self.disk.exchange(slot, path) {
                Err(Errno::INVAL) => return Err(Errno::STALE),
                other => other?,
            },
        }
        Err(Errno::STALE)
    }

    /// The slot holds what somebody put at the path a moment before it was taken: it goes there again.
    fn put_back(&self, step: &Step) -> Result<(), Errno> {
        let ((slot_dir, slot), (path_dir, path)) = (self.places.at(&step.slot)?, self.places.at(&step.path)?);
        let (at_slot, at_path) = ((&slot_dir, slot.as_path()), (&path_dir, path.as_path()));
        match step.turn {
            Turn::Swap { .. } => self.disk.exchange(at_slot, at_path)?,
            Turn::Take(_) | Turn::Put(_) => self.disk.move_to_free(at_slot, at_path)?,
        }
        // Taking a step back is done with that; a step forward has failed.
        match step.turn.progress(slot_ino(self.places, &step.slot)?) {
            Progress::Done => Ok(()),
            _ => Err(Errno::STALE),
        }
    }

    /// Takes a swap that stopped half-way back to its beginning, or to its end.
    fn heal(&self, step: &Step, slot: (&fvm_sys::dir::Dir, &Path), aside: &Path) -> Result<(), Errno> {
        let (path_dir, path) = self.places.at(&step.path)?;
        match slot.0.stat_opt(slot.1)? {
            None => self.disk.move_to_free((slot.0, aside), slot),
            Some(_) => self.disk.move_to_free((slot.0, aside), (&path_dir, &path)),
        }
    }

    /// An ordinary user can move a directory to another one only with write permission on it.
    fn open_up(
        &self,
        step: &Step,
        slot: (&fvm_sys::dir::Dir, &Path),
        path: (&fvm_sys::dir::Dir, &Path),
    ) -> Result<(), Errno> {
        for (mode, at) in step.shut.iter().zip([slot, path]) {
            if let Some(mode) = mode {
                self.disk.chmod(at, mode | 0o700)?;
            }
        }
        Ok(())
    }

    fn shut(&self, step: &Step) -> Result<(), Errno> {
        for (mode, loc) in step.shut.iter().zip([&step.path, &step.slot]) {
            if let Some(mode) = mode {
                let (dir, name) = self.places.at(loc)?;
                self.disk.chmod((&dir, &name), *mode)?;
            }
        }
        Ok(())
    }

    fn meta(&mut self, meta: &SetMeta, forward: bool) -> Result<(), Errno> {
        let (dir, name) = self.places.at(&meta.at)?;
        if dir.stat(&name)?.stx_ino != meta.ino {
            return Err(Errno::STALE);
        }
        let attrs = if forward { &meta.after } else { &meta.before };
        copy::set(self.disk, (&dir, &name), attrs, &mut self.notes)
    }

    /// Sets the times of directories: what comes and goes touches them. Deepest first does not matter: no time of one
    /// touches another.
    fn times(&mut self, forward: bool) {
        let program = self.program;
        for time in &program.times {
            set_time(self.disk, self.places, time, forward, &mut self.notes);
        }
    }

    fn strip(&self, loc: &Loc) -> Result<(), Errno> {
        let (dir, name) = self.places.at(loc)?;
        for (attr, _) in dir.xattrs(&name)?.iter().filter(|(attr, _)| copy::is_overlay(attr)) {
            self.disk.remove_xattr((&dir, &name), attr)?;
        }
        Ok(())
    }

    /// What was replaced on mounts that have no part of the area is copied there, for an undo, and removed. Returns why
    /// there can be no undo, when something could not be kept.
    fn bring_home(&mut self) -> Option<String> {
        let mut lost = None;
        let mut lose = |notes: &mut Vec<String>, path: String, errno| {
            notes.push(format!("this commit cannot be undone: {path} could not be kept: {errno}"));
            lost = Some(format!("{path} could not be kept: {errno}"));
        };
        let (mut there, mut copied) = (Vec::new(), Vec::new());
        for loc in &self.intent.beside {
            match self.places.look(loc) {
                Ok(None) => continue,
                Ok(Some(_)) => there.push(loc),
                Err(errno) => {
                    self.notes.push(format!("{} could not be looked at: {errno}", self.places.shown(loc)));
                    continue;
                }
            }
            match self.copy_home(loc) {
                Ok(()) => copied.push(loc),
                Err(errno) => lose(&mut self.notes, self.places.shown(loc), errno),
            }
        }
        // The copies before their names, and those before the originals go. Once for all: there may be many.
        let area = &self.places.area;
        let mut kept = if there.is_empty() { Ok(()) } else { self.disk.sync(area) };
        for loc in copied {
            let named = kept.and_then(|()| {
                let home = saved_name(loc);
                self.disk.remove_tree((area, &home))?;
                self.disk.move_to_free((area, &new_name(&home)), (area, &home))
            });
            if let Err(errno) = named {
                lose(&mut self.notes, self.places.shown(loc), errno);
            }
        }
        kept = if there.is_empty() { Ok(()) } else { kept.and_then(|()| self.disk.sync(area)) };
        if let (Some(first), Err(errno)) = (there.first(), kept) {
            lose(&mut self.notes, self.places.shown(first), errno);
        }
        for loc in there {
            let removed = self.places.at(loc).and_then(|(dir, name)| self.disk.remove_tree((&dir, &name)));
            if let Err(errno) = removed {
                self.notes.push(format!("{} could not be removed: {errno}", self.places.shown(loc)));
            }
        }
        lost
    }

    fn copy_home(&mut self, loc: &Loc) -> Result<(), Errno> {
        let area = &self.places.area;
        let new = new_name(&saved_name(loc));
        self.disk.remove_tree((area, &new))?;
        let (dir, name) = self.places.at(loc)?;
        copy::tree(self.disk, (&dir, &name), (area, &new), &mut self.notes)
    }

    /// After a rollback nothing is left of the commit.
    fn forget(&self) -> Result<(), CommitError> {
        remove_beside(self.disk, self.places, self.intent)?;
        self.held.drop_commit(self.disk, self.intent.number)?;
        self.held.end(self.disk)
    }
}

/// The name in the area of what lay in a slot beside its target.
pub fn saved_name(loc: &Loc) -> PathBuf {
    // `.fvm-<token>-5-old` is `5-old`.
    let name = loc.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    PathBuf::from(name.splitn(3, '-').nth(2).unwrap_or(&name))
}

/// What it is called until it is whole.
fn new_name(home: &Path) -> PathBuf {
    PathBuf::from(format!("{}.new", home.display()))
}

/// Removes the stages that lie beside their targets, and gives their directories their times back.
pub fn remove_beside(disk: &dyn Disk, places: &Places, intent: &Intent) -> Result<(), CommitError> {
    for loc in &intent.beside {
        let fail = |errno| CommitError::Journal { what: "remove", path: places.shown(loc).into(), errno };
        match places.at(loc) {
            Ok((dir, name)) => disk.remove_tree((&dir, &name)).map_err(fail)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    let mut notes = Vec::new();
    for time in &intent.times {
        set_time(disk, places, time, false, &mut notes);
    }
    Ok(())
}

fn set_time(disk: &dyn Disk, places: &Places, time: &DirTime, forward: bool, notes: &mut Vec<String>) {
    let (at, mtime) = if forward { (&time.at, time.after.or(time.before)) } else { (&time.was_at, time.before) };
    let (Some(at), Some(mtime)) = (at, mtime) else { return };
    let set = || -> Result<(), Errno> {
        let dir = places.dir(at)?;
        let stat = dir.stat(Path::new(""))?;
        if time.ino != 0 && stat.stx_ino != time.ino {
            return Ok(());
        }
        if build::mtime(&stat) == mtime {
            return Ok(());
        }
        disk.set_mtime((&dir, Path::new("")), mtime.secs, mtime.nanos)
    };
    match set() {
        // A directory of somebody else's, in which this user may write, keeps the new time; so does one that is gone.
        Ok(()) | Err(Errno::PERM | Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP) => {}
        Err(e) => notes.push(format!("the time of {} could not be set: {e}", places.shown(at))),
    }
}
