//! Commands that fork a VM or run a program in one, and what it may use.

use super::Span;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// What a VM may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct PolicyArgs {
    /// What it may use: a profile ('fvm policy list') or a file [default: $FVM_POLICY, else default]
    #[arg(long, short, value_name = "NAME|FILE")]
    pub policy: Option<String>,
    /// Which network it sees: own (an address of its own, filtered), host, or none (only its own loopback) [default:
    /// as the policy says]
    #[arg(long, value_name = "NETWORK")]
    pub net: Option<fvm::model::Network>,
    /// With its own network: reach only this, and what else is allowed (mirror.test:80, *.example.org, 10.0.0.0/8)
    #[arg(long, value_name = "PLACE[:PORT]")]
    pub allow: Vec<String>,
    /// With its own network: this port of its address on the host leads to this port in it
    #[arg(long, value_name = "HOST[:VM]")]
    pub publish: Vec<String>,
    /// Hide these files ('~' is your home; '*' and '?' are wildcards; '!' before one shows it again)
    #[arg(long, value_name = "PATTERN")]
    pub hide: Vec<String>,
    /// Forbid changes of these files, even private ones
    #[arg(long, value_name = "PATTERN")]
    pub read_only: Vec<String>,
    /// Share this with the host: what the VM writes there is written at once, for good
    #[arg(long, value_name = "PATH")]
    pub share: Vec<PathBuf>,
    /// Pass this device of the host's, such as /dev/kvm or /dev/dri
    #[arg(long, value_name = "PATH")]
    pub device: Vec<String>,
    /// Pass this socket of the host's
    #[arg(long, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    /// Let it ask this of the host's desktop: notifications, or open-uri (a web or mail address)
    #[arg(long, value_name = "WHAT")]
    pub dbus: Vec<String>,
    /// How much memory it may use, such as 2G (and no swap, unless --swap says so), or none: as much as there is
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// How much swap space it may use beside --memory
    #[arg(long, value_name = "SIZE")]
    pub swap: Option<String>,
    /// How much processor time it may use, such as 1.5 processors
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Its share when processors are short; that of others is 100
    #[arg(long, value_name = "NUMBER")]
    pub cpu_weight: Option<String>,
    /// How many processes and threads it may have
    #[arg(long, value_name = "NUMBER")]
    pub pids: Option<String>,
    /// How much its changes may take on the disk, such as 10G
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<String>,
    /// Its share of the disks when they are busy; that of others is 100
    #[arg(long, value_name = "NUMBER")]
    pub io_weight: Option<String>,
    /// What it calls its machine
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// How much of what its programs do is written down: off, programs (and the network), basic (also changes of files) or full
    #[arg(long, value_name = "LEVEL")]
    pub trace: Option<fvm::model::Level>,
    /// Mark files that come from it to the host: they run in VMs only, until 'fvm unmark'
    #[arg(long, overrides_with = "no_mark")]
    pub mark: bool,
    /// Mark none, whatever the policy says
    #[arg(long, overrides_with = "mark")]
    pub no_mark: bool,
    /// Start even if this machine lacks something that the policy requires
    #[arg(long)]
    pub allow_partial: bool,
}

/// How a program runs.
#[derive(Debug, Clone, Default, Args)]
pub struct ProgramArgs {
    /// As this user of the VM: a name or number in its /etc/passwd
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// In this directory of the VM [default: where you are, else '/']
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// With this variable, whatever the policy says; without '=VALUE': with yours
    #[arg(long = "env", short, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// End it after so long, such as 10s, 5m or 1h: SIGTERM, then SIGKILL; the exit status is 124
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
    /// How long after SIGTERM comes SIGKILL
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "timeout")]
    pub kill_after: Span,
}

/// `fvm run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: that of CMD; 128+n when signal n ended it; 125 when fvm failed, 126 when CMD cannot be \
executed, 127 when it was not found."
)]
pub struct Run {
    /// Name of the VM; with the name of a VM that is there: run in that one
    #[arg(long, short, value_name = "NAME")]
    pub name: Option<String>,
    /// Take a VM that is ready from this pool ('fvm pool'), instead of forking one now
    #[arg(long, value_name = "POOL", conflicts_with_all = ["detach", "restart"])]
    pub pool: Option<String>,
    /// Throw the VM away afterwards
    #[arg(long, group = "afterwards")]
    pub rm: bool,
    /// Keep the VM afterwards, without asking
    #[arg(long, group = "afterwards")]
    pub keep: bool,
    /// Commit everything if CMD succeeded, then throw the VM away
    #[arg(long, group = "afterwards")]
    pub commit: bool,
    /// Do not wait: CMD runs on by itself, 'fvm logs' shows its output
    #[arg(long, short, conflicts_with_all = ["rm", "commit"])]
    pub detach: bool,
    /// CMD is marked: run it as untrusted, ask nothing, and keep the VM only if something was changed (what the guard does)
    #[arg(long, conflicts_with_all = ["name", "rm", "keep", "commit", "detach", "policy", "pool"])]
    pub marked: bool,
    /// With --detach: start CMD again when it has ended: no, always, on-failure, or on-failure:3 (at most three times)
    #[arg(long, value_name = "WHEN", requires = "detach")]
    pub restart: Option<fvm::model::Restart>,
    /// What the VM may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// How CMD runs.
    #[command(flatten)]
    pub program: ProgramArgs,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `fvm policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List the policies there are
    List,
    /// Show all that a policy says, with what it extends
    Show {
        /// A profile, or a file
        name: String,
    },
    /// Say what is wrong with policies
    Check {
        /// Files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
    },
}

/// `fvm create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the VM
    pub name: String,
    /// Make it as this stopped VM is now, instead of as the host; with its policy, unless options give another
    #[arg(long, value_name = "VM")]
    pub from: Option<String>,
    /// What the VM may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// `fvm configure`.
#[derive(Debug, Args)]
#[command(
    after_help = "What is not given stays as it is; --policy replaces the whole. Lists grow: '!' before an entry takes it \
out. 'none' takes a limit away.\n\nOf a running VM these change at once: --memory, --swap, --cpus, --cpu-weight, --pids, --disk, \
--io-weight and --restart. All else needs it stopped."
)]
pub struct Configure {
    /// Name of the VM
    pub name: String,
    /// What the VM may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Start the program of 'fvm run --detach' again when it has ended: no, always, on-failure, or on-failure:3 (at most
    /// three times)
    #[arg(long, value_name = "WHEN")]
    pub restart: Option<fvm::model::Restart>,
}

/// `fvm exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Name of the VM
    pub name: String,
    /// How CMD runs.
    #[command(flatten)]
    pub program: ProgramArgs,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `fvm shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// Name of the VM; a new one when left out
    pub name: Option<String>,
    /// What a new VM may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// `fvm explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Name of the VM; a new one when left out
    pub name: Option<String>,
    /// What a new VM may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
}
