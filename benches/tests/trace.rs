//! The benchmark of the behaviour log, as far as a test may look: that everything ran, never how long.

use fvm_kit::{binary, is_root};
use serde_json::Value;
use std::process::Command;

fn bench(part: &str, more: &[&str]) -> (String, Value) {
    let json = std::path::PathBuf::from(format!("{}/trace-{part}.json", env!("CARGO_TARGET_TMPDIR")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fvm-bench"));
    command
        .args(["trace", "--rounds", "1", "--only", part])
        .args(more)
        .arg("--fvm")
        .arg(binary())
        .arg("--json")
        .arg(&json);
    let out = command.output().expect("the benchmark can be run");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read(&json).expect("JSON was written");
    (String::from_utf8(out.stdout).expect("text"), serde_json::from_slice(&text).expect("it is JSON"))
}

#[test]
fn root_calls_are_measured_in_each_place_and_sessions_are_put_together() {
    if !is_root("root_calls_are_measured_in_each_place_and_sessions_are_put_together") {
        return;
    }
    bench("calls", &["--as", "root"]);
    let (table, json) = bench("calls", &["--as", "user", "--more"]);
    let rows = json["data"]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 12, "{table}");
    for row in rows {
        let round = row["rounds_ns"][0].as_object().expect("a round");
        let places: Vec<&str> = round.keys().map(String::as_str).collect();
        assert_eq!(places, ["basic", "full", "off", "outside", "outside again", "programs"], "{row}");
        let (name, person) = (row["name"].as_str().expect("a name"), row["person"].as_str().expect("a person"));
        assert!(table.contains(&format!("| {name} | {person} |")), "{name} is not in\n{table}");
    }
}

#[test]
fn root_packages_are_installed_in_each_place() {
    if !is_root("root_packages_are_installed_in_each_place") {
        return;
    }
    let (table, json) = bench("npm", &["--as", "root"]);
    let rows = json["data"]["rows"].as_array().expect("rows");
    match json["unavailable"].as_array().expect("a list").as_slice() {
        [] => assert_eq!(rows[0]["rounds_ns"][0].as_object().map(serde_json::Map::len), Some(6), "{table}"),
        // No npm here: that is said.
        missing => assert!(rows.is_empty() && table.contains(missing[0]["name"].as_str().expect("a name")), "{table}"),
    }
}
