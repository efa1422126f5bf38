//! VMs that are created and started by a command each: what `fvm start` costs, with a keeper for each VM.
//!
//! Invariant: it stops early when too much of the machine's memory is in use, or a VM does not start, and says so.

use super::memory::{Before, Memory};
use super::{MOST_IN_USE, Setting, ms, wait_for_vms};
use crate::error::Error;
use crate::machine::meminfo_kib;
use crate::report::{Table, ratio};
use crate::stats::median;
use serde_json::{Value, json};
use std::time::Instant;

/// Over how many VMs a time is the median.
const WINDOW: usize = 10;

/// What was measured, in the order of the VMs.
#[derive(Default)]
pub(super) struct Singly {
    create_ms: Vec<f64>,
    start_ms: Vec<f64>,
    rate_per_second: f64,
    memory: Memory,
    delete_ms: f64,
    gone_ms: f64,
    pub stopped: Option<String>,
}

impl Singly {
    /// Makes `count` of them, and deletes them.
    pub fn measure(setting: &Setting<'_>, count: usize) -> Result<Self, Error> {
        let mut found = Self::default();
        let before = Before::look();
        let began = Instant::now();
        for n in 0..count {
            let in_use = 1.0 - meminfo_kib("MemAvailable") as f64 / meminfo_kib("MemTotal") as f64;
            if in_use > MOST_IN_USE {
                found.stopped = Some(format!("{:.0} % of the memory were in use", in_use * 100.0));
                break;
            }
            match one(setting, &format!("vm{n}")) {
                Ok((create, start)) => {
                    found.create_ms.push(create);
                    found.start_ms.push(start);
                }
                Err(error) if n == 0 => return Err(error),
                Err(error) => {
                    found.stopped = Some(error.to_string());
                    break;
                }
            }
        }
        found.rate_per_second = found.vms() as f64 / began.elapsed().as_secs_f64();
        found.memory = Memory::since(&before, setting.lab, found.vms().max(1));
        let began = Instant::now();
        setting.lab.delete_all(setting.person)?;
        found.delete_ms = ms(began.elapsed());
        wait_for_vms(setting);
        found.gone_ms = ms(began.elapsed());
        Ok(found)
    }

    /// How many were started.
    pub fn vms(&self) -> usize {
        self.start_ms.len()
    }

    pub fn table(&self) -> Table {
        let vms = self.vms();
        let title = format!("Without a pool: {vms} VMs, each created and started by a command of its own:");
        let mut table = Table::new(&title, &["what", "the 10th", "the last", "ratio"]);
        for (name, times) in [("`fvm create`", &self.create_ms), ("`fvm start`", &self.start_ms)] {
            let (early, late) = early_and_late(times);
            let cells = vec![name.into(), format!("{early:.1} ms"), format!("{late:.1} ms"), ratio(late, Some(early))];
            table.rows.push(cells);
        }
        let each = |ms: f64| format!("{:.2} ms each", ms / vms as f64);
        let mut row = |name: String, value: String| table.rows.push(vec![name, value, String::new(), String::new()]);
        row("created and started".into(), format!("{:.0} in a second", self.rate_per_second));
        row("`fvm delete --force` of all".into(), each(self.delete_ms));
        row("until their last process is gone".into(), each(self.gone_ms));
        row("memory, all told".into(), format!("{:.0} KiB each", self.memory.all_kib));
        for (role, (count, kib)) in &self.memory.roles {
            let (count, kib) = (*count as f64 / vms as f64, *kib as f64 / vms as f64);
            row(format!("process: {role}, {count:.2} for each VM"), format!("{kib:.0} KiB each"));
        }
        table
    }

    pub fn json(&self) -> Value {
        let mut object = json!({
            "vms": self.vms(), "stopped": self.stopped, "create_ms": self.create_ms, "start_ms": self.start_ms,
            "rate_per_second": self.rate_per_second, "delete_ms": self.delete_ms, "gone_ms": self.gone_ms,
        });
        self.memory.add_to(&mut object);
        object
    }
}

/// Creates and starts a VM; how long each took, in milliseconds.
pub(super) fn one(setting: &Setting<'_>, name: &str) -> Result<(f64, f64), Error> {
    let began = Instant::now();
    setting.lab.fvm(setting.person, ["create", name, "--net", setting.net])?;
    let created = began.elapsed();
    setting.lab.fvm(setting.person, ["start", name])?;
    Ok((ms(created), ms(began.elapsed() - created)))
}

/// Medians of a window around the tenth VM, and of the last ones.
fn early_and_late(times: &[f64]) -> (f64, f64) {
    let around = |end: usize| median(&times[end.saturating_sub(WINDOW)..end]);
    (around(times.len().min(10 + WINDOW / 2)), around(times.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_is_compared_with_the_last() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(early_and_late(&times), (10.5, 95.5));
        assert_eq!(early_and_late(&[1.0, 3.0]), (2.0, 2.0));
    }
}
