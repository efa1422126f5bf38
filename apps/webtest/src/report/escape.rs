//! Hostile text, made harmless for where it goes.

use std::fmt::Write as _;

/// Text for a page, within an element or a quoted attribute. What could change how the rest is read or shown is written as its number:
/// controls, marks of direction, what has no width.
#[must_use]
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '`' => out += "&#96;",
            '\n' | '\t' => out.push(' '),
            c if is_tricky(c) => {
                let _infallible = write!(out, "\u{ab}U+{:04X}\u{bb}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// The same with no more than `max` characters.
#[must_use]
pub fn html_cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => html(text),
        Some((end, _)) => html(text.get(..end).unwrap_or_default()) + "\u{2026}",
    }
}

/// Text for a terminal.
#[must_use]
pub fn terminal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            c if is_tricky(c) => {
                let _infallible = write!(out, "<U+{:04X}>", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// JSON for a terminal: what could change how the rest is read stands as its number. It lies in strings only.
#[must_use]
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !is_tricky(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _infallible = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// A cell of a table that a spreadsheet may open: never a formula (OWASP, CSV injection).
#[must_use]
pub fn cell(text: &str) -> String {
    let first = text.trim_start().chars().next();
    let formula =
        |c| matches!(c, '=' | '+' | '-' | '@' | '\u{ff1d}' | '\u{ff0b}' | '\u{ff0d}' | '\u{ff20}' | '|' | '%');
    let starts = text.starts_with(['\t', '\r', '\n', '\0']) || first.is_some_and(formula);
    // A separator that a program guesses must not begin a cell within this one.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if starts { format!("'{text}") } else { text }
}

/// Text within a string of a STIX pattern.
#[must_use]
pub fn pattern(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// Whether a character changes how others are shown, or is not shown.
fn is_tricky(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_element_or_attribute() {
        assert_eq!(html("<a href='x' onclick=\"y\">&`"), "&lt;a href=&#39;x&#39; onclick=&quot;y&quot;&gt;&amp;&#96;");
        assert_eq!(html("a\u{202e}b\u{0}\n\u{200b}"), "a\u{ab}U+202E\u{bb}b\u{ab}U+0000\u{bb} \u{ab}U+200B\u{bb}");
        assert_eq!(html_cut("é<b", 2), "é&lt;\u{2026}");
        assert_eq!(html_cut("é<b", 3), "é&lt;b");
        assert_eq!(terminal("\u{1b}[2Jx\u{9b}31m"), "<U+001B>[2Jx<U+009B>31m");
    }

    #[test]
    fn no_cell_is_a_formula() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =cmd|' /C calc'!A0", "\u{ff1d}1"] {
            assert!(cell(text).starts_with('\''), "{text:?}");
        }
        assert_eq!(cell("https://a.example/=x"), "https://a.example/=x");
        assert_eq!(cell("a\nb\u{0}"), "a b ");
    }

    #[test]
    fn a_pattern_stays_one_string() {
        assert_eq!(pattern(r"a'] OR [b:c='\"), r"a\'] OR [b:c=\'\\");
    }
}
