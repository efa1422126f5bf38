//! `fvm refresh`: what the host creates, replaces and removes reaches a VM that runs.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, binary, is_root};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// Looks at every name below `d`, so that the VM remembers all of them, and those that are not there.
const LOOK: &str = "cat d/edited d/replaced d/gone d/new d/sub/new d/later/f 2>/dev/null || true";

/// What another program on the host may do while the VM runs.
const CHANGE: &str = "echo edited2 > d/edited; echo replaced2 > d/t; mv d/t d/replaced; rm d/gone
    echo new > d/new; echo new2 > d/sub/new; mkdir d/later; echo later > d/later/f";

#[test]
fn root_and_user_refresh_shows_what_the_host_changed() {
    if !is_root("root_and_user_refresh_shows_what_the_host_changed") {
        return;
    }
    for user in [User::Root, User::Ordinary] {
        let lab = Lab::new(user);
        lab.sh(
            "mkdir -p d/sub; echo edited > d/edited; echo replaced > d/replaced; echo gone > d/gone; echo own > d/own",
        );
        lab.fvm(["create", "v"]).expect(0);
        let refused = lab.fvm(["refresh", "v"]).expect(1);
        assert!(
            refused.err.contains("'v' is not running") && refused.err.contains("hint: 'fvm start v'"),
            "{refused:?}"
        );
        lab.fvm(["refresh", "nobody"]).expect(4);
        lab.fvm(["start", "v"]).expect(0);
        let look = || lab.fvm(["exec", "v", "sh", "-c", LOOK]).expect(0).out;
        assert_eq!(look(), "edited\nreplaced\ngone\n");
        // The VM's own changes, which a refresh must leave alone, and a program that stands in the directory.
        lab.fvm(["exec", "v", "sh", "-c", "echo vm > d/own; echo vm > d/mine; (cd d; sleep 600 > /dev/null 2>&1 &)"])
            .expect(0);
        lab.sh(CHANGE);
        let told = lab.fvm(["refresh", "v"]).expect(0);
        assert_eq!((told.out.as_str(), told.err.as_str()), ("", "fvm: refreshed v\n"));
        let changed = "edited2\nreplaced2\nnew\nnew2\nlater\n";
        assert_eq!(look(), changed, "{user:?}");
        let names = lab.fvm(["exec", "v", "sh", "-c", "ls d; cat d/own d/mine"]).expect(0).out;
        assert_eq!(names, "edited\nlater\nmine\nnew\nown\nreplaced\nsub\nvm\nvm\n");
        assert_eq!(lab.sh("cat d/own; ls d"), "own\nedited\nlater\nnew\nown\nreplaced\nsub\n", "the host is as it was");
        // Every start is a refresh.
        lab.fvm(["stop", "-t", "0", "v"]).expect(0);
        lab.sh("rm -r d/later d/new; echo back > d/gone");
        lab.fvm(["start", "v"]).expect(0);
        assert_eq!(look(), "edited2\nreplaced2\nback\nnew2\n", "{user:?}");
        // A VM in the foreground has another keeper.
        let mut client =
            lab.spawn(["run", "--keep", "--name", "f", "--", "sh", "-c", "cat d/new; touch up; sleep 600"]);
        while lab.fvm(["exec", "f", "test", "-e", "up"]).code != 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        lab.sh("echo seen > d/new");
        lab.fvm(["refresh", "f", "v"]).expect(0);
        assert_eq!(lab.fvm(["exec", "f", "cat", "d/new"]).expect(0).out, "seen\n");
        lab.fvm(["kill", "f"]).expect(0);
        client.wait().unwrap();
    }
}

#[test]
fn root_what_the_vms_root_mounts_and_moves_does_not_lead_a_refresh_astray() {
    if !is_root("root_what_the_vms_root_mounts_and_moves_does_not_lead_a_refresh_astray") {
        return;
    }
    let lab = Lab::new(User::Root);
    lab.sh("mkdir d; echo replaced > d/replaced");
    lab.fvm(["create", "v"]).expect(0);
    lab.fvm(["start", "v"]).expect(0);
    let vm = |script: &str| lab.fvm(["exec", "v", "sh", "-ec", script]).expect(0).out;
    vm("cat d/replaced; ! test -e d/new");
    // Another mount over the directory, and one over the root: what a path would now lead to.
    vm("mkdir /x; mount -t tmpfs none /x; mount --move /x \"$PWD\"; mount -t tmpfs none /");
    lab.sh("echo replaced2 > d/t; mv d/t d/replaced; echo new > d/new");
    lab.fvm(["refresh", "v"]).expect(0);
    vm("umount -l /; dir=$PWD; cd /; umount -l \"$dir\"");
    assert_eq!(vm("cat d/replaced d/new"), "replaced2\nnew\n");
    lab.fvm(["stop", "-t", "0", "v"]).expect(0);
}

/// What `outer` prints, run by root in a mount namespace of its own; `$SCRIPT` in it is `script`.
fn among_own_mounts(lab: &Lab, outer: &str, script: &str) -> (String, String) {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", outer]).env("SCRIPT", script).env("HOME", lab.dir()).current_dir(lab.dir());
    let ran = command.output().unwrap();
    (String::from_utf8_lossy(&ran.stdout).into(), String::from_utf8_lossy(&ran.stderr).into())
}

/// A script for that: `before`, then `$SCRIPT` as the user of `lab` in the directory `d`, and when that asks, by a file, `then`.
fn as_user(lab: &Lab, before: &str, then: &str) -> String {
    let meta = std::fs::metadata(lab.dir()).unwrap();
    let script = format!(
        "{before}; cd d
         setpriv --reuid $uid --regid $gid --clear-groups sh -ec \"$SCRIPT\" &
         for i in $(seq 600); do [ -e asked ] && break; sleep 0.05; done
         {then}; rm asked; wait $!"
    );
    format!("uid={} gid={}\n{script}", meta.uid(), meta.gid())
}

/// A directory with a mount below it is rebuilt from its names in a rootless VM: those have to be brought up to date.
#[test]
fn user_refresh_updates_the_names_of_a_directory_with_a_mount_below_it() {
    if !is_root("user_refresh_updates_the_names_of_a_directory_with_a_mount_below_it") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let meta = std::fs::metadata(lab.dir()).unwrap();
    lab.sh("mkdir -p s/m s/sub; echo replaced > s/replaced; echo gone > s/gone; ln -s old s/link; ln -s x s/away
        echo keep > s/keep; : > s/empty; head -c 17m /dev/zero > s/large; echo sub > s/sub/f");
    let script = format!(
        r#"
        fvm() {{ {fvm} --home {home} "$@"; }}
        look() {{ fvm exec v sh -c 'cat s/replaced s/gone s/new s/sub/f s/sub/new s/m/f; readlink s/link s/away' 2>/dev/null || true; }}
        fvm create v; fvm start v
        look; fvm exec v sh -c 'echo vm > s/keep; echo vm > s/mine'
        echo replaced2 > s/t; chmod 400 s/t; mv s/t s/replaced; rm s/gone s/away s/empty; echo new > s/new; ln -sfn new s/link
        echo sub2 > s/t; mv s/t s/sub/f; echo subnew > s/sub/new; echo m > s/m/f; echo host > s/keep; mkdir s/dir
        fvm refresh v; fvm refresh v
        echo; look; fvm exec v sh -c 'echo s/*; cat s/keep; wc -c < s/large; ls s/dir | wc -l'
        rm s/replaced; echo again > s/replaced; fvm refresh v; fvm exec v cat s/replaced
        fvm delete --force v"#,
        fvm = binary().display(),
        home = lab.home().display()
    );
    let outer = format!(
        "mount -t tmpfs -o uid={},gid={} none s/m; exec setpriv --reuid {0} --regid {1} --clear-groups sh -ec \"$SCRIPT\"",
        meta.uid(),
        meta.gid()
    );
    let (out, err) = among_own_mounts(&lab, &outer, &script);
    let expected = "replaced\ngone\nsub\nold\nx\n\nreplaced2\nnew\nsub2\nsubnew\nm\nnew\n\
        s/keep s/large s/link s/m s/mine s/new s/replaced s/sub\nvm\n17825792\n0\nagain\n";
    assert_eq!(out, expected, "{err}");
}

/// Of those, what the user cannot change has no layer of its own.
#[test]
fn user_names_that_the_user_cannot_change_lie_in_the_layer_of_the_directory_above() {
    if !is_root("user_names_that_the_user_cannot_change_lie_in_the_layer_of_the_directory_above") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let script = format!(
        r#"
        fvm() {{ {fvm} --home {home} "$@"; }}
        fvm explain --net none | grep -o 'over the names of [^ ]*/d,.*at' | sed "s,$PWD,d,g"
        fvm run --keep --name v --net none -- sh -c 'touch r/a/x r/a/b/x 2>/dev/null || echo closed; echo vm >> r/mine/f; echo vm > r/a/b/m/own' 2>/dev/null
        fvm status v | grep -o '[AM]  .*' | sed "s,$PWD/,,"
        fvm start v; fvm exec v sh -c 'readlink r/a/link; cat r/a/b/m/f r/a/b/file r/mine/f r/a/b/m/own; stat -c %A r r/a r/a/b'
        touch asked; while [ -e asked ]; do sleep 0.05; done
        fvm refresh v; fvm exec v sh -c 'readlink r/a/link r/a/new; stat -c %A r/a; touch r/a/x 2>/dev/null || echo closed'
        fvm stop -t 0 v; fvm commit v 2>/dev/null; cat r/mine/f r/a/b/m/own"#,
        fvm = binary().display(),
        home = lab.home().display()
    );
    let outer = as_user(
        &lab,
        "mkdir -p d/r/a/b/m d/r/mine; ln -s old d/r/a/link; echo file > d/r/a/b/file; echo f > d/r/mine/f
         chown -R $uid:$gid d/r/mine; chown $uid:$gid d; chmod 750 d/r/a/b; chgrp $gid d/r/a/b
         mount -t tmpfs -o uid=$uid,gid=$gid none d/r/a/b/m; echo m > d/r/a/b/m/f",
        "ln -sfn new r/a/link; ln -s newer r/a/new",
    );
    let (out, err) = among_own_mounts(&lab, &outer, &script);
    let expected = "over the names of d, d/r, d/r/a, d/r/a/b at\nclosed\nA  r/a/b/m/own\nM  r/mine/f\n\
        old\nm\nfile\nf\nvm\nvm\ndr-xr-xr-x\ndr-xr-xr-x\ndr-xr-x---\n\
        new\nnewer\ndr-xr-xr-x\nclosed\nf\nvm\nvm\n";
    assert_eq!(out, expected, "{err}");
}

#[test]
fn user_what_a_vm_did_among_such_names_is_not_lost_when_they_get_a_layer_of_their_own() {
    if !is_root("user_what_a_vm_did_among_such_names_is_not_lost_when_they_get_a_layer_of_their_own") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let script = format!(
        r#"
        fvm() {{ {fvm} --home {home} "$@"; }}
        ask() {{ touch asked; while [ -e asked ]; do sleep 0.05; done; }}
        fvm run --keep --name v --net none -- sh -c 'for d in r/a r/b; do chmod u+w $d; echo vm > $d/x; done' 2>/dev/null
        look() {{ fvm status v 2>/dev/null | grep -o '[AM]  .*' | sed "s,$PWD/,,"; fvm run --name v -- cat r/a/x r/b/x 2>/dev/null; }}
        look; fvm explain v | grep -c 'r/[ab] at'
        ask; look; fvm explain v | grep -c 'r/[ab] at'
        fvm commit v 2>/dev/null; cat r/a/x r/b/x 2>/dev/null || true"#,
        fvm = binary().display(),
        home = lab.home().display()
    );
    let outer = as_user(
        &lab,
        "mkdir -p d/r/a/m d/r/b/m; chown $uid:$gid d; mount -t tmpfs none d/r/a/m; mount -t tmpfs none d/r/b/m",
        "umount r/a/m; chown $uid:$gid r/b",
    );
    let (out, err) = among_own_mounts(&lab, &outer, &script);
    let closed = "! cannot be committed: you may not change this directory on the host";
    let expected = format!(
        "A  r/a/x  {closed}\nA  r/b/x  {closed}\nvm\nvm\n1\n\
         A  r/a/x  {closed}\nA  r/b/x\nvm\nvm\n2\nvm\n"
    );
    assert_eq!(out, expected, "{err}");
}
