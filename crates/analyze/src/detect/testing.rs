//! Stories for the detectors' tests: events as the log has them.

use crate::{Analysis, Settings};
use fvm_model::event::{Args, Event, Kind, Phase, Src, Trust};
use fvm_model::path::Bytes;
use fvm_model::{Change, Level, Timestamp};
use fvm_trace::Integrity;
use fvm_trace::store::own_event;
use std::collections::HashMap;

/// What happens in a VM.
pub struct Story {
    pub events: Vec<Event>,
    who: HashMap<u32, (u32, String)>,
}

pub fn whole() -> Integrity {
    Integrity { runs: 1, ..Integrity::default() }
}

impl Story {
    pub fn new() -> Self {
        let args = Args { level: Some(Level::Full), ..Args::default() };
        let start = own_event("vm", Timestamp { secs: 1, nanos: 0 }, 1, Kind::Start, args);
        Self { events: vec![start], who: HashMap::new() }
    }

    pub fn event(&mut self, pid: u32, kind: Kind, phase: Phase, args: Args) {
        let (ppid, exe) = self.who.get(&pid).cloned().unwrap_or((0, "[fvm]".into()));
        let seq = self.events.len() as u64 + 1;
        let event = own_event("vm", Timestamp { secs: seq.cast_signed(), nanos: 0 }, seq, kind, args);
        let (start_ns, exe, comm) = (u64::from(pid) * 1000, Bytes(exe.into()), Bytes("x".into()));
        let (src, trust) = (Src::Seccomp, Trust::Usermem);
        self.events.push(Event {
            tgid: pid,
            tid: pid,
            ppid,
            sid: 10,
            start_ns,
            uid: 1000,
            exe,
            comm,
            src,
            trust,
            phase,
            ..event
        });
    }

    fn execute(&mut self, (pid, ppid): (u32, u32), exe: &str, argv: &[&str], done: Args, name: Option<&str>) {
        let before = self.who.get(&ppid).map_or("[fvm]".to_owned(), |(_, exe)| exe.clone());
        self.who.insert(pid, (ppid, before));
        let name = name.map(|name| Bytes(name.into()));
        let argv = argv.iter().map(|arg| Bytes(arg.into())).collect();
        let asked = Args { path: Some(Bytes(exe.into())), argv, name, ..Args::default() };
        self.event(pid, Kind::Exec, Phase::Attempt, asked);
        self.who.insert(pid, (ppid, exe.to_owned()));
        self.event(pid, Kind::Exec, Phase::Done, Args { path: Some(Bytes(exe.into())), ..done });
    }

    pub fn run(&mut self, pid: u32, exe: &str, argv: &[&str]) {
        self.run_under(pid, 0, exe, argv);
    }

    pub fn run_under(&mut self, pid: u32, ppid: u32, exe: &str, argv: &[&str]) {
        self.run_with(pid, ppid, exe, argv, "ttt");
    }

    pub fn run_with(&mut self, pid: u32, ppid: u32, exe: &str, argv: &[&str], streams: &str) {
        let done = Args { links: Some(1), streams: Some(streams.into()), ..Args::default() };
        self.execute((pid, ppid), exe, argv, done, None);
    }

    /// A script of an interpreter.
    pub fn run_script(&mut self, pid: u32, exe: &str, script: &str) {
        let asked = Args { path: Some(Bytes(script.into())), argv: vec![Bytes("x".into())], ..Args::default() };
        self.who.insert(pid, (0, "[fvm]".into()));
        self.event(pid, Kind::Exec, Phase::Attempt, asked);
        self.who.insert(pid, (0, exe.to_owned()));
        let done = Args { path: Some(Bytes(exe.into())), links: Some(1), ..Args::default() };
        self.event(pid, Kind::Exec, Phase::Done, done);
    }

    pub fn run_in_memory(&mut self, pid: u32, ppid: u32, exe: &str) {
        self.execute((pid, ppid), exe, &["x"], Args { links: Some(0), ..Args::default() }, None);
    }

    pub fn run_preloaded(&mut self, pid: u32, ppid: u32, exe: &str, variable: &str) {
        self.execute((pid, ppid), exe, &["x"], Args { links: Some(1), ..Args::default() }, Some(variable));
    }

    fn file(&mut self, pid: u32, kind: Kind, path: &str, args: Args) {
        let args = Args { path: Some(Bytes(path.into())), resolved: true, ..args };
        self.event(pid, kind, Phase::Attempt, args);
    }

    pub fn write(&mut self, pid: u32, path: &str) {
        self.file(pid, Kind::Open, path, Args { flags: Some(0o101), ..Args::default() });
    }

    pub fn read(&mut self, pid: u32, path: &str) {
        self.file(pid, Kind::Read, path, Args { flags: Some(0), ..Args::default() });
    }

    pub fn rename(&mut self, pid: u32, from: &str, to: &str) {
        self.file(pid, Kind::Rename, from, Args { to: Some(Bytes(to.into())), ..Args::default() });
    }

    pub fn symlink(&mut self, pid: u32, path: &str, to: &str) {
        self.file(pid, Kind::Symlink, path, Args { to: Some(Bytes(to.into())), ..Args::default() });
    }

    pub fn unlink(&mut self, pid: u32, path: &str) {
        self.file(pid, Kind::Unlink, path, Args::default());
    }

    pub fn chmod(&mut self, pid: u32, path: &str, mode: u32) {
        self.file(pid, Kind::Chmod, path, Args { mode: Some(mode), ..Args::default() });
    }

    pub fn xattr(&mut self, pid: u32, path: &str, name: &str) {
        self.file(pid, Kind::Setxattr, path, Args { name: Some(Bytes(name.into())), ..Args::default() });
    }

    pub fn connect(&mut self, pid: u32, address: &str, port: u16) {
        let family = Some(if address.contains(':') { "inet6" } else { "inet" }.to_owned());
        let args = Args { family, address: Some(Bytes(address.into())), port: Some(port), ..Args::default() };
        self.event(pid, Kind::Connect, Phase::Attempt, args);
    }

    pub fn listen(&mut self, pid: u32) {
        self.event(pid, Kind::Listen, Phase::Attempt, Args::default());
    }

    /// What is found, sorted.
    pub fn ids(&self) -> Vec<String> {
        self.ids_with(&[])
    }

    /// The same, with changes.
    pub fn ids_with(&self, changes: &[Change]) -> Vec<String> {
        let settings = Settings::default();
        let mut analysis = Analysis::new(&settings);
        self.events.iter().for_each(|event| analysis.see(event));
        changes.iter().for_each(|change| analysis.change(change, &mut |_| None));
        let report = analysis.finish(Some(&whole()), false);
        let mut ids: Vec<String> = report.findings.into_iter().map(|finding| finding.id).collect();
        ids.sort();
        ids
    }
}
