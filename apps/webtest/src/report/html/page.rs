//! A site's page: the verdict, pictures, what changed in the VM, what ran, then what the page itself did.

use super::{FOOT, head, tree};
use crate::db::{Row, Run, word};
use crate::model::{Ended, Observation, Outcome, Reason};
use crate::report::escape::{html, html_cut};
use crate::report::time;
use std::fmt::Write as _;

/// So much of one text is shown.
const TEXT: usize = 1_000;

/// The page of a site.
pub fn page(
    run: &Run,
    row: &Row,
    outcome: &Result<Outcome, String>,
    first: Option<&str>,
    last: Option<&str>,
) -> String {
    let mut out = head(&html_cut(&row.url, 100), "../");
    let kind = word(row.verdict);
    let _infallible = write!(
        out,
        "<header><p><a href=\"../index.html\">Run {}</a></p><h1><span class=\"badge {kind}\">{kind}</span> <code>{}</code></h1></header>\n<main>",
        run.id,
        html_cut(&row.url, TEXT)
    );
    reasons(&mut out, outcome.as_ref().map_or(&row.reasons, |outcome| &outcome.verdict.reasons));
    pictures(&mut out, first, last);
    match outcome {
        Ok(outcome) => {
            facts(&mut out, row, &outcome.seen);
            of_the_vm(&mut out, &outcome.seen);
            of_the_page(&mut out, &outcome.seen);
        }
        Err(why) => {
            let _infallible = write!(out, "<p class=\"bad\">What was seen is not there: {}</p>", html(why));
        }
    }
    out += "</main>\n";
    out + FOOT
}

fn reasons(out: &mut String, reasons: &[Reason]) {
    if reasons.is_empty() {
        *out += "<section><h2>Why</h2><p>Nothing but the usual was seen.</p></section>\n";
        return;
    }
    *out += "<section><h2>Why</h2><ul class=\"reasons\">";
    for reason in reasons.iter().take(100) {
        let kind = word(reason.kind);
        let _infallible = write!(
            out,
            "<li><span class=\"badge {kind}\">{kind}</span> {} <small>{}</small>",
            html_cut(&reason.text, TEXT),
            html_cut(&reason.rule, 100)
        );
        if !reason.evidence.is_empty() {
            let evidence: Vec<String> = reason.evidence.iter().take(20).map(|text| html_cut(text, 300)).collect();
            let _infallible = write!(out, "<ul><li><code>{}</code></li></ul>", evidence.join("</code></li><li><code>"));
        }
        *out += "</li>";
    }
    *out += "</ul></section>\n";
}

fn pictures(out: &mut String, first: Option<&str>, last: Option<&str>) {
    let shown: Vec<(&str, &str)> = match (first, last) {
        (Some(first), Some(last)) if first != last => vec![("when it had loaded", first), ("at the end", last)],
        (one, other) => other.or(one).map(|file| ("at the end", file)).into_iter().collect(),
    };
    if shown.is_empty() {
        return;
    }
    *out += "<section><h2>Screenshots</h2><div class=\"pictures\">";
    for (when, file) in shown {
        let _infallible = write!(
            out,
            "<figure><a href=\"../files/{file}\"><img src=\"../files/{file}\" alt=\"the page {when}\"></a><figcaption>{when}</figcaption></figure>"
        );
    }
    *out += "</div></section>\n";
}

fn facts(out: &mut String, row: &Row, seen: &Observation) {
    let how = match &seen.ended {
        Ended::Done => "loaded, waited for and looked at".to_owned(),
        Ended::NeverLoaded => "it never loaded; what was there was looked at".into(),
        Ended::TimedOut => "the visit had to be ended".into(),
        Ended::NotReached { why } => format!("not reached: {why}"),
        Ended::RendererCrashed => "its renderer crashed".into(),
        Ended::BrowserCrashed => "the browser crashed".into(),
        Ended::OutOfMemory => "the VM had no memory left".into(),
        Ended::DiskFull => "the VM had taken all the disk that it may".into(),
        Ended::Failed { why } => format!("the visit failed: {why}"),
    };
    let ms = |ms: f64| format!("{:.2} s", ms / 1e3);
    let cells: Vec<(&str, String)> = vec![
        ("Title", seen.title.clone()),
        ("Ended", how),
        ("Final address", seen.final_url.clone()),
        ("Browser", format!("{} ({})", seen.browser, row.tier)),
        ("Exit", seen.exit.clone().unwrap_or_default()),
        ("Recorded", format!("{}, try {}, by {}", time(row.at_ms), row.attempt, row.worker)),
        ("Load", seen.load_ms.map_or(String::new(), ms)),
        (
            "In all",
            format!("{}, of that the VM {:.1} ms, ready after {}", ms(seen.took_ms), seen.vm_ms, ms(seen.ready_ms)),
        ),
        ("Processor", ms(seen.cpu_ms)),
        ("Memory", seen.memory_bytes.map_or(String::new(), size)),
        ("How it fought", fights(seen)),
        ("Cut", seen.cut.join(", ")),
        ("DOM", seen.artifacts.dom.clone().unwrap_or_default()),
        ("HAR", seen.artifacts.har.clone().unwrap_or_default()),
    ];
    *out += "<section><h2>Visit</h2><table class=\"facts\">";
    for (name, value) in cells.iter().filter(|(_, value)| !value.is_empty()) {
        let _infallible = write!(out, "<tr><th>{name}<td>{}</tr>", html_cut(value, TEXT));
    }
    *out += "</table></section>\n";
}

fn fights(seen: &Observation) -> String {
    let f = &seen.fights;
    let mut said: Vec<String> = [
        (f.dialogs, "dialogs"),
        (f.popups, "windows"),
        (f.navigations, "navigations"),
        (f.logins, "asked for a password"),
        (f.prints, "asked to print"),
        (f.workers, "workers"),
    ]
    .iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| format!("{what}: {n}"))
    .collect();
    said.extend(f.spun.then(|| "used all of its processor".into()));
    said.extend(f.swelled.then(|| "wanted more memory than it was given".into()));
    said.join(", ")
}

fn of_the_vm(out: &mut String, seen: &Observation) {
    let text = |text: &str| html_cut(text, TEXT);
    let maybe = |text: &Option<String>| html_cut(text.as_deref().unwrap_or_default(), TEXT);
    list(
        out,
        "Changes outside the browser's places",
        "path|what|starts by itself|by",
        seen.wrote.iter().map(|w| {
            [
                code(&w.path),
                text(&w.what),
                (if w.persistent { "<b class=\"bad\">yes</b>" } else { "" }).into(),
                maybe(&w.by),
            ]
        }),
    );
    list(
        out,
        "Programs that are not the browser's",
        "program|command line|started by|events",
        seen.ran.iter().map(|r| {
            let events: Vec<String> = r.events.iter().take(20).map(u64::to_string).collect();
            [code(&r.exe), code(&r.command), maybe(&r.parent), events.join(", ")]
        }),
    );
    list(
        out,
        "Connections that are not the browser's",
        "protocol|to|program|began",
        seen.foreign.iter().map(|f| [text(&f.protocol), code(&f.to), maybe(&f.program), code(&f.began)]),
    );
    list(
        out,
        "Connections that no page makes a browser ask for",
        "what|to|began",
        seen.odd.iter().map(|f| [text(&f.protocol), code(&f.to), code(&f.began)]),
    );
    list(out, "Ports on which something listened", "port", seen.listened.iter().map(|port| [code(port)]));
    list(
        out,
        "Findings of the behaviour log",
        "rule|severity|what",
        seen.findings.iter().map(|(rule, severity, words)| [text(rule), text(severity), text(words)]),
    );
    list(
        out,
        "Downloads",
        "name|size|type|SHA-256|unasked|from",
        seen.downloads.iter().map(|d| {
            let asked = if d.automatic { "yes" } else { "" };
            [
                code(&d.name),
                size(d.bytes),
                maybe(&d.mime),
                code(d.sha256.as_deref().unwrap_or_default()),
                asked.into(),
                code(&d.url),
            ]
        }),
    );
    if seen.lost_events > 0 {
        let _infallible = write!(out, "<p class=\"bad\">{} events of the log were lost.</p>", seen.lost_events);
    }
}

fn of_the_page(out: &mut String, seen: &Observation) {
    let text = |text: &str| html_cut(text, TEXT);
    list(out, "Redirections", "address", seen.redirects.iter().map(|url| [code(url)]));
    if !seen.requests.is_empty() {
        let n = seen.requests.len();
        let _infallible = writeln!(
            out,
            "<section><details open><summary><h2>Requests <small>{n}</small></h2></summary>{}</details></section>",
            tree::tree(&seen.requests)
        );
    }
    list(
        out,
        "Certificates",
        "host|for|signed by|from|until|fault",
        seen.certificates.iter().map(|c| {
            let day = |s: i64| {
                time(s.clamp(-62_000_000_000, 250_000_000_000) * 1_000).split('T').next().unwrap_or_default().to_owned()
            };
            [
                code(&c.host),
                text(&c.subject),
                text(&c.issuer),
                day(c.from),
                day(c.until),
                text(c.error.as_deref().unwrap_or_default()),
            ]
        }),
    );
    list(
        out,
        "Cookies",
        "name|domain|path",
        seen.cookies.iter().map(|(name, domain, path)| [code(name), code(domain), code(path)]),
    );
    list(out, "Console", "line", seen.console.iter().map(|line| [code(line)]));
}

/// A table, folded if it is long; nothing if it is empty.
fn list<const N: usize>(out: &mut String, title: &str, heads: &str, rows: impl ExactSizeIterator<Item = [String; N]>) {
    let count = rows.len();
    if count == 0 {
        return;
    }
    let open = if count <= 30 { " open" } else { "" };
    let heads = heads.replace('|', "<th>");
    let _infallible = write!(
        out,
        "<section><details{open}><summary><h2>{title} <small>{count}</small></h2></summary><table><thead><tr><th>{heads}</tr></thead><tbody>"
    );
    for row in rows {
        let _infallible = writeln!(out, "<tr><td>{}</tr>", row.join("<td>"));
    }
    *out += "</tbody></table></details></section>\n";
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("<code>{}</code>", html_cut(text, TEXT)) }
}

/// Bytes, for people.
pub fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let b = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", b / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", b / 1e6),
        _ => format!("{:.1} GB", b / 1e9),
    }
}
