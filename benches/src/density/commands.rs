//! What commands take while very many VMs wait, against none: no command may become slow because others are many.
//!
//! Invariants: each command does all of its work, and leaves nothing; without the VMs it is measured twice, before and after:
//! how far the two are apart is the noise, and what the many left.

use super::Setting;
use crate::error::Error;
use crate::lab::{reason, shown};
use crate::report::{Table, ratio};
use crate::stats::{median, order};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Instant;

/// What is measured: a name, and command lines that follow each other.
const COMMANDS: [(&str, &[&[&str]]); 3] = [
    ("`fvm run --rm --net none -- /bin/true`", &[&["run", "--rm", "--net", "none", "--", "/bin/true"]]),
    ("`fvm create`, `fvm delete`", &[&["create", "beside"], &["delete", "beside"]]),
    ("`fvm list`", &[&["list"]]),
];

/// Times of each of [`COMMANDS`], in milliseconds.
pub(super) type Times = [Vec<f64>; COMMANDS.len()];

/// Measures them `rounds` times, in turns.
pub(super) fn measure(setting: &Setting<'_>, rounds: usize) -> Result<Times, Error> {
    let mut times = Times::default();
    // The first warms up.
    for round in 0..=rounds {
        for index in order(COMMANDS.len(), round) {
            let began = Instant::now();
            for words in COMMANDS[index].1 {
                run(setting, words)?;
            }
            if round > 0 {
                times[index].push(super::ms(began.elapsed()));
            }
        }
    }
    Ok(times)
}

fn run(setting: &Setting<'_>, words: &[&str]) -> Result<(), Error> {
    let mut command = setting.lab.fvm_command(setting.person, words);
    // What it says is read only when it fails.
    command.stderr(Stdio::piped());
    let failed = |reason: String| Error::Program { command: words.join(" "), reason };
    let out = command.spawn().and_then(std::process::Child::wait_with_output).map_err(|e| failed(e.to_string()))?;
    if out.status.success() { Ok(()) } else { Err(Error::Program { command: shown(&command), reason: reason(&out) }) }
}

pub(super) fn table(vms: usize, [before, during, after]: [&Times; 3]) -> Table {
    let with = format!("{vms} wait, ms");
    let header = ["command", "none waits, ms", &with, "ratio", "none once more, ms"];
    let mut table = Table::new("Commands beside them:", &header);
    for (index, (name, _)) in COMMANDS.iter().enumerate() {
        let [before, during, after] = [before, during, after].map(|times| median(&times[index]));
        table.rows.push(vec![
            (*name).to_owned(),
            format!("{before:.2}"),
            format!("{during:.2}"),
            ratio(during, Some(before)),
            format!("{after:.2}"),
        ]);
    }
    table
}

pub(super) fn json_of([before, during, after]: [&Times; 3]) -> Vec<Value> {
    let one = |(index, (name, _)): (usize, &(&str, &[&[&str]]))| {
        json!({
            "name": name, "before_ms": before[index], "during_ms": during[index], "after_ms": after[index],
            "ratio": median(&during[index]) / median(&before[index]),
        })
    };
    COMMANDS.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_them_is_compared_with_before() {
        let times = |ms: f64| Times::default().map(|_| vec![ms, ms, 9.0]);
        let table = table(7, [&times(2.0), &times(3.0), &times(2.5)]);
        assert_eq!(table.header[2], "7 wait, ms");
        assert_eq!(table.rows[2], ["`fvm list`", "2.00", "3.00", "1.50", "2.50"]);
        assert_eq!(json_of([&times(2.0), &times(3.0), &times(2.5)])[0]["ratio"], 1.5);
    }
}
