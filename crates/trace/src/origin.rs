//! Who made each change of a VM: its layers say what there is, the log says who asked for it.
//!
//! ```text
//!   open /a by 12, rename /a /b by 13, mkdir /b by 14 (it is there already: nothing)
//!     ─► /b: last written by 13, which came from sh, which came from 'npm install'
//! ```
//!
//! Invariants: never invented: what stands before a loss, a run that was cut off, or one that could not see all, names
//! nobody, and neither does a path of other mounts; a call that cannot have done anything, for the entry was there already or gone
//! already, takes no origin away.

use crate::tree::Tree;
use fvm_model::event::{Event, Kind, Level, Origin, ProcessKey, Program, Trust};
use fvm_model::{Change, ChangeKind, Timestamp, VmPath};
use std::collections::BTreeMap;

/// `O_CREAT | O_EXCL`: fails where there is something.
const EXCLUSIVE: u64 = (libc::O_CREAT | libc::O_EXCL) as u64;

/// One deed.
#[derive(Debug, Clone, Copy)]
struct Deed {
    key: ProcessKey,
    seq: u64,
    at: Timestamp,
    kind: Kind,
    trust: Trust,
}

/// What was done to a path, last.
#[derive(Debug, Clone, Copy, Default)]
struct Deeds {
    /// Made, written or moved to here.
    made: Option<Deed>,
    /// Its mode, owner, times or attributes.
    marked: Option<Deed>,
    /// Removed, or moved away.
    gone: Option<Deed>,
}

/// Who did what, put together from the events of a VM.
#[derive(Debug, Default)]
pub struct Origins {
    tree: Tree,
    paths: BTreeMap<VmPath, Deeds>,
    is_open: bool,
    is_blind: bool,
}

impl Origins {
    /// Takes an event in. All events of a log, in order.
    pub fn add(&mut self, event: &Event) {
        self.tree.add(event);
        match event.kind {
            // Something may have been done since to whatever was known.
            Kind::Lost => self.paths.clear(),
            Kind::Start => {
                if self.is_open {
                    self.paths.clear();
                }
                self.is_open = true;
                self.is_blind = event.args.name.is_some() || event.args.level == Some(Level::Off);
                if self.is_blind {
                    self.paths.clear();
                }
            }
            Kind::End => self.is_open = false,
            _ if self.is_blind => {}
            _ => self.deed(event),
        }
    }

    fn deed(&mut self, event: &Event) {
        let deed = Deed { key: event.process(), seq: event.seq, at: event.ts, kind: event.kind, trust: event.trust };
        let (path, to) = (event.path(), event.to());
        match event.kind {
            Kind::Open => {
                let is_exclusive = event.args.flags.is_some_and(|flags| flags & EXCLUSIVE == EXCLUSIVE);
                path.into_iter().for_each(|path| self.make(path, deed, is_exclusive));
            }
            Kind::Truncate => path.into_iter().for_each(|path| self.make(path, deed, false)),
            Kind::Mkdir | Kind::Mknod | Kind::Symlink => {
                path.into_iter().for_each(|path| self.make(path, deed, true));
            }
            Kind::Link => to.into_iter().for_each(|to| self.make(to, deed, true)),
            Kind::Rename => {
                if let (Some(from), Some(to)) = (path, to) {
                    self.rename(&from, &to, deed);
                }
            }
            Kind::Unlink | Kind::Rmdir => path.into_iter().for_each(|path| self.remove(path, deed)),
            Kind::Chmod | Kind::Chown | Kind::Setxattr | Kind::Removexattr | Kind::Utime => {
                if let Some(path) = path {
                    self.paths.entry(path).or_default().marked = Some(deed);
                }
            }
            _ => {}
        }
    }

    fn make(&mut self, path: VmPath, deed: Deed, is_exclusive: bool) {
        let deeds = self.paths.entry(path).or_default();
        if is_exclusive && deeds.made.is_some() {
            return;
        }
        *deeds = Deeds { made: Some(deed), gone: None, ..*deeds };
    }

    fn remove(&mut self, path: VmPath, deed: Deed) {
        let deeds = self.paths.entry(path).or_default();
        if deeds.gone.is_none() {
            *deeds = Deeds { gone: Some(deed), ..Deeds::default() };
        }
    }

    fn rename(&mut self, from: &VmPath, to: &VmPath, deed: Deed) {
        let below: Vec<VmPath> =
            self.paths.range(from.clone()..).map(|(path, _)| path).take_while(|p| p.is_within(from)).cloned().collect();
        for path in below {
            let Some(deeds) = self.paths.remove(&path) else { continue };
            let Some(rest) = path.relative_to(from) else { continue };
            if rest.as_os_str().is_empty() {
                continue;
            }
            if let Ok(moved) = VmPath::new(to.as_path().join(rest)) {
                self.paths.insert(moved, deeds);
            }
        }
        self.remove(from.clone(), deed);
        let marked = self.paths.get(to).and_then(|deeds| deeds.marked);
        self.paths.insert(to.clone(), Deeds { made: Some(deed), marked, gone: None });
    }

    /// Who made `change`, if the log says so.
    #[must_use]
    pub fn of(&self, change: &Change) -> Option<Origin> {
        let deeds = self.paths.get(&change.path)?;
        let deed = match change.kind {
            ChangeKind::Created
            | ChangeKind::Modified { .. }
            | ChangeKind::Retyped { .. }
            | ChangeKind::Renamed { .. } => deeds.made,
            ChangeKind::Metadata { .. } => deeds.marked.or(deeds.made),
            ChangeKind::Deleted => deeds.gone,
        }?;
        let program = self.tree.get(deed.key)?.program_at(deed.seq);
        Some(Origin {
            program,
            ancestors: self.tree.ancestors(deed.key, deed.seq),
            at: deed.at,
            kind: deed.kind,
            seq: deed.seq,
            trust: deed.trust,
        })
    }
}

/// Whether `text`, as a person gives it, names the program: `npm install` names `/usr/bin/node /usr/bin/npm install x` and
/// `npm install x`; a text with `*` or `?` is compared with the whole command line; a number is that of the process.
#[must_use]
pub fn names(text: &str, program: &Program) -> bool {
    let command = String::from_utf8_lossy(&program.command()).into_owned();
    if text.contains(['*', '?']) {
        return wild(text.as_bytes(), command.as_bytes());
    }
    if text.parse() == Ok(program.tgid) {
        return true;
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    // Word by word: the text of a script that is an argument is one.
    let args = if program.argv.is_empty() { std::slice::from_ref(&program.exe) } else { &program.argv };
    let args: Vec<_> = args.iter().map(|arg| arg.0.to_string_lossy()).collect();
    let said: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let last = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let is_here = |at: &[&str]| {
        at.iter().zip(&words).enumerate().all(|(n, (said, word))| said == word || (n == 0 && last(said) == *word))
    };
    !words.is_empty() && said.windows(words.len()).any(is_here)
}

/// Whether `text` matches `pattern`, in which `*` and `?` stand for anything.
#[must_use]
pub fn wild(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::{exec, of};
    use fvm_model::event::Args;
    use fvm_model::path::Bytes;
    use fvm_model::{FileType, MetaDelta};

    fn args(path: &str, to: Option<&str>) -> Args {
        Args { path: Some(Bytes(path.into())), to: to.map(|to| Bytes(to.into())), ..Args::default() }
    }

    fn change(path: &str, kind: ChangeKind) -> Change {
        Change {
            path: VmPath::new(path).unwrap(),
            kind,
            file_type: FileType::File,
            base: None,
            layer: 0,
            before: None,
            after: None,
            target: None,
            link_group: None,
            link_host: None,
            source: None,
            uncommittable: None,
            conflict: None,
            origin: None,
        }
    }

    const NPM: (u32, u32, u32) = (10, 0, 10);
    const HOOK: (u32, u32, u32) = (11, 10, 10);
    const MODIFIED: ChangeKind =
        ChangeKind::Modified { meta: MetaDelta { mode: false, owner: false, times: false, xattrs: false } };

    fn seen(more: &[Event]) -> Origins {
        let mut origins = Origins::default();
        let start = of(1, (0, 0, 0), "", Kind::Start, Args { level: Some(Level::Basic), ..Args::default() });
        let npm = exec(2, NPM, "[fvm]", &["/usr/bin/npm", "install", "left-pad"]);
        let hook = exec(4, HOOK, "/usr/bin/npm", &["/bin/sh", "-c", "./hook"]);
        [start].iter().chain(&npm).chain(&hook).chain(more).for_each(|e| origins.add(e));
        origins
    }

    fn who(origins: &Origins, path: &str, kind: ChangeKind) -> Option<u32> {
        origins.of(&change(path, kind)).map(|origin| origin.program.tgid)
    }

    #[test]
    fn the_last_writer_made_a_change_and_what_it_came_from_is_known() {
        let origins = seen(&[
            of(6, NPM, "/usr/bin/npm", Kind::Open, args("/a", None)),
            of(7, HOOK, "/bin/sh", Kind::Open, args("/a", None)),
            of(8, NPM, "/usr/bin/npm", Kind::Mkdir, args("/a", None)),
            of(9, NPM, "/usr/bin/npm", Kind::Unlink, args("/b", None)),
            of(10, HOOK, "/bin/sh", Kind::Unlink, args("/b", None)),
            of(11, HOOK, "/bin/sh", Kind::Chmod, args("/c", None)),
        ]);
        let origin = origins.of(&change("/a", ChangeKind::Created)).unwrap();
        assert_eq!((origin.program.tgid, origin.seq, origin.root().tgid), (11, 7, 10));
        assert!(origin.tree().any(|program| names("npm install", program)));
        assert_eq!(who(&origins, "/b", ChangeKind::Deleted), Some(10));
        assert_eq!(who(&origins, "/c", MODIFIED), None);
        assert_eq!(who(&origins, "/c", ChangeKind::Metadata { meta: MetaDelta::default() }), Some(11));
        assert_eq!(who(&origins, "/nowhere", ChangeKind::Created), None);
    }

    #[test]
    fn what_lies_below_a_renamed_directory_keeps_who_wrote_it() {
        let origins = seen(&[
            of(6, NPM, "/usr/bin/npm", Kind::Mkdir, args("/d", None)),
            of(7, NPM, "/usr/bin/npm", Kind::Open, args("/d/f", None)),
            of(8, NPM, "/usr/bin/npm", Kind::Open, args("/d.txt", None)),
            of(9, HOOK, "/bin/sh", Kind::Rename, args("/d", Some("/e"))),
        ]);
        assert_eq!(who(&origins, "/e", ChangeKind::Created), Some(11));
        assert_eq!(who(&origins, "/e/f", ChangeKind::Created), Some(10));
        assert_eq!(who(&origins, "/d", ChangeKind::Deleted), Some(11));
        assert_eq!(who(&origins, "/d.txt", ChangeKind::Created), Some(10));
    }

    #[test]
    fn where_the_log_does_not_know_nobody_is_named() {
        let write = |seq, path: &str| of(seq, NPM, "/usr/bin/npm", Kind::Open, args(path, None));
        let start = |seq, args| of(seq, (0, 0, 0), "", Kind::Start, args);
        let lost = of(7, (0, 0, 0), "", Kind::Lost, Args { count: Some(1), ..Args::default() });
        let end = of(9, (0, 0, 0), "", Kind::End, Args::default());
        let blind = Args { name: Some(Bytes("io_uring".into())), ..Args::default() };
        let origins = seen(&[write(6, "/a"), lost, write(8, "/b"), end.clone()]);
        assert_eq!((who(&origins, "/a", MODIFIED), who(&origins, "/b", MODIFIED)), (None, Some(10)));
        let cut = seen(&[write(6, "/a"), start(7, Args::default()), write(8, "/b")]);
        assert_eq!((who(&cut, "/a", MODIFIED), who(&cut, "/b", MODIFIED)), (None, Some(10)));
        let whole = seen(&[write(6, "/a"), end.clone(), start(10, Args::default())]);
        assert_eq!(who(&whole, "/a", MODIFIED), Some(10));
        let unseen = seen(&[write(6, "/a"), end, start(10, blind), write(11, "/b")]);
        assert_eq!((who(&unseen, "/a", MODIFIED), who(&unseen, "/b", MODIFIED)), (None, None));
        let foreign = Event { args: Args { foreign: true, ..args("/f", None) }, ..write(6, "/f") };
        assert_eq!(who(&seen(&[foreign]), "/f", MODIFIED), None);
    }

    #[test]
    fn a_program_is_named_by_words_wildcards_or_number() {
        let program = |argv: &[&str]| Program {
            tgid: 42,
            start_ns: 1,
            exe: Bytes("/usr/bin/node".into()),
            argv: argv.iter().map(|a| Bytes(a.into())).collect(),
        };
        let npm = program(&["/usr/bin/node", "/usr/bin/npm", "install", "x"]);
        for text in ["npm install", "node", "/usr/bin/npm install x", "*npm inst*", "42", "install"] {
            assert!(names(text, &npm), "{text}");
        }
        for text in ["np install", "npm i*", "4", "", "npm remove"] {
            assert!(!names(text, &npm), "{text}");
        }
        assert!(names("node", &program(&[])));
        assert!(!names("hook", &program(&["sh", "-c", "./hook; hook"])));
        assert!(wild(b"a*b?c", b"axxbyc") && !wild(b"a*b?c", b"axxbc") && wild(b"*", b""));
    }
}
