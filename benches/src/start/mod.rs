//! How long `/bin/true` takes, from fork to wait: alone, in fvm, at the kernel's limit, in peers.
//!
//! ```text
//!   candidates + peers ── probe: twice, unmeasured ─┬─ failed: listed with the reason
//!                                                   ├─ rounds: each once, in another order each time, when the machine
//!                                                   │  has become quiet ─► medians; once more right behind another
//!                                                   └─ blocks: each ten times in a row ─► what each takes all told
//!   api: fvm-bench-api, a Rust program that starts others, on the host and in VMs of a pool
//! ```
//!
//! A program may answer before it has cleaned up, as fvm does, or leave it to the kernel. What one leaves behind is not to be on another's
//! clock, and a candidate that uses two processors would pay more of it: so there is a pause before each run. In a row, each pays for
//! what it left itself.
//! A pool makes a new VM after each that it gave out: that is waited for before the next run, beside the clock; in a row the
//! clock runs until the pool is full again.
//!
//! Invariants: a run that failed is counted, and its time is not; a ratio is to bubblewrap with the same user and network, and
//! to the limit with the same network.

mod api;
mod candidates;
mod peers;

use crate::args::Options;
use crate::error::Error;
use crate::lab::{Lab, Person, reason};
use crate::machine::Machine;
use crate::measure::{Sample, Surroundings, run as run_once};
use crate::pools::{Pool, Pools};
use crate::report::{Report, Table, Unavailable, ratio};
use crate::stats::{Summary, median, order};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How many runs make a block, and how many blocks there are of each candidate; fewer when fewer rounds were asked for.
const IN_A_ROW: usize = 10;
const BLOCKS: usize = 5;
/// What candidates leave to the kernel and to their helpers is done after so long: a network namespace's end takes one grace period of
/// RCU after the other.
const PAUSE: Duration = Duration::from_millis(12);

/// Which network a candidate's program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    /// The host's.
    Host,
    /// Its own loopback.
    None,
    /// An address of its own.
    Own,
}

impl Net {
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::None => "none",
            Self::Own => "own",
        }
    }
}

/// What a candidate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Compared, and no more.
    Compared,
    /// bubblewrap: others are given as ratios to it.
    Reference,
    /// The same once more: how far the two are apart is the noise.
    Again,
    /// The kernel's limit: the same isolation, nothing else.
    Limit,
}

/// One row of the table.
#[derive(Debug, Clone)]
struct Candidate {
    name: String,
    person: Person,
    net: Net,
    role: Role,
    words: Vec<OsString>,
    dir: PathBuf,
    surroundings: Surroundings,
    /// Emptied after each run, beside the clock.
    scratch: Option<PathBuf>,
    /// Whose VMs it uses.
    pool: Option<Rc<Pool>>,
    /// Why it cannot run here, when that is known without a try.
    lacking: Option<String>,
}

impl Candidate {
    fn new<W: Into<OsString>>(name: &str, person: &Person, net: Net, words: impl IntoIterator<Item = W>) -> Self {
        Self {
            name: name.to_owned(),
            person: person.clone(),
            net,
            role: Role::Compared,
            words: words.into_iter().map(Into::into).collect(),
            dir: "/".into(),
            surroundings: Surroundings::Host,
            scratch: None,
            pool: None,
            lacking: None,
        }
    }

    fn command(&self) -> Command {
        let mut command = self.person.command(&self.words[0]);
        command.args(&self.words[1..]).current_dir(&self.dir);
        command
    }

    /// Milliseconds of each of `len` runs, one right after the other, until its pool is full again; nothing when one failed.
    fn in_a_row(&self, len: usize) -> Result<Option<f64>, Error> {
        let began = Instant::now();
        for _ in 0..len {
            if self.sample()?.code != 0 {
                return Ok(None);
            }
        }
        if let Some(pool) = &self.pool {
            pool.wait()?;
        }
        Ok(Some(began.elapsed().as_secs_f64() * 1e3 / len as f64))
    }

    fn full_name(&self) -> String {
        format!("{}, as {}", self.name, self.person.name)
    }

    /// Runs it once, measured; whatever it left is gone afterwards.
    fn sample(&self) -> Result<Sample, Error> {
        let sample = run_once(&mut self.command(), &self.surroundings)
            .map_err(|e| Error::Program { command: self.name.clone(), reason: e.to_string() });
        if let Some(dir) = &self.scratch {
            std::fs::remove_dir_all(dir).and_then(|()| std::fs::create_dir(dir)).map_err(Error::file("empty", dir))?;
        }
        sample
    }

    /// Runs it twice, which also warms it up; why it cannot run, if so.
    fn probe(&self) -> Option<String> {
        if self.lacking.is_some() {
            return self.lacking.clone();
        }
        for _ in 0..2 {
            match self.sample() {
                Ok(sample) if sample.code == 0 => {}
                Ok(sample) => return Some(self.last_words(sample.code)),
                Err(error) => return Some(error.to_string()),
            }
        }
        None
    }

    /// What it says about its failure: on the host as it is, once more, and listened to.
    fn last_words(&self, code: i32) -> String {
        let mut command = self.command();
        command.stderr(std::process::Stdio::piped());
        match command.output() {
            Ok(out) if !out.status.success() => reason(&out),
            Ok(_) => format!("exit status {code}, but not when it was listened to"),
            Err(error) => error.to_string(),
        }
    }
}

/// A candidate with all that was measured of it.
struct Row {
    candidate: Candidate,
    samples: Vec<Sample>,
    /// Milliseconds right behind another candidate.
    behind: Vec<f64>,
    failures: usize,
    /// Of each block, the milliseconds of a run.
    blocks: Vec<f64>,
}

impl Row {
    /// A run that failed is counted, and its time is not.
    fn take(&mut self, sample: Sample, keep: impl FnOnce(&mut Self, Sample)) {
        if sample.code == 0 {
            keep(self, sample);
        } else {
            self.failures += 1;
        }
    }

    fn times(&self) -> Vec<f64> {
        self.samples.iter().map(Sample::wall_ms).collect()
    }
}

/// The benchmark.
///
/// # Errors
/// When the laboratory cannot be made, or a candidate that ran cannot be started again.
pub fn run(options: &Options) -> Result<Report, Error> {
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let mut all = candidates::all(&lab)?;
    if options.peers {
        all.extend(peers::all(&lab)?);
    }
    let pools = Pools::new(all.iter().filter_map(|candidate| candidate.pool.clone()).collect())?;
    let mut unavailable = Vec::new();
    let mut rows = Vec::new();
    for candidate in all {
        let reason = candidate.probe();
        pools.settle()?;
        match reason {
            Some(reason) => unavailable.push(Unavailable { name: candidate.full_name(), reason }),
            None => {
                rows.push(Row { candidate, samples: Vec::new(), behind: Vec::new(), failures: 0, blocks: Vec::new() })
            }
        }
    }
    for round in 0..options.rounds {
        for index in order(rows.len(), round) {
            std::thread::sleep(PAUSE);
            let sample = rows[index].candidate.sample()?;
            pools.settle()?;
            rows[index].take(sample, |row, sample| row.samples.push(sample));
        }
        for index in order(rows.len(), round) {
            let sample = rows[index].candidate.sample()?;
            pools.settle()?;
            rows[index].take(sample, |row, sample| row.behind.push(sample.wall_ms()));
        }
    }
    for block in 0..BLOCKS.min(options.rounds) {
        for index in order(rows.len(), block) {
            let row = &mut rows[index];
            match row.candidate.in_a_row(IN_A_ROW.min(options.rounds))? {
                Some(each_ms) => row.blocks.push(each_ms),
                None => row.failures += 1,
            }
            pools.settle()?;
        }
    }
    let mut api = Vec::new();
    for person in lab.people() {
        let fits = |c: &&Candidate| c.person == *person && c.net == Net::None;
        let pool = rows.iter().map(|row| &row.candidate).filter(fits).find_map(|c| c.pool.as_deref());
        match pool {
            Some(pool) => api.push((person.clone(), api::run(&lab, person, pool, options.rounds)?)),
            None => unavailable.push(Unavailable {
                name: format!("from a Rust program, as {}", person.name),
                reason: "there is no pool".to_owned(),
            }),
        }
    }
    let settings = format!("--rounds {}{}", options.rounds, if options.peers { " --peers" } else { "" });
    let mut report = report(options, settings, machine, &lab, &rows, unavailable);
    report.tables.extend(api.iter().map(|(person, ways)| api::table(person, ways)));
    report.data["api"] = api.iter().flat_map(|(person, ways)| api::json_of(person, ways)).collect();
    Ok(report)
}

fn report(
    options: &Options,
    settings: String,
    machine: Machine,
    lab: &Lab,
    rows: &[Row],
    unavailable: Vec<Unavailable>,
) -> Report {
    let mut tables = Vec::new();
    let mut notes = Vec::new();
    for person in lab.people() {
        let header = [
            "what runs `/bin/true`",
            "median ms",
            "p95 ms",
            "MAD ms",
            "to bwrap",
            "to the limit",
            "behind another ms",
            "in a row ms",
        ];
        let title = format!("As {}:", if person.is_root() { "root" } else { "an ordinary user" });
        let mut table = Table::new(&title, &header);
        for row in rows.iter().filter(|row| row.candidate.person == *person) {
            table.rows.extend(cells(row, rows));
        }
        tables.push(table);
        if let Some(noise) = noise(person, rows) {
            let name = person.name;
            notes.push(format!("Noise as {name}: bubblewrap against bubblewrap differs by {:.1} %.", noise * 100.0));
        }
    }
    notes.push(format!(
        "The first columns are of a machine that has become quiet, {} ms after the run before. Behind another: right after another \
         candidate, whose remains are still being cleaned up.",
        PAUSE.as_millis()
    ));
    notes.push(
        "In a row: of runs one right after the other, each, all told: what a program, or the kernel for it, does after its \
         answer is in it; with a pool, until it is full again."
            .to_owned(),
    );
    notes.push(
        "To bwrap: with a network namespace of its own if the row has one, otherwise without. To the limit: the same, shifted \
         users, the upper in memory; it needs root, so an ordinary user's rows are compared with what only root can have."
            .to_owned(),
    );
    let found = rows.iter().map(|row| json_of(row, rows)).collect::<Vec<_>>();
    let noises: Vec<Value> =
        lab.people().iter().map(|person| json!({"person": person.name, "ratio": noise(person, rows)})).collect();
    let data = json!({"candidates": found, "noise": noises});
    Report { bench: options.bench, part: None, settings, machine, tables, notes, unavailable, data }
}

fn cells(row: &Row, rows: &[Row]) -> Option<Vec<String>> {
    let summary = Summary::of(&row.times())?;
    let failed = if row.failures > 0 { format!(" (**{} failed**)", row.failures) } else { String::new() };
    Some(vec![
        format!("{}{failed}", row.candidate.name),
        format!("{:.2}", summary.median),
        format!("{:.2}", summary.p95),
        format!("{:.2}", summary.mad),
        ratio(summary.median, to_bwrap(row, rows)),
        ratio(summary.median, to_limit(row, rows)),
        middle(&row.behind),
        middle(&row.blocks),
    ])
}

fn middle(times: &[f64]) -> String {
    if times.is_empty() { "–".to_owned() } else { format!("{:.2}", median(times)) }
}

fn to_bwrap(row: &Row, rows: &[Row]) -> Option<f64> {
    reference(rows, Role::Reference, row.candidate.net, Some(&row.candidate.person))
}

fn to_limit(row: &Row, rows: &[Row]) -> Option<f64> {
    reference(rows, Role::Limit, row.candidate.net, None)
}

/// The median of what plays `role` with this network.
fn reference(rows: &[Row], role: Role, net: Net, person: Option<&Person>) -> Option<f64> {
    // Nobody but fvm gives an address: it is compared with the others' empty network.
    let net = if net == Net::Own { Net::None } else { net };
    let fits = |c: &Candidate| c.role == role && c.net == net && person.is_none_or(|person| c.person == *person);
    let row = rows.iter().find(|row| fits(&row.candidate))?;
    Summary::of(&row.times()).map(|summary| summary.median)
}

fn noise(person: &Person, rows: &[Row]) -> Option<f64> {
    let one = reference(rows, Role::Reference, Net::Host, Some(person))?;
    let other = reference(rows, Role::Again, Net::Host, Some(person))?;
    Some((one - other).abs() / one.min(other))
}

fn json_of(row: &Row, rows: &[Row]) -> Value {
    let Candidate { name, person, net, words, .. } = &row.candidate;
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let times = row.times();
    let summary = Summary::of(&times);
    let over = |reference: Option<f64>| Some(summary?.median / reference?);
    let cpu: Vec<f64> = row.samples.iter().map(|s| s.usage.cpu_us as f64 / 1e3).collect();
    json!({
        "name": name, "person": person.name, "net": net.name(), "command": words,
        "failures": row.failures, "times_ms": times,
        "median_ms": summary.map(|s| s.median), "p95_ms": summary.map(|s| s.p95), "mad_ms": summary.map(|s| s.mad),
        "behind_another_ms": row.behind, "in_a_row_ms": row.blocks,
        "cpu_median_ms": median(&cpu),
        "max_rss_kib": row.samples.iter().map(|s| s.usage.max_rss_kib).max(),
        "ratio_to_bwrap": over(to_bwrap(row, rows)), "ratio_to_limit": over(to_limit(row, rows)),
    })
}
