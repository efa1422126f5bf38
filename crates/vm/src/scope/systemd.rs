//! What the user's systemd is asked, and how: in the process that asks, or in a command that changes a running VM's limits.
//!
//! ```text
//!   Limits ─ properties ─► [("MemoryMax", 67108864), ...] ─ StartTransientUnit | SetUnitProperties ─► systemd --user
//!   the scope is there   ◄── /proc/<pid>/cgroup says so; the job is gone and it does not: an error
//! ```
//!
//! Invariants: everything has an end in [`LONGEST`]; a scope that does not hold what it shall is stopped.

use super::{controllers, lacks, name, places_in, wanted};
use crate::error::VmError;
use fvm_host::UserManager;
use fvm_model::VmId;
use fvm_model::policy::Limits;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};
use zbus::Connection;
use zbus::connection::Builder;
use zbus::wire::{OwnedObjectPath, Variant};

/// How long systemd may take for what it is asked.
const LONGEST: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);
/// systemd's word for "as much as there is".
const INFINITY: u64 = u64::MAX;
/// Processes in the scope that are not the VM's: the anchor.
const OURS: u64 = 1;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_AT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Limits, as systemd names them; what is not limited is said too, so that the same list takes a limit away.
#[must_use]
fn properties(limits: &Limits) -> Vec<(&'static str, u64)> {
    let swap = limits.memory_bytes.map(|_| limits.swap_bytes.unwrap_or(0));
    let mut all = vec![
        ("MemoryMax", limits.memory_bytes.unwrap_or(INFINITY)),
        ("MemorySwapMax", swap.unwrap_or(INFINITY)),
        ("CPUQuotaPerSecUSec", limits.cpu_milli.map_or(INFINITY, |milli| u64::from(milli) * 1000)),
        ("CPUWeight", limits.cpu_weight.map_or(INFINITY, u64::from)),
        ("TasksMax", limits.pids.map_or(INFINITY, |pids| u64::from(pids) + OURS)),
    ];
    // Not every systemd was given the disks to share.
    all.extend(limits.io_weight.map(|weight| ("IOWeight", u64::from(weight))));
    all
}

/// Ways to the user's systemd, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ways {
    /// Addresses of buses.
    buses: Vec<String>,
}

impl Ways {
    /// By the bus beside `manager`, else by that at `bus`, which the user named.
    #[must_use]
    pub fn new(manager: &UserManager, bus: Option<&str>) -> Self {
        let beside = address(&manager.bus());
        let named = bus.filter(|address| !address.is_empty() && **address != beside).map(ToOwned::to_owned);
        Self { buses: [beside].into_iter().chain(named).collect() }
    }
}

/// The address of a bus at `path` (D-Bus Specification, "Server Addresses").
fn address(path: &Path) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_/.\\*".contains(&b);
    let escaped = path.as_os_str().as_bytes().iter().map(|b| match *b {
        b if plain(b) => char::from(b).to_string(),
        b => format!("%{b:02x}"),
    });
    format!("unix:path={}", escaped.collect::<String>())
}

/// A connection to the bus that the user's systemd is on.
pub(super) struct Manager(Connection);

impl Manager {
    pub(super) fn reach(ways: &Ways) -> Result<Self, String> {
        let mut why = Vec::new();
        for address in &ways.buses {
            match zbus::block_on(Builder::address(address.as_str()).method_timeout(LONGEST).build()) {
                Ok(connection) => return Ok(Self(connection)),
                Err(e) => why.push(format!("{address}: {e}")),
            }
        }
        let why = why.join("; ");
        Err(format!("cannot reach this user's systemd ({why}); 'systemctl --user status' tells whether it is well"))
    }

    fn call<B, R>(&self, at: &str, interface: &str, method: &str, body: &B) -> zbus::Result<R>
    where
        B: serde::Serialize + zbus::wire::DynamicType,
        R: serde::de::DeserializeOwned + zbus::wire::Type,
    {
        let reply = zbus::block_on(self.0.call_method(Some(SYSTEMD), at, Some(interface), method, body))?;
        reply.body().deserialize()
    }

    /// Puts `pids` into a new scope.
    pub(super) fn start(&self, name: &str, limits: &Limits, pids: &[u32]) -> Result<(), String> {
        let until = Instant::now() + LONGEST;
        let fail = |why: String| format!("this user's systemd did not start {name}: {why}");
        let job: OwnedObjectPath = loop {
            let mut all = vec![
                ("Description", Variant::from(format!("virtual machine {name}"))),
                ("PIDs", Variant::from(pids.to_vec())),
                ("Delegate", Variant::from(true)),
                ("CollectMode", Variant::from("inactive-or-failed")),
            ];
            all.extend(properties(limits).into_iter().map(|(key, value)| (key, Variant::from(value))));
            let none: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
            match self.call(SYSTEMD_AT, MANAGER, "StartTransientUnit", &(name, "fail", all, none)) {
                Ok(job) => break job,
                // The caller holds the VM's lock: it is what a dead keeper left.
                Err(e) if is(&e, "org.freedesktop.systemd1.UnitExists") && Instant::now() < until => self.stop(name),
                Err(e) => return Err(fail(e.to_string())),
            }
            std::thread::sleep(POLL);
        };
        let is_in = || pids.iter().all(|pid| !places_in(name, pid.cast_signed()).is_empty());
        let goes_on = || {
            let state = ("org.freedesktop.systemd1.Job", "State");
            let asked: zbus::Result<zbus::wire::OwnedVariant> =
                self.call(job.as_str(), "org.freedesktop.DBus.Properties", "Get", &state);
            asked.is_ok()
        };
        while !is_in() {
            if !goes_on() && !is_in() {
                self.stop(name);
                let hint = format!("'journalctl --user -u {name}' tells more");
                return Err(fail(format!("it could not move the VM's processes there; {hint}")));
            }
            if Instant::now() > until {
                self.stop(name);
                let secs = LONGEST.as_secs();
                return Err(fail(format!("it took longer than {secs} s; 'systemctl --user list-jobs' tells for what")));
            }
            std::thread::sleep(POLL);
        }
        let in_force = controllers(&places_in(name, pids[0].cast_signed()));
        match wanted(limits).into_iter().find(|(_, wanted)| !in_force.iter().any(|have| have == wanted)) {
            None => Ok(()),
            Some((_, missing)) => {
                self.stop(name);
                Err(lacks(missing))
            }
        }
    }

    /// Ends whatever is in the scope; it may have gone by itself.
    fn stop(&self, name: &str) {
        let _gone: zbus::Result<OwnedObjectPath> = self.call(SYSTEMD_AT, MANAGER, "StopUnit", &(name, "replace"));
    }

    fn set(&self, name: &str, limits: &Limits) -> zbus::Result<()> {
        let all: Vec<_> = properties(limits).into_iter().map(|(key, value)| (key, Variant::from(value))).collect();
        self.call(SYSTEMD_AT, MANAGER, "SetUnitProperties", &(name, true, all))
    }
}

fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, _, _) if found.as_str() == name)
}

/// Gives the scope of a running VM other limits, until it ends. Starts threads: not for a process that forks afterwards.
///
/// # Errors
/// [`VmError::Limit`], with what systemd said; then the old ones hold.
pub(super) fn set(ways: &Ways, id: &VmId, limits: &Limits, init: i32) -> Result<(), VmError> {
    let name = name(id.as_str());
    let fail = |why: String| VmError::Limit { what: name.clone(), why };
    let in_force = controllers(&places_in(&name, init));
    if let Some((limit, missing)) = wanted(limits).into_iter().find(|(_, wanted)| !in_force.iter().any(|c| c == wanted))
    {
        return Err(VmError::Limit { what: limit.into(), why: lacks(missing) });
    }
    let manager = Manager::reach(ways).map_err(&fail)?;
    manager.set(&name, limits).map_err(|e| fail(format!("this user's systemd did not change it: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(limits: &Limits) -> Vec<String> {
        let shown = |value: u64| if value == INFINITY { "infinity".into() } else { value.to_string() };
        properties(limits).into_iter().map(|(key, value)| format!("{key}={}", shown(value))).collect()
    }

    #[test]
    fn limits_become_properties() {
        let all = Limits {
            memory_bytes: Some(64 << 20),
            cpu_milli: Some(1500),
            cpu_weight: Some(50),
            pids: Some(32),
            ..Limits::default()
        };
        let expected =
            ["MemoryMax=67108864", "MemorySwapMax=0", "CPUQuotaPerSecUSec=1500000", "CPUWeight=50", "TasksMax=33"];
        assert_eq!(said(&all), expected);
        let swap = Limits { memory_bytes: Some(1 << 20), swap_bytes: Some(4096), ..Limits::default() };
        assert_eq!(said(&swap)[..2], ["MemoryMax=1048576", "MemorySwapMax=4096"]);
    }

    #[test]
    fn a_path_with_strange_bytes_is_an_address() {
        assert_eq!(address(Path::new("/run/user/7/bus")), "unix:path=/run/user/7/bus");
        assert_eq!(address(Path::new("/a b;c,d%")), "unix:path=/a%20b%3bc%2cd%25");
    }

    #[test]
    fn what_is_not_limited_is_unlimited() {
        assert!(said(&Limits::default()).iter().all(|property| property.ends_with("=infinity")));
    }

    #[test]
    fn a_live_change_that_the_scope_has_no_controller_for_is_refused_before_anything_is_asked() {
        let ways = Ways { buses: vec!["unix:path=/nowhere".into()] };
        let id: VmId = "0123456789ab".parse().unwrap();
        let change = |limits: &Limits| match set(&ways, &id, limits, std::process::id().cast_signed()) {
            Err(VmError::Limit { what, why }) => format!("{what}: {why}"),
            other => panic!("{other:?}"),
        };
        let memory = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
        assert!(change(&memory).starts_with("memory: this user's systemd has no controller 'memory'"));
        assert!(change(&Limits::default()).contains("cannot reach this user's systemd (unix:path=/nowhere"));
    }
}
