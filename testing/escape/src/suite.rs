//! Every attack in every place, and what is wrong with what they said.
//!
//! ```text
//!   compile all ─► for each place: Stage::run ─► Outcome { verdicts by place } ─► faults
//! ```

use crate::attack::{Attack, Row};
use crate::stage::{Place, Stage};
use crate::table::ROWS;
use crate::verdict::Verdict;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one attack came to in all places.
#[derive(Debug)]
pub struct Outcome {
    /// Why it is known to reach the host.
    pub known: Option<&'static str>,
    /// Title of its row.
    pub row: &'static str,
    /// `<row>/<name>`.
    pub id: String,
    /// What it does: the first line of its program.
    pub what: String,
    verdicts: BTreeMap<Place, Verdict>,
}

impl Outcome {
    /// What it came to in `place`; `None` when it is not for there.
    #[must_use]
    pub fn verdict(&self, place: Place) -> Option<&Verdict> {
        self.verdicts.get(&place)
    }

    /// The modes in which it reached the host.
    #[must_use]
    pub fn reached_in(&self) -> Vec<Place> {
        let reached = self.verdicts.iter().filter(|(place, v)| **place != Place::Outside && **v == Verdict::Reached);
        reached.map(|(place, _)| *place).collect()
    }

    /// Whether this machine has nothing that it could attack.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.verdict(Place::Outside), Some(Verdict::Absent(_)))
    }

    /// Whether its control is not run on this machine.
    #[must_use]
    pub fn is_by_construction(&self) -> bool {
        matches!(self.verdict(Place::Outside), Some(Verdict::NotRun(_)))
    }

    /// What is wrong with it, in words.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let fault = |(place, verdict): (&Place, &Verdict)| match (place, verdict) {
            (Place::Outside, Verdict::Reached | Verdict::Absent(_) | Verdict::NotRun(_)) => None,
            (Place::Outside, Verdict::Refused(why)) => Some(format!("proves nothing: refused outside as well: {why}")),
            (_, Verdict::Refused(_) | Verdict::Absent(_)) => None,
            (_, Verdict::Reached) if self.known.is_some() => None,
            (_, Verdict::Reached) => Some(format!("REACHED, in {}", place.name())),
            (_, other) => Some(format!("{} in {}", other.word(), place.name())),
        };
        self.verdicts.iter().filter_map(fault).map(|text| format!("{}: {text}", self.id)).collect()
    }
}

/// Runs all attacks whose id contains `only`. Must be root.
#[must_use]
pub fn run(only: &str) -> Vec<Outcome> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks");
    let chosen: Vec<(&'static Row, &'static Attack)> = ROWS
        .iter()
        .flat_map(|row| row.attacks.iter().map(move |attack| (row, attack)))
        .filter(|(row, attack)| id(row, attack).contains(only))
        .collect();
    // Controls are run as the ordinary user, too: there must be one.
    drop(fvm_kit::Lab::new(fvm_kit::User::Ordinary));
    let workshop = fvm_kit::Lab::new(fvm_kit::User::Root);
    let ids: Vec<String> = chosen.iter().map(|(row, attack)| id(row, attack)).collect();
    compile(&sources, workshop.dir(), &ids);

    let mut outcomes: Vec<Outcome> = chosen
        .iter()
        .zip(&ids)
        .map(|((row, attack), id)| Outcome {
            row: row.title,
            id: id.clone(),
            what: first_line(&sources.join(format!("{id}.c"))),
            known: attack.known,
            verdicts: BTreeMap::new(),
        })
        .collect();
    let results = Mutex::new(BTreeMap::new());
    two_at_a_time(&Place::ALL, |place| {
        let tasks: Vec<_> = ids
            .iter()
            .zip(&chosen)
            .filter(|(_, (row, attack))| attack.is_for(*place) && (row.between || !place.is_between_vms()))
            .map(|(id, (_, attack))| (id.as_str(), *attack))
            .collect();
        let said = Stage::set(*place, workshop.dir()).run(&tasks);
        results.lock().unwrap().insert(*place, said);
    });
    for (place, mut said) in results.into_inner().unwrap() {
        for outcome in &mut outcomes {
            if let Some(verdict) = said.remove(outcome.id.as_str()) {
                outcome.verdicts.insert(place, verdict);
            }
        }
    }
    // What is there outside, and not in the VM, was kept from it.
    for outcome in outcomes.iter_mut().filter(|o| o.verdicts.get(&Place::Outside) == Some(&Verdict::Reached)) {
        for verdict in outcome.verdicts.values_mut() {
            if let Verdict::Absent(why) = verdict
                && (why.starts_with("no ") || why.ends_with("Function not implemented"))
            {
                *verdict = Verdict::Refused(std::mem::take(why));
            }
        }
    }
    outcomes
}

fn id(row: &Row, attack: &Attack) -> String {
    format!("{}/{}", row.dir, attack.name)
}

/// Where the program of an attack lies.
#[must_use]
pub fn program(workshop: &Path, id: &str) -> PathBuf {
    workshop.join(id.replace('/', "."))
}

/// The first comment of a program, in one line.
fn first_line(source: &Path) -> String {
    let text = std::fs::read_to_string(source).unwrap();
    let comment = text.strip_prefix("/*").and_then(|t| t.split("*/").next()).unwrap_or_default();
    comment.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}

/// Compiles all.
fn compile(sources: &Path, workshop: &Path, ids: &[String]) {
    two_at_a_time(ids, |id| {
        let mut cc = Command::new("cc");
        cc.args(["-O0", "-Wall", "-Wextra", "-Wno-format-truncation", "-pthread", "-I"]).arg(sources);
        cc.arg(sources.join(format!("{id}.c"))).arg("-o").arg(program(workshop, id)).arg("-lrt");
        let output = cc.output().expect("cc is there wherever Rust links");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{id} does not compile cleanly:\n{said}");
    });
}

/// On two processors.
fn two_at_a_time<T: Sync>(all: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(one);
                }
            });
        }
    });
}
