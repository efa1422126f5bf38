//! The tables of the book: written by this program, never by hand.
//!
//! ```text
//!   <!-- bench start begin -->
//!   what Report::markdown says
//!   <!-- bench start end -->
//! ```
//!
//! Invariant: nothing outside the two lines changes; a page without them is an error.

use crate::error::Error;
use crate::report::Report;
use std::path::Path;

/// Replaces what stands between the benchmark's markers in `page`.
///
/// # Errors
/// When the page cannot be read or written, or has no such markers.
pub fn rewrite(page: &Path, report: &Report) -> Result<(), Error> {
    let text = std::fs::read_to_string(page).map_err(Error::file("read", page))?;
    let (begin, end) = markers(&report.place());
    let new = replaced(&text, &begin, &end, &report.markdown())
        .ok_or_else(|| Error::Marker { path: page.to_owned(), marker: begin })?;
    std::fs::write(page, new).map_err(Error::file("write", page))
}

fn markers(name: &str) -> (String, String) {
    (format!("<!-- bench {name} begin -->\n"), format!("<!-- bench {name} end -->\n"))
}

fn replaced(text: &str, begin: &str, end: &str, new: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}{new}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let (begin, end) = markers("start");
        let page = format!("# A\n{begin}old\nold\n{end}rest\n");
        let expected = format!("# A\n{begin}new\n{end}rest\n");
        assert_eq!(replaced(&page, &begin, &end, "new\n"), Some(expected));
        assert_eq!(replaced("# A\n", &begin, &end, "new\n"), None);
    }

    #[test]
    fn the_book_has_a_place_for_each_benchmark() {
        let options = crate::args::Options::parse(["start".into()]).unwrap();
        let text = std::fs::read_to_string(options.book_path()).unwrap();
        let parts = crate::args::Part::ALL.map(|part| format!("trace {}", part.name()));
        for name in ["start", "density", "steady", "commit", "scan", "guard", "visits"]
            .into_iter()
            .chain(parts.iter().map(String::as_str))
        {
            let (begin, end) = markers(name);
            assert!(replaced(&text, &begin, &end, "").is_some(), "{name}");
        }
    }
}
