//! A hostile VM against its log: what it does is written down, under the name of whoever did it, or the log says that it does not
//! know.
//!
//! ```text
//!   io_uring open, connect             here; testing/zoo io-uring; testing/escape io_uring
//!   path flipped after the look        here
//!   memfd exec                         zoo memory-exec, deleted-exec
//!   reverse shell                      zoo reverse-shell (directly), pipe-shell, pty-shell, bind-shell
//!   double fork, setsid, unshare       here (and CLONE_PARENT, clone3); trace.rs
//!   4,096-byte and newline paths       trace.rs; a program whose own path is longer: here
//!   event flood                        trace.rs; more processes than can be known: fvm-trace, capture/process
//!   mass rename, the log intact        zoo ransom-rename; trace.rs (nothing in a VM reaches its log); in mounts of its own: here
//!   forged origins                     here; fvm-trace, origin
//! ```
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use serde_json::Value;

/// Runs `body` as root and as an ordinary user.
fn as_both(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user));
        }
    }
}

/// The events that `fvm trace` shows with these options.
#[track_caller]
fn events(lab: &Lab, vm: &str, options: &[&str]) -> Vec<Value> {
    let args = ["trace", vm, "--json"].into_iter().chain(options.iter().copied());
    let out = lab.fvm(args).expect(0).out;
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'v>(event: &'v Value, field: &str) -> &'v str {
    event[field].as_str().or_else(|| event["args"][field].as_str()).unwrap_or_default()
}

/// The last event of `kind` that was done to `path`, in the laboratory.
fn find(lab: &Lab, events: &[Value], kind: &str, path: &str) -> Option<Value> {
    let path = lab.path(path);
    events.iter().rfind(|e| text(e, "kind") == kind && text(e, "path") == path.to_str().unwrap()).cloned()
}

/// An interpreter whose path is too long for the kernel to say has a child that takes the name of the VM's process 1, and becomes
/// an orphan.
const NAMELESS: &str = r#"
use POSIX (); use Cwd ();
if (!@ARGV) {
    my $here = Cwd::getcwd();
    for (1 .. 24) { mkdir("d" x 200) or die; chdir("d" x 200) or die }
    system("cp", "/usr/bin/perl", "perl") == 0 or die;
    exec { "./perl" } "perl", "$here/nameless.pl", $here or die;
}
my $child = fork;
if ($child == 0) {
    select(undef, undef, undef, 0.01) while getppid() != 1;
    open(my $comm, "<", "/proc/1/comm") or die;
    chomp(my $name = <$comm>);
    syscall(157, 15, $name, 0, 0, 0);
    open(my $hidden, ">", "$ARGV[0]/hidden") or die;
    POSIX::_exit(0);
}
kill 9, $$;
"#;

#[test]
fn root_and_user_nobody_passes_for_fvm_itself() {
    as_both("root_and_user_nobody_passes_for_fvm_itself", |lab| {
        std::fs::write(lab.path("nameless.pl"), NAMELESS).unwrap();
        lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", "perl nameless.pl; sleep 1; ls hidden"]).expect(0);
        let all = events(lab, "t", &[]);
        assert!(find(lab, &all, "open", "hidden").is_some(), "{} events", all.len());
    });
}

/// Runs a Perl program in a VM, and returns its events.
#[track_caller]
fn traced(lab: &Lab, level: &str, perl: &str) -> Vec<Value> {
    std::fs::write(lab.path("attack.pl"), format!("use POSIX (); use Cwd ();\n{perl}")).unwrap();
    lab.fvm(["run", "--keep", "--name", "t", "--net", "none", "--trace", level, "--", "perl", "attack.pl"]).expect(0);
    let all = events(lab, "t", &[]);
    assert!(lab.fvm(["trace", "t"]).expect(0).err.is_empty(), "the log is whole");
    all
}

/// The programs that a process of the VM came from.
fn line(events: &[Value], event: &Value) -> Vec<u64> {
    let number = |event: &Value, field: &str| event[field].as_u64().unwrap();
    let mut line = vec![number(event, "tgid")];
    while let Some(of) = events.iter().find(|e| number(e, "tgid") == *line.last().unwrap())
        && number(of, "ppid") != 0
    {
        line.push(number(of, "ppid"));
    }
    line
}

#[test]
fn root_and_user_who_forks_twice_leaves_the_session_or_makes_siblings_is_known() {
    as_both("root_and_user_who_forks_twice_leaves_the_session_or_makes_siblings_is_known", |lab| {
        // 56 is clone, 0x8000 CLONE_PARENT; 272 unshare, 0x10000000 CLONE_NEWUSER; 435 clone3.
        let all = traced(
            lab,
            "basic",
            "sub touch { open(my $f, '>', $_[0]) or die }
             unless (fork) { unless (fork) { POSIX::setsid(); select(undef,undef,undef,0.3); touch('twice'); POSIX::_exit(0) } POSIX::_exit(0) }
             unless (fork) { my $c = syscall(56, 0x8000, 0, 0, 0, 0); touch($c ? 'maker' : 'sibling'); POSIX::_exit(0) }
             unless (fork) { syscall(272, 0x10000000); touch('own-users'); POSIX::_exit(0) }
             my $three = pack('Q11', 0x8000, (0) x 10);
             my $made = syscall(435, $three, 88); touch('clone3-' . ($made == -1 && $!{ENOSYS} ? 'refused' : 'made'));
             select(undef,undef,undef,0.8);",
        );
        let who = |path: &str| find(lab, &all, "open", path).unwrap_or_else(|| panic!("nobody opened {path}"));
        let perl = all.iter().find(|e| text(e, "kind") == "exec").unwrap()["tgid"].as_u64().unwrap();
        for path in ["twice", "sibling", "maker", "own-users"] {
            let event = who(path);
            assert!(line(&all, &event).contains(&perl), "{path}: {:?}", line(&all, &event));
            assert_ne!(event["tgid"].as_u64(), Some(perl), "{path}");
        }
        let maker = who("maker")["tgid"].as_u64().unwrap();
        assert_eq!(who("sibling")["ppid"].as_u64(), Some(maker), "a sibling is its maker's");
        who("clone3-refused");
    });
}

#[test]
fn root_and_user_io_uring_and_calls_of_other_kinds_pass_no_log_by() {
    as_both("root_and_user_io_uring_and_calls_of_other_kinds_pass_no_log_by", |lab| {
        // 425 io_uring_setup, 437 openat2, 9 with bit 30 x32.
        let all = traced(
            lab,
            "full",
            "my $p = ' ' x 128;
             for my $n (425, 437, 0x40000002) {
                 my $r = syscall($n, 8, $p, 0, 0); print STDERR \"$n went through\\n\" and exit 9 unless $r == -1 && $!{ENOSYS};
             }",
        );
        let refused: Vec<&str> = all.iter().filter(|e| text(e, "kind") == "refused").map(|e| text(e, "name")).collect();
        assert_eq!(refused, ["io_uring_setup", "openat2"], "x32 is no call of the log's");
    });
}

#[test]
fn root_and_user_a_path_that_is_changed_after_the_look_hides_no_change() {
    as_both("root_and_user_a_path_that_is_changed_after_the_look_hides_no_change", |lab| {
        lab.sh("echo mine > took; touch seen");
        // Two threads: one opens, the other changes the path meanwhile; until the wrong file was written to.
        let script = "import ctypes, os, threading, time\n\
            libc = ctypes.CDLL(None)\n\
            path = ctypes.create_string_buffer(b'seen', 8)\n\
            stop = False\n\
            def flip():\n    while not stop:\n        path.value = b'took'\n        path.value = b'seen'\n\
            thread = threading.Thread(target=flip); thread.start()\n\
            until = time.time() + 8\n\
            while os.stat('took').st_size == 5 and time.time() < until:\n\
            \u{20}   fd = libc.open(path, os.O_WRONLY | os.O_APPEND, 0)\n\
            \u{20}   os.write(fd, b'x') if os.readlink(f'/proc/self/fd/{fd}').endswith('/took') else None\n    os.close(fd)\n\
            stop = True; thread.join()\n\
            print('flipped' if os.stat('took').st_size > 5 else 'never')\n";
        std::fs::write(lab.path("flip.py"), script).unwrap();
        let ran = lab.fvm(["run", "--keep", "--name", "t", "--", "python3", "flip.py"]).expect(0);
        assert!(ran.out.contains("flipped"), "the attack works: {}", ran.out);
        let all = events(lab, "t", &["--kind", "open"]);
        assert!(all.iter().filter(|e| text(e, "path").ends_with("/took")).all(|e| text(e, "trust") == "usermem"));
        // The log may not know; the layers do.
        let json: Value = serde_json::from_str(&lab.fvm(["status", "t", "--json"]).expect(0).out).unwrap();
        let changes = json["changes"].as_array().unwrap();
        assert!(changes.iter().any(|change| change["path"].as_str().unwrap().ends_with("/took")), "{json}");
    });
}

#[test]
fn root_and_user_what_is_opened_again_by_descriptor_or_link_is_known_by_its_path() {
    as_both("root_and_user_what_is_opened_again_by_descriptor_or_link_is_known_by_its_path", |lab| {
        lab.sh("for n in fd dev named tmp; do echo $n > of-$n; done");
        // 265 is linkat, 257 openat; 0x410002 O_TMPFILE | O_RDWR; 0x400 AT_SYMLINK_FOLLOW.
        let all = traced(
            lab,
            "basic",
            "sub again { my ($n, $how) = @_; open(my $r, '<', $n) or die; my $p = sprintf($how, fileno($r)); open(my $w, '+<', $p) or die $p; syswrite($w, 'evil') }
             again('of-fd', '/proc/self/fd/%d'); again('of-dev', '/dev/fd/%d'); again('of-named', \"/proc/$$//task/$$/fd/%d\");
             my $here = Cwd::getcwd(); my $t = syscall(257, -100, $here, 0x410002, 0644); die if $t < 0;
             syscall(265, -100, \"/proc/self/fd/$t\", -100, \"$here/made\", 0x400) == 0 or die;
             print STDOUT ''; system('sh', '-c', 'echo said | cat > /dev/null; (echo x > /dev/stdout) | cat');",
        );
        for path in ["of-fd", "of-dev", "of-named"] {
            assert!(find(lab, &all, "open", path).is_some(), "{path}: {all:?}");
        }
        let made = lab.path("made");
        assert!(all.iter().any(|e| text(e, "kind") == "link" && text(e, "to") == made.to_str().unwrap()), "{all:?}");
        let report: Value = serde_json::from_str(&lab.fvm(["analyze", "t", "--json"]).out).unwrap();
        assert_eq!(report["verdict"], "clean", "a pipe is no file that nobody can place: {report}");
        // By a link of one's own: nobody can say which file it was.
        std::fs::write(lab.path("link.sh"), "ln -s /proc/self/fd/0 mine; exec 0< of-tmp; echo evil > mine").unwrap();
        lab.fvm(["run", "--keep", "--name", "l", "--", "sh", "link.sh"]).expect(0);
        let report: Value = serde_json::from_str(&lab.fvm(["analyze", "l", "--json"]).out).unwrap();
        assert_eq!(report["verdict"], "unknown", "{report}");
    });
}

/// Two programs that have nothing to do with each other, in one VM: an installer, and one that wants to be taken for it.
const INSTALLER: &str =
    "mkdir -p pkg; echo 1 > pkg/f; sleep 0.2; echo 2 >> pkg/f; mkdir -p pkg/sub; echo 3 > pkg/sub/g";

#[test]
fn root_and_user_a_commit_takes_nothing_that_somebody_else_had_a_hand_in() {
    as_both("root_and_user_a_commit_takes_nothing_that_somebody_else_had_a_hand_in", |lab| {
        std::fs::write(lab.path("install.sh"), INSTALLER).unwrap();
        let hostile = "use POSIX (); mkdir 'w'; open(my $x, '>', 'w/f') or die; open(my $y, '>', 'evil') or die;
            open(my $f, '>>', 'pkg/f') or die; syswrite($f, \"evil\\n\");
            link('pkg/sub/g', 'alias') or die; open(my $a, '>>', 'alias') or die; syswrite($a, \"evil\\n\");
            mkdir 'w/sub'; open(my $s, '>', 'w/sub/g') or die; rename('pkg', 'w');";
        std::fs::write(lab.path("hostile.pl"), hostile).unwrap();
        let both = "sh install.sh; perl hostile.pl; sh install.sh";
        lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", both]).expect(0);
        let none = lab.fvm(["commit", "t", "--keep", "--from", "install.sh"]);
        // The directories are the installer's own; no file is.
        assert!(none.err.contains("others had a hand"), "{}", none.err);
        assert_eq!(lab.sh("find pkg w evil alias -type f 2>/dev/null || true"), "", "{}", none.err);
    });
}

#[test]
fn root_and_user_a_name_that_several_programs_have_is_asked_about() {
    as_both("root_and_user_a_name_that_several_programs_have_is_asked_about", |lab| {
        std::fs::write(lab.path("install"), "#!/bin/sh\necho 1 > good\n").unwrap();
        std::fs::set_permissions(lab.path("install"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let both = "./install x; perl -e 'open(F, q(>), q(bad)); exec { q(/bin/sleep) } q(install), q(0.1)'; \
                    perl bad.pl install x";
        std::fs::write(lab.path("bad.pl"), "open(my $f, '>', 'bad2') or die;").unwrap();
        lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", both]).expect(0);
        let asked = lab.fvm(["commit", "t", "--from", "install"]).expect(1);
        assert!(asked.err.contains("different programs"), "{}", asked.err);
        // An argument is no name: bad.pl was given these words, and is not meant by them.
        lab.fvm(["commit", "t", "--keep", "--from", "install x"]).expect(0);
        assert_eq!(lab.sh("ls good bad bad2 2>/dev/null || true"), "good\n");
    });
}

#[test]
fn root_and_user_what_happens_in_mounts_of_its_own_is_never_clean() {
    as_both("root_and_user_what_happens_in_mounts_of_its_own_is_never_clean", |lab| {
        lab.sh("for n in 0 1 2 3 4 5 6 7 8 9 10 11; do echo $n > doc$n; done");
        // 0x10020000: users and mounts of its own.
        let all = traced(
            lab,
            "basic",
            "syscall(272, 0x10020000) == 0 or die; rename(\"doc$_\", \"doc$_.locked\") for 0 .. 11;",
        );
        assert!(all.iter().any(|e| text(e, "kind") == "rename" && e["args"]["foreign"] == true));
        let report: Value = serde_json::from_str(&lab.fvm(["analyze", "t", "--json"]).out).unwrap();
        assert_ne!(report["verdict"], "clean", "{report}");
    });
}

#[test]
fn a_log_goes_along_with_an_archive_and_says_what_it_is_worth() {
    let lab = Lab::new(User::Root);
    lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", "echo 1 > made"]).expect(0);
    lab.fvm(["export", "t", "t.fvm"]).expect(0);
    let verdict = |vm: &str| {
        let report: Value = serde_json::from_str(&lab.fvm(["analyze", vm, "--json"]).out).unwrap();
        report["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("t"), "clean");
    lab.fvm(["import", "t.fvm", "--name", "trusted", "--trust"]).expect(0);
    assert_eq!(verdict("trusted"), "clean");
    assert!(find(&lab, &events(&lab, "trusted", &[]), "open", "made").is_some());
    lab.fvm(["commit", "trusted", "--keep", "--dry-run", "--from", "sh -c"]).expect(0);
    lab.fvm(["import", "t.fvm", "--name", "stranger"]).expect(0);
    assert_eq!(verdict("stranger"), "unknown");
    let nobody = lab.fvm(["commit", "stranger", "--keep", "--from", "sh -c"]).expect(1);
    assert!(nobody.err.contains("no change is known"), "{}", nobody.err);
    // Without a log, what was before is not known either, whatever is written down from now on.
    lab.fvm(["run", "--keep", "--name", "off", "--trace", "off", "--", "sh", "-c", "echo 1 > b"]).expect(0);
    lab.fvm(["export", "off", "off.fvm"]).expect(0);
    lab.fvm(["import", "off.fvm", "--name", "later", "--trust"]).expect(0);
    lab.fvm(["configure", "later", "--trace", "basic"]).expect(0);
    lab.fvm(["run", "--name", "later", "--", "true"]).expect(0);
    assert_eq!(verdict("later"), "unknown");
}

#[test]
fn a_pool_does_not_promise_a_log() {
    let lab = Lab::new(User::Root);
    for options in [&["--trace", "full"][..], &["--trace", "basic"], &["--policy", "untrusted"]] {
        let args = ["pool", "create", "p", "--size", "1"].into_iter().chain(options.iter().copied());
        let refused = lab.fvm(args);
        assert!(refused.code != 0 && refused.err.contains("not written down"), "{options:?}: {}", refused.err);
    }
    lab.fvm(["pool", "create", "p", "--size", "1", "--kept"]).expect(0);
    lab.fvm(["run", "--pool", "p", "--keep", "--name", "k", "--", "sh", "-c", "echo 1 > a"]).expect(0);
    lab.fvm(["pool", "delete", "p"]).expect(0);
    lab.fvm(["run", "--name", "k", "--", "true"]).expect(0);
    let report: Value = serde_json::from_str(&lab.fvm(["analyze", "k", "--json"]).out).unwrap();
    assert_eq!(report["verdict"], "unknown", "{report}");
}

#[test]
fn user_a_run_that_the_log_cannot_know_of_does_not_begin() {
    if !is_root("user_a_run_that_the_log_cannot_know_of_does_not_begin") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    lab.fvm(["run", "--keep", "--name", "t", "--", "sh", "-c", "echo 1 > a"]).expect(0);
    lab.sh("chmod 400 home/vms/*/events/*.log");
    for trace in ["basic", "off"] {
        lab.fvm(["configure", "t", "--trace", trace]).expect(0);
        let refused = lab.fvm(["run", "--name", "t", "--", "sh", "-c", "echo 2 > b"]);
        assert!(refused.code == 125 && refused.err.contains("write down"), "{trace}: {} {}", refused.code, refused.err);
    }
    lab.sh("chmod 600 home/vms/*/events/*.log");
    assert!(!lab.fvm(["status", "t"]).expect(0).out.contains("/b"), "nothing of it ran");
    lab.fvm(["run", "--name", "t", "--", "true"]).expect(0);
}
