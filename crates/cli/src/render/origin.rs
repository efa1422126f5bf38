//! Changes by the programs that made them, and events, as text for people.
//!
//! ```text
//!   npm install left-pad (42) ← sh -c ... (40)
//!     A  /home/me/p/node_modules/left-pad/
//!   origin unknown
//!     M  /etc/x
//! ```
//!
//! Invariant: as of all of [`super`]: what a VM chose passes through `printable`.

use super::{findings, line, summary, time};
use fvm::model::event::{Args, Event, Kind, Phase, Program};
use fvm::model::finding::Report;
use fvm::model::path::{Bytes, printable};
use fvm::model::{Change, ChangeSet, Timestamp, VmRecord, VmState};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

/// Longest command line that is shown, in characters.
const COMMAND_MAX: usize = 100;

/// One of several programs that are called the same.
pub fn meant(program: &Program) -> String {
    let exe = printable(program.exe.0.as_bytes());
    format!("{} ({}, {exe})", printable(&program.command()), program.tgid)
}

/// `fvm status --by process`.
pub fn status(
    w: &mut dyn Write,
    record: &VmRecord,
    state: VmState,
    set: &ChangeSet,
    report: Option<&Report>,
) -> io::Result<()> {
    writeln!(w, "{} ({state}), forked {}: {}", record.name, time(record.forked), summary(set.summary()))?;
    let mut groups: Vec<(String, Vec<&Change>)> = Vec::new();
    let mut known: Vec<&Change> = set.changes.iter().filter(|change| change.origin.is_some()).collect();
    // What one program started stands together, in the order in which they began.
    known.sort_by_key(|change| {
        let line = change.origin.as_ref().map(|o| o.tree().map(|p| (p.start_ns, p.tgid)).collect::<Vec<_>>());
        line.map(|mut line| {
            line.reverse();
            line
        })
    });
    for change in known {
        let Some(origin) = &change.origin else { continue };
        let names: Vec<String> = origin.tree().map(program).collect();
        let heading = names.join(" ← ");
        match groups.last_mut() {
            Some((last, changes)) if *last == heading => changes.push(change),
            _ => groups.push((heading, vec![change])),
        }
    }
    let unknown: Vec<&Change> = set.changes.iter().filter(|change| change.origin.is_none()).collect();
    if !unknown.is_empty() {
        groups.push(("origin unknown".into(), unknown));
    }
    for (heading, changes) in groups {
        writeln!(w, "{heading}")?;
        for change in changes {
            writeln!(w, "  {}{}", line(change), findings::risk(report, change))?;
        }
    }
    report.map_or(Ok(()), |report| findings::conclusion(w, record, report))
}

/// `npm install (42)`.
pub fn program(program: &Program) -> String {
    format!("{} ({})", shortened(&printable(&program.command())), program.tgid)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(COMMAND_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// The time of day, to the millisecond.
fn clock(ts: Timestamp) -> String {
    let of_day = ts.secs.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}.{:03}", of_day / 3600, of_day / 60 % 60, of_day % 60, ts.nanos / 1_000_000)
}

/// RFC 3339, to the nanosecond.
pub fn rfc3339(ts: Timestamp) -> String {
    let to_second = time(ts);
    let (date, clock) = to_second.split_once(' ').unwrap_or((&to_second, ""));
    format!("{date}T{}.{:09}Z", clock.trim_end_matches('Z'), ts.nanos)
}

/// One event on one line.
pub fn event(event: &Event) -> String {
    if event.tgid == 0 {
        let what = match event.kind {
            Kind::Lost => format!("... {} events are missing", event.args.count.unwrap_or(0)),
            Kind::Start => {
                let level = event.args.level.map(|level| level.name()).unwrap_or_default();
                let blind = event.args.name.as_ref().map(|name| format!(", not seen: {}", text(name)));
                format!("--- the log begins ({level}{})", blind.unwrap_or_default())
            }
            _ => "--- the log ends".into(),
        };
        return format!("{} {what}", clock(event.ts));
    }
    let exe = event.exe.0.as_bytes();
    let name = printable(exe.rsplit(|b| *b == b'/').next().unwrap_or(exe));
    let done = if event.phase == Phase::Done && event.kind == Kind::Exec { "=" } else { " " };
    let details = details(event.kind, event.phase, &event.args);
    format!("{} {:>6} {name:15} {:12}{done}{details}", clock(event.ts), event.tgid, event.kind.name())
        .trim_end()
        .to_owned()
}

fn text(bytes: &Bytes) -> String {
    printable(bytes.0.as_bytes())
}

fn details(kind: Kind, phase: Phase, args: &Args) -> String {
    let mut parts: Vec<String> = Vec::new();
    match (&args.path, kind, phase) {
        (_, Kind::Exec, Phase::Attempt) if !args.argv.is_empty() => {
            let argv: Vec<Vec<u8>> = args.argv.iter().map(|a| a.0.as_bytes().to_vec()).collect();
            let path = args.path.as_ref().map(text).unwrap_or_default();
            parts.push(format!("{path}: {}", shortened(&printable(&argv.join(&b' ')))));
        }
        (Some(path), ..) => parts.push(text(path)),
        _ => {}
    }
    parts.extend(args.to.as_ref().map(|to| format!("→ {}", text(to))));
    if let Some(family) = &args.family {
        let address = args.address.as_ref().map(text).unwrap_or_default();
        let port = args.port.map(|port| format!(" port {port}")).unwrap_or_default();
        parts.push(format!("{} {address}{port}", printable(family.as_bytes())));
    }
    parts.extend(args.name.as_ref().map(text));
    parts.extend(args.pid.map(|pid| format!("process {pid}")));
    parts.extend(args.signal.map(|signal| format!("signal {signal}")));
    parts.extend(args.code.map(|code| format!("code {code}")));
    match kind {
        Kind::Chmod | Kind::Mkdir | Kind::Mknod => parts.extend(args.mode.map(|mode| format!("mode {mode:o}"))),
        Kind::Ptrace | Kind::Unshare | Kind::Setns => parts.extend(args.flags.map(|flags| format!("{flags:#x}"))),
        _ => {}
    }
    if let (Some(uid), Some(gid)) = (args.uid, args.gid) {
        parts.push(format!("owner {}:{}", uid.cast_signed(), gid.cast_signed()));
    }
    if args.links == Some(0) {
        parts.push("(no file has this name)".into());
    }
    if args.foreign {
        parts.push("(other mounts)".into());
    }
    if args.cut {
        parts.push("...".into());
    }
    parts.retain(|part| !part.trim().is_empty());
    parts.join(" ")
}
