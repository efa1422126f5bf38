//! The command line, defined once: parser, help, man pages (`cargo xtask man`) and completions come from here.

mod pool;
mod usual;

pub use pool::{PoolCommand, PoolConfigure, PoolCreate};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Fork a virtual machine from the machine you are sitting at.
///
/// Inside it a program sees your own files, programs and settings, but every change it makes stays in the VM until
/// you commit it. 'fvm run -- CMD' is the place to start.
#[derive(Debug, Parser)]
#[command(name = "fvm", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Keep VMs in this directory [default: /var/lib/fvm as root, ~/.local/share/fvm as a user]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fork a VM, run a program in it, show what it changed
    Run(Run),
    /// Make a VM of the host as it is now
    Create(Create),
    /// Start a VM, to run programs in it with 'exec'
    Start(Named),
    /// Run a program in a running VM
    Exec(Exec),
    /// Open a shell in a VM, or in a new one
    Shell(Shell),
    /// Ask the programs of a VM to end, then end it
    Stop(Stop),
    /// End a VM at once
    Kill(Many),
    /// Let none of a running VM's processes run, until it is resumed
    Suspend(Many),
    /// Let a suspended VM run on
    Resume(Many),
    /// Make running VMs see what the host created, replaced or removed meanwhile
    Refresh(Many),
    /// Copy files out of a VM, or into one (one of the two is NAME:PATH)
    Cp(Cp),
    /// Throw VMs away, with all they changed
    Delete(Delete),
    /// Give a stopped VM another name
    Rename(Rename),
    /// Change what a VM may use; of a running one its limits, at once
    Configure(Configure),
    /// Make a VM that is as a stopped one is now; what both hold is on the disk once
    Copy(Copy),
    /// Write a stopped VM to a file: what it changed, its policy, its logs
    Export(Export),
    /// Make a VM of such a file, also of another user's or machine's
    Import(Import),
    /// List the VMs
    #[command(visible_alias = "ls")]
    List,
    /// Show everything about a VM
    Inspect(Named),
    /// Print where the host reaches a running VM
    Ip(Named),
    /// Show what running VMs use: processors, memory, disk, network
    Stats(Stats),
    /// Show the same again and again, the busiest first
    Top(Top),
    /// List the processes of a running VM
    Ps(Named),
    /// Show what a detached program printed
    Logs(Named),
    /// Start, stop and look at services in a running VM, by their systemd units
    #[command(subcommand)]
    Service(Service),
    /// Hold VMs ready, forked ahead, for 'fvm run --pool'
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Show the steps by which a VM is built
    Explain(ExplainArgs),
    /// List, show and check policies: what a VM may use
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// List what a VM changed
    Status(Status),
    /// Show what the programs of a VM did: executed, connected, wrote, removed (its policy's 'trace', or --trace)
    Trace(Trace),
    /// Judge what the programs of a VM did: a verdict, findings, the files they are about
    Analyze(Analyze),
    /// Show what a VM changed, line by line
    Diff(Diff),
    /// Bring changes of a VM to the host
    Commit(Commit),
    /// Drop changes of a VM: it sees the host's version again
    Discard(Discard),
    /// List the commits that there were
    History,
    /// Show what a commit did
    Show(Numbered),
    /// Take a commit back
    Undo(Numbered),
    /// Bring an interrupted commit to its end (every command does that first)
    Recover,
    /// Remove what old commits replaced: those cannot be undone then
    Gc(Gc),
    /// Serve these commands to other programs of yours over a socket, as lines of JSON (docs/spec/serve.md)
    Serve(Serve),
    /// List files that came out of untrusted VMs: they run in VMs only
    Marks(Marks),
    /// Mark files by hand
    Mark(Files),
    /// Trust files: they run on the host again, and so do their copies
    Unmark(Files),
    /// Open a file with its usual program, in a VM if it is marked
    Open(Open),
    /// Have marked programs run in VMs, whoever starts them and however
    #[command(subcommand)]
    Guard(Guard),
    /// Visit web sites with a browser in a VM each, and judge them (a program of its own, fvm-webtest)
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Webtest(Webtest),
    /// Show what this machine can do for fvm, and how to mend what it cannot
    Doctor,
    /// Print shell completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Reads a command line. Half of what `fvm run` does before it begins would be the description of all the other commands: the
/// command whose name comes first is looked at alone, and all of them only if that cannot be.
///
/// # Errors
/// What is wrong with it, or the help that was asked for.
pub fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    if let Some(cli) = usual::read(&args) {
        return Ok(cli);
    }
    let alone = args.get(1).and_then(|name| match name.to_str()? {
        "run" => Some(Run::augment_args(clap::Command::new("run"))),
        "exec" => Some(Exec::augment_args(clap::Command::new("exec"))),
        _ => None,
    });
    if let Some(command) = alone {
        let whole =
            clap::Command::new("fvm").version(env!("CARGO_PKG_VERSION")).propagate_version(true).subcommand(command);
        let whole = Global::augment_args(whole);
        // Whatever is amiss is said by the whole.
        if let Ok(cli) = whole.try_get_matches_from(&args).and_then(|found| Cli::from_arg_matches(&found)) {
            return Ok(cli);
        }
    }
    let found = Cli::command().try_get_matches_from(args)?;
    Cli::from_arg_matches(&found)
}

impl Command {
    /// Whether its exit code is that of a program.
    #[must_use]
    pub fn runs_program(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Exec(_) | Self::Shell(_) | Self::Open(_))
    }
}

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
    /// How much of what its programs do is written down: off, basic (programs, network, changes of files) or full
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

/// A time span: `500ms`, `10s` or `10`, `1.5m`, `2h`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// In thousandths of a second.
    pub ms: u64,
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a time: give a number and ms, s, m, h or d, such as 10s");
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit_ms = match unit {
            "ms" => 1.0,
            "" | "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            "d" => 86400e3,
            _ => return Err(bad()),
        };
        let ms = number.parse::<f64>().map_err(|_| bad())? * unit_ms;
        // A century is for ever.
        if !(1.0..=3.2e12).contains(&ms) {
            return Err(bad());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the range just checked")]
        Ok(Self { ms: ms as u64 })
    }
}

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

/// `fvm shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// Name of the VM; a new one when left out
    pub name: Option<String>,
    /// What a new VM may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
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

/// `fvm explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Name of the VM; a new one when left out
    pub name: Option<String>,
    /// What a new VM may use.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

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

/// A number of bytes: `512`, `20K`, `500M`, `10G`, `1T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a size: give a number and K, M, G or T, such as 500M");
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.trim_end_matches('B').trim_end_matches('I');
        let (number, shift) = match digits.char_indices().last().ok_or_else(bad)? {
            (i, 'K') => (&digits[..i], 10),
            (i, 'M') => (&digits[..i], 20),
            (i, 'G') => (&digits[..i], 30),
            (i, 'T') => (&digits[..i], 40),
            _ => (digits, 0),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
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

/// `fvm discard`.
#[derive(Debug, Args)]
pub struct Discard {
    /// Name of the VM
    pub name: String,
    /// Only these paths and what is below them; everything when left out
    pub paths: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_alone_is_read_as_among_all() {
        let lines = [
            "run --rm --net none -- /bin/true -x --help",
            "run --json -n a --memory 1G --env X=1 sh -c true",
            "--json run true",
            "exec a -u me ls -l",
            "exec --home /x a ls",
            "run --help",
            "run",
            "run --rm --keep true",
            "run --no-such true",
            "run --net mars true",
            "run --version",
            "exec",
            "list",
            "",
        ];
        for line in lines {
            let args: Vec<OsString> = ["fvm"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
            let shown = |read: Result<Cli, clap::Error>| read.map(|cli| format!("{cli:?}")).map_err(|e| e.to_string());
            assert_eq!(shown(parse(args.clone())), shown(Cli::try_parse_from(args)), "{line}");
        }
    }
}
