//! `status`: what a VM changed, entry by entry.
//!
//! ```text
//!   asked for nothing more   each_change ─► PackedChanges ─► text, JSON    nothing of a file is read, no change set is kept
//!   --by process             ChangeSet + log ─► text by program
//!   judged (is_judged,       ChangeSet + log + contents ─► the same, and what of it is a risk
//!   --analyze and alike)
//! ```

use super::changes::{judged, paths, scan, tell_risks, tell_whole, told, warn};
use crate::Done;
use crate::args::{ByArg, Status};
use crate::output::Output;
use crate::render::{self, origin};
use fvm::model::{Change, PackedChanges, Summary, VmPath, VmRecord, VmState, exit};
use fvm::{Fvm, Origins, Sheet, Sight, StoreChange};
use serde::Serialize;
use serde::ser::Serializer;
use std::io;
use std::ops::ControlFlow;

/// As JSON.
#[derive(Serialize)]
struct Report<'a, C> {
    vm: &'a str,
    id: &'a str,
    state: VmState,
    summary: Summary,
    stores: Vec<StoreChange>,
    risks: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    analysis: Option<&'a fvm::model::Report>,
    changes: C,
    warnings: &'a [String],
}

/// `fvm status`.
pub fn status(fvm: &Fvm, out: &Output, args: &Status) -> Done {
    let record = fvm.find(&args.name)?;
    let (state, only) = (fvm.state(&record)?, paths(&args.paths)?);
    // In JSON each change says who made it anyway.
    let by_process = args.by == ByArg::Process && !out.json();
    if by_process || args.judge.is_asked() || record.policy.is_judged() {
        return with_log(fvm, out, args, &record, state, &only);
    }
    let (mut changes, mut stores, mut bad) = (PackedChanges::default(), Vec::new(), Ok(()));
    let mut risks = fvm::Risks::default();
    let warnings = out.during(&format!("reading the changes of {}", record.name), || {
        let look = |sight: Sight<'_>, _: &mut Sheet| {
            let (keys, forged) = (sight.keys(), sight.forged());
            Some((sight.into_change(), keys, forged))
        };
        fvm.each_change(&record, &only, false, look, |(change, keys, forged), _| {
            stores.extend(keys);
            risks.extend(forged);
            bad = changes.push(&change);
            if bad.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    })?;
    bad.map_err(io::Error::from)?;
    let (summary, risks) = (changes.summary(), risks.into_words());
    if out.json() {
        let (vm, id) = (record.name.as_str(), record.id.as_str());
        let origins = fvm.origins(&record)?.map(|(origins, _)| origins);
        let (changes, warnings) = (Told { changes: || changes.iter(), origins }, warnings.as_slice());
        out.document(&Report { vm, id, state, summary, stores, risks, analysis: None, changes, warnings })?;
    } else {
        out.write(|w| render::status(w, &record, state, summary, changes.iter(), &stores, None))?;
        tell_risks(out, &risks);
    }
    warn(out, &warnings);
    Ok(exit::DONE)
}

/// Changes as JSON, with who made them as far as that is known.
struct Told<C> {
    changes: C,
    origins: Option<Origins>,
}

impl<C: Fn() -> I, I: Iterator<Item = Change>> Serialize for Told<C> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq((self.changes)().map(|change| told(change, self.origins.as_ref())))
    }
}

/// Where all changes are needed at once: by who made them, or judged.
fn with_log(fvm: &Fvm, out: &Output, args: &Status, record: &VmRecord, state: VmState, only: &[VmPath]) -> Done {
    let all = scan(fvm, out, record)?;
    let found = judged(fvm, out, record, &all, &args.judge)?;
    let report = found.as_ref().map(|found| &found.report);
    let set = fvm::filter(all, only);
    let by_process = args.by == ByArg::Process;
    let known = if by_process || out.json() { fvm.origins(record)? } else { None };
    if by_process && !out.json() {
        tell_whole(out, known.as_ref().map(|(_, whole)| whole), state);
    }
    let origins = known.map(|(origins, _)| origins);
    let (summary, risks) = (set.summary(), fvm.forged(record, &set)?);
    if out.json() {
        let (vm, id, stores) = (record.name.as_str(), record.id.as_str(), fvm.keys(record, &set)?);
        let (changes, warnings) = (Told { changes: || set.changes.iter().cloned(), origins }, set.warnings.as_slice());
        out.document(&Report { vm, id, state, summary, stores, risks, analysis: report, changes, warnings })?;
    } else if by_process {
        out.write(|w| origin::status(w, record, state, &set, origins.as_ref(), report))?;
        tell_risks(out, &risks);
    } else {
        let stores = fvm.keys(record, &set)?;
        out.write(|w| render::status(w, record, state, summary, &set.changes, &stores, report))?;
        tell_risks(out, &risks);
    }
    warn(out, &set.warnings);
    Ok(exit::DONE)
}
