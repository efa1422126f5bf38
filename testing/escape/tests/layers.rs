//! Layers as no VM should leave them, made by hand: whatever they hold, every command ends soon, in bounded memory, and
//! touches nothing that its plan does not name.
//!
//! ```text
//!   <lab>/t         where the VM works; its upper is $U in the scripts
//!   <lab>/outside   nobody's business: the same before and after
//! ```
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, Snapshot, User, binary, is_root};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Hangs are found, slowness is not.
const LIMIT_SECS: u32 = 300;
/// Address space of one command.
const LIMIT_BYTES: u64 = 1 << 30;

fn as_both(test: &str, body: impl Fn(&Lab, User)) {
    if is_root(test) {
        for user in [User::Root, User::Ordinary] {
            body(&Lab::new(user), user);
        }
    }
}

fn as_root(test: &str, body: impl Fn(&Lab)) {
    if is_root(test) {
        body(&Lab::new(User::Root));
    }
}

/// fvm under both limits. It never hangs, panics or runs out of memory.
#[track_caller]
fn fvm<'a>(lab: &Lab, args: impl IntoIterator<Item = &'a str>) -> Ran {
    let args: Vec<&str> = args.into_iter().collect();
    let mut command = lab.command("timeout");
    command.args(["-k", "5", &LIMIT_SECS.to_string(), "prlimit", &format!("--as={LIMIT_BYTES}")]).arg(binary());
    let output = command.arg("--home").arg(lab.home()).args(&args).output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!((0..=5).contains(&code), "{args:?} ended with {:?}\n{err}", output.status);
    assert!(!err.contains("panicked") && !err.contains('\x1b') && !out.contains('\x1b'), "{args:?}\n{out}{err}");
    Ran { code, out, err }
}

/// A stopped VM whose upper of `<lab>/t` exists and is empty; returns that.
fn vm(lab: &Lab, name: &str) -> PathBuf {
    lab.sh("mkdir -p t outside; [ -e outside/secret ] || { echo secret > outside/secret; chmod 640 outside/secret; }");
    // With the host's network it could pass descriptors out: what is moved is looked at most closely.
    fvm(lab, ["run", "--keep", "--name", name, "--net", "host", "--", "touch", "t/.seed"]).expect(0);
    let layers = fvm(lab, ["inspect", name]).expect(0).out;
    let layers = layers.split("\"layers_dir\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let found = lab.sh(&format!("find {layers} -name .seed 2>/dev/null || true"));
    let seed = PathBuf::from(found.trim());
    std::fs::remove_file(&seed).unwrap();
    seed.parent().unwrap().to_owned()
}

/// A script as the laboratory's user, with the upper in `$U`.
#[track_caller]
fn prepare(lab: &Lab, upper: &Path, script: &str) -> String {
    lab.sh(&format!("U='{}'; export U\n{script}", upper.display()))
}

/// What must not change whatever happens.
fn outside(lab: &Lab) -> (Snapshot, Vec<u8>) {
    (Snapshot::of(&lab.path("outside"), i64::MAX), std::fs::read("/etc/passwd").unwrap())
}

/// Nothing of fvm's or overlayfs's is left on the host.
#[track_caller]
fn tidy(lab: &Lab) {
    let left = lab.sh("find . -path ./home -prune -o -name '.fvm-*' -print 2>/dev/null || true");
    assert_eq!(left, "");
    let mut pending = vec![lab.path("t")];
    while let Some(path) = pending.pop() {
        let mut list = vec![0; 65536];
        let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap_or(0);
        let overlay = list[..len].split(|b| *b == 0).find(|a| a.windows(9).any(|w| w == b".overlay."));
        assert_eq!(overlay.map(String::from_utf8_lossy), None, "{}", path.display());
        let is_dir = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        // Paths longer than the kernel takes are left out.
        if is_dir && path.as_os_str().len() < 3800 {
            pending.extend(std::fs::read_dir(&path).into_iter().flatten().map(|e| e.unwrap().path()));
        }
    }
}

/// Everything that one does with a VM, on layers made by `script`. `committed` looks at the host after the commit, which
/// must succeed; then the commit is taken back.
#[track_caller]
fn through(lab: &Lab, script: &str, committed: impl Fn(&Ran, &str)) {
    lab.sh("mkdir -p t");
    let before = Snapshot::of(&lab.path("t"), i64::MAX);
    let upper = vm(lab, "one");
    let aloof = outside(lab);
    prepare(lab, &upper, script);
    let nlink = lab.path("outside/secret").metadata().unwrap().nlink();
    let status = fvm(lab, ["status", "one"]).expect(0).out;
    fvm(lab, ["--json", "status", "one"]).expect(0);
    fvm(lab, ["diff", "one"]).expect(0);
    let commit = fvm(lab, ["commit", "--on-conflict", "vm", "one"]).expect(0);
    committed(&commit, &status);
    tidy(lab);
    assert!(lab.path("outside/secret").metadata().unwrap().nlink() <= nlink, "an outside inode got a name");
    if let Some(number) = commit.err.split("'fvm undo ").nth(1).map(|r| r.split('\'').next().unwrap().to_owned()) {
        fvm(lab, ["undo", &number]).expect(0);
    }
    assert_eq!(Snapshot::of(&lab.path("t"), i64::MAX).differences(&before), Vec::<String>::new(), "after the undo");
    fvm(lab, ["delete", "one"]).expect(0);

    let upper = vm(lab, "two");
    prepare(lab, &upper, script);
    fvm(lab, ["discard", "two"]).expect(0);
    let status = fvm(lab, ["status", "two"]).expect(0).out;
    assert!(status.contains("nothing changed"), "{status}");
    prepare(lab, &upper, &format!("mkdir -p $U\n{script}"));
    fvm(lab, ["delete", "two"]).expect(0);
    tidy(lab);
    assert_eq!(Snapshot::of(&lab.path("t"), i64::MAX).differences(&before), Vec::<String>::new(), "after the discard");
    assert_eq!(outside(lab).0.differences(&aloof.0), Vec::<String>::new());
    assert_eq!(outside(lab).1, aloof.1);
}

#[test]
fn root_and_user_odd_names_arrive_as_they_are() {
    as_both("root_and_user_odd_names_arrive_as_they_are", |lab, _| {
        let script = r#"python3 - <<'P'
import os
u = os.environb[b'U']
for n in [b'..foo', b'...', b'a\nb', b'\x1b[2J', b'n' * 255, b'\xff\xfe', b' ', b'-rf', b'*', b'x', b'x-aside', b'3', b'1-old',
          b'\xe2\x80\xae', b'.fvm', b'\\', b'"', b'\x7f', b'trusted.overlay.opaque']:
    open(u + b'/' + n, 'wb').write(n)
    os.mkdir(u + b'/d' + n[:254]); open(u + b'/d' + n[:254] + b'/' + n, 'wb').write(n)
P"#;
        through(lab, script, |_, status| {
            assert!(status.contains("38 added") || status.contains("57 added"), "{status}");
            let names: Vec<_> = std::fs::read_dir(lab.path("t")).unwrap().map(|e| e.unwrap()).collect();
            assert_eq!(names.len(), 38);
            for entry in names.iter().filter(|e| e.file_type().unwrap().is_file()) {
                assert_eq!(std::fs::read(entry.path()).unwrap(), entry.file_name().as_bytes());
            }
        });
    });
}

#[test]
fn root_and_user_links_are_brought_over_and_never_followed() {
    as_both("root_and_user_links_are_brought_over_and_never_followed", |lab, _| {
        lab.sh("mkdir -p t/d t/e/in outside; echo host > t/d/f; echo host > t/e/in/f");
        std::thread::sleep(Duration::from_millis(30));
        let outside = lab.path("outside").display().to_string();
        // A directory of the host's replaced by a link out; links in every other form.
        let script = format!(
            "rm -rf $U/d; ln -s {outside} $U/d; ln -s /etc/passwd $U/abs; ln -s nowhere $U/dangling; ln -s loop $U/loop
             ln -s ../../../../../../../../etc $U/up; mkdir $U/n; ln -s {outside} $U/n/out; ln -s . $U/n/dot
             python3 -c \"import os; os.symlink('x' * 4095, os.environ['U'] + '/long')\"
             ln -s {outside}/secret $U/s; mkdir -p $U/e; ln -s {outside} $U/e/in"
        );
        through(lab, &script, |_, _| {
            assert_eq!(std::fs::read_link(lab.path("t/d")).unwrap(), lab.path("outside"));
            assert_eq!(std::fs::read_link(lab.path("t/e/in")).unwrap(), lab.path("outside"));
            assert_eq!(std::fs::read_link(lab.path("t/long")).unwrap().as_os_str().len(), 4095);
        });
    });
}

#[test]
fn root_and_user_a_very_deep_tree_comes_and_goes() {
    as_both("root_and_user_a_very_deep_tree_comes_and_goes", |lab, _| {
        let upper = vm(lab, "deep");
        let script = "python3 -c \"
import os
os.chdir(os.environ['U'])
for _ in range(2000):
    os.mkdir('deep'); os.chdir('deep')
open('bottom', 'w').write('x')\"";
        prepare(lab, &upper, script);
        fvm(lab, ["status", "deep"]).expect(0);
        fvm(lab, ["diff", "deep"]).expect(0);
        fvm(lab, ["commit", "deep"]).expect(0);
        let depth = "find t -depth | wc -l";
        assert_eq!(lab.sh(depth).trim(), "2002");
        fvm(lab, ["undo", "1"]).expect(0);
        assert_eq!(lab.sh("find t"), "t\n");
        fvm(lab, ["undo", "2"]).expect(0);
        assert_eq!(lab.sh(depth).trim(), "2002");
        let upper = vm(lab, "other");
        prepare(lab, &upper, &script.replace("'deep'", "'other'"));
        fvm(lab, ["discard", "other"]).expect(0);
        let upper = vm(lab, "third");
        prepare(lab, &upper, &script.replace("'deep'", "'third'"));
        fvm(lab, ["delete", "third"]).expect(0);
        tidy(lab);
    });
}

#[test]
fn root_and_user_many_entries_in_one_directory_are_committed_in_bounded_memory() {
    as_both("root_and_user_many_entries_in_one_directory_are_committed_in_bounded_memory", |lab, _| {
        lab.sh("mkdir -p t/there");
        let upper = vm(lab, "many");
        prepare(
            lab,
            &upper,
            "mkdir $U/new $U/there; cd $U/new; seq 100000 | xargs touch; cd ../there; seq 5000 | xargs touch",
        );
        let begun = Instant::now();
        fvm(lab, ["status", "many"]).expect(0);
        fvm(lab, ["commit", "many"]).expect(0);
        eprintln!("105,000 files: {:?}", begun.elapsed());
        assert_eq!(lab.sh("ls t/new | wc -l; ls t/there | wc -l"), "100000\n5000\n");
        fvm(lab, ["undo", "1"]).expect(0);
        assert_eq!(lab.sh("find t"), "t\nt/there\n");
        tidy(lab);
    });
}

#[test]
fn root_and_user_many_names_of_one_file_and_many_full_directories_take_no_quadratic_time() {
    as_both("root_and_user_many_names_of_one_file_and_many_full_directories_take_no_quadratic_time", |lab, _| {
        let upper = vm(lab, "links");
        let script = "python3 -c \"
import os
os.chdir(os.environ['U']); open('f', 'w').write('x')
for i in range(20000): os.link('f', 'f%d' % i)
os.mkdir('full')
for i in range(10000): os.makedirs('full/d%d/e' % i)\"";
        prepare(lab, &upper, script);
        fvm(lab, ["commit", "links"]).expect(0);
        assert_eq!(lab.path("t/f19999").metadata().unwrap().nlink(), 20001);
        fvm(lab, ["undo", "1"]).expect(0);
        assert_eq!(lab.sh("find t"), "t\n");
        let upper = vm(lab, "again");
        prepare(lab, &upper, script);
        fvm(lab, ["discard", "again"]).expect(0);
        assert!(fvm(lab, ["status", "again"]).expect(0).out.contains("nothing changed"));
    });
}

#[test]
fn root_and_user_special_files_stay_and_the_rest_is_committed() {
    as_both("root_and_user_special_files_stay_and_the_rest_is_committed", |lab, user| {
        let device =
            if user == User::Root { "mknod $U/n/disk b 8 0; mknod $U/mem c 1 1; mknod $U/n/odd c 0 1" } else { ":" };
        let script = format!(
            "mkdir $U/n; mkfifo $U/n/pipe $U/pipe; echo x > $U/n/f; mknod $U/n/white c 0 0; mknod $U/white c 0 0; {device}
             python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('$U/n/s')\" 2>/dev/null || (cd $U/n && \
             python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('s')\")"
        );
        let upper = vm(lab, "special");
        prepare(lab, &upper, &script);
        fvm(lab, ["status", "special"]).expect(0);
        fvm(lab, ["diff", "special"]).expect(0);
        let commit = fvm(lab, ["commit", "special"]).expect(0);
        assert!(commit.err.contains("a socket cannot be committed"), "{}", commit.err);
        assert_eq!(lab.sh("find t -type b -o -type c -o -type s; ls t/n t"), "t:\nn\npipe\n\nt/n:\nf\npipe\n");
        fvm(lab, ["undo", "1"]).expect(0);
        fvm(lab, ["discard", "special"]).expect(0);
        fvm(lab, ["delete", "special"]).expect(0);
        assert_eq!(lab.sh("find t"), "t\n");
        tidy(lab);
    });
}

#[test]
fn root_and_user_set_uid_files_can_be_seen_before_they_are_committed() {
    as_both("root_and_user_set_uid_files_can_be_seen_before_they_are_committed", |lab, user| {
        let caps = if user == User::Root {
            "setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 $U/cap"
        } else {
            ":"
        };
        let script = format!(
            "cp /bin/true $U/suid; chmod 6755 $U/suid; cp /bin/true $U/cap; mkdir $U/sticky; chmod 3777 $U/sticky; {caps}"
        );
        through(lab, &script, |_, status| {
            assert!(status.contains("t/suid (mode 6755)") && status.contains("t/sticky/ (mode 3777)"), "{status}");
            assert_eq!(lab.path("t/suid").metadata().unwrap().mode() & 0o7777, 0o6755);
            assert_eq!(lab.path("t/sticky").metadata().unwrap().mode() & 0o7777, 0o3777);
            if user == User::Root {
                assert!(rustix::fs::lgetxattr(lab.path("t/cap"), "security.capability", &mut [0u8; 64][..]).is_ok());
            }
        });
        let upper = vm(lab, "seen");
        prepare(lab, &upper, &script);
        let diff = fvm(lab, ["diff", "seen"]).expect(0).out;
        assert!(diff.contains("(mode 6755)"), "{diff}");
    });
}

#[test]
fn root_and_user_forged_marks_lead_nowhere() {
    as_both("root_and_user_forged_marks_lead_nowhere", |lab, user| {
        lab.sh("mkdir -p t/host t/merged; echo a > t/host/a; echo b > t/merged/b; echo f > t/file");
        std::thread::sleep(Duration::from_millis(30));
        let class = if user == User::Root { "trusted" } else { "user" };
        let script = format!(
            "python3 - <<'P'
import os
u = os.environ['U']
other = '{}'
values = dict(up=b'../outside', dots=b'..', root=b'/', abs=b'/etc', climb=b'/../../etc', empty=b'', nul=b'\\0', slash=b'/',
              giant=b'x' * 3000, deep=b'/a' * 1400, esc=b'/\\x1b[2J', self=b'/self')
for name, value in values.items():
    d = u + '/' + name; os.mkdir(d); open(d + '/f', 'w').write(name)
    for c in ('{class}', other):
        for what in ('redirect', 'origin', 'opaque', 'metacopy', 'nlink', 'impure', 'protattr', 'uuid', 'overlay.opaque'):
            try: os.setxattr(d, c + '.overlay.' + what, value)
            except OSError: pass
            try: os.setxattr(d + '/f', c + '.overlay.' + what, value)
            except OSError: pass
P",
            if user == User::Root { "user" } else { "trusted" }
        );
        through(lab, &script, |_, status| {
            assert!(!status.contains("  D  "), "{status}");
            assert_eq!(lab.sh("cat t/host/a t/merged/b t/file t/up/f t/abs/f"), "a\nb\nf\nupabs");
        });
    });
}

#[test]
fn root_and_user_a_second_name_outside_the_layer_shares_nothing_with_what_is_committed() {
    as_both("root_and_user_a_second_name_outside_the_layer_shares_nothing_with_what_is_committed", |lab, _| {
        lab.sh("mkdir -p t outside; echo host > t/f; echo secret > outside/secret; chmod 640 outside/secret; echo two > outside/two");
        std::thread::sleep(Duration::from_millis(30));
        let inode = |path: &str| lab.path(path).symlink_metadata().unwrap().ino();
        let script = "ln -f outside/secret $U/x; mkdir $U/d; ln outside/secret $U/d/y; ln outside/two $U/d/z; ln outside/two $U/f";
        through(lab, script, |_, _| {
            assert_eq!(lab.sh("cat t/x t/d/y t/d/z t/f"), "secret\nsecret\ntwo\ntwo\n");
            for moved in ["t/x", "t/d/y", "t/d/z", "t/f"] {
                assert!(![inode("outside/secret"), inode("outside/two")].contains(&inode(moved)), "{moved}");
            }
            assert_eq!(lab.path("t/x").metadata().unwrap().mode() & 0o7777, 0o640);
        });
    });
}

#[test]
fn root_and_user_a_file_that_somebody_can_still_write_is_copied() {
    as_both("root_and_user_a_file_that_somebody_can_still_write_is_copied", |lab, _| {
        let upper = vm(lab, "w");
        let script = "python3 - \"$U\" <<'P' >/dev/null 2>&1 &
import mmap, os, sys, time
u = sys.argv[1]
grows = open(u + '/grows', 'wb', buffering=0); grows.write(b'g' * 4096)
mapped = os.open(u + '/mapped', os.O_RDWR | os.O_CREAT); os.ftruncate(mapped, 4096)
memory = mmap.mmap(mapped, 4096); os.close(mapped); memory[0:4] = b'then'
os.mkdir(u + '/d'); kept = open(u + '/d/kept', 'wb', buffering=0); kept.write(b'then')
os.rename(u + '/d', u + '/e'); open(u + '/ready', 'w')
end = time.time() + 60
while time.time() < end and not os.path.exists('stop'):
    grows.write(b'g' * 65536); memory[0:4] = b'now!'; kept.seek(0); kept.write(b'now!')
P
while ! [ -e $U/ready ]; do sleep 0.1; done; rm $U/ready";
        prepare(lab, &upper, script);
        let ino = |name: &str| upper.join(name).metadata().unwrap().ino();
        let before = [ino("grows"), ino("mapped"), ino("e/kept")];
        let mut last = String::new();
        let mut done = false;
        for _ in 0..20 {
            let ran = fvm(lab, ["commit", "w"]);
            last = ran.err;
            if ran.code == 0 {
                done = true;
                break;
            }
            assert!(last.contains("nothing was committed") || last.contains("changed"), "{last}");
            assert_eq!(lab.sh("ls t"), "");
        }
        lab.sh("touch stop");
        eprintln!("committed: {done}; {last}");
        for name in ["grows", "mapped", "e/kept"] {
            if let Ok(meta) = lab.path("t").join(name).metadata() {
                assert!(!before.contains(&meta.ino()), "{name} was moved while somebody could write it");
            }
        }
        tidy(lab);
    });
}

#[test]
fn root_and_user_a_file_of_vast_length_takes_no_vast_time() {
    as_both("root_and_user_a_file_of_vast_length_takes_no_vast_time", |lab, _| {
        let upper = vm(lab, "vast");
        // Sixteen TiB is the most that ext4 takes; a second name keeps the second one from being moved.
        prepare(
            lab,
            &upper,
            "truncate -s 15T $U/moved; truncate -s 15T $U/copied; ln $U/copied outside/second; printf x | dd of=$U/copied bs=1 seek=9T conv=notrunc 2>/dev/null",
        );
        fvm(lab, ["status", "vast"]).expect(0);
        fvm(lab, ["diff", "vast"]).expect(0);
        fvm(lab, ["commit", "vast"]).expect(0);
        for name in ["moved", "copied"] {
            let meta = lab.path("t").join(name).metadata().unwrap();
            assert!(meta.len() == 15 << 40 && meta.blocks() < 100, "{name}: {} {}", meta.len(), meta.blocks());
        }
        fvm(lab, ["undo", "1"]).expect(0);
        tidy(lab);
    });
}

#[test]
fn root_an_entry_that_nobody_may_change_is_refused_before_anything_changes() {
    as_root("root_an_entry_that_nobody_may_change_is_refused_before_anything_changes", |lab| {
        for flag in ["i", "a"] {
            lab.sh("mkdir -p t; rm -rf t/*; echo old > t/f; echo old > t/g; mkdir t/d");
            std::thread::sleep(Duration::from_millis(30));
            let upper = vm(lab, flag);
            prepare(lab, &upper, "echo new > $U/f; echo new > $U/g; echo new > $U/a");
            lab.sh(&format!("chattr +{flag} t/f"));
            let refused = fvm(lab, ["commit", "--on-conflict", "vm", flag]);
            lab.sh(&format!("chattr -{flag} t/f; chattr +{flag} t"));
            let also = fvm(lab, ["commit", "--on-conflict", "vm", flag]);
            lab.sh(&format!("chattr -{flag} t"));
            assert_ne!((refused.code, also.code), (0, 0));
            assert!(refused.err.contains(if flag == "i" { "immutable" } else { "append-only" }), "{}", refused.err);
            assert_eq!(lab.sh("cat t/f t/g; ls t"), "old\nold\nd\nf\ng\n", "{}{}", refused.err, also.err);
            tidy(lab);
            fvm(lab, ["commit", "--on-conflict", "vm", flag]).expect(0);
        }
    });
}

/// A script in a mount namespace of its own, with `$FVM` the whole command.
#[track_caller]
fn alone(lab: &Lab, script: &str) -> Ran {
    let fvm = format!("timeout {LIMIT_SECS} {} --home {}", binary().display(), lab.home().display());
    let script = format!("FVM='{fvm}'; mount --make-rprivate /; {script}");
    let output = lab.command("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn root_a_full_or_read_only_file_system_is_refused_before_anything_changes() {
    as_root("root_a_full_or_read_only_file_system_is_refused_before_anything_changes", |lab| {
        let ran = alone(
            lab,
            "mkdir t; mount -t tmpfs -o size=1m small t; echo old > t/f; sleep 0.1
             $FVM run --keep --name v -- sh -c 'head -c 3000000 /dev/zero > t/big; echo new > t/f; mkdir t/d; chmod 700 t' || exit 9
             $FVM commit v; echo \"full $?\"; ls -A t; cat t/f
             mount -o remount,ro t; $FVM commit v --except big; echo \"ro $?\"; mount -o remount,rw t; ls -A t; cat t/f
             $FVM commit v --except big; echo \"rest $?\"; ls -A t; cat t/f; $FVM undo 1; echo \"undo $?\"; ls -A t; cat t/f",
        );
        let want = "full 1\nf\nold\nro 1\nf\nold\nrest 0\nd\nf\nnew\nundo 0\nf\nold\n";
        assert_eq!(ran.out, want, "{}", ran.err);
    });
}

#[test]
fn root_a_mount_that_came_below_a_deleted_directory_is_not_carried_away() {
    as_root("root_a_mount_that_came_below_a_deleted_directory_is_not_carried_away", |lab| {
        let ran = alone(
            lab,
            "mkdir -p t/gone/sub t/at outside; echo in > t/gone/f; echo in > t/at/f; echo secret > outside/secret; echo a > t/a; sleep 0.1
             $FVM run --keep --name v -- sh -c 'rm -r t/gone t/at; echo new > t/a' || exit 9
             mount --bind outside t/gone/sub
             $FVM commit v; echo \"below $?\"; cat t/gone/f t/gone/sub/secret t/a
             umount t/gone/sub; mount --bind outside t/at
             $FVM commit v; echo \"at $?\"; cat t/gone/f t/at/secret t/a; $FVM undo 1 || exit 8
             umount t/at; $FVM commit v; echo \"free $?\"; ls t; cat outside/secret",
        );
        let want = "below 3\nin\nsecret\na\n";
        assert!(
            ran.out.starts_with(want) && ran.err.contains("t/gone/sub: something was mounted"),
            "{}{}",
            ran.out,
            ran.err
        );
        // The mount point itself is no part of the VM; the rest goes.
        assert!(ran.err.contains("t/at: a mount point on the host; not compared"), "{}{}", ran.out, ran.err);
        assert_eq!(ran.out[want.len()..], *"at 0\nsecret\nnew\nfree 0\na\ngone\nsecret\n", "{}", ran.err);
        tidy(lab);
    });
}

#[test]
fn root_and_user_a_parent_swapped_for_a_link_all_the_time_leads_no_commit_outside() {
    as_both("root_and_user_a_parent_swapped_for_a_link_all_the_time_leads_no_commit_outside", |lab, _| {
        lab.sh(
            "mkdir -p t/p/sub outside/sub; ln -s ../outside t/other; echo old > t/p/sub/f; echo keep > outside/sub/f",
        );
        std::thread::sleep(Duration::from_millis(30));
        vm(lab, "seed");
        let aloof = outside(lab);
        let mut swapper = lab
            .command("python3")
            .arg("-c")
            .arg(
                "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
while not os.path.exists('stop'):
    libc.renameat2(-100, b't/p', -100, b't/other', 2)
libc.syncfs(0)",
            )
            .spawn()
            .unwrap();
        let mut committed = 0;
        for n in 0..12 {
            let name = format!("s{n}");
            let script =
                format!("echo new{n} > t/p/sub/f; echo more > t/p/sub/g{n}; mkdir t/p/sub/d{n}; touch t/p/sub/d{n}/x");
            lab.fvm(["run", "--keep", "--name", &name, "--", "sh", "-c", &script]);
            let ran = fvm(lab, ["commit", "--on-conflict", "vm", &name]);
            committed += u32::from(ran.code == 0);
            if let Some(number) = ran.err.split("'fvm undo ").nth(1).map(|r| r.split('\'').next().unwrap().to_owned()) {
                fvm(lab, ["undo", &number]);
            }
        }
        lab.sh("touch stop");
        swapper.wait().unwrap();
        eprintln!("{committed} of 12 commits found a quiet moment");
        assert_eq!(outside(lab).0.differences(&aloof.0), Vec::<String>::new());
        fvm(lab, ["history"]).expect(0);
        let left = lab.sh("find . -path ./home -prune -o -name '.fvm-*' -print");
        assert_eq!(left, "");
    });
}

#[test]
fn user_what_a_scan_cannot_read_stays_in_the_vm_after_a_commit() {
    if !is_root("user_what_a_scan_cannot_read_stays_in_the_vm_after_a_commit") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let upper = vm(&lab, "c");
    prepare(&lab, &upper, "mkdir $U/shut; echo precious > $U/shut/f; chmod 000 $U/shut; echo x > $U/ok");
    let commit = fvm(&lab, ["commit", "c"]).expect(0);
    assert!(commit.err.contains("warning"), "{}", commit.err);
    assert_eq!(lab.sh("ls t"), "ok\n");
    assert_eq!(std::fs::read_to_string(upper.join("shut/f")).unwrap(), "precious\n");
    prepare(&lab, &upper, "chmod 700 $U/shut");
    fvm(&lab, ["commit", "c"]).expect(0);
    assert_eq!(lab.sh("cat t/shut/f"), "precious\n");
    // One file that cannot be read is named, and the rest can go without it.
    let upper = vm(&lab, "d");
    prepare(&lab, &upper, "echo y > $U/closed; chmod 000 $U/closed; echo x > $U/more");
    let refused = fvm(&lab, ["commit", "d"]);
    assert!(refused.code == 1 && refused.err.contains("closed"), "{}", refused.err);
    fvm(&lab, ["commit", "d", "--except", "closed"]).expect(0);
    assert_eq!(lab.sh("ls t"), "more\nok\nshut\n");
}

#[test]
fn root_and_user_a_vm_does_not_run_while_its_changes_are_reviewed() {
    as_both("root_and_user_a_vm_does_not_run_while_its_changes_are_reviewed", |lab, _| {
        vm(lab, "r");
        lab.fvm(["run", "--keep", "--name", "busy", "--", "sh", "-c", "echo early > t/early"]).expect(0);
        let mut review = lab.fvm_command(["commit", "-i", "busy"]);
        let mut review = review.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&mut review, "Commit this?");
        let late = ["run", "--name", "busy", "--", "sh", "-c", "echo late > t/late"];
        let refused = lab.fvm(late).expect(125).err;
        assert!(refused.contains("in use by another fvm command"), "it must not run meanwhile: {refused}");
        std::io::Write::write_all(&mut review.stdin.take().unwrap(), b"a\n").unwrap();
        assert!(review.wait().unwrap().success());
        assert_eq!(lab.sh("ls t"), "early\n");
        lab.fvm(late).expect(0);
        assert!(fvm(lab, ["status", "busy"]).expect(0).out.contains("t/late"));
    });
}

/// Reads what the child says until it says `word`; the rest is thrown away.
fn wait_for(child: &mut std::process::Child, word: &str) {
    let mut said = Vec::new();
    let mut stderr = child.stderr.take().unwrap();
    let mut byte = [0];
    while !String::from_utf8_lossy(&said).contains(word) {
        assert_eq!(std::io::Read::read(&mut stderr, &mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
}

#[test]
fn root_the_tools_of_these_tests_are_there() {
    if is_root("root_the_tools_of_these_tests_are_there") {
        for tool in ["timeout", "prlimit", "setfattr", "chattr", "python3", "unshare"] {
            let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
            assert!(found.unwrap().success(), "{tool} is missing");
        }
    }
}
