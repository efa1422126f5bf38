//! VMs that wait for a browser: the paper's pool.
//!
//! ```text
//!   maker (a thread): fewer than SIZE wait? ─ admission ─► Vessel::start ─► waiting ─┐
//!   visit: with ◄────────────────────────────────────────── youngest, if not stale ◄─┘     none waits: it starts its own
//!            └─► the maker hears of it
//! ```
//!
//! Invariants: a VM is taken once; one that waited too long shows the host's mounts as they were, and is thrown away; dropped, nothing
//! of it is left.

use super::admission::Admission;
use super::machine::Vessel;
use fvm::Fvm;
use fvm::model::Policy;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many wait. One visit takes one at a time, and ten times as long as it takes to make one.
const SIZE: usize = 2;
/// So long one may wait.
const STALE: Duration = Duration::from_secs(60);

/// VMs that wait.
#[derive(Debug)]
pub struct Stock {
    shared: Arc<Shared>,
    maker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    fvm: Arc<Fvm>,
    policy: Policy,
    admission: Arc<Admission>,
    state: Mutex<State>,
    changed: Condvar,
    ends: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    waiting: Vec<(Vessel, Instant)>,
    /// A visit took one since some became stale, or could not be made: others are worth making.
    wanted: bool,
}

impl Stock {
    /// Begins to make VMs with this policy.
    pub fn new(fvm: Arc<Fvm>, policy: Policy, admission: Arc<Admission>) -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), wanted: true });
        let (changed, ends) = (Condvar::new(), AtomicBool::new(false));
        let shared = Arc::new(Shared { fvm, policy, admission, state, changed, ends });
        let own = Arc::clone(&shared);
        // Without it each visit starts its own.
        let maker = std::thread::Builder::new().name("stock".into()).spawn(move || own.make()).ok();
        Self { shared, maker }
    }

    /// Has `begin` use one that waits, or, where there is none or its VM has ended meanwhile, a new one.
    ///
    /// # Errors
    /// As `begin`, or when no VM can be started.
    pub fn with<T>(&self, begin: impl Fn(Vessel) -> Result<T, String>) -> Result<T, String> {
        let mut state = self.shared.state();
        state.wanted = true;
        // The youngest; where that is stale all are, and the maker throws them away.
        let taken = state.waiting.pop_if(|(_, since)| since.elapsed() < STALE);
        drop(state);
        self.shared.changed.notify_one();
        match taken.map(|(vessel, _)| begin(vessel)) {
            Some(Ok(begun)) => Ok(begun),
            _ => begin(Vessel::start(&self.shared.fvm, &self.shared.policy)?),
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // Under the lock: the maker has seen it, or waits.
        drop(self.shared.state());
        self.shared.changed.notify_all();
        if let Some(maker) = self.maker.take() {
            let _ended = maker.join();
        }
        self.shared.state().waiting.clear();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) {
        while self.wait() {
            let Some(admitted) = self.admission.enter(&self.ends) else { return };
            let made = Vessel::start(&self.fvm, &self.policy);
            drop(admitted);
            let mut state = self.state();
            match made {
                Ok(vessel) => state.waiting.push((vessel, Instant::now())),
                Err(_said_by_a_visit) => state.wanted = false,
            }
        }
    }

    /// Waits until one is wanted; false at the end. What is stale goes meanwhile.
    fn wait(&self) -> bool {
        loop {
            let mut state = self.state();
            let stale: Vec<_> = state.waiting.extract_if(.., |(_, since)| since.elapsed() >= STALE).collect();
            state.wanted &= stale.is_empty();
            let lacks = |state: &State| state.wanted && state.waiting.len() < SIZE;
            if stale.is_empty() && !lacks(&state) && !self.ends.load(Ordering::Relaxed) {
                let oldest = state.waiting.first().map_or(STALE, |(_, since)| STALE.saturating_sub(since.elapsed()));
                state = self.changed.wait_timeout(state, oldest).unwrap_or_else(PoisonError::into_inner).0;
            }
            let lacks = lacks(&state);
            drop(state);
            let ends = self.ends.load(Ordering::Relaxed);
            if !stale.is_empty() {
                let _may_end = self.admission.enter(&self.ends);
                drop(stale);
            }
            if ends || lacks {
                return !ends;
            }
        }
    }
}
