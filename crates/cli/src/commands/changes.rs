//! `diff`, `commit`, `discard`: what a VM changed, and what becomes of it.

use super::{analyze, trace};
use crate::Done;
use crate::args::{Commit, ConflictArg, Diff, Discard, JudgeArgs};
use crate::failure::Failure;
use crate::interactive::{self, Front, Outcome};
use crate::output::Output;
use crate::render;
use fvm::model::{Change, ChangeSet, PackedChanges, Plan, VmPath, VmRecord, VmState, exit};
use fvm::{Choice, FileDiff, Findings, Fvm, FvmError, OnConflict, Origins, ScanError, ScanInput, Sheet, Sight, VmLock};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

/// Everything that a VM changed.
pub fn scan(fvm: &Fvm, out: &Output, record: &VmRecord) -> Result<ChangeSet, FvmError> {
    out.during(&format!("reading the changes of {}", record.name), || fvm.changes(record))
}

/// A change, with who made it as far as that is known.
pub fn told(mut change: Change, origins: Option<&Origins>) -> Change {
    change.origin = origins.and_then(|origins| origins.of(&change)).map(Box::new);
    change
}

/// What a VM did, judged, where somebody asks for that.
pub fn judged(
    fvm: &Fvm,
    out: &Output,
    record: &VmRecord,
    set: &ChangeSet,
    args: &JudgeArgs,
) -> Result<Option<Findings>, Failure> {
    let is_asked = args.is_asked() || record.policy.is_judged();
    let mut changes = set.changes.iter().cloned();
    let found = || analyze::findings(fvm, out, record, &mut changes, &set.warnings, &args.analysis);
    is_asked.then(found).transpose()
}

/// All changes, in little memory, and what reading them said.
pub fn read_all(fvm: &Fvm, out: &Output, record: &VmRecord) -> Result<(PackedChanges, Vec<String>), Failure> {
    let (mut changes, mut bad) = (PackedChanges::default(), Ok(()));
    let warnings = out.during(&format!("reading the changes of {}", record.name), || {
        let look = |sight: Sight<'_>, _: &mut Sheet| Some(sight.into_change());
        fvm.each_change(record, &[], false, look, |change, _| {
            bad = changes.push(&change);
            if bad.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    })?;
    bad.map_err(io::Error::from)?;
    Ok((changes, warnings))
}

/// What of a commit is left out for what was found: all that is not asked for by name.
fn withhold(record: &VmRecord, set: &ChangeSet, found: Option<&Findings>, choice: &mut Choice) -> Result<(), Failure> {
    let Some(found) = found else { return Ok(()) };
    found.check(record)?;
    let named = fvm::named(set, choice).map_err(FvmError::from)?;
    choice.withheld = fvm::withheld(found, set, &named);
    Ok(())
}

/// What a VM made that is not taken from it.
pub fn tell_risks(out: &Output, risks: &[String]) {
    risks.iter().for_each(|risk| out.say(&format!("risk: {risk}")));
}

/// What the log cannot tell.
pub fn tell_whole(out: &Output, whole: Option<&fvm::Integrity>, state: VmState) {
    if whole.is_some_and(|whole| whole.without_files) {
        out.say("the behaviour log has no changes of files (level programs): who made a change then is not known");
    }
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
    let origins = if out.json() { fvm.origins(&record)?.map(|(origins, _)| origins) } else { None };
    let only = paths(&args.paths)?;
    // Of some of very many the others would be opened for nothing.
    let reads = !args.name_only && only.is_empty();
    let view = View { fvm, input: fvm.scan_input(&record)?, record: &record, only, reads, origins };
    let mut warnings = Ok(Vec::new());
    let said = out.pieces(|w| {
        let (said, read) = if out.json() {
            view.json(w)
        } else if args.name_only {
            view.print(w, |w, change, _| writeln!(w, "{}", change.path))
        } else if args.stat {
            view.stat(w)
        } else {
            view.print(w, |w, change, diff| render::patch(w, change, diff()))
        };
        warnings = read;
        said
    });
    let warnings = warnings?;
    said?;
    warn(out, &warnings);
    Ok(exit::DONE)
}

/// So many bytes of files are turned to text ahead, on each thread; what is longer is when its turn comes.
const AHEAD_MAX_BYTES: usize = 256 << 10;

/// What became of the output, and of reading the changes.
type Said = (io::Result<()>, Result<Vec<String>, FvmError>);

/// The difference of one change, when asked for.
type DiffOf<'d> = &'d dyn Fn() -> Result<Option<FileDiff>, ScanError>;

/// The changes that `fvm diff` shows, none of which is kept.
struct View<'a> {
    fvm: &'a Fvm,
    input: ScanInput,
    record: &'a VmRecord,
    only: Vec<VmPath>,
    /// Each is read.
    reads: bool,
    /// Who made them, where it is to be said and known.
    origins: Option<Origins>,
}

impl View<'_> {
    /// Makes something of every change, and its text, on several threads, and hands them on in order.
    fn each<T: Send>(
        &self,
        make: impl Fn(&mut Vec<u8>, &Change, DiffOf<'_>) -> T + Sync,
        mut hand_on: impl FnMut(T, &[u8]) -> io::Result<()>,
    ) -> Said {
        enum Made<T> {
            Now(T, Range<usize>),
            Later(Box<Change>),
        }
        let look = |sight: Sight<'_>, sheet: &mut Sheet| {
            let sides = [&sight.change().before, &sight.change().after];
            let bytes: u64 = sides.into_iter().flatten().map(|side| side.size_bytes).fold(0, u64::saturating_add);
            sheet.held_bytes = sheet.held_bytes.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
            if sheet.held_bytes > AHEAD_MAX_BYTES {
                return Some(Made::Later(Box::new(sight.into_change())));
            }
            let from = sheet.text.len();
            let made = make(&mut sheet.text, sight.change(), &|| sight.diff());
            Some(Made::Now(made, from..sheet.text.len()))
        };
        let mut said = Ok(());
        let read = self.fvm.each_change(self.record, &self.only, self.reads, look, |made, text| {
            said = match made {
                Made::Now(made, part) => hand_on(made, &text[part]),
                Made::Later(change) => {
                    let mut text = Vec::new();
                    let made = make(&mut text, &change, &|| fvm::diff_file(&self.input, &change));
                    hand_on(made, &text)
                }
            };
            if said.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (said, read)
    }

    fn print(
        &self,
        w: &mut dyn Write,
        show: impl Fn(&mut dyn Write, &Change, DiffOf<'_>) -> io::Result<()> + Sync,
    ) -> Said {
        self.each(|text, change, diff| show(text, change, diff), |shown, text| shown.and_then(|()| w.write_all(text)))
    }

    fn stat(&self, w: &mut dyn Write) -> Said {
        let mut sum = render::Stat::default();
        let line = |text: &mut Vec<u8>, change: &Change, diff: DiffOf<'_>| render::Stat::line(text, change, diff());
        let (said, read) = self.each(line, |part, text| {
            sum.add(part?);
            w.write_all(text)
        });
        // The sum of a part would be no sum.
        let said = if read.is_ok() { said.and_then(|()| writeln!(w, "{sum}")) } else { said };
        (said, read)
    }

    fn json(&self, w: &mut dyn Write) -> Said {
        #[derive(Serialize)]
        struct Entry {
            #[serde(flatten)]
            change: Change,
            #[serde(skip_serializing_if = "Option::is_none")]
            patch: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            unreadable: Option<String>,
        }
        let entry = |_: &mut Vec<u8>, change: &Change, diff: DiffOf<'_>| {
            let (patch, unreadable) = match diff() {
                Ok(Some(FileDiff::Text { patch, .. })) => (Some(patch), None),
                Ok(_) => (None, None),
                Err(e) => (None, Some(e.to_string())),
            };
            Entry { change: told(change.clone(), self.origins.as_ref()), patch, unreadable }
        };
        let mut json = serde_json::Serializer::pretty(&mut *w);
        let mut list = match json.serialize_seq(None) {
            Ok(list) => list,
            Err(e) => return (Err(e.into()), Ok(Vec::new())),
        };
        let (said, read) = self.each(entry, |entry, _| Ok(list.serialize_element(&entry)?));
        // A list that is cut off is not to look whole.
        if said.is_err() || read.is_err() {
            return (said, read);
        }
        (SerializeSeq::end(list).map_err(io::Error::from).and_then(|()| writeln!(w)), read)
    }
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
    let set = scan(fvm, out, &record)?;
    warn(out, &set.warnings);
    tell_risks(out, &fvm.forged(&record, &set)?);
    if !args.from.is_empty() {
        let known = fvm.origins(&record)?;
        tell_whole(out, known.as_ref().map(|(_, whole)| whole), VmState::Stopped);
        let origins = known.map(|(origins, _)| origins).unwrap_or_default();
        choice.exact = Some(from(out, &record, &set, &origins, &args.from)?);
    }
    let found = judged(fvm, out, &record, &set, &args.judge)?;
    if args.keys.is_empty() {
        withhold(&record, &set, found.as_ref(), &mut choice)?;
    } else {
        // Keys are named one by one.
        if let Some(found) = &found {
            found.check(&record)?;
        }
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
    tell_withheld(out, &record, &choice, &plan);
    if args.dry_run {
        if out.json() {
            out.document(&plan)?;
        } else {
            out.write(|w| plan.ops.iter().try_for_each(|op| writeln!(w, "{op}")))?;
        }
        return Ok(exit::DONE);
    }
    let how = fvm::How { keep: args.keep, mark: super::run::choice(args.mark, args.no_mark) };
    carry_out(fvm, out, &lock, &record, &set, plan, how)
}

/// The changes that one of the programs made, and nobody else had a hand in.
fn from(
    out: &Output,
    record: &VmRecord,
    set: &ChangeSet,
    origins: &Origins,
    programs: &[String],
) -> Result<BTreeSet<VmPath>, Failure> {
    let (mut made, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for program in programs {
        let named = fvm::model::path::printable(program.as_bytes());
        let of_it = fvm::made_by(origins, set, program);
        if !of_it.ambiguous.is_empty() {
            let each = of_it.ambiguous.iter().map(render::origin::meant).collect::<Vec<_>>().join("; ");
            let text = format!("'{named}' is what different programs are called: {each}");
            return Err(Failure::new(text, "name one by its number, or by its path and arguments"));
        }
        if of_it.paths.is_empty() {
            let next = format!("'fvm status {} --by process' lists who made what", record.name);
            let text = match of_it.shared.len() {
                0 => format!("no change is known to be made by '{named}'"),
                n => format!("others had a hand in all {n} changes that '{named}' made"),
            };
            return Err(Failure::new(text, next));
        }
        made.extend(of_it.paths);
        shared.extend(of_it.shared);
    }
    shared.retain(|path| !made.contains(path));
    if let Some(first) = shared.first() {
        out.say(&format!("not taken: {} changes in which others had a hand too, such as {first}", shared.len()));
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
    let mut named = fvm::narrow(set, &choice).map_err(FvmError::from)?;
    for (path, why) in &choice.withheld {
        if named.changes.iter().any(|change| change.path == *path) {
            out.say(&format!("left out: {path} ({why}); name it to choose it"));
        }
    }
    named.changes.retain(|change| !choice.withheld.contains_key(&change.path));
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
    let Choice { withheld, on_conflict, .. } = choice;
    Ok(Some(Choice { exact: Some(exact), given, withheld, on_conflict, ..Choice::default() }))
}

/// Commits everything that can be committed, but for what findings are about. Whether that was all.
pub fn commit_all(fvm: &Fvm, out: &Output, lock: &VmLock, record: &VmRecord) -> Result<bool, Failure> {
    let set = scan(fvm, out, record)?;
    warn(out, &set.warnings);
    let mut choice = Choice::default();
    let found = judged(fvm, out, record, &set, &JudgeArgs::default())?;
    withhold(record, &set, found.as_ref(), &mut choice)?;
    let plan = fvm.decide(record, &set, &choice)?;
    tell_plan(out, &plan);
    tell_withheld(out, record, &choice, &plan);
    carry_out(fvm, out, lock, record, &set, plan, fvm::How::default())?;
    Ok(choice.withheld.is_empty())
}

/// How to get what was left out for what was found.
fn tell_withheld(out: &Output, record: &VmRecord, choice: &Choice, plan: &Plan) {
    let why = |path| choice.withheld.get(path).map(String::as_str);
    let left = plan.skipped.iter().find(|skipped| why(&skipped.path).is_some_and(|why| why != fvm::ALL_LEFT_OUT));
    if let Some(skipped) = left {
        let (name, path) = (&record.name, &skipped.path);
        out.say(&format!(
            "'fvm analyze {name}' says more; to commit it all the same, name it: 'fvm commit {name} {path}'"
        ));
    }
}

fn carry_out(
    fvm: &Fvm,
    out: &Output,
    lock: &VmLock,
    record: &VmRecord,
    set: &ChangeSet,
    plan: Plan,
    how: fvm::How,
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
    let done = out.during(&what, || fvm.commit(lock, record, set, plan, how, &mut interrupts))?;
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

pub fn warn(out: &Output, warnings: &[String]) {
    for warning in warnings {
        out.say(&format!("warning: {}", fvm::model::path::printable(warning.as_bytes())));
    }
}

/// Everything on one screen after another, for the question after `fvm run`.
pub fn review(fvm: &Fvm, out: &Output, record: &VmRecord, set: &ChangeSet) -> Result<(), Failure> {
    let input = fvm.scan_input(record)?;
    let stores = fvm.keys(record, set)?;
    let found = judged(fvm, out, record, set, &JudgeArgs::default())?;
    let report = found.as_ref().map(|found| &found.report);
    out.write(|w| {
        render::status(w, record, VmState::Stopped, set.summary(), &set.changes, &stores, report)?;
        writeln!(w)?;
        set.changes.iter().try_for_each(|change| render::patch(w, change, fvm::diff_file(&input, change)))
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

pub fn paths(typed: &[PathBuf]) -> Result<Vec<VmPath>, Failure> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    typed
        .iter()
        .map(|path| {
            fvm::vm_path(&cwd, path).map_err(|e| Failure::usage(e.to_string(), "give a path as the VM sees it"))
        })
        .collect()
}
