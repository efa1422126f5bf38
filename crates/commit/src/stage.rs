//! Makes everything that a plan brings, under names of its own beside the targets.
//!
//! Invariants: nothing that anybody uses is changed; what is staged is on the disk before this returns.

use crate::CommitError;
use crate::copy;
use crate::disk::Disk;
use crate::places::Places;
use fvm_model::plan::{Content, Plan, PlanOp};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Stages every op that brings content.
pub fn all(plan: &Plan, places: &Places, notes: &mut Vec<String>) -> Result<(), CommitError> {
    for op in &plan.ops {
        one(plan, op, places, notes).map_err(|(what, errno)| CommitError::Stage {
            path: op.path.clone(),
            what,
            errno,
        })?;
    }
    for (_, place) in places.iter() {
        let sync = |errno| CommitError::Open { path: place.host.as_path().into(), errno };
        Disk.sync(&place.root).map_err(sync)?;
    }
    Ok(())
}

fn one(plan: &Plan, op: &PlanOp, places: &Places, notes: &mut Vec<String>) -> Result<(), (&'static str, Errno)> {
    let Some(content) = op.content() else { return Ok(()) };
    let dir = places.host_dir(op.layer, &op.stage_dir).map_err(|e| ("open its directory", e))?;
    let name = PathBuf::from(op.stage_name(&plan.id));
    let to = (&dir, name.as_path());
    match content {
        // Its metadata come last, when everything is in it.
        Content::Directory => Disk.create_dir(&dir, &name).map_err(|e| ("create a directory", e)),
        Content::Layer => {
            let (from, source) = places.upper(op.layer, &op.source.on_host()).map_err(|e| ("find it in the VM", e))?;
            copy::entry((&from, &source), to, notes).map_err(|e| ("copy it from the VM", e))
        }
        Content::Op { n } => {
            let first = plan.ops.iter().find(|o| o.n == *n).ok_or(("link it", Errno::INVAL))?;
            let from = places.host_dir(first.layer, &first.stage_dir).map_err(|e| ("link it", e))?;
            Disk.link((&from, Path::new(&first.stage_name(&plan.id))), to).map_err(|e| ("link it", e))
        }
        Content::Host { at, .. } => {
            let (from, source) = places.host(op.layer, at).map_err(|e| ("find the file that it is a link to", e))?;
            Disk.link((&from, &source), to).map_err(|e| ("link it", e))
        }
    }
}
