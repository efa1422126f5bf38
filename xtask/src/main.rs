//! `cargo xtask`: what is generated from the one definition of the command line.

use clap::Parser;
use std::io;
use std::path::PathBuf;

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
}

fn main() -> io::Result<()> {
    let written = match Task::parse() {
        Task::Man { dir } => xtask::man(&dir)?,
        Task::Completions { dir } => xtask::completions(&dir)?,
    };
    for path in written {
        println!("{}", path.display());
    }
    Ok(())
}
