//! Parse → call → render. Everything that is printed, and every use of the environment, is here.
//!
//! ```text
//!   import    files ─► database          show      status, results, report
//!   run       run, worker: a Runner      doctor    what the machine has
//!   baseline  visits of benign pages    crawl     crawl, mirror
//!   places    where database and results are     progress  a line on the terminal, or lines of JSON
//! ```

mod baseline;
mod crawl;
mod doctor;
mod import;
pub mod places;
mod progress;
mod run;
mod show;

use clap::Parser;
use fvm_webtest::args::{Cli, Command, Global};
use fvm_webtest::db::DbError;
use fvm_webtest::report::ReportError;
use fvm_webtest::runner::RunError;
use fvm_webtest::store::StoreError;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write};

/// Done.
const DONE: u8 = 0;
/// Refused or failed, or something is left to do.
const FAILED: u8 = 1;
/// The command line was wrong.
const USAGE: u8 = 2;

/// Runs one command line and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { USAGE } else { DONE };
            let _closed = e.print();
            return code;
        }
    };
    let global = &cli.global;
    let done = match cli.command {
        Command::Import(args) => import::import(global, &args),
        Command::Run(args) => run::run(global, &args),
        Command::Status(which) => show::status(global, which.run),
        Command::Results(args) => show::results(global, &args),
        Command::Report(args) => show::report(global, &args),
        Command::Worker(args) => run::worker(global, &args),
        Command::Baseline(args) => baseline::baseline(global, &args),
        Command::Crawl(args) => crawl::crawl(global, &args),
        Command::Mirror(args) => crawl::mirror(global, &args),
        Command::Doctor => doctor::doctor(global),
    };
    done.unwrap_or_else(|failure| {
        failure.tell(global);
        FAILED
    })
}

/// Why a command failed: text, and what to do next.
#[derive(Debug)]
pub struct Failure {
    text: String,
    hint: Option<String>,
}

impl Failure {
    /// With something to do next.
    pub fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { text: text.into(), hint: Some(hint.into()) }
    }

    /// With or without that.
    pub fn of(text: String, hint: Option<String>) -> Self {
        Self { text, hint }
    }

    fn tell(&self, global: &Global) {
        let mut err = io::stderr().lock();
        // There is nobody to tell if that fails.
        let _closed = if global.json {
            writeln!(err, "{}", serde_json::json!({"error": self.text, "hint": self.hint}))
        } else {
            let hint = self.hint.as_ref().map_or(String::new(), |hint| format!("\nhint: {hint}"));
            writeln!(err, "fvm webtest: {}{hint}", self.text)
        };
    }
}

macro_rules! failures {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self { hint: error.hint().map(str::to_owned), text: error.to_string() }
            }
        }
    )*};
}

failures!(DbError, ReportError, RunError);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.to_string(), "see --store, and 'fvm webtest doctor'")
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { text: format!("cannot print: {error}"), hint: None }
    }
}

/// One JSON document on a line.
fn json<T: Serialize>(value: &T) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")
}

/// Talk.
fn say(global: &Global, text: &str) {
    if !global.quiet {
        let _closed = writeln!(io::stderr().lock(), "{text}");
    }
}
