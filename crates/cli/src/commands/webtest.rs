//! `webtest`: a program of its own, so that this one links neither databases nor ciphers.
//!
//! ```text
//!   fvm webtest ARGS ── exec ──► fvm-webtest ARGS     beside this file, in ../libexec/fvm, in $PATH
//! ```

use crate::Done;
use crate::args::{Global, Webtest};
use crate::failure::Failure;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "fvm-webtest";

/// Becomes that program.
pub fn webtest(global: &Global, args: &Webtest) -> Done {
    let own = std::env::current_exe().ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = places(own.as_deref(), std::env::split_paths(&path)).collect();
    let Some(program) = places.iter().find(|program| program.is_file()) else {
        return Err(Failure::new(
            format!("the program '{NAME}' is not installed: it is neither beside fvm nor in $PATH"),
            "in fvm's source: 'cargo build --release -p fvm-webtest', then put target/*/release/fvm-webtest beside fvm",
        ));
    };
    let mut command = Command::new(program);
    if let Some(home) = &global.home {
        command.arg("--home").arg(home);
    }
    command.args(global.json.then_some("--json")).args(global.quiet.then_some("--quiet")).args(&args.words);
    let error = command.exec();
    Err(Failure::new(format!("cannot execute '{}': {error}", program.display()), "build or install it anew"))
}

/// Where it may be, in order.
fn places(own: Option<&Path>, path: impl Iterator<Item = PathBuf>) -> impl Iterator<Item = PathBuf> {
    let beside = own.and_then(Path::parent).map(Path::to_owned);
    let libexec = beside.as_deref().and_then(Path::parent).map(|above| above.join("libexec/fvm"));
    // An empty entry of $PATH is the current directory, which anybody may have written to.
    beside.into_iter().chain(libexec).chain(path.filter(|dir| dir.is_absolute())).map(|dir| dir.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_fvm_first_and_never_in_the_current_directory() {
        let path = ["", ".", "/usr/bin", "rel"].map(PathBuf::from);
        let all: Vec<PathBuf> = places(Some(Path::new("/opt/bin/fvm")), path.into_iter()).collect();
        assert_eq!(
            all,
            ["/opt/bin/fvm-webtest", "/opt/libexec/fvm/fvm-webtest", "/usr/bin/fvm-webtest"].map(PathBuf::from)
        );
    }
}
