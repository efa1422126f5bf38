//! After a discard the VM sees the host's version again, on real overlays.

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use common::{Overlay, can};
use fvm_changes::discard;
use fvm_model::VmPath;
use fvm_model::vm::XattrClass::{self, Trusted, User};

const HOST: &str = "echo old >f; echo second >g; ln -s f l; mkdir -p d/sub e; echo x >d/x; echo y >d/y; echo s >d/sub/s; echo z >e/z; \
    echo h >h1; ln h1 h2";

const SEE: &str = "find . | sort; find . -type f -exec md5sum {} + | sort; find . -printf '%p %m %u %l\\n' | sort";

const ALL: &[&str] = &[
    "echo more >>f; chmod 700 d; rm g; mkdir n; echo >n/a; ln -s x l2; rm e/z",
    "rm -r d; mkdir -p d/sub; echo n >d/sub/n; echo x2 >d/x",
    "rm -r d; echo file >d; rm f; mkdir f; echo >f/a",
    "mv f k; mv g e/k2; rm -r d",
    "ln f k; echo more >>k; rm f",
];

const ALL_ROOT: &[&str] = &[
    "mv d b; mkdir d; echo n >d/x",
    "mv d b; mv e d; mv b e; echo more >>e/x",
    "mv d b; mv b/sub c; rm b/x; mv b/y c/yy",
    "mv d/sub c; rm -r d; mkdir d",
    "echo more >>h1",
    "echo more >>h1; echo more >>h2; ln h1 h3",
    "setfattr -n user.note -v hi d; chown 7:8 e",
];

#[test]
fn root_and_user_discarding_everything_gives_the_host_back() {
    for (class, scripts) in [(Trusted, ALL), (User, ALL), (Trusted, ALL_ROOT)] {
        if !can(class) {
            continue;
        }
        for script in scripts {
            let overlay = Overlay::new(class, HOST);
            let before = overlay.vm(SEE);
            overlay.vm(script);
            let set = overlay.scan();
            let all: Vec<VmPath> = set.changes.iter().map(|c| c.path.clone()).collect();
            let count = discard(&overlay.input(), &set, &all).unwrap();
            assert_eq!(count, set.changes.len(), "{script}");
            assert_eq!(overlay.lines(), Vec::<String>::new(), "{class:?} {script}");
            assert_eq!(overlay.vm(SEE), before, "{class:?} {script}");
        }
    }
}

#[test]
fn root_and_user_discarding_one_keeps_the_rest() {
    let both: &[(&str, &str, &[&str])] = &[
        ("echo more >>f; echo more >>g", "f", &["M g"]),
        ("echo more >>d/x; rm d/y; chmod 700 d", "d", &["M d/x", "D d/y"]),
        ("echo more >>d/x; rm d/y; echo more >>f", "d", &["M f"]),
        ("mkdir n; echo >n/a; echo >n/b", "n/a", &["C n", "C n/b"]),
        ("mkdir n; echo >n/a; echo >n/b; rm f", "n", &["D f"]),
        ("rm -r d; mkdir d; echo new >d/new", "d/x", &["C d/new", "D d/sub", "D d/y"]),
        ("rm -r d; mkdir -p d/sub", "d/sub/s", &["D d/x", "D d/y"]),
        ("rm -r d; mkdir -p d/sub", "d/y", &["D d/sub/s", "D d/x"]),
        ("rm -r d; mkdir d; echo other >d/x", "d/x", &["D d/sub", "D d/y"]),
        ("mv f k; rm g", "k", &["D g"]),
        ("mv f k; rm g", "f", &["D g"]),
        ("mv f k; mkdir f", "f", &[]),
    ];
    let root: &[(&str, &str, &[&str])] = &[
        ("mv d b; rm b/x; mv b/y k", "b/x", &["R b<d", "R k<d/y"]),
        ("mv d b; rm b/x; mv b/y k", "k", &["R b<d", "D b/x<d/x"]),
        ("mv d b; mkdir d; echo n >d/n", "b", &["C d/n", "D d/sub", "D d/x", "D d/y"]),
        ("mv d b; mkdir e/n; echo n >e/n/n", "e/n", &["R b<d"]),
        ("echo more >>h1; echo more >>f", "h2", &["M f"]),
    ];
    let run = |class: XattrClass, rows: &[(&str, &str, &[&str])]| {
        if !can(class) {
            return;
        }
        for (script, chosen, want) in rows {
            let overlay = Overlay::new(class, HOST);
            overlay.vm(script);
            discard(&overlay.input(), &overlay.scan(), &[overlay.at(chosen)]).unwrap();
            overlay.vm("find . -type f -exec cat {} + >/dev/null");
            assert_eq!(overlay.lines(), *want, "{class:?}: {script}; discard {chosen}");
        }
    };
    run(Trusted, both);
    run(User, both);
    run(Trusted, root);
}

#[test]
fn root_a_new_directory_dropped_from_the_place_of_a_moved_one_leaves_that_place_empty() {
    if !can(Trusted) {
        return;
    }
    let overlay = Overlay::new(Trusted, HOST);
    overlay.vm("mv d b; mkdir d; echo n >d/n");
    let set = overlay.scan();
    discard(&overlay.input(), &set, &[overlay.at("d/n")]).unwrap();
    assert_eq!(overlay.lines(), ["R b<d", "C d"]);
}
