//! What a program pays once it runs: system calls one by one, then jobs; outside, in bubblewrap, in a VM that stays.
//!
//! ```text
//!   person (root, user) × place (outside, again, bubblewrap, fvm) ── fvm-bench-inside calls | time ─► nanoseconds
//!   ratio = in the place / outside, for the same person
//! ```
//!
//! Invariants: the clock runs inside; the VM is one that is kept, its layers on the laboratory's disk; every place works in the
//! same directory, with the same program; `again` is outside once more, and how far it is from outside is the noise.

pub(crate) mod jobs;

use crate::args::Options;
use crate::error::Error;
use crate::lab::{Lab, Person, checked, found};
use crate::machine::Machine;
use crate::report::{Report, Table, Unavailable, ratio};
use crate::stats::{Summary, median, order};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

const VM: &str = "steady";
/// As a program has it that is contained but may write everywhere.
const BWRAP: &[&str] = &[
    "bwrap",
    "--bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
];

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Outside,
    Again,
    Bubblewrap,
    Fvm,
}

const PLACES: [Place; 4] = [Place::Outside, Place::Again, Place::Bubblewrap, Place::Fvm];

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Again => "outside again",
            Self::Bubblewrap => "bubblewrap",
            Self::Fvm => "fvm",
        }
    }
}

/// Somebody somewhere.
type Spot = (usize, Place);

/// Of one operation or job: all that was measured, in nanoseconds.
type Series = BTreeMap<Spot, Vec<f64>>;

struct Bench<'a> {
    lab: &'a Lab,
    spots: Vec<Spot>,
    unavailable: Vec<Unavailable>,
}

/// The benchmark.
///
/// # Errors
/// When the laboratory or a VM cannot be made, or what ran once fails.
pub fn run(options: &Options) -> Result<Report, Error> {
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let mut bench = Bench { lab: &lab, spots: Vec::new(), unavailable: Vec::new() };
    bench.prepare()?;
    let calls = bench.calls(options.rounds)?;
    let jobs = bench.jobs(options.rounds)?;
    let mut notes = vec![bench.noise(&calls, "system calls"), bench.noise(&jobs, "jobs")];
    notes.push(
        "Outside: as root, or as the user where only he was measured; each ratio is to the same person's outside. The VM has \
         no network (`--net none`), is kept, and its layers are on the file system named above."
            .to_owned(),
    );
    let tables = vec![bench.table("operation", "µs", 1e3, &calls), bench.table("job", "ms", 1e6, &jobs)];
    let data = json!({"operations": bench.json(&calls), "jobs": bench.json(&jobs)});
    let unavailable = std::mem::take(&mut bench.unavailable);
    let settings = format!("--rounds {}", options.rounds);
    Ok(Report { bench: options.bench, part: None, settings, machine, tables, notes, unavailable, data })
}

impl Bench<'_> {
    fn prepare(&mut self) -> Result<(), Error> {
        for (index, person) in self.lab.people().iter().enumerate() {
            checked(person.command("mkdir").arg(person.home.join("own")))?;
            jobs::prepare(self.lab, person)?;
            self.lab.fvm(person, ["create", VM, "--net", "none"])?;
            self.lab.fvm(person, ["start", VM])?;
            self.spots.extend(PLACES.map(|place| (index, place)));
        }
        if found("bwrap").is_none() {
            self.spots.retain(|(_, place)| *place != Place::Bubblewrap);
            let reason = "it is not installed: apt-get install bubblewrap".to_owned();
            self.unavailable.push(Unavailable { name: "bubblewrap".to_owned(), reason });
        }
        Ok(())
    }

    fn person(&self, spot: Spot) -> &Person {
        &self.lab.people()[spot.0]
    }

    /// `fvm-bench-inside` at this spot.
    fn inside(&self, spot: Spot, words: &[&str]) -> Command {
        let person = self.person(spot);
        let program = self.lab.program("fvm-bench-inside");
        let mut command = match spot.1 {
            Place::Outside | Place::Again => person.command(&program),
            Place::Bubblewrap => {
                let mut command = person.command(BWRAP[0]);
                command.args(&BWRAP[1..]).arg(&program);
                command
            }
            Place::Fvm => {
                let mut command = self.lab.fvm_command(person, ["exec", "-q", VM, "--"]);
                command.arg(&program);
                command
            }
        };
        command.args(words);
        command
    }

    fn calls(&self, rounds: usize) -> Result<Vec<(String, Series)>, Error> {
        let mut found: Vec<(String, Series)> = Vec::new();
        for round in 0..rounds {
            for index in order(self.spots.len(), round) {
                let spot = self.spots[index];
                let own = self.person(spot).home.join("own");
                let said = checked(&mut self.inside(spot, &["calls", &own.to_string_lossy()]))?;
                for (name, nanos) in said.lines().filter_map(|line| line.split_once('\t')) {
                    let at = found.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                        found.push((name.to_owned(), Series::new()));
                        found.len() - 1
                    });
                    found[at].1.entry(spot).or_default().push(nanos.parse().unwrap_or(f64::NAN));
                }
            }
        }
        Ok(found)
    }

    fn jobs(&mut self, rounds: usize) -> Result<Vec<(String, Series)>, Error> {
        let mut found = Vec::new();
        for job in jobs::ALL {
            // Once to warm up, and to see where it runs at all.
            let mut spots = self.spots.clone();
            let mut refused: BTreeMap<usize, String> = BTreeMap::new();
            spots.retain(|&spot| match refused.get(&spot.0) {
                Some(_) => false,
                None => self.job(spot, job).map_err(|e| refused.insert(spot.0, e.to_string())).is_ok(),
            });
            for (person, reason) in refused {
                spots.retain(|spot| spot.0 != person);
                let name = format!("{}, as {}", job.name, self.lab.people()[person].name);
                self.unavailable.push(Unavailable { name, reason });
            }
            let mut series = Series::new();
            for round in 0..rounds {
                for index in order(spots.len(), round) {
                    let nanos = self.job(spots[index], job)?;
                    series.entry(spots[index]).or_default().push(nanos);
                }
            }
            found.push((job.name.to_owned(), series));
        }
        Ok(found)
    }

    fn job(&self, spot: Spot, job: &jobs::Job) -> Result<f64, Error> {
        let home = self.person(spot).home.to_string_lossy().into_owned();
        if let Some(script) = job.before {
            checked(&mut self.inside(spot, &["time", &home, &jobs::script(script)]))?;
        }
        let said = checked(&mut self.inside(spot, &["time", &home, &jobs::script(job.script)]))?;
        let wrong = || Error::Program { command: job.name.to_owned(), reason: format!("'{said}' is no time") };
        said.trim().parse().map_err(|_| wrong())
    }

    fn table(&self, title: &str, unit: &str, nanos: f64, found: &[(String, Series)]) -> Table {
        let columns: Vec<Spot> = self.spots.iter().copied().filter(|(_, place)| *place >= Place::Bubblewrap).collect();
        let mut table = Table::new(&format!("Each {title}, outside and as ratios to that:"), &[title]);
        table.header.push(format!("outside {unit}"));
        let name = |spot: &Spot| format!("{}, {}", spot.1.name(), self.person(*spot).name);
        table.header.extend(columns.iter().map(name));
        for (name, series) in found {
            let Some(outside) = series.iter().find(|(spot, _)| spot.1 == Place::Outside) else { continue };
            let outside = median(outside.1) / nanos;
            let digits = if outside < 100.0 { 2 } else { 0 };
            let mut row = vec![name.clone(), format!("{outside:.digits$}")];
            row.extend(columns.iter().map(|spot| match (series.get(spot), series.get(&(spot.0, Place::Outside))) {
                (Some(inside), Some(outside)) => ratio(median(inside), Some(median(outside))),
                _ => "–".to_owned(),
            }));
            table.rows.push(row);
        }
        table
    }

    fn noise(&self, found: &[(String, Series)], what: &str) -> String {
        let mut noises = Vec::new();
        for (name, series) in found {
            for person in 0..self.lab.people().len() {
                let of = |place| series.get(&(person, place)).map(|times| median(times));
                if let (Some(one), Some(other)) = (of(Place::Outside), of(Place::Again)) {
                    noises.push(((one - other).abs() / one.min(other) * 100.0, name));
                }
            }
        }
        let middle = median(&noises.iter().map(|(noise, _)| *noise).collect::<Vec<_>>());
        let Some((most, name)) = noises.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)) else {
            return format!("Noise of the {what}: nothing was measured.");
        };
        format!(
            "Noise of the {what}: outside against outside differs by {middle:.0} % (median), at most {most:.0} % ({name})."
        )
    }

    fn json(&self, found: &[(String, Series)]) -> Vec<Value> {
        let times = |series: &Series| -> Vec<Value> {
            let each = series.iter().map(|(spot, nanos)| {
                let (median, mad) = Summary::of(nanos).map_or((None, None), |s| (Some(s.median), Some(s.mad)));
                let (person, place) = (self.person(*spot).name, spot.1.name());
                json!({"person": person, "place": place, "nanos": nanos, "median": median, "mad": mad})
            });
            each.collect()
        };
        found.iter().map(|(name, series)| json!({"name": name, "times": times(series)})).collect()
    }
}
