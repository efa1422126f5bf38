//! Who made each change of a VM: its layers say what there is, the log says who asked for it.
//!
//! ```text
//!   open /a by 12, rename /a /b by 13, mkdir /b by 14 (it is there already: nothing)
//!     ─► /b: last written by 13, which came from sh, which came from 'npm install'
//! ```
//!
//! What a commit takes because of who made it ([`Origins::is_by`]) is theirs alone: all that ever had a hand in it ([`crate::hands`]),
//! as far as an attempt may have come true.
//!
//! Invariants: never invented: what stands before a loss, a run that was cut off, or one that could not see all (as one whose
//! level has no changes of files), names nobody, and neither does a path of other mounts; a call that cannot have done anything,
//! for the entry was there already or gone already, takes no origin away.

use crate::capture::calls::takes_over;
use crate::hands::{Controls, Groups, Hand, Hands};
pub use crate::names::{identity, is_called, names, wild};
use crate::tree::Tree;
use fvm_model::event::{Event, Kind, Origin, ProcessKey, Program, Trust};
use fvm_model::path::Bytes;
use fvm_model::{Change, ChangeKind, Timestamp, VmPath};
use std::collections::BTreeMap;

/// `O_CREAT | O_EXCL`: fails where there is something.
const EXCLUSIVE: u64 = (libc::O_CREAT | libc::O_EXCL) as u64;

/// `RENAME_EXCHANGE`.
const EXCHANGES: u64 = 2;
/// Entries that are moved along with directories.
const MOVES_MAX: usize = 2_000_000;

/// One deed.
#[derive(Debug, Clone, Copy)]
struct Deed {
    key: ProcessKey,
    seq: u64,
    at: Timestamp,
    kind: Kind,
    trust: Trust,
}

/// What was done to a path, last.
#[derive(Debug, Clone, Copy, Default)]
struct Deeds {
    /// Made, written or moved to here.
    made: Option<Deed>,
    /// Its mode, owner, times or attributes.
    marked: Option<Deed>,
    /// Removed, or moved away.
    gone: Option<Deed>,
    /// Which file of several names it is; 0: of one.
    group: u32,
}

/// A path, and all who had a hand in it.
#[derive(Debug, Clone, Default)]
struct Entry {
    deeds: Deeds,
    hands: Hands,
    /// Who had a hand in what lay below it when it was moved away, if it was.
    below: Option<Box<Hands>>,
}

/// Who did what, put together from the events of a VM.
#[derive(Debug)]
pub struct Origins {
    tree: Tree,
    paths: BTreeMap<VmPath, Entry>,
    groups: Groups,
    controls: Controls,
    /// Who wrote where nobody can say: in mounts of its own, by paths that are not whole.
    anywhere: Hands,
    is_open: bool,
    is_blind: bool,
    /// Entries that may be moved along with directories still.
    moves_left: usize,
}

impl Default for Origins {
    fn default() -> Self {
        Self {
            tree: Tree::default(),
            paths: BTreeMap::new(),
            groups: Groups::default(),
            controls: Controls::default(),
            anywhere: Hands::default(),
            is_open: false,
            is_blind: false,
            moves_left: MOVES_MAX,
        }
    }
}

impl Origins {
    /// Takes an event in. All events of a log, in order.
    pub fn add(&mut self, event: &Event) {
        self.tree.add(event);
        match event.kind {
            // Something may have been done since to whatever was known.
            Kind::Lost => self.paths.clear(),
            Kind::Start => {
                if self.is_open {
                    self.paths.clear();
                }
                self.is_open = true;
                self.is_blind = event.args.name.is_some() || !event.sees_files();
                if self.is_blind {
                    self.paths.clear();
                }
            }
            Kind::End => self.is_open = false,
            _ if self.is_blind => {}
            _ => self.deed(event),
        }
    }

    fn deed(&mut self, event: &Event) {
        if self.moves_left == 0 {
            return;
        }
        self.control(event);
        let changes_files = matches!(
            event.kind,
            Kind::Open
                | Kind::Truncate
                | Kind::Mknod
                | Kind::Symlink
                | Kind::Link
                | Kind::Rename
                | Kind::Unlink
                | Kind::Rmdir
        );
        if changes_files && (event.args.foreign || event.args.cut) {
            self.anywhere.add((event.process(), self.tree.era(event.process())));
        }
        let deed = Deed { key: event.process(), seq: event.seq, at: event.ts, kind: event.kind, trust: event.trust };
        let (path, to) = (event.path(), event.to());
        match event.kind {
            Kind::Open => {
                let is_exclusive = event.args.flags.is_some_and(|flags| flags & EXCLUSIVE == EXCLUSIVE);
                path.into_iter().for_each(|path| self.make(path, deed, is_exclusive));
            }
            Kind::Truncate => path.into_iter().for_each(|path| self.make(path, deed, false)),
            Kind::Mkdir | Kind::Mknod | Kind::Symlink => {
                path.into_iter().for_each(|path| self.make(path, deed, true));
            }
            Kind::Link => {
                if let (Some(path), Some(to)) = (path, to) {
                    self.make(to.clone(), deed, true);
                    self.join(path, to, deed);
                }
            }
            Kind::Rename => {
                if let (Some(from), Some(to)) = (path, to) {
                    if event.args.flags.is_some_and(|flags| flags & EXCHANGES != 0) {
                        self.exchange(&from, &to, deed);
                    } else {
                        self.rename(&from, &to, deed);
                    }
                }
            }
            Kind::Unlink | Kind::Rmdir => path.into_iter().for_each(|path| self.remove(path, deed)),
            Kind::Chmod | Kind::Chown | Kind::Setxattr | Kind::Removexattr | Kind::Utime => {
                if let Some(path) = path {
                    self.touch(path, deed).marked = Some(deed);
                }
            }
            _ => {}
        }
    }

    /// Whoever takes a process over has a hand in all that it does from then on.
    fn control(&mut self, event: &Event) {
        let hand = (event.process(), self.tree.era(event.process()));
        let number = |pid: Option<i32>| pid.and_then(|pid| u32::try_from(pid).ok());
        let of_proc = || {
            let path = event.args.path.as_ref()?.0.to_str()?.strip_prefix("/proc/")?;
            path.split_once('/').filter(|(_, rest)| rest.ends_with("mem"))?.0.parse().ok()
        };
        let over = match event.kind {
            Kind::Ptrace if event.args.flags.is_some_and(takes_over) => number(event.args.pid),
            Kind::MemoryWrite => number(event.args.pid),
            Kind::Open => of_proc(),
            _ => None,
        };
        if let Some(number) = over.filter(|number| *number != event.tgid) {
            self.controls.add(number, hand);
        }
    }

    /// The entry at `path`, in which whoever did `deed` has a hand now.
    fn touch(&mut self, path: VmPath, deed: Deed) -> &mut Deeds {
        let mut hands = Hands::default();
        hands.add((deed.key, self.tree.era(deed.key)));
        if !self.controls.is_empty() {
            let own = Some(deed.key);
            for key in own.into_iter().chain(self.tree.line(deed.key)) {
                self.controls.of(key.tgid).into_iter().for_each(|others| hands.add_all(others));
            }
        }
        if !self.paths.contains_key(&path) {
            self.inherit(&path, &mut hands);
        }
        let entry = self.paths.entry(path).or_default();
        match self.groups.get(entry.deeds.group) {
            Some(group) => group.add_all(&hands),
            None => entry.hands.add_all(&hands),
        }
        &mut entry.deeds
    }

    /// A directory that was moved away may be there still, with all that was in it.
    fn inherit(&self, path: &VmPath, hands: &mut Hands) {
        for above in path.as_path().ancestors().skip(1).filter_map(|above| VmPath::new(above).ok()) {
            if let Some(below) = self.paths.get(&above).and_then(|entry| entry.below.as_ref()) {
                hands.add_all(below);
            }
        }
    }

    fn make(&mut self, path: VmPath, deed: Deed, is_exclusive: bool) {
        let is_there = self.paths.get(&path).is_some_and(|entry| entry.deeds.made.is_some());
        // Of a directory nobody has a hand who tried to make it when it was there.
        if is_exclusive && is_there && deed.kind == Kind::Mkdir {
            return;
        }
        let deeds = self.touch(path, deed);
        if !(is_exclusive && is_there) {
            *deeds = Deeds { made: Some(deed), gone: None, ..*deeds };
        }
    }

    fn remove(&mut self, path: VmPath, deed: Deed) {
        let deeds = self.touch(path, deed);
        if deeds.gone.is_none() {
            *deeds = Deeds { gone: Some(deed), made: None, marked: None, group: deeds.group };
        }
    }

    /// Two names of one file: who writes to the one writes to the other.
    fn join(&mut self, path: VmPath, to: VmPath, deed: Deed) {
        let mut hands = Hands::default();
        self.touch(path.clone(), deed);
        for name in [&path, &to] {
            if let Some(entry) = self.paths.get(name) {
                hands.add_all(&entry.hands);
                self.groups.peek(entry.deeds.group).into_iter().for_each(|group| hands.add_all(group));
            }
        }
        let known = [&path, &to]
            .into_iter()
            .find_map(|name| self.paths.get(name).map(|entry| entry.deeds.group).filter(|group| *group != 0));
        let group = match known {
            Some(group) => {
                self.groups.get(group).into_iter().for_each(|of_it| of_it.add_all(&hands));
                Some(group)
            }
            None => self.groups.begin(hands),
        };
        for name in [path, to] {
            let entry = self.paths.entry(name).or_default();
            match group {
                Some(group) if entry.deeds.group == 0 || entry.deeds.group == group => entry.deeds.group = group,
                // Too many, or of two such: nobody is named.
                _ => entry.deeds = Deeds { made: None, marked: None, ..entry.deeds },
            }
        }
    }

    fn hands_of(&self, entry: &Entry) -> Hands {
        let mut hands = entry.hands.clone();
        self.groups.peek(entry.deeds.group).into_iter().for_each(|group| hands.add_all(group));
        hands
    }

    /// What is at `path` and below.
    fn all_below(&self, path: &VmPath) -> Vec<VmPath> {
        self.paths.range(path.clone()..).map(|(path, _)| path).take_while(|p| p.is_within(path)).cloned().collect()
    }

    /// It may fail: whoever had a hand in what was there has one in what is there now.
    fn rename(&mut self, from: &VmPath, to: &VmPath, deed: Deed) {
        let below = self.all_below(from);
        self.moves_left = self.moves_left.saturating_sub(below.len());
        let mover = (deed.key, self.tree.era(deed.key));
        let mut all = Hands::default();
        for path in below {
            let Some(entry) = self.paths.remove(&path) else { continue };
            let Some(rest) = path.relative_to(from) else { continue };
            all.add_all(&self.hands_of(&entry));
            if rest.as_os_str().is_empty() {
                // Its own deeds are the mover's, below.
                let kept = Entry { deeds: Deeds { gone: entry.deeds.gone, ..Deeds::default() }, ..entry };
                self.paths.insert(path, kept);
                continue;
            }
            if let Ok(moved) = VmPath::new(to.as_path().join(rest)) {
                self.land(moved, entry, mover);
            }
        }
        self.remove(from.clone(), deed);
        let source = self.paths.get(from).map(|entry| self.hands_of(entry)).unwrap_or_default();
        if let Some(entry) = self.paths.get_mut(from) {
            entry.below.get_or_insert_default().add_all(&all);
        }
        let marked = self.paths.get(to).and_then(|entry| entry.deeds.marked);
        let deeds = self.touch(to.clone(), deed);
        *deeds = Deeds { made: Some(deed), marked, gone: None, group: deeds.group };
        if let Some(entry) = self.paths.get_mut(to) {
            entry.hands.add_all(&source);
        }
    }

    /// What came along with a directory.
    fn land(&mut self, path: VmPath, moved: Entry, mover: Hand) {
        let mut hands = self.hands_of(&moved);
        hands.add(mover);
        if let Some(before) = self.paths.get(&path) {
            hands.add_all(&self.hands_of(before));
        }
        if let Some(group) = self.groups.get(moved.deeds.group) {
            group.add_all(&hands);
        }
        self.paths.insert(path, Entry { hands, ..moved });
    }

    /// Two trees change places, or do not: nobody is named in either.
    fn exchange(&mut self, one: &VmPath, other: &VmPath, deed: Deed) {
        let mut all = Hands::default();
        all.add((deed.key, self.tree.era(deed.key)));
        for place in [one, other] {
            for path in self.all_below(place) {
                self.moves_left = self.moves_left.saturating_sub(1);
                if let Some(entry) = self.paths.get(&path) {
                    all.add_all(&self.hands_of(entry));
                }
                self.paths.remove(&path);
            }
        }
        for place in [one, other] {
            let deeds = self.touch(place.clone(), deed);
            *deeds = Deeds { made: Some(deed), marked: None, gone: None, group: deeds.group };
            if let Some(entry) = self.paths.get_mut(place) {
                entry.hands.add_all(&all);
                entry.below.get_or_insert_default().add_all(&all);
            }
        }
    }

    /// Whether a program made `change`, or what came from it, and nobody else had a hand in it. `is`: whether a program is meant.
    #[must_use]
    pub fn is_by(&self, change: &Change, is: &dyn Fn(&Program) -> bool) -> bool {
        let Some(entry) = self.paths.get(&change.path) else { return false };
        let of_one = |(key, seq): Hand| {
            let own = self.tree.get(key).map(|node| node.program_at(seq));
            own.as_ref().is_some_and(is) || self.tree.ancestors(key, seq).iter().any(is)
        };
        self.deed_of(change).is_some_and(|deed| of_one((deed.key, deed.seq)))
            && self.hands_of(entry).are_all(of_one)
            && self.anywhere.are_all(of_one)
    }

    /// Whether a program that is meant, or what came from it, was the last that made `change`.
    #[must_use]
    pub fn is_last_by(&self, change: &Change, is: &dyn Fn(&Program) -> bool) -> bool {
        let Some(deed) = self.deed_of(change) else { return false };
        let own = self.tree.get(deed.key).map(|node| node.program_at(deed.seq));
        own.as_ref().is_some_and(is) || self.tree.ancestors(deed.key, deed.seq).iter().any(is)
    }

    /// The programs that are meant and did not come from one that is.
    #[must_use]
    pub fn meant(&self, is: &dyn Fn(&Program) -> bool) -> Vec<Program> {
        let mut found = Vec::new();
        for node in self.tree.nodes() {
            for (seq, ..) in &node.programs {
                let program = node.program_at(*seq);
                if is(&program) && !self.tree.ancestors(node.key, *seq).iter().any(is) {
                    found.push(program);
                }
            }
        }
        found
    }

    /// The deed that made `change`, if the log knows.
    fn deed_of(&self, change: &Change) -> Option<Deed> {
        if self.moves_left == 0 {
            return None;
        }
        let deeds = self.paths.get(&change.path)?.deeds;
        match change.kind {
            ChangeKind::Created
            | ChangeKind::Modified { .. }
            | ChangeKind::Retyped { .. }
            | ChangeKind::Renamed { .. } => deeds.made,
            ChangeKind::Metadata { .. } => deeds.marked.or(deeds.made),
            ChangeKind::Deleted => deeds.gone,
        }
    }

    /// Who made `change`, if the log says so. Command lines are cut, and not more than [`ANCESTORS_MAX`] ancestors told: a VM
    /// chooses how long they are.
    #[must_use]
    pub fn of(&self, change: &Change) -> Option<Origin> {
        let deed = self.deed_of(change)?;
        let program = shortened(self.tree.get(deed.key)?.program_at(deed.seq), ARGV_TOLD);
        let ancestors = self.tree.ancestors(deed.key, deed.seq);
        let ancestors = ancestors.into_iter().take(ANCESTORS_MAX).map(|program| shortened(program, ARGV_TOLD / 4));
        Some(Origin {
            program,
            ancestors: ancestors.collect(),
            at: deed.at,
            kind: deed.kind,
            seq: deed.seq,
            trust: deed.trust,
        })
    }

    /// Which program made `change`, and when: less than [`Self::of`] says, for many.
    #[must_use]
    pub fn maker(&self, change: &Change) -> Option<Maker> {
        let deed = self.deed_of(change)?;
        let node = self.tree.get(deed.key)?;
        let era = node.programs.iter().map(|(from, ..)| *from).rfind(|from| *from <= deed.seq).unwrap_or(0);
        Some(Maker { key: deed.key, era, at: deed.at })
    }

    /// When the process and those that it came from began, oldest first: what one started stands together when sorted by this.
    #[must_use]
    pub fn order(&self, key: ProcessKey) -> Vec<(u64, u32)> {
        let own = std::iter::once(key).chain(self.tree.line(key));
        let mut line: Vec<(u64, u32)> = own.map(|key| (key.start_ns, key.tgid)).collect();
        line.reverse();
        line
    }
}

/// Ancestors that are told of one change.
pub const ANCESTORS_MAX: usize = 64;
/// Bytes of a command line that are told; of an ancestor's a quarter.
const ARGV_TOLD: usize = 4096;

/// A program that made changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Maker {
    /// Its process.
    pub key: ProcessKey,
    /// By which event it became what it was then.
    pub era: u64,
    /// When it made this change.
    pub at: Timestamp,
}

fn shortened(mut program: Program, max: usize) -> Program {
    let mut left = max;
    let fits = |arg: &Bytes| {
        let len = arg.0.len() + 1;
        let fits = left >= len;
        left = left.saturating_sub(len);
        fits
    };
    let kept = program.argv.iter().take_while({
        let mut fits = fits;
        move |arg| fits(arg)
    });
    let kept = kept.count();
    if kept < program.argv.len() {
        program.argv.truncate(kept);
        program.argv.push(Bytes("...".into()));
    }
    program
}

#[cfg(test)]
mod tests;
