//! `pool`: VMs that are forked ahead, and who holds them.

use crate::Done;
use crate::args::{PoolCommand, PoolConfigure, PoolCreate};
use crate::failure::Failure;
use crate::output::Output;
use fvm::model::pool::PoolStatus;
use fvm::model::{VmName, exit};
use fvm::{Fvm, FvmError, NewPool, VmError};
use std::time::{Duration, Instant};

/// A drained pool ends when its programs have ended; so long a deletion waits for that.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// `fvm pool`.
pub fn pool(fvm: &Fvm, out: &Output, command: &PoolCommand) -> Done {
    match command {
        PoolCommand::Create(args) => create(fvm, out, args),
        PoolCommand::Status { names } => status(fvm, out, names),
        PoolCommand::Size { name, size } => {
            let mut pool = fvm.pool(&parse(name)?)?;
            pool.size = *size;
            fvm.pool_change(&pool)?;
            Ok(exit::DONE)
        }
        PoolCommand::Configure(args) => configure(fvm, out, args),
        PoolCommand::Start { names } => {
            for name in names {
                fvm.pool_start(&fvm.pool(&parse(name)?)?)?;
            }
            Ok(exit::DONE)
        }
        PoolCommand::Drain { names } => {
            for name in names {
                fvm.pool_drain(&fvm.pool(&parse(name)?)?.name)?;
            }
            Ok(exit::DONE)
        }
        PoolCommand::Delete { names } => {
            for name in names {
                delete(fvm, &parse(name)?)?;
            }
            Ok(exit::DONE)
        }
    }
}

/// A checked name of a pool.
pub fn parse(name: &str) -> Result<VmName, Failure> {
    fvm::vm_name(name).map_err(|e| Failure::usage(e.to_string(), "'fvm pool status' lists the pools"))
}

fn create(fvm: &Fvm, out: &Output, args: &PoolCreate) -> Done {
    let name = parse(&args.name)?;
    unlogged(&args.policy)?;
    let template = args.from.as_deref().map(|name| fvm.find(name)).transpose()?;
    let policy = match &template {
        Some(template) if !args.policy.is_given() => template.policy.clone(),
        Some(template) => args.policy.policy_on(fvm, out, template)?,
        None => args.policy.policy(fvm, out)?,
    };
    let reserve_bytes = fvm::model::policy::limits::size(&args.reserve)
        .map_err(|e| Failure::usage(format!("--reserve: {e}"), "for example: --reserve 1G"))?;
    let reach = super::run::call(Vec::new()).reach();
    let new = NewPool {
        size: args.size,
        policy,
        template: template.map(|vm| vm.name),
        kept: args.kept,
        uses: args.reuse,
        per_second: args.per_second,
        reserve_bytes,
        reach,
    };
    fvm.pool_create(&name, &new)?;
    out.say(&format!("{name} is being filled; next: fvm run --pool {name} -- CMD"));
    Ok(exit::DONE)
}

/// Who asks for a log by name is not to believe that there is one.
fn unlogged(args: &crate::args::PolicyArgs) -> Result<(), Failure> {
    match args.trace {
        Some(level) if level != fvm::model::Level::Off => Err(Failure::usage(
            format!("--trace {level}: what VMs of a pool do is not written down"),
            "leave it out, or use 'fvm run' without a pool",
        )),
        _ => Ok(()),
    }
}

fn configure(fvm: &Fvm, out: &Output, args: &PoolConfigure) -> Done {
    let mut pool = fvm.pool(&parse(&args.name)?)?;
    if !args.policy.is_given() {
        return Err(Failure::usage("nothing to change is given", "for example: --net none"));
    }
    unlogged(&args.policy)?;
    pool.policy = args.policy.policy_over(fvm, out, &pool.policy)?;
    fvm.pool_change(&pool)?;
    Ok(exit::DONE)
}

fn delete(fvm: &Fvm, name: &VmName) -> Result<(), Failure> {
    match fvm.pool(name) {
        // Nothing in it is anybody's: what cannot be read can be thrown away.
        Err(FvmError::Vm(VmError::BadRecord { .. })) if fvm.home().is_pool_damaged(name) => {}
        found => drop(found?),
    }
    fvm.pool_drain(name)?;
    let until = Instant::now() + DRAIN_MAX;
    loop {
        match fvm.pool_delete(name) {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            done => return Ok(done?),
        }
    }
}

fn status(fvm: &Fvm, out: &Output, names: &[String]) -> Done {
    let mut all = Vec::new();
    if names.is_empty() {
        for pool in fvm.pools()? {
            match pool {
                Ok(pool) => all.push(fvm.pool_status(&pool)?),
                Err(e) => out.failure(&e.into()),
            }
        }
    }
    for name in names {
        all.push(fvm.pool_status(&fvm.pool(&parse(name)?)?)?);
    }
    if out.json() {
        out.document(&all)?;
        return Ok(exit::DONE);
    }
    let mut lines = String::new();
    for PoolStatus { name, size, ready, making, used, given, renewed, keeper, draining, trouble, .. } in &all {
        let state = match (keeper, draining) {
            (None, _) => "stopped",
            (Some(_), true) => "draining",
            (Some(_), false) => "running",
        };
        lines += &format!(
            "{name}  {state}  {ready} of {size} ready, {making} being made, {used} used; {given} given, {renewed} renewed\n"
        );
        if let Some(trouble) = trouble {
            lines += &format!("  none is made: {trouble}\n");
        }
    }
    out.write(|w| w.write_all(lines.as_bytes()))?;
    Ok(exit::DONE)
}
