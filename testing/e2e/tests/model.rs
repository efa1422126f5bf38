//! The life cycle against a plain model: random sequences of commands, with sudden deaths between them. What a command answers,
//! which VMs there are, what they do and what they hold agrees with the model after every step.
//!
//! `FVM_MODEL_SEEDS=100 cargo test -p fvm-e2e --test model` is the long mode; `FVM_MODEL_FIRST` shifts the seeds.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, Ran, User, is_root, splitmix};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const STEPS: usize = 40;
/// None is the beginning of an id.
const NAMES: [&str; 4] = ["kim", "lou", "mo", "nik"];
const FILES: [&str; 3] = ["f", "g", "h"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Running,
    Suspended,
}

/// What a VM is and holds: files of the laboratory's directory, where the host has none.
#[derive(Debug, Clone)]
struct Vm {
    state: State,
    files: BTreeMap<&'static str, String>,
}

struct Model<'l> {
    lab: &'l Lab,
    vms: BTreeMap<&'static str, Vm>,
    state: u64,
    told: Vec<String>,
}

impl Model<'_> {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(splitmix(&mut self.state) % from.len() as u64).unwrap()]
    }

    fn is(&self, name: &str, states: &[State]) -> bool {
        self.vms.get(name).is_some_and(|vm| states.contains(&vm.state))
    }

    /// Runs a command that must end well if `good`, with the code for what is not there if it names such, else with 1.
    fn ask(&mut self, words: &[&str], good: bool, named: &str) -> Ran {
        self.told.push(words.join(" "));
        let ran = self.lab.fvm(words);
        let code = match (good, self.vms.contains_key(named)) {
            (true, _) => 0,
            (false, false) => 4,
            (false, true) => 1,
        };
        let is_run = matches!(words[0], "run" | "exec");
        assert!(
            ran.code == code || is_run && !good && ran.code == 125,
            "{code} was expected: {}\n{}\n{}{}",
            ran.code,
            self.told.join("\n"),
            ran.out,
            ran.err
        );
        ran
    }

    fn step(&mut self) {
        use State::{Running, Stopped, Suspended};
        let (name, other, file) = (self.pick(&NAMES), self.pick(&NAMES), self.pick(&FILES));
        let there = self.vms.contains_key(name);
        let stopped = self.is(name, &[Stopped]);
        let new = |files| Vm { state: Stopped, files };
        match splitmix(&mut self.state) % 17 {
            // Twice as likely: without VMs there is nothing to see.
            0 | 1 => {
                self.told.push(format!("create {name}"));
                let made = self.lab.fvm(["create", name, "--net", "none"]);
                assert_eq!(made.code, i32::from(there), "{}\n{}", self.told.join("\n"), made.err);
                if !there {
                    self.vms.insert(name, new(BTreeMap::new()));
                }
            }
            2 | 3 => {
                self.ask(&["start", name], stopped, name);
                self.enter(name, Running, stopped);
            }
            4 => {
                let good = self.is(name, &[Running, Suspended]);
                let command = self.pick(&["stop", "kill"]);
                self.ask(&[command, name], good, name);
                self.enter(name, Stopped, good);
            }
            5 => {
                let good = self.is(name, &[Running]);
                self.ask(&["suspend", name], good, name);
                self.enter(name, Suspended, good);
            }
            6 => {
                let good = self.is(name, &[Suspended]);
                self.ask(&["resume", name], good, name);
                self.enter(name, Running, good);
            }
            7 | 8 => {
                let good = stopped && !self.vms.contains_key(other);
                self.ask(&["copy", name, other], good, name);
                if good {
                    self.vms.insert(other, self.vms[name].clone());
                }
            }
            9 => {
                let good = stopped && !self.vms.contains_key(other);
                self.ask(&["rename", name, other], good, name);
                if good {
                    let vm = self.vms.remove(name).unwrap();
                    self.vms.insert(other, vm);
                }
            }
            10 => {
                self.ask(&["delete", name], stopped, name);
                if stopped {
                    self.vms.remove(name);
                }
            }
            11 | 12 => {
                // Running: beside what runs there. Stopped: by itself.
                let content = format!("{}", splitmix(&mut self.state));
                let script = format!("echo {content} > {file}");
                let good = self.is(name, &[Running, Stopped]);
                let words = ["sh", "-ec", &script];
                if self.is(name, &[Running]) {
                    self.ask(&[&["exec", name][..], &words].concat(), true, name);
                } else if good {
                    self.ask(&[&["run", "--quiet", "--name", name, "--"][..], &words].concat(), true, name);
                }
                if good {
                    self.vms.get_mut(name).unwrap().files.insert(file, content);
                }
            }
            13 => {
                let path = self.lab.path(file).display().to_string();
                let holds = stopped && self.vms[name].files.contains_key(file);
                self.ask(&["discard", name, &path], holds, name);
                if holds {
                    self.vms.get_mut(name).unwrap().files.remove(file);
                }
            }
            14 => {
                self.ask(&["export", name, "x.fvm"], stopped, name);
                if stopped && !self.vms.contains_key(other) {
                    self.ask(&["import", "x.fvm", "--name", other], true, other);
                    self.vms.insert(other, self.vms[name].clone());
                }
            }
            // Sudden death of what holds it, or of what is in it.
            _ if self.is(name, &[Running, Suspended]) => {
                let victim = self.pick(&["keeper_pid", "init_pid"]);
                self.told.push(format!("kill {victim} of {name}"));
                let pid = rustix::process::Pid::from_raw(self.lab.number(name, victim).unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                self.enter(name, Stopped, true);
                let began = Instant::now();
                while self.listed()[name] != "stopped" {
                    assert!(began.elapsed() < Duration::from_secs(10), "{}", self.told.join("\n"));
                }
            }
            _ => {}
        }
        self.compare(name);
    }

    fn enter(&mut self, name: &str, state: State, entered: bool) {
        if entered {
            self.vms.get_mut(name).unwrap().state = state;
        }
    }

    fn listed(&self) -> BTreeMap<String, String> {
        let all: serde_json::Value = serde_json::from_str(&self.lab.fvm(["--json", "list"]).expect(0).out).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        all.as_array().unwrap().iter().map(|vm| (text(&vm["name"]), text(&vm["state"]))).collect()
    }

    fn compare(&mut self, name: &str) {
        let wanted: BTreeMap<String, String> =
            self.vms.iter().map(|(name, vm)| ((*name).to_owned(), format!("{:?}", vm.state).to_lowercase())).collect();
        assert_eq!(self.listed(), wanted, "{}", self.told.join("\n"));
        let Some(vm) = self.vms.get(name) else { return };
        let status = self.lab.fvm(["status", name]).expect(0).out;
        let mut found: Vec<&str> = status.lines().skip(1).filter_map(|line| line.rsplit('/').next()).collect();
        found.sort_unstable();
        let files: Vec<&str> = vm.files.keys().copied().collect();
        assert_eq!(found, files, "{name}: {status}\n{}", self.told.join("\n"));
        if vm.state == State::Running && !files.is_empty() {
            let seen = self.lab.fvm(["exec", name, "--", "cat"].into_iter().chain(files)).expect(0).out;
            let wanted: String = vm.files.values().map(|content| format!("{content}\n")).collect();
            assert_eq!(seen, wanted, "{name}\n{}", self.told.join("\n"));
        }
    }
}

#[test]
fn root_and_user_random_lives_agree_with_the_model() {
    if !is_root("root_and_user_random_lives_agree_with_the_model") {
        return;
    }
    let number = |key: &str, default| std::env::var(key).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let first: u64 = number("FVM_MODEL_FIRST", 0);
    for seed in first..first + number("FVM_MODEL_SEEDS", 4) {
        for user in [User::Root, User::Ordinary] {
            let lab = Lab::new(user);
            let told = vec![format!("seed {seed}, {user:?}")];
            let mut model = Model { lab: &lab, vms: BTreeMap::new(), state: seed ^ 0x11fe, told };
            for _ in 0..STEPS {
                model.step();
            }
            // And nothing is left of any of them.
            let names: Vec<&str> = model.vms.keys().copied().collect();
            if !names.is_empty() {
                lab.fvm(["delete", "--force"].into_iter().chain(names)).expect(0);
            }
            assert!(model.listed().is_empty(), "{}", model.told.join("\n"));
            let shared = lab.home().join("shared");
            assert!(!shared.exists() || shared.read_dir().unwrap().next().is_none(), "{}", model.told.join("\n"));
        }
    }
}
