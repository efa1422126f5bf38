//! A laboratory with marked files and a guard.
//!
//! Invariants: only files of the laboratory are marked; a guard ends with its laboratory; whatever is run is waited for, and
//! what does not end is killed and said to hang.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "test code: a failure is a failure of the test; each test uses a part"
)]

use fvm_kit::{Lab, Ran, User, binary, is_root};
use fvm_sys::fanotify::{Group, Kinds};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a machine that is busy: whoever takes so long hangs.
pub const HANGS: Duration = Duration::from_secs(60);

/// A guard of a laboratory.
pub struct Guarded {
    pub lab: Lab,
    pub supervisor: Child,
}

/// What the untrusted VM of all tests makes: `m` prints a variable, `m.sh` and `m.py` where they run, `own` a copy of a shell.
pub const MADE: &str = "mkdir t; cd t; cp /usr/bin/printenv m; cp /bin/sh interp; \
     printf '#!/bin/sh\\necho \"in-$FVM\" \"$@\"; echo seen > left; exit 7\\n' > m.sh; chmod 755 m.sh; \
     printf 'import os, sys\\nprint(\"in-\" + os.environ.get(\"FVM\", \"\"), *sys.argv[1:])\\n' > m.py; \
     printf '#!%s/t/interp\\necho \"in-$FVM\"\\n' \"$PWD/..\" > inner.sh; chmod 755 inner.sh; \
     echo text > notes.txt; printf 'echo in-$FVM\\n' > plain; printf 'all:\\n\\t@echo in-$$FVM\\n' > Makefile";

impl Guarded {
    /// A laboratory of root's, with marked files in `t` and this guard.
    pub fn new(test: &str, options: &[&str]) -> Option<Self> {
        Self::by(test, binary(), options)
    }

    /// The same, with another copy of fvm as the guard.
    pub fn by(test: &str, fvm: &Path, options: &[&str]) -> Option<Self> {
        Self::of(test, options, |lab| {
            let mut command = lab.command(fvm);
            command.arg("--home").arg(lab.home());
            command
        })
    }

    /// The same; `fvm`: what runs fvm, before its words.
    pub fn of(test: &str, options: &[&str], fvm: impl Fn(&Lab) -> Command) -> Option<Self> {
        if !is_root(test) || !is_asked(test) {
            return None;
        }
        let lab = Lab::new(User::Root);
        std::fs::set_permissions(lab.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
        lab.fvm(["run", "--keep", "--name", "u", "--policy", "untrusted", "--", "sh", "-ec", MADE]).expect(0);
        lab.fvm(["commit", "u"]).expect(0);
        let mut command = fvm(&lab);
        command.args(["guard", "run"].iter().chain(options));
        let supervisor = command.stdout(Stdio::null()).stderr(std::fs::File::create(lab.path("guard.log")).unwrap());
        let supervisor = supervisor.spawn().unwrap();
        let guarded = Self { lab, supervisor };
        guarded.wait_for(|status| status["watched"].as_u64() >= Some(8));
        Some(guarded)
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.lab.fvm(["guard", "status", "--json"]).out).unwrap_or_default()
    }

    /// What the guard said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.lab.path("guard.log")).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_for(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(begun.elapsed() < HANGS, "the guard: {status}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A host command in the directory of marked files.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.lab.command(program);
        command.env("FVM_HOME", self.lab.home()).current_dir(self.lab.path("t"));
        command
    }

    /// Runs it to its end, which must come.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        let mut command = self.command(words[0]);
        command.args(&words[1..]);
        ended(command, words)
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> Ran {
        self.run(&["bash", "-c", script])
    }

    /// Runs it; it must have run in a VM.
    #[track_caller]
    pub fn confined(&self, words: &[&str]) -> Ran {
        /// A machine that stands still for longer than anybody may wait is no word on what is tried here.
        const TRIES: usize = 3;
        let late = || self.log().matches("took too long").count();
        let mut tries = (0..TRIES).map(|_| (late(), self.run(words)));
        let of_no_word = |(before, ran): &(usize, Ran)| !is_in_vm(&ran.out) && late() != *before;
        let (_, ran) = tries.find(|tried| !of_no_word(tried)).expect("the guard was late each time");
        assert!(is_in_vm(&ran.out), "{words:?} ran on the host, or not at all: {ran:?}\n{}", self.log());
        assert!(!self.lab.path("t/left").exists(), "{words:?} changed the host");
        ran
    }

    #[track_caller]
    pub fn refused(&self, words: &[&str]) {
        let ran = self.run(words);
        assert!(ran.code != 0 && !ran.out.contains("in-") && !ran.out.contains("vm-"), "{words:?}: {ran:?}");
        assert!(!self.lab.path("t/left").exists(), "{words:?} changed the host");
    }
}

/// Whether this kernel asks before a file is executed; when not, says that `test` is skipped, and why.
fn is_asked(test: &str) -> bool {
    let probe = std::env::temp_dir().join(format!("fvm-guard-probe-{}", std::process::id()));
    std::fs::write(&probe, "").unwrap();
    // Nobody executes that.
    let asked = Group::new().and_then(|group| group.mark(&probe, Kinds::Exec));
    let _gone = std::fs::remove_file(&probe);
    if let Err(e) = asked {
        eprintln!("skipped: {test}: this kernel does not ask before a file is executed (FAN_OPEN_EXEC_PERM): {e}");
    }
    asked.is_ok()
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _gone = Command::new("kill").arg(self.supervisor.id().to_string()).status();
        let _gone = self.supervisor.wait();
    }
}

/// What a VM prints: its name, or `in-` and its name.
pub fn is_in_vm(out: &str) -> bool {
    out.lines().any(|line| line.starts_with("vm-") || line.starts_with("in-vm-"))
}

#[track_caller]
pub fn ended(mut command: Command, words: &[&str]) -> Ran {
    // A group of its own, so that all of it can be ended.
    let child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn() {
        Ok(child) => child,
        // Refused: as a shell says it.
        Err(e) => return Ran { code: 126, out: String::new(), err: e.to_string() },
    };
    let pid = child.id();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    match receive.recv_timeout(HANGS) {
        Ok(output) => Ran::of(output.unwrap()),
        Err(_) => {
            let _gone = Command::new("kill").args(["-KILL", "--", &format!("-{pid}")]).status();
            panic!("{words:?} hangs");
        }
    }
}

pub fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success()
}
