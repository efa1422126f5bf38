//! Where all that the VM saw of the host's is in its place, files of the VM's own are not asked whether they were the
//! host's: that must make no difference.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

#[allow(dead_code, reason = "each test file uses a part")]
mod common;
mod random;

use common::{Overlay, can};
use fvm_changes::scan;
use fvm_model::vm::XattrClass::Trusted;
use fvm_model::{ChangeSet, Timestamp};
use random::{any_script, next};
use rustix::fs::XattrFlags;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// So old the host is when a VM is forked: its times tell what was done since.
const AGE: Duration = Duration::from_millis(2200);

/// The changes, with every file asked: what was copied says nothing of when it was written, and this is from before.
fn all_asked(overlay: &Overlay) -> ChangeSet {
    let mut input = overlay.input();
    input.copied = Some(Timestamp { secs: 1, nanos: 0 });
    scan(&input).unwrap()
}

/// Gives an upper file the note of a copy of a host file that is gone.
fn mark_as_copied(file: &Path) {
    let note = [&[0, 0xfb, 29, 0, 1][..], &[7; 16], &[0xfe, 0xff, 0xff, 0x7f, 1, 0, 0, 0]].concat();
    rustix::fs::setxattr(file, "trusted.overlay.origin", &note, XattrFlags::empty()).unwrap();
}

/// The file `own` of the VM's, wherever it is.
fn own_file(overlay: &Overlay) -> PathBuf {
    let upper = overlay.path("layer/upper");
    ["new/own", "d/new/own"].map(|at| upper.join(at)).into_iter().find(|at| at.exists()).unwrap()
}

/// Whether a conflict is told of a file.
fn is_told(overlay: &Overlay, file: &Path, set: &ChangeSet) -> bool {
    let path = overlay.at(file.strip_prefix(overlay.path("layer/upper")).unwrap().to_str().unwrap());
    set.changes.iter().find(|change| change.path == path).unwrap().conflict.is_some()
}

/// Does it for each at once: most of it is waiting.
fn each<T: Sync>(of: &[T], check: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for part in of.chunks(of.len().div_ceil(8)) {
            let check = &check;
            scope.spawn(move || part.iter().for_each(check));
        }
    });
}

#[test]
fn root_what_random_vms_and_hosts_do_is_told_whether_files_are_asked_or_not() {
    if !can(Trusted) {
        return;
    }
    let seeds: u64 = std::env::var("FVM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    let (gone, skipped) = (AtomicU64::new(0), AtomicU64::new(0));
    each(&(1..=seeds).collect::<Vec<_>>(), |seed| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(*seed);
        let begin = format!("exec 2>&-; mkdir -p a/a/b b/b/a b/c c/a; {}", any_script(&mut state, 20));
        let overlay = Overlay::aged(Trusted, &begin, AGE);
        // New directories for it to move things to; few steps leave few traces.
        let steps = 1 + next(&mut state, 8);
        let vm = any_script(&mut state, steps).replace(" c", " new");
        let vm = format!("exec 2>&-; mkdir -p a/new b/new/a new/a || true; echo own > new/own || true\n{vm}");
        let host = match next(&mut state, 3) {
            0 => "true".to_owned(),
            _ => format!("exec 2>&-\n{}", any_script(&mut state, 6)),
        };
        overlay.vm(&vm);
        overlay.host(&host);
        let (got, want) = (overlay.scan(), all_asked(&overlay));
        assert_eq!(got, want, "seed {seed}\n{begin}\n-- vm\n{vm}\n-- host\n{host}");
        let is_gone = |change: &&fvm_model::Change| change.conflict.as_ref().is_some_and(|why| why.contains("deleted"));
        gone.fetch_add(want.changes.iter().filter(is_gone).count() as u64, Relaxed);
        let own = overlay.path("layer/upper/new/own");
        if own.is_file() {
            mark_as_copied(&own);
            skipped.fetch_add(u64::from(!is_told(&overlay, &own, &overlay.scan())), Relaxed);
        }
    });
    // Both are there: what is only known by asking, and VMs in which nothing is asked.
    let (gone, skipped) = (gone.into_inner(), skipped.into_inner());
    println!("{seeds} VMs: {gone} copies of what the host deleted; in {skipped} of them no own file is asked");
    assert!(gone > 0 && skipped > 0, "{gone} {skipped}");
}

#[test]
fn root_files_of_the_vms_own_are_asked_only_where_a_host_file_that_was_copied_may_be_gone() {
    if !can(Trusted) {
        return;
    }
    let rows = [
        // (what the VM does, what the host does, whether the file is asked)
        ("mkdir -p new/sub", "true", false),
        ("mkdir d/new; echo vm >>f", "echo host >>d/x", false),
        ("mkdir new d/other; chmod 700 e; echo vm >>g", "true", false),
        ("mkdir new; ln f new/f; mv g t; echo vm >g", "true", false),
        ("mkdir d/new", "rm g; mkdir more; rm e/y", false),
        // A whiteout; one of another type; a replaced directory; a moved one, without whiteouts.
        ("mkdir new; rm e/y", "true", true),
        ("mkdir new; rm -r e; echo vm >e", "true", true),
        ("mkdir new; rm -r e; mkdir e", "true", true),
        ("mkdir new; mv d t; mv e d; mv t e", "true", true),
        // Where it has put something, the host has removed or added something.
        ("mkdir d/new", "echo host >d/y", true),
        ("mkdir d/new; echo vm >>e/y", "rm e/z", true),
        ("mkdir new; echo vm >e/own", "rm e/z", true),
        // A directory that it has a copy of is gone, or not a directory, or another.
        ("mkdir d/new; chmod 700 e/sub", "rm -r e/sub", true),
        ("mkdir d/new; chmod 700 e/sub", "rm -r e/sub; echo host >e/sub", true),
        ("mkdir d/new", "cd ..; mv host was; mv other host", true),
    ];
    each(&rows, |(vm, host, asked)| {
        let host_tree =
            "mkdir -p d e/sub; echo f >f; echo g >g; echo x >d/x; echo y >e/y; echo z >e/z; cp -a . ../other";
        let overlay = Overlay::aged(Trusted, host_tree, AGE);
        overlay.vm(&format!("{vm}; echo own >$(find . -name new)/own"));
        overlay.host(host);
        let own = own_file(&overlay);
        mark_as_copied(&own);
        assert!(is_told(&overlay, &own, &all_asked(&overlay)), "{vm} | {host}");
        assert_eq!(is_told(&overlay, &own, &overlay.scan()), *asked, "{vm} | {host}");
        let trimmed = fvm_changes::ScanInput { trimmed: true, ..overlay.input() };
        assert!(is_told(&overlay, &own, &scan(&trimmed).unwrap()), "{vm} | {host}: trimmed");
    });
}
