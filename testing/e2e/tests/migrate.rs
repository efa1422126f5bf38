//! VMs that go to another user, another state directory, another machine, as one file.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use std::path::Path;

/// What a VM changed, and how: as `status` and `diff` say it.
fn told(lab: &Lab, vm: &str) -> (Vec<String>, String) {
    let status = lab.fvm(["status", vm]).expect(0).out;
    let diff = lab.fvm(["diff", vm]).expect(0).out;
    (status.lines().skip(1).map(ToOwned::to_owned).collect(), diff)
}

/// Makes a place that both see and may read, and a VM of `lab`'s that changed it in many ways.
fn changed(lab: &Lab) {
    lab.sh(
        "chmod 755 .; mkdir -m 755 work; cd work; echo base > text; echo 1 > gone; echo 2 > moved; mkdir -p d/e; echo 3 > d/f
         head -c 300000 /dev/zero > zeros; ln -s text link; touch -d '2001-02-03 04:05:06.789012345' text d/f",
    );
    // Longer than a tar header's names, and odd.
    let work = "cd work; echo more >> text; rm gone; mv moved to; chmod 700 d; rm -r d/e; ln -sf to link; mkfifo p
         n=$(printf 'x%.0s' $(seq 120)); mkdir -p $n/$n; echo deep > $n/$n/$n; printf 'a\\\\nb' > \"$(printf 'odd \\\\n \\\\\\\\ name')\"
         truncate -s 20M sparse; echo end >> sparse; echo one > l1; ln l1 l2; touch -d '1960-01-01 00:00:00.25' l1
         python3 -c 'import os; os.setxattr(\"l1\", \"user.a=b%\", bytes([0, 10, 255]))'";
    lab.fvm(["run", "--quiet", "--keep", "--name", "v", "--net", "none", "--", "sh", "-ec", work]).expect(0);
}

#[test]
fn user_to_root_and_back_a_vm_is_the_same_everywhere() {
    if !is_root("user_to_root_and_back_a_vm_is_the_same_everywhere") {
        return;
    }
    let from = Lab::new(User::Ordinary);
    changed(&from);
    from.fvm(["export", "v", "v.fvm"]).expect(0);
    from.sh("chmod 644 v.fvm");
    let archive = from.path("v.fvm").display().to_string();
    let first = told(&from, "v");
    assert!(first.0.len() >= 12 && first.1.contains("+more"), "{first:?}");
    // Beside the first, as root, and as the user again out of root's hands.
    from.fvm(["import", &archive]).expect(1);
    from.fvm(["import", &archive, "--name", "again"]).expect(0);
    assert!(told(&from, "again") == first, "{:?}\n{:?}", told(&from, "again").0, first.0);
    let root = Lab::new(User::Root);
    let said = root.fvm(["import", &archive]).expect(0).err;
    assert!(said.contains("v was made on") && !said.contains("conflict"), "{said}");
    assert!(told(&root, "v") == first, "{:?}\n{:?}", told(&root, "v").0, first.0);
    // Its root would be the host's, with nothing locked.
    for words in [vec!["run", "--name", "v", "--", "true"], vec!["start", "v"]] {
        assert!(root.fvm(words).err.contains("is an ordinary user's VM"));
    }
    root.fvm(["export", "v", "second.fvm"]).expect(0);
    root.sh(&format!(
        "cp second.fvm {}; chmod 644 {}/second.fvm; chmod 755 .",
        from.dir().display(),
        from.dir().display()
    ));
    from.fvm(["import", "second.fvm", "--name", "third"]).expect(0);
    assert!(told(&from, "third") == first, "{:?}\n{:?}", told(&from, "third").0, first.0);
    // Holes are holes, names of one file are names of one file, and what runs in it finds all.
    let script = "cd work; cat text to l2; stat -c %h l1; cat x*/x*/x*; stat -c %b sparse; stat -c %y l1; \
                  python3 -c 'import os; print(os.getxattr(\"l2\", \"user.a=b%\"))'; ls -d link p odd*";
    let seen = |vm: &str| from.fvm(["run", "--quiet", "--name", vm, "--", "sh", "-ec", script]).expect(0).out;
    let (mine, thirds) = (seen("v"), seen("third"));
    assert_eq!(mine, thirds);
    assert!(mine.contains("1960-01-01 00:00:00.250000000") && mine.contains("b'\\x00\\n\\xff'"), "{mine}");
    // Committed there, it is as if committed here.
    from.fvm(["commit", "third"]).expect(0);
    let here =
        from.sh("cd work; cat text to l2; stat -c %h l1; ls | wc -l; cat x*/x*/x*; test ! -e gone; test ! -e moved");
    assert!(here.starts_with("base\nmore\n2\none\n2\n"), "{here}");
    assert!(told(&from, "third").0.is_empty());
    from.fvm(["undo", "1"]).expect(0);
    assert_eq!(from.sh("cat work/text"), "base\n");
}

#[test]
fn root_to_root_a_vm_keeps_owners_and_moved_directories_if_it_is_trusted() {
    if !is_root("root_to_root_a_vm_keeps_owners_and_moved_directories_if_it_is_trusted") {
        return;
    }
    let from = Lab::new(User::Root);
    changed(&from);
    from.fvm(["run", "--quiet", "--name", "v", "--", "sh", "-ec", "cd work; chown 1234:4321 text; chmod 4755 l1"])
        .expect(0);
    from.fvm(["export", "v", "v.fvm"]).expect(0);
    let first = told(&from, "v");
    let to = Lab::new(User::Root);
    let archive = from.path("v.fvm").display().to_string();
    to.fvm(["import", &archive]).expect(0);
    assert!(told(&to, "v") == first, "{:?}\n{:?}", told(&to, "v").0, first.0);
    // What a file may do as nobody else is the host's to give: a stranger's is not taken.
    let give =
        "import os; os.setxattr('work/l1', 'security.capability', b'\\1\\0\\0\\2' + b'\\4\\0\\0\\0' + bytes(12))";
    from.fvm(["run", "--quiet", "--name", "v", "--", "python3", "-c", give]).expect(0);
    from.fvm(["export", "v", "caps.fvm"]).expect(0);
    let caps = from.path("caps.fvm").display().to_string();
    let work = from.path("work").display().to_string();
    let has = "import os; print('security.capability' in os.listxattr('l1'))";
    for (name, more, expected) in [("stranger", None, "False\n"), ("friend", Some("--trust"), "True\n")] {
        to.fvm(["import", &caps, "--name", name].into_iter().chain(more)).expect(0);
        let words = ["run", "--quiet", "--name", name, "--workdir", &work, "--", "python3", "-c", has];
        assert_eq!(to.fvm(words).expect(0).out, expected);
    }
    // Nor where its addresses lie.
    std::fs::write(from.path("p.toml"), "[network]\nmode = 'none'\nrange = '192.168.0.0/16'\n").unwrap();
    from.fvm(["create", "r", "--policy", "./p.toml"]).expect(0);
    from.fvm(["export", "r", "r.fvm"]).expect(0);
    let mut plain = to.fvm_command(["import".into(), from.path("r.fvm").display().to_string()]);
    let said = fvm_kit::Ran::of(plain.env_remove("FVM_POLICY").output().unwrap()).expect(0).err;
    assert!(said.contains("the range of its addresses"), "{said}");
    assert!(!to.fvm(["inspect", "r"]).expect(0).out.contains("192.168"));
    let script = format!("cd {work}; stat -c '%u %g %a %n' text l1; cat text");
    assert_eq!(
        to.fvm(["run", "--quiet", "--name", "v", "--", "sh", "-ec", &script]).expect(0).out,
        "1234 4321 644 text\n0 0 4755 l1\nbase\nmore\n"
    );
    // A VM of root's is root's.
    let user = Lab::new(User::Ordinary);
    from.sh("chmod 755 .; chmod 644 v.fvm");
    assert!(user.fvm(["import", &archive]).expect(1).err.contains("only root"));
    assert!(
        !user.fvm(["list"]).expect(0).out.contains('v'.to_string().as_str())
            || !user.fvm(["list"]).expect(0).out.contains("stopped")
    );
    // A moved directory stands for another of the host's: a forged one could stand for a hidden one.
    from.fvm(["run", "--quiet", "--name", "v", "--", "mv", "work/d", "work/dd"]).expect(0);
    from.fvm(["export", "v", "v.fvm"]).expect(0);
    let refused = to.fvm(["import", &archive, "--name", "w"]).expect(1).err;
    assert!(refused.contains("stands for another directory") && refused.contains("--trust"), "{refused}");
    to.fvm(["import", "--trust", &archive, "--name", "w"]).expect(0);
    assert_eq!(told(&to, "w"), told(&from, "v"));
    assert!(told(&to, "w").0.iter().any(|line| line.contains("R ") && line.contains("/dd")), "{:?}", told(&to, "w").0);
}

#[test]
fn root_and_user_what_another_machine_has_otherwise_is_told_and_a_conflict() {
    if !is_root("root_and_user_what_another_machine_has_otherwise_is_told_and_a_conflict") {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        changed(&lab);
        lab.fvm(["export", "v", "v.fvm"]).expect(0);
        lab.fvm(["delete", "v"]).expect(0);
        // Another machine: other files, older than the VM.
        lab.sh("echo other > work/text; echo new > work/to; touch -d 2001-02-03 work/text work/to");
        let said = lab.fvm(["import", "v.fvm"]).expect(0).err;
        for path in ["text", "to"] {
            let path = lab.path("work").join(path).display().to_string();
            assert!(said.contains(&format!("{path} is not here as it was there")), "{said}");
        }
        let text = lab.path("work/text").display().to_string();
        assert!(lab.fvm(["commit", "v", &text]).expect(3).err.contains("not what the VM was made from"));
        assert_eq!(lab.sh("cat work/text"), "other\n");
        lab.fvm(["commit", "v", "--on-conflict", "vm", &text]).expect(0);
        assert_eq!(lab.sh("cat work/text"), "base\nmore\n");
        // The host has the VM's now: what the VM does to it from here on is no conflict.
        lab.fvm(["run", "--quiet", "--name", "v", "--", "sh", "-c", "echo last >> work/text"]).expect(0);
        lab.fvm(["commit", "v", &text]).expect(0);
        assert_eq!(lab.sh("cat work/text"), "base\nmore\nlast\n");
        // And a copy knows it too.
        lab.fvm(["copy", "v", "c"]).expect(0);
        let to = lab.path("work/to").display().to_string();
        lab.fvm(["commit", "c", &to]).expect(3);
    }
}

#[test]
fn root_and_user_a_damaged_or_strange_archive_makes_no_vm() {
    if !is_root("root_and_user_a_damaged_or_strange_archive_makes_no_vm") {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        changed(&lab);
        lab.fvm(["export", "nobody", "x"]).expect(4);
        lab.fvm(["export", "v", "/nowhere/x"]).expect(1);
        lab.fvm(["start", "v"]).expect(0);
        assert!(lab.fvm(["export", "v", "x"]).expect(1).err.contains("fvm stop v"));
        lab.fvm(["kill", "v"]).expect(0);
        assert!(!Path::new(&lab.path("x")).exists());
        lab.fvm(["export", "v", "v.fvm"]).expect(0);
        lab.fvm(["delete", "v"]).expect(0);
        // Cut, bent, exchanged, and no archive at all.
        lab.sh("head -c 1000 v.fvm > cut; cp v.fvm bent; printf X | dd of=bent bs=1 seek=700 conv=notrunc 2>/dev/null
             echo nothing > text.fvm; : > empty; cat v.fvm v.fvm > twice");
        for archive in ["cut", "bent", "text.fvm", "empty", "twice", "work", "missing"] {
            let ran = lab.fvm(["import", archive]);
            assert!(ran.code == 1 && ran.err.contains("cannot"), "{archive}: {}", ran.err);
        }
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1);
        let left = lab.sh(&format!("ls -A {}/vms | grep -v '^\\.' || true", lab.home().display()));
        assert_eq!(left, "");
        // What a stranger's policy would open of this host stays closed.
        let open = lab.path("work").display().to_string();
        lab.fvm(["create", "o", "--net", "host", "--share", &open]).expect(0);
        lab.fvm(["export", "o", "o.fvm"]).expect(0);
        lab.fvm(["delete", "o"]).expect(0);
        let mut plain = lab.fvm_command(["import", "o.fvm"]);
        let said = fvm_kit::Ran::of(plain.env_remove("FVM_POLICY").output().unwrap()).expect(0).err;
        assert!(said.contains("without shared directories") && said.contains("without the host's network"), "{said}");
        assert!(!lab.fvm(["inspect", "o"]).expect(0).out.contains(&format!("\"{open}\"")));
        // What is asked for everywhere holds for a stranger's VM too.
        let said = lab.fvm(["import", "o.fvm", "--name", "q"]).expect(0).err;
        assert!(!said.contains("without shared directories"), "{said}");
        assert!(!lab.fvm(["inspect", "q"]).expect(0).out.contains(&format!("\"{open}\"")));
        lab.fvm(["import", "o.fvm", "--name", "p", "--trust"]).expect(0);
        assert!(lab.fvm(["inspect", "p"]).expect(0).out.contains(&format!("\"{open}\"")));
    }
}
