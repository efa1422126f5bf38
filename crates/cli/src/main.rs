//! The `fvm` command.

fn main() -> std::process::ExitCode {
    fvm_cli::main(std::env::args_os())
}
