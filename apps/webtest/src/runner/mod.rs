//! Works on a run: takes tasks, has them visited, records what came of them.
//!
//! ```text
//!  visit threads (concurrent)                     the calling thread, each second
//!   claim ─► visit ─► judge ─► store ─► record     renew leases, sweep those of others, count, tell
//!     ▲        │ nothing to visit: wait            signal ─► drain: no new claims; after `drain` stop: visits are cut short,
//!     └────────┴─ failed: retry later                        their tasks given back
//! ```
//!
//! Invariants: artifacts and the outcome are in the store before the database names them; a visit whose file could not be stored, or
//! that was cut short, is not recorded but given back; what makes every visit fail (disk full, no browser, no network) ends the run
//! after few, with its reason, and uses up no site's tries.

mod capacity;
mod fault;
mod identity;
mod tell;

pub use capacity::{Machine, concurrent, machine};
pub use fault::{RunError, has_way_out};
pub use identity::{bury_the_dead, worker};
pub use tell::{Event, Progress, Teller};

use crate::db::{DbError, Queue, Run, Taken, Worker};
use crate::model::{Ended, Kind, Network, Observation, Outcome, Task, Tier, Verdict};
use crate::store::{Store, StoreError};
use crate::visit::Visitor;
use fault::Fuses;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a runner needs.
pub struct Runner<'r> {
    /// The database.
    pub queue: &'r dyn Queue,
    /// Where files go.
    pub store: &'r dyn Store,
    /// Who visits.
    pub visitor: &'r dyn Visitor,
    /// What is said of what was seen.
    pub judge: &'r (dyn Fn(&Observation) -> Verdict + Sync),
    /// The run.
    pub run: &'r Run,
    /// Who this is; `concurrent` visits at once.
    pub me: Worker,
    /// Times.
    pub times: Times,
}

/// How long things take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// A lease that is not renewed ends after it. Renewed four times as often.
    pub lease: Duration,
    /// Visits may go on for so long after the first signal.
    pub drain: Duration,
    /// A site whose visit failed waits so long, times its tries.
    pub failed: Duration,
    /// A site that was not reached waits so long, times its tries.
    pub unreached: Duration,
    /// A database that cannot be reached is tried for so long.
    pub patience: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            failed: Duration::from_secs(5),
            unreached: Duration::from_secs(20),
            patience: Duration::from_secs(600),
        }
    }
}

/// How a runner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Each site has a result.
    Done,
    /// It was told to stop; the rest is queued.
    Stopped,
}

/// What the threads of a runner share.
struct Shared {
    /// No new claims.
    drain: AtomicBool,
    /// Visits are cut short.
    stop: AtomicBool,
    /// Nothing is left.
    done: AtomicBool,
    /// The first thing that makes going on useless.
    fault: Mutex<Option<RunError>>,
    /// Nothing was to be had: nobody asks before.
    empty_until: Mutex<Instant>,
    fuses: Fuses,
}

impl Shared {
    fn fail(&self, error: RunError) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.drain.store(true, Ordering::Relaxed);
    }
}

impl Runner<'_> {
    /// Works until nothing is left or `signals` (how many there were: one drains, two stop at once) says so.
    ///
    /// # Errors
    /// When going on is useless. What was not recorded is queued, or will be when its lease is over.
    pub fn work(&self, signals: &(dyn Fn() -> u32 + Sync), teller: &dyn Teller) -> Result<Finished, RunError> {
        let shared = Shared {
            drain: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            done: AtomicBool::new(false),
            fault: Mutex::new(None),
            empty_until: Mutex::new(Instant::now()),
            fuses: Fuses::new(self.run, self.me.concurrent),
        };
        self.queue.enter(&self.me)?;
        thread::scope(|scope| {
            let mut visits = Vec::new();
            for n in 0..self.me.concurrent.max(1) {
                let visit = thread::Builder::new()
                    .name(format!("visit-{n}"))
                    .spawn_scoped(scope, || self.visits(&shared, teller));
                match visit {
                    Ok(visit) => visits.push(visit),
                    Err(e) => {
                        shared.fail(RunError::Threads { wanted: self.me.concurrent, why: e.to_string() });
                        break;
                    }
                }
            }
            self.keep_house(&shared, signals, teller, &|| visits.iter().all(thread::ScopedJoinHandle::is_finished));
        });
        // What it still holds (none but after a fault) is queued again at once, if the database can be reached.
        let left = self.queue.leave(&self.me.id);
        if let Some(fault) = shared.fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(fault);
        }
        left?;
        Ok(if self.queue.finish(self.run.id)? { Finished::Done } else { Finished::Stopped })
    }

    /// Renews, sweeps, counts and tells until all visits have ended.
    fn keep_house(
        &self,
        shared: &Shared,
        signals: &(dyn Fn() -> u32 + Sync),
        teller: &dyn Teller,
        ended: &dyn Fn() -> bool,
    ) {
        let mut rate = tell::Rate::default();
        let (mut renewed, mut counted, mut lost): (Instant, Option<Instant>, _) =
            (Instant::now(), None, None::<Instant>);
        let mut draining: Option<Instant> = None;
        loop {
            let over = ended();
            let told = signals();
            if told > 0 && draining.is_none() {
                shared.drain.store(true, Ordering::Relaxed);
                teller.tell(&Event::Draining { seconds: self.times.drain.as_secs() });
            }
            if shared.drain.load(Ordering::Relaxed) {
                let since = *draining.get_or_insert_with(Instant::now);
                if told > 1 || since.elapsed() > self.times.drain {
                    shared.stop.store(true, Ordering::Relaxed);
                }
            }
            if renewed.elapsed() > self.times.lease / 4 {
                renewed = Instant::now();
                let kept = self.queue.renew(self.run.id, &self.me.id, self.lease_ms());
                match kept.and_then(|_| self.queue.sweep(self.run.id, self.run.params.attempts)) {
                    Ok(_) => lost = None,
                    Err(e) if e.passes() => {
                        if lost.is_none() {
                            teller.tell(&Event::Note { text: format!("{e}; waiting for it") });
                        }
                        if lost.get_or_insert_with(Instant::now).elapsed() > self.times.patience {
                            shared.fail(e.into());
                        }
                    }
                    Err(e) => shared.fail(e.into()),
                }
            }
            if over || counted.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                counted = Some(Instant::now());
                // One that cannot be had now comes next time.
                if let Ok(counts) = self.queue.counts(self.run.id) {
                    teller.tell(&Event::Progress(rate.progress(self.run, counts)));
                }
            }
            if over {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.times.lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// One thread: visit after visit.
    fn visits(&self, shared: &Shared, teller: &dyn Teller) {
        while !shared.drain.load(Ordering::Relaxed) && !shared.done.load(Ordering::Relaxed) {
            match self.next(shared) {
                Ok(Some(task)) => {
                    if let Err(e) = self.one(shared, &task, teller) {
                        shared.fail(e);
                    }
                }
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                Err(e) => shared.fail(e.into()),
            }
        }
    }

    /// The next task. Nothing: ask again.
    fn next(&self, shared: &Shared) -> Result<Option<Task>, DbError> {
        let mut empty_until = shared.empty_until.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < *empty_until {
            return Ok(None);
        }
        match self.queue.claim(self.run, &self.me.id, self.lease_ms()) {
            Ok(Some(task)) => Ok(Some(task)),
            Ok(None) => {
                if self.queue.finish(self.run.id)? {
                    shared.done.store(true, Ordering::Relaxed);
                }
                *empty_until = Instant::now() + Duration::from_millis(200);
                Ok(None)
            }
            // The housekeeper tells, and loses patience.
            Err(e) if e.passes() => {
                *empty_until = Instant::now() + Duration::from_secs(2);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// One task, to its end.
    fn one(&self, shared: &Shared, task: &Task, teller: &dyn Teller) -> Result<(), RunError> {
        let store = Noting { store: self.store, failed: Mutex::new(None) };
        let outcome = self.visit(shared, task, &store);
        if let Some(e) = store.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.give_back(shared, task);
            return Err(e.into());
        }
        // Cut short, or one of those after which the run ends: neither is the site's fault.
        if shared.stop.load(Ordering::Relaxed) {
            self.give_back(shared, task);
            return Ok(());
        }
        if let Some(fault) = shared.fuses.after(&outcome.seen.ended) {
            self.give_back(shared, task);
            return Err(fault);
        }
        let stored = crate::report::stored::put(self.store, &outcome);
        let stored = match stored {
            Ok(stored) => stored,
            Err(e) => {
                self.give_back(shared, task);
                return Err(e.into());
            }
        };
        let again = match &outcome.seen.ended {
            Ended::Failed { .. } => Some(self.times.failed),
            // Out of an archive nothing else comes.
            Ended::NotReached { .. } if !matches!(self.run.params.network, Network::Replay { .. }) => {
                Some(self.times.unreached)
            }
            _ => None,
        };
        let taken = self.insist(shared, || match again {
            Some(delay) => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).saturating_mul(task.attempt.into());
                let attempts = self.run.params.attempts;
                self.queue.retry(task, &self.me.id, attempts, delay_ms, &outcome, Some(&stored))
            }
            None => self.queue.record(task, &self.me.id, &outcome, Some(&stored)),
        })?;
        if taken == Taken::Recorded {
            teller.tell(&Event::result(task, &outcome));
        }
        Ok(())
    }

    /// Visits; what is suspicious once more with the full browser, if that is wanted.
    fn visit(&self, shared: &Shared, task: &Task, store: &dyn Store) -> Outcome {
        let once = |task: &Task| {
            let seen = self.visitor.visit(task, store, &shared.stop);
            Outcome { verdict: (self.judge)(&seen), seen }
        };
        let first = once(task);
        let again = self.run.params.tier == Tier::Auto && first.verdict.kind == Kind::Suspicious;
        if !again || shared.stop.load(Ordering::Relaxed) {
            return first;
        }
        both(first, once(&Task { tier: Tier::Full, ..task.clone() }))
    }

    fn give_back(&self, shared: &Shared, task: &Task) {
        // If that fails its lease runs out.
        let _later = self.insist(shared, || self.queue.release(task));
    }

    /// Does something with the database, also if that is away for a while.
    fn insist<T>(&self, shared: &Shared, mut work: impl FnMut() -> Result<T, DbError>) -> Result<T, DbError> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            match work() {
                Err(e) if e.passes() => {
                    let patience =
                        if shared.drain.load(Ordering::Relaxed) { self.times.drain } else { self.times.patience };
                    if began.elapsed() > patience {
                        return Err(e);
                    }
                }
                done => return done,
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

/// What two visits, of the small browser and of the full one, say together: the worse of both counts, what the second saw is kept.
fn both(first: Outcome, second: Outcome) -> Outcome {
    if matches!(second.seen.ended, Ended::Failed { .. }) {
        return first;
    }
    let severity = |kind: Kind| match kind {
        Kind::Malicious => 2,
        Kind::Suspicious => 1,
        Kind::Clean | Kind::Error | Kind::Unknown => 0,
    };
    let (one, other) = (first.verdict.kind, second.verdict.kind);
    let kind = if severity(one) > severity(other) { one } else { other };
    let mut reasons = second.verdict.reasons;
    for mut reason in first.verdict.reasons {
        if !reasons.iter().any(|other| other.rule == reason.rule) {
            reason.text = format!("{} (seen with the small browser only)", reason.text);
            reasons.push(reason);
        }
    }
    Outcome { verdict: Verdict { kind, reasons }, seen: second.seen }
}

/// A store that remembers that it failed.
struct Noting<'s> {
    store: &'s dyn Store,
    failed: Mutex<Option<StoreError>>,
}

impl Store for Noting<'_> {
    fn put(&self, bytes: &[u8]) -> Result<String, StoreError> {
        self.store.put(bytes).inspect_err(|e| {
            let note = StoreError { what: e.what, name: e.name.clone(), place: e.place.clone(), why: e.why.clone() };
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(note);
        })
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(name)
    }
}
