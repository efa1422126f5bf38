//! One line on a terminal while something takes long: what it is and for how long by now.
//!
//! ```text
//!   Progress::on_terminal ── thread: waits ── a second ── draws ── draws ... ┐
//!   drop ─────────────────────────────────────────────────────► erases, ends ┘
//! ```
//!
//! Invariants: nothing is drawn before [`PATIENCE`] is over; after the drop the line is erased and the thread has ended,
//! so that what follows may print, and fork.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What takes less is not worth a word.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two pictures.
const BEAT: Duration = Duration::from_millis(120);

/// Work that goes on until this is dropped.
#[derive(Debug)]
pub struct Progress {
    /// Dropped to say that it is over.
    going_on: Option<Sender<()>>,
    line: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows `what` on standard error, which is a terminal.
    pub fn on_terminal(what: &str) -> Self {
        Self::begin(what, PATIENCE, ProgressDrawTarget::stderr())
    }

    fn begin(what: &str, patience: Duration, target: ProgressDrawTarget) -> Self {
        let (going_on, over) = channel();
        let (what, began) = (what.to_owned(), Instant::now());
        // Without a thread there is no line, and nothing else is missing.
        let line = std::thread::Builder::new().spawn(move || show(&over, what, began, patience, target)).ok();
        Self { going_on: Some(going_on), line }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.going_on.take());
        if let Some(line) = self.line.take() {
            let _panicked = line.join();
        }
    }
}

fn show(over: &Receiver<()>, what: String, began: Instant, patience: Duration, target: ProgressDrawTarget) {
    let goes_on_after = |wait| over.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
    if !goes_on_after(patience) {
        return;
    }
    let style = ProgressStyle::with_template("fvm: {msg} {spinner} {elapsed}");
    let bar = ProgressBar::with_draw_target(None, target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()).tick_chars("|/-\\ "))
        .with_elapsed(began.elapsed())
        .with_message(what);
    bar.tick();
    while goes_on_after(BEAT) {
        bar.tick();
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal that remembers what it is told.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl Paper {
        fn put(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.put(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.put(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            self.put("<cleared>")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(patience_ms: u64, work_ms: u64) -> String {
        let paper = Paper::default();
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let progress = Progress::begin("reading", Duration::from_millis(patience_ms), target);
        std::thread::sleep(Duration::from_millis(work_ms));
        drop(progress);
        paper.0.lock().unwrap().clone()
    }

    #[test]
    fn short_work_leaves_no_trace_and_long_work_a_line_that_is_erased() {
        assert_eq!(shown(60_000, 0), "");
        let long = shown(1, 300);
        assert!(
            long.starts_with("fvm: reading ") && long.contains(" 0s") && long.trim_end().ends_with("<cleared>"),
            "{long:?}"
        );
    }
}
