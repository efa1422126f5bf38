//! What the guard costs, and the longest time that anything took while it was killed again and again.
//!
//! ```text
//!   cost      blocks, in turns:  no guard │ guard │ no guard (noise) │ guard ...   exec of an unmarked program, open of files
//!   kills     four threads, from fork to wait:  marked program ×2, unmarked ×2
//!             meanwhile SIGKILL to the worker, `--count` times, somewhere within its events; the supervisor starts it again
//! ```
//!
//! Invariants: only files of the laboratory are marked; everything that runs is waited for, and the longest is what counts;
//! whoever printed a VM's name ran in it, whoever failed without a word ran on the host (`printenv FVM`) or was refused.

use crate::args::Options;
use crate::error::Error;
use crate::lab::{Lab, Person};
use crate::machine::Machine;
use crate::measure::{Surroundings, run as run_once};
use crate::report::{Report, Table, Unavailable, ratio};
use crate::stats::Summary;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Blocks of each kind.
const BLOCKS: usize = 4;
/// The guard is there within this.
const THERE_WITHIN: Duration = Duration::from_secs(30);
/// A worker is killed within so long after it is there.
const WITHIN_US: u64 = 30_000;
/// Marked files: a program, and two that are only read.
const WATCHED: u64 = 3;
const MADE: &str = "cp /usr/bin/printenv m; echo text > doc; printf '#!/bin/sh\\nexit 0\\n' > script";

/// A guard of the laboratory.
struct Guard {
    supervisor: Child,
    status: PathBuf,
}

impl Guard {
    fn start(lab: &Lab, person: &Person) -> Result<Self, Error> {
        let mut command = lab.fvm_command(person, ["guard", "run", "-q"]);
        let failed = |reason: String| Error::Program { command: "fvm guard run".into(), reason };
        let supervisor = command.spawn().map_err(|e| failed(e.to_string()))?;
        let guard = Self { supervisor, status: lab.state_of(person).0.join("guard/status.json") };
        let stale = guard.worker();
        guard.wait(stale).map(|_| guard).map_err(failed)
    }

    fn worker(&self) -> Option<(i32, u64)> {
        let status: Value = serde_json::from_slice(&std::fs::read(&self.status).ok()?).ok()?;
        Some((i32::try_from(status["worker"].as_i64()?).ok()?, status["watched"].as_u64()?))
    }

    /// Its worker, another one than `not`, when it watches all there is.
    fn wait(&self, not: Option<(i32, u64)>) -> Result<i32, String> {
        let began = Instant::now();
        while began.elapsed() < THERE_WITHIN {
            match self.worker() {
                Some((pid, watched)) if watched >= WATCHED && not.is_none_or(|(old, _)| old != pid) => return Ok(pid),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        Err("it does not watch what is marked".into())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _gone = fvm_sys::process::kill(self.supervisor.id().cast_signed(), 15);
        let _gone = self.supervisor.wait();
    }
}

/// How a thread's programs ended.
#[derive(Debug, Default)]
struct Runs {
    times_ms: Vec<f64>,
    in_vm: usize,
    otherwise: usize,
    failed: usize,
}

/// The benchmark.
///
/// # Errors
/// When the laboratory cannot be made, or a command fails.
pub fn run(options: &Options) -> Result<Report, Error> {
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let settings = format!("--rounds {} --count {}", options.rounds, options.count);
    let person = lab.strongest();
    let mut report = Report {
        bench: options.bench,
        part: None,
        settings,
        machine,
        tables: Vec::new(),
        notes: Vec::new(),
        unavailable: Vec::new(),
        data: Value::Null,
    };
    let probe = if person.is_root() { probe(lab.dir()) } else { Err("it needs root".into()) };
    if let Err(reason) = probe {
        report.unavailable.push(Unavailable { name: "the guard".into(), reason });
        return Ok(report);
    }
    let script = format!("cd {}; {MADE}", person.home.display());
    let run = ["run", "--keep", "-q", "--net", "none", "--name", "made", "--policy", "untrusted", "--", "sh", "-ec"];
    lab.fvm(person, run.into_iter().chain([script.as_str()]))?;
    lab.fvm(person, ["commit", "made"])?;
    let (cost, cost_data, noise) = cost(options, &lab, person)?;
    let (kills, kills_data, longest) = kills(options, &lab, person)?;
    report.tables = vec![cost, kills];
    report.notes = vec![
        format!("Noise: without a guard, the second half of the blocks took {noise:.2} of the first."),
        format!("While the guard was killed {} times, the longest of all took {longest:.0} ms.", options.count),
    ];
    report.data = json!({"cost": cost_data, "kills": kills_data, "longest_ms": longest});
    Ok(report)
}

fn probe(dir: &Path) -> Result<(), String> {
    use fvm_sys::fanotify::{Group, Kinds};
    let file = dir.join("probe");
    let made = std::fs::write(&file, "").map_err(|e| e.to_string());
    let asked = Group::new().and_then(|group| group.mark(&file, Kinds::Exec));
    made.and(asked.map_err(|e| format!("this kernel does not ask before a file is executed: {e}")))
}

/// What a program pays that is not marked, and who reads what is.
fn cost(options: &Options, lab: &Lab, person: &Person) -> Result<(Table, Value, f64), Error> {
    let mut copy = Command::new("cp");
    crate::lab::checked(copy.args(["/bin/true"]).arg(person.home.join("free")))?;
    let (free, doc) = (person.home.join("free"), person.home.join("doc"));
    let reader = |file: PathBuf| {
        let mut command = person.command("/bin/cat");
        command.arg(file);
        command
    };
    let own = person.home.join("own");
    std::fs::write(&own, "text\n").map_err(Error::file("write", &own))?;
    let mut rows: [(&str, Command, [Vec<f64>; 2]); 3] = [
        ("exec of an unmarked program", person.command(&free), Default::default()),
        ("`cat` of an unmarked file", reader(own), Default::default()),
        ("`cat` of a marked file", reader(doc), Default::default()),
    ];
    let each = options.rounds.div_ceil(BLOCKS).max(1);
    for block in 0..BLOCKS * 2 {
        let guarded = block % 2;
        let _guard = if guarded == 1 { Some(Guard::start(lab, person)?) } else { None };
        for round in 0..=each {
            for (name, command, times) in &mut rows {
                let wrong = |reason: String| Error::Program { command: (*name).to_owned(), reason };
                let sample = run_once(command, &Surroundings::Host).map_err(|e| wrong(e.to_string()))?;
                if sample.code != 0 {
                    return Err(wrong(format!("exit status {}", sample.code)));
                }
                // The first is to warm up.
                if round > 0 {
                    times[guarded].push(sample.wall_ms());
                }
            }
        }
    }
    let mut table = Table::new(
        "From fork to wait, without and with a guard:",
        &["what", "without ms", "with ms", "ratio", "p95 with ms"],
    );
    let mut data = Vec::new();
    for (name, _, [without, with]) in &rows {
        let (Some(without), Some(with)) = (Summary::of(without), Summary::of(with)) else { continue };
        table.rows.push(vec![
            (*name).to_owned(),
            format!("{:.3}", without.median),
            format!("{:.3}", with.median),
            ratio(with.median, Some(without.median)),
            format!("{:.3}", with.p95),
        ]);
        data.push(json!({"name": name, "without_ms": without.median, "with_ms": with.median, "p95_with_ms": with.p95}));
    }
    let halves = |times: &[f64]| {
        let (first, second) = times.split_at(times.len() / 2);
        Summary::of(first).zip(Summary::of(second)).map_or(1.0, |(first, second)| second.median / first.median)
    };
    Ok((table, Value::Array(data), halves(&rows[0].2[0])))
}

/// Four that execute, and a guard that is killed.
fn kills(options: &Options, lab: &Lab, person: &Person) -> Result<(Table, Value, f64), Error> {
    let guard = Guard::start(lab, person)?;
    let stop = AtomicBool::new(false);
    let state = lab.state_of(person).0;
    let work = |program: &'static str, words: &'static [&'static str]| {
        let mut command = person.command(person.home.join(program));
        // Who is redirected finds the laboratory's state, not root's.
        command.args(words).env("FVM_HOME", &state).stdout(Stdio::piped());
        let stop = &stop;
        move || {
            let mut runs = Runs::default();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let ended = command.spawn().and_then(Child::wait_with_output);
                runs.times_ms.push(began.elapsed().as_secs_f64() * 1e3);
                match ended {
                    Ok(out) if out.stdout.starts_with(b"vm-") => runs.in_vm += 1,
                    Ok(out) if out.status.success() => runs.otherwise += 1,
                    _ => runs.failed += 1,
                }
            }
            runs
        }
    };
    let named = [
        ("marked program", work("m", &["FVM"])),
        ("marked program", work("m", &["FVM"])),
        ("unmarked program", work("free", &[])),
        ("unmarked program", work("free", &[])),
    ];
    let (mut killed, mut failure) = (0, None);
    let all: Vec<(&str, Runs)> = std::thread::scope(|scope| {
        let threads: Vec<_> = named.into_iter().map(|(name, work)| (name, scope.spawn(work))).collect();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut worker = guard.wait(None);
        while killed < options.count {
            let pid = match worker {
                Ok(pid) => pid,
                Err(reason) => {
                    failure = Some(reason);
                    break;
                }
            };
            // xorshift: anywhere within an event, for those come all the time.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            std::thread::sleep(Duration::from_micros(seed % WITHIN_US));
            let _gone = fvm_sys::process::kill(pid, 9);
            killed += 1;
            worker = guard.wait(Some((pid, 0)));
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|(name, thread)| (name, thread.join().unwrap_or_default())).collect()
    });
    if let Some(reason) = failure {
        return Err(Error::Program { command: "fvm guard run".into(), reason });
    }
    let title = format!("The worker killed {killed} times while four execute, from fork to wait:");
    let header = ["who", "runs", "median ms", "longest ms", "in a VM", "on the host, or refused"];
    let mut table = Table::new(&title, &header);
    let (mut data, mut longest) = (Vec::new(), 0.0_f64);
    for (name, runs) in &all {
        let Some(Summary { median, max, .. }) = Summary::of(&runs.times_ms) else { continue };
        longest = longest.max(max);
        table.rows.push(vec![
            (*name).to_owned(),
            runs.times_ms.len().to_string(),
            format!("{median:.1}"),
            format!("{max:.1}"),
            runs.in_vm.to_string(),
            (runs.otherwise + runs.failed).to_string(),
        ]);
        data.push(json!({"who": name, "runs": runs.times_ms.len(), "median_ms": median, "longest_ms": max,
            "in_vm": runs.in_vm, "succeeded": runs.otherwise, "failed": runs.failed}));
        if *name == "unmarked program" && runs.failed > 0 {
            let reason = format!("{} of {} failed", runs.failed, runs.times_ms.len());
            return Err(Error::Program { command: "an unmarked program".into(), reason });
        }
    }
    Ok((table, Value::Array(data), longest))
}
