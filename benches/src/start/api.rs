//! The same from a Rust program: `fvm-bench-api`, run by each person against a pool of his.
//!
//! Invariant: what it prints is understood as a whole, or an error.

use crate::error::Error;
use crate::lab::{Lab, Person, checked};
use crate::pools::Pool;
use crate::report::{Table, ratio};
use crate::stats::Summary;
use serde_json::{Value, json};

/// A round takes a thousandth of a second for each, and where the kernel puts a process makes a third of that: so many for one of the others'.
const ROUNDS: usize = 4;

/// A way to start a program, and how long it took.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    name: String,
    is_plain: bool,
    times_ms: Vec<f64>,
}

/// Runs it for `person`.
///
/// # Errors
/// When it fails, or prints something else.
pub(super) fn run(lab: &Lab, person: &Person, pool: &Pool, rounds: usize) -> Result<Vec<Way>, Error> {
    let (state, run) = lab.state_of(person);
    let mut command = person.command(lab.program("fvm-bench-api"));
    command.arg(state).arg(run).arg(pool.name().as_str()).arg((ROUNDS * rounds).to_string());
    let said = checked(&mut command)?;
    parse(&said).ok_or_else(|| {
        let reason = format!("it printed something else: {}", said.chars().take(80).collect::<String>());
        Error::Program { command: "fvm-bench-api".to_owned(), reason }
    })
}

fn parse(text: &str) -> Option<Vec<Way>> {
    let document: Value = serde_json::from_str(text).ok()?;
    let way = |value: &Value| {
        let times = value["times_ms"].as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>()?;
        Some(Way { name: value["name"].as_str()?.to_owned(), is_plain: value["is_plain"].as_bool()?, times_ms: times })
    };
    document["ways"].as_array()?.iter().map(way).collect()
}

fn plain(ways: &[Way]) -> Option<f64> {
    let way = ways.iter().find(|way| way.is_plain)?;
    Summary::of(&way.times_ms).map(|summary| summary.median)
}

/// For people.
pub(super) fn table(person: &Person, ways: &[Way]) -> Table {
    let whose = if person.is_root() { "root" } else { "an ordinary user" };
    let title = format!("From a Rust program, through the API, as {whose}:");
    let header = ["what runs `/bin/true`", "median ms", "p95 ms", "MAD ms", "to a plain spawn"];
    let mut table = Table::new(&title, &header);
    for way in ways {
        let Some(summary) = Summary::of(&way.times_ms) else { continue };
        table.rows.push(vec![
            way.name.clone(),
            format!("{:.3}", summary.median),
            format!("{:.3}", summary.p95),
            format!("{:.3}", summary.mad),
            ratio(summary.median, plain(ways)),
        ]);
    }
    table
}

/// For programs.
pub(super) fn json_of(person: &Person, ways: &[Way]) -> Vec<Value> {
    let one = |way: &Way| {
        let summary = Summary::of(&way.times_ms);
        json!({
            "name": way.name, "person": person.name, "times_ms": way.times_ms,
            "median_ms": summary.map(|s| s.median), "p95_ms": summary.map(|s| s.p95), "mad_ms": summary.map(|s| s.mad),
            "ratio_to_plain": summary.and_then(|s| Some(s.median / plain(ways)?)),
        })
    };
    ways.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_prints_is_read_as_a_whole_or_not_at_all() {
        let text = r#"{"ways": [{"name": "a", "is_plain": true, "times_ms": [1.0, 3.0], "median_ms": 2.0},
                                {"name": "b", "is_plain": false, "times_ms": [4]}]}"#;
        let ways = parse(text).unwrap();
        assert_eq!(ways[1], Way { name: "b".into(), is_plain: false, times_ms: vec![4.0] });
        assert_eq!(plain(&ways), Some(2.0));
        for bad in ["", "{}", r#"{"ways": [{}]}"#, r#"{"ways": [{"name": "a", "is_plain": true, "times_ms": ["1"]}]}"#]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
