//! The benchmark of starting, as far as a test may look: that everything ran, never how long.

use fvm_kit::{binary, is_root};
use serde_json::Value;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One after the other: they may make a user, and remove him.
static ALONE: Mutex<()> = Mutex::new(());

fn bench(words: &[&str]) -> (String, Value) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let json = std::path::PathBuf::from(format!("{}/{}.json", env!("CARGO_TARGET_TMPDIR"), words[0]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fvm-bench"));
    command.args(words).arg("--fvm").arg(binary()).arg("--json").arg(&json);
    let out = command.output().expect("the benchmark can be run");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read(&json).expect("JSON was written");
    (String::from_utf8(out.stdout).expect("text"), serde_json::from_slice(&text).expect("it is JSON"))
}

#[test]
fn root_every_way_to_start_ends_with_status_0_and_is_in_the_table() {
    if !is_root("root_every_way_to_start_ends_with_status_0_and_is_in_the_table") {
        return;
    }
    let (table, json) = bench(&["start", "--rounds", "2"]);
    let candidates = json["data"]["candidates"].as_array().expect("candidates");
    for candidate in candidates {
        let name = candidate["name"].as_str().expect("a name");
        assert_eq!(candidate["failures"], 0, "{name}: {candidate}");
        assert_eq!(candidate["times_ms"].as_array().map(Vec::len), Some(2), "{name}");
        assert!(table.contains(&format!("| {name} |")), "{name} is not in\n{table}");
    }
    // What needs nothing that is not on every machine: the others may be missing, but then are listed with the reason.
    let listed = json["unavailable"].as_array().expect("a list");
    for (name, person) in [
        ("plain `/bin/true`", "root"),
        ("plain `/bin/true`", "user"),
        ("**fvm run --rm** --net none", "root"),
        ("**fvm run --rm** --net none", "user"),
        ("**fvm run --pool**, no network", "root"),
        ("**fvm run --pool**, no network", "user"),
        ("**fvm run --pool**, host's network", "user"),
        ("**limit: the kernel's part alone**, no network", "root"),
        ("**limit: the kernel's part alone**, host's network", "root"),
    ] {
        assert!(candidates.iter().any(|c| c["name"] == name && c["person"] == person), "{name}, {person}: {listed:?}");
    }
    for missing in listed {
        let name = missing["name"].as_str().expect("a name");
        assert!(missing["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{name} has no reason");
        assert!(table.contains(name), "{name} is silently left out of\n{table}");
    }
    let api = json["data"]["api"].as_array().expect("a list");
    for person in ["root", "user"] {
        let ways: Vec<&Value> = api.iter().filter(|way| way["person"] == person).collect();
        assert_eq!(ways.len(), 4, "{person}: {api:?}");
        for way in ways {
            let name = way["name"].as_str().expect("a name");
            // Four times the rounds, which are two.
            assert_eq!(way["times_ms"].as_array().map(Vec::len), Some(8), "{name}");
            assert!(way["ratio_to_plain"].is_number(), "{name}");
            assert!(table.contains(&format!("| {name} |")), "{name} is not in\n{table}");
        }
    }
}

#[test]
fn root_a_few_vms_leave_nothing_behind() {
    if !is_root("root_a_few_vms_leave_nothing_behind") {
        return;
    }
    let (table, json) = bench(&["density", "--count", "12", "--rounds", "1"]);
    let data = &json["data"];
    let [pool, singly] = [&data["pool"], &data["one_by_one"]];
    assert_eq!((&pool["vms"], &pool["stopped"]), (&Value::from(12), &Value::Null), "{table}");
    assert_eq!((&singly["vms"], &singly["stopped"]), (&Value::from(1), &Value::Null), "{table}");
    let series = pool["series"].as_array().expect("a series");
    assert!(series.windows(2).all(|two| two[0][1].as_u64() <= two[1][1].as_u64()), "{series:?}");
    assert!(series.last().is_some_and(|last| last[1].as_u64() >= Some(12)), "{series:?}");
    let ours = |when: &str| data["census"][when]["processes of this fvm"].as_u64();
    assert_eq!((ours("before"), ours("after")), (Some(0), Some(0)), "{table}");
    // One keeper for all, and an init for each.
    assert!(ours("during").is_some_and(|count| count >= 13), "{table}");
    let roles = pool["roles"].as_array().expect("roles");
    assert!(roles.iter().any(|role| role["role"] == "keeper" && role["processes"] == 1), "{roles:?}");
    assert!(roles.iter().any(|role| role["role"] == "init" && role["processes"] == 12), "{roles:?}");
    for command in data["commands"].as_array().expect("commands") {
        assert!(
            ["before_ms", "during_ms", "after_ms"].iter().all(|when| command[when].as_array().map(Vec::len) == Some(1))
        );
    }
}

#[test]
fn root_the_guard_is_killed_and_everything_goes_on() {
    if !is_root("root_the_guard_is_killed_and_everything_goes_on") {
        return;
    }
    let (table, json) = bench(&["guard", "--rounds", "8", "--count", "3"]);
    let missing = json["unavailable"].as_array().expect("a list");
    if let Some(why) = missing.first() {
        eprintln!("skipped: {}: {}", why["name"], why["reason"]);
        return;
    }
    let data = &json["data"];
    assert_eq!(data["cost"].as_array().map(Vec::len), Some(3), "{table}");
    let kills = data["kills"].as_array().expect("rows");
    assert_eq!(kills.len(), 4, "{table}");
    for row in kills {
        assert!(row["runs"].as_u64() > Some(0), "{row}");
    }
    assert!(data["longest_ms"].as_f64() > Some(0.0));
}
