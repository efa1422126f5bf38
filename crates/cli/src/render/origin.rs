//! Changes by the programs that made them, and events, as text for people.
//!
//! ```text
//!   npm install left-pad (42) ← sh -c ... (40), 2026-01-01 12:03:04 to 12:03:09Z
//!     A  /home/me/p/node_modules/left-pad/
//!   origin unknown
//!     M  /etc/x
//! ```
//!
//! Invariant: as of all of [`super`]: what a VM chose passes through `printable`.

use super::{findings, line, summary, time};
use fvm::model::event::{Args, Event, Kind, Phase, ProcessKey, Program};
use fvm::model::finding::Report;
use fvm::model::path::{Bytes, printable};
use fvm::model::{Change, ChangeSet, Timestamp, VmRecord, VmState};
use fvm::{Maker, Origins};
use std::collections::HashMap;
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
    origins: Option<&Origins>,
    report: Option<&Report>,
) -> io::Result<()> {
    writeln!(w, "{} ({state}), forked {}: {}", record.name, time(record.begun()), summary(set.summary()))?;
    for cluster in clusters(set, origins) {
        let heading = match (&cluster.times, cluster.changes.first()) {
            (Some(times), Some(first)) => {
                let origin = origins.and_then(|origins| origins.of(first));
                let names: Vec<String> = origin.iter().flat_map(|origin| origin.tree().map(program)).collect();
                format!("{}, {}", names.join(" ← "), span(times))
            }
            _ => "origin unknown".into(),
        };
        writeln!(w, "{heading}")?;
        for change in &cluster.changes {
            writeln!(w, "  {}{}", line(change), findings::risk(report, change))?;
        }
    }
    report.map_or(Ok(()), |report| findings::conclusion(w, record, report))
}

/// So long a program makes no change between two clusters of its, in seconds.
const PAUSE_S: i64 = 60;

/// What one program changed in one go.
struct Cluster<'s> {
    /// From when till when; `None`: nobody knows who.
    times: Option<(Timestamp, Timestamp)>,
    changes: Vec<&'s Change>,
}

/// The changes, by who made them and when: what one program started stands together, in the order in which they began; what it did
/// after a pause stands by itself.
fn clusters<'s>(set: &'s ChangeSet, origins: Option<&Origins>) -> Vec<Cluster<'s>> {
    let maker = |change: &Change| origins.and_then(|origins| origins.maker(change));
    let mut known: Vec<(Maker, &Change)> = Vec::new();
    let mut unknown = Vec::new();
    for change in &set.changes {
        match maker(change) {
            Some(maker) => known.push((maker, change)),
            None => unknown.push(change),
        }
    }
    let mut orders: HashMap<ProcessKey, Vec<(u64, u32)>> = HashMap::new();
    for (maker, _) in &known {
        orders.entry(maker.key).or_insert_with(|| origins.map(|o| o.order(maker.key)).unwrap_or_default());
    }
    known.sort_by(|(a, _), (b, _)| (&orders[&a.key], a.era, a.at).cmp(&(&orders[&b.key], b.era, b.at)));
    let mut clusters: Vec<Cluster<'_>> = Vec::new();
    let mut last: Option<Maker> = None;
    for (maker, change) in known {
        let goes_on = last.is_some_and(|last| {
            (last.key, last.era) == (maker.key, maker.era) && maker.at.secs - last.at.secs <= PAUSE_S
        });
        match clusters.last_mut().filter(|_| goes_on) {
            Some(Cluster { times: Some((_, until)), changes }) => {
                *until = maker.at;
                changes.push(change);
            }
            _ => clusters.push(Cluster { times: Some((maker.at, maker.at)), changes: vec![change] }),
        }
        last = Some(maker);
    }
    clusters.iter_mut().for_each(|cluster| cluster.changes.sort_by(|a, b| a.path.cmp(&b.path)));
    if !unknown.is_empty() {
        clusters.push(Cluster { times: None, changes: unknown });
    }
    clusters
}

/// `2026-01-01 12:03:04`, or till when.
fn span((from, until): &(Timestamp, Timestamp)) -> String {
    let (from, until) = (time(*from), time(*until));
    let end = until.split_once(' ').filter(|(day, _)| from.starts_with(day)).map_or(until.as_str(), |(_, clock)| clock);
    if from == until { from } else { format!("{} to {end}", from.trim_end_matches('Z')) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use fvm::model::event::{Src, Trust};
    use fvm::model::{ChangeKind, FileType, VmPath};
    use std::path::PathBuf;

    fn event(seq: u64, secs: i64, (tgid, ppid): (u32, u32), kind: Kind, args: Args) -> Event {
        Event {
            ts: Timestamp { secs, nanos: 0 },
            vm: "vm".into(),
            seq,
            tgid,
            tid: tgid,
            ppid,
            sid: tgid,
            start_ns: u64::from(tgid) * 1000,
            uid: 0,
            exe: Bytes(if tgid == 0 { "" } else { "/bin/sh" }.into()),
            comm: Bytes("sh".into()),
            kind,
            args,
            src: Src::Seccomp,
            trust: Trust::Usermem,
            phase: Phase::Attempt,
        }
    }

    fn created(path: &str) -> Change {
        Change {
            path: VmPath::new(PathBuf::from(path)).unwrap(),
            kind: ChangeKind::Created,
            file_type: FileType::File,
            base: None,
            layer: 0,
            before: None,
            after: None,
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        }
    }

    #[test]
    fn what_a_program_did_after_a_pause_stands_by_itself() {
        let mut origins = Origins::default();
        let open = |seq, secs, who, path: &str| {
            event(seq, secs, who, Kind::Open, Args { path: Some(Bytes(path.into())), ..Args::default() })
        };
        let level = Some(fvm::model::Level::Basic);
        origins.add(&event(1, 0, (0, 0), Kind::Start, Args { level, ..Args::default() }));
        for event in [
            open(2, 1000, (5, 0), "/c"),
            open(3, 1030, (5, 0), "/a"),
            open(4, 1040, (6, 5), "/child"),
            open(5, 1085, (5, 0), "/b"),
            open(6, 1200, (5, 0), "/late"),
        ] {
            origins.add(&event);
        }
        let changes = ["/a", "/b", "/c", "/child", "/late", "/nobody"].map(created).to_vec();
        let set = ChangeSet { changes, ..ChangeSet::default() };
        let paths = |cluster: &Cluster<'_>| cluster.changes.iter().map(|c| c.path.to_string()).collect::<Vec<_>>();
        let found = clusters(&set, Some(&origins));
        let all: Vec<Vec<String>> = found.iter().map(paths).collect();
        assert_eq!(all, [&["/a", "/b", "/c"][..], &["/late"], &["/child"], &["/nobody"]]);
        let (from, until) = found[0].times.unwrap();
        assert_eq!((from.secs, until.secs, found[3].times), (1000, 1085, None));
        assert_eq!(span(&(from, until)), "1970-01-01 00:16:40 to 00:18:05Z");
        assert_eq!(clusters(&set, None).len(), 1);
    }
}
