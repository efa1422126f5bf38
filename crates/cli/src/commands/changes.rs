//! `status`, `diff`, `commit`, `discard`: what a VM changed, and what becomes of it.

use super::trace;
use crate::Done;
use crate::args::{ByArg, Commit, ConflictArg, Diff, Discard, Status};
use crate::failure::Failure;
use crate::interactive::{self, Front, Outcome};
use crate::output::Output;
use crate::render::{self, origin};
use fvm::model::{Change, ChangeSet, Plan, VmPath, VmRecord, VmState, exit};
use fvm::{Choice, FileDiff, Fvm, FvmError, OnConflict, ScanInput, VmLock};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// Everything that a VM changed.
pub fn scan(fvm: &Fvm, out: &Output, record: &VmRecord) -> Result<ChangeSet, FvmError> {
    out.during(&format!("reading the changes of {}", record.name), || fvm.changes(record))
}

/// `fvm status`.
pub fn status(fvm: &Fvm, out: &Output, args: &Status) -> Done {
    #[derive(Serialize)]
    struct Report<'a> {
        vm: &'a str,
        id: &'a str,
        state: fvm::model::VmState,
        summary: fvm::model::Summary,
        stores: Vec<fvm::StoreChange>,
        #[serde(flatten)]
        set: &'a ChangeSet,
    }
    let record = fvm.find(&args.name)?;
    let state = fvm.state(&record)?;
    let mut set = fvm::filter(scan(fvm, out, &record)?, &paths(&args.paths)?);
    let by_process = args.by == ByArg::Process;
    if by_process || out.json() {
        let whole = fvm.with_origins(&record, &mut set)?;
        if by_process {
            tell_whole(out, whole.as_ref(), state);
        }
    }
    if out.json() {
        let summary = set.summary();
        let (vm, id) = (record.name.as_str(), record.id.as_str());
        out.document(&Report { vm, id, state, summary, stores: fvm.keys(&record, &set)?, set: &set })?;
    } else {
        let stores = fvm.keys(&record, &set)?;
        let render = if by_process { origin::status } else { render::status };
        out.write(|w| render(w, &record, state, &set, &stores))?;
    }
    warn(out, &set);
    Ok(exit::DONE)
}

/// What the log cannot tell.
fn tell_whole(out: &Output, whole: Option<&fvm::Integrity>, state: VmState) {
    match whole {
        None => out.say("there is no behaviour log: who made a change is not known"),
        Some(whole) if !whole.is_whole(state != VmState::Stopped) => {
            out.say(&format!(
                "the behaviour log is not whole ({}): who made a change may not be known",
                trace::gaps(whole)
            ));
        }
        Some(_) => {}
    }
}

/// `fvm diff`.
pub fn diff(fvm: &Fvm, out: &Output, args: &Diff) -> Done {
    let record = fvm.find(&args.name)?;
    let mut set = fvm::filter(scan(fvm, out, &record)?, &paths(&args.paths)?);
    if out.json() {
        fvm.with_origins(&record, &mut set)?;
    }
    let input = fvm.scan_input(&record)?;
    if out.json() {
        diff_json(out, &input, &set)?;
    } else if args.name_only {
        out.write(|w| set.changes.iter().try_for_each(|c| writeln!(w, "{}", c.path)))?;
    } else if args.stat {
        out.write(|w| render::stat(w, &input, &set))?;
    } else {
        out.write(|w| render::patch(w, &input, &set))?;
    }
    warn(out, &set);
    Ok(exit::DONE)
}

fn diff_json(out: &Output, input: &ScanInput, set: &ChangeSet) -> io::Result<()> {
    #[derive(Serialize)]
    struct Entry<'a> {
        #[serde(flatten)]
        change: &'a fvm::model::Change,
        #[serde(skip_serializing_if = "Option::is_none")]
        patch: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unreadable: Option<String>,
    }
    let entries: Vec<_> = set
        .changes
        .iter()
        .map(|change| {
            let (patch, unreadable) = match fvm::diff_file(input, change) {
                Ok(Some(FileDiff::Text { patch, .. })) => (Some(patch), None),
                Ok(_) => (None, None),
                Err(e) => (None, Some(e.to_string())),
            };
            Entry { change, patch, unreadable }
        })
        .collect();
    out.document(&entries)
}

/// `fvm commit`.
pub fn commit(fvm: &Fvm, out: &Output, args: &Commit) -> Done {
    let record = fvm.find(&args.name)?;
    // Before anything is read: a VM that runs goes on changing.
    let lock = fvm.lock(&record)?;
    let on_conflict = match args.on_conflict {
        ConflictArg::Fail => OnConflict::Fail,
        ConflictArg::Skip => OnConflict::Skip,
        ConflictArg::Vm => OnConflict::Vm,
        ConflictArg::Host => OnConflict::Host,
        ConflictArg::Merge => OnConflict::Merge,
    };
    let (only, except) = (args.only.clone(), args.except.clone());
    let mut choice = Choice { paths: paths(&args.paths)?, only, except, on_conflict, ..Choice::default() };
    let mut set = scan(fvm, out, &record)?;
    warn(out, &set);
    if !args.from.is_empty() {
        let whole = fvm.with_origins(&record, &mut set)?;
        tell_whole(out, whole.as_ref(), VmState::Stopped);
        choice.exact = Some(from(&record, &set, &args.from)?);
    }
    if !args.keys.is_empty() {
        choice = choose_keys(fvm, &record, &set, &args.keys, on_conflict)?;
    }
    if args.interactive {
        match choose(fvm, out, &record, &set, choice)? {
            Some(chosen) => choice = chosen,
            None => return Ok(exit::DONE),
        }
    }
    let plan = fvm.decide(&record, &set, &choice)?;
    tell_plan(out, &plan);
    if args.dry_run {
        if out.json() {
            out.document(&plan)?;
        } else {
            out.write(|w| plan.ops.iter().try_for_each(|op| writeln!(w, "{op}")))?;
        }
        return Ok(exit::DONE);
    }
    carry_out(fvm, out, &lock, &record, &set, plan, args.keep)
}

/// The changes that one of the programs made.
fn from(record: &VmRecord, set: &ChangeSet, programs: &[String]) -> Result<BTreeSet<VmPath>, Failure> {
    let mut made = BTreeSet::new();
    for program in programs {
        let of_it = fvm::made_by(set, program);
        if of_it.is_empty() {
            let named = fvm::model::path::printable(program.as_bytes());
            let next = format!("'fvm status {} --by process' lists who made what", record.name);
            return Err(Failure::new(format!("no change is known to be made by '{named}'"), next));
        }
        made.extend(of_it);
    }
    Ok(made)
}

/// The keys that match one of `patterns`, of all keyed stores that the VM changed.
fn choose_keys(
    fvm: &Fvm,
    record: &VmRecord,
    set: &ChangeSet,
    patterns: &[String],
    on_conflict: OnConflict,
) -> Result<Choice, Failure> {
    let mut chosen: BTreeMap<VmPath, BTreeSet<String>> = BTreeMap::new();
    let stores = fvm.keys(record, set)?;
    for pattern in patterns {
        let matcher = fvm::key_pattern(pattern)?;
        let mut found = false;
        for store in &stores {
            for key in store.keys.iter().filter(|key| matcher(&key.key)) {
                chosen.entry(store.path.clone()).or_default().insert(key.key.clone());
                found = true;
            }
        }
        if !found {
            return Err(Failure::new(
                format!("the VM changed no key that matches '{}'", fvm::model::path::printable(pattern.as_bytes())),
                format!("'fvm status {}' lists what it changed", record.name),
            ));
        }
    }
    Ok(fvm.choose_keys(record, set, &chosen, on_conflict)?)
}

/// Lets a person choose from what `choice` names; `None` when that is nothing, and was said.
fn choose(
    fvm: &Fvm,
    out: &Output,
    record: &VmRecord,
    set: &ChangeSet,
    choice: Choice,
) -> Result<Option<Choice>, Failure> {
    let named = fvm::narrow(set, &choice).map_err(FvmError::from)?;
    if named.changes.is_empty() {
        out.say("nothing to commit");
        return Ok(None);
    }
    let input = fvm.scan_input(record)?;
    let mut texts = |change: &Change| fvm::texts(&input, change).ok().flatten();
    let chosen = match interactive::review(&named, &mut texts, Front::here(out.json()))? {
        Outcome::Commit(chosen) if chosen.is_empty() => {
            out.say("nothing chosen");
            return Ok(None);
        }
        Outcome::Commit(chosen) => chosen,
        Outcome::Cancelled => {
            out.say("nothing committed");
            return Ok(None);
        }
    };
    if chosen.given.is_empty() && chosen.paths.len() == named.changes.len() {
        return Ok(Some(choice));
    }
    let exact = chosen.paths.into_iter().chain(chosen.given.keys().cloned()).collect();
    let part = |(path, bytes)| (path, fvm::Given { bytes, whole: false });
    let given = chosen.given.into_iter().map(part).collect();
    Ok(Some(Choice { exact: Some(exact), given, on_conflict: choice.on_conflict, ..Choice::default() }))
}

/// Commits everything that can be committed.
pub fn commit_all(fvm: &Fvm, out: &Output, lock: &VmLock, record: &VmRecord) -> Done {
    let set = scan(fvm, out, record)?;
    warn(out, &set);
    let plan = fvm.decide(record, &set, &Choice::default())?;
    tell_plan(out, &plan);
    carry_out(fvm, out, lock, record, &set, plan, false)
}

fn carry_out(
    fvm: &Fvm,
    out: &Output,
    lock: &VmLock,
    record: &VmRecord,
    set: &ChangeSet,
    plan: Plan,
    keep: bool,
) -> Done {
    #[derive(Serialize)]
    struct Report {
        #[serde(skip_serializing_if = "Option::is_none")]
        commit: Option<u64>,
        summary: fvm::model::Summary,
        operations: usize,
        notes: Vec<String>,
    }
    if plan.ops.is_empty() {
        out.say("nothing to commit");
    }
    let mut interrupts = fvm::Interrupts::hold();
    let what = format!("committing {}", record.name);
    let done = out.during(&what, || fvm.commit(lock, record, set, plan, keep, &mut interrupts))?;
    if interrupts.heard() {
        out.say("the interrupt came too late: everything is committed");
    }
    for note in &done.notes {
        out.say(&format!("note: {note}"));
    }
    let undo = done.number.map(|n| format!("; 'fvm undo {n}' takes it back")).unwrap_or_default();
    out.say(&format!("committed {}: {}{undo}", record.name, render::summary(done.summary)));
    if out.json() {
        out.document(&Report {
            commit: done.number,
            summary: done.summary,
            operations: done.operations,
            notes: done.notes,
        })?;
    }
    Ok(exit::DONE)
}

fn tell_plan(out: &Output, plan: &Plan) {
    for added in &plan.closure {
        out.say(&format!("also: {} ({})", added.path, added.why));
    }
    for skipped in &plan.skipped {
        out.say(&format!("left out: {} ({})", skipped.path, skipped.reason));
    }
}

fn warn(out: &Output, set: &ChangeSet) {
    for warning in &set.warnings {
        out.say(&format!("warning: {}", fvm::model::path::printable(warning.as_bytes())));
    }
}

/// Everything on one screen after another, for the question after `fvm run`.
pub fn review(fvm: &Fvm, out: &Output, record: &VmRecord, set: &ChangeSet) -> Result<(), Failure> {
    let input = fvm.scan_input(record)?;
    let stores = fvm.keys(record, set)?;
    out.write(|w| {
        render::status(w, record, fvm::model::VmState::Stopped, set, &stores)?;
        writeln!(w)?;
        render::patch(w, &input, set)
    })?;
    Ok(())
}

/// `fvm discard`.
pub fn discard(fvm: &Fvm, out: &Output, args: &Discard) -> Done {
    let record = fvm.find(&args.name)?;
    drop(fvm.lock(&record)?);
    let set = scan(fvm, out, &record)?;
    let named = paths(&args.paths)?;
    let chosen: Vec<VmPath> = fvm::filter(set.clone(), &named).changes.into_iter().map(|c| c.path).collect();
    for path in &named {
        if !chosen.iter().any(|c| c.is_within(path)) {
            return Err(Failure::new(
                format!("'{path}' is not changed in '{}'", record.name),
                format!("'fvm status {}' lists what is", record.name),
            ));
        }
    }
    let count = out.during(&format!("discarding {}", record.name), || fvm.discard(&record, &set, &chosen))?;
    out.say(&format!("discarded {count} change{}", if count == 1 { "" } else { "s" }));
    Ok(exit::DONE)
}

fn paths(typed: &[PathBuf]) -> Result<Vec<VmPath>, Failure> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    typed
        .iter()
        .map(|path| {
            fvm::vm_path(&cwd, path).map_err(|e| Failure::usage(e.to_string(), "give a path as the VM sees it"))
        })
        .collect()
}
