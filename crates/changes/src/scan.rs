//! One scan: each layer on its own, then all together.
//!
//! ```text
//!   layer ─► find_moves ─► walk ─► match_renames ─► find_aliases ─► group_links ─► find_conflicts ─┐
//!   layer ─► ...                                                                                  ├─► sorted ChangeSet
//!   file  ─► compare with the private copy ───────────────────────────────────────────────────────┘
//! ```

use crate::compare::{Side, delta, meta, same_content};
use crate::layer::LayerScan;
use crate::{LayerView, ScanError, ScanInput, filter};
use fvm_model::path::printable;
use fvm_model::{Change, ChangeKind, ChangeSet, LayerKind, VmPath};
use fvm_sys::dir::Dir;
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Everything that the layers hold against the host.
///
/// Unchanged copies are no change. The result is sorted by path and has one change per path; what could not be read is
/// in its warnings.
///
/// # Errors
/// When a layer's own directory cannot be opened, or holds more than can be listed.
pub fn scan(input: &ScanInput) -> Result<ChangeSet, ScanError> {
    let mut set = ChangeSet::default();
    let mut groups = 0;
    for view in &input.layers {
        match view.layer.kind {
            LayerKind::File => scan_file(view, &mut set)?,
            LayerKind::Overlay | LayerKind::Skeleton => match LayerScan::open(input, view)? {
                Ok(layer) => scan_layer(layer, &mut groups, &mut set)?,
                Err(why) => set.warnings.push(why),
            },
        }
    }
    set.changes.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    set.changes.dedup_by(|later, first| {
        let same = later.path == first.path;
        if same {
            set.warnings.push(format!("{}: two layers hold this path; layer {} was believed", first.path, first.layer));
        }
        same
    });
    set.touched.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    Ok(set)
}

/// [`scan`], keeping only what is at or below one of `only` (see [`filter`]).
///
/// # Errors
/// As [`scan`].
pub fn scan_under(input: &ScanInput, only: &[VmPath]) -> Result<ChangeSet, ScanError> {
    Ok(filter(scan(input)?, only))
}

fn scan_layer(mut layer: LayerScan<'_>, groups: &mut u32, set: &mut ChangeSet) -> Result<(), ScanError> {
    layer.find_moves();
    layer.walk()?;
    let handles = layer.match_renames();
    layer.find_aliases()?;
    layer.group_links(groups);
    layer.find_conflicts(&handles);
    set.changes.extend(layer.found.into_iter().filter(|f| !f.dead).map(|f| f.change));
    set.touched.extend(layer.touched);
    set.warnings.extend(layer.warnings);
    Ok(())
}

/// A file that is a mount point: its private copy against the host's.
fn scan_file(view: &LayerView, set: &mut ChangeSet) -> Result<(), ScanError> {
    let host = &view.layer.host;
    let fail = |source: Errno| ScanError::Layer {
        layer: view.layer.n,
        path: printable(view.dir.as_os_str().as_bytes()),
        source,
    };
    let ours_dir = Dir::open_root(&view.dir).map_err(fail)?;
    let ours_stat = ours_dir.stat(Path::new("file")).map_err(fail)?;
    let theirs = host.parent().and_then(|p| Dir::open_root(p.as_path()).ok());
    let theirs = theirs.and_then(|dir| dir.stat(Path::new(host.name())).ok().map(|stat| (dir, stat)));
    let Some((their_dir, their_stat)) = theirs else {
        set.warnings.push(format!("'{host}' is gone on the host: layer {} was not read", view.layer.n));
        return Ok(());
    };
    let ours = Side { dir: &ours_dir, name: Path::new("file"), stat: &ours_stat };
    let their = Side { dir: &their_dir, name: Path::new(host.name()), stat: &their_stat };
    let (ours_meta, their_meta) = (meta(&ours_stat), meta(&their_stat));
    let compared = if ours_meta.file_type == their_meta.file_type {
        same_content(ours, their).and_then(|same| Ok((same, delta(ours, their)?)))
    } else {
        Ok((false, fvm_model::MetaDelta::default()))
    };
    let kind = match compared {
        // A copy's mtime and owner say nothing by themselves.
        Ok((true, meta)) if !meta.mode => return Ok(()),
        Ok((true, meta)) => ChangeKind::Metadata { meta },
        Ok((false, meta)) => ChangeKind::Modified { meta },
        Err(e) => {
            set.warnings.push(format!("{host}: cannot be compared ({e})"));
            return Ok(());
        }
    };
    set.changes.push(Change {
        path: host.in_vm(),
        kind,
        file_type: ours_meta.file_type,
        base: Some(host.clone()),
        layer: view.layer.n,
        before: Some(their_meta),
        after: Some(ours_meta),
        target: None,
        link_group: None,
        link_host: None,
        source: None,
        uncommittable: Some("it is a mount point on the host".to_owned()),
        conflict: None,
        origin: None,
    });
    Ok(())
}
