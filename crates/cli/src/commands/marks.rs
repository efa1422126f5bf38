//! `marks`, `mark`, `unmark`: files that came out of VMs that nobody trusts.

use crate::Done;
use crate::args::{Files, Marks};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use fvm::model::exit;
use fvm::model::path::printable;
use fvm::{By, Fvm, Marked, MarksEntry};
use serde::Serialize;
use std::path::Path;

/// `fvm marks`.
pub fn marks(fvm: &Fvm, out: &Output, args: &Marks) -> Done {
    if args.history {
        return history(fvm, out);
    }
    let mut unread = 0_usize;
    let mut told = |path: &Path, errno: rustix::io::Errno| {
        // What is no regular file cannot be marked.
        if errno != rustix::io::Errno::INVAL {
            unread += 1;
            out.say(&format!("cannot look at '{}': {errno}", shown(path)));
        }
    };
    let found =
        if args.mark_copies { fvm.mark_copies(&args.paths, &mut told)? } else { fvm.marks(&args.paths, &mut told)? };
    if out.json() {
        out.document(&found)?;
    } else {
        let head = ["FILE", "KNOWN BY", "FROM", "WHEN"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(found.iter().map(row)).collect();
        out.write(|w| render::table(w, &rows))?;
    }
    Ok(if unread == 0 { exit::DONE } else { exit::FAILED })
}

fn row(marked: &Marked) -> [String; 4] {
    let by = match marked.by {
        By::Mark => "its mark",
        By::Copy => "its content",
    };
    [shown(&marked.path), by.to_owned(), marked.mark.source(), when(marked.mark.time)]
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

fn when(secs: i64) -> String {
    render::time(fvm::model::Timestamp { secs, nanos: 0 })
}

fn history(fvm: &Fvm, out: &Output) -> Done {
    #[derive(Serialize)]
    struct Report {
        entries: Vec<MarksEntry>,
        damaged: usize,
    }
    let (entries, damaged) = fvm.marks_history()?;
    if out.json() {
        out.document(&Report { entries, damaged })?;
        return Ok(exit::DONE);
    }
    let head = ["WHEN", "WHAT", "BY", "FILES"].map(str::to_owned);
    let row = |entry: &MarksEntry| {
        let by = match &entry.act.vm {
            Some(vm) => format!("uid {}, commit of {}", entry.act.uid, printable(vm.as_bytes())),
            None => format!("uid {}", entry.act.uid),
        };
        let first = entry.paths.first().map(|path| printable(path.0.as_encoded_bytes())).unwrap_or_default();
        let more = entry.paths.len().saturating_sub(1);
        let files = if more == 0 { first } else { format!("{first} and {more} more") };
        [when(entry.act.time), entry.what.to_owned(), by, files]
    };
    let rows: Vec<_> = std::iter::once(head).chain(entries.iter().map(row)).collect();
    out.write(|w| render::table(w, &rows))?;
    if damaged > 0 {
        out.say(&format!(
            "warning: {damaged} entries of the book of marks are damaged: copies of what they name are not known"
        ));
    }
    Ok(exit::DONE)
}

/// `fvm mark`.
pub fn mark(fvm: &Fvm, out: &Output, args: &Files) -> Done {
    fvm.mark(&args.files)?;
    out.say(&format!("marked {}", files(args.files.len())));
    Ok(exit::DONE)
}

/// `fvm unmark`.
pub fn unmark(fvm: &Fvm, out: &Output, args: &Files) -> Done {
    // It could not: the host's book is masked in it, and what it does to attributes is not taken.
    if std::env::var_os("FVM").is_some() {
        let text = "a VM cannot unmark files of the host";
        return Err(Failure::new(text, "do it outside of VMs"));
    }
    let count = fvm.unmark(&args.files)?;
    out.say(&format!("unmarked {}", files(count)));
    Ok(exit::DONE)
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".into() } else { format!("{count} files") }
}
