//! The review on a terminal: keys in, frames out.
//!
//! Invariants: the terminal is as before once [`run`] has returned, with an error or without, and after a panic; a
//! difference is read and computed only when no key is waiting, or the key needs it.

use super::state::{Key, State, Step};
use super::{Outcome, Texts, diff, view};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io;
use std::time::Duration;

/// Reviews until the person is done.
pub fn run(mut state: State<'_>, texts: &mut Texts<'_>, colour: bool) -> io::Result<Outcome> {
    let mut screen = Screen::enter()?;
    let step = steps(&mut screen.0, &mut state, texts, colour);
    drop(screen);
    Ok(match step? {
        Step::Commit => Outcome::Commit(state.chosen()),
        Step::Stay | Step::Leave => Outcome::Cancelled,
    })
}

fn steps(
    terminal: &mut DefaultTerminal,
    state: &mut State<'_>,
    texts: &mut Texts<'_>,
    colour: bool,
) -> io::Result<Step> {
    loop {
        terminal.draw(|frame| view::draw(frame, state, colour)).map(drop)?;
        if state.wants().is_some() && !event::poll(Duration::ZERO)? {
            load(state, texts);
            continue;
        }
        // Anything else that happens, a resize for one, wants a new frame.
        let Event::Key(typed) = event::read()? else { continue };
        let Some(key) = key(typed) else { continue };
        if matches!(key, Key::Tab | Key::Enter) {
            load(state, texts);
        }
        match state.update(key) {
            Step::Stay => {}
            end => return Ok(end),
        }
    }
}

fn load(state: &mut State<'_>, texts: &mut Texts<'_>) {
    if let Some(change) = state.wants() {
        state.show(change, diff::load(&state.changes[change], texts));
    }
}

fn key(typed: KeyEvent) -> Option<Key> {
    if typed.kind == KeyEventKind::Release {
        return None;
    }
    if typed.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        let interrupt = typed.modifiers.contains(KeyModifiers::CONTROL) && typed.code == KeyCode::Char('c');
        return interrupt.then_some(Key::Interrupt);
    }
    Some(match typed.code {
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Tab | KeyCode::BackTab => Key::Tab,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Char(c) => Key::Char(c),
        _ => return None,
    })
}

/// The terminal, raw and on its second screen until this is dropped. `ratatui` adds the same to the panic hook.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(e) => {
                // It may be half done.
                let _gone = ratatui::try_restore();
                Err(e)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _gone = self.0.show_cursor();
        let _gone = ratatui::try_restore();
    }
}
