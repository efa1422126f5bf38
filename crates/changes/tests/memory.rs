//! The memory of a scan does not grow with the number of changes. The only test of its process: all memory is its own.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use common::Overlay;
use fvm_changes::text::diff_seen;
use fvm_changes::{Seen, Sheet, prepare};
use fvm_model::vm::XattrClass::User;
use std::ops::ControlFlow;

/// A line of `/proc/self/status`, in KiB.
fn memory_kib(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").parse().unwrap()
}

/// By how much memory grows at most while files in so many directories are compared, as `fvm diff` does.
fn growth_kib(dirs: usize, files: usize) -> usize {
    let overlay = Overlay::new(User, "true");
    for dir in 0..dirs {
        let path = overlay.path("layer/upper").join(format!("d{dir}"));
        std::fs::create_dir(&path).unwrap();
        for file in 0..files / dirs {
            std::fs::File::create(path.join(format!("file-{file:07}"))).unwrap();
        }
    }
    let input = overlay.input();
    // The highest mark is set back to what is in use.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_kib("VmRSS");
    let mut count = 0;
    let look = |seen: Seen<'_>, _: &mut Sheet| Some(diff_seen(&input, &seen).unwrap().is_some());
    let rest = prepare(&input).unwrap().stream(look, |is_file, _| {
        count += usize::from(is_file);
        ControlFlow::Continue(())
    });
    assert!(rest.unwrap().warnings.is_empty());
    assert_eq!(count, files / dirs * dirs);
    memory_kib("VmHWM").saturating_sub(before)
}

#[test]
fn ten_times_as_many_changes_take_no_more_memory_but_for_the_names_of_one_directory() {
    let few = growth_kib(50, 5_000);
    let many = growth_kib(500, 50_000);
    let wide = growth_kib(1, 50_000);
    println!("{few} KiB for 5,000; {many} KiB for 50,000 in 500 directories, {wide} KiB in one");
    // 8 bytes per file, to find hard links, in a vector that grows; a change alone would take some hundred.
    assert!(many < few + 4 * 1024, "{few} KiB for 5,000 files and {many} KiB for 50,000 in 500 directories");
    // And the names, twice while their vector grows.
    assert!(wide < few + 8 * 1024, "{few} KiB for 5,000 files and {wide} KiB for 50,000 in one directory");
}
