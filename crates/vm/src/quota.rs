//! A limit of disk that nobody but the keeper holds: it adds the layers up now and then, and ends the VM when they are over it.
//!
//! ```text
//!   keeper ── first wait ──► watcher, a thread: measure, sleep, measure, ...
//!      └─ every second: is it over? ◄── over ──┘
//! ```
//!
//! Invariants: the keeper answers while the layers are measured, however long that takes; layers with more files than can be counted
//! are over the limit. Not counted is what nobody can see from outside: files that were removed and are open, and what lies in
//! directories that their owner closed to himself. It holds programs that forget themselves, not those that mean to evade it.

use crate::disk;
use crate::home::Home;
use crate::usage::{self, Measured};
use fvm_model::VmRecord;
use fvm_model::policy::limits::show_size;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// How often the keeper asks, and how long the watcher sleeps at least.
const PAUSE: Duration = Duration::from_secs(1);
/// A large tree is measured less often: that takes one part in so many of the time.
const SHARE: u32 = 6;
/// What is over the limit without being measured.
const UNMEASURED: u64 = u64::MAX;

#[derive(Debug)]
struct Shared {
    layers: PathBuf,
    limit_bytes: AtomicU64,
    /// What was there when it was over the limit; 0 before.
    over_bytes: AtomicU64,
    is_done: AtomicBool,
}

/// A limit that is watched. Not watched any more when dropped.
#[derive(Debug)]
pub struct Quota {
    shared: Arc<Shared>,
    begun: Once,
}

impl Quota {
    /// The limit of a VM; `None` when it has none, or one that the kernel holds.
    #[must_use]
    pub fn of(home: &Home, record: &VmRecord) -> Option<Self> {
        let limit = record.policy.limits.disk_bytes.filter(|_| !disk::has(home, record))?;
        let shared = Shared {
            layers: record.layers_dir.as_path().to_owned(),
            limit_bytes: limit.into(),
            over_bytes: 0.into(),
            is_done: false.into(),
        };
        Some(Self { shared: Arc::new(shared), begun: Once::new() })
    }

    /// Begins to watch, if it was not begun: by a thread, so not before the last fork. When to ask again.
    pub fn due(&self) -> Instant {
        self.begun.call_once(|| {
            let shared = Arc::clone(&self.shared);
            drop(std::thread::spawn(move || watch(&shared)));
        });
        Instant::now() + PAUSE
    }

    /// Whether the VM is over its limit.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.shared.over_bytes.load(Ordering::Relaxed) > 0
    }

    /// Another limit from now on.
    pub fn set(&self, bytes: u64) {
        self.shared.limit_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What it did, in words.
    #[must_use]
    pub fn reached(&self) -> Option<String> {
        let limit = show_size(self.shared.limit_bytes.load(Ordering::Relaxed));
        match self.shared.over_bytes.load(Ordering::Relaxed) {
            0 => None,
            UNMEASURED => {
                Some(format!("it has too many files, or too deep ones, for its disk limit of {limit}, and was ended"))
            }
            over => {
                let mib = over.div_ceil(1 << 20);
                Some(format!("it took {mib}M of disk, more than its limit of {limit}, and was ended"))
            }
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.shared.is_done.store(true, Ordering::Relaxed);
    }
}

fn watch(shared: &Shared) {
    let is_done = || shared.is_done.load(Ordering::Relaxed);
    while !is_done() {
        let began = Instant::now();
        let Measured { bytes, complete } = usage::measure(&shared.layers, &is_done);
        let found = if complete { bytes } else { UNMEASURED };
        if found > shared.limit_bytes.load(Ordering::Relaxed) && !is_done() {
            shared.over_bytes.store(found, Ordering::Relaxed);
            return;
        }
        let until = Instant::now() + PAUSE.max(began.elapsed() * SHARE);
        while Instant::now() < until && !is_done() {
            std::thread::sleep(PAUSE.min(until.saturating_duration_since(Instant::now())));
        }
    }
}
