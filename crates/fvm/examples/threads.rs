//! A program with several threads that runs others in VMs: each thread forks VMs of its own, one after another, and all share one
//! that stays up.
//!
//! ```text
//! cargo run -p fvm --example threads -- STATE RUN THREADS TIMES
//! ```

use fvm::model::VmState;
use fvm::{Call, Ended, Fvm, FvmError, NewVm, Place, Stream, Streams, VmError};
use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;

type Failed = Box<dyn Error + Send + Sync>;

fn call(words: &[&str]) -> Call {
    let env = std::env::vars_os().collect();
    Call { argv: words.iter().map(Into::into).collect(), env, ..Call::default() }
}

fn main() -> Result<(), Failed> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [state, run, threads, times] = args.as_slice() else {
        return Err("usage: threads STATE RUN THREADS TIMES".into());
    };
    let number = |text: &std::ffi::OsString| text.to_str().and_then(|text| text.parse::<usize>().ok());
    let (threads, times) = (number(threads).ok_or("THREADS?")?, number(times).ok_or("TIMES?")?);

    let fvm = Fvm::open(Path::new(state), Path::new(run))?;
    // The one rule: before there are threads.
    fvm.start_forker()?;
    let new = NewVm { name: Some(fvm::vm_name("shared")?), ..NewVm::default() };
    let (shared, lock) = fvm.create(&new)?;
    drop(lock);

    std::thread::scope(|scope| -> Result<(), Failed> {
        // Also what only begins something works with threads around.
        let late = scope.spawn(|| refused(state, run));
        fvm.detach(shared.clone(), &Call::default())?;
        let all: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let (fvm, shared) = (&fvm, &shared);
                    move || (0..times).try_for_each(|m| once(fvm, shared, n, m))
                })
            })
            .collect();
        for thread in all.into_iter().chain([late]) {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })?;
    assert_eq!(fvm.state(&shared)?, VmState::Running);
    fvm.stop(&shared, 1000)?;
    fvm.delete(fvm.find("shared")?)?;
    println!("{} VMs", threads * times);
    Ok(())
}

/// A throw-away VM with a pipe for each stream, and the shared one beside it.
fn once(fvm: &Fvm, shared: &fvm::model::VmRecord, n: usize, m: usize) -> Result<(), Failed> {
    let word = format!("thread {n}, time {m}");
    let new = NewVm { ephemeral: true, ..NewVm::default() };
    let streams = Streams { input: Stream::Pipe, output: Stream::Pipe, errors: Stream::Null };
    let mut child = fvm.spawn(Place::New(&new), &call(&["sh", "-c", "cat; exit 7"]), streams)?;
    if let Some(mut input) = child.input.take() {
        input.write_all(word.as_bytes())?;
    }
    let mut said = String::new();
    if let Some(mut output) = child.output.take() {
        output.read_to_string(&mut said)?;
    }
    let ran = child.wait()?;
    if (said.as_str(), ran.ended) != (word.as_str(), Ended::Exited(7)) {
        return Err(format!("{word}: {said:?}, {:?}", ran.ended).into());
    }
    let asked = fvm.run_in(shared, &call(&["sh", "-c", "echo $FVM"]))?;
    if asked.output != b"shared\n" {
        return Err(format!("{word}: {asked:?}").into());
    }
    Ok(())
}

/// What is too late is an error, and nothing worse.
fn refused(state: &std::ffi::OsStr, run: &std::ffi::OsStr) -> Result<(), Failed> {
    let other = Fvm::open(Path::new(state), Path::new(run))?;
    let new = NewVm { ephemeral: true, ..NewVm::default() };
    for late in [other.run(&new, &call(&["true"])).map(drop), other.create_and_boot(&new, &call(&["true"])).map(drop)] {
        if !matches!(late, Err(FvmError::Vm(VmError::Threads(_)))) {
            return Err(format!("not refused: {late:?}").into());
        }
    }
    Ok(())
}
