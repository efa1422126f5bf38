//! Whether the host is still what the plan was made for, and would take it.
//!
//! Invariant: looks only.

use crate::places::Places;
use crate::{Changed, CommitError};
use fvm_model::plan::{Action, Content, Occupant, Plan, PlanOp};
use fvm_model::{FileType, HostPath, Meta, Timestamp};
use rustix::fs::{self, Access, AtFlags, Statx};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// Compares every entry that the plan expects something of.
pub fn host(plan: &Plan, places: &Places) -> Result<(), CommitError> {
    let mut changed = Vec::new();
    for op in &plan.ops {
        entries(plan, op, places, &mut changed);
    }
    changed.dedup();
    if changed.is_empty() { Ok(()) } else { Err(CommitError::HostChanged(changed)) }
}

fn entries(plan: &Plan, op: &PlanOp, places: &Places, changed: &mut Vec<Changed>) {
    let mut differs = |path: &HostPath, what: &str| changed.push(Changed { path: path.clone(), what: what.into() });
    if let Err(e) = places.host_dir(op.layer, &op.stage_dir) {
        differs(&op.stage_dir, &format!("the directory is not as it was: {e}"));
        return;
    }
    if let Some(base) = &op.base {
        match (look(places, op.layer, base), &op.expect) {
            (Ok(None), _) => differs(base, "it is not there any more"),
            (Ok(Some(now)), Some(then)) => {
                if let Some(what) = difference(&now, then) {
                    differs(base, what);
                }
            }
            (Ok(Some(_)), None) => {}
            (Err(e), _) => differs(base, &format!("it cannot be reached as before: {e}")),
        }
    }
    if let Some(Content::Host { at, expect }) = op.content() {
        match (look(places, op.layer, at), expect) {
            (Ok(Some(now)), Some(then)) => {
                if let Some(what) = difference(&now, then) {
                    differs(at, what);
                }
            }
            (Ok(Some(_)), None) => {}
            (Ok(None), _) => differs(at, "it is not there any more"),
            (Err(e), _) => differs(at, &format!("it cannot be reached as before: {e}")),
        }
    }
    if let (Some(occupant), true) = (&op.occupant, matches!(op.may_occupy, Occupant::Nobody | Occupant::Old)) {
        match look(places, op.layer, occupant) {
            Ok(None) => {}
            Ok(Some(now)) => {
                let old = plan.forked.is_none_or(|forked| ctime(&now) <= forked);
                if op.may_occupy == Occupant::Nobody || !old {
                    differs(occupant, "it was created meanwhile");
                }
            }
            Err(e) => differs(occupant, &format!("it cannot be reached as before: {e}")),
        }
    }
}

fn look(places: &Places, layer: u32, path: &HostPath) -> Result<Option<Statx>, Errno> {
    match places.host(layer, path) {
        Ok((dir, name)) => dir.stat_opt(&name),
        // Its directory is not there: neither is it.
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn ctime(stat: &Statx) -> Timestamp {
    Timestamp { secs: stat.stx_ctime.tv_sec, nanos: stat.stx_ctime.tv_nsec }
}

fn difference(now: &Statx, then: &Meta) -> Option<&'static str> {
    let mode = u32::from(now.stx_mode);
    let file_type = match fs::FileType::from_raw_mode(mode) {
        fs::FileType::Directory => FileType::Directory,
        fs::FileType::Symlink => FileType::Symlink,
        fs::FileType::Fifo => FileType::Fifo,
        fs::FileType::Socket => FileType::Socket,
        fs::FileType::CharacterDevice => FileType::CharDevice,
        fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::File,
    };
    if file_type != then.file_type {
        return Some("it is of another type now");
    }
    if (mode & 0o7777, now.stx_uid, now.stx_gid) != (then.mode, then.uid, then.gid) {
        return Some("its owner or mode changed");
    }
    // What is in a directory is no part of it here: the scan looked at its entries.
    let content = (now.stx_size, now.stx_mtime.tv_sec, now.stx_mtime.tv_nsec);
    if file_type != FileType::Directory && content != (then.size_bytes, then.mtime.secs, then.mtime.nanos) {
        return Some("its content changed");
    }
    None
}

/// Whether this user may change the directories that the plan changes: the stages', and those that entries leave.
pub fn rights(plan: &Plan, places: &Places) -> Result<(), CommitError> {
    let mut dirs = BTreeSet::new();
    for op in &plan.ops {
        if op.action == Action::SetMeta {
            owned(op, places)?;
            continue;
        }
        dirs.insert((op.layer, op.stage_dir.clone()));
        if let Some(parent) = op.base.as_ref().and_then(HostPath::parent) {
            dirs.insert((op.layer, parent));
        }
    }
    for (layer, path) in dirs {
        let denied = |errno| CommitError::Denied { path: path.clone(), errno };
        let dir = places.host_dir(layer, &path).map_err(denied)?;
        fs::accessat(&dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).map_err(denied)?;
    }
    Ok(())
}

/// Metadata belong to the owner, or to root.
fn owned(op: &PlanOp, places: &Places) -> Result<(), CommitError> {
    let uid = rustix::process::geteuid().as_raw();
    let Some(base) = &op.base else { return Ok(()) };
    match look(places, op.layer, base) {
        Ok(Some(stat)) if uid != 0 && stat.stx_uid != uid => {
            Err(CommitError::Denied { path: base.clone(), errno: Errno::PERM })
        }
        _ => Ok(()),
    }
}

/// Whether the staged files fit.
pub fn space(plan: &Plan, places: &Places) -> Result<(), CommitError> {
    let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
    for op in plan.ops.iter().filter(|op| op.content() == Some(&Content::Layer)) {
        let Ok((dir, name)) = places.upper(op.layer, &op.source.on_host()) else { continue };
        // Blocks, not length: holes stay holes.
        if let Ok(stat) = dir.stat(&name) {
            *needed.entry(op.layer).or_default() += stat.stx_blocks.saturating_mul(512);
        }
    }
    for (n, place) in places.iter() {
        let needed_bytes = needed.get(n).copied().unwrap_or(0);
        let Ok(free) = fs::fstatvfs(&place.root) else { continue };
        let free_bytes = free.f_bavail.saturating_mul(free.f_frsize);
        if needed_bytes > free_bytes {
            return Err(CommitError::Space { at: place.host.clone(), needed_bytes, free_bytes });
        }
    }
    Ok(())
}
