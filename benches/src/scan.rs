//! What looking at very many changes takes: `fvm status`, `fvm diff`, and find(1) over the same layer.
//!
//! ```text
//!   VM that made N files ─► its upper ◄── find UPPER            names alone
//!                                     ◄── find UPPER -size -1   and each file's inode, printing next to nothing
//!                                     ◄── find UPPER -printf    and printing what it is: the reference
//!                                     ◄── grep -rc              and what is in each file
//!                                     ◄── fvm status [--json] | fvm diff --name-only | --stat | --patch
//! ```
//!
//! Invariant: all read the same layer, in turns, once before the clock starts.

use crate::args::Options;
use crate::error::Error;
use crate::lab::{Lab, Person};
use crate::machine::Machine;
use crate::measure::{Sample, Surroundings, run as run_once};
use crate::report::{Report, Table, ratio};
use crate::stats::{Summary, order};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

const VM: &str = "scanned";
/// Which row the others are compared with.
const REFERENCE: usize = 2;

/// The benchmark.
///
/// # Errors
/// When the laboratory cannot be made, or a command fails.
pub fn run(options: &Options) -> Result<Report, Error> {
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let person = lab.strongest();
    let new = person.home.join("new").to_string_lossy().into_owned();
    let inside = lab.program("fvm-bench-inside").to_string_lossy().into_owned();
    let (count, keep) = (options.count.to_string(), ["run", "--keep", "-q", "--net", "none", "--name", VM, "--"]);
    lab.fvm(person, keep.into_iter().chain([inside.as_str(), "fill", &new, &count, "20"]))?;
    let upper = upper(person)?;
    let find = |words: &[&str]| {
        let mut command = person.command("find");
        command.arg(&upper).args(words);
        command
    };
    let fvm = |words: &[&str]| lab.fvm_command(person, words);
    let mut grep = person.command("grep");
    grep.args(["-rc", "no file holds this"]).arg(&upper);
    let mut rows: [(&str, Command, Vec<Sample>); 9] = [
        ("`find`: names alone", find(&[]), Vec::new()),
        ("`find -size -1`: and each inode", find(&["-size", "-1"]), Vec::new()),
        ("`find -printf`: and what it is", find(&["-printf", "%y %m %U %G %s %T@ %p\\n"]), Vec::new()),
        ("`grep -rc`: and what each file holds", grep, Vec::new()),
        ("**`fvm status`**", fvm(&["status", VM]), Vec::new()),
        ("**`fvm status --json`**", fvm(&["--json", "status", VM]), Vec::new()),
        ("**`fvm diff --name-only`**", fvm(&["diff", "--name-only", VM]), Vec::new()),
        ("**`fvm diff --stat`**", fvm(&["diff", "--stat", VM]), Vec::new()),
        ("**`fvm diff`**", fvm(&["diff", VM]), Vec::new()),
    ];
    for round in 0..=options.rounds {
        for index in order(rows.len(), round) {
            let (name, command, samples) = &mut rows[index];
            let wrong = |reason: String| Error::Program { command: (*name).to_owned(), reason };
            let sample = run_once(command, &Surroundings::Host).map_err(|e| wrong(e.to_string()))?;
            // grep says by 1 that it found nothing.
            if sample.code != 0 && !(*name).contains("grep") {
                return Err(wrong(format!("exit status {}", sample.code)));
            }
            // The first is to warm up.
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let measured: Vec<(&str, Vec<Sample>)> = rows.into_iter().map(|(name, _, samples)| (name, samples)).collect();
    let header = ["what", "median ms", "range ms", "ratio to find", "peak memory MiB", "ratio to find"];
    let mut table = Table::new(&format!("{count} created files:"), &header);
    let reference = (median_ms(&measured[REFERENCE].1), peak_kib(&measured[REFERENCE].1));
    table.rows = measured.iter().filter_map(|(name, samples)| cells(name, samples, reference)).collect();
    let settings = format!("--rounds {} --count {count}", options.rounds);
    let data = json!({"files": options.count, "rows": measured.iter().map(json_of).collect::<Vec<_>>()});
    let notes = vec!["The ratios are to `find -printf`, which looks at each inode and prints a line. `fvm diff` and `--stat` read every file too, as grep does.".to_owned()];
    let (tables, unavailable) = (vec![table], Vec::new());
    Ok(Report { bench: options.bench, part: None, settings, machine, tables, notes, unavailable, data })
}

/// The upper of the layer that is not empty.
fn upper(person: &Person) -> Result<PathBuf, Error> {
    let vms = person.home.join("state/vms");
    let below = |dir: PathBuf| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).collect()
    };
    let layers = below(vms.clone()).into_iter().flat_map(|vm| below(vm.join("layers")));
    let mut uppers = layers.map(|layer| layer.join("upper")).filter(|upper| !below(upper.clone()).is_empty());
    let hint = "did the layout of the state change? docs/spec/state.md".to_owned();
    uppers.next().ok_or(Error::Missing { what: format!("no layer below {}", vms.display()), hint })
}

fn times(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(Sample::wall_ms).collect()
}

fn median_ms(samples: &[Sample]) -> Option<f64> {
    Summary::of(&times(samples)).map(|summary| summary.median)
}

fn peak_kib(samples: &[Sample]) -> Option<f64> {
    samples.iter().map(|sample| sample.usage.max_rss_kib as f64).reduce(f64::max)
}

fn cells(name: &str, samples: &[Sample], reference: (Option<f64>, Option<f64>)) -> Option<Vec<String>> {
    let Summary { median, min, max, .. } = Summary::of(&times(samples))?;
    let peak = peak_kib(samples)?;
    Some(vec![
        name.to_owned(),
        format!("{median:.0}"),
        format!("{min:.0}–{max:.0}"),
        ratio(median, reference.0),
        format!("{:.1}", peak / 1024.0),
        ratio(peak, reference.1),
    ])
}

fn json_of((name, samples): &(&str, Vec<Sample>)) -> Value {
    let cpu: Vec<f64> = samples.iter().map(|sample| sample.usage.cpu_us as f64 / 1e3).collect();
    json!({"name": name, "times_ms": times(samples), "cpu_ms": cpu, "peak_rss_kib": peak_kib(samples)})
}
