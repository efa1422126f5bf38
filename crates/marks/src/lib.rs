//! Marks: a file that came out of a VM that nobody trusts says so, until someone unmarks it.
//!
//! ```text
//!   on the file    user.fvm.mark      JSON: who made it, from where, its hash         any program can read it
//!                  trusted.fvm.mark   the same, set by root                           only root sees it or takes it off
//!   in the book    <home>/marks/book  the hash of everything that was ever marked     copies are known by it
//! ```
//!
//! Invariants: what stands on a file or in the book is read as data, bounded, and never trusted to widen anything: a mark
//! that cannot be read is a mark. The formats are specified in `docs/spec/marks.md`.

mod attr;
mod book;
mod hash;
mod mark;

pub use attr::{NAMES, ROOT_NAME, USER_NAME, is_reserved, open, read, read_names, set, take_off};
pub use book::{Act, Book, BookError, Known, Line, Verb};
pub use hash::{Hash, hash_of};
pub use mark::{Mark, VERSION};
