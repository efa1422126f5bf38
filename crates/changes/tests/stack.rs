//! Layers that stand on others: the kernel's view of the stack is its view of the one layer made of them.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_changes::{Means, flatten};
use fvm_model::vm::XattrClass;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Host, and layers `0` (first written) to `n`.
struct Stack {
    tmp: tempfile::TempDir,
    class: XattrClass,
    layers: usize,
}

fn can(class: XattrClass) -> bool {
    let root = rustix::process::geteuid().is_root();
    let words: &[&str] = if class == XattrClass::Trusted { &["-m", "true"] } else { &["-Urm", "true"] };
    let can = (root || class == XattrClass::User)
        && Command::new("unshare").args(words).status().is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: no {class:?} overlay here (root: {root})");
    }
    can
}

impl Stack {
    fn new(class: XattrClass, host: &str) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("host")).unwrap();
        std::fs::create_dir_all(tmp.path().join("merged")).unwrap();
        let made = Command::new("sh").args(["-ec", host]).current_dir(tmp.path().join("host")).status().unwrap();
        assert!(made.success(), "{host}");
        Self { tmp, class, layers: 0 }
    }

    fn dir(&self, layer: usize) -> PathBuf {
        self.tmp.path().join(layer.to_string())
    }

    /// Topmost first.
    fn dirs(&self) -> Vec<PathBuf> {
        (0..self.layers).rev().map(|layer| self.dir(layer)).collect()
    }

    /// Runs `script` in a view of `upper` over `lowers` over the host.
    fn see(&self, upper: &Path, lowers: &[PathBuf], script: &str) -> String {
        let options = match self.class {
            // As the VM's are mounted.
            XattrClass::Trusted if lowers.is_empty() => "redirect_dir=on,index=on,metacopy=off,nfs_export=off,xino=off",
            XattrClass::Trusted => "redirect_dir=on,index=off,metacopy=off,nfs_export=off,xino=off",
            XattrClass::User => "userxattr,redirect_dir=nofollow",
        };
        let tmp = self.tmp.path().display();
        let lowers: String = lowers.iter().map(|dir| format!("{}/upper:", dir.display())).collect();
        let upper = upper.display();
        let inner = format!(
            "mount -t overlay overlay -o 'lowerdir={lowers}{tmp}/host,upperdir={upper}/upper,workdir={upper}/work,{options}' \
             {tmp}/merged; cd {tmp}/merged; {script}"
        );
        let unshare = if self.class == XattrClass::Trusted { "-m" } else { "-Urm" };
        let out = Command::new("unshare").args([unshare, "sh", "-ec", &inner]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(out.status.success(), "{script}\n{}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stdout)
    }

    /// A further layer, written by `script`.
    fn then(&mut self, script: &str) {
        let top = self.dir(self.layers);
        for dir in ["upper", "work"] {
            std::fs::create_dir_all(top.join(dir)).unwrap();
        }
        self.see(&top, &self.dirs(), script);
        self.layers += 1;
    }

    /// As the stack is seen, and as the layer made of it is.
    fn both(&self, means: Means) -> (String, String) {
        let one = self.tmp.path().join(format!("{means:?}"));
        flatten(&self.dirs(), self.class, &one, means).unwrap();
        let dirs = self.dirs();
        let stack = self.see(&dirs[0], &dirs[1..], LOOK);
        let flat = self.see(&one, &[], LOOK);
        (stack, flat)
    }
}

const LOOK: &str = "find . -mindepth 1 -printf '%P %y %m %l %U\\n' | sort; \
                    find . -type f -exec sha256sum {} + | sort -k2; \
                    find . -type f -printf '%P %TY-%Tm-%Td %TT %s\\n' | sort; \
                    find . -type f -links +1 -printf '%i %P\\n' | sort -k2 | \
                    awk '{names[$1] = names[$1] \" \" $2; c[$1]++} END {for (i in c) if (c[i] > 1) print names[i]}' | sort";

#[test]
fn a_stack_looks_as_the_layer_made_of_it_needs_overlay() {
    let host = "mkdir -p a/b c; echo 1 > a/x; echo 2 > a/b/y; echo 3 > c/z; ln -s x a/l; echo 4 > s; ln s t; touch -d 2020-01-01 a/x";
    let rounds = [
        "mv a d 2>/dev/null || cp -r a d; echo n > d/n; mkdir new; echo f > new/f; ln new/f new/g; mkfifo p; rm c/z; chmod 700 c",
        "mv d/b e 2>/dev/null || true; mv new/f new/h; echo more >> new/g; rm -rf d; mkdir d; echo again > d/x; mkdir c/z; echo q > c/z/q",
        "mv new old 2>/dev/null || true; rm -rf c; mv e c 2>/dev/null || true; echo last > a2; mv d d2 2>/dev/null || true; mkdir d; rm p",
        "true",
    ];
    for class in [XattrClass::Trusted, XattrClass::User] {
        if !can(class) {
            continue;
        }
        for count in 1..=rounds.len() {
            let mut stack = Stack::new(class, host);
            rounds.iter().take(count).for_each(|script| stack.then(script));
            for means in [Means::Copy, Means::Link] {
                let (seen, flat) = stack.both(means);
                assert_eq!(seen, flat, "{class:?} {means:?} {count}");
            }
        }
    }
}

/// A step of a random walk (xorshift64).
fn next(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state % below as u64).unwrap()
}

fn any_script(state: &mut u64, steps: usize) -> String {
    let path = |state: &mut u64| {
        let depth = 1 + next(state, 3);
        (0..depth).map(|_| ["a", "b", "c"][next(state, 3)]).collect::<Vec<_>>().join("/")
    };
    let mut script = String::new();
    for step in 0..steps {
        let (from, to) = (path(state), path(state));
        let line = match next(state, 10) {
            0 => format!("mkdir -p {from}"),
            1 | 2 => format!("echo {step} > {from}"),
            3 => format!("echo {step} >> {from}"),
            4 => format!("rm -r {from}"),
            5 | 6 => format!("mv -T {from} {to}"),
            7 => format!("ln {from} {to}"),
            8 => format!("chmod 7{}0 {from}", next(state, 8)),
            _ => format!("ln -s {step} {from}"),
        };
        script.push_str(&format!("{line} || true\n"));
    }
    script
}

#[test]
fn random_stacks_look_as_the_layer_made_of_them_needs_overlay() {
    let seeds = std::env::var("FVM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for class in [XattrClass::Trusted, XattrClass::User] {
        if !can(class) {
            continue;
        }
        for seed in 1..=seeds {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
            let begin = format!("exec 2>&-; mkdir -p a/a/b b/b/a b/c c/a; {}", any_script(&mut state, 20));
            let mut stack = Stack::new(class, &begin);
            let mut told = String::new();
            for _ in 0..1 + next(&mut state, 4) {
                let script = format!("exec 2>&-\n{}", any_script(&mut state, 8));
                stack.then(&script);
                told.push_str(&format!("--\n{script}"));
            }
            for means in [Means::Copy, Means::Link] {
                let (seen, flat) = stack.both(means);
                assert!(seen == flat, "{class:?} {means:?} seed {seed}\n{told}\n--- stack\n{seen}\n--- flat\n{flat}");
            }
        }
    }
}
