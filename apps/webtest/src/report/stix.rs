//! A STIX 2.1 bundle (OASIS standard of 2021): what other tools of threat intelligence read.
//!
//! ```text
//!  per site   url ◄─ malware-analysis (result)         of every verdict but 'error'
//!             indicator [url:value = '...'] ─based-on─► observed-data ─► url, domain-name, file (downloads)   malicious, suspicious
//! ```
//!
//! Identifiers come from what they name, so that the same run gives the same bundle, and two bundles can be put together.

use super::escape::pattern;
use super::{ReportError, Source, time};
use crate::db::Row;
use crate::model::{Kind, Outcome};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use uuid::Uuid;

/// The standard's namespace of identifiers of observables.
const OBSERVABLES: Uuid = Uuid::from_u128(0x00ab_edb4_aa42_466c_9c01_fed2_3315_a9b7);
/// Ours, of everything else.
const OURS: Uuid = Uuid::from_u128(0x6f1d_8b0e_5c0b_5c55_9a53_4f22_c3a1_7d10);

/// Writes it; how many objects.
///
/// # Errors
/// When the database or the output fails.
pub fn stix(source: &Source<'_>, out: &mut dyn Write) -> Result<u64, ReportError> {
    let failed = |e: &dyn std::fmt::Display| ReportError::Write { place: "the output".into(), why: e.to_string() };
    let run = format!("{}:{}", source.run.id, source.run.began_ms);
    let mut writer = Writer { out, seen: HashSet::new(), count: 0 };
    let head = format!("{{\"type\":\"bundle\",\"id\":\"{}\",\"objects\":[", ours("bundle", &run));
    writer.out.write_all(head.as_bytes()).map_err(|e| failed(&e))?;
    let began = time(source.run.began_ms);
    let who = ours("identity", "fvm webtest");
    writer.put(&json!({
        "type": "identity", "spec_version": "2.1", "id": who, "created": "2026-01-01T00:00:00.000Z",
        "modified": "2026-01-01T00:00:00.000Z", "name": "fvm webtest", "identity_class": "system"}))?;
    source.each(&mut |(row, outcome)| site(&mut writer, &run, &began, &who, &row, outcome.ok().as_ref()))?;
    writer.out.write_all(b"\n]}\n").map_err(|e| failed(&e))?;
    Ok(writer.count)
}

fn site(
    writer: &mut Writer<'_>,
    run: &str,
    began: &str,
    who: &str,
    row: &Row,
    outcome: Option<&Outcome>,
) -> Result<(), ReportError> {
    if row.verdict == Kind::Error {
        return Ok(());
    }
    let at = time(row.at_ms);
    let key = |what: &str| format!("{run}:{}:{what}", row.site);
    let mut observed = vec![writer.observable("url", &json!({"value": row.url}))?];
    if let Some(domain) = url::Url::parse(&row.url).ok().and_then(|url| url.domain().map(str::to_owned)) {
        observed.push(writer.observable("domain-name", &json!({"value": domain}))?);
    }
    for download in outcome.into_iter().flat_map(|outcome| &outcome.seen.downloads) {
        if let Some(sha256) = &download.sha256 {
            observed.push(writer.file(sha256, &download.name, download.bytes)?);
        }
    }
    let result = match row.verdict {
        Kind::Malicious => "malicious",
        Kind::Suspicious => "suspicious",
        Kind::Clean => "benign",
        Kind::Unknown | Kind::Error => "unknown",
    };
    let analysis = ours("malware-analysis", &key("analysis"));
    writer.put(&json!({
        "type": "malware-analysis", "spec_version": "2.1", "id": analysis, "created_by_ref": who, "created": at, "modified": at,
        "product": "fvm-webtest", "version": env!("CARGO_PKG_VERSION"), "analysis_started": began, "analysis_ended": at,
        "result": result, "analysis_sco_refs": observed}))?;
    if !matches!(row.verdict, Kind::Malicious | Kind::Suspicious) {
        return Ok(());
    }
    let data = ours("observed-data", &key("data"));
    writer.put(&json!({
        "type": "observed-data", "spec_version": "2.1", "id": data, "created_by_ref": who, "created": at, "modified": at,
        "first_observed": at, "last_observed": at, "number_observed": 1, "object_refs": observed}))?;
    let indicator = ours("indicator", &key("indicator"));
    let kind = if row.verdict == Kind::Malicious { "malicious-activity" } else { "anomalous-activity" };
    let words: Vec<&str> = row.reasons.iter().map(|reason| reason.text.as_str()).collect();
    writer.put(&json!({
        "type": "indicator", "spec_version": "2.1", "id": indicator, "created_by_ref": who, "created": at, "modified": at,
        "name": format!("{result} site"), "description": words.join("; "), "indicator_types": [kind],
        "pattern": format!("[url:value = '{}']", pattern(&row.url)), "pattern_type": "stix", "pattern_version": "2.1",
        "valid_from": at}))?;
    writer.put(&json!({
        "type": "relationship", "spec_version": "2.1", "id": ours("relationship", &key("based-on")), "created_by_ref": who,
        "created": at, "modified": at, "relationship_type": "based-on", "source_ref": indicator, "target_ref": data}))
}

struct Writer<'w> {
    out: &'w mut dyn Write,
    /// Observables that are in the bundle: those of many sites are there once.
    seen: HashSet<Uuid>,
    count: u64,
}

impl Writer<'_> {
    fn put(&mut self, object: &Value) -> Result<(), ReportError> {
        let failed = |e: &dyn std::fmt::Display| ReportError::Write { place: "the output".into(), why: e.to_string() };
        self.out.write_all(if self.count == 0 { b"\n" } else { b",\n" }).map_err(|e| failed(&e))?;
        serde_json::to_writer(&mut *self.out, object).map_err(|e| failed(&e))?;
        self.count += 1;
        Ok(())
    }

    /// Puts an observable whose identifier comes from `properties`, and returns that.
    fn observable(&mut self, kind: &str, properties: &Value) -> Result<String, ReportError> {
        self.observed(kind, properties, properties)
    }

    fn file(&mut self, sha256: &str, name: &str, bytes: u64) -> Result<String, ReportError> {
        let hashes = json!({"hashes": {"SHA-256": sha256}});
        let mut all = hashes.clone();
        if let Some(map) = all.as_object_mut() {
            map.insert("size".into(), json!(bytes));
            if !name.is_empty() {
                map.insert("name".into(), json!(name));
            }
        }
        self.observed("file", &hashes, &all)
    }

    fn observed(&mut self, kind: &str, key: &Value, properties: &Value) -> Result<String, ReportError> {
        // Keys of serde_json's maps are sorted, as canonical JSON wants it.
        let uuid = Uuid::new_v5(&OBSERVABLES, key.to_string().as_bytes());
        let id = format!("{kind}--{uuid}");
        if self.seen.insert(uuid) {
            let mut object = json!({"type": kind, "spec_version": "2.1", "id": id});
            if let (Some(object), Some(more)) = (object.as_object_mut(), properties.as_object()) {
                object.extend(more.clone());
            }
            self.put(&object)?;
        }
        Ok(id)
    }
}

fn ours(kind: &str, of: &str) -> String {
    format!("{kind}--{}", Uuid::new_v5(&OURS, format!("{kind}:{of}").as_bytes()))
}
