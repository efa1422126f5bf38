//! Who a worker is, so that its successor on the same machine knows that it is gone, and need not wait for its leases.

use crate::db::{DbError, Queue, Run, Swept, Worker};
use std::sync::atomic::{AtomicU32, Ordering};

/// This process as a worker of `run`: `machine/boot/process namespace/process/its start/number`.
#[must_use]
pub fn worker(run: &Run, concurrent: u32, cores: f64) -> Worker {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let start = started(pid).unwrap_or_default();
    let host = host();
    Worker {
        id: format!("{host}/{}/{}/{pid}/{start}/{number}", boot(), namespace()),
        run: run.id,
        host,
        pid,
        concurrent,
        cores,
        version: env!("CARGO_PKG_VERSION").into(),
        silent_ms: 0,
    }
}

/// Queues again what workers of this machine hold that are no more.
///
/// # Errors
/// When the database fails.
pub fn bury_the_dead(queue: &dyn Queue, run: &Run) -> Result<Swept, DbError> {
    let mut swept = Swept::default();
    for worker in queue.workers(run.id)? {
        if is_dead(&worker.id) {
            let of_it = queue.bury(run.id, &worker.id, run.params.attempts)?;
            swept = Swept { queued: swept.queued + of_it.queued, dead: swept.dead + of_it.dead };
        }
    }
    Ok(swept)
}

/// Whether the process of this name surely is no more. Of other machines and process namespaces nothing is known.
fn is_dead(id: &str) -> bool {
    let words: Vec<&str> = id.split('/').collect();
    let [host_of, boot_of, namespace_of, pid, start, _] = words.as_slice() else { return false };
    if *host_of != host() || boot().is_empty() || namespace().is_empty() {
        return false;
    }
    if *boot_of != boot() {
        return true;
    }
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<u64>()) else { return false };
    *namespace_of == namespace() && started(pid) != Some(start)
}

fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Two machines of one name are told apart by this.
    let machine = read("/etc/machine-id");
    format!("{}-{}", name.replace('/', "_"), machine.get(..8).unwrap_or("0"))
}

fn boot() -> String {
    read("/proc/sys/kernel/random/boot_id").get(..8).unwrap_or_default().into()
}

fn namespace() -> String {
    let link = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// When a process started, in ticks since the boot (proc(5): field 22 of stat); nothing if there is none.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_others_of_its_number_do_not() {
        let (pid, start) = (std::process::id(), started(std::process::id()).unwrap());
        let id = |boot: &str, pid: u32, start: u64| format!("{}/{boot}/{}/{pid}/{start}/0", host(), namespace());
        assert!(!is_dead(&id(&boot(), pid, start)));
        assert!(is_dead(&id(&boot(), pid, start + 1)));
        assert!(is_dead(&id("before", pid, start)));
        assert!(!is_dead(&format!("elsewhere/{}/1/{pid}/1/0", boot())), "of another machine nothing is known");
        assert!(!is_dead(&format!("{}/{}/1/{pid}/1/0", host(), boot())), "of another process namespace neither");
        assert!(!is_dead("x"));
    }
}
