//! What a person types, sees, and gets.

use super::diff::{self, Shown};
use super::picks::Count;
use super::prompt;
use super::state::{Focus, Key, Mode, State, Step};
use super::tree::tests::changes;
use super::{Chosen, Outcome, view};
use fvm::model::{Change, ChangeKind};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::time::{Duration, Instant};

const OLD: &[u8] = b"1\n2\n3\n4\n5\n";
const NEW: &[u8] = b"one\n2\n3\n4\nfive\n";

/// Two hunks in every modified file.
#[expect(clippy::unnecessary_wraps, reason = "the form that a review takes")]
fn texts(change: &Change) -> Option<(Vec<u8>, Vec<u8>)> {
    Some(match change.kind {
        ChangeKind::Created => (Vec::new(), b"new\n".to_vec()),
        ChangeKind::Deleted => (b"old\n".to_vec(), Vec::new()),
        _ => (OLD.to_vec(), NEW.to_vec()),
    })
}

/// Types: a word in angle brackets is a key, anything else a character.
fn press(state: &mut State<'_>, keys: &str) -> Step {
    let mut rest = keys;
    let mut step = Step::Stay;
    while let Some(c) = rest.chars().next() {
        assert_eq!(step, Step::Stay, "the review ended before '{rest}'");
        let special = rest.strip_prefix('<').and_then(|r| r.split_once('>'));
        let key = match special.map(|(name, _)| name) {
            Some("tab") => Key::Tab,
            Some("enter") => Key::Enter,
            Some("esc") => Key::Esc,
            Some("back") => Key::Backspace,
            Some("left") => Key::Left,
            Some("right") => Key::Right,
            Some("pgdn") => Key::PageDown,
            Some("c-c") => Key::Interrupt,
            _ => Key::Char(c),
        };
        rest = special.map_or(&rest[c.len_utf8()..], |(_, after)| after);
        if let Some(change) = state.wants() {
            state.show(change, diff::load(&state.changes[change], &mut texts));
        }
        step = state.update(key);
    }
    step
}

fn chosen(state: &State<'_>) -> String {
    let Chosen { paths, given } = state.chosen();
    let parts = given.iter().map(|(path, text)| format!("{path}={}", String::from_utf8_lossy(text).replace('\n', ",")));
    paths.iter().map(ToString::to_string).chain(parts).collect::<Vec<_>>().join(" ")
}

const SET: &str = "M /d/a; A /d/new/; A /d/new/x; A /d/sock #; M /e !; D /f";

#[test]
fn space_takes_a_change_or_a_whole_directory_but_nothing_that_cannot_be_committed() {
    let changes = changes(SET);
    for (keys, want) in [
        ("", ""),
        (" ", "/d/a /d/new /d/new/x /e /f"),
        ("  ", ""),
        ("j ", "/d/a /d/new /d/new/x"),
        ("jj ", "/d/a"),
        ("jjj ", "/d/new /d/new/x"),
        ("jjj.", "/d/new"),
        ("j.", ""),
        ("/sock<enter> ", ""),
        ("a", "/d/a /d/new /d/new/x /e /f"),
        ("aA", ""),
        ("jj i", "/d/new /d/new/x /e /f"),
        ("jj j ", "/d/a /d/new /d/new/x"),
        ("! ", "/e"),
    ] {
        let mut state = State::new(&changes);
        press(&mut state, keys);
        assert_eq!(chosen(&state), want, "{keys}");
    }
}

#[test]
fn every_choice_can_be_undone_one_after_the_other() {
    let changes = changes(SET);
    let mut state = State::new(&changes);
    press(&mut state, "jj <tab> ");
    let parts = chosen(&state);
    assert!(parts.starts_with("/d/a="), "{parts}");
    press(&mut state, "<tab>aAi");
    let mut seen = Vec::new();
    for _ in 0..5 {
        press(&mut state, "u");
        seen.push(chosen(&state));
    }
    assert_eq!(seen, ["", "/d/a /d/new /d/new/x /e /f", &parts, "/d/a", ""]);
    press(&mut state, "u");
    assert_eq!(state.message, "nothing to undo");
}

#[test]
fn hunks_of_a_text_are_taken_one_by_one() {
    let changes = changes(SET);
    for (keys, want) in [
        ("<tab> ", "/d/a=one,2,3,4,5,"),
        ("<tab>] ", "/d/a=1,2,3,4,five,"),
        ("<tab>G ", "/d/a=1,2,3,4,five,"),
        ("<tab>G[[ ", "/d/a=one,2,3,4,5,"),
        ("<tab> ] ", "/d/a"),
        ("<tab>  ", ""),
        ("<tab>a", "/d/a"),
        ("<tab> i", "/d/a=1,2,3,4,five,"),
        ("<tab> <esc> ", "/d/a"),
        (" <tab>A", ""),
    ] {
        let mut state = State::new(&changes);
        press(&mut state, "jj");
        press(&mut state, keys);
        assert_eq!(chosen(&state), want, "{keys}");
    }
    let mut state = State::new(&changes);
    press(&mut state, "G<tab>");
    assert_eq!(state.focus, Focus::Diff);
    press(&mut state, " ");
    assert_eq!(chosen(&state), "/f", "a deletion has no parts");
    press(&mut state, "<tab>k");
    assert_eq!(press(&mut state, "<enter> <c-c>"), Step::Leave);
}

#[test]
fn what_was_chosen_in_parts_stays_what_was_seen() {
    let changes = changes("M /f");
    let mut state = State::new(&changes);
    press(&mut state, "j<tab> <tab>k");
    // Somebody wrote the file meanwhile.
    let mut other = |_: &Change| Some((b"x\n".to_vec(), b"y\n".to_vec()));
    state.update(Key::Down);
    assert_eq!(state.wants(), None);
    state.show(0, diff::load(&changes[0], &mut other));
    assert!(matches!(state.shown(), Some(Shown::Text(text)) if text.hunks.len() == 2));
    assert_eq!(chosen(&state), "/f=one,2,3,4,5,");
}

#[test]
fn folds_and_search_lead_to_a_row() {
    let changes = changes("M /srv/a/one; M /srv/a/two; M /srv/b/one; M /srv/b/Three");
    let mut state = State::new(&changes);
    let at = |state: &State<'_>| state.tree.nodes[state.node()].label.clone();
    press(&mut state, "j<left>");
    assert_eq!((at(&state), state.rows.len()), ("a".into(), 5));
    press(&mut state, "/one<enter>");
    assert_eq!((at(&state), state.rows.len()), ("one".into(), 7), "what was folded is unfolded");
    let first = state.node();
    press(&mut state, "n");
    assert!(state.node() > first && at(&state) == "one");
    press(&mut state, "n");
    assert_eq!(state.node(), first, "around the end");
    press(&mut state, "N/three<enter>");
    assert_eq!(at(&state), "Three", "small letters find capitals");
    press(&mut state, "/B/t<back>o<back><back><back>b/t<enter>");
    assert_eq!(at(&state), "Three");
    assert_eq!(state.message, "no other name has 'b/t'");
    press(&mut state, "hh");
    assert!(!state.is_open(state.node()));
    press(&mut state, "h");
    assert_eq!(at(&state), "/srv");
    press(&mut state, "/x<esc>");
    assert_eq!(state.mode, Mode::Browse);
}

#[test]
fn a_commit_is_confirmed_and_so_is_leaving_a_choice() {
    let changes = changes(SET);
    for (keys, want) in [
        ("q", Step::Leave),
        ("<esc>", Step::Leave),
        ("c", Step::Stay),
        (" c", Step::Stay),
        (" cy", Step::Commit),
        (" c<enter>", Step::Commit),
        (" cn", Step::Stay),
        (" q", Step::Stay),
        (" qn", Step::Stay),
        (" qy", Step::Leave),
        (" <c-c>", Step::Leave),
        ("?q", Step::Stay),
    ] {
        assert_eq!(press(&mut State::new(&changes), keys), want, "{keys}");
    }
}

fn screen(state: &mut State<'_>, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, state, true)).unwrap();
    if width == 0 {
        return String::new();
    }
    terminal.backend().to_string().lines().map(|l| l.trim_matches('"').trim_end()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_screen_shows_the_tree_and_the_selected_difference() {
    let changes = changes(SET);
    let mut state = State::new(&changes);
    press(&mut state, "jj<tab> ");
    assert_eq!(
        screen(&mut state, 80, 14),
        "\
fvm commit: 1 of 5 changes chosen
[~]    - / 1/5                    │M  /d/a
[~]      - d/ 1/3                 │
[~] M        a                    │
[ ] A      - new/ 0/2             │>[x] @@ -1,4 +1,4 @@
[ ] A          x                  │-1
[-] A        sock                 │+one
[ ] M!     e                      │ 2
[ ] D      f                      │ 3
                                  │ 4
                                  │ [ ] @@ -5,1 +5,1 @@
                                  │-5
                                  │+five
space choose hunk  [ ] hunks  tab back  u undo  c commit  ? help  q leave"
    );
    press(&mut state, "<tab>G");
    press(&mut state, " c");
    let narrow = screen(&mut state, 40, 9);
    assert!(narrow.contains("\n[x] D      f\n"), "{narrow}");
    assert!(narrow.ends_with("commit 2 of 5 changes, 1 of them in par…"), "{narrow}");
    press(&mut state, "n?");
    assert!(screen(&mut state, 80, 24).contains("Nothing reaches the host before"));
}

#[test]
fn a_screen_of_any_size_is_drawn_and_no_hostile_name_or_line_reaches_the_terminal() {
    let evil = "M /d/\x1b]0owned\x07\r\u{202e}; A /d/\x1b[2J; M /wide/宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽宽";
    let mut changes = changes(evil);
    changes[0].conflict = Some("\x1b[31m".into());
    let mut hostile =
        |_: &Change| Some((b"\x1b[2J\x9b31m\n".to_vec(), "\u{9b}2J\u{200b}\r\n宽宽宽宽\n".repeat(40).into_bytes()));
    let mut state = State::new(&changes);
    let mut frames = String::new();
    for _ in 0..state.tree.nodes.len() {
        if let Some(change) = state.wants() {
            state.show(change, diff::load(&changes[change], &mut hostile));
        }
        for (width, height) in [(0, 0), (1, 1), (3, 2), (20, 5), (79, 10), (80, 3), (200, 50)] {
            // In the diff, moved aside, back, help, searching for an escape, asking for the commit.
            let diff = state.text().is_some();
            for key in [' ', '\t', 'G', 'l', '\t', '?', '?', '/', '\x1b', '\n', 'c', 'n'] {
                state.update(match key {
                    'G' | 'l' if !diff => continue,
                    '\t' => Key::Tab,
                    '\n' => Key::Enter,
                    key => Key::Char(key),
                });
                frames.push_str(&screen(&mut state, width, height));
            }
        }
        state.update(Key::Down);
    }
    assert!(!frames.chars().any(|c| c.is_control() && c != '\n'), "{frames:?}");
    assert!(
        frames.contains("\\u{1b}]0owned\\u{7}\\r\\u{202e}") && frames.contains("+\\u{9b}2J\\u{200b}\\r"),
        "{frames}"
    );
    let mut out = Vec::new();
    prompt::run(&changes, &mut hostile, &mut &b"s\na\nn\nn\n"[..], &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
}

#[test]
fn a_hundred_thousand_changes_stay_quick() {
    let text: Vec<String> = (0..100_000).map(|i| format!("M /srv/{}/{}/file{i}", i % 50, i % 1000)).collect();
    let changes = changes(&text.join(";"));
    let mut compared = 0;
    let began = Instant::now();
    let mut state = State::new(&changes);
    let mut terminal = Terminal::new(TestBackend::new(120, 50)).unwrap();
    for key in "jlljjj aAiu/file99999\nn G".chars() {
        state.update(if key == '\n' { Key::Enter } else { Key::Char(key) });
        if let Some(change) = state.wants() {
            compared += 1;
            state.show(change, diff::load(&changes[change], &mut texts));
        }
        terminal.draw(|frame| view::draw(frame, &mut state, true)).unwrap();
    }
    assert!(compared < 30);
    assert_eq!(state.picks.count(0).all, 100_000);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn counts_are_the_sum_of_what_lies_below() {
    let changes = changes(SET);
    let mut state = State::new(&changes);
    press(&mut state, "jj<tab> <tab>! ");
    assert_eq!(state.picks.count(0), Count { all: 5, chosen: 2, part: 1, conflicts: 1 });
}

fn answers(set: &str, typed: &str) -> (String, String) {
    let changes = changes(set);
    let mut out = Vec::new();
    let outcome = prompt::run(&changes, &mut texts, &mut typed.as_bytes(), &mut out).unwrap();
    let said = match outcome {
        Outcome::Cancelled => "cancelled".into(),
        Outcome::Commit(Chosen { paths, given }) => {
            let parts = given.iter().map(|(p, t)| format!("{p}={}", String::from_utf8_lossy(t).replace('\n', ",")));
            paths.iter().map(ToString::to_string).chain(parts).collect::<Vec<_>>().join(" ")
        }
    };
    (said, String::from_utf8(out).unwrap())
}

#[test]
fn the_plain_review_asks_change_by_change_and_the_end_of_input_commits_nothing() {
    for (typed, want) in [
        ("y\ny\ny\ny\ny\n", "/d/a /d/new /d/new/x /e /f"),
        ("n\nn\nn\nn\ny\n", "/f"),
        ("n\na\n", "/d/new /d/new/x /e /f"),
        ("y\nd\n", "/d/a"),
        ("d\n", ""),
        ("y\nq\n", "cancelled"),
        ("y\ny\n", "cancelled"),
        ("", "cancelled"),
        ("s\ny\nn\nd\n", "/d/a=one,2,3,4,5,"),
        ("s\nn\na\nd\n", "/d/a=1,2,3,4,five,"),
        ("s\na\nd\n", "/d/a"),
        ("s\nd\nd\n", ""),
        ("s\ny\nq\n", "cancelled"),
        ("s\ny\n", "cancelled"),
        ("?\nwhat\n\n y \ns\nd\n", "/d/a"),
    ] {
        assert_eq!(answers(SET, typed).0, want, "{typed:?}");
    }
}

#[test]
fn the_plain_review_shows_what_it_asks_about() {
    let (_, shown) = answers("M /f; A /s #; D /g", "s\ny\n?\nq\n");
    let (question, rest) = shown.split_once("hunk 1/2").unwrap();
    assert_eq!(
        question,
        "M  /f\n@@ -1,4 +1,4 @@\n-1\n+one\n 2\n 3\n 4\n@@ -5,1 +5,1 @@\n-5\n+five\n\
         (1/3) Commit this? [y,n,a,d,s,q,?] @@ -1,4 +1,4 @@\n-1\n+one\n 2\n 3\n 4\n"
    );
    assert!(rest.contains("nothing is committed, whatever was answered before"), "{rest}");
    let (_, shown) = answers("A /s #; D /g", "n\n");
    assert!(shown.starts_with("A  /s  ! cannot be committed: it is a socket\nD  /g\n"), "{shown}");
    assert!(shown.contains("(2/2) Commit this? [y,n,a,d,q,?] "), "{shown}");
}
