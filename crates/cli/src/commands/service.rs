//! `fvm service start|stop|restart|reload|status|logs|list`: daemons in a VM.
//!
//! Invariant: everything in an answer and in the log was written by a VM: it is shown escaped.

use crate::Done;
use crate::args::{Service, ServiceLogs};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use fvm::model::path::{Bytes, printable};
use fvm::model::service::{ServiceAction, ServiceAnswer, ServiceStatus};
use fvm::model::{Timestamp, exit};
use fvm::{Fvm, service_log};
use serde::Serialize;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// `fvm service`.
pub fn service(fvm: &Fvm, out: &Output, args: Service) -> Done {
    let (action, name, units, places) = match args {
        Service::Logs(args) => return logs(fvm, out, &args),
        Service::Start(args) => (ServiceAction::Start, args.name, args.units, args.places),
        Service::Stop(args) => (ServiceAction::Stop, args.name, args.units, args.places),
        Service::Restart(args) => (ServiceAction::Restart, args.name, args.units, args.places),
        Service::Reload(args) => (ServiceAction::Reload, args.name, args.units, args.places),
        Service::Status(args) => (ServiceAction::Status, args.name, args.units, args.places),
        Service::List(args) => (ServiceAction::List, args.name, args.units, args.places),
    };
    let record = fvm.find(&name)?;
    let absolute = |dir: &PathBuf| {
        std::path::absolute(dir)
            .map(|dir| Bytes(dir.into_os_string()))
            .map_err(|e| Failure::new(format!("cannot use '{}': {e}", dir.display()), "give another --unit-dir"))
    };
    let places = places.iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
    let answer = fvm.services(&record, action, units, places)?;
    if out.json() {
        out.document(&answer)?;
    }
    for notice in &answer.notices {
        out.say(&format!("note: {}", printable(notice.as_bytes())));
    }
    for failure in &answer.failures {
        let (unit, why) = (printable(failure.unit.as_bytes()), printable(failure.why.as_bytes()));
        let ran = answer.services.iter().any(|s| s.unit == failure.unit && s.since.is_some());
        let hint = if ran {
            format!("'fvm service logs {} {unit}' shows what it printed", record.name)
        } else {
            format!("'fvm service list {}' shows the services that there are", record.name)
        };
        out.failure(&Failure::new(format!("{unit}: {why}"), hint));
    }
    let all_up = answer.services.iter().all(|s| s.state.is_up());
    let (table, ok) = match action {
        ServiceAction::Status => (true, all_up),
        ServiceAction::List => (true, true),
        _ => (false, true),
    };
    if !out.json() && table {
        show(out, &answer, action)?;
    } else {
        for status in &answer.services {
            let failed = answer.failures.iter().any(|f| f.unit == status.unit);
            if !failed {
                out.say(&sentence(status));
            }
        }
    }
    Ok(if ok && answer.failures.is_empty() { exit::DONE } else { exit::FAILED })
}

fn sentence(status: &ServiceStatus) -> String {
    let why = status.why.as_ref().map(|why| format!(" ({})", printable(why.as_bytes()))).unwrap_or_default();
    format!("{} is {}{why}", printable(status.unit.as_bytes()), status.state)
}

fn show(out: &Output, answer: &ServiceAnswer, action: ServiceAction) -> std::io::Result<()> {
    let text = |text: &str| printable(text.as_bytes());
    let mut rows = vec![["UNIT", "STATE", "PID", "SINCE", "RESTARTS", "WHAT"].map(String::from)];
    rows.extend(answer.services.iter().map(|s| {
        let detail = s.why.as_deref().or(s.text.as_deref()).filter(|_| action != ServiceAction::List);
        [
            text(&s.unit),
            s.state.to_string(),
            s.main_pid.map(|pid| pid.to_string()).unwrap_or_default(),
            s.since.map(render::time).unwrap_or_default(),
            s.restarts.to_string(),
            text(detail.unwrap_or(&s.description)),
        ]
    }));
    out.write(|w| render::table(w, &rows))
}

/// One line of `fvm service logs --json`.
#[derive(Debug, Serialize)]
struct LogLine {
    time: Timestamp,
    unit: String,
    text: Bytes,
}

/// `fvm service logs`.
fn logs(fvm: &Fvm, out: &Output, args: &ServiceLogs) -> Done {
    let record = fvm.find(&args.name)?;
    let path = fvm.services_log(&record);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Failure::new(format!("cannot open {}: {e}", path.display()), "whose VM is it?")),
    };
    let named = |unit: &str| {
        args.units.is_empty() || args.units.iter().any(|u| u == unit || unit.strip_suffix(".service") == Some(u))
    };
    let mut lines = VecDeque::new();
    for line in text.split(|b| *b == b'\n').filter_map(service_log::parse).filter(|l| named(l.unit.as_str())) {
        if args.lines.is_some_and(|most| lines.len() >= most) {
            lines.pop_front();
        }
        if args.lines != Some(0) {
            lines.push_back(line);
        }
    }
    if lines.is_empty() {
        out.say(&format!("no service of '{}' has printed anything", record.name));
    }
    let time = |(secs, millis): (i64, u32)| Timestamp { secs, nanos: millis * 1_000_000 };
    if out.json() {
        let line = |l: &service_log::Line<'_>| LogLine {
            time: time(l.time),
            unit: l.unit.to_string(),
            text: Bytes(OsStr::from_bytes(l.text).to_owned()),
        };
        out.document(&lines.iter().map(line).collect::<Vec<_>>())?;
    } else {
        out.write(|w| {
            lines
                .iter()
                .try_for_each(|l| writeln!(w, "{} {}: {}", render::time(time(l.time)), l.unit, printable(l.text)))
        })?;
    }
    Ok(exit::DONE)
}
