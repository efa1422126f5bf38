//! `stats`, `top`: what running VMs use.

use crate::Done;
use crate::args::{Stats, Top};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use fvm::model::exit;
use fvm::{Found, Fvm, Info, Usage};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A running VM.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    id: String,
    #[serde(flatten)]
    usage: Usage,
    /// What its layers take.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::IpAddr>,
    /// In hundredths of one processor, since the look before.
    #[serde(skip)]
    cpu_share: Option<u64>,
}

/// Looks at running VMs: all, or these. `disk`: at their layers too, which takes time.
fn look(fvm: &Fvm, names: &[String], disk: bool) -> Result<Vec<Row>, Failure> {
    let mut found: Vec<(fvm::model::VmRecord, Info)> = Vec::new();
    if names.is_empty() {
        for entry in fvm.list()? {
            if let Found::Vm(record, true) = entry
                && let Some(info) = fvm.look(&record)?.1
            {
                found.push((*record, info));
            }
        }
    } else {
        for name in names {
            let record = fvm.find(name)?;
            let info = fvm.info(&record)?;
            found.push((record, info));
        }
    }
    let row = |(record, info): (fvm::model::VmRecord, Info)| Row {
        usage: fvm.usage(&record, &info),
        disk_bytes: disk.then(|| fvm.disk(&record)),
        address: info.address,
        name: record.name.to_string(),
        id: record.id.to_string(),
        cpu_share: None,
    };
    Ok(found.into_iter().map(row).collect())
}

/// `fvm stats`.
pub fn stats(fvm: &Fvm, out: &Output, args: &Stats) -> Done {
    let rows = look(fvm, &args.names, true)?;
    if out.json() {
        out.document(&rows)?;
    } else {
        out.write(|w| print(w, &rows))?;
    }
    Ok(exit::DONE)
}

/// `fvm top`: until it is interrupted.
pub fn top(fvm: &Fvm, out: &Output, args: &Top) -> Done {
    let on_terminal = std::io::stdout().is_terminal();
    let mut before: HashMap<String, (u64, Instant)> = HashMap::new();
    let mut left = args.count;
    loop {
        let now = Instant::now();
        let mut rows = look(fvm, &[], false)?;
        for row in &mut rows {
            let last = before.insert(row.id.clone(), (row.usage.cpu_us, now));
            row.cpu_share = last.and_then(|(cpu_us, at)| {
                let passed_us = u64::try_from(now.duration_since(at).as_micros()).ok().filter(|us| *us > 0)?;
                Some(row.usage.cpu_us.saturating_sub(cpu_us).saturating_mul(100) / passed_us)
            });
        }
        before.retain(|id, _| rows.iter().any(|row| row.id == *id));
        rows.sort_by(|a, b| b.cpu_share.cmp(&a.cpu_share).then(b.usage.cpu_us.cmp(&a.usage.cpu_us)));
        out.write(|w| {
            if on_terminal {
                // To the top, and nothing below.
                write!(w, "\x1b[H\x1b[J")?;
            }
            print(w, &rows)
        })?;
        if let Some(count) = &mut left {
            *count = count.saturating_sub(1);
            if *count == 0 {
                return Ok(exit::DONE);
            }
        }
        std::thread::sleep(Duration::from_millis(args.delay.ms));
    }
}

fn print(w: &mut dyn Write, rows: &[Row]) -> std::io::Result<()> {
    let heads =
        ["NAME", "CPU", "TIME", "MEMORY", "PROCESSES", "READ", "WRITTEN", "RECEIVED", "SENT", "DISK", "ADDRESS"];
    let mut table = vec![heads.map(String::from)];
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    for row in rows {
        let usage = &row.usage;
        table.push([
            row.name.clone(),
            or_none(row.cpu_share.map(|share| format!("{share}%"))),
            format!("{}.{:02}s", usage.cpu_us / 1_000_000, usage.cpu_us / 10_000 % 100),
            size(usage.memory_bytes),
            usage.processes.to_string(),
            size(usage.read_bytes),
            size(usage.written_bytes),
            or_none(usage.received_bytes.map(size)),
            or_none(usage.sent_bytes.map(size)),
            or_none(row.disk_bytes.map(size)),
            or_none(row.address.map(|address| address.to_string())),
        ]);
    }
    render::table(w, &table)
}

/// Three digits and a unit.
fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_000 && unit < 5 {
        tenths /= 1024;
        unit += 1;
    }
    let unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
    if unit == "B" { format!("{bytes}B") } else { format!("{}.{}{unit}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        let of = super::size;
        assert_eq!([of(0), of(999), of(1536), of(5 << 30)], ["0B", "999B", "1.5KiB", "5.0GiB"]);
        assert!(of(u64::MAX).ends_with("PiB"));
    }
}
