//! What reaches the host, per kind of change.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{ALL, Lab, meta, set_mtime};
use fvm_model::{ChangeKind, FileType, MetaDelta, VmPath};
use fvm_review::{Choice, OnConflict};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

#[test]
fn a_new_tree_arrives_with_modes_and_times() {
    let mut lab = Lab::new();
    Lab::write(lab.upper("new/sub/f"), "text");
    symlink("nowhere", lab.upper("new/l")).unwrap();
    fs::set_permissions(lab.upper("new/sub"), fs::Permissions::from_mode(0o2711)).unwrap();
    set_mtime(&lab.upper("new/l"), 1_000, 3);
    set_mtime(&lab.upper("new/sub"), 2_000, 4);
    set_mtime(&lab.upper("new"), 3_000, 5);
    lab.touched("", 4_000);
    for rel in ["new", "new/sub", "new/sub/f", "new/l"] {
        lab.created(rel);
    }
    let published = lab.commit().unwrap();
    assert_eq!((published.applied, published.notes), (4, vec![]));
    for rel in ["new", "new/sub", "new/sub/f", "new/l"] {
        let (want, got) = (meta(&lab.upper(rel)), meta(&lab.host(rel)));
        if want.file_type != FileType::Directory {
            assert_eq!(want, got, "{rel}");
        }
        assert_eq!((want.mode, want.mtime), (got.mode, got.mtime), "{rel}");
    }
    assert_eq!(fs::read_link(lab.host("new/l")).unwrap().to_str(), Some("nowhere"));
    assert_eq!(meta(&lab.host("")).mtime.secs, 4_000);
}

#[test]
fn a_modified_file_keeps_mode_attributes_time_and_holes() {
    let mut lab = Lab::new();
    Lab::write(lab.host("f"), "old");
    Lab::write(lab.upper("f"), "new");
    let big = fs::OpenOptions::new().write(true).open(lab.upper("f")).unwrap();
    big.set_len(64 << 20).unwrap();
    rustix::io::pwrite(&big, b"end", (64 << 20) - 3).unwrap();
    drop(big);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(lab.upper("f"), "user.note", b"kept", flags).unwrap();
    rustix::fs::setxattr(lab.upper("f"), "user.overlay.origin", b"secret", flags).unwrap();
    fs::set_permissions(lab.upper("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    set_mtime(&lab.upper("f"), 1_234, 567_891_234);
    set_mtime(&lab.host(""), 99, 9);
    lab.modified("f");
    lab.commit().unwrap();
    assert_eq!(meta(&lab.upper("f")), meta(&lab.host("f")));
    assert!(fs::metadata(lab.host("f")).unwrap().blocks() < 1_000, "the hole was filled");
    assert!(fs::read(lab.host("f")).unwrap().ends_with(b"\0end"));
    let mut value = [0u8; 16];
    let len = rustix::fs::getxattr(lab.host("f"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"kept");
    assert!(rustix::fs::getxattr(lab.host("f"), "user.overlay.origin", &mut value[..]).is_err());
    assert_eq!(meta(&lab.host("")).mtime.secs, 99, "an edit in place does not touch its directory");
}

#[test]
fn a_directory_with_all_below_is_deleted() {
    let mut lab = Lab::new();
    Lab::write(lab.host("d/x/y"), "1");
    Lab::write(lab.host("keep"), "1");
    lab.deleted("d");
    lab.commit().unwrap();
    assert!(!lab.host("d").exists());
    assert_eq!(lab.read("keep"), "1");
}

#[test]
fn a_renamed_directory_with_an_edit_a_deletion_and_a_new_file_inside() {
    let mut lab = Lab::new();
    Lab::write(lab.host("a/f"), "old");
    Lab::write(lab.host("a/gone"), "x");
    Lab::write(lab.host("a/same"), "same");
    Lab::write(lab.upper("b/f"), "new");
    Lab::write(lab.upper("b/n"), "n");
    let same = meta_ino(&lab, "a/same");
    lab.renamed("a", "b");
    lab.change("b/f", ChangeKind::Modified { meta: MetaDelta::default() }, Some("a/f"));
    lab.change("b/gone", ChangeKind::Deleted, Some("a/gone"));
    lab.created("b/n");
    lab.commit().unwrap();
    assert!(!lab.host("a").exists() && !lab.host("b/gone").exists());
    assert_eq!((lab.read("b/f"), lab.read("b/n"), lab.read("b/same")), ("new".into(), "n".into(), "same".into()));
    assert_eq!(meta_ino(&lab, "b/same"), same, "moved, not copied");
}

fn meta_ino(lab: &Lab, rel: &str) -> u64 {
    fs::symlink_metadata(lab.host(rel)).unwrap().ino()
}

#[test]
fn two_directories_swap_places() {
    let mut lab = Lab::new();
    Lab::write(lab.host("a/f"), "was a");
    Lab::write(lab.host("b/f"), "was b");
    fs::create_dir(lab.upper("a")).unwrap();
    fs::create_dir(lab.upper("b")).unwrap();
    lab.renamed("a", "b");
    lab.renamed("b", "a");
    lab.commit().unwrap();
    assert_eq!((lab.read("a/f"), lab.read("b/f")), ("was b".into(), "was a".into()));
}

#[test]
fn a_cycle_of_nested_directories_is_turned() {
    // mv a/b/c x; mv a/b x/b; mv a x/b/a   (inside out)
    let mut lab = Lab::new();
    for (rel, text) in [("a/fa", "a"), ("a/b/fb", "b"), ("a/b/c/fc", "c")] {
        Lab::write(lab.host(rel), text);
    }
    fs::create_dir_all(lab.upper("x/b/a")).unwrap();
    lab.renamed("a/b/c", "x");
    lab.renamed("a/b", "x/b");
    lab.renamed("a", "x/b/a");
    lab.commit().unwrap();
    assert_eq!((lab.read("x/fc"), lab.read("x/b/fb"), lab.read("x/b/a/fa")), ("c".into(), "b".into(), "a".into()));
    assert!(!lab.host("a").exists());
}

#[test]
fn a_directory_moves_below_a_new_one_of_its_own_name() {
    // mv a tmp; mkdir a; mv tmp a/inner
    let mut lab = Lab::new();
    Lab::write(lab.host("a/f"), "f");
    Lab::write(lab.upper("a/inner/new"), "new");
    lab.created("a");
    lab.renamed("a", "a/inner");
    lab.created("a/inner/new");
    lab.commit().unwrap();
    assert_eq!((lab.read("a/inner/f"), lab.read("a/inner/new")), ("f".into(), "new".into()));
    assert!(!lab.host("a/f").exists());
}

#[test]
fn a_new_directory_in_the_place_of_a_moved_one_has_the_vms_time() {
    // mv a b; mkdir a; mv f a/f
    let mut lab = Lab::new();
    Lab::write(lab.host("a/old"), "old");
    Lab::write(lab.host("f"), "f");
    Lab::write(lab.upper("a/f"), "f");
    for (dir, secs) in [(lab.upper("a"), 1_000), (lab.upper("b"), 2_000), (lab.host("a"), 3_000)] {
        fs::create_dir_all(&dir).unwrap();
        set_mtime(&dir, secs, 1);
    }
    lab.created("a");
    lab.renamed("a", "b");
    lab.renamed("f", "a/f");
    lab.commit().unwrap();
    assert_eq!((lab.read("a/f"), lab.read("b/old")), ("f".into(), "old".into()));
    assert_eq!((meta(&lab.host("a")).mtime.secs, meta(&lab.host("b")).mtime.secs), (1_000, 3_000));
}

#[test]
fn a_directory_moved_over_the_one_it_lay_in_has_the_vms_time() {
    // mv old new; mv new/a/b tmp; rmdir new/a; mv tmp new/a; touch new/a/n
    let mut lab = Lab::new();
    Lab::write(lab.host("old/a/b/f"), "f");
    Lab::write(lab.upper("new/a/n"), "n");
    lab.renamed("old", "new");
    lab.renamed("old/a/b", "new/a");
    lab.created("new/a/n");
    lab.touched("new/a", 4_000);
    lab.commit_with(&Choice { on_conflict: OnConflict::Vm, ..Choice::default() }).unwrap();
    assert_eq!((lab.read("new/a/f"), lab.read("new/a/n")), ("f".into(), "n".into()));
    assert_eq!(meta(&lab.host("new/a")).mtime.secs, 4_000);
}

#[test]
fn something_new_stands_where_a_directory_was_moved_away() {
    for new_is_dir in [true, false] {
        let mut lab = Lab::new();
        Lab::write(lab.host("a/f"), "old");
        fs::create_dir(lab.upper("b")).unwrap();
        lab.renamed("a", "b");
        if new_is_dir {
            Lab::write(lab.upper("a/f"), "new");
            lab.created("a");
            lab.created("a/f");
        } else {
            Lab::write(lab.upper("a"), "new");
            lab.created("a");
        }
        // Choosing only the new one takes the rename along.
        let choice = Choice { paths: vec![lab.vm("a")], ..Choice::default() };
        lab.commit_with(&choice).unwrap();
        assert_eq!(lab.read("b/f"), "old");
        assert_eq!(lab.read(if new_is_dir { "a/f" } else { "a" }), "new");
    }
}

#[test]
fn types_change_both_ways() {
    let mut lab = Lab::new();
    Lab::write(lab.host("file"), "x");
    Lab::write(lab.host("dir/below"), "x");
    Lab::write(lab.host("grows"), "x");
    symlink("t", lab.upper("file")).unwrap();
    Lab::write(lab.upper("dir"), "now a file");
    Lab::write(lab.upper("grows/child"), "child");
    lab.retyped("file");
    lab.retyped("dir");
    lab.retyped("grows");
    lab.created("grows/child");
    lab.commit().unwrap();
    assert_eq!(fs::read_link(lab.host("file")).unwrap().to_str(), Some("t"));
    assert_eq!((lab.read("dir"), lab.read("grows/child")), ("now a file".into(), "child".into()));
}

#[test]
fn the_names_of_one_file_stay_one_file() {
    let mut lab = Lab::new();
    Lab::write(lab.host("y"), "old");
    Lab::write(lab.upper("x"), "new");
    fs::hard_link(lab.upper("x"), lab.upper("y")).unwrap();
    lab.created("x").link_group = Some(1);
    lab.modified("y").link_group = Some(1);
    let choice = Choice { paths: vec![lab.vm("y")], ..Choice::default() };
    lab.commit_with(&choice).unwrap();
    assert_eq!((lab.read("x"), lab.read("y")), ("new".into(), "new".into()));
    assert_eq!(meta_ino(&lab, "x"), meta_ino(&lab, "y"));
}

#[test]
fn an_alias_gets_the_content_that_was_written_through_another_name() {
    let mut lab = Lab::new();
    Lab::write(lab.host("x"), "old");
    fs::hard_link(lab.host("x"), lab.host("y")).unwrap();
    Lab::write(lab.upper("x"), "new");
    lab.modified("x").link_group = Some(1);
    Lab::write(lab.upper("y"), "only for its metadata");
    let (source, after) = (lab.vm("x"), meta(&lab.upper("x")));
    let alias = lab.modified("y");
    (alias.source, alias.after, alias.link_group) = (Some(source), Some(after), Some(1));
    fs::remove_file(lab.upper("y")).unwrap();
    lab.commit().unwrap();
    assert_eq!((lab.read("x"), lab.read("y")), ("new".into(), "new".into()));
    assert_eq!(meta_ino(&lab, "x"), meta_ino(&lab, "y"));
}

#[test]
fn a_new_name_of_an_unchanged_host_file_is_a_link_to_it_even_when_that_moves() {
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "same");
    fs::create_dir(lab.upper("z")).unwrap();
    fs::copy(lab.host("d/f"), lab.upper("g")).unwrap();
    let m = meta(&lab.host("d/f")).mtime;
    set_mtime(&lab.upper("g"), m.secs, m.nanos);
    lab.change("g", ChangeKind::Created, Some("d/f"));
    lab.renamed("d", "z");
    let ino = meta_ino(&lab, "d/f");
    lab.commit().unwrap();
    assert_eq!((meta_ino(&lab, "g"), meta_ino(&lab, "z/f")), (ino, ino));
}

#[test]
fn a_fifo_is_made_and_does_not_block() {
    let mut lab = Lab::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, lab.upper("p"), rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
    fs::set_permissions(lab.upper("p"), fs::Permissions::from_mode(0o642)).unwrap();
    lab.created("p");
    lab.commit().unwrap();
    let stat = fs::symlink_metadata(lab.host("p")).unwrap();
    assert!(stat.file_type().is_fifo());
    assert_eq!(stat.mode() & 0o7777, 0o642);
}

#[test]
fn a_moved_file_with_new_content_takes_its_old_place_away() {
    let mut lab = Lab::new();
    Lab::write(lab.host("a"), "old");
    Lab::write(lab.upper("b"), "new");
    lab.change("b", ChangeKind::Renamed { modified: true, meta: ALL }, Some("a"));
    lab.commit().unwrap();
    assert_eq!(lab.read("b"), "new");
    assert!(!lab.host("a").exists());
}

#[test]
fn only_the_metadata_that_the_vm_changed_are_set() {
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "same");
    Lab::write(lab.upper("d/f"), "same");
    set_mtime(&lab.host("d"), 5_000, 1);
    set_mtime(&lab.upper("d"), 1_000, 1);
    fs::set_permissions(lab.upper("d"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(lab.upper("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
    set_mtime(&lab.upper("d/f"), 77, 0);
    let ino = meta_ino(&lab, "d/f");
    lab.metadata("d", MetaDelta { mode: true, ..MetaDelta::default() });
    lab.metadata("d/f", MetaDelta { mode: true, times: true, ..MetaDelta::default() });
    lab.commit().unwrap();
    let (d, f) = (meta(&lab.host("d")), meta(&lab.host("d/f")));
    assert_eq!((d.mode, d.mtime.secs), (0o700, 5_000));
    assert_eq!((f.mode, f.mtime.secs), (0o600, 77));
    assert_eq!(meta_ino(&lab, "d/f"), ino);
}

#[test]
fn a_directorys_time_set_by_hand_outlives_what_comes_into_it() {
    let mut lab = Lab::new();
    Lab::write(lab.host("d/f"), "same");
    Lab::write(lab.upper("d/new"), "new");
    set_mtime(&lab.host("d"), 5_000, 1);
    set_mtime(&lab.upper("d"), 1_000, 1);
    lab.metadata("d", MetaDelta { times: true, ..MetaDelta::default() });
    lab.created("d/new");
    lab.commit().unwrap();
    assert_eq!(meta(&lab.host("d")).mtime.secs, 1_000);
}

#[test]
fn the_vms_version_replaces_what_the_host_made_as_well() {
    let mut lab = Lab::new();
    Lab::write(lab.host("n"), "host");
    Lab::write(lab.upper("n"), "vm");
    lab.created("n").conflict = Some("created on the host as well".into());
    lab.commit_with(&Choice { on_conflict: OnConflict::Vm, ..Choice::default() }).unwrap();
    assert_eq!(lab.read("n"), "vm");
}

#[test]
fn a_name_of_any_bytes_and_a_path_longer_than_path_max_are_committed() {
    let mut lab = Lab::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\n -rf %n");
    fs::write(lab.upper("odd"), "odd").unwrap();
    lab.created("odd").path = VmPath::new(lab.host("").join(odd)).unwrap();
    fs::rename(lab.upper("odd"), lab.upper("").join(odd)).unwrap();
    // 40 levels of 120 bytes, made by descriptor as no call takes the whole path.
    let name = "d".repeat(120);
    let levels: Vec<String> = (1..=40).map(|n| vec![name.as_str(); n].join("/")).collect();
    let mut dir = rustix::fs::open(lab.upper(""), DIR, Mode::empty()).unwrap();
    for _ in &levels {
        rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &name, DIR, Mode::empty()).unwrap();
    }
    let after = meta(&lab.upper(&name));
    for level in &levels {
        let path = lab.vm(level);
        let change = lab.created(&name);
        change.path = path;
        change.after = Some(after.clone());
    }
    lab.set.changes.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    assert_eq!(lab.commit().unwrap().applied, 41);
    assert_eq!(fs::read(lab.host("").join(odd)).unwrap(), b"odd");
    let mut dir = rustix::fs::open(lab.host(""), DIR, Mode::empty()).unwrap();
    for _ in &levels {
        dir = rustix::fs::openat(&dir, &name, DIR, Mode::empty()).unwrap();
    }
}
