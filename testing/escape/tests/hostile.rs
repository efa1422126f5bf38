//! Attacks from inside a VM, as its root and as an ordinary user's program. Each must fail, and the host stay as it is.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};

fn as_both(test: &str, body: impl Fn(&Lab, User)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user), user);
        }
    }
}

/// Runs a shell script in a new VM and returns what it printed.
fn inside(lab: &Lab, script: &str) -> String {
    let ran = lab.fvm(["run", "--rm", "--net", "none", "--", "sh", "-c", script]);
    format!("{}{}", ran.out, ran.err)
}

#[test]
fn root_and_user_fvms_own_state_is_hidden_and_cannot_be_uncovered() {
    as_both("root_and_user_fvms_own_state_is_hidden_and_cannot_be_uncovered", |lab, _| {
        lab.fvm(["run", "--keep", "--name", "other", "--", "sh", "-c", "echo secret > mine"]).expect(0);
        let home = lab.home().display().to_string();
        let said = inside(
            lab,
            &format!(
                "ls -A {home}; umount {home} && echo UNCOVERED; umount -l {home} && echo UNCOVERED
                 mount --move {home} /mnt && echo UNCOVERED
                 unshare -Urm sh -c 'umount {home} && echo UNCOVERED; ls -A {home}'
                 touch {home}/x && echo WROTE; rm -rf {home} && echo REMOVED; mv {home} {home}2 && echo MOVED
                 find / -name mine -not -path '/proc/*' 2>/dev/null; grep -rs secret {home} && echo READ; true"
            ),
        );
        for word in ["UNCOVERED", "WROTE", "REMOVED", "MOVED", "READ", "vms", "mine"] {
            assert!(!said.lines().any(|l| l.starts_with(word)), "{word} in:\n{said}");
        }
        assert!(lab.fvm(["status", "other"]).expect(0).out.contains("/mine"));
    });
}

#[test]
fn root_a_directory_above_the_state_that_was_moved_away_stops_the_next_start() {
    if !is_root("root_a_directory_above_the_state_that_was_moved_away_stops_the_next_start") {
        return;
    }
    let lab = Lab::new(User::Root);
    let dir = lab.dir().display().to_string();
    for (n, trick) in [
        format!("mv {dir} {dir}-moved"),
        format!("mv {dir} {dir}-moved; mkdir -p {dir}/home"),
        format!("mv {dir} {dir}-moved; ln -s {dir}-moved {dir}"),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("m{n}");
        let script = format!("cd /; {trick}");
        lab.fvm(["run", "--keep", "--name", &name, "--", "sh", "-c", &script]).expect(0);
        let again = lab.fvm(["run", "--name", &name, "--", "ls", &format!("{dir}-moved/home/vms")]).expect(125);
        assert!(again.err.contains("moved a directory above") && again.out.is_empty(), "{}{}", again.out, again.err);
        let commit = lab.fvm(["commit", &name]);
        assert!(lab.dir().exists() && commit.err.contains("fvm's own state lies below it"), "{}", commit.err);
    }
}

#[test]
fn root_and_user_the_kernel_cannot_be_changed() {
    as_both("root_and_user_the_kernel_cannot_be_changed", |lab, _| {
        let said = inside(
            lab,
            "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger /sys/kernel/uevent_helper \
                      /proc/sys/vm/drop_caches /proc/sys/fs/binfmt_misc/register; do
                 [ -e $f ] && (: >> $f) 2>/dev/null && echo OPENED $f
             done
             for t in cgroup cgroup2 debugfs devtmpfs securityfs; do mount -t $t none /mnt 2>/dev/null && echo MOUNTED $t; done
             mount -o remount,rw /sys 2>/dev/null && echo REMOUNTED
             mknod /tmp/disk b 254 0 2>/dev/null && head -c 1 /tmp/disk >/dev/null 2>&1 && echo READ THE DISK
             mknod /tmp/mem c 1 1 2>/dev/null && head -c 1 /tmp/mem >/dev/null 2>&1 && echo READ MEMORY
             date -s '2001-01-01' >/dev/null 2>&1 && echo SET THE CLOCK
             ls /dev/sda /dev/vda /dev/mem /dev/kmsg /dev/kvm /dev/fuse 2>/dev/null
             true",
        );
        assert!(said.trim().is_empty(), "{said}");
    });
}

#[test]
fn root_and_user_other_processes_cannot_be_seen_signalled_or_traced() {
    as_both("root_and_user_other_processes_cannot_be_seen_signalled_or_traced", |lab, _| {
        let mut victim = lab.command("sleep").arg("4711").spawn().unwrap();
        let pid = victim.id();
        let said = inside(
            lab,
            &format!(
                "ps axww | grep -v grep | grep -q 'sleep 4711' && echo SEEN
                 kill -9 {pid} 2>/dev/null && echo KILLED; kill -9 -1; sleep 0.1
                 ls /proc/1/fd >/dev/null 2>&1 && echo INIT IS OPEN; cat /proc/1/environ >/dev/null 2>&1 && echo INIT IS READ
                 kill -9 1; kill -STOP 1; true"
            ),
        );
        assert!(!said.contains("SEEN") && !said.contains("KILLED") && !said.contains("INIT"), "{said}");
        assert!(victim.try_wait().unwrap().is_none(), "the victim lives");
        victim.kill().unwrap();
        victim.wait().unwrap();
    });
}

#[test]
fn root_and_user_no_descriptor_of_the_hosts_comes_along() {
    as_both("root_and_user_no_descriptor_of_the_hosts_comes_along", |lab, _| {
        // The shell's own listing has 0, 1, 2 and the directory that ls reads.
        let listed = lab.fvm(["run", "--rm", "--", "ls", "/proc/self/fd"]).expect(0).out;
        assert_eq!(listed.split_whitespace().count(), 4, "{listed}");
    });
}

#[test]
fn root_and_user_sockets_of_the_host_do_not_answer() {
    as_both("root_and_user_sockets_of_the_host_do_not_answer", |lab, _| {
        let path = lab.path("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        lab.sh("true");
        let script = format!(
            "python3 -c 'import socket; s=socket.socket(socket.AF_UNIX); s.connect(\"{}\"); print(\"CONNECTED\")' 2>&1",
            path.display()
        );
        let said = inside(lab, &script);
        assert!(!said.contains("CONNECTED"), "{said}");
        assert!(listener.accept().is_err());
    });
}

#[test]
fn root_and_user_forged_layers_names_and_links_harm_nobody() {
    as_both("root_and_user_forged_layers_names_and_links_harm_nobody", |lab, user| {
        lab.sh("mkdir t; echo keep > t/file; mkdir t/dir; echo in > t/dir/in; ln -s /etc t/etc");
        let class = if user == User::Root { "user" } else { "trusted" };
        lab.fvm([
            "run", "--keep", "--name", "f", "--", "sh", "-c",
            &format!(
                "cd t; printf 'x' > \"$(printf 'a\\033[2Jb')\"; ln -s ../../../../etc/passwd up; rm etc; mkdir etc; echo evil > etc/passwd
                 setfattr -n {class}.overlay.opaque -v y dir 2>/dev/null; setfattr -n {class}.overlay.redirect -v /etc dir 2>/dev/null
                 setfattr -n user.overlay.opaque -v y dir 2>/dev/null; mkfifo pipe; mkdir -p $(seq -s / 1 200); true"
            ),
        ]).expect(0);
        let status = lab.fvm(["status", "f"]).expect(0).out;
        assert!(!status.contains('\x1b') && status.contains("\\u{1b}[2J"), "{status}");
        assert!(!status.contains("D  "), "a forged mark deletes nothing: {status}");
        let before = std::fs::read("/etc/passwd").unwrap();
        lab.fvm(["commit", "f"]).expect(0);
        assert_eq!(std::fs::read("/etc/passwd").unwrap(), before);
        let leaked =
            lab.sh("cat t/file t/dir/in t/etc/passwd; readlink t/up; getfattr -dR -m overlay t 2>/dev/null || true");
        assert_eq!(leaked, "keep\nin\nevil\n../../../../etc/passwd\n");
    });
}

#[test]
fn root_and_user_a_symlink_put_in_the_way_on_the_host_stops_the_commit() {
    as_both("root_and_user_a_symlink_put_in_the_way_on_the_host_stops_the_commit", |lab, _| {
        lab.sh("mkdir -p real/sub outside; echo old > real/sub/f");
        std::thread::sleep(std::time::Duration::from_millis(30));
        lab.fvm(["run", "--keep", "--name", "l", "--", "sh", "-c", "echo new > real/sub/f; echo more > real/sub/g"])
            .expect(0);
        lab.sh("mv real/sub moved; ln -s ../outside real/sub");
        let refused = lab.fvm(["commit", "l"]);
        assert_ne!(refused.code, 0, "{}", refused.err);
        assert_eq!(lab.sh("ls outside; cat moved/f; find outside moved real -name '.fvm-*'"), "old\n");
    });
}
