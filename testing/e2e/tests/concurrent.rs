//! The host edits the tree that a VM changes: no commit loses an edit, and every undo brings exactly the host's back.
//!
//! ```text
//!   base ── fork ─┬─ VM:   random program  ─┐
//!          F      └─ host: random edits    ─┴─ H ── commit ── A ── undo ── H ── undo ── A ── commit --on-conflict vm
//! ```
//!
//! The model: what the plan does not name is after the commit what it was before, at the place to which its directory
//! was moved; what the host edited after the fork is not named, unless the VM worked on the edited version; what fails
//! changes nothing; what the VM sees does not change by a commit, and is what the commits bring in the end (not looked at
//! when the host edited after the VM: overlayfs shows a file that the host moved in the place of the VM's copy of it).
//!
//! `FVM_CONCURRENT_SEEDS=500 cargo test -p fvm-e2e --test concurrent` is the long mode; `FVM_CONCURRENT_FIRST` shifts the
//! seeds.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Entry, Lab, Ran, Snapshot, User, install, is_root, splitmix};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Longer than the kernel's coarse clock needs to move on.
const TICK: Duration = Duration::from_millis(30);

/// A path that is no UTF-8.
const ODD: &str = "\u{1}";

/// Who works first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    VmFirst,
    HostFirst,
    Together,
}

/// One op of a plan, by paths below the tree.
#[derive(Debug, Default)]
struct Op {
    path: PathBuf,
    kind: String,
    from: Option<PathBuf>,
    is_dir: bool,
}

struct Plan(Vec<Op>);

impl Plan {
    /// Reads what `commit --dry-run --json` prints, a field a line. A path that is no UTF-8 becomes [`ODD`].
    fn parse(json: &str, tree: &Path) -> Self {
        let mut ops: Vec<Op> = Vec::new();
        let ops_only = json.split("\n  \"ops\": [\n").nth(1).and_then(|rest| rest.split("\n  ]").next()).unwrap_or("");
        for line in ops_only.lines() {
            let Some((key, value)) = line.trim().trim_end_matches(',').split_once(": ") else { continue };
            let text = value.trim_matches('"');
            let depth = line.len() - line.trim_start().len();
            let below = || Path::new(text).strip_prefix(tree).ok().map(Path::to_path_buf);
            match (depth, key) {
                (6, "\"n\"") => ops.push(Op::default()),
                (6, "\"path\"") => ops.last_mut().unwrap().path = below().unwrap_or_else(|| ODD.into()),
                (6, "\"file_type\"") => ops.last_mut().unwrap().is_dir = text == "directory",
                (8, "\"do\"") => text.clone_into(&mut ops.last_mut().unwrap().kind),
                (8, "\"from\"") => ops.last_mut().unwrap().from = below(),
                _ => {}
            }
        }
        Self(ops)
    }

    /// Whether an op names the entry that is at `path` before and would be at `at` after, or what it lies in. A
    /// renamed directory may stand in for one that it replaces.
    fn names(&self, path: &Path, at: &Path) -> bool {
        let comes_along = |op: &Op| op.is_dir && op.from.as_ref().is_some_and(|from| path.starts_with(from));
        let whole = |op: &Op| op.kind != "setmeta" && at.starts_with(&op.path) && !comes_along(op);
        let itself = |op: &Op| at == op.path || op.from.as_deref() == Some(path);
        self.0.iter().any(|op| whole(op) || itself(op))
    }

    /// Where the plan's renames of directories put what was at `path`.
    fn carried(&self, path: &Path) -> PathBuf {
        let to = |above: &Path| self.0.iter().find(|op| op.from.as_deref() == Some(above));
        path.ancestors()
            .find_map(|above| Some((above, to(above)?)))
            .map_or_else(|| path.to_owned(), |(above, op)| op.path.join(path.strip_prefix(above).unwrap()))
    }

    /// Whether the plan puts something at `path`.
    fn places(&self, path: &Path) -> bool {
        self.0.iter().any(|op| path.starts_with(&op.path) && op.kind != "setmeta" && op.kind != "remove")
    }
}

/// A path that the plan's text does not show as it is.
fn is_odd(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|b| !(0x20..0x7f).contains(b))
}

/// What a commit did to the host against the model, a line for each violation.
fn violations(order: Order, plan: &Plan, fork: &Snapshot, host: &Snapshot, after: &Snapshot) -> Vec<String> {
    let (fork, host, after) = (fork.entries(), host.entries(), after.entries());
    let essence = |tree: &BTreeMap<PathBuf, Entry>, path: &Path| tree.get(path).map(Entry::essence);
    let mut wrong = Vec::new();
    let paths: BTreeSet<&PathBuf> = fork.keys().chain(host.keys()).filter(|p| !is_odd(p)).collect();
    for path in paths {
        let at = plan.carried(path);
        if is_odd(&at) {
            continue;
        }
        let (was, then, now) = (essence(fork, path), essence(host, path), essence(after, &at));
        let edited = was != then;
        let named = plan.names(path, &at);
        // The kernel tells when a directory's metadata changed, and when its entries did, by one time.
        let is_hidden = host.get(path).zip(fork.get(path)).is_some_and(|(h, f)| h.is_dir() && h.mtime != f.mtime);
        match &then {
            Some(_) if now == then => {}
            Some(_) if !named => wrong.push(format!("{path:?}: not in the plan, and changed: {then:?} {now:?}")),
            Some(_) if edited && order == Order::VmFirst && !is_hidden => {
                wrong.push(format!("{path:?}: the host's edit is lost: {was:?} {then:?} {now:?}"));
            }
            None if now.is_some() && !plan.places(&at) => {
                wrong.push(format!("{path:?}: the host removed it, and it is there again: {now:?}"));
            }
            // A directory comes back for what the VM made in it.
            None if edited && order == Order::VmFirst && now == was && !fork[path].is_dir() => {
                wrong.push(format!("{path:?}: the host removed it, and the VM brought it back: {now:?}"));
            }
            _ => {}
        }
    }
    let carried: BTreeSet<PathBuf> = host.keys().map(|path| plan.carried(path)).collect();
    for path in after.keys().filter(|p| !is_odd(p) && !carried.contains(*p) && !plan.places(p)) {
        wrong.push(format!("{path:?}: nobody made it"));
    }
    wrong
}

/// A random choice of what is committed.
fn choice(state: &mut u64, status: &str) -> Vec<String> {
    let mut pick = |n: usize| usize::try_from(splitmix(state) % n as u64).unwrap();
    let changed: Vec<&str> =
        status.lines().skip(1).filter(|l| !l.contains('\\')).filter_map(|l| l.split_whitespace().nth(1)).collect();
    let changed: Vec<&str> = changed.into_iter().filter(|p| p.starts_with('/')).collect();
    let glob = ["f*", "n1*", "d2", "*/d?/*", "n*", "**/f1"][pick(6)].to_owned();
    let mut args = match pick(6) {
        0 | 1 => Vec::new(),
        2 => vec!["--only".to_owned(), glob],
        3 => vec!["--except".to_owned(), glob],
        _ if changed.is_empty() => Vec::new(),
        _ => (0..=pick(3)).map(|_| changed[pick(changed.len())].to_owned()).collect(),
    };
    if pick(2) == 0 {
        args.extend(["--on-conflict".to_owned(), "skip".to_owned()]);
    }
    args
}

/// The number that a message offers to undo.
fn undo_number(told: &Ran) -> Option<String> {
    let rest = told.err.split("'fvm undo ").nth(1)?;
    rest.split('\'').next().map(str::to_owned)
}

fn differences(expected: &[String], found: &[String]) -> Vec<String> {
    let lack = expected.iter().filter(|l| !found.contains(l)).map(|l| format!("- {l}"));
    lack.chain(found.iter().filter(|l| !expected.contains(l)).map(|l| format!("+ {l}"))).collect()
}

struct Case<'l> {
    lab: &'l Lab,
    ops: &'l Path,
    tree: PathBuf,
    name: String,
    tally: &'l mut BTreeMap<String, u32>,
    wrong: Vec<String>,
}

impl Case<'_> {
    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    fn host(&self) -> Snapshot {
        Snapshot::of(&self.tree, i64::MAX)
    }

    /// What the VM sees.
    fn seen(&mut self) -> Vec<String> {
        let tree = self.tree.display().to_string();
        let ran = self.lab.fvm(["run", "--quiet", "--name", &self.name, "--", "./ops", "essence", &tree]);
        if ran.code != 0 {
            self.wrong.push(format!("the VM cannot read the tree: {}", ran.err));
        }
        ran.out.lines().map(str::to_owned).collect()
    }

    fn note(&mut self, what: &str, lines: Vec<String>) {
        if !lines.is_empty() {
            self.wrong.push(format!("{what}:\n  {}", lines.join("\n  ")));
        }
    }

    /// The VM's program, and the host's edits.
    fn work(&mut self, state: &mut u64, order: Order, seed: u64, word: &str) {
        let (vm_count, host_count) = (1 + splitmix(state) % 25, splitmix(state) % 6);
        let (tree, seed_text) = (self.tree.display().to_string(), seed.to_string());
        let edits = || {
            let seed = (seed + 1_000_000).to_string();
            let mut edit = self.lab.command(self.ops);
            edit.args(["run", &tree, &seed, &host_count.to_string(), "root"]).stdout(Stdio::null());
            edit.stderr(if order == Order::Together { Stdio::null() } else { Stdio::inherit() });
            edit
        };
        let count = vm_count.to_string();
        let program = ["run", "--quiet", "--keep", "--name", &self.name, "--", "./ops", "run"];
        let program = || self.lab.fvm_command(program.into_iter().chain([&*tree, &seed_text, &count, word]));
        match order {
            Order::VmFirst => {
                assert!(program().output().unwrap().status.success());
                std::thread::sleep(TICK);
                assert!(edits().status().unwrap().success());
            }
            Order::HostFirst => {
                assert!(edits().status().unwrap().success());
                std::thread::sleep(TICK);
                assert!(program().output().unwrap().status.success());
            }
            Order::Together => {
                // Each may stumble over what the other just removed.
                let mut vm = program().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                std::thread::sleep(Duration::from_micros(splitmix(state) % 60_000));
                let _stumbled = edits().status().unwrap();
                let _stumbled = vm.wait().unwrap();
            }
        }
    }

    fn run(&mut self, seed: u64, word: &str) {
        let state = &mut (seed ^ 0xc0_c0);
        let order = [Order::VmFirst, Order::HostFirst, Order::Together][usize::try_from(splitmix(state) % 3).unwrap()];
        let shown = self.tree.display().to_string();
        self.lab.sh(&format!("./ops base {shown} {seed}"));
        let fork = self.host();
        std::thread::sleep(TICK);
        self.lab.fvm(["create", "--quiet", "--net", "none", &self.name]).expect(0);
        std::thread::sleep(TICK);
        self.work(state, order, seed, word);

        let host = self.host();
        // When the host moves what the VM had copied, the kernel shows one file in the place of the other, or ESTALE.
        let is_seen = order == Order::HostFirst || fork == host;
        let seen = if is_seen { self.seen() } else { Vec::new() };
        let status = self.lab.fvm(["status", &self.name]).expect(0).out;
        let choice = choice(state, &status);
        let commit = |more: &[&str]| {
            let args = ["commit".to_owned(), self.name.clone()].into_iter().chain(choice.iter().cloned());
            self.lab.fvm(args.chain(more.iter().map(|s| (*s).to_owned())))
        };
        let plan = Plan::parse(&commit(&["--dry-run", "--json"]).out, &self.tree);
        let told = commit(&[]);
        let after = self.host();
        self.wrong.push(format!("({order:?}, {choice:?}, exit {}: {})", told.code, told.err.trim()));
        let is_done = told.code == 0;
        self.count(&format!("{order:?}: {}", ["done", "refused", "?", "conflict"][told.code.clamp(0, 3) as usize]));
        if !is_done {
            self.note("what failed changed the host", host.differences(&after));
            if told.code != 3 {
                self.wrong.push("exit code".into());
            }
        } else {
            self.note("the model", violations(order, &plan, &fork, &host, &after));
            if is_seen {
                let now_seen = self.seen();
                self.note("the VM sees another tree after the commit", differences(&seen, &now_seen));
            }
            if is_seen && choice.is_empty() && !told.err.contains("left out") {
                self.note("not what the VM saw was committed", differences(&seen, &after.essences()));
            }
        }
        if let Some(number) = undo_number(&told).filter(|_| is_done) {
            let undone = self.lab.fvm(["undo", &number]);
            if undone.code != 0 {
                self.wrong.push(format!("undo: {}", undone.err));
            }
            self.note("after the undo", host.differences(&self.host()));
            self.count("undone");
            if let Some(again) = undo_number(&undone) {
                let redone = self.lab.fvm(["undo", &again]);
                if redone.code != 0 {
                    self.wrong.push(format!("undo of the undo: {}", redone.err));
                }
                self.note("after the undo of the undo", after.differences(&self.host()));
            }
        }
        // What was left over must still be possible.
        let rest = self.lab.fvm(["commit", "--on-conflict", "vm", &self.name]);
        if rest.code != 0 {
            self.wrong.push(format!("the rest: {}", rest.err));
        } else if !rest.err.contains("left out") {
            // A file whose time alone both sides changed keeps the host's.
            let untimed = |lines: &[String]| lines.iter().map(|l| l.rsplit_once("] ").unwrap().0.to_owned()).collect();
            let (seen, now): (Vec<_>, Vec<_>) = (untimed(&seen), untimed(&self.host().essences()));
            if is_seen {
                self.note("the rest is not what the VM saw", differences(&seen, &now));
            }
            let left = self.lab.fvm(["status", &self.name]).expect(0).out;
            if left.lines().count() != 1 {
                self.wrong.push(format!("the VM still has: {left}"));
            }
        }
        self.lab.fvm(["delete", &self.name]).expect(0);
        self.lab.sh(&format!("chmod -R u+rwx {shown}; rm -rf {shown}"));
    }
}

fn check(user: User) {
    let number = |key: &str, default| std::env::var(key).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (first, count) = (number("FVM_CONCURRENT_FIRST", 0), number("FVM_CONCURRENT_SEEDS", 12));
    let lab = Lab::new(user);
    let ops = lab.path("ops");
    install(Path::new(env!("CARGO_BIN_EXE_fvm-oracle-ops")), &ops);
    let word = if user == User::Root { "root" } else { "user" };
    let mut tally = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in first..first + count {
        let (tree, name) = (lab.path(format!("t{seed}")), format!("c{seed}"));
        let mut case = Case { lab: &lab, ops: &ops, tree, name, tally: &mut tally, wrong: Vec::new() };
        case.run(seed, word);
        // The first line says what was done.
        if case.wrong.len() > 1 {
            eprintln!("{user:?}, seed {seed}: {}", case.wrong.join("\n"));
            failed.push(seed);
        }
    }
    eprintln!("{user:?}: {tally:?}");
    assert!(failed.is_empty(), "{user:?}: seeds that failed: {failed:?}");
}

#[test]
fn root_no_host_edit_is_lost_and_every_undo_is_exact() {
    if is_root("root_no_host_edit_is_lost_and_every_undo_is_exact") {
        check(User::Root);
    }
}

#[test]
fn user_no_host_edit_is_lost_and_every_undo_is_exact() {
    if is_root("user_no_host_edit_is_lost_and_every_undo_is_exact") {
        check(User::Ordinary);
    }
}
