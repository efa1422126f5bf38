//! What was measured, round by round, and what it comes to.
//!
//! ```text
//!   name, person ─► round ─► place ─► nanoseconds ─┬─► table: the reference, ratios of each round, their median and MAD
//!                                                  └─► JSON ◄─► the next session (--more)
//! ```

use crate::args::Part;
use crate::error::Error;
use crate::report::Table;
use crate::stats::{Summary, median};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Of one round: by place, in nanoseconds.
type Round = BTreeMap<String, f64>;

/// One thing, as one person.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: String,
    person: String,
    rounds: Vec<Round>,
}

/// All that was measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows(Vec<Row>);

impl Row {
    /// In each round, `place` over `reference`.
    fn ratios(&self, place: &str, reference: &str) -> Vec<f64> {
        let ratio = |round: &Round| Some(round.get(place)? / round.get(reference)?);
        self.rounds.iter().filter_map(ratio).collect()
    }
}

impl Rows {
    /// Adds a round.
    pub(super) fn add(&mut self, name: &str, person: &str, times: BTreeMap<&str, f64>) {
        let times = times.into_iter().map(|(place, nanos)| (place.to_owned(), nanos)).collect();
        match self.0.iter_mut().find(|row| row.name == name && row.person == person) {
            Some(row) => row.rounds.push(times),
            None => self.0.push(Row { name: name.to_owned(), person: person.to_owned(), rounds: vec![times] }),
        }
    }

    /// How often, in words.
    pub(super) fn rounds(&self) -> String {
        let counts: Vec<usize> = self.0.iter().map(|row| row.rounds.len()).collect();
        match (counts.iter().min(), counts.iter().max()) {
            (Some(least), Some(most)) if least == most => format!("{most} rounds"),
            (Some(least), Some(most)) => format!("{least} to {most} rounds"),
            _ => "nothing".to_owned(),
        }
    }

    pub(super) fn table(&self, part: Part, reference: &str) -> Table {
        let (unit, nanos) = if part == Part::Calls { ("µs", 1e3) } else { ("ms", 1e6) };
        let title = format!("Medians; ratios with their median absolute deviation, to {reference}:");
        let shown: Vec<&str> =
            ["off", "programs", "basic", "full"].into_iter().filter(|place| *place != reference).collect();
        let mut table = Table::new(&title, &["what", "as"]);
        table.header.push(format!("{reference} {unit}"));
        table.header.extend(shown.iter().map(|place| match *place {
            "off" => "VM, no log".to_owned(),
            level => format!("VM, {level}"),
        }));
        for row in &self.0 {
            let of_reference: Vec<f64> = row.rounds.iter().filter_map(|round| round.get(reference).copied()).collect();
            let middle = median(&of_reference) / nanos;
            let digits = if middle < 100.0 { 2 } else { 0 };
            let mut cells = vec![row.name.clone(), row.person.clone(), format!("{middle:.digits$}")];
            cells.extend(shown.iter().map(|place| match Summary::of(&row.ratios(place, reference)) {
                Some(ratio) => format!("{:.2} ± {:.2}", ratio.median, ratio.mad),
                None => "–".to_owned(),
            }));
            table.rows.push(cells);
        }
        table
    }

    /// How far the reference is from itself.
    pub(super) fn noise(&self, reference: &str) -> Vec<String> {
        let again = format!("{reference} again");
        let of = |row: &Row| {
            let ratio = Summary::of(&row.ratios(&again, reference))?;
            Some(format!("{}, {}: {:.2} ± {:.2}", row.name, row.person, ratio.median, ratio.mad))
        };
        let all: Vec<String> = self.0.iter().filter_map(of).collect();
        vec![format!("Noise ({again} to {reference}): {}.", all.join("; "))]
    }

    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| json!({"name": row.name, "person": row.person, "rounds_ns": row.rounds});
        json!({"rows": self.0.iter().map(row).collect::<Vec<_>>()})
    }

    fn of_json(value: &Value) -> Option<Self> {
        let times = |round: &Map<String, Value>| {
            round.iter().map(|(place, nanos)| Some((place.clone(), nanos.as_f64()?))).collect::<Option<Round>>()
        };
        let row = |row: &Value| {
            let text = |key: &str| row[key].as_str().map(str::to_owned);
            let rounds = row["rounds_ns"].as_array()?.iter().map(|round| times(round.as_object()?));
            Some(Row { name: text("name")?, person: text("person")?, rounds: rounds.collect::<Option<_>>()? })
        };
        Some(Self(value["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?))
    }
}

/// What an earlier session found of the same part.
///
/// # Errors
/// When the file cannot be read, or has something else.
pub(super) fn read_rows(path: &Path, part: Part) -> Result<Rows, Error> {
    let text = std::fs::read(path).map_err(Error::file("read", path))?;
    let document: Value = serde_json::from_slice(&text).unwrap_or_default();
    let rows =
        (document["bench"] == "trace" && document["part"] == part.name()).then(|| Rows::of_json(&document["data"]));
    rows.flatten().ok_or_else(|| Error::Missing {
        what: format!("{} has no measurement of 'trace --only {}'", path.display(), part.name()),
        hint: "give another file, or leave --more out".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let mut rows = Rows::default();
        for slow in [1.0, 4.0, 2.0] {
            let times =
                [("outside", 1e6 * slow), ("outside again", 1.1e6 * slow), ("off", 2e6 * slow), ("full", 3e6 * slow)];
            rows.add("a", "root", BTreeMap::from(times));
        }
        rows
    }

    #[test]
    fn a_ratio_is_of_one_round() {
        let table = rows().table(Part::Build, "outside").markdown();
        assert!(table.contains("| a | root | 2.00 | 2.00 ± 0.00 | – | – | 3.00 ± 0.00 |"), "{table}");
        assert_eq!(rows().noise("outside"), ["Noise (outside again to outside): a, root: 1.10 ± 0.00."]);
        assert_eq!(rows().rounds(), "3 rounds");
    }

    #[test]
    fn sessions_are_put_together() {
        let mut again = Rows::of_json(&rows().json()).unwrap();
        assert_eq!(again, rows());
        again.add("a", "user", BTreeMap::from([("outside", 1.0)]));
        again.add("a", "root", BTreeMap::from([("outside", 1.0)]));
        assert_eq!(again.rounds(), "1 to 4 rounds");
        assert_eq!(Rows::of_json(&json!({"rows": [{"name": "a"}]})), None);
    }
}
