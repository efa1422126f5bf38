//! Diff and commit, side by side with `cp -a`.
//!
//! ```text
//!   for each place (the laboratory's disk; a tmpfs, where nothing waits for a disk):
//!     rounds:  cp -a | cp -a, sync | commit --keep | commit       of many small files
//!     rounds:  status | diff --stat                               of five times as many
//!     rounds:  commit                                             of one large file
//! ```
//!
//! Invariants: what the preparation wrote is synced before the clock starts; each commit is looked at afterwards; the state
//! lies on the same file system as what is committed, which is what allows a move.

use crate::args::Options;
use crate::error::Error;
use crate::lab::{Lab, checked, shown};
use crate::machine::{Machine, meminfo_kib};
use crate::measure::{Surroundings, run as run_once};
use crate::report::{Report, Table, Unavailable, ratio};
use crate::stats::{Summary, order};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a small file.
const SMALL: &str = "120";

/// All rows of one place: what, and times in milliseconds.
type Rows = Vec<(String, Vec<f64>)>;

/// The benchmark.
///
/// # Errors
/// When the laboratory cannot be made, or a command fails.
pub fn run(options: &Options) -> Result<Report, Error> {
    let mut tables = Vec::new();
    let mut data = Vec::new();
    let mut unavailable = Vec::new();
    let machine = {
        let lab = Lab::new(options)?;
        let rows = Place { lab: &lab, options }.rows(options.gib)?;
        tables.push(table("On the disk:", &rows));
        data.push(json_of("disk", &rows));
        Machine::look(lab.dir(), &lab.program("fvm"))
    };
    if rustix::process::geteuid().is_root() {
        let memory = Memory::new(&options.dir)?;
        // What is committed, its layer, and the rest of the machine.
        let gib = if meminfo_kib("MemAvailable") >> 20 > 3 * options.gib as u64 { options.gib } else { 0 };
        if gib != options.gib {
            let reason = "less than three times as much memory is free".to_owned();
            unavailable.push(Unavailable { name: format!("{} GiB on a tmpfs", options.gib), reason });
        }
        let lab = Lab::new(&Options { dir: memory.dir.clone(), ..options.clone() })?;
        let rows = Place { lab: &lab, options }.rows(gib)?;
        tables.push(table("On a tmpfs:", &rows));
        data.push(json_of("tmpfs", &rows));
    } else {
        let reason = "mounting one needs root".to_owned();
        unavailable.push(Unavailable { name: "the same on a tmpfs".to_owned(), reason });
    }
    let settings = format!("--rounds {} --count {} --gib {}", options.rounds, options.count, options.gib);
    let notes = vec!["A commit syncs before its point of no return; `cp` does not.".to_owned()];
    Ok(Report {
        bench: options.bench,
        part: None,
        settings,
        machine,
        tables,
        notes,
        unavailable,
        data: json!({ "places": data }),
    })
}

/// A tmpfs, for as long as this lives.
struct Memory {
    dir: PathBuf,
}

impl Memory {
    fn new(below: &Path) -> Result<Self, Error> {
        let dir = below.join(format!("fvm-memory-{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(Error::file("make", &dir))?;
        let memory = Self { dir };
        mount("tmpfs", &memory.dir, "tmpfs", MountFlags::empty(), None)
            .map_err(|e| Error::file("mount a tmpfs at", &memory.dir)(e.into()))?;
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let gone = unmount(&self.dir, UnmountFlags::DETACH).map_err(Into::into);
        if let Err(error) = gone.and_then(|()| std::fs::remove_dir(&self.dir)) {
            eprintln!("fvm-bench: {}: {error}", self.dir.display());
        }
    }
}

struct Place<'a> {
    lab: &'a Lab,
    options: &'a Options,
}

impl Place<'_> {
    fn rows(&self, gib: usize) -> Result<Rows, Error> {
        let mut rows = self.many()?;
        rows.extend(self.scans()?);
        if gib > 0 {
            rows.push(self.large(gib)?);
        }
        Ok(rows)
    }

    /// Runs a command that must succeed; milliseconds.
    fn timed(command: &mut Command) -> Result<f64, Error> {
        rustix::fs::sync();
        let shown = shown(command);
        let wrong = |reason: String| Error::Program { command: shown.clone(), reason };
        let sample = run_once(command, &Surroundings::Host).map_err(|e| wrong(e.to_string()))?;
        if sample.code == 0 { Ok(sample.wall_ms()) } else { Err(wrong(format!("exit status {}", sample.code))) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.strongest().home.join(name)
    }

    fn remove(path: &Path) -> Result<(), Error> {
        std::fs::remove_dir_all(path).map_err(Error::file("remove", path))
    }

    /// A kept VM in which `fvm-bench-inside` did this.
    fn vm(&self, name: &str, words: &[&str]) -> Result<(), Error> {
        let inside = self.lab.program("fvm-bench-inside").to_string_lossy().into_owned();
        let run = ["run", "--keep", "-q", "--net", "none", "--name", name, "--", &inside];
        self.lab.fvm(self.lab.strongest(), run.iter().chain(words)).map(drop)
    }

    fn delete(&self, name: &str) -> Result<(), Error> {
        self.lab.fvm(self.lab.strongest(), ["delete", name])?;
        self.lab.fvm(self.lab.strongest(), ["gc", "--keep", "0"]).map(drop)
    }

    fn many(&self) -> Result<Rows, Error> {
        let count = self.options.count.to_string();
        let (source, copy, new) = (self.path("source"), self.path("copy"), self.path("new"));
        let person = self.lab.strongest();
        checked(person.command(self.lab.program("fvm-bench-inside")).arg("fill").arg(&source).args([&count, SMALL]))?;
        let mut rows: Rows = [
            format!("`cp -a` of {count} small files"),
            "the same, and `sync -f`".to_owned(),
            "`fvm commit --keep`: copied, synced".to_owned(),
            "`fvm commit`: moved, synced".to_owned(),
        ]
        .map(|name| (name, Vec::new()))
        .into();
        let commit = |flags: &[&str]| -> Result<f64, Error> {
            self.vm("many", &["fill", &new.to_string_lossy(), &count, SMALL])?;
            let took = Self::timed(&mut self.lab.fvm_command(person, ["commit", "many"].iter().chain(flags)))?;
            let committed = std::fs::read_dir(&new).map_err(Error::file("find what was committed in", &new))?.count();
            if committed != self.options.count.div_ceil(100) {
                let reason = format!("{committed} directories were committed");
                return Err(Error::Program { command: "fvm commit".to_owned(), reason });
            }
            self.delete("many")?;
            Self::remove(&new)?;
            Ok(took)
        };
        for round in 0..self.options.rounds {
            for index in order(rows.len(), round) {
                let took = match index {
                    0 => Self::timed(person.command("cp").arg("-a").args([&source, &copy]))?,
                    1 => {
                        let script = "cp -a \"$0\" \"$1\" && sync -f \"$1\"";
                        Self::timed(person.command("/bin/sh").args(["-c", script]).args([&source, &copy]))?
                    }
                    2 => commit(&["--keep"])?,
                    _ => commit(&[])?,
                };
                if copy.exists() {
                    Self::remove(&copy)?;
                }
                rows[index].1.push(took);
            }
        }
        Self::remove(&source)?;
        Ok(rows)
    }

    fn scans(&self) -> Result<Rows, Error> {
        let count = (self.options.count * 5).to_string();
        self.vm("scanned", &["fill", &self.path("new").to_string_lossy(), &count, SMALL])?;
        let mut rows: Rows = vec![
            (format!("`fvm status`, {count} created files"), Vec::new()),
            ("`fvm diff --stat` of the same".to_owned(), Vec::new()),
        ];
        for round in 0..self.options.rounds {
            for index in order(rows.len(), round) {
                let words: &[&str] = if index == 0 { &["status", "scanned"] } else { &["diff", "--stat", "scanned"] };
                rows[index].1.push(Self::timed(&mut self.lab.fvm_command(self.lab.strongest(), words))?);
            }
        }
        self.delete("scanned")?;
        Ok(rows)
    }

    fn large(&self, gib: usize) -> Result<(String, Vec<f64>), Error> {
        let (file, mib) = (self.path("large"), (gib << 10).to_string());
        let mut times = Vec::new();
        for _ in 0..self.options.rounds {
            self.vm("large", &["big", &file.to_string_lossy(), &mib])?;
            times.push(Self::timed(&mut self.lab.fvm_command(self.lab.strongest(), ["commit", "large"]))?);
            let len = file.metadata().map_err(Error::file("find", &file))?.len();
            if len != (gib as u64) << 30 {
                let reason = format!("{len} bytes were committed");
                return Err(Error::Program { command: "fvm commit".to_owned(), reason });
            }
            std::fs::remove_file(&file).map_err(Error::file("remove", &file))?;
            self.delete("large")?;
        }
        Ok((format!("`fvm commit` of one file of {gib} GiB"), times))
    }
}

fn table(title: &str, rows: &Rows) -> Table {
    let mut table = Table::new(title, &["what", "median ms", "range ms", "ratio to `cp -a`"]);
    let reference = rows.first().and_then(|(_, times)| Summary::of(times)).map(|summary| summary.median);
    for (index, (name, times)) in rows.iter().enumerate() {
        let Some(Summary { median, min, max, .. }) = Summary::of(times) else { continue };
        // The others do something else.
        let compared = if index < 4 { ratio(median, reference) } else { String::new() };
        table.rows.push(vec![name.clone(), format!("{median:.0}"), format!("{min:.0}–{max:.0}"), compared]);
    }
    table
}

fn json_of(place: &str, rows: &Rows) -> Value {
    let rows: Vec<Value> = rows.iter().map(|(name, times)| json!({"name": name, "times_ms": times})).collect();
    json!({"place": place, "rows": rows})
}
