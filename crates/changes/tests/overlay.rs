//! Every row of "what the upper shows", on real overlays, root and rootless.

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use common::{Overlay, can};
use fvm_changes::scan;
use fvm_model::Timestamp;
use fvm_model::vm::XattrClass::{self, Trusted, User};

const HOST: &str = "echo old >f; echo two >g; ln -s f l; mkdir -p d/sub e; echo x >d/x; echo y >d/y; echo s >d/sub/s; echo z >e/z; \
    mkfifo p; echo h >h1; ln h1 h2; touch -d '2020-01-01' f g d/x e/z l";

/// (what the VM does, the changes it makes).
type Row = (&'static str, &'static [&'static str]);

fn check(class: XattrClass, rows: &[Row]) {
    if !can(class) {
        return;
    }
    let mut wrong = Vec::new();
    for (script, want) in rows {
        let overlay = Overlay::new(class, HOST);
        overlay.vm(script);
        let got = overlay.lines();
        if got != *want {
            wrong.push(format!("{script}\n  got  {got:?}\n  want {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Rows that are the same in both classes.
const BOTH: &[Row] = &[
    ("true", &[]),
    ("cat f d/x >/dev/null; ls -R >/dev/null", &[]),
    ("echo more >>f", &["M f"]),
    (": >>f", &[]),
    ("chmod 644 f", &[]),
    ("chmod 600 f", &["A f m"]),
    ("chmod 700 d", &["A d m"]),
    ("touch f", &["A f t"]),
    ("touch -h l", &["A l t"]),
    ("touch -d 2001-01-01 d", &["A d t"]),
    ("touch d; touch -d 2101-01-01 e", &["A e t"]),
    ("echo more >>d/sub/s", &["M d/sub/s"]),
    ("rm f", &["D f"]),
    ("rm f; echo new >f", &["M f"]),
    ("echo new >t; mv t f", &["M f"]),
    ("echo new >n; mkdir -p nd/m; echo >nd/m/q", &["C n", "C nd", "C nd/m", "C nd/m/q"]),
    ("mv f k", &["R k<f"]),
    ("mv f d/sub/k", &["R d/sub/k<f"]),
    ("mv f g", &["D f", "M g"]),
    ("mv f t; mv g f; mv t g", &["M f", "M g"]),
    ("rm -r d", &["D d"]),
    ("rm -r d; mkdir d", &["D d/sub", "D d/x", "D d/y"]),
    ("rm -r d; mkdir -p d/sub; echo n >d/sub/n", &["C d/sub/n", "D d/sub/s", "D d/x", "D d/y"]),
    ("rm -r d; mkdir d; echo x >d/x; touch -d 2020-01-01 d/x", &["D d/sub", "D d/y"]),
    ("rm -r d; echo file >d", &["T d Directory"]),
    ("rm f; mkdir f; echo >f/a", &["T f File", "C f/a"]),
    ("rm f; ln -s g f", &["T f File"]),
    ("rm l; ln -s g l", &["M l"]),
    ("mv f k; mkdir f; echo >f/a", &["C f", "C f/a", "R k<f"]),
    ("mv f k; echo new >f", &["M f", "C k"]),
    ("mkfifo q; rm p; ln -s f m", &["C m", "D p", "C q"]),
    ("rm p; mkfifo p; touch -d @0 p", &["A p t"]),
    ("echo new >n; ln n n2", &["C n #1", "C n2 #1"]),
    ("truncate -s 50M n; printf x >>n; cp --sparse=always n n2; rm n", &["C n2"]),
];

#[test]
fn root_every_row_of_the_upper_table() {
    check(Trusted, BOTH);
}

#[test]
fn user_every_row_of_the_upper_table() {
    check(User, BOTH);
}

fn laid_ahead(class: XattrClass) {
    if !can(class) {
        return;
    }
    let overlay = Overlay::new(class, HOST);
    let mut input = overlay.input();
    let secs_before = |secs| Timestamp { secs: input.forked.secs - secs, ..input.forked };
    overlay.vm(&format!("touch -d @{}.5 d", input.forked.secs - 100));
    for (laid, copied, is_change) in [
        (None, None, true),
        (Some([300, 200]), None, true),
        (Some([50, -60]), None, true),
        (Some([200, -60]), None, false),
        // It came into the layer later.
        (Some([200, 50]), None, true),
        // When that was, is not known.
        (Some([200, 50]), Some(-60), false),
    ] {
        input.laid = laid.map(|ago| ago.map(secs_before));
        input.copied = copied.map(secs_before);
        let set = scan(&input).expect("it can be read");
        let touched = set.touched.iter().find(|touched| touched.path == overlay.at("d")).map(|touched| touched.mtime);
        // What was only laid is no older than the fork.
        let seen = (set.changes.iter().map(|change| &change.path).collect::<Vec<_>>(), touched);
        let d = overlay.at("d");
        let want = if is_change { (vec![&d], None) } else { (vec![], Some(input.forked)) };
        assert_eq!(seen, want, "{laid:?} {copied:?}");
    }
}

#[test]
fn root_a_directory_that_was_laid_ahead_is_as_old_as_the_fork_and_one_that_was_dated_since_is_changed() {
    laid_ahead(Trusted);
}

#[test]
fn user_a_directory_that_was_laid_ahead_is_as_old_as_the_fork_and_one_that_was_dated_since_is_changed() {
    laid_ahead(User);
}

#[test]
fn root_moves_of_directories_are_followed() {
    check(
        Trusted,
        &[
            ("mv d b", &["R b<d"]),
            ("mv d e/b; echo more >>e/b/x; rm e/b/y", &["R e/b<d", "M e/b/x<d/x", "D e/b/y<d/y"]),
            ("mv d b; mkdir d", &["R b<d", "C d"]),
            ("mv d b; mkdir d; echo n >d/x", &["R b<d", "C d", "C d/x"]),
            ("mv d b; mv e d; mv b e", &["R d<e", "R e<d"]),
            ("mv d b; mv b d", &[]),
            ("mv d b; mv b/sub c", &["R b<d", "R c<d/sub"]),
            ("mv d b; mv b/x b/w", &["R b<d", "R b/w<d/x"]),
            ("mv d/sub c; rm -r d", &["R c<d/sub", "D d"]),
            ("mv d/sub c; rm -r d; mkdir d; mv c d/sub", &["D d/x", "D d/y"]),
            ("mv d b; chmod 700 b", &["R b<d m"]),
            ("mv d/x k; rm -r d", &["D d", "R k<d/x"]),
            ("mv f k; echo more >>k", &["R k<f + t"]),
            ("mv f k; chmod 600 k", &["R k<f m"]),
            ("mv d b; rm -r b", &["D d"]),
        ],
    );
}

#[test]
fn root_hard_links_stay_one_file() {
    check(
        Trusted,
        &[
            ("ln f k", &["C k=f #1"]),
            ("ln f k; echo more >>k", &["M f #1", "C k #1"]),
            ("ln f k; rm f", &["R k<f"]),
            ("ln f j; ln f k; rm f", &["R j<f #1", "C k #1"]),
            ("echo more >>h1", &["M h1 #1", "M h2 #1 @h1"]),
            ("echo more >>h1; echo more >>h2", &["M h1 #1", "M h2 #1"]),
            ("chmod 600 h1", &["A h1 m #1", "A h2 m #1 @h1"]),
            ("rm h1; echo new >h1", &["M h1"]),
            ("rm h2; echo more >>h1", &["M h1", "D h2"]),
            ("rm h2", &["D h2"]),
        ],
    );
}

#[test]
fn root_attributes_owners_capabilities_and_devices() {
    check(
        Trusted,
        &[
            ("setfattr -n user.note -v hi f", &["A f x"]),
            ("setfattr -n user.note -v hi d", &["A d x"]),
            ("setcap cap_net_raw+ep g", &["A g x"]),
            ("chown 12:34 f", &["A f o"]),
            ("setfattr -n user.overlay.opaque -v y d; setfattr -n user.overlay.origin -v '' f", &[]),
            (
                "mkdir n; setfattr -n trusted.overlay.redirect -v /e n; setfattr -n trusted.overlay.opaque -v y d",
                &["C n"],
            ),
            ("mknod c c 1 3", &["C c"]),
        ],
    );
}

#[test]
fn user_a_forged_overlay_attribute_is_not_believed() {
    check(
        User,
        &[
            ("setfattr -n user.overlay.opaque -v y d; setfattr -n user.overlay.redirect -v /e d", &[]),
            ("ln f k", &["C k=f #1"]),
        ],
    );
}

#[test]
fn root_and_user_what_the_host_changed_since_is_a_conflict() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("echo vm >>f", "echo host >>g", &["M f"]),
        ("echo vm >>f", "echo host >>f", &["M f !"]),
        ("echo vm >>f", "echo host >>f; touch -d 2020-01-01 f", &["M f !"]),
        ("echo vm >>f", "echo host >t; mv t f", &["M f !"]),
        ("rm f", "echo host >>f", &["D f !"]),
        ("rm f", "true", &["D f"]),
        ("rm -r d", "echo host >>d/sub/s", &["D d !"]),
        ("rm -r d", "echo host >>e/z", &["D d"]),
        ("echo vm >n", "echo host >n", &["M n !"]),
        ("echo same >n", "echo same >n", &[]),
        ("echo same >f", "echo same >f", &[]),
        ("chmod 600 f", "chmod 640 f", &["A f m !"]),
        ("chmod 700 d", "echo n >d/n", &["A d m"]),
        ("chmod 700 d", "chmod 711 d", &["A d m !"]),
        ("mkdir n; echo vm >n/a", "mkdir n; echo host >n/b", &["C n/a"]),
        ("echo vm >d/n", "echo host >d/m", &["C d/n"]),
        ("echo vm >>d/x", "rm -r d", &["C d !", "C d/x !"]),
    ];
    for class in [Trusted, User] {
        if !can(class) {
            continue;
        }
        let mut wrong = Vec::new();
        for (vm, host, want) in rows {
            let overlay = Overlay::new(class, HOST);
            overlay.vm(vm);
            overlay.host(host);
            let got = overlay.lines();
            // Rootless, an upper file does not say where it was copied from: only its directory was lost for certain.
            let want: Vec<&str> =
                if class == User && want.contains(&"C d/x !") { vec!["C d !", "C d/x"] } else { want.to_vec() };
            if got != want {
                wrong.push(format!("{class:?}: {vm} | {host}\n  got  {got:?}\n  want {want:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn root_a_host_edit_before_the_copy_is_no_conflict_and_a_rename_is_followed_to_the_host() {
    if !can(Trusted) {
        return;
    }
    let rows: &[(&str, &str, &[&str])] = &[
        ("true", "echo vm >>f", &["M f"]),
        ("true", "rm f", &["D f !"]),
        ("mv g k", "mv k j; echo vm >>j", &["R j<g + t"]),
    ];
    for (first, second, want) in rows {
        let overlay = Overlay::new(Trusted, HOST);
        overlay.vm(first);
        overlay.host("echo host >>f");
        overlay.vm(second);
        assert_eq!(overlay.lines(), *want, "{second}");
    }
    for (vm, host, want) in [
        ("mv f k", "echo host >>f", vec!["R k<f + t !"]),
        ("mv f k; ", "rm f", vec!["C k !"]),
        ("mv d b", "echo host >>d/new", vec!["R b<d"]),
        ("mv d b; echo vm >>b/x", "echo host >>d/x", vec!["R b<d", "M b/x<d/x !"]),
        ("mv f t; mv g f; mv t g", "echo host >>f", vec!["M f !", "M g"]),
        ("echo vm >>f", "rm f", vec!["C f !"]),
        // What was the host's is known in a directory of the VM's too, whatever is left of where it was.
        ("mkdir n; mv d/x n/x", "rm d/x", vec!["C n", "C n/x !"]),
        ("mkdir n; mv d/x n/x", "rm -r d", vec!["C d !", "C n", "C n/x !"]),
        ("mkdir n; mv d/x n/x; echo vm >d/x", "rm -r d", vec!["C d !", "C d/x", "C n", "C n/x !"]),
        ("mkdir n; mv d/x n/x; rm -r d", "rm -r d", vec!["C n", "C n/x !"]),
        ("mkdir n; mv d/x n/x; rm -r d; mkdir d", "rm -r d", vec!["C d", "C n", "C n/x !"]),
        ("mkdir n; mv d/x n/x; mv d n/d", "rm -r d", vec!["C n", "C n/d !", "C n/x !"]),
        ("mkdir n; ln d/x n/x", "rm -r d", vec!["C d !", "C d/x #1 !", "C n", "C n/x #1 !"]),
        ("mkdir n; ln f n/f; rm f", "rm f", vec!["C n", "C n/f !"]),
    ] {
        let overlay = Overlay::new(Trusted, HOST);
        overlay.vm(vm);
        overlay.host(host);
        assert_eq!(overlay.lines(), want, "{vm} | {host}");
    }
    // Nothing of the layer's, and of the host's directories as they are, tells that the file was theirs, but its own note.
    for (first, host, second, want) in [
        ("echo vm >>d/x", "rm d/x", "mkdir n; mv d/x n/x", vec!["C n", "C n/x !"]),
        ("mkdir n; mv d/x n/x", "rm -r d", "rm -r d", vec!["C n", "C n/x !"]),
        ("mkdir n; mv d/x n/x", "rm d/x", "echo vm >d/x; rm d/x", vec!["C n", "C n/x !"]),
        (
            "mkdir n; mv d/sub/s n/s",
            "mkdir new; mv d old; mkdir -p d/sub; rm -r old new",
            "true",
            vec!["C n", "C n/s !"],
        ),
    ] {
        let overlay = Overlay::new(Trusted, HOST);
        overlay.vm(first);
        overlay.host(host);
        overlay.vm(second);
        assert_eq!(overlay.lines(), want, "{first} | {host} | {second}");
    }
}
