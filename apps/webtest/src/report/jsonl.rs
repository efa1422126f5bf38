//! JSON Lines: a row and its outcome each.

use super::{ReportError, Source};
use serde_json::json;
use std::io::Write;

/// Writes it; how many lines.
///
/// # Errors
/// When the database or the output fails.
pub fn jsonl(source: &Source<'_>, out: &mut dyn Write) -> Result<u64, ReportError> {
    let failed = |e: &dyn std::fmt::Display| ReportError::Write { place: "the output".into(), why: e.to_string() };
    source.each(&mut |(row, outcome)| {
        let (seen, missing) = match outcome {
            Ok(outcome) => (Some(outcome), None),
            Err(why) => (None, Some(why)),
        };
        let mut line = serde_json::to_value(&row).map_err(|e| failed(&e))?;
        if let Some(map) = line.as_object_mut() {
            // The row's may be cut.
            if let Some(outcome) = &seen {
                map.insert("reasons".into(), json!(outcome.verdict.reasons));
            }
            map.insert("seen".into(), json!(seen.map(|outcome| outcome.seen)));
            map.insert("missing".into(), json!(missing));
        }
        serde_json::to_writer(&mut *out, &line).map_err(|e| failed(&e))?;
        out.write_all(b"\n").map_err(|e| failed(&e))
    })
}
