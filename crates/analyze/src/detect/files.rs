//! What is done to files: many given one ending, logs wiped, own files removed, modes and marks.
//!
//! ```text
//!   rename /w/a.txt → /w/a.txt.locked  ┐ ten times, one new ending, the old name is gone in the end
//!   make /w/a.txt.locked, rm /w/a.txt  ┘ ─► ransom-rename
//! ```
//!
//! Invariant: a file that the VM itself made is nobody's loss: renaming, emptying or removing it is not found here. Whether it made
//! one that it also wrote to the changes say, which know what the host has: writing to a file first hides nothing.

use super::{Detector, scripts};
use crate::found::{Found, Sighting, text};
use crate::rules::{self, Rule};
use crate::world::{World, dir_of, name_of, path_of, written};
use fvm_model::event::{Event, Kind, ProcessKey};
use fvm_model::{Change, ChangeKind, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;

/// So many files with one new ending are no accident.
pub const MANY: usize = 10;
/// Files of one ending that are remembered.
const FILES_MAX: usize = 100_000;
/// Endings that are remembered.
const ENDINGS_MAX: usize = 10_000;

/// Endings that archivers and editors give.
const USUAL_ENDINGS: &[&str] = &[
    "gz",
    "xz",
    "bz2",
    "zst",
    "lz4",
    "lzma",
    "br",
    "zip",
    "Z",
    "bak",
    "old",
    "orig",
    "save",
    "tmp",
    "dpkg-new",
    "dpkg-old",
    "dpkg-dist",
    "dpkg-tmp",
    "pyc",
    "o",
    "d",
    "min",
    "map",
    "part",
    "swp",
    "rej",
    "asc",
    "sig",
];

/// What one session gave one ending to.
#[derive(Debug)]
struct Ending {
    key: ProcessKey,
    at: Timestamp,
    /// The old name: by which event it got the new one, and whether it is gone.
    files: HashMap<Vec<u8>, (u64, bool)>,
}

/// Old names that the VM wrote to before: whether the host had them.
type Touched = HashMap<Vec<u8>, bool>;

/// Looks at files.
#[derive(Debug, Default)]
pub struct Files {
    /// By session and ending.
    endings: BTreeMap<(u32, Vec<u8>), Ending>,
    touched: Touched,
    /// Emptied or made, removed or never there: only the changes tell.
    maybe: BTreeMap<Vec<u8>, (&'static Rule, &'static str, ProcessKey, u64, Timestamp)>,
}

/// The new ending, when `to` is `from` with one more, in the same directory.
fn new_ending<'t>(from: &[u8], to: &'t [u8]) -> Option<&'t [u8]> {
    let ending = to.strip_prefix(from)?.strip_prefix(b".")?;
    let is_number = ending.iter().all(u8::is_ascii_digit);
    let is_usual = USUAL_ENDINGS.iter().any(|usual| usual.as_bytes() == ending);
    (!ending.is_empty() && !ending.contains(&b'/') && !is_number && !is_usual).then_some(ending)
}

impl Files {
    fn ending(&mut self, event: &Event, ending: &[u8]) -> Option<&mut Ending> {
        let of = (event.sid, ending.to_vec());
        if self.endings.len() >= ENDINGS_MAX && !self.endings.contains_key(&of) {
            return None;
        }
        let new = || Ending { key: event.process(), at: event.ts, files: HashMap::new() };
        Some(self.endings.entry(of).or_insert_with(new))
    }

    fn ransom(&mut self, event: &Event, world: &World) {
        let (path, to) = (path_of(event, event.args.path.as_ref()), path_of(event, event.args.to.as_ref()));
        match event.kind {
            Kind::Rename => {
                let (Some(from), Some(to)) = (path, to) else { return };
                if let Some(ending) = new_ending(from, to)
                    && self.may_be_of_host(from, world)
                    && let Some(kept) = self.ending(event, ending)
                    && kept.files.len() < FILES_MAX
                {
                    kept.files.insert(from.to_vec(), (event.seq, true));
                }
                self.comes_back(event.sid, to);
            }
            Kind::Open => {
                let Some(path) = written(event) else { return };
                self.comes_back(event.sid, path);
                // It may be the new version of a file that is there under the name without the ending.
                let name = name_of(path);
                let Some(dot) = name.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0) else { return };
                let from = &path[..path.len() - name.len() + dot];
                if let Some(ending) = new_ending(from, path)
                    && self.may_be_of_host(from, world)
                    && let Some(kept) = self.ending(event, ending)
                    && kept.files.len() < FILES_MAX
                {
                    kept.files.entry(from.to_vec()).or_insert((event.seq, false));
                }
            }
            Kind::Unlink => {
                let Some(path) = path else { return };
                let of = (event.sid, Vec::new())..=(event.sid, vec![0xff; 4]);
                for (_, ending) in self.endings.range_mut(of) {
                    if let Some((_, gone)) = ending.files.get_mut(path) {
                        *gone = true;
                    }
                }
            }
            _ => {}
        }
    }

    /// Remembers a file that was written to before, for the changes to say whose it is.
    fn may_be_of_host(&mut self, path: &[u8], world: &World) -> bool {
        if world.made(path).is_none() {
            return true;
        }
        if self.touched.len() < FILES_MAX {
            self.touched.entry(path.to_vec()).or_insert(false);
        }
        self.touched.contains_key(path)
    }

    /// A file of this name is there again: an editor's way to save.
    fn comes_back(&mut self, sid: u32, path: &[u8]) {
        let of = (sid, Vec::new())..=(sid, vec![0xff; 4]);
        for (_, ending) in self.endings.range_mut(of) {
            ending.files.remove(path);
        }
    }
}

fn is_log(path: &[u8]) -> bool {
    path.starts_with(b"/var/log/")
        || matches!(path, b"/var/run/utmp" | b"/run/utmp")
        || path.starts_with(b"/run/log/journal/")
}

fn is_history(below: &[u8]) -> bool {
    let names = [
        ".bash_history",
        ".zsh_history",
        ".zhistory",
        ".sh_history",
        ".history",
        ".ash_history",
        ".ksh_history",
        ".python_history",
        ".mysql_history",
        ".psql_history",
        ".lesshst",
    ];
    names.iter().any(|name| name.as_bytes() == below) || below == b".local/share/fish/fish_history"
}

/// `O_TRUNC`.
const EMPTIES: u64 = 0o1000;
/// `O_CREAT`.
const MAKES: u64 = 0o100;

impl Files {
    fn wipes(&mut self, event: &Event, world: &World, found: &mut Found) {
        let Some(path) = path_of(event, event.args.path.as_ref()) else { return };
        let how = match event.kind {
            Kind::Unlink => "removed",
            Kind::Rename => "moved away",
            Kind::Truncate => "emptied",
            Kind::Open if event.args.flags.is_some_and(|flags| flags & EMPTIES != 0) => "emptied",
            _ => return,
        };
        let key = event.process();
        let is_sure = world.made(path).is_none();
        const ROTATE: &[&str] = &[
            "logrotate",
            "savelog",
            "systemd-journald",
            "systemd-tmpfiles",
            "apt",
            "apt-get",
            "aptitude",
            "rsyslogd",
            "dpkg",
            "nginx",
            "apache2",
        ];
        if is_log(path) && !world.is_one_of(key, ROTATE) && !world.comes_from(key, &["logrotate", "apt-get", "apt"]) {
            self.wiped(&rules::LOG_WIPE, event, (how, is_sure), path, found);
        }
        // A shell that keeps its own history writes a new one and moves it there.
        const SHELLS: &[&str] =
            &["bash", "zsh", "fish", "ksh*", "mksh", "ash", "python3*", "mysql", "psql", "less", "pager"];
        let is_own = world.is_one_of(key, SHELLS)
            && event.kind != Kind::Unlink
            && world.process(key).is_some_and(|p| p.argv.len() < 2);
        if world.below_home(path).is_some_and(is_history) && !is_own {
            self.wiped(&rules::HISTORY_WIPE, event, (how, is_sure), path, found);
        }
    }

    fn wiped(
        &mut self,
        rule: &'static Rule,
        event: &Event,
        (how, is_sure): (&'static str, bool),
        path: &[u8],
        found: &mut Found,
    ) {
        let makes = event.kind == Kind::Open && event.args.flags.is_some_and(|flags| flags & MAKES != 0);
        if makes || !is_sure {
            let seen = (rule, how, event.process(), event.seq, event.ts);
            if self.maybe.len() < FILES_MAX {
                self.maybe.entry(path.to_vec()).or_insert(seen);
            }
            return;
        }
        found.event(rule, event, format!("{how} {}", text(path)), &[path]);
    }
}

fn removes_itself(event: &Event, world: &World, found: &mut Found) {
    let Some(path) = path_of(event, event.args.path.as_ref()).filter(|_| event.kind == Kind::Unlink) else { return };
    // Itself, or the script that told 'rm' to; not what merely started somebody who did.
    let mut line = world.line(event.process());
    let is_script = |p: &crate::world::Proc| (p.file == path && p.file != p.exe) || is_script(p, path);
    let is_itself = line.next().is_some_and(|(_, p)| p.file == path || p.exe == path || is_script(p))
        || line.next().is_some_and(|(_, p)| is_script(p));
    if is_itself {
        found.event(&rules::SELF_DELETE, event, format!("removed {} while it ran", text(path)), &[path]);
    }
}

/// Whether an interpreter was given the file at `path` as its script.
fn is_script(process: &crate::world::Proc, path: &[u8]) -> bool {
    const INTERPRETERS: &[&str] =
        &["sh", "bash", "dash", "zsh", "ksh", "ash", "python", "perl", "ruby", "node", "php", "lua"];
    let is_one = INTERPRETERS.iter().any(|known| name_of(&process.exe).starts_with(known.as_bytes()));
    let is_shell = name_of(&process.exe).ends_with(b"sh");
    // Behind '-c' and the like stand commands.
    let is_code = |arg: &[u8]| {
        arg.starts_with(b"-")
            && (arg.contains(&b'c') || matches!(arg, b"-m" | b"--eval") || (arg == b"-e" && !is_shell))
    };
    let args = process.argv.get(1..).unwrap_or_default();
    let first = args.iter().position(|arg| !arg.starts_with(b"-")).filter(|_| is_one);
    let script = first.filter(|at| !args[..*at].iter().any(|arg| is_code(arg))).map(|at| args[at].as_slice());
    // Where a relative name begins is not in the log.
    script.is_some_and(|script| {
        let relative = script.strip_prefix(b"./").unwrap_or(script);
        let end = path.strip_suffix(relative).filter(|_| !relative.is_empty());
        script == path || end.is_some_and(|rest| rest.ends_with(b"/") && !script.starts_with(b"/"))
    })
}

fn modes(event: &Event, world: &World, found: &mut Found) {
    let (Some(path), key) = (path_of(event, event.args.path.as_ref()), event.process()) else { return };
    match event.kind {
        Kind::Chmod => {
            let mode = event.args.mode.unwrap_or(0);
            let gives = mode & 0o4000 != 0
                || (mode & 0o2010 == 0o2010 && world.made(path).is_some_and(|made| made.executable.is_some()));
            if gives && !world.is_packager(key) && !scripts::gives_mode(event, world, path) {
                found.event(&rules::SET_UID, event, format!("gave {} mode {mode:o}", text(path)), &[path]);
            }
        }
        Kind::Setxattr | Kind::Removexattr => {
            let name = event.args.name.as_ref().map(|name| name.0.as_bytes()).unwrap_or_default();
            if name == b"security.capability" && event.kind == Kind::Setxattr && !world.is_packager(key) {
                found.event(&rules::FILE_CAPABILITY, event, format!("gave {} capabilities", text(path)), &[path]);
            }
            if name.starts_with(b"user.fvm.") || name.starts_with(b"security.fvm") {
                found.event(
                    &rules::FORGED_MARK,
                    event,
                    format!("{} {} of {}", event.kind.name(), text(name), text(path)),
                    &[path],
                );
            }
        }
        _ => {}
    }
}

impl Detector for Files {
    fn see(&mut self, event: &Event, world: &World, found: &mut Found) {
        self.ransom(event, world);
        self.wipes(event, world, found);
        removes_itself(event, world, found);
        modes(event, world, found);
    }

    fn change(&mut self, change: &Change, found: &mut Found) {
        let path = change.path.as_bytes();
        // Of what was opened to be made or emptied, or removed, that which the host has too.
        if let (Some(_), Some((rule, how, key, seq, at))) = (&change.before, self.maybe.get(path)) {
            let (what, key, at) = (format!("{how} {}", text(path)), Some(*key), Some(*at));
            found.add(rule, &Sighting { what, key, at, events: &[*seq], paths: &[path] });
        }
        let is_renamed = matches!(change.kind, ChangeKind::Renamed { .. });
        let old = change.base.as_ref().filter(|_| is_renamed).map(fvm_model::HostPath::in_vm);
        let gone = matches!(change.kind, ChangeKind::Deleted).then_some(&change.path);
        for path in old.iter().chain(gone) {
            if let Some(of_host) = self.touched.get_mut(path.as_bytes()) {
                *of_host = true;
            }
        }
    }

    fn end(&mut self, _: &World, found: &mut Found) {
        for ((_, name), ending) in &self.endings {
            let is_loss = |path: &Vec<u8>| self.touched.get(path).is_none_or(|of_host| *of_host);
            let lost = ending.files.iter().filter(|(path, (_, gone))| *gone && is_loss(path));
            let mut gone: Vec<(&Vec<u8>, u64)> = lost.map(|(path, (seq, _))| (path, *seq)).collect();
            if gone.len() < MANY {
                continue;
            }
            gone.sort_unstable_by_key(|(_, seq)| *seq);
            let dirs: std::collections::BTreeSet<&[u8]> = gone.iter().map(|(path, _)| dir_of(path)).collect();
            let what = format!("gave {} files in {} directories the ending .{}", gone.len(), dirs.len(), text(name));
            let events: Vec<u64> = gone.iter().map(|(_, seq)| *seq).collect();
            let new: Vec<Vec<u8>> = gone.iter().map(|(path, _)| [path.as_slice(), b".", name].concat()).collect();
            let paths: Vec<&[u8]> =
                gone.iter().map(|(path, _)| path.as_slice()).chain(new.iter().map(Vec::as_slice)).collect();
            let (key, at) = (Some(ending.key), Some(ending.at));
            found.add(&rules::RANSOM_RENAME, &Sighting { what, key, at, events: &events, paths: &paths });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::testing::Story;

    #[test]
    fn one_new_ending_for_many_files_is_found_and_saving_or_packing_is_not() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3", "x.py"]);
        for n in 0..MANY {
            story.rename(10, &format!("/w/{n}.txt"), &format!("/w/{n}.txt.locked"));
        }
        assert_eq!(story.ids(), ["ransom-rename"]);
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3", "x.py"]);
        for n in 0..MANY {
            story.write(10, &format!("/w/{n}.txt.enc"));
            story.unlink(10, &format!("/w/{n}.txt"));
        }
        assert_eq!(story.ids(), ["ransom-rename"]);
        let mut story = Story::new();
        story.run(10, "/usr/bin/sed", &["sed", "-i.keep"]);
        for n in 0..2 * MANY {
            // As 'sed -i.keep' does.
            story.rename(10, &format!("/w/{n}.txt"), &format!("/w/{n}.txt.keep"));
            story.rename(10, "/w/sedX", &format!("/w/{n}.txt"));
            // As gzip does.
            story.write(10, &format!("/w/{n}.log.gz"));
            story.unlink(10, &format!("/w/{n}.log"));
            // What the VM made itself.
            story.write(10, &format!("/w/{n}.out"));
            story.rename(10, &format!("/w/{n}.out"), &format!("/w/{n}.out.done"));
        }
        assert_eq!(story.ids(), [""; 0]);
    }

    #[test]
    fn what_was_written_to_first_is_a_loss_where_the_host_had_it() {
        use fvm_model::{FileType, Meta, VmPath};
        let lost = |path: String| {
            let meta = Meta {
                file_type: FileType::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                size_bytes: 1,
                mtime: Timestamp::default(),
            };
            Change {
                path: VmPath::new(path).unwrap(),
                kind: ChangeKind::Deleted,
                file_type: FileType::File,
                base: None,
                layer: 0,
                before: Some(meta),
                after: None,
                target: None,
                link_group: None,
                link_host: None,
                source: None,
                uncommittable: None,
                conflict: None,
                origin: None,
            }
        };
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3", "x.py"]);
        for n in 0..MANY {
            // Encrypted in place, then renamed.
            story.write(10, &format!("/w/{n}.txt"));
            story.rename(10, &format!("/w/{n}.txt"), &format!("/w/{n}.txt.locked"));
        }
        story.write(10, "/var/log/auth.log");
        story.unlink(10, "/var/log/auth.log");
        assert_eq!(story.ids(), [""; 0], "all of it may be the VM's own");
        let changes: Vec<Change> = (0..MANY).map(|n| lost(format!("/w/{n}.txt"))).collect();
        assert_eq!(story.ids_with(&changes), ["ransom-rename"]);
        assert_eq!(story.ids_with(&[lost("/var/log/auth.log".into())]), ["log-wipe"]);
    }

    #[test]
    fn a_program_that_removes_itself_is_found_and_one_that_is_cleaned_up_is_not() {
        let mut story = Story::new();
        story.run(10, "/w/x", &["/w/x"]);
        story.unlink(10, "/w/x");
        assert_eq!(story.ids(), ["self-delete"]);
        let mut story = Story::new();
        story.run(10, "/usr/bin/dash", &["sh", "-c", "x"]);
        story.run_under(11, 10, "/w/x", &["/w/x"]);
        story.unlink(10, "/w/x");
        assert_eq!(story.ids(), [""; 0]);
    }

    #[test]
    fn marks_modes_and_logs() {
        let mut story = Story::new();
        story.run(10, "/usr/bin/python3", &["python3"]);
        story.xattr(10, "/w/a", "user.fvm.mark");
        story.xattr(10, "/w/b", "user.comment");
        story.chmod(10, "/w/c", 0o4755);
        story.chmod(10, "/w/d", 0o755);
        story.unlink(10, "/var/log/auth.log");
        story.write(10, "/var/log/new.log");
        story.unlink(10, "/var/log/new.log");
        story.unlink(10, "/root/.bash_history");
        assert_eq!(story.ids(), ["forged-mark", "history-wipe", "log-wipe", "set-uid"]);
    }
}
