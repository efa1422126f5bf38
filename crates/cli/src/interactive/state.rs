//! The review as a state machine: keys in, no terminal, no file.
//!
//! ```text
//!            enter, tab                       Mode  Browse ─ / ─► Search ─ enter, esc ─► Browse
//!   Tree ◄──────────────► Diff                             ─ c ─► Commit ─ y ─► Step::Commit
//!   rows, folds           lines, hunks                     ─ q ─► Leave  ─ y ─► Step::Leave
//!                                                          ─ ? ─► Help
//!   wants() ─► a change whose difference is to be shown; the caller loads it when no key is waiting: show()
//! ```
//!
//! Invariants: the cursor is on a row that is shown; a choice is made by a key of its own, and no key that moves makes
//! one; the commit is confirmed, and so is leaving once anything is chosen, except for Ctrl-C.

use super::Chosen;
use super::diff::{FileText, Shown};
use super::picks::{Picks, Taken};
use super::tree::Tree;
use fvm::model::Change;
use std::collections::HashMap;
use std::rc::Rc;

/// More nodes than these begin folded.
const FOLDED_ABOVE: usize = 200;
/// Columns that a long line is moved by.
const ASIDE: usize = 8;

/// What was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    // Named as on the keyboard.
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Tab,
    Enter,
    Esc,
    Backspace,
    /// Ctrl-C.
    Interrupt,
    Char(char),
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another key.
    Stay,
    /// The end: what is chosen is committed.
    Commit,
    /// The end: nothing is committed.
    Leave,
}

/// Where keys go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    /// The rows.
    Tree,
    /// The difference of the selected change.
    Diff,
}

/// What keys mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Moving and choosing.
    Browse,
    /// Typing what to search.
    Search(String),
    /// Reading the help.
    Help,
    /// "Commit?"
    Commit,
    /// "Leave?"
    Leave,
}

/// A place in a list of which a part is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Where the cursor is.
    pub at: usize,
    /// The first that is shown.
    pub top: usize,
    /// How many are shown.
    pub height: usize,
}

impl Place {
    /// Moves as `key` says, in a list of `len`; keys of another kind do nothing.
    fn step(&mut self, key: Key, len: usize) {
        let page = self.height.saturating_sub(1).max(1);
        let to = match key {
            Key::Up | Key::Char('k') => self.at.saturating_sub(1),
            Key::Down | Key::Char('j') => self.at + 1,
            Key::PageUp => self.at.saturating_sub(page),
            Key::PageDown => self.at + page,
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => len,
            _ => return,
        };
        self.at = to.min(len.saturating_sub(1));
    }

    /// Shows `height` of `len`, the cursor among them, and no more empty room than need be.
    fn fit(&mut self, height: usize, len: usize) {
        self.height = height;
        let top = self.top.min(self.at).min(len.saturating_sub(height));
        self.top = top.max((self.at + 1).saturating_sub(height));
    }
}

/// A review.
#[derive(Debug)]
pub struct State<'c> {
    /// What there is to choose from.
    pub changes: &'c [Change],
    /// The same, as a tree.
    pub tree: Tree,
    /// What is chosen.
    pub picks: Picks,
    open: Vec<bool>,
    /// The nodes that have a row now.
    pub rows: Vec<usize>,
    /// In `rows`.
    pub cursor: Place,
    /// In the lines of the difference.
    pub line: Place,
    /// Columns that the difference is moved to the left.
    pub aside: usize,
    /// Where keys go.
    pub focus: Focus,
    /// What they mean.
    pub mode: Mode,
    /// What happened.
    pub message: String,
    query: String,
    shown: Option<(usize, Shown)>,
    /// Texts of which a part is, or was, chosen.
    split: HashMap<usize, Rc<FileText>>,
}

impl<'c> State<'c> {
    /// Nothing is chosen, the first row is selected.
    pub fn new(changes: &'c [Change]) -> Self {
        let tree = Tree::new(changes);
        let picks = Picks::new(changes, &tree);
        let mut open = vec![tree.nodes.len() <= FOLDED_ABOVE; tree.nodes.len()];
        open[0] = true;
        let mut state = Self {
            changes,
            tree,
            picks,
            open,
            rows: Vec::new(),
            cursor: Place::default(),
            line: Place::default(),
            aside: 0,
            focus: Focus::Tree,
            mode: Mode::Browse,
            message: String::new(),
            query: String::new(),
            shown: None,
            split: HashMap::new(),
        };
        state.list();
        state
    }

    /// The selected node.
    pub fn node(&self) -> usize {
        self.rows[self.cursor.at]
    }

    /// The selected change; `None` on a directory that is not one.
    pub fn change(&self) -> Option<usize> {
        self.tree.nodes[self.node()].change
    }

    /// Whether a directory's rows are shown.
    pub fn is_open(&self, node: usize) -> bool {
        self.open[node]
    }

    /// The change whose difference is to be shown, when it is not there yet.
    pub fn wants(&self) -> Option<usize> {
        self.change().filter(|c| self.shown.as_ref().is_none_or(|(known, _)| known != c))
    }

    /// Takes the difference of a change.
    pub fn show(&mut self, change: usize, shown: Shown) {
        // What was chosen in parts was chosen in this text, not in what may be there by now.
        let shown = self.split.get(&change).map_or(shown, |text| Shown::Text(Rc::clone(text)));
        self.shown = Some((change, shown));
        (self.line, self.aside) = (Place { height: self.line.height, ..Place::default() }, 0);
    }

    /// The difference of the selected change, when it is there.
    pub fn shown(&self) -> Option<&Shown> {
        let change = self.change()?;
        self.shown.as_ref().filter(|(known, _)| *known == change).map(|(_, shown)| shown)
    }

    /// The text of the selected change.
    pub fn text(&self) -> Option<&Rc<FileText>> {
        match self.shown()? {
            Shown::Text(text) => Some(text),
            Shown::Note(_) => None,
        }
    }

    /// The hunk that the cursor is in.
    pub fn hunk(&self) -> Option<usize> {
        self.text().and_then(|text| text.lines.get(self.line.at)).map(|line| line.hunk)
    }

    /// Tells how many rows and lines have room.
    pub fn fit(&mut self, rows: usize, lines: usize) {
        self.cursor.fit(rows, self.rows.len());
        let len = self.text().map_or(0, |text| text.lines.len());
        self.line.fit(lines, len);
    }

    /// What was chosen.
    pub fn chosen(&self) -> Chosen {
        let mut chosen = Chosen::default();
        for (i, change) in self.changes.iter().enumerate() {
            match (self.picks.taken(i), self.split.get(&i)) {
                (Taken::Whole, _) => chosen.paths.push(change.path.clone()),
                (Taken::Part(hunks), Some(text)) => {
                    chosen.given.insert(change.path.clone(), text.with(hunks));
                }
                _ => {}
            }
        }
        chosen
    }

    /// One key.
    pub fn update(&mut self, key: Key) -> Step {
        if key == Key::Interrupt {
            return Step::Leave;
        }
        self.message.clear();
        match (std::mem::replace(&mut self.mode, Mode::Browse), key) {
            (Mode::Search(query), key) => self.type_query(query, key),
            (Mode::Commit, Key::Char('y') | Key::Enter) => return Step::Commit,
            (Mode::Leave, Key::Char('y' | 'q') | Key::Enter) => return Step::Leave,
            (Mode::Help | Mode::Commit | Mode::Leave, _) => {}
            (Mode::Browse, key) => return self.browse(key),
        }
        Step::Stay
    }

    fn browse(&mut self, key: Key) -> Step {
        match key {
            Key::Esc if self.focus == Focus::Diff => (self.focus, self.aside) = (Focus::Tree, 0),
            Key::Char('q') | Key::Esc if self.picks.count(0).chosen == 0 => return Step::Leave,
            Key::Char('q') | Key::Esc => self.mode = Mode::Leave,
            Key::Char('c') if self.picks.count(0).chosen == 0 => self.say("nothing is chosen yet: space chooses"),
            Key::Char('c') => self.mode = Mode::Commit,
            Key::Char('?') => self.mode = Mode::Help,
            Key::Char('/') => self.mode = Mode::Search(String::new()),
            Key::Char('n') => self.search(true),
            Key::Char('N') => self.search(false),
            Key::Char('!') => self.go("no other change conflicts with the host", true, |s, node| {
                s.tree.nodes[node].change.is_some_and(|c| s.changes[c].conflict.is_some())
            }),
            Key::Char('u') => match self.picks.undo(&self.tree) {
                Some(count) => self.message = format!("undone: {count} {}", plural(count)),
                None => self.say("nothing to undo"),
            },
            key if self.focus == Focus::Diff => self.in_diff(key),
            key => self.in_tree(key),
        }
        Step::Stay
    }

    fn in_tree(&mut self, key: Key) {
        let node = self.node();
        let folds = self.tree.has_children(node);
        match key {
            Key::Left | Key::Char('h') if folds && self.open[node] => self.fold(node, false),
            Key::Left | Key::Char('h') => self.select(self.tree.nodes[node].parent.unwrap_or(0)),
            Key::Right | Key::Char('l') if folds && !self.open[node] => self.fold(node, true),
            Key::Right | Key::Char('l') if folds => self.cursor.at += 1,
            Key::Enter if folds => self.fold(node, !self.open[node]),
            Key::Tab | Key::Enter if self.text().is_some() => self.focus = Focus::Diff,
            Key::Tab | Key::Enter => self.say("there is no text to go into"),
            Key::Char(' ') => self.toggle(self.tree.changes(node).collect()),
            Key::Char('.') => self.toggle(self.tree.nodes[node].change.into_iter().collect()),
            Key::Char('a') => self.set(|_| Taken::Whole),
            Key::Char('A') => self.set(|_| Taken::No),
            Key::Char('i') => self.set(|taken| if *taken == Taken::No { Taken::Whole } else { Taken::No }),
            key => self.cursor.step(key, self.rows.len()),
        }
    }

    fn in_diff(&mut self, key: Key) {
        let (Some(change), Some(text)) = (self.change(), self.text().cloned()) else {
            self.focus = Focus::Tree;
            return;
        };
        let hunk = self.hunk().unwrap_or(0);
        let chosen = |s: &Self| -> Vec<bool> { (0..text.hunks.len()).map(|i| s.picks.taken(change).has(i)).collect() };
        match key {
            Key::Tab | Key::Enter => (self.focus, self.aside) = (Focus::Tree, 0),
            Key::Left | Key::Char('h') => self.aside = self.aside.saturating_sub(ASIDE),
            Key::Right | Key::Char('l') => {
                let seen = text.lines.iter().skip(self.line.top).take(self.line.height.max(1));
                // Never so far that nothing is left to see.
                if seen.map(|line| text.text(*line).chars().count()).max() > Some(self.aside + ASIDE) {
                    self.aside += ASIDE;
                }
            }
            Key::Char(']' | '}') => self.line.at = first_line(&text, hunk + 1).unwrap_or(self.line.at),
            Key::Char('[' | '{') => {
                let start = first_line(&text, hunk).unwrap_or(0);
                let to = if self.line.at > start { hunk } else { hunk.saturating_sub(1) };
                self.line.at = first_line(&text, to).unwrap_or(0);
            }
            Key::Char(' ' | 'a' | 'A' | 'i') if !text.splits => self.toggle(vec![change]),
            Key::Char(' ') => {
                let mut hunks = chosen(self);
                hunks[hunk] = !hunks[hunk];
                self.set_hunks(change, &text, &hunks);
            }
            Key::Char('a') => self.set_hunks(change, &text, &[true]),
            Key::Char('A') => self.set_hunks(change, &text, &[false]),
            Key::Char('i') => {
                let hunks: Vec<bool> = chosen(self).into_iter().map(|c| !c).collect();
                self.set_hunks(change, &text, &hunks);
            }
            key => self.line.step(key, text.lines.len()),
        }
    }

    fn set_hunks(&mut self, change: usize, text: &Rc<FileText>, hunks: &[bool]) {
        let taken = Taken::of(hunks);
        if matches!(taken, Taken::Part(_)) {
            self.split.insert(change, Rc::clone(text));
        }
        self.picks.set(&self.tree, [(change, taken)]);
    }

    /// Takes all of these, or none when all are taken.
    fn toggle(&mut self, changes: Vec<usize>) {
        let able: Vec<usize> = changes.iter().copied().filter(|c| self.picks.able(*c)).collect();
        if able.is_empty() {
            let why = changes.first().and_then(|c| self.changes[*c].uncommittable.as_deref());
            self.message = match why {
                Some(why) => format!("this cannot be committed: {why}"),
                None => "the directory itself did not change".into(),
            };
            return;
        }
        let all = able.iter().all(|c| *self.picks.taken(*c) == Taken::Whole);
        let taken = if all { Taken::No } else { Taken::Whole };
        self.picks.set(&self.tree, able.into_iter().map(|c| (c, taken.clone())));
    }

    fn set(&mut self, new: impl Fn(&Taken) -> Taken) {
        let new: Vec<(usize, Taken)> = (0..self.changes.len()).map(|c| (c, new(self.picks.taken(c)))).collect();
        let count = self.picks.set(&self.tree, new);
        self.message = format!("{count} {} chosen anew; u undoes it", plural(count));
    }

    fn type_query(&mut self, mut query: String, key: Key) {
        match key {
            Key::Esc => return,
            Key::Enter => {
                if !query.is_empty() {
                    self.query = query;
                }
                return self.search(true);
            }
            Key::Backspace if query.pop().is_none() => return,
            Key::Char(c) if !c.is_control() => query.push(c),
            _ => {}
        }
        self.mode = Mode::Search(query);
    }

    fn search(&mut self, forward: bool) {
        let query = self.query.clone();
        if query.is_empty() {
            return self.say("nothing was searched yet: / searches");
        }
        let exact = query.chars().any(char::is_uppercase);
        let matches = |text: &str| if exact { text.contains(&query) } else { text.to_lowercase().contains(&query) };
        self.go(&format!("no other name has '{query}'"), forward, |s, node| {
            let node = &s.tree.nodes[node];
            let path = || node.change.is_some_and(|c| matches(&s.changes[c].path.to_string()));
            matches(&node.label) || (query.contains('/') && path())
        });
    }

    /// Goes to the next node that `fits`, around the end; says `none` when there is no other.
    fn go(&mut self, none: &str, forward: bool, fits: impl Fn(&Self, usize) -> bool) {
        let (here, count) = (self.node(), self.tree.nodes.len());
        let other = |i: usize| if forward { (here + i) % count } else { (here + count - i) % count };
        match (1..count).map(other).find(|node| fits(self, *node)) {
            Some(node) => {
                self.focus = Focus::Tree;
                self.select(node);
            }
            None => self.say(none),
        }
    }

    /// Selects a node, unfolding what it lies in.
    fn select(&mut self, node: usize) {
        let above = std::iter::successors(self.tree.nodes[node].parent, |n| self.tree.nodes[*n].parent);
        let closed: Vec<usize> = above.filter(|n| !self.open[*n]).collect();
        if !closed.is_empty() {
            for n in closed {
                self.open[n] = true;
            }
            self.list();
        }
        self.cursor.at = self.rows.binary_search(&node).unwrap_or(0);
    }

    fn fold(&mut self, node: usize, open: bool) {
        self.open[node] = open;
        self.list();
    }

    fn list(&mut self) {
        self.rows.clear();
        let mut node = 0;
        while node < self.tree.nodes.len() {
            self.rows.push(node);
            node = if self.open[node] { node + 1 } else { self.tree.nodes[node].end };
        }
    }

    fn say(&mut self, text: &str) {
        text.clone_into(&mut self.message);
    }
}

/// `change` or `changes`.
pub fn plural(count: usize) -> &'static str {
    if count == 1 { "change" } else { "changes" }
}

fn first_line(text: &FileText, hunk: usize) -> Option<usize> {
    let at = text.lines.partition_point(|line| line.hunk < hunk);
    (at < text.lines.len()).then_some(at)
}
