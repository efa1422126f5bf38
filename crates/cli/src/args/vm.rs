//! Commands on VMs that are there: their life, their services, copies of them, and the socket for other programs.

use super::{PolicyArgs, Span};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// `fvm stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Names of VMs [default: all that run]
    pub names: Vec<String>,
}

/// `fvm top`.
#[derive(Debug, Args)]
pub struct Top {
    /// How long between two looks
    #[arg(short, long, value_name = "TIME", default_value = "2s")]
    pub delay: Span,
    /// End after so many looks
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub count: Option<u32>,
}

/// `fvm cp`.
#[derive(Debug, Args)]
pub struct Cp {
    /// From where: a path, or NAME:PATH
    #[arg(value_name = "SOURCE")]
    pub source: OsString,
    /// To where: into a directory that is there, or under a new name
    #[arg(value_name = "TARGET")]
    pub target: OsString,
}

/// `fvm rename`.
#[derive(Debug, Args)]
pub struct Rename {
    /// Name of the VM
    pub name: String,
    /// Its new name
    pub new: String,
}

/// `fvm export`.
#[derive(Debug, Args)]
pub struct Export {
    /// A stopped VM
    pub name: String,
    /// The file, replaced if it is there; - for standard output
    pub file: PathBuf,
}

/// `fvm import`.
#[derive(Debug, Args)]
pub struct Import {
    /// What 'fvm export' wrote; - for standard input
    pub file: PathBuf,
    /// Name of the VM [default: that which it had]
    #[arg(long)]
    pub name: Option<String>,
    /// Whoever made the file is trusted: its policy may open what it opened there, and directories may stand for others
    #[arg(long)]
    pub trust: bool,
    /// What the VM may use, instead of what its own policy says.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// `fvm copy`.
#[derive(Debug, Args)]
pub struct Copy {
    /// A stopped VM
    pub name: String,
    /// Name of the copy
    pub copy: String,
}

/// A command on one VM.
#[derive(Debug, Args)]
pub struct Named {
    /// Name of the VM, or the beginning of its id (four digits or more)
    pub name: String,
}

/// A command on VMs.
#[derive(Debug, Args)]
pub struct Many {
    /// Names of VMs, or beginnings of ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// `fvm service`.
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Start units, and what they need
    Start(Units),
    /// Stop units, and what cannot be without them
    Stop(Units),
    /// Stop and start units
    Restart(Units),
    /// Have units read their configuration again
    Reload(Units),
    /// Show how units are; exit status 1 when one of them is not up
    Status(SomeUnits),
    /// Show what units printed
    Logs(ServiceLogs),
    /// List all services that there are in the VM
    List(SomeUnits),
}

/// A command on units of a VM.
#[derive(Debug, Args)]
pub struct Units {
    /// Name of the VM
    pub name: String,
    /// Names of units; '.service' may be left out
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<String>,
    /// Look for units in this directory first, as the VM sees it
    #[arg(long = "unit-dir", value_name = "DIR")]
    pub places: Vec<PathBuf>,
}

/// A command on some units of a VM.
#[derive(Debug, Args)]
pub struct SomeUnits {
    /// Name of the VM
    pub name: String,
    /// Names of units; when left out: all that were started ('list': all that there are)
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// Look for units in this directory first, as the VM sees it
    #[arg(long = "unit-dir", value_name = "DIR")]
    pub places: Vec<PathBuf>,
}

/// `fvm service logs`.
#[derive(Debug, Args)]
pub struct ServiceLogs {
    /// Name of the VM; it need not run
    pub name: String,
    /// Names of units; all when left out
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub lines: Option<usize>,
}

/// `fvm stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Names of VMs, or beginnings of ids
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Seconds that its programs get to end by themselves
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    pub time: u32,
}

/// `fvm delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Names of VMs, or beginnings of ids
    #[arg(required = true)]
    pub names: Vec<String>,
    /// End those that run
    #[arg(long, short)]
    pub force: bool,
}

/// `fvm serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Whoever can connect may do what you may: the socket is yours alone. It serves until it is interrupted; programs that \
clients run end with it, VMs that were started run on."
)]
pub struct Serve {
    /// The socket [default: serve.sock in the run-time directory]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// `fvm webtest`.
#[derive(Debug, Args)]
pub struct Webtest {
    /// Its command and options: import, run, status, results, report, worker, ...; see 'fvm webtest --help'
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub words: Vec<OsString>,
}
