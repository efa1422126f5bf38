//! How much of the disk a visit takes: all that its VM changed, the browser's profile and downloads too.
//!
//! ```text
//!   each turn: room of the file system of the layers ─ less by an eighth of what a VM may take, or it is time ─► layers are added up
//!                                                                                        more than it may? ─► the visit ends
//! ```
//!
//! A file system of its own for each VM would bound it exactly, and takes longer to make than most visits last. To add layers up each
//! time costs as much as a page that waits; the room that is left costs a system call, and shows when there is something to add up,
//! whoever of the VMs took it.
//!
//! Invariant: what a VM takes beyond its limit is what it writes in a turn, and an eighth of the limit.

use rustix::fs::statvfs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So often layers are added up though hardly any room was taken: others may have given some back.
const LOOK: Duration = Duration::from_secs(10);
/// Less room by this part of the limit is worth a look.
const PART: u64 = 8;

/// Watches the layers of a VM.
#[derive(Debug)]
pub(super) struct Disk {
    layers: PathBuf,
    limit_bytes: u64,
    /// When layers were added up last, or it began.
    looked: Instant,
    /// The room there was then.
    room: u64,
    is_over: bool,
}

impl Disk {
    /// Of layers in this directory.
    pub fn new(layers: &Path, limit_bytes: u64) -> Self {
        Self { layers: layers.to_owned(), limit_bytes, looked: Instant::now(), room: room(layers), is_over: false }
    }

    /// Whether the VM takes more than it may. `taken`: adds its layers up.
    pub fn is_over(&mut self, taken: impl FnOnce() -> u64) -> bool {
        let room = room(&self.layers);
        if !self.is_over && (is_worth(self.room, room, self.limit_bytes) || self.looked.elapsed() > LOOK) {
            (self.looked, self.room) = (Instant::now(), room);
            self.is_over = taken() > self.limit_bytes;
        }
        self.is_over
    }
}

/// Whether a look is worth it.
fn is_worth(before: u64, now: u64, limit_bytes: u64) -> bool {
    before.saturating_sub(now) >= limit_bytes / PART
}

/// Bytes that are left where `place` is; none if that cannot be said.
fn room(place: &Path) -> u64 {
    statvfs(place).map_or(0, |stat| stat.f_bfree.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_went_is_worth_a_look_whoever_took_it() {
        assert!(is_worth(1000, 900, 800) && !is_worth(1000, 901, 800) && !is_worth(1000, 2000, 800));
    }

    #[test]
    fn layers_are_added_up_when_room_goes_and_what_is_over_stays_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(dir.path(), 1 << 20);
        disk.room = 0;
        assert!(!disk.is_over(|| panic!("nothing went")));
        disk.room = u64::MAX;
        assert!(!disk.is_over(|| 1 << 20), "as much as it may");
        disk.room = u64::MAX;
        assert!(disk.is_over(|| (1 << 20) + 1));
        assert!(disk.is_over(|| panic!("it is known")));
        let mut later = Disk::new(dir.path(), 1 << 20);
        (later.room, later.looked) = (0, Instant::now() - 2 * LOOK);
        assert!(later.is_over(|| u64::MAX), "now and then");
    }
}
