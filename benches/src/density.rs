//! Many VMs at once: what each takes of memory and time, and whether anything stays when they are gone.
//!
//! ```text
//!   census ─► create + start, N times ─► memory, processes ─► delete all ─► wait until no process is left ─► census
//! ```
//!
//! Invariants: it stops early when 70 % of the machine's memory are in use, or a VM does not start, and says so; each VM is
//! parked: started, with a network of its own, and nothing runs in it.

use crate::args::Options;
use crate::census::{Census, families, is_ours, processes, share};
use crate::error::Error;
use crate::lab::{Lab, Person};
use crate::machine::{Machine, meminfo_kib};
use crate::report::{Report, Table, Unavailable, ratio};
use crate::stats::median;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much of the machine's memory may be in use.
const MOST_IN_USE: f64 = 0.7;
/// Over how many VMs a time is the median.
const WINDOW: usize = 10;
/// Lines of /proc/meminfo that say what the memory is used for.
const USES: [&str; 5] = ["Slab", "KernelStack", "PageTables", "Percpu", "AnonPages"];
const GONE_WITHIN: Duration = Duration::from_secs(120);

/// What was measured, in the order of the VMs.
#[derive(Default)]
struct Found {
    create_ms: Vec<f64>,
    start_ms: Vec<f64>,
    rate_per_second: f64,
    memory_kib: f64,
    /// Of [`USES`], in KiB for each VM.
    uses_kib: [f64; USES.len()],
    /// For each role: how many processes, and their shares of memory in KiB, together.
    roles: BTreeMap<String, (usize, u64)>,
    delete_ms: f64,
    gone_ms: f64,
    stopped: Option<String>,
}

impl Found {
    fn vms(&self) -> usize {
        self.start_ms.len()
    }
}

/// The benchmark.
///
/// # Errors
/// When the laboratory cannot be made, no VM starts, or they cannot be deleted.
pub fn run(options: &Options) -> Result<Report, Error> {
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let person = lab.strongest();
    let mut found = Found::default();
    // One that comes and goes first: what is made once and stays (addresses, control groups) is no leftover of the others.
    one(&lab, person, "first")?;
    lab.delete_all(person)?;
    wait_for_the_end(&lab);
    let before = Census::take(&lab.path("bin"));
    fill(&lab, person, options.count, &mut found)?;
    let during = Census::take(&lab.path("bin"));
    empty(&lab, person, &mut found)?;
    let after = Census::take(&lab.path("bin"));
    Ok(report(options, machine, person, &found, [&before, &during, &after]))
}

/// Creates and starts a VM; how long each took, in milliseconds.
fn one(lab: &Lab, person: &Person, name: &str) -> Result<(f64, f64), Error> {
    let began = Instant::now();
    lab.fvm(person, ["create", name, "--net", "own"])?;
    let created = began.elapsed();
    lab.fvm(person, ["start", name])?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok((ms(created), ms(began.elapsed() - created)))
}

fn fill(lab: &Lab, person: &Person, count: usize, found: &mut Found) -> Result<(), Error> {
    let available = || meminfo_kib("MemAvailable");
    let (total, at_first, uses) = (meminfo_kib("MemTotal"), available(), USES.map(meminfo_kib));
    let began = Instant::now();
    for n in 0..count {
        let in_use = 1.0 - available() as f64 / total as f64;
        if in_use > MOST_IN_USE {
            found.stopped = Some(format!("{:.0} % of the memory were in use", in_use * 100.0));
            break;
        }
        match one(lab, person, &format!("vm{n}")) {
            Ok((create, start)) => {
                found.create_ms.push(create);
                found.start_ms.push(start);
            }
            Err(error) if n == 0 => return Err(error),
            Err(error) => {
                found.stopped = Some(error.to_string());
                break;
            }
        }
    }
    let vms = found.vms() as f64;
    found.rate_per_second = vms / began.elapsed().as_secs_f64();
    // What ended meanwhile is given back by RCU, in its own time.
    std::thread::sleep(Duration::from_secs(1));
    found.memory_kib = (at_first as f64 - available() as f64) / vms;
    for (each, (name, first)) in found.uses_kib.iter_mut().zip(USES.into_iter().zip(uses)) {
        *each = (meminfo_kib(name) as f64 - first as f64) / vms;
    }
    let ours: Vec<i32> = processes().into_iter().filter(|pid| is_ours(*pid, &lab.path("bin"))).collect();
    for pid in families(&ours) {
        if let Some((title, kib)) = share(pid) {
            let role = found.roles.entry(role(&title)).or_default();
            *role = (role.0 + 1, role.1 + kib);
        }
    }
    Ok(())
}

/// From a command line's first word: those that are forked and never executed have a title, the keeper is fvm itself.
fn role(title: &str) -> String {
    match title.strip_prefix("fvm: ") {
        Some(role) => role.to_owned(),
        None => match title.rsplit('/').next() {
            Some("fvm") => "keeper".to_owned(),
            Some(other) => other.to_owned(),
            None => "unknown".to_owned(),
        },
    }
}

fn empty(lab: &Lab, person: &Person, found: &mut Found) -> Result<(), Error> {
    let began = Instant::now();
    lab.delete_all(person)?;
    found.delete_ms = began.elapsed().as_secs_f64() * 1e3;
    wait_for_the_end(lab);
    found.gone_ms = began.elapsed().as_secs_f64() * 1e3;
    // Namespaces end behind their processes.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn wait_for_the_end(lab: &Lab) {
    let began = Instant::now();
    let bin = lab.path("bin");
    while processes().into_iter().any(|pid| is_ours(pid, &bin)) && began.elapsed() < GONE_WITHIN {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Medians of a window around the tenth VM, and of the last ones.
fn early_and_late(times: &[f64]) -> (f64, f64) {
    let around = |end: usize| median(&times[end.saturating_sub(WINDOW)..end]);
    (around(times.len().min(10 + WINDOW / 2)), around(times.len()))
}

fn report(options: &Options, machine: Machine, person: &Person, found: &Found, censuses: [&Census; 3]) -> Report {
    let vms = found.vms();
    let mut tables = vec![times(found), memory(found)];
    let [before, during, after] = censuses;
    let header = ["what there is on the machine", "before", "with them", "after", "left over"];
    let mut left = Table::new("Counted before, with all VMs, and after:", &header);
    let mut unavailable = Vec::new();
    for (name, at_first) in &before.0 {
        let of = |census: &Census| census.0.get(name).copied().flatten();
        let (Some(at_first), Some(with), Some(at_last)) = (*at_first, of(during), of(after)) else {
            let reason = "nft(8) is not installed or may not list them".to_owned();
            unavailable.push(Unavailable { name: (*name).to_owned(), reason });
            continue;
        };
        let more = at_last as i64 - at_first as i64;
        left.rows.push(vec![
            (*name).to_owned(),
            at_first.to_string(),
            with.to_string(),
            at_last.to_string(),
            more.to_string(),
        ]);
    }
    tables.push(left);
    let mut notes = vec![format!(
        "As {}: each VM is created and started by `fvm create` and `fvm start`, with a network of its own; nothing runs in it. \
         All but \"processes of this fvm\" counts the whole machine: on one that is not quiet it also shows others' doings.",
        person.name
    )];
    if let Some(why) = &found.stopped {
        notes.push(format!("**Stopped after {vms} of {} VMs: {why}.**", options.count));
    }
    let census = |census: &Census| -> Value { json!(census.0) };
    let roles =
        found.roles.iter().map(|(role, (count, kib))| json!({"role": role, "processes": count, "pss_kib": kib}));
    let data = json!({
        "person": person.name, "asked": options.count, "vms": vms, "stopped": found.stopped,
        "create_ms": found.create_ms, "start_ms": found.start_ms, "rate_per_second": found.rate_per_second,
        "memory_kib_each": found.memory_kib,
        "uses_kib_each": USES.into_iter().zip(found.uses_kib).collect::<BTreeMap<_, _>>(), "roles": roles.collect::<Vec<_>>(),
        "delete_ms": found.delete_ms, "gone_ms": found.gone_ms,
        "census": {"before": census(before), "during": census(during), "after": census(after)},
    });
    let settings = format!("--count {}", options.count);
    Report { bench: options.bench, settings, machine, tables, notes, unavailable, data }
}

fn times(found: &Found) -> Table {
    let vms = found.vms();
    let mut table = Table::new(&format!("{vms} VMs, parked at once:"), &["time", "the 10th", "the last", "ratio"]);
    for (name, times) in [("`fvm create`", &found.create_ms), ("`fvm start`", &found.start_ms)] {
        let (early, late) = early_and_late(times);
        table.rows.push(vec![name.into(), format!("{early:.1} ms"), format!("{late:.1} ms"), ratio(late, Some(early))]);
    }
    let each = |ms: f64| format!("{:.2} ms each", ms / vms as f64);
    let mut row = |name: &str, value: String| table.rows.push(vec![name.into(), value, String::new(), String::new()]);
    row("created and started, one after the other", format!("{:.0} per second", found.rate_per_second));
    row("`fvm delete --force` of all", each(found.delete_ms));
    row("until their last process is gone", each(found.gone_ms));
    table
}

fn memory(found: &Found) -> Table {
    let vms = found.vms() as f64;
    let mut table = Table::new("Memory of each VM:", &["what", "KiB for each VM", "processes for each VM"]);
    let mut row = |name: String, kib: f64, count: String| table.rows.push(vec![name, format!("{kib:.0}"), count]);
    row("all told: what `MemAvailable` lost".into(), found.memory_kib, String::new());
    for (name, kib) in USES.into_iter().zip(found.uses_kib) {
        row(format!("what `{name}` gained"), kib, String::new());
    }
    let (mut all, mut number) = (0.0, 0.0);
    for (role, (count, kib)) in &found.roles {
        let (count, kib) = (*count as f64 / vms, *kib as f64 / vms);
        row(format!("process: {role}"), kib, format!("{count:.2}"));
        (all, number) = (all + kib, number + count);
    }
    row("all processes: their shares (PSS)".into(), all, format!("{number:.2}"));
    row("the rest: the kernel's".into(), found.memory_kib - all, String::new());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_is_compared_with_the_last() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(early_and_late(&times), (10.5, 95.5));
        assert_eq!(early_and_late(&[1.0, 3.0]), (2.0, 2.0));
    }

    #[test]
    fn a_process_is_known_by_its_title() {
        assert_eq!(role("fvm: init"), "init");
        assert_eq!(role("/var/tmp/fvm-bench-1/bin/fvm"), "keeper");
        assert_eq!(role("/usr/bin/pasta"), "pasta");
    }
}
