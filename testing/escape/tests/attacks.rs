//! The hostile VM as a suite: see `attacks/README.md`.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_escape::suite::Outcome;
use fvm_escape::table::ROWS;
use fvm_escape::{report, suite};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn root_and_user_no_attack_reaches_the_host() {
    if !fvm_kit::is_root("root_and_user_no_attack_reaches_the_host") {
        return;
    }
    let outcomes = suite::run(&std::env::var("FVM_ESCAPE_ONLY").unwrap_or_default());
    if let Some(file) = std::env::var_os("FVM_ESCAPE_TABLE") {
        std::fs::write(file, report::markdown(&outcomes)).unwrap();
    }
    println!("{}", report::summary(&outcomes));
    if std::env::var_os("FVM_ESCAPE_WHY").is_some() {
        print!("{}", report::reasons(&outcomes));
    }
    for outcome in outcomes.iter().filter(|o| o.is_absent() || o.is_by_construction()) {
        println!("  {}: {}", outcome.id, outcome.verdict(fvm_escape::stage::Place::Outside).unwrap().word());
    }
    let faults: Vec<String> = outcomes.iter().flat_map(Outcome::faults).collect();
    assert!(faults.is_empty(), "{}\n{}", report::summary(&outcomes), faults.join("\n"));
}

#[test]
fn every_program_is_in_the_table_and_there_are_enough() {
    let listed: BTreeSet<String> =
        ROWS.iter().flat_map(|row| row.attacks.iter().map(|a| format!("{}/{}.c", row.dir, a.name))).collect();
    let mut found = BTreeSet::new();
    for dir in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks")).unwrap().flatten() {
        for file in std::fs::read_dir(dir.path()).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|e| e == "c") {
                found.insert(format!("{}/{}", dir.file_name().display(), file.file_name().display()));
            }
        }
    }
    assert_eq!(listed, found);
    let count: usize = ROWS.iter().map(|row| row.attacks.len()).sum();
    assert!(count >= 120, "{count} attacks");
}
