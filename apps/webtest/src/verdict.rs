//! What is said of a site, from what its visit showed: pure, one rule after another.
//!
//! ```text
//!   Observation ─► rules ─► reasons, the worst first ─► the kind of the worst
//!                           malicious > suspicious > unknown > error > clean
//! ```
//!
//! Invariants: what was not seen whole is never clean; a reason names what it was seen in; a site is called malicious only for what was
//! done to the VM, never for what its page says or looks like.

use crate::baseline::Baseline;
use crate::model::{DIALOGS_MAX, Download, Ended, Kind, Observation, POPUPS_MAX, REDIRECTS_MAX, Reason, Verdict};
use std::collections::BTreeSet;

/// From so many addresses on, one after another, a page never stays: half of what is followed, for it may be slow.
const MOVES_MAX: usize = REDIRECTS_MAX / 2;
/// So many pieces of evidence stand in one reason.
const EVIDENCE_MAX: usize = 20;

/// A rule: what its reason is called, what it makes of a site, in words, and where it is seen.
struct Rule {
    id: &'static str,
    kind: Kind,
    text: &'static str,
    evidence: fn(&Observation, &Baseline) -> Vec<String>,
}

/// All rules, in the order in which reasons of one kind stand.
const RULES: &[Rule] = &[
    Rule {
        id: "foreign-program",
        kind: Kind::Malicious,
        text: "a program ran in the VM that is not the browser's",
        evidence: |seen, _| seen.ran.iter().map(|ran| format!("{}: {}", ran.exe, ran.command)).collect(),
    },
    Rule {
        id: "persistence",
        kind: Kind::Malicious,
        text: "something was put where it starts by itself",
        evidence: |seen, _| seen.wrote.iter().filter(|w| w.persistent).map(|w| w.path.clone()).collect(),
    },
    Rule {
        id: "wrote-outside",
        kind: Kind::Malicious,
        text: "files were changed that are not the browser's own",
        evidence: |seen, own| {
            let outside = seen.wrote.iter().filter(|w| !w.persistent && !own.covers(w.path.as_bytes(), false));
            outside.map(|w| format!("{} {}", w.what, w.path)).collect()
        },
    },
    Rule {
        id: "listener",
        kind: Kind::Malicious,
        text: "something in the VM waited for connections",
        evidence: |seen, _| seen.listened.clone(),
    },
    Rule {
        id: "foreign-connection",
        kind: Kind::Malicious,
        text: "something in the VM went past the browser to the net",
        evidence: |seen, _| {
            let who = |program: &Option<String>| program.clone().unwrap_or_else(|| "unknown".into());
            seen.foreign.iter().map(|f| format!("{} {} ({})", f.protocol, f.to, who(&f.program))).collect()
        },
    },
    Rule {
        id: "behaviour",
        kind: Kind::Malicious,
        text: "programs behaved as attacks do",
        evidence: |seen, _| {
            let is_critical = seen.findings.iter().any(|(_, severity, _)| severity == "critical");
            let high: BTreeSet<&str> = of_severity(seen, &["high"]).map(|(id, ..)| id.as_str()).collect();
            if is_critical || high.len() > 1 { findings(seen, &["critical", "high"]) } else { Vec::new() }
        },
    },
    Rule {
        id: "finding",
        kind: Kind::Suspicious,
        text: "programs did what good ones seldom do",
        evidence: |seen, _| findings(seen, &["high", "medium", "low"]),
    },
    Rule {
        id: "odd-connection",
        kind: Kind::Suspicious,
        text: "the browser's proxy was asked for a connection that no page makes a browser ask for",
        evidence: |seen, _| seen.odd.iter().map(|odd| format!("{} {} {}", odd.protocol, odd.to, odd.began)).collect(),
    },
    Rule {
        id: "automatic-download",
        kind: Kind::Suspicious,
        text: "a file was fetched that nobody had asked for",
        evidence: |seen, _| seen.downloads.iter().filter(|d| d.automatic).map(told).collect(),
    },
    Rule {
        id: "renderer-crash",
        kind: Kind::Suspicious,
        text: "the page's renderer died",
        evidence: |seen, _| when(matches!(seen.ended, Ended::RendererCrashed), seen),
    },
    Rule {
        id: "browser-crash",
        kind: Kind::Suspicious,
        text: "the browser died",
        evidence: |seen, _| when(matches!(seen.ended, Ended::BrowserCrashed), seen),
    },
    Rule {
        id: "memory",
        kind: Kind::Suspicious,
        text: "the page wanted more memory than it was given",
        evidence: |seen, _| when(seen.fights.swelled || matches!(seen.ended, Ended::OutOfMemory), seen),
    },
    Rule {
        id: "disk",
        kind: Kind::Suspicious,
        text: "the page wanted more of the disk than it was given",
        evidence: |seen, _| when(matches!(seen.ended, Ended::DiskFull), seen),
    },
    Rule {
        id: "processor",
        kind: Kind::Suspicious,
        text: "the page used all of the processor that it was given, and did not stop",
        evidence: |seen, _| when(seen.fights.spun, seen),
    },
    Rule {
        id: "dialogs",
        kind: Kind::Suspicious,
        text: "the page did not stop asking",
        evidence: |seen, _| when(seen.fights.dialogs >= DIALOGS_MAX, seen),
    },
    Rule {
        id: "windows",
        kind: Kind::Suspicious,
        text: "the page opened one window after another",
        evidence: |seen, _| when(seen.fights.popups > POPUPS_MAX, seen),
    },
    Rule {
        id: "never-stays",
        kind: Kind::Suspicious,
        text: "the page went from one address to the next without an end",
        evidence: |seen, _| {
            let is_reached = !matches!(seen.ended, Ended::NotReached { .. });
            when(is_reached && seen.redirects.len() >= MOVES_MAX, seen)
        },
    },
    Rule {
        id: "failed",
        kind: Kind::Unknown,
        text: "the visit could not be made",
        evidence: |seen, _| match &seen.ended {
            Ended::Failed { why } => vec![why.clone()],
            _ => Vec::new(),
        },
    },
    Rule {
        id: "timed-out",
        kind: Kind::Unknown,
        text: "the visit had to be ended before its time",
        evidence: |seen, _| when(matches!(seen.ended, Ended::TimedOut), seen),
    },
    Rule {
        id: "log-not-whole",
        kind: Kind::Unknown,
        text: "the behaviour log is not whole",
        evidence: |seen, _| match seen.lost_events {
            0 => Vec::new(),
            lost => vec![format!("{lost} events")],
        },
    },
    Rule {
        id: "not-reached",
        kind: Kind::Error,
        text: "the site could not be reached",
        evidence: |seen, _| match &seen.ended {
            Ended::NotReached { why } => vec![why.clone()],
            _ => Vec::new(),
        },
    },
    Rule {
        id: "no-answer",
        kind: Kind::Error,
        text: "the site did not answer in time",
        evidence: |seen, _| {
            let is_answered = seen.requests.iter().any(|request| request.status.is_some());
            when(matches!(seen.ended, Ended::NeverLoaded) && !is_answered, seen)
        },
    },
];

/// Says what a visit makes of its site. `own`: what the browser writes by itself.
#[must_use]
pub fn judge(seen: &Observation, own: &Baseline) -> Verdict {
    let mut reasons: Vec<Reason> = Vec::new();
    for rule in RULES {
        let mut evidence = (rule.evidence)(seen, own);
        if evidence.is_empty() {
            continue;
        }
        let more = evidence.len().saturating_sub(EVIDENCE_MAX);
        evidence.truncate(EVIDENCE_MAX);
        if more > 0 {
            evidence.push(format!("and {more} more"));
        }
        reasons.push(Reason { rule: rule.id.into(), kind: rule.kind, text: rule.text.into(), evidence });
    }
    reasons.sort_by_key(|reason| rank(reason.kind));
    Verdict { kind: reasons.first().map_or(Kind::Clean, |worst| worst.kind), reasons }
}

/// The worst comes first.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Malicious => 0,
        Kind::Suspicious => 1,
        Kind::Unknown => 2,
        Kind::Error => 3,
        Kind::Clean => 4,
    }
}

/// What has no better evidence is seen in the page itself.
fn when(is_so: bool, seen: &Observation) -> Vec<String> {
    if is_so { vec![seen.final_url.clone()] } else { Vec::new() }
}

fn of_severity<'a>(seen: &'a Observation, which: &'a [&str]) -> impl Iterator<Item = &'a (String, String, String)> {
    seen.findings.iter().filter(|(_, severity, _)| which.contains(&severity.as_str()))
}

fn findings(seen: &Observation, which: &[&str]) -> Vec<String> {
    of_severity(seen, which).map(|(id, severity, what)| format!("{id} ({severity}): {what}")).collect()
}

fn told(download: &Download) -> String {
    let mime = download.mime.as_deref().unwrap_or("not whole");
    format!("{} from {} ({mime}, {} bytes)", download.name, download.url, download.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Key, Learnt};
    use crate::model::{Fights, Foreign, Ran, Request, Wrote};

    fn own() -> Baseline {
        let learnt = Learnt { globs: vec!["/tmp/.org.chromium.*".into()], ..Learnt::default() };
        Baseline::new(&Key::default(), Some(&learnt)).unwrap()
    }

    fn finding(id: &str, severity: &str) -> (String, String, String) {
        (id.into(), severity.into(), "x".into())
    }

    #[test]
    fn each_rule_is_met_by_what_it_is_for_and_a_benign_page_by_none() {
        let base = || Observation {
            requests: vec![Request { status: Some(200), ..Request::default() }],
            final_url: "https://a/".into(),
            ..Observation::default()
        };
        let wrote = |path: &str, persistent| Wrote { path: path.into(), persistent, ..Wrote::default() };
        let fights = |fights| Observation { fights, ..base() };
        let ended = |ended| Observation { ended, ..base() };
        let download =
            |automatic| Observation { downloads: vec![Download { automatic, ..Download::default() }], ..base() };
        let cases: Vec<(&str, Observation, Kind, &[&str])> = vec![
            ("benign", base(), Kind::Clean, &[]),
            ("ran", Observation { ran: vec![Ran::default()], ..base() }, Kind::Malicious, &["foreign-program"]),
            ("autostart", Observation { wrote: vec![wrote("/x", true)], ..base() }, Kind::Malicious, &["persistence"]),
            ("outside", Observation { wrote: vec![wrote("/x", false)], ..base() }, Kind::Malicious, &["wrote-outside"]),
            ("own", Observation { wrote: vec![wrote("/tmp/.org.chromium.x", false)], ..base() }, Kind::Clean, &[]),
            ("port", Observation { listened: vec!["1".into()], ..base() }, Kind::Malicious, &["listener"]),
            (
                "connection",
                Observation { foreign: vec![Foreign::default()], ..base() },
                Kind::Malicious,
                &["foreign-connection"],
            ),
            (
                "critical",
                Observation { findings: vec![finding("a", "critical")], ..base() },
                Kind::Malicious,
                &["behaviour"],
            ),
            (
                "two high",
                Observation { findings: vec![finding("a", "high"), finding("b", "high")], ..base() },
                Kind::Malicious,
                &["behaviour", "finding"],
            ),
            (
                "one high twice",
                Observation { findings: vec![finding("a", "high"), finding("a", "high")], ..base() },
                Kind::Suspicious,
                &["finding"],
            ),
            ("low", Observation { findings: vec![finding("a", "low")], ..base() }, Kind::Suspicious, &["finding"]),
            ("odd", Observation { odd: vec![Foreign::default()], ..base() }, Kind::Suspicious, &["odd-connection"]),
            ("unasked", download(true), Kind::Suspicious, &["automatic-download"]),
            ("asked", download(false), Kind::Clean, &[]),
            ("renderer", ended(Ended::RendererCrashed), Kind::Suspicious, &["renderer-crash"]),
            ("browser", ended(Ended::BrowserCrashed), Kind::Suspicious, &["browser-crash"]),
            ("memory", ended(Ended::OutOfMemory), Kind::Suspicious, &["memory"]),
            ("disk", ended(Ended::DiskFull), Kind::Suspicious, &["disk"]),
            ("swelled", fights(Fights { swelled: true, ..Fights::default() }), Kind::Suspicious, &["memory"]),
            ("spun", fights(Fights { spun: true, ..Fights::default() }), Kind::Suspicious, &["processor"]),
            ("asks", fights(Fights { dialogs: DIALOGS_MAX, ..Fights::default() }), Kind::Suspicious, &["dialogs"]),
            (
                "asks a little",
                fights(Fights { dialogs: 3, prints: 1, logins: 1, ..Fights::default() }),
                Kind::Clean,
                &[],
            ),
            ("windows", fights(Fights { popups: POPUPS_MAX + 1, ..Fights::default() }), Kind::Suspicious, &["windows"]),
            ("a window", fights(Fights { popups: 1, workers: 2, ..Fights::default() }), Kind::Clean, &[]),
            (
                "moves",
                Observation { redirects: vec![String::new(); MOVES_MAX], ..base() },
                Kind::Suspicious,
                &["never-stays"],
            ),
            (
                "refers to itself",
                Observation {
                    redirects: vec![String::new(); MOVES_MAX],
                    ..ended(Ended::NotReached { why: "net::ERR_TOO_MANY_REDIRECTS".into() })
                },
                Kind::Error,
                &["not-reached"],
            ),
            ("failed", ended(Ended::Failed { why: "x".into() }), Kind::Unknown, &["failed"]),
            ("time", ended(Ended::TimedOut), Kind::Unknown, &["timed-out"]),
            ("lost", Observation { lost_events: 1, ..base() }, Kind::Unknown, &["log-not-whole"]),
            ("no name", ended(Ended::NotReached { why: "x".into() }), Kind::Error, &["not-reached"]),
            ("slow", ended(Ended::NeverLoaded), Kind::Clean, &[]),
            ("silent", Observation { requests: Vec::new(), ..ended(Ended::NeverLoaded) }, Kind::Error, &["no-answer"]),
        ];
        let mut met = BTreeSet::new();
        for (name, seen, kind, rules) in cases {
            let verdict = judge(&seen, &own());
            let of: Vec<&str> = verdict.reasons.iter().map(|reason| reason.rule.as_str()).collect();
            assert_eq!((verdict.kind, of.as_slice()), (kind, rules), "{name}");
            assert!(verdict.reasons.iter().all(|reason| !reason.evidence.is_empty()), "{name}");
            met.extend(rules.iter().copied());
        }
        assert_eq!(met, RULES.iter().map(|rule| rule.id).collect(), "a rule that no case meets");
    }

    #[test]
    fn the_worst_comes_first_and_evidence_has_an_end() {
        let seen = Observation {
            ended: Ended::TimedOut,
            ran: vec![Ran::default(); EVIDENCE_MAX + 5],
            downloads: vec![Download { automatic: true, ..Download::default() }],
            lost_events: 3,
            ..Observation::default()
        };
        let verdict = judge(&seen, &own());
        let rules: Vec<&str> = verdict.reasons.iter().map(|reason| reason.rule.as_str()).collect();
        assert_eq!(rules, ["foreign-program", "automatic-download", "timed-out", "log-not-whole"]);
        assert_eq!(verdict.reasons[0].evidence.last().map(String::as_str), Some("and 5 more"));
    }
}
