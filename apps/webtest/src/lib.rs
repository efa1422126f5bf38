//! Scalable web site testing (VEE 2008, section "applications"): a browser in a fresh VM visits each site; what the visit did to the VM
//! decides whether the site attacks those who visit it.
//!
//! ```text
//!  import, crawl ─► db ─► runner ─► visit ─────────► observe ─► verdict ─► db, store ─► report
//!                  queue  leases,   VM, browser,     change set, reasons    results      html, jsonl,
//!                         starts    devtools, gate   log, page                           csv, stix
//!                                      │
//!                                      └─ net: every byte of the VM ends at the gate: live, recorded (WARC), or replayed
//! ```
//!
//! Modules meet in the types of [`model`] and in three traits: `db::Queue`, `visit::Visitor`, `net::Source`.
//!
//! Invariants: nothing of a page is trusted: its names, sizes, texts and redirects are bounded, escaped and never part of a path; a
//! visit ends in bounded time whatever the page does; a result is recorded exactly once, a visit may happen more often.

pub mod baseline;
pub mod devtools;
pub mod model;
pub mod net;
pub mod observe;
pub mod store;
pub mod verdict;
pub mod visit;
