//! The acceptance zoo: programs that do what a detection is for, and look-alikes that do what good programs do instead.
//!
//! ```text
//!   programs/<rule>/program.{sh,py}      must be found, by that rule
//!   programs/<rule>/look-alike.{sh,py}   nothing may be found
//!                   a line '# as: root' or '# as: user': only as that one
//! ```
//!
//! None of them harms a host: what they write they write in a VM. They are not to be run outside of one.

use fvm_kit::{Lab, User};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A program of the zoo.
#[derive(Debug, Clone)]
pub struct Program {
    /// The rule that it belongs to.
    pub rule: String,
    /// Whether it does what that is for.
    pub is_bad: bool,
    /// Its file.
    pub file: PathBuf,
    /// As whom it is run.
    pub users: Vec<User>,
}

/// All of them, by rule.
///
/// # Panics
/// When the directory cannot be read: it is part of the source.
#[must_use]
#[expect(clippy::expect_used, reason = "test code: a failure is a failure of the test")]
pub fn programs() -> Vec<Program> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let mut all = Vec::new();
    for rule in std::fs::read_dir(dir).expect("the zoo is there").map(|entry| entry.expect("an entry").path()) {
        for file in std::fs::read_dir(&rule).expect("a rule's programs").map(|entry| entry.expect("an entry").path()) {
            let text = std::fs::read_to_string(&file).expect("a program is text");
            let users = if text.contains("\n# as: root\n") {
                vec![User::Root]
            } else if text.contains("\n# as: user\n") {
                vec![User::Ordinary]
            } else {
                vec![User::Root, User::Ordinary]
            };
            let rule = rule.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let is_bad = file.file_stem().is_some_and(|stem| stem == "program");
            all.push(Program { rule, is_bad, file, users });
        }
    }
    all.sort_by(|a, b| (&a.rule, !a.is_bad).cmp(&(&b.rule, !b.is_bad)));
    all
}

/// What the programs find in their home: documents, a history, a fake key.
pub fn furnish(lab: &Lab) {
    lab.sh(
        "mkdir -p docs .ssh .mozilla/firefox/p
         for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do
             for m in 1 2 3 4 5 6 7 8 9; do echo \"what somebody wrote on page $n, line $m, and wants to keep\"; done > docs/$n.txt
             cat docs/$n.txt docs/$n.txt docs/$n.txt > t; mv t docs/$n.txt
         done
         echo mozilla > docs/mozilla.txt
         echo 'a fake key' > .ssh/id_rsa; echo 'host.test ssh-ed25519 AAAA' > .ssh/known_hosts; chmod 700 .ssh; chmod 600 .ssh/id_rsa
         echo '{}' > .mozilla/firefox/p/logins.json
         echo 'ls' > .bash_history; echo '# nothing' > .bashrc",
    );
}

/// Runs a program in a VM of its own, and returns what is found: the analysis as JSON.
///
/// # Panics
/// When there is no analysis.
#[must_use]
#[expect(clippy::expect_used, reason = "test code: a failure is a failure of the test")]
pub fn judged(lab: &Lab, name: &str, program: &Program, level: &str) -> Value {
    let file = lab.path(program.file.file_name().expect("a name"));
    std::fs::copy(&program.file, &file).expect("the program can be copied");
    let interpreter = if file.extension().is_some_and(|ending| ending == "py") { "python3" } else { "sh" };
    let path = file.display().to_string();
    lab.sh(&format!("chmod 644 {path} 2> /dev/null || true"));
    let args = ["run", "-n", name, "--keep", "--policy", "default", "--net", "none", "--trace", level, "--"];
    let ran = lab.fvm(args.into_iter().chain([interpreter, &path]));
    assert!(ran.code < 124, "{}: {}: {}", program.file.display(), ran.code, ran.err);
    let analysed = lab.fvm(["analyze", name, "--json"]);
    let report = serde_json::from_str(&analysed.out);
    lab.fvm(["delete", name]).expect(0);
    std::fs::remove_file(&file).expect("the copy is there");
    report.unwrap_or_else(|e| panic!("{}: {e}: {}", program.file.display(), analysed.err))
}

/// The rules that found something, each once.
#[must_use]
pub fn rules(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<String> = findings.iter().filter_map(|f| f["id"].as_str().map(str::to_owned)).collect();
    ids.sort();
    ids.dedup();
    ids
}
