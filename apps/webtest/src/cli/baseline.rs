//! `fvm webtest baseline`: what browsers write by themselves.

use super::{DONE, FAILED, Failure, json, places, run, say};
use crate::visitor::{self, Parts};
use fvm_webtest::args::{Baseline, Global};
use fvm_webtest::baseline::{Learnt, learn};
use fvm_webtest::model::{Ended, Observation, Task, Tier};
use fvm_webtest::report::escape;
use std::sync::atomic::{AtomicBool, Ordering};

pub fn baseline(global: &Global, args: &Baseline) -> Result<u8, Failure> {
    let parts = Parts::new(global)?;
    let signals = run::signals()?;
    let params = args.visits.params();
    let store = places::store(global)?;
    let pair = visitor::visitor(&parts, &params, &args.out)?;
    let tiers = match params.tier {
        Tier::Auto => vec![Tier::Shell, Tier::Full],
        one => vec![one],
    };
    let mut seen: Vec<Observation> = Vec::new();
    let stop = AtomicBool::new(false);
    for tier in tiers {
        for url in args.pages.iter().cycle().take(args.pages.len() * args.times as usize) {
            if signals.load(Ordering::Relaxed) > 0 {
                return Err(Failure::new("interrupted: nothing was learnt", "begin anew"));
            }
            let task = Task { run: 0, site: 0, url: url.clone(), attempt: 1, lease: String::new(), tier };
            let visit = pair.visits.visit(&task, &*store, &stop);
            if visit.ended != Ended::Done {
                let how = escape::terminal(&format!("{:?}", visit.ended));
                return Err(Failure::new(
                    format!("{url} was not visited as a benign page is: {how}"),
                    "take pages that load",
                ));
            }
            if !visit.ran.is_empty() || !visit.foreign.is_empty() {
                let hint = "whatever this page does, it is no page to learn from: see 'fvm webtest run' of it";
                return Err(Failure::new(format!("{url} ran programs, or something else connected"), hint));
            }
            seen.push(visit);
        }
    }
    let mut all = places::baselines()?;
    let mut is_empty = true;
    for key in pair.keys {
        let of_it: Vec<Observation> = seen.iter().filter(|visit| visit.browser == key.browser).cloned().collect();
        if of_it.is_empty() {
            continue;
        }
        is_empty = false;
        let (learnt, left) = learn(key, &of_it);
        tell(global, &learnt, &left)?;
        all.retain(|other| other.key != learnt.key);
        all.push(learnt);
    }
    places::keep_baselines(&all)?;
    Ok(if is_empty { FAILED } else { DONE })
}

fn tell(global: &Global, learnt: &Learnt, left: &[String]) -> Result<(), Failure> {
    if global.json {
        json(&serde_json::json!({"learnt": learnt, "left_out": left}))?;
        return Ok(());
    }
    println!("{}: {} places, from {} visits", escape::terminal(&learnt.key.browser), learnt.globs.len(), learnt.runs);
    for glob in &learnt.globs {
        println!("  {}", escape::terminal(glob));
    }
    for path in left {
        say(global, &format!("  left out: {}", escape::terminal(path)));
    }
    Ok(())
}
