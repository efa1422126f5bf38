//! `fvm webtest status`, `results`, `report`.

use super::progress::line;
use super::{DONE, FAILED, Failure, json, places, say};
use fvm_webtest::args::{Choose, Global, Kinds, Report, Results};
use fvm_webtest::db::{Filter, Queue, Row, word};
use fvm_webtest::report::{self, ReportError, Source, escape, stored};
use fvm_webtest::runner::Progress;
use serde_json::json as object;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

pub fn status(global: &Global, run: Option<i64>) -> Result<u8, Failure> {
    let queue = places::db(global, false)?;
    if let Some(id) = run {
        return one(global, &*queue, id);
    }
    let runs = queue.runs()?;
    for run in &runs {
        let counts = queue.counts(run.id)?;
        if global.json {
            json(&object!({"run": run, "counts": counts}))?;
        } else {
            let state = if run.ended_ms.is_some() { "ended" } else { "open" };
            let progress = Progress { run: run.id, counts, per_minute: None, eta_s: None };
            println!("{} {state} {}", report::time(run.began_ms), line(&progress));
        }
    }
    if runs.is_empty() {
        say(global, "there is no run yet: 'fvm webtest run'");
    }
    Ok(DONE)
}

fn one(global: &Global, queue: &dyn Queue, id: i64) -> Result<u8, Failure> {
    let run = queue.run(Some(id))?;
    let (counts, workers, speed) = (queue.counts(id)?, queue.workers(id)?, report::speed(queue, &run)?);
    if global.json {
        json(&object!({"run": run, "counts": counts, "workers": workers, "speed": speed}))?;
        return Ok(DONE);
    }
    println!("{}", line(&Progress { run: id, counts, per_minute: None, eta_s: None }));
    println!("{}", speed.line());
    for worker in workers {
        let (host, silent) = (escape::terminal(&worker.host), worker.silent_ms / 1_000);
        println!("worker {host} {}: {} VMs, seen {silent} s ago", worker.pid, worker.concurrent);
    }
    println!("{}", serde_json::to_string(&run.params).unwrap_or_default());
    Ok(DONE)
}

fn filter(choose: &Choose, site: Option<i64>) -> Filter {
    Filter { kinds: choose.verdict.clone(), text: choose.search.clone(), tag: choose.tag.clone(), site }
}

pub fn results(global: &Global, args: &Results) -> Result<u8, Failure> {
    if let Some(name) = &args.file {
        let Some(bytes) = places::store(global)?.get(name)? else {
            return Err(Failure::new(
                format!("there is no file {name}"),
                "'fvm webtest results --site N' names those of a site",
            ));
        };
        io::stdout().lock().write_all(&bytes)?;
        return Ok(DONE);
    }
    let queue = places::db(global, false)?;
    let run = queue.run(args.which.run)?;
    let rows = queue.results(run.id, &filter(&args.filter, args.site), None, args.limit)?;
    if let Some(site) = args.site {
        let Some(row) = rows.first() else {
            return Err(Failure::new(
                format!("site {site} has no result in run {}", run.id),
                "'fvm webtest results' lists them",
            ));
        };
        let outcome = match &row.outcome {
            Some(name) => Some(stored::get(&*places::store(global)?, name)?),
            None => None,
        };
        let mut out = io::stdout().lock();
        let text = serde_json::to_string_pretty(&object!({"row": row, "outcome": outcome})).map_err(io::Error::from)?;
        writeln!(out, "{}", escape::json(&text))?;
        return Ok(DONE);
    }
    for row in &rows {
        if global.json { json(row)? } else { text(row)? }
    }
    if rows.is_empty() {
        say(global, "no result is like that");
    } else if rows.len() as u64 == u64::from(args.limit) {
        say(global, "there may be more: --limit");
    }
    Ok(DONE)
}

fn text(row: &Row) -> io::Result<()> {
    let why = row.reasons.first().map_or(String::new(), |reason| format!("  {}", escape::terminal(&reason.text)));
    writeln!(io::stdout().lock(), "{:>6}  {:<10}  {}{why}", row.site, word(row.verdict), escape::terminal(&row.url))
}

pub fn report(global: &Global, args: &Report) -> Result<u8, Failure> {
    let queue = places::db(global, false)?;
    let store = places::store(global)?;
    let run = queue.run(args.which.run)?;
    let source = Source { queue: &*queue, store: &*store, run: &run, filter: filter(&args.filter, None) };
    let count = match (args.format, &args.to) {
        (Kinds::Html, None) => return Err(Failure::new("a report as pages needs a place", "--to DIRECTORY")),
        (Kinds::Html, Some(to)) => report::html(&source, to)?,
        (format, Some(to)) => whole(to, |out| write(format, &source, out))?,
        (format, None) => write(format, &source, &mut BufWriter::new(io::stdout().lock()))?,
    };
    if let Some(to) = &args.to {
        let index = if args.format == Kinds::Html { to.join("index.html") } else { to.clone() };
        if global.json {
            json(&object!({"report": index, "count": count, "run": run.id}))?;
        } else {
            println!("{}", index.display());
        }
    }
    say(global, &report::speed(&*queue, &run)?.line());
    Ok(if count == 0 { FAILED } else { DONE })
}

fn write(format: Kinds, source: &Source<'_>, out: &mut dyn Write) -> Result<u64, ReportError> {
    let count = match format {
        Kinds::Csv => report::table(source, out)?,
        Kinds::Stix => report::stix(source, out)?,
        Kinds::Html | Kinds::Jsonl => report::jsonl(source, out)?,
    };
    out.flush().map_err(|e| ReportError::Write { place: "the output".into(), why: e.to_string() })?;
    Ok(count)
}

/// Writes a file that is there whole or as it was.
fn whole(to: &Path, work: impl FnOnce(&mut dyn Write) -> Result<u64, ReportError>) -> Result<u64, ReportError> {
    let failed = |e: io::Error| ReportError::Write { place: to.display().to_string(), why: e.to_string() };
    let mut unready = to.as_os_str().to_owned();
    unready.push(format!(".{}", std::process::id()));
    let mut out = BufWriter::new(File::create_new(&unready).map_err(failed)?);
    let written = work(&mut out).and_then(|count| {
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().and_then(|()| std::fs::rename(&unready, to)).map_err(failed)?;
        Ok(count)
    });
    if written.is_err() {
        let _gone = std::fs::remove_file(&unready);
    }
    written
}
