//! `rename`, `configure`, `copy`, `export`, `import`, `cp`: what becomes of whole VMs, and what passes in and out of them.

use super::{run, vms::Row, vms::inspect};
use crate::args::{Configure, Copy, Cp, Export, Import, PolicyArgs, Rename};
use crate::failure::Failure;
use crate::output::Output;
use crate::{Done, dirs};
use fvm::Fvm;
use fvm::model::{VmName, VmState, exit};
use std::io::{BufWriter, IsTerminal};
use std::path::Path;

/// `fvm rename`.
pub fn rename(fvm: &Fvm, out: &Output, args: &Rename) -> Done {
    let new = name(&args.new)?;
    let record = fvm.find(&args.name)?;
    let renamed = fvm.rename(&record, &new)?;
    if out.json() {
        out.document(&Row::of(&renamed, VmState::Stopped))?;
    } else {
        out.say(&format!("{} is now {}", record.name, renamed.name));
    }
    Ok(exit::DONE)
}

/// `fvm configure`.
pub fn configure(fvm: &Fvm, out: &Output, args: &Configure) -> Done {
    let given = args.policy.is_given();
    if !given && args.restart.is_none() {
        return Err(Failure::usage(
            "nothing to change was given",
            "for example: --memory 2G, --pids none, --restart no",
        ));
    }
    let record = fvm.find(&args.name)?;
    let policy = given.then(|| args.policy.policy_on(fvm, out, &record)).transpose()?;
    let changed = fvm.configure(&record, policy, args.restart)?;
    if out.json() {
        return inspect(fvm, out, changed.id.as_str());
    }
    let name = &changed.name;
    out.say(&match fvm.state(&changed)? {
        VmState::Running | VmState::Suspended => format!("{name} is changed, and runs on"),
        _ => format!("{name} is changed; 'fvm inspect {name}' shows it"),
    });
    Ok(exit::DONE)
}

/// `fvm copy`.
pub fn copy(fvm: &Fvm, out: &Output, args: &Copy) -> Done {
    let new = name(&args.copy)?;
    let record = fvm.find(&args.name)?;
    let copy = fvm.copy(&record, Some(&new), None)?;
    if out.json() {
        out.document(&Row::of(&copy, VmState::Stopped))?;
    } else {
        out.say(&format!("{} is as {} is now", copy.name, record.name));
    }
    Ok(exit::DONE)
}

/// `fvm export`.
pub fn export(fvm: &Fvm, out: &Output, args: &Export) -> Done {
    let record = fvm.find(&args.name)?;
    let remarks = if args.file == Path::new("-") {
        if std::io::stdout().is_terminal() {
            return Err(Failure::usage("an archive is not for a terminal", "name a file, or pipe it somewhere"));
        }
        fvm.export(&record, std::io::stdout().lock())?
    } else {
        // Whole, or not at all: what is there is replaced at the end.
        let above = args.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |e: &dyn std::fmt::Display| {
            Failure::new(
                format!("cannot write '{}': {e}", args.file.display()),
                "name a file in a directory that you may write",
            )
        };
        let mut file = tempfile::Builder::new().prefix(".fvm-export-").tempfile_in(above).map_err(|e| failed(&e))?;
        let what = format!("exporting {}", record.name);
        let remarks = out.during(&what, || fvm.export(&record, BufWriter::new(&mut file)))?;
        file.as_file().sync_all().map_err(|e| failed(&e))?;
        file.persist(&args.file).map_err(|e| failed(&e))?;
        remarks
    };
    for remark in remarks {
        out.say(&remark);
    }
    Ok(exit::DONE)
}

/// `fvm import`.
pub fn import(fvm: &Fvm, out: &Output, args: &Import) -> Done {
    #[derive(serde::Serialize)]
    struct Report<'a> {
        #[serde(flatten)]
        row: Row<'a>,
        machine: &'a fvm::Machine,
        unlike: &'a [fvm::model::HostPath],
        left_out: &'a [&'static str],
    }
    let name = args.name.as_deref().map(name).transpose()?;
    // A stranger's policy does not replace one that is asked for everywhere.
    let is_asked_for = args.policy != PolicyArgs::default() || dirs::usual_policy().is_some() && !args.trust;
    let policy = is_asked_for.then(|| args.policy.policy(fvm, out)).transpose()?;
    let imported = if args.file == Path::new("-") {
        fvm.import(std::io::stdin().lock(), name.as_ref(), policy, args.trust)?
    } else {
        let file = std::fs::File::open(&args.file).map_err(|e| {
            Failure::new(format!("cannot open '{}': {e}", args.file.display()), "'fvm export' writes such files")
        })?;
        let what = format!("importing {}", args.file.display());
        out.during(&what, || fvm.import(file, name.as_ref(), policy, args.trust))?
    };
    let (record, machine) = (&imported.record, &imported.machine);
    if out.json() {
        let row = Row::of(record, VmState::Stopped);
        out.document(&Report { row, machine, unlike: &imported.unlike, left_out: &imported.closed })?;
        return Ok(exit::DONE);
    }
    out.say(&format!("{} was made on {} ({}, {})", record.name, machine.system, machine.kernel, machine.architecture));
    for what in &imported.closed {
        out.say(&format!("its policy is without {what}: --trust leaves it as it was"));
    }
    const SHOWN: usize = 20;
    for path in imported.unlike.iter().take(SHOWN) {
        out.say(&format!("{path} is not here as it was there: what the VM did to it is a conflict"));
    }
    if imported.unlike.len() > SHOWN {
        out.say(&format!("... and {} more: 'fvm status {}' shows them", imported.unlike.len() - SHOWN, record.name));
    }
    Ok(exit::DONE)
}

/// `fvm cp`. A VM that does not run is started for it, and stopped.
pub fn cp(fvm: &Fvm, out: &Output, args: &Cp) -> Done {
    let (from, to) = (fvm::in_vm(&args.source), fvm::in_vm(&args.target));
    let (name, path) = match (from, to) {
        (Some(vm), None) | (None, Some(vm)) => vm,
        _ => {
            let hint = "for example: fvm cp build-1:/tmp/result . (a path of yours with a colon: ./a:b)";
            return Err(Failure::usage("one of the two must be in a VM, as NAME:PATH, and one on the host", hint));
        }
    };
    let record = fvm.find(name)?;
    let here = std::env::current_dir()?;
    let path = fvm::vm_path(&here, path).map_err(|e| Failure::usage(e.to_string(), "give a path in the VM"))?;
    let call = run::call(Vec::new());
    let begun = matches!(fvm.look(&record)?, (VmState::Stopped, None));
    if begun {
        fvm.detach(record.clone(), &call)?;
    }
    let copied = if from.is_some() {
        fvm.copy_out(&record, &path, Path::new(&args.target), &call)
    } else {
        fvm.copy_in(&record, Path::new(&args.source), &path, &call).map(|()| Vec::new())
    };
    let stopped = if begun { fvm.kill(&record) } else { Ok(()) };
    for remark in copied? {
        out.say(&remark);
    }
    stopped?;
    Ok(exit::DONE)
}

/// The name of a VM to be.
fn name(text: &str) -> Result<VmName, Failure> {
    fvm::vm_name(text).map_err(|e| Failure::usage(e.to_string(), "for example: build-1"))
}
