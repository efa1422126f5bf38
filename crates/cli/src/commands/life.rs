//! `rename`, `copy`, `cp`: what becomes of whole VMs, and what passes in and out of them.

use super::{run, vms::Row};
use crate::Done;
use crate::args::{Copy, Cp, Rename};
use crate::failure::Failure;
use crate::output::Output;
use fvm::Fvm;
use fvm::model::{VmName, VmState, exit};
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
