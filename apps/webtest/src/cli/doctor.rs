//! `fvm webtest doctor`: what this machine has and lacks for visits.

use super::{DONE, FAILED, Failure, json, places};
use fvm_webtest::args::Global;
use fvm_webtest::model::{Params, Tier};
use fvm_webtest::runner::{concurrent, has_way_out, machine};
use fvm_webtest::visit::VmVisitor;
use serde::Serialize;
use std::path::Path;

/// One thing.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    /// `ok`, `missing` (visits need it) or `note`.
    state: &'static str,
    text: String,
}

pub fn doctor(global: &Global) -> Result<u8, Failure> {
    let checks = [
        browser(Tier::Shell, "browser"),
        browser(Tier::Full, "full browser"),
        database(global),
        store(global),
        network(),
        room(),
    ];
    let is_missing = checks.iter().any(|check| check.state == "missing");
    if global.json {
        json(&serde_json::json!({"checks": checks}))?;
    } else {
        for Check { name, state, text } in &checks {
            println!("{state:<8} {name:<13} {text}");
        }
        println!("'fvm doctor' says what this machine has for VMs");
    }
    Ok(if is_missing { FAILED } else { DONE })
}

fn browser(tier: Tier, name: &'static str) -> Check {
    match VmVisitor::browsers(tier) {
        Ok(found) => {
            let files: Vec<String> = found.iter().map(|browser| browser.file.display().to_string()).collect();
            Check { name, state: "ok", text: files.join(", ") }
        }
        Err(e) => Check { name, state: if tier == Tier::Shell { "missing" } else { "note" }, text: e.to_string() },
    }
}

fn database(global: &Global) -> Check {
    let name = "database";
    let place = match places::db_place(global) {
        Ok(place) => place,
        Err(e) => return Check { name, state: "missing", text: e.text },
    };
    if !place.starts_with("postgres") && !Path::new(&place).exists() {
        return Check { name, state: "note", text: format!("{place} will be made by 'fvm webtest import'") };
    }
    match places::db(global, false) {
        Ok(queue) => Check { name, state: "ok", text: queue.place() },
        Err(e) => Check { name, state: "missing", text: e.text },
    }
}

fn store(global: &Global) -> Check {
    let name = "results";
    // That something can be written shows only when it is.
    let tried = places::store(global).and_then(|store| Ok(store.put(b"fvm webtest doctor\n")?));
    match tried {
        Ok(_) => Check { name, state: "ok", text: places::store_place(global).unwrap_or_default() },
        Err(e) => Check { name, state: "missing", text: e.text },
    }
}

fn network() -> Check {
    let (state, text) = if has_way_out() {
        ("ok", "there is a default route".into())
    } else {
        ("note", "no default route: only a mirror (--replay DIR) can be visited".to_owned())
    };
    Check { name: "network", state, text }
}

fn room() -> Check {
    let machine = machine();
    let many = |wait_s| concurrent(&Params { wait_s, ..Params::default() }, machine);
    let gib = machine.memory_bytes >> 20;
    let text = format!(
        "{} processors, {gib} MiB free: {} VMs at once with 10 s of waiting, {} with 120 s",
        machine.cores,
        many(10),
        many(120)
    );
    Check { name: "room", state: "ok", text }
}
