//! What is refused, and that nothing is changed then.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{Lab, meta};
use fvm_commit::CommitError;
use fvm_model::{ChangeKind, MetaDelta, Timestamp};
use fvm_review::Choice;
use std::fs;
use std::os::unix::fs::symlink;

/// Plans, lets the host do something, and expects a refusal that changes nothing.
#[track_caller]
fn refused(lab: &Lab, meddle: impl FnOnce(&Lab)) -> String {
    let plan = lab.plan(&Choice::default());
    meddle(lab);
    let before = lab.tree();
    let error = lab.prepare(&plan).map(|_| ()).expect_err("it must be refused");
    assert!(matches!(error, CommitError::HostChanged(_)), "{error}");
    assert_eq!(lab.tree(), before);
    error.to_string()
}

#[test]
fn a_parent_that_became_a_symlink_is_not_followed() {
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "old");
    fs::create_dir(lab.host("victim")).unwrap();
    Lab::write(lab.upper("d/f"), "new");
    Lab::write(lab.upper("d/n"), "new");
    lab.modified("d/f");
    lab.created("d/n");
    let text = refused(&lab, |lab| {
        fs::rename(lab.host("d"), lab.host("elsewhere")).unwrap();
        symlink("victim", lab.host("d")).unwrap();
    });
    assert!(text.contains("/d"), "{text}");
    assert_eq!(fs::read_dir(lab.host("victim")).unwrap().count(), 0);
}

#[test]
fn a_host_file_edited_since_is_not_overwritten_deleted_or_moved() {
    for kind in ["modified", "deleted", "renamed"] {
        let mut lab = Lab::new();
        Lab::write(lab.host("f"), "old");
        Lab::write(lab.upper("f"), "new");
        Lab::write(lab.upper("g"), "old");
        match kind {
            "modified" => lab.modified("f"),
            "deleted" => lab.deleted("f"),
            _ => lab.renamed("f", "g"),
        };
        let text = refused(&lab, |lab| Lab::write(lab.host("f"), "edited on the host"));
        assert!(text.contains("/f: its content changed"), "{kind}: {text}");
    }
}

#[test]
fn something_the_host_made_meanwhile_is_not_overwritten() {
    let mut lab = Lab::new();
    fs::create_dir(lab.host("a")).unwrap();
    Lab::write(lab.upper("n"), "vm");
    Lab::write(lab.upper("b/n"), "vm");
    lab.created("n");
    lab.renamed("a", "b");
    lab.created("b/n");
    let text = refused(&lab, |lab| {
        Lab::write(lab.host("n"), "host");
        // What the VM sees as b/n lies in a on the host.
        Lab::write(lab.host("a/n"), "host");
        fs::create_dir(lab.host("b")).unwrap();
    });
    for rel in ["/n:", "/a/n:", "/b:"] {
        assert!(text.contains(rel), "{rel} is missing in: {text}");
    }
}

#[test]
fn a_directory_that_got_a_new_entry_is_not_deleted() {
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "x");
    lab.deleted("d");
    refused(&lab, |lab| Lab::write(lab.host("d/new"), "precious"));
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "x");
    Lab::write(lab.upper("d"), "file");
    lab.retyped("d");
    refused(&lab, |lab| Lab::write(lab.host("d/new"), "precious"));
}

#[test]
fn what_a_renamed_directory_replaces_must_be_older_than_the_vm() {
    let mut lab = Lab::new();
    Lab::write(lab.host("a/f"), "a");
    Lab::write(lab.host("b/f"), "b");
    fs::create_dir(lab.upper("b")).unwrap();
    lab.renamed("a", "b");
    let prepare_at = |forked: Option<Timestamp>| {
        let plan = lab.plan(&Choice::default());
        let plan = match forked {
            Some(at) => plan.with_forked(at),
            None => plan,
        };
        lab.prepare(&plan)
    };
    let now = meta(&lab.host("b/f")).mtime;
    assert!(matches!(prepare_at(None), Err(CommitError::HostChanged(_))), "nobody knows when b came to be");
    // The directory is old, what is in it is not.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let fork = Timestamp { secs: now.secs, nanos: now.nanos };
    Lab::write(lab.host("b/f"), "written later, in place");
    assert!(matches!(prepare_at(Some(fork)), Err(CommitError::HostChanged(_))), "b/f is newer than the VM");
    let later = Timestamp { secs: now.secs + 3_600, nanos: 0 };
    prepare_at(Some(later)).unwrap().publish().unwrap().finish().unwrap();
    assert_eq!(lab.read("b/f"), "a");
    lab.assert_clean();
}

#[test]
fn a_layer_that_changed_since_the_scan_is_refused() {
    let mut lab = Lab::new();
    Lab::write(lab.upper("n"), "seen");
    lab.created("n");
    let plan = lab.plan(&Choice::default());
    Lab::write(lab.upper("n"), "something else");
    let before = lab.tree();
    lab.prepare(&plan).map(|_| ()).unwrap_err();
    assert_eq!(lab.tree(), before);
}

#[test]
fn an_abandoned_plan_leaves_no_trace() {
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "old");
    Lab::write(lab.upper("d/f"), "new");
    Lab::write(lab.upper("d/n/m"), "new");
    lab.modified("d/f");
    lab.created("d/n");
    lab.created("d/n/m");
    let before = lab.tree();
    let prepared = lab.prepare(&lab.plan(&Choice::default())).unwrap();
    prepared.abandon().unwrap();
    assert_eq!(lab.tree(), before);
}

#[test]
fn a_publication_that_fails_half_way_is_undone() {
    let mut lab = Lab::new();
    Lab::write(lab.host("a/f"), "a");
    Lab::write(lab.host("b/f"), "b");
    Lab::write(lab.host("gone"), "gone");
    Lab::write(lab.host("m"), "old");
    Lab::write(lab.upper("m"), "new");
    Lab::write(lab.upper("z"), "new");
    fs::create_dir(lab.upper("a")).unwrap();
    fs::create_dir(lab.upper("b")).unwrap();
    lab.renamed("a", "b");
    lab.renamed("b", "a");
    lab.deleted("gone");
    lab.modified("m");
    lab.created("z");
    let before = lab.tree();
    let prepared = lab.prepare(&lab.plan(&Choice::default())).unwrap();
    // Somebody is quicker.
    fs::write(lab.host("z"), "host").unwrap();
    let error = prepared.publish().unwrap_err();
    assert!(matches!(&error, CommitError::Publish { path, .. } if *path == lab.vm("z").to_string()), "{error}");
    assert_eq!(lab.read("z"), "host");
    fs::remove_file(lab.host("z")).unwrap();
    let root = lab.host("");
    let rest = |tree: Vec<String>| -> Vec<String> {
        tree.into_iter().filter(|l| !l.starts_with(&format!("{} ", root.display()))).collect()
    };
    assert_eq!(rest(lab.tree()), rest(before));
}

#[test]
fn a_user_without_rights_is_refused_before_anything_is_written() {
    // Root may do everything but write to a read-only mount: a file in place of a directory stands for that here.
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "x");
    Lab::write(lab.upper("d/f"), "y");
    lab.change("d/f", ChangeKind::Modified { meta: MetaDelta::default() }, Some("d/f"));
    refused(&lab, |lab| {
        fs::remove_dir_all(lab.host("d")).unwrap();
        fs::write(lab.host("d"), "a file now").unwrap();
    });
}
