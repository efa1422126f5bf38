//! What is known of a VM while its events are read: processes, files it made, whose homes there are.
//!
//! ```text
//!   event ─► enter (a program was executed) ─► detectors look ─► leave (a file was made, moved, removed)
//! ```
//!
//! Invariants: pure; grows only with what stands in the log, whose size is bounded; a program counts as the machine's own
//! ([`World::is_own`]) only while nothing in the VM has written its file and no library of the VM's was put into it.

use fvm_model::event::{Event, Kind, Phase, ProcessKey, Program};
use fvm_model::path::Bytes;
use fvm_model::{Timestamp, VmPath};
use fvm_trace::Tree;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

/// A process, beside what [`Tree`] knows.
#[derive(Debug, Default, Clone)]
pub struct Proc {
    /// The file that was executed: of a script, the script.
    pub file: Vec<u8>,
    /// The file of its program: of a script, the interpreter.
    pub exe: Vec<u8>,
    /// Its command line.
    pub argv: Vec<Vec<u8>>,
    /// The event of its execution.
    pub executed: u64,
    /// A library that was loaded first, of the VM's making.
    pub tampered: bool,
    /// When it talked to the network first, beyond this machine.
    pub connected: Option<u64>,
    /// When it began to wait for callers.
    pub listened: Option<u64>,
    /// Its maker.
    pub parent: Option<ProcessKey>,
    /// What it asked to execute.
    asked: Option<Asked>,
}

/// An execution that is under way.
#[derive(Debug, Default, Clone)]
struct Asked {
    file: Vec<u8>,
    argv: Vec<Vec<u8>>,
    /// `LD_PRELOAD=...`
    library: Option<Vec<u8>>,
}

/// A file that the VM made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Who wrote it last.
    pub by: ProcessKey,
    /// By which event.
    pub seq: u64,
    /// Which event made it executable, after it was written.
    pub executable: Option<(u64, ProcessKey)>,
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct World {
    /// Who made whom.
    pub tree: Tree,
    homes: Vec<Vec<u8>>,
    procs: HashMap<ProcessKey, Proc>,
    made: HashMap<Vec<u8>, Made>,
}

/// Whether an open with these flags may change or make a file.
#[must_use]
pub fn writes(flags: u64) -> bool {
    // O_WRONLY | O_RDWR | O_CREAT | O_TRUNC: the same numbers on every Linux that we build for.
    flags & 0o1103 != 0
}

/// The bytes of a path of this VM, where it surely is one.
#[must_use]
pub fn path_of<'e>(event: &'e Event, bytes: Option<&'e Bytes>) -> Option<&'e [u8]> {
    let bytes = bytes.map(|bytes| bytes.0.as_bytes())?;
    (!event.args.foreign && !event.args.cut && bytes.starts_with(b"/")).then_some(bytes)
}

/// What an event writes: made, written or moved onto.
#[must_use]
pub fn written(event: &Event) -> Option<&[u8]> {
    let (path, to) = (path_of(event, event.args.path.as_ref()), path_of(event, event.args.to.as_ref()));
    match event.kind {
        Kind::Open => path.filter(|_| event.args.flags.is_none_or(writes)),
        Kind::Truncate | Kind::Mknod => path,
        Kind::Symlink => path,
        Kind::Rename | Kind::Link => to,
        _ => None,
    }
}

/// The last name of a path.
#[must_use]
pub fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// The path without its last name.
#[must_use]
pub fn dir_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |slash| &path[..slash])
}

/// Where anybody puts files: what lies there is nobody's program.
const COMMON_PLACES: [&[u8]; 4] = [b"/tmp/", b"/dev/", b"/run/", b"/proc/"];

impl World {
    /// Nothing yet. `homes`: of the VM's users, beside root's and all in `/home`.
    #[must_use]
    pub fn new(homes: &[VmPath]) -> Self {
        let homes = homes.iter().map(|home| home.as_bytes().to_vec()).filter(|home| home != b"/").collect();
        Self { homes, ..Self::default() }
    }

    /// The part of a path below somebody's home.
    #[must_use]
    pub fn below_home<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let below = |home: &[u8]| path.strip_prefix(home).and_then(|rest| rest.strip_prefix(b"/"));
        let others = || {
            let rest = path.strip_prefix(b"/home/")?;
            let slash = rest.iter().position(|b| *b == b'/')?;
            Some(&rest[slash + 1..])
        };
        below(b"/root").or_else(|| self.homes.iter().find_map(|home| below(home))).or_else(others)
    }

    /// A process.
    #[must_use]
    pub fn process(&self, key: ProcessKey) -> Option<&Proc> {
        self.procs.get(&key)
    }

    /// The process and those that it came from, nearest first.
    pub fn line(&self, key: ProcessKey) -> impl Iterator<Item = (ProcessKey, &Proc)> {
        let mut at = Some(key);
        let mut left = 64;
        std::iter::from_fn(move || {
            left -= 1;
            let key = at.filter(|_| left > 0)?;
            let process = self.procs.get(&key)?;
            at = process.parent;
            Some((key, process))
        })
    }

    /// A file that the VM made.
    #[must_use]
    pub fn made(&self, path: &[u8]) -> Option<&Made> {
        self.made.get(path)
    }

    /// Whether the file is one of the machine's programs, and nothing here has written it.
    #[must_use]
    pub fn is_of_machine(&self, file: &[u8]) -> bool {
        file.starts_with(b"/")
            && !COMMON_PLACES.iter().any(|place| file.starts_with(place))
            && !self.made.contains_key(file)
    }

    /// By which name the process is known, if it is a program of the machine's own: of a script, the script's.
    #[must_use]
    pub fn is_own(&self, key: ProcessKey) -> Option<&[u8]> {
        let process = self.procs.get(&key)?;
        let is_own = !process.tampered && self.is_of_machine(&process.exe) && self.is_of_machine(&process.file);
        is_own.then(|| name_of(&process.file))
    }

    /// Whether the process is one of these programs, the machine's own.
    #[must_use]
    pub fn is_one_of(&self, key: ProcessKey, names: &[&str]) -> bool {
        let Some(name) = self.is_own(key) else { return false };
        let matches = |known: &&str| match known.strip_suffix('*') {
            Some(begin) => name.starts_with(begin.as_bytes()),
            None => name == known.as_bytes(),
        };
        names.iter().any(matches)
    }

    /// The same of the process or one that it came from.
    #[must_use]
    pub fn comes_from(&self, key: ProcessKey, names: &[&str]) -> bool {
        self.line(key).any(|(key, _)| self.is_one_of(key, names))
    }

    /// What a finding says of the program.
    #[must_use]
    pub fn program(&self, key: ProcessKey, seq: u64) -> Option<(Program, Vec<Program>)> {
        let program = self.tree.get(key)?.program_at(seq);
        let mut ancestors = self.tree.ancestors(key, seq);
        ancestors.truncate(16);
        Some((program, ancestors))
    }

    /// When a process was seen first.
    #[must_use]
    pub fn began(&self, key: ProcessKey) -> Option<Timestamp> {
        self.tree.get(key).map(|node| node.first)
    }

    /// Before the detectors look.
    pub fn enter(&mut self, event: &Event) {
        self.tree.add(event);
        if event.tgid == 0 {
            return;
        }
        let key = event.process();
        let parent = self.tree.get(key).and_then(|node| node.parent);
        if !self.procs.contains_key(&key) {
            // Until it executes something it is what its maker is.
            let maker = parent.and_then(|parent| self.procs.get(&parent));
            let mut of_maker = maker.cloned().unwrap_or_default();
            if of_maker.exe != event.exe.0.as_bytes() {
                of_maker = Proc {
                    exe: event.exe.0.as_bytes().to_vec(),
                    file: event.exe.0.as_bytes().to_vec(),
                    ..Proc::default()
                };
            }
            let own = Proc { asked: None, listened: None, connected: None, parent, ..of_maker };
            self.procs.insert(key, own);
        }
        let of_vm = self.loads_of_vm(event, key);
        let Some(process) = self.procs.get_mut(&key) else { return };
        match (event.kind, event.phase) {
            (Kind::Exec, Phase::Attempt) => {
                let argv = event.args.argv.iter().map(|arg| arg.0.as_bytes().to_vec()).collect();
                let file = event.args.path.as_ref().map(|path| path.0.as_bytes().to_vec()).unwrap_or_default();
                let library = event.args.name.as_ref().map(|name| name.0.as_bytes().to_vec());
                process.asked = Some(Asked { file, argv, library });
            }
            (Kind::Exec, Phase::Done) => {
                let exe = event.exe.0.as_bytes().to_vec();
                let Asked { file, argv, .. } = process.asked.take().unwrap_or_default();
                process.file = if file.is_empty() { exe.clone() } else { file };
                (process.exe, process.argv, process.executed, process.tampered) = (exe, argv, event.seq, of_vm);
            }
            (Kind::Listen, _) => process.listened = process.listened.or(Some(event.seq)),
            (Kind::Connect | Kind::Send, _) if crate::detect::network::is_outside(event) => {
                process.connected = process.connected.or(Some(event.seq));
            }
            _ => {}
        }
    }

    fn loads_of_vm(&self, event: &Event, key: ProcessKey) -> bool {
        if (event.kind, event.phase) != (Kind::Exec, Phase::Done) {
            return false;
        }
        let asked = self.procs.get(&key).and_then(|process| process.asked.as_ref());
        asked.and_then(|asked| asked.library.as_deref()).is_some_and(|library| self.library_of_vm(library).is_some())
    }

    /// The first library that `LD_PRELOAD=...` names which the VM made.
    #[must_use]
    pub fn library_of_vm<'v>(&self, variable: &'v [u8]) -> Option<&'v [u8]> {
        let value = variable.splitn(2, |b| *b == b'=').nth(1)?;
        value.split(|b| matches!(b, b':' | b' ')).find(|library| self.made.contains_key(*library))
    }

    /// After the detectors looked.
    pub fn leave(&mut self, event: &Event) {
        let (key, seq) = (event.process(), event.seq);
        match event.kind {
            Kind::Rename => {
                let (Some(from), Some(to)) = (
                    path_of(event, event.args.path.as_ref()).map(<[u8]>::to_vec),
                    path_of(event, event.args.to.as_ref()).map(<[u8]>::to_vec),
                ) else {
                    return;
                };
                let made = self.made.remove(&from).unwrap_or(Made { by: key, seq, executable: None });
                self.made.insert(to, made);
            }
            Kind::Unlink => {
                if let Some(path) = path_of(event, event.args.path.as_ref()) {
                    self.made.remove(path);
                }
            }
            Kind::Chmod => {
                let is_executable = event.args.mode.is_some_and(|mode| mode & 0o111 != 0);
                if let (true, Some(path)) = (is_executable, path_of(event, event.args.path.as_ref()))
                    && let Some(made) = self.made.get_mut(path)
                {
                    made.executable = Some((seq, key));
                }
            }
            _ => {
                if let Some(path) = written(event) {
                    let made = Made { by: key, seq, executable: None };
                    // A second write keeps that it was made executable before.
                    let before = self.made.get(path).and_then(|made| made.executable);
                    self.made.insert(path.to_vec(), Made { executable: before, ..made });
                }
            }
        }
    }
}
