//! What a benchmark found: as Markdown for people, as JSON for programs.

use crate::args::{Bench, Part};
use crate::machine::Machine;
use serde_json::{Value, json};

/// A table, ready to be printed.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// A sentence above it.
    pub title: String,
    /// Column names.
    pub header: Vec<String>,
    /// As many cells each as the header has.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    #[must_use]
    pub fn new(title: &str, header: &[&str]) -> Self {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        Self { title: title.to_owned(), header, rows: Vec::new() }
    }

    /// In Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(self.header.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}\n\n{}{rule}{rows}", self.title, line(&self.header))
    }
}

/// What could not be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// The candidate.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// All that a benchmark found.
#[derive(Debug)]
pub struct Report {
    /// Which one.
    pub bench: Bench,
    /// Which part of it.
    pub part: Option<Part>,
    /// What it was asked to do: rounds, counts.
    pub settings: String,
    /// What it ran on.
    pub machine: Machine,
    /// For people.
    pub tables: Vec<Table>,
    /// Sentences below the tables: noise first.
    pub notes: Vec<String>,
    /// What is missing.
    pub unavailable: Vec<Unavailable>,
    /// For programs: the benchmark's own part of the JSON.
    pub data: Value,
}

impl Report {
    /// Its name in the book.
    #[must_use]
    pub fn place(&self) -> String {
        let part = self.part.map(|part| format!(" {}", part.name()));
        format!("{}{}", self.bench.name(), part.unwrap_or_default())
    }

    /// In Markdown, without a heading.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text =
            format!("`cargo xtask bench {} {}`, {}\n", self.bench.name(), self.settings, self.machine.line());
        for table in &self.tables {
            text.push('\n');
            text.push_str(&table.markdown());
        }
        for note in &self.notes {
            text.push_str(&format!("\n{note}\n"));
        }
        if !self.unavailable.is_empty() {
            text.push_str("\nNot measured:\n\n");
        }
        for Unavailable { name, reason } in &self.unavailable {
            text.push_str(&format!("- {name}: {reason}\n"));
        }
        text
    }

    /// As JSON; the form is described in `benches/README.md`.
    #[must_use]
    pub fn json(&self) -> String {
        let unavailable: Vec<Value> =
            self.unavailable.iter().map(|u| json!({"name": u.name, "reason": u.reason})).collect();
        let document = json!({
            "format": 1,
            "bench": self.bench.name(),
            "part": self.part.map(Part::name),
            "settings": self.settings,
            "machine": self.machine.json(),
            "notes": self.notes,
            "unavailable": unavailable,
            "data": self.data,
        });
        format!("{document:#}\n")
    }
}

/// A ratio for a table: `–` without a reference.
#[must_use]
pub fn ratio(value: f64, reference: Option<f64>) -> String {
    match reference {
        Some(reference) if reference > 0.0 => format!("{:.2}", value / reference),
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_rule_for_each_column() {
        let mut table = Table::new("Two things:", &["what", "ms"]);
        table.rows.push(vec!["a".into(), "1".into()]);
        assert_eq!(table.markdown(), "Two things:\n\n| what | ms |\n|---|---|\n| a | 1 |\n");
    }

    #[test]
    fn without_a_reference_there_is_no_ratio() {
        assert_eq!((ratio(3.0, Some(2.0)).as_str(), ratio(3.0, None).as_str()), ("1.50", "–"));
    }
}
