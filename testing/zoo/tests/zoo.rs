//! Every detection finds its program, and nothing is found in the look-alikes; `docs/book/detections.md` is what it should be.
//!
//! `FVM_DETECTIONS_TABLE=1` writes that table anew.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_analyze::rules::ALL;
use fvm_kit::{Lab, User, is_root};
use fvm_zoo::{Program, furnish, judged, programs, rules};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// What is wrong with what was found in a program.
fn complaint(program: &Program, report: &serde_json::Value) -> Option<String> {
    let found = rules(report);
    let gaps = report["gaps"].as_array().map_or(0, Vec::len);
    let name = format!("{}/{}", program.rule, if program.is_bad { "program" } else { "look-alike" });
    // What happens in mounts of its own nobody can place.
    if gaps > 0 && !(program.is_bad && program.rule == "userns-mount") {
        return Some(format!("{name}: not all was seen: {}", report["gaps"]));
    }
    match (program.is_bad, found.contains(&program.rule), found.is_empty()) {
        (true, false, _) => Some(format!("{name}: not found; found: {found:?}")),
        (false, _, false) => Some(format!("{name}: found: {found:?}: {}", report["findings"][0]["what"])),
        _ => None,
    }
}

fn run_all(user: User) -> Vec<String> {
    let lab = Lab::new(user);
    furnish(&lab);
    let all = programs();
    let mine = all.iter().filter(|program| program.users.contains(&user));
    let mut wrong = Vec::new();
    for (n, program) in mine.enumerate() {
        let report = judged(&lab, &format!("z{n}"), program, "full");
        wrong.extend(complaint(program, &report).map(|what| format!("{user:?}: {what}")));
    }
    wrong
}

#[test]
fn root_and_user_every_detection_finds_its_program_and_no_look_alike() {
    if !is_root("root_and_user_every_detection_finds_its_program_and_no_look_alike") {
        return;
    }
    let user = std::thread::spawn(|| run_all(User::Ordinary));
    let wrong = [run_all(User::Root), user.join().unwrap()].concat();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What does not need events of files is found without them; that they are not there is said.
#[test]
fn root_at_programs_what_needs_no_more_is_found() {
    if !is_root("root_at_programs_what_needs_no_more_is_found") {
        return;
    }
    let lab = Lab::new(User::Root);
    furnish(&lab);
    let mut wrong = Vec::new();
    let needs_no_more = |id: &str| ALL.iter().any(|rule| rule.id == id && !rule.level.sees_files());
    let all = programs();
    let wanted = all.iter().filter(|p| p.is_bad && p.users.contains(&User::Root) && needs_no_more(&p.rule));
    for (n, program) in wanted.enumerate() {
        let report = judged(&lab, &format!("p{n}"), program, "programs");
        let found = rules(&report);
        if !found.contains(&program.rule) || !report["gaps"].to_string().contains("level programs") {
            wrong.push(format!("{}: found: {found:?}, not seen: {}", program.rule, report["gaps"]));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_program_and_a_look_alike() {
    let here: BTreeSet<(String, bool)> = programs().into_iter().map(|p| (p.rule, p.is_bad)).collect();
    for rule in ALL.iter().filter(|rule| rule.id != "known-malware") {
        for is_bad in [true, false] {
            assert!(here.contains(&(rule.id.to_owned(), is_bad)), "{} {is_bad}", rule.id);
        }
    }
    assert_eq!(here.len(), 2 * (ALL.len() - 1), "a program of no rule: {here:?}");
}

/// A stand-in for clamd: malware is what has the word in it.
fn stand_in(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut hello = [0; 10];
            stream.read_exact(&mut hello).unwrap();
            let mut all = Vec::new();
            loop {
                let mut size = [0; 4];
                stream.read_exact(&mut size).unwrap();
                let mut chunk = vec![0; u32::from_be_bytes(size) as usize];
                if chunk.is_empty() {
                    break;
                }
                stream.read_exact(&mut chunk).unwrap();
                all.extend(chunk);
            }
            let is_bad = all.windows(7).any(|part| part == b"MALWARE");
            stream.write_all(if is_bad { b"stream: Zoo.Test FOUND\0" } else { b"stream: OK\0" }).unwrap();
        }
    });
}

#[test]
fn what_clamd_knows_is_found_and_a_clamd_that_is_not_there_is_an_error() {
    let lab = Lab::new(User::Root);
    let socket = lab.path("clamd.sock");
    stand_in(&socket);
    let script = format!("cd {}; echo MALWARE > bad; echo text > good", lab.dir().display());
    lab.fvm(["run", "-n", "c", "--keep", "--", "sh", "-c", &script]).expect(0);
    let socket = socket.display().to_string();
    let report = lab.fvm(["analyze", "c", "--json", "--clamd", &socket]).expect(5);
    let report: serde_json::Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(rules(&report), ["known-malware"]);
    assert_eq!(report["findings"][0]["paths"], serde_json::json!([lab.path("bad").display().to_string()]));
    assert_eq!(report["verdict"], "malicious");
    lab.fvm(["analyze", "c", "--clamd", "/nowhere/clamd.sock"]).expect(1);
}

#[test]
fn the_table_of_the_book_is_that_of_the_rules() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/book/detections.md");
    let mut table = String::from(
        "# What is found\n\nMade from `crates/analyze/src/rules.rs` by `FVM_DETECTIONS_TABLE=1 cargo test -p fvm-zoo the_table`. Each of these has \
         a program and a benign\nlook-alike in `testing/zoo`; a test runs both in VMs, as root and as a user.\n\n*Level*: the least \
         level of the behaviour log that shows it; *off*: the changes alone do.\n\n| id | what | severity | ATT&CK | level | why it matters |\n\
         |---|---|---|---|---|---|\n",
    );
    for rule in ALL {
        let (id, title, severity, attack) = (rule.id, rule.title, rule.severity, rule.attack);
        table.push_str(&format!("| `{id}` | {title} | {severity} | {attack} | {} | {} |\n", rule.level, rule.words));
    }
    if std::env::var_os("FVM_DETECTIONS_TABLE").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), table, "FVM_DETECTIONS_TABLE=1 writes it anew");
}
