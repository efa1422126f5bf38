//! A report as static pages: no server, no network, nothing of a site's own.
//!
//! ```text
//!  <to>/index.html, index-2.html, ...   so many rows each, the worst first; filter and search (script.js)
//!       sites/<number>.html             one each
//!       files/<sha256>.png|jpg|webp     pictures
//!       style.css, script.js            ours
//!       .fvm-webtest-report             says that this is one, so that it may be written anew
//! ```
//!
//! Invariants: pages say with a content security policy that nothing but these files is loaded or run; a site's number names its page,
//! a picture's hash its file; no link leads out; a picture is copied if its first bytes say that it is one, and never as SVG.

mod index;
mod page;
mod tree;

use super::{ReportError, Source, speed};
use crate::db::Row;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// So many rows are on one page of the index.
const ROWS: usize = 5_000;
/// What a directory has that holds a report.
const MARK: &str = ".fvm-webtest-report";

/// What every page begins with.
fn head(title: &str, up: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"referrer\" content=\"no-referrer\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title><link rel=\"stylesheet\" href=\"{up}style.css\"></head>\n<body>\n"
    )
}

const FOOT: &str = "</body></html>\n";

/// Writes a report into `to`, and returns how many sites are in it.
///
/// # Errors
/// When the database fails, or it cannot be written, or something else is there.
pub fn html(source: &Source<'_>, to: &Path) -> Result<u64, ReportError> {
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).map_err(|e| ReportError::Write { place: path.display().to_string(), why: e.to_string() })
    };
    let make = |path: &Path| {
        fs::create_dir_all(path)
            .map_err(|e| ReportError::Write { place: path.display().to_string(), why: e.to_string() })
    };
    make(to)?;
    let empty = fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_none());
    if !empty && !to.join(MARK).is_file() {
        return Err(ReportError::Occupied { place: to.display().to_string() });
    }
    write(&to.join(MARK), b"1\n")?;
    for dir in ["sites", "files"] {
        // What an earlier report left would look like this one's.
        if to.join(dir).symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            fs::remove_dir_all(to.join(dir))
                .map_err(|e| ReportError::Write { place: to.join(dir).display().to_string(), why: e.to_string() })?;
        }
        make(&to.join(dir))?;
    }
    write(&to.join("style.css"), include_bytes!("style.css"))?;
    write(&to.join("script.js"), include_bytes!("script.js"))?;
    let mut rows: Vec<(Row, Option<String>)> = Vec::new();
    let mut pages = 0;
    let mut copied: HashSet<String> = HashSet::new();
    let counts = source.queue.counts(source.run.id)?;
    let head_of_index = index::Head { run: source.run, counts: &counts, speed: &speed(source.queue, source.run)? };
    let flush = |rows: &mut Vec<(Row, Option<String>)>, pages: &mut usize, last: bool| {
        *pages += 1;
        let text = index::page(&head_of_index, rows, *pages, last);
        rows.clear();
        write(&to.join(index::name(*pages)), text.as_bytes())
    };
    let count = source.each(&mut |(row, outcome)| {
        if rows.len() == ROWS {
            flush(&mut rows, &mut pages, false)?;
        }
        let mut picture = |name: &Option<String>| -> Result<Option<String>, ReportError> {
            let Some(name) = name else { return Ok(None) };
            // One that is missing or damaged is not shown.
            let Ok(Some(bytes)) = source.store.get(name) else { return Ok(None) };
            let Some(kind) = picture_kind(&bytes) else { return Ok(None) };
            let file = format!("{name}.{kind}");
            if copied.insert(file.clone()) {
                write(&to.join("files").join(&file), &bytes)?;
            }
            Ok(Some(file))
        };
        let (first, last) = match &outcome {
            Ok(outcome) => (picture(&outcome.seen.artifacts.first)?, picture(&outcome.seen.artifacts.last)?),
            Err(_) => (None, None),
        };
        let text = page::page(source.run, &row, &outcome, first.as_deref(), last.as_deref());
        write(&to.join("sites").join(format!("{}.html", row.site)), text.as_bytes())?;
        rows.push((row, last.or(first)));
        Ok(())
    })?;
    flush(&mut rows, &mut pages, true)?;
    // Pages of an index that was longer.
    for n in pages + 1.. {
        if fs::remove_file(to.join(index::name(n))).is_err() {
            break;
        }
    }
    Ok(count)
}

/// What picture this is, by its first bytes.
fn picture_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        _ => None,
    }
}
