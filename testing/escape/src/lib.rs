//! The hostile VM: what a program inside must not be able to do.
//!
//! ```text
//!   attack    what an attack is                                       attacks/<row>/<name>.c   the programs
//!   table     which attacks there are, by row of the IPC table
//!   stage     one place where they are tried: outside, or a VM of one mode, with its victims on the host
//!   suite     every attack in every place ─► Outcome                  report    the table for SECURITY.md
//! ```
//!
//! Invariant: nothing is expected to be reached; what a kernel does not have is counted apart and said.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code: a failure is a failure of the test")]

pub mod attack;
pub mod report;
pub mod stage;
pub mod suite;
pub mod table;
pub mod verdict;
