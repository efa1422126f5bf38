//! What the behaviour log costs: system calls, a build, an installation, starting; outside, and in VMs with and without it.
//!
//! ```text
//!   person (root, user) × place (outside, again, a VM: no log, programs, basic, full)        every round all of them
//!   ratio = median over the rounds of (in the place / outside, in that round)
//! ```
//!
//! Invariants: the clock of calls and jobs runs inside, in VMs that are kept and have no network; a ratio is of one round, so
//! that what slows a whole round down is in both; a part takes less than three minutes, and `--more` puts sessions together.

mod jobs;
mod series;

use crate::args::{Options, Part};
use crate::error::Error;
use crate::lab::{Lab, Person, checked};
use crate::machine::Machine;
use crate::measure::{self, Surroundings};
use crate::report::{Report, Unavailable};
use crate::stats::order;
use series::{Rows, read_rows};
use std::collections::BTreeMap;
use std::process::Command;

/// What is measured of system calls: each is captured at one level at least, but for the first.
const CALLS: [&str; 6] = [
    "stat of a host file",
    "open and close a host file",
    "open and close an own file",
    "create and remove a file",
    "connect to a port of its own",
    "run /bin/true",
];

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Outside,
    Again,
    Vm(Log),
}

/// How much a VM's log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Log {
    Off,
    Programs,
    Basic,
    Full,
}

const LOGS: [Log; 4] = [Log::Off, Log::Programs, Log::Basic, Log::Full];
const PLACES: [Place; 6] = [
    Place::Outside,
    Place::Again,
    Place::Vm(Log::Off),
    Place::Vm(Log::Programs),
    Place::Vm(Log::Basic),
    Place::Vm(Log::Full),
];

impl Log {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Programs => "programs",
            Self::Basic => "basic",
            Self::Full => "full",
        }
    }
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Again => "outside again",
            Self::Vm(log) => log.name(),
        }
    }
}

struct Bench<'a> {
    lab: &'a Lab,
    people: Vec<&'a Person>,
    unavailable: Vec<Unavailable>,
}

/// The benchmark.
///
/// # Errors
/// When the laboratory or a VM cannot be made, or what ran once fails.
pub fn run(options: &Options) -> Result<Report, Error> {
    let part = options.only.unwrap_or(Part::Calls);
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let is_asked = |person: &&Person| options.person.as_deref().is_none_or(|name| name == person.name);
    let people = lab.people().iter().filter(is_asked).collect();
    let mut bench = Bench { lab: &lab, people, unavailable: Vec::new() };
    let mut rows = match (&options.json, options.more) {
        (Some(path), true) if path.exists() => read_rows(path, part)?,
        _ => Rows::default(),
    };
    match part {
        Part::Calls => bench.calls(options.rounds, &mut rows)?,
        Part::Build => bench.job(&jobs::BUILD, options.rounds, &mut rows)?,
        Part::Npm => bench.job(&jobs::NPM, options.rounds, &mut rows)?,
        Part::Start => bench.starts(100 * options.rounds, &mut rows)?,
    }
    let reference = if part == Part::Start { Log::Off.name() } else { Place::Outside.name() };
    let tables = vec![rows.table(part, reference)];
    let mut notes = rows.noise(reference);
    notes.push(match part {
        Part::Start => {
            "Ratios are to no log. `--rm` writes one only where it is asked for, or the policy says `full`.".to_owned()
        }
        _ => {
            "Ratios are to outside, of the same person in the same round. The VMs have no network (`--net none`), are \
              kept, and their layers are on the file system named above."
                .to_owned()
        }
    });
    let unavailable = std::mem::take(&mut bench.unavailable);
    let settings = format!("--only {}, {}", part.name(), rows.rounds());
    let data = rows.json();
    Ok(Report { bench: options.bench, part: Some(part), settings, machine, tables, notes, unavailable, data })
}

impl Bench<'_> {
    /// VMs that run, one for each level.
    fn begin(&self, person: &Person) -> Result<(), Error> {
        for log in LOGS {
            self.lab.fvm(person, ["create", log.name(), "--net", "none", "--trace", log.name()])?;
            self.lab.fvm(person, ["start", log.name()])?;
        }
        Ok(())
    }

    /// `fvm-bench-inside` there.
    fn inside(&self, person: &Person, place: Place, words: &[&str]) -> Result<String, Error> {
        let program = self.lab.program("fvm-bench-inside");
        let mut command: Command = match place {
            Place::Outside | Place::Again => person.command(&program),
            Place::Vm(log) => {
                let mut command = self.lab.fvm_command(person, ["exec", "-q", log.name(), "--"]);
                command.arg(&program);
                command
            }
        };
        checked(command.args(words))
    }

    fn calls(&self, rounds: usize, rows: &mut Rows) -> Result<(), Error> {
        for person in &self.people {
            self.begin(person)?;
            let own = person.home.join("own").to_string_lossy().into_owned();
            checked(person.command("mkdir").arg(&own))?;
            let words: Vec<&str> = ["calls", &own].into_iter().chain(CALLS).collect();
            for round in 0..rounds {
                let mut found: BTreeMap<String, BTreeMap<&str, f64>> = BTreeMap::new();
                for index in order(PLACES.len(), round) {
                    let said = self.inside(person, PLACES[index], &words)?;
                    for (name, nanos) in said.lines().filter_map(|line| line.split_once('\t')) {
                        let nanos = nanos.parse().unwrap_or(f64::NAN);
                        found.entry(name.to_owned()).or_default().insert(PLACES[index].name(), nanos);
                    }
                }
                // As they are listed, not by name.
                for name in CALLS {
                    found.remove(name).into_iter().for_each(|times| rows.add(name, person.name, times));
                }
            }
        }
        Ok(())
    }

    fn job(&mut self, job: &jobs::Job, rounds: usize, rows: &mut Rows) -> Result<(), Error> {
        for person in self.people.clone() {
            checked(person.command("mkdir").arg(person.home.join("own")))?;
            self.begin(person)?;
            // Once to warm up, and to see whether it runs at all.
            let warm = jobs::prepare(job, person).and_then(|()| self.job_once(job, person, Place::Outside));
            if let Err(error) = warm {
                let name = format!("{}, as {}", job.name, person.name);
                self.unavailable.push(Unavailable { name, reason: error.to_string() });
                continue;
            }
            for round in 0..rounds {
                let mut times = BTreeMap::new();
                for index in order(PLACES.len(), round) {
                    times.insert(PLACES[index].name(), self.job_once(job, person, PLACES[index])?);
                }
                rows.add(job.name, person.name, times);
            }
        }
        Ok(())
    }

    /// Nanoseconds.
    fn job_once(&self, job: &jobs::Job, person: &Person, place: Place) -> Result<f64, Error> {
        let home = person.home.to_string_lossy().into_owned();
        self.inside(person, place, &["time", &home, job.before])?;
        let said = self.inside(person, place, &["time", &home, &jobs::script(job)])?;
        let wrong = || Error::Program { command: job.name.to_owned(), reason: format!("'{said}' is no time") };
        said.trim().parse().map_err(|_| wrong())
    }

    fn starts(&self, rounds: usize, rows: &mut Rows) -> Result<(), Error> {
        const AGAIN: (&str, &str) = ("off again", "off");
        let all: [(&str, &str); 5] =
            [("off", "off"), AGAIN, ("programs", "programs"), ("basic", "basic"), ("full", "full")];
        for person in &self.people {
            for round in 0..rounds {
                let mut times = BTreeMap::new();
                for index in order(all.len(), round) {
                    let (name, level) = all[index];
                    let words = ["run", "--rm", "-q", "--net", "none", "--trace", level, "--", "/bin/true"];
                    let mut command = self.lab.fvm_command(person, words);
                    let sample = measure::run(&mut command, &Surroundings::Host);
                    let sample = sample.map_err(Error::file("run", &self.lab.program("fvm")))?;
                    if sample.code != 0 {
                        let (command, reason) = (crate::lab::shown(&command), format!("exit status {}", sample.code));
                        return Err(Error::Program { command, reason });
                    }
                    times.insert(name, sample.wall_ms() * 1e6);
                }
                rows.add("fvm run --rm -- /bin/true", person.name, times);
            }
        }
        Ok(())
    }
}
