//! What VMs take of the machine's memory, all told and by its uses, and what their processes have of it.
//!
//! Invariant: all is as it was before against as it is now, in KiB, for each VM; what ended meanwhile is waited for.

use crate::census::{families, is_ours, processes, share};
use crate::lab::Lab;
use crate::machine::meminfo_kib;
use crate::report::Table;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Lines of /proc/meminfo that say what the memory is used for.
const USES: [&str; 5] = ["Slab", "KernelStack", "PageTables", "Percpu", "AnonPages"];
/// The kernel gives back behind what ended.
const SETTLE: Duration = Duration::from_secs(1);

/// As it was at one moment.
pub(super) struct Before {
    available: u64,
    uses: [u64; USES.len()],
}

impl Before {
    pub fn look() -> Self {
        Self { available: meminfo_kib("MemAvailable"), uses: USES.map(meminfo_kib) }
    }
}

/// What each of some VMs takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    vms: usize,
    pub all_kib: f64,
    /// Of [`USES`].
    uses_kib: [f64; USES.len()],
    /// For each role: how many processes, and their shares of memory in KiB, together.
    pub roles: BTreeMap<String, (usize, u64)>,
}

impl Memory {
    /// Of `vms` that were not there `before`.
    pub fn since(before: &Before, lab: &Lab, vms: usize) -> Self {
        std::thread::sleep(SETTLE);
        let now = Before::look();
        let each = |more: f64| more / vms as f64;
        let mut memory = Self { vms, all_kib: each(before.available as f64 - now.available as f64), ..Self::default() };
        for (kib, (first, now)) in memory.uses_kib.iter_mut().zip(before.uses.into_iter().zip(now.uses)) {
            *kib = each(now as f64 - first as f64);
        }
        let ours: Vec<i32> = processes().into_iter().filter(|pid| is_ours(*pid, &lab.path("bin"))).collect();
        for (title, kib) in families(&ours).into_iter().filter_map(share) {
            let role = memory.roles.entry(role(&title)).or_default();
            *role = (role.0 + 1, role.1 + kib);
        }
        memory
    }

    /// Shares of all processes, in KiB for each VM, and how many they are for each.
    fn processes(&self) -> (f64, f64) {
        let all = self.roles.values().fold((0, 0), |all, role| (all.0 + role.1, all.1 + role.0));
        (all.0 as f64 / self.vms as f64, all.1 as f64 / self.vms as f64)
    }

    pub fn table(&self, title: &str) -> Table {
        let mut table = Table::new(title, &["what", "KiB for each VM", "processes for each VM"]);
        let mut row = |name: String, kib: f64, count: String| table.rows.push(vec![name, format!("{kib:.0}"), count]);
        row("all told: what `MemAvailable` lost".into(), self.all_kib, String::new());
        for (name, kib) in USES.into_iter().zip(self.uses_kib) {
            row(format!("what `{name}` gained"), kib, String::new());
        }
        for (role, (count, kib)) in &self.roles {
            row(
                format!("process: {role}"),
                *kib as f64 / self.vms as f64,
                format!("{:.3}", *count as f64 / self.vms as f64),
            );
        }
        let (shares, number) = self.processes();
        row("all processes: their shares (PSS)".into(), shares, format!("{number:.3}"));
        row("the rest: the kernel's".into(), self.all_kib - shares, String::new());
        table
    }

    /// Adds it to an object.
    pub fn add_to(&self, object: &mut Value) {
        let roles =
            self.roles.iter().map(|(role, (count, kib))| json!({"role": role, "processes": count, "pss_kib": kib}));
        object["memory_kib_each"] = json!(self.all_kib);
        object["uses_kib_each"] = json!(USES.into_iter().zip(self.uses_kib).collect::<BTreeMap<_, _>>());
        object["roles"] = roles.collect();
    }
}

/// From a command line's first word: those that are forked and never executed have a title, the keeper is fvm itself.
fn role(title: &str) -> String {
    match title.strip_prefix("fvm: ") {
        Some(role) => role.to_owned(),
        None => match title.rsplit('/').next() {
            Some("fvm") => "keeper".to_owned(),
            Some(other) => other.to_owned(),
            None => "unknown".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_title() {
        assert_eq!(role("fvm: init"), "init");
        assert_eq!(role("/var/tmp/fvm-bench-1/bin/fvm"), "keeper");
        assert_eq!(role("/usr/bin/pasta"), "pasta");
    }

    #[test]
    fn shares_are_of_all_processes_for_each_vm() {
        let roles = BTreeMap::from([("init".to_owned(), (4, 800)), ("keeper".to_owned(), (1, 200))]);
        let memory = Memory { vms: 4, roles, ..Memory::default() };
        assert_eq!(memory.processes(), (250.0, 1.25));
        assert!(memory.table("T").rows.iter().any(|row| row[..] == ["process: keeper", "50", "0.250"]));
    }
}
