//! One request, in a process of its own: its command line is carried out as that of `fvm` would be, and what it would print is
//! the answer.
//!
//! Invariants: this process has one thread when it begins, so that it may build VMs; its streams are the request's; it ends when
//! the answer is written.

use crate::args;
use crate::output::Output;
use crate::serve::protocol::{Answer, Fault};
use crate::{commands, failure::Failure};
use fvm::model::exit;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Does what the line says with the VMs in `home`, and writes the answer to `reply`. Its exit code: 0 when all is written.
pub fn carry_out(line: Vec<OsString>, home: &Path, mut reply: File) -> i32 {
    let answer = answer(line, home);
    let bytes = serde_json::to_vec(&answer).unwrap_or_default();
    i32::from(reply.write_all(&bytes).is_err())
}

fn answer(line: Vec<OsString>, home: &Path) -> Answer {
    let mut cli = match args::parse(line) {
        Ok(cli) => cli,
        Err(e) => {
            let text = e.render().to_string();
            // What follows is how a command line is written.
            let first = text.split("\n\n").next().unwrap_or_default();
            return Answer::refused(exit::USAGE, first.trim_start_matches("error: ").trim(), None);
        }
    };
    cli.global.home = Some(home.to_owned());
    cli.global.json = true;
    let runs_program = cli.command.runs_program();
    let out = Output::gathering();
    let done = commands::dispatch(cli, &out);
    let mut gathered = out.gathered();
    let code = match done {
        Ok(code) => code,
        Err(failure) => {
            let code = if runs_program { failure.run_code() } else { failure.code() };
            gathered.failures.insert(0, fault(&failure));
            code
        }
    };
    let mut faults = gathered.failures.into_iter();
    let error = faults.next().map(|first| Fault { code, ..first });
    Answer { code, result: gathered.result, notices: gathered.notices, error, also: faults.collect() }
}

/// A failure as clients see it.
pub fn fault(failure: &Failure) -> Fault {
    Fault { code: failure.code(), message: failure.text().to_owned(), hint: failure.hint().map(Into::into) }
}
