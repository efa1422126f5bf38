//! Marks: what comes out of an untrusted VM says so, and no VM has a say in it.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use serde_json::Value;
use std::path::Path;

const NAMES: [&str; 2] = ["user.fvm.mark", "trusted.fvm.mark"];

fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

/// Whether a shell is there; says so when it is not tried.
fn has(shell: &str) -> bool {
    let found = Path::new("/usr/bin").join(shell).exists();
    if !found {
        eprintln!("not tried: there is no {shell}");
    }
    found
}

/// The attribute of a file, as root sees it.
fn attr(path: &Path, name: &str) -> Option<String> {
    let mut value = vec![0; 4096];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..len]).into_owned())
}

fn is_marked(path: &Path) -> bool {
    attr(path, NAMES[0]).is_some()
}

/// Python is in every test machine, setfattr is not.
fn set_in(lab: &Lab, vm: &str, path: &str, value: &str) {
    let script = format!("import os; os.setxattr({path:?}, 'user.fvm.mark', {value:?}.encode())");
    lab.fvm(["run", "--keep", "--name", vm, "--", "python3", "-c", &script]).expect(0);
}

/// Changes made by `script` in a VM with this policy, committed.
fn commit(lab: &Lab, vm: &str, policy: &str, script: &str) {
    lab.fvm(["run", "--keep", "--name", vm, "--policy", policy, "--", "sh", "-ec", script]).expect(0);
    lab.fvm(["commit", vm]).expect(0);
}

#[test]
fn root_and_user_what_comes_from_an_untrusted_vm_is_marked_until_unmarked() {
    as_both("root_and_user_what_comes_from_an_untrusted_vm_is_marked_until_unmarked", |lab| {
        lab.sh("mkdir t; echo old > t/edited; echo own > t/own; echo ro > t/renamed");
        let script = "cd t; printf '#!/bin/sh\\necho hi\\n' > new; chmod 755 new; ln new other; echo more >> edited; \
                      mkdir d; echo x > d/x; chmod 444 d/x; chmod 600 own; mv renamed moved";
        commit(lab, "u", "untrusted", script);
        for path in ["t/new", "t/other", "t/edited", "t/d/x"] {
            let mark = attr(&lab.path(path), NAMES[0]).unwrap_or_else(|| panic!("{path} is not marked"));
            let mark: Value = serde_json::from_str(&mark).unwrap();
            assert_eq!((&mark["vm"], &mark["policy"], &mark["version"]), (&"u".into(), &"untrusted".into(), &1.into()));
            let of_root = attr(&lab.path(path), NAMES[1]).is_some();
            assert_eq!(of_root, lab.user() == User::Root, "{path}");
        }
        // Not a byte of these came from the VM.
        for path in ["t/own", "t/moved", "t/d"] {
            assert!(!is_marked(&lab.path(path)), "{path}");
        }
        assert!(std::fs::metadata(lab.path("t/d/x")).unwrap().permissions().readonly());
        assert_eq!(lab.sh("t/new"), "hi\n");
        let listed: Value = serde_json::from_str(&lab.fvm(["marks", "--json"]).expect(0).out).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 3, "a file, whatever its names are: {listed}");

        lab.fvm(["unmark", "t/new"]).expect(0);
        assert!(!is_marked(&lab.path("t/new")) && !is_marked(&lab.path("t/other")), "one file, two names");
        assert!(is_marked(&lab.path("t/edited")));
        let history = lab.fvm(["marks", "--history"]).expect(0).out;
        assert!(history.lines().nth(1).unwrap().contains("commit of u"), "{history}");
        assert!(history.lines().nth(2).unwrap().contains("unmark"), "{history}");
        // A VM of the same machine does not.
        let refused = lab.fvm_command(["unmark", "t/edited"]).env("FVM", "u").output().unwrap();
        assert_eq!(refused.status.code(), Some(1));

        lab.fvm(["mark", "t/own"]).expect(0);
        assert!(is_marked(&lab.path("t/own")));
    });
}

#[test]
fn root_and_user_copies_are_known_by_their_content() {
    as_both("root_and_user_copies_are_known_by_their_content", |lab| {
        commit(lab, "u", "untrusted", "mkdir t; seq 1 5000 > t/m; echo other > t/n");
        lab.sh("cp t/m c; tar cf - t/m | (mkdir x; tar xf - -C x); sed -i s/^7$/8/ t/n; seq 1 4999 > near; mkdir z; \
                python3 -c 'import zipfile; z = zipfile.ZipFile(\"a.zip\", \"w\"); z.write(\"t/m\"); z.close(); \
                zipfile.ZipFile(\"a.zip\").extractall(\"z\")'");
        for lost in ["c", "x/t/m", "z/t/m"] {
            assert!(!is_marked(&lab.path(lost)), "{lost}: this test shows nothing");
        }
        let found = lab.fvm(["marks", "--mark-copies", "."]).expect(0).out;
        for copy in ["c", "x/t/m", "z/t/m", "t/n"] {
            assert!(is_marked(&lab.path(copy)), "{copy}: {found}");
        }
        assert!(!is_marked(&lab.path("near")));

        // Through a VM that is trusted: still a copy.
        commit(lab, "d", "unconfined-network", "cp t/m through; echo unlike > unlike; cp -a t/m preserved");
        assert!(is_marked(&lab.path("through")) && is_marked(&lab.path("preserved")));
        assert!(!is_marked(&lab.path("unlike")));

        // The content is trusted now, wherever it is; what says so itself is not.
        lab.fvm(["unmark", "t/m"]).expect(0);
        lab.sh("cp t/m again");
        assert_eq!(lab.fvm(["marks", "again", "t/m"]).expect(0).out.lines().count(), 1);
        assert!(is_marked(&lab.path("c")));
    });
}

#[test]
fn root_and_user_a_vm_neither_forges_nor_strips_marks() {
    as_both("root_and_user_a_vm_neither_forges_nor_strips_marks", |lab| {
        lab.sh("echo a > host; echo b > other");
        commit(lab, "u", "untrusted", "echo m > m; echo k > k");
        let before = attr(&lab.path("m"), NAMES[0]);
        // Forged, on a new file and on one of the host's.
        let forge = "import os\nopen('new', 'w').write('n')\nfor f in ['new', 'host']:\n  \
                     os.setxattr(f, 'user.fvm.mark', b'{\"version\":1}')\nos.setxattr('other', 'user.fvm.x', b'1')";
        lab.fvm(["run", "--keep", "--name", "f", "--", "python3", "-c", forge]).expect(0);
        let status = lab.fvm(["status", "f"]).expect(0);
        assert!(status.err.contains("risk: ") && status.err.contains("new: the VM's user.fvm.mark"), "{}", status.err);
        lab.fvm(["commit", "f"]).expect(0);
        for path in ["new", "host"] {
            assert!(lab.path(path).exists() && !is_marked(&lab.path(path)), "{path}");
        }
        assert_eq!(attr(&lab.path("other"), "user.fvm.x"), None);
        // Stripped, and overwritten: by attribute, by a new file in its place, and with other content.
        set_in(lab, "s", "m", "nothing");
        lab.fvm(["commit", "s"]).expect(0);
        assert_eq!(attr(&lab.path("m"), NAMES[0]), before);
        let strip = "import os; os.removexattr('m', 'user.fvm.mark'); os.rename('k', 'K'); \
                     os.removexattr('K', 'user.fvm.mark')";
        lab.fvm(["run", "--keep", "--name", "r", "--", "python3", "-c", strip]).expect(0);
        lab.fvm(["commit", "r"]).expect(0);
        assert_eq!(attr(&lab.path("m"), NAMES[0]), before);
        assert!(is_marked(&lab.path("K")));
        commit(lab, "e", "unconfined-network", "cat m > x; echo edited >> x; mv x m; sed -i s/k/j/ K");
        assert!(is_marked(&lab.path("K")), "changed in place");
        assert!(is_marked(&lab.path("m")), "what it replaces is marked");
        let mark: Value = serde_json::from_str(&attr(&lab.path("m"), NAMES[0]).unwrap()).unwrap();
        assert_eq!(mark["vm"], "u", "its origin stays");
    });
}

#[test]
fn root_and_user_hostile_names_and_attributes_are_marked_like_all_others() {
    as_both("root_and_user_hostile_names_and_attributes_are_marked_like_all_others", |lab| {
        let deep = vec!["d".repeat(200); 15].join("/");
        // Names that look like lines of the book, the longest there are, and deep ones; no text; links; an attribute as large as it
        // gets, and many.
        let make = format!(
            "import os\n\
             names = ['line\\nend 1 0000', 'mark {{}}', 'x' * 255, '\\x1b[2J', b'\\xff\\xfe']\n\
             for n in names:\n  open(n, 'w').write(repr(n))\n\
             top = os.getcwd(); os.makedirs('{deep}'); os.chdir('{deep}'); open('deep', 'w').write('deep'); os.chdir(top)\n\
             open('giant', 'w').write('g')\n\
             for size in [60000, 30000, 3000, 1000]:\n  try:\n    os.setxattr('giant', 'user.fvm.mark', b'{{' * size); break\n  \
             except OSError: pass\n\
             open('many', 'w').write('m')\n\
             for i in range(40):\n  os.setxattr('many', 'user.fvm.%d' % i, b'')\n\
             os.symlink('giant', 'link'); os.mkfifo('fifo')\n"
        );
        lab.fvm(["run", "--keep", "--name", "h", "--policy", "untrusted", "--", "python3", "-c", &make]).expect(0);
        // What has forged marks is left out, unless it is named.
        lab.fvm(["commit", "h"]).expect(0);
        assert!(!lab.path("giant").exists() && !lab.path("many").exists());
        let [giant, many] = ["giant", "many"].map(|name| lab.path(name).display().to_string());
        lab.fvm(["commit", "h", &giant, &many]).expect(0);
        let names = std::fs::read_dir(lab.dir()).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = names.filter(|path| path.symlink_metadata().unwrap().is_file()).collect();
        assert_eq!(files.len(), 7, "{files:?}");
        for path in files.iter().chain([&lab.path(&deep).join("deep")]) {
            let mark = attr(path, NAMES[0]).unwrap_or_else(|| panic!("{} is not marked", path.display()));
            let mark: Value = serde_json::from_str(&mark).unwrap();
            assert_eq!(mark["vm"], "h", "{}: what the VM had there is not taken", path.display());
        }
        assert_eq!(attr(&lab.path("many"), "user.fvm.7"), None);
        let listed: Value = serde_json::from_str(&lab.fvm(["marks", "--json"]).expect(0).out).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 8, "{listed}");
        let history = lab.fvm(["marks", "--history"]).expect(0);
        assert!(history.err.is_empty() && !history.out.contains('\u{1b}'), "{history:?}");
        assert!(!lab.fvm(["marks", "."]).expect(0).out.contains('\u{1b}'));
        // Of a link nobody can say whose mark it is: it has none, and what it leads to stays marked.
        lab.fvm(["unmark", "link"]).expect(1);
        assert!(is_marked(&lab.path("giant")));
        for path in &files {
            lab.fvm_command(["unmark"]).arg(path).status().unwrap();
            assert!(!is_marked(path), "{}", path.display());
        }
    });
}

#[test]
fn root_and_user_an_empty_file_is_a_copy_of_none() {
    as_both("root_and_user_an_empty_file_is_a_copy_of_none", |lab| {
        commit(lab, "u", "untrusted", "mkdir t; : > t/empty; echo m > t/m");
        assert!(is_marked(&lab.path("t/empty")));
        commit(lab, "d", "unconfined-network", ": > own; cp t/m copy");
        assert!(!is_marked(&lab.path("own")) && is_marked(&lab.path("copy")));
        lab.sh(": > other");
        lab.fvm(["marks", "--mark-copies", "."]).expect(0);
        assert!(!is_marked(&lab.path("other")));
        lab.fvm(["unmark", "t/empty"]).expect(0);
        assert!(!is_marked(&lab.path("t/empty")));
    });
}

#[test]
fn root_and_user_options_overrule_the_policy_and_undo_takes_marked_files_back() {
    as_both("root_and_user_options_overrule_the_policy_and_undo_takes_marked_files_back", |lab| {
        let made = |vm: &str, options: &[&str], commit: &[&str]| {
            let script = format!("echo {vm} > {vm}");
            lab.fvm([&["run", "--keep", "--name", vm], options, &["--", "sh", "-c", &script]].concat()).expect(0);
            lab.fvm([&["commit", vm], commit].concat()).expect(0);
            is_marked(&lab.path(vm))
        };
        assert!(!made("a", &[], &[]));
        assert!(made("b", &["--mark"], &[]));
        assert!(!made("c", &["--policy", "untrusted", "--no-mark"], &[]));
        assert!(!made("d", &["--policy", "untrusted"], &["--no-mark"]));
        assert!(made("e", &[], &["--mark"]));
        lab.fvm(["undo", "5"]).expect(0);
        assert!(!lab.path("e").exists());
        lab.fvm(["undo", "6"]).expect(0);
        assert!(is_marked(&lab.path("e")));
    });
}

#[test]
fn root_and_user_what_is_copied_out_of_an_untrusted_vm_is_marked() {
    as_both("root_and_user_what_is_copied_out_of_an_untrusted_vm_is_marked", |lab| {
        for (vm, policy, marked) in [("u", "untrusted", true), ("d", "unconfined-network", false)] {
            let script = "mkdir t; echo 1 > t/a; echo 2 > t/b; chmod 400 t/b";
            lab.fvm(["run", "--keep", "--name", vm, "--policy", policy, "--", "sh", "-c", script]).expect(0);
            let from = format!("{vm}:{}", lab.path("t").display());
            lab.fvm(["cp", &from, &format!("out-{vm}")]).expect(0);
            for name in ["a", "b"] {
                assert_eq!(is_marked(&lab.path(format!("out-{vm}/{name}"))), marked, "{vm} {name}");
            }
            // Its copy is one of marked content now, whichever VM it comes from.
            if marked {
                lab.fvm(["unmark", "out-u/a", "out-u/b"]).expect(0);
            }
        }
    });
}

#[test]
fn root_and_user_the_shell_hook_takes_what_is_typed_to_a_vm() {
    as_both("root_and_user_the_shell_hook_takes_what_is_typed_to_a_vm", |lab| {
        commit(lab, "u", "untrusted", "cp /usr/bin/printenv m; printf '#!/bin/sh\\nexit 7\\n' > s; chmod 755 s");
        let bin = lab.path("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(fvm_kit::binary(), bin.join("fvm")).unwrap();
        let run = |shell: &str, script: &str| {
            let script = format!("eval \"$(fvm guard hook {shell})\"\n{script}");
            let mut command = lab.command(shell);
            command.args([if shell == "zsh" { "-f" } else { "--norc" }, "-c", &script]).env("FVM_HOME", lab.home());
            command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
            fvm_kit::Ran::of(command.output().unwrap())
        };
        let shells: Vec<_> = ["bash", "zsh"].into_iter().filter(|shell| has(shell)).collect();
        for shell in &shells {
            let ran = run(shell, "./m FVM; ./m FVM 'a b' | cat; echo $((1+1)); cd /; ls > /dev/null; ~/m FVM");
            let confined = ran.out.lines().filter(|line| line.starts_with("vm-")).count();
            assert!(confined >= 3 && ran.out.contains("2\n"), "{shell}: {ran:?}");
            // Advice: it sees what is typed, not what that does.
            assert_eq!(run(shell, "sh -c './m FVM'").out, "", "docs/book/marks.md says otherwise");
        }
        lab.fvm(["unmark", "m"]).expect(0);
        for shell in &shells {
            assert_eq!(run(shell, "./m FVM").out, "");
        }
    });
}

#[test]
fn root_and_user_marked_documents_open_in_a_vm_and_others_as_before() {
    as_both("root_and_user_marked_documents_open_in_a_vm_and_others_as_before", |lab| {
        commit(lab, "u", "untrusted", "echo text > marked.pdf");
        lab.sh("echo text > own.pdf; mkdir -p .local/share/applications .local/share/mime .config; \
                echo '50:application/pdf:*.pdf' > .local/share/mime/globs2; \
                printf '#!/bin/sh\\ncat \"$1\"; echo in-$FVM; echo seen > seen\\n' > viewer; chmod 755 viewer; \
                printf '[Desktop Entry]\\nType=Application\\nName=V\\nExec=\"%s/viewer\" %%f\\n' \"$PWD\" \
                > .local/share/applications/viewer.desktop; \
                printf '[Default Applications]\\napplication/pdf=viewer.desktop;\\n' > .config/mimeapps.list");
        lab.fvm(["guard", "install", "--user"]).expect(0);
        let list = std::fs::read_to_string(lab.path(".config/mimeapps.list")).unwrap();
        assert!(list.contains("application/pdf=fvm-open.desktop;viewer.desktop;"), "{list}");
        let entry = std::fs::read_to_string(lab.path(".local/share/applications/fvm-open.desktop")).unwrap();
        assert!(entry.contains(" open %f\n"), "{entry}");
        let open = |file: &str| lab.fvm(["open", file]).expect(0).out;
        let opened = open("marked.pdf");
        assert!(opened.starts_with("text\nin-vm-") && !lab.path("seen").exists(), "{opened}");
        assert!(lab.fvm(["open", "--with", "cat", "marked.pdf"]).expect(0).out.starts_with("text\n"));
        assert_eq!(open("own.pdf"), "text\nin-\n");
        assert!(lab.path("seen").exists());
        lab.fvm(["guard", "uninstall", "--user"]).expect(0);
        let list = std::fs::read_to_string(lab.path(".config/mimeapps.list")).unwrap();
        assert_eq!(list, "[Default Applications]\napplication/pdf=viewer.desktop;\n");
    });
}

#[test]
fn root_and_user_the_guard_says_what_it_needs_and_doctor_what_there_is() {
    as_both("root_and_user_the_guard_says_what_it_needs_and_doctor_what_there_is", |lab| {
        let root = lab.user() == User::Root;
        let unit = lab.fvm(["guard", "install", "--print", "--reads", "allow", "--watch", "w"]).expect(0).out;
        assert!(unit.contains("Restart=always") && unit.contains("\"--reads\" \"allow\""), "{unit}");
        assert!(unit.contains(&format!("\"--watch\" \"{}\"", lab.path("w").display())), "{unit}");
        lab.fvm(["guard", "status"]).expect(1);
        let doctor = lab.fvm(["doctor"]).expect(0).out;
        assert_eq!(doctor.contains("advice only"), !root, "{doctor}");
        if !root {
            for words in [&["guard", "run"][..], &["guard", "install"]] {
                assert!(lab.fvm(words).expect(1).err.contains("needs root"), "{words:?}");
            }
        }
        lab.sh("echo a > a");
        lab.fvm(["guard", "check", "a"]).expect(1);
        lab.fvm(["mark", "a"]).expect(0);
        lab.fvm(["guard", "check", "a"]).expect(0);
    });
}
