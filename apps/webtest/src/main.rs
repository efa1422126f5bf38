//! The `fvm-webtest` command: `fvm webtest` is this.

mod cli;
mod visitor;

fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os();
    // The gate's helper is this program, started anew: it must have one thread (net::gate::helper).
    if args.nth(1).is_some_and(|word| word == visitor::AS_HELPER) {
        return fvm_webtest::net::gate::helper::run();
    }
    cli::main(std::env::args_os()).into()
}
