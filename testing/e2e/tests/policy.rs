//! Policies: what a VM may use is what it gets; what is wrong with a policy is said with its place.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use std::os::unix::net::UnixListener;

fn as_both(test: &str, body: impl Fn(&Lab, User)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user), user);
        }
    }
}

/// What a script in a new VM printed, errors too. `options` come before the program.
fn inside(lab: &Lab, options: &[&str], script: &str) -> String {
    let mut words = vec!["run", "--rm", "--net", "none"];
    words.extend(options);
    words.extend(["--", "sh", "-c", script]);
    let ran = lab.fvm(words);
    format!("{}{}", ran.out, ran.err)
}

#[test]
fn root_and_user_what_is_hidden_cannot_be_read_nor_uncovered() {
    as_both("root_and_user_what_is_hidden_cannot_be_read_nor_uncovered", |lab, user| {
        lab.sh(
            "mkdir -p d/keys e; echo secret > d/keys/k; echo secret > e/token; ln -s d/keys link; chmod 600 e/token",
        );
        let dir = lab.dir().display().to_string();
        let hide = ["--hide".to_owned(), format!("{dir}/link"), "--hide".into(), format!("{dir}/?/tok*")];
        let options: Vec<&str> = hide.iter().map(String::as_str).collect();
        let said = inside(
            lab,
            &options,
            &format!(
                "cd {dir}; cat d/keys/k e/token link/k; umount d/keys e/token; umount -l d/keys; rm -rf d/keys e/token
                 mv d/keys moved && echo MOVED; mv d d2; cat d2/keys/k; mv d2 d
                 mkdir m; mount --bind d m; cat m/keys/k; mount --rbind d m; cat m/keys/k
                 unshare -Urm sh -c 'umount d/keys; umount e/token; cat d/keys/k e/token'
                 echo x > d/keys/new && echo WROTE; echo x > e/token && echo WROTE
                 chmod 777 e/token; cat e/token; ls -A d/keys; cat /proc/self/mountinfo"
            ),
        );
        assert!(!said.contains("secret") && !said.contains("WROTE") && !said.contains("MOVED"), "{user:?}\n{said}");
        assert!(!said.contains("home/vms"), "a path of the host's state in the mount table:\n{said}");
        assert_eq!(lab.sh("cat d/keys/k e/token"), "secret\nsecret\n");
        // It is there where nothing hides it.
        assert!(inside(lab, &[], &format!("cat {dir}/d/keys/k")).contains("secret"));
    });
}

#[test]
fn root_and_user_a_kept_vm_cannot_move_what_is_hidden_into_view() {
    as_both("root_and_user_a_kept_vm_cannot_move_what_is_hidden_into_view", |lab, _| {
        lab.sh("mkdir -p d/keys; echo secret > d/keys/k");
        let dir = lab.dir().display().to_string();
        let hide = format!("{dir}/d/keys");
        let script = format!("cd {dir}; mv d d2; mkdir -p d/keys");
        lab.fvm(["run", "--keep", "--name", "m", "--hide", &hide, "--", "sh", "-c", &script]);
        let again = lab.fvm(["run", "--name", "m", "--", "sh", "-c", &format!("cat {dir}/d2/keys/k {dir}/d/keys/k")]);
        assert!(!format!("{}{}", again.out, again.err).contains("secret"), "{}{}", again.out, again.err);
    });
}

#[test]
fn root_and_user_read_only_is_and_shared_is_written_through() {
    as_both("root_and_user_read_only_is_and_shared_is_written_through", |lab, user| {
        lab.sh("mkdir fixed out; echo old > fixed/f; echo old > out/f");
        let dir = lab.dir().display().to_string();
        let (fixed, out) = (format!("{dir}/fixed"), format!("{dir}/out"));
        let said = inside(
            lab,
            &["--read-only", &fixed, "--share", &out],
            &format!(
                "cd {dir}; echo new > fixed/f && echo WROTE; rm fixed/f && echo REMOVED; mount -o remount,rw,bind fixed && echo REMOUNTED
                 umount fixed && echo UNCOVERED; cat fixed/f; echo new > out/f; echo more > out/g; echo private > h"
            ),
        );
        for word in ["WROTE", "REMOVED", "REMOUNTED", "UNCOVERED"] {
            assert!(!said.contains(word), "{user:?}\n{said}");
        }
        assert!(said.contains("old"), "{said}");
        assert_eq!(lab.sh("cat fixed/f out/f out/g; ls"), format!("old\nnew\nmore\n{}", lab.sh("ls")));
        assert!(!lab.path("h").exists());
        let owner = lab.sh("stat -c %u out/g");
        assert_eq!(owner, lab.sh("id -u"), "{user:?}: a shared file has the owner that it has in the VM");
    });
}

#[test]
fn root_and_user_a_socket_is_reached_only_when_it_is_passed() {
    as_both("root_and_user_a_socket_is_reached_only_when_it_is_passed", |lab, _| {
        let path = lab.path("service");
        let listener = UnixListener::bind(&path).unwrap();
        lab.sh(&format!("test -S {}", path.display()));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let connect = format!(
            "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); print('CONNECTED')\"",
            path.display()
        );
        assert!(!inside(lab, &[], &connect).contains("CONNECTED"));
        let said = inside(lab, &["--socket", path.to_str().unwrap()], &connect);
        assert!(said.contains("CONNECTED"), "{said}");
        drop(listener);
    });
}

#[test]
fn root_and_user_variables_and_the_hosts_name_stay_outside() {
    as_both("root_and_user_variables_and_the_hosts_name_stay_outside", |lab, _| {
        let said = |options: &[&str]| {
            let script = ["--", "sh", "-c", "echo $A_TOKEN $KEPT; uname -n"];
            let mut command = lab.fvm_command(["run", "--rm"].iter().chain(options).chain(&script));
            let output = command.env("A_TOKEN", "secret").env("KEPT", "yes").output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(said(&["--policy", "untrusted"]), "yes\nvm\n");
        assert_eq!(said(&[]), format!("secret yes\n{}", lab.sh("uname -n")));
    });
}

#[test]
fn root_a_device_is_there_only_when_it_is_passed() {
    if !is_root("root_a_device_is_there_only_when_it_is_passed") {
        return;
    }
    let lab = Lab::new(User::Root);
    let script = "test -c /dev/fuse && echo THERE; exec 3<>/dev/fuse && echo OPENED";
    let said = inside(&lab, &[], script);
    assert!(!said.contains("THERE"), "{said}");
    let said = inside(&lab, &["--device", "/dev/fuse"], script);
    assert!(said.contains("THERE") && said.contains("OPENED"), "{said}");
    let said = inside(&lab, &["--device", "/dev/nothing"], "echo ran");
    assert!(said.contains("ran") && said.contains("/dev/nothing is not passed"), "{said}");
}

#[test]
fn root_and_user_the_kernel_is_asked_for_what_the_policy_gives() {
    as_both("root_and_user_the_kernel_is_asked_for_what_the_policy_gives", |lab, user| {
        let script = "unshare -Ur true && echo NAMESPACE; sleep 1 & p=$!; \
                      python3 -c \"import ctypes,sys; l=ctypes.CDLL(None); print('TRACED' if l.ptrace(16, $p, 0, 0) == 0 else '')\"; \
                      python3 -c \"import ctypes; print('RING' if ctypes.CDLL(None).syscall(425, 1, b'\\\\0' * 120) >= 0 else '')\"";
        let said = inside(lab, &[], script);
        assert!(said.contains("NAMESPACE") && said.contains("TRACED") && !said.contains("RING"), "{user:?} {said}");
        let said = inside(lab, &["--policy", "untrusted"], script);
        assert!(!said.contains("NAMESPACE") && !said.contains("TRACED") && !said.contains("RING"), "{user:?} {said}");
    });
}

#[test]
fn root_and_user_a_policy_is_named_shown_and_checked() {
    as_both("root_and_user_a_policy_is_named_shown_and_checked", |lab, user| {
        let listed = lab.fvm(["policy", "list"]).expect(0).out;
        for name in ["default", "untrusted", "offline", "build", "browser", "unconfined-network"] {
            assert!(listed.lines().any(|l| l.starts_with(name)), "{listed}");
            std::fs::write(lab.path(format!("{name}.toml")), lab.fvm(["policy", "show", name]).expect(0).out).unwrap();
            lab.fvm(["policy", "check", &format!("{name}.toml")]).expect(0);
        }
        lab.sh("mkdir -p config/fvm/policies; printf 'extends = \"offline\"\\n[files]\\nhide = [\"/srv\"]\\n' > config/fvm/policies/mine.toml");
        let own = lab.fvm_command(["policy", "show", "mine"]).env("XDG_CONFIG_HOME", lab.path("config")).output();
        let own = String::from_utf8(own.unwrap().stdout).unwrap();
        assert!(own.contains("mode = \"none\"") && own.contains("hide = [\"/srv\"]"), "{own}");

        lab.sh("printf '\\n[files]\\nhid = []\\n' > bad.toml");
        let bad = lab.fvm(["policy", "check", "bad.toml", "default.toml"]).expect(2).err;
        assert!(bad.contains("bad.toml:3:1: unknown key 'hid': did you mean 'hide'?"), "{bad}");
        let run = lab.fvm(["run", "--rm", "--policy", "./bad.toml", "--", "true"]).expect(2).err;
        assert!(run.contains("bad.toml:3:1:"), "{run}");
        lab.sh("printf 'extends = \"./self.toml\"\\n' > self.toml");
        let circle = lab.fvm(["policy", "check", "self.toml"]).expect(2).err;
        assert!(circle.contains("cannot extend itself: ./self.toml -> ./self.toml"), "{circle}");
        let clash = lab.fvm(["run", "--rm", "--hide", "/srv", "--share", "/srv/a", "--", "true"]).expect(2).err;
        assert!(clash.contains("'/srv/a' is to be shared, but '/srv' is to be hidden"), "{clash}");
        lab.fvm(["run", "--rm", "--policy", "nowhere", "--", "true"]).expect(2);

        lab.sh("printf 'requires = [\"overlay rename\"]\\n' > far.toml");
        let far = lab.fvm(["policy", "check", "far.toml"]).expect(2).err;
        assert!(far.contains("far.toml:1:13: ") && far.contains("did you mean 'overlay renames'?"), "{far}");
        // What the other kind of user has.
        let feature = if user == User::Root { "newuidmap" } else { "idmapped mounts" };
        lab.sh(&format!("printf 'requires = [\"{feature}\"]\\n' > far.toml"));
        let far = lab.fvm(["run", "--rm", "--policy", "./far.toml", "--", "true"]).expect(125).err;
        assert!(far.contains(&format!("requires '{feature}', which this machine does not have")), "{far}");
        lab.fvm(["run", "--rm", "--allow-partial", "--net", "host", "--policy", "./far.toml", "--", "true"]).expect(0);

        lab.fvm(["create", "v", "--policy", "untrusted", "--hide", "/srv"]).expect(0);
        let inspected = lab.fvm(["inspect", "v"]).expect(0).out;
        assert!(inspected.contains("\"/srv\"") && inspected.contains("\"name\": \"untrusted\""), "{inspected}");
        let explained = lab.fvm(["explain", "v"]).expect(0).out;
        assert!(explained.contains("hide /srv") && explained.contains("new user namespaces"), "{explained}");
        lab.fvm(["run", "--name", "v", "--hide", "/x", "--", "true"]).expect(2);
    });
}

#[test]
fn root_and_user_what_a_policy_cannot_mean_is_refused_before_a_vm_is_made() {
    as_both("root_and_user_what_a_policy_cannot_mean_is_refused_before_a_vm_is_made", |lab, _| {
        lab.sh("mkdir out; printf 'extends = \"untrusted\"\\n[files]\\nhide = [\"!~/.sssh\"]\\n' > slip.toml");
        let slip = lab.fvm(["policy", "check", "slip.toml"]).expect(2).err;
        assert!(slip.contains("slip.toml:3:9: '!~/.sssh' takes nothing out") && slip.contains("'~/.ssh'?"), "{slip}");
        lab.sh(r#"printf '[files]\nhide = ["a\\u001b[2J"]\n' > sly.toml"#);
        let sly = lab.fvm(["policy", "check", "sly.toml"]).expect(2).err;
        assert!(sly.contains("sly.toml:2:9: 'a?[2J' is neither") && !sly.contains('\u{1b}'), "{sly:?}");
        let run =
            |options: &[&str]| lab.fvm(["run", "--rm"].iter().chain(options).chain(&["--", "true"])).expect(2).err;
        for (options, said) in [
            (["--share", "/proc"], "'/proc' cannot be shared: a VM has a /proc of its own"),
            (["--share", "!out"], "/out' is not in the list"),
            (["--hide", "!~/.ssh"], "'!~/.ssh' takes nothing out"),
            (["--hide", ".ssh"], "'.ssh' is neither absolute nor below '~/'"),
            (["--device", "/etc/passwd"], "'/etc/passwd' is not in /dev"),
            (["--policy", "untrustd"], "there is no policy 'untrustd'"),
        ] {
            let err = run(&options);
            assert!(err.contains(said), "{options:?}: {err}");
        }
        let both = run(&["--hide", "/dev/dri", "--device", "/dev/dri/card0"]);
        assert!(both.contains("'/dev/dri/card0' is to be passed, but '/dev/dri' is to be hidden"), "{both}");
        assert_eq!(lab.fvm(["list"]).expect(0).out.lines().count(), 1, "no VM was made");

        lab.fvm(["create", "v"]).expect(0);
        let late = lab.fvm(["shell", "v", "--hide", "/srv"]).expect(2).err;
        assert!(late.contains("'v' is there already"), "{late}");
    });
}

#[test]
fn root_and_user_a_session_bus_of_its_own_is_started_when_it_is_used_needs_dbus_daemon() {
    let test = "root_and_user_a_session_bus_of_its_own_is_started_when_it_is_used_needs_dbus_daemon";
    if ["/usr/bin/dbus-daemon", "/usr/bin/dbus-send"].iter().any(|p| !std::path::Path::new(p).exists()) {
        eprintln!("skipped: {test}: dbus-daemon or dbus-send is not installed");
        return;
    }
    as_both(test, |lab, user| {
        let names = "dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames";
        let script = format!(
            "ps -eo args | grep -c ^dbus-daemon; {names}; {names}; ps -eo args | grep -c ^dbus-daemon; kill $(pgrep dbus-daemon); sleep 0.2; {names} > /dev/null && echo AGAIN"
        );
        let ran = lab.fvm(["run", "--keep", "--name", "b", "--", "sh", "-c", &script]);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!((lines.first(), lines.last()), (Some(&"0"), Some(&"AGAIN")), "{user:?} {}{}", ran.out, ran.err);
        assert!(lines.contains(&"1") && ran.out.contains("org.freedesktop.DBus"), "{user:?} {}{}", ran.out, ran.err);
        let left = lab.fvm(["status", "b"]).expect(0).out;
        assert_eq!(left.lines().count(), 1, "{user:?}: the bus left changes: {left}");

        std::fs::write(lab.path("quiet.toml"), "[dbus]\nsession = 'none'\n").unwrap();
        let options = ["--policy", "./quiet.toml"];
        let said = inside(lab, &options, &format!("echo \"[$DBUS_SESSION_BUS_ADDRESS]\"; {names} || echo REFUSED"));
        assert!(said.contains("[]") && said.contains("REFUSED"), "{user:?} {said}");
    });
}

#[test]
fn root_and_user_the_command_that_forked_a_vm_is_not_seen_in_it() {
    as_both("root_and_user_the_command_that_forked_a_vm_is_not_seen_in_it", |lab, user| {
        let said = inside(lab, &["--hide", "/srv/a-name-of-the-host"], "tr '\\0' '\\n' < /proc/1/cmdline; echo END");
        assert!(said.starts_with("fvm: init\n") && said.contains("END"), "{user:?} {said}");
        assert!(!said.contains("a-name-of-the-host") && !said.contains("--home"), "{user:?} {said}");
    });
}
