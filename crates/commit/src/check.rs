//! Whether the host is still what the plan was made for, and would take it.
//!
//! Invariant: looks only.

use crate::places::Places;
use crate::{Changed, CommitError};
use fvm_model::plan::{Action, Content, Occupant, Plan, PlanOp};
use fvm_model::{FileType, HostPath, Meta, Timestamp, VmPath};
use fvm_sys::dir::Dir;
use rustix::fs::{self, Access, AtFlags, Statx};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::path::Path;

/// How far [`host`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// At the entries that the plan names.
    Named,
    /// And at all below those that go. Only before staging: a new hard link is a change to its file.
    Below,
}

/// Compares every entry that the plan expects something of.
pub fn host(plan: &Plan, places: &Places, depth: Depth) -> Result<(), CommitError> {
    let mut changed = Vec::new();
    // Nothing can be on the host where a new directory will be, but what the directory's own op finds there.
    let new: HashSet<&VmPath> =
        plan.ops.iter().filter(|op| op.content() == Some(&Content::Directory)).map(|op| &op.path).collect();
    let is_inside = |op: &PlanOp| {
        let plain =
            matches!(op.action, Action::Create { content: Content::Layer | Content::Directory | Content::Op { .. } });
        plain && op.path.parent().is_some_and(|dir| new.contains(&dir))
    };
    for op in plan.ops.iter().filter(|op| !is_inside(op)) {
        entries(plan, op, places, depth, &mut changed);
    }
    changed.dedup();
    if changed.is_empty() { Ok(()) } else { Err(CommitError::HostChanged(changed)) }
}

fn entries(plan: &Plan, op: &PlanOp, places: &Places, depth: Depth, changed: &mut Vec<Changed>) {
    // What is in a directory matters when it goes.
    let goes = matches!(op.action, Action::Remove | Action::Replace { .. });
    let mut differs = |path: &HostPath, what: &str| changed.push(Changed { path: path.to_string(), what: what.into() });
    if let Err(e) = host_dir(places, op.layer, &op.stage_dir) {
        differs(&op.stage_dir, &format!("the directory is not as it was: {e}"));
        return;
    }
    if let Some(base) = &op.base {
        match (look(places, op.layer, base), &op.expect) {
            (Ok(None), _) => differs(base, "it is not there any more"),
            (Ok(Some(now)), then) => match then.as_ref().and_then(|then| difference(&now, then, goes)) {
                Some(what) => differs(base, what),
                None if goes && depth == Depth::Below => {
                    let forked = plan.forked.filter(|_| then.is_some());
                    below(places, op.layer, base, &now, forked).iter().for_each(|(path, what)| differs(path, what));
                }
                None => {}
            },
            (Err(e), _) => differs(base, &format!("it cannot be reached as before: {e}")),
        }
    }
    if let Some(Content::Host { at, expect }) = op.content() {
        match (look(places, op.layer, at), expect) {
            (Ok(Some(now)), Some(then)) => {
                if let Some(what) = difference(&now, then, true) {
                    differs(at, what);
                }
            }
            (Ok(Some(_)), None) => {}
            (Ok(None), _) => differs(at, "it is not there any more"),
            (Err(e), _) => differs(at, &format!("it cannot be reached as before: {e}")),
        }
    }
    if let (Some(occupant), true) = (&op.occupant, op.may_occupy != Occupant::Base) {
        match look(places, op.layer, occupant) {
            Ok(None) => {}
            Ok(Some(now)) => {
                // Without a time of the fork nobody knows whether the VM ever saw it.
                let is_new = plan.forked.is_none_or(|forked| ctime(&now) > forked);
                let anything = op.may_occupy == Occupant::Anything;
                if op.may_occupy == Occupant::Nobody || is_new && !anything {
                    differs(occupant, "it was created meanwhile");
                } else if depth == Depth::Below {
                    let forked = plan.forked.filter(|_| !anything);
                    below(places, op.layer, occupant, &now, forked).iter().for_each(|(path, what)| differs(path, what));
                }
            }
            Err(_) if op.may_occupy == Occupant::Anything => {}
            Err(e) => differs(occupant, &format!("it cannot be reached as before: {e}")),
        }
    }
}

fn look(places: &Places, layer: u32, path: &HostPath) -> Result<Option<Statx>, Errno> {
    places.look(&places.on_host(layer, path)?)
}

fn host_dir(places: &Places, layer: u32, path: &HostPath) -> Result<Dir, Errno> {
    places.dir(&places.on_host(layer, path)?)
}

fn ctime(stat: &Statx) -> Timestamp {
    Timestamp { secs: stat.stx_ctime.tv_sec, nanos: stat.stx_ctime.tv_nsec }
}

/// The first entry below the directory `top` that changed after `forked`, or that something is mounted on: it would be
/// carried away with the directory.
fn below(
    places: &Places,
    layer: u32,
    top: &HostPath,
    stat: &Statx,
    forked: Option<Timestamp>,
) -> Option<(HostPath, &'static str)> {
    let is_dir = |s: &Statx| fs::FileType::from_raw_mode(u32::from(s.stx_mode)) == fs::FileType::Directory;
    let mut pending = if is_dir(stat) { vec![top.clone()] } else { Vec::new() };
    while let Some(path) = pending.pop() {
        // What this user cannot read, it cannot remove either: publishing says so.
        let Ok(dir) = host_dir(places, layer, &path) else { continue };
        for name in dir.names().unwrap_or_default() {
            let Ok(Some(child)) = dir.stat_opt(Path::new(&name)) else { continue };
            if child.stx_mnt_id != stat.stx_mnt_id {
                return Some((path.join(&name), "something was mounted there after the fork"));
            }
            if forked.is_some_and(|forked| ctime(&child) > forked) {
                return Some((path.join(&name), "it changed after the fork"));
            }
            if is_dir(&child) {
                pending.push(path.join(&name));
            }
        }
    }
    None
}

/// What of `now` is not as `then`. A directory's time, which moves with its entries, counts only if `whole`.
fn difference(now: &Statx, then: &Meta, whole: bool) -> Option<&'static str> {
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
    let time = (now.stx_mtime.tv_sec, now.stx_mtime.tv_nsec) == (then.mtime.secs, then.mtime.nanos);
    match file_type {
        FileType::Directory if whole && !time => Some("its entries changed"),
        FileType::Directory => None,
        _ if now.stx_size != then.size_bytes || !time => Some("its content changed"),
        _ => None,
    }
}

/// Whether the VM's file at `op` is that which the plan was made from.
pub fn is_as_scanned(op: &PlanOp, now: &Statx) -> bool {
    op.after.as_ref().is_none_or(|then| difference(now, then, false).is_none())
}

/// Whether this user may change the directories that the plan changes: the stages', and those that entries leave.
pub fn rights(plan: &Plan, places: &Places) -> Result<(), CommitError> {
    let mut dirs = BTreeSet::new();
    for op in &plan.ops {
        if let Some(base) = &op.base {
            mutable(places, op.layer, base)?;
        }
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
        mutable(places, layer, &path)?;
        let dir = host_dir(places, layer, &path).map_err(denied)?;
        fs::accessat(&dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).map_err(denied)?;
    }
    Ok(())
}

/// Nobody, not even root, renames, removes or changes an entry that is marked so.
fn mutable(places: &Places, layer: u32, path: &HostPath) -> Result<(), CommitError> {
    let Ok(Some(stat)) = look(places, layer, path) else { return Ok(()) };
    let has = |mark| stat.stx_attributes.contains(mark);
    let (what, flag) = if has(fs::StatxAttributes::IMMUTABLE) {
        ("immutable", "-i")
    } else if has(fs::StatxAttributes::APPEND) {
        ("append-only", "-a")
    } else {
        return Ok(());
    };
    Err(CommitError::Immutable { path: path.clone(), what, flag })
}

/// Metadata belong to the owner, or to root.
fn owned(op: &PlanOp, places: &Places) -> Result<(), CommitError> {
    let uid = rustix::process::geteuid().as_raw();
    let Some(base) = &op.base else { return Ok(()) };
    let read_only = |dir: &Dir| fs::fstatvfs(dir).is_ok_and(|s| s.f_flag.contains(fs::StatVfsMountFlags::RDONLY));
    if places.on_host(op.layer, base).and_then(|loc| places.at(&loc)).is_ok_and(|(dir, _)| read_only(&dir)) {
        return Err(CommitError::Denied { path: base.clone(), errno: Errno::ROFS });
    }
    match look(places, op.layer, base) {
        Ok(Some(stat)) if uid != 0 && stat.stx_uid != uid => {
            Err(CommitError::Denied { path: base.clone(), errno: Errno::PERM })
        }
        _ => Ok(()),
    }
}
