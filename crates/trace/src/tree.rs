//! Who made whom: the processes of a VM, put together from its events.
//!
//! ```text
//!   event ─► process (tgid, start_ns) ─ parent ─► ... ─► the one that was started in the VM
//!              └ programs: which, from which event on, with which command line
//! ```
//!
//! A process whose maker is not known belongs to its session's leader: that is one of those that it came from, if not the nearest.
//!
//! Invariants: nothing is guessed: a process whose session is not known either stands alone; events in any order of
//! processes, and after a loss, make a tree without circles.

use fvm_model::Timestamp;
use fvm_model::event::{Event, Kind, Phase, ProcessKey, Program};
use fvm_model::path::Bytes;
use std::collections::{BTreeMap, HashMap};

/// Longest chain of makers.
const DEPTH_MAX: usize = 256;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this code.
    Code(i32),
    /// Killed, or nobody knows how.
    Otherwise,
}

/// A process.
#[derive(Debug, Clone)]
pub struct Node {
    /// Which.
    pub key: ProcessKey,
    /// Whoever made it, or the leader of its session; `None`: nobody in the VM, or unknown.
    pub parent: Option<ProcessKey>,
    /// It is the session's leader, for the maker is not known.
    pub by_session: bool,
    /// What it was, one after another: from the event of that number on.
    pub programs: Vec<(u64, Bytes, Vec<Bytes>)>,
    /// When it was seen first.
    pub first: Timestamp,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
    /// What it is about to execute.
    asked: Option<(u64, Vec<Bytes>)>,
}

impl Node {
    /// What it was at event `seq`.
    #[must_use]
    pub fn program_at(&self, seq: u64) -> Program {
        let at = self.programs.iter().rev().find(|(from, ..)| *from <= seq).or(self.programs.first());
        let (exe, argv) =
            at.map_or_else(|| (Bytes("".into()), Vec::new()), |(_, exe, argv)| (exe.clone(), argv.clone()));
        Program { tgid: self.key.tgid, start_ns: self.key.start_ns, exe, argv }
    }
}

/// The processes of a VM.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<ProcessKey, Node>,
    /// The last process of each number.
    last: HashMap<u32, ProcessKey>,
}

impl Tree {
    /// Takes an event in.
    pub fn add(&mut self, event: &Event) {
        if event.tgid == 0 {
            if event.kind == Kind::Start {
                // Numbers of an earlier run are given away again; the machine may have begun anew.
                self.last.clear();
            }
            return;
        }
        let key = event.process();
        if !self.nodes.contains_key(&key) {
            self.begin(key, event);
        }
        let Some(node) = self.nodes.get_mut(&key) else { return };
        match (event.kind, event.phase) {
            (Kind::Exec, Phase::Attempt) => node.asked = Some((event.seq, event.args.argv.clone())),
            // Looked at in the midst of its execution, it was noted already.
            (Kind::Exec, Phase::Done)
                if node.asked.is_none() && node.programs.last().is_some_and(|(_, exe, _)| *exe == event.exe) => {}
            (Kind::Exec, Phase::Done) => {
                // It is noted later than it was: what happened since it was asked for is the new program's.
                let (from, argv) = node.asked.take().unwrap_or((event.seq, Vec::new()));
                node.programs.push((from, event.exe.clone(), argv));
            }
            (Kind::Exit, _) => {
                node.ended = Some(event.args.code.map_or(Ended::Otherwise, Ended::Code));
            }
            _ => {}
        }
    }

    fn begin(&mut self, key: ProcessKey, event: &Event) {
        let earlier = |number: u32| {
            let found = self.last.get(&number).copied();
            found.filter(|found| *found != key && found.start_ns <= key.start_ns)
        };
        let maker = (event.ppid != 0).then(|| earlier(event.ppid)).flatten();
        let leader = (event.sid != 0 && event.sid != key.tgid).then(|| earlier(event.sid)).flatten();
        let parent = maker.or(leader);
        // Not executed yet, it is what its maker is.
        let of_maker = maker.and_then(|maker| self.nodes.get(&maker)).map(|maker| maker.program_at(event.seq));
        let inherited = of_maker.filter(|program| program.exe == event.exe).map(|program| program.argv);
        let programs = vec![(0, event.exe.clone(), inherited.unwrap_or_default())];
        let by_session = maker.is_none() && parent.is_some();
        let node = Node { key, parent, by_session, programs, first: event.ts, ended: None, asked: None };
        self.nodes.insert(key, node);
        self.last.insert(key.tgid, key);
    }

    /// A process.
    #[must_use]
    pub fn get(&self, key: ProcessKey) -> Option<&Node> {
        self.nodes.get(&key)
    }

    /// Since which event a process is what it is now, or what it is about to be: events from there on are of one program.
    #[must_use]
    pub fn era(&self, key: ProcessKey) -> u64 {
        let Some(node) = self.nodes.get(&key) else { return 0 };
        let asked = node.asked.as_ref().map(|(seq, _)| *seq);
        asked.or(node.programs.last().map(|(from, ..)| *from)).unwrap_or(0)
    }

    /// All of them, oldest number first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Those that a process came from, nearest first, as they were at event `seq`.
    #[must_use]
    pub fn ancestors(&self, key: ProcessKey, seq: u64) -> Vec<Program> {
        let mut at = self.nodes.get(&key).and_then(|node| node.parent);
        let mut found = Vec::new();
        while let Some(node) = at.and_then(|key| self.nodes.get(&key))
            && found.len() < DEPTH_MAX
        {
            found.push(node.program_at(seq));
            at = node.parent;
        }
        found
    }

    /// The processes that one came from, nearest first.
    pub fn line(&self, key: ProcessKey) -> impl Iterator<Item = ProcessKey> {
        let mut at = self.nodes.get(&key).and_then(|node| node.parent);
        let mut left = DEPTH_MAX;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let key = at?;
            at = self.nodes.get(&key).and_then(|node| node.parent);
            Some(key)
        })
    }

    /// The processes in the order of a tree, each with its depth.
    #[must_use]
    pub fn walk(&self) -> Vec<(usize, &Node)> {
        let mut children: HashMap<Option<ProcessKey>, Vec<&Node>> = HashMap::new();
        for node in self.nodes.values() {
            let parent = node.parent.filter(|parent| self.nodes.contains_key(parent));
            children.entry(parent).or_default().push(node);
        }
        for list in children.values_mut() {
            list.sort_by_key(|node| (node.key.start_ns, node.key.tgid));
        }
        let mut out = Vec::with_capacity(self.nodes.len());
        let mut open: Vec<(usize, &Node)> = Vec::new();
        open.extend(children.get(&None).into_iter().flatten().rev().map(|node| (0, *node)));
        while let Some((depth, node)) = open.pop() {
            out.push((depth, node));
            let below = children.get(&Some(node.key)).into_iter().flatten().rev();
            open.extend(below.map(|child| (depth + 1, *child)));
        }
        out
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::own_event;
    use fvm_model::event::{Args, Src, Trust};

    /// An event of process `tgid`, made by `ppid`, in session `sid`, that runs `exe`.
    pub fn of(seq: u64, (tgid, ppid, sid): (u32, u32, u32), exe: &str, kind: Kind, args: Args) -> Event {
        let event = own_event("vm", Timestamp { secs: seq.cast_signed(), nanos: 0 }, seq, kind, args);
        let start_ns = u64::from(tgid) * 1000;
        let (src, trust, phase) = (Src::Seccomp, Trust::Usermem, Phase::Attempt);
        Event { tgid, tid: tgid, ppid, sid, start_ns, exe: Bytes(exe.into()), src, trust, phase, ..event }
    }

    /// An execution, asked for and done.
    pub fn exec(seq: u64, who: (u32, u32, u32), from: &str, argv: &[&str]) -> [Event; 2] {
        let args = Args { argv: argv.iter().map(|a| Bytes(a.into())).collect(), ..Args::default() };
        let done = Event { phase: Phase::Done, ..of(seq + 1, who, argv[0], Kind::Exec, Args::default()) };
        [of(seq, who, from, Kind::Exec, args), done]
    }

    #[test]
    fn a_daemon_that_forked_twice_belongs_to_who_started_it() {
        let mut tree = Tree::default();
        let mut events = exec(1, (10, 0, 10), "[fvm]", &["/bin/sh", "-c", "x"]).to_vec();
        events.extend(exec(3, (11, 10, 10), "/bin/sh", &["/usr/bin/installer"]));
        // 12 forks 13, and says nothing but its end; 13 begins a session.
        events.push(of(5, (12, 11, 10), "/usr/bin/installer", Kind::Exit, Args::default()));
        events.push(of(6, (13, 12, 13), "/usr/bin/installer", Kind::Setsid, Args::default()));
        // 14: its maker was killed; its session is 13's.
        events.extend(exec(7, (14, 0, 13), "/usr/bin/installer", &["/usr/bin/miner"]));
        events.iter().for_each(|e| tree.add(e));
        let key = ProcessKey { tgid: 14, start_ns: 14_000 };
        let names: Vec<String> =
            tree.ancestors(key, 9).iter().map(|p| String::from_utf8(p.command()).unwrap()).collect();
        assert_eq!(names, ["/usr/bin/installer"; 3].into_iter().chain(["/bin/sh -c x"]).collect::<Vec<_>>());
        assert!(tree.get(key).unwrap().by_session);
        let depths: Vec<(usize, u32)> = tree.walk().into_iter().map(|(d, n)| (d, n.key.tgid)).collect();
        assert_eq!(depths, [(0, 10), (1, 11), (2, 12), (3, 13), (4, 14)]);
    }

    #[test]
    fn what_is_noted_late_of_a_maker_is_so_from_when_it_was_asked_for() {
        let mut tree = Tree::default();
        let [asked, done] = exec(1, (10, 0, 10), "[fvm]", &["/bin/sh", "x"]);
        let child = of(3, (11, 10, 10), "/bin/sh", Kind::Setsid, Args::default());
        [&asked, &child, &Event { seq: 4, ..done }].into_iter().for_each(|e| tree.add(e));
        assert_eq!(tree.ancestors(child.process(), 3)[0].command(), b"/bin/sh x");
    }

    #[test]
    fn an_execution_that_is_noted_twice_is_one() {
        let mut tree = Tree::default();
        let [asked, done] = exec(1, (10, 0, 10), "[fvm]", &["/bin/sh", "x"]);
        [&asked, &done, &Event { seq: 3, ..done.clone() }].into_iter().for_each(|e| tree.add(e));
        let node = tree.get(done.process()).unwrap();
        assert_eq!((node.programs.len(), node.program_at(9).command()), (2, b"/bin/sh x".to_vec()));
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let mut tree = Tree::default();
        for event in exec(1, (10, 0, 10), "[fvm]", &["/bin/a"]) {
            tree.add(&event);
        }
        let young = Event { start_ns: 5, ..of(3, (11, 10, 10), "/bin/a", Kind::Setsid, Args::default()) };
        tree.add(&young);
        // It began before the process that has its maker's number now.
        assert_eq!(tree.get(young.process()).unwrap().parent, None);
        let again = Event { start_ns: 99_999, ..of(4, (10, 0, 10), "/bin/b", Kind::Setsid, Args::default()) };
        tree.add(&again);
        assert_eq!(tree.get(again.process()).unwrap().program_at(4).exe, Bytes("/bin/b".into()));
        assert_eq!(tree.nodes().count(), 3);
        tree.add(&of(5, (0, 0, 0), "", Kind::Start, Args::default()));
        let later = Event { start_ns: 200_000, ..of(6, (12, 10, 12), "/bin/c", Kind::Setsid, Args::default()) };
        tree.add(&later);
        assert_eq!(tree.get(later.process()).unwrap().parent, None, "process 10 was of another run");
    }
}
