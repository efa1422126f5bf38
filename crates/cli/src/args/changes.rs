//! Commands on what a VM changed and did: looking, judging, committing, throwing away.

use super::{Size, Span};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// How changes are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ByArg {
    /// By path
    Path,
    /// By the program that made them, as the behaviour log says
    Process,
}

/// By what is judged.
#[derive(Debug, Clone, Default, Args)]
pub struct AnalysisArgs {
    /// Judge by the Sigma rules in this directory too
    #[arg(long, value_name = "DIR")]
    pub sigma: Option<PathBuf>,
    /// What does not count [default: exceptions.toml in ~/.config/fvm and /etc/fvm]
    #[arg(long, value_name = "FILE")]
    pub exceptions: Vec<PathBuf>,
    /// Have clamd, at this socket, scan the changed files
    #[arg(long, value_name = "SOCKET")]
    pub clamd: Option<PathBuf>,
}

/// Whether it is judged what a VM did, and by what.
#[derive(Debug, Clone, Default, Args)]
pub struct JudgeArgs {
    /// Judge what its programs did (see 'fvm analyze'), whatever the policy says; the options below ask for that too
    #[arg(long)]
    pub analyze: bool,
    /// By what is judged.
    #[command(flatten)]
    pub analysis: AnalysisArgs,
}

impl JudgeArgs {
    /// Whether any of them is given.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        let AnalysisArgs { sigma, exceptions, clamd } = &self.analysis;
        self.analyze || sigma.is_some() || !exceptions.is_empty() || clamd.is_some()
    }
}

/// `fvm analyze`.
#[derive(Debug, Args)]
#[command(
    after_help = "Verdicts: clean (all was seen, nothing was found), suspicious, malicious, unknown (nothing was found, but not all was \
seen).\n\nExit status: 0 clean, 5 suspicious or malicious, 6 unknown."
)]
pub struct Analyze {
    /// Name of the VM
    pub name: String,
    /// By what is judged.
    #[command(flatten)]
    pub analysis: AnalysisArgs,
}

/// `fvm status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Name of the VM
    pub name: String,
    /// Only these paths and what is below them
    pub paths: Vec<PathBuf>,
    /// In which order
    #[arg(long, value_enum, default_value_t = ByArg::Path, value_name = "WHAT")]
    pub by: ByArg,
    /// Whether it is judged, and by what.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// `fvm trace`.
#[derive(Debug, Args)]
#[command(
    after_help = "What a program did is what it asked for: a call may have failed, and 'fvm status' says what became of the \
files. A line '... events are missing' says that more happened than was written down."
)]
pub struct Trace {
    /// Name of the VM
    pub name: String,
    /// Go on with what happens, until the VM stops
    #[arg(long, short, conflicts_with = "tree")]
    pub follow: bool,
    /// Only what this program did, and what it started: words of its command line, a pattern of the whole, or a number
    #[arg(long, value_name = "PROGRAM")]
    pub process: Vec<String>,
    /// Only what was done to this, or below it ('*' and '?' are wildcards)
    #[arg(long, value_name = "GLOB")]
    pub path: Vec<String>,
    /// Only these: process, file, network, kernel, or a kind of event (exec, open, rename, connect, ...)
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<String>,
    /// Only the last so long, such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<Span>,
    /// The programs as a tree: who started whom
    #[arg(long)]
    pub tree: bool,
    /// One JSON object a line, by the Elastic Common Schema
    #[arg(long, conflicts_with = "tree")]
    pub ecs: bool,
}

/// `fvm diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// Name of the VM
    pub name: String,
    /// Only these paths and what is below them
    pub paths: Vec<PathBuf>,
    /// Unified diffs [default]
    #[arg(long, group = "form")]
    pub patch: bool,
    /// Lines added and removed, for each file
    #[arg(long, group = "form")]
    pub stat: bool,
    /// Only the paths
    #[arg(long, group = "form")]
    pub name_only: bool,
}

/// What to do with changes that the host made as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConflictArg {
    /// Write nothing and list them (exit status 3)
    Fail,
    /// Leave them out
    Skip,
    /// Take the VM's version
    Vm,
    /// Take the host's version: drop the VM's
    Host,
    /// Merge texts line by line; what cannot be merged is listed, and nothing is written (exit status 3)
    Merge,
}

/// `fvm commit`.
#[derive(Debug, Args)]
pub struct Commit {
    /// Name of the VM
    pub name: String,
    /// Only these paths and what is below them
    pub paths: Vec<PathBuf>,
    /// Only what matches (a glob; without '/' it matches names)
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<String>,
    /// All but what matches
    #[arg(long, value_name = "GLOB")]
    pub except: Vec<String>,
    /// Only what this program and what it started made alone: the first words of its command line ('npm install'), a pattern of the
    /// whole, or a number; as the behaviour log says
    #[arg(long, value_name = "PROGRAM")]
    pub from: Vec<String>,
    /// Choose on the terminal: changes, and parts of text files
    #[arg(long, short)]
    pub interactive: bool,
    /// Only keys that match, of keyed stores (/etc/passwd and the like, dconf, Wine): as 'fvm status' names them, such as
    /// 'user avahi' or '/org/gnome/*'
    #[arg(long = "key", value_name = "GLOB", conflicts_with_all = ["paths", "only", "except", "from", "interactive"])]
    pub keys: Vec<String>,
    /// Show what would be done, in order, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What to do with changes that the host made as well
    #[arg(long, value_enum, default_value_t = ConflictArg::Fail, value_name = "WHAT")]
    pub on_conflict: ConflictArg,
    /// Leave the changes in the VM as well
    #[arg(long)]
    pub keep: bool,
    /// Whether it is judged, and by what.
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Mark the files: they run in VMs only, until 'fvm unmark' [default: as the VM's policy says]
    #[arg(long, overrides_with = "no_mark")]
    pub mark: bool,
    /// Mark none but copies of what is marked
    #[arg(long, overrides_with = "mark")]
    pub no_mark: bool,
}

/// A command on a commit.
#[derive(Debug, Args)]
pub struct Numbered {
    /// Its number, as 'fvm history' shows it
    pub commit: u64,
}

/// `fvm gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// Keep this many commits undoable [default: 100]
    #[arg(long, value_name = "COUNT")]
    pub keep: Option<usize>,
    /// Keep none that is older [default: 90]
    #[arg(long, value_name = "DAYS")]
    pub days: Option<u64>,
    /// Keep no more than this, such as 500M or 10G [default: 10G]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,
}

/// `fvm discard`.
#[derive(Debug, Args)]
pub struct Discard {
    /// Name of the VM
    pub name: String,
    /// Only these paths and what is below them; everything when left out
    pub paths: Vec<PathBuf>,
}
