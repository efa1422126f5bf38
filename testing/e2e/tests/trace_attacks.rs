//! A hostile VM against its log: what it does is written down, under the name of whoever did it, or the log says that it does not
//! know.
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
        assert!(find(lab, &all, "open", "hidden").is_some(), "{}", lab.fvm(["trace", "t"]).out);
    });
}
