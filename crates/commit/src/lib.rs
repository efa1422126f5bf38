//! Carries a plan out on the host: all of it, or none, and back again.
//!
//! ```text
//!   Plan ── prepare ──► Prepared ── publish ──► Applied ── finish ──► a commit in the history
//!           check          │  "prepared" on disk:  │ the caller's
//!           stage          │  the commit point     │ own work
//!                          └─ abandon              └ recover: whoever comes after a crash goes on from there
//! ```
//!
//! Invariants: until the commit point nothing that anybody else uses is changed; afterwards either everything is in
//! place or everything is taken back, whenever the power goes; what was replaced is kept, so that [`undo`] can bring it
//! back; every host path is reached beneath its mount, without following a symlink; every change of a disk goes through
//! [`Disk`].

mod apply;
mod build;
mod check;
mod copy;
mod disk;
mod error;
mod history;
mod journal;
mod marks;
mod places;
mod program;
mod recover;
mod spread;
mod stage;
mod undo;

pub use disk::{Disk, Entry, HostDisk};
pub use error::{Changed, CommitError};
pub use history::{Keep, Record, gc, history, record};
pub use journal::{Held, OpLine, Store, What};
pub use marks::{Attributes, Marks, NewFile};
pub use recover::{AfterWork, Outcome, Recovered, recover};
pub use undo::undo;

use apply::{End, Run};
use fvm_model::VmPath;
use fvm_model::plan::{LayerDir, Plan};
use journal::{Intent, Phase, VERSION, now};
use places::{Loc, Places};
pub use program::Attrs;
use program::Program;
use rustix::io::Errno;
use std::collections::HashSet;
use std::sync::Arc;

/// Told how far staging is; may stop it.
pub trait Watch {
    /// `done` of `total` ops are staged. `false`: give up, nothing was changed.
    fn go_on(&mut self, done: usize, total: usize) -> bool;
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn go_on(&mut self, _: usize, _: usize) -> bool {
        true
    }
}

/// Which new files may leave the VM's layer. The VM has ended, but it may have passed a descriptor to a program outside,
/// which could write what was reviewed once it is the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moving {
    /// None: the VM keeps them.
    None,
    /// Those that no open description can write.
    Unwritten,
    /// All: the VM had no way to pass a descriptor out.
    Sealed,
}

/// How a plan is carried out.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose changes they are.
    pub what: What,
    /// Which new files may leave the VM's layer instead of being copied.
    pub moving: Moving,
    /// But not these.
    pub staying: HashSet<VmPath>,
    /// What the caller does between [`Prepared::publish`] and [`Applied::finish`]; kept in the journal, so that
    /// [`recover`] can have it done.
    pub after: Vec<u8>,
    /// Which new files are marked.
    pub marks: Option<Arc<dyn Marks>>,
}

/// A plan whose new content is staged.
#[derive(Debug)]
#[must_use = "a prepared plan is published or abandoned"]
pub struct Prepared<'d> {
    disk: &'d dyn Disk,
    held: Held,
    intent: Intent,
    places: Places,
    program: Program,
    applied: usize,
    notes: Vec<String>,
}

/// A plan that the host has, not yet tidied up.
#[derive(Debug)]
#[must_use = "finish ends the commit"]
pub struct Applied<'d> {
    disk: &'d dyn Disk,
    held: Held,
    intent: Intent,
    places: Places,
    program: Program,
    applied: usize,
    notes: Vec<String>,
}

/// A plan that was carried out.
#[derive(Debug)]
pub struct Published {
    /// The commit's number.
    pub number: u64,
    /// How many ops.
    pub applied: usize,
    /// Anything worth telling.
    pub notes: Vec<String>,
}

/// Checks the host and stages everything that the plan brings.
///
/// # Errors
/// Whatever stands in the way; no stage is left then.
pub fn prepare<'d>(
    disk: &'d dyn Disk,
    held: Held,
    plan: &Plan,
    sources: &[LayerDir],
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Prepared<'d>, CommitError> {
    if held.active()?.is_some() {
        return Err(CommitError::Unfinished);
    }
    let used: Vec<LayerDir> = sources.iter().filter(|s| plan.ops.iter().any(|op| op.layer == s.n)).cloned().collect();
    let looked = {
        let top = held.dir.beneath(std::path::Path::new(""));
        let top = top.map_err(|errno| CommitError::Open { path: held.path().to_owned(), errno })?;
        Places::open(&used, top)?
    };
    check::host(plan, &looked, check::Depth::Below)?;
    check::rights(plan, &looked)?;
    let token = token()?;
    let slots = stage::Slots::assign(plan, &looked, &token, options)
        .map_err(|errno| CommitError::Open { path: "the VM's layers".into(), errno })?;
    stage::space(plan, &looked, &slots)?;

    let number = next_number(&held)?;
    let beside = slots.beside();
    let times = build::dir_times(plan, &looked, &beside);
    let refs = looked.refs();
    let disturbed: HashSet<Loc> = beside.iter().map(Loc::parent).collect();
    let intent = Intent {
        version: VERSION,
        number,
        what: options.what.clone(),
        started: now(),
        area_of: number,
        mounts: refs.clone(),
        times: times.iter().filter(|t| t.was_at.as_ref().is_some_and(|dir| disturbed.contains(dir))).cloned().collect(),
        beside,
    };
    held.begin(disk, number)?;
    let mut notes = Vec::new();
    let staged = (|| {
        let places = Places::reopen(&refs, held.area(number)?)?;
        held.write_value(disk, number, "intent", &intent)?;
        held.write(disk, number, "ops", &op_lines(plan))?;
        if !options.after.is_empty() {
            held.write(disk, number, "after", &options.after)?;
        }
        let marks = options.marks.as_deref();
        stage::all(disk, plan, (&places, &slots, marks), watch, &mut notes)?;
        if let Some(marks) = marks {
            marks.keep().map_err(CommitError::Marks)?;
        }
        check::host(plan, &places, check::Depth::Named)?;
        let program = build::program(plan, &places, &slots, times)?;
        Ok((places, program))
    })();
    match staged {
        Ok((places, program)) => Ok(Prepared { disk, held, intent, places, program, applied: plan.ops.len(), notes }),
        Err(error) => {
            recover::abandon(disk, &held, &looked, &intent)?;
            Err(error)
        }
    }
}

impl<'d> Prepared<'d> {
    /// Passes the commit point and puts everything in place.
    ///
    /// # Errors
    /// When something stands in the way: everything was put back then.
    pub fn publish(self) -> Result<Applied<'d>, CommitError> {
        let Self { disk, held, intent, places, program, applied, notes } = self;
        if let Err(error) = held.write_value(disk, intent.number, "prepared", &program) {
            recover::abandon(disk, &held, &places, &intent)?;
            return Err(error);
        }
        let mut run = Run { disk, held: &held, intent: &intent, places: &places, program: &program, notes };
        match run.run(Phase::Take)? {
            End::Applied => {
                let notes = run.notes;
                Ok(Applied { disk, held, intent, places, program, applied, notes })
            }
            End::RolledBack(stop) => Err(CommitError::Publish { path: stop.path, errno: stop.errno }),
        }
    }

    /// Removes the stages: the host is as it was.
    ///
    /// # Errors
    /// When one cannot be removed; [`recover`] tries again.
    pub fn abandon(self) -> Result<(), CommitError> {
        recover::abandon(self.disk, &self.held, &self.places, &self.intent)
    }
}

impl Applied<'_> {
    /// The commit's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.intent.number
    }

    /// Tidies up; the commit is part of the history then.
    ///
    /// # Errors
    /// When the journal cannot be written; [`recover`] tries again.
    pub fn finish(self) -> Result<Published, CommitError> {
        let Self { disk, held, intent, places, program, applied, notes } = self;
        let run = Run { disk, held: &held, intent: &intent, places: &places, program: &program, notes };
        let notes = run.finish()?;
        Ok(Published { number: intent.number, applied, notes })
    }
}

fn op_lines(plan: &Plan) -> Vec<u8> {
    let mut lines = Vec::new();
    for op in &plan.ops {
        let line = OpLine { n: op.n, path: op.path.clone(), text: op.to_string() };
        // A line of these three cannot fail to be written.
        if serde_json::to_writer(&mut lines, &line).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}

fn next_number(held: &Held) -> Result<u64, CommitError> {
    let names =
        held.dir.names().map_err(|errno| CommitError::Journal { what: "list", path: held.path().to_owned(), errno })?;
    let last = names.iter().filter_map(|n| n.to_str()?.parse::<u64>().ok()).max();
    Ok(last.unwrap_or(0) + 1)
}

/// What names the stages of one commit, so that no other entry has such a name.
fn token() -> Result<String, CommitError> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno: Errno| CommitError::Open { path: "the random number generator".into(), errno })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
