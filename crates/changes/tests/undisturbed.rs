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

/// The changes, with every file asked: what was copied says nothing of when it was written, and this is from before.
fn all_asked(overlay: &Overlay) -> ChangeSet {
    let mut input = overlay.input();
    input.copied = Some(Timestamp { secs: 1, nanos: 0 });
    scan(&input).unwrap()
}

#[test]
fn root_what_random_vms_and_hosts_do_is_told_whether_files_are_asked_or_not() {
    if !can(Trusted) {
        return;
    }
    let seeds = std::env::var("FVM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    let mut conflicts = 0;
    for seed in 1..=seeds {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
        let begin = format!("exec 2>&-; mkdir -p a/a/b b/b/a b/c c/a; {}", any_script(&mut state, 20));
        let overlay = Overlay::new(Trusted, &begin);
        // New directories for it to move things to.
        let vm = format!("exec 2>&-; mkdir -p a/new b/new/a new/a || true\n{}", any_script(&mut state, 12))
            .replace(" c", " new");
        let host = match next(&mut state, 4) {
            0 => "true".to_owned(),
            _ => format!("exec 2>&-\n{}", any_script(&mut state, 6)),
        };
        overlay.vm(&vm);
        overlay.host(&host);
        let (got, want) = (overlay.scan(), all_asked(&overlay));
        conflicts += want.changes.iter().filter(|change| change.conflict.is_some()).count();
        assert_eq!(got, want, "seed {seed}\n{begin}\n-- vm\n{vm}\n-- host\n{host}");
    }
    assert!(conflicts > 0, "none of {seeds} hosts removed what a VM had copied");
}

#[test]
fn root_files_of_the_vms_own_are_asked_only_once_something_was_moved_or_the_host_has_changed() {
    if !can(Trusted) {
        return;
    }
    let rows = [
        // (what the VM does, what the host does, whether the file is asked)
        ("mkdir -p new/sub", "true", false),
        ("mkdir -p d/new; echo vm >>f", "echo host >>d/x", false),
        ("mkdir -p new; mkdir d/other; chmod 700 e", "true", false),
        ("mkdir -p new; rm f", "true", true),
        ("mkdir -p new; rm -r e; mkdir e", "true", true),
        ("mkdir -p new; mv e e2", "true", true),
        ("mkdir -p new; echo vm >>f", "rm g", true),
        ("mkdir -p new/sub; echo vm >>d/x", "rm -r d", true),
        ("mkdir -p d/new", "echo host >d/y", true),
    ];
    for (vm, host, asked) in rows {
        let overlay = Overlay::new(Trusted, "mkdir d e; echo f >f; echo g >g; echo x >d/x; echo y >e/y");
        overlay.vm(&format!("{vm}; echo own >$(find . -name new)/own"));
        overlay.host(host);
        let own = ["layer/upper/new/own", "layer/upper/d/new/own"].map(|at| overlay.path(at));
        let own = own.iter().find(|at| at.exists()).unwrap();
        // It says that it was copied from a file that no host has: believed only if it is asked.
        let note = [&[0, 0xfb, 29, 0, 1][..], &[7; 16], &[0xfe, 0xff, 0xff, 0x7f, 1, 0, 0, 0]].concat();
        rustix::fs::setxattr(own, "trusted.overlay.origin", &note, XattrFlags::empty()).unwrap();
        let conflict = |set: ChangeSet| {
            let path = own.strip_prefix(overlay.path("layer/upper")).unwrap().to_str().unwrap();
            set.changes.iter().find(|change| change.path == overlay.at(path)).unwrap().conflict.is_some()
        };
        assert!(conflict(all_asked(&overlay)), "{vm} | {host}");
        assert_eq!(conflict(overlay.scan()), asked, "{vm} | {host}");
    }
}
