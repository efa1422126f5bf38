//! What a Rust program pays that runs others: on the host, with `std::process`, and in VMs of a pool, through the API of fvm.
//!
//! ```text
//!   fvm-bench-api STATE RUN POOL ROUNDS
//!     each round, in another order:  Command::spawn, wait  │  the same by fork  │  Fvm::pool_spawn, PoolChild::wait, done
//!   ─► {"ways": [{"name", "is_plain", "times_ms", "median_ms", "p95_ms"}]}
//! ```
//!
//! Invariants: one process, which starts no fvm and never forks for a VM; the clock runs from before the program is asked for
//! until its status is known, and the VM is given back; the pool is full again before the clock runs.

use fvm::{Call, Ended};
use fvm_benches::error::Error;
use fvm_benches::pools::Pool;
use fvm_benches::stats::{Summary, order};
use serde_json::json;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const PROGRAM: &str = "/bin/true";
const PATH: &str = "/usr/bin:/bin";

/// One way to run it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As `std` does when nothing is special: `posix_spawn`, which shares the memory until the program is executed.
    Spawn,
    /// The same once more: the noise.
    Again,
    /// As `std` does for another user: fork and exec.
    Fork,
    /// In a VM.
    Pool,
}

const WAYS: [Way; 4] = [Way::Spawn, Way::Again, Way::Fork, Way::Pool];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Spawn => "plain: `std::process::Command`, spawn and wait",
            Self::Again => "the same once more (noise)",
            Self::Fork => "the same by fork and exec (as `std` does for another user)",
            Self::Pool => "**`Fvm::pool_spawn`**, wait, done",
        }
    }

    /// Once; milliseconds.
    fn run(self, pool: &Pool, null: &File) -> Result<f64, Error> {
        if self == Self::Pool {
            pool.wait()?;
        }
        let began = Instant::now();
        let ended = match self {
            Self::Spawn | Self::Again => plain(false),
            Self::Fork => plain(true),
            Self::Pool => in_pool(pool, null),
        };
        let took = began.elapsed().as_secs_f64() * 1e3;
        if self == Self::Pool {
            pool.settle()?;
        }
        match ended {
            Ok(()) => Ok(took),
            Err(reason) => Err(Error::Program { command: self.name().to_owned(), reason }),
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        [state, run, pool, rounds] => rounds
            .parse()
            .map_err(|_| Error::Usage(format!("'{rounds}' is not a number")))
            .and_then(|rounds| measure(Path::new(state), Path::new(run), pool, rounds)),
        _ => Err(Error::Usage("fvm-bench-api STATE RUN POOL ROUNDS".to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fvm-bench-api: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn measure(state: &Path, run: &Path, pool: &str, rounds: usize) -> Result<(), Error> {
    let pool = Pool::open(state, run, pool)?;
    let null = Path::new("/dev/null");
    let null = File::options().read(true).write(true).open(null).map_err(Error::file("open", null))?;
    let mut times = WAYS.map(|_| Vec::with_capacity(rounds));
    for way in WAYS {
        way.run(&pool, &null)?;
    }
    for round in 0..rounds {
        for index in order(WAYS.len(), round) {
            times[index].push(WAYS[index].run(&pool, &null)?);
        }
    }
    let ways = WAYS.iter().zip(times).map(|(way, times)| {
        let summary = Summary::of(&times);
        json!({
            "name": way.name(), "is_plain": *way == Way::Spawn, "times_ms": times,
            "median_ms": summary.map(|s| s.median), "p95_ms": summary.map(|s| s.p95),
        })
    });
    println!("{}", json!({"ways": ways.collect::<Vec<_>>()}));
    Ok(())
}

fn plain(forked: bool) -> Result<(), String> {
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if forked {
        command.uid(rustix::process::geteuid().as_raw());
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn in_pool(pool: &Pool, null: &File) -> Result<(), String> {
    let call = Call {
        argv: vec![PROGRAM.into()],
        env: vec![("PATH".into(), PATH.into())],
        cwd: "/".into(),
        umask: 0o022,
        ..Call::default()
    };
    let streams = [null, null, null].map(AsFd::as_fd);
    let asked = pool.fvm().pool_spawn(pool.name(), &call, streams, None, false);
    let mut program = asked.map_err(|e| e.to_string())?;
    match program.wait() {
        Ok(Ended::Exited(0)) => {
            program.done(false);
            Ok(())
        }
        Ok(ended) => Err(format!("{ended:?}")),
        Err(error) => Err(error.to_string()),
    }
}
