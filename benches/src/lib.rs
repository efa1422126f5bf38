//! fvm measured side by side with its peers, and with what the kernel needs at least.
//!
//! ```text
//!   args ─► start | density | steady | commit | scan | guard | trace | visits ─► Report ─┬─► Markdown on standard output
//!              │ measure: one program, fork to wait                     ├─► --json FILE
//!              │ lab, pools: a place of our own, two users              └─► --book: docs/book/performance.md
//!              └ machine: what it ran on, how quiet it was
//! ```
//!
//! Invariants: all candidates of a table run in one session, in turns, in an order that changes with each round; a candidate
//! that cannot run here is listed with the reason, never left out; the reference is measured twice, as two candidates, and
//! how far the two are apart is printed as the noise; nothing but the laboratory is written, and nothing stays.

pub mod args;
pub mod book;
pub mod calls;
pub mod census;
pub mod commit;
pub mod density;
pub mod error;
pub mod guard;
pub mod lab;
pub mod machine;
pub mod measure;
pub mod pools;
pub mod report;
pub mod scan;
pub mod start;
pub mod stats;
pub mod steady;
pub mod trace;
pub mod visits;

use args::{Bench, Options};
use error::Error;
use report::Report;

/// Runs one benchmark and delivers its report.
///
/// # Errors
/// When it cannot be run to its end, or the report cannot be written.
pub fn run(options: &Options) -> Result<(), Error> {
    let report: Report = match options.bench {
        Bench::Start => start::run(options)?,
        Bench::Density => density::run(options)?,
        Bench::Steady => steady::run(options)?,
        Bench::Commit => commit::run(options)?,
        Bench::Scan => scan::run(options)?,
        Bench::Guard => guard::run(options)?,
        Bench::Trace => trace::run(options)?,
        Bench::Visits => visits::run(options)?,
    };
    print!("{}", report.markdown());
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()).map_err(Error::file("write", path))?;
    }
    if options.book {
        book::rewrite(&options.book_path(), &report)?;
    }
    Ok(())
}
