//! What is known of a VM while its events are read: processes, files it made, whose homes there are.
//!
//! ```text
//!   event ─► enter (a program was executed) ─► detectors look ─► leave (a file was made, moved, removed)
//! ```
//!
//! Invariants: pure; grows only with what stands in the log, whose size is bounded; a program counts as the machine's own
//! ([`World::is_own`]) only while nothing in the VM has written its file and no library of the VM's was put into it.

use crate::packages::Packages;
use fvm_model::event::{Event, Kind, Phase, ProcessKey, Program};
use fvm_model::path::Bytes;
use fvm_model::policy::Pattern;
use fvm_model::{Change, ChangeKind, FileType, Timestamp, VmPath};
use fvm_trace::Tree;
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// The VM had made, moved or hidden its file when it was executed.
    pub of_vm: bool,
    /// The same, and it was not only brought in a package.
    pub of_strangers: bool,
    /// What its descriptors 0, 1, 2 were then.
    pub streams: Vec<u8>,
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
    of_vm: bool,
    of_strangers: bool,
    /// Not all of its variables could be read.
    is_unread: bool,
}

/// A file that the VM made, wrote or moved.
#[derive(Debug, Clone)]
pub struct Made {
    /// Who wrote it last.
    pub by: ProcessKey,
    /// By which event.
    pub seq: u64,
    /// Which event made it executable, after it was written, by whom, and that one's name, as [`Self::own`].
    pub executable: Option<(u64, ProcessKey, Option<Vec<u8>>)>,
    /// The name of the program that wrote it, while it was the machine's own: the process may be another by now.
    pub own: Option<Vec<u8>>,
    /// All that wrote it brought in a package.
    pub packaged: bool,
}

impl Made {
    /// Whether the last that wrote it was one of these programs, the machine's own.
    #[must_use]
    pub fn is_one_of(&self, names: &[&str]) -> bool {
        self.own.as_ref().is_some_and(|own| is_named(own, names))
    }

    /// The same of whoever made it executable.
    #[must_use]
    pub fn is_executable_by(&self, names: &[&str]) -> bool {
        self.executable.as_ref().and_then(|(.., own)| own.as_ref()).is_some_and(|own| is_named(own, names))
    }
}

fn is_named(name: &[u8], names: &[&str]) -> bool {
    let matches = |known: &&str| match known.strip_suffix('*') {
        Some(begin) => name.starts_with(begin.as_bytes()),
        None => name == known.as_bytes(),
    };
    names.iter().any(matches)
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct World {
    /// Who made whom.
    pub tree: Tree,
    homes: Vec<Vec<u8>>,
    hidden: Vec<Pattern>,
    procs: HashMap<ProcessKey, Proc>,
    made: BTreeMap<Vec<u8>, Made>,
    /// The last names of those.
    made_names: HashSet<Vec<u8>>,
    packages: Packages,
    /// Files that moved along with a directory.
    moved: usize,
}

/// So many files that move along with directories are followed.
const MOVED_MAX: usize = 4_000_000;

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

    /// With what the policy hides.
    #[must_use]
    pub fn hiding(self, hidden: &[Pattern]) -> Self {
        Self { hidden: hidden.to_vec(), ..self }
    }

    /// Whether the policy hides the file, or a directory above it.
    #[must_use]
    pub fn is_hidden(&self, path: &[u8]) -> bool {
        let covers = |pattern: &Pattern| {
            let below = if pattern.is_in_home() { self.below_home(path) } else { path.strip_prefix(b"/") };
            let mut names = below.unwrap_or_default().split(|b| *b == b'/');
            pattern.names().all(|known| names.next().is_some_and(|name| Pattern::name_matches(known, name)))
        };
        self.hidden.iter().any(covers)
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

    /// A file that the VM made, wrote or moved; it may be gone again, and what was tried may have failed.
    #[must_use]
    pub fn made(&self, path: &[u8]) -> Option<&Made> {
        self.made.get(path)
    }

    /// Such files whose paths begin so.
    pub fn made_below<'w>(&'w self, begin: &'w [u8]) -> impl Iterator<Item = &'w [u8]> {
        self.made
            .range(begin.to_vec()..)
            .map(|(path, _)| path.as_slice())
            .take_while(move |path| path.starts_with(begin))
    }

    /// Whether more was moved about than can be followed: nobody is the machine's own then.
    #[must_use]
    pub fn has_lost_track(&self) -> bool {
        self.moved > MOVED_MAX
    }

    /// Whether the process brings in what a package holds ([`crate::packages`]).
    #[must_use]
    pub fn is_packager(&self, key: ProcessKey) -> bool {
        self.packages.is_bringing(key, self)
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
        let is_own = !process.tampered
            && !process.of_vm
            && !self.has_lost_track()
            && self.is_of_machine(&process.exe)
            && self.is_of_machine(&process.file);
        is_own.then(|| name_of(&process.file))
    }

    /// Whether the process is one of these programs, the machine's own.
    #[must_use]
    pub fn is_one_of(&self, key: ProcessKey, names: &[&str]) -> bool {
        self.is_own(key).is_some_and(|name| is_named(name, names))
    }

    /// The same, or as a package brought it: a package manager that replaced itself is still one.
    #[must_use]
    pub fn is_one_of_packages(&self, key: ProcessKey, names: &[&str]) -> bool {
        let Some(process) = self.procs.get(&key) else { return false };
        let may_be = |file: &[u8]| self.is_of_machine(file) || self.made(file).is_some_and(|made| made.packaged);
        let is = !process.tampered && !process.of_strangers && !self.has_lost_track();
        is && may_be(&process.exe) && may_be(&process.file) && is_named(name_of(&process.file), names)
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
        let tampered = self.loads_of_vm(event, key);
        let at =
            [&event.args.path, &Some(event.exe.clone())].map(|path| path.as_ref().map(|p| p.0.as_bytes().to_vec()));
        let is_asked = event.phase == Phase::Attempt;
        // What it was before says nothing of what it is to be.
        let is_hidden = event.args.foreign || event.args.links == Some(0);
        let files = || at.iter().take(if is_asked { 1 } else { 2 }).flatten().filter_map(|path| self.made.get(path));
        let of_vm = event.kind == Kind::Exec && (is_hidden || files().next().is_some());
        let of_strangers = event.kind == Kind::Exec && (is_hidden || files().any(|made| !made.packaged));
        let Some(process) = self.procs.get_mut(&key) else { return };
        match (event.kind, event.phase) {
            (Kind::Exec, Phase::Attempt) => {
                let argv = event.args.argv.iter().map(|arg| arg.0.as_bytes().to_vec()).collect();
                let file = event.args.path.as_ref().map(|path| path.0.as_bytes().to_vec()).unwrap_or_default();
                let library = event.args.name.as_ref().map(|name| name.0.as_bytes().to_vec());
                // More arguments than the log keeps are usual, more variables are not.
                let argv_bytes: usize = event.args.argv.iter().map(|arg| arg.0.len()).sum();
                let is_unread = event.args.cut && event.args.argv.len() < 256 && argv_bytes < 16 << 10;
                process.asked = Some(Asked { file, argv, library, of_vm, of_strangers, is_unread });
            }
            // Looked at in the midst of its execution, it was noted already.
            (Kind::Exec, Phase::Done) if process.asked.is_none() && process.exe == event.exe.0.as_bytes() => {}
            (Kind::Exec, Phase::Done) => {
                let exe = event.exe.0.as_bytes().to_vec();
                let asked = process.asked.take().unwrap_or_default();
                (process.of_vm, process.of_strangers) = (of_vm || asked.of_vm, of_strangers || asked.of_strangers);
                let Asked { file, argv, .. } = asked;
                process.file = if file.is_empty() { exe.clone() } else { file };
                (process.exe, process.argv, process.executed) = (exe, argv, event.seq);
                process.tampered = tampered;
                process.streams = event.args.streams.as_deref().unwrap_or_default().as_bytes().to_vec();
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
        if asked.is_some_and(|asked| asked.is_unread) {
            return true;
        }
        let Some(variables) = asked.and_then(|asked| asked.library.as_deref()) else { return false };
        self.library_of_vm(variables).is_some() || self.searches_in_vm(variables)
    }

    /// The first library that `LD_PRELOAD=... LD_AUDIT=...` names which the VM made, by its path or, where links or a working
    /// directory may hide that, by its name.
    #[must_use]
    pub fn library_of_vm<'v>(&self, variables: &'v [u8]) -> Option<&'v [u8]> {
        let named = values(variables, &[b"LD_PRELOAD=", b"LD_AUDIT="]);
        named.into_iter().find(|library| self.made.contains_key(*library) || self.made_names.contains(name_of(library)))
    }

    /// Whether `LD_LIBRARY_PATH` names a directory in which the VM made something, or one that depends on where one is.
    fn searches_in_vm(&self, variables: &[u8]) -> bool {
        let dirs = values(variables, &[b"LD_LIBRARY_PATH="]);
        let is_of_vm = |dir: &[u8]| {
            let below = [dir.strip_suffix(b"/").unwrap_or(dir), b"/"].concat();
            !dir.starts_with(b"/") || self.made_below(&below).next().is_some() || self.made.contains_key(dir)
        };
        dirs.into_iter().any(is_of_vm)
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
                self.moves(&from, &to, event);
            }
            // It may have failed, and whatever is made there next is the VM's too.
            Kind::Unlink => {}
            Kind::Chmod => {
                let is_executable = event.args.mode.is_some_and(|mode| mode & 0o111 != 0);
                let own = self.is_own(key).map(<[u8]>::to_vec);
                if let (true, Some(path)) = (is_executable, path_of(event, event.args.path.as_ref()))
                    && let Some(made) = self.made.get_mut(path)
                {
                    made.executable = Some((seq, key, own));
                }
            }
            _ => {
                if let Some(path) = written(event) {
                    let before = self.made.get(path).cloned();
                    let made = self.made_now(event);
                    // A second write keeps that it was made executable before.
                    let executable = before.as_ref().and_then(|made| made.executable.clone());
                    let packaged = made.packaged && before.is_none_or(|before| before.packaged);
                    self.make(path.to_vec(), Made { executable, packaged, ..made });
                }
            }
        }
        let packages = std::mem::take(&mut self.packages);
        self.packages = {
            let mut packages = packages;
            packages.see(event, self);
            packages
        };
    }

    /// A change of which no event tells: its maker is nobody.
    pub fn hold(&mut self, change: &Change) {
        let is_there = !matches!(change.kind, ChangeKind::Deleted | ChangeKind::Metadata { .. });
        if is_there && change.file_type != FileType::Directory {
            let by = ProcessKey { tgid: 0, start_ns: 0 };
            let made = Made { by, seq: 0, executable: None, own: None, packaged: false };
            self.make(change.path.as_bytes().to_vec(), made);
        }
    }

    fn made_now(&self, event: &Event) -> Made {
        let (by, seq) = (event.process(), event.seq);
        Made { by, seq, executable: None, own: self.is_own(by).map(<[u8]>::to_vec), packaged: self.is_packager(by) }
    }

    fn make(&mut self, path: Vec<u8>, made: Made) {
        self.made_names.insert(name_of(&path).to_vec());
        self.made.insert(path, made);
    }

    /// The rename may fail: what was where it came from may be there still.
    fn moves(&mut self, from: &[u8], to: &[u8], event: &Event) {
        let made = self.made.get(from).cloned().unwrap_or_else(|| self.made_now(event));
        self.make(to.to_vec(), made);
        if self.has_lost_track() || to.starts_with(&[from, b"/"].concat()) {
            return;
        }
        let below = [from, b"/"].concat();
        let along: Vec<Vec<u8>> = self.made_below(&below).take(MOVED_MAX).map(<[u8]>::to_vec).collect();
        self.moved += along.len();
        for path in along {
            let moved = [to, b"/", &path[below.len()..]].concat();
            if let Some(made) = self.made.get(&path).cloned() {
                self.make(moved, made);
            }
        }
    }
}

/// What the variables of these names hold, of `NAME=a:b OTHER=c`.
fn values<'v>(variables: &'v [u8], names: &[&[u8]]) -> Vec<&'v [u8]> {
    let mut is_one = false;
    let mut found = Vec::new();
    for word in variables.split(|b| *b == b' ') {
        let is_name = |name: &[u8]| word.strip_prefix(name);
        let all: [&[u8]; 3] = [b"LD_PRELOAD=", b"LD_AUDIT=", b"LD_LIBRARY_PATH="];
        let value = match all.iter().find_map(|name| is_name(name)) {
            Some(value) => {
                is_one = names.iter().any(|name| word.starts_with(name));
                value
            }
            None => word,
        };
        if is_one {
            found.extend(value.split(|b| *b == b':').filter(|part| !part.is_empty()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::Story;

    /// A program that calls itself dpkg writes a unit.
    fn unit_by(before: impl Fn(&mut Story), exe: &str) -> Vec<String> {
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        before(&mut story);
        story.run_under(11, 10, exe, &["dpkg", "--configure", "x"]);
        story.write(11, "/etc/systemd/system/x.service");
        story.ids()
    }

    #[test]
    fn a_program_of_the_vms_is_never_the_machines_whatever_it_is_called() {
        let unit = ["systemd-unit"];
        assert_eq!(unit_by(|_| (), "/usr/bin/dpkg"), [""; 0]);
        assert_eq!(unit_by(|story| story.write(10, "/opt/dpkg"), "/opt/dpkg"), unit);
        let in_moved = |story: &mut Story| {
            story.write(10, "/opt/a/bin/dpkg");
            story.rename(10, "/opt/a", "/opt/b");
        };
        assert_eq!(unit_by(in_moved, "/opt/b/bin/dpkg"), unit);
        let removed = |story: &mut Story| {
            story.write(10, "/opt/dpkg");
            story.unlink(10, "/opt/dpkg");
        };
        assert_eq!(unit_by(removed, "/opt/dpkg"), unit);
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.write(10, "/opt/dpkg");
        story.run_under(11, 10, "/opt/dpkg", &["dpkg", "--configure", "x"]);
        story.rename(10, "/opt/dpkg", "/opt/other");
        story.write(11, "/etc/systemd/system/x.service");
        assert_eq!(story.ids(), unit, "moved away while it runs");
    }

    #[test]
    fn a_program_of_other_mounts_or_of_no_file_is_a_stranger() {
        use fvm_model::event::Args;
        for hide in [|args: &mut Args| args.foreign = true, |args: &mut Args| args.links = Some(0)] {
            let mut story = Story::new();
            story.run(10, "/usr/bin/python3", &["python3"]);
            story.run_under(11, 10, "/usr/bin/dpkg", &["dpkg", "--configure", "x"]);
            hide(&mut story.events.last_mut().unwrap().args);
            story.write(11, "/etc/systemd/system/x.service");
            assert!(story.ids().contains(&"systemd-unit".to_owned()), "{:?}", story.ids());
        }
    }

    #[test]
    fn who_wrote_a_file_is_what_it_was_then() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.write(10, "/w/x");
        story.chmod(10, "/w/x", 0o755);
        // Its writer becomes a compiler's linker afterwards.
        story.run(10, "/usr/bin/ld", &["ld"]);
        story.run_under(13, 10, "/w/x", &["/w/x"]);
        assert_eq!(story.ids(), ["dropper"]);
    }

    #[test]
    fn a_library_is_the_vms_by_whatever_name_it_is_loaded() {
        for (variable, is_found) in [
            ("LD_PRELOAD=/usr/lib/libeatmydata.so LD_AUDIT=/opt/x.so", true),
            ("LD_PRELOAD=./x.so", true),
            ("LD_PRELOAD=/opt/link/x.so", true),
            ("LD_PRELOAD=/usr/lib/y.so /opt/x.so", true),
            ("LD_PRELOAD=/usr/lib/libeatmydata.so", false),
            ("LD_LIBRARY_PATH=/opt", false),
        ] {
            let mut story = Story::new();
            story.run(10, "/usr/bin/python3", &["python3"]);
            story.write(10, "/opt/x.so");
            story.run_preloaded(11, 10, "/usr/bin/dpkg", variable);
            assert_eq!(story.ids().contains(&"preload".to_owned()), is_found, "{variable}");
            story.write(11, "/etc/systemd/system/x.service");
            let trusted = !is_found && !variable.starts_with("LD_LIBRARY");
            assert_eq!(story.ids().contains(&"systemd-unit".to_owned()), !trusted, "{variable}");
        }
    }
}
