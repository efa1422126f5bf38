//! CSV: a row each, for spreadsheets. No cell can be a formula.

use super::escape::cell;
use super::{ReportError, Source, time};
use std::io::Write;

const HEAD: [&str; 19] = [
    "site",
    "url",
    "verdict",
    "reasons",
    "ended",
    "final_url",
    "title",
    "tier",
    "browser",
    "attempt",
    "recorded",
    "load_ms",
    "took_ms",
    "cpu_ms",
    "memory_bytes",
    "requests",
    "downloads",
    "worker",
    "screenshot",
];

/// Writes it; how many rows beside the head.
///
/// # Errors
/// When the database or the output fails.
pub fn table(source: &Source<'_>, out: &mut dyn Write) -> Result<u64, ReportError> {
    let failed = |e: &dyn std::fmt::Display| ReportError::Write { place: "the output".into(), why: e.to_string() };
    let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::NonNumeric).from_writer(out);
    writer.write_record(HEAD).map_err(|e| failed(&e))?;
    let mut after = None;
    let mut count = 0;
    loop {
        let rows = source.queue.results(source.run.id, &source.filter, after, super::PAGE)?;
        let Some(last) = rows.last() else { break };
        after = Some((last.rank, last.site));
        for row in rows {
            let ms = |ms: Option<f64>| ms.map_or(String::new(), |ms| format!("{ms:.1}"));
            let reasons: Vec<String> = row.reasons.iter().map(|r| format!("{}: {}", r.rule, r.text)).collect();
            let record: [String; 19] = [
                row.site.to_string(),
                cell(&row.url),
                crate::db::word(row.verdict).into(),
                cell(&reasons.join("; ")),
                row.ended,
                cell(&row.final_url),
                cell(&row.title),
                row.tier,
                cell(&row.browser),
                row.attempt.to_string(),
                time(row.at_ms),
                ms(row.load_ms),
                ms(row.took_ms),
                ms(row.cpu_ms),
                row.memory_bytes.map_or(String::new(), |bytes| bytes.to_string()),
                row.requests.to_string(),
                row.downloads.to_string(),
                cell(&row.worker),
                row.picture.unwrap_or_default(),
            ];
            writer.write_record(&record).map_err(|e| failed(&e))?;
            count += 1;
        }
    }
    writer.flush().map_err(|e| failed(&e))?;
    Ok(count)
}
