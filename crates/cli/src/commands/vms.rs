//! `create`, `start`, `stop`, `kill`, `refresh`, `delete`, `list`, `inspect`, `ps`, `logs`, `explain`: VMs themselves.

use crate::args::{Create, Delete, ExplainArgs, PolicyArgs, Stop};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::{Done, dirs};
use fvm::model::{Timestamp, VmName, VmRecord, VmState, exit};
use fvm::{Found, Fvm, FvmError, NewVm, SetupOp, VmError};
use serde::Serialize;
use std::io::Read;

/// `fvm create`.
pub fn create(fvm: &Fvm, out: &Output, args: &Create) -> Done {
    let name =
        fvm::vm_name(&args.name).map_err(|e| Failure::usage(e.to_string(), "for example: fvm create build-1"))?;
    let record = if let Some(from) = &args.from {
        let policy = (args.policy != PolicyArgs::default()).then(|| args.policy.policy(fvm, out)).transpose()?;
        fvm.copy(&fvm.find(from)?, Some(&name), policy)?
    } else {
        let policy = args.policy.policy(fvm, out)?;
        let (name, user_home) = (Some(name), dirs::user_home());
        fvm.create(&NewVm { name, policy, user_home, ..NewVm::default() })?.0
    };
    if out.json() {
        out.document(&Row::of(&record, VmState::Stopped))?;
    } else {
        out.say(&format!("created {}; 'fvm start {0}' or 'fvm run --name {0} -- CMD' comes next", record.name));
    }
    Ok(exit::DONE)
}

/// `fvm start`.
pub fn start(fvm: &Fvm, out: &Output, name: &str) -> Done {
    let record = fvm.find(name)?;
    let name = record.name.clone();
    fvm.detach(record, &super::run::call(Vec::new()))?;
    out.say(&format!("{name} runs; 'fvm exec {name} CMD' runs a program in it"));
    Ok(exit::DONE)
}

/// `fvm stop`.
pub fn stop(fvm: &Fvm, out: &Output, args: &Stop) -> Done {
    each(fvm, out, &args.names, |record| {
        fvm.stop(&record, u64::from(args.time) * 1000)?;
        Ok(format!("stopped {}", record.name))
    })
}

/// `fvm kill`.
pub fn kill(fvm: &Fvm, out: &Output, names: &[String]) -> Done {
    each(fvm, out, names, |record| {
        fvm.kill(&record)?;
        Ok(format!("killed {}", record.name))
    })
}

/// `fvm suspend`.
pub fn suspend(fvm: &Fvm, out: &Output, names: &[String]) -> Done {
    each(fvm, out, names, |record| {
        fvm.suspend(&record)?;
        Ok(format!("suspended {0}; 'fvm resume {0}' lets it run on", record.name))
    })
}

/// `fvm resume`.
pub fn resume(fvm: &Fvm, out: &Output, names: &[String]) -> Done {
    each(fvm, out, names, |record| {
        fvm.resume(&record)?;
        Ok(format!("{} runs on", record.name))
    })
}

/// `fvm refresh`.
pub fn refresh(fvm: &Fvm, out: &Output, names: &[String]) -> Done {
    each(fvm, out, names, |record| {
        fvm.refresh(&record)?;
        Ok(format!("refreshed {}", record.name))
    })
}

/// `fvm delete`.
pub fn delete(fvm: &Fvm, out: &Output, args: &Delete) -> Done {
    each(fvm, out, &args.names, |record| {
        if args.force {
            match fvm.kill(&record) {
                Ok(()) | Err(FvmError::Vm(VmError::NotRunning(_))) => {}
                Err(e) => return Err(e),
            }
        }
        let name = record.name.clone();
        match fvm.delete(record) {
            Ok(()) => Ok(format!("deleted {name}")),
            Err(e) => Err(e),
        }
    })
}

/// Does the same to several VMs. Goes on after a failure; the first failure's code counts.
fn each(fvm: &Fvm, out: &Output, names: &[String], mut act: impl FnMut(VmRecord) -> Result<String, FvmError>) -> Done {
    let mut code = exit::DONE;
    for name in names {
        match fvm.find(name).and_then(&mut act) {
            Ok(done) => out.say(&done),
            Err(e) => {
                let failure = Failure::from(e);
                out.failure(&failure);
                if code == exit::DONE {
                    code = failure.code();
                }
            }
        }
    }
    Ok(code)
}

/// One VM in `fvm list --json`.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    name: &'a VmName,
    id: &'a str,
    state: VmState,
    mode: fvm::model::Mode,
    network: fvm::model::Network,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::IpAddr>,
    forked: Timestamp,
}

impl<'a> Row<'a> {
    /// Of this record.
    pub fn of(record: &'a VmRecord, state: VmState) -> Self {
        Self {
            name: &record.name,
            id: record.id.as_str(),
            state,
            mode: record.mode,
            network: record.policy.network,
            address: None,
            forked: record.begun(),
        }
    }
}

/// `fvm list`.
pub fn list(fvm: &Fvm, out: &Output) -> Done {
    let found = fvm.list()?;
    let mut rows = Vec::new();
    let mut code = exit::DONE;
    for entry in &found {
        match entry {
            // 'fvm pool status' counts these.
            Found::Vm(record, _) if record.pool.is_some() => {}
            Found::Vm(record, _) => {
                let (state, info) = fvm.look(record)?;
                rows.push(Row { address: info.and_then(|info| info.address), ..Row::of(record, state) });
            }
            Found::Broken(..) => code = exit::FAILED,
        }
    }
    if out.json() {
        out.document(&rows)?;
    } else {
        let mut table = vec![["NAME", "ID", "STATE", "NETWORK", "ADDRESS", "FORKED"].map(String::from)];
        table.extend(rows.iter().map(|r| {
            let address = r.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let (name, id, state) = (r.name.to_string(), r.id.to_owned(), r.state.to_string());
            [name, id, state, r.network.to_string(), address, render::time(r.forked)]
        }));
        out.write(|w| render::table(w, &table))?;
    }
    for entry in found {
        if let Found::Broken(_, error) = entry {
            out.failure(&Failure::from(error));
        }
    }
    Ok(code)
}

/// `fvm inspect`.
pub fn inspect(fvm: &Fvm, out: &Output, name: &str) -> Done {
    #[derive(Serialize)]
    struct Inspected<'a> {
        #[serde(flatten)]
        record: &'a VmRecord,
        now: VmState,
        directory: std::path::PathBuf,
        #[serde(skip_serializing_if = "Option::is_none")]
        keeper_pid: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        init_pid: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<std::net::IpAddr>,
    }
    let record = fvm.find(name)?;
    let (now, info) = fvm.look(&record)?;
    let directory = fvm.home().vm_dir(&record.id);
    let (keeper_pid, init_pid) = (info.map(|info| info.keeper), info.map(|info| info.init));
    let address = info.and_then(|info| info.address);
    out.document(&Inspected { record: &record, now, directory, keeper_pid, init_pid, address })?;
    Ok(exit::DONE)
}

/// `fvm ip`.
pub fn ip(fvm: &Fvm, out: &Output, name: &str) -> Done {
    let record = fvm.find(name)?;
    let Some(address) = fvm.info(&record)?.address else {
        let text = format!("'{}' has no address: its network is '{}'", record.name, record.policy.network);
        return Err(Failure::new(text, "only a VM that was made with '--net own' has one"));
    };
    if out.json() {
        out.document(&address)?;
    } else {
        out.write(|w| writeln!(w, "{address}"))?;
    }
    Ok(exit::DONE)
}

/// `fvm ps`.
pub fn ps(fvm: &Fvm, out: &Output, name: &str) -> Done {
    let record = fvm.find(name)?;
    let processes = fvm.processes(&record)?;
    if out.json() {
        out.document(&processes)?;
    } else {
        let mut table = vec![["PID".into(), "HOST PID".into(), "UID".into(), "STATE".into(), "COMMAND".into()]];
        table.extend(
            processes.into_iter().map(|p| {
                [p.inner_pid.to_string(), p.pid.to_string(), p.uid.to_string(), p.state.to_string(), p.command]
            }),
        );
        out.write(|w| render::table(w, &table))?;
    }
    Ok(exit::DONE)
}

/// `fvm logs`.
pub fn logs(fvm: &Fvm, out: &Output, name: &str) -> Done {
    let record = fvm.find(name)?;
    let path = fvm.output_log(&record);
    let mut file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            out.say(&format!("'{}' never ran a detached program ('fvm run --detach')", record.name));
            return Ok(exit::DONE);
        }
        Err(e) => return Err(Failure::new(format!("cannot open {}: {e}", path.display()), "whose VM is it?")),
    };
    out.write(|w| {
        let mut buffer = [0u8; 64 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                len => w.write_all(&buffer[..len])?,
            }
        }
    })?;
    Ok(exit::DONE)
}

/// `fvm explain`.
pub fn explain(fvm: &Fvm, out: &Output, args: &ExplainArgs) -> Done {
    let (ops, notices) = match &args.name {
        Some(_) if args.policy.is_given() => {
            return Err(Failure::usage("a VM that is there has its policy", "leave out its name, or the options"));
        }
        Some(name) => fvm.explain(&fvm.find(name)?)?,
        None => fvm.explain_new(&args.policy.policy(fvm, out)?)?,
    };
    if out.json() {
        #[derive(Serialize)]
        struct Explained {
            steps: Vec<SetupOp>,
            notices: Vec<String>,
        }
        out.document(&Explained { steps: ops, notices })?;
        return Ok(exit::DONE);
    }
    out.write(|w| {
        for (n, op) in ops.iter().enumerate() {
            writeln!(w, "{:3}  {op}", n + 1)?;
        }
        Ok(())
    })?;
    for notice in notices {
        out.say(&format!("note: {notice}"));
    }
    Ok(exit::DONE)
}
