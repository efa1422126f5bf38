//! What a choice takes along, leaves out, and refuses: on change sets written as text.
//!
//! ```text
//!   + /d        created        M /f    modified     m /f   metadata     - /d   deleted
//!   > /a /b     renamed        T /f    retyped      = /f   touched, below: the names of the host
//!   L /g /f     new link to the host's /f           ! conflict   # uncommittable   @1 link group, all at the end
//! ```
#![expect(clippy::unwrap_used, reason = "test code")]

use fvm_model::plan::{Action, Content, LayerDir, Occupant, Plan};
use fvm_model::{Change, ChangeKind, ChangeSet, FileType, HostPath, Meta, MetaDelta, Timestamp, VmPath};
use fvm_review::{Choice, Conflict, OnConflict, ReviewError, decide};

fn vm(path: &str) -> VmPath {
    VmPath::new(path).unwrap()
}

fn parse(line: &str) -> Change {
    let words: Vec<&str> = line.split_whitespace().collect();
    let flagged = |flag: &str| words.contains(&flag);
    let (path, base) = match words[0] {
        ">" => (words[2], Some(words[1])),
        "L" => (words[1], Some(words[2])),
        "+" => (words[1], None),
        _ => (words[1], Some(words[1])),
    };
    // A name of one letter is a directory, as in the examples.
    let file_type = if path.ends_with(".f") { FileType::File } else { FileType::Directory };
    let mode = MetaDelta { mode: true, ..MetaDelta::default() };
    let (kind, file_type) = match words[0] {
        "+" => (ChangeKind::Created, file_type),
        "L" => (ChangeKind::Created, FileType::File),
        "M" => (ChangeKind::Modified { meta: MetaDelta::default() }, FileType::File),
        "m" => (ChangeKind::Metadata { meta: mode }, file_type),
        "-" => (ChangeKind::Deleted, file_type),
        ">" => (ChangeKind::Renamed { modified: false, meta: MetaDelta::default() }, file_type),
        _ => (ChangeKind::Retyped { from: FileType::File }, file_type),
    };
    // The children of a renamed directory name their base as `(base)`.
    let given = words.iter().find_map(|w| w.strip_prefix('(')?.strip_suffix(')'));
    let meta = Meta { file_type, mode: 0o755, uid: 0, gid: 0, size_bytes: 1, mtime: Timestamp::default() };
    Change {
        path: vm(path),
        file_type,
        base: given.or(base).map(|b| HostPath::new(b).unwrap()),
        layer: 0,
        before: (kind != ChangeKind::Created).then(|| meta.clone()),
        after: (kind != ChangeKind::Deleted).then_some(meta),
        kind,
        target: None,
        link_group: words.iter().find_map(|w| w.strip_prefix('@')?.parse().ok()),
        link_host: None,
        source: None,
        uncommittable: flagged("#").then(|| "a socket cannot be committed".to_owned()),
        conflict: flagged("!").then(|| "changed on the host after the fork".to_owned()),
        origin: None,
    }
}

fn set(text: &str) -> ChangeSet {
    let mut changes: Vec<Change> = text.split(';').map(str::trim).filter(|l| !l.is_empty()).map(parse).collect();
    changes.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    ChangeSet { changes, ..ChangeSet::default() }
}

fn run(text: &str, choice: &Choice) -> Result<Plan, ReviewError> {
    decide(&set(text), choice, &[LayerDir { n: 0, host: HostPath::root(), dir: "/layer".into() }])
}

fn paths(paths: &[&str]) -> Choice {
    Choice { paths: paths.iter().map(|p| vm(p)).collect(), ..Choice::default() }
}

fn exact(paths: &[&str]) -> Choice {
    Choice { exact: Some(paths.iter().map(|p| vm(p)).collect()), ..Choice::default() }
}

fn only(globs: &[&str]) -> Choice {
    Choice { only: globs.iter().map(|g| (*g).to_owned()).collect(), ..Choice::default() }
}

fn selected(plan: &Plan) -> String {
    plan.selected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn pulled(plan: &Plan) -> String {
    plan.closure.iter().map(|p| p.path.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_choice_takes_along_what_it_needs_and_nothing_else() {
    // (changes, chosen path, all that is done, what of it was added)
    let table = [
        ("+ /d; + /d/e; + /d/e/x.f; + /d/y.f", "/d/e/x.f", "/d /d/e /d/e/x.f", "/d /d/e"),
        ("+ /d; + /d/x.f", "/d", "/d /d/x.f", ""),
        ("m /d; + /d/x.f", "/d/x.f", "/d/x.f", ""),
        ("> /a /b; M /b/x.f (/a/x.f); - /b/y.f (/a/y.f)", "/b/x.f", "/b /b/x.f", "/b"),
        ("> /a /b; M /b/x.f (/a/x.f)", "/a", "/b", ""),
        ("> /a /b; M /b/x.f (/a/x.f)", "/b", "/b /b/x.f", ""),
        ("> /a /b; + /a; + /a/x.f", "/a/x.f", "/a /a/x.f /b", "/a /b"),
        ("> /a /b; + /a", "/b", "/b", ""),
        ("> /a /b; > /b /a", "/b", "/a /b", ""),
        ("> /a /b; > /c /a", "/c", "/a /b", "/b"),
        ("> /a /b; > /c /a", "/b", "/b", ""),
        ("- /d; > /d/x.f /y.f", "/d", "/d /y.f", ""),
        ("- /d; > /d/x.f /y.f", "/y.f", "/y.f", ""),
        ("> /a /b; > /a/x.f /y.f", "/b", "/b /y.f", "/y.f"),
        ("T /d; + /d/x.f", "/d/x.f", "/d /d/x.f", "/d"),
        ("+ /x.f @1; M /y.f @1; + /d; + /d/z.f @1; + /w.f", "/y.f", "/d /d/z.f /x.f /y.f", "/d /d/z.f /x.f"),
        ("+ /a; > /a /a/inner", "/a/inner", "/a /a/inner", "/a"),
    ];
    for (changes, choice, all, added) in table {
        let plan = run(changes, &paths(&[choice])).unwrap();
        // A rename is also chosen by its old name, so a swap is chosen whole by either.
        assert_eq!((selected(&plan).as_str(), pulled(&plan).as_str()), (all, added), "{changes} choosing {choice}");
    }
}

#[test]
fn the_reason_for_an_addition_names_what_needed_it() {
    let plan = run("> /a /b; + /a; + /a/x.f", &paths(&["/a/x.f"])).unwrap();
    let why: Vec<String> = plan.closure.iter().map(|p| format!("{}: {}", p.path, p.why)).collect();
    assert_eq!(why, ["/a: /a/x.f lies in it", "/b: /a/x.f takes its old place"]);
}

#[test]
fn patterns_choose_and_leave_out() {
    let changes = "+ /d; + /d/x.f; + /d/cache; + /d/cache/y.f; M /e/x.f";
    let except =
        |globs: &[&str]| Choice { except: globs.iter().map(|g| (*g).to_owned()).collect(), ..Choice::default() };
    assert_eq!(selected(&run(changes, &only(&["x.f"])).unwrap()), "/d /d/x.f /e/x.f");
    assert_eq!(selected(&run(changes, &only(&["/e/*"])).unwrap()), "/e/x.f");
    assert_eq!(selected(&run(changes, &only(&["cache"])).unwrap()), "/d /d/cache /d/cache/y.f");
    assert_eq!(selected(&run(changes, &except(&["cache"])).unwrap()), "/d /d/x.f /e/x.f");
    assert!(matches!(run(changes, &only(&["[a"])), Err(ReviewError::Pattern { .. })));
    assert!(run(changes, &only(&["nothing"])).unwrap().is_empty());
    assert!(matches!(run(changes, &paths(&["/e", "/nope"])), Err(ReviewError::NoSuchChange(p)) if p == vm("/nope")));
}

#[test]
fn conflicts_stop_everything_unless_the_choice_says_otherwise() {
    let changes = "+ /d !; + /d/x.f; M /y.f !; M /z.f";
    let with = |on_conflict| run(changes, &Choice { on_conflict, ..Choice::default() });
    match with(OnConflict::Fail) {
        Err(ReviewError::Conflicts(all)) => {
            let all: Vec<String> = all.iter().map(|Conflict { path, .. }| path.to_string()).collect();
            assert_eq!(all, ["/d", "/y.f"]);
        }
        other => panic!("{other:?}"),
    }
    // What is not chosen does not conflict.
    assert_eq!(selected(&run(changes, &paths(&["/z.f"])).unwrap()), "/z.f");
    let skip = with(OnConflict::Skip).unwrap();
    assert_eq!(selected(&skip), "/z.f");
    let reasons: Vec<String> = skip.skipped.iter().map(|s| format!("{}: {}", s.path, s.reason)).collect();
    assert!(reasons.contains(&"/d/x.f: it needs /d, which is left out".to_owned()), "{reasons:?}");
    assert!(skip.host_kept.is_empty());
    let host = with(OnConflict::Host).unwrap();
    assert_eq!((selected(&host).as_str(), host.host_kept), ("/z.f", vec![vm("/d"), vm("/y.f")]));
    let ours = with(OnConflict::Vm).unwrap();
    assert_eq!((ours.ops.len(), ours.conflicts_overridden.len()), (4, 2));
    let edited = ours.ops.iter().find(|op| op.path == vm("/y.f")).unwrap();
    assert_eq!(edited.expect, None);
    let untouched = ours.ops.iter().find(|op| op.path == vm("/z.f")).unwrap();
    assert!(untouched.expect.is_some());
}

#[test]
fn what_was_added_only_for_something_left_out_is_not_done() {
    let changes = "+ /d; + /d/x.f !; + /e.f";
    let choice = Choice { on_conflict: OnConflict::Skip, ..only(&["*.f"]) };
    assert_eq!(selected(&run(changes, &choice).unwrap()), "/e.f");
}

#[test]
fn what_cannot_be_committed_is_left_out_or_refused_when_named() {
    let changes = "+ /d; + /d/sock.f #; + /d/x.f";
    let plan = run(changes, &Choice::default()).unwrap();
    assert_eq!(selected(&plan), "/d /d/x.f");
    assert_eq!(plan.skipped.len(), 1);
    assert!(matches!(run(changes, &paths(&["/d/sock.f"])), Err(ReviewError::Uncommittable { .. })));
    assert_eq!(selected(&run(changes, &paths(&["/d"])).unwrap()), "/d /d/x.f");
}

#[test]
fn stages_lie_in_directories_that_nothing_moves() {
    let plan = run(
        "> /s/a /s/b; + /s/a; + /s/a/n.f; M /s/b/c/x.f (/s/a/c/x.f); + /s/b/new.f; M /t/u/y.f; - /t/v",
        &Choice::default(),
    )
    .unwrap();
    let stage = |path: &str| plan.ops.iter().find(|op| op.path == vm(path)).unwrap().stage_dir.to_string();
    for (path, want) in
        [("/s/a", "/s"), ("/s/a/n.f", "/s"), ("/s/b", "/s"), ("/s/b/c/x.f", "/s"), ("/t/u/y.f", "/t/u"), ("/t/v", "/t")]
    {
        assert_eq!(stage(path), want, "{path}");
    }
    // The new file in the moved directory must not hide one that the host has in the old place.
    let new = plan.ops.iter().find(|op| op.path == vm("/s/b/new.f")).unwrap();
    assert_eq!((new.occupant.clone(), new.may_occupy), (Some(HostPath::new("/s/a/new.f").unwrap()), Occupant::Nobody));
    let below_new = plan.ops.iter().find(|op| op.path == vm("/s/a/n.f")).unwrap();
    assert_eq!(below_new.occupant, None);
}

#[test]
fn the_names_of_one_file_are_copied_once() {
    let content = |text: &str| -> Vec<Option<Content>> {
        run(text, &Choice::default()).unwrap().ops.iter().map(|op| op.content().cloned()).collect()
    };
    assert_eq!(
        content("+ /a.f @1; M /b.f @1; + /c.f @1"),
        [Some(Content::Layer), Some(Content::Op { n: 1 }), Some(Content::Op { n: 1 })]
    );
    // chmod of a host file that got a second name: the file stays, the name is a link to it.
    let at = HostPath::new("/a.f").unwrap();
    assert_eq!(content("m /a.f @1; + /b.f @1"), [None, Some(Content::Host { at: at.clone(), expect: None })]);
    assert!(matches!(&content("L /g.f /a.f @1")[..], [Some(Content::Host { at: a, expect: Some(_) })] if *a == at));
}

#[test]
fn a_plan_reads_as_sentences_survives_json_and_has_an_id_of_its_own() {
    let plan = run("> /a /b; + /a; T /t.f; - /z; m /b/x.f (/a/x.f); + /n.f", &Choice::default()).unwrap();
    let lines: Vec<String> = plan.ops.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "create directory /a",
            "rename /a to /b",
            "set mode of /b/x.f",
            "create file /n.f",
            "replace file /t.f",
            "delete directory /z"
        ]
    );
    assert!(plan.ops.iter().any(|op| matches!(op.action, Action::Rename { .. })));
    let again = run("> /a /b; + /a; T /t.f; - /z; m /b/x.f (/a/x.f); + /n.f", &Choice::default()).unwrap();
    assert_eq!(plan.id, again.id);
    assert_ne!(plan.id, run("+ /n.f", &Choice::default()).unwrap().id);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn an_exact_choice_takes_the_change_itself_and_what_it_needs_but_nothing_below() {
    let selected = |choice: &Choice| {
        let plan = run("m /d; M /d/x.f; + /n; + /n/y.f; + /n/z.f; M /s # !", choice).unwrap();
        plan.selected.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(selected(&exact(&["/d"])), ["/d"]);
    assert_eq!(selected(&exact(&["/n"])), ["/n"]);
    assert_eq!(selected(&exact(&["/d/x.f", "/n/z.f"])), ["/d/x.f", "/n", "/n/z.f"], "a new file needs its directory");
    assert_eq!(selected(&exact(&[])), [""; 0]);
    let both = Choice { except: vec!["*.f".into()], ..exact(&["/d", "/d/x.f"]) };
    assert_eq!(selected(&both), ["/d"]);
    assert!(matches!(run("m /d; M /d/x.f", &exact(&["/d/y"])), Err(ReviewError::NoSuchChange(p)) if p == vm("/d/y")));
    let refused = run("M /s.f #", &exact(&["/s.f"]));
    assert!(matches!(refused, Err(ReviewError::Uncommittable { .. })), "{refused:?}");
}

#[test]
fn narrowing_shows_what_the_choice_names_and_takes_nothing_along() {
    let paths = |choice: &Choice| {
        let narrowed = fvm_review::narrow(&set("+ /n; + /n/y.f; M /s.f"), choice).unwrap();
        narrowed.changes.iter().map(|c| c.path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&only(&["*.f"])), ["/n/y.f", "/s.f"]);
    assert_eq!(paths(&Choice::default()).len(), 3);
}
