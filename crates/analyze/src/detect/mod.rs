//! The detectors: each looks at one event after another, then at the changes.
//!
//! ```text
//!   places    files that start programs, or decide who may what: written, moved onto, linked
//!   files     ransomware, wiped logs, own file removed, set-uid, marks
//!   programs  droppers, programs in memory, shells on the network, libraries put into others
//!   network   scans, sweeps, pools, metadata, names
//!   kernel    other processes' memory, modules, mounts, namespaces, what is refused
//!   secrets   what strangers should not read
//!   scripts   what scripts of packages do that the package could have brought: no finding
//!   changes   what only the changes show: content, modes, times
//! ```
//!
//! Invariants: pure and bounded by the log; an event is an attempt, and a finding from one says so; files are judged by the
//! changes too, so that what no event shows is not missed.

pub mod changes;
pub mod files;
pub mod kernel;
pub mod network;
pub mod places;
pub mod programs;
pub mod scripts;
pub mod secrets;
#[cfg(test)]
pub(crate) mod testing;

use crate::found::Found;
use crate::world::World;
use fvm_model::Change;
use fvm_model::event::Event;

/// Looks at events.
pub trait Detector: std::fmt::Debug {
    /// At one event after another, in order.
    fn see(&mut self, event: &Event, world: &World, found: &mut Found);

    /// At one change after another, when there are no more events.
    fn change(&mut self, change: &Change, found: &mut Found) {
        let _nothing = (change, found);
    }

    /// When there is nothing more.
    fn end(&mut self, world: &World, found: &mut Found) {
        let _nothing = (world, found);
    }
}

/// All that look at events, but for [`places::Places`].
#[must_use]
pub fn all() -> Vec<Box<dyn Detector>> {
    vec![
        Box::<files::Files>::default(),
        Box::<programs::Programs>::default(),
        Box::<network::Network>::default(),
        Box::<kernel::Kernel>::default(),
        Box::<secrets::Secrets>::default(),
    ]
}
