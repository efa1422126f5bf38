//! The commits that there were, and how long what they replaced is kept.
//!
//! Invariant: what belongs to the newest commit is never removed by itself; a commit without its program stays in the
//! history, but cannot be undone.

use crate::CommitError;
use crate::disk::Disk;
use crate::journal::{Held, Phase, Store, What, now};
use fvm_model::Timestamp;
use fvm_sys::dir::Dir;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One commit of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
    /// When it began.
    pub started: Timestamp,
    /// When it was done; `None`: it is not over.
    pub finished: Option<Timestamp>,
    /// How many ops it had.
    pub operations: usize,
    /// Whether it was taken back (and not brought back).
    pub undone: bool,
    /// Why it cannot be undone; `None`: it can.
    pub final_because: Option<String>,
}

/// What of the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// That many commits can be undone.
    pub count: usize,
    /// None that is older than this.
    pub days: u64,
    /// As long as what they replaced takes no more than this.
    pub size_bytes: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { count: 100, days: 90, size_bytes: 10 << 30 }
    }
}

/// All commits, oldest first.
///
/// # Errors
/// When the journal cannot be read.
pub fn history(store: &Store) -> Result<Vec<Record>, CommitError> {
    let undone = undone(store)?;
    let mut records = Vec::new();
    for number in store.numbers()? {
        match one(store, number, undone.get(&number).copied().unwrap_or(false)) {
            // One that is just beginning.
            Err(CommitError::NoSuchCommit(_)) => {}
            other => records.push(other?),
        }
    }
    Ok(records)
}

/// One commit.
///
/// # Errors
/// When there is no such commit, or it cannot be read.
pub fn record(store: &Store, number: u64) -> Result<Record, CommitError> {
    one(store, number, is_undone(store, number)?)
}

fn one(store: &Store, number: u64, undone: bool) -> Result<Record, CommitError> {
    let intent = store.intent(number)?;
    let state = store.state(number)?;
    let has_program = store.path().join(number.to_string()).join("prepared").symlink_metadata().is_ok();
    let finished = state.as_ref().filter(|s| s.phase == Phase::Done).and_then(|s| s.finished);
    let lost = state.and_then(|s| s.final_because);
    let final_because = match (finished, undone) {
        (None, _) => Some("it is not over".to_owned()),
        (_, true) => Some("it is undone".to_owned()),
        _ => lost.or_else(|| (!has_program).then(|| "what it replaced was removed".to_owned())),
    };
    Ok(Record {
        number,
        what: intent.what,
        started: intent.started,
        finished,
        operations: store.ops(number)?.len(),
        undone,
        final_because,
    })
}

/// Whether a commit was taken back, and that was not taken back in its turn.
pub fn is_undone(store: &Store, number: u64) -> Result<bool, CommitError> {
    Ok(undone(store)?.get(&number).copied().unwrap_or(false))
}

/// For each commit that an undo names: whether it is undone.
fn undone(store: &Store) -> Result<BTreeMap<u64, bool>, CommitError> {
    let mut undone = BTreeMap::new();
    // Newest first: an undo counts unless a later one took it back.
    for number in store.numbers()?.into_iter().rev() {
        let intent = match store.intent(number) {
            Err(CommitError::NoSuchCommit(_)) => continue,
            other => other?,
        };
        let is_done = store.state(number)?.is_some_and(|s| s.phase == Phase::Done);
        if let What::Undo { of } = intent.what
            && is_done
            && !undone.get(&number).copied().unwrap_or(false)
        {
            undone.insert(of, true);
        }
    }
    Ok(undone)
}

/// Removes what commits replaced, the oldest first, until `keep` is met; returns their numbers.
///
/// # Errors
/// When something cannot be removed.
pub fn gc(disk: &dyn Disk, store: &Store, held: &Held, keep: Keep) -> Result<Vec<u64>, CommitError> {
    let now = now();
    // Those that share an area go together, when the newest of them goes.
    let mut groups: BTreeMap<u64, (Vec<u64>, Timestamp)> = BTreeMap::new();
    for number in store.numbers()? {
        let (Ok(intent), Ok(Some(state))) = (store.intent(number), store.state(number)) else { continue };
        let has_program = store.path().join(number.to_string()).join("prepared").symlink_metadata().is_ok();
        if let (Some(finished), true) = (state.finished, has_program) {
            let group = groups.entry(intent.area_of).or_insert((Vec::new(), finished));
            group.0.push(number);
            group.1 = group.1.max(finished);
        }
    }
    let mut newest_first: Vec<(u64, Vec<u64>, Timestamp)> = groups.into_iter().map(|(a, (n, t))| (a, n, t)).collect();
    newest_first.sort_by_key(|(_, _, at)| std::cmp::Reverse(*at));
    let (mut size_bytes, mut removed) = (0_u64, Vec::new());
    for (i, (area, numbers, at)) in newest_first.into_iter().enumerate() {
        let age_days = u64::try_from(now.secs.saturating_sub(at.secs)).unwrap_or(0) / 86_400;
        size_bytes = size_bytes.saturating_add(held.area(area).map_or(0, |dir| used(&dir)));
        let out = i >= keep.count || age_days > keep.days || size_bytes > keep.size_bytes;
        if !out || (i == 0 && keep.count > 0) {
            continue;
        }
        // Without a program nothing of the area is needed: in this order a crash leaves no undo without its entries.
        for number in &numbers {
            held.remove(disk, *number, "prepared")?;
        }
        held.remove(disk, area, "area")?;
        removed.extend(numbers);
    }
    removed.sort_unstable();
    Ok(removed)
}

/// What a tree takes on the disk.
fn used(top: &Dir) -> u64 {
    let mut bytes = 0_u64;
    let mut pending = vec![PathBuf::new()];
    while let Some(rel) = pending.pop() {
        let Ok(dir) = top.beneath_deep(&rel) else { continue };
        for name in dir.names().unwrap_or_default() {
            let Ok(stat) = dir.stat(Path::new(&name)) else { continue };
            bytes = bytes.saturating_add(stat.stx_blocks.saturating_mul(512));
            if rustix::fs::FileType::from_raw_mode(u32::from(stat.stx_mode)) == rustix::fs::FileType::Directory {
                pending.push(rel.join(name));
            }
        }
    }
    bytes
}
