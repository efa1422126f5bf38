//! From chosen changes to ops: each decision of a commit that needs no look at the host.
//!
//! ```text
//!   old namespace           new namespace                     stage_dir of /srv/a/x/f, where /srv/a is new: /srv
//!   /srv/a      ──rename──► /srv/b          occupant of /srv/b/new is looked for at /srv/a/new
//!   /srv/a/f    ──────────► /srv/b/f        base of /srv/b/f is /srv/a/f
//! ```
//!
//! Invariants: a stage directory exists on the host before and after the commit at the same place; the first name of a
//! hard-link group is copied, the others link to it.

use crate::closure::places;
use crate::{Choice, Given, OnConflict, ReviewError};
use fvm_model::path::Bytes;
use fvm_model::plan::{Action, Content, LayerDir, Occupant, Plan, PlanOp};
use fvm_model::{Change, ChangeKind, FileType, HostPath, MetaDelta, VmPath};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

struct Builder<'c> {
    by_path: HashMap<&'c VmPath, &'c Change>,
    rename_bases: HashSet<&'c HostPath>,
    groups: HashMap<u32, Group>,
    vm_wins: bool,
    given: &'c BTreeMap<VmPath, Given>,
    /// The directory asked about last, with where its stages lie and where it is today: its entries come in a row.
    last: Option<(VmPath, HostPath, Option<HostPath>)>,
}

/// How the names of one file get to be one.
enum Group {
    /// They link to this host file, which stays.
    Host(HostPath, bool),
    /// They share the stage of the first of them, once it has a number.
    Copy(Option<u32>),
}

/// The ops of `selected`, which is closed and sorted by path. When the VM wins, a moved entry replaces whatever is in its
/// way.
pub(crate) fn build(selected: &[&Change], layers: &[LayerDir], choice: &Choice) -> Result<Vec<PlanOp>, ReviewError> {
    let renamed = |c: &&&Change| matches!(c.kind, ChangeKind::Renamed { .. });
    let mut builder = Builder {
        by_path: selected.iter().map(|c| (&c.path, *c)).collect(),
        rename_bases: selected.iter().filter(renamed).filter_map(|c| c.base.as_ref()).collect(),
        groups: groups(selected),
        vm_wins: choice.on_conflict == OnConflict::Vm,
        given: &choice.given,
        last: None,
    };
    let mut ops = Vec::with_capacity(selected.len());
    for (i, change) in selected.iter().enumerate() {
        let layer = layers.iter().find(|l| l.n == change.layer);
        let no_layer = || ReviewError::NoLayer { path: change.path.clone(), layer: change.layer };
        let layer = layer.filter(|l| change.path.on_host().is_within(&l.host)).ok_or_else(no_layer)?;
        let n = u32::try_from(i + 1).unwrap_or(u32::MAX);
        ops.push(builder.op(n, change, &layer.host)?);
    }
    Ok(ops)
}

fn groups(selected: &[&Change]) -> HashMap<u32, Group> {
    let mut members: HashMap<u32, Vec<&Change>> = HashMap::new();
    for change in selected {
        if let Some(group) = change.link_group {
            members.entry(group).or_default().push(change);
        }
    }
    let decide = |changes: Vec<&Change>| {
        let new_name = |c: &Change| c.base.clone().filter(|_| c.kind == ChangeKind::Created);
        let linked = changes.iter().find_map(|c| c.link_host.clone().or_else(|| new_name(c)));
        let stays =
            |c: &&&Change| matches!(c.kind, ChangeKind::Metadata { .. } | ChangeKind::Renamed { modified: false, .. });
        let in_place = changes.iter().find(stays);
        let rest_is_new = changes.iter().all(|c| c.kind == ChangeKind::Created || stays(&c));
        match (linked, in_place.and_then(|c| c.base.clone())) {
            (Some(host), _) => Group::Host(host, true),
            (None, Some(host)) if rest_is_new => Group::Host(host, false),
            _ => Group::Copy(None),
        }
    };
    members.into_iter().map(|(group, changes)| (group, decide(changes))).collect()
}

impl Builder<'_> {
    fn op(&mut self, n: u32, change: &Change, root: &HostPath) -> Result<PlanOp, ReviewError> {
        let lacks = |what| ReviewError::Incomplete { path: change.path.clone(), what };
        let given = self.given.get(&change.path);
        let is_plain = matches!(change.kind, ChangeKind::Modified { .. }) && change.file_type == FileType::File;
        if given.is_some() && (!is_plain || change.link_group.is_some()) {
            return Err(ReviewError::NotInPart { path: change.path.clone() });
        }
        let overridden = change.conflict.is_some() && given.is_none();
        if crate::has_after(&change.kind) && change.after.is_none() {
            return Err(lacks("metadata"));
        }
        let base = || change.base.clone().ok_or_else(|| lacks("previous version"));
        let expect = if overridden { None } else { change.before.clone() };
        let mut meta = MetaDelta::default();
        let mut may_occupy = Occupant::Base;
        let (action, base) = match &change.kind {
            ChangeKind::Created => {
                may_occupy = if overridden { Occupant::Anything } else { Occupant::Nobody };
                (Action::Create { content: self.content(n, change) }, None)
            }
            ChangeKind::Modified { .. } | ChangeKind::Retyped { .. } => {
                (Action::Replace { content: self.content(n, change) }, Some(base()?))
            }
            ChangeKind::Deleted => (Action::Remove, Some(base()?)),
            ChangeKind::Renamed { modified, meta: delta } => {
                meta = *delta;
                may_occupy = if overridden || self.vm_wins { Occupant::Anything } else { Occupant::Old };
                let copy = *modified || self.is_made_anew(change);
                let content = copy.then(|| self.content(n, change));
                (Action::Rename { from: base()?, content }, Some(base()?))
            }
            ChangeKind::Metadata { .. } if self.is_made_anew(change) => {
                (Action::Replace { content: self.content(n, change) }, Some(base()?))
            }
            ChangeKind::Metadata { meta: delta } => {
                meta = *delta;
                (Action::SetMeta, Some(base()?))
            }
        };
        let (stage_dir, old_dir) = self.directory(&change.path, root);
        let occupant = if may_occupy == Occupant::Base {
            base.clone()
        } else {
            let old = old_dir.map(|dir| dir.join(change.path.name()));
            old.filter(|place| !self.rename_bases.contains(place))
        };
        Ok(PlanOp {
            n,
            path: change.path.clone(),
            layer: change.layer,
            file_type: change.file_type,
            action,
            base,
            expect,
            occupant,
            may_occupy,
            stage_dir,
            source: change.source.clone().unwrap_or_else(|| change.path.clone()),
            after: change.after.clone(),
            meta,
        })
    }

    /// Whether the entry becomes another file: a name in a group that is copied, or of an unchanged host file.
    fn is_made_anew(&self, change: &Change) -> bool {
        change.link_host.is_some()
            || change.link_group.is_some_and(|g| matches!(self.groups.get(&g), Some(Group::Copy(_))))
    }

    fn content(&mut self, n: u32, change: &Change) -> Content {
        if change.file_type == FileType::Directory {
            return Content::Directory;
        }
        if let Some(given) = self.given.get(&change.path) {
            return Content::Given { bytes: Bytes(OsString::from_vec(given.bytes.clone())) };
        }
        match change.link_group.and_then(|g| self.groups.get_mut(&g)) {
            Some(Group::Host(at, checked)) => {
                let expect = if *checked { change.after.clone() } else { None };
                Content::Host { at: at.clone(), expect }
            }
            Some(Group::Copy(Some(first))) => Content::Op { n: *first },
            Some(Group::Copy(first)) => {
                *first = Some(n);
                Content::Layer
            }
            None => match (&change.kind, change.link_host.as_ref().or(change.base.as_ref())) {
                (ChangeKind::Created, Some(at)) => Content::Host { at: at.clone(), expect: change.after.clone() },
                _ => Content::Layer,
            },
        }
    }

    /// Of the directory of `path`: where its stages lie, and where the host has today what will be in it; `None` when
    /// it is new.
    fn directory(&mut self, path: &VmPath, root: &HostPath) -> (HostPath, Option<HostPath>) {
        let Some(dir) = path.parent() else { return (root.clone(), Some(HostPath::root())) };
        if let Some((last, stage, old)) = &self.last
            && *last == dir
        {
            return (stage.clone(), old.clone());
        }
        let (stage, old) = (self.stage_dir(path, root), self.old_place(&dir));
        self.last = Some((dir, stage.clone(), old.clone()));
        (stage, old)
    }

    /// Where the host has today the directory that will be at `dir` once everything is in place; `None` when nowhere.
    fn old_place(&self, dir: &VmPath) -> Option<HostPath> {
        let mut above = Some(dir.clone());
        while let Some(at) = above {
            match self.by_path.get(&at).filter(|c| places(c)) {
                Some(change) if matches!(change.kind, ChangeKind::Renamed { .. }) => {
                    let base = change.base.as_ref()?;
                    let rest = dir.relative_to(&at)?;
                    let is_same = rest.as_os_str().is_empty();
                    return if is_same { Some(base.clone()) } else { HostPath::new(base.as_path().join(rest)).ok() };
                }
                Some(_) => return None,
                None => above = at.parent(),
            }
        }
        Some(dir.on_host())
    }

    fn stage_dir(&self, path: &VmPath, root: &HostPath) -> HostPath {
        let mut dir = root.clone();
        let Some(rel) = path.on_host().relative_to(root).map(std::path::Path::to_path_buf) else { return dir };
        for name in rel.parent().into_iter().flat_map(std::path::Path::components) {
            let next = dir.join(name.as_os_str());
            let placed = self.by_path.get(&next.in_vm()).is_some_and(|c| places(c) || c.kind == ChangeKind::Deleted);
            if placed || self.rename_bases.contains(&next) {
                break;
            }
            dir = next;
        }
        dir
    }
}

/// The directories of which the ops add, replace or remove an entry.
pub(crate) fn dirs(ops: &[PlanOp]) -> HashSet<VmPath> {
    let from = |op: &PlanOp| match &op.action {
        Action::Rename { from, .. } => from.in_vm().parent(),
        _ => None,
    };
    let changing = ops.iter().filter(|op| op.action != Action::SetMeta);
    changing.flat_map(|op| [op.path.parent(), from(op)]).flatten().collect()
}

/// An id that equal plans share (FNV-1a over what is done to which version of what).
pub(crate) fn fingerprint(plan: &Plan) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for op in &plan.ops {
        let (kind, from): (u8, Option<&HostPath>) = match &op.action {
            Action::Create { .. } => (0, None),
            Action::Replace { .. } => (1, None),
            Action::Remove => (2, None),
            Action::Rename { from, .. } => (3, Some(from)),
            Action::SetMeta => (4, None),
        };
        add(&[kind]);
        add(op.path.as_bytes());
        add(from.map_or(&[], |from| from.as_bytes()));
        if let Some(Content::Given { bytes }) = op.content() {
            add(bytes.0.as_encoded_bytes());
        }
        for meta in [&op.after, &op.expect].into_iter().flatten() {
            add(&meta.size_bytes.to_le_bytes());
            add(&meta.mtime.secs.to_le_bytes());
            add(&meta.mtime.nanos.to_le_bytes());
            add(&[meta.mode, meta.uid, meta.gid].map(u32::to_le_bytes).concat());
        }
    }
    format!("{hash:016x}")
}
