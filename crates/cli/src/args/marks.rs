//! Commands on marked files: marks, and the guard that keeps them in VMs.

use clap::{Args, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// `fvm marks`.
#[derive(Debug, Args)]
pub struct Marks {
    /// Look at these files, and at what is below these directories, by mark and by content
    pub paths: Vec<PathBuf>,
    /// Mark copies that have lost their marks
    #[arg(long, requires = "paths")]
    pub mark_copies: bool,
    /// Who marked and unmarked what, and when
    #[arg(long, conflicts_with_all = ["paths", "mark_copies"])]
    pub history: bool,
}

/// `fvm open`.
#[derive(Debug, Args)]
pub struct Open {
    /// The file
    pub file: PathBuf,
    /// Open it with this program [default: the usual one for files like it]
    #[arg(long, value_name = "CMD")]
    pub with: Option<OsString>,
}

/// `fvm guard`.
#[derive(Debug, Subcommand)]
pub enum Guard {
    /// Guard this machine, until a signal ends it (needs root)
    Run(GuardRun),
    /// Show whether a guard runs, and what it did; exit status 1 when none runs
    Status,
    /// Start it with the machine, as a service of systemd; --user: have marked documents open in VMs
    Install(GuardInstall),
    /// Take that back
    Uninstall(GuardUninstall),
    /// Print what a shell reads to run marked programs in VMs: eval "$(fvm guard hook bash)" (only advice: no guard)
    Hook {
        /// For which shell
        shell: HookShell,
    },
    /// Whether a file is marked: exit status 0, else 1
    Check {
        /// The file
        file: PathBuf,
    },
}

/// A shell with a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HookShell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
}

/// What to do about marked programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunsArg {
    /// They run in a VM instead
    Redirect,
    /// They do not run
    Refuse,
}

/// Which reads of marked files are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadsArg {
    /// None
    Allow,
    /// Those of marked programs and scripts by interpreters, and by the loader of libraries
    Interpreters,
    /// All
    Refuse,
}

/// What a guard does.
#[derive(Debug, Clone, Args)]
pub struct GuardPolicyArgs {
    /// What becomes of marked programs and scripts that are run
    #[arg(long, value_enum, default_value_t = RunsArg::Redirect, value_name = "WHAT")]
    pub runs: RunsArg,
    /// Which reads of marked files are refused
    #[arg(long, value_enum, default_value_t = ReadsArg::Interpreters, value_name = "WHICH")]
    pub reads: ReadsArg,
    /// Guard what is marked in this book as well: the directory 'marks' in a user's fvm directory
    #[arg(long = "book", value_name = "DIR")]
    pub books: Vec<PathBuf>,
    /// Mark copies of marked files that appear in this directory, or below it
    #[arg(long, value_name = "DIR")]
    pub watch: Vec<PathBuf>,
}

/// `fvm guard run`.
#[derive(Debug, Args)]
pub struct GuardRun {
    /// What it does.
    #[command(flatten)]
    pub policy: GuardPolicyArgs,
    /// Be the part that is started again when it ends
    #[arg(long, hide = true)]
    pub worker: bool,
    /// This kernel does not let a waiting thread be redirected
    #[arg(long, hide = true)]
    pub cannot_redirect: bool,
}

/// `fvm guard install`.
#[derive(Debug, Args)]
pub struct GuardInstall {
    /// What it does.
    #[command(flatten)]
    pub policy: GuardPolicyArgs,
    /// Only print it
    #[arg(long)]
    pub print: bool,
    /// For this user's desktop, without root: marked documents open in VMs
    #[arg(long)]
    pub user: bool,
}

/// `fvm guard uninstall`.
#[derive(Debug, Args)]
pub struct GuardUninstall {
    /// From this user's desktop
    #[arg(long)]
    pub user: bool,
}

/// `fvm mark` and `fvm unmark`.
#[derive(Debug, Args)]
pub struct Files {
    /// Files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}
