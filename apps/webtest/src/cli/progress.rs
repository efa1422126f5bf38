//! What a runner tells: one line that is written over on a terminal, lines of JSON for programs.

use super::{json, say};
use fvm_webtest::args::Global;
use fvm_webtest::model::Kind;
use fvm_webtest::report::escape;
use fvm_webtest::runner::{Event, Progress, Teller};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Elsewhere than on a terminal there is a line so often.
const SELDOM: Duration = Duration::from_secs(30);

pub struct Shown<'g> {
    global: &'g Global,
    terminal: bool,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// Whether the line at the cursor is ours.
    line: bool,
    at: Option<Instant>,
}

impl<'g> Shown<'g> {
    pub fn new(global: &'g Global) -> Self {
        Self { global, terminal: io::stderr().is_terminal(), last: Mutex::default() }
    }

    fn text(&self, last: &mut Last, text: &str) {
        let clear = if std::mem::take(&mut last.line) { "\r\x1b[2K" } else { "" };
        say(self.global, &format!("{clear}{text}"));
    }
}

impl Teller for Shown<'_> {
    fn tell(&self, event: &Event) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.global.json {
            // Whoever read them is gone: the run goes on.
            let _closed = json(event);
            return;
        }
        match event {
            Event::Progress(progress) => {
                let over = progress.counts.done() == progress.counts.total;
                if self.terminal && !self.global.quiet {
                    let mut err = io::stderr().lock();
                    let _closed = write!(err, "\r\x1b[2K{}", line(progress)).and_then(|()| err.flush());
                    last.line = true;
                } else if over || last.at.is_none_or(|at| at.elapsed() > SELDOM) {
                    last.at = Some(Instant::now());
                    say(self.global, &line(progress));
                }
            }
            Event::Result { url, verdict, reason, .. } if ["malicious", "suspicious"].contains(verdict) => {
                let reason = escape::terminal(reason.as_deref().unwrap_or_default());
                self.text(&mut last, &format!("{verdict}: {}: {reason}", escape::terminal(url)));
            }
            Event::Result { .. } => {}
            Event::Draining { seconds } => {
                self.text(
                    &mut last,
                    &format!("no new visits; those under way have {seconds} s (once more: end them now)"),
                );
            }
            Event::Note { text } => self.text(&mut last, text),
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let last = self.last.get_mut().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut last.line) {
            let _closed = io::stderr().write_all(b"\n");
        }
    }
}

/// `run 3: 120/5000 (2%), 48 running, 97.3 a minute, 50 min left; 2 malicious, 1 suspicious, 116 clean, 1 error`.
pub fn line(progress: &Progress) -> String {
    let counts = &progress.counts;
    let percent = counts.done() * 100 / counts.total.max(1);
    let mut text =
        format!("run {}: {}/{} ({percent}%), {} running", progress.run, counts.done(), counts.total, counts.running);
    if counts.waiting > 0 {
        text += &format!(", {} to be tried again", counts.waiting);
    }
    if let Some(rate) = progress.per_minute {
        text += &format!(", {rate:.1} a minute");
    }
    if let Some(left) = progress.eta_s.filter(|left| *left > 0.0) {
        text += &format!(", {} left", duration(left));
    }
    let kinds = [Kind::Malicious, Kind::Suspicious, Kind::Unknown, Kind::Error, Kind::Clean];
    let verdicts: Vec<String> = kinds
        .into_iter()
        .filter(|kind| counts.of(*kind) > 0)
        .map(|kind| format!("{} {}", counts.of(kind), fvm_webtest::db::word(kind)))
        .collect();
    if !verdicts.is_empty() {
        text += &format!("; {}", verdicts.join(", "));
    }
    text
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5_400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}
