//! The command line, defined once: parser, help, man pages (`cargo xtask man`) and completions come from here.
//!
//! ```text
//!   Cli ─► Global, Command ─┬─ program, pool   fork a VM, run in it
//!                           ├─ vm              life, services, copies
//!                           ├─ changes         look, judge, commit
//!                           └─ marks           marks, guard
//!   usual: the lines that are read most often, without clap;   values: times, sizes
//! ```

mod changes;
mod marks;
mod pool;
mod program;
mod usual;
mod values;
mod vm;

pub use changes::{
    AnalysisArgs, Analyze, ByArg, Commit, ConflictArg, Diff, Discard, Gc, JudgeArgs, Numbered, Status, Trace,
};
pub use marks::{
    Files, Guard, GuardInstall, GuardPolicyArgs, GuardRun, GuardUninstall, HookShell, Marks, Open, ReadsArg, RunsArg,
};
pub use pool::{PoolCommand, PoolConfigure, PoolCreate};
pub use program::{Configure, Create, Exec, ExplainArgs, PolicyArgs, PolicyCommand, ProgramArgs, Run, Shell};
pub use values::{Size, Span};
pub use vm::{
    Copy, Cp, Delete, Export, Import, Many, Named, Rename, Serve, Service, ServiceLogs, SomeUnits, Stats, Stop, Top,
    Units, Webtest,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
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
