//! How many VMs at once: `T = min(C / (s + W + k), cores / (c_visit + c_idle W))`, so no more of them than processors and memory bear.

use crate::model::{Params, Tier};
use rustix::thread::sched_getaffinity;

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Processors.
    pub cores: f64,
    /// Memory that is free or can be, in bytes.
    pub memory_bytes: u64,
}

/// This machine.
#[must_use]
pub fn machine() -> Machine {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let cores = sched_getaffinity(None).map_or(1, |set| set.count());
    Machine { cores: f64::from(cores), memory_bytes: kib("MemAvailable:").unwrap_or(1 << 20) * 1024 }
}

/// VMs at once, if nobody says.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, bounded"
)]
pub fn concurrent(params: &Params, machine: Machine) -> u32 {
    // Measured with usual pages (docs/book/webtest.md): memory of a held VM, and processor time of a visit and of a second of waiting.
    let (memory, visit_s, idle) = match params.tier {
        Tier::Full => (260e6, 1.5, 0.006),
        Tier::Shell | Tier::Auto => (110e6, 0.35, 0.0015),
    };
    let wait = f64::from(params.wait_s);
    let by_memory = machine.memory_bytes as f64 * 0.7 / memory;
    // So many keep the processors busy; each more only waits. Half as many again, as pages differ.
    let by_cores = 1.5 * machine.cores / (visit_s + idle * wait) * (1.5 + wait);
    by_memory.min(by_cores).clamp(1.0, 1_000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_waiting_and_more_memory_are_more_vms() {
        let of = |wait_s, tier, gib: u64| {
            let params = Params { wait_s, tier, ..Params::default() };
            concurrent(&params, Machine { cores: 2.0, memory_bytes: gib << 30 })
        };
        assert!((4..=20).contains(&of(0, Tier::Shell, 22)), "{}", of(0, Tier::Shell, 22));
        assert!((100..=200).contains(&of(120, Tier::Shell, 22)), "{}", of(120, Tier::Shell, 22));
        assert!(of(120, Tier::Shell, 64) > of(120, Tier::Shell, 22));
        assert!(of(120, Tier::Full, 22) < of(120, Tier::Shell, 22));
        assert_eq!(of(120, Tier::Full, 0), 1);
        let here = machine();
        assert!(here.cores >= 1.0 && here.memory_bytes > 1 << 20, "{here:?}");
    }
}
