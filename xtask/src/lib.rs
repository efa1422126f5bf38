//! Files that come from the definition of the command line (`fvm_cli::args`), or of stepping through fvm, and what builds before it measures.
//!
//! ```text
//!   Cli::command() ─┬─ man          fvm.1, fvm-run.1, fvm-commit.1, ..., fvm-webtest-run.1, ...
//!                   └─ completions  fvm.bash, _fvm, fvm.fish
//!   (fvm webtest is another program; its definition is put in its place)
//!   order: crates/cli/start.ld, for the linker
//!   bench: cargo build --release fvm, fvm-benches ── cargo run ─► fvm-bench WORDS
//! ```

pub mod order;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

/// The `fvm` command with all that clap adds to it.
#[must_use]
pub fn command() -> Command {
    let about = |command: &Command| command.get_about().cloned();
    let webtest = fvm_webtest::args::Cli::command().name("webtest").display_name("fvm-webtest");
    let command = fvm_cli::args::Cli::command();
    // fvm itself passes on whatever comes after its name.
    let mut command = command.mut_subcommand("webtest", |in_fvm| match about(&in_fvm) {
        Some(about) => webtest.about(about),
        None => webtest,
    });
    command.build();
    command
}

/// The commands that get a page of their own: `fvm`, then each of its commands, and each of `fvm webtest`.
pub fn pages() -> impl Iterator<Item = Command> {
    let top = command();
    let below = |of: &Command, name: &str| -> Vec<Command> {
        of.get_subcommands()
            .filter(|sub| sub.get_name() != "help")
            .map(|sub| sub.clone().display_name(format!("{name}-{}", sub.get_name())))
            .collect()
    };
    let commands = below(&top, "fvm");
    let webtest = top.find_subcommand("webtest").map(|webtest| below(webtest, "fvm-webtest")).unwrap_or_default();
    std::iter::once(top).chain(commands).chain(webtest)
}

/// Builds what is measured and what measures, both for release, and runs `fvm-bench` with `words`; its exit status.
///
/// # Errors
/// When cargo cannot be run.
pub fn bench(words: &[OsString]) -> io::Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let run = |words: &[&str], more: &[OsString]| {
        // The benchmarks build something with it.
        process::Command::new(&cargo).args(words).args(more).env("CARGO", &cargo).status()
    };
    // Each by itself: together, they would share features that fvm is not shipped with.
    let visits = words.first().is_some_and(|name| name == "visits").then_some("fvm-webtest");
    for package in ["fvm-cli", "fvm-benches"].into_iter().chain(visits) {
        if !run(&["build", "--release", "--quiet", "--package", package], &[])?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    let bench = ["run", "--release", "--quiet", "--package", "fvm-benches", "--bin", "fvm-bench", "--"];
    let code = run(&bench, words)?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Writes all man pages into `dir` and returns their paths.
///
/// # Errors
/// When a file cannot be written.
pub fn man(dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    pages().map(|command| clap_mangen::Man::new(command).generate_to(dir)).collect()
}

/// Writes the completions into `dir` and returns their paths.
///
/// # Errors
/// When a file cannot be written.
pub fn completions(dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    [Shell::Bash, Shell::Zsh, Shell::Fish]
        .into_iter()
        .map(|shell| clap_complete::generate_to(shell, &mut command(), "fvm", dir))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_says_what_it_does_and_its_man_page_renders() {
        assert!(pages().count() > 15, "commands are missing");
        for page in pages() {
            let name = page.get_name().to_owned();
            assert!(page.get_about().is_some_and(|about| !about.to_string().is_empty()), "{name} has no about text");
            let mut text = Vec::new();
            clap_mangen::Man::new(page).render(&mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{name}: {text}");
        }
    }

    #[test]
    fn every_option_and_argument_says_what_it_is() {
        for page in pages() {
            for arg in page.get_arguments() {
                assert!(arg.get_help().is_some(), "{}: {} has no help text", page.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn man_pages_and_completions_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let pages = man(dir.path()).unwrap();
        assert!(dir.path().join("fvm.1").exists() && dir.path().join("fvm-run.1").exists(), "{pages:?}");
        assert!(dir.path().join("fvm-webtest-import.1").exists(), "{pages:?}");
        let shells = completions(dir.path()).unwrap();
        assert_eq!(shells.len(), 3);
        assert!(shells.iter().all(|path| path.metadata().is_ok_and(|m| m.len() > 500)), "{shells:?}");
    }
}
