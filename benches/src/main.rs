//! `fvm-bench`: what `cargo xtask bench` runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    match fvm_benches::args::Options::parse(words).and_then(|options| fvm_benches::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fvm-bench: {error}");
            ExitCode::from(error.code())
        }
    }
}
