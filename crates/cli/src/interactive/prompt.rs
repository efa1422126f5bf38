//! The review without a screen: a question for each change, as `git add -p` asks.
//!
//! ```text
//!   M  /srv/f
//!   @@ -1,3 +1,3 @@ ...
//!   (1/7) Commit this? [y,n,a,d,s,q,?]  ─ s ─►  hunk 1/2: Commit this? [y,n,a,d,q,?]
//! ```
//!
//! Invariants: the end of the answers, like `q`, commits nothing; an answer that is none is explained and asked again.

use super::diff::{FileText, Shown};
use super::picks::Taken;
use super::{Chosen, Outcome, Texts, described, diff};
use fvm::model::Change;
use std::io::{self, BufRead, Write};

const HELP: &str = "\
y - commit this change
n - do not; it stays in the VM
a - commit this one and all that follow
d - commit neither this one nor any that follows
s - choose from this file hunk by hunk (a modified text file only)
q - quit: nothing is committed, whatever was answered before
? - this help
";
const HUNK_HELP: &str = "\
y - commit this hunk
n - do not; it stays in the VM
a - commit this hunk and all that follow in this file
d - commit neither this hunk nor any that follows in this file
q - quit: nothing is committed, whatever was answered before
? - this help
";

/// Asks about each change.
pub fn run(
    changes: &[Change],
    texts: &mut Texts<'_>,
    answers: &mut dyn BufRead,
    out: &mut dyn Write,
) -> io::Result<Outcome> {
    let mut chosen = Chosen::default();
    let mut rest = None;
    for (i, change) in changes.iter().enumerate() {
        if rest == Some(false) {
            break;
        }
        if change.uncommittable.is_some() {
            if rest.is_none() {
                writeln!(out, "{}", described(change))?;
            }
            continue;
        }
        if rest == Some(true) {
            chosen.paths.push(change.path.clone());
            continue;
        }
        let shown = diff::load(change, texts);
        print(out, change, &shown)?;
        let text = match &shown {
            Shown::Text(text) if text.splits => Some(text.as_ref()),
            _ => None,
        };
        let question = format!("({}/{}) Commit this?", i + 1, changes.len());
        let keys = if text.is_some() { "ynadsq" } else { "ynadq" };
        match (ask(answers, out, &question, keys, HELP)?, text) {
            ('y', _) => chosen.paths.push(change.path.clone()),
            ('a', _) => {
                chosen.paths.push(change.path.clone());
                rest = Some(true);
            }
            ('d', _) => rest = Some(false),
            ('s', Some(text)) => match hunks(text, answers, out)? {
                None => return Ok(Outcome::Cancelled),
                Some(Taken::No) => {}
                Some(Taken::Whole) => chosen.paths.push(change.path.clone()),
                Some(Taken::Part(hunks)) => {
                    chosen.given.insert(change.path.clone(), text.with(&hunks));
                }
            },
            ('n', _) => {}
            _ => return Ok(Outcome::Cancelled),
        }
    }
    Ok(Outcome::Commit(chosen))
}

/// Asks about each hunk; `None`: nothing at all is committed.
fn hunks(text: &FileText, answers: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<Option<Taken>> {
    let count = text.hunks.len();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let hunk = chosen.len();
        for line in text.lines_of(hunk) {
            writeln!(out, "{}", text.text(line))?;
        }
        match ask(answers, out, &format!("hunk {}/{count}: Commit this?", hunk + 1), "ynadq", HUNK_HELP)? {
            'y' => chosen.push(true),
            'n' => chosen.push(false),
            'a' => chosen.resize(count, true),
            'd' => chosen.resize(count, false),
            _ => return Ok(None),
        }
    }
    Ok(Some(Taken::of(&chosen)))
}

fn print(out: &mut dyn Write, change: &Change, shown: &Shown) -> io::Result<()> {
    writeln!(out, "{}", described(change))?;
    match shown {
        Shown::Text(text) => text.lines.iter().try_for_each(|line| writeln!(out, "{}", text.text(*line))),
        Shown::Note(note) => writeln!(out, "({note})"),
    }
}

/// Asks until one of `keys` is the answer; the end of the answers is `q`.
fn ask(answers: &mut dyn BufRead, out: &mut dyn Write, question: &str, keys: &str, help: &str) -> io::Result<char> {
    let listed: Vec<String> = keys.chars().chain(['?']).map(String::from).collect();
    loop {
        write!(out, "{question} [{}] ", listed.join(","))?;
        out.flush()?;
        let mut line = Vec::new();
        if answers.read_until(b'\n', &mut line)? == 0 {
            writeln!(out)?;
            out.flush()?;
            return Ok('q');
        }
        match line.trim_ascii() {
            [key] if keys.contains(char::from(*key)) => return Ok(char::from(*key)),
            b"s" => writeln!(out, "it cannot be chosen in parts")?,
            _ => write!(out, "{help}")?,
        }
    }
}
