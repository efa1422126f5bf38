//! The table of results, for SECURITY.md. Pure.

use crate::stage::Place;
use crate::suite::Outcome;
use crate::verdict::Verdict;
use std::fmt::Write;

/// Markdown: one line for each attack, grouped by row.
#[must_use]
pub fn markdown(outcomes: &[Outcome]) -> String {
    const COLUMNS: [Place; 6] =
        [Place::Root, Place::Rootless, Place::Container, Place::Neighbour, Place::RootlessNeighbour, Place::Outside];
    let mut text = String::from(
        "| row | attack | root | rootless | container | VM to VM, root | VM to VM, rootless | outside |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let mut last = "";
    for outcome in outcomes {
        let row = if outcome.row == last { "" } else { outcome.row };
        last = outcome.row;
        let cell = |place| match outcome.verdict(place) {
            None => "–".to_owned(),
            Some(Verdict::Reached) if outcome.known.is_some() && place != Place::Outside => "reached (known)".into(),
            Some(verdict) => verdict.word().replace('|', "\\|"),
        };
        let cells = COLUMNS.map(cell).join(" | ");
        // Writing to a string cannot fail.
        let _fits = writeln!(text, "| {row} | {} | {cells} |", outcome.what);
    }
    text
}

/// How many were run, reached and absent, in words.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let count = |test: &dyn Fn(&Outcome) -> bool| outcomes.iter().filter(|o| test(o)).count();
    format!(
        "{} attacks: {} reached in a VM, {} of them known; {} absent on this machine, {} without a control on this machine",
        outcomes.len(),
        count(&|o| !o.reached_in().is_empty()),
        count(&|o| !o.reached_in().is_empty() && o.known.is_some()),
        count(&Outcome::is_absent),
        count(&Outcome::is_by_construction),
    )
}

/// What every attack said in every place, for whoever looks into one.
#[must_use]
pub fn reasons(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        for (place, verdict) in Place::ALL.into_iter().filter_map(|place| Some((place, outcome.verdict(place)?))) {
            // Writing to a string cannot fail.
            let _fits = match verdict {
                Verdict::Refused(why) => writeln!(text, "  {} {}: refused: {why}", outcome.id, place.name()),
                other => writeln!(text, "  {} {}: {}", outcome.id, place.name(), other.word()),
            };
        }
    }
    text
}
