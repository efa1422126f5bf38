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
        let occupant = if may_occupy == Occupant::Base { base.clone() } else { self.old_place(&change.path) };
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
            stage_dir: self.stage_dir(&change.path, root),
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

    /// Where the host today has what will stand at `path` once the directories above it are in place; `None` when
    /// nothing can.
    fn old_place(&self, path: &VmPath) -> Option<HostPath> {
        let mut place = path.on_host();
        let mut above = path.parent();
        while let Some(dir) = above {
            match self.by_path.get(&dir).filter(|c| places(c)) {
                Some(change) if matches!(change.kind, ChangeKind::Renamed { .. }) => {
                    place = HostPath::new(change.base.as_ref()?.as_path().join(path.relative_to(&dir)?)).ok()?;
                    break;
                }
                Some(_) => return None,
                None => above = dir.parent(),
            }
        }
        (!self.rename_bases.contains(&place)).then_some(place)
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

/// An id that equal plans share (FNV-1a over the ops).
pub(crate) fn fingerprint(plan: &Plan) -> String {
    let text = format!("{:?}{:?}", plan.ops, plan.dir_times);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
