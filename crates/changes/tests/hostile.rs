//! Uppers that no kernel wrote, sizes that no person made, and reading both versions.

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use common::{Overlay, can};
use fvm_changes::text::{FileDiff, diff_file, texts};
use fvm_changes::{LayerView, open_after, open_before, scan, scan_under};
use fvm_model::vm::XattrClass::{Trusted, User};
use fvm_model::{ChangeKind, FileType, HostPath, Layer, LayerKind};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

#[test]
fn a_very_deep_and_a_very_wide_directory_are_listed_in_full() {
    let overlay = Overlay::new(User, "true");
    let upper = overlay.path("layer/upper");
    let mut dir = fvm_sys::dir::Dir::open_root(&upper).unwrap();
    for _ in 0..2500 {
        rustix::fs::mkdirat(&dir, "dd", rustix::fs::Mode::RWXU).unwrap();
        dir = dir.beneath("dd".as_ref()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let bottom = rustix::fs::openat(&dir, "f", flags, rustix::fs::Mode::RUSR).unwrap();
    rustix::io::write(&bottom, b"bottom\n").unwrap();
    std::fs::create_dir(upper.join("wide")).unwrap();
    for n in 0..100_000 {
        File::create(upper.join(format!("wide/{n}"))).unwrap();
    }
    let set = overlay.scan();
    assert_eq!(set.warnings, Vec::<String>::new());
    assert_eq!(set.changes.len(), 2500 + 1 + 1 + 100_000);
    let deepest = set.changes.iter().max_by_key(|c| c.path.as_bytes().len()).unwrap();
    let mut text = String::new();
    File::from(open_after(&overlay.input(), deepest).unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "bottom\n");
    fvm_changes::discard(&overlay.input(), &set, &[overlay.at("dd"), overlay.at("wide")]).unwrap();
    assert!(overlay.scan().changes.is_empty());
}

#[test]
fn names_of_any_bytes_are_kept_and_links_are_not_followed() {
    let overlay = Overlay::new(User, "mkdir d; echo secret >d/s; ln -s d link; mkdir sub");
    let upper = overlay.path("layer/upper");
    let odd = std::ffi::OsStr::from_bytes(b"a\xff\x1b[2J\n");
    File::create(upper.join(odd)).unwrap();
    // A directory over the host's link: what the link leads to is not its lower.
    std::fs::create_dir(upper.join("link")).unwrap();
    File::create(upper.join("link/s")).unwrap();
    symlink("/etc", upper.join("sub")).unwrap();
    let set = overlay.scan();
    let got: Vec<_> = set.changes.iter().map(|c| common::line(&overlay.path("host"), c)).collect();
    assert_eq!(got[1..], ["T link Symlink", "C link/s", "T sub Directory"]);
    assert!(set.changes[0].path.as_bytes().ends_with(odd.as_bytes()));
}

#[test]
fn root_a_redirect_that_no_kernel_wrote_is_a_warning() {
    if !can(Trusted) {
        return;
    }
    for bad in ["/../etc", "a/b", "", "/", "..", "/d/../.."] {
        let overlay = Overlay::new(Trusted, "mkdir d; echo x >d/x");
        let dir = overlay.path("layer/upper/n");
        std::fs::create_dir(&dir).unwrap();
        rustix::fs::lsetxattr(&dir, "trusted.overlay.redirect", bad.as_bytes(), rustix::fs::XattrFlags::empty())
            .unwrap();
        rustix::fs::lsetxattr(&dir, "trusted.overlay.origin", &[0, 0xfb, 200, 1], rustix::fs::XattrFlags::empty())
            .unwrap();
        let set = overlay.scan();
        assert_eq!(set.warnings.len(), 1, "{bad:?}: {:?}", set.warnings);
        assert_eq!(set.changes.len(), 1);
        assert_eq!(set.changes[0].kind, ChangeKind::Created);
    }
    let overlay = Overlay::new(Trusted, "mkdir d; echo x >d/x");
    for name in ["n", "m"] {
        let dir = overlay.path("layer/upper").join(name);
        std::fs::create_dir(&dir).unwrap();
        rustix::fs::lsetxattr(&dir, "trusted.overlay.redirect", b"/d", rustix::fs::XattrFlags::empty()).unwrap();
    }
    assert_eq!(overlay.scan().warnings.len(), 1);
}

#[test]
fn both_versions_can_be_read_and_compared() {
    let overlay = Overlay::new(User, "echo old >f; echo gone >g; ln -s a l; printf 'a\\0b' >bin; echo m >m");
    let upper = overlay.path("layer/upper");
    std::fs::write(upper.join("f"), "old\nnew\n").unwrap();
    std::fs::write(upper.join("bin"), "text\n").unwrap();
    symlink("b", upper.join("l")).unwrap();
    std::fs::write(upper.join("n"), "n\n").unwrap();
    File::create(upper.join("big")).unwrap().set_len(9 << 20).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("g"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    let set = overlay.scan();
    let diff = |name: &str| {
        let change = set.changes.iter().find(|c| c.path == overlay.at(name)).unwrap();
        diff_file(&overlay.input(), change).unwrap().unwrap()
    };
    let text = |patch: &str, added, removed| FileDiff::Text { patch: patch.into(), added, removed };
    assert_eq!(diff("f"), text("@@ -1 +1,2 @@\n old\n+new\n", 1, 0));
    assert_eq!(diff("l"), text("@@ -1 +1 @@\n-a\n+b\n", 1, 1));
    assert_eq!(diff("n"), text("@@ -0,0 +1 @@\n+n\n", 1, 0));
    assert_eq!(diff("g"), text("@@ -1 +0,0 @@\n-gone\n", 0, 1));
    assert_eq!(diff("bin"), FileDiff::Binary { before_bytes: 3, after_bytes: 5 });
    assert_eq!(diff("big"), FileDiff::TooLarge { before_bytes: 0, after_bytes: 9 << 20 });
    let both = |name: &str| {
        let change = set.changes.iter().find(|c| c.path == overlay.at(name)).unwrap();
        texts(&overlay.input(), change).unwrap()
    };
    assert_eq!(both("f"), Some((b"old\n".to_vec(), b"old\nnew\n".to_vec())));
    assert_eq!(both("n"), Some((Vec::new(), b"n\n".to_vec())));
    assert_eq!(both("g"), Some((b"gone\n".to_vec(), Vec::new())));
    assert_eq!([both("l"), both("bin"), both("big")], [const { None }; 3]);
    let f = set.changes.iter().find(|c| c.path == overlay.at("f")).unwrap();
    let mut old = String::new();
    File::from(open_before(f).unwrap().unwrap()).read_to_string(&mut old).unwrap();
    assert_eq!(old, "old\n");
    // Swapped for a link after the scan: refused.
    std::fs::remove_file(upper.join("f")).unwrap();
    symlink("/etc/passwd", upper.join("f")).unwrap();
    assert!(open_after(&overlay.input(), f).is_err());
    assert_eq!(scan_under(&overlay.input(), &[overlay.at("n")]).unwrap().changes.len(), 1);
}

#[test]
fn other_layers_and_our_own_state_are_left_out_and_a_mounted_file_is_not_committable() {
    let overlay = Overlay::new(User, "mkdir home state; echo a >hosts; echo s >state/secret");
    let upper = overlay.path("layer/upper");
    for dir in ["home", "state"] {
        std::fs::create_dir(upper.join(dir)).unwrap();
        File::create(upper.join(dir).join("x")).unwrap();
    }
    let mut input = overlay.input();
    input.excluded = vec![HostPath::new(overlay.path("host/state")).unwrap()];
    for (n, name, kind) in [(1, "home", LayerKind::Overlay), (2, "hosts", LayerKind::File)] {
        let dir = overlay.path(&format!("layer{n}"));
        std::fs::create_dir_all(dir.join("upper")).unwrap();
        std::fs::write(dir.join("file"), "a\nb\n").unwrap();
        let host = HostPath::new(overlay.path("host").join(name)).unwrap();
        input.layers.push(LayerView { layer: Layer { n, host, kind }, dir });
    }
    let set = scan(&input).unwrap();
    assert_eq!(set.changes.len(), 1, "{:?}", set.changes);
    assert_eq!(set.changes[0].path, overlay.at("hosts"));
    assert_eq!(set.changes[0].file_type, FileType::File);
    assert_eq!(set.changes[0].uncommittable.as_deref(), Some("it is a mount point on the host"));
    let diff = diff_file(&input, &set.changes[0]).unwrap().unwrap();
    assert!(matches!(diff, FileDiff::Text { added: 1, removed: 0, .. }));
    fvm_changes::discard(&input, &set, &[overlay.at("hosts")]).unwrap();
    assert!(scan(&input).unwrap().changes.is_empty());
}

#[test]
fn a_layer_without_its_directory_is_an_error_and_a_vanished_host_directory_a_warning() {
    let overlay = Overlay::new(User, "true");
    let mut input = overlay.input();
    input.layers[0].layer.host = HostPath::new(overlay.path("host/none")).unwrap();
    assert_eq!(scan(&input).unwrap().warnings.len(), 1);
    std::fs::remove_dir(overlay.path("layer/upper")).unwrap();
    assert!(scan(&overlay.input()).is_err());
}
