//! The commands, one file for each group; this file only chooses.
//!
//! ```text
//!   run      run, exec, shell               programs in VMs
//!   vms      create, start, stop, list ...  VMs themselves
//!   life     configure, rename, copy, export ...      VMs anew, among each other, and their files
//!   stats    stats, top                    what VMs use
//!   service  service start, stop, ...     daemons in VMs
//!   status   status                        what they changed
//!   changes  diff, commit, discard         and what becomes of that
//!   analyze  analyze                       what that comes to
//!   trace    trace                         what their programs did
//!   history  history, show, undo ...      commits after the fact
//!   pool     pool create, status ...      VMs that are forked ahead
//!   guard    guard run, status ..., open    such files run and open in VMs
//!   marks    marks, mark, unmark           what came out of untrusted VMs
//!   policy   policy list, show, check       what VMs may use
//!   webtest  webtest                        another program: visits of web sites
//!   host     doctor, completions            this machine
//!   (serve   all of these over a socket: `crate::serve`)
//! ```

mod analyze;
mod changes;
mod guard;
mod history;
mod host;
mod life;
mod marks;
mod policy;
mod pool;
mod run;
mod service;
mod stats;
mod status;
mod trace;
mod vms;
mod webtest;

use crate::args::{Cli, Command, Guard};
use crate::output::Output;
use crate::{Done, dirs};
use fvm::Fvm;

/// Runs the command.
pub fn dispatch(cli: Cli, out: &Output) -> Done {
    match &cli.command {
        Command::Completions { shell } => return host::completions(*shell, out),
        Command::Policy(command) => return policy::policy(out, command),
        Command::Guard(Guard::Hook { shell }) => return guard::hook(out, *shell),
        Command::Guard(Guard::Check { file }) => return Ok(guard::check(file)),
        Command::Webtest(args) => return webtest::webtest(&cli.global, args),
        _ => {}
    }
    let (state, run_dir) = dirs::dirs(cli.global.home.clone())?;
    let fvm = Fvm::open(&state, &run_dir)?;
    match &cli.command {
        Command::Recover => {
            fvm.sweep()?;
            return history::recover(&fvm, out);
        }
        command => history::recover_first(&fvm, out, matches!(command, Command::Commit(_) | Command::Undo(_)))?,
    }
    // The start path does no housekeeping: every other command does.
    if !cli.command.runs_program() {
        fvm.sweep()?;
    }
    match cli.command {
        Command::Run(args) => run::run(&fvm, out, &args),
        Command::Exec(args) => run::exec(&fvm, out, &args),
        Command::Shell(args) => run::shell(&fvm, out, &args),
        Command::Create(args) => vms::create(&fvm, out, &args),
        Command::Start(args) => vms::start(&fvm, out, &args.name),
        Command::Stop(args) => vms::stop(&fvm, out, &args),
        Command::Kill(args) => vms::kill(&fvm, out, &args.names),
        Command::Suspend(args) => vms::suspend(&fvm, out, &args.names),
        Command::Resume(args) => vms::resume(&fvm, out, &args.names),
        Command::Refresh(args) => vms::refresh(&fvm, out, &args.names),
        Command::Cp(args) => life::cp(&fvm, out, &args),
        Command::Rename(args) => life::rename(&fvm, out, &args),
        Command::Configure(args) => life::configure(&fvm, out, &args),
        Command::Copy(args) => life::copy(&fvm, out, &args),
        Command::Export(args) => life::export(&fvm, out, &args),
        Command::Import(args) => life::import(&fvm, out, &args),
        Command::Delete(args) => vms::delete(&fvm, out, &args),
        Command::List => vms::list(&fvm, out),
        Command::Inspect(args) => vms::inspect(&fvm, out, &args.name),
        Command::Stats(args) => stats::stats(&fvm, out, &args),
        Command::Top(args) => stats::top(&fvm, out, &args),
        Command::Ip(args) => vms::ip(&fvm, out, &args.name),
        Command::Ps(args) => vms::ps(&fvm, out, &args.name),
        Command::Logs(args) => vms::logs(&fvm, out, &args.name),
        Command::Explain(args) => vms::explain(&fvm, out, &args),
        Command::Pool(command) => pool::pool(&fvm, out, &command),
        Command::Service(args) => service::service(&fvm, out, args),
        Command::Status(args) => status::status(&fvm, out, &args),
        Command::Trace(args) => trace::trace(&fvm, out, &args),
        Command::Analyze(args) => analyze::analyze(&fvm, out, &args),
        Command::Diff(args) => changes::diff(&fvm, out, &args),
        Command::Commit(args) => changes::commit(&fvm, out, &args),
        Command::Discard(args) => changes::discard(&fvm, out, &args),
        Command::Serve(args) => crate::serve::serve(&fvm, out, &args),
        Command::Doctor => host::doctor(&fvm, out, cli.global.verbose),
        Command::Open(args) => guard::open(&fvm, out, &args),
        Command::Guard(command) => guard::guard(fvm, out, &command),
        Command::Marks(args) => marks::marks(&fvm, out, &args),
        Command::Mark(args) => marks::mark(&fvm, out, &args),
        Command::Unmark(args) => marks::unmark(&fvm, out, &args),
        Command::History => history::history(&fvm, out),
        Command::Show(args) => history::show(&fvm, out, &args),
        Command::Undo(args) => history::undo(&fvm, out, &args),
        Command::Gc(args) => history::gc(&fvm, out, &args),
        Command::Recover | Command::Policy(_) | Command::Webtest(_) | Command::Completions { .. } => {
            Ok(fvm::model::exit::DONE)
        }
    }
}
