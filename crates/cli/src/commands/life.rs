//! `rename`: what becomes of whole VMs.

use super::vms::Row;
use crate::Done;
use crate::args::Rename;
use crate::failure::Failure;
use crate::output::Output;
use fvm::Fvm;
use fvm::model::{VmName, VmState, exit};

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

/// The name of a VM to be.
fn name(text: &str) -> Result<VmName, Failure> {
    fvm::vm_name(text).map_err(|e| Failure::usage(e.to_string(), "for example: build-1"))
}
