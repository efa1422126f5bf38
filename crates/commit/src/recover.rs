//! After a crash: every commit is brought to its end, forward or back.
//!
//! ```text
//!   active ─┬─ no "prepared"            the stages go, the host is as it was
//!           ├─ Take, Place              forward; if that cannot be, back
//!           ├─ Finish                   the caller's work again, tidying
//!           ├─ UnPlace, UnTake          back
//!           └─ Done, Undone             only "active" is left
//! ```
//!
//! Invariant: running it twice, or being stopped in it at any point, changes nothing about the outcome.

use crate::CommitError;
use crate::apply::{End, Run, remove_beside};
use crate::disk::Disk;
use crate::journal::{Held, Intent, Phase, Store, What};
use crate::places::Places;

/// How an interrupted commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The host has everything.
    Completed,
    /// The host is as it was before.
    TakenBack,
}

/// An interrupted commit that is over now.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Its number.
    pub number: u64,
    /// What it was; `None` when it had not begun.
    pub what: Option<What>,
    /// How it ended.
    pub outcome: Outcome,
    /// Anything worth telling.
    pub notes: Vec<String>,
}

/// What the caller of a commit does between its application and its end.
pub type AfterWork<'a> = dyn FnMut(&What, &[u8]) -> Result<(), String> + 'a;

/// Brings the interrupted commit, if there is one, to its end. `after` does what its caller left to do, by what it said
/// in [`crate::Options::after`].
///
/// # Errors
/// When that is not possible yet: nothing is lost, and it can be tried again.
pub fn recover(
    disk: &dyn Disk,
    store: &Store,
    held: &Held,
    after: &mut AfterWork<'_>,
) -> Result<Option<Recovered>, CommitError> {
    let Some(number) = held.active()? else { return Ok(None) };
    let intent = match store.intent(number) {
        Ok(intent) => intent,
        Err(CommitError::NoSuchCommit(_)) => {
            held.drop_commit(disk, number)?;
            held.end(disk)?;
            return Ok(Some(Recovered { number, what: None, outcome: Outcome::TakenBack, notes: Vec::new() }));
        }
        Err(e) => return Err(e),
    };
    let what = intent.what.clone();
    let ended = |outcome, notes| Ok(Some(Recovered { number, what: Some(what.clone()), outcome, notes }));
    let phase = store.state(number)?.map(|state| state.phase);
    if phase == Some(Phase::Done) {
        held.end(disk)?;
        return ended(Outcome::Completed, Vec::new());
    }
    let places = Places::reopen(&intent.mounts, held.area(intent.area_of)?);
    let Some(phase) = phase else {
        abandon(disk, held, &places?, &intent)?;
        return ended(Outcome::TakenBack, Vec::new());
    };
    let Some(program) = store.program(number)? else {
        // A rollback that was stopped while it removed its own traces.
        held.drop_commit(disk, number)?;
        held.end(disk)?;
        return ended(Outcome::TakenBack, Vec::new());
    };
    let places = places?;
    let mut run = Run { disk, held, intent: &intent, places: &places, program: &program, notes: Vec::new() };
    match run.run(phase)? {
        End::RolledBack(stop) => {
            let why = format!("{}: {}", stop.path, stop.errno);
            ended(Outcome::TakenBack, vec![why])
        }
        End::Applied => {
            let mut notes = Vec::new();
            if let Err(why) = after(&intent.what, &store.after(number)?) {
                notes.push(format!("the VM still holds what was committed: {why}"));
            }
            notes.extend(run.finish()?);
            ended(Outcome::Completed, notes)
        }
    }
}

/// Ends a commit that has not passed its commit point: nothing is left of it.
pub fn abandon(disk: &dyn Disk, held: &Held, places: &Places, intent: &Intent) -> Result<(), CommitError> {
    remove_beside(disk, places, intent)?;
    held.drop_commit(disk, intent.number)?;
    held.end(disk)
}
