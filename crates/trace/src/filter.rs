//! Which events of a log a person wants to see.
//!
//! Invariant: a filter never hides that something is missing: `lost` always passes.

use crate::origin::{names, wild};
use crate::tree::Tree;
use fvm_model::Timestamp;
use fvm_model::event::{Event, Kind};
use std::os::unix::ffi::OsStrExt;

/// What is wanted; what is empty asks for nothing.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Names of kinds, or of groups of kinds.
    pub kinds: Vec<String>,
    /// Programs, and all that they started ([`names`]).
    pub processes: Vec<String>,
    /// Wildcards: one of an event's paths, or what lies above it, matches.
    pub paths: Vec<String>,
    /// Not earlier.
    pub since: Option<Timestamp>,
}

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no kind of event: use one of {known}", known = known())]
pub struct NoSuchKind(pub String);

fn known() -> String {
    let groups = ["process", "file", "network", "kernel"].into_iter();
    groups.chain(Kind::ALL.iter().map(|kind| kind.name())).collect::<Vec<_>>().join(", ")
}

impl Filter {
    /// Whether all words are known.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), NoSuchKind> {
        let is_unknown = |word: &&String| !Kind::ALL.iter().any(|kind| is_called(*kind, word));
        self.kinds.iter().find(is_unknown).map_or(Ok(()), |word| Err(NoSuchKind(word.clone())))
    }

    /// Whether `event` is wanted. `tree` has taken it in.
    #[must_use]
    pub fn passes(&self, event: &Event, tree: &Tree) -> bool {
        if event.kind == Kind::Lost {
            return true;
        }
        let of_kind = self.kinds.is_empty() || self.kinds.iter().any(|word| is_called(event.kind, word));
        of_kind && self.since.is_none_or(|since| event.ts >= since) && self.is_of(event, tree) && self.is_at(event)
    }

    fn is_of(&self, event: &Event, tree: &Tree) -> bool {
        if self.processes.is_empty() {
            return true;
        }
        let own = tree.get(event.process()).map(|node| node.program_at(event.seq));
        let line: Vec<_> = own.into_iter().chain(tree.ancestors(event.process(), event.seq)).collect();
        self.processes.iter().any(|text| line.iter().any(|program| names(text, program)))
    }

    fn is_at(&self, event: &Event) -> bool {
        if self.paths.is_empty() {
            return true;
        }
        let paths = [&event.args.path, &event.args.to].into_iter().flatten();
        let mut all = paths.map(|path| path.0.as_bytes());
        all.any(|path| self.paths.iter().any(|pattern| is_within(path, pattern.as_bytes())))
    }
}

fn is_called(kind: Kind, word: &str) -> bool {
    kind.name() == word || kind.group().name() == word
}

/// Whether `path`, or one above it, matches.
fn is_within(path: &[u8], pattern: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|(at, b)| **b == b'/' && *at > 0).map(|(at, _)| at);
    ends.chain([path.len()]).any(|end| wild(pattern, &path[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::{exec, of};
    use fvm_model::event::Args;
    use fvm_model::path::Bytes;

    #[test]
    fn what_is_asked_for_passes_and_losses_always_do() {
        let mut tree = Tree::default();
        let mut events = exec(1, (10, 0, 10), "[fvm]", &["/bin/sh", "-c", "x"]).to_vec();
        events.extend(exec(3, (11, 10, 10), "/bin/sh", &["/usr/bin/wget", "http://x"]));
        let at = |path: &str| Args { path: Some(Bytes(path.into())), ..Args::default() };
        events.push(of(5, (11, 10, 10), "/usr/bin/wget", Kind::Open, at("/tmp/a/b")));
        events.push(of(6, (10, 0, 10), "/bin/sh", Kind::Connect, Args::default()));
        events.push(of(7, (0, 0, 0), "", Kind::Lost, Args::default()));
        events.iter().for_each(|e| tree.add(e));
        let seqs =
            |filter: &Filter| events.iter().filter(|e| filter.passes(e, &tree)).map(|e| e.seq).collect::<Vec<_>>();
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(seqs(&Filter { kinds: words(&["network", "open"]), ..Filter::default() }), [5, 6, 7]);
        assert_eq!(seqs(&Filter { processes: words(&["wget"]), ..Filter::default() }), [3, 4, 5, 7]);
        assert_eq!(seqs(&Filter { processes: words(&["sh -c"]), ..Filter::default() }), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(seqs(&Filter { paths: words(&["/tmp/a"]), ..Filter::default() }), [5, 7]);
        assert_eq!(seqs(&Filter { paths: words(&["*b"]), ..Filter::default() }), [5, 7]);
        let since = Some(Timestamp { secs: 6, nanos: 0 });
        assert_eq!(seqs(&Filter { since, ..Filter::default() }), [6, 7]);
        assert!(Filter { kinds: words(&["exec", "file"]), ..Filter::default() }.check().is_ok());
        assert!(Filter { kinds: words(&["exce"]), ..Filter::default() }.check().is_err());
    }
}
