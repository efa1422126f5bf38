//! One screen of a review.
//!
//! ```text
//!   fvm commit: 3 of 7 changes chosen
//!   [~] - /srv/www/ 3/7      │ M  /srv/www/index.html
//!   [x] M   index.html       │ [x] @@ -1,3 +1,3 @@
//!   [-] A   control.sock     │  <p>
//!   [ ] + img/ 0/5           │ -old
//!   space choose  enter diff  / search  u undo  c commit  ? help  q leave
//! ```
//!
//! Invariants: only the rows and lines that have room are made; a line that is cut ends in `…`; everything from a VM
//! is escaped before it comes here, or here.

use super::diff::{Kind, Shown};
use super::picks::Count;
use super::state::{Focus, Mode, Place, State, plural};
use super::tree::Node;
use super::{described, visible};
use fvm::model::{Change, ChangeKind};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};
use std::iter::Peekable;

/// Narrower than this, the difference stands below the rows.
const WIDE: u16 = 80;
/// Lines for the description of the selected change.
const ABOUT: u16 = 3;

const HELP: &[&str] = &[
    "Nothing reaches the host before you commit it here.",
    "",
    "  arrows, h j k l   move; left and right fold and unfold",
    "  PgUp PgDn g G     a page; the first, the last",
    "  space             choose a change, or all in a directory; again: not",
    "  .                 a directory's own entry, without what is in it",
    "  a  A  i           all, none, the others instead (in a diff: its hunks)",
    "  tab, enter        into the diff and back; enter folds directories",
    "  in a diff         space: this hunk   [ ]: hunks   left, right: long lines",
    "  /  n  N           search a name, next, previous   !: next conflict",
    "  u                 undo the last choice, and the one before, ...",
    "  c                 commit what is chosen      q, Esc   leave, commit nothing",
    "",
    "  [x] chosen  [~] in part  [ ] not  [-] cannot be committed",
    "  A created  M content  m metadata  D deleted  R renamed  T other type",
    "  !  the host changed it as well: --on-conflict says what happens then",
    "",
    "What a choice needs (a new file's new directory, the other names of a file)",
    "is taken along, and named.",
];

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, state: &mut State<'_>, colour: bool) {
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    let wide = middle.width >= WIDE;
    let (layout, border) = if wide {
        (Layout::horizontal([Constraint::Percentage(42), Constraint::Min(0)]), Borders::LEFT)
    } else {
        (Layout::vertical([Constraint::Percentage(50), Constraint::Min(0)]), Borders::TOP)
    };
    let [rows, side] = layout.areas(middle);
    let block = Block::new().borders(border);
    let [about, diff] = Layout::vertical([Constraint::Length(ABOUT), Constraint::Min(0)]).areas(block.inner(side));
    state.fit(rows.height.into(), diff.height.into());
    let look = Look { colour, state };
    frame.render_widget(block, side);
    frame.render_widget(look.title(), top);
    frame.render_widget(look.rows(rows), rows);
    frame.render_widget(look.about(about), about);
    frame.render_widget(look.diff(diff), diff);
    frame.render_widget(look.bottom(bottom), bottom);
    if look.state.mode == Mode::Help {
        frame.render_widget(Clear, middle);
        frame.render_widget(Paragraph::new(HELP.iter().map(|l| Line::raw(*l)).collect::<Vec<_>>()), middle);
    }
}

struct Look<'s, 'c> {
    colour: bool,
    state: &'s State<'c>,
}

impl Look<'_, '_> {
    fn title(&self) -> Line<'static> {
        let Count { all, chosen, .. } = self.state.picks.count(0);
        Line::styled(format!("fvm commit: {chosen} of {all} changes chosen"), Modifier::BOLD)
    }

    fn rows(&self, area: Rect) -> Paragraph<'static> {
        let lines = window(self.state.cursor, self.state.rows.len()).map(|row| {
            let text = cut(&self.row(self.state.rows[row], area.width), 0, area.width);
            Line::styled(text, self.cursor(Focus::Tree, row == self.state.cursor.at))
        });
        Paragraph::new(lines.collect::<Vec<_>>())
    }

    fn row(&self, node: usize, width: u16) -> String {
        let Node { label, depth, change, is_dir, .. } = &self.state.tree.nodes[node];
        let count = self.state.picks.count(node);
        let mark = change.map_or("  ".to_owned(), |c| mark(&self.state.changes[c]));
        // However deep it lies, its name has room.
        let indent = " ".repeat((depth * 2).min(usize::from(width / 2)));
        let fold = match (self.state.tree.has_children(node), self.state.is_open(node)) {
            (false, _) => "  ",
            (true, true) => "- ",
            (true, false) => "+ ",
        };
        let slash = if *is_dir { "/" } else { "" };
        let counts =
            if self.state.tree.has_children(node) { format!(" {}/{}", count.chosen, count.all) } else { String::new() };
        format!("{} {mark} {indent}{fold}{label}{slash}{counts}", count.mark())
    }

    fn about(&self, area: Rect) -> Paragraph<'static> {
        let text = match self.state.change() {
            Some(change) => described(&self.state.changes[change]),
            None => {
                let count = self.state.picks.count(self.state.node());
                format!("{} of {} {} in here chosen", count.chosen, count.all, plural(count.all))
            }
        };
        Paragraph::new(broken(&text, area.width, area.height)).style(Modifier::BOLD)
    }

    fn diff(&self, area: Rect) -> Paragraph<'static> {
        let Some(change) = self.state.change() else { return Paragraph::default() };
        let text = match self.state.shown() {
            None => return Paragraph::new("..."),
            Some(Shown::Note(note)) => return Paragraph::new(broken(note, area.width, area.height)),
            Some(Shown::Text(text)) => text,
        };
        let taken = self.state.picks.taken(change);
        let here = self.state.hunk();
        let lines = window(self.state.line, text.lines.len()).map(|at| {
            let line = text.lines[at];
            let (mut shown, mut aside) = (text.text(line).replace('\t', "    "), self.state.aside);
            if line.kind == Kind::Header {
                let mark = if taken.has(line.hunk) { "[x]" } else { "[ ]" };
                let arrow = if self.state.focus == Focus::Diff && here == Some(line.hunk) { ">" } else { " " };
                shown = if text.splits { format!("{arrow}{mark} {shown}") } else { format!("{arrow}{shown}") };
                aside = 0;
            }
            let style = self.cursor(Focus::Diff, at == self.state.line.at && self.state.focus == Focus::Diff);
            Line::styled(cut(&shown, aside, area.width), style.patch(self.kind(line.kind)))
        });
        Paragraph::new(lines.collect::<Vec<_>>())
    }

    fn bottom(&self, area: Rect) -> Line<'static> {
        let Count { all, chosen, part, conflicts } = self.state.picks.count(0);
        let text = match &self.state.mode {
            Mode::Search(query) => return Line::from(vec![Span::raw(format!("/{query}")), Span::raw("_")]),
            Mode::Commit => {
                let part = if part > 0 { format!(", {part} of them in part") } else { String::new() };
                let conflicts = match conflicts {
                    0 => String::new(),
                    n => format!(", {n} that the host changed as well"),
                };
                format!("commit {chosen} of {all} {}{part}{conflicts}? [y,n]", plural(all))
            }
            Mode::Leave => "leave, and commit nothing of what you chose? [y,n]".into(),
            Mode::Help => "any key goes back".into(),
            Mode::Browse if !self.state.message.is_empty() => visible(self.state.message.as_bytes()),
            Mode::Browse if self.state.focus == Focus::Diff => {
                "space choose hunk  [ ] hunks  tab back  u undo  c commit  ? help  q leave".into()
            }
            Mode::Browse => "space choose  enter diff  / search  u undo  c commit  ? help  q leave".into(),
        };
        Line::styled(cut(&text, 0, area.width), Modifier::BOLD)
    }

    fn cursor(&self, focus: Focus, here: bool) -> Style {
        match (here, self.state.focus == focus) {
            (true, true) => Style::new().add_modifier(Modifier::REVERSED),
            (true, false) => Style::new().add_modifier(Modifier::UNDERLINED),
            _ => Style::new(),
        }
    }

    fn kind(&self, kind: Kind) -> Style {
        match kind {
            _ if !self.colour => Style::new(),
            Kind::Plus => Style::new().fg(Color::Green),
            Kind::Minus => Style::new().fg(Color::Red),
            Kind::Header => Style::new().fg(Color::Cyan),
            Kind::Same | Kind::NoNewline => Style::new(),
        }
    }
}

/// `M ` or `M!`
fn mark(change: &Change) -> String {
    let kind = match change.kind {
        ChangeKind::Created => 'A',
        ChangeKind::Modified { .. } => 'M',
        ChangeKind::Metadata { .. } => 'm',
        ChangeKind::Deleted => 'D',
        ChangeKind::Renamed { .. } => 'R',
        ChangeKind::Retyped { .. } => 'T',
    };
    format!("{kind}{}", if change.conflict.is_some() { '!' } else { ' ' })
}

/// What of a list has room.
fn window(place: Place, len: usize) -> std::ops::Range<usize> {
    place.top.min(len)..(place.top + place.height).min(len)
}

/// `width` columns of a line from character `aside` on; `…` where it goes on.
fn cut(text: &str, aside: usize, width: u16) -> String {
    let mut chars = text.chars().skip(aside).peekable();
    let mut line = take(&mut chars, width);
    if chars.peek().is_some() {
        // The last column makes room.
        while columns(&line) >= usize::from(width.max(1)) {
            line.pop();
        }
        line.push('…');
    }
    line
}

/// At most `width` columns of `chars`.
fn take(chars: &mut Peekable<impl Iterator<Item = char>>, width: u16) -> String {
    let mut line = String::new();
    let mut used = 0;
    while let Some(c) = chars.peek() {
        used += columns(c.encode_utf8(&mut [0; 4]));
        if used > usize::from(width) {
            break;
        }
        line.extend(chars.next());
    }
    line
}

/// A text on at most `height` lines of `width` columns, broken anywhere; `…` where it goes on.
fn broken(text: &str, width: u16, height: u16) -> Vec<Line<'static>> {
    let mut chars = text.chars().peekable();
    let (mut lines, height) = (Vec::new(), usize::from(height));
    while chars.peek().is_some() && width > 1 && lines.len() < height {
        let last = lines.len() + 1 == height;
        let rest: String = if last { chars.by_ref().collect() } else { take(&mut chars, width) };
        lines.push(Line::raw(cut(&rest, 0, width)));
    }
    lines
}

fn columns(text: &str) -> usize {
    Span::raw(text).width()
}
