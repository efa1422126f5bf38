//! Many VMs at once: what each takes of memory and time, whether commands become slow beside them, and whether anything stays
//! when they are gone.
//!
//! ```text
//!   commands ─► census ─► a pool is filled ─► memory, census, commands ─► it is deleted ─► census ─► commands
//!   then, a tenth as many: fvm create + fvm start, one by one ─► memory ─► fvm delete
//! ```
//!
//! Invariants: no more VMs are made when 70 % of the machine's memory are in use, and it is said; each VM is parked: started,
//! with a network of its own where there can be one, and nothing runs in it.

mod commands;
mod filling;
mod memory;
mod singly;

use crate::args::Options;
use crate::census::{Census, is_ours, processes, title};
use crate::error::Error;
use crate::lab::{Lab, Person};
use crate::machine::Machine;
use crate::pools::Pool;
use crate::report::{Report, Table, Unavailable};
use commands::Times;
use filling::Filling;
use serde_json::json;
use singly::Singly;
use std::time::{Duration, Instant};

/// How much of the machine's memory may be in use.
const MOST_IN_USE: f64 = 0.7;
/// So many times fewer are made one by one.
const FEWER: usize = 10;
/// What a router calls itself.
const ROUTER: &str = "fvm: network";
const GONE_WITHIN: Duration = Duration::from_secs(120);
/// Namespaces end behind their processes.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Where, whose, and with which network.
struct Setting<'a> {
    lab: &'a Lab,
    person: &'a Person,
    net: &'static str,
}

/// The benchmark.
///
/// # Errors
/// When the laboratory cannot be made, no VM starts, or they cannot be deleted.
pub fn run(options: &Options) -> Result<Report, Error> {
    let lab = Lab::new(options)?;
    let machine = Machine::look(lab.dir(), &lab.program("fvm"));
    let (setting, refused) = setting(&lab);
    warm_up(&setting)?;
    let commands_before = commands::measure(&setting, options.rounds)?;
    wait_for_the_end(&lab);
    std::thread::sleep(AFTERMATH);
    let census = || Census::take(&lab.path("bin"));
    let before = census();
    let mut filling = Filling::new(&setting, options.count)?;
    let during = census();
    let commands_during = commands::measure(&setting, options.rounds)?;
    filling.end(&setting)?;
    std::thread::sleep(AFTERMATH);
    let after = census();
    let commands_after = commands::measure(&setting, options.rounds)?;
    let singly = Singly::measure(&setting, (options.count / FEWER).max(1))?;
    let commands = [&commands_before, &commands_during, &commands_after];
    let mut report = report(options, machine, &setting, &filling, commands, &singly, [&before, &during, &after]);
    report.unavailable.extend(refused);
    Ok(report)
}

/// With an address for each VM, if that is possible here; else why not.
fn setting(lab: &Lab) -> (Setting<'_>, Option<Unavailable>) {
    let person = lab.strongest();
    match lab.fvm(person, ["run", "--rm", "--net", "own", "--", "/bin/true"]) {
        Ok(_) => (Setting { lab, person, net: "own" }, None),
        Err(error) => {
            let refused = Unavailable { name: "VMs with an address".to_owned(), reason: error.to_string() };
            (Setting { lab, person, net: "none" }, Some(refused))
        }
    }
}

/// One of each that comes and goes: what is made once and stays (addresses, control groups) is no leftover of the others.
fn warm_up(setting: &Setting<'_>) -> Result<(), Error> {
    singly::one(setting, "first")?;
    setting.lab.delete_all(setting.person)?;
    Pool::make(setting.lab, setting.person, "first", &["--size", "1", "--net", setting.net])?.wait()?;
    setting.lab.delete_pools(setting.person)?;
    wait_for_the_end(setting.lab);
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Waits until no process of a VM, or of who keeps it, is left. Root's VMs share a router, which waits ten seconds for the next
/// VM: it is none of them.
fn wait_for_vms(setting: &Setting<'_>) {
    let is_router = |pid| setting.person.is_root() && title(pid).is_some_and(|title| title == ROUTER);
    wait_until_gone(setting.lab, |pid| !is_router(pid));
}

fn wait_for_the_end(lab: &Lab) {
    wait_until_gone(lab, |_| true);
}

fn wait_until_gone(lab: &Lab, counts: impl Fn(i32) -> bool) {
    let began = Instant::now();
    let bin = lab.path("bin");
    while processes().into_iter().any(|pid| is_ours(pid, &bin) && counts(pid)) && began.elapsed() < GONE_WITHIN {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn report(
    options: &Options,
    machine: Machine,
    setting: &Setting<'_>,
    filling: &Filling,
    commands: [&Times; 3],
    singly: &Singly,
    censuses: [&Census; 3],
) -> Report {
    let (left, unavailable) = left_over(censuses);
    let memory = filling.memory.table("Memory of each of them:");
    let tables = vec![filling.table(), memory, left, commands::table(filling.vms(), commands), singly.table()];
    let network = match setting.net {
        "own" => "with a network and an address of its own",
        _ => "without a network",
    };
    let mut notes = vec![format!(
        "As {}: each VM is parked, {network}; nothing runs in it. A tenth's time is between what the pool's keeper said, asked \
         every 20 ms. All but \"processes of this fvm\" counts the whole machine: on one that is not quiet it also shows others' \
         doings.",
        setting.person.name
    )];
    notes.extend(filling.notes());
    if let Some(why) = &singly.stopped {
        notes.push(format!("**Without a pool: stopped after {} VMs: {why}.**", singly.vms()));
    }
    let [before, during, after] = censuses;
    let data = json!({
        "person": setting.person.name, "net": setting.net, "asked": options.count,
        "pool": filling.json(), "commands": commands::json_of(commands), "one_by_one": singly.json(),
        "census": {"before": before.0, "during": during.0, "after": after.0},
    });
    let settings = format!("--count {} --rounds {}", options.count, options.rounds);
    Report { bench: options.bench, part: None, settings, machine, tables, notes, unavailable, data }
}

/// What there was before, with them, after; and what cannot be counted.
fn left_over([before, during, after]: [&Census; 3]) -> (Table, Vec<Unavailable>) {
    let header = ["what there is on the machine", "before", "with them", "after", "left over"];
    let mut table = Table::new("Counted before, with all of them, and after:", &header);
    let mut unavailable = Vec::new();
    for (name, at_first) in &before.0 {
        let of = |census: &Census| census.0.get(name).copied().flatten();
        let (Some(at_first), Some(with), Some(at_last)) = (*at_first, of(during), of(after)) else {
            let reason = "nft(8) is not installed or may not list them".to_owned();
            unavailable.push(Unavailable { name: (*name).to_owned(), reason });
            continue;
        };
        let more = at_last as i64 - at_first as i64;
        let numbers = [at_first.to_string(), with.to_string(), at_last.to_string(), more.to_string()];
        table.rows.push([(*name).to_owned()].into_iter().chain(numbers).collect());
    }
    (table, unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_stays_is_the_difference_and_what_cannot_be_counted_is_listed() {
        let census = |links, rules| Census(BTreeMap::from([("links", Some(links)), ("rules", rules)]));
        let (table, unavailable) = left_over([&census(5, Some(1)), &census(9, Some(1)), &census(4, None)]);
        assert_eq!(table.rows, [["links", "5", "9", "4", "-1"]]);
        assert_eq!(unavailable[0].name, "rules");
    }
}
