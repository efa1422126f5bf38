//! `cargo xtask`: what is generated from the one definition of the command line; measurements.

use clap::Parser;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Chores of the repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Write the man pages of fvm and of each of its commands
    Man {
        /// Where
        #[arg(default_value = "target/man")]
        dir: PathBuf,
    },
    /// Write the completions for bash, zsh and fish
    Completions {
        /// Where
        #[arg(default_value = "target/completions")]
        dir: PathBuf,
    },
    /// Lay the functions that start a VM together (crates/cli/start.ld, for the linker): as root, some minutes
    Order {
        /// An ordinary user, whose commands are looked at too
        #[arg(long)]
        user: Option<String>,
    },
    /// Measure fvm side by side with its peers (benches/README.md): start, density, steady, commit, scan, guard, trace
    Bench {
        /// Which, and its options; without: what there is
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

fn main() -> io::Result<ExitCode> {
    let written = match Task::parse() {
        Task::Man { dir } => xtask::man(&dir)?,
        Task::Completions { dir } => xtask::completions(&dir)?,
        Task::Order { user } => vec![xtask::order::write(user.as_deref())?],
        Task::Bench { words } => return xtask::bench(&words),
    };
    for path in written {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
