//! What is run inside VMs and outside of them, and does there exactly the same.
//!
//! ```text
//!   calls DIR [NAME...]     nanoseconds per operation, a line each: what a program asks of the kernel all day
//!   time DIR SCRIPT         nanoseconds that a shell takes for SCRIPT in DIR
//!   fill DIR COUNT BYTES    COUNT files of BYTES bytes, a hundred in each directory
//!   big FILE MIB            a file of that many MiB, synced
//! ```
//!
//! Invariants: the clock runs inside, so that starting a sandbox, which is measured elsewhere, is not in it; of five tenths of
//! a second of an operation the quickest counts, since all that disturbs only adds.

use fvm_benches::calls;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<usize>().map_err(|e| io::Error::other(format!("'{word}': {e}")));
    let done = match words[..] {
        ["calls", dir, ref names @ ..] => calls::run(Path::new(dir), names),
        ["time", dir, script] => time(Path::new(dir), script),
        ["fill", dir, count, bytes] => number(count)
            .and_then(|count| Ok((count, number(bytes)?)))
            .and_then(|(n, len)| fill(Path::new(dir), n, len)),
        ["big", file, mib] => number(mib).and_then(|mib| big(Path::new(file), mib)),
        _ => {
            Err(io::Error::other("usage: calls DIR [NAME...] | time DIR SCRIPT | fill DIR COUNT BYTES | big FILE MIB"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fvm-bench-inside: {error}");
            ExitCode::FAILURE
        }
    }
}

fn time(dir: &Path, script: &str) -> io::Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-ec", script]).current_dir(dir);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let out = shell.output()?;
    let took = began.elapsed();
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(io::Error::other(format!("{}: {}", out.status, said.lines().last().unwrap_or_default())));
    }
    println!("{}", took.as_nanos());
    Ok(())
}

fn fill(dir: &Path, count: usize, bytes: usize) -> io::Result<()> {
    for first in (0..count).step_by(100) {
        let part = dir.join((first / 100).to_string());
        fs::create_dir_all(&part)?;
        for n in first..count.min(first + 100) {
            // No two alike, as in life.
            let text = format!("{n}\n").repeat(bytes / 2);
            fs::write(part.join(n.to_string()), &text.as_bytes()[..bytes])?;
        }
    }
    Ok(())
}

fn big(file: &Path, mib: usize) -> io::Result<()> {
    let mut out = fs::File::create(file)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..mib {
        out.write_all(&zeros)?;
    }
    out.sync_all()
}
