//! `history`, `show`, `undo`, `recover`, `gc`: commits after the fact.

use crate::Done;
use crate::args::{Gc, Numbered};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use fvm::model::exit;
use fvm::{Fvm, FvmError, Keep, OpLine, Outcome, Record, Recovered, What};
use serde::Serialize;

/// `fvm history`.
pub fn history(fvm: &Fvm, out: &Output) -> Done {
    let records = fvm.history()?;
    if out.json() {
        out.document(&records)?;
        return Ok(exit::DONE);
    }
    let head = ["COMMIT", "WHEN", "WHAT", "OPS", "UNDO"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(records.iter().rev().map(row)).collect();
    out.write(|w| render::table(w, &rows))?;
    Ok(exit::DONE)
}

fn row(record: &Record) -> [String; 5] {
    let undo = record.final_because.as_ref().map_or_else(|| "possible".to_owned(), |why| format!("no: {why}"));
    let when = render::time(record.finished.unwrap_or(record.started));
    [record.number.to_string(), when, what(&record.what), record.operations.to_string(), undo]
}

fn what(what: &What) -> String {
    match what {
        What::Commit { name, .. } => format!("commit of {}", fvm::model::path::printable(name.as_bytes())),
        What::Undo { of } => format!("undo of {of}"),
    }
}

/// `fvm show`.
pub fn show(fvm: &Fvm, out: &Output, args: &Numbered) -> Done {
    #[derive(Serialize)]
    struct Report {
        #[serde(flatten)]
        record: Record,
        ops: Vec<OpLine>,
    }
    let (record, ops) = fvm.show(args.commit)?;
    if out.json() {
        out.document(&Report { record, ops })?;
        return Ok(exit::DONE);
    }
    out.write(|w| {
        writeln!(w, "commit {}: {}, {}", record.number, what(&record.what), render::time(record.started))?;
        if let Some(why) = &record.final_because {
            writeln!(w, "cannot be undone: {why}")?;
        }
        ops.iter().try_for_each(|op| writeln!(w, "  {}", op.text))
    })?;
    Ok(exit::DONE)
}

/// `fvm undo`.
pub fn undo(fvm: &Fvm, out: &Output, args: &Numbered) -> Done {
    #[derive(Serialize)]
    struct Report {
        commit: u64,
        undone: u64,
        notes: Vec<String>,
    }
    let done = fvm.undo(args.commit)?;
    for note in &done.notes {
        out.say(&format!("note: {note}"));
    }
    out.say(&format!("commit {} is undone; 'fvm undo {}' brings it back", args.commit, done.number));
    if out.json() {
        out.document(&Report { commit: done.number, undone: args.commit, notes: done.notes })?;
    }
    Ok(exit::DONE)
}

/// `fvm recover`.
pub fn recover(fvm: &Fvm, out: &Output) -> Done {
    match fvm.recover()? {
        Some(recovered) => tell(out, &recovered),
        None => out.say("no commit was interrupted"),
    }
    Ok(exit::DONE)
}

/// What every command does first: an interrupted commit is brought to its end.
///
/// # Errors
/// When it cannot be, and `needed` says that the command cannot do without.
pub fn recover_first(fvm: &Fvm, out: &Output, needed: bool) -> Result<(), Failure> {
    match fvm.recover() {
        Ok(None) => {}
        Ok(Some(recovered)) => tell(out, &recovered),
        Err(e) if needed => return Err(e.into()),
        Err(e) => out.say(&format!("warning: {}", describe(&e))),
    }
    Ok(())
}

fn describe(error: &FvmError) -> String {
    format!("an interrupted commit could not be brought to its end: {error}")
}

fn tell(out: &Output, recovered: &Recovered) {
    let name = match &recovered.what {
        Some(it) => format!("{} ({})", recovered.number, what(it)),
        None => recovered.number.to_string(),
    };
    let how = match recovered.outcome {
        Outcome::Completed => "it is complete now",
        Outcome::TakenBack => "nothing of it is on the host",
    };
    out.say(&format!("commit {name} was interrupted: {how}"));
    for note in &recovered.notes {
        out.say(&format!("note: {note}"));
    }
}

/// `fvm gc`.
pub fn gc(fvm: &Fvm, out: &Output, args: &Gc) -> Done {
    #[derive(Serialize)]
    struct Report {
        removed: Vec<u64>,
    }
    let usual = Keep::default();
    let keep = Keep {
        count: args.keep.unwrap_or(usual.count),
        days: args.days.unwrap_or(usual.days),
        size_bytes: args.size.map_or(usual.size_bytes, |size| size.0),
    };
    let removed = fvm.gc(keep)?;
    match removed.len() {
        0 => out.say("nothing to remove"),
        n => out.say(&format!("removed what {n} commit{} replaced", if n == 1 { "" } else { "s" })),
    }
    if out.json() {
        out.document(&Report { removed })?;
    }
    Ok(exit::DONE)
}
