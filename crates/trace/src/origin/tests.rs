//! Who made what, and whose alone it is.

use super::*;
use crate::tree::tests::{exec, of};
use fvm_model::event::{Args, Level};
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
    let at = |level| Args { level: Some(level), ..Args::default() };
    let blind = Args { name: Some(Bytes("io_uring".into())), ..at(Level::Basic) };
    let origins = seen(&[write(6, "/a"), lost, write(8, "/b"), end.clone()]);
    assert_eq!((who(&origins, "/a", MODIFIED), who(&origins, "/b", MODIFIED)), (None, Some(10)));
    let cut = seen(&[write(6, "/a"), start(7, at(Level::Basic)), write(8, "/b")]);
    assert_eq!((who(&cut, "/a", MODIFIED), who(&cut, "/b", MODIFIED)), (None, Some(10)));
    let whole = seen(&[write(6, "/a"), end.clone(), start(10, at(Level::Full))]);
    assert_eq!(who(&whole, "/a", MODIFIED), Some(10));
    // Nor of a level that has no changes of files, or that a later version made up.
    for args in [blind, at(Level::Off), at(Level::Programs), Args::default()] {
        let unseen = seen(&[write(6, "/a"), end.clone(), start(10, args), write(11, "/b")]);
        assert_eq!((who(&unseen, "/a", MODIFIED), who(&unseen, "/b", MODIFIED)), (None, None));
    }
    let foreign = Event { args: Args { foreign: true, ..args("/f", None) }, ..write(6, "/f") };
    assert_eq!(who(&seen(&[foreign]), "/f", MODIFIED), None);
}

/// Whether a commit of what npm made takes the file.
fn is_npms(origins: &Origins, path: &str) -> bool {
    origins.is_by(&change(path, ChangeKind::Created), &|program| is_called("npm install", program))
}

const EVIL: (u32, u32, u32) = (20, 0, 20);

/// The story of npm, with a program that has nothing to do with it.
fn with_evil(more: &[Event]) -> Origins {
    let evil = exec(6, EVIL, "[fvm]", &["/tmp/evil"]);
    let npm = [
        of(8, NPM, "/usr/bin/npm", Kind::Mkdir, args("/m", None)),
        of(9, NPM, "/usr/bin/npm", Kind::Open, args("/m/f", None)),
    ];
    seen(&evil.iter().chain(&npm).chain(more).cloned().collect::<Vec<_>>())
}

fn evil(seq: u64, kind: Kind, args: Args) -> Event {
    of(seq, EVIL, "/tmp/evil", kind, args)
}

#[test]
fn what_somebody_else_had_a_hand_in_is_not_theirs() {
    assert!(is_npms(&with_evil(&[]), "/m/f"));
    let flags = |flags, args: Args| Args { flags: Some(flags), ..args };
    let npm = |seq, kind, args| of(seq, NPM, "/usr/bin/npm", kind, args);
    let open = |seq, path: &str| npm(seq, Kind::Open, args(path, None));
    for (what, path, more) in [
        // The descriptor stays open when npm writes again.
        ("written", "/m/f", vec![evil(10, Kind::Open, args("/m/f", None)), open(11, "/m/f")]),
        (
            "by another name",
            "/m/f",
            vec![
                evil(10, Kind::Link, args("/m/f", Some("/x"))),
                evil(11, Kind::Open, args("/x", None)),
                open(12, "/m/f"),
            ],
        ),
        (
            "a name of his",
            "/m/g",
            vec![
                evil(10, Kind::Open, args("/x", None)),
                npm(11, Kind::Link, args("/x", Some("/m/g"))),
                open(12, "/m/g"),
            ],
        ),
        // It fails: the target is not empty.
        (
            "a rename that fails",
            "/w/f",
            vec![evil(10, Kind::Open, args("/w/f", None)), evil(11, Kind::Rename, args("/m", Some("/w")))],
        ),
        (
            "a removal that fails",
            "/w/f",
            vec![
                evil(10, Kind::Open, args("/w/f", None)),
                evil(11, Kind::Unlink, args("/w/f", None)),
                open(12, "/w/f"),
            ],
        ),
        (
            "a directory that stays",
            "/w/f",
            vec![
                evil(10, Kind::Open, args("/w/f", None)),
                evil(11, Kind::Rename, args("/w", Some("/v"))),
                open(12, "/w/f"),
            ],
        ),
        ("moved to a place of his", "/etc/cron.d/f", vec![evil(10, Kind::Rename, args("/m", Some("/etc/cron.d")))]),
        (
            "exchanged",
            "/m/f",
            vec![
                evil(10, Kind::Open, args("/w/f", None)),
                evil(11, Kind::Rename, flags(EXCHANGES, args("/w", Some("/m")))),
            ],
        ),
        ("somewhere", "/m/f", vec![evil(10, Kind::Open, Args { foreign: true, ..args("/x", None) })]),
        ("by a path that is not whole", "/m/f", vec![evil(10, Kind::Open, Args { cut: true, ..args("x", None) })]),
        ("its mode", "/m/f", vec![evil(10, Kind::Chmod, args("/m/f", None))]),
        (
            "taken over",
            "/m/g",
            vec![evil(10, Kind::Ptrace, Args { flags: Some(16), pid: Some(10), ..Args::default() }), open(11, "/m/g")],
        ),
        (
            "a child of what was taken over",
            "/m/g",
            vec![
                evil(10, Kind::Open, args("/proc/10/mem", None)),
                of(11, HOOK, "/bin/sh", Kind::Open, args("/m/g", None)),
            ],
        ),
        (
            "another process's memory",
            "/m/g",
            vec![evil(10, Kind::MemoryWrite, Args { pid: Some(10), ..Args::default() }), open(11, "/m/g")],
        ),
    ] {
        let origins = with_evil(&more);
        assert!(!is_npms(&origins, path), "{what}");
    }
    // One program is one hand, however often it writes.
    let often: Vec<Event> = (10..100).map(|seq| open(seq, "/m/f")).collect();
    assert!(is_npms(&with_evil(&often), "/m/f"));
    // What its own family does in any of these ways is its own.
    let family = with_evil(&[
        of(10, HOOK, "/bin/sh", Kind::Open, args("/m/f", None)),
        npm(11, Kind::Rename, args("/m", Some("/n"))),
        of(12, HOOK, "/bin/sh", Kind::Link, args("/n/f", Some("/n/g"))),
    ]);
    assert!(is_npms(&family, "/n/f") && is_npms(&family, "/n/g"));
}

#[test]
fn what_is_told_of_makers_is_bounded() {
    let long = "x".repeat(3000);
    let mut events = Vec::new();
    for n in 0..200u32 {
        events.extend(exec(u64::from(10 + 2 * n), (100 + n, 99 + n, 100), "/bin/sh", &["/bin/sh", &long, &long]));
    }
    events.push(of(1000, (299, 298, 100), "/bin/sh", Kind::Open, args("/f", None)));
    let origin = seen(&events).of(&change("/f", ChangeKind::Created)).unwrap();
    assert_eq!((origin.program.argv.len(), origin.ancestors.len()), (3, ANCESTORS_MAX));
    assert_eq!(origin.program.argv[2], Bytes("...".into()));
    assert!(origin.ancestors.iter().all(|program| program.command().len() < 1100));
}

#[test]
fn moving_things_about_for_ever_names_nobody_and_takes_no_time() {
    let mut origins = with_evil(&[]);
    origins.moves_left = 10_000;
    for n in 0..500 {
        origins.add(&evil(10 + n, Kind::Open, args(&format!("/d/{n}"), None)));
    }
    for n in 0..20_000 {
        let (from, to) = if n % 2 == 0 { ("/d", "/e") } else { ("/e", "/d") };
        origins.add(&evil(10_000 + n, Kind::Rename, args(from, Some(to))));
    }
    assert!(origins.moves_left == 0 && origins.of(&change("/m/f", ChangeKind::Created)).is_none());
}

#[test]
fn an_argument_is_no_name() {
    let program = |exe: &str, argv: &[&str]| Program {
        tgid: 42,
        start_ns: 1,
        exe: Bytes(exe.into()),
        argv: argv.iter().map(|a| Bytes(a.into())).collect(),
    };
    let npm = program("/usr/bin/node", &["/usr/bin/node", "--no-warnings", "/usr/bin/npm", "install", "x"]);
    let evil = program("/usr/bin/node", &["node", "/tmp/evil.js", "npm", "install"]);
    let liar = program("/tmp/evil", &["npm", "install"]);
    assert!(is_called("npm install", &npm) && is_called("node", &npm) && is_called("42", &npm));
    assert!(!is_called("npm install", &evil) && !is_called("install", &npm));
    // Whoever calls itself so is told apart by its file.
    assert!(is_called("npm install", &liar) && identity("npm install", &liar) != identity("npm install", &npm));
    let other = program("/usr/bin/node", &["node", "/tmp/npm", "install"]);
    assert!(identity("npm install", &other) != identity("npm install", &npm));
    let again = program("/usr/bin/node", &["node", "/usr/bin/npm", "install", "y"]);
    assert!(identity("npm install", &again) == identity("npm install", &npm));
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
