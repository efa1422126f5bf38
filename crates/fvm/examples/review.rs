//! Runs a program in a VM forked from this machine, shows what it would change, and commits what matches a pattern.
//!
//! ```text
//! cargo run -p fvm --example review -- STATE RUN PATTERN COMMAND...
//! ```
//!
//! `STATE` and `RUN` are directories for VMs and sockets; both are made if they are not there.

use fvm::{Call, Choice, Fvm, NewVm, Unwatched};
use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let mut next = || args.next().ok_or("usage: review STATE RUN PATTERN COMMAND...");
    let (state, run, pattern) = (next()?, next()?, next()?);
    let argv: Vec<OsString> = args.collect();
    let only = vec![pattern.into_string().map_err(|_| "the pattern is not text")?];

    let fvm = Fvm::open(Path::new(&state), Path::new(&run))?;
    let here = std::env::current_dir()?;
    let call = Call { argv, cwd: here.into(), env: std::env::vars_os().collect(), ..Call::default() };
    let ran = fvm.run(&NewVm::default(), &call)?;
    std::io::stdout().write_all(&ran.output)?;
    std::io::stderr().write_all(&ran.errors)?;
    println!("ended: {:?}", ran.ended);

    // Nothing has happened to the host yet.
    let lock = fvm.lock(&ran.vm)?;
    let changes = fvm.changes(&ran.vm)?;
    for change in &changes.changes {
        println!("changed: {}", change.path);
    }
    let plan = fvm.decide(&ran.vm, &changes, &Choice { only, ..Choice::default() })?;
    for op in &plan.ops {
        println!("planned: {op}");
    }
    let committed = fvm.commit(&lock, &ran.vm, &changes, plan, fvm::How::default(), &mut Unwatched)?;
    if let Some(number) = committed.number {
        println!("committed: {number}");
        let undone = fvm.undo(number)?;
        println!("undone: {}", undone.number);
    }
    drop(lock);
    fvm.delete(fvm.find(ran.vm.id.as_str())?)?;
    Ok(())
}
