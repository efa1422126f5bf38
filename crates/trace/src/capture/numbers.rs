//! What a VM numbers otherwise than the tracer: processes, users.

use super::proc;

/// Numbers as a VM has them.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// Init, as the tracer numbers it.
    pub init: i32,
    /// Where in a list of numbers, from the tracer's namespace inwards, the VM's stands.
    pub level: usize,
    /// First user of the VM, and how many, as the tracer sees them.
    pub uids: Vec<[u32; 3]>,
    /// The VM's mount namespace, by its inode.
    pub mounts: Option<u64>,
    /// Clock ticks in a second.
    pub ticks: u64,
}

impl Numbers {
    /// Those of the VM of process `init`. `mounts`: its mount namespace.
    #[must_use]
    pub fn of(init: i32, mounts: Option<u64>) -> Self {
        let status = proc::status(init).unwrap_or_default();
        let map = proc::read(&format!("/proc/{init}/uid_map"), 4096).unwrap_or_default();
        Self {
            init,
            level: status.numbers.len().saturating_sub(1),
            uids: uid_map(&String::from_utf8_lossy(&map)),
            mounts,
            ticks: rustix::param::clock_ticks_per_second().max(1),
        }
    }

    /// The VM's of a list of numbers.
    #[must_use]
    pub fn inside(&self, numbers: &[u32]) -> u32 {
        numbers.get(self.level).copied().unwrap_or(0)
    }

    /// A user, as the VM numbers it.
    #[must_use]
    pub fn user(&self, uid: u32) -> u32 {
        let within = |[inside, outside, count]: &[u32; 3]| {
            uid.checked_sub(*outside).filter(|by| by < count).map(|by| inside.wrapping_add(by))
        };
        // The kernel's number for whoever has none.
        self.uids.iter().find_map(within).unwrap_or(65_534)
    }
}

/// Reads a map of users.
pub fn uid_map(text: &str) -> Vec<[u32; 3]> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|n| n.parse().ok());
        Some([numbers.next()??, numbers.next()??, numbers.next()??])
    };
    text.lines().filter_map(line).collect()
}
