//! Where the functions lie that fvm runs when it starts a VM: `crates/cli/start.ld`, written anew.
//!
//! ```text
//!   cargo build --release, with its symbols ─► fvm ─► step: each instruction of some usual commands
//!                                                │                       │ addresses, the first that was run first
//!                                               nm ─► names ◄────────────┘
//!                                                       └─► start.ld ─► crates/cli/build.rs ─► the linker
//! ```
//!
//! A program of ten megabytes runs through half a megabyte of them to start a VM, and each 64 KiB of its file in which something is run for
//! the first time is a page fault (and their pages' way back at its end): laid together they are 9, and were 80, in each of three
//! processes (docs/design/start-path.md, decision 25).
//!
//! Invariant: what the file says changes where functions lie and nothing else; names that are not there any more are passed over
//! by the linker.

mod names;
mod step;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker script, from the root of the repository.
const SCRIPT: &str = "crates/cli/start.ld";

/// Where the program with its symbols is built: it would be built anew each time otherwise.
const TARGET: &str = "target/order";

/// Steps through usual commands and writes the script. As root; the commands that `user` gives too, who is an ordinary one. The script's
/// path.
///
/// # Errors
/// When a program cannot be run, or says that it failed.
pub fn write(user: Option<&str>) -> io::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let script = root.join(SCRIPT);
    let target = root.join(TARGET);
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--quiet", "--package", "fvm-cli", "--bin", "fvm", "--target-dir"])
        .arg(&target)
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .current_dir(root)
        .status()?;
    if !built.success() {
        return Err(io::Error::other("'cargo build' failed"));
    }
    // As /proc says it.
    let fvm = target.join(format!("{}-unknown-linux-gnu/release/fvm", std::env::consts::ARCH)).canonicalize()?;
    let home = tempfile::tempdir()?;
    let lines = Lines { fvm: &fvm, home: home.path() };
    let mut run = step::Run::default();
    lines.all(user, &mut run)?;
    let symbols = output(Command::new("nm").args(["--print-size", "--numeric-sort"]).arg(&fvm))?;
    let libc = output(Command::new("gcc").arg("-print-file-name=libc.a"))?;
    let members = output(Command::new("nm").args(["--print-file-name", "--defined-only"]).arg(libc.trim()))?;
    let symbols = names::symbols(&symbols);
    let found = names::first_run(&symbols, run.addresses());
    if found.is_empty() {
        return Err(io::Error::other("no function was seen: only x86-64 programs can be stepped through"));
    }
    std::fs::write(&script, names::script(&symbols, &found, &names::members(&members)))?;
    Ok(script)
}

fn output(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The commands.
struct Lines<'a> {
    fvm: &'a Path,
    home: &'a Path,
}

impl Lines<'_> {
    fn all(&self, user: Option<&str>, run: &mut step::Run) -> io::Result<()> {
        self.of("root", &[], run)?;
        let Some(user) = user else { return Ok(()) };
        let id = |flag| output(Command::new("id").args([flag, user]));
        let (uid, gid) = (id("-u")?, id("-g")?);
        let home = self.home.join("user");
        std::fs::create_dir(&home)?;
        let (number, group) = (uid.trim().parse().ok(), gid.trim().parse().ok());
        std::os::unix::fs::chown(&home, number, group)?;
        std::os::unix::fs::chown(self.home, number, group)?;
        let (uid, gid) = (format!("--reuid={}", uid.trim()), format!("--regid={}", gid.trim()));
        self.of("user", &["setpriv", &uid, &gid, "--clear-groups", "--inh-caps=-all"], run)
    }

    /// `first`: what makes the caller somebody else.
    fn of(&self, home: &str, first: &[&str], run: &mut step::Run) -> io::Result<()> {
        let home = self.home.join(home);
        let line = |words: &str| {
            let words = words.split(' ').map(str::to_owned);
            let first = first.iter().map(|word| (*word).to_owned()).chain([self.fvm.display().to_string()]);
            let mut line: Vec<String> = first.chain(words).collect();
            let place = line.iter().position(|word| word == "--").unwrap_or(line.len());
            line.splice(place..place, ["--home".to_owned(), home.display().to_string()]);
            line
        };
        let plain = |words: &str| {
            let line = line(words);
            output(Command::new(&line[0]).args(&line[1..]).env("HOME", &home)).map(drop)
        };
        for words in ["run --rm --net none -- /bin/true", "run --rm --net host -- /bin/true", "run --rm -- /bin/true"] {
            run.follow(&line(words), self.fvm, &home)?;
        }
        plain("pool create start --size 2 --net none")?;
        let pooled = run.follow(&line("run --pool start -- /bin/true"), self.fvm, &home);
        plain("pool delete start")?;
        plain("create vm --net none")?;
        let started = plain("start vm");
        let executed = started.and_then(|()| run.follow(&line("exec vm -- /bin/true"), self.fvm, &home));
        plain("delete --force vm")?;
        pooled.and(executed)
    }
}
