//! The `fvm` command line: parse → call the API → render, for people or as JSON.
//!
//! ```text
//!   args      the one definition: parser, help, man pages and completions come from it
//!   dirs      where the state lies, from the environment
//!   commands/ one file for each group of commands
//!   render    changes and VMs as text
//!   interactive/ a person chooses what is committed
//!   output    stdout is data, stderr is talk
//!   serve/   the same commands for other programs, over a socket
//!   progress  a line on the terminal while something takes long
//! ```
//!
//! Invariants: nothing is decided here that the API could decide; every error passes through [`main`], which alone
//! chooses the exit code.

pub mod args;
mod commands;
mod dirs;
mod failure;
mod interactive;
mod output;
mod progress;
mod render;
pub mod serve;

use failure::Failure;
use fvm::model::exit;
use output::Output;
use std::ffi::OsString;

/// Runs one command line and returns its exit code (`fvm_model::exit`).
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let parsed = match args::parse(args.into_iter().collect()) {
        Ok(parsed) => parsed,
        Err(e) => {
            // Help and version are answers, anything else is a usage error; clap knows where each is printed.
            let code = if e.use_stderr() { exit::USAGE } else { exit::DONE };
            let _closed = e.print();
            return code;
        }
    };
    let output = Output::new(parsed.global.json, parsed.global.quiet);
    let runs_program = parsed.command.runs_program();
    match commands::dispatch(parsed, &output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            if runs_program { failure.run_code() } else { failure.code() }
        }
    }
}

/// The result of a command: its exit code.
type Done = Result<u8, Failure>;
