//! `fvm commit --interactive`: a person chooses what of a VM's changes reaches the host.
//!
//! ```text
//!   ChangeSet ─► tree   rows of directories and changes ┐
//!                picks  what is chosen, counts, undo    ├ state   update(key) ─► step    no terminal, no file
//!   texts ─────► diff   hunks and lines of one change   ┘   │
//!                                             view ◄────────┤     one screen of it
//!                                             screen        │     keys in, frames out (terminals)
//!                prompt  question after question, as git add -p   (everything else)
//!                                                           ▼
//!                                                    Outcome: Commit(Chosen) | Cancelled
//! ```
//!
//! Invariants: nothing is chosen at the beginning, so what nobody looked at does not reach the host; names and lines
//! come from a hostile VM and are escaped before they are shown, and no part of a line is left out without a sign;
//! both versions of a file are read only when its difference is to be shown, and only while they are short.

mod diff;
mod picks;
mod prompt;
mod screen;
mod state;
#[cfg(test)]
mod tests;
mod tree;
mod view;

use crate::failure::Failure;
use crate::render;
use fvm::BothTexts;
use fvm::model::path::printable;
use fvm::model::{Change, ChangeSet, VmPath};
use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal};

/// Reads both versions of a text file, the host's and the VM's; `None` when it is no text.
pub type Texts<'t> = dyn FnMut(&Change) -> Option<BothTexts> + 't;

/// What a person chose.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Changes that were chosen as a whole, each by itself: what lies below is named as well, or was not chosen.
    pub paths: Vec<VmPath>,
    /// Text files of which only some hunks were chosen: the resulting content.
    pub given: BTreeMap<VmPath, Vec<u8>>,
}

impl Chosen {
    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.given.is_empty()
    }
}

/// How a review ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is to be committed.
    Commit(Chosen),
    /// Nothing is.
    Cancelled,
}

/// How the person is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// A review on the whole terminal.
    Screen {
        /// Whether colours may be used; they never are the only sign.
        colour: bool,
    },
    /// A question for each change, on standard error; answers from standard input.
    Prompt,
}

impl Front {
    /// What the standard streams allow. `data`: standard output is wanted for something else.
    pub fn here(data: bool) -> Self {
        let able = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        if able && !data && io::stdin().is_terminal() && io::stdout().is_terminal() {
            let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            return Self::Screen { colour };
        }
        Self::Prompt
    }
}

/// Lets a person choose from `set`.
///
/// # Errors
/// When the terminal cannot be read or written; it is left as it was found.
pub fn review(set: &ChangeSet, texts: &mut Texts<'_>, front: Front) -> Result<Outcome, Failure> {
    let done = match front {
        Front::Screen { colour } => screen::run(state::State::new(&set.changes), texts, colour),
        Front::Prompt => {
            prompt::run(&set.changes, texts, &mut io::stdin().lock(), &mut BufWriter::new(io::stderr().lock()))
        }
    };
    done.map_err(|e| {
        Failure::new(
            format!("the review ended, and nothing is committed: {e}"),
            "'TERM=dumb fvm commit --interactive' asks line by line",
        )
    })
}

/// A line that may hold words of a VM, without its newline: tabs stay, everything else that is no text is escaped.
fn visible(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let parts: Vec<String> = line.split(|b| *b == b'\t').map(|p| printable(p).replace("\\\\", "\\")).collect();
    parts.join("\t")
}

/// A change on one line, as `fvm status` shows it.
fn described(change: &Change) -> String {
    visible(render::line(change).as_bytes())
}
