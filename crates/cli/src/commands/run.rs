//! `run`, `exec`, `shell`: programs in VMs, and what happens to a VM afterwards.
//!
//! ```text
//!   new VM   --rm ───────────────► thrown away at once, nothing synced
//!            --commit ── code 0 ─► committed, thrown away;  else kept
//!            --keep | no terminal ► kept, summary with the next commands
//!            terminal ──────────► asked: commit, review, keep, discard
//!   a VM that was there before is always kept
//! ```
//!
//! Invariants: the program's three streams and its exit code pass untouched; everything fvm says goes to stderr.

use super::{analyze, changes};
use crate::args::{AnalysisArgs, Exec, ProgramArgs, Run, Shell};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::{Done, dirs};
use fvm::model::policy::Flags;
use fvm::model::{ChangeSet, Level, Policy, VmName, VmRecord, VmState, exit};
use fvm::{Call, Ended, Findings, Fvm, NewVm, Step, Timeout, VmError, VmLock};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What to do with a new VM when its program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    Remove,
    Keep,
    Commit,
    Ask,
}

/// `fvm run`.
pub fn run(fvm: &Fvm, out: &Output, args: &Run) -> Done {
    let call = call_as(args.command.clone(), &args.program)?;
    if let Some(pool) = &args.pool {
        return in_pool(fvm, out, args, &super::pool::parse(pool)?, &call);
    }
    if args.marked {
        return marked(fvm, out, &args.policy, &call);
    }
    let existing = match &args.name {
        None => None,
        Some(name) => match fvm.find(name) {
            // A new name may look like the beginning of some VM's id.
            Ok(record) if record.name.as_str() == name || record.id.as_str() == name => Some(record),
            Ok(_) | Err(fvm::FvmError::Vm(VmError::NoSuchVm(_) | VmError::Ambiguous(..))) => None,
            Err(e) => return Err(e.into()),
        },
    };
    if let Some(mut record) = existing {
        if args.rm || args.policy.is_given() {
            let text = format!("'{}' is there already: --rm and what a VM may use are for new VMs", record.name);
            let next = format!("leave them out, choose another name, or 'fvm configure {}' first", record.name);
            return Err(Failure::usage(text, next));
        }
        // Only for the program that starts now: one that runs has a 'fvm configure' of its own.
        if args.restart.is_some_and(|restart| restart != record.restart) && fvm.state(&record)? == VmState::Stopped {
            record = fvm.configure(&record, None, args.restart)?;
        }
        return in_existing(fvm, out, record, &call, args.commit, args.detach);
    }
    let name = args
        .name
        .as_deref()
        .map(fvm::vm_name)
        .transpose()
        .map_err(|e| Failure::usage(e.to_string(), "for example: --name build-1"))?;
    let afterwards = match (args.rm, args.keep || args.detach, args.commit) {
        (true, ..) => Afterwards::Remove,
        (_, true, _) => Afterwards::Keep,
        (.., true) => Afterwards::Commit,
        _ if out.can_ask() => Afterwards::Ask,
        _ => Afterwards::Keep,
    };
    let named = name.is_some() || args.keep;
    let ephemeral = afterwards == Afterwards::Remove;
    let mut policy = args.policy.policy(fvm, out)?;
    if ephemeral && policy.trace < Level::Full && args.policy.trace.is_none() {
        // The log would be thrown away with the VM.
        policy.trace = Level::Off;
    }
    let restart = args.restart.unwrap_or_default();
    let new = NewVm { name, policy, ephemeral, restart, user_home: dirs::user_home(), ..NewVm::default() };
    if args.detach {
        let (record, lock) = fvm.create(&new)?;
        drop(lock);
        tell_vm(out, &record);
        let name = record.name.clone();
        fvm.detach(record, &call)?;
        out.say(&format!("{name} runs; 'fvm logs {name}' shows its output, 'fvm stop {name}' ends it"));
        return Ok(exit::DONE);
    }
    let mut running = fvm.create_and_boot(&new, &call)?;
    for notice in &running.notices {
        out.say(&format!("note: {notice}"));
    }
    tell_vm(out, &running.record());
    let attached = running.run()?;
    let code = exit_code(out, &attached.ended, &call);
    out.field("kept", &(afterwards != Afterwards::Remove));
    if afterwards == Afterwards::Remove && running.can_vanish(&attached) {
        running.vanish()?;
        return Ok(code);
    }
    let (record, lock) = running.end()?;
    say_reached(out, &record);
    match afterwards {
        Afterwards::Remove => fvm.delete_locked(record, &lock)?,
        _ => settle(fvm, out, record, lock, afterwards, named, code)?,
    }
    Ok(code)
}

/// `fvm run --pool`.
fn in_pool(fvm: &Fvm, out: &Output, args: &Run, pool: &VmName, call: &Call) -> Done {
    if args.policy.is_given() {
        let text = format!("what the VMs of '{pool}' may use is the pool's: options for it are for new VMs");
        return Err(Failure::usage(text, format!("leave them out, or 'fvm pool configure {pool}' first")));
    }
    let name = args.name.as_deref().map(fvm::vm_name).transpose();
    let name = name.map_err(|e| Failure::usage(e.to_string(), "for example: --name build-1"))?;
    // What was asked for before libc had started was one to throw away.
    let left = fvm_sys::first::found();
    let afterwards = match (args.rm || left.is_some(), args.keep, args.commit) {
        (true, ..) => Afterwards::Remove,
        (_, true, _) => Afterwards::Keep,
        (.., true) => Afterwards::Commit,
        _ if !fvm.pool(pool)?.kept => Afterwards::Remove,
        _ if out.can_ask() => Afterwards::Ask,
        _ => Afterwards::Keep,
    };
    let keeps = afterwards != Afterwards::Remove;
    let (ended, nobody_left, vm) = fvm.pool_attach(pool, call, name.as_ref(), keeps, left)?;
    out.field("vm", &vm.name);
    out.field("id", &vm.id);
    out.field("kept", &keeps);
    let code = exit_code(out, &ended, call);
    if !keeps && nobody_left {
        vm.done(nobody_left);
        return Ok(code);
    }
    let (record, lock) = vm.finish()?;
    say_reached(out, &record);
    if !keeps {
        // What ran on must not outlive the answer.
        fvm.delete_locked(record, &lock)?;
        return Ok(code);
    }
    settle(fvm, out, record, lock, afterwards, name.is_some() || args.keep, code)?;
    Ok(code)
}

/// Runs a marked program as nobody trusts it, in the place of whoever was to run it: nothing is asked, and nothing is said to
/// a program that reads our output.
pub fn marked(fvm: &Fvm, out: &Output, args: &crate::args::PolicyArgs, call: &Call) -> Done {
    let args = crate::args::PolicyArgs { policy: Some("untrusted".into()), ..args.clone() };
    let new = NewVm { policy: args.policy(fvm, out)?, user_home: dirs::user_home(), ..NewVm::default() };
    let mut running = fvm.create_and_boot(&new, call)?;
    let attached = running.run()?;
    let code = exit_code(out, &attached.ended, call);
    let (record, lock) = running.end()?;
    let set = fvm.changes(&record)?;
    if set.changes.is_empty() && set.warnings.is_empty() {
        fvm.delete_locked(record, &lock)?;
    } else if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        summarise(fvm, out, &record, &set)?;
    }
    Ok(code)
}

/// `fvm exec`.
pub fn exec(fvm: &Fvm, out: &Output, args: &Exec) -> Done {
    let record = fvm.find(&args.name)?;
    let call = call_as(args.command.clone(), &args.program)?;
    tell_vm(out, &record);
    let ended = fvm.exec(&record, &call)?;
    Ok(exit_code(out, &ended, &call))
}

/// Which VM it is.
fn tell_vm(out: &Output, record: &VmRecord) {
    out.field("vm", &record.name);
    out.field("id", &record.id);
}

/// `fvm shell`.
pub fn shell(fvm: &Fvm, out: &Output, args: &Shell) -> Done {
    let shell = std::env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    let command = vec![shell];
    match &args.name {
        Some(name) => {
            let record = fvm.find(name)?;
            if args.policy.is_given() {
                let text = format!("'{}' is there already: what a VM may use is for new VMs", record.name);
                let next = format!("leave it out, open a shell in a new VM, or 'fvm configure {}' first", record.name);
                return Err(Failure::usage(text, next));
            }
            in_existing(fvm, out, record, &call(command), false, false)
        }
        None => {
            let args = Run {
                name: None,
                pool: None,
                rm: false,
                keep: false,
                commit: false,
                detach: false,
                marked: false,
                restart: None,
                policy: args.policy.clone(),
                program: ProgramArgs::default(),
                command,
            };
            run(fvm, out, &args)
        }
    }
}

fn in_existing(fvm: &Fvm, out: &Output, record: VmRecord, call: &Call, commit: bool, detach: bool) -> Done {
    tell_vm(out, &record);
    let state = fvm.state(&record)?;
    if state == VmState::Suspended {
        let next = format!("'fvm resume {}' first", record.name);
        return Err(Failure::new(format!("'{}' is suspended", record.name), next));
    }
    if state == VmState::Running {
        if commit || detach {
            let text = format!("'{}' is running: --commit and --detach need it stopped", record.name);
            return Err(Failure::new(text, format!("'fvm stop {}' first, or leave them out", record.name)));
        }
        let ended = fvm.exec(&record, call)?;
        return Ok(exit_code(out, &ended, call));
    }
    if detach {
        let name = record.name.clone();
        fvm.detach(record, call)?;
        out.say(&format!("{name} runs; 'fvm logs {name}' shows its output"));
        return Ok(exit::DONE);
    }
    let mut running = fvm.boot(record, call)?;
    let ended = running.run()?.ended;
    let code = exit_code(out, &ended, call);
    let (record, lock) = running.end()?;
    say_reached(out, &record);
    if commit && code == 0 {
        changes::commit_all(fvm, out, &lock, &record)?;
    } else {
        let set = changes::scan(fvm, out, &record)?;
        summarise(fvm, out, &record, &set)?;
    }
    Ok(code)
}

/// What the VM's limits did to it.
fn say_reached(out: &Output, record: &VmRecord) {
    record.reached.iter().for_each(|what| out.say(&format!("{}: {what}", record.name)));
}

/// What becomes of a new, kept VM.
fn settle(
    fvm: &Fvm,
    out: &Output,
    record: VmRecord,
    lock: VmLock,
    what: Afterwards,
    named: bool,
    code: u8,
) -> Result<(), Failure> {
    let set = changes::scan(fvm, out, &record)?;
    let is_empty = set.changes.is_empty() && set.warnings.is_empty();
    if is_empty && !named {
        let found = judge(fvm, out, &record, &set)?;
        if found.as_ref().is_none_or(|found| found.report.findings.is_empty()) {
            let verdict = found.map(|found| format!("; what it did is {}", found.report.verdict));
            out.say(&format!("nothing was changed{}", verdict.unwrap_or_default()));
            out.field("kept", &false);
            return Ok(fvm.delete_locked(record, &lock)?);
        }
    }
    match what {
        Afterwards::Commit if code == 0 => {
            let all = changes::commit_all(fvm, out, &lock, &record)?;
            done_with(fvm, out, record, &lock, all)?;
        }
        Afterwards::Commit => {
            out.say("not committed, because the program failed");
            summarise(fvm, out, &record, &set)?;
        }
        Afterwards::Ask => {
            drop(lock);
            ask(fvm, out, record, &set)?;
        }
        Afterwards::Keep | Afterwards::Remove => summarise(fvm, out, &record, &set)?,
    }
    Ok(())
}

/// A VM whose changes were committed is needed no more; one of which something was left out is.
fn done_with(fvm: &Fvm, out: &Output, record: VmRecord, lock: &VmLock, all: bool) -> Result<(), Failure> {
    if all {
        fvm.delete_locked(record, lock)?;
        out.field("kept", &false);
        return Ok(());
    }
    let name = &record.name;
    out.say(&format!("{name} is kept, with what was left out; next: fvm analyze {name} | fvm delete {name}"));
    Ok(())
}

/// What a VM did, judged, where its policy asks for that.
fn judge(fvm: &Fvm, out: &Output, record: &VmRecord, set: &ChangeSet) -> Result<Option<Findings>, Failure> {
    let mut changes = set.changes.iter().cloned();
    let found = || analyze::findings(fvm, out, record, &mut changes, &set.warnings, &AnalysisArgs::default());
    record.policy.is_judged().then(found).transpose()
}

/// What a VM did and changed, where that is judged, all on one screen. Whether it was told.
fn tell_found(fvm: &Fvm, out: &Output, record: &VmRecord, set: &ChangeSet) -> Result<bool, Failure> {
    let Some(found) = judge(fvm, out, record, set)? else { return Ok(false) };
    let withheld = fvm::withheld(&found, set, &BTreeSet::new());
    let screen = render::findings::screen(record, &found.report, set, &withheld);
    screen.iter().for_each(|line| out.say(line));
    Ok(true)
}

fn summarise(fvm: &Fvm, out: &Output, record: &VmRecord, set: &ChangeSet) -> Result<(), Failure> {
    out.field("summary", &set.summary());
    if tell_found(fvm, out, record, set)? {
        return Ok(());
    }
    let name = &record.name;
    out.say(&format!("{name}: {}", render::summary(set.summary())));
    if !set.changes.is_empty() {
        out.say(&format!("next: fvm status {name} | fvm diff {name} | fvm commit {name} | fvm delete {name}"));
    }
    Ok(())
}

fn ask(fvm: &Fvm, out: &Output, record: VmRecord, set: &ChangeSet) -> Result<(), Failure> {
    let name = record.name.clone();
    if !tell_found(fvm, out, &record, set)? {
        out.say(&format!("{name}: {}", render::summary(set.summary())));
    }
    loop {
        let answer = out.ask("commit, review, keep or discard? [c/r/k/d]");
        match answer.as_deref().map(|a| a.chars().next().unwrap_or(' ').to_ascii_lowercase()) {
            Some('c') => {
                let lock = fvm.lock(&record)?;
                let all = changes::commit_all(fvm, out, &lock, &record)?;
                return done_with(fvm, out, record, &lock, all);
            }
            Some('r') => changes::review(fvm, out, &record, set)?,
            Some('d') => {
                fvm.delete(record)?;
                out.say("discarded");
                return Ok(());
            }
            // The end of input must lose nothing.
            Some('k') | None => {
                out.say(&format!(
                    "kept; next: fvm status {name} | fvm diff {name} | fvm commit {name} | fvm delete {name}"
                ));
                return Ok(());
            }
            Some(_) => {}
        }
    }
}

/// A program with this process's environment; without arguments: just the environment.
pub fn call(argv: Vec<OsString>) -> Call {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    Call {
        argv,
        env: std::env::vars_os().collect(),
        cwd: std::env::current_dir().map_or_else(|_| "/".into(), Into::into),
        umask: umask.bits(),
        ..Call::default()
    }
}

/// The same, with what the command line says of it.
fn call_as(argv: Vec<OsString>, args: &ProgramArgs) -> Result<Call, Failure> {
    let mut call = call(argv);
    if let Some(dir) = &args.workdir {
        let path = fvm::vm_path(Path::new(&call.cwd), dir);
        let path = path.map_err(|e| Failure::usage(e.to_string(), "give a directory of the VM"))?;
        call.cwd = path.as_path().into();
        call.cwd_required = true;
    }
    for given in &args.env {
        let bytes = given.as_bytes();
        let (name, value) = match bytes.iter().position(|b| *b == b'=') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
            None => (bytes, std::env::var_os(given)),
        };
        if name.is_empty() {
            return Err(Failure::usage("a variable without a name", "for example: --env LANG=C"));
        }
        // One that you do not have, the program has not either.
        call.own_env.extend(value.map(|value| (OsStr::from_bytes(name).to_owned(), value)));
    }
    call.user.clone_from(&args.user);
    call.timeout = args.timeout.map(|after| Timeout { after_ms: after.ms, grace_ms: args.kill_after.ms });
    Ok(call)
}

/// The exit code of a program, saying why where the code alone does not.
fn exit_code(out: &Output, ended: &Ended, call: &Call) -> u8 {
    let code = said_exit_code(out, ended, call);
    out.field("exit", &code);
    code
}

fn said_exit_code(out: &Output, ended: &Ended, call: &Call) -> u8 {
    let name = call.argv.first().map(|a| fvm::model::path::printable(a.as_encoded_bytes())).unwrap_or_default();
    match *ended {
        Ended::Exited(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        Ended::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        Ended::TimedOut => {
            let after = std::time::Duration::from_millis(call.timeout.map_or(0, |t| t.after_ms));
            out.say(&format!("'{name}' was ended after {after:?}"));
            exit::RUN_TIMED_OUT
        }
        Ended::NotExecuted(Step::User, errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            let user = fvm::model::path::printable(call.user.as_deref().unwrap_or_default().as_bytes());
            let text = if error.kind() == std::io::ErrorKind::NotFound {
                format!("there is no user '{user}' in the VM")
            } else {
                format!("cannot become '{user}' in the VM: {error}")
            };
            out.failure(&Failure::new(text, "only VMs of root have more than one user"));
            exit::RUN_FAILED
        }
        Ended::NotExecuted(Step::Directory, errno) => {
            let (dir, error) = (Path::new(&call.cwd).display(), std::io::Error::from_raw_os_error(errno));
            out.failure(&Failure::new(
                format!("cannot work in '{dir}' in the VM: {error}"),
                "choose another --workdir",
            ));
            exit::RUN_FAILED
        }
        Ended::NotExecuted(Step::Execute, errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let hint =
                if missing { "is it installed, and in PATH?" } else { "is it a program, and may you execute it?" };
            out.failure(&Failure::new(format!("cannot execute '{name}' in the VM: {error}"), hint));
            if missing { exit::RUN_NOT_FOUND } else { exit::RUN_NOT_EXECUTABLE }
        }
        Ended::Lost => {
            out.failure(&Failure::new(format!("the VM ended while '{name}' ran"), "it was stopped or killed"));
            exit::RUN_FAILED
        }
    }
}

/// What a pair of options says, such as `--mark` and `--no-mark`.
pub fn choice(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}

impl crate::args::PolicyArgs {
    /// The policy that the options ask for, on this machine.
    pub fn policy(&self, fvm: &Fvm, out: &Output) -> Result<Policy, Failure> {
        let usual = dirs::usual_policy();
        let named = self.policy.as_deref().or(usual.as_deref());
        self.on_this_machine(fvm, out, fvm::policy(named, &self.flags()?, &dirs::policy_dirs())?)
    }

    /// The policy of a VM that is there, with the options on top.
    pub fn policy_on(&self, fvm: &Fvm, out: &Output, record: &VmRecord) -> Result<Policy, Failure> {
        let flags = self.flags()?;
        let policy = match &self.policy {
            Some(named) => fvm::policy(Some(named), &flags, &dirs::policy_dirs())?,
            None => fvm::amended(record, &flags)?,
        };
        self.on_this_machine(fvm, out, policy)
    }

    /// A policy that is there, with the options on top.
    pub fn policy_over(&self, fvm: &Fvm, out: &Output, policy: &Policy) -> Result<Policy, Failure> {
        let flags = self.flags()?;
        let policy = match &self.policy {
            Some(named) => fvm::policy(Some(named), &flags, &dirs::policy_dirs())?,
            None => fvm::amended_policy(policy, &flags, "the pool's policy")?,
        };
        self.on_this_machine(fvm, out, policy)
    }

    fn flags(&self) -> Result<Flags, Failure> {
        let path = |path: &PathBuf| {
            let text = path.to_str().map(ToOwned::to_owned);
            let text = text.ok_or_else(|| Failure::usage(format!("'{}' is not text", path.display()), "rename it"))?;
            // A relative path is the caller's, as everywhere.
            let (out, bare) = text.strip_prefix('!').map_or(("", text.as_str()), |bare| ("!", bare));
            if bare.starts_with('/') {
                return Ok(text);
            }
            let absolute = fvm::vm_path(&std::env::current_dir()?, Path::new(bare));
            let absolute = absolute.map_err(|e| Failure::usage(e.to_string(), "give an absolute path"))?;
            Ok(format!("{out}{}", absolute.as_path().display()))
        };
        Ok(Flags {
            network: self.net,
            allow: self.allow.clone(),
            publish: self.publish.clone(),
            hide: self.hide.clone(),
            read_only: self.read_only.clone(),
            share: self.share.iter().map(path).collect::<Result<_, Failure>>()?,
            devices: self.device.clone(),
            sockets: self.socket.iter().map(path).collect::<Result<_, Failure>>()?,
            desktop: self.dbus.clone(),
            limits: self.limits().map(|(name, value)| (name, value.clone())).collect(),
            hostname: self.hostname.clone(),
            trace: self.trace,
            mark: choice(self.mark, self.no_mark),
        })
    }

    fn on_this_machine(&self, fvm: &Fvm, out: &Output, mut policy: Policy) -> Result<Policy, Failure> {
        if self.allow_partial {
            // For good: it is asked again at every start.
            policy.requires.clear();
            for (name, why) in fvm.unenforced(&policy) {
                out.say(&format!("without a limit of {name}: {why}"));
                policy.limits.clear(name);
            }
        }
        fvm.check_requirements(&policy)?;
        Ok(policy)
    }

    /// The limits that were given, as policies name them.
    fn limits(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let Self { memory, swap, cpus, cpu_weight, pids, disk, io_weight, .. } = self;
        let processors = [("cpus", cpus), ("cpu_weight", cpu_weight), ("pids", pids)];
        let disks = [("disk", disk), ("io_weight", io_weight)];
        let all = [("memory", memory), ("swap", swap)].into_iter().chain(processors).chain(disks);
        all.filter_map(|(name, value)| value.as_ref().map(|value| (name, value)))
    }

    /// Whether any option was given.
    pub fn is_given(&self) -> bool {
        let Self { policy, net, allow, publish, hide, read_only, share, device, socket, dbus, hostname, trace, .. } =
            self;
        let any_place = !(allow.is_empty() && publish.is_empty());
        let any_list = !(hide.is_empty() && read_only.is_empty() && device.is_empty() && dbus.is_empty());
        let any_path = !(share.is_empty() && socket.is_empty());
        let any_value = policy.is_some() || net.is_some() || hostname.is_some() || trace.is_some();
        let any_value = any_value || self.mark || self.no_mark || self.limits().next().is_some();
        any_value || any_place || any_list || any_path || self.allow_partial
    }
}
