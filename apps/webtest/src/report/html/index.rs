//! The index: what a run came to, then a row for each site.

use super::{FOOT, ROWS, head};
use crate::db::{Counts, Row, Run, word};
use crate::model::Kind;
use crate::report::escape::{html, html_cut};
use crate::report::{Speed, time};
use std::fmt::Write as _;

/// What stands above the rows.
pub struct Head<'h> {
    pub run: &'h Run,
    pub counts: &'h Counts,
    pub speed: &'h Speed,
}

/// The worst first.
pub const KINDS: [Kind; 5] = [Kind::Malicious, Kind::Suspicious, Kind::Unknown, Kind::Error, Kind::Clean];

/// The name of the index's page `n`, from 1.
pub fn name(n: usize) -> String {
    if n == 1 { "index.html".into() } else { format!("index-{n}.html") }
}

/// Page `n`.
pub fn page(of: &Head<'_>, rows: &[(Row, Option<String>)], n: usize, last: bool) -> String {
    let mut out = head(&format!("Run {}", of.run.id), "");
    summary(&mut out, of);
    out += "<nav id=\"filter\"><button data-kind=\"\" class=\"on\">all</button>";
    for kind in KINDS {
        let word = word(kind);
        let _infallible = write!(out, "<button data-kind=\"{word}\" class=\"{word}\">{word}</button>");
    }
    out += "<input id=\"search\" type=\"search\" placeholder=\"search address, title, reason\" autocomplete=\"off\" spellcheck=\"false\">\
            <span id=\"shown\"></span></nav>\n";
    if n > 1 || !last {
        let from = (n - 1) * ROWS + 1;
        let _infallible = write!(
            out,
            "<p class=\"pages\">Rows {from} to {} of all, the worst first; filter and search are of this page.",
            from + rows.len() - 1
        );
        if n > 1 {
            let _infallible = write!(out, " <a href=\"{}\">before</a>", name(n - 1));
        }
        if !last {
            let _infallible = write!(out, " <a href=\"{}\">next</a>", name(n + 1));
        }
        out += "</p>\n";
    }
    out += "<table id=\"sites\"><thead><tr><th>verdict<th>screenshot<th>site<th>why<th>ended<th>load<th>requests<th>downloads</tr></thead><tbody>\n";
    for (site, picture) in rows {
        row(&mut out, site, picture.as_deref());
    }
    out += "</tbody></table>\n<p id=\"none\" hidden>No site on this page is like that.</p>\n<script src=\"script.js\"></script>\n";
    out + FOOT
}

fn summary(out: &mut String, of: &Head<'_>) {
    let (run, counts) = (of.run, of.counts);
    let ended = run.ended_ms.map_or("not ended".into(), time);
    let _infallible = write!(
        out,
        "<header><h1>Run {} <small>{} \u{2013} {}</small></h1>\n<div class=\"cards\">",
        run.id,
        cut_time(&time(run.began_ms)),
        cut_time(&ended)
    );
    for kind in KINDS {
        let _infallible = write!(out, "<div class=\"card {0}\"><b>{1}</b>{0}</div>", word(kind), counts.of(kind));
    }
    let left = counts.total.saturating_sub(counts.done());
    if left > 0 {
        let _infallible = write!(out, "<div class=\"card\"><b>{left}</b>not visited yet</div>");
    }
    let params = serde_json::to_string_pretty(&run.params).unwrap_or_default();
    let versions = &run.versions;
    let _infallible = write!(
        out,
        "</div>\n<p class=\"speed\">{}</p>\n<details><summary>Parameters and versions</summary><p>fvm {}, {}, Linux {}</p>\
         <pre>{}</pre></details></header>\n",
        html(&of.speed.line()),
        html(&versions.fvm),
        html(versions.browser.as_deref().unwrap_or("browser: see each site")),
        html(&versions.kernel),
        // Line breaks are ours.
        params.lines().map(html).collect::<Vec<_>>().join("\n"),
    );
}

fn cut_time(text: &str) -> String {
    text.split('.').next().unwrap_or_default().replace('T', " ")
}

fn row(out: &mut String, row: &Row, picture: Option<&str>) {
    let word = word(row.verdict);
    let picture = picture.map_or(String::new(), |file| {
        format!("<img src=\"files/{file}\" alt=\"\" loading=\"lazy\" width=\"96\" height=\"60\">")
    });
    let why = row.reasons.first().map_or(String::new(), |reason| html_cut(&reason.text, 200));
    let more = match row.reasons.len() {
        0 | 1 => String::new(),
        n => format!(" <small>and {} more</small>", n - 1),
    };
    let _infallible = writeln!(
        out,
        "<tr data-kind=\"{word}\"><td><span class=\"badge {word}\">{word}</span><td>{picture}<td><a href=\"sites/{}.html\">{}</a>\
         <div class=\"title\">{}</div><td>{why}{more}<td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}</tr>",
        row.site,
        html_cut(&row.url, 200),
        html_cut(&row.title, 120),
        html(&row.ended.replace('_', " ")),
        row.load_ms.map_or(String::new(), |ms| format!("{:.2} s", ms / 1e3)),
        row.requests,
        row.downloads,
    );
}
