//! Exit codes of the `fvm` command: a stable contract (`docs/book`).
//!
//! `run`, `exec` and `shell` answer with the program's own code, 128+n when signal n ended it, or one of the
//! `RUN_*` codes. All other commands answer with the rest.

/// Done.
pub const DONE: u8 = 0;
/// Refused or failed.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 2;
/// Conflicts with the host were found; nothing was written.
pub const CONFLICT: u8 = 3;
/// No such VM.
pub const NO_SUCH_VM: u8 = 4;
/// `analyze`: something was found.
pub const FOUND: u8 = 5;
/// `analyze`: nothing was found, but not all was seen.
pub const UNSEEN: u8 = 6;
/// `run`/`exec`: the program's time (`--timeout`) was over, as timeout(1) says it.
pub const RUN_TIMED_OUT: u8 = 124;
/// `run`/`exec`: fvm itself failed before the program could start.
pub const RUN_FAILED: u8 = 125;
/// `run`/`exec`: the program was found but cannot be executed.
pub const RUN_NOT_EXECUTABLE: u8 = 126;
/// `run`/`exec`: the program was not found.
pub const RUN_NOT_FOUND: u8 = 127;
/// A signal came before anything was done; as a program that ends by SIGINT.
pub const INTERRUPTED: u8 = 130;
