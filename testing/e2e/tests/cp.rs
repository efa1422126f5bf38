//! Files in and out of VMs.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// Runs `body` with a VM `v` that runs, as root and as an ordinary user.
fn as_both(test: &str, body: impl Fn(&Lab)) {
    if !is_root(test) {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        lab.fvm(["create", "v"]).expect(0);
        lab.fvm(["start", "v"]).expect(0);
        body(&lab);
    }
}

fn inside(lab: &Lab, script: &str) -> String {
    lab.fvm(["exec", "v", "--", "sh", "-ec", script]).expect(0).out
}

#[test]
fn root_and_user_trees_pass_in_both_directions() {
    as_both("root_and_user_trees_pass_in_both_directions", |lab| {
        let dir = lab.dir().display().to_string();
        inside(
            lab,
            "mkdir -p made/deep/$(printf 'x%.0s' $(seq 150))/$(printf 'y%.0s' $(seq 150)); echo text > made/file
             ln made/file made/again; ln -s /etc/passwd made/link; mkfifo made/pipe; chmod 6755 made/file
             truncate -s 60M made/sparse; echo x > '-odd name'; touch -d 2001-02-03 made/deep",
        );
        // Under a new name, then into a directory that is there.
        lab.fvm(["cp", "v:made", "out"]).expect(0);
        assert_eq!(lab.sh("cat out/file out/again; readlink out/link"), "text\ntext\n/etc/passwd\n");
        let meta = |name: &str| lab.path(name).symlink_metadata().unwrap();
        assert_eq!((meta("out/file").mode() & 0o7777, meta("out/file").ino()), (0o755, meta("out/again").ino()));
        assert_eq!(meta("out/file").uid(), lab.path("out").metadata().unwrap().uid());
        assert!(meta("out/sparse").len() == 60 << 20 && meta("out/sparse").blocks() < 100);
        assert!(lab.sh("find out/deep -name 'yyy*' | wc -l; stat -c %y out/deep").starts_with("1\n2001-02-03"));
        lab.sh("mkdir there");
        lab.fvm(["cp", &format!("v:{dir}/made"), "there"]).expect(0);
        lab.fvm(["cp", "v:-odd name", "there"]).expect(0);
        assert_eq!(lab.sh("cat there/made/file 'there/-odd name'"), "text\nx\n");
        // A second time: merged and replaced.
        lab.sh("echo mine > out/mine; echo old > out/file");
        lab.fvm(["cp", "v:made/file", "out/file"]).expect(0);
        assert_eq!(lab.sh("cat out/mine out/file"), "mine\ntext\n");

        // In: to a new name, into a directory, and what was there is replaced in the VM only.
        lab.sh("mkdir -p host/sub; echo one > host/sub/f; ln -s f host/sub/l; chmod 640 host/sub/f; echo v > seen");
        lab.fvm(["cp", "host", "v:came"]).expect(0);
        assert_eq!(inside(lab, "cat came/sub/l; stat -c %a came/sub/f"), "one\n640\n");
        lab.fvm(["cp", "host/sub", &format!("v:{dir}/made")]).expect(0);
        assert_eq!(inside(lab, "cat made/sub/f"), "one\n");
        lab.fvm(["cp", "host/sub/f", "v:seen"]).expect(0);
        assert_eq!((inside(lab, "cat seen"), lab.sh("cat seen")), ("one\n".into(), "v\n".into()));
        assert!(!lab.path("came").exists());

        // A VM that does not run is started for it, and stopped.
        lab.fvm(["stop", "-t", "0", "v"]).expect(0);
        lab.fvm(["cp", "v:came/sub/f", "back"]).expect(0);
        assert_eq!(lab.sh("cat back"), "one\n");
        assert!(lab.fvm(["list"]).out.contains("stopped"));
    });
}

#[test]
fn root_and_user_what_cannot_be_copied_is_said() {
    as_both("root_and_user_what_cannot_be_copied_is_said", |lab| {
        let says = |words: &[&str], code: i32, part: &str| {
            let ran = lab.fvm(words).expect(code);
            assert!(ran.err.contains(part), "{words:?}: {}", ran.err);
        };
        says(&["cp", "v:/not/there", "x"], 1, "not/there");
        says(&["cp", "not-there", "v:x"], 1, "No such file");
        lab.sh("echo x > file; mkdir dir");
        says(&["cp", "file", "v:/not/there/x"], 1, "/not/there");
        says(&["cp", "v:file", "no/such/dir"], 1, "no/such");
        says(&["cp", "file", "dir"], 2, "one of the two must be in a VM");
        says(&["cp", "v:a", "v:b"], 2, "one of the two must be in a VM");
        says(&["cp", "v:/", "x"], 1, "name a file or directory in it");
        says(&["cp", "nobody:/x", "x"], 4, "nobody");
        inside(lab, "mkdir both; rm -r dir; echo file > dir");
        lab.sh("mkdir -p into/dir");
        says(&["cp", "v:dir", "into"], 1, "there is a directory of that name");
        assert_eq!(lab.sh("ls -A into into/dir . | grep -c fvm-cp || true"), "0\n");
    });
}

#[test]
fn root_and_user_a_hostile_vm_gets_nothing_by_what_it_sends() {
    as_both("root_and_user_a_hostile_vm_gets_nothing_by_what_it_sends", |lab| {
        let dir = lab.dir().display().to_string();
        lab.sh("mkdir outside bin; echo host > outside/file; touch bin/tar");
        // Its own tar: a link out and then a file through it; another name than was asked for; no end; a flood of words.
        for (n, script) in [
            format!("ln -s {dir}/outside asked; /bin/tar -cf - ./asked; rm asked; mkdir asked; echo x > asked/file"),
            "mkdir other; echo x > other/file; /bin/tar -cf - ./other".into(),
            "/bin/tar -cf - --transform 's,^./asked,./asked/../../outside,' ./asked".into(),
            "yes >&2 & echo; exit 3".into(),
            "exit 0".into(),
        ]
        .iter()
        .enumerate()
        {
            inside(lab, "rm -rf asked other");
            let script = format!("#!/bin/sh\nPATH=/bin:/usr/bin; cd {dir}; mkdir -p asked; touch asked/x; {script}\n");
            lab.sh(&format!("cat > tar.{n} <<'END'\n{script}END\nchmod 755 tar.{n}"));
            inside(lab, &format!("cp {dir}/tar.{n} {dir}/bin/tar"));
            let mut command = lab.fvm_command(["cp", "v:asked", "got"]);
            let ran = command.env("PATH", format!("{dir}/bin:/usr/bin:/bin")).output().unwrap();
            let text = String::from_utf8_lossy(&ran.stderr).into_owned();
            if n > 0 {
                assert_eq!(ran.status.code(), Some(1), "{n}: {text}");
            }
            assert!(text.len() < 5000, "{n}");
            assert_eq!(lab.sh("cat outside/file; ls outside"), "host\nfile\n", "{n}");
            lab.sh("rm -rf got");
        }
        assert_eq!(std::fs::metadata(lab.path("outside")).unwrap().permissions().mode() & 0o777, 0o755);
    });
}
